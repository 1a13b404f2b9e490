"""Learning-rate schedules: pure functions ``(step, total_steps) -> factor`` on the initial rate.

These go by optimizer steps, never by epochs, so that a schedule means the same on every size of data. One that must go
by epochs, as where batches grow, takes them as a third argument: ``(step, total_steps, epochs)``.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from rethinkgen.checks import check_positive


def constant(step: int, total_steps: int) -> float:
    """Keep the initial rate."""
    return 1.0


def exponential(step: int, total_steps: int, *, factor: float, every: int) -> float:
    """Multiply by ``factor`` after every ``every`` steps: Zhang et al. 2017 decay by 0.95 an epoch (Appendix A).

    An epoch of CIFAR-10 is 391 steps at batch 128; the paper states no batch size, 128 is what re-implementations take.
    """
    check_positive("schedule.factor", factor)
    check_positive("schedule.every", every)
    return float(factor ** (step // every))


def step(step: int, total_steps: int, *, factor: float, at: Sequence[float]) -> float:
    """Multiply by ``factor`` at each of the shares ``at`` of the budget, e.g. ``[0.5, 0.75]``."""
    check_positive("schedule.factor", factor)
    if not all(0 < share < 1 for share in at):
        raise ValueError(f"schedule.at={list(at)!r}: shares of the budget between 0 and 1 are needed.")
    return float(factor ** sum(step >= share * total_steps for share in at))


def cosine(step: int, total_steps: int) -> float:
    """Fall from 1 to 0 over the budget along half a cosine (Loshchilov and Hutter 2017, without restarts)."""
    return 0.5 * (1 + math.cos(math.pi * min(step, total_steps) / total_steps))
