"""What a sweep says when it ends: its table, what was seen across it, where the numbers are, and what to do next."""

from __future__ import annotations

import hashlib
import shlex
import statistics
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rethinkgen.console import Column, percent, say, say_command, say_table, shown, steps_to_fit
from rethinkgen.run import own_code, trial
from rethinkgen.run.command import command_line, other_command, wandb
from rethinkgen.run.description import changed_code, digest_of_code
from rethinkgen.run.identity import LEVELS, SEEDS, counted, flatten, takes_steps
from rethinkgen.run.run import Outcome, read_run
from rethinkgen.run.wandb_offline import OFFLINE, unsent
from rethinkgen.sweep.jobs import Job, brief, varying_overrides
from rethinkgen.sweep.summary import Summary
from rethinkgen.words import how_many

MOST_ROWS = 60
"""Rows of the table on the screen; failed runs come first. All are in ``summary.csv``."""
MOST_SENTENCES = 12


def conclude(folders: Sequence[Path], jobs: Sequence[Job]) -> int:
    """Tell what came of ``jobs``, write each folder's ``summary.csv``, and return how many jobs have no result."""
    outcomes = tell_runs(folders, jobs)
    num_failed = sum(outcome.state == "failed" for outcome in outcomes)
    num_left = sum(outcome.state not in ("done", "failed") for outcome in outcomes)
    if trial.is_on():
        say("These were trial runs: no number of theirs is kept. The same command without debug=true makes the runs.")
    elif num_failed or num_left:
        what = [f"{num_failed} failed" if num_failed else "", f"{num_left} unfinished" if num_left else ""]
        which = " and ".join(part for part in what if part)
        say_command(f"The same command runs the {which} and nothing else:", command_line(leaving_out="rerun"))
    elif (report := other_command("report", list(map(shown, folders)))) is not None:
        say_command("Tables and figures:", report)
    return num_failed + num_left


def tell_runs(
    folders: Sequence[Path], jobs: Sequence[Job], *, columns: Mapping[str, Sequence[str]] | None = None
) -> list[Outcome]:
    """Show the table of ``jobs`` and what was seen across them, write each folder's ``summary.csv``; return outcomes.

    ``columns`` are further ones of the table, by their headers, with a text for each job.
    """
    summaries = {folder.absolute(): Summary(folder.resolve()) for folder in folders}
    outcomes: list[Outcome] = []
    endings: list[Ending] = []
    changed: Counter[str] = Counter()
    for job in jobs:
        # Each result is read once, and of thousands no more than a few are kept.
        run = read_run(job.path)
        settings = flatten(counted(run.config, run.contents)) if run.config else {}
        if (summary := summaries.get(job.path.parent.absolute())) is not None:
            summary.add(run, settings)
        if run.state == "done" and run.result and run.result["metrics"]["fit/accuracy"] is not None:
            endings.append(ending_of(run.result, settings))
        if job.was_done and run.result:
            changed.update(_changed_since(run.result))
        is_shown = len(endings) <= MOST_ROWS
        outcomes.append(job.fault or Outcome(run.state, run.reason, run.result if is_shown else None))
    _tell_table(jobs, outcomes, columns or {})
    for line in sentences(endings):
        say(line)
    for package, number in sorted(changed.items()):
        say(f"{package} is not the code that {number:,} of these runs were trained with before.", style="yellow")
    written = {} if trial.is_on() else dict(zip(folders, summaries.values(), strict=True))
    for folder, summary in written.items():
        try:
            say(f"Every choice and number of every run: {shown(folder / summary.write().name)}")
        except OSError as error:
            say(f"summary.csv cannot be written: {error}", style="red")
    if left := [folder for folder in folders if any(unsent(folder))]:
        globs = " ".join(f"{shlex.quote(shown(folder))}/*/wandb/{OFFLINE}*" for folder in left)
        # W&B passes over what it has sent before.
        say_command("Not sent to W&B yet:", f"{shlex.join(wandb())} sync {globs}")
    failed = [job for job, outcome in zip(jobs, outcomes, strict=True) if outcome.state == "failed"]
    told = [job.folder.output for job in failed if job.folder.output.exists()]
    if told:
        more = f" and {len(told) - 3} more" if len(told) > 3 else ""
        printed = ", ".join(map(shown, told[:3]))
        say(f"What they printed: {printed}{more}")
    return outcomes


