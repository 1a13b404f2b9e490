"""From a declaration and runs, or a measure's table, to the panels of a figure: lines and what is drawn of them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from typing import Any

import numpy as np
import pandas as pd

from rethinkgen.measure.thresholds import NEARLY_FITTED
from rethinkgen.report.claim_files import load_claims
from rethinkgen.report.figures.declaration import MOST_LINES, Figure, Where, function
from rethinkgen.report.figures.settings import (
    Line,
    at_x,
    corruption_looks,
    finished,
    goes_with,
    is_by_degrees,
    lines,
    names,
    settings,
    told,
    x_of,
)
from rethinkgen.report.numbers import Spread, half_width, interval, summarise
from rethinkgen.report.quantities import facts, is_kindred, keys_of, matches, property_of, value_of
from rethinkgen.report.style import Look, looks_of
from rethinkgen.run.run import Run

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

    @property
    def runs(self) -> list[Run]:
        """Of all lines, each once."""
        return list(dict.fromkeys(run for line in self.lines for run in line.runs))

    @property
    def x(self) -> str:
        """What runs along the horizontal axis."""
        return "step" if self.figure.kind == "curves" else str(self.figure.x)


def panels_of(figure: Figure, runs: Sequence[Run]) -> tuple[list[list[Panel]], list[str]]:
    """Return the panels, a list for each row, with the numbers that are drawn in them; and what is left out."""
    wanted = [run for run in runs if is_wanted(run, figure)]
    grid: list[list[Panel]] = []
    left_out: list[str] = []
    for in_row, of_row, names_of_row in _split(figure, "rows", wanted):
        row, hidden = _row(in_row, of_row, names_of_row)
        grid += [row] if row else []
        left_out += hidden
    if isinstance(figure.panels, str) and len(grid) == 1:
        (row,) = grid
        columns = min(MOST_ABREAST, len(row))
        left_out += [panel.title for panel in row[MOST_PANELS:]]
        grid = [row[first : first + columns] for first in range(0, len(row[:MOST_PANELS]), columns)]
    left_out += [row[0].row for row in grid[MOST_PANELS:]]
    grid = grid[:MOST_PANELS]
    _use_what_there_is(grid)
    for panel in (panel for row in grid for panel in row):
        left_out += _measure(panel)
    rows = [[panel for panel in row if panel.tables] for row in grid]
    return [row for row in rows if row], list(dict.fromkeys(left_out))


def _row(figure: Figure, runs: Sequence[Run], names_of_row: Mapping[str, str]) -> tuple[list[Panel], list[str]]:
    """Return the panels of a row, with their lines; and the names of lines there is no room for."""
    row: list[Panel] = []
    left_out: list[str] = []
    for in_panel, of_panel, names_of_panel in _split(figure, "panels", runs):
        shown, hidden = _lines(in_panel, of_panel, earlier={run for panel in row for run in panel.runs})
        left_out += hidden
        in_panel = _without_one_vertical_line(in_panel, shown)
        title, name = ("\n+ ".join(filter(None, told.values())) for told in (names_of_panel, names_of_row))
        called = {**names_of_row, **{key.replace("settings", "panel"): text for key, text in names_of_panel.items()}}
        row += [Panel(in_panel, y, shown, title, name, called) for y in in_panel.columns() if shown]
    return row, left_out


def is_wanted(run: Run, figure: Figure) -> bool:
    """Whether a figure is about a run."""
    return (not figure.where or _meets(run, figure.where)) and not _meets(run, figure.without)


def _meets(run: Run, where: Where) -> bool:
    selectors = [where] if isinstance(where, Mapping) else where
    return any(matches(run, selector) for selector in selectors)


def _split(figure: Figure, key: str, runs: Sequence[Run]) -> list[tuple[Figure, list[Run], dict[str, str]]]:
    """Return what stands in each row or panel: its declaration, its runs, and what it is called by."""
    by, one = getattr(figure, key), key.removesuffix("s")
    if not by:
        is_named = key == "panels" and figure.panel_title
        return [(figure, list(runs), {one: figure.panel_title} if is_named else {})]
    if isinstance(by, list) and isinstance(by[0], Mapping):
        parts = [replace(figure, **{key: None, **part}) for part in by]
        return [
            (part.but(panel_title=""), [run for run in runs if is_wanted(run, part)], {one: part.panel_title})
            for part in parts
        ]
    if by == "settings":
        groups = [group for group in settings(runs, *keys_of(str(figure.series))) if _has(group, figure.needs)]
        labels = names(groups, *keys_of(str(figure.series)))
        return [(figure, group, {one: label}) for group, label in zip(groups, labels, strict=True)]
    first, *more = [by] if isinstance(by, str) else by
    found: list[tuple[Figure, list[Run], dict[str, str]]] = []
    for group in _grouped(settings(runs), first):
        parts_of_it = _grouped(group, more[0]) if more and len(group) > MOST_LINES else [group]
        for part in parts_of_it:
            keys = [first, *(key for key in more[: len(parts_of_it) - 1] if value_of(part[0][0], key))]
            called = {key: told(part[0][0], key) for key in keys}
            found.append((figure, [run for setting in part for run in setting], called))
    return found


def _grouped(groups: Sequence[list[Run]], key: str) -> list[list[list[Run]]]:
    by_value: dict[Any, list[list[Run]]] = {}
    for group in groups:
        by_value.setdefault(value_of(group[0], key), []).append(group)
    return list(by_value.values())


def _lines(figure: Figure, runs: Sequence[Run], earlier: set[Run]) -> tuple[list[Line], list[str]]:
    """Return the lines of a panel, and the names of those there is no room for."""
    if figure.besides:
        left = [run for run in runs if not (run in earlier and value_of(run, "graded") and _meets(run, figure.besides))]
        runs = [] if earlier and all(_meets(run, figure.besides) for run in left) else left
    if figure.kind in ("scatter", "heatmap", "histogram"):
        return _clouds(figure, finished(runs)), []
    along = keys_of(str(figure.x)) if figure.kind == "lines" else ()
    if figure.kind != "lines" and not _has(runs, figure.needs):
        return [], []
    groups = [group for group in settings(runs, *along, merge=figure.merge) if _is_enough(figure, group)]
    if not groups and along:
        # What goes with the axis, as a width's own rate, is no other setting.
        along = (*along, *goes_with(runs, str(figure.x)))
        groups = [group for group in settings(runs, *along, merge=figure.merge) if _is_enough(figure, group)]
    if figure.pick and groups:
        groups = [function(figure.pick)(groups)]
    in_row = tuple(
        key for key in ([figure.rows] if isinstance(figure.rows, str) else figure.rows or ()) if isinstance(key, str)
    )
    found = lines(groups, *along, series=figure.series, told_elsewhere=in_row[:1])
    shown = spaced(found, MOST_LINES) if figure.kind == "curves" else found[:MOST_LINES]
    return shown, [line.label for line in found if line not in shown]


def _is_enough(figure: Figure, group: Sequence[Run]) -> bool:
    """Whether there is a line to draw through the runs of a setting."""
    if figure.kind == "curves":
        logged = [name for column in figure.columns() for name in column]
        return any(
            len(curve(run, name)) > 1 for run in group for name in (*logged, *map(figure.instead.get, logged)) if name
        )
    found = at_x(group, str(figure.x))
    most = MOST_KINDS if any(isinstance(value, str) for value in found) else math.inf
    return 1 < sum(map(bool, found.values())) <= most and _has(group, figure.needs)


def _has(runs: Iterable[Run], needs: Mapping[str, Any]) -> bool:
    for key, wanted in needs.items():
        found = {value_of(run, key) for run in runs}
        if len(found) < wanted if isinstance(wanted, int) else not set(_several(wanted)) <= found:
            return False
    return True


def _several(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _clouds(figure: Figure, runs: Sequence[Run]) -> list[Line]:
    """Return the runs of each series and shape under one name and look."""
    if len(runs) < 2:
        return []
    ordered = [run for group in settings(runs) for run in group]
    series, shape = (figure.series or "model"), (figure.shape or figure.series or "model")
    colours = series_looks(ordered, series)
    markers = looks_of(list(dict.fromkeys(told(run, shape) for run in ordered)))
    found: dict[tuple[str, str], list[Run]] = {}
    for run in ordered:
        found.setdefault((name_in(run, series, ordered), told(run, shape)), []).append(run)
    return [
        Line(", ".join(dict.fromkeys(key)), Look(colours[key[0]].colour, markers[key[1]].marker, "-"), group)
        for key, group in found.items()
    ]


def series_looks(runs: Sequence[Run], series: str) -> dict[str, Look]:
    """Return the look of each name that runs go by in a scatter plot."""
    if series == "data.corruption" and is_by_degrees(runs):
        return corruption_looks(runs)
    return looks_of(list(dict.fromkeys(name_in(run, series, runs) for run in runs)))


def name_in(run: Run, series: str, runs: Sequence[Run]) -> str:
    """Return what a run goes by; degrees of several corruptions would need as many colours as there are."""
    return run.corruption if series == "data.corruption" and not is_by_degrees(runs) else told(run, series)


def _without_one_vertical_line(figure: Figure, shown: Sequence[Line]) -> Figure:
    """Take along x what is named instead, where all runs of a scatter plot have about the same value."""
    other = figure.instead.get(str(figure.x))
    values = [facts(str(figure.x)).scale * _number(run, str(figure.x)) for line in shown for run in line.runs]
    if figure.kind != "scatter" or other is None or not values:
        return figure
    return figure.but(x=other, value=figure.x) if np.nanmax(values) - np.nanmin(values) < ALIKE else figure


def _use_what_there_is(grid: Sequence[Sequence[Panel]]) -> None:
    """Put in place of a quantity that was hardly reached what the declaration names instead."""
    parts = (
        [[panel for row in grid for panel in row]] if grid and grid[0] and grid[0][0].figure.kind == "lines" else grid
    )
    for part in parts:
        for panel in part:
            for number, name in enumerate(panel.y):
                other = panel.figure.instead.get(name)
                of_it = [each for each in part if name in each.y or other in each.y]
                if other and _num_reached(of_it, other) > _num_reached(of_it, name):
                    panel.y[number] = other


def _num_reached(part: Sequence[Panel], quantity: str) -> int:
    """Return how many lines reach it where the axis begins, or have logged it."""
    if part[0].figure.kind == "curves":
        return int(any(len(curve(run, quantity)) > 1 for panel in part for run in panel.runs))
    firsts = [next(iter(at_x(line.runs, panel.x).values()), []) for panel in part for line in panel.lines]
    return sum(any(math.isfinite(_number(run, quantity)) for run in group) for group in firsts)


def _number(run: Run, quantity: str) -> float:
    value = value_of(run, quantity)
    return float(value) if isinstance(value, int | float) else math.nan


def _measure(panel: Panel) -> list[str]:
    """Fill in what is drawn; return the names of lines that have no two points."""
    left_out = []
    for line in panel.lines:
        for y in panel.y:
            for table, name in _tables(panel, line, y):
                is_line = panel.figure.kind == "lines" and panel.figure.spread == "seed"
                if is_line and (table["n"] > 0).sum() < 2:
                    left_out.append(line.label)
                elif len(table):
                    panel.tables.append((line, name, table))
    bounds = [table["is_bound"].all() for _, _, table in panel.tables if "is_bound" in table]
    if bounds and all(bounds):
        panel.tables = []
    panel.lines = list(dict.fromkeys(line for line, _, _ in panel.tables))
    return left_out


def _tables(panel: Panel, line: Line, y: str) -> list[tuple[pd.DataFrame, str]]:
    if panel.figure.kind == "curves":
        scale = facts(y).scale
        found = [(curve_table(line, y, scale), y)]
        best = [(curve_table(line, y, scale, running_best=True), f"best {y}")] if panel.figure.best == y else []
        return found + best
    if panel.figure.kind == "lines" and panel.figure.spread == "seed":
        return [(points(panel.figure, line, y), y)]
    return [(each_run(panel.figure, line, y), y)]


def points(figure: Figure, line: Line, y: str) -> pd.DataFrame:
    """Return mean and spread of ``y`` at each x; what was not reached counts with its budget (``is_bound``).

    ``relative_to``: of each run, over the value of the same seed there. ``is_open``: the network did not nearly fit
    what it was given.
    """
    x, scale = str(figure.x), facts(y).scale
    groups = at_x(line.runs, x)
    units: dict[str, float] = {}
    if figure.relative_to:
        ((_, one),) = figure.relative_to.items()
        units = {run.setting(*keys_of(x)): _number(run, y) for run in groups.get(one, [])}
    rows = []
    for value, group in groups.items():
        reached = [(run, number) for run in group if not math.isnan(number := _number(run, y))]
        if figure.relative_to:
            of_each = [units.get(run.setting(*keys_of(x)), math.inf) for run, _ in reached]
            reached = [pair for pair, unit in zip(reached, of_each, strict=True) if math.isfinite(unit) and unit]
        numbers = [run.number("steps") if math.isinf(number) else number for run, number in reached]
        # A ratio has no unit.
        numbers = [
            number / units[run.setting(*keys_of(x))] if figure.relative_to else scale * number
            for number, (run, _) in zip(numbers, reached, strict=True)
        ]
        fit = statistics([run.number("fit/accuracy") for run in group])["mean"]
        is_about_unfitted = "unfitted" in figure.marks and not y.startswith(("fit/", "steps"))
        is_open = is_about_unfitted and fit < NEARLY_FITTED
        is_bound = any(math.isinf(number) for _, number in reached)
        rows.append({x: value, **statistics(numbers), "is_bound": is_bound, "is_open": is_open})
        rows[-1] |= {"fit": 100 * fit} if is_about_unfitted else {}
    return pd.DataFrame(rows)


def each_run(figure: Figure, line: Line, y: str) -> pd.DataFrame:
    """Return a row for each finished run: its name, seed, and where it stands."""
    named = dict.fromkeys(["model", "data.corruption", "regularizer", *filter(None, (figure.series, figure.shape))])
    rows = []
    for run in finished(line.runs):
        row: dict[str, Any] = {"run": run.path.name, **{name: told(run, name) for name in named}, "seed": run.seed}
        for name in filter(None, (figure.x, y, figure.value)):
            value = x_of(run, name)
            is_bound = isinstance(value, float) and math.isinf(value)
            number = property_of(run, "steps") if is_bound else value
            row[name] = facts(name).scale * number if isinstance(number, int | float) else number
            row |= {"is_bound": is_bound} if name == y and y.startswith("steps_to") else {}
        rows.append(row)
    return pd.DataFrame(rows).dropna() if rows else pd.DataFrame()


def statistics(values: Sequence[float]) -> dict[str, float]:
    """Return mean, sample standard deviation, the ends of the mean's 95 % interval, and the number of values.

    Not a number where there are too few values.
    """
    if not values:
        return {"mean": math.nan, "std": math.nan, "low": math.nan, "high": math.nan, "n": 0}
    summary = summarise(list(values))
    low, high = interval(summary) or (math.nan, math.nan)
    std = math.nan if summary.deviation is None else summary.deviation
    return {"mean": summary.mean, "std": std, "low": low, "high": high, "n": summary.n}


def curve(run: Run, column: str) -> pd.DataFrame:
    """Return ``step`` and ``value`` where the run logged ``column``."""
    if column not in run.curves:
        return pd.DataFrame({"step": [], "value": []})
    # By numpy, as there may be a thousand runs.
    steps, values = run.curves["step"].to_numpy(), run.curves[column].to_numpy(float)
    is_logged = ~np.isnan(values)
    return pd.DataFrame({"step": steps[is_logged], "value": values[is_logged]})


def curve_table(line: Line, column: str, scale: float, *, running_best: bool = False) -> pd.DataFrame:
    """Return mean and spread at each step over the finished runs of a line, and the other runs one by one.

    Runs that ended at different steps are told one by one (``kind``). ``running_best``: of each, the best so far.
    """
    drawn = []
    for run in line.runs:
        table = curve(run, column)
        table["value"] *= scale
        if running_best:
            table["value"] = table["value"].cummax()
        drawn += [(run, table)] if len(table) else []
    mean = mean_curve([table for run, table in drawn if run.state == "done"])
    tables = [] if mean is None else [mean.assign(kind="mean")]
    tables += [
        table.rename(columns={"value": "mean"}).assign(n=1, kind=f"seed {run.seed}, {run.state}")
        for run, table in drawn
        if run.state != "done" or mean is None
    ]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def mean_curve(curves: Sequence[pd.DataFrame]) -> pd.DataFrame | None:
    """Return ``step, mean, std, n, low, high`` over curves logged at the same steps; nothing where they end apart.

    A mean over fewer and fewer runs would jump wherever one of them ends.
    """
    if not curves or len({curve["step"].iloc[-1] for curve in curves}) > 1:
        return None
    grouped = pd.concat(curves).groupby("step")["value"]
    table = pd.DataFrame({"mean": grouped.mean(), "std": grouped.std(), "n": grouped.size()})
    table = table[table["n"] == len(curves)].reset_index()
    half = half_width(Spread(1.0, len(curves) - 1), len(curves)) if len(curves) > 1 else math.nan
    return table.assign(low=table["mean"] - half * table["std"], high=table["mean"] + half * table["std"])


def published_points(panel: Panel) -> list[tuple[Line, Any, float]]:
    """Return published numbers of what a panel shows, of the same data: a line, where, and how much."""
    claims = [claim for claim in load_claims() if fnmatchcase(claim.id, panel.figure.published)]
    found: dict[tuple[str, Any], tuple[Line, Any, float]] = {}
    for line in panel.lines:
        for claim in claims:
            wanted = str(claim.protocol.get("data"))
            bearing = [run for run in line.runs if is_kindred(run.data, wanted) and matches(run, claim.runs)]
            if claim.value is not None and claim.metric in panel.y and bearing:
                x = x_of(bearing[0], panel.x)
                found.setdefault((claim.id, x), (line, x, claim.value))
    return list(found.values())


def of_table(figure: Figure, table: pd.DataFrame) -> list[list[Panel]]:
    """Return the panels of a figure over a measure's own table.

    Raises:
        ValueError: the table has no column of a name that the figure gives.
    """
    named = [figure.x, *(name for column in figure.columns() for name in column), figure.value, figure.series]
    if unknown := [name for name in named if name is not None and name not in table]:
        raise ValueError(
            f"{figure.name}: {unknown[0]}: no column of {figure.of}. There are {', '.join(table.columns)}."
        )
    parts = {"": table} if figure.series is None else {str(key): part for key, part in table.groupby(figure.series)}
    looks = looks_of(list(parts))
    row = []
    for y in figure.columns():
        panel = Panel(figure, y, [Line(label, looks[label], ()) for label in parts])
        for line in panel.lines:
            of_it, x = parts[line.label], "step" if figure.kind == "curves" else str(figure.x)
            for name in y:
                points_of_it = of_it
                if figure.kind in ("lines", "curves") and figure.spread == "seed":
                    at = [{x: at, **statistics(list(group[name]))} for at, group in of_it.groupby(x)]
                    points_of_it = pd.DataFrame(at).assign(is_bound=False, is_open=False, kind="mean")
                panel.tables.append((line, str(name), points_of_it))
        row.append(panel)
    return [row]


def spaced(values: Sequence[Any], most: int) -> list[Any]:
    """Return at most so many of the values, spread evenly, the first and the last among them."""
    if len(values) <= most:
        return list(values)
    return [values[round(place)] for place in np.linspace(0, len(values) - 1, most)]
