"""Tables of runs: a row a run, a row a run and step, or what a measure left of each. Which ones, who asks says."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fnmatch import fnmatchcase

import numpy as np
import pandas as pd

from rethinkgen.errors import DamagedFileError
from rethinkgen.grouping import collected
from rethinkgen.run.measured import Measured
from rethinkgen.run.quantities import keys_of, logged
from rethinkgen.run.run import Run
from rethinkgen.run.settings import x_of
from rethinkgen.run.spread import with_interval

HOW_OFTEN_LOOKED_AT = ("evaluate_every", "log_every")
"""Keys that change nothing about the network in the end, where training ends with its budget."""


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


def number(run: Run, quantity: str) -> float:
    """Return what was measured, infinite where it was not reached; else not a number."""
    value = x_of(run, quantity)
    return float(value) if isinstance(value, int | float) else math.nan


def means(rows: pd.DataFrame, x: str, y: str) -> pd.DataFrame:
    """Return mean, sample standard deviation, the ends of the mean's 95 % interval (Student's t) and n at each ``x``.

    Not a number where there are too few values.
    """
    grouped = rows.groupby(x, sort=pd.api.types.is_numeric_dtype(rows[x]))[y]
    return with_interval(grouped.agg(mean="mean", std="std", low="mean", high="mean", n="count").reset_index())


def curves(runs: Sequence[Run], quantity: str, *, scale: float = 1.0, is_best: bool = False) -> pd.DataFrame:
    """Return ``means`` at each step over the finished runs, and the other runs one by one (``kind``).

    Runs that ended at different steps are told one by one. ``is_best``: of each, the best so far.
    """
    found = [(run, logged(run, quantity)) for run in runs]
    found = [(run, table.assign(value=scale * table["value"])) for run, table in found if len(table)]
    if is_best:
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


def measured_tables(
    runs: Sequence[Run], measure: str, name: str, *, every_step: bool
) -> tuple[list[tuple[Run, Measured, pd.DataFrame]], list[str]]:
    """Return what a measure left of runs in a table, its columns and ``step``; and what is damaged, a line each.

    Of several that the measure's name stands for, by ``*``, there is each run's last; of several steps the last one,
    unless ``every_step``.
    """
    found = [
        (run, each)
        for run in runs
        for each in run.measured[0]
        if fnmatchcase(each.called, measure) and name in each.tables
    ]
    lasts = {run: each.key for run, each in found}
    found = [(run, each) for run, each in found if each.key == lasts[run]]
    steps = {run: max(each.step for each in of_run) for run, of_run in collected(found).items()}
    tables, damage = [], []
    for run, each in found:
        if not every_step and each.step != steps[run]:
            continue
        try:
            columns = {column: list(values) for column, values in each.table(name).items()}
        except DamagedFileError as error:
            damage.append(str(error))
            continue
        tables.append((run, each, pd.DataFrame({"step": each.step, **columns})))
    return tables, damage


def as_pictures(table: pd.DataFrame, value: str) -> pd.DataFrame:
    """Return a row for each picture of a table that has one for each pixel: ``row, column``, perhaps ``channel``.

    In ``value`` stands an image ``(H, W)``, or of three channels ``(H, W, 3)`` stretched to ``[0, 1]``; of another
    number of channels each is a picture. Columns that are not of a pixel tell pictures apart, in the table's order.
    """
    if not {"row", "column"} <= set(table):
        return table
    is_colour = "channel" in table and table["channel"].nunique() == 3
    of_pixel = ["row", "column", *(["channel"] if is_colour else [])]
    of_picture = [name for name in table if name not in (*of_pixel, value)]
    rows = []
    for known, pixels in table.groupby(of_picture, sort=False):
        image = pixels.sort_values(of_pixel)[value].to_numpy(float)
        image = image.reshape([pixels[name].nunique() for name in of_pixel])
        image = (image - image.min()) / (np.ptp(image) or 1.0) if is_colour else image
        rows.append({**dict(zip(of_picture, known, strict=True)), value: image})
    return pd.DataFrame(rows)
