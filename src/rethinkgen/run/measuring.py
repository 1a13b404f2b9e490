"""Measures as a command asks for them, and one run measured by them: what is missing is made and written, a file a row.

Light until something is measured: a finished row is found without torch.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import json
import logging
import math
import re
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from rethinkgen.console import first_line, say
from rethinkgen.errors import DamagedFileError, RunFolderError, is_users_mistake, reason_of
from rethinkgen.files import lock, remove_leftovers
from rethinkgen.run import own_code
from rethinkgen.run.build import build_one_of
from rethinkgen.run.description import LIBRARIES, digest_of_code
from rethinkgen.run.folder import RunFolder, now
from rethinkgen.run.identity import class_name
from rethinkgen.run.kept import last_step, step_of_run, unreached
from rethinkgen.run.measured import FOLDER, READ, Measured, called, file_of, least_sure, read_file, write_measured
from rethinkgen.run.measures_asked import Measure, Request, asked_of_a_run, measures_in
from rethinkgen.train.kept_files import kept_steps

if TYPE_CHECKING:
    from rethinkgen.measure.subject import At, Findings, Subject
    from rethinkgen.run.opened import OpenedRun, Seen
    from rethinkgen.run.run import Run

log = logging.getLogger(__name__)

State = Literal["done", "before", "failed"]


def function_of(measure: Measure) -> Callable[[Subject], Findings]:
    """Import the measure's function, and give it its parameters.

    Raises:
        ValueError: there is no such function, or its parameters are not those that the config states: all of them are
            to be stated, as they are what the measure is known by.
    """
    made: functools.partial[Findings] = build_one_of(
        {"_target_": measure.target, **measure.parameters}, f"measure.{measure.name}", "measure"
    )
    of_function = list(inspect.signature(made.func).parameters.values())[1:]
    for each in of_function:
        if each.name not in measure.parameters and each.kind not in (each.VAR_KEYWORD, each.VAR_POSITIONAL):
            value = "..." if each.default is each.empty else json.dumps(each.default, default=str)
            raise ValueError(
                f"measure.{measure.name}.{each.name}: {measure.target} has this parameter, and the measure's YAML does "
                f"not state it. Add the line there: {each.name}: {value}"
            )
    return made


@dataclass(frozen=True)
class Row:
    """What came of a run at one step."""

    step: int | str
    state: State
    reason: str = ""
    seconds: float = 0.0
    numbers: dict[str, Any] = field(default_factory=dict)
    """By ``<name>/<number>``: what is shown at once."""
    weights: str = ""
    """How the least sure of the weights that were looked at were had, a word of ``rethinkgen.run.measured.WORTH``."""


def steps_of(run: Run, at: Sequence[At]) -> tuple[list[int], list[Row]]:
    """Return the steps that ``at`` names in a run, each once, ascending, and a failed row for each that it has not."""
    steps: set[int] = set()
    failed = []
    for moment in at:
        try:
            if run.state != "done":
                why = f": {run.reason}" if run.reason else ""
                raise ValueError(f"the run is {run.state}{why.removesuffix('.')}. Only a finished run is measured.")
            steps.add(step_of_run(run, moment))
        except (ValueError, RunFolderError) as error:
            failed.append(Row(moment, "failed", first_line(reason_of(error))))
    return sorted(steps), failed


def not_kept(run: Run, steps: Sequence[int]) -> list[int]:
    """Return those of the steps whose weights must be had by training up to there once more."""
    kept = kept_steps(RunFolder(run.path).weights)
    return [step for step in steps if step not in kept and step != run.end_step]


class There(NamedTuple):
    """What measures have left of a step of a run."""

    numbers: dict[str, Any]
    """By ``<name>/<number>``."""
    lacking: list[Measure]
    weights: list[str]
    """How those that each of them looked at were had."""


def there_and_missing(run: Path, request: Request, step: int, other_id: str | None) -> There:
    """Return what measures left of a step of a run, and which of them it lacks."""
    numbers: dict[str, Any] = {}
    lacking, weights = [], []
    for measure in request.measures:
        if measure.other is not None and other_id is None:
            continue  # it is itself the other one
        found = None if request.again else _read(_file(run, measure, other_id, step))
        if found is None:
            lacking.append(measure)
        else:
            numbers |= {f"{measure.name}/{name}": value for name, value in found.numbers.items()}
            weights += [found.weights] if found.weights else []
    return There(numbers, lacking, weights)


class Work(NamedTuple):
    """What a run's measures need beyond what lies in its folder."""

    steps: list[int]
    """Ascending: those whose weights must be had by training up to there once more, in one pass."""
    trainings: dict[int, float]
    """Step -> how often they go through the training up to it, by their own word."""


