"""What a user's number must be, said once: each check raises a ``ValueError`` that names the config key."""

from __future__ import annotations

from numbers import Integral, Real
from typing import Any


def check_between(key: str, value: Any, low: float, high: float, *, below: bool = False) -> float:
    """Return ``value`` if it is a number from ``low`` to ``high``, itself left out if ``below``.

    Booleans, strings and NaN are no numbers here: ``true`` in a YAML file is a slip, not a 1.

    Raises:
        ValueError: it is not; the message names ``key``, the value and what is allowed.
    """
    if _is_real(value) and low <= value <= high and not (below and value == high):
        return float(value)
    end = f"below {high:g}" if below else f"{high:g}"
    raise ValueError(f"{key}={value!r}: a number from {low:g} to {end} is needed.")


def check_probability(key: str, value: Any) -> float:
    """Return ``value`` if it is a probability, strength or share: a number from 0 to 1, both included.

    Raises:
        ValueError: it is not.
    """
    return check_between(key, value, 0, 1)


def check_whole(key: str, value: Any, least: int, *, or_else: str = "") -> int:
    """Return ``value`` if it is a whole number of at least ``least``; ``or_else`` names the words allowed besides.

    Raises:
        ValueError: it is not.
    """
    if isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= least:
        return int(value)
    raise ValueError(f"{key}={value!r}: a whole number of at least {least}{_besides(or_else)} is needed.")


def check_positive(key: str, value: Any, *, or_else: str = "") -> float:
    """Return ``value`` if it is a finite number above 0; ``or_else`` names the words allowed besides.

    Raises:
        ValueError: it is not.
    """
    if _is_real(value) and 0 < value < float("inf"):
        return float(value)
    raise ValueError(f"{key}={value!r}: a number above 0{_besides(or_else)} is needed.")


def check_switch(key: str, value: Any) -> bool:
    """Return ``value`` if it is ``True`` or ``False``.

    Raises:
        ValueError: it is not.
    """
    if isinstance(value, bool):
        return value
    raise ValueError(f"{key}={value!r}: true or false is needed.")


def _besides(or_else: str) -> str:
    return f", or {or_else}," if or_else else ""


def _is_real(value: Any) -> bool:
    return isinstance(value, Real) and not isinstance(value, bool) and bool(value == value)
