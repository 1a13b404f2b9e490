"""Which runs are repetitions of one another, and what tells those of one setting from those of another.

Nothing here knows a name of any model or corruption. Light: no torch.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from rethinkgen.grouping import collected
from rethinkgen.run.identity import SEEDS
from rethinkgen.run.quantities import CHOICES, NODE_OF, as_text, property_of, value_of
from rethinkgen.run.run import Run
from rethinkgen.run.where import is_below

DESCRIBED = ("data", "model", "data.corruption", "regularizer")
"""Choices that go by their names alone."""
OTHERS = ("regularizer", "data.corruption")
"""Told by a choice: all keys below vary with it."""
MOST_TOLD = 3
"""Keys that a name is made of, where these tell all apart."""


def by_setting(runs: Iterable[Run]) -> list[list[Run]]:
    """Group repetitions of a run; what lay elsewhere under the same name of data is another setting."""
    return list(collected(((run.setting(*SEEDS), run.facts.get("fingerprint")), run) for run in runs).values())


def by_data(runs: Iterable[Run]) -> dict[str, list[Run]]:
    """Return source of images -> its runs, in the order in which they come: numbers on two sources share no axis."""
    return collected((run.data, run) for run in runs)


def is_graded(run: Run) -> bool:
    """Whether its corruption has a level that can be chosen."""
    return property_of(run, "graded") is True


def corruption_name(run: Run) -> str:
    """Return a corruption and, where it has one, its level."""
    return f"{run.corruption} {run.level:g}" if is_graded(run) else run.corruption


def x_of(run: Run, x: str) -> Any:
    """Return where a run stands along an axis."""
    value = corruption_name(run) if x == "data.corruption" else value_of(run, x)
    return "no regularizer" if x == "regularizer" and not value else value


def told(run: Run, quantity: str) -> str:
    """Return what a setting is called by one of its choices or keys."""
    value = x_of(run, quantity)
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
    one = next((key for key in (series, "model", "data.corruption") if key in columns), "data")
    shown = [key for key in columns if len(set(parts[key])) > 1] or [str(one)]
    labels = [", ".join(texts) for texts in zip(*(parts[key] for key in shown), strict=True)]
    for label in [label for label, count in Counter(labels).items() if count > 1]:
        alike = [number for number, other in enumerate(labels) if other == label]
        more = differences([firsts[number] for number in alike], ("data.corruption", *but_for))
        for number, values in zip(alike, more, strict=True):
            labels[number] = ", ".join([label, *values])
    return labels


def goes_with(runs: Sequence[Run], quantity: str) -> list[str]:
    """Return the keys of the config whose value follows from that of a quantity, as a model's own rate does."""
    of_quantity = [value_of(run, quantity) for run in runs]
    keys = dict.fromkeys(key for run in runs for key in run.identity)
    told = {key: [str(run.identity.get(key)) for run in runs] for key in keys}
    return [key for key, values in told.items() if len(set(values)) > 1 and follows(values, of_quantity)]


def follows(values: Sequence[Any], others: Sequence[Any]) -> bool:
    """Whether each value is known from the other one at its place: where the others are the same, it is, too."""
    return len(set(zip(others, values, strict=True))) == len(set(others))


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


def differences(runs: Sequence[Run], leaving_out: Sequence[str] = ()) -> list[list[str]]:
    """Name each run by what of its config is not the same in all, seeds aside; a single one needs no name.

    A choice goes by its name, with all that follows from it. As many of these and of other keys are told as it takes to
    tell all runs apart that differ in any, and no fewer than ``MOST_TOLD`` where there are so many; and the data, where
    only these differ. ``leaving_out`` are keys, with all below them, that are told elsewhere.
    """
    told_elsewhere = (*SEEDS, *leaving_out)
    telling: dict[tuple[str, ...], str] = {}
    chosen = {}
    for group, node in NODE_OF.items():
        names = tuple(str(property_of(run, group) or "") for run in runs)
        if len(set(names)) > 1 and not is_below(group, told_elsewhere):
            telling.setdefault(names, group)
            chosen[node] = names
    for key in dict.fromkeys(key for run in runs for key in run.identity if not is_below(key, told_elsewhere)):
        values = tuple(str(run.identity.get(key)) for run in runs)
        choice = next((names for node, names in chosen.items() if is_below(key, (node,))), ())
        # The same value under two keys, as a regularizer's and its user's, is told once.
        if len(set(values)) > 1 and not (choice and follows(values, choice)):
            telling.setdefault(values, key)
    columns = list(telling)
    told = columns[:MOST_TOLD]
    for column in columns[MOST_TOLD:]:
        if len(set(zip(*told, column, strict=True))) > len(set(zip(*told, strict=True))):
            told.append(column)
    found = [list(filter(None, (_named(run, telling[column]) for column in told))) for run in runs]
    data = [f"data={str(run.facts.get('fingerprint'))[:6]}" for run in runs]
    alike = [{other for name, other in zip(found, data, strict=True) if name == own} for own in found]
    return [
        [*name, own] if len(all_of_it) > 1 else name for name, own, all_of_it in zip(found, data, alike, strict=True)
    ]


def tell_apart(runs: Sequence[Run], leaving_out: Sequence[str] = ()) -> list[str]:
    """Return ``differences``, each as one text."""
    return list(map(" ".join, differences(runs, leaving_out)))


def apart(firsts: Sequence[Run], leaving_out: Sequence[str] = (), *, by_model: bool = True) -> dict[Run, str]:
    """Name each setting among all, or those of its model: what goes with a model is told by its name."""
    found: dict[Run, str] = {}
    for model in dict.fromkeys(run.model if by_model else "" for run in firsts):
        of_it = [run for run in firsts if not by_model or run.model == model]
        found |= zip(of_it, tell_apart(of_it, leaving_out), strict=True)
    return found


def _named(run: Run, key: str) -> str:
    """Return ``adamw`` for a choice, ``lr=0.1`` for a key, ``optimizer=AdamW`` for a class that no choice tells."""
    if key in NODE_OF:
        return str(property_of(run, key) or "")
    value, (node, _, name) = run.identity.get(key), key.rpartition(".")
    if name == "class":
        return f"{node.rpartition('.')[2]}={str(value).rpartition('.')[2]}"
    return f"{name}={as_text(value)}"


def is_by_degrees(runs: Sequence[Run]) -> bool:
    """Whether all are of one corruption by degrees, none and all of it included."""
    return all(run.level is not None for run in runs) and len({run.corruption for run in runs if is_graded(run)}) == 1
