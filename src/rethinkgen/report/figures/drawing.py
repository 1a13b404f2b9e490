"""How panels are drawn: one function for each kind of figure, and the parts that they share."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.figure import Figure as Drawing
from matplotlib.lines import Line2D
from matplotlib.path import Path
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from rethinkgen.report.figures.declaration import MOST_LINES
from rethinkgen.report.figures.panels import Panel, published_points, spaced
from rethinkgen.report.figures.settings import Line, x_of
from rethinkgen.report.figures.settings import place as place_of
from rethinkgen.report.figures.words import filled
from rethinkgen.report.quantities import chance, facts
from rethinkgen.report.style import DASHED, GREY, PALETTE, SOLID, Dashes, Look
from rethinkgen.run.run import Run

THOUSANDS_FROM = 5000
"""Budget from which steps are counted in thousands, as in the paper."""
MOST_STRETCHED = 3
"""Rows share an axis of steps where the longest budget is at most so many times the shortest."""
NARROW = 3.0
"""An axis whose end is less than so many times its beginning stays linear: a logarithmic one would have one label."""
SINGLE, SEVERAL, IN_ROWS = 3.2, 2.6, 2.2
"""Inches that a panel is high: a single one, one of several side by side, one of several rows."""
NARROWEST, PAGE, BESIDE = 5.6, 7.8, 2.6
"""Inches that a single panel, a figure of several, and a panel with a legend beside its row are wide."""
LEGEND_LINE = 0.18
"""Inches that a line of a legend takes."""
CHANCE_LINE: dict[str, Any] = {"color": GREY, "linewidth": 0.9, "linestyle": (0, (2, 2))}
UPWARDS: dict[str, Any] = {
    "marker": Path([(0, 0), (0, 1), (-0.35, 0.6), (0, 1), (0.35, 0.6)], [1, 2, 1, 2, 2]),
    "markersize": 16,
    "markerfacecolor": "none",
    "markeredgewidth": 1.3,
}
"""An arrow that begins at its point."""
ARROW_ROOM = 1.12
"""How much further than its point an arrow reaches, on most axes."""
OPEN = {"unfitted": ("fit below 99 %", "o"), "published": ("published", "D")}
"""What an open marker means."""


def draw(grid: Sequence[Sequence[Panel]]) -> tuple[Drawing, pd.DataFrame]:
    """Draw panels, a list for each row; return the drawing, and a row for each point in it, in the axes' units."""
    columns = max(map(len, grid))
    has_one_legend = _has_one_legend(grid)
    has_legends_below = len(grid) == 1 and columns > 1 and not has_one_legend
    height = (SINGLE if columns == 1 or has_legends_below else SEVERAL) if len(grid) == 1 else IN_ROWS * len(grid)
    width = NARROWEST if columns == 1 else PAGE
    if len(grid) > 1 and not has_one_legend:
        width = max(BESIDE * columns, NARROWEST - 1.2) + max(
            _legend_width(_labels(entries_of(panel))) for row in grid for panel in row
        )
    drawing = Drawing(figsize=(width, height), layout="constrained")
    axes = drawing.subplots(len(grid), columns, squeeze=False)
    steps = _steps_of_rows(grid)
    tables = []
    for row, places, axis in zip(grid, axes, steps, strict=True):
        for panel, place in zip(row, places, strict=False):
            tables += [
                table
                for table in _draw_panel(
                    place, panel, axis, is_first=panel is row[0], is_last=row is grid[-1] or len(set(steps)) > 1
                )
                if len(table)
            ]
        for place in places[len(row) :]:
            place.remove()
    _share(grid, axes)
    _legends(drawing, grid, axes)
    return drawing, pd.concat(tables, ignore_index=True)


