"""The figure that README opens with: wrong labels are learnt through first, and memorised later."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from rethinkgen.report.commands import command_of
from rethinkgen.report.figures.drawing import draw_curves, handle, legend_under, limits_percent, panels, steps_of
from rethinkgen.report.figures.levels import draw_test_errors, label_noise, markers_of
from rethinkgen.report.figures.picture import Picture
from rethinkgen.report.figures.series import MOST_LINES, Line, curve, finished, outcome_settings, settings
from rethinkgen.report.figures.words import sentences, setup_of, spread_of, unfinished
from rethinkgen.report.style import BLACK, BLUE, DASH_DOT, DASHED, SOLID, VERMILLION, Look, drawing
from rethinkgen.run.run import Run

SHOWN_NOISE = 0.4
"""Share of wrong labels that the opening picture shows, or the nearest there is."""


def learnt_then_memorised(runs: Sequence[Run]) -> Picture | None:
    """Draw what becomes of wrongly labelled examples during training and, beside it, Figure 1(c)."""
    group = _shown_group(runs)
    if not group:
        return None
    errors = label_noise(runs, outcome_settings)[:MOST_LINES]
    with drawing():
        figure, axes = panels(1, 2 if errors else 1, width=3.7, height=3.3)
        handles, data = draw_wrong_examples(axes[0][0], group)
        legend_under(axes[0][0], handles, columns=1)
        data["panel"] = "left"
        if errors:
            handles, right = draw_test_errors(axes[0][1], errors)
            axes[0][1].set_title("test error of the trained networks")
            legend_under(axes[0][1], handles)
            data = pd.concat([data, right.assign(panel="right")], ignore_index=True)
    shown = [*group, *(run for line in errors for run in line.runs if run not in group)]
    caption = sentences(
        f"{'Left: ' if errors else ''}{group[0].model} while it trains on labels of which"
        f" {100 * _wrong_share(group[0]):.0f} % are wrong (probability {group[0].level:g}): the share of the wrongly"
        " labelled training examples that it predicts as their true class, and as their wrong label, and its test"
        " accuracy.",
        f"Right: test error on true labels at the end of training. {markers_of(data)}" if errors else "",
        setup_of(shown),
        spread_of(data, "bands or bars"),
        unfinished(shown),
    )
    title = "Wrong labels are learnt through, then memorised"
    return Picture("learnt_then_memorised", title, caption, figure, data, command_of(shown))


def draw_wrong_examples(panel: Axes, group: Sequence[Run]) -> tuple[list[Any], pd.DataFrame]:
    """Draw what becomes of wrongly labelled examples; return the legend's entries and what was drawn."""
    steps = steps_of(group)
    columns = {
        "fit/accuracy_corrected": ("wrong examples predicted as their true class", Look(BLUE, "o", SOLID)),
        "fit/accuracy_corrupted": ("wrong examples memorised", Look(VERMILLION, "s", DASHED)),
        "test/accuracy": ("test accuracy", Look(BLACK, "^", DASH_DOT)),
    }
    tables = []
    for column, (label, look) in columns.items():
        tables.append(draw_curves(panel, Line(label, look, group), column, steps))
    data = pd.concat(tables, ignore_index=True)
    # What is learnt comes in the first steps, what is memorised long after.
    steps.label_logarithmic_axis(panel, first=data["step"].min())
    limits_percent(panel)
    panel.set_ylabel("share of examples (%)")
    panel.set_title(f"{group[0].model}, {100 * _wrong_share(group[0]):.0f} % of the labels wrong")
    return [handle(label, look) for label, look in columns.values()], data


def _shown_group(runs: Sequence[Run]) -> list[Run]:
    """Return repetitions of the paper's first network whose share of wrong labels is nearest to ``SHOWN_NOISE``."""
    groups = [
        group
        for group in settings(run for run in runs if run.corruption == "partial_labels" and 0 < (run.level or 0) < 1)
        if any(len(curve(run, "fit/accuracy_corrected")) > 1 for run in group)
    ]
    # The groups come in the order of the paper's networks: the first of equals is taken.
    return min(
        groups,
        key=lambda group: (
            bool(group[0].regularizers),
            not finished(group),
            round(abs(_wrong_share(group[0]) - SHOWN_NOISE), 2),
            # What rises early is seen by who looks often.
            group[0].key("evaluate_every") or 0,
        ),
        default=[],
    )


def _wrong_share(run: Run) -> float:
    """Return the share of wrong labels; expected, where the run has not said what was drawn."""
    if (realised := run.metrics.get("noise/realised")) is not None:
        return float(realised)
    return float(run.level or 0.0) * (1 - 1 / (run.num_classes or 10))
