"""From a declaration and runs, or a measure's table, to the panels of a figure: lines and what is drawn of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any, Literal

import numpy as np
import pandas as pd

from rethinkgen.grouping import collected
from rethinkgen.report.claim_files import load_claims
from rethinkgen.report.declared import several
from rethinkgen.report.figures.declaration import MOST_LINES, Figure, function
from rethinkgen.report.figures.rows import measured_table, table_of
from rethinkgen.report.figures.settings import Line, clouds, lines, settings
from rethinkgen.report.style import Facts, facts, looks_of
from rethinkgen.run.quantities import keys_of, logged, value_of
from rethinkgen.run.rows import at_x, number
from rethinkgen.run.run import Run
from rethinkgen.run.settings import goes_with, names, told, x_of
from rethinkgen.run.where import matches

MOST_PANELS, MOST_ABREAST = 6, 3
ALIKE = 1.0
"""Percent that runs must differ by along x to be told apart there."""
MOST_KINDS = 12
"""Names along an axis."""


@dataclass
class Panel:
    """One pair of axes."""

    figure: Figure
    y: list[str]
    lines: list[Line]
    title: str = ""
    row: str = ""
    names: Mapping[str, str] = field(default_factory=dict)
    """What it is called in the CSV: a column, and what stands there."""
    tables: list[tuple[Line, str, pd.DataFrame]] = field(default_factory=list)
    """What is drawn: a line, the quantity, and a row for each point."""
    of: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    """The measure's table that it is over."""
    lacking: dict[str, set[str]] = field(default_factory=dict)
    """Quantity -> runs that are not drawn, as they have none."""

    @property
    def runs(self) -> list[Run]:
        """Of all lines, each once."""
        return list(dict.fromkeys(run for line in self.lines for run in line.runs))

    @property
    def x(self) -> str:
        """What runs along the horizontal axis."""
        return "step" if self.figure.kind == "curves" else str(self.figure.x)

    def facts(self, quantity: str) -> Facts:
        """Return how a quantity is shown; a column of a measure's table by its name, as it is."""
        is_share = quantity in self.figure.percent
        return facts(quantity) if self.figure.of == "runs" else Facts(f"{quantity} (%)" if is_share else quantity)

    def has(self, column: str) -> bool:
        """Whether this is true of any point."""
        return any(table[column].any() for _, _, table in self.tables if column in table)


Grid = list[list[Panel]]


def panels_of(figure: Figure, runs: Sequence[Run], tables: Mapping[str, pd.DataFrame]) -> tuple[Grid, list[str]]:
    """Return the panels, a list for each row, with the numbers that are drawn in them; and what is left out."""
    left_out: list[str] = []
    if figure.of in tables:
        grid = [_of_table(figure, tables[figure.of], runs)]
    else:
        wanted = [run for run in runs if is_wanted(run, figure)]
        grid = [_row(*part, left_out) for part in _split(figure, "rows", wanted)]
    grid = [row for row in grid if row]
    if isinstance(figure.panels, str) and len(grid) == 1:
        (row,) = grid
        left_out += [panel.title for panel in row[MOST_PANELS:]]
        columns = min(MOST_ABREAST, len(row))
        grid = [row[first : first + columns] for first in range(0, len(row[:MOST_PANELS]), columns)]
    left_out += [row[0].row for row in grid[MOST_PANELS:]]
    _use_what_there_is(grid[:MOST_PANELS])
    for panel in (panel for row in grid[:MOST_PANELS] for panel in row):
        left_out += _measure(panel)
    rows = [[panel for panel in row if panel.tables] for row in grid[:MOST_PANELS]]
    return [row for row in rows if row], list(dict.fromkeys(left_out))


def _row(figure: Figure, runs: Sequence[Run], called: Mapping[str, str], left_out: list[str]) -> list[Panel]:
    """Return the panels of a row, with their lines; add the names of lines there is no room for."""
    row: list[Panel] = []
    for in_panel, of_panel, names_of_it in _split(figure, "panels", runs):
        title, name = ("\n+ ".join(filter(None, told.values())) for told in (names_of_it, called))
        columns = {**called, **{key.replace("settings", "panel"): text for key, text in names_of_it.items()}}
        if in_panel.of != "runs":
            table = measured_table(in_panel, of_panel, left_out)
            of_table = _of_table(in_panel.but(series="line"), table, of_panel) if len(table) else []
            row += [replace(panel, title=title, row=name, names=columns) for panel in of_table]
            continue
        found = _lines(in_panel, of_panel, earlier={run for panel in row for run in panel.runs})
        fit_in = {"curves": spaced(found, MOST_LINES), "lines": found[:MOST_LINES]}
        shown = fit_in.get(in_panel.kind, found)
        left_out += [line.label for line in found if line not in shown]
        in_panel = _without_one_vertical_line(in_panel, shown)
        row += [Panel(in_panel, y, shown, title, name, columns) for y in in_panel.columns() if shown]
    return row


