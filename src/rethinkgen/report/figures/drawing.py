"""The parts that figures are made of: panels, curves with bands, points along corruption, legends below."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.path import Path
from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

from rethinkgen.report.figures.series import Line, budget, curve, finished, mean_curve
from rethinkgen.report.style import GREY, Dashes, Look
from rethinkgen.run.run import Run

THOUSANDS_FROM = 5000
"""Budget from which steps are counted in thousands, as in the paper."""


def panels(rows: int, columns: int, *, width: float = 3.3, height: float = 2.5, **shared: Any) -> tuple[Figure, Any]:
    """Return a figure and its axes ``(rows, columns)``; sizes are of a panel, in inches."""
    figure = Figure(figsize=(width * columns, height * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False, **shared)
    return figure, axes


LEGEND_LINE = 0.18
"""Inches that a line of a legend takes."""


def legend_below(figure: Figure, handles: Sequence[Any]) -> None:
    """Put a legend below all panels, in as many columns as fit; the figure grows by it."""
    if handles:
        columns = _num_columns(handles, figure.get_figwidth())
        figure.set_figheight(figure.get_figheight() + LEGEND_LINE * -(-len(handles) // columns))
        figure.legend(handles=list(handles), loc="outside lower center", ncols=columns)


def legend_width(labels: Sequence[str]) -> float:
    """Return about how many inches a column of a legend takes."""
    return 0.55 + 0.068 * max(map(len, labels))


def _num_columns(handles: Sequence[Any], width: float) -> int:
    """Return how many entries fit beside one another into ``width`` inches, all as wide as the longest."""
    most = max(1, min(len(handles), int(width / legend_width([handle.get_label() for handle in handles]))))
    rows = -(-len(handles) // most)
    return -(-len(handles) // rows)


NARROW = 3.0
"""An axis whose end is less than so many times its beginning stays linear: a logarithmic one would have one label."""


def plain_logarithmic(axes: Axes, *, vertical: bool = False) -> str:
    """Make an axis logarithmic, with plain numbers, unless it is too short; return what its label says of that."""
    axis: Axis = axes.yaxis if vertical else axes.xaxis
    numbers = FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}")
    low, high = axes.dataLim.intervaly if vertical else axes.dataLim.intervalx
    if low > 0 and high < NARROW * low:
        axis.set_major_formatter(numbers)
        return ""
    if vertical:
        axes.set_yscale("log")
    else:
        axes.set_xscale("log")
    low, high = axis.get_view_interval()
    # A decade has room for more labels the fewer there are.
    steps = (1.0, 2.0, 5.0) if high / low < 300 else (1.0,)
    axis.set_major_locator(LogLocator(subs=steps))
    axis.set_major_formatter(numbers)
    axis.set_minor_formatter(NullFormatter())
    return ", logarithmic"


def legend_under(axes: Axes, handles: Sequence[Any], *, columns: int = 2) -> None:
    """Put a legend below one panel."""
    place: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.21), "borderaxespad": 0.0}
    axes.legend(handles=list(handles), ncols=min(columns, len(handles)), **place)


def legend_beside(axes: Axes, handles: Sequence[Any]) -> None:
    """Put a legend to the right of a panel."""
    axes.legend(handles=list(handles), loc="center left", bbox_to_anchor=(1.02, 0.5), borderaxespad=0.0)


def handle(label: str, look: Look, *, dashes: Dashes | None = None, marker: str = "", **more: Any) -> Line2D:
    """Return an entry of a legend."""
    return Line2D(
        [],
        [],
        color=look.colour,
        linestyle=look.dashes if dashes is None else dashes,
        marker=marker,
        label=label,
        **more,
    )


def entry(line: Line, *, dashes: Dashes | None = None) -> Line2D:
    """Return a line's entry in a legend."""
    return handle(line.label, line.look, dashes=dashes, marker=line.look.marker)


def hollow(label: str, marker: str = "o", colour: str = GREY) -> Line2D:
    """Return a legend's entry for an open marker."""
    return Line2D([], [], color=colour, marker=marker, markerfacecolor="white", linestyle="none", label=label)


UPWARDS: dict[str, Any] = {
    "marker": Path([(0, 0), (0, 1), (-0.35, 0.6), (0, 1), (0.35, 0.6)], [1, 2, 1, 2, 2]),
    "markersize": 16,
    "markerfacecolor": "none",
    "markeredgewidth": 1.3,
}
"""An arrow that begins at its point."""
ARROW_ROOM = 1.12
"""How much further than its point an arrow reaches, on most axes."""


class Steps:
    """The axis of optimizer steps, in thousands where there are many."""

    def __init__(self, longest: int) -> None:
        self.longest = longest
        self.unit = 1000 if longest >= THOUSANDS_FROM else 1
        self.label = "training steps (thousands)" if self.unit == 1000 else "training steps"
        self.end = max(longest, 1) / self.unit

    def label_axis(self, axes: Axes) -> None:
        """Name the axis and have it end where the budget does."""
        axes.set_xlabel(self.label)
        axes.set_xlim(0, self.end)

    def label_logarithmic_axis(self, axes: Axes, *, first: float) -> None:
        """Name the axis and have it reach from the first step that is drawn to the budget."""
        axes.set_xlim(first / self.unit, self.end)
        axes.set_xlabel(f"{self.label}{plain_logarithmic(axes)}")


