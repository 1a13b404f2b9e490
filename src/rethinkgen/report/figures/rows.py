"""The numbers that a declaration is over: a row a run, a row a run and step, or a measure's own table."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from rethinkgen.measure.thresholds import NEARLY_FITTED
from rethinkgen.report.declared import several
from rethinkgen.report.figures.declaration import Figure
from rethinkgen.report.figures.settings import Line, settings
from rethinkgen.report.style import facts
from rethinkgen.run.quantities import property_of
from rethinkgen.run.rows import as_pictures, at_x, curves, means, measured_tables, number
from rethinkgen.run.run import Run
from rethinkgen.run.settings import names, told, x_of


def table_of(figure: Figure, line: Line, y: str, tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Return what is drawn of a quantity for one line, a row a point, in the units of the axes; empty if nothing is."""
    is_mean = figure.kind in ("lines", "curves") and figure.spread == "seed"
    if figure.of != "runs":
        table = tables[figure.of]
        table = table if figure.series is None else table[table[figure.series].astype(str) == line.label]
        x = "step" if figure.kind == "curves" else str(figure.x)
        if not is_mean:
            return table
        # Rows of one run are no repetitions.
        rows = table.groupby(["run", x], sort=False)[y].mean().reset_index() if "run" in table else table
        return means(rows, x, y).assign(is_bound=False, is_open=False, kind="mean")
    if figure.kind == "curves":
        quantity = y.removeprefix("best ")
        return curves(line.runs, quantity, scale=facts(quantity).scale, is_best=quantity != y)
    return points(figure, line, y) if is_mean else each_run(figure, line, y)


def measured_table(figure: Figure, runs: Sequence[Run], left_out: list[str]) -> pd.DataFrame:
    """Return what a measure left of runs, ``of: measure/NAME/TABLE``: its columns, ``step``, ``run`` and ``line``.

    Of several that the name stands for, by ``*``, each run's last.

    ``line`` is the run's setting, where there are several, and what ``series`` is of it or of the row. Of several steps
    there is the last, unless the figure shows the step. What is damaged is added to ``left_out``.

    Raises:
        ValueError: the figure names a column that the table does not have.
    """
    measure, _, name = figure.of.removeprefix("measure/").rpartition("/")
    every_step = figure.kind == "curves" or "step" in (quantity for _, quantity in figure.named())
    found, damage = measured_tables(runs, measure, name, every_step=every_step)
    left_out += damage
    groups = settings(dict.fromkeys(run for run, _, _ in found))
    labels = {run: label for group, label in zip(groups, names(groups), strict=True) for run in group}
    tables = [pd.DataFrame()]
    for run, each, columns in found:
        table = as_pictures(columns, figure.columns()[0][0]) if figure.kind == "pictures" else columns
        table = table.assign(run=run.path.name, line=labels[run])
        named = [*figure.only, figure.x, figure.value, *(name for column in figure.columns() for name in column)]
        absent = next((name for name in named if name is not None and name not in table), "")
        if absent and "*" in figure.of:
            # A measure's earlier protocol: nobody asked for its table by name.
            left_out.append(f"{labels[run]} ({each.called} has no {absent})")
            continue
        if absent in figure.only:
            there = ", ".join(table.columns)
            raise ValueError(f"{figure.name}: only: {absent}: no column of {figure.of}. There are {there}.")
        for column, wanted in figure.only.items():
            table = table[table[column].isin(several(wanted))]
        table = table.assign(**{column: 100 * table[column] for column in figure.percent if column in table})
        if figure.series is not None:
            own = table[figure.series].astype(str) if figure.series in table else told(run, figure.series)
            table["line"] = f"{labels[run]}, " + own if len(groups) > 1 else own
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def points(figure: Figure, line: Line, y: str) -> pd.DataFrame:
    """Return ``means`` of ``y`` at each x; what was not reached counts with its budget (``is_bound``).

    ``relative_to``: of each run, over the value of the same seed there. ``is_open``: the network did not nearly fit
    what it was given. A value of x that was asked for and has no finished run yet has ``n`` 0.
    """
    x = str(figure.x)
    rows = at_x(line.runs, x)
    numbers = pd.Series([number(run, y) for run in rows["run"]], rows.index, dtype=float)
    rows["is_bound"] = np.isinf(numbers)
    rows["fit"] = [run.number("fit/accuracy") for run in rows["run"]]
    rows["y"] = numbers.where(~rows["is_bound"], [run.number("steps") for run in rows["run"]])
    if figure.relative_to:
        ((_, one),) = figure.relative_to.items()
        units = rows[(rows["at"] == one) & ~rows["is_bound"] & (rows["y"] != 0)].set_index("seed")["y"]
        # A ratio has no unit.
        rows["y"] /= rows["seed"].map(units)
    else:
        rows["y"] *= facts(y).scale
    table = means(rows, "at", "y")
    is_about_unfitted = "unfitted" in figure.marks and not y.startswith(("fit/", "steps"))
    fit = 100 * table["at"].map(rows.groupby("at")["fit"].mean())
    table["is_bound"] = table["at"].isin(rows[rows["is_bound"] & rows["y"].notna()]["at"])
    table["is_open"] = is_about_unfitted & (fit < 100 * NEARLY_FITTED)
    return (table.assign(fit=fit) if is_about_unfitted else table).rename(columns={"at": x})


def each_run(figure: Figure, line: Line, y: str) -> pd.DataFrame:
    """Return a row for each finished run: its name, seed, and where it stands; also what has no number."""
    named = dict.fromkeys(["model", "data.corruption", "regularizer", *filter(None, (figure.series, figure.shape))])
    measured = figure.value if figure.kind == "heatmap" else y
    rows = []
    for run in (run for run in line.runs if run.state == "done"):
        row: dict[str, Any] = {"run": run.path.name, **{name: told(run, name) for name in named}, "seed": run.seed}
        for name in filter(None, (figure.x, y, figure.value)):
            value = x_of(run, name)
            is_bound = isinstance(value, float) and math.isinf(value)
            if name == measured and name.startswith("steps_to"):
                row["is_bound"] = is_bound
            if is_bound:
                value = None if figure.kind == "histogram" else property_of(run, "steps")
            row[name] = facts(name).scale * value if isinstance(value, int | float) else value
        rows.append(row)
    return pd.DataFrame(rows)
