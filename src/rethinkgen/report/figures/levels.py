"""Figures against the level of label corruption: 1(b) and 1(c) of Zhang et al. 2017."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pandas as pd
from matplotlib.axes import Axes

from rethinkgen.measure.thresholds import NEARLY_FITTED, STEPS_TO_NEARLY_FIT
from rethinkgen.report.claim_files import load_claims
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
from rethinkgen.report.figures.picture import Picture
from rethinkgen.report.figures.series import (
    LABEL_NOISE,
    MOST_LINES,
    Line,
    at_level,
    lines,
    num_classes,
    num_levels,
    outcome_settings,
    settings,
    statistics,
    trained,
)
from rethinkgen.report.figures.words import left_out, sentences, setup_of, spread_of, unfinished
from rethinkgen.report.style import drawing
from rethinkgen.run.run import Run

CIFAR10 = ("cifar10", "cifar10_jpeg")
MILESTONES = {"steps_to_fit": "fit", STEPS_TO_NEARLY_FIT: "fit 99 %"}
FITTED = {"steps_to_fit": "the whole training set", STEPS_TO_NEARLY_FIT: "99 % of the training set"}


def label_noise(runs: Sequence[Run], grouped: Callable[..., list[list[Run]]] = settings) -> list[Line]:
    """Return the settings of which there are runs at several levels of label noise, a line each."""
    wanted = [run for run in runs if run.corruption in LABEL_NOISE]
    # A line from the one end to the other would tell of levels that nobody asked for.
    by_degrees = [
        group
        for group in grouped(wanted, "data.corruption")
        if num_levels(group) > 1 and any(0 < (run.level or 0) < 1 for run in group)
    ]
    return lines(by_degrees, across_corruptions=True)


def figure_1b(runs: Sequence[Run]) -> Picture | None:
    """Draw how many times the steps of true labels it takes to fit, against the share of labels drawn at random."""
    known = label_noise(trained(runs))
    if not known:
        return None
    # What never fits every example of the true labels has no unit to count in: then 99 % of all lines.
    milestone = max(MILESTONES, key=lambda key: sum(_has_points(relative_steps(line.runs, key)) for line in known))
    tables = {line.label: relative_steps(line.runs, milestone) for line in known}
    drawable = [line for line in known if _has_points(tables[line.label])]
    if not drawable:
        return None
    shown, hidden = drawable[:MOST_LINES], [line.label for line in known if line not in drawable[:MOST_LINES]]
    with drawing():
        figure, axes = panels(1, 1, width=4.2, height=3.1)
        panel = axes[0][0]
        for line in shown:
            draw_points(panel, tables[line.label], line.look, x="level")
        _noise_axis(panel)
        panel.set_ylim(bottom=0)
        panel.set_ylabel(f"steps to {MILESTONES[milestone]} (true labels: 1)")
        any_bound = any(tables[line.label]["is_bound"].any() for line in shown)
        legend_below(figure, [*map(entry, shown), *([ARROW] if any_bound else [])])
    data = _tidy({line.label: tables[line.label] for line in shown})
    part = [run for line in shown for run in line.runs]
    caption = sentences(
        f"First evaluated step at which {FITTED[milestone]} was fitted, over that of the same seed on true labels.",
        "An arrow is a lower bound: some of its runs were not fitted within the budget, and count with the budget."
        if any_bound
        else "",
        setup_of(part),
        spread_of(data, "bars"),
        unfinished(part),
        left_out(hidden, "settings that have no fitted run on true labels, or are one too many"),
    )
    title = "Figure 1(b): time to fit against label corruption"
    return Picture("figure_1b", title, caption, figure, data, command_of(part))


def relative_steps(runs: Sequence[Run], milestone: str) -> pd.DataFrame:
    """Return for each level the steps to a milestone over those of the same seed at level 0.

    What was not reached counts with the steps it was given: the mean is then a lower bound (``is_bound``).
    """
    levels = at_level(runs)
    units = {run.setting("data.corruption"): run.metrics.get(milestone) for run in levels.get(0.0, [])}
    rows = []
    for level, group in levels.items():
        paired = [(run, unit) for run in group if (unit := units.get(run.setting("data.corruption")))]
        ratios = [(run.metrics.get(milestone) or run.number("steps")) / unit for run, unit in paired]
        is_bound = any(run.metrics.get(milestone) is None for run, _ in paired)
        rows.append({"level": level, **statistics(ratios), "is_bound": is_bound, "is_open": False})
    return pd.DataFrame(rows)


def _has_points(table: pd.DataFrame) -> bool:
    return int((table["n"] > 0).sum()) > 1


def figure_1c(runs: Sequence[Run]) -> Picture | None:
    """Draw the test error against the share of labels drawn at random."""
    known = label_noise(runs, outcome_settings)
    if not known:
        return None
    shown = known[:MOST_LINES]
    with drawing():
        figure, axes = panels(1, 1, width=4.2, height=3.1)
        handles, data = draw_test_errors(axes[0][0], shown)
        legend_below(figure, handles)
    part = [run for line in shown for run in line.runs]
    caption = sentences(
        f"Test error on true labels after training. {markers_of(data)}",
        setup_of(part),
        spread_of(data, "bars"),
        unfinished(part),
        left_out([line.label for line in known[MOST_LINES:]], "settings"),
    )
    title = "Figure 1(c): test error against label corruption"
    return Picture("figure_1c", title, caption, figure, data, command_of(part))


def draw_test_errors(panel: Axes, shown: Sequence[Line]) -> tuple[list[Any], pd.DataFrame]:
    """Draw Figure 1(c) into a panel; return the entries of its legend and what was drawn."""
    tables = {line.label: errors_at_levels(line.runs) for line in shown}
    for line in shown:
        draw_points(panel, tables[line.label], line.look, x="level")
    runs = [run for line in shown for run in line.runs]
    classes = num_classes(runs)
    chance_line(panel, [100 * (1 - 1 / number) for number in classes])
    data = _tidy(tables).assign(kind="ours")
    left_ends = published_left_ends()
    published = {
        line.runs[0].model: line.look
        for line in shown
        if line.runs[0].data in CIFAR10 and line.runs[0].model in left_ends and not line.runs[0].regularizers
    }
    for model, look in published.items():
        panel.plot(0, left_ends[model], "D", color=look.colour, markerfacecolor="white", markersize=8, zorder=1.5)
    rows = [{"line": model, "level": 0.0, "mean": left_ends[model], "kind": "published"} for model in published]
    data = pd.concat([data, pd.DataFrame(rows)], ignore_index=True) if rows else data
    _noise_axis(panel)
    panel.set_ylim(0, 100)
    panel.set_ylabel("test error (%)")
    handles = [*map(entry, shown), *([CHANCE] if classes else [])]
    if rows:
        handles.append(hollow("published, true labels", "D"))
    if any(table["is_open"].any() for table in tables.values()):
        handles.append(hollow("fit below 99 %"))
    return handles, data


def published_left_ends() -> dict[str, float]:
    """Return model -> test error in % on true labels, from Table 1 without regularizers: Figure 1(c) begins there."""
    claims = [claim for claim in load_claims() if claim.item == "Figure 1(c)" and claim.id.endswith(".left_end")]
    return {claim.runs["model"]: claim.value for claim in claims if claim.value is not None}


def errors_at_levels(runs: Sequence[Run]) -> pd.DataFrame:
    """Return for each level the test error in %; ``is_open`` where the network did not nearly fit what it was given."""
    rows = []
    for level, group in at_level(runs).items():
        errors = [100 * (1 - run.number("test/accuracy")) for run in group]
        fit = statistics([run.number("fit/accuracy") for run in group])["mean"]
        rows.append(
            {"level": level, **statistics(errors), "fit": 100 * fit, "is_open": fit < NEARLY_FITTED, "is_bound": False}
        )
    return pd.DataFrame(rows)


def markers_of(data: pd.DataFrame) -> str:
    """Explain the markers of Figure 1(c) that are in use."""
    said = []
    if data["is_open"].fillna(False).astype(bool).any():
        said.append("Open markers: on average less than 99 % of the training set was fitted.")
    if (data["kind"] == "published").any():
        said.append(
            "Hollow diamonds: published, 100 % less the test accuracy in Table 1 without regularizers; that Figure 1(c)"
            " begins there is inferred."
        )
    return " ".join(said)


def steps_at_levels(runs: Sequence[Run], milestone: str = "steps_to_fit") -> pd.DataFrame:
    """Return for each level the steps to a milestone; what did not reach it counts with its budget (``is_bound``)."""
    rows = []
    for level, group in at_level(runs).items():
        reached = [run.metrics.get(milestone) for run in group]
        steps = [run.number("steps") if step is None else step for step, run in zip(reached, group, strict=True)]
        rows.append({"level": level, **statistics(steps), "is_open": False, "is_bound": None in reached})
    return pd.DataFrame(rows)


def _noise_axis(panel: Axes) -> None:
    panel.set_xlim(-0.04, 1.04)
    panel.set_xlabel("label corruption (probability)")


def _tidy(tables: dict[str, pd.DataFrame]) -> pd.DataFrame:
    return pd.concat([table.assign(line=label) for label, table in tables.items()], ignore_index=True)
