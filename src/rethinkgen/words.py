"""Numbers in sentences. Light: the data import it too."""

from __future__ import annotations


def how_many(number: float, noun: str) -> str:
    """Return ``1 step``, ``2,000 steps``, ``1.5 epochs``."""
    told = f"{number:,.1f}".removesuffix(".0")
    return f"{told} {noun}" if told == "1" else f"{told} {noun}s"
