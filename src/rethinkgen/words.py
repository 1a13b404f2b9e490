"""Numbers and mistyped names in sentences. Light: the data import it too."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from typing import Any


def how_many(number: float, noun: str) -> str:
    """Return ``1 step``, ``2,000 steps``, ``1.5 epochs``."""
    told = f"{number:,.1f}".removesuffix(".0")
    return f"{told} {noun}" if told == "1" else f"{told} {noun}s"


def meant(value: Any, options: Iterable[Any]) -> str:
    """Return a question that names what a mistyped value is nearest to."""
    close = difflib.get_close_matches(str(value), list(map(str, options)), n=1)
    return f" Did you mean {close[0]}?" if close else ""
