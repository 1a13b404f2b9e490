"""From runs to what is drawn: which are repetitions of one another, how they are called, mean and spread over them."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from rethinkgen.report.style import LOOKS, PALETTE, SOLID, Look, looks_of
from rethinkgen.run.identity import SEEDS, takes_steps
from rethinkgen.run.run import Run

LABEL_NOISE = ("none", "partial_labels", "random_labels")
"""One axis from 0 to 1: no label drawn at random, some, all."""
KINDS = ("none", "random_labels", "shuffled_pixels", "random_pixels", "gaussian")
"""The five of Figure 1(a)."""

HOW_OFTEN_LOOKED_AT = ("evaluate_every", "log_every")
"""Keys that change nothing about the network in the end, where training ends with its budget."""
MOST_LINES = 8
"""In a panel: more cannot be told apart."""


@dataclass(frozen=True)
class Line:
    """Repetitions of one setting, or such settings along an axis, under one name."""

    label: str
    look: Look
    runs: Sequence[Run]


def settings(runs: Iterable[Run], *but_for: str) -> list[list[Run]]:
    """Group runs that differ in nothing but their seeds and ``but_for``; models and corruptions in a fixed order."""
    groups: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        groups[run.setting(*SEEDS, *but_for)].append(run)
    return sorted(groups.values(), key=lambda group: _place(group[0]))


def outcome_settings(runs: Iterable[Run], *but_for: str) -> list[list[Run]]:
    """Group as ``settings`` does runs of which only the end is told: how often they were looked at is no difference."""
    runs = list(runs)
    of_budget = [run for run in runs if _ends_with_its_budget(run)]
    others = [run for run in runs if not _ends_with_its_budget(run)]
    groups = [*settings(of_budget, *HOW_OFTEN_LOOKED_AT, *but_for), *settings(others, *but_for)]
    return sorted(groups, key=lambda group: _place(group[0]))


def _ends_with_its_budget(run: Run) -> bool:
    return not run.key("until_fit") and "early_stopping" not in run.regularizers


def lines(groups: Sequence[Sequence[Run]], *, across_corruptions: bool = False) -> list[Line]:
    """Name each group by what tells it from the others, and give it the look of its model or corruption.

    ``across_corruptions``: a group has runs of several, so that they are no name of it.
    """
    labels = names(groups, across_corruptions=across_corruptions)
    firsts = [group[0] for group in groups]
    corruptions = ["" if across_corruptions else corruption_name(run) for run in firsts]
    if len({run.model for run in firsts}) == 1 and len(set(corruptions)) > 1:
        keys, looks = corruptions, corruption_looks(firsts)
    else:
        keys = [run.model for run in firsts]
        looks = {}
    counts = Counter(keys)
    keys = [key if counts[key] == 1 else label for key, label in zip(keys, labels, strict=True)]
    if not set(keys) <= set(looks):
        looks = looks_of(keys)
    return [Line(label, looks[key], group) for label, key, group in zip(labels, keys, groups, strict=True)]


def corruption_looks(runs: Sequence[Run]) -> dict[str, Look]:
    """Return a look for each corruption by its name; label noise by degrees from dark to light."""
    kinds = {corruption_name(run): run for run in runs}
    if len(kinds) > 2 and "partial_labels" in {run.corruption for run in runs} <= set(LABEL_NOISE):
        return {
            name: _shade(run.level or 0.0, PALETTE[number % len(PALETTE)].marker)
            for number, (name, run) in enumerate(kinds.items())
        }
    if len({run.corruption for run in runs}) == len(kinds):
        looks = looks_of([run.corruption for run in kinds.values()])
        return {name: looks[run.corruption] for name, run in kinds.items()}
    return looks_of(list(kinds))


def names(groups: Sequence[Sequence[Run]], *, across_corruptions: bool = False) -> list[str]:
    """Return what tells each group from the others: choices that differ, and where these do not, values that do."""
    firsts = [group[0] for group in groups]
    parts = [_described(run, "" if across_corruptions else corruption_name(run)) for run in firsts]
    varying = [column for column in range(len(parts[0])) if len({part[column] for part in parts}) > 1] if parts else []
    labels = [", ".join(part[column] for column in varying or [1]) for part in parts]
    for label in [label for label, count in Counter(labels).items() if count > 1]:
        alike = [number for number, other in enumerate(labels) if other == label]
        for number, values in zip(alike, _differing([firsts[number] for number in alike]), strict=True):
            labels[number] = ", ".join([label, *values])
    return labels


def _described(run: Run, corruption: str) -> tuple[str, str, str, str]:
    return run.data, run.model, corruption, "+".join(run.regularizers) or "no regularizer"


def corruption_name(run: Run) -> str:
    """Return a corruption and, where it has one, its level."""
    has_level = run.level is not None and run.corruption not in ("none", "random_labels")
    return f"{run.corruption} {run.level:g}" if has_level else run.corruption


def _differing(runs: Sequence[Run]) -> list[list[str]]:
    """Return each run's values of the keys that are not the same in all."""
    keys = dict.fromkeys(key for run in runs for key in run.identity)
    varying = [
        key
        for key in keys
        if key not in SEEDS
        and not key.startswith("data.corruption.")
        and len({str(run.identity.get(key)) for run in runs}) > 1
    ]
    return [[f"{key.rpartition('.')[2]}={run.identity.get(key)}" for key in varying] for run in runs]


