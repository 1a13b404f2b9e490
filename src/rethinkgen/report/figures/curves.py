"""Figures against training steps: 1(a), 2(a) and 2(b) of Zhang et al. 2017."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.axes import Axes

from rethinkgen.report.commands import command_of
from rethinkgen.report.figures.drawing import Steps, draw_curves, entry, handle, legend_below, panels, steps_of
from rethinkgen.report.figures.picture import Picture
from rethinkgen.report.figures.series import KINDS, MOST_LINES, Line, curve, lines, names, settings
from rethinkgen.report.figures.words import left_out, sentences, setup_of, spread_of, unfinished
from rethinkgen.report.style import DASHED, SOLID, Look, drawing
from rethinkgen.run.run import Run

MOST_PANELS = 6


def figure_1a(runs: Sequence[Run]) -> Picture | None:
    """Draw the training loss under each kind of corruption, a panel for each network."""
    families = [
        family
        for family in settings([run for run in runs if run.corruption in KINDS], "data.corruption")
        if len({run.corruption for run in family}) > 2 and any(len(curve(run, "train/loss")) > 1 for run in family)
    ]
    if not families:
        return None
    shown, hidden = families[:MOST_PANELS], families[MOST_PANELS:]
    columns = min(3, len(shown))
    rows = -(-len(shown) // columns)
    tables, looks = [], {}
    with drawing():
        width, height = (4.6, 3.0) if len(shown) == 1 else (2.7, 2.3)
        figure, axes = panels(rows, columns, width=width, height=height, sharey=True)
        for panel, family, label in zip(axes.flat, shown, names(shown), strict=False):
            steps = steps_of(family)
            for line in lines(settings(family)):
                table = draw_curves(panel, line, "train/loss", steps, scale=1.0)
                tables.append(table.assign(panel=label))
                if len(table):
                    looks[line.runs[0].corruption] = line.look
            steps.label_axis(panel)
            panel.set_title(label)
        for panel in axes.flat[len(shown) :]:
            panel.remove()
        axes[0][0].set_ylim(bottom=0)
        for panel in axes[:, 0]:
            panel.set_ylabel("training loss (nats)")
        legend_below(figure, [handle(label, look) for label, look in looks.items()])
    data = pd.concat(tables, ignore_index=True)
    part = [run for family in shown for run in family]
    caption = sentences(
        f"Training loss: cross-entropy averaged over the last {_windows(part)} steps, on what the network saw while it"
        " trained.",
        setup_of(part),
        spread_of(data),
        unfinished(part),
        left_out(hidden, "settings"),
    )
    title = "Figure 1(a): training loss under five kinds of corruption"
    return Picture("figure_1a", title, caption, figure, data, command_of(part))


def _windows(runs: Sequence[Run]) -> str:
    return " or ".join(dict.fromkeys(str(run.key("log_every")) for run in runs))


def figure_2a(runs: Sequence[Run]) -> Picture | None:
    """Draw accuracies on ImageNet while training, with and without regularizers."""
    # The experiment's sweep is named so on other data too.
    of_it = [run for run in runs if "imagenet" in run.data or "zhang2017-imagenet" in run.sweep.name]
    wanted = [run for run in of_it if run.corruption == "none"]
    title = "Figure 2(a): training and test accuracy with and without regularizers"
    return accuracy_over_training("figure_2a", title, wanted)


def figure_2b(runs: Sequence[Run]) -> Picture | None:
    """Draw accuracies of Inception with and without BatchNorm while training, no regularizer in force."""
    networks = {"inception", "inception_no_bn"}
    wanted = [run for run in runs if run.corruption == "none" and run.model in networks and not run.regularizers]
    if {run.model for run in wanted} != networks:
        return None
    title = "Figure 2(b): training and test accuracy with and without BatchNorm"
    return accuracy_over_training("figure_2b", title, wanted)


def accuracy_over_training(name: str, title: str, runs: Sequence[Run]) -> Picture | None:
    """Draw accuracy on the training and the test set against steps, and the best of the latter so far."""
    groups = [group for group in settings(runs) if any(len(curve(run, "test/accuracy")) > 1 for run in group)]
    if not groups:
        return None
    known = lines(groups)
    shown = known[:MOST_LINES]
    part = [run for line in shown for run in line.runs]
    steps = steps_of(part)
    with drawing():
        figure, axes = panels(1, 2, width=3.3, height=2.8, sharey=True)
        left, right = axes[0]
        data = draw_accuracies(left, right, shown, steps, with_oracle=True)
        for panel, what in ((left, "training set"), (right, "test set")):
            steps.label_axis(panel)
            panel.set_title(what)
        fit_to_accuracies((left, right), data)
        left.set_ylabel("accuracy (%)")
        entries = [entry(line, dashes=SOLID) for line in shown]
        best_entry = handle("oracle: best test accuracy so far", Look("#444444", "", DASHED))
        legend_below(figure, [*entries, best_entry])
    caption = sentences(
        f"Left: accuracy {on_training_set(data)}, against the labels as given; right: on the test set.",
        "Dashed: the best test accuracy so far, an oracle, since nobody may choose by the test set.",
        setup_of(part),
        spread_of(data),
        unfinished(part),
        left_out([line.label for line in known[MOST_LINES:]], "settings"),
    )
    return Picture(name, title, caption, figure, data, command_of(part))


def draw_accuracies(
    left: Axes, right: Axes, shown: Sequence[Line], steps: Steps, *, with_oracle: bool = False
) -> pd.DataFrame:
    """Draw accuracy on the training set left and on the test set right; return what was drawn.

    Where the whole training set was not evaluated on the way, its running accuracy stands in.
    """
    part = [run for line in shown for run in line.runs]
    fit = "fit/accuracy" if any(len(curve(run, "fit/accuracy")) > 1 for run in part) else "train/accuracy"
    tables = []
    for line in shown:
        look = line.look._replace(dashes=SOLID)
        tables.append(draw_curves(left, line, fit, steps, look=look, marked=True))
        tables.append(draw_curves(right, line, "test/accuracy", steps, look=look, marked=True))
        if with_oracle:
            best = look._replace(dashes=DASHED)
            tables.append(draw_curves(right, line, "test/accuracy", steps, look=best, running_best=True))
    return pd.concat(tables, ignore_index=True)


def on_training_set(data: pd.DataFrame) -> str:
    """Say which accuracy on the training set was drawn."""
    is_fixed = (data["series"] == "fit/accuracy").any()
    return "of the fixed network on the whole training set" if is_fixed else "running, on what it saw while it trained"


def fit_to_accuracies(axes: Sequence[Axes], data: pd.DataFrame) -> None:
    """Leave out the empty part of the axis below all that is drawn."""
    low = float((data["mean"] - data.get("std", pd.Series(0.0, data.index)).fillna(0)).min())
    for panel in axes:
        panel.set_ylim(max(-3.0, 10 * (low // 10) - 3), 103)
