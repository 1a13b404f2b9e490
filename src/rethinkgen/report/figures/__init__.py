"""Every figure that some runs bear on: those asked for, then the papers', then those of any sweep."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import pandas as pd

from rethinkgen.names import distinct, stem
from rethinkgen.report.figures.declaration import Figure, packaged
from rethinkgen.report.figures.drawing import draw
from rethinkgen.report.figures.panels import data_of, panels_of
from rethinkgen.report.figures.picture import Picture
from rethinkgen.report.figures.words import caption_of
from rethinkgen.report.style import drawing
from rethinkgen.run.origin import command_of
from rethinkgen.run.run import Run
from rethinkgen.run.settings import by_data

__all__ = ["Picture", "picture", "pictures"]


def pictures(runs: Sequence[Run], own: Sequence[Figure] = ()) -> list[Picture]:
    """Draw the figures that at least some of the runs bear on, in a fixed order; one for each source of images."""
    # Of a run whose files were damaged nobody knows what it was.
    known = [run for run in runs if run.config]
    found: list[Picture] = []
    for figure in (*own, *packaged()):
        across = "data" in (figure.x, figure.series, figure.rows, figure.panels)
        parts = {"": known} if across else by_data(known)
        drawn = {data: made for data, part in parts.items() if (made := picture(figure, part)) is not None}
        for data, made in drawn.items():
            name, title = f"{made.name}_{data}", f"{made.title} ({data})"
            found.append(replace(made, name=name, title=title) if len(drawn) > 1 else made)
    names = distinct(stem(made.name) for made in found)
    return [replace(made, name=name) for made, name in zip(found, names, strict=True)]


def picture(figure: Figure, runs: Sequence[Run], tables: Mapping[str, pd.DataFrame] | None = None) -> Picture | None:
    """Draw a figure over runs, or over one of a measure's ``tables``; nothing where these do not bear on it."""
    grid, left_out = panels_of(figure, runs, tables or {})
    if not grid:
        return None
    with drawing():
        drawn = draw(grid)
    data = data_of(grid)
    shown = list(dict.fromkeys(run for row in grid for panel in row for run in panel.runs))
    caption = caption_of(grid, data, left_out)
    return Picture(figure.name, figure.title, caption, drawn, data, command_of(shown), figure.leads, figure)