def _place(run: Run) -> tuple[Any, ...]:
    known = list(LOOKS)
    model = known.index(run.model) if run.model in known else len(known)
    if run.corruption in LABEL_NOISE:
        # Random labels are the end of partial ones.
        corruption = float(run.level or 0.0) / 2
    else:
        corruption = float(known.index(run.corruption)) if run.corruption in known else len(known)
    return run.data, model, run.model, corruption, run.corruption, run.level or 0.0, run.regularizers


def _shade(level: float, marker: str) -> Look:
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return Look(to_hex(colormaps["viridis"](0.9 * level)), marker, SOLID)


def finished(runs: Iterable[Run]) -> list[Run]:
    """Return the runs that have a result."""
    return [run for run in runs if run.state == "done"]


def trained(runs: Iterable[Run]) -> list[Run]:
    """Return the runs whose steps are those of their budget, which what is solved at once does not take."""
    return [run for run in runs if takes_steps(run.config)]


def at_level(runs: Iterable[Run]) -> dict[float, list[Run]]:
    """Return level of corruption -> finished runs, each seed once: ``none`` and probability 0 are one run twice.

    So are two that differ in how often they were looked at; settings that differ otherwise are groups of their own.

    A level that was asked for and has no finished run yet is there, empty.
    """
    levels: dict[float, dict[str, Run]] = defaultdict(dict)
    for run in runs:
        if run.level is not None:
            group = levels[run.level]
            if run.state == "done":
                group.setdefault(run.setting("data.corruption", *HOW_OFTEN_LOOKED_AT), run)
    return {level: list(levels[level].values()) for level in sorted(levels)}


def num_levels(runs: Iterable[Run]) -> int:
    """Return at how many levels of corruption there is a finished run."""
    return sum(bool(group) for group in at_level(runs).values())


def statistics(values: Sequence[float]) -> dict[str, float]:
    """Return mean and sample standard deviation, not a number where there are too few values, and their number."""
    if not values:
        return {"mean": math.nan, "std": math.nan, "n": 0}
    std = float(np.std(values, ddof=1)) if len(values) > 1 else math.nan
    return {"mean": float(np.mean(values)), "std": std, "n": len(values)}


def curve(run: Run, column: str) -> pd.DataFrame:
    """Return ``step`` and ``value`` where the run logged ``column``."""
    if column not in run.curves:
        return pd.DataFrame({"step": [], "value": []})
    # By numpy, as there may be a thousand runs.
    steps, values = run.curves["step"].to_numpy(), run.curves[column].to_numpy(float)
    is_logged = ~np.isnan(values)
    return pd.DataFrame({"step": steps[is_logged], "value": values[is_logged]})


def mean_curve(curves: Sequence[pd.DataFrame]) -> pd.DataFrame | None:
    """Return ``step, mean, std, n`` over curves that were logged at the same steps; nothing where they end apart.

    A mean over fewer and fewer runs would jump wherever one of them ends.
    """
    if not curves or len({curve["step"].iloc[-1] for curve in curves}) > 1:
        return None
    grouped = pd.concat(curves).groupby("step")["value"]
    table = pd.DataFrame({"mean": grouped.mean(), "std": grouped.std(), "n": grouped.size()})
    return table[table["n"] == len(curves)].reset_index()


def budget(runs: Iterable[Run]) -> int:
    """Return the most optimizer steps that one of the runs took or may take."""
    steps = [0]
    for run in runs:
        asked = None if run.key("max_epochs") is not None else run.key("max_steps")
        logged = [] if run.curves.empty else [run.curves["step"].iloc[-1]]
        steps += [int(value) for value in (run.metrics.get("steps"), *logged) if value is not None]
        # What stopped early does not fill the axis to its budget.
        if isinstance(asked, int) and not run.key("until_fit") and "early_stopping" not in run.regularizers:
            steps.append(asked)
    return max(steps)


def num_classes(runs: Iterable[Run]) -> set[int]:
    """Return how many classes there are, as finished runs say."""
    return {run.num_classes for run in runs if run.num_classes}


def by_data(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Return source of images -> its runs, in the order in which they come: numbers on two sources share no axis."""
    parts: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        parts[run.data].append(run)
    return dict(parts)
