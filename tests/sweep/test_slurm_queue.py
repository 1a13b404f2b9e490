"""What of ``hydra/launcher=slurm`` can be tested without SLURM."""

from __future__ import annotations

import os
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hydra import compose, initialize_config_dir
from omegaconf.errors import InterpolationResolutionError

from conftest import Command
from hydra_plugins.rethinkgen_slurm import outside_of_jobs
from rethinkgen.sweep import slurm
from rethinkgen.sweep.jobs import Job
from rethinkgen.sweep.planning import Cell

CONF = str(Path(__file__).parents[2] / "conf")


def launcher(*overrides: str, name: str = "slurm") -> dict[str, Any]:
    with initialize_config_dir(CONF):
        config = compose("train", [f"hydra/launcher={name}", *overrides], return_hydra_config=True)
    asked = config.hydra.launcher
    return {key: asked[key] for key in ("nodes", "tasks_per_node", "gpus_per_node")}


@pytest.mark.parametrize(
    ("overrides", "nodes", "tasks", "gpus"),
    [
        (["trainer=cpu"], 1, 1, None),
        (["trainer=auto"], 1, 1, None),
        (["trainer=gpu"], 1, 1, 1),
        (["trainer=ddp_cpu"], 1, 2, None),
        (["trainer=ddp", "trainer.devices=8", "trainer.num_nodes=2"], 2, 8, 8),
        (["trainer=ddp", "trainer.devices=[0,1,2]"], 1, 3, 3),
    ],
)
def test_what_is_asked_for_follows_from_the_trainer(
    overrides: list[str], nodes: int, tasks: int, gpus: int | None
) -> None:
    expected = {"nodes": nodes, "tasks_per_node": tasks, "gpus_per_node": gpus}
    assert launcher(*overrides) == expected
    assert launcher(*overrides, name="slurm_8gpu") == expected


def test_number_of_devices_must_be_known() -> None:
    with pytest.raises(InterpolationResolutionError, match=r"trainer.devices=auto: SLURM must be told how many"):
        launcher("trainer=ddp", "trainer.devices=auto")


def test_one_array_for_those_that_ask_for_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slurm, "greatest_array", lambda: 2)
    devices = [1, 2, 1, 1]
    jobs = [
        Job([], Path(str(number)), cast(Cell, SimpleNamespace(launcher_values=partial(dict, tasks=each))))
        for number, each in enumerate(devices)
    ]
    arrays = [([job.path.name for job in group], values) for group, values in slurm._arrays(jobs)]
    assert arrays == [(["0", "2"], {"tasks": 1}), (["3"], {"tasks": 1}), (["1"], {"tasks": 2})]


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("1:0", "exit code 1"),
        ("0:9", "killed by SIGKILL (out of memory?)"),
        ("137:0", "killed by SIGKILL (out of memory?)"),
        ("9:0", "killed by SIGKILL (out of memory?)"),
        ("255:0", "exit code 255"),
        ("", "its process failed"),
    ],
)
def test_exit_codes_in_words(code: str, said: str) -> None:
    assert slurm._describe(code) == said


def test_a_submission_is_known_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where the command died before it learnt SLURM's number of it, and where a line was cut short."""
    submissions = slurm.Submissions(tmp_path / "runs")
    with submissions.alone():
        names = [submissions.add([Job([], tmp_path / "runs" / run) for run in runs]) for runs in (["a", "b"], ["c"])]
        with submissions.file.open("a") as file:
            file.write('{"name": "cut sho')
        names.append(submissions.add([Job([], tmp_path / "runs" / "d")]))
    listed = [
        ("7_0", names[0], "COMPLETED"),
        ("7_1", names[0], "COMPLETING"),
        ("8", names[1], "CANCELLED"),
        ("9", names[2], "PENDING"),
        ("10", "somebody's", "RUNNING"),
    ]
    entries = {job_id: slurm.Entry(job_id, name, state, "None") for job_id, name, state in listed}
    monkeypatch.setattr(slurm, "queue", lambda: entries)
    assert submissions.alive() == {tmp_path / "runs" / "b": "7_1", tmp_path / "runs" / "d": "9"}


def test_jobs_of_a_job_take_nothing_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_CONF", "/there")
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "8")
    monkeypatch.delenv("SLURM_JOB_ID", raising=False)
    with outside_of_jobs():
        assert os.environ["SLURM_CPUS_PER_TASK"] == "8"  # the user's own wish
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    with outside_of_jobs():
        assert {name for name in os.environ if name.startswith("SLURM_")} == {"SLURM_CONF"}
    assert os.environ["SLURM_CPUS_PER_TASK"] == "8"


def test_without_slurm_it_says_so(
    train: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(SystemExit):
        train("-m", "hydra/launcher=slurm", "seed=0,1")
    said = capfd.readouterr().err
    assert len(said.splitlines()) == 1
    assert "there is no sbatch on this machine" in said or "uv pip install --python" in said
