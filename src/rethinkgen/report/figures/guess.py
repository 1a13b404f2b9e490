"""What a figure of the user's does not say, guessed from what varies in the runs."""

from __future__ import annotations

from collections.abc import Sequence

from rethinkgen.report.figures.declaration import Figure
from rethinkgen.report.style import facts
from rethinkgen.run.quantities import keys_of
from rethinkgen.run.run import Run
from rethinkgen.run.settings import axes_of


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


def _title(figure: Figure, x: str | None, y: object, series: str | None) -> str:
    names = [name for column in figure.but(y=y).columns() for name in column]
    what = " and ".join(facts(name).label.partition(" (")[0] for name in names)
    along = {"curves": f"{what} while training", "histogram": f"How {x} is spread"}
    told = along.get(figure.kind, f"{what} against {x}")
    return told[:1].upper() + told[1:] + (f", by {series}" if series else "")
