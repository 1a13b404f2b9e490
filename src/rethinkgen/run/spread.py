"""How well a mean over seeds is known: the spread of repetitions, Student's interval, and the error of a test set."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd

CONFIDENCE = 0.95
"""Of every interval."""


@dataclass(frozen=True)
class Summary:
    """Repetitions of one run."""

    mean: float
    deviation: float | None
    """Sample standard deviation (divided by n - 1); nothing for a single run."""
    n: int

    @property
    def interval(self) -> tuple[float, float] | None:
        """The ends of the mean's 95 % interval, by Student's t with n - 1; nothing of a single run."""
        if self.deviation is None:
            return None
        half = half_width(Spread(self.deviation, self.n - 1), self.n)
        return self.mean - half, self.mean + half


def summarise(values: Sequence[float]) -> Summary:
    """Return mean and sample standard deviation of at least one value; infinite where one is."""
    if not all(map(math.isfinite, values)):
        return Summary(math.inf, None, len(values))
    deviation = statistics.stdev(values) if len(values) > 1 else None
    return Summary(statistics.fmean(values), deviation, len(values))


@dataclass(frozen=True)
class Spread:
    """What repetitions differ by."""

    deviation: float
    """Sample standard deviation."""
    df: float
    """Degrees of freedom that it was estimated with: n - 1 of a single setting."""


def own_spread(values: Sequence[float]) -> Spread | None:
    """Return the deviation of these repetitions; nothing of a single one, or where one is infinite."""
    if len(values) < 2 or not all(map(math.isfinite, values)):
        return None
    return Spread(statistics.stdev(values), len(values) - 1)


def half_width(spread: Spread | None, n: int) -> float:
    """Return half the width of a mean's 95 % interval, by Student's t; infinite where no spread is known."""
    if spread is None or n == 0:
        return math.inf
    if spread.deviation == 0:
        return 0.0
    return _quantile(spread.df) * spread.deviation / math.sqrt(n)


@cache
def _quantile(df: float) -> float:
    from scipy.special import stdtrit  # a page of a running sweep needs no interval at once

    return float(stdtrit(df, (1 + CONFIDENCE) / 2))


def binomial_error(accuracy: float, num_examples: int) -> float:
    """Return the standard error of an accuracy in [0, 1] measured on so many independent examples."""
    return math.sqrt(accuracy * (1 - accuracy) / num_examples)


def with_interval(table: pd.DataFrame) -> pd.DataFrame:
    """Return a table of ``mean``, ``std`` and ``n`` with the ends of each mean's 95 % interval, ``low`` and ``high``.

    Not a number where there are too few values.
    """
    from scipy.special import stdtrit

    half: Any = stdtrit(table["n"] - 1, (1 + CONFIDENCE) / 2) * table["std"] / table["n"] ** 0.5
    return table.assign(low=table["mean"] - half, high=table["mean"] + half)
