"""``measure.py``: which runs lack what, and processes that each take one run after another until nothing is missing.

A process, here a *stint*, is one job of the launcher, so that the pool and SLURM serve as they are. Stints take runs
off one list, those on the same data one after another. One that dies costs the run that it was at; another goes on.
"""

from __future__ import annotations

import contextlib
import copy
import json
import os
import re
import shutil
import signal
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hydra.plugins.launcher import Launcher
from omegaconf import DictConfig, OmegaConf, open_dict, read_write

from rethinkgen.checks import check_one_of, check_positive, check_switch, check_whole
from rethinkgen.console import duration, say, shown
from rethinkgen.errors import SlurmError, StoppedError
from rethinkgen.files import is_locked, lock, write_atomically
from rethinkgen.received import open_regular
from rethinkgen.run.identity import SEEDS
from rethinkgen.run.kept import unreached
from rethinkgen.run.measured import least_sure
from rethinkgen.run.measures_asked import Measure, Request, measures_in, moments_in
from rethinkgen.run.measuring import Row, data_of, function_of, steps_of, there_and_missing, work_of
from rethinkgen.run.run import Outcome, Run, read_run, read_runs
from rethinkgen.run.stint import CLAIMS, ENDED, LOCK, REQUEST, ROWS, claims, claims_of, measure_stint
from rethinkgen.sweep.jobs import Job
from rethinkgen.sweep.measured_table import FILE_NAME, conclude
from rethinkgen.sweep.slurm import FOLDER, Submissions
from rethinkgen.words import how_many

Select = Callable[[Sequence[Run], Any, str], tuple[list[Run], list[str]]]
"""(runs, what is told, the key that tells it) -> those chosen, and the keys that choose them."""


MEASURING = ".measuring"
"""The folder in a sweep's in which the processes of a command tell how far they are, while they live."""


@dataclass(frozen=True)
class Wish:
    """What the command asks for, beside the launcher."""

    folders: list[Path]
    request: Request
    where: Any
    other: Any

    @classmethod
    def of(cls, config: DictConfig) -> Wish:
        """Read the command's config.

        Raises:
            ValueError: a key has a value that is not allowed.
        """
        keys: Any = [key for key in config if key != "hydra"]
        told: Any = OmegaConf.to_container(OmegaConf.masked_copy(config, keys), resolve=True)
        check_positive("memory_mb", told["memory_mb"])
        check_switch("rerun", told["rerun"])
        check_one_of("replay", told["replay"], ("exact", "inexact"))
        if told["threads"] is not None:
            check_whole("threads", told["threads"], 1)
        request, other = request_of(told)
        if not request.measures:
            raise ValueError("measure=[]: nothing is asked for. Name what to look at, such as 'measure=[fit]'.")
        if told["other"] is not None and other is None:
            names = ",".join(each.name for each in request.measures)
            raise ValueError(f"other={told['other']}: none of measure=[{names}] uses a second run. Leave it out.")
        return cls([Path(folder) for folder in told["folders"]], request, told["where"], other)


def request_of(told: Mapping[str, Any]) -> tuple[Request, Any]:
    """Return what a config asks of each run, and which second run, as a selection.

    Raises:
        ValueError: a value is not allowed.
    """
    measures = measures_in(told.get("measure") or {})
    others = [each.other for each in measures if each.other is not None]
    if any(each != others[0] for each in others):
        raise ValueError(f"other={others[0]} and {others[-1]}: one second run a command. Give the command twice.")
    request = Request(
        measures=measures,
        at=moments_in(told.get("at", "end")),
        memory_mb=float(told.get("memory_mb", 1024)),
        accelerator=str(told["trainer"].get("accelerator", "auto")),
        inexact=told.get("replay") == "inexact",
        again=bool(told.get("rerun", False)),
    )
    return request, (others[0] if others else None)


