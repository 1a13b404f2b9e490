"""What a sweep says when it ends: its table, what was seen across it, where the numbers are, and what to do next."""

from __future__ import annotations

import csv
import io
import shlex
import statistics
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.table import Table
from rich.text import Text

from rethinkgen.console import percent, say, say_command, stdout, steps_to_fit
from rethinkgen.files import csv_cell, write_atomically
from rethinkgen.run.command import command_line, python, script_and_configs, wandb
from rethinkgen.run.folder import RunFolder
from rethinkgen.run.identity import LEVELS, SEEDS, counted, flatten, takes_steps
from rethinkgen.run.run import Outcome, Run, each_once, read_run
from rethinkgen.run.wandb_offline import OFFLINE, unsent
from rethinkgen.sweep.jobs import Job, brief, shown, varying_overrides

MOST_ROWS = 60
"""Rows of the table on the screen; failed runs come first. All are in ``summary.csv``."""
MOST_SENTENCES = 12


def conclude(folders: Sequence[Path], jobs: Sequence[Job]) -> int:
    """Tell what came of ``jobs``, write each folder's ``summary.csv``, and return how many jobs have no result."""
    outcomes = tell_runs(folders, jobs)
    num_failed = sum(outcome.state == "failed" for outcome in outcomes)
    num_left = sum(outcome.state not in ("done", "failed") for outcome in outcomes)
    if num_failed or num_left:
        what = [f"{num_failed} failed" if num_failed else "", f"{num_left} unfinished" if num_left else ""]
        which = " and ".join(part for part in what if part)
        say_command(f"The same command runs the {which} and nothing else:", command_line(leaving_out="rerun"))
    elif (script := Path(script_and_configs()[0]).with_name("report.py")).exists():
        report = shlex.join([*python(), str(script), *map(shown, folders)])
        say_command("Tables and figures:", report)
    return num_failed + num_left


def tell_runs(
    folders: Sequence[Path], jobs: Sequence[Job], *, columns: Mapping[str, Sequence[str]] | None = None
) -> list[Outcome]:
    """Show the table of ``jobs`` and what was seen across them, write each folder's ``summary.csv``; return outcomes.

    ``columns`` are further ones of the table, by their headers, with a text for each job.
    """
    outcomes = [job.outcome() for job in jobs]
    stdout().print(_table(jobs, outcomes, columns or {}))
    done = [outcome.result for outcome in outcomes if outcome.state == "done" and outcome.result]
    for line in sentences([result for result in done if not _lacks_accuracies(result)]):
        say(line)
    for folder in folders:
        try:
            summary = shown(write_summary(folder))
            say(f"Every choice and number of every run: {summary}")
        except OSError as error:
            say(f"summary.csv cannot be written: {error}", style="red")
    if left := [folder for folder in folders if any(unsent(folder))]:
        globs = " ".join(f"{shlex.quote(shown(folder))}/*/wandb/{OFFLINE}*" for folder in left)
        # W&B passes over what it has sent before.
        say(f"Not sent to W&B yet: {shlex.join(wandb())} sync {globs}", style="dim")
    failed = [job for job, outcome in zip(jobs, outcomes, strict=True) if outcome.state == "failed"]
    told = [job.folder.output for job in failed if job.folder.output.exists()]
    if told:
        more = f" and {len(told) - 3} more" if len(told) > 3 else ""
        printed = ", ".join(map(shown, told[:3]))
        say(f"What they printed: {printed}{more}")
    return outcomes


def _table(jobs: Sequence[Job], outcomes: Sequence[Outcome], columns: Mapping[str, Sequence[str]]) -> Table:
    keys = varying_overrides(jobs)
    table = Table(box=None, pad_edge=False, header_style="dim")
    for key in keys:
        table.add_column(key.lstrip("+"), overflow="fold")
    for name in ("fit", "test", "steps to fit", "time", *columns):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("status", overflow="fold")
    rows = list(zip(jobs, outcomes, zip(*columns.values(), strict=True) if columns else [()] * len(jobs), strict=True))
    if len(rows) > MOST_ROWS:
        rows.sort(key=lambda row: row[1].state != "failed")
    for job, outcome, more in rows[:MOST_ROWS]:
        values = dict(override.split("=", 1) for override in job.overrides if "=" in override)
        cells = [brief(values.get(key, "")) for key in keys]
        style = "red" if outcome.state == "failed" else None
        table.add_row(*map(Text, [*cells, *_numbers(outcome), *more, _status(job, outcome)]), style=style)
    if len(rows) > MOST_ROWS:
        table.add_row(f"... {len(rows) - MOST_ROWS:,} more")
    return table


def _numbers(outcome: Outcome) -> list[str]:
    result = outcome.result
    if result is None or outcome.state != "done":
        return ["", "", "", ""]
    fit, test = (percent(result["metrics"].get(f"{split}/accuracy")) for split in ("fit", "test"))
    return [fit, test, steps_to_fit(result), f"{result.get('seconds') or 0:,.0f} s"]


def _status(job: Job, outcome: Outcome) -> str:
    if outcome.state == "done":
        return "done before" if job.was_done else "done"
    state = "not started" if outcome.state == "missing" else outcome.state
    return f"{state}: {outcome.reason}" if outcome.reason else state


