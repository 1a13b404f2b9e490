"""Which lines a panel has: repetitions of a setting, or settings along an axis, in order, each with its look."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rethinkgen.grouping import collected
from rethinkgen.report.style import PALETTE, SOLID, Look, known_looks, looks_of
from rethinkgen.run.identity import SEEDS
from rethinkgen.run.run import Run
from rethinkgen.run.settings import corruption_name, is_by_degrees, names, told


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

    def setting(run: Run) -> tuple[bool, str]:
        is_of_budget = bool(merge) and not run.key("until_fit") and "early_stopping" not in run.regularizers
        return is_of_budget, run.setting(*SEEDS, *(merge if is_of_budget else ()), *but_for)

    return sorted(collected((setting(run), run) for run in runs).values(), key=lambda group: place(group[0]))


def place(run: Run) -> tuple[Any, ...]:
    """Return what runs are sorted by: data, model and corruption as they are listed, level, regularizers."""
    known = list(known_looks())
    model, corruption = (known.index(name) if name in known else len(known) for name in (run.model, run.corruption))
    return run.data, model, run.model, corruption, run.corruption, run.level or 0.0, run.regularizers


def lines(
    groups: Sequence[Sequence[Run]], *but_for: str, series: str | None = None, told_elsewhere: Sequence[str] = ()
) -> list[Line]:
    """Name each group by what tells it from the others, and give it the look of its model or corruption."""
    labels = names(groups, *but_for, series=series, told_elsewhere=told_elsewhere)
    firsts = [group[0] for group in groups]
    is_of_corruptions = len({run.model for run in firsts}) == 1 < len(set(map(corruption_name, firsts)))
    by = series or ("data.corruption" if is_of_corruptions and "data.corruption" not in but_for else "model")
    keys = [told(run, by) for run in firsts]
    keys = [key if keys.count(key) == 1 else label for key, label in zip(keys, labels, strict=True)]
    looks = corruption_looks(firsts) if by == "data.corruption" else {}
    looks = looks if set(keys) <= set(looks) else looks_of(keys)
    return [Line(label, looks[key], group) for label, key, group in zip(labels, keys, groups, strict=True)]


def clouds(runs: Sequence[Run], series: str, shape: str) -> list[Line]:
    """Return the runs of each series and shape under one name, with the colour of the one, the marker of the other."""
    # Degrees of several corruptions would need as many colours as there are.
    is_coarse = series == "data.corruption" and not is_by_degrees(runs)
    found = collected(
        ((run.corruption if is_coarse else told(run, series), told(run, shape)), run)
        for group in settings(runs)
        for run in group
    )
    of_corruptions = series == "data.corruption" and not is_coarse
    colours = corruption_looks(runs) if of_corruptions else looks_of(list(dict.fromkeys(name for name, _ in found)))
    markers = looks_of(list(dict.fromkeys(name for _, name in found)))
    return [
        Line(", ".join(dict.fromkeys(key)), Look(colours[key[0]].colour, markers[key[1]].marker, SOLID), group)
        for key, group in found.items()
    ]


def corruption_looks(runs: Sequence[Run]) -> dict[str, Look]:
    """Return a look for each corruption by its name; of one by degrees from dark to light, its ends among them."""
    from matplotlib import colormaps
    from matplotlib.colors import to_hex

    kinds = {corruption_name(run): run for run in sorted(runs, key=place)}
    if is_by_degrees(runs) and len(kinds) > 2:
        shades = [to_hex(colormaps["viridis"](0.9 * (run.level or 0.0))) for run in kinds.values()]
        shaded = [Look(shade, PALETTE[n % len(PALETTE)].marker, SOLID) for n, shade in enumerate(shades)]
        return dict(zip(kinds, shaded, strict=True))
    if len({run.corruption for run in runs}) == len(kinds):
        looks = looks_of([run.corruption for run in kinds.values()])
        return {name: looks[run.corruption] for name, run in kinds.items()}
    return looks_of(list(kinds))
