"""What each method makes of 40 % wrong labels: the table and the figure of ``+experiment=dial/...``.

uv run python benchmarks/dial.py multirun/dial-mnist --figure docs/dial.png

Of each method one strength is chosen for all seeds, by the sum of their accuracies on held-out examples whose labels
are wrong as often (``validation/accuracy_corrupted``): once by the last of these, where training goes to its end, and
once by the best, where it ends at the epoch that had it. No true label is looked at. Spreads are sample standard
deviations.
"""

from __future__ import annotations

import argparse
import statistics
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from rethinkgen.report.style import GREY, PALETTE, drawing
from rethinkgen.run.quantities import as_text, observe
from rethinkgen.run.run import Run, read_runs

SCORE, TEST, MEMORISED = "validation/accuracy_corrupted", "test/accuracy", "fit/accuracy_corrupted"
STRENGTH = {
    "gce": "loss.q",
    "bootstrap_soft": "loss.beta",
    "bootstrap_hard": "loss.beta",
    "symmetric_cross_entropy": "loss.beta",
    "elr": "loss.strength",
    "backward_correction": "loss.floor",
}
"""Loss -> the key that is its dial; a regularizer's is that of its name."""
MORE = tuple(look._replace(marker=marker) for look, marker in zip(PALETTE, "*pHd", strict=False))
"""Looks for more methods than the palette has."""
ENDS = {"end": "", "chosen": "chosen/"}
"""Where training ended -> what stands before a quantity of it."""


class Point(NamedTuple):
    """A method at a strength, over seeds: mean and deviation of ``test`` and ``memorised``, and the sum of scores."""

    method: str
    strength: str
    num_seeds: int
    test: tuple[float, float]
    memorised: tuple[float, float]
    score: float


def method_of(run: Run) -> tuple[str, str]:
    """Return a method and its strength, in words."""
    loss = str(run.choices.get("loss"))
    parts = ([] if loss == "cross_entropy" else [loss]) + list(run.regularizers)
    keys = [STRENGTH.get(part, f"regularizer.{part}") for part in parts]
    strengths = [as_text(value) for key in keys if (value := run.key(key)) is not None]
    return " + ".join(parts).replace("_", " ") or "nothing", ", ".join(strengths)


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Return mean and sample standard deviation, 0 of one."""
    return statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def points(runs: Sequence[Run], prefix: str) -> dict[str, list[Point]]:
    """Return method -> its points, in the order of its strengths, of those that all seeds have been trained with."""
    groups: dict[tuple[str, str], list[Run]] = defaultdict(list)
    for run in runs:
        groups[method_of(run)].append(run)
    num_seeds = max(len({run.seed for run in group}) for group in groups.values())
    found: dict[str, list[Point]] = defaultdict(list)
    for (method, strength), group in groups.items():
        if len(group) < num_seeds:
            print(f"left out, {len(group)} of {num_seeds} seeds: {method} {strength}")
            continue
        test, memorised, score = (
            [value for run in group if (value := observe(run, prefix + quantity)) is not None]
            for quantity in (TEST, MEMORISED, SCORE)
        )
        found[method].append(Point(method, strength, len(group), spread(test), spread(memorised), sum(score)))
    return {method: sorted(of, key=lambda point: float(point.strength or 0)) for method, of in found.items()}


def chosen(of_method: Sequence[Point]) -> Point:
    """Return the point whose seeds did best on held-out examples, by their labels as given."""
    return max(of_method, key=lambda point: point.score)


def oracles(runs: Sequence[Run]) -> dict[str, tuple[float, float]]:
    """Return what training on true labels alone ends at: of as many as are true, and of all."""
    groups: dict[int, list[float]] = defaultdict(list)
    for run in runs:
        groups[int(run.key("data.num_train"))].append(float(observe(run, TEST) or 0))
    names = dict(zip(sorted(groups), ("wrong labels left out", "all labels true"), strict=False))
    return {f"{names[count]} ({count:,} images)": spread(groups[count]) for count in sorted(groups)}


def table(by_end: Mapping[str, Mapping[str, list[Point]]]) -> list[str]:
    """Return the rows of a table in Markdown, the best at the chosen epoch last."""
    lines = [
        "| method | strength | test at the end | memorised | strength | test at the chosen epoch | memorised |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    rows = [(chosen(by_end["end"][method]), chosen(by_end["chosen"][method])) for method in by_end["end"]]
    for pair in sorted(rows, key=lambda row: row[0].test):
        cells = [f"{each.strength} | {percent(each.test)} | {percent(each.memorised)}" for each in pair]
        lines.append(f"| {pair[0].method} | {' | '.join(cells)} |")
    return lines


def percent(value: tuple[float, float]) -> str:
    """Return ``95.1 ± 0.2 %``."""
    return f"{100 * value[0]:.1f} ± {100 * value[1]:.1f} %"


def draw(by_end: Mapping[str, Mapping[str, list[Point]]], lines: Mapping[str, tuple[float, float]], to: Path) -> None:
    """Draw each method over its strength: full where training went to its end, hollow at the chosen epoch."""
    import matplotlib.pyplot as plt

    with drawing():
        figure, axes = plt.subplots(figsize=(7.2, 4.2), layout="constrained")
        for (method, at_end), look in zip(by_end["end"].items(), [*PALETTE, *MORE], strict=False):
            for of_method, is_full in ((at_end, True), (by_end["chosen"][method], False)):
                axes.plot(
                    [100 * point.memorised[0] for point in of_method],
                    [100 * point.test[0] for point in of_method],
                    color=look.colour,
                    marker=look.marker,
                    linestyle=look.dashes if is_full else "none",
                    markerfacecolor=look.colour if is_full else "white",
                    label=method if is_full else None,
                )
        for name, (mean, _) in lines.items():
            axes.axhline(100 * mean, color=GREY, linewidth=0.9, linestyle=(0, (4, 2)))
            # The higher line has its name above it, the lower one below.
            is_above = mean == max(value for value, _ in lines.values())
            place = {"xycoords": ("axes fraction", "data"), "ha": "right", "va": "bottom" if is_above else "top"}
            axes.annotate(name, (1, 100 * mean), color=GREY, **place)
        axes.set(xlabel="wrong labels memorised (%)", ylabel="test accuracy (%)", xscale="log")
        ticks = (1, 2, 5, 10, 20, 50, 100)
        axes.set_xticks(ticks, map(str, ticks), minor=False)
        axes.set_xticks([], minor=True)
        figure.legend(loc="outside right upper", title="full: training to its end\nhollow: to the chosen epoch")
        figure.savefig(to, dpi=160)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path)
    parser.add_argument("--figure", type=Path, help="a .png, .svg or .pdf to draw")
    arguments = parser.parse_args()
    done = [run for run in read_runs([arguments.sweep]) if run.state == "done"]
    noisy = [run for run in done if run.corruption != "none"]
    by_end = {end: points(noisy, prefix) for end, prefix in ENDS.items()}
    lines = oracles([run for run in done if run.corruption == "none"])
    print("\n".join(table(by_end)))
    for name, value in lines.items():
        print(f"{name}: {percent(value)}")
    if arguments.figure:
        draw(by_end, lines, arguments.figure)


if __name__ == "__main__":
    main()
