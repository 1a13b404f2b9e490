"""Against a real SLURM, such as that of ``../shared/slurm_local.sh start``: each test is a sweep by command line."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import ROOT, TINY, Command, read_result
from installed import plant_modules, variables
from rethinkgen.errors import HELD
from rethinkgen.run.folder import RunFolder
from rethinkgen.sweep.slurm import LOOK_SECONDS

PATIENCE_SECONDS = 120.0


def missing_slurm() -> str | None:
    """Return what keeps these tests from running."""
    if shutil.which("sbatch") is None:
        return "there is no sbatch here"
    asked = subprocess.run(["sinfo", "--noheader"], capture_output=True, text=True, check=False, timeout=60)
    return f"SLURM does not answer: {asked.stderr.strip().splitlines()[-1]}" if asked.returncode else None


@pytest.fixture(scope="module", autouse=True)
def cluster() -> None:
    reason = missing_slurm()
    if reason is not None and os.environ.get("RETHINKGEN_REQUIRE_SLURM") == "1":
        pytest.fail(f"RETHINKGEN_REQUIRE_SLURM=1, but {reason}", pytrace=False)
    if reason is not None:
        pytest.skip(reason)


class Sweep:
    """``python train.py -m hydra/launcher=slurm ...`` in a folder."""

    def __init__(self, folder: Path, *overrides: str) -> None:
        self.runs = folder / "multirun" / "runs"
        self.overrides = overrides
        self.output = folder / "printed.txt"
        self.processes: list[subprocess.Popen[bytes]] = []
        folder.mkdir(parents=True, exist_ok=True)

    def start(self) -> subprocess.Popen[bytes]:
        command = [sys.executable, str(ROOT / "train.py"), "-m", "hydra/launcher=slurm", *TINY, *self.overrides]
        command += [f"results_dir={self.runs.parent}", "hydra.launcher.cpus_per_task=1"]
        with self.output.open("w") as output:
            process = subprocess.Popen(command, cwd=self.runs.parents[1], stdout=output, stderr=subprocess.STDOUT)
        self.processes.append(process)
        return process

    def run(self) -> tuple[int, str]:
        """Run the command to its end and return its exit code and what it printed."""
        return self.start().wait(PATIENCE_SECONDS), self.output.read_text()

    def folder(self, name: str = "") -> Path:
        """Return the folder of the run whose name holds ``name``."""
        (found,) = [path for path in self.runs.iterdir() if path.name.startswith("digits") and name in path.name]
        return found

    def facts(self) -> list[dict[str, Any]]:
        file = self.runs / ".slurm" / "submissions.jsonl"
        lines = file.read_text().splitlines() if file.exists() else []
        return [json.loads(line) for line in lines if line]

    def submitted(self) -> str | None:
        """Return the id of the last submission."""
        return next((fact["slurm_job"] for fact in reversed(self.facts()) if "slurm_job" in fact), None)

    def job_ids(self) -> list[str]:
        """Return the ids of all jobs that were ever submitted, as SLURM's accounting knows them once they started."""
        names = ",".join(fact["name"] for fact in self.facts() if "runs" in fact)
        listed = ask("sacct", "-X", "--noheader", "--parsable2", "--format=JobID", f"--name={names}")
        return sorted(set(listed.split()))

    def end(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
        ids = [fact["slurm_job"] for fact in self.facts() if "slurm_job" in fact]
        subprocess.run(["scancel", "--quiet", *ids], check=False)

    def status(self, name: str = "") -> dict[str, Any]:
        return RunFolder(self.folder(name)).read_status()


@pytest.fixture
def sweep(tmp_path: Path) -> Iterator[Callable[..., Sweep]]:
    made: list[Sweep] = []

    def make(*overrides: str) -> Sweep:
        made.append(Sweep(tmp_path, *overrides))
        return made[-1]

    yield make
    for one in made:
        one.end()


def ask(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def wait_until(happens: Callable[[], Any], what: str) -> Any:
    deadline = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < deadline:
        if (seen := happens()) not in (None, False, ""):
            return seen
        time.sleep(0.1)
    raise AssertionError(f"waited {PATIENCE_SECONDS:.0f} s until {what}")


def is_training(sweep: Sweep, name: str = "") -> Callable[[], bool]:
    return lambda: any(sweep.runs.glob("digits*")) and sweep.status(name).get("step", 0) > 0


@pytest.fixture(scope="module")
def out_of_time(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Sweep, subprocess.Popen[bytes]]]:
    """A run that takes longer than its limit of a minute; it is looked at last, as it takes long."""
    limits = ["hydra.launcher.timeout_min=1", "hydra.launcher.signal_delay_s=20"]
    sweep = Sweep(tmp_path_factory.mktemp("out_of_time"), "max_steps=30000", "checkpoint_seconds=1", *limits)
    process = sweep.start()
    yield sweep, process
    sweep.end()


def test_grid_is_one_array_and_a_second_command_submits_nothing(
    sweep: Callable[..., Sweep], out_of_time: object
) -> None:
    grid = sweep("seed=0,1", "max_steps=50")
    code, printed = grid.run()
    assert code == 0, printed
    results = {result["seed"]: result for result in map(read_result, grid.runs.glob("digits*"))}
    assert results.keys() == {0, 1}
    assert [job_id.partition("_")[2] for job_id in grid.job_ids()] == ["0", "1"]
    assert not (grid.folder("seed0") / "status.json").exists()
    assert "steps" in (grid.folder("seed0") / "output.txt").read_text()
    before = grid.job_ids()
    code, printed = grid.run()
    assert code == 0
    assert "2 of 2 runs were finished before" in printed
    assert grid.job_ids() == before


def test_measures_are_jobs_too(small_sweep: Path, tmp_path: Path) -> None:
    runs = tmp_path / "small"
    shutil.copytree(small_sweep, runs)
    command = [sys.executable, str(ROOT / "measure.py"), str(runs), "measure=[fit]", "at=[0,end]"]
    command += ["hydra/launcher=slurm", "hydra.launcher.cpus_per_task=1", "threads=1"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=PATIENCE_SECONDS)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "[8/8]" in done.stdout
    assert len(list(runs.glob("*/measures/fit-*/*.json"))) == 8


def test_cancelled_job_is_one_failed_row_and_runs_again_alone(sweep: Callable[..., Sweep]) -> None:
    grid = sweep("seed=0,1", "max_steps=500")
    process = grid.start()
    cancelled = f"{wait_until(grid.submitted, 'the jobs are submitted')}_1"
    wait_until(lambda: ask("squeue", "--noheader", "--format=%T", "--jobs", cancelled).strip() == "RUNNING", "it runs")
    ask("scancel", cancelled)
    assert process.wait(PATIENCE_SECONDS) == 1
    printed = grid.output.read_text()
    assert "failed: cancelled (SLURM: CANCELLED by" in " ".join(printed.split())
    status = grid.status("seed1")
    assert status["state"] == "failed"
    assert status["slurm_job"] == cancelled
    assert read_result(grid.folder("seed0"))["metrics"]["steps"] == 500
    code, printed = grid.run()
    assert code == 0, printed
    assert "1 of 2 runs was finished before" in printed
    assert read_result(grid.folder("seed1"))["metrics"]["steps"] == 500
    assert len(grid.job_ids()) == 3


def test_requeued_in_mid_run_ends_with_the_numbers_of_an_undisturbed_run(
    sweep: Callable[..., Sweep], train: Command
) -> None:
    overrides = ["max_steps=2500", "checkpoint_seconds=1", "regularizer=[dropout]"]
    disturbed = sweep(*overrides)
    process = disturbed.start()
    wait_until(is_training(disturbed), "the run trains")
    ask("scontrol", "requeue", str(disturbed.submitted()))
    undisturbed = train("sweep=undisturbed", *TINY, *overrides)
    assert process.wait(PATIENCE_SECONDS) == 0, disturbed.output.read_text()
    printed = (disturbed.folder() / "output.txt").read_text()
    assert "Going on from step" in printed
    assert len(disturbed.job_ids()) == 1
    there, here = read_result(disturbed.folder()), read_result(undisturbed)
    assert there["metrics"] == here["metrics"]
    weights, undisturbed_weights = (
        torch.load(folder / "weights/end.pt", weights_only=True) for folder in (disturbed.folder(), undisturbed)
    )
    assert all(torch.equal(weights[name], undisturbed_weights[name]) for name in weights)


def test_ranks_of_ddp_are_tasks_of_one_job_and_are_requeued_together(sweep: Callable[..., Sweep]) -> None:
    ddp = sweep("trainer=ddp_cpu", "max_steps=1500", "checkpoint_seconds=1")
    process = ddp.start()
    wait_until(is_training(ddp), "the run trains")
    job_id = str(ddp.submitted())
    assert "NumTasks=2" in ask("scontrol", "show", "job", job_id)
    ask("scancel", "--signal=USR2", job_id)  # as SLURM sends it before a preemption
    assert process.wait(PATIENCE_SECONDS) == 0, ddp.output.read_text()
    printed = (ddp.folder() / "output.txt").read_text()
    assert "Going on from step" in printed
    result = read_result(ddp.folder())
    assert result["world_size"] == 2
    assert result["metrics"]["steps"] == 1500
    assert ddp.job_ids() == [job_id]


def test_what_goes_by_other_runs_is_submitted_when_these_have_finished(sweep: Callable[..., Sweep]) -> None:
    selection = "{runs: multirun/runs, column: presented_times_forgotten, share: 0.2}"
    few = ("data.num_train=200", "data.batch_size=50", "max_steps=6")
    grid = sweep(f"data.exclude=null,{selection}", *few)
    code, printed = grid.run()
    assert code == 0, printed
    first, second = ([grid.runs / run for run in fact["runs"]] for fact in grid.facts() if "runs" in fact)
    assert [(run / "excluded.npy").exists() for run in (*first, *second)] == [False, True]


def test_command_may_die_and_the_next_one_attaches(sweep: Callable[..., Sweep]) -> None:
    grid = sweep("seed=0,1", "max_steps=3000")
    killed = grid.start()
    wait_until(grid.submitted, "the jobs are submitted")
    killed.kill()
    killed.wait()
    stopped = grid.start()
    wait_until(lambda: "In SLURM's queue already: 2 runs" in grid.output.read_text(), "the next command attaches")
    time.sleep(0.5)
    stopped.send_signal(signal.SIGINT)
    assert stopped.wait(PATIENCE_SECONDS) == 128 + signal.SIGINT
    assert "scancel" in grid.output.read_text()
    code, printed = grid.run()
    assert code == 0, printed
    assert [job_id.partition("_")[2] for job_id in grid.job_ids()] == ["0", "1"]


def test_run_of_another_process_is_left_to_it(sweep: Callable[..., Sweep]) -> None:
    one = sweep("seed=0", "max_steps=50")
    process = one.start()
    job_id = wait_until(one.submitted, "the job is submitted")
    with (one.folder() / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        RunFolder(one.folder()).write_status("running", step=1)
        wait_until(lambda: not ask("squeue", "--noheader", "--name", one.facts()[0]["name"]), "the job gives way")
        assert one.status()["pid"] == os.getpid()
        exit_code = ["sacct", "-X", "--noheader", "--parsable2", "--format=ExitCode", "--jobs", job_id]
        wait_until(lambda: ask(*exit_code).strip() == f"{HELD}:0", "accounting knows why")
        time.sleep(2 * LOOK_SECONDS[0])
        assert process.poll() is None
    assert process.wait(PATIENCE_SECONDS) == 0, one.output.read_text()
    assert read_result(one.folder())["metrics"]["steps"] == 50


def test_refused_jobs_are_one_line(sweep: Callable[..., Sweep]) -> None:
    refused = sweep("seed=0", "max_steps=50", "hydra.launcher.partition=nowhere")
    code, printed = refused.run()
    assert code == 1
    assert len(printed.splitlines()) == 1
    assert printed.startswith("Error: SLURM refuses the jobs: ")
    assert "Batch job submission failed: Invalid partition" in printed


def test_what_no_node_has_is_refused_before_it_is_submitted(sweep: Callable[..., Sweep]) -> None:
    refused = sweep("seed=0", "max_steps=50", "hydra.launcher.mem_gb=100000")
    code, printed = refused.run()
    assert code == 1
    assert len(printed.splitlines()) == 1
    assert printed.startswith("Error: hydra.launcher.mem_gb=100000: no node of this cluster has so much memory. ")
    assert refused.facts() == []


def test_what_is_installed_from_a_wheel_has_its_jobs_run(installed_wheel: Path, tmp_path: Path) -> None:
    taken = plant_modules(tmp_path)
    command = ["rethinkgen", "train", "-m", "hydra/launcher=slurm", *TINY, "max_steps=5", "seed=0"]
    ended = subprocess.run(
        [str(installed_wheel / command[0]), *command[1:], "hydra.launcher.cpus_per_task=1"],
        cwd=tmp_path,
        env=variables(installed_wheel),
        capture_output=True,
        text=True,
        timeout=PATIENCE_SECONDS,
    )
    assert not taken.exists(), taken.read_text()
    assert ended.returncode == 0, ended.stdout + ended.stderr
    assert "  rethinkgen report multirun/runs" in ended.stdout.splitlines()
    assert len(list(tmp_path.glob("multirun/runs/*/result.json"))) == 1


def test_run_out_of_time_is_requeued_until_it_ends(out_of_time: tuple[Sweep, subprocess.Popen[bytes]]) -> None:
    sweep, process = out_of_time
    assert process.wait(PATIENCE_SECONDS) == 0, sweep.output.read_text()
    printed = (sweep.folder() / "output.txt").read_text()
    assert "Caught signal SIGUSR2" in printed
    assert "Going on from step" in printed
    assert read_result(sweep.folder())["metrics"]["steps"] == 30000
    assert len(sweep.job_ids()) == 1
