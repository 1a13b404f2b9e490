"""A grid of runs from its cells to its table: look up, plan, launch what is missing, conclude."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from rethinkgen.console import first_line, say, stdout
from rethinkgen.errors import DamagedFileError, JobFailedError, RunFolderError, RunIsHeldError, StoppedError
from rethinkgen.files import append_line
from rethinkgen.run import trial
from rethinkgen.run.catalogue import COMMANDS
from rethinkgen.run.command import noted_command
from rethinkgen.run.description import Description, words_on_former_selection
from rethinkgen.run.entry import origin, take_up_former
from rethinkgen.run.folder import RunFolder, now
from rethinkgen.run.former_identity import FORMER_NAME
from rethinkgen.run.identity import check_is_json
from rethinkgen.run.kept import lacks_states
from rethinkgen.run.run import Outcome
from rethinkgen.run.selection import KEY as EXCLUDE
from rethinkgen.run.selection import MOST_NAMED, check_column, places_of, reads
from rethinkgen.sweep.conclusion import conclude
from rethinkgen.sweep.index import Index
from rethinkgen.sweep.jobs import Job
from rethinkgen.sweep.measuring import Select, measure_finished
from rethinkgen.sweep.planning import Planner
from rethinkgen.words import how_many

log = logging.getLogger(__name__)

WARM_UP_AFTER_SECONDS = 1.0
"""Of planning: what takes less is over before a launcher could gain by it."""


def run_grid(
    launcher: Launcher,
    hydra_context: HydraContext,
    config: DictConfig,
    cells: Sequence[Sequence[str]],
    select: Select,
) -> Sequence[JobReturn]:
    """Run what is missing of the cells and tell what was seen; exit with 1 if a run has no result then.

    ``select`` chooses the second run of a measure that compares two.

    Raises:
        ValueError, hydra.errors.HydraException: a cell cannot be composed; nothing was started.
    """
    if not cells:
        raise ValueError("this sweep has no run: one of its keys has no value at all.")
    folder = Path(config.hydra.sweep.dir)
    jobs = find_jobs(
        hydra_context,
        config,
        cells,
        folder,
        warm_up=getattr(launcher, "warm_up", None),
        check=getattr(launcher, "check_jobs", None),
    )
    missing, waiting = _missing(jobs), [job for job in jobs if job.number is not None]
    if done := len(jobs) - len(missing) - len(waiting):
        say(f"{done} of {how_many(len(jobs), 'run')} {'was' if done == 1 else 'were'} finished before.")
    if waiting:
        say(_words_on_waiting(len(waiting)))
    if trial.is_on():  # what these go by is not kept
        jobs, waiting = [job for job in jobs if job.number is None], []
    sweeps = sorted({job.path.parent for job in jobs if job.number is None})
    for sweep in sweeps:
        note_command(sweep)
    returns: list[JobReturn] = []
    stopped_by: int | None = None
    try:
        if missing:
            returns += launch(launcher, missing, jobs)
        if waiting:
            first = set(map(id, missing))
            jobs = plan_waiting(hydra_context, config, jobs, folder)
            if missing := [job for job in _missing(jobs) if id(job) not in first]:
                returns += launch(launcher, missing, jobs)
    except (StoppedError, KeyboardInterrupt) as stop:
        stopped_by = getattr(stop, "number", int(signal.SIGINT))
    num_lacking = conclude(sweeps, jobs)
    if stopped_by is None and not trial.is_on():
        num_lacking += measure_finished(launcher, config, [job.path for job in jobs], select)
    if num_lacking:
        trial.keep()
    if stopped_by is not None:
        sys.exit(128 + stopped_by)
    if num_lacking:
        sys.exit(1)
    return returns


def check_settings(config: DictConfig) -> None:
    """Refuse what is no number of a launcher or a sweeper: Hydra would say that a job has changed it.

    Raises:
        ValueError: a value is not finite.
    """
    hydra = config.hydra
    nodes = {key: OmegaConf.to_container(hydra[key], resolve=False) for key in ("launcher", "sweeper")}
    check_is_json({"hydra": nodes})


def chosen_cells(cells: Sequence[Sequence[str]], rows: Sequence[Sequence[str]]) -> list[list[str]]:
    """Cross the ``cells`` of the command line and of ``params`` with the ``rows`` that an experiment lists.

    Where both give a key, the rows with that value are left. A value that no row has, such as a network of one's own,
    takes the place of the rows' values. A key of a group that rows choose from, such as ``model.num_filters``, leaves
    the rows that have it: others may have no such key.

    Raises:
        ValueError: no row goes with the command line.
    """
    listed = [_by_key(row) for row in rows]
    keys = {key for row in listed for key in row}
    of_a_choice = {key for key in keys if any(key.startswith(f"{group}.") for group in keys)}
    joined: dict[tuple[str, ...], list[str]] = {}
    asked: dict[str, str] = {}
    for given in map(_by_key, cells):
        asked = {key: value for key, value in given.items() if any(_agree(row, key, value) for row in listed)}
        for row in listed:
            has_keys = all(key in row for key in given if key in of_a_choice)
            if has_keys and all(_agree(row, key, value) for key, value in asked.items()):
                merged = [f"{key}={value}" for key, value in (row | given).items()]
                joined.setdefault(tuple(sorted(merged)), merged)
    if not joined:
        raise ValueError(
            f"No run of this experiment has {' and '.join(f'{key}={value}' for key, value in asked.items())}. "
            "hydra.sweeper.grids in its file lists its runs; hydra.sweeper.grids=null leaves it to the command line "
            "what runs."
        )
    return list(joined.values())


def _agree(row: dict[str, str], key: str, value: str) -> bool:
    return key in row and _comparable(row[key]) == _comparable(value)


def _comparable(value: str) -> Any:
    """Return what a value of an override means: 0 is 0.0, and a list of choices has no order."""
    if value.startswith("["):
        return sorted(part.strip() for part in value.strip("[]").split(","))
    try:
        return float(value)
    except ValueError:
        return value


def _by_key(overrides: Sequence[str]) -> dict[str, str]:
    return {key: value for key, _, value in (override.partition("=") for override in overrides)}


def launch(launcher: Launcher, missing: Sequence[Job], jobs: Sequence[Job]) -> Sequence[JobReturn]:
    """Hand the missing jobs to our launchers as they are, to others as overrides."""
    if hasattr(launcher, "launch_jobs"):
        returns: Sequence[JobReturn] = launcher.launch_jobs(missing, jobs)
        return returns
    try:
        return launcher.launch([job.overrides for job in missing], initial_job_idx=0)
    finally:
        for job in missing:
            job.find_folder()


Key = tuple[Path, str]
"""Which run a job is of: the sweep's folder and the run's id; of a cell that waits its number."""


def find_jobs(
    hydra_context: HydraContext,
    config: DictConfig,
    cells: Sequence[Sequence[str]],
    folder: Path,
    *,
    warm_up: Callable[[], None] | None = None,
    check: Callable[[Sequence[Job]], None] | None = None,
) -> list[Job]:
    """Return a job for each cell, those of the same run once; what the index does not know is planned.

    A cell that leaves out examples by runs of this very sweep that are missing waits for them: it is checked, and
    ``plan_waiting`` finds its run. ``warm_up`` is called once something is to be launched while much is left to plan;
    ``check`` with all that is missing, and may refuse it, before anything is written.
    """
    planner = Planner(hydra_context, config)
    asked = partial(_asked_to_keep, config)
    jobs: dict[Key, Job] = {}
    selecting: dict[Key, tuple[Job, Mapping[str, Any]]] = {}
    readable: list[Path] = []
    others: list[str] = []
    began = time.monotonic()
    with _index(hydra_context, config, folder) as index:
        for number, overrides in enumerate(_with_progress(cells)):
            known = index.find(overrides)
            if known is not None and _is_finished(known[0]) and not lacks_states(known[0], asked(overrides)):
                path, run_id = known
                jobs.setdefault((path.parent, run_id), Job(list(overrides), path, was_done=True))
                continue
            if (selection := planner.selection(overrides, number)) is not None:
                key = folder.absolute(), str(number)
                jobs[key] = Job(list(overrides), key[0] / f"waits-{number}", number=number)
                selecting[key] = jobs[key], selection
                continue
            key, job, description = _planned(planner, index, overrides, number, others)
            jobs.setdefault(key, job)
            if not job.was_done and description.config["data"].get("exclude") is None:
                # Where the command says that they lie: trial runs lie elsewhere.
                results = Path(description.config["results_dir"]).expanduser()
                readable += [job.path, results / description.sweep / job.path.name]
            if warm_up and not job.was_done and time.monotonic() - began > WARM_UP_AFTER_SECONDS:
                warm_up()
                warm_up = None
        places = places_of(readable) if selecting else set()
        for key, (job, selection) in selecting.items():
            assert job.number is not None
            if reads(selection, places):
                planner.check(job.overrides, job.number)
                check_column(selection)
            elif reads(selection, {os.path.realpath(folder)}) and not any(folder.glob("*/config.yaml")):
                raise ValueError(
                    f"{EXCLUDE}.runs={selection['runs']}: no run is there to go by, and all of this sweep would go by "
                    f"others. Add those that leave out nothing: '{EXCLUDE}=null,{{...}}'."
                )
            else:
                _replace(jobs, key, *_planned(planner, index, job.overrides, job.number, others)[:2])
        _tell_others(others)
        found = list(jobs.values())
        if check is not None and (missing := _missing(found)):
            check(missing)
    return found


def plan_waiting(hydra_context: HydraContext, config: DictConfig, jobs: Sequence[Job], folder: Path) -> list[Job]:
    """Return the jobs of a sweep once those have ended that others wait for, of which the runs are known now.

    One that cannot be planned is at fault: what it goes by did not finish, or has no such column.
    """
    planner = Planner(hydra_context, config)
    found = {job.path: job for job in jobs if job.number is None}
    order: list[Path] = []
    others: list[str] = []
    with _index(hydra_context, config, folder) as index:
        for job in jobs:
            if job.number is not None:
                try:
                    _, job, _ = _planned(planner, index, job.overrides, job.number, others)
                except (ValueError, RunFolderError, OSError, HydraException, OmegaConfBaseException) as error:
                    job.fault = Outcome("failed", first_line(str(origin(error))))
                found.setdefault(job.path, job)
            order.append(job.path)
    _tell_others(others)
    return [found[path] for path in dict.fromkeys(order)]


def _index(hydra_context: HydraContext, config: DictConfig, folder: Path) -> Index:
    overrides, config_name = config.hydra.overrides.hydra, str(config.hydra.job.config_name)
    return Index(folder, config_folders(hydra_context), overrides, config_name)


def _planned(
    planner: Planner, index: Index, overrides: Sequence[str], number: int, others: list[str]
) -> tuple[Key, Job, Description]:
    """Plan a cell; add to ``others`` what is to be said where the same command was another run before."""
    job, description = planner.plan(overrides, number)
    job.path = path_of_today(description, job.path)
    index.add(overrides, job.path, description)
    job.was_done = job.is_finished()
    if not job.was_done:
        others += words_on_former_selection(description, job.path.parent)
    return (job.path.parent, description.run_id), job, description


def _tell_others(lines: Sequence[str]) -> None:
    for line in lines[:MOST_NAMED]:
        say(line, style="yellow")
    if len(lines) > MOST_NAMED:
        say(f"... and {len(lines) - MOST_NAMED:,} more.", style="yellow")


def _replace(jobs: dict[Key, Job], old: Key, new: Key, job: Job) -> None:
    """Put a job in another's place, unless there is one of the same run."""
    there = [(key, each) for key, each in jobs.items() if key != old or new not in jobs]
    jobs.clear()
    jobs.update((new, job) if key == old else (key, each) for key, each in there)