def is_wanted(run: Run, figure: Figure) -> bool:
    """Whether a figure is about a run."""
    return (not figure.where or matches(run, figure.where)) and not matches(run, figure.without)


def _split(
    figure: Figure, key: Literal["rows", "panels"], runs: Sequence[Run]
) -> list[tuple[Figure, list[Run], dict[str, str]]]:
    """Return what stands in each row or panel: its declaration, its runs, and what it is called by."""
    by, one = getattr(figure, key), key.removesuffix("s")
    if not by:
        is_named = key == "panels" and figure.panel_title
        return [(figure, list(runs), {one: figure.panel_title} if is_named else {})]
    if parts := figure.each(key):
        of_it = [[run for run in runs if is_wanted(run, part)] for part in parts]
        return [
            (part.but(panel_title=""), found, {one: part.panel_title}) for part, found in zip(parts, of_it, strict=True)
        ]
    if by == "settings":
        groups = [group for group in settings(runs, *keys_of(str(figure.series))) if _has(group, figure.needs)]
        labels = names(groups, *keys_of(str(figure.series)))
        return [(figure, group, {one: label}) for group, label in zip(groups, labels, strict=True)]

    def grouped(groups: Sequence[list[Run]], key: str) -> list[list[list[Run]]]:
        return list(collected((value_of(group[0], key), group) for group in groups).values())

    first, *more = several(by)
    found = []
    for group in grouped(settings(runs), first):
        parts_of_it = grouped(group, more[0]) if more and len(group) > MOST_LINES else [group]
        for part in parts_of_it:
            keys = [first, *(key for key in more[: len(parts_of_it) - 1] if value_of(part[0][0], key))]
            called = {key: told(part[0][0], key) for key in keys}
            found.append((figure, [run for setting in part for run in setting], called))
    return found


def _lines(figure: Figure, runs: Sequence[Run], earlier: set[Run]) -> list[Line]:
    """Return the lines of a panel; of a plot of single runs, those of one look."""
    if figure.besides:
        there = {run for run in earlier if value_of(run, "graded") and matches(run, figure.besides)}
        left = [run for run in runs if run not in there]
        runs = [] if earlier and all(matches(run, figure.besides) for run in left) else left
    if figure.kind in ("scatter", "heatmap", "histogram"):
        done = [run for run in runs if run.state == "done"]
        series = figure.series or "model"
        return clouds(done, series, figure.shape or series) if len(done) > 1 else []
    along = keys_of(str(figure.x)) if figure.kind == "lines" else ()
    if figure.kind != "lines" and not _has(runs, figure.needs):
        return []
    groups = [group for group in settings(runs, *along, merge=figure.merge) if _is_enough(figure, group)]
    if not groups and along:
        # What goes with the axis, as a width's own rate, is no other setting.
        along = (*along, *goes_with(runs, str(figure.x)))
        groups = [group for group in settings(runs, *along, merge=figure.merge) if _is_enough(figure, group)]
    if figure.pick and groups:
        groups = [function(figure.pick)(groups)]
    in_row = [key for key in several(figure.rows)[:1] if isinstance(key, str)]
    return lines(groups, *along, series=figure.series, told_elsewhere=in_row)


def _is_enough(figure: Figure, group: Sequence[Run]) -> bool:
    """Whether there is a line to draw through the runs of a setting."""
    if figure.kind == "curves":
        asked = [name for column in figure.columns() for name in column]
        return any(_is_logged(group, name) for name in (*asked, *map(figure.instead.get, asked)) if name)
    reached = {x_of(run, str(figure.x)) for run in group if run.state == "done"} - {None}
    most = MOST_KINDS if any(isinstance(value, str) for value in reached) else math.inf
    return 1 < len(reached) <= most and _has(group, figure.needs)


def _is_logged(runs: Iterable[Run], quantity: str) -> bool:
    return any(len(logged(run, quantity)) > 1 for run in runs)


def _has(runs: Iterable[Run], needs: Mapping[str, Any]) -> bool:
    found = {key: {value_of(run, key) for run in runs} for key in needs}
    return all(
        len(found[key]) >= wanted if isinstance(wanted, int) else set(several(wanted)) <= found[key]
        for key, wanted in needs.items()
    )


def _without_one_vertical_line(figure: Figure, shown: Sequence[Line]) -> Figure:
    """Take along x what is named instead, where all runs of a scatter plot have about the same value."""
    other = figure.instead.get(str(figure.x))
    if figure.kind != "scatter" or other is None or not shown:
        return figure
    values = [facts(str(figure.x)).scale * number(run, str(figure.x)) for line in shown for run in line.runs]
    return figure.but(x=other, value=figure.x) if np.nanmax(values) - np.nanmin(values) < ALIKE else figure


