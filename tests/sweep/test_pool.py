"""``-m`` with the pool: nothing takes a sweep down, nothing is lost, nothing is trained twice."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import runpy
import shutil
import signal
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pandas as pd
import pytest
from omegaconf import OmegaConf

from conftest import TINY, Command, ctrl_c, is_running, read_result, wait_until
from rethinkgen.run.folder import RunFolder
from rethinkgen.run.run import Outcome
from rethinkgen.sweep import grid, pool
from rethinkgen.sweep.child import Command as ChildCommand
from rethinkgen.sweep.jobs import Job
from rethinkgen.sweep.planning import Cell
from rethinkgen.sweep.pool import Pool
from rethinkgen.sweep.resources import Resources
from rethinkgen.sweep.view import Progress

Start = Callable[..., BaseProcess]
ODD_JOBS = Path(__file__).parent / "odd_jobs.py"
LONG = [*TINY, "max_steps=300000", "checkpoint_seconds=0.1"]
"""A run that is still training when a test wants to end it."""


def statuses(folder: Path) -> dict[int, dict[str, Any]]:
    """Seed -> status of the runs without a result."""
    found = {}
    for path in folder.glob("multirun/*/*/status.json"):
        found[int(path.parent.name.split("-seed")[1].split("-")[0])] = json.loads(path.read_text())
    return found


def times_trained(run: Path) -> int:
    """How often training was begun: each time the run and its folder are named."""
    return (run / "output.txt").read_text().count(" → ")


def run_odd_jobs(folder: Path, *overrides: str) -> None:
    before = sys.argv
    sys.argv = [str(ODD_JOBS), "-m", f"results_dir={folder}/multirun", *TINY, "max_steps=20", *overrides]
    try:
        runpy.run_path(str(ODD_JOBS), run_name="__main__")
    finally:
        sys.argv = before


def test_however_a_job_ends_the_others_finish_and_its_row_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as end:
        run_odd_jobs(tmp_path, "seed=0,1,2,3,4,6,7", "hydra.launcher.timeout_min=0.05", "hydra.launcher.n_jobs=3")
    assert end.value.code == 1
    reasons = {seed: (status["state"], status["reason"]) for seed, status in statuses(tmp_path).items()}
    assert reasons == {
        1: ("failed", "RuntimeError: one is odd"),
        2: ("failed", "sys.exit(3)"),
        3: ("failed", "killed by SIGKILL (out of memory?)"),
        4: ("failed", "stopped after 0.05 min (hydra.launcher.timeout_min)"),
        7: ("failed", "sys.exit(75)"),
    }
    assert "odd_jobs.py" in statuses(tmp_path)[1]["traceback"]
    seeds = [read_result(path.parent)["seed"] for path in tmp_path.glob("multirun/runs/*/result.json")]
    assert sorted(seeds) == [0, 6]

    output = capsys.readouterr().out
    assert "failed: RuntimeError: one is odd" in output
    assert "The same command runs the 5 failed and nothing else:" in output
    assert "hydra.launcher.timeout_min=0.05" in output
    summary = pd.read_csv(tmp_path / "multirun" / "runs" / "summary.csv")
    assert sorted(summary["state"]) == ["done"] * 2 + ["failed"] * 5
    assert set(summary.loc[summary["state"] == "done", "regularizer"]) == {"none"}
    assert summary.loc[summary["state"] == "done", "test/accuracy"].between(0, 1).all()


def test_the_same_command_runs_only_what_is_missing_and_a_wider_grid_only_the_new_cells(
    train: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["-m", *TINY, "max_steps=20", "data.corruption=none,random_labels"]
    train(*command, "seed=0")
    first = {path: path.stat().st_mtime_ns for path in tmp_path.glob("multirun/runs/*/result.json")}
    capsys.readouterr()
    train(*command, "seed=0,1")
    output = capsys.readouterr().out
    assert "2 of 4 runs were finished before." in output
    assert output.count("done before") == 2
    now = {path: path.stat().st_mtime_ns for path in tmp_path.glob("multirun/runs/*/result.json")}
    assert len(now) == 4
    assert first.items() <= now.items()
    train(*command, "seed=0,1")
    assert "4 of 4 runs were finished before." in capsys.readouterr().out


def test_a_finished_run_whose_status_was_left_behind_is_done(
    train: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["-m", *TINY, "max_steps=20", "seed=0"]
    folder = train(*command)
    written = (folder / "result.json").stat().st_ino
    for _ in range(2):  # killed just after the result was written; a rerun that failed before it began
        (folder / "status.json").write_text('{"state": "running", "pid": 1}')
        capsys.readouterr()
        train(*command)
        assert " done" in capsys.readouterr().out
        assert not (folder / "status.json").exists()
    assert (folder / "result.json").stat().st_ino == written


def test_a_file_where_a_runs_folder_should_be_fails_that_run_alone(
    train: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = ["-m", *TINY, "max_steps=20"]
    folder = train(*command, "seed=0")
    shutil.rmtree(folder)
    folder.touch()
    with pytest.raises(SystemExit):
        train(*command, "seed=0,1")
    output = capsys.readouterr().out
    assert "failed: " in output
    assert len(list(tmp_path.glob("multirun/runs/*/result.json"))) == 1


def test_each_sweep_of_a_command_has_its_own_summary(train: Command, tmp_path: Path) -> None:
    train("-m", *TINY, "max_steps=20", "sweep=a,b", "seed=0")
    for name in ("a", "b"):
        assert len(pd.read_csv(tmp_path / "multirun" / name / "summary.csv")) == 1
        assert "sweep=a,b" in (tmp_path / "multirun" / name / "commands.txt").read_text()


def test_rerun_trains_the_whole_grid_again_each_time(train: Command, tmp_path: Path) -> None:
    for _ in range(3):
        train("-m", *TINY, "max_steps=20", "seed=0,1", "rerun=true")
    assert len(list(tmp_path.glob("multirun/runs/*/previous-2/result.json"))) == 2


def test_cells_of_one_run_are_trained_once(train: Command, tmp_path: Path) -> None:
    train("-m", *TINY, "max_steps=20", "model.learning_rate=0.1,1e-1")
    (run,) = tmp_path.glob("multirun/runs/*/")
    assert times_trained(run) == 1


def test_a_run_that_is_begun_meanwhile_under_another_name_is_waited_for(
    train: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = train(*TINY, "model=mlp", "model.depth=1", "model.width=16", "max_steps=20")
    result = (folder / "result.json").read_bytes()
    kept = Path(shutil.move(folder, tmp_path))
    started: list[str] = []

    def launch_late(launcher: Any, missing: Any, jobs: Any) -> Any:
        shutil.move(kept, folder)
        (folder / "result.json").unlink()
        lock = (folder / ".lock").open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)

        def finish() -> None:
            wait_until(lambda: bool(started))
            time.sleep(2.5)
            (folder / "result.json").write_bytes(result)
            lock.close()

        threading.Thread(target=finish).start()
        return grid_launch(launcher, missing, jobs)

    def make_process(target: Any, *arguments: Any) -> Any:
        started.extend(each.folder for each in arguments if isinstance(each, ChildCommand))
        return pool_make_process(target, *arguments)

    grid_launch, pool_make_process = grid.launch, pool.make_process
    monkeypatch.setattr(grid, "launch", launch_late)
    monkeypatch.setattr(pool, "make_process", make_process)
    capsys.readouterr()
    train("-m", *TINY, "max_steps=20", "seed=0")
    assert " done" in capsys.readouterr().out
    assert len(started) == 1, "each second a process was started, only to find the run held"
    assert [path.name for path in (tmp_path / "multirun" / "runs").glob("*/")] == [folder.name]
    assert (folder / "result.json").read_bytes() == result


def test_a_cell_that_cannot_be_composed_stops_the_sweep_before_it_begins(
    train: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        train("-m", *TINY, "max_steps=20", "model=mlp_1x512,inceptoin")
    assert end.value.code == 1
    assert "inceptoin" in capsys.readouterr().err
    assert not list(tmp_path.glob("multirun/runs/*/"))


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("hydra.launcher.n_jobs=0", "hydra.launcher.n_jobs=0: a whole number of at least 1"),
        ("model.depth=1,0", "model.depth=0 model.width=16: a linear model has no hidden units"),
        ("hydra/launcher=slurm debug=true", "Leave hydra/launcher out"),
    ],
)
def test_a_sweep_that_is_refused_leaves_nothing_that_would_count_as_unfinished(
    override: str, words: str, train: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        train("-m", *TINY, "seed=0,1", *override.split())
    assert end.value.code == 1
    assert words in capsys.readouterr().err
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]


def test_each_job_is_given_a_gpu_of_its_own_and_its_share_of_threads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "5,7")
    monkeypatch.setattr("rethinkgen.sweep.resources.num_cores", lambda: 8)
    run_odd_jobs(tmp_path, "seed=0,6", "trainer=auto")
    outputs = sorted(path.read_text().splitlines()[0] for path in tmp_path.glob("multirun/runs/*/output.txt"))
    assert outputs == ["GPUs: 5, threads: 4", "GPUs: 7, threads: 4"]


def test_two_sweeps_at_a_time_share_the_work_and_train_no_cell_twice(
    start: Start, train: Command, tmp_path: Path
) -> None:
    grid = ["-m", *TINY, "max_steps=1000", f"results_dir={tmp_path}/multirun"]
    other_folder = tmp_path / "other"
    other_folder.mkdir()
    other = start(*grid, "seed=5,4,3,2,1,0", folder=other_folder)
    # The other takes a while to warm up, and then begins at the other end.
    while not list(tmp_path.glob("multirun/runs/*/.lock")):
        assert other.is_alive()
        time.sleep(0.05)
    train(*grid, "seed=0,1,2,3,4,5")
    other.join()
    assert other.exitcode == 0, (other_folder / "output.txt").read_text()
    runs = list(tmp_path.glob("multirun/runs/*/"))
    assert len(runs) == 6
    assert [times_trained(run) for run in runs] == [1] * 6


def test_a_run_held_by_another_process_is_waited_for(start: Start, train: Command, tmp_path: Path) -> None:
    single = [*TINY, "max_steps=6000", f"results_dir={tmp_path}/multirun"]
    other = start(*single, folder=tmp_path)
    while not list(tmp_path.glob("multirun/runs/*/status.json")):
        assert other.is_alive()
        time.sleep(0.05)
    folder = train("-m", *single, "seed=0,1")
    assert not other.is_alive() or RunFolder(folder).read_result() is not None
    other.join()
    assert other.exitcode == 0
    assert len(list(tmp_path.glob("multirun/runs/*/result.json"))) == 2
    # The sweep's job never began: what was printed was printed by the single command.
    assert not [path for path in tmp_path.glob("multirun/runs/*seed0*/output.txt") if "fit " in path.read_text()]


def children_of(folder: Path) -> list[int]:
    return [json.loads(path.read_text())["pid"] for path in folder.glob("multirun/runs/*/status.json")]


def test_ctrl_c_has_the_jobs_save_and_the_same_command_goes_on(start: Start, train: Command, tmp_path: Path) -> None:
    command = ["-m", f"results_dir={tmp_path}/multirun", *LONG, "seed=0,1,2", "hydra.launcher.n_jobs=2"]
    launcher = start(*command)
    wait_until(lambda: len(list(tmp_path.glob("multirun/runs/*/checkpoints/last.ckpt"))) == 2)
    output = ctrl_c(launcher, tmp_path)
    assert [status["state"] for status in statuses(tmp_path).values()] == ["interrupted", "interrupted"]
    assert "The same command runs the 3 unfinished and nothing else" in output
    saved = {status["step"] for status in statuses(tmp_path).values()}
    assert min(saved) > 0


def test_a_second_signal_kills_and_the_runs_are_interrupted_not_failed(start: Start, tmp_path: Path) -> None:
    launcher = start("-m", f"results_dir={tmp_path}/multirun", *LONG, "seed=0,1", "hydra.launcher.n_jobs=2")
    wait_until(lambda: len(list(tmp_path.glob("multirun/runs/*/checkpoints/last.ckpt"))) == 2)
    deaf, other = children_of(tmp_path)
    os.kill(deaf, signal.SIGSTOP)
    assert launcher.pid is not None
    os.kill(launcher.pid, signal.SIGTERM)
    wait_until(lambda: not is_running(other))
    assert launcher.is_alive()
    os.kill(launcher.pid, signal.SIGTERM)
    launcher.join()
    assert launcher.exitcode == 128 + signal.SIGTERM
    assert sorted(status["reason"] for status in statuses(tmp_path).values()) == [
        "SIGTERM",
        "SIGTERM, before it could save",
    ]
    assert {status["state"] for status in statuses(tmp_path).values()} == {"interrupted"}
    assert "a second Ctrl-C kills it" in (tmp_path / "output.txt").read_text()


def test_jobs_outlive_the_server_they_were_forked_from(start: Start, tmp_path: Path) -> None:
    grid = [*TINY, "max_steps=2000", "seed=0,1", "hydra.launcher.n_jobs=2", "checkpoint_seconds=0.1"]
    launcher = start("-m", f"results_dir={tmp_path}/multirun", *grid)
    wait_until(lambda: len(list(tmp_path.glob("multirun/runs/*/checkpoints/last.ckpt"))) == 2)
    job = children_of(tmp_path)[0]
    server = int(Path(f"/proc/{job}/stat").read_text().rsplit(")", 1)[1].split()[1])
    os.kill(server, signal.SIGKILL)
    launcher.join()
    assert launcher.exitcode == 0, (tmp_path / "output.txt").read_text()
    assert len(list(tmp_path.glob("multirun/runs/*/result.json"))) == 2


@pytest.mark.parametrize("num_failing", [0, 1, 2])
def test_a_server_that_is_still_ending_is_replaced_once(monkeypatch: pytest.MonkeyPatch, num_failing: int) -> None:
    """A killed one closes its files, by which its jobs end, before the system says that it has ended."""
    failing = [True] * num_failing

    class Process:
        def start(self) -> None:
            if failing:
                failing.pop()
                raise EOFError("unexpected EOF")

        def join(self) -> None: ...

    monkeypatch.setattr(pool.forkserver, "ensure_running", lambda: None)
    monkeypatch.setattr(pool, "make_process", lambda target: Process())
    server = pool.ForkServer()
    if num_failing == 2:
        with pytest.raises(RuntimeError, match="server ended while it imported torch"):
            wait_until(server.is_ready)
    else:
        wait_until(server.is_ready)
    assert not failing


def test_a_job_that_was_stopped_by_somebody_else_leaves_the_sweep_unfinished(start: Start, tmp_path: Path) -> None:
    launcher = start("-m", f"results_dir={tmp_path}/multirun", *LONG, "seed=0")
    wait_until(lambda: bool(list(tmp_path.glob("multirun/runs/*/checkpoints/last.ckpt"))))
    os.kill(children_of(tmp_path)[0], signal.SIGTERM)
    launcher.join()
    assert launcher.exitcode == 1
    assert "interrupted: SIGTERM" in (tmp_path / "output.txt").read_text()


def test_no_job_outlives_a_launcher_that_was_killed(start: Start, tmp_path: Path) -> None:
    launcher = start("-m", f"results_dir={tmp_path}/multirun", *LONG, "seed=0,1", "hydra.launcher.n_jobs=2")
    wait_until(lambda: len(list(tmp_path.glob("multirun/runs/*/checkpoints/last.ckpt"))) == 2)
    jobs = children_of(tmp_path)
    assert all(map(is_running, jobs))
    launcher.kill()
    launcher.join()
    wait_until(lambda: not any(map(is_running, jobs)))
    assert {status["state"] for status in statuses(tmp_path).values()} == {"interrupted"}


@pytest.mark.slow  # both cores for as long as it is given to hear
def test_a_job_that_is_deaf_to_the_launchers_end_is_killed(tmp_path: Path, start: Start) -> None:
    launcher = start("-m", f"results_dir={tmp_path}/multirun", *LONG, "seed=4,5", body=odd_jobs_in_own_process)
    outputs = "multirun/runs/*/output.txt"
    wait_until(lambda: sum("threads" in path.read_text() for path in tmp_path.glob(outputs)) == 2)
    launcher.kill()
    launcher.join()
    wait_until(lambda: not processes_mentioning(tmp_path))


def test_a_rank_that_dies_fails_its_job_and_no_other(start: Start, tmp_path: Path) -> None:
    ddp = [item for item in TINY if not item.startswith("trainer=")]
    grid = ["-m", f"results_dir={tmp_path}/multirun", *ddp, "trainer=ddp_cpu", "max_steps=800", "seed=0,1"]
    launcher = start(*grid)
    wait_until(lambda: any("step" in status for status in statuses(tmp_path).values()))
    (victim,) = statuses(tmp_path)  # two devices a job: one at a time on two cores
    rank_zero = statuses(tmp_path)[victim]["pid"]
    others = [int(pid) for pid in Path(f"/proc/{rank_zero}/task/{rank_zero}/children").read_text().split()]
    (rank_one,) = (pid for pid in others if b"follower" in Path(f"/proc/{pid}/cmdline").read_bytes())
    os.kill(rank_one, signal.SIGKILL)
    launcher.join()
    output = (tmp_path / "output.txt").read_text()
    assert launcher.exitcode == 1, output
    assert statuses(tmp_path).keys() == {victim}
    assert "rank 1 was killed by SIGKILL" in statuses(tmp_path)[victim]["reason"]
    (result,) = tmp_path.glob("multirun/runs/*/result.json")
    assert read_result(result.parent)["world_size"] == 2
    assert not is_running(rank_zero)


def processes_mentioning(folder: Path) -> list[Path]:
    """Processes that have a file below ``folder`` open."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if any(os.readlink(link).startswith(str(folder)) for link in (process / "fd").iterdir()):
                found.append(process)
    return found


def odd_jobs_in_own_process(folder: Path, *overrides: str) -> None:
    os.chdir(folder)
    with (folder / "output.txt").open("a") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    sys.argv = [str(ODD_JOBS), *overrides]
    runpy.run_path(str(ODD_JOBS), run_name="__main__")


def test_of_many_jobs_that_find_no_room_one_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    needs = OmegaConf.create({"trainer": {"accelerator": "cpu", "devices": 2}, "rerun": False, "model": {}})
    cell = cast(Cell, SimpleNamespace(needs=needs))
    jobs = [Job([], tmp_path / str(number), cell) for number in range(1000)]
    looked: list[Job] = []
    monkeypatch.setattr(Job, "outcome", lambda job: looked.append(job) or Outcome("missing"))
    room = Resources(2, 1, len(jobs), uses_gpus=False)
    room.take(OmegaConf.create({"devices": 1}))
    pool = Pool(room, start=lambda *_: pytest.fail("there is no room"))
    pool._start_what_fits(Progress(deque(jobs)))
    assert looked == jobs[:1]
