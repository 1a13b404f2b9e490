"""Which states a run was asked to keep, and which of them it has. Light: no torch."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rethinkgen.data.timetable import Moment, Timetable, check_moment, step_of
from rethinkgen.run.curves import STEP, read_rows
from rethinkgen.run.folder import RunFolder
from rethinkgen.run.identity import takes_steps
from rethinkgen.run.run import Run, read_run
from rethinkgen.train.kept_files import is_whole, kept_steps


def check_keep(key: str, value: Any, *, or_else: str = "") -> None:
    """Refuse what is no list of moments.

    Raises:
        ValueError: it is none, or one of it is no moment.
    """
    if not isinstance(value, list):
        raise ValueError(f"{key}={value!r}: a list is needed, such as {key}=[0,1ep,10ep,end], or [].")
    for number, each in enumerate(value):
        check_moment(f"{key}[{number}]", each)


def check_within_budget(config: Mapping[str, Any]) -> None:
    """Refuse moments beyond the budget where it is in the same unit; others ``check_steps`` looks at.

    Raises:
        ValueError: one is.
    """
    steps, epochs = config.get("max_steps"), config.get("max_epochs")
    for each in config.get("keep") or ():
        moment = check_moment("keep", each)
        if isinstance(moment, int) and epochs is None and steps is not None and moment > steps:
            raise ValueError(f"keep={each!r}: the budget is max_steps={steps}, which it is beyond.")
        in_epochs = float(moment.removesuffix("ep")) if isinstance(moment, str) and moment.endswith("ep") else None
        if in_epochs is not None and epochs is not None and in_epochs > epochs:
            raise ValueError(f"keep={each!r}: the budget is max_epochs={epochs}, which it is beyond.")


def check_steps(moments: Iterable[Moment], timetable: Timetable, total_steps: int) -> None:
    """Refuse moments beyond the budget in steps.

    Raises:
        ValueError: one is.
    """
    for each in moments:
        if (step := step_of(each, timetable, end=0, last=0)) > total_steps:
            raise ValueError(
                f"keep={each!r}: that is step {step:,}, beyond the budget of {total_steps:,} steps "
                f"({timetable.epochs(total_steps):g} epochs)."
            )


def timetable_of(run: Run) -> Timetable | None:
    """Return which step lies in which epoch, as the run's files tell; nothing where they do not."""
    size = run.key("data.batch_size")
    if run.num_examples is None or not (size == "all" or isinstance(size, int)):
        return None
    return Timetable(run.num_examples, run.num_examples if size == "all" else size)


def last_step(run: Run) -> int:
    """Return the last step that was taken, or of an unfinished run the last that its files tell of."""
    if run.result is not None:
        return int(run.metrics.get("steps") or 0)
    folder = RunFolder(run.path)
    rows = read_rows(folder.metrics)
    return max([0, *kept_steps(folder.weights), *(int(row[STEP]) for row in rows.cells())])


def step_of_run(run: Run, moment: Moment) -> int:
    """Return after how many steps of a run a moment is.

    Raises:
        ValueError: it is none, is beyond what the run has trained, or the run's files do not tell.
    """
    moment = check_moment("step", moment)
    last, end = last_step(run), run.end_step
    if moment == "end" and end is None:
        raise ValueError(f"step='end': {run.path.name} is not finished; its last known step is {last}, step='last'.")
    in_epochs = isinstance(moment, str) and moment.endswith("ep")
    timetable = timetable_of(run) if in_epochs else None
    if timetable is None and in_epochs:
        raise ValueError(f"step={moment!r}: the files of {run.path.name} do not tell how long an epoch is. Give steps.")
    words = timetable or Timetable(1, 1)
    step = step_of(moment, words, end=last if end is None else end, last=last)
    if step > last:
        raise ValueError(f"step={moment!r}: {run.path.name} has trained {last:,} steps; that is step {step:,}.")
    return step


def missing_steps(run: Run, moments: Sequence[Moment]) -> list[int]:
    """Return the steps, ascending, of a finished run whose states were asked for and are not there, or are damaged.

    Those that the run did not reach are left out, as are all of a run that is solved and not trained.
    """
    if run.result is None or not moments or not takes_steps(run.config):
        return []
    last, kept = last_step(run), kept_steps(RunFolder(run.path).weights)
    timetable = timetable_of(run) or Timetable(1, 1)
    end = last if run.end_step is None else run.end_step
    steps = {step_of(each, timetable, end=end, last=last) for each in moments}
    whole = {step for step in steps.intersection(kept) if is_whole(RunFolder(run.path).weights, step)}
    return sorted(step for step in steps - whole if step <= last)


def unreached(run: Run, moments: Sequence[Moment]) -> list[Moment]:
    """Return those moments that a finished run ended before."""
    if run.result is None or not takes_steps(run.config):
        return []
    timetable = timetable_of(run) or Timetable(1, 1)
    return [each for each in moments if step_of(each, timetable, end=0, last=0) > last_step(run)]


def lacks_states(path: Path, moments: Sequence[Moment]) -> bool:
    """Whether the finished run in a folder has not all states that it is asked to keep."""
    return bool(moments) and bool(missing_steps(read_run(path), moments))