def _draw_panel(axes: Axes, panel: Panel, steps: Steps, *, is_first: bool, is_last: bool) -> list[pd.DataFrame]:
    """Draw into one pair of axes; return what was drawn."""
    KINDS[panel.figure.kind](axes, panel, steps)
    has_one_line = len(panel.lines) == 1 and len(panel.y) > 1
    tables = [
        table.assign(line=panel.figure.labels.get(y, y) if has_one_line else line.label, series=y, **panel.names)
        for line, y, table in panel.tables
    ]
    if panel.figure.kind == "pictures":
        tables = [table.drop(columns=panel.y) for table in tables]
    if panel.figure.published:
        points = published_points(panel)
        for line, x, value in points:
            style: dict[str, Any] = {"markerfacecolor": "white", "markersize": 8, "zorder": 1.5}
            axes.plot(x, value, "D", color=line.look.colour, **style)
        told = {"series": panel.y[0], "kind": "published", **panel.names}
        rows = [{panel.x: x, "mean": value, "line": line.label, **told} for line, x, value in points]
        tables = [table.assign(kind="ours") for table in tables] + [pd.DataFrame(rows)]
    if "chance" in panel.figure.marks:
        for height in chances(panel):
            axes.axhline(height, zorder=1, **CHANCE_LINE)
    _label(axes, panel, steps, is_first=is_first)
    if panel.figure.kind == "curves" and not is_last:
        axes.set_xlabel("")
    return tables


def chances(panel: Panel) -> list[float]:
    """Return what guessing gives of a panel's quantity."""
    found = {chance(run, panel.y[0]) for run in panel.runs if panel.y[0].startswith("test/")}
    scale = facts(panel.y[0]).scale
    return sorted(scale * value for value in found if value is not None)


def _label(axes: Axes, panel: Panel, steps: Steps, *, is_first: bool) -> None:
    """Name the axes, with units and scale, and let them reach as far as their quantities do."""
    figure, y = panel.figure, panel.y[0] if panel.y else ""
    label = _label_of_y(panel)
    is_percent = facts(y).scale == 100 and not figure.relative_to
    low, high = figure.limits.get("y", (None, None) if figure.relative_to else facts(y).limits)
    if figure.kind in ("lines", "curves", "scatter"):
        is_log = (facts(y).is_log and not figure.relative_to) or "y" in figure.log
        label += plain_logarithmic(axes, vertical=True) if is_log else ""
        if not is_log or figure.limits:
            axes.set_ylim(_below(axes) if low is None and is_percent else low, high)
            if high is None and low is not None:
                axes.set_ylim(top=1.05 * axes.dataLim.y1)
        axes.set_ylabel(f"{panel.row}\n{label}" if panel.row and is_first else label)
    if figure.kind == "curves":
        steps.label_axis(axes, is_log="x" in figure.log, first=min(table["step"].min() for _, _, table in panel.tables))
    elif figure.kind in ("lines", "scatter", "histogram"):
        x = panel.x
        names = _names(panel) if figure.kind != "histogram" else []
        is_log = (facts(x).is_log or "x" in figure.log) and not names
        axes.set_xlabel(figure.labels.get(x, facts(x).label) + (plain_logarithmic(axes) if is_log else ""))
        values = sorted({value for _, _, table in panel.tables for value in table[x]}) if is_log else []
        if figure.kind == "lines" and 0 < len(values) <= MOST_LINES:
            axes.xaxis.set_major_locator(FixedLocator(values))
            axes.xaxis.minorticks_off()
        if not is_log and not names:
            axes.set_xlim(*figure.limits.get("x", facts(x).limits if figure.kind == "lines" else (None, None)))
    if panel.title:
        axes.set_title(filled(panel.title, panel))


def _label_of_y(panel: Panel) -> str:
    """Return what the vertical axis is called: its quantity, of several their unit."""
    figure, y = panel.figure, panel.y[0] if panel.y else ""
    if len(panel.y) > 1:
        return figure.labels.get("y", "%" if all(facts(name).scale == 100 for name in panel.y) else "")
    if figure.relative_to and y not in figure.labels:
        ((x, one),) = figure.relative_to.items()
        return f"{facts(y).label.partition(' (')[0]} ({facts(x).label} {one:g}: 1)"
    return figure.labels.get(y, facts(y).label)


