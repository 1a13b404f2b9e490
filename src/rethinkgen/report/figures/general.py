"""Figures of any sweep: learning curves, fit against test, steps to fit against corruption."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Hashable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.lines import Line2D

from rethinkgen.report.commands import command_of
from rethinkgen.report.figures.curves import draw_accuracies, fit_to_accuracies, on_training_set
from rethinkgen.report.figures.drawing import (
    ARROW,
    CHANCE,
    LEGEND_LINE,
    Steps,
    chance_line,
    draw_arrows,
    draw_points,
    entry,
    legend_below,
    legend_beside,
    legend_width,
    panels,
    plain_logarithmic,
    spaced,
    steps_of,
)
from rethinkgen.report.figures.input_noise import INPUT_NOISE
from rethinkgen.report.figures.levels import FITTED, MILESTONES, label_noise, steps_at_levels
from rethinkgen.report.figures.picture import Picture
from rethinkgen.report.figures.series import (
    LABEL_NOISE,
    MOST_LINES,
    Line,
    corruption_looks,
    corruption_name,
    curve,
    finished,
    lines,
    num_classes,
    settings,
    trained,
)
from rethinkgen.report.figures.words import left_out, sentences, setup_of, spread_of, unfinished
from rethinkgen.report.style import GREY, SOLID, Look, drawing, looks_of
from rethinkgen.run.run import Run

MOST_ROWS = 6
MOST_STRETCHED = 3
"""Rows share an axis of steps where the longest budget is at most so many times the shortest."""

MOST_KINDS = 12
MOST_NAMED = 8
"""Corruptions in a legend; where there are more, their levels are spaced evenly."""


def learning_curves(runs: Sequence[Run]) -> Picture | None:
    """Draw accuracy on the training and the test set against steps, a row for each network."""
    groups = [group for group in settings(runs) if any(len(curve(run, "test/accuracy")) > 1 for run in group)]
    if not groups:
        return None
    rows: list[list[list[Run]]] = []
    for same in _by(groups, lambda run: run.model):
        rows += _by(same, lambda run: run.regularizers) if len(same) > MOST_LINES else [same]
    rows_of = Counter(same[0][0].model for same in rows)
    known = [_named(same) for same in rows[:MOST_ROWS]]
    hidden = [group for same in rows[MOST_ROWS:] for group in same]
    steps = _steps_of_rows(known)
    are_alike = len(set(steps)) == 1
    tables, part = [], []
    with drawing():
        height = max(LEGEND_LINE * min(max(map(len, known)), MOST_LINES) + 0.3, 2.0 if len(known) > 1 else 2.5)
        height += 0.0 if are_alike else 0.35
        beside = legend_width([line.label for row in known for line in row])
        figure, axes = panels(len(known), 2, width=2.6 + beside / 2, height=height, sharex=are_alike or "row")
        for row, axis, (left, right) in zip(known, steps, axes, strict=True):
            shown = spaced(row, MOST_LINES)
            hidden += [list(line.runs) for line in row if line not in shown]
            table = draw_accuracies(left, right, shown, axis)
            fit_to_accuracies((left, right), table)
            if row is known[-1] or not are_alike:
                axis.label_axis(left)
                axis.label_axis(right)
            first = shown[0].runs[0]
            what = [first.model, *(first.regularizers if rows_of[first.model] > 1 else [])]
            left.set_ylabel("\n+ ".join(what) + "\naccuracy (%)")
            legend_beside(right, [entry(line, dashes=SOLID) for line in shown])
            tables.append(table.assign(model=first.model))
            part += [run for line in shown for run in line.runs]
        axes[0][0].set_title("training set")
        axes[0][1].set_title("test set")
    data = pd.concat(tables, ignore_index=True)
    caption = sentences(
        f"Left: accuracy {on_training_set(data)}, against the labels as given; right: on the test set.",
        setup_of(part),
        spread_of(data),
        unfinished(part),
        left_out(hidden, "settings"),
    )
    return Picture("learning_curves", "Learning curves", caption, figure, data, command_of(part))


def _steps_of_rows(rows: Sequence[Sequence[Line]]) -> list[Steps]:
    """Return an axis for each row: the same one where their budgets are alike."""
    own = [steps_of([run for line in row for run in line.runs]) for row in rows]
    shortest, longest = (choose(own, key=lambda axis: axis.longest) for choose in (min, max))
    return [longest] * len(own) if longest.longest <= MOST_STRETCHED * shortest.longest else own


def _named(row: list[list[Run]]) -> list[Line]:
    """Name the lines of a row, whose axis names the network: one alone by its corruption."""
    known = lines(row)
    return known if len(known) > 1 else [replace(line, label=corruption_name(line.runs[0])) for line in known]


def _by(groups: Sequence[list[Run]], key: Any) -> list[list[list[Run]]]:
    rows: dict[Hashable, list[list[Run]]] = defaultdict(list)
    for group in groups:
        rows[key(group[0])].append(group)
    return list(rows.values())


def fit_against_test(runs: Sequence[Run]) -> Picture | None:
    """Draw a marker for each finished run: what it fits, and what it gets right on the test set."""
    done = finished(runs)
    if len(done) < 2:
        return None
    ordered = [group[0] for group in settings(done)]
    by_degrees = corruption_looks([*ordered, *done])
    # Degrees of anything else would need as many colours as there are.
    is_shaded = {run.corruption for run in ordered} <= set(LABEL_NOISE)
    name_of = corruption_name if is_shaded else _kind
    colours = by_degrees if is_shaded else looks_of(list(dict.fromkeys(map(_kind, [*ordered, *done]))))
    # Not of the settings' first runs alone: the same setting may have been run under several names.
    markers = looks_of(list(dict.fromkeys(run.model for run in [*ordered, *done])))
    rows = [
        {
            "run": run.path.name,
            "corruption": corruption_name(run),
            "model": run.model,
            "regularizer": "+".join(run.regularizers) or "none",
            "seed": run.seed,
            "fit": 100 * run.number("fit/accuracy"),
            "test": 100 * run.number("test/accuracy"),
        }
        for run in done
    ]
    data = pd.DataFrame(rows)
    with drawing():
        figure, axes = panels(1, 1, width=5.4, height=3.2)
        panel = axes[0][0]
        looks = [Look(colours[name_of(run)].colour, markers[run.model].marker, SOLID) for run in done]
        for look in dict.fromkeys(looks):
            alike = data[[other == look for other in looks]]
            style: dict[str, Any] = {"color": look.colour, "linestyle": "none", "alpha": 0.75, "markeredgewidth": 0}
            panel.plot(alike["fit"], alike["test"], marker=look.marker, **style)
        classes = num_classes(done)
        chance_line(panel, [100 / number for number in classes])
        panel.set_xlabel("accuracy on the training set, labels as given (%)")
        panel.set_ylabel("accuracy on the test set (%)")
        panel.set_ylim(-3, 103)
        panel.set_xlim(min(95.0, float(data["fit"].min()) - 3), 100.5)
        named = spaced(list(colours), MOST_NAMED)
        patches = [Line2D([], [], color=colours[name].colour, linewidth=5, label=name) for name in named]
        grey: dict[str, Any] = {"color": GREY, "linestyle": "none"}
        shapes = [Line2D([], [], marker=look.marker, label=name, **grey) for name, look in markers.items()]
        legend_beside(panel, [*patches, *shapes, CHANCE])
    caption = sentences(f"A marker is a run (n = {len(done)}).", setup_of(done), unfinished(runs))
    return Picture("fit_against_test", "Fit against test accuracy", caption, figure, data, command_of(done))


def _kind(run: Run) -> str:
    return run.corruption


def steps_to_fit(runs: Sequence[Run]) -> Picture | None:
    """Draw steps to fit against the level of label noise, and against the kind of corruption."""
    taking_steps = trained(runs)
    noisy = label_noise(taking_steps)[:MOST_LINES]
    across = _across_kinds(taking_steps, noisy)
    part = list(dict.fromkeys(run for line in [*noisy, *across] for run in line.runs))
    # As for Figure 1(b): where next to nothing is ever fitted wholly, 99 % count.
    milestone = max(MILESTONES, key=lambda key: sum(run.metrics.get(key) is not None for run in part))
    if not any(run.metrics.get(milestone) for run in part):
        return None
    ordered = [run for line in across for group in settings(line.runs) for run in group]
    kinds = list(dict.fromkeys(map(corruption_name, ordered)))
    widths = [3.4] * bool(noisy) + [max(3.4, 0.55 * len(kinds) + 1)] * bool(across)
    tables: list[pd.DataFrame] = []
    entries: dict[str, Line2D] = {}
    with drawing():
        figure, axes = panels(1, len(widths), width=sum(widths) / len(widths), height=2.8, width_ratios=widths)
        for line in noisy:
            table = steps_at_levels(line.runs, milestone)
            draw_points(axes[0][0], table, line.look, x="level")
            tables.append(table.assign(line=line.label))
            entries[line.label] = entry(line)
            axes[0][0].set_xlabel("label corruption (probability)")
        if across:
            tables.append(_draw_kinds(axes[0][-1], across, kinds, milestone))
        for line in across:
            look: dict[str, Any] = {"color": line.look.colour, "marker": line.look.marker}
            entries.setdefault(line.label, Line2D([], [], linestyle="none", label=line.label, **look))
        data = pd.concat(tables, ignore_index=True)
        for panel in axes[0]:
            panel.set_ylabel(f"steps to {MILESTONES[milestone]}{plain_logarithmic(panel, vertical=True)}")
        legend_below(figure, [*entries.values(), *([ARROW] if data["is_bound"].any() else [])])
    caption = sentences(
        f"First evaluated step at which {FITTED[milestone]} was fitted.",
        spread_of(pd.concat(tables[: len(noisy)]), "bars") if noisy else "",
        "Above the name of a corruption, a marker is a run." if across else "",
        "An arrow is a lower bound: what was not fitted counts with its budget." if data["is_bound"].any() else "",
        setup_of(part),
        unfinished(runs),
    )
    return Picture("steps_to_fit", "Steps to fit against corruption", caption, figure, data, command_of(part))


def _across_kinds(runs: Sequence[Run], noisy: Sequence[Line]) -> list[Line]:
    """Return the settings of which there are finished runs under several kinds of corruption.

    What is a point on the axis of label noise is no kind of its own; noise in the inputs has a figure of its own.
    """
    in_between = {run for line in noisy for run in line.runs if run.corruption == "partial_labels"}
    others = [run for run in finished(runs) if run not in in_between and run.corruption not in INPUT_NOISE]
    if noisy and {run.corruption for run in others} <= set(LABEL_NOISE):
        return []
    several = [
        group
        for group in settings(others, "data.corruption")
        if 1 < len({corruption_name(run) for run in group}) <= MOST_KINDS
    ]
    return lines(several[:MOST_LINES], across_corruptions=True)


def _draw_kinds(panel: Axes, shown: Sequence[Line], kinds: Sequence[str], milestone: str) -> pd.DataFrame:
    """Draw a marker a run above the name of its corruption, lines side by side; return the points."""
    offsets = np.linspace(-0.25, 0.25, len(shown)) if len(shown) > 1 else np.zeros(1)
    rows = []
    for line, offset in zip(shown, offsets, strict=True):
        for run in line.runs:
            reached = run.metrics.get(milestone)
            steps = run.number("steps") if reached is None else reached
            place = kinds.index(corruption_name(run)) + offset
            if reached is None:
                draw_arrows(panel, [place], [steps], line.look.colour)
            else:
                panel.plot(place, steps, line.look.marker, color=line.look.colour, alpha=0.8)
            rows.append({"line": line.label, "corruption": corruption_name(run), "seed": run.seed, "mean": steps})
            rows[-1] |= {"n": 1, "is_bound": reached is None}
    panel.set_xticks(range(len(kinds)), kinds, rotation=30, ha="right", rotation_mode="anchor")
    panel.set_xlim(-0.6, len(kinds) - 0.4)
    return pd.DataFrame(rows)