def _changed_since(result: Mapping[str, Any]) -> list[str]:
    """Return the packages that the command opens, of those that a run was trained with, that have changed."""
    then = {name: digest for name, digest in (result.get("code") or {}).items() if own_code.is_opened(f"{name}.")}
    return changed_code(then, {name: digest_of_code(name) for name in then})


def _tell_table(jobs: Sequence[Job], outcomes: Sequence[Outcome], more_columns: Mapping[str, Sequence[str]]) -> None:
    keys = varying_overrides(jobs)
    numbers = NUMBERS if any(_validation(outcome) != "-" for outcome in outcomes) else [*NUMBERS[:1], *NUMBERS[2:]]
    columns = [Column(key.lstrip("+"), "setting") for key in keys]
    columns += [*map(Column, [*numbers, *more_columns]), Column("status", "words")]
    more = zip(*more_columns.values(), strict=True) if more_columns else [()] * len(jobs)
    rows = list(zip(jobs, outcomes, more, strict=True))
    if len(rows) > MOST_ROWS:
        rows.sort(key=lambda row: row[1].state != "failed")
    cells = []
    for job, outcome, further in rows[:MOST_ROWS]:
        values = dict(override.split("=", 1) for override in job.overrides if "=" in override)
        told = _numbers(outcome)
        settings = [brief(values.get(key, "")) for key in keys]
        cells.append([*settings, *(told.get(name, "") for name in numbers), *further, _status(job, outcome)])
    styles = ["red" if outcome.state == "failed" else None for _, outcome, _ in rows[:MOST_ROWS]]
    say_table(columns, cells, styles)
    if len(rows) > MOST_ROWS:
        say(f"... {len(rows) - MOST_ROWS:,} more")


NUMBERS = ["fit", "validation", "test", "steps to fit", "time"]


def _numbers(outcome: Outcome) -> dict[str, str]:
    """Return the cells of a finished run, by their columns."""
    result = outcome.result
    if result is None or outcome.state != "done":
        return {}
    fit, test = (percent(result["metrics"].get(f"{split}/accuracy")) for split in ("fit", "test"))
    time = f"{result.get('seconds') or 0:,.0f} s"
    cells = [fit, _validation(outcome), test, steps_to_fit(result), time]
    return dict(zip(NUMBERS, cells, strict=True))


def _validation(outcome: Outcome) -> str:
    """Return the accuracy on the held-out part, where one was asked for."""
    return percent((outcome.result or {}).get("metrics", {}).get("validation/accuracy"))


def _status(job: Job, outcome: Outcome) -> str:
    if outcome.state == "done":
        return "done before" if job.was_done else "done"
    state = "not started" if outcome.state == "missing" else outcome.state
    return f"{state}: {outcome.reason}" if outcome.reason else state


@dataclass(frozen=True, slots=True)
class Ending:
    """What sentences say of a finished run: of thousands, the whole results would not fit into memory."""

    corruption: str
    """On which data, what, and how much of it."""
    kind: str
    """The choice of ``data.corruption``."""
    model: str
    regularizers: str
    setting: bytes
    """A hash of everything that identifies the run but its corruption."""
    setting_of_seeds: bytes
    """The same without seeds."""
    fit: float
    test: float | None
    """``None`` where nothing was left to test on."""
    chance: float
    steps: int | None
    """Until it was fitted."""
    is_fitted: bool
    is_fitted_at_once: bool
    """Whether no evaluation found it unfitted: then the steps are those between evaluations, and no measure."""
    without_steps: str
    """In words, where it was not trained in steps."""


