"""Compare launchers on the same tiny jobs: how long a sweep takes, what one more job costs, what survives a SIGKILL.

uv run --extra slurm --with 'hydra-joblib-launcher>=1.4.0rc3' python benchmarks/sweep.py
uv run python benchmarks/sweep.py --finished 1000    # how long a grid takes of which every run is finished
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from importlib.util import find_spec
from pathlib import Path

from hydra import compose, initialize_config_dir

import rethinkgen.run.identity  # noqa: F401  # its resolvers

ROOT = Path(__file__).parents[1]
JOB = ["model=mlp_1x512", "model.width=64", "trainer=cpu", "logger=none", "threads=1", "until_fit=false"]
LAUNCHERS = {
    "pool": ["hydra/launcher=pool"],
    "basic": ["hydra/launcher=basic"],
    "joblib": ["hydra/launcher=joblib", "hydra.launcher.n_jobs=2"],
    "submitit_local": ["hydra/launcher=submitit_local"],
}


def start(launcher: str, results: Path, num_jobs: int, max_steps: int) -> subprocess.Popen[bytes]:
    """Start a sweep over seeds."""
    overrides = [*JOB, *LAUNCHERS[launcher], f"max_steps={max_steps}", f"results_dir={results}"]
    command = [sys.executable, str(ROOT / "train.py"), "-m", f"seed=range(0,{num_jobs})", *overrides]
    with (results.parent / f"{results.name}.txt").open("wb") as output:
        # A group of its own: what a dead launcher leaves behind is ended with it.
        return subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, start_new_session=True)


def num_results(results: Path) -> int:
    """Count finished runs."""
    return sum(1 for _ in results.glob("runs/*/result.json"))


def seconds(launcher: str, results: Path, num_jobs: int, max_steps: int) -> float:
    """Time a whole sweep."""
    began = time.monotonic()
    code = start(launcher, results, num_jobs, max_steps).wait()
    if code or num_results(results) != num_jobs:
        raise RuntimeError(f"{launcher}: exit code {code}, {num_results(results)} results; see {results}.txt")
    return time.monotonic() - began


def survivors(launcher: str, results: Path, num_jobs: int, patience: float) -> str:
    """SIGKILL the first job that trains, and tell how many of the others finish."""
    sweep = start(launcher, results, num_jobs, max_steps=2_000)
    victim = None
    while victim is None and sweep.poll() is None:
        for path in results.glob("runs/*/status.json"):
            status = json.loads(path.read_text())
            if "step" in status:
                victim = int(status["pid"])
        time.sleep(0.01)
    if victim is None:
        raise RuntimeError(f"{launcher}: no job was seen training; see {results}.txt")
    os.kill(victim, signal.SIGKILL)
    try:
        ending = f"exit code {sweep.wait(timeout=patience)}"
    except subprocess.TimeoutExpired:
        os.killpg(sweep.pid, signal.SIGKILL)
        ending = f"hung for {patience:.0f} s"
    return f"{num_results(results)} of {num_jobs - 1}, {ending}"


def time_skipping(num_jobs: int) -> None:
    """Time a grid of finished runs, when each cell must be composed and when the index knows it."""
    grid = [*JOB, "max_steps=1", f"seed=range(0,{num_jobs})"]
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results"
        start("pool", results, 1, max_steps=1).wait()
        (finished,) = results.glob("runs/*/result.json")
        with initialize_config_dir(str(ROOT / "conf"), job_name="train"):
            for seed in range(1, num_jobs):
                overrides = [*JOB, f"seed={seed}", "max_steps=1", f"results_dir={results}"]
                run = Path(compose("train", overrides, return_hydra_config=True).hydra.run.dir)
                shutil.copytree(finished.parent, run)
        for known in ("composed", "in the index"):
            began = time.monotonic()
            subprocess.run(
                [sys.executable, str(ROOT / "train.py"), "-m", *grid, f"results_dir={results}"],
                check=True,
                stdout=subprocess.DEVNULL,
            )
            print(f"{num_jobs:,} finished runs, each {known}: {time.monotonic() - began:.1f} s", flush=True)


def main() -> None:
    """Print one row a launcher."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=20)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--launchers", nargs="+", default=list(LAUNCHERS), choices=list(LAUNCHERS))
    parser.add_argument("--finished", type=int, help="only time a command whose runs, so many, are all finished")
    arguments = parser.parse_args()
    if arguments.finished:
        time_skipping(arguments.finished)
        return
    chosen = [name for name in arguments.launchers if _is_installed(name)]
    few, many = arguments.jobs // 2, arguments.jobs
    times: dict[tuple[str, int], list[float]] = {(name, n): [] for name in chosen for n in (few, many)}
    with tempfile.TemporaryDirectory() as folder:
        for repeat in range(arguments.repeats):
            for name, n in times:
                taken = seconds(name, Path(folder) / f"{name}-{n}-{repeat}", n, max_steps=100)
                times[name, n].append(taken)
                print(f"{name}, {n} jobs: {taken:.1f} s", file=sys.stderr)
        print(
            f"| launcher | {many} jobs | one more job | others finished after a SIGKILL of one job |\n|---|--:|--:|---|"
        )
        for name in chosen:
            more = statistics.median(b - a for a, b in zip(times[name, few], times[name, many], strict=True))
            survived = survivors(name, Path(folder) / f"{name}-killed", many, patience=120)
            total = statistics.median(times[name, many])
            print(f"| `{name}` | {total:.1f} s | {more / (many - few):.2f} s | {survived} |", flush=True)


def _is_installed(launcher: str) -> bool:
    plugin = {"joblib": "hydra_joblib_launcher", "submitit_local": "hydra_submitit_launcher"}.get(launcher)
    if plugin is None or find_spec(f"hydra_plugins.{plugin}") is not None:
        return True
    print(f"{launcher} is left out: {plugin} is not installed", file=sys.stderr)
    return False


if __name__ == "__main__":
    main()
