"""Which runs are repetitions of one another, and how they are called and drawn; nothing here knows a name of any."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rethinkgen.report.quantities import keys_of, value_of
from rethinkgen.report.style import PALETTE, SOLID, Look, known_looks, looks_of
from rethinkgen.run.identity import SEEDS
from rethinkgen.run.run import Run

HOW_OFTEN_LOOKED_AT = ("evaluate_every", "log_every")
"""Keys that change nothing about the network in the end, where training ends with its budget."""
DESCRIBED = ("data", "model", "data.corruption", "regularizer")


@dataclass(frozen=True, eq=False)
class Line:
    """Repetitions of one setting, or such settings along an axis, under one name."""

    label: str
    look: Look
    runs: Sequence[Run]


def settings(runs: Iterable[Run], *but_for: str, merge: Sequence[str] = ()) -> list[list[Run]]:
    """Group runs that differ in nothing but their seeds and ``but_for``, in a fixed order.

    ``merge``: keys that are no difference either, of runs that end with their budget.
    """
    groups: dict[tuple[bool, str], list[Run]] = defaultdict(list)
    for run in runs:
        is_of_budget = bool(merge) and not run.key("until_fit") and "early_stopping" not in run.regularizers
        groups[is_of_budget, run.setting(*SEEDS, *(merge if is_of_budget else ()), *but_for)].append(run)
    return sorted(groups.values(), key=lambda group: place(group[0]))


def place(run: Run) -> tuple[Any, ...]:
    """Return what runs are sorted by: data, model and corruption as they are listed, level, regularizers."""
    known = list(known_looks())
    model, corruption = (known.index(name) if name in known else len(known) for name in (run.model, run.corruption))
    return run.data, model, run.model, corruption, run.corruption, run.level or 0.0, run.regularizers


def is_graded(run: Run) -> bool:
    """Whether its corruption has a level that can be chosen."""
    return value_of(run, "graded") is True


def corruption_name(run: Run) -> str:
    """Return a corruption and, where it has one, its level."""
    return f"{run.corruption} {run.level:g}" if is_graded(run) else run.corruption


def told(run: Run, quantity: str) -> str:
    """Return what a setting is called by one of its choices or keys."""
    if quantity == "data.corruption":
        return corruption_name(run)
    value = value_of(run, quantity)
    if quantity == "regularizer":
        return value or "no regularizer"
    text = f"{value:g}" if isinstance(value, float) else str(value)
    return text if quantity in DESCRIBED else f"{quantity.rpartition('.')[2]}={text}"


def names(
    groups: Sequence[Sequence[Run]], *but_for: str, series: str | None = None, told_elsewhere: Sequence[str] = ()
) -> list[str]:
    """Return what tells each group from the others: choices that differ, and where these do not, values that do.

    ``but_for``: keys that the groups' own runs differ in. ``told_elsewhere``: choices that name the whole row.
    """
    firsts = [group[0] for group in groups]
    columns = [key for key in dict.fromkeys([series or "data", *DESCRIBED]) if key not in (*but_for, *told_elsewhere)]
    parts = {key: [told(run, key) for run in firsts] for key in columns}
    varying = [key for key in columns if len(set(parts[key])) > 1]
    one = next((key for key in ("model", "data.corruption") if key in columns), "data")
    shown = varying or [series if series in columns else one]
    labels = [", ".join(texts) for texts in zip(*(parts[str(key)] for key in shown), strict=True)]
    for label in [label for label, count in Counter(labels).items() if count > 1]:
        alike = [number for number, other in enumerate(labels) if other == label]
        for number, values in zip(alike, _differing([firsts[number] for number in alike], but_for), strict=True):
            labels[number] = ", ".join([label, *values])
    return labels


def _differing(runs: Sequence[Run], but_for: Sequence[str]) -> list[list[str]]:
    """Return each run's values of the keys that are not the same in all."""
    left_out = tuple(f"{key}." for key in (*SEEDS, "data.corruption", *but_for))
    keys = [
        key for key in dict.fromkeys(key for run in runs for key in run.identity) if not f"{key}.".startswith(left_out)
    ]
    telling: dict[tuple[str, ...], str] = {}
    for key in keys:
        # The same value under two keys, as a regularizer's and its user's, is told once.
        telling.setdefault(tuple(str(run.identity.get(key)) for run in runs), key)
    varying = [key for values, key in telling.items() if len(set(values)) > 1]
    return [[f"{key.rpartition('.')[2]}={run.identity.get(key)}" for key in varying] for run in runs]


