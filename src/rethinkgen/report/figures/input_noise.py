"""The figure of noise in the inputs by degrees, of which Zhang et al. 2017 show the ends only."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes

from rethinkgen.report.commands import command_of
from rethinkgen.report.figures.drawing import (
    ARROW,
    CHANCE,
    chance_line,
    draw_points,
    entry,
    hollow,
    legend_below,
    panels,
)
from rethinkgen.report.figures.levels import FITTED, MILESTONES, errors_at_levels, steps_at_levels
from rethinkgen.report.figures.picture import Picture
from rethinkgen.report.figures.series import (
    MOST_LINES,
    Line,
    at_level,
    lines,
    num_classes,
    num_levels,
    settings,
    statistics,
)
from rethinkgen.report.figures.words import sentences, setup_of, spread_of, unfinished
from rethinkgen.report.style import drawing
from rethinkgen.run.run import Run

INPUT_NOISE = {"gaussian_blend": "gaussian_blend strength", "noisy_inputs": "noisy_inputs fraction"}
"""Corruptions of the inputs by degrees, and what the axis is called."""


def figure_input_noise(runs: Sequence[Run]) -> Picture | None:
    """Draw fit, test error and steps to fit against gradual noise in the inputs, a row for each kind."""
    rows = {kind: known for kind in INPUT_NOISE if (known := _lines(runs, kind))}
    if not rows:
        return None
    with drawing():
        figure, axes = panels(len(rows), 3, width=2.45, height=2.2)
        milestone = _milestone([line for shown in rows.values() for line in shown])
        tables = [
            _draw_row(places, shown, kind, milestone) for places, (kind, shown) in zip(axes, rows.items(), strict=True)
        ]
        data = pd.concat(tables, ignore_index=True)
        entries = {line.label: entry(line) for shown in rows.values() for line in shown}
        more = [CHANCE]
        more += [ARROW] if data["is_bound"].any() else []
        more += [hollow("fit below 99 %")] if data["is_open"].any() else []
        legend_below(figure, [*entries.values(), *more])
    part = list(dict.fromkeys(run for shown in rows.values() for line in shown for run in line.runs))
    caption = sentences(
        "Gradual noise in the inputs: gaussian_blend mixes noise into every image, test images too; noisy_inputs"
        " replaces a fraction of the training images by noise. Level 0 are the true images.",
        f"Steps are counted to the first evaluation at which {FITTED[milestone]} was fitted.",
        "An arrow is a lower bound: what was not fitted counts with its budget." if data["is_bound"].any() else "",
        setup_of(part),
        spread_of(data, "bars"),
        unfinished(part),
    )
    title = "Fit, test error and time to fit against noise in the inputs"
    return Picture("figure_input_noise", title, caption, figure, data, command_of(part))


def _lines(runs: Sequence[Run], kind: str) -> list[Line]:
    wanted = [run for run in runs if run.corruption in ("none", kind)]
    several = [group for group in settings(wanted, "data.corruption") if num_levels(group) > 1]
    return lines(several[:MOST_LINES], across_corruptions=True)


def _milestone(shown: Sequence[Line]) -> str:
    """Return the one that most lines reach on the true images: 99 % count where these are never fitted wholly."""
    return max(
        MILESTONES, key=lambda key: sum(not steps_at_levels(line.runs, key)["is_bound"].iloc[0] for line in shown)
    )


def _draw_row(places: Sequence[Axes], shown: Sequence[Line], kind: str, milestone: str) -> pd.DataFrame:
    """Draw fit, test error and steps to fit under one kind of noise into three panels; return the points."""
    fit_panel, error_panel, steps_panel = places
    tables = []
    for line in shown:
        values = (_fits(line.runs), errors_at_levels(line.runs), steps_at_levels(line.runs, milestone))
        for panel, what, table in zip(places, ("fit", "test error", "steps to fit"), values, strict=True):
            draw_points(panel, table, line.look, x="level")
            tables.append(table.assign(corruption=kind, line=line.label, series=what))
    chance_line(
        error_panel, [100 * (1 - 1 / number) for number in num_classes(run for line in shown for run in line.runs)]
    )
    fit_panel.set(ylabel="fit (%)")
    fit_panel.set_ylim(top=101)
    error_panel.set(ylabel="test error (%)", ylim=(0, 100))
    steps_panel.set(ylabel=f"steps to {MILESTONES[milestone]}")
    steps_panel.set_ylim(bottom=0)
    for panel in places:
        panel.set(xlabel=INPUT_NOISE[kind], xlim=(-0.04, 1.04))
    return pd.concat(tables, ignore_index=True)


def _fits(runs: Sequence[Run]) -> pd.DataFrame:
    """Return for each level the share of the training set that is fitted, in %."""
    rows = []
    for level, group in at_level(runs).items():
        fits = [100 * run.number("fit/accuracy") for run in group]
        rows.append({"level": level, **statistics(fits), "is_open": False, "is_bound": False})
    return pd.DataFrame(rows)
