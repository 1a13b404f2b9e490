"""Measures as a command asks for them, and one run measured by them: what is missing is made and written, a file a row.

Light until something is measured: a finished row is found without torch.
"""

from __future__ import annotations

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
from typing import TYPE_CHECKING, Any, Literal

from rethinkgen.console import first_line, say
from rethinkgen.errors import DamagedFileError, RunFolderError, is_users_mistake, reason_of
from rethinkgen.files import lock, remove_leftovers
from rethinkgen.run import own_code
from rethinkgen.run.build import build_one_of
from rethinkgen.run.description import LIBRARIES, digest_of_code
from rethinkgen.run.folder import RunFolder, now
from rethinkgen.run.identity import class_name
from rethinkgen.run.kept import last_step, step_of_run, unreached
from rethinkgen.run.measured import FOLDER, Measured, called, file_of, read_file, write_measured
from rethinkgen.run.measures_asked import Measure, Request, asked_of_a_run, measures_in
from rethinkgen.train.kept_files import kept_steps

if TYPE_CHECKING:
    from rethinkgen.measure.subject import At, Findings, Subject
    from rethinkgen.run.opened import OpenedRun
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


def steps_of(run: Run, at: Sequence[At]) -> tuple[list[int], list[Row]]:
    """Return the steps that ``at`` names in a run, each once, ascending, and a failed row for each that it has not."""
    steps: set[int] = set()
    failed = []
    for moment in at:
        try:
            if run.state != "done":
                why = f": {run.reason}" if run.reason else ""
                raise ValueError(f"the run is {run.state}{why}. Only a finished run is measured.")
            steps.add(step_of_run(run, moment))
        except (ValueError, RunFolderError) as error:
            failed.append(Row(moment, "failed", first_line(reason_of(error))))
    return sorted(steps), failed


def not_kept(run: Run, steps: Sequence[int]) -> list[int]:
    """Return those of the steps whose weights must be had by training up to there once more."""
    kept = kept_steps(RunFolder(run.path).weights)
    return [step for step in steps if step not in kept and step != run.end_step]


def there_and_missing(
    run: Path, request: Request, step: int, other_id: str | None
) -> tuple[dict[str, Any], list[Measure]]:
    """Return the numbers that measures left of a step of a run, by ``<name>/<number>``, and the measures it lacks."""
    numbers: dict[str, Any] = {}
    lacking = []
    for measure in request.measures:
        if measure.other is not None and other_id is None:
            continue  # it is itself the other one
        found = None if request.again else _read(_file(run, measure, other_id, step))
        if found is None:
            lacking.append(measure)
        else:
            numbers |= {f"{measure.name}/{name}": value for name, value in found.numbers.items()}
    return numbers, lacking


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
            self._functions[measure.name] = function_of(measure)

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
            lacking = [step for step in steps if there_and_missing(path, self.request, step, other_id)[1]]
            to_replay = not_kept(run, lacking)
            try:
                if len(to_replay) > 1:  # all in one pass
                    self._opened(run).replay(to_replay)
            except Exception as error:  # of one run: the others go on, and what was kept is there all the same
                why = self._why(error)
                yield from (Row(step, "failed", why) for step in to_replay)
                steps = [step for step in steps if step not in to_replay]
            for step in steps:
                yield self._row(run, step, other, other_id)

    def _why(self, error: Exception) -> str:
        log.debug("what ended it", exc_info=error)
        if not is_users_mistake(error):
            traceback.print_exception(error)
        return first_line(reason_of(error))

    def _row(self, run: Run, step: int, other: Path | None, other_id: str | None) -> Row:
        begun = time.monotonic()
        numbers, lacking = there_and_missing(run.path, self.request, step, other_id)
        if not lacking:
            return Row(step, "before", numbers=numbers)
        failures: list[str] = []
        for measure in lacking:
            try:
                found = self._measure(run, measure, step, other if measure.wants_other else None, other_id)
            except Exception as error:  # of one measure: the other rows go on
                failures.append(f"{measure.name}: {self._why(error)}")
                continue
            numbers |= {f"{measure.name}/{name}": value for name, value in found.items()}
        state: State = "failed" if failures else "done"
        return Row(step, state, "; ".join(failures), round(time.monotonic() - begun, 3), numbers)

    def _measure(
        self, run: Run, measure: Measure, step: int, other: Path | None, other_id: str | None
    ) -> dict[str, Any]:
        begun = time.monotonic()
        function = self._functions.get(measure.name) or function_of(measure)
        self._functions[measure.name] = function
        # By how it was chosen, which is the same for all runs of a sweep; each has a second run of its own.
        second = {"other": measure.other} if measure.wants_other and other is not None else {}
        subject = self._subject(run, measure, step, other)
        findings = function(subject)
        numbers, tables = checked(measure.name, findings)
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
            "numbers": numbers,
            "seconds": round(time.monotonic() - begun, 3),
            "finished": now(),
            "code": _code_of(measure.target),
        }
        write_measured(_file(run.path, measure, other_id, step), facts, tables)
        return numbers

    def _open(self, path: Path) -> OpenedRun:
        from rethinkgen.run.opened import open_run

        return open_run(path, device=self._device, code=own_code.opened(), inexact=self.request.inexact, tell=say)

    def _opened(self, run: Run) -> OpenedRun:
        if self._latest is None or self._latest.path != run.path:
            # The one before is let go of only then: its data may be the same.
            self._latest = self._open(run.path)
        return self._latest

    def _subject(self, run: Run, measure: Measure, step: int, other: Path | None) -> Subject:
        return self._opened(run).subject(
            step,
            name=measure.name,
            memory_mb=self.request.memory_mb,
            other=None if other is None else lambda: self._other_subject(other, measure),
        )

    def _other_subject(self, path: Path, measure: Measure) -> Subject:
        latest = self._latest_other
        if latest is None or latest.path != path:
            self._latest_other = latest = self._open(path)
        return latest.subject("end", name=measure.name, memory_mb=self.request.memory_mb)


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
    return ", ".join([*shown, f"{row.seconds:.1f} s"])


def brief(value: Any) -> str:
    """Return a number as one reads it."""
    return "-" if value is None else f"{value:.4g}" if isinstance(value, float) else f"{value:,}"