def draw_curves(
    axes: Axes,
    line: Line,
    column: str,
    steps: Steps,
    *,
    scale: float = 100.0,
    look: Look | None = None,
    running_best: bool = False,
    marked: bool = False,
) -> pd.DataFrame:
    """Draw mean and band over a line's finished runs, thin lines with an open end for the others; return the points.

    Runs that ended at different steps are drawn one by one. ``running_best``: of each run, the best value so far.
    """
    look = look or line.look
    done = finished(line.runs)
    drawn = [(run, table) for run in line.runs if len(table := _points(run, column, scale, running_best=running_best))]
    ended = [table for run, table in drawn if run in done]
    style: dict[str, Any] = {"color": look.colour, "linestyle": look.dashes}
    mean = mean_curve(ended)
    tables = []
    if mean is not None:
        x = mean["step"] / steps.unit
        every = max(1, len(mean) // 7)
        if marked:
            style |= {"marker": look.marker, "markevery": (every // 2, every), "markersize": 3.5}
        axes.plot(x, mean["mean"], **style)
        if len(ended) > 1:
            low, high = mean["mean"] - mean["std"], mean["mean"] + mean["std"]
            axes.fill_between(x, low, high, color=look.colour, alpha=0.2, linewidth=0)
        tables.append(mean.assign(kind="mean"))
    for run, table in drawn:
        if run in done and mean is not None:
            continue
        x = table["step"] / steps.unit
        axes.plot(x, table["value"], **style, linewidth=0.8)
        if run not in done:
            axes.plot(x.iloc[-1:], table["value"].iloc[-1:], "o", color=look.colour, markerfacecolor="white", zorder=3)
        rows = table.rename(columns={"value": "mean"}).assign(n=1, kind=f"seed {run.seed}, {run.state}")
        tables.append(rows)
    if not tables:
        return pd.DataFrame()
    table = pd.concat(tables, ignore_index=True)
    table.insert(0, "series", column.replace("test/", "best test/") if running_best else column)
    table.insert(0, "line", line.label)
    return table


def _points(run: Run, column: str, scale: float, *, running_best: bool) -> pd.DataFrame:
    table = curve(run, column)
    table["value"] *= scale
    if running_best:
        table["value"] = table["value"].cummax()
    return table


def steps_of(runs: Sequence[Run]) -> Steps:
    """Return the axis that all of the runs fit on."""
    return Steps(budget(runs))


def draw_points(axes: Axes, table: pd.DataFrame, look: Look, *, x: str) -> None:
    """Draw a line through means with error bars; columns ``mean``, ``std``, ``is_open`` and ``is_bound``.

    An open marker where ``is_open``; an arrow upwards, and no error bar, where the value is only bounded from below.
    """
    axes.plot(table[x], table["mean"], color=look.colour, linestyle=look.dashes, zorder=2)
    spread = table[table["std"].notna() & ~table["is_bound"]]
    if len(spread):
        bars = {"fmt": "none", "ecolor": look.colour, "elinewidth": 0.9, "capsize": 2}
        axes.errorbar(spread[x], spread["mean"], spread["std"], **bars)  # type: ignore[arg-type]
    for is_open, points in table[~table["is_bound"]].groupby("is_open"):
        face = "white" if is_open else look.colour
        axes.plot(points[x], points["mean"], look.marker, color=look.colour, markerfacecolor=face, zorder=3)
    bounded = table[table["is_bound"]]
    if len(bounded):
        draw_arrows(axes, bounded[x], bounded["mean"], look.colour)


def draw_arrows(axes: Axes, x: Any, y: Any, colour: str) -> None:
    """Mark values that are only known to be larger, or not reached within the budget."""
    axes.plot(x, y, color=colour, linestyle="none", zorder=4, **UPWARDS)
    # Room for the arrows above the highest of them.
    axes.update_datalim([(axes.dataLim.x1, ARROW_ROOM * float(np.max(y)))])
    axes.autoscale_view()


def chance_line(axes: Axes, heights: Sequence[float], *, vertical: bool = False) -> None:
    """Draw what guessing gives."""
    for height in heights:
        draw = axes.axvline if vertical else axes.axhline
        draw(height, color=GREY, linewidth=0.9, linestyle=(0, (2, 2)), zorder=1)


CHANCE = Line2D([], [], color=GREY, linewidth=0.9, linestyle=(0, (2, 2)), label="chance")
ARROW = Line2D([], [], color=GREY, linestyle="none", label="not all fitted: at least this", **UPWARDS)


def limits_percent(axes: Axes) -> None:
    """Let the vertical axis go from nothing to all, with room for lines along the edges."""
    axes.set_ylim(-3, 103)


def spaced(values: Sequence[Any], most: int) -> list[Any]:
    """Return at most so many of the values, spread evenly, the first and the last among them."""
    if len(values) <= most:
        return list(values)
    return [values[round(place)] for place in np.linspace(0, len(values) - 1, most)]