def _missing(jobs: Sequence[Job]) -> list[Job]:
    return [job for job in jobs if not job.was_done and job.number is None]


def _words_on_waiting(number: int) -> str:
    one = number == 1
    what = f"{how_many(number, 'run')} {'leaves' if one else 'leave'} out examples by what others of this sweep find"
    if trial.is_on():
        return f"{what}, of which a trial keeps nothing: {'it is' if one else 'they are'} not tried."
    begin = "begins" if one else "begin"
    return f"{what}, and {begin} when these have finished: while this command waits, or with the same one later."


def _asked_to_keep(config: DictConfig, overrides: Sequence[str]) -> list[Any]:
    """Return ``keep`` of a cell, which need not be composed for it."""
    given = next((text for text in reversed(overrides) if text.startswith(("keep=", "+keep=", "++keep="))), None)
    if given is None:
        return list(config.get("keep") or ())
    (override,) = OverridesParser.create().parse_overrides([given])
    value = override.value()
    return value if isinstance(value, list) else []


def _is_finished(path: Path) -> bool:
    return os.path.exists(f"{path}/result.json") and not os.path.exists(f"{path}/status.json")


def path_of_today(description: Description, path: Path) -> Path:
    """Return where the run lies once a folder under a former id has its name of today."""
    if not FORMER_NAME.search(path.name):
        return path
    folder = RunFolder(path)
    try:
        for line in take_up_former(description, folder):
            say(line)
    except RunIsHeldError as error:
        log.debug("it keeps its former name for now: %s", error)
    return folder.path