@dataclass
class Task:
    """A run of which something is missing."""

    run: Run
    other: Run | None
    lacking: dict[int, list[Measure]]
    """Step -> the measures that it lacks."""

    @property
    def steps(self) -> list[int]:
        """Those at which something is missing, ascending."""
        return list(self.lacking)


@dataclass
class Told:
    """What came of a run at a step, as the table shows it."""

    run: Run
    row: Row


def run_measures(launcher: Launcher, config: DictConfig, arguments: Sequence[str], select: Select) -> list[Any]:
    """Measure what is missing of the runs that the command names; exit with 1 if anything is missing then.

    Raises:
        ValueError: the command cannot be met; nothing was begun.
    """
    wish = Wish.of(config)
    runs = read_runs(wish.folders)
    chosen = runs if wish.where is None else select(runs, wish.where, "where")[0]
    others = {} if wish.other is None else others_of(chosen, *select(runs, wish.other, "other"))
    told, stopped_by = _measured(launcher, config, wish.request, *look(chosen, others, wish.request))
    failed = conclude(told, wish.folders)
    if stopped_by is not None:
        sys.exit(128 + stopped_by)
    if failed:
        sys.exit(1)
    return []


def measure_finished(launcher: Launcher, config: DictConfig, paths: Sequence[Path], select: Select) -> int:
    """Measure what the config of a sweep asks for and its finished runs lack; return how many rows failed.

    Each run was measured as it ended; what is left are runs that were finished before, and what needs a second run.
    """
    asked: dict[str, Any] = {
        key: OmegaConf.to_container(config[key], resolve=True) if OmegaConf.is_config(config[key]) else config[key]
        for key in ("measure", "at", "trainer", "replay")
        if key in config
    }
    request, other = request_of(asked)
    if not request.measures:
        return 0
    runs = [run for run in map(read_run, paths) if run.state == "done"]
    others = {}
    if runs and other is not None:
        # Also those without a result: the row says then that its second run has none, and no other row suffers.
        asked_for = set(paths)
        there = [run for run in read_runs(sorted({path.parent for path in paths})) if run.path in asked_for]
        others = others_of(runs, *select(there, other, "other"))
    told, stopped_by = _measured(launcher, config, request, *look(runs, others, request, passes_over_late=True))
    failed = conclude(told)
    if stopped_by is not None:
        sys.exit(128 + stopped_by)
    return failed


def _measured(
    launcher: Launcher, config: DictConfig, request: Request, told: list[Told], tasks: list[Task]
) -> tuple[list[Told], int | None]:
    """Measure what is missing; return what came of each run at each step, and the signal that ended it."""
    for sweep in {each.run.sweep for each in told} | {task.run.sweep for task in tasks}:
        remove_dead(sweep)
    if before := sum(each.row.state == "before" for each in told):
        say(f"{before:,} of {before + sum(len(task.steps) for task in tasks):,} rows were measured before.")
    if not tasks:
        return told, None
    if hasattr(launcher, "warm_up"):
        launcher.warm_up()
    functions = {measure.name: function_of(measure) for measure in request.measures}  # what is wrong is said once
    tell_work(tasks, functions)
    stints = Stints(config, request, tasks)
    stopped_by: int | None = None
    try:
        stints.run(launcher)
    except (StoppedError, KeyboardInterrupt) as stop:
        stopped_by = getattr(stop, "number", int(signal.SIGINT))
        stints.note_what_goes_on()
    told += stints.told()
    stints.remove()
    return told, stopped_by


