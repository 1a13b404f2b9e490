"""Runs chosen by their keys: as ``where`` of a figure and ``runs`` of a claim say, or a command line."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any

import yaml

from rethinkgen.run.quantities import known_quantities, property_of
from rethinkgen.run.run import Run
from rethinkgen.words import meant

MOST_VALUES = 8


def matches(run: Run, selector: Mapping[str, Any] | Sequence[Mapping[str, Any]]) -> bool:
    """Whether the run has the value, one of the values, or a value within the bound, of each key; of a list, any."""
    if not isinstance(selector, Mapping):
        return any(matches(run, one) for one in selector)
    return all(is_allowed(property_of(run, key), wanted, key) for key, wanted in selector.items())


def is_allowed(value: Any, allowed: Any, key: str) -> bool:
    """Whether a value of a key is what a selector allows."""
    if isinstance(allowed, dict):
        ((kind, bound),) = allowed.items()
        return value is not None and (value >= bound if kind == "at_least" else value <= bound)
    if key == "regularizer":
        options = allowed if allowed and isinstance(allowed[0], list) else [allowed]
        return any(sorted(option) == sorted(value) for option in options)
    # True is no 1 here.
    return any(
        (value == option and isinstance(value, bool) == isinstance(option, bool))
        or (isinstance(option, str) and "*" in option and fnmatchcase(str(value), option))
        for option in (allowed if isinstance(allowed, list) else [allowed])
    )


def is_below(key: str, prefixes: Iterable[str]) -> bool:
    """Whether a dotted key is one of these, or lies below one."""
    return f"{key}.".startswith(tuple(f"{prefix}." for prefix in prefixes))


def select(runs: Sequence[Run], told: Any, key: str) -> tuple[list[Run], list[str]]:
    """Return the runs that ``told`` chooses, and the keys that it names.

    ``told``: ``key=value``, ``key=value,value,key=value``, a mapping, or a list of such; ``key`` is what it was given
    as.

    Raises:
        ValueError: it cannot be read, names what no run has, or chooses none.
    """
    selector = read_selection(told, key)
    known = [*known_quantities(runs), "sweep", "num_classes", "image_shape"]
    for name in selector:
        if name not in known and all(property_of(run, name) is None for run in runs):
            raise ValueError(f"{key}={told}: no run has {name!r}.{meant(name, known)}")
    found = [run for run in runs if matches(run, selector)]
    if not found:
        there = "; ".join(f"{name}: {_values(runs, name)}" for name in selector)
        raise ValueError(f"{key}={told}: none of the {len(runs):,} runs is as it says. There are {there}.")
    return found, list(selector)


def read_selection(told: Any, key: str) -> dict[str, Any]:
    """Return key -> value, or values, that are allowed."""
    if isinstance(told, Mapping):
        return {str(name): value for name, value in told.items()}
    if isinstance(told, list):
        return {name: value for each in told for name, value in read_selection(each, key).items()}
    if not isinstance(told, str) or "=" not in told.partition(",")[0]:
        raise ValueError(f"{key}={told}: key=value is needed, such as {key}=data.corruption=random_labels.")
    selector: dict[str, list[Any]] = {}
    name = ""
    for part in told.split(","):
        before, equals, value = part.partition("=")
        name, value = (before.strip(), value) if equals else (name, before)
        selector.setdefault(name, []).append(_value(name, value.strip()))
    return {name: values[0] if len(values) == 1 else values for name, values in selector.items()}


def _value(name: str, text: str) -> Any:
    if name == "regularizer":
        return [] if text in ("none", "[]") else text.split("+")
    try:
        return json.loads(text)  # 1e-3 is a text in YAML
    except ValueError:
        return yaml.safe_load(text)


def _values(runs: Sequence[Run], name: str) -> str:
    values = dict.fromkeys(str(property_of(run, name)) for run in runs)
    more = ", ..." if len(values) > MOST_VALUES else ""
    return ", ".join(list(values)[:MOST_VALUES]) + more
