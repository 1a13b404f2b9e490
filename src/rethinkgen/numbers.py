"""Numbers as people read them: no more digits than one looks at, the spread and the interval beside a mean."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from rethinkgen.run.spread import Summary

DASH = "–"
"""Where there is no number."""


def shown(value: float | None, unit: str = "") -> str:
    """Return a number with the digits that one looks at, its unit behind; percent never rounded up to all of it."""
    if value is None:
        return DASH
    if math.isinf(value):
        return "not reached"
    if unit == "%":
        return f"{_percent(value)} %"
    if unit == "x":
        return f"{value:.2f}x"
    if unit == "points":
        return f"{value:+.2f} points"
    return f"{_plain(value)} {unit}".rstrip()


def shown_published(value: float, unit: str = "") -> str:
    """Return a number with all the digits that it was published with."""
    return f"{value:g}x" if unit == "x" else f"{value:,.15g} {unit}".rstrip()


def shown_summary(summary: Summary, unit: str = "") -> str:
    """Return ``85.4 ± 0.3 %``; of a single run no spread, nor of a count that is the same in all."""
    if summary.deviation == 0 and unit.startswith("parameters"):
        return shown(summary.mean, unit)
    if summary.deviation is None or unit not in ("%", "x", "points"):
        return shown(summary.mean, unit) if summary.deviation is None else _with_spread(summary, unit)
    if unit == "%" and (summary.deviation == 0 or round(summary.mean, 2) >= 100):
        return f"{_percent(summary.mean)} ± {_plain(summary.deviation)} %"
    digits = 1 if unit == "%" and 1 <= summary.mean <= 99 and summary.deviation >= 0.1 else 2
    sign = "+" if unit == "points" else ""
    return f"{summary.mean:{sign}.{digits}f} ± {summary.deviation:.{digits}f}{'' if unit == 'x' else ' '}{unit}"


def shown_with_interval(summary: Summary, unit: str = "") -> str:
    """Return ``85.4 ± 0.3 [84.7, 86.1] %``, the interval as the summary has it; of percent what can be."""
    text = shown_summary(summary, unit)
    ends = summary.interval
    if ends is None or not summary.deviation or " ± " not in text:
        return text
    low, high = (min(max(end, 0.0), 100.0) for end in ends) if unit == "%" else ends
    mean, _, rest = text.partition(" ± ")
    spread, space, behind = rest.partition(" ")
    if unit == "x":
        spread, behind = spread.removesuffix("x"), "x"
    digits = len(mean.partition(".")[2])
    told = [f"{end:.3g}" if "e" in mean else f"{end:,.{digits}f}" for end in (low, high)]
    return f"{mean} ± {spread} [{', '.join(told)}]{'' if unit == 'x' else space}{behind}"


def _with_spread(summary: Summary, unit: str) -> str:
    """Give the spread two digits, and the mean no more than the spread has."""
    mean, deviation = summary.mean, summary.deviation or 0.0
    if deviation == 0 or abs(mean) < 1e-3:
        return f"{_plain(mean)} ± {_plain(deviation)} {unit}".rstrip()
    digits = min(max(1 - math.floor(math.log10(deviation)), 0), 6)
    return f"{mean:,.{digits}f} ± {deviation:,.{digits}f} {unit}".rstrip()


def _percent(value: float) -> str:
    if 1 <= value <= 99:
        return f"{value:.1f}"
    text = f"{value:.2f}"
    if value < 100 and text == "100.00":
        return "> 99.99"
    return {"100.00": "100", "0.00": "0" if value == 0 else "< 0.01"}.get(text, text)


def _plain(value: float) -> str:
    if float(value).is_integer() and abs(value) < 1e9:
        return f"{value:,.0f}"
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e9 else f"{value:.3g}"
