"""What ``measure.py`` says when it ends, and ``measures.csv``: what measures found of all runs of a sweep."""

from __future__ import annotations

import csv
import io
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rethinkgen.console import Column, say, say_command, say_table, shown, stdout
from rethinkgen.files import csv_cell, write_atomically
from rethinkgen.names import in_csv
from rethinkgen.run.command import command_line, other_command
from rethinkgen.run.measured import READ, row_of
from rethinkgen.run.measuring import Row, brief
from rethinkgen.run.run import Run, read_runs
from rethinkgen.sweep.conclusion import MOST_ROWS
from rethinkgen.sweep.measuring_view import name_of

if TYPE_CHECKING:
    from rethinkgen.sweep.measuring import Told

FILE_NAME = "measures.csv"
WIDTH_OF_THE_REST = 36
WIDTH_WITH_REASONS = 90
"""Of the table on the screen, beside the runs and the numbers; the latter where it says why a row failed."""


def conclude(told: Sequence[Told], folders: Sequence[Path] = ()) -> int:
    """Show the table of all rows, write ``measures.csv`` of each sweep, and return how many rows have failed.

    ``folders``: what the command was about, to be reported on.
    """
    if not told:
        return 0
    _tell_table(told)
    for sweep in dict.fromkeys(each.run.sweep for each in told):
        if not any(each.row.numbers for each in told if each.run.sweep == sweep):
            continue  # nothing was measured, and the folder may be anybody's
        try:
            say(f"Every number of every measure: {shown(write_measures(sweep))}")
        except OSError as error:
            say(f"{FILE_NAME} cannot be written: {error}", style="red")
    failed = sum(each.row.state == "failed" for each in told)
    if failed:
        say_command(f"The same command measures the {failed:,} failed and nothing else:", command_line())
    elif folders and (report := other_command("report", list(map(shown, folders)))) is not None:
        say_command("Tables and figures:", report)
    return failed


def _tell_table(told: Sequence[Told]) -> None:
    has_failed = any(each.row.state == "failed" for each in told)
    rest = WIDTH_WITH_REASONS if has_failed else WIDTH_OF_THE_REST
    room = stdout().width - max(len(name_of(each.run)) for each in told) - rest
    numbers = _shown([each.row.numbers for each in told], room)
    rows = sorted(told, key=lambda each: each.row.state != "failed") if len(told) > MOST_ROWS else list(told)
    columns = [
        Column("run", "setting"),
        Column("step"),
        *map(Column, numbers),
        Column("time"),
        Column("status", "words"),
    ]
    cells = [
        [
            name_of(each.run),
            str(each.row.step),
            *(brief(each.row.numbers[name]) if name in each.row.numbers else "" for name in numbers),
            f"{each.row.seconds:.1f} s" if each.row.seconds else "",
            _status(each.row),
        ]
        for each in rows[:MOST_ROWS]
    ]
    say_table(columns, cells, ["red" if each.row.state == "failed" else None for each in rows[:MOST_ROWS]])
    if len(rows) > MOST_ROWS:
        say(f"... {len(rows) - MOST_ROWS:,} more")


def _shown(rows: Sequence[Mapping[str, Any]], room: int) -> list[str]:
    """Return the names of the numbers that there is room for: the first of each measure, then the second of each."""
    by_measure: dict[str, dict[str, None]] = {}
    for name in dict.fromkeys(name for row in rows for name in row):
        by_measure.setdefault(name.partition("/")[0], {})[name] = None
    in_turn = itertools.zip_longest(*by_measure.values())
    found = [name for names in in_turn for name in names if name is not None]
    widths = itertools.accumulate(len(name) + 2 for name in found)
    return [name for name, width in zip(found, widths, strict=True) if width <= room]


def _status(row: Row) -> str:
    if row.state == "failed":
        return f"failed: {row.reason}"
    return STATUS[row.state] if row.weights in ("", READ) else f"{STATUS[row.state]}, weights {row.weights}"


STATUS = {"done": "measured", "before": "measured before"}


def write_measures(sweep: Path) -> Path:
    """Write ``measures.csv`` anew from the runs' own files: one row a run, step and measure."""
    rows = rows_of_sweep(read_runs([sweep]))
    columns = list(dict.fromkeys(name for row in rows for name in row))
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(map(csv_cell, columns))
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writerows({name: in_csv(value) for name, value in row.items()} for row in rows)
    path = sweep / FILE_NAME
    write_atomically(path, text.getvalue(), durable=False)
    return path


def rows_of_sweep(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return a row for each run, step and measure: which run it is, the measure with its parameters, its numbers."""
    rows = []
    for run in runs:
        for line in run.measured[1]:
            say(line, style="yellow")
        facts = {"run": run.path.name, "run_id": run.run_id, **run.choices, "seed": run.seed}
        rows += [facts | row_of(each) for each in run.measured[0]]
    return rows
