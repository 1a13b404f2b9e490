"""What is said where a claim, a figure or a table is declared wrongly: file, name, key, and what is allowed."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from typing import Any


def check_keys(
    where: str, node: Any, required: Sequence[str], optional: Sequence[str] = (), *, allow_others: bool = False
) -> None:
    """Refuse what is no mapping, lacks a key, or has one that there is not."""
    if not isinstance(node, dict):
        raise ValueError(f"{where}: {node!r}: key: value pairs are needed, such as {{x: level, y: test/accuracy}}.")
    if missing := [key for key in required if key not in node]:
        raise ValueError(f"{where}: {missing[0]}: is missing.")
    known = (*required, *optional)
    unknown = [str(key) for key in node if key not in known]
    if unknown and not allow_others:
        allowed = ", ".join(known) or "none"
        raise ValueError(f"{where}: {unknown[0]}: no such key; allowed are {allowed}.{meant(unknown[0], known)}")


def check_choice(where: str, key: str, value: Any, allowed: Iterable[Any]) -> None:
    """Refuse a value that is none of those allowed."""
    options = list(allowed)
    if value not in options:
        told = ", ".join(map(repr, options))
        raise ValueError(f"{where}: {key}={value!r}: one of {told} is needed.{meant(value, options)}")


def check_number(where: str, key: str, value: Any) -> None:
    """Refuse what is no number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{where}: {key}={value!r}: a number is needed.")


def meant(value: Any, options: Iterable[Any]) -> str:
    """Return a question that names what a mistyped value is nearest to."""
    close = difflib.get_close_matches(str(value), list(map(str, options)), n=1)
    return f" Did you mean {close[0]}?" if close else ""
