"""What a figure of the user's does not say, guessed from what varies in the runs."""

from __future__ import annotations

from collections.abc import Sequence

from rethinkgen.report.figures.declaration import Figure
from rethinkgen.report.figures.settings import goes_with, is_graded, x_of
from rethinkgen.report.quantities import CHOICES, facts, keys_of, value_of
from rethinkgen.run.identity import SEEDS
from rethinkgen.run.run import Run

OTHERS = ("regularizer", "data.corruption")
"""Told by a choice: all keys below vary with it."""


def completed(figure: Figure, runs: Sequence[Run]) -> Figure:
    """Return a figure that says along what, of what, and in which series, with a title.

    Raises:
        ValueError: nothing varies, so that there is no axis to guess.
    """
    if figure.of != "runs":
        return figure
    y = figure.y or (["fit/accuracy", "test/accuracy"] if figure.kind == "curves" else "test/accuracy")
    varying = axes_of(runs)
    x, series = figure.x, figure.series
    if x is None and figure.kind == "lines":
        free = [name for name in varying if name != series]
        if not free:
            raise ValueError(
                f"figure {figure.name}: x: is missing, and nothing varies in these runs but their seeds. Say x=..., or "
                "kind: curves."
            )
        x = free[0]
    rest = [name for name in varying if not set(keys_of(name)) & set(keys_of(str(x)))]
    if series is None and figure.kind in ("lines", "curves") and rest:
        series = rest[0]
    title = figure.title if figure.title != figure.name.replace("_", " ") else _title(figure, x, y, series)
    return figure.but(x=x, y=y, series=series, title=title)


def axes_of(runs: Sequence[Run]) -> list[str]:
    """Return what differs between runs, as one would name it: numbers of many values first, then choices."""
    keys = dict.fromkeys(key for run in runs for key in run.identity)
    differing = [key for key in keys if key not in SEEDS and len({str(run.identity.get(key)) for run in runs}) > 1]
    choices = [name for name in CHOICES if len({str(value_of(run, name)) for run in runs}) > 1]
    # A model's own rate follows from the model; what only chooses among them is told by the choice.
    following = {key for name in choices for key in goes_with(runs, name)}
    below = tuple(f"{name}." for name in (*OTHERS, *choices))
    numbers = [key for key in differing if key not in following and not key.startswith(below)]
    if any(map(is_graded, runs)) and len({run.level for run in runs} - {None}) > 1:
        numbers.insert(0, "level")
    counts = {name: len({str(x_of(run, name)) for run in runs}) for name in (*numbers, *choices)}
    return [*sorted(numbers, key=lambda name: -counts[name]), *sorted(choices, key=lambda name: -counts[name])]


def _title(figure: Figure, x: str | None, y: object, series: str | None) -> str:
    names = [name for column in figure.but(y=y).columns() for name in column]
    what = " and ".join(facts(name).label.partition(" (")[0] for name in names)
    along = {"curves": f"{what} while training", "histogram": f"How {x} is spread"}
    told = along.get(figure.kind, f"{what} against {x}")
    return told[:1].upper() + told[1:] + (f", by {series}" if series else "")
