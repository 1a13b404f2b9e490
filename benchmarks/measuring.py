"""How long it takes to measure many finished runs, and of how much of it a process does for one run.

uv run python benchmarks/measuring.py --runs 2000     # measure.py on so many runs on digits, at one step
uv run python benchmarks/measuring.py --profile 200   # CPU time of each of 200 in one process, and where it goes
uv run python benchmarks/measuring.py --folder F      # keeps the four that are copied in F, where they are found again

The runs are copies of four, under ids of their own.
"""

from __future__ import annotations

import argparse
import cProfile
import hashlib
import json
import os
import pstats
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import yaml

from rethinkgen.run.folder import checksum

ROOT = Path(__file__).parents[1]
JOB = ["data=digits", "model=mlp_1x512", "logger=none", "threads=1", "max_steps=60", "until_fit=false"]
GRID = ["data.corruption=none,random_labels", "seed=0,1"]


def train(folder: Path) -> list[Path]:
    """Train the runs that are copied, where they are not there."""
    command = [sys.executable, str(ROOT / "train.py"), "-m", *JOB, *GRID, "sweep=few", f"results_dir={folder}"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return sorted(path.parent for path in (folder / "few").glob("*/result.json"))


def copies(folder: Path, number: int) -> Path:
    """Return the folder of a sweep of ``number`` finished runs."""
    originals, sweep = train(folder), folder / "many"
    shutil.rmtree(sweep, ignore_errors=True)
    for i in range(number):
        original = originals[i % len(originals)]
        old, new = original.name.rpartition("-")[2], hashlib.sha256(str(i).encode()).hexdigest()[:14]
        run = sweep / original.name.replace(old, new)
        (run / "weights").mkdir(parents=True)
        for name in ("config.yaml", "identity.json", "metrics.csv"):
            (run / name).write_text((original / name).read_text().replace(old, new))
        result = json.loads((original / "result.json").read_text().replace(old, new))
        (run / "result.json").write_text(json.dumps(result | {"checksum": checksum(result)}))
        for name in ("examples.npz", "weights/end.pt"):
            os.link(original / name, run / name)
    return sweep


def profile(sweep: Path, number: int) -> None:
    """Measure runs one after another in this process, and print the CPU time of one, and of what it is made."""
    import torch

    from rethinkgen.run.measures_asked import Request, measures_in
    from rethinkgen.run.measuring import Measuring

    torch.set_num_threads(1)
    measures = measures_in(yaml.safe_load((ROOT / "conf" / "measure" / "fit.yaml").read_text()))
    runs = sorted(path.parent for path in sweep.glob("*/result.json"))
    for profiler in (None, cProfile.Profile()):
        measuring = Measuring(Request(measures=measures, at=["end"], again=True))
        list(measuring.rows(runs[0]))  # imports, and loads the data
        began = time.process_time()
        for run in runs[1:]:
            if profiler is not None:
                profiler.enable()
            (row,) = measuring.rows(run)
            if profiler is not None:
                profiler.disable()
            assert row.state == "done", row
        if profiler is None:
            print(f"{(time.process_time() - began) / (number - 1) * 1000:.1f} ms of CPU time a run")
        else:
            pstats.Stats(profiler).sort_stats("cumtime").print_stats(60)


def measure(sweep: Path, number: int) -> None:
    """Time the command."""
    command = [sys.executable, str(ROOT / "measure.py"), str(sweep), "measure=[fit]", "at=end"]
    before, began = os.times(), time.monotonic()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    seconds, after = time.monotonic() - began, os.times()
    # Of the command alone: its processes are children of a server of forks.
    own = after.children_user + after.children_system - before.children_user - before.children_system
    print(f"{number:,} runs measured in {seconds:.0f} s; the command itself took {own / number * 1000:.1f} ms a run")


def main() -> None:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--profile", type=int)
    parser.add_argument("--folder", type=Path)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        number = asked.profile or asked.runs
        sweep = copies((asked.folder or Path(temporary)).absolute(), number)
        (profile if asked.profile else measure)(sweep, number)


if __name__ == "__main__":
    main()
