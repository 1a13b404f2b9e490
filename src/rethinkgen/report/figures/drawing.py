"""How panels are drawn: one function for each kind of figure, and the parts that they share."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.lines import Line2D
from matplotlib.path import Path
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, MaxNLocator, NullFormatter

from rethinkgen.numbers import shown as shown_number
from rethinkgen.report.figures.declaration import MOST_LINES
from rethinkgen.report.figures.panels import Grid, Panel, published_points, spaced
from rethinkgen.report.figures.settings import place as place_of
from rethinkgen.report.figures.words import filled
from rethinkgen.report.style import DASHED, GREY, PALETTE, SOLID, Look
from rethinkgen.run.quantities import chance
from rethinkgen.run.settings import x_of

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
MOST_NUMBERS = 150
"""In a heat map; in more fields they stand only where there are few columns, side by side in high maps."""
NUM_COLOURS = 64
"""Of a heat map, each of which is a shape beside every map: four times as many are told apart by nobody."""
SMALL = 0.1
"""In a heat map, numbers below it have two digits, for room."""
FIELD, ROUND_FIELDS = (0.36, 0.19), 1.2
"""Inches that a field of a heat map is wide and high at least, for a number in it; and what stands around all."""
BESIDE_MAPS = 3.4
"""Inches that a panel of another kind is wide beside them."""
CHANCE: dict[str, Any] = {"color": GREY, "linewidth": 0.9, "linestyle": (0, (2, 2)), "label": "chance"}
HOLLOW: dict[str, Any] = {"color": GREY, "linestyle": "none", "markerfacecolor": "white"}
UPWARDS: dict[str, Any] = {
    "marker": Path([(0, 0), (0, 1), (-0.35, 0.6), (0, 1), (0.35, 0.6)], [1, 2, 1, 2, 2]),
    "linestyle": "none",
    "markersize": 16,
    "markerfacecolor": "none",
    "markeredgewidth": 1.3,
}
"""An arrow that begins at its point."""
ARROW_ROOM = 1.12
"""How much further than its point an arrow reaches, on most axes."""
MARKS = {
    "chance": CHANCE,
    "published": {**HOLLOW, "marker": "D"},
    "fit below 99 %": {**HOLLOW, "marker": "o"},
    "not all fitted: at least this": {"color": GREY, **UPWARDS},
}
"""What stands in a legend below the lines: grey, and the same in every panel."""


def draw(grid: Grid) -> Drawing:
    """Draw panels, a list for each row."""
    columns = max(map(len, grid))
    drawing = Drawing(layout="constrained")
    heights, widths = _sizes(grid)
    ratios: dict[str, Any] = {"height_ratios": heights} | ({"width_ratios": widths} if widths else {})
    axes = drawing.subplots(len(grid), columns, squeeze=False, **ratios)
    ends = [max(map(_last_step, row)) for row in grid]
    has_one_axis = max(ends) <= MOST_STRETCHED * min(ends)
    for row, places, end in zip(grid, axes, ends, strict=True):
        for panel, place in zip(row, places, strict=False):
            KINDS[panel.figure.kind](place, panel)
            _mark(place, panel)
            _label(place, panel, max(ends) if has_one_axis else end)
            if panel.row and panel is row[0]:
                place.set_ylabel(f"{panel.row}\n{place.get_ylabel()}")
            if panel.figure.kind == "curves" and has_one_axis and row is not grid[-1]:
                place.set_xlabel("")
        maps = [place for panel, place in zip(row, places, strict=False) if panel.figure.kind == "heatmap"]
        for place in [place for place in maps[1:] if _ticks(place) == _ticks(maps[0])]:
            place.tick_params(labelleft=False)
            place.set_ylabel("")
        for place in places[len(row) :]:
            place.remove()
        _share(places[: len(row)])
    keys = [[_keys(place) for place in places[: len(row)]] for row, places in zip(grid, axes, strict=True)]
    drawing.set_size_inches(max(NARROWEST if columns == 1 else PAGE, sum(widths)), sum(heights))
    _legends(drawing, keys, axes)
    return drawing


def _sizes(grid: Grid) -> tuple[list[float], list[float]]:
    """Return how many inches each row is high and, where there are heat maps, each column is wide."""
    lowest = SINGLE if len(grid) == max(map(len, grid)) == 1 else SEVERAL if len(grid) == 1 else IN_ROWS
    fields = [max(_num_fields(panel, panel.y[0]) for panel in row) for row in grid]
    heights = [max(lowest, ROUND_FIELDS + FIELD[1] * number) for number in fields]
    if not any(fields):
        return heights, []
    columns = [[row[place] for row in grid if place < len(row)] for place in range(max(map(len, grid)))]
    wide = [max(_num_fields(panel, panel.x) for panel in column) for column in columns]
    return heights, [ROUND_FIELDS + FIELD[0] * number if number else BESIDE_MAPS for number in wide]


def _num_fields(panel: Panel, quantity: str) -> int:
    if panel.figure.kind != "heatmap":
        return 0
    return len({value for _, _, table in panel.tables for value in table[quantity]})


def _ticks(axes: Axes) -> list[str]:
    return [label.get_text() for label in axes.get_yticklabels()]


def _mark(axes: Axes, panel: Panel) -> None:
    """Draw what stands beside our numbers, and say in the legend what marks mean."""
    marks = []
    if "chance" in panel.figure.marks and panel.y[0].startswith("test/"):
        found = {chance(run, panel.y[0]) for run in panel.runs} - {None}
        for value in sorted(filter(None, found)):
            axes.axhline(panel.facts(panel.y[0]).scale * value, zorder=1, **CHANCE)
    if panel.figure.published and (points := published_points(panel)):
        marks.append("published")
        for line, x, value in points:
            axes.plot(x, value, "D", color=line.look.colour, markerfacecolor="white", markersize=8, zorder=1.5)
    marks += ["fit below 99 %"] if panel.has("is_open") else []
    marks += ["not all fitted: at least this"] if panel.has("is_bound") and panel.figure.kind != "heatmap" else []
    for name in marks:
        axes.plot([], [], label=name, **MARKS[name])


def _label(axes: Axes, panel: Panel, end: int) -> None:
    """Name the axes, with units and scale, and let them reach as far as their quantities do."""
    figure, x, y = panel.figure, panel.x, panel.y[0] if panel.y else ""
    if figure.kind in ("lines", "curves", "scatter"):
        low, high = figure.limits.get("y", (None, None) if figure.relative_to else panel.facts(y).limits)
        is_log = (panel.facts(y).is_log and not figure.relative_to) or "y" in figure.log
        axes.set_ylabel(_label_of_y(panel) + (plain_logarithmic(axes, vertical=True) if is_log else ""))
        if not is_log or figure.limits:
            is_percent = panel.facts(y).scale == 100 and not figure.relative_to
            axes.set_ylim(_below(axes) if low is None and is_percent else low, high)
            if high is None and low is not None:
                axes.set_ylim(top=1.05 * axes.dataLim.y1)
    if figure.kind == "curves":
        first = min(table["step"].min() for _, _, table in panel.tables)
        # A logarithmic axis has no place for what was looked at before the first step.
        is_log = "x" in figure.log and first > 0
        axes.set_xlim(first if is_log else 0, max(end, 1))
        axes.set_xlabel("training steps" + (plain_logarithmic(axes, is_free=False) if is_log else ""))
        if not is_log:
            axes.xaxis.set_major_formatter(IN_THOUSANDS if end >= THOUSANDS_FROM else PLAIN)
            axes.xaxis.set_major_locator(MaxNLocator(5))
    elif figure.kind in ("lines", "scatter", "histogram"):
        names = _names(panel, x) if figure.kind != "histogram" else []
        is_log = (panel.facts(x).is_log or "x" in figure.log) and not names
        axes.set_xlabel(figure.labels.get(x, panel.facts(x).label) + (plain_logarithmic(axes) if is_log else ""))
        values = sorted({value for _, _, table in panel.tables for value in table[x]}) if is_log else []
        if figure.kind == "lines" and 0 < len(values) <= MOST_LINES:
            axes.xaxis.set_major_locator(FixedLocator(values))
            axes.xaxis.minorticks_off()
        if not is_log and not names:
            if all(table[x].dtype.kind in "iu" for _, _, table in panel.tables):
                axes.xaxis.set_major_locator(MaxNLocator(integer=True))
            axes.set_xlim(*figure.limits.get("x", panel.facts(x).limits if figure.kind == "lines" else (None, None)))
    if panel.title:
        axes.set_title(filled(panel.title, panel))


def _label_of_y(panel: Panel) -> str:
    """Return what the vertical axis is called: its quantity, of several their unit."""
    figure, y = panel.figure, panel.y[0]
    if len(panel.y) > 1:
        return figure.labels.get("y", "%" if all(panel.facts(name).scale == 100 for name in panel.y) else "")
    if figure.relative_to and y not in figure.labels:
        ((x, one),) = figure.relative_to.items()
        return f"{panel.facts(y).label.partition(' (')[0]} ({panel.facts(x).label} {one:g}: 1)"
    return figure.labels.get(y, panel.facts(y).label)


def _below(axes: Axes) -> float:
    """Return where an axis of percent begins: the empty part below all that is drawn is left out."""
    return max(-3.0, 10 * ((axes.dataLim.y0 - 1) // 10) - 3) if math.isfinite(axes.dataLim.y0) else -3.0


def _last_step(panel: Panel) -> int:
    """Return the most optimizer steps that one of the runs took or may take."""
    steps = [0, *(table["step"].max() for _, _, table in panel.tables if "step" in table)]
    for run in panel.runs:
        asked = None if run.key("max_epochs") is not None else run.key("max_steps")
        # What stopped early does not fill the axis to its budget.
        is_full = isinstance(asked, int) and not run.key("until_fit") and "early_stopping" not in run.regularizers
        logged = run.curves["step"].max() if len(run.curves) else 0
        steps += [run.metrics.get("steps") or 0, logged, asked if is_full else 0]
    return int(max(steps))


def looks_in(panel: Panel) -> list[Look]:
    """Return the look of each table: of one line each quantity has its own, of several the second is dashed."""
    quantities = list(dict.fromkeys(y for _, y, _ in panel.tables))
    if len(quantities) == 1:
        return [line.look for line, _, _ in panel.tables]
    if len(panel.lines) == 1 and len(panel.y) > 1:
        return [PALETTE[quantities.index(y)] for _, y, _ in panel.tables]
    return [line.look._replace(dashes=DASHED if quantities.index(y) else SOLID) for line, y, _ in panel.tables]


def _key_of_lines(axes: Axes, panel: Panel, *, is_joined: bool = True) -> None:
    """Have an entry in the legend for each line and, where there are several of each, for what dashes tell."""
    figure, has_one_line = panel.figure, len(panel.lines) == 1 and len(panel.y) > 1
    for (line, y, _), look in zip(panel.tables, looks_in(panel), strict=True):
        if y == panel.tables[0][1] or has_one_line:
            style: Any = {
                "color": look.colour,
                "marker": look.marker,
                "linestyle": look.dashes if is_joined else "none",
            }
            axes.plot([], [], label=figure.labels.get(y, y) if has_one_line else line.label, **style)
    if len(panel.y) > 1 and not has_one_line:
        for y, dashes in zip(panel.y, (SOLID, DASHED), strict=False):
            axes.plot([], [], label=panel.facts(y).label, color=GREY, linestyle=dashes)
    if figure.best:
        label = f"oracle: best {panel.facts(figure.best).label.partition(' (')[0]} so far"
        axes.plot([], [], label=label, color="#444444", linestyle=DASHED)


def draw_curves(axes: Axes, panel: Panel) -> None:
    """Draw a line with a band for each mean; runs told one by one as thin lines, with an open end if not finished."""
    for (_, _, table), look in zip(panel.tables, looks_in(panel), strict=True):
        style: dict[str, Any] = {"color": look.colour, "linestyle": look.dashes}
        for kind, points in table.groupby("kind", sort=False):
            x, mean = points["step"], points["mean"]
            if kind != "mean":
                axes.plot(x, mean, **style, linewidth=0.8)
                if not str(kind).endswith("done"):
                    axes.plot(x.iloc[-1:], mean.iloc[-1:], "o", color=look.colour, markerfacecolor="white", zorder=3)
                continue
            every = max(1, len(points) // 7)
            axes.plot(x, mean, **style, marker=look.marker, markevery=(every // 2, every), markersize=3.5)
            if points["n"].max() > 1:
                # Behind the lines, and the axis reaches as far as these: a wide band hides none.
                extent = axes.dataLim.frozen()
                axes.fill_between(x, *reach(points), color=look.colour, alpha=0.15, linewidth=0, zorder=1)
                axes.dataLim.set(extent)
                axes.autoscale_view()
    _key_of_lines(axes, panel)


def draw_lines(axes: Axes, panel: Panel) -> None:
    """Draw points over settings: means with bars and a line through them, or a marker for each run."""
    names, is_mean, count = _names(panel, panel.x), panel.figure.spread == "seed", len(panel.lines)
    shifts = np.linspace(-0.25, 0.25, count) if names and count > 1 else np.zeros(count)
    for (line, y, table), look in zip(panel.tables, looks_in(panel), strict=True):
        x = table[panel.x].map(names.index) + shifts[panel.lines.index(line)] if names else table[panel.x]
        if is_mean:
            draw_points(axes, x, table, look, is_joined=not names)
        else:
            draw_runs(axes, x, table[y], _is_bound(table), look, alpha=0.75)
        if panel.figure.spread == "median":
            medians = table[y].groupby(x).median()
            axes.plot(medians.index, medians, color=look.colour, linestyle=look.dashes)
    _key_of_lines(axes, panel, is_joined=is_mean)
    _name_axis(axes, names)


def draw_runs(axes: Axes, x: Any, y: Any, bound: Any, look: Look, **style: Any) -> None:
    """Draw a marker for each run, an arrow for what was not reached."""
    axes.plot(x[~bound], y[~bound], marker=look.marker, color=look.colour, linestyle="none", **style)
    draw_arrows(axes, x[bound], y[bound], look.colour)


def draw_points(axes: Axes, x: Any, table: pd.DataFrame, look: Look, *, is_joined: bool) -> None:
    """Draw a line through means with error bars; columns ``mean``, ``std``, ``is_open`` and ``is_bound``.

    An open marker where ``is_open``; an arrow upwards, and no error bar, where the value is only bounded from below.
    """
    bound, mean = _is_bound(table), table["mean"]
    if is_joined:
        axes.plot(x, mean, color=look.colour, linestyle=look.dashes, zorder=2)
    has_spread = table["low"].notna() & ~bound
    if has_spread.any():
        low, high = (end[has_spread] for end in reach(table))
        ends = (mean[has_spread] - low, high - mean[has_spread])
        axes.errorbar(x[has_spread], mean[has_spread], ends, fmt="none", ecolor=look.colour, elinewidth=0.9, capsize=2)
    for is_open, face in ((False, look.colour), (True, "white")):
        of_it = ~bound & (table["is_open"].astype(bool) == is_open)
        if of_it.any():
            axes.plot(x[of_it], mean[of_it], look.marker, color=look.colour, markerfacecolor=face, zorder=3)
    draw_arrows(axes, x[bound], mean[bound], look.colour)


def _is_bound(table: pd.DataFrame) -> pd.Series[bool]:
    return table.get("is_bound", pd.Series(False, table.index)).astype(bool)


def reach(table: pd.DataFrame) -> tuple[pd.Series[float], pd.Series[float]]:
    """Return from where to where a band or bar is drawn: a 95 % interval, or of two values from one to the other.

    The interval of two is thirteen times as wide, and would hide all else. It is in the CSV.
    """
    half = (0.5**0.5 * table["std"]).where(table["n"] == 2, table["high"] - table["mean"])
    return table["mean"] - half, table["mean"] + half


def draw_arrows(axes: Axes, x: Any, y: Any, colour: str) -> None:
    """Mark values that are only known to be larger, or not reached within the budget."""
    if len(y):
        axes.plot(x, y, color=colour, zorder=4, **UPWARDS)
        # Room for the arrows above the highest of them.
        axes.update_datalim([(axes.dataLim.x1, ARROW_ROOM * float(np.max(y)))])
        axes.autoscale_view()


def draw_scatter(axes: Axes, panel: Panel) -> None:
    """Draw an open marker for each run, or each row of a table; above names, side by side."""
    figure, names = panel.figure, _names(panel, panel.x)
    markers = {line.label.rpartition(", ")[2]: line.look.marker for line in panel.lines}
    shapes = list(dict.fromkeys(markers.values()))
    shifts = np.linspace(-0.25, 0.25, len(shapes)) if len(shapes) > 1 else [0.0]
    for line, y, table in panel.tables:
        x = table[panel.x].map(names.index) + shifts[shapes.index(line.look.marker)] if names else table[panel.x]
        draw_runs(axes, x, table[y], _is_bound(table), line.look, markerfacecolor="none", markeredgewidth=1.1)
    _name_axis(axes, names)
    style: dict[str, Any] = {"linestyle": "none", "markerfacecolor": "none"}
    if not figure.shape or figure.shape == figure.series:
        for line in panel.lines:
            axes.plot([], [], label=line.label, marker=line.look.marker, color=line.look.colour, **style)
        return
    colours = {line.label.partition(", ")[0]: line.look.colour for line in panel.lines}
    for name in spaced(list(colours), MOST_LINES) if panel.x != figure.series else []:
        axes.plot([], [], label=name, color=colours[name], linewidth=5)
    for name, marker in markers.items():
        axes.plot([], [], label=name, marker=marker, color=GREY, **style)


def _names(panel: Panel, quantity: str) -> list[str]:
    """Return the names that stand along an axis, in their order; none where it is of numbers."""
    found = dict.fromkeys(x for _, _, table in panel.tables for x in table[quantity] if isinstance(x, str))
    ordered = dict.fromkeys(x_of(run, quantity) for run in sorted(panel.runs, key=place_of))
    return sorted(found, key=list(ordered).index) if set(found) <= set(ordered) else list(found)


def _name_axis(axes: Axes, names: Sequence[str]) -> None:
    if names:
        axes.set_xticks(range(len(names)), names, rotation=30, ha="right", rotation_mode="anchor")
        axes.set_xlim(-0.6, len(names) - 0.4)


def draw_histogram(axes: Axes, panel: Panel) -> None:
    """Draw how often values occur, in bins that all lines share."""
    values = [table[panel.x].to_numpy(float) for _, _, table in panel.tables]
    bins = np.histogram_bin_edges(np.concatenate(values), bins="auto").tolist()
    axes.hist(values, bins=bins, color=[line.look.colour for line, _, _ in panel.tables])
    for line in panel.lines:
        axes.plot([], [], label=line.label, color=line.look.colour, linewidth=5)
    axes.yaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel("runs" if panel.figure.of == "runs" else "count")


def draw_heatmap(axes: Axes, panel: Panel) -> None:
    """Draw a field for each x and y: the mean in colour and number; one that was not always reached, without colour."""
    figure, x, y, value = panel.figure, panel.x, panel.y[0], str(panel.figure.value)
    table = pd.concat([part for _, _, part in panel.tables])
    table["is_bound"] = _is_bound(table)
    fields = table.groupby([y, x])
    mean = fields[value].mean().unstack()
    rows, columns = _names(panel, y) or mean.index, _names(panel, x) or mean.columns
    means = mean.reindex(index=rows, columns=columns).to_numpy(float)
    bound = fields["is_bound"].any().unstack().reindex(index=rows, columns=columns).eq(True).to_numpy(bool)
    shown = np.where(bound, np.nan, means)
    # As shapes, not as an image: sharp at any size.
    low, high = figure.limits.get("value", (None, None))
    places = np.arange(len(columns)), np.arange(len(rows))
    colours = colormaps["viridis"].resampled(NUM_COLOURS)
    mesh = axes.pcolormesh(*places, shown, cmap=colours, shading="nearest", vmin=low, vmax=high)
    axes.grid(visible=False)
    axes.set_xticks(range(len(columns)), map(_short, columns), rotation=30, ha="right")
    axes.set_yticks(range(len(rows)), map(_short, rows))
    if _names(panel, y):
        axes.invert_yaxis()  # names are read from above
    axes.set_xlabel(figure.labels.get(x, panel.facts(x).label))
    axes.set_ylabel(figure.labels.get(y, panel.facts(y).label))
    bar = axes.figure.colorbar(mesh, ax=axes, label=figure.labels.get(value, panel.facts(value).label))
    assert bar.solids is not None
    bar.solids.set(rasterized=False, edgecolor="face")
    middle = sum(mesh.get_clim()) / 2 if np.isfinite(shown).any() else math.inf
    has_numbers = means.size <= MOST_NUMBERS or len(columns) <= MOST_NUMBERS / 15
    for (at_y, at_x), number in np.ndenumerate(means) if has_numbers else ():
        if not math.isnan(number):
            colour = "white" if not bound[at_y, at_x] and number < middle else "black"
            digits = f"{number:.2g}" if 0 < abs(number) < SMALL else shown_number(number)
            text = f"{'≥ ' if bound[at_y, at_x] else ''}{digits}"
            axes.text(at_x, at_y, text, ha="center", va="center", color=colour, fontsize=7)


def draw_pictures(axes: Axes, panel: Panel) -> None:
    """Draw images (H, W) or (H, W, C) side by side, with their ``value`` below; of several lines one below another."""
    # Without an axis, but with its name: that of its row.
    axes.set(xticks=[], yticks=[])
    axes.spines[:].set_visible(False)
    share = 1 / len(panel.tables)
    for number, (line, y, table) in enumerate(panel.tables):
        band = axes
        if len(panel.tables) > 1:
            band = axes.inset_axes((0, 1 - share * (number + 1), 1, 0.88 * share))
            band.axis("off")
            band.set_title(line.label, loc="left", fontsize=8)
        # Of several runs of a setting those of one.
        _draw_images(band, table[table["run"] == table["run"].iloc[0]] if "run" in table else table, y, panel)


def _draw_images(axes: Axes, table: pd.DataFrame, y: str, panel: Panel) -> None:
    columns = math.ceil(math.sqrt(2 * len(panel.tables) * len(table)))
    high, wide = 1 / math.ceil(len(table) / columns), 1 / columns
    for number, (_, row) in enumerate(table.iterrows()):
        place = axes.inset_axes((wide * (number % columns), 1 - high * (number // columns + 1), 0.9 * wide, 0.8 * high))
        place.imshow(np.asarray(row[y]), cmap="gray", interpolation="nearest")
        place.axis("off")
        if panel.figure.value is not None:
            place.set_title(_short(row[panel.figure.value]), fontsize=7)


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, int | float) else str(value)


KINDS: dict[str, Callable[[Axes, Panel], None]] = {
    "lines": draw_lines,
    "curves": draw_curves,
    "scatter": draw_scatter,
    "histogram": draw_histogram,
    "heatmap": draw_heatmap,
    "pictures": draw_pictures,
}
PLAIN = FuncFormatter(lambda value, _: f"{value:,.0f}" if value >= 1 else f"{value:g}")
IN_THOUSANDS = FuncFormatter(lambda value, _: f"{value / 1000:g}k" if value else "0")


def plain_logarithmic(axes: Axes, *, vertical: bool = False, is_free: bool = True) -> str:
    """Make an axis logarithmic, with plain numbers, unless it is too short; return what its label says of that.

    ``is_free``: nothing else says where it begins and ends.
    """
    axis: Any = axes.yaxis if vertical else axes.xaxis
    low, high = axes.dataLim.intervaly if vertical else axes.dataLim.intervalx
    if low > 0 and high < NARROW * low:
        axis.set_major_formatter(PLAIN)
        return ""
    axes.set(**{"yscale" if vertical else "xscale": "log"})
    # A decade has room for more labels the fewer there are; the axis ends at labels, whatever lies between.
    steps = (1.0, 2.0, 3.0, 5.0, 7.0) if high / low < 10 else (1.0, 2.0, 5.0) if high / low < 300 else (1.0,)
    locator = LogLocator(subs=steps)
    labels = locator.tick_values(low / 10, 10 * high)
    if is_free:
        begin, end = labels[labels <= low].max(initial=labels[0]), labels[labels >= high].min(initial=labels[-1])
        axes.set(**{"ylim" if vertical else "xlim": (0.9 * begin, 1.1 * end)})
    axis.set_major_locator(locator)
    axis.set_major_formatter(PLAIN)
    axis.set_minor_formatter(NullFormatter())
    return ", logarithmic"


def _share(places: Sequence[Axes]) -> None:
    """Let panels of one unit, side by side, have the same vertical axis."""
    if len(places) > 1 and {place.get_ylabel().rpartition("(")[2] for place in places} == {"%)"}:
        low = min(place.get_ylim()[0] for place in places)
        for place in places:
            place.set_ylim(bottom=low)


def _keys(axes: Axes) -> dict[str, Line2D]:
    """Return what a panel's legend says: lines first, each once, then marks."""
    lines, labels = axes.get_legend_handles_labels()
    handles = dict(zip(labels, lines, strict=True))
    return {label: handles[label] for label in sorted(handles, key=lambda label: label in MARKS)}


