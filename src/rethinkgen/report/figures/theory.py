"""Figures on what Zhang et al. 2017 argue beside their tables: Theorem 1, and the Rademacher complexity."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd
from matplotlib.ticker import FuncFormatter

from rethinkgen.report.commands import command_of
from rethinkgen.report.figures.drawing import draw_points, entry, legend_below, panels, plain_logarithmic
from rethinkgen.report.figures.picture import Picture
from rethinkgen.report.figures.series import finished, lines, settings, statistics
from rethinkgen.report.figures.words import sentences, setup_of, spread_of, unfinished
from rethinkgen.report.style import GREY, drawing
from rethinkgen.run.run import Run


def rademacher(runs: Sequence[Run]) -> Picture | None:
    """Draw how well random signs are fitted, a lower bound on the Rademacher complexity, against sample size."""
    wanted = [run for run in runs if run.corruption == "random_signs"]
    tables = {}
    known = lines(settings(finished(wanted), "data.num_train"))
    for line in known:
        sizes = sorted({run.num_examples for run in line.runs if run.num_examples})
        bounds = {size: [_correlation(run) for run in line.runs if run.num_examples == size] for size in sizes}
        rows = [{"n_examples": size, **statistics(values)} for size, values in bounds.items()]
        tables[line.label] = pd.DataFrame(rows).assign(is_open=False, is_bound=False)
    shown = [line for line in known if len(tables[line.label]) > 1]
    if not shown:
        return None
    with drawing():
        figure, axes = panels(1, 1, width=4.2, height=2.9)
        panel = axes[0][0]
        panel.axhline(1, color=GREY, linewidth=0.9, linestyle=(0, (2, 2)), zorder=1)
        for line in shown:
            draw_points(panel, tables[line.label], line.look, x="n_examples")
        panel.set_xlabel(f"training examples n{plain_logarithmic(panel)}")
        panel.set_ylim(0, 1.08)
        panel.set_ylabel("lower bound on the complexity")
        legend_below(figure, [entry(line) for line in shown])
    data = pd.concat([tables[line.label].assign(line=line.label) for line in shown], ignore_index=True)
    caption = sentences(
        "Correlation with random signs that training found, 2 * fit/accuracy - 1: a lower bound on the Rademacher "
        "complexity, whose largest value is 1 (dotted), where its bound on generalisation is trivial.",
        setup_of(wanted),
        spread_of(data, "bars").replace("seeds", "draws of the signs"),
        unfinished(wanted),
    )
    title = "Rademacher complexity: random signs are fitted"
    return Picture("rademacher", title, caption, figure, data, command_of(wanted))


def _correlation(run: Run) -> float:
    return 2 * run.number("fit/accuracy") - 1


def theorem_1(runs: Sequence[Run]) -> Picture | None:
    """Draw how exactly the two-layer network of 2n + d weights takes the labels of n examples."""
    wanted = [run for run in runs if run.model == "two_layer_relu"]
    known = [run for run in finished(wanted) if run.num_examples and run.metrics.get("num_parameters")]
    solved = [(run, value) for run in known if (value := _residual(run)) is not None]
    rows = [
        {
            "corruption": run.corruption,
            "seed": run.seed,
            "n_examples": run.num_examples,
            "residual": value,
            "weights": run.metrics["num_parameters"],
        }
        for run, value in solved
    ]
    data = pd.DataFrame(rows)
    if data.empty or data["n_examples"].nunique() < 2:
        return None
    drawn = lines(settings((run for run, _ in solved), "data.num_train"))
    with drawing():
        figure, axes = panels(1, 1, width=4.2, height=2.9)
        panel = axes[0][0]
        for line in drawn:
            residuals = pd.DataFrame({"n": run.num_examples, "residual": _residual(run)} for run in line.runs)
            medians = residuals.groupby("n")["residual"].median()
            panel.plot(medians.index, medians, color=line.look.colour, linestyle=line.look.dashes)
            panel.plot(residuals["n"], residuals["residual"], line.look.marker, color=line.look.colour, alpha=0.7)
        panel.set_xlabel(f"training examples n{plain_logarithmic(panel)}")
        panel.set_yscale("log")
        panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0e}"))
        panel.set_ylabel("largest residual, logarithmic")
        panel.set_title("2n + d weights fit any labels of n examples")
        legend_below(figure, [entry(line) for line in drawn])
    ordered = data.sort_values("n_examples").to_dict("records")
    first, last = ordered[0], ordered[-1]
    caption = sentences(
        "Largest difference between output and label over the n training examples of a two-layer ReLU network with"
        f" exactly 2n + d weights: {first['weights']:,} at n = {first['n_examples']:,}, {last['weights']:,} at"
        f" n = {last['n_examples']:,}. A marker is a run, the line goes through medians.",
        f"Data: {wanted[0].data}.",
        unfinished(wanted),
    )
    title = "Theorem 1: how exactly 2n + d weights fit n examples"
    return Picture("theorem_1", title, caption, figure, data, command_of(wanted))


def _residual(run: Run) -> float | None:
    """Return the largest residual that the solution says it has."""
    value = run.metrics.get("solution/residual")
    return None if value is None else float(value)
