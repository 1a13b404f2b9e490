"""How SLURM's tasks wait for each other; how they train is in ``test_ddp.py``."""

from __future__ import annotations

import os

import pytest

from rethinkgen.errors import RankDiedError
from rethinkgen.run import ranks


@pytest.fixture
def task(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make this process the first of four tasks, as inside ``srun -n4 --pty bash``; no other will come."""
    place = {"JOB_ID": os.getpid(), "STEP_NUM_TASKS": 4, "PROCID": 0, "LOCALID": 0, "NODEID": 0}
    for name, value in place.items():
        monkeypatch.setenv(f"SLURM_{name}", str(value))
    monkeypatch.setattr(ranks, "GATHERING_SECONDS", 1.0)
    monkeypatch.setattr(ranks, "SILENT_SECONDS", 0.2)


WHY = "SLURM_STEP_NUM_TASKS=4 says that srun started so many tasks."


@pytest.mark.usefixtures("task")
def test_who_waits_for_other_tasks_says_for_whom_and_why(capsys: pytest.CaptureFixture[str]) -> None:
    with (
        pytest.raises(RankDiedError, match=rf"tasks 1, 2, 3 did not start in 1 s\. {WHY}"),
        ranks.leading({"devices": 4}),
    ):
        pytest.fail("it cannot lead alone")
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("Waiting for SLURM's tasks 1, 2, 3, ")
    assert WHY in line
    assert "env -u SLURM_STEP_NUM_TASKS" in line


@pytest.mark.usefixtures("task")
def test_another_number_of_tasks_than_devices_names_the_variable_too() -> None:
    with pytest.raises(ValueError, match=rf"trainer.devices=2 .*SLURM started 4 tasks.*{WHY}"):
        ranks.is_follower({"devices": 2})


@pytest.mark.usefixtures("task")
def test_a_task_whose_first_does_not_come_says_so(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("SLURM_PROCID", "2")
    monkeypatch.setattr(ranks, "SPEAKING_SECONDS", 0.8)
    with pytest.raises(RankDiedError, match=r"task 0 on 127.0.0.1 did not start in 1 s \(.*refused\)"):
        ranks.follow_slurm()
    assert capsys.readouterr().err.count("Waiting for SLURM's task 0") == 1


def test_of_many_tasks_some_are_named() -> None:
    assert ranks._tasks({7}) == "task 7"
    assert ranks._tasks(range(1, 101)) == "tasks 1, 2, 3, 4, 5, 6, 7, 8 and 92 more"
