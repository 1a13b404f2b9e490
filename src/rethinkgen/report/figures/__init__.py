"""Every figure that some runs bear on: the paper's, then the general ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from rethinkgen.report.figures import curves, general, input_noise, levels, opening, theory
from rethinkgen.report.figures.picture import Picture
from rethinkgen.report.figures.series import by_data
from rethinkgen.report.names import distinct, stem
from rethinkgen.run.run import Run

__all__ = ["Picture", "pictures"]

MAKERS = (
    opening.learnt_then_memorised,
    curves.figure_1a,
    levels.figure_1b,
    levels.figure_1c,
    curves.figure_2a,
    curves.figure_2b,
    input_noise.figure_input_noise,
    theory.theorem_1,
    theory.rademacher,
    general.fit_against_test,
    general.steps_to_fit,
    general.learning_curves,
)


def pictures(runs: Sequence[Run]) -> list[Picture]:
    """Draw the figures that at least some of the runs bear on, in a fixed order; one for each source of images."""
    # Of a run whose files were damaged nobody knows what it was.
    parts = by_data(run for run in runs if run.config)
    found: list[Picture] = []
    for make in MAKERS:
        drawn = {data: picture for data, part in parts.items() if (picture := make(part)) is not None}
        for data, picture in drawn.items():
            name, title = f"{picture.name}_{data}", f"{picture.title} ({data})"
            found.append(replace(picture, name=name, title=title) if len(drawn) > 1 else picture)
    names = distinct(stem(picture.name) for picture in found)
    return [replace(picture, name=name) for picture, name in zip(found, names, strict=True)]