def work_of(
    run: Run, lacking: Mapping[int, Sequence[Measure]], functions: Mapping[str, Callable[..., Any]], *, has_other: bool
) -> Work:
    """Return what it takes to measure what each step of a run lacks, so far as measures declare what they ask for."""
    from rethinkgen.measure.subject import Asks

    steps = set(lacking)
    trainings: dict[int, float] = {}
    for step, measures in lacking.items():
        for measure in measures:
            asks = getattr(getattr(functions[measure.name], "func", None), "asks", None)
            if not isinstance(asks, Asks):
                continue
            trainings[step] = trainings.get(step, 0.0) + asks.trainings
            for moment in asks.steps(measure.parameters, has_other=has_other and measure.wants_other):
                with contextlib.suppress(ValueError, RunFolderError):  # the measure itself says so, in its row
                    steps.add(step_of_run(run, moment))
    return Work(not_kept(run, sorted(steps)), {step: times for step, times in trainings.items() if times and step})


def _read(path: Path) -> Measured | None:
    try:
        return read_file(path)
    except DamagedFileError as error:
        log.warning("%s It is made again.", error)
        return None


def _file(run: Path, measure: Measure, other_id: str | None, step: int) -> Path:
    name, _, known_by = measure.key(other_id if measure.wants_other else None).rpartition("-")
    return file_of(run, name, known_by, step)