def _below(axes: Axes) -> float:
    """Return where an axis of percent begins: the empty part below all that is drawn is left out."""
    return max(-3.0, 10 * ((axes.dataLim.y0 - 1) // 10) - 3) if math.isfinite(axes.dataLim.y0) else -3.0


class Steps:
    """The axis of optimizer steps, in thousands where there are many."""

    def __init__(self, longest: int) -> None:
        self.longest = longest
        self.unit = 1000 if longest >= THOUSANDS_FROM else 1
        self.label = "training steps (thousands)" if self.unit == 1000 else "training steps"
        self.end = max(longest, 1) / self.unit

    def label_axis(self, axes: Axes, *, is_log: bool, first: float) -> None:
        """Name the axis and have it end where the budget does; a logarithmic one begins at the first step drawn."""
        axes.set_xlim(first / self.unit if is_log else 0, self.end)
        axes.set_xlabel(self.label + (plain_logarithmic(axes, is_free=False) if is_log else ""))


def _steps_of_rows(grid: Sequence[Sequence[Panel]]) -> list[Steps]:
    """Return an axis of steps for each row: the same one where their budgets are alike."""
    own = [Steps(max([budget(panel.runs) for panel in row] + [_last_step(panel) for panel in row])) for row in grid]
    shortest, longest = (choose(own, key=lambda axis: axis.longest) for choose in (min, max))
    return [longest] * len(own) if longest.longest <= MOST_STRETCHED * shortest.longest else own


def _last_step(panel: Panel) -> int:
    return max((int(table["step"].max()) for _, _, table in panel.tables if "step" in table), default=0)


def budget(runs: Sequence[Run]) -> int:
    """Return the most optimizer steps that one of the runs took or may take."""
    steps = [0]
    for run in runs:
        asked = None if run.key("max_epochs") is not None else run.key("max_steps")
        logged = [] if run.curves.empty else [run.curves["step"].iloc[-1]]
        steps += [int(value) for value in (run.metrics.get("steps"), *logged) if value is not None]
        # What stopped early does not fill the axis to its budget.
        if isinstance(asked, int) and not run.key("until_fit") and "early_stopping" not in run.regularizers:
            steps.append(asked)
    return max(steps)


def looks_in(panel: Panel) -> dict[tuple[str, str], Look]:
    """Return line, quantity -> look: of one line each quantity has its own, of several the second is dashed."""
    found = {}
    quantities = list(dict.fromkeys(y for _, y, _ in panel.tables))
    for line, y, _ in panel.tables:
        if len(panel.lines) == 1 and len(panel.y) > 1:
            found[line.label, y] = PALETTE[quantities.index(y)]
        elif len(quantities) > 1:
            found[line.label, y] = line.look._replace(dashes=DASHED if quantities.index(y) else SOLID)
        else:
            found[line.label, y] = line.look
    return found


def draw_curves(axes: Axes, panel: Panel, steps: Steps) -> None:
    """Draw a line with a band for each mean; runs told one by one as thin lines, with an open end if not finished."""
    looks = looks_in(panel)
    for line, y, table in panel.tables:
        look = looks[line.label, y]
        for kind, points in table.groupby("kind", sort=False):
            x = points["step"] / steps.unit
            style: dict[str, Any] = {"color": look.colour, "linestyle": look.dashes}
            if kind == "mean":
                every = max(1, len(points) // 7)
                marked: dict[str, Any] = {"marker": look.marker, "markevery": (every // 2, every), "markersize": 3.5}
                axes.plot(x, points["mean"], **style, **marked)
                if points["n"].max() > 1:
                    # Behind the lines, and the axis reaches as far as these: a wide band hides none.
                    extent = axes.dataLim.frozen()
                    axes.fill_between(x, *reach(points), color=look.colour, alpha=0.15, linewidth=0, zorder=1)
                    axes.dataLim.set(extent)
                    axes.autoscale_view()
                continue
            axes.plot(x, points["mean"], **style, linewidth=0.8)
            if not str(kind).endswith("done"):
                axes.plot(
                    x.iloc[-1:], points["mean"].iloc[-1:], "o", color=look.colour, markerfacecolor="white", zorder=3
                )


def draw_lines(axes: Axes, panel: Panel, steps: Steps) -> None:
    """Draw points over settings: means with bars and a line through them, or a marker for each run."""
    looks = looks_in(panel)
    names = list(dict.fromkeys(x for _, _, table in panel.tables for x in table[panel.x] if isinstance(x, str)))
    shifts = (
        np.linspace(-0.25, 0.25, len(panel.lines)) if names and len(panel.lines) > 1 else np.zeros(len(panel.lines))
    )
    for line, y, table in panel.tables:
        look = looks[line.label, y]
        x = table[panel.x].map(names.index) + shifts[panel.lines.index(line)] if names else table[panel.x]
        if panel.figure.spread == "seed":
            draw_points(axes, x, table, look, is_joined=not names)
            continue
        bound = table.get("is_bound", pd.Series(False, table.index)).astype(bool)
        axes.plot(x[~bound], table[y][~bound], look.marker, color=look.colour, alpha=0.75)
        draw_arrows(axes, x[bound], table[y][bound], look.colour)
        if panel.figure.spread == "median":
            medians = table.groupby(panel.x)[y].median()
            axes.plot(medians.index, medians, color=look.colour, linestyle=look.dashes)
    if names:
        _name_axis(axes, names)


def draw_points(axes: Axes, x: Any, table: pd.DataFrame, look: Look, *, is_joined: bool = True) -> None:
    """Draw a line through means with error bars; columns ``mean``, ``std``, ``is_open`` and ``is_bound``.

    An open marker where ``is_open``; an arrow upwards, and no error bar, where the value is only bounded from below.
    """
    bound = table["is_bound"].astype(bool)
    if is_joined:
        axes.plot(x, table["mean"], color=look.colour, linestyle=look.dashes, zorder=2)
    has_spread = table["low"].notna() & ~bound
    if has_spread.any():
        bars: dict[str, Any] = {"fmt": "none", "ecolor": look.colour, "elinewidth": 0.9, "capsize": 2}
        means = table["mean"][has_spread]
        low, high = (end[has_spread] for end in reach(table))
        axes.errorbar(x[has_spread], means, (means - low, high - means), **bars)
    for is_open in (False, True):
        of_it = ~bound & (table["is_open"].astype(bool) == is_open)
        if of_it.any():
            face = "white" if is_open else look.colour
            axes.plot(x[of_it], table["mean"][of_it], look.marker, color=look.colour, markerfacecolor=face, zorder=3)
    draw_arrows(axes, x[bound], table["mean"][bound], look.colour)


def reach(table: pd.DataFrame) -> tuple[pd.Series[float], pd.Series[float]]:
    """Return from where to where a band or bar is drawn: a 95 % interval, or of two values from one to the other.

    The interval of two is thirteen times as wide, and would hide all else. It is in the CSV.
    """
    half = (0.5**0.5 * table["std"]).where(table["n"] == 2, table["high"] - table["mean"])
    return table["mean"] - half, table["mean"] + half


def draw_arrows(axes: Axes, x: Any, y: Any, colour: str) -> None:
    """Mark values that are only known to be larger, or not reached within the budget."""
    if len(y):
        axes.plot(x, y, color=colour, linestyle="none", zorder=4, **UPWARDS)
        # Room for the arrows above the highest of them.
        axes.update_datalim([(axes.dataLim.x1, ARROW_ROOM * float(np.max(y)))])
        axes.autoscale_view()


def draw_scatter(axes: Axes, panel: Panel, steps: Steps) -> None:
    """Draw an open marker for each run, or each row of a table; above names, side by side."""
    names = _names(panel)
    markers = list(dict.fromkeys(line.look.marker for line in panel.lines))
    shifts = np.linspace(-0.25, 0.25, len(markers)) if len(markers) > 1 else np.zeros(1)
    for line, y, table in panel.tables:
        style: dict[str, Any] = {"color": line.look.colour, "linestyle": "none", "markerfacecolor": "none"}
        x = table[panel.x].map(names.index) + shifts[markers.index(line.look.marker)] if names else table[panel.x]
        bound = table.get("is_bound", pd.Series(False, table.index)).astype(bool)
        axes.plot(x[~bound], table[y][~bound], marker=line.look.marker, markeredgewidth=1.1, **style)
        draw_arrows(axes, x[bound], table[y][bound], line.look.colour)
    if names:
        _name_axis(axes, names)


def _names(panel: Panel, quantity: str = "") -> list[str]:
    """Return the names that stand along x, or another axis, in their order; none where it is of numbers."""
    quantity = quantity or panel.x
    found = dict.fromkeys(x for _, _, table in panel.tables for x in table[quantity] if isinstance(x, str))
    ordered = dict.fromkeys(x_of(run, quantity) for run in sorted(panel.runs, key=place_of))
    return sorted(found, key=list(ordered).index) if set(found) <= set(ordered) else list(found)


def _name_axis(axes: Axes, names: Sequence[str]) -> None:
    axes.set_xticks(range(len(names)), names, rotation=30, ha="right", rotation_mode="anchor")
    axes.set_xlim(-0.6, len(names) - 0.4)


def draw_histogram(axes: Axes, panel: Panel, steps: Steps) -> None:
    """Draw how often values occur, in bins that all lines share."""
    values = [table[panel.x].to_numpy(float) for _, _, table in panel.tables]
    bins = np.histogram_bin_edges(np.concatenate(values), bins="auto")
    axes.hist(values, bins=bins.tolist(), color=[line.look.colour for line, _, _ in panel.tables])
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel("runs" if panel.figure.of == "runs" else "count")


def draw_heatmap(axes: Axes, panel: Panel, steps: Steps) -> None:
    """Draw a field for each x and y, with the mean of the value in colour and number."""
    figure, y = panel.figure, panel.y[0]
    table = pd.concat([part for _, _, part in panel.tables])
    means = table.pivot_table(index=y, columns=panel.x, values=figure.value, aggfunc="mean", sort=True)
    means = means.reindex(index=_names(panel, y) or means.index, columns=_names(panel) or means.columns)
    image = axes.imshow(means.to_numpy(), aspect="auto", cmap="viridis", origin="lower")
    axes.grid(visible=False)
    axes.set_xticks(range(len(means.columns)), map(_short, means.columns), rotation=30, ha="right")
    axes.set_yticks(range(len(means.index)), map(_short, means.index))
    axes.set_xlabel(figure.labels.get(panel.x, facts(panel.x).label))
    axes.set_ylabel(figure.labels.get(y, facts(y).label))
    bar = axes.figure.colorbar(image, ax=axes)
    bar.set_label(figure.labels.get(str(figure.value), facts(str(figure.value)).label))
    if means.size <= 150:
        middle = np.nanmean([np.nanmin(means), np.nanmax(means)])
        for (place, at), number in np.ndenumerate(means.to_numpy()):
            if not math.isnan(number):
                colour = "white" if number < middle else "black"
                axes.text(at, place, f"{number:.3g}", ha="center", va="center", color=colour, fontsize=7)


def draw_pictures(axes: Axes, panel: Panel, steps: Steps) -> None:
    """Draw images (H, W) or (H, W, C) side by side, with their ``value`` below."""
    ((_, y, table),) = panel.tables
    columns = math.ceil(math.sqrt(2 * len(table)))
    axes.axis("off")
    for number, (_, row) in enumerate(table.iterrows()):
        high, wide = 1 / math.ceil(len(table) / columns), 1 / columns
        place = axes.inset_axes((wide * (number % columns), 1 - high * (number // columns + 1), 0.9 * wide, 0.8 * high))
        place.imshow(np.asarray(row[y]), cmap="gray", interpolation="nearest")
        place.axis("off")
        if panel.figure.value is not None:
            place.set_title(_short(row[panel.figure.value]), fontsize=7)


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)


KINDS: dict[str, Callable[[Axes, Panel, Steps], None]] = {
    "lines": draw_lines,
    "curves": draw_curves,
    "scatter": draw_scatter,
    "histogram": draw_histogram,
    "heatmap": draw_heatmap,
    "pictures": draw_pictures,
}


def plain_logarithmic(axes: Axes, *, vertical: bool = False, is_free: bool = True) -> str:
    """Make an axis logarithmic, with plain numbers, unless it is too short; return what its label says of that.

    ``is_free``: nothing else says where it begins and ends.
    """
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
    # A decade has room for more labels the fewer there are; the axis ends at labels, whatever lies between.
    steps = (1.0, 2.0, 3.0, 5.0, 7.0) if high / low < 10 else (1.0, 2.0, 5.0) if high / low < 300 else (1.0,)
    locator = LogLocator(subs=steps)
    labels = locator.tick_values(low / 10, 10 * high)
    if is_free:
        begin, end = labels[labels <= low].max(initial=labels[0]), labels[labels >= high].min(initial=labels[-1])
        (axes.set_ylim if vertical else axes.set_xlim)(0.9 * begin, 1.1 * end)
    axis.set_major_locator(locator)
    axis.set_major_formatter(numbers)
    axis.set_minor_formatter(NullFormatter())
    return ", logarithmic"


def _share(grid: Sequence[Sequence[Panel]], axes: Any) -> None:
    """Let panels of one quantity and unit, side by side, have the same vertical axis."""
    for row, places in zip(grid, axes, strict=True):
        labels = {place.get_ylabel().rpartition("(")[2] for place in places[: len(row)]}
        if len(row) > 1 and len(labels) == 1 and "(%)" in places[0].get_ylabel():
            low = min(place.get_ylim()[0] for place in places[: len(row)])
            for place in places[: len(row)]:
                place.set_ylim(low, place.get_ylim()[1])


def _legends(drawing: Drawing, grid: Sequence[Sequence[Panel]], axes: Any) -> None:
    """Put one legend below all panels where they have the same lines, else one beside each row or below each panel."""
    entries = [[entries_of(panel) for panel in row] for row in grid]
    merged = {str(handle.get_label()): handle for row in entries for panel in row for handle in panel}
    if _has_one_legend(grid):
        _legend_below(drawing, list(merged.values()))
        return
    for row, places in zip(entries, axes, strict=True):
        if len(grid) > 1:
            of_row = {str(handle.get_label()): handle for panel in row for handle in panel}
            beside: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1.02, 0.5), "borderaxespad": 0.0}
            places[len(row) - 1].legend(handles=list(of_row.values()), **beside)
            continue
        for panel, place in zip(row, places, strict=True):
            columns = max(1, int(PAGE / len(row) / _legend_width(_labels(panel))))
            below: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.24), "borderaxespad": 0.0}
            place.legend(handles=panel, ncols=columns, **below)


def _has_one_legend(grid: Sequence[Sequence[Panel]]) -> bool:
    """Whether what stands in the first panel explains all others, but for what marks mean."""
    first, *others = [
        {str(entry.get_label()): (entry.get_color(), entry.get_marker()) for entry in entries_of(panel)}
        for row in grid
        for panel in row
    ]
    return all(first.get(name) == look or name in SHARED for other in others for name, look in other.items())


SHARED = {"chance", "not all fitted: at least this", *(text for text, _ in OPEN.values())}


def _labels(handles: Sequence[Line2D]) -> list[str]:
    return [str(handle.get_label()) for handle in handles]


def _legend_width(labels: Sequence[str]) -> float:
    """Return about how many inches a column of a legend takes."""
    return 0.55 + 0.068 * max(map(len, labels), default=0)


def _legend_below(drawing: Drawing, handles: Sequence[Line2D]) -> None:
    """Put a legend below all panels, in as many columns as fit; the figure grows by it."""
    if not handles:
        return
    most = max(1, min(len(handles), int(drawing.get_figwidth() / _legend_width(_labels(handles)))))
    columns = -(-len(handles) // -(-len(handles) // most))
    drawing.set_figheight(drawing.get_figheight() + LEGEND_LINE * -(-len(handles) // columns))
    drawing.legend(handles=list(handles), loc="outside lower center", ncols=columns)


def entries_of(panel: Panel) -> list[Line2D]:
    """Return a legend's entries for what stands in a panel."""
    figure, tables = panel.figure, [table for _, _, table in panel.tables]
    if figure.kind in ("heatmap", "pictures") or (len(panel.lines) == 1 and not panel.lines[0].label):
        return []
    found = _line_entries(panel)
    if "chance" in figure.marks and chances(panel):
        found.append(Line2D([], [], label="chance", **CHANCE_LINE))
    if figure.published and published_points(panel):
        found.append(_hollow(*OPEN["published"]))
    if any(table["is_open"].any() for table in tables if "is_open" in table):
        found.append(_hollow(*OPEN["unfitted"]))
    if any(table["is_bound"].any() for table in tables if "is_bound" in table):
        found.append(Line2D([], [], color=GREY, linestyle="none", label="not all fitted: at least this", **UPWARDS))
    return found


def _line_entries(panel: Panel) -> list[Line2D]:
    looks, figure = looks_in(panel), panel.figure
    if len(panel.lines) == 1 and len(panel.y) > 1:
        return [
            Line2D([], [], color=look.colour, linestyle=look.dashes, marker=look.marker, label=figure.labels.get(y, y))
            for (_, y), look in looks.items()
        ]
    if figure.kind == "scatter":
        return _cloud_entries(panel)
    is_dashed = figure.kind != "lines" or figure.spread == "seed"
    found = [
        Line2D(
            [],
            [],
            color=line.look.colour,
            linestyle=_dashes(line, panel) if is_dashed else "none",
            marker=line.look.marker,
            label=line.label,
        )
        for line in panel.lines
    ]
    if len(panel.y) > 1:
        styles = zip(panel.y, (SOLID, DASHED), strict=False)
        found += [Line2D([], [], color=GREY, linestyle=dashes, label=facts(y).label) for y, dashes in styles]
    if figure.best:
        found.append(
            Line2D(
                [],
                [],
                color="#444444",
                linestyle=DASHED,
                label=f"oracle: best {facts(figure.best).label.partition(' (')[0]} so far",
            )
        )
    return found


def _dashes(line: Line, panel: Panel) -> Dashes:
    return SOLID if len({y for _, y, _ in panel.tables}) > 1 else line.look.dashes


def _cloud_entries(panel: Panel) -> list[Line2D]:
    """Return an entry for each colour, and where they say something else one for each marker."""
    figure = panel.figure
    if not figure.shape or figure.shape == figure.series:
        style: dict[str, Any] = {"linestyle": "none", "markerfacecolor": "none"}
        return [
            Line2D([], [], color=line.look.colour, marker=line.look.marker, label=line.label, **style)
            for line in panel.lines
        ]
    colours = {line.label.partition(", ")[0]: line.look.colour for line in panel.lines}
    markers = {line.label.rpartition(", ")[2]: line.look.marker for line in panel.lines}
    named = spaced(list(colours), MOST_LINES) if panel.x != figure.series else []
    grey: dict[str, Any] = {"color": GREY, "linestyle": "none", "markerfacecolor": "none"}
    return [
        *(Line2D([], [], color=colours[name], linewidth=5, label=name) for name in named),
        *(Line2D([], [], marker=marker, label=name, **grey) for name, marker in markers.items()),
    ]


def _hollow(label: str, marker: str) -> Line2D:
    return Line2D([], [], color=GREY, marker=marker, markerfacecolor="white", linestyle="none", label=label)