def _legends(drawing: Drawing, keys: Sequence[Sequence[Mapping[str, Line2D]]], axes: Any) -> None:
    """Put one legend below all panels where they have the same lines, else one beside each row or below each panel."""
    of_all = [of_it for row in keys for of_it in row]
    looks = [{name: (line.get_color(), line.get_marker()) for name, line in of_it.items()} for of_it in of_all]
    width, height = drawing.get_size_inches()
    if all(looks[0].get(name) == look or name in MARKS for other in looks for name, look in other.items()):
        _, high = _legend(drawing, _merged(of_all), width, loc="outside lower center")
        drawing.set_figheight(height + high)
    elif len(keys) > 1:
        beside: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1.02, 0.5), "borderaxespad": 0.0}
        last = [places[len(row) - 1] for row, places in zip(keys, axes, strict=True)]
        widths = [_legend(place, _merged(row), 0, **beside)[0] for place, row in zip(last, keys, strict=True)]
        drawing.set_figwidth(max(BESIDE * max(map(len, keys)), NARROWEST - 1.2) + max(widths))
    else:
        drawing.set_figheight(SINGLE)
        for of_it, place in zip(keys[0], axes[0], strict=True):
            below: dict[str, Any] = {"loc": "upper center", "bbox_to_anchor": (0.5, -0.24), "borderaxespad": 0.0}
            _legend(place, of_it, width / len(keys[0]), **below)


def _merged(parts: Iterable[Mapping[str, Line2D]]) -> dict[str, Line2D]:
    return {name: line for part in parts for name, line in part.items()}


def _legend(owner: Any, keys: Mapping[str, Line2D], inches: float, **where: Any) -> tuple[float, float]:
    """Add a legend in as many columns as fit into so many inches; return how wide and high it is."""
    dpi = (owner if isinstance(owner, Drawing) else owner.figure).dpi
    for rows in range(1, len(keys) + 1):
        columns = -(-len(keys) // rows)
        legend = owner.legend(list(keys.values()), list(keys), ncols=columns, **where)
        box = legend.get_window_extent()
        if columns == 1 or box.width <= dpi * inches:
            return box.width / dpi, box.height / dpi
        legend.remove()
    return 0.0, 0.0
