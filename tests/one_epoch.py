"""The blocks of one epoch, as a trainer that is there would be given them."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from rethinkgen.data.batches import Blocks
from rethinkgen.data.timetable import BatchSize, Timetable


def never(step: int) -> float:
    return math.inf


def one_epoch(
    num_examples: int,
    batch_size: BatchSize,
    seed: int,
    epoch: int,
    next_stop: Callable[[int], float] = never,
    rank: int = 0,
    world_size: int = 1,
    *,
    position: int = 0,
    **keywords: Any,
) -> Blocks:
    """Return the blocks of ``epoch`` from the batch at ``position`` on."""
    timetable = Timetable(num_examples, batch_size)
    first_step = timetable.first(epoch) + position
    return Blocks(timetable, seed, lambda: first_step, next_stop, rank, world_size, **keywords)
