"""What a user's number must be, said once: each check raises a ``ValueError`` that names the config key."""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from numbers import Integral, Real
from typing import Any


def check_between(key: str, value: Any, low: float, high: float, *, below: bool = False, or_else: str = "") -> float:
    """Return ``value`` if it is a number from ``low`` to ``high``, itself left out if ``below``.

    Booleans, strings and NaN are no numbers here: ``true`` in a YAML file is a slip, not a 1. ``or_else`` names the
    words allowed besides, here and below.

    Raises:
        ValueError: it is not; the message names ``key``, the value and what is allowed.
    """
    if _is_real(value) and low <= value <= high and not (below and value == high):
        return float(value)
    end = f"below {high:g}" if below else f"{high:g}"
    raise ValueError(f"{key}={value!r}: a number from {low:g} to {end}{_besides(or_else)} is needed.")


def check_probability(key: str, value: Any, *, or_else: str = "") -> float:
    """Return ``value`` if it is a probability, strength or share: a number from 0 to 1, both included.

    Raises:
        ValueError: it is not.
    """
    return check_between(key, value, 0, 1, or_else=or_else)


def check_whole(key: str, value: Any, least: int, *, most: int | None = None, or_else: str = "") -> int:
    """Return ``value`` if it is a whole number of at least ``least``, and at most ``most`` where that is given.

    Raises:
        ValueError: it is not.
    """
    is_whole = isinstance(value, Integral) and not isinstance(value, bool)
    if is_whole and least <= int(value) and (most is None or int(value) <= most):
        return int(value)
    allowed = f"of at least {least}" if most is None else f"of at least {least} and at most {most}"
    raise ValueError(f"{key}={value!r}: a whole number {allowed}{_besides(or_else)} is needed.")


def check_positive(key: str, value: Any, *, most: float | None = None, or_else: str = "") -> float:
    """Return ``value`` if it is a finite number above 0, and at most ``most`` where that is given.

    Raises:
        ValueError: it is not.
    """
    if _is_real(value) and 0 < value < float("inf") and (most is None or value <= most):
        return float(value)
    allowed = "above 0" if most is None else f"above 0 and at most {most:g}"
    raise ValueError(f"{key}={value!r}: a number {allowed}{_besides(or_else)} is needed.")


def check_switch(key: str, value: Any, *, or_else: str = "") -> bool:
    """Return ``value`` if it is ``True`` or ``False``.

    Raises:
        ValueError: it is not.
    """
    if isinstance(value, bool):
        return value
    raise ValueError(f"{key}={value!r}: true or false{_besides(or_else)} is needed.")


def check_one_of(key: str, value: Any, allowed: Sequence[str], *, or_else: str = "") -> str:
    """Return ``value`` if it is one of the words ``allowed``.

    Raises:
        ValueError: it is not.
    """
    if isinstance(value, str) and value in allowed:
        return value
    raise ValueError(f"{key}={value!r}: one of {', '.join(allowed)}{_besides(or_else)} is needed.")


def check_text(key: str, value: Any, *, or_else: str = "") -> str:
    """Return ``value`` if it is a text that is not empty.

    Raises:
        ValueError: it is not.
    """
    if isinstance(value, str) and value:
        return value
    raise ValueError(f"{key}={value!r}: a text{_besides(or_else)} is needed.")


def check_groups(key: str, value: Any, *, or_else: str = "") -> None:
    """Refuse what does not name at least two groups, each with a list of names.

    Raises:
        ValueError: it does not.
    """
    if isinstance(value, Mapping) and len(value) > 1 and all(_is_list_of_some(names) for names in value.values()):
        return
    raise ValueError(
        f"{key}={value!r}: at least two groups{_besides(or_else)} are needed, each with a list of classes, such as "
        "{animal: [cat, dog], vehicle: [ship]}."
    )


def _is_list_of_some(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str) and len(value) > 0


def _besides(or_else: str) -> str:
    return f", or {or_else}," if or_else else ""


def _is_real(value: Any) -> bool:
    if not isinstance(value, Real) or isinstance(value, bool) or value != value:
        return False
    # A whole number that no float can hold is as good as infinite.
    return not isinstance(value, Integral) or abs(int(value)) <= sys.float_info.max