def lines(
    groups: Sequence[Sequence[Run]], *but_for: str, series: str | None = None, told_elsewhere: Sequence[str] = ()
) -> list[Line]:
    """Name each group by what tells it from the others, and give it the look of its model or corruption."""
    labels = names(groups, *but_for, series=series, told_elsewhere=told_elsewhere)
    firsts = [group[0] for group in groups]
    by = series or "model"
    if series is None and len({run.model for run in firsts}) == 1 and "data.corruption" not in but_for:
        by = "data.corruption" if len(set(map(corruption_name, firsts))) > 1 else by
    keys = [told(run, by) for run in firsts]
    counts = Counter(keys)
    keys = [key if counts[key] == 1 else label for key, label in zip(keys, labels, strict=True)]
    looks = corruption_looks(firsts) if by == "data.corruption" else {}
    if not set(keys) <= set(looks):
        looks = looks_of(keys)
    return [Line(label, looks[key], group) for label, key, group in zip(labels, keys, groups, strict=True)]


def corruption_looks(runs: Sequence[Run]) -> dict[str, Look]:
    """Return a look for each corruption by its name; of one by degrees from dark to light, its ends among them."""
    kinds = {corruption_name(run): run for run in runs}
    if is_by_degrees(runs) and len(kinds) > 2:
        markers = [PALETTE[number % len(PALETTE)].marker for number in range(len(kinds))]
        return {
            name: _shade(run.level or 0.0, marker) for (name, run), marker in zip(kinds.items(), markers, strict=True)
        }
    if len({run.corruption for run in runs}) == len(kinds):
        looks = looks_of([run.corruption for run in kinds.values()])
        return {name: looks[run.corruption] for name, run in kinds.items()}
    return looks_of(list(kinds))


def is_by_degrees(runs: Sequence[Run]) -> bool:
    """Whether all are of one corruption by degrees, none and all of it included."""
    return all(run.level is not None for run in runs) and len({run.corruption for run in runs if is_graded(run)}) == 1


def _shade(level: float, marker: str) -> Look:
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    return Look(to_hex(colormaps["viridis"](0.9 * level)), marker, SOLID)


def finished(runs: Iterable[Run]) -> list[Run]:
    """Return the runs that have a result."""
    return [run for run in runs if run.state == "done"]


def goes_with(runs: Sequence[Run], quantity: str) -> list[str]:
    """Return the keys of the config whose value follows from that of a quantity, as a model's own rate does."""
    values: dict[str, dict[Any, set[str]]] = defaultdict(lambda: defaultdict(set))
    keys = dict.fromkeys(key for run in runs for key in run.identity)
    for run in runs:
        for key in keys:
            values[key][value_of(run, quantity)].add(str(run.identity.get(key)))
    several = {
        key: len({text for found in by_value.values() for text in found}) > 1 for key, by_value in values.items()
    }
    return [
        key for key, by_value in values.items() if several[key] and all(len(found) == 1 for found in by_value.values())
    ]


def x_of(run: Run, x: str) -> Any:
    """Return where a run stands along an axis."""
    return corruption_name(run) if x == "data.corruption" else value_of(run, x)


def at_x(runs: Iterable[Run], x: str) -> dict[Any, list[Run]]:
    """Return value of ``x`` -> finished runs, each seed once: true labels and probability 0 are one run twice.

    So are two that differ in how often they were looked at. A value that was asked for and has no finished run yet is
    there, empty.
    """
    found: dict[Any, dict[str, Run]] = defaultdict(dict)
    for run in runs:
        if (value := x_of(run, x)) is not None:
            group = found[value]
            if run.state == "done":
                group.setdefault(run.setting(*keys_of(x), *HOW_OFTEN_LOOKED_AT), run)
    ordered = sorted(found) if all(isinstance(value, int | float) for value in found) else list(found)
    return {value: list(found[value].values()) for value in ordered}


def by_data(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Return source of images -> its runs, in the order in which they come: numbers on two sources share no axis."""
    parts: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        parts[run.data].append(run)
    return dict(parts)