def _use_what_there_is(grid: Grid) -> None:
    """Put in place of a quantity that was hardly reached what the declaration names instead."""
    is_lines = bool(grid) and grid[0][0].figure.kind == "lines"
    for part in [[panel for row in grid for panel in row]] if is_lines else grid:
        for panel in part:
            for place, name in enumerate(panel.y):
                other = panel.figure.instead.get(name)
                of_it = [each for each in part if name in each.y or other in each.y]
                if other and _num_reached(of_it, other) > _num_reached(of_it, name):
                    panel.y[place] = other


def _num_reached(part: Sequence[Panel], quantity: str) -> int:
    """Return how many lines reach it where the axis begins, or whether any has logged it."""
    if part[0].figure.kind == "curves":
        return int(any(_is_logged(panel.runs, quantity) for panel in part))
    found = [at_x(line.runs, panel.x) for panel in part for line in panel.lines]
    firsts = [rows[rows["at"] == rows["at"].iloc[0]]["run"] for rows in found]
    return sum(any(math.isfinite(number(run, quantity)) for run in first) for first in firsts)


def _measure(panel: Panel) -> list[str]:
    """Fill in what is drawn; return the names of lines that have no two points."""
    left_out, figure = [], panel.figure
    for line in panel.lines:
        for y in panel.y:
            for name in (y, f"best {y}") if figure.best == y and figure.kind == "curves" else (y,):
                table = table_of(figure, line, name, panel.of)
                if figure.of == "runs" and "run" in table:
                    for column in table.columns[table.isna().any()]:
                        panel.lacking.setdefault(column, set()).update(table[table[column].isna()]["run"])
                    table = table.dropna()
                if figure.of == "runs" and figure.kind == "lines" and "n" in table and (table["n"] > 0).sum() < 2:
                    left_out.append(line.label)
                elif len(table):
                    panel.tables.append((line, name, table))
    bounds = [table["is_bound"].all() for _, _, table in panel.tables if "is_bound" in table]
    if bounds and all(bounds):
        panel.tables = []
    panel.lines = list(dict.fromkeys(line for line, _, _ in panel.tables))
    return left_out


def published_points(panel: Panel) -> list[tuple[Line, Any, float]]:
    """Return published numbers of what a panel shows, of the same data: a line, where, and how much."""
    claims = [claim for claim in load_claims() if fnmatchcase(claim.id, panel.figure.published)]
    found: dict[tuple[str, Any], tuple[Line, Any, float]] = {}
    for line in panel.lines:
        for claim in claims:
            bearing = [run for run in line.runs if claim.is_on_its_data(run) and matches(run, claim.runs)]
            if "data" in claim.protocol and claim.value is not None and claim.metric in panel.y and bearing:
                x = x_of(bearing[0], panel.x)
                found.setdefault((claim.id, x), (line, x, claim.value))
    return list(found.values())


def data_of(grid: Grid) -> pd.DataFrame:
    """Return a row for each point that is drawn, in the axes' units."""
    found = []
    for panel in (panel for row in grid for panel in row):
        figure = panel.figure
        has_one_line = len(panel.lines) == 1 and len(panel.y) > 1
        for line, y, table in panel.tables:
            label = figure.labels.get(y, y) if has_one_line else line.label
            table = table.assign(line=label, series=y, **panel.names, **({"kind": "ours"} if figure.published else {}))
            found.append(table.drop(columns=panel.y) if figure.kind == "pictures" else table)
        for line, x, value in published_points(panel) if figure.published else ():
            row = {panel.x: x, "mean": value, "line": line.label, "series": panel.y[0], "kind": "published"}
            found.append(pd.DataFrame([row | dict(panel.names)]))
    return pd.concat(found, ignore_index=True)


def _of_table(figure: Figure, table: pd.DataFrame, runs: Sequence[Run]) -> list[Panel]:
    """Return the panels of a figure over a measure's own table, side by side.

    Raises:
        ValueError: the table has no column of a name that the figure gives.
    """
    columns = [str(name) for column in figure.columns() for name in column]
    named = [figure.x, *columns, figure.value, figure.series]
    if unknown := [name for name in named if name is not None and name not in table]:
        raise ValueError(
            f"{figure.name}: {unknown[0]}: no column of {figure.of}. There are {', '.join(table.columns)}."
        )
    labels = [""] if figure.series is None else list(map(str, sorted(table[figure.series].unique())))
    of_it = set(table["run"]) if "run" in table else set()
    shown = [run for run in runs if run.path.name in of_it]
    lines_of_it = [Line(label, look, shown) for label, look in looks_of(labels).items()]
    return [Panel(figure, y, lines_of_it, of={figure.of: table}) for y in figure.columns()]


def spaced(values: Sequence[Any], most: int) -> list[Any]:
    """Return at most so many of the values, spread evenly, the first and the last among them."""
    if len(values) <= most:
        return list(values)
    return [values[round(place)] for place in np.linspace(0, len(values) - 1, most)]