def tell_work(tasks: Sequence[Task], functions: Mapping[str, Callable[..., Any]]) -> None:
    """Say what it costs to have the weights of steps that were not kept, and to go through trainings once more."""
    from rethinkgen.run.replay import cost, cost_of_steps

    num_runs, num_rows, of_replays, of_trainings = 0, 0, 0.0, 0.0
    for task in tasks:
        work = work_of(task.run, task.lacking, functions, has_other=task.other is not None)
        if work.steps:
            num_runs += 1
            of_replays += cost_of_steps(task.run, work.steps)
        num_rows += len(work.trainings)
        of_trainings += sum(times * (cost(task.run, 0, step) or 0.0) for step, times in work.trainings.items())
    if num_runs:
        say(
            f"To be trained once more: {how_many(num_runs, 'run')}, as far as steps that are asked for were not kept; "
            f"in all about {duration(of_replays)} of one process at most. keep=... keeps steps along training."
        )
    if num_rows:
        say(
            f"To be gone through once more: the trainings of {how_many(num_rows, 'row')}, in all about "
            f"{duration(of_trainings)} of one process."
        )


def look(
    runs: Sequence[Run], others: Mapping[str, Run], request: Request, *, passes_over_late: bool = False
) -> tuple[list[Told], list[Task]]:
    """Return the rows that are there, or cannot be, and what is left to do, by the runs' data.

    ``passes_over_late``: moments that a run ended before are no rows of it, as each run said when it ended.
    """
    told: list[Told] = []
    tasks: list[Task] = []
    for run in runs:
        late = unreached(run, request.at) if passes_over_late else []
        steps, failed = steps_of(run, [each for each in request.at if each not in late] or request.at)
        told += [Told(run, row) for row in failed]
        other = others.get(run.run_id)
        left = {}
        for step in steps:
            there = there_and_missing(run.path, request, step, other.run_id if other else None)
            if there.lacking:
                left[step] = there.lacking
            elif other is not None or any(each.other is None for each in request.measures):
                row = Row(step, "before", numbers=there.numbers, weights=least_sure(there.weights))
                told.append(Told(run, row))  # else it is itself the other one
        if left:
            tasks.append(Task(run, other, left))
    # Those on the same data one after another, else in the order that they have.
    by_data: dict[str, list[Task]] = {}
    for task in tasks:
        by_data.setdefault(data_of(task.run), []).append(task)
    return told, [task for of_it in by_data.values() for task in of_it]


def others_of(chosen: Sequence[Run], candidates: Sequence[Run], keys: Sequence[str]) -> dict[str, Run]:
    """Return for the id of each chosen run the second one: of those that ``other`` chooses that which is like it else.

    Raises:
        ValueError: there is none, or there are several.
    """
    free = [key for name in keys for key in FOLLOWING.get(name, (name,))]
    ids = {each.run_id for each in candidates}
    found = {}
    for run in chosen:
        fitting = [each for each in candidates if each.run_id != run.run_id]
        alike = [each for each in fitting if each.setting(*free) == run.setting(*free)]
        # One of those that ``other`` chooses is itself the other one, and needs none.
        best = alike or ([] if run.run_id in ids else fitting)
        if len(best) == 1:
            found[run.run_id] = best[0]
        elif run.run_id not in ids:
            how = f"there are {len(best)}" if best else "there is none"
            raise ValueError(
                f"other: {run.path.name} needs one second run, of which {how}. Say more in other=, such as "
                "other=model=mlp,seed=1, or choose fewer runs by where=."
            )
    return found


FOLLOWING = {
    "seed": SEEDS,
    "level": ("data.corruption",),
    "model": ("model", "optimizer.lr"),
    "num_examples": ("data.num_train",),
}
"""What a selection names -> all keys that may differ with it."""


# The launcher's side.


@dataclass(frozen=True)
class StintCell:
    """How to make what a stint is launched with."""

    config: DictConfig
    path: Path
    number: int
    needs: DictConfig

    def compose(self) -> DictConfig:
        """Return the whole config, with Hydra's node."""
        config = _in_folder(self.config, self.path.parent)
        with open_dict(config), read_write(config), read_write(config.hydra):
            config.stint = str(self.path)
            config.hydra.sweep.subdir = self.path.name
            config.trainer.devices, config.trainer.num_nodes = 1, 1
            config.hydra.job.id, config.hydra.job.num = str(self.number), self.number
        return config

    def launcher_values(self) -> dict[str, Any]:
        """Return ``hydra.launcher`` as the config resolves it."""
        values: dict[str, Any] = OmegaConf.to_container(self.compose().hydra.launcher, resolve=True)  # type: ignore[assignment]
        return values


