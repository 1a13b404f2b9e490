"""What a caption says of every figure: the data, the budget, how many runs, what lines and bands are."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

import pandas as pd

from rethinkgen.grouping import collected
from rethinkgen.measure.thresholds import STEPS_TO_NEARLY_FIT
from rethinkgen.report.claim_files import load_papers
from rethinkgen.report.figures.declaration import FITTED, TOLD_OF_RUNS
from rethinkgen.report.figures.panels import Panel
from rethinkgen.report.figures.settings import settings
from rethinkgen.report.style import facts
from rethinkgen.run.overview import setup_of
from rethinkgen.run.quantities import value_of
from rethinkgen.run.settings import x_of

FITTED_WHAT = {"steps_to_fit": "the whole training set", STEPS_TO_NEARLY_FIT: "99 % of the training set"}
MARKS = {
    "is_bound": "An arrow is a lower bound: what was not fitted within the budget counts with the budget.",
    "is_open": "Open markers: on average less than 99 % of the training set was fitted.",
    "published": "Hollow diamonds: published.",
}
BOUND_FIELDS = "A field without colour is a lower bound: what was not reached within the budget counts with the budget."
ALIKE = "All runs fit about the same share of the training set: what tells them apart stands along the axis instead."


def caption_of(grid: Sequence[Sequence[Panel]], data: pd.DataFrame, left_out: Sequence[str]) -> str:
    """Return what is said below a figure: its own words, then what marks, spread and setup are."""
    panels = [panel for row in grid for panel in row]
    figures = [panel.figure for panel in panels]
    runs = list(dict.fromkeys(run for panel in panels for run in panel.runs))
    own = [
        filled(words, *(panel for panel in panels if panel.figure.caption == words))
        for words in dict.fromkeys(figure.caption for figure in figures)
    ]
    is_alike = any(figure.kind == "scatter" and figure.value in figure.instead for figure in figures)
    bound = BOUND_FIELDS if all(figure.kind == "heatmap" for figure in figures) else MARKS["is_bound"]
    stand_ins = {name: words for paper in load_papers() for name, words in paper.stand_ins.items()}
    unfinished = sum(run.state != "done" for run in runs)
    told = [
        *own,
        ALIKE if is_alike else "",
        bound if any(panel.has("is_bound") for panel in panels) else "",
        MARKS["is_open"] if any(panel.has("is_open") for panel in panels) else "",
        MARKS["published"] if "kind" in data and data["kind"].eq("published").any() else "",
        setup_of(runs, stand_ins),
        fields_of(panels),
        *spread_of(panels, data),
        f"Not finished: {unfinished} of {len(runs)} runs." if unfinished else "",
        *lacking(panels),
        f"Not drawn are {len(left_out)} settings: {listed(left_out)}." if left_out else "",
    ]
    return " ".join(filter(None, told))


def filled(template: str, *panels: Panel) -> str:
    """Put into a caption or title what it names of the runs that are drawn: ``{model}``, ``{log_every}``.

    What none of them has stays as it is typed.
    """

    def told(match: re.Match[str]) -> str:
        name = match[1]
        if name == FITTED:
            return next((text for key, text in FITTED_WHAT.items() if any(key in panel.y for panel in panels)), "it")
        found = {value for panel in panels for run in panel.runs if (value := value_of(run, name)) is not None}
        values = sorted(found, key=lambda value: (isinstance(value, str), value))
        scale = facts(name).scale
        texts = [f"{scale * value:,.4g}" if isinstance(value, int | float) else str(value) for value in values]
        shown = " or ".join(texts) if len(texts) < 4 else f"{texts[0]} ... {texts[-1]}"
        return f"{shown} %" if shown and scale == 100 else shown or match[0]

    return TOLD_OF_RUNS.sub(told, template.strip())


def spread_of(panels: Sequence[Panel], data: pd.DataFrame) -> list[str]:
    """Say what the spread is, given ``n`` of everything drawn; and what a marker is where it is a run."""
    means = [panel for panel in panels if panel.figure.spread == "seed" and panel.figure.kind in ("lines", "curves")]
    is_each = any(panel.figure.kind == "scatter" or panel.figure.spread != "seed" for panel in panels)
    each = f"A marker is a run (n = {len({run for panel in panels for run in panel.runs})})." if is_each else ""
    if not means or "n" not in data:
        return [each]
    ends = data["kind"].astype(str) if "kind" in data else pd.Series("mean", data.index)
    is_single = ends.str.startswith("seed")
    is_whole = ends[is_single].str.endswith("done")
    thin = ["Thin lines are single runs, which ended at different steps."] if is_whole.any() else []
    thin += [] if is_whole.all() else ["A thin line that ends in an open circle is a run that is not finished."]
    counts = sorted({int(n) for n in data[~is_single]["n"].dropna() if n})
    return [*([_means(counts, sorted({panel.figure.kind for panel in means}))] if counts else []), *thin, each]


def _means(counts: Sequence[int], kinds: Sequence[str]) -> str:
    if list(counts) == [1]:
        return "One run each (n = 1), so no spread."
    what = " or ".join({"curves": "bands", "lines": "bars"}[kind] for kind in kinds)
    n = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    if counts[-1] == 2:
        return f"Means over n = {n} seeds, whose {what} reach from one to the other."
    of_two = "; of two from one to the other" if 2 in counts else ""
    return f"Means over n = {n} seeds, with {what} of their 95 % interval (Student's t){of_two}."


def fields_of(panels: Sequence[Panel]) -> str:
    """Say of a heat map what a field is, and whether it is a mean over more than seeds."""
    fields = collected(
        # Of a measure's table each of its runs has a part in every field.
        ((number, *((x_of(run, panel.x), x_of(run, panel.y[0])) if panel.figure.of == "runs" else ())), run)
        for number, panel in enumerate(panels)
        for run in (panel.runs if panel.figure.kind == "heatmap" else ())
    )
    if not fields:
        return ""
    counts = sorted({len(group) for group in fields.values()})
    n = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    mixed = sum(len(settings(group)) > 1 for group in fields.values())
    more = f" In {mixed} of {len(fields)} fields these differ in more than their seeds." if mixed else ""
    return f"A field is the mean over its runs (n = {n}).{more}"


def lacking(panels: Sequence[Panel]) -> list[str]:
    """Say how many finished runs are not in a plot of single runs, as they have no such number."""
    found = collected(each for panel in panels for each in panel.lacking.items())
    numbers = {quantity: len(set().union(*runs)) for quantity, runs in found.items()}
    counts = {quantity: f"{number} run{'s' if number > 1 else ''}" for quantity, number in numbers.items()}
    return [f"Not drawn: {count} without {quantity}." for quantity, count in counts.items()]


def listed(names: Iterable[str]) -> str:
    """Name the first of what there is no room for, or what has no two points."""
    first, more = list(names)[:4], len(list(names)) - 4
    return "; ".join(first) + (f" and {more} more" if more > 0 else "")