class Measuring:
    """Measures one run after another, the data of those before at hand.

    Args:
        request: what is asked of each run.
    """

    def __init__(self, request: Request) -> None:
        self.request = request
        self._functions: dict[str, Callable[[Subject], Findings]] = {}
        self._latest: OpenedRun | None = None
        self._latest_other: OpenedRun | None = None
        self._data: object = None

    @functools.cached_property
    def _device(self) -> str:
        import torch

        wanted = self.request.accelerator
        return "cuda" if wanted in ("gpu", "cuda") or (wanted == "auto" and torch.cuda.is_available()) else "cpu"

    def check(self) -> None:
        """Import all measures.

        Raises:
            ValueError: one of them cannot be, or was given what it does not take.
        """
        for measure in self.request.measures:
            self._function(measure)

    def _function(self, measure: Measure) -> Callable[[Subject], Findings]:
        if measure.name not in self._functions:
            self._functions[measure.name] = function_of(measure)
        return self._functions[measure.name]

    def rows(self, path: Path, other: Path | None = None, at: Sequence[At] | None = None) -> Iterator[Row]:
        """Measure a run at each step, and say what came of it; what is wrong with the run is said at each."""
        from rethinkgen.run.run import read_run

        at = self.request.at if at is None else at
        try:
            run = read_run(path)
            other_id = read_run(other).run_id if other is not None else None
            steps, failed = steps_of(run, at)
        except (ValueError, OSError, RunFolderError) as error:
            steps, failed = [], [Row(each, "failed", first_line(reason_of(error))) for each in at]
        yield from failed
        if not steps:
            return
        with lock(
            path / FOLDER / ".lock", on_wait=lambda: say(f"{path}: waiting for another process that measures it")
        ):
            for each in (path / FOLDER).glob("*/"):
                remove_leftovers(each)
            there = {step: there_and_missing(path, self.request, step, other_id) for step in steps}
            lost: dict[int, str] = {}
            if to_replay := self._to_replay(run, there, has_other=other is not None):
                try:
                    self._opened(run).replay(to_replay)  # all in one pass
                except Exception as error:  # of one run: the others go on, and so do what was kept and what was right
                    right = self._latest.at_hand if self._latest is not None and self._latest.path == run.path else ()
                    lost = dict.fromkeys(set(to_replay).difference(right), self._why(error))
            for step, found in there.items():
                yield self._row(run, step, found, other, other_id, lost.get(step) if found.lacking else None)

    def _to_replay(self, run: Run, there: Mapping[int, There], *, has_other: bool) -> list[int]:
        lacking = {step: found.lacking for step, found in there.items() if found.lacking}
        functions = {}
        for measure in {measure.name: measure for measures in lacking.values() for measure in measures}.values():
            with contextlib.suppress(ValueError):  # its rows say so
                functions[measure.name] = self._function(measure)
        known = {step: [each for each in measures if each.name in functions] for step, measures in lacking.items()}
        return work_of(run, known, functions, has_other=has_other).steps

    def _why(self, error: Exception) -> str:
        log.debug("what ended it", exc_info=error)
        if not is_users_mistake(error):
            traceback.print_exception(error)
        # In one line, as rows are; of data that are not found the first of several says the least.
        return " ".join(reason_of(error).split()) if is_users_mistake(error) else first_line(reason_of(error))

    def _row(
        self, run: Run, step: int, there: There, other: Path | None, other_id: str | None, lost: str | None
    ) -> Row:
        begun = time.monotonic()
        if not there.lacking:
            return Row(step, "before", numbers=there.numbers, weights=least_sure(there.weights))
        if lost is not None:
            return Row(step, "failed", lost)
        failures: list[str] = []
        numbers, words = dict(there.numbers), list(there.weights)
        for measure in there.lacking:
            try:
                found, weights = self._measure(run, measure, step, other if measure.wants_other else None, other_id)
            except Exception as error:  # of one measure: the other rows go on
                failures.append(f"{measure.name}: {self._why(error)}")
                continue
            numbers |= {f"{measure.name}/{name}": value for name, value in found.items()}
            words += weights.values()
        state: State = "failed" if failures else "done"
        seconds = round(time.monotonic() - begun, 3)
        return Row(step, state, "; ".join(failures), seconds, numbers, least_sure(words))

    def _measure(
        self, run: Run, measure: Measure, step: int, other: Path | None, other_id: str | None
    ) -> tuple[dict[str, Any], dict[str, str]]:
        """Measure and write the file; return the numbers, and how each of the weights looked at was had."""
        from rethinkgen.run.opened import provenance_of

        begun = time.monotonic()
        function = self._function(measure)
        # By how it was chosen, which is the same for all runs of a sweep; each has a second run of its own.
        second = {"other": measure.other} if measure.wants_other and other is not None else {}
        seen: Seen = {}
        subject = self._subject(run, measure, step, other, seen)
        subject.check_budget()
        findings = function(subject)
        numbers, tables = checked(measure.name, findings)
        weights = provenance_of(seen)
        facts = {
            "measure": measure.name,
            "called": called(measure.name, measure.parameters | second, _defaults(function)),
            "id": measure.key(other_id if measure.wants_other else None).rpartition("-")[2],
            "function": class_name(measure.target),
            "protocol": measure.protocol,
            "parameters": measure.parameters,
            "other": other_id if measure.wants_other else None,
            "run_id": run.run_id,
            "step": step,
            "epoch": epoch_of(run, step),
            "weights": weights,
            "numbers": numbers,
            "seconds": round(time.monotonic() - begun, 3),
            "finished": now(),
            "code": _code_of(measure.target),
        }
        write_measured(_file(run.path, measure, other_id, step), facts, tables)
        return numbers, weights

    def _open(self, path: Path) -> OpenedRun:
        from rethinkgen.run.opened import open_run

        return open_run(path, device=self._device, code=own_code.opened(), inexact=self.request.inexact, tell=say)

    def _opened(self, run: Run) -> OpenedRun:
        if self._latest is None or self._latest.path != run.path:
            before, self._latest = self._latest, self._open(run.path)
            # Held until then, as they are set up anew otherwise; others would be in memory twice.
            self._data = before.made_data if before is not None and data_of(before.run) == data_of(run) else None
        return self._latest

    def _subject(self, run: Run, measure: Measure, step: int, other: Path | None, seen: Seen) -> Subject:
        return self._opened(run).subject(
            step,
            name=measure.name,
            memory_mb=self.request.memory_mb,
            other=None if other is None else lambda: self._other_subject(other, measure, seen),
            seen=seen,
        )

    def _other_subject(self, path: Path, measure: Measure, seen: Seen) -> Subject:
        latest = self._latest_other
        if latest is None or latest.path != path:
            self._latest_other = latest = self._open(path)
        of_other: Seen = {}
        subject = latest.subject("end", name=measure.name, memory_mb=self.request.memory_mb, seen=of_other)
        seen |= {f"other {step}": had for step, had in of_other.items()}
        return subject


def data_of(run: Run) -> str:
    """Return what tells the data of runs apart, as their files have it."""
    return json.dumps([run.fingerprint, run.config.get("data")], sort_keys=True, default=str)


def epoch_of(run: Run, step: int) -> float | None:
    """Return how many epochs had passed, where the run's result tells."""
    steps = (run.result or {}).get("steps_per_epoch")
    return step / steps if isinstance(steps, int | float) and steps > 0 else None