def _in_folder(config: DictConfig, folder: Path) -> DictConfig:
    copied: DictConfig = copy.deepcopy(config)
    # Hydra has made it read-only for this command's own job; a launcher says where those of the stints lie.
    OmegaConf.set_readonly(copied.hydra, None)
    with open_dict(copied), read_write(copied.hydra):
        copied.hydra.sweep.dir = str(folder)
    return copied


@dataclass(slots=True, eq=False)
class Stint(Job):
    """One process that measures what it finds unmeasured."""

    is_replaced: bool = False
    """Whether another one goes on in its place, as it has died."""

    def outcome(self) -> Outcome:
        """Read whether it has come to its end."""
        if (self.path / ENDED).exists():
            return Outcome("done", result={"metrics": {}})
        status = self.folder.read_status()
        return self.fault or Outcome(status.get("state", "missing"), str(status.get("reason") or ""))

    @property
    def has_taken(self) -> bool:
        """Whether it came as far as to take a run."""
        return bool(claims_of(self.path))

    def find_folder(self) -> None:
        """It stays where it is."""


class Stints:
    """The processes of one command, and what they tell of each run."""

    def __init__(self, config: DictConfig, request: Request, tasks: Sequence[Task]) -> None:
        self.tasks = tasks
        sweep = tasks[0].run.sweep
        self.root = sweep / MEASURING / f"{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
        self._held = ExitStack()
        self._held.enter_context(lock(self.root / LOCK))
        (self.root / CLAIMS).mkdir()
        self.config = _in_folder(config, self.root)
        runs = [[str(task.run.path), str(task.other.path) if task.other else None, task.steps] for task in tasks]
        write_atomically(self.root / REQUEST, json.dumps({"request": request.to_json(), "runs": runs}))
        trainer = {"accelerator": request.accelerator, "devices": 1, "precision": "32-true"}
        self.needs = OmegaConf.create({"trainer": trainer, "rerun": False, "model": {}})
        self.stints: list[Stint] = []
        self.seen = Seen(self.root, len(tasks))
        self._is_kept = False
        self._has_given_up = False
        """Whether stints end before they take a run."""
        self._goes_on = False
        """Whether SLURM has stints that this command waits for no more."""

    def run(self, launcher: Any) -> None:
        """Have stints measure until each run was taken by one."""
        before, launcher.config = launcher.config, self.config  # what it notes itself lies with the stints
        try:
            self._run(launcher)
        finally:
            launcher.config = before

    def _run(self, launcher: Any) -> None:
        from rethinkgen.sweep.measuring_view import watching

        with watching(self) as watch:
            left = self.seen.unclaimed()
            while left and not self._has_given_up:
                if hasattr(launcher, "launch_jobs"):
                    stints = [self._next() for _ in range(self._how_many(launcher, left))]
                    launcher.launch_jobs(stints, stints, watch)
                else:
                    self._measure_here()
                self.seen.read()
                before, left = left, self.seen.unclaimed()
                self._has_given_up = left == before  # what ended them would end the next ones as well

    def _measure_here(self) -> None:
        """Measure in this process, as hydra/launcher=basic asks for: to look into a measure with a debugger."""
        stint = self._next()
        assert stint.cell is not None
        measure_stint(stint.cell.compose())

    def _next(self) -> Stint:
        number = len(self.stints)
        path = self.root / f"stint-{number}"
        path.mkdir()
        cell: Any = StintCell(self.config, path, number, self.needs)
        self.stints.append(Stint([f"stint={number}"], path, cell))
        return self.stints[-1]

    def _how_many(self, launcher: Any, left: int) -> int:
        from rethinkgen.run.ranks import wants_gpu
        from rethinkgen.sweep.resources import Resources

        if not hasattr(launcher, "jobs_per_gpu"):
            at_once = self.config.hydra.launcher.get("array_parallelism") or 1
            return max(1, min(at_once, -(-left // check_whole("runs_per_job", self.config.get("runs_per_job", 20), 1))))
        uses_gpus = wants_gpu(self.needs.trainer)
        slots = Resources(launcher.n_jobs, launcher.jobs_per_gpu, left, uses_gpus=uses_gpus).num_slots
        return min(slots, left)

    def replace_dead(self, progress: Any) -> None:
        """Put a new stint in the place of each that has died, as long as there are runs that none has taken.

        Not of one that took none itself: another would end in the same way, and another without end.
        """
        for stint, code in progress.ended:
            if code != 0 and not stint.is_replaced and stint.has_taken and self.seen.unclaimed():
                stint.is_replaced = True
                progress.waiting.append(self._next())

    def note_what_goes_on(self) -> None:
        """Find out whether SLURM goes on with stints that this command has stopped to wait for, and say so."""
        self._goes_on = has_jobs(self.root)
        if self._goes_on:
            say(
                "These jobs go on measuring without this command: their rows appear in the runs' folders as they end. "
                f"The same command then shows them and writes {FILE_NAME}."
            )

    def told(self) -> list[Told]:
        """Return what came of each run at each step."""
        self.seen.read()
        told = []
        for number, task in enumerate(self.tasks):
            rows = {row.step: row for row in self.seen.rows.get(number, [])}
            for step in task.steps:
                row = rows.get(step) or self._lost(number, step)
                if row.state == "failed":
                    self._is_kept = True
                told.append(Told(task.run, row))
        return told

    def _lost(self, number: int, step: int) -> Row:
        stint = self._in_charge(number)
        outcome = stint.outcome() if stint else None
        if self._goes_on and (outcome is None or outcome.state != "failed"):
            return Row(step, "failed", "not there yet: its job goes on in SLURM")
        if stint is None or outcome is None:
            return Row(step, "failed", "not begun")
        reason = outcome.reason or "its process ended without a word"
        return Row(step, "failed", f"{reason} ({shown(stint.folder.output)})")

    def _in_charge(self, number: int) -> Stint | None:
        """Return the stint that took a run; where none came as far as that, the last that died of it."""
        if (taken_by := claims(self.root).get(number)) is not None:
            return self.stints[int(taken_by.removeprefix("stint-"))]
        dead = (each for each in reversed(self.stints) if each.outcome().state == "failed")
        return next(dead, self.stints[-1]) if self._has_given_up else None

    def remove(self) -> None:
        """Remove what the processes left, unless it tells of a failure, or some of them go on."""
        self._held.close()
        if not self._is_kept and not self._goes_on:
            shutil.rmtree(self.root, ignore_errors=True)
            remove_dead(self.root.parents[1])


def remove_dead(sweep: Path) -> None:
    """Remove what the processes of commands that have ended left in a sweep's folder."""
    for root in sweep.glob(f"{MEASURING}/*"):
        if not is_in_use(root):
            shutil.rmtree(root, ignore_errors=True)
    with contextlib.suppress(OSError):  # it is not empty, or not there
        (sweep / MEASURING).rmdir()


def is_in_use(root: Path) -> bool:
    """Whether the command that made the folder is at work, or one of its stints, which may go on without it."""
    return any(map(is_locked, (root / LOCK, *root.glob(f"stint-*/{LOCK}")))) or has_jobs(root)


def has_jobs(root: Path) -> bool:
    """Whether SLURM has stints of the command that made the folder; also where it does not say so."""
    if not (root / FOLDER).is_dir():
        return False
    try:
        return bool(Submissions(root).alive())
    except SlurmError:
        return True


class Seen:
    """What stints have told so far, read as far as they have written it."""

    def __init__(self, root: Path, num_runs: int) -> None:
        self.root = root
        self.num_runs = num_runs
        self.rows: dict[int, list[Row]] = {}
        self.latest: list[tuple[int, Row]] = []
        """All rows, in the order in which they came."""
        self._offsets: dict[Path, int] = {}

    def unclaimed(self) -> int:
        """Return how many runs no stint has taken."""
        return self.num_runs - sum(1 for _ in (self.root / CLAIMS).iterdir())

    def read(self) -> None:
        """Read what is new: whole lines from where the last ones ended."""
        for path in sorted(self.root.glob(f"stint-*/{ROWS}")):
            file = open_regular(path)
            if file is None:
                continue
            with file:
                file.seek(self._offsets.get(path, 0))
                lines, newline, _ = file.read().rpartition(b"\n")
            self._offsets[path] = self._offsets.get(path, 0) + len(lines) + len(newline)
            for line in lines.splitlines():
                with contextlib.suppress(ValueError):  # cut short as the process was killed, or as the disk was full
                    self._add(json.loads(line))

    def _add(self, told: dict[str, Any]) -> None:
        run, row = told.pop("run"), Row(**told)
        self.rows.setdefault(run, []).append(row)
        self.latest.append((run, row))


# The command line.


def command_line(main: Callable[[], Any], groups: Path, program: Sequence[str] | None = None) -> None:
    """Run Hydra's ``main`` on ``sys.argv``, in which folders stand without a key."""
    from rethinkgen.run import entry

    def on_overrides() -> None:
        typed = sys.argv
        if "COMP_LINE" in os.environ:  # a shell asks what a word may become; Hydra knows no folders
            first, *words, last = os.environ["COMP_LINE"].split(" ")
            os.environ["COMP_LINE"] = " ".join([first, *(word for word in words if "=" in word), last])
        sys.argv = [typed[0], *as_overrides(typed[1:])]
        try:
            main()
        finally:
            sys.argv = typed

    entry.command_line(on_overrides, groups, program)


def as_overrides(arguments: Sequence[str]) -> list[str]:
    """Return a command's arguments as Hydra takes them: folders as ``folders=[...]``, selections in quotes.

    Raises:
        ValueError: there is no such folder, or none at all.
    """
    folders: list[str] = []
    overrides: list[str] = []
    is_value = False
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if is_value or argument.startswith("-"):
            overrides.append(argument)
            is_value = argument in WITH_VALUE
        elif equals and "/" not in key.removeprefix("hydra/") and not os.path.isdir(argument):
            overrides.append(
                f"{key}={_quoted(value)}"
                if key in ("where", "other") or re.fullmatch(r"measure\.\w+\.other", key)
                else argument
            )
        elif not os.path.isdir(argument):
            raise ValueError(f"{argument}: there is no such folder. Give the folder of a sweep, or of a run.")
        else:
            folders.append(argument)
    asks_hydra = any(each in OF_HYDRA for each in overrides)
    if not folders and not asks_hydra and not any(each.startswith("folders=") for each in overrides):
        raise ValueError("which runs? Give the folder of a sweep, such as multirun/runs, or of a run.")
    named = ",".join(_in_quotes(folder) for folder in folders)
    return [*overrides, f"folders=[{named}]"] if folders else overrides


WITH_VALUE = ("--config-dir", "-cd", "--config-path", "-cp", "--config-name", "-cn", "--package", "-p", "--cfg", "-c")
"""Hydra's options after which a value follows."""
OF_HYDRA = ("--help", "-h", "--hydra-help", "--version", "--cfg", "-c", "--info", "-i", "-sc", "--shell-completion")
"""Hydra's options by which nothing is measured."""


def _quoted(value: str) -> str:
    return value if value[:1] in ("", "{", "[", '"', "'") or value == "null" else _in_quotes(value)


def _in_quotes(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