def sentences(results: Sequence[dict[str, Any]]) -> list[str]:
    """Say what was seen of each corruption, beside the same runs on true labels and true pixels.

    A ratio of steps is the median over pairs of runs that differ in nothing but the corruption.
    """
    true_steps = {
        _setting(result): result["metrics"]["steps_to_fit"]
        for result in results
        if _kind(result) == "none" and not _is_fitted_at_once(result)
    }
    groups: dict[tuple[str, ...], list[dict[str, Any]]] = defaultdict(list)
    for result in results:
        regularizers = "+".join(result["choices"]["regularizer"] or []) or "no regularizer"
        groups[(_corruption(result), result["choices"]["model"], regularizers)].append(result)
    varying = [number for number in (1, 2) if len({key[number] for key in groups}) > 1]
    lines = []
    for key, group in groups.items():
        what = ", ".join([key[0], *(key[number] for number in varying)])
        fits = [result["metrics"]["fit/accuracy"] for result in group]
        tests = [result["metrics"]["test/accuracy"] for result in group]
        chance = statistics.mean(1 / result["num_classes"] for result in group)
        settings = len({_setting(result, but_for=SEEDS) for result in group})
        several = f" in {settings} settings" if settings > 1 else ""
        runs = f" (mean of {len(group)}{several})" if len(group) > 1 else ""
        line = f"{what}{runs}: fit {percent(statistics.mean(fits))}, "
        line += f"test {percent(statistics.mean(tests))} (chance {percent(chance)})"
        if all(result["fitted"] for result in group):
            line += f": {_how(group, true_steps)}"
        else:
            line += f": {sum(not result['fitted'] for result in group)} of {len(group)} not fitted"
        lines.append(line)
    if len(lines) > MOST_SENTENCES:
        return [*lines[:MOST_SENTENCES], f"... and {len(lines) - MOST_SENTENCES} more."]
    return lines


def _lacks_accuracies(result: dict[str, Any]) -> bool:
    return None in (result["metrics"]["fit/accuracy"], result["metrics"]["test/accuracy"])


def _how(group: Sequence[dict[str, Any]], true_steps: dict[str, int | None]) -> str:
    if not takes_steps(group[0].get("config", {})):
        return f"fitted, {group[0].get('reason', '')}"
    how = "memorised" if _kind(group[0]) in ("random_labels", "random_signs") else "fitted"
    return f"{how} in {_steps(group, true_steps)}"


def _steps(group: Sequence[dict[str, Any]], true_steps: dict[str, int | None]) -> str:
    median = f"{statistics.median(result['metrics']['steps_to_fit'] for result in group):,.0f} steps"
    if any(map(_is_fitted_at_once, group)):
        return f"at most {median}: at the first evaluation"
    ratios = []
    for result in group:
        if _kind(result) != "none" and (steps := true_steps.get(_setting(result))):
            ratios.append(result["metrics"]["steps_to_fit"] / steps)
    return f"{statistics.median(ratios):.1f}x the steps of true labels" if ratios else median


def _is_fitted_at_once(result: dict[str, Any]) -> bool:
    """Whether no evaluation found it unfitted: then the steps to fit are those between evaluations, and no measure."""
    return bool(result["metrics"].get("steps_to_fit_last_missed") == 0)


def _kind(result: dict[str, Any]) -> str:
    return str(result["choices"]["data.corruption"])


def _corruption(result: dict[str, Any]) -> str:
    corruption = result["config"].get("data", {}).get("corruption") or {}
    values = [f"{corruption[key]}" for key in LEVELS if key in corruption]
    data = "" if result["choices"]["data"] is None else f"{result['choices']['data']}, "
    return data + " ".join([_kind(result), *values])


def _setting(result: dict[str, Any], *, but_for: tuple[str, ...] = ()) -> str:
    """Everything that identifies a run but its corruption, and but for some keys."""
    config = flatten(counted(result["config"])).items()
    kept = [(key, str(value)) for key, value in config if not key.startswith("data.corruption.") and key not in but_for]
    return str(sorted(kept))


def write_summary(folder: Path) -> Path:
    """Write ``summary.csv``: a row for each run in ``folder``.

    A column for every choice, every value that varies, and every metric. Made for ``pandas.read_csv``: a list is joined
    by ``+``, an empty one is ``none``, what was not reached is empty.
    """
    paths = sorted({file.parent.resolve() for name in ("result", "status") for file in folder.glob(f"*/{name}.json")})
    rows = [_row(run) for run in each_once(map(read_run, paths))]
    varied = _varied(dict.fromkeys(key for row in rows for key in row["config"]), rows)
    table = []
    for row in rows:
        config = {key: row["config"].get(key) for key in varied if key not in row["flat"]}
        table.append({**row["flat"], **config, **row["metrics"]})
    columns = list(dict.fromkeys(key for row in table for key in row))
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(map(csv_cell, columns))
    writer.writerows([_cell(row.get(key, "")) for key in columns] for row in table)
    folder.mkdir(parents=True, exist_ok=True)
    summary = folder / "summary.csv"
    write_atomically(summary, text.getvalue(), durable=False)
    return summary


def _row(run: Run) -> dict[str, Any]:
    told = run.result or RunFolder(run.path).read_status()
    flat: dict[str, Any] = {"run": run.path.name, "state": run.state, "reason": run.reason}
    flat |= {"folder": str(run.path), "run_id": run.run_id}
    flat |= told.get("choices", {})
    flat["seed"] = told.get("seed")
    for key in ("fitted", "seconds", "images_per_second", "device", "finished", "commit"):
        flat[key] = told.get(key)
    return {"flat": flat, "config": flatten(counted(run.config)) if run.config else {}, "metrics": run.metrics}


def _varied(keys: Iterable[str], rows: Sequence[dict[str, Any]]) -> list[str]:
    configs = [row["config"] for row in rows if row["config"]]
    return [key for key in keys if len({str(config.get(key)) for config in configs}) > 1]


def _cell(value: Any) -> Any:
    return csv_cell("+".join(map(str, value)) or "none" if isinstance(value, list) else value)