def plan_all(
    hydra_context: HydraContext, config: DictConfig, job_overrides: Sequence[Sequence[str]], first_number: int
) -> list[Job]:
    """Plan the jobs of a sweeper that knows them by their overrides only."""
    planner = Planner(hydra_context, config)
    return [planner.plan(overrides, number)[0] for number, overrides in enumerate(job_overrides, first_number)]


def config_folders(hydra_context: HydraContext) -> list[Path]:
    """Return the folders that configs are read from, our own and ``--config-dir``'s."""
    paths = [element.path for element in hydra_context.config_loader.get_search_path().get_path()]
    return [Path(path.removeprefix("file://")) for path in paths if path and path.startswith("file://")]


def job_returns(jobs: Sequence[Job], ended: Iterable[tuple[Job, int]]) -> list[JobReturn]:
    """Return what Hydra's sweepers want to know of jobs, given how each ended: their metrics, or an exception."""
    codes = {id(job): code for job, code in ended}
    return [_job_return(job, codes[id(job)] == 0) for job in jobs]


def _job_return(job: Job, has_ended_well: bool) -> JobReturn:
    outcome = job.outcome()
    result = JobReturn(overrides=job.overrides, working_dir=str(job.path))
    if has_ended_well and outcome.result is not None:
        result.status, result.return_value = JobStatus.COMPLETED, outcome.result["metrics"]
    else:
        result.status = JobStatus.FAILED
        result.return_value = JobFailedError(f"{job.path.name}: {outcome.reason or outcome.state}")
    return result


def note_command(folder: Path) -> None:
    """Add the command to ``commands.txt``: what the sweep's folder came from."""
    folder.mkdir(parents=True, exist_ok=True)
    try:
        append_line(folder / COMMANDS, f"{now()}  {noted_command()}")
    except DamagedFileError as error:
        log.warning("%s", error)


def _with_progress(cells: Sequence[Any]) -> Iterable[Any]:
    from rich.progress import track

    console = stdout()
    if not console.is_interactive:
        return cells
    return track(cells, "looking for what is missing", console=console, transient=True)