def _defaults(function: Any) -> dict[str, Any]:
    parameters = inspect.signature(function.func).parameters
    return {name: each.default for name, each in parameters.items() if each.default is not each.empty}


def _code_of(target: str) -> dict[str, str]:
    package = target.partition(".")[0]
    digest = None if package in LIBRARIES else digest_of_code(package)
    return {} if digest is None else {package: digest}


def checked(name: str, findings: Any) -> tuple[dict[str, Any], dict[str, dict[str, Any]]]:
    """Return the numbers and tables of ``findings`` as plain types and arrays.

    Raises:
        ValueError: a measure returned what no file could hold.
    """
    import numpy as np
    import torch

    from rethinkgen.measure.subject import Findings

    if not isinstance(findings, Findings):
        raise ValueError(f"measure={name}: it returned {type(findings).__name__}; Findings(numbers, tables) is needed.")
    numbers: dict[str, Any] = {}
    value: Any
    for key, value in findings.numbers.items():
        _check_name(name, key)
        is_scalar = isinstance(value, np.generic) or (isinstance(value, torch.Tensor) and value.numel() == 1)
        plain = value.item() if is_scalar else value
        if plain is not None and (isinstance(plain, bool) or not isinstance(plain, int | float)):
            raise ValueError(f"measure={name}: numbers[{key!r}] is {plain!r}; a number or None is needed.")
        numbers[key] = plain if plain is None or math.isfinite(plain) else None
    tables = {}
    for table, columns in findings.tables.items():
        _check_name(name, table)
        arrays = {column: _array(name, table, column, values) for column, values in columns.items()}
        if len({array.shape for array in arrays.values()}) > 1:
            lengths = ", ".join(f"{column}: {len(array)}" for column, array in arrays.items())
            raise ValueError(f"measure={name}: the columns of table {table!r} are not of one length ({lengths}).")
        tables[table] = arrays
    return numbers, tables


def _check_name(measure: str, name: Any) -> None:
    if not isinstance(name, str) or not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_./+-]{0,99}", name):
        raise ValueError(f"measure={measure}: {name!r} is no name of a number or table: letters, digits and _ . / + -.")


def _array(measure: str, table: str, column: Any, values: Any) -> Any:
    import numpy as np
    import torch

    _check_name(measure, column)
    array = values.detach().cpu().numpy() if isinstance(values, torch.Tensor) else np.asarray(list(values))
    if array.ndim != 1 or array.dtype.kind not in "iufbU":
        raise ValueError(
            f"measure={measure}: column {column!r} of table {table!r} is {array.dtype} of shape {array.shape}; one "
            "dimension of numbers or texts is needed."
        )
    return array


def check_measures(config: Mapping[str, Any]) -> None:
    """Import the measures that a run's own config asks for, before it is trained.

    Raises:
        ValueError: one of them cannot be, or was given what it does not take.
    """
    for measure in measures_in(config.get("measure") or {}):
        function_of(measure)


def measure_own(folder: RunFolder, config: Mapping[str, Any]) -> bool:
    """Measure a finished run as its own config asks, and tell what came of it; whether all did.

    The run's result stays, whatever becomes of it.
    """
    request = asked_of_a_run(config)
    if request is None:
        return True
    from rethinkgen.run.run import read_run

    run = read_run(folder.path)
    late = unreached(run, request.at)
    for each in late:
        say(f"at={each}: the run ended before, at step {last_step(run):,}.")
    # Were none left, it is an error all the same.
    at = [each for each in request.at if each not in late] or request.at
    rows = [row for row in Measuring(request).rows(folder.path, at=at) if row.state != "before"]
    for row in rows:
        say(f"measured at step {row.step}: {told_of(row)}", style="red" if row.state == "failed" else None)
    return all(row.state != "failed" for row in rows)


MOST_NUMBERS = 4
"""Of a row, that are shown at once."""


def told_of(row: Row) -> str:
    """Return what came of a row, in a line."""
    if row.state == "failed":
        return f"failed: {row.reason}"
    shown = [f"{name} {brief(value)}" for name, value in list(row.numbers.items())[:MOST_NUMBERS]]
    how = [] if row.weights in ("", READ) else [f"weights {row.weights}"]
    return ", ".join([*shown, f"{row.seconds:.1f} s", *how])


def brief(value: Any) -> str:
    """Return a number as one reads it."""
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else f"{value:,}"