def ending_of(result: Mapping[str, Any], settings: Mapping[str, Any]) -> Ending:
    """Return what sentences say of a ``result.json``, given all that counts of its config by dotted keys."""
    metrics, choices, config = result["metrics"], result["choices"], result.get("config", {})
    corruption = config.get("data", {}).get("corruption") or {}
    kept = sorted((key, str(value)) for key, value in settings.items() if not key.startswith("data.corruption."))
    levels = [str(corruption[key]) for key in LEVELS if key in corruption]
    data = "" if choices["data"] is None else f"{choices['data']}, "
    return Ending(
        corruption=sys.intern(data + " ".join([choices["data.corruption"], *levels])),
        kind=sys.intern(choices["data.corruption"]),
        model=sys.intern(choices["model"]),
        regularizers=sys.intern("+".join(choices["regularizer"] or []) or "no regularizer"),
        setting=_hash(kept),
        setting_of_seeds=_hash([(key, value) for key, value in kept if key not in SEEDS]),
        fit=metrics["fit/accuracy"],
        test=metrics["test/accuracy"],
        chance=1 / result["num_classes"],
        steps=metrics.get("steps_to_fit"),
        is_fitted=result["fitted"],
        is_fitted_at_once=metrics.get("steps_to_fit_last_missed") == 0,
        without_steps="" if takes_steps(config) else f"fitted, {result.get('reason', '')}",
    )


def _hash(setting: Sequence[tuple[str, str]]) -> bytes:
    return hashlib.blake2b(repr(setting).encode(), digest_size=16).digest()


def sentences(endings: Iterable[Ending]) -> list[str]:
    """Say what was seen of each corruption, beside the same runs on true labels and true pixels.

    A ratio of steps is the median over pairs of runs that differ in nothing but the corruption.
    """
    true_steps: dict[bytes, int | None] = {}
    groups: dict[tuple[str, str, str], list[Ending]] = defaultdict(list)
    for ending in endings:
        if ending.kind == "none" and not ending.is_fitted_at_once:
            true_steps[ending.setting] = ending.steps
        groups[ending.corruption, ending.model, ending.regularizers].append(ending)
    varying = [number for number in (1, 2) if len({key[number] for key in groups}) > 1]
    lines = []
    for key, group in groups.items():
        what = ", ".join([key[0], *(key[number] for number in varying)])
        fit, chance = (
            percent(statistics.fmean(getattr(ending, name) for ending in group)) for name in ("fit", "chance")
        )
        tested = [ending.test for ending in group if ending.test is not None]
        of_some = f" (of {len(tested)} with a test part)" if len(tested) < len(group) else ""
        test = f", test {percent(statistics.fmean(tested))}{of_some}" if tested else ""
        settings = len({ending.setting_of_seeds for ending in group})
        several = f" in {settings} settings" if settings > 1 else ""
        runs = f" (mean of {len(group)}{several})" if len(group) > 1 else ""
        line = f"{what}{runs}: fit {fit}{test} (chance {chance})"
        if all(ending.is_fitted for ending in group):
            line += f": {_how(group, true_steps)}"
        else:
            line += f": {sum(not ending.is_fitted for ending in group)} of {len(group)} not fitted"
        lines.append(line)
    if len(lines) > MOST_SENTENCES:
        return [*lines[:MOST_SENTENCES], f"... and {len(lines) - MOST_SENTENCES} more."]
    return lines


def _how(group: Sequence[Ending], true_steps: Mapping[bytes, int | None]) -> str:
    if group[0].without_steps:
        return group[0].without_steps
    how = "memorised" if group[0].kind in ("random_labels", "random_signs") else "fitted"
    return f"{how} in {_steps(group, true_steps)}"


def _steps(group: Sequence[Ending], true_steps: Mapping[bytes, int | None]) -> str:
    taken = [ending.steps for ending in group if ending.steps is not None]
    median = how_many(round(statistics.median(taken)), "step")
    if any(ending.is_fitted_at_once for ending in group):
        return f"at most {median}: at the first evaluation"
    ratios = [
        ending.steps / steps
        for ending in group
        if ending.kind != "none" and ending.steps is not None and (steps := true_steps.get(ending.setting))
    ]
    return f"{statistics.median(ratios):.1f}x the steps of true labels" if ratios else median
