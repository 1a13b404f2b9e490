"""What a caption says of every figure: the data, the budget, how many runs, what lines and bands are."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from rethinkgen.measure.thresholds import STEPS_TO_NEARLY_FIT
from rethinkgen.report.claim_files import load_papers
from rethinkgen.report.figures.panels import Panel
from rethinkgen.report.figures.settings import finished, settings, x_of
from rethinkgen.report.quantities import facts, value_of
from rethinkgen.run.run import Run

FITTED = {"steps_to_fit": "the whole training set", STEPS_TO_NEARLY_FIT: "99 % of the training set"}
MARKS = {
    "is_bound": "An arrow is a lower bound: what was not fitted within the budget counts with the budget.",
    "is_open": "Open markers: on average less than 99 % of the training set was fitted.",
    "published": "Hollow diamonds: published.",
}


ALIKE = " All runs fit about the same share of the training set: what tells them apart stands along the axis instead."


def caption_of(grid: Sequence[Sequence[Panel]], data: pd.DataFrame, left_out: Sequence[str]) -> str:
    """Return what is said below a figure: its own words, then what marks, spread and setup are."""
    panels = [panel for row in grid for panel in row]
    runs = list(dict.fromkeys(run for panel in panels for run in panel.runs))
    captions: dict[str, list[Panel]] = {}
    for panel in panels:
        captions.setdefault(panel.figure.caption, []).append(panel)
    own = " ".join(filled(words, *of_it) for words, of_it in captions.items())
    own += (
        ALIKE
        if any(panel.figure.kind == "scatter" and panel.figure.value in panel.figure.instead for panel in panels)
        else ""
    )
    marks = [MARKS[name] for name in ("is_bound", "is_open") if name in data and data[name].eq(True).any()]
    marks += [MARKS["published"]] if "kind" in data and data["kind"].eq("published").any() else []
    fields = fields_of(panels)
    return sentences(
        own, *marks, setup_of(runs), fields, spread_of(panels, data), unfinished(runs), not_drawn(left_out)
    )


def filled(template: str, *panels: Panel) -> str:
    """Put into a caption or title what it names of the runs that are drawn: ``{model}``, ``{log_every}``."""

    def told(match: re.Match[str]) -> str:
        name = match[1]
        if name == "fitted":
            return next((text for key, text in FITTED.items() if any(key in panel.y for panel in panels)), "it")
        found = {value for panel in panels for run in panel.runs if (value := value_of(run, name)) is not None}
        values = sorted(found, key=lambda value: (isinstance(value, str), value))
        scale = facts(name).scale
        texts = [f"{scale * value:,.4g}" if isinstance(value, int | float) else str(value) for value in values]
        shown = texts if len(texts) < 4 else [texts[0], "...", texts[-1]]
        return (" or " if len(texts) < 4 else " ").join(shown) + (" %" if scale == 100 else "")

    return re.sub(r"\{([\w./]+)\}", told, template.strip())


def setup_of(runs: Sequence[Run]) -> str:
    """Say on what and for how long: ``Data: cifar10. Budget: 25,000 steps of 128 examples.``"""
    if not runs:
        return ""
    stand_ins = {name: words for paper in load_papers() for name, words in paper.stand_ins.items()}
    data = ", ".join(
        f"{name} ({stand_ins[name]})" if name in stand_ins else name for name in _each(run.data for run in runs)
    )
    subsets = sorted({int(run.key("data.num_train")) for run in runs if run.key("data.num_train")})
    if 0 < len(subsets) <= 3:
        data += f", {' or '.join(f'{size:,}' for size in subsets)} training examples"
    if not any(value_of(run, "takes_steps") for run in runs):
        return f"Data: {data}."
    budgets = _each(_budget(run) for run in runs)
    until_fit = " or until fitted" if any(run.key("until_fit") for run in runs) else ""
    if len(budgets) > 3:
        return f"Data: {data}. Budgets differ."
    sizes = sorted({int(run.key("data.batch_size") or 0) for run in runs} - {0})
    of = f" of {' or '.join(map(str, sizes))} examples" if sizes else ""
    return f"Data: {data}. Budget: {' or '.join(budgets)}{of if 'steps' in budgets[0] else ''}{until_fit}."


def spread_of(panels: Sequence[Panel], data: pd.DataFrame) -> str:
    """Say what the spread is, given ``n`` of everything drawn; and what a marker is where it is a run."""
    kinds = {
        panel.figure.kind
        for panel in panels
        if panel.figure.spread == "seed" and panel.figure.kind in ("lines", "curves")
    }
    is_each = any(panel.figure.kind == "scatter" or panel.figure.spread != "seed" for panel in panels)
    each = f"A marker is a run (n = {len({run for panel in panels for run in panel.runs})})." if is_each else ""
    if not kinds or "n" not in data:
        return each
    is_single = data.get("kind", pd.Series("mean", data.index)).astype(str).str.startswith("seed")
    counts = sorted({int(n) for n in data[~is_single]["n"].dropna() if n})
    ends = data[is_single]["kind"] if is_single.any() else pd.Series(dtype=str)
    thin = "Thin lines are single runs, which ended at different steps." if ends.str.endswith("done").any() else ""
    at_work = "A thin line that ends in an open circle is a run that is not finished."
    thin = sentences(thin, "" if ends.str.endswith("done").all() else at_work)
    if not counts:
        return sentences(thin, each)
    if counts == [1]:
        return sentences("One run each (n = 1), so no spread.", thin, each)
    what = " or ".join({"curves": "bands", "lines": "bars"}[kind] for kind in sorted(kinds))
    n = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    if counts[-1] == 2:
        told = f"Means over n = {n} seeds, whose {what} reach from one to the other."
    else:
        of_two = "; of two from one to the other" if 2 in counts else ""
        told = f"Means over n = {n} seeds, with {what} of their 95 % interval (Student's t){of_two}."
    return sentences(told, thin, each)


def fields_of(panels: Sequence[Panel]) -> str:
    """Say of a heat map what a field is, and whether it is a mean over more than seeds."""
    fields: dict[Any, list[Run]] = {}
    for number, panel in enumerate(panels):
        for run in panel.runs if panel.figure.kind == "heatmap" else ():
            fields.setdefault((number, x_of(run, panel.x), x_of(run, panel.y[0])), []).append(run)
    if not fields:
        return ""
    counts = sorted({len(group) for group in fields.values()})
    n = " to ".join(map(str, dict.fromkeys((counts[0], counts[-1]))))
    mixed = sum(len(settings(group)) > 1 for group in fields.values())
    more = f" In {mixed} of {len(fields)} fields these differ in more than their seeds." if mixed else ""
    return f"A field is the mean over its runs (n = {n}).{more}"


def unfinished(runs: Iterable[Run]) -> str:
    """Say how many runs are not in the figure, or not to their ends."""
    known = list(runs)
    missing = len(known) - len(finished(known))
    return f"Not finished: {missing} of {len(known)} runs." if missing else ""


def not_drawn(what: Sequence[str]) -> str:
    """Say what there was no room for, or what has no two points."""
    more = f" and {len(what) - 4} more" if len(what) > 4 else ""
    return f"Not drawn are {len(what)} settings: {'; '.join(what[:4])}{more}." if what else ""


def sentences(*parts: str) -> str:
    """Join what there is to say."""
    return " ".join(part for part in parts if part)


def _budget(run: Run) -> str:
    if (epochs := run.key("max_epochs")) is not None:
        return f"{epochs:g} epochs"
    steps = run.key("max_steps")
    return f"{steps:,} steps" if isinstance(steps, int) else "unknown"


def _each(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))
