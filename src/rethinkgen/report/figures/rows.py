"""The numbers that a declaration is over: a row a run, a row a run and step, or a measure's own table.

Here alone it is known where these lie; everything else only filters, groups and draws.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd

from rethinkgen.errors import DamagedFileError
from rethinkgen.measure.thresholds import NEARLY_FITTED
from rethinkgen.report.figures.declaration import Figure
from rethinkgen.report.figures.settings import Line, settings
from rethinkgen.report.numbers import CONFIDENCE
from rethinkgen.report.style import facts
from rethinkgen.run.quantities import keys_of, property_of
from rethinkgen.run.run import Run
from rethinkgen.run.settings import names, told, x_of

HOW_OFTEN_LOOKED_AT = ("evaluate_every", "log_every")
"""Keys that change nothing about the network in the end, where training ends with its budget."""


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
        return curves(line, y)
    return points(figure, line, y) if is_mean else each_run(figure, line, y)


def measured_table(figure: Figure, runs: Sequence[Run], left_out: list[str]) -> pd.DataFrame:
    """Return what a measure left of runs, ``of: measure/NAME/TABLE``: its columns, ``step``, ``run`` and ``line``.

    ``line`` is the run's setting, where there are several, and what ``series`` is of it or of the row. Of several steps
    there is the last, unless the figure shows the step. What is damaged is added to ``left_out``.
    """
    measure, _, name = figure.of.removeprefix("measure/").rpartition("/")
    found = [(run, each) for run in runs for each in run.measured[0] if each.called == measure and name in each.tables]
    if figure.kind != "curves" and ("step" not in (quantity for _, quantity in figure.named())):
        last: dict[Run, int] = {}
        for run, each in found:
            last[run] = max(each.step, last.get(run, 0))
        found = [(run, each) for run, each in found if each.step == last[run]]
    groups = settings(dict.fromkeys(run for run, _ in found))
    labels = {run: label for group, label in zip(groups, names(groups), strict=True) for run in group}
    tables = [pd.DataFrame()]
    for run, each in found:
        try:
            columns = {column: list(values) for column, values in each.table(name).items()}
        except DamagedFileError as error:
            left_out.append(str(error))
            continue
        table = pd.DataFrame({"step": each.step, **columns}).assign(run=run.path.name, line=labels[run])
        if figure.series is not None:
            own = table[figure.series].astype(str) if figure.series in table else told(run, figure.series)
            table["line"] = f"{labels[run]}, " + own if len(groups) > 1 else own
        tables.append(table)
    return pd.concat(tables, ignore_index=True)


def means(rows: pd.DataFrame, x: str, y: str) -> pd.DataFrame:
    """Return mean, sample standard deviation, the ends of the mean's 95 % interval (Student's t) and n at each ``x``.

    Not a number where there are too few values.
    """
    from scipy.special import stdtrit

    grouped = rows.groupby(x, sort=pd.api.types.is_numeric_dtype(rows[x]))[y]
    table = grouped.agg(mean="mean", std="std", low="mean", high="mean", n="count").reset_index()
    half = stdtrit(table["n"] - 1, (1 + CONFIDENCE) / 2) * table["std"] / np.sqrt(table["n"])
    return table.assign(low=table["mean"] - half, high=table["mean"] + half)


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


def at_x(runs: Sequence[Run], x: str) -> pd.DataFrame:
    """Return ``at, run, seed`` of finished runs, each seed once: true labels and probability 0 are one run twice.

    So are two that differ in how often they were looked at. A value that was asked for and has no finished run yet is
    there with a run that is not.
    """
    keys = keys_of(x)
    found = [
        (at, run, run.setting(*keys), run.setting(*keys, *HOW_OFTEN_LOOKED_AT), run.state == "done")
        for run in runs
        if (at := x_of(run, x)) is not None
    ]
    rows = pd.DataFrame(found, columns=["at", "run", "seed", "same", "is_done"])
    done = rows[rows["is_done"]].drop_duplicates(["at", "same"])
    rows = pd.concat([done, rows[~rows["at"].isin(done["at"])]]).sort_index()
    return rows.sort_values("at", kind="stable") if pd.api.types.is_numeric_dtype(rows["at"]) else rows


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


def number(run: Run, quantity: str) -> float:
    """Return what was measured, infinite where it was not reached; else not a number."""
    value = x_of(run, quantity)
    return float(value) if isinstance(value, int | float) else math.nan


def logged(run: Run, quantity: str) -> pd.DataFrame:
    """Return ``step`` and ``value`` where a run has a quantity along training."""
    if quantity not in run.curves:
        return pd.DataFrame({"step": [], "value": []})
    # By numpy, as there may be a thousand runs.
    steps, values = run.curves["step"].to_numpy(), run.curves[quantity].to_numpy(float)
    is_logged = ~np.isnan(values)
    return pd.DataFrame({"step": steps[is_logged], "value": values[is_logged]})


def curves(line: Line, y: str) -> pd.DataFrame:
    """Return ``means`` at each step over the finished runs of a line, and the other runs one by one (``kind``).

    Runs that ended at different steps are told one by one. ``best ...``: of each, the best so far.
    """
    quantity = y.removeprefix("best ")
    found = [(run, logged(run, quantity)) for run in line.runs]
    found = [(run, table.assign(value=facts(quantity).scale * table["value"])) for run, table in found if len(table)]
    if quantity != y:
        found = [(run, table.assign(value=table["value"].cummax())) for run, table in found]
    mean = mean_curve([table for run, table in found if run.state == "done"])
    tables = [] if mean is None else [mean.assign(kind="mean")]
    tables += [
        table.rename(columns={"value": "mean"}).assign(n=1, kind=f"seed {run.seed}, {run.state}")
        for run, table in found
        if run.state != "done" or mean is None
    ]
    return pd.concat(tables, ignore_index=True) if tables else pd.DataFrame()


def mean_curve(found: Sequence[pd.DataFrame]) -> pd.DataFrame | None:
    """Return ``means`` over curves at the steps that all have; nothing where they end apart.

    A mean over fewer and fewer runs would jump wherever one of them ends.
    """
    if not found or len({table["step"].iloc[-1] for table in found}) > 1:
        return None
    table = means(pd.concat(found), "step", "value")
    return table[table["n"] == len(found)].reset_index(drop=True)
