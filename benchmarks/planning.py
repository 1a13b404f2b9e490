"""Seconds and memory of a sweep of 20,000 cells: planned, remembered, and found finished.

    python benchmarks/planning.py                 # each in a process of its own, with 200 cells compared with compose()
    python benchmarks/planning.py --experiments   # every cell of every experiment compared with compose(): 5 minutes

The grid is 4 corruptions x 3 models x 4 rates x 3 regularizers x 20 seeds x 7 seeds of the data. Memory is what a step
adds at its peak to a process that has composed one config; CPU seconds are beside seconds, as the machine may be busy.
No run of it is trained: one is, with one step, and the others' folders are filled with its result under their own ids.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import math
import multiprocessing
import os
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf

from hydra_plugins.rethinkgen_grid import GridSweeper
from rethinkgen.run import catalogue
from rethinkgen.run.description import resolved_config
from rethinkgen.run.folder import checksum
from rethinkgen.sweep import grid
from rethinkgen.sweep.jobs import Job
from rethinkgen.sweep.planning import Planner

ROOT = Path(__file__).parents[1]
AXES = {
    "data.corruption": ["none", "random_labels", "shuffled_pixels", "partial_labels"],
    "model": ["mlp_1x512", "mlp_3x512", "alexnet"],
    "model.learning_rate": [0.1, 0.03, 0.01, 0.003],
    "regularizer": ["[]", "[weight_decay]", "[dropout,weight_decay]"],
    "data.seed": range(7),
}
FIXED = ["trainer=cpu", "logger=none", "threads=1", "until_fit=false", "max_steps=1"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sample", type=int, default=200, help="cells compared with compose()")
    parser.add_argument("--seeds", type=int, default=20, help="1,008 cells each")
    parser.add_argument("--experiments", action="store_true")
    arguments = parser.parse_args()
    if arguments.experiments:
        in_own_process(compare_experiments)
        return
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        num_cells = arguments.seeds * math.prod(map(len, AXES.values()))
        print(f"{num_cells:,} cells on {os.cpu_count()} cores", flush=True)
        in_own_process(plan, arguments.seeds, arguments.sample)
        for body in (find, fill, find, find_finished):
            in_own_process(body, arguments.seeds)


def in_own_process(body: Callable[..., None], *arguments: Any) -> None:
    process = multiprocessing.get_context("spawn").Process(target=body, args=arguments)
    process.start()
    process.join()
    if process.exitcode:
        sys.exit(process.exitcode)


class Command:
    """What ``python train.py -m`` with some overrides has in hand when it begins to plan."""

    def __init__(self, *overrides: str) -> None:
        initialize_config_dir(str(ROOT / "conf"), job_name="train").__enter__()
        loader = GlobalHydra.instance().config_loader()
        self.context = HydraContext(config_loader=loader, callbacks=None)  # type: ignore[arg-type]
        self.config = loader.load_configuration("train", list(overrides), run_mode=RunMode.MULTIRUN)

    def cells(self) -> list[list[str]]:
        """Return the overrides of each run of its grid."""
        own: Any = OmegaConf.to_container(self.config.hydra.sweeper, resolve=True)
        sweeper = GridSweeper(own["params"], own["grids"])
        sweeper.hydra_context, sweeper.config = self.context, self.config
        return sweeper.cells(list(self.config.hydra.overrides.task))


def typed(num_seeds: int) -> list[str]:
    """Return the overrides of the grid, with so many seeds."""
    axes = AXES | {"seed": range(num_seeds)}
    return [*FIXED, *(f"{key}={','.join(map(str, values))}" for key, values in axes.items())]


@contextlib.contextmanager
def measured(what: str) -> Iterator[None]:
    before = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()
    began, cpu = time.monotonic(), time.process_time()
    yield
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before
    seconds, cpu = time.monotonic() - began, time.process_time() - cpu
    print(f"{what}: {seconds:.1f} s ({cpu:.1f} s of CPU), {peak / 1e6:.0f} MB", flush=True)


def plan(num_seeds: int, sample: int) -> None:
    command = Command(*typed(num_seeds))
    with measured("planned"):
        cells = command.cells()
        planner = Planner(command.context, command.config)
        jobs = [planner.plan(cell, number)[0] for number, cell in enumerate(cells)]
    began = time.monotonic()
    chosen = random.sample(range(len(jobs)), min(sample, len(jobs)))
    made = {number: jobs[number].cell.compose() for number in chosen}  # type: ignore[union-attr]
    per_cell = 1e3 * (time.monotonic() - began) / len(chosen)
    differing = sum(not is_as_composed(command, jobs[number], made[number]) for number in chosen)
    print(f"made whole when launched: {per_cell:.1f} ms each")
    print(f"compared with compose(): {len(chosen)} of {len(jobs):,} cells, {differing} differ", flush=True)


def is_as_composed(command: Command, job: Job, made: DictConfig) -> bool:
    """Whether a job's folder and whole config are what Hydra composes for its overrides, in a sweep and alone."""
    swept = command.context.config_loader.load_sweep_config(command.config, job.overrides)
    alone = compose("train", [*command.config.hydra.overrides.hydra, *job.overrides], return_hydra_config=True)
    made.hydra.job.id, made.hydra.job.num = "???", "???"
    return (
        job.path == Path(alone.hydra.run.dir) == Path(swept.hydra.sweep.dir) / swept.hydra.sweep.subdir
        and repr(OmegaConf.to_container(made)) == repr(OmegaConf.to_container(swept))
        and repr(resolved_config(made)) == repr(resolved_config(alone))
    )


def find(num_seeds: int) -> None:
    command = Command(*typed(num_seeds))
    with measured("planned, looked for and remembered"):
        jobs = grid.find_jobs(command.context, command.config, command.cells(), Path(command.config.hydra.sweep.dir))
    size = Path(command.config.hydra.sweep.dir, catalogue.FILE_NAME).stat().st_size
    print(f"  {sum(job.was_done for job in jobs):,} of {len(jobs):,} are finished; index of {size / 1e6:.0f} MB")


def fill(num_seeds: int) -> None:
    """Train one run, and put its result under the ids of all others."""
    first = [f"{key}={next(iter(values))}" for key, values in AXES.items()]
    train("train.py", *FIXED, *first)
    (found,) = Path("multirun").glob("*/*/result.json")
    result = json.loads(found.read_text())
    del result["checksum"]
    command = Command(*typed(num_seeds))
    planner = Planner(command.context, command.config)
    for number, cell in enumerate(command.cells()):
        job, description = planner.plan(cell, number)
        facts = result | description.facts()
        facts["metrics"] |= {"fit/accuracy": random.random(), "test/accuracy": random.random()}
        job.path.mkdir(parents=True, exist_ok=True)
        # Not as a run does it, which waits for the disk each time.
        job.folder.result.write_text(json.dumps(facts | {"checksum": checksum(facts)}, indent=2))
        identity = {"run_id": description.run_id, "fingerprint": description.fingerprint}
        job.folder.identity.write_text(json.dumps(identity, indent=2))


def find_finished(num_seeds: int) -> None:
    began = time.monotonic()
    output = train("train.py", "-m", *typed(num_seeds))
    seconds = time.monotonic() - began
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    print(
        f"asked for again, the whole command: {seconds:.1f} s ({used.ru_utime + used.ru_stime:.1f} s of CPU), ", end=""
    )
    print(f"{used.ru_maxrss / 1e3:.0f} MB in all")
    print(next(line for line in output.splitlines() if "finished before" in line))


def train(script: str, *overrides: str) -> str:
    command = [sys.executable, str(ROOT / script), *overrides]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def compare_experiments() -> None:
    """Compare every cell of every experiment, on its own data and on the digits."""
    for path in sorted((ROOT / "conf/experiment").rglob("*.yaml")):
        experiment = path.relative_to(ROOT / "conf/experiment").with_suffix("").as_posix()
        for data in ([], ["data=digits"]):
            compare_experiment(experiment, data)


def compare_experiment(experiment: str, data: Sequence[str]) -> None:
    GlobalHydra.instance().clear()
    command = Command(f"+experiment={experiment}", *data)
    if "grid" not in command.config.hydra.runtime.choices["hydra/sweeper"]:
        return
    cells = command.cells()
    planner = Planner(command.context, command.config)
    jobs = [planner.plan(cell, number)[0] for number, cell in enumerate(cells)]
    differing = sum(not is_as_composed(command, job, job.cell.compose()) for job in jobs)  # type: ignore[union-attr]
    print(f"{experiment} {' '.join(data)}: {len(jobs)} cells, {differing} differ", flush=True)


if __name__ == "__main__":
    main()
