"""In which order examples are trained on, and how many batches make a block."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from rethinkgen.data.draws import generator

BLOCK_SECONDS = 0.2
"""What a block is meant to last: long beside Lightning's 0.3 ms a step, short beside a user's patience."""
MOST_BATCHES = 64
BATCHES_PER_BLOCK_IF_DISTRIBUTED = 16


class Batch(NamedTuple):
    """What one optimizer step is taken on: this rank's share of a batch."""

    images: Tensor
    """``(n, C, H, W)`` float32"""
    labels: Tensor
    """``(n,)`` int64"""
    global_size: int
    """Examples in the batch over all ranks."""


class Block(NamedTuple):
    """Several whole batches; the training module takes one optimizer step on each."""

    indices: Tensor
    """``(M,)`` int64: positions in the training split, this rank's share, one batch after the other"""
    sizes: list[int]
    """How many of ``indices`` belong to each batch; their sum is M."""
    global_sizes: list[int]
    """Examples in each batch over all ranks."""
    epoch: int
    position: int = 0
    """Of the first batch in its epoch."""


def batch_sizes(num_examples: int, batch_size: int) -> list[int]:
    """Return the sizes of an epoch's batches: the last may be short, but a batch of one joins the one before.

    BatchNorm cannot normalise a batch of one, and dropping it would leave an example out of the epoch.

    Raises:
        ValueError: the batch is larger than the training set.
    """
    if batch_size > num_examples:
        raise ValueError(
            f"data.batch_size={batch_size} is larger than the training set of {num_examples} examples: "
            f"at most {num_examples} is allowed."
        )
    whole, rest = divmod(num_examples, batch_size)
    sizes = [batch_size] * whole
    if rest == 1:
        sizes[-1] += 1
    elif rest > 1:
        sizes.append(rest)
    return sizes


def epoch_order(num_examples: int, batch_size: int, seed: int, epoch: int) -> list[Tensor]:
    """Return the positions of the examples of each batch of an epoch, over all ranks: a function of seed and epoch."""
    order = torch.from_numpy(generator("order", seed, "train", epoch).permutation(num_examples))
    return list(torch.split(order, batch_sizes(num_examples, batch_size)))


class Blocks:
    """Iterates in blocks of whole batches over one epoch, the one that ``epoch()`` names at the start.

    The order is a permutation that depends on (seed, epoch) alone. Rank r takes every ``world_size``-th
    example of each global batch, from its r-th on. How many batches a block holds adapts to how fast they are
    trained on, and never changes which examples are in which batch.

    There is no ``__len__``, so Lightning fetches one block ahead: what passes between two fetches is the
    training of the block before the last. Blocks are doubled or halved, and only outside a factor of four, so
    this lag cannot make them oscillate. The first block of all holds one batch, since Lightning fetches it
    before ``on_train_start``, where ``next_stop`` may be set.

    Args:
        batch_size: over all ranks.
        next_stop: given a global step, the next one at which a block must end.
        position: how many batches of the epoch were trained on before iteration begins.
        should_pause: asked before each block but the first; if so, iteration ends early, and the next one begins at
            ``position``. That is how a checkpoint can fall into an epoch.
        clock: returns seconds.
    """

    def __init__(
        self,
        num_examples: int,
        batch_size: int,
        seed: int,
        epoch: Callable[[], int],
        next_stop: Callable[[int], float],
        rank: int = 0,
        world_size: int = 1,
        clock: Callable[[], float] = time.perf_counter,
        *,
        position: Callable[[], int] = lambda: 0,
        should_pause: Callable[[], bool] = lambda: False,
    ) -> None:
        self.global_sizes = batch_sizes(num_examples, batch_size)
        if min(self.global_sizes) < world_size:
            raise ValueError(
                f"data.batch_size={batch_size}: an epoch of {num_examples} training examples has a batch of "
                f"{min(self.global_sizes)}, fewer than the {world_size} devices. Choose another "
                "data.batch_size or data.num_train."
            )
        self.num_examples = num_examples
        self.batch_size = batch_size
        self.seed = seed
        self.epoch = epoch
        self.next_stop = next_stop
        self.rank = rank
        self.world_size = world_size
        self.clock = clock
        self.position = position
        self.should_pause = should_pause
        self.batches_per_block = 1

    @property
    def steps_per_epoch(self) -> int:
        """Batches, so optimizer steps, of an epoch."""
        return len(self.global_sizes)

    def __iter__(self) -> Iterator[Block]:
        """Yield the blocks of the current epoch."""
        epoch = self.epoch()
        batches = epoch_order(self.num_examples, self.batch_size, self.seed, epoch)
        first_step = epoch * self.steps_per_epoch
        start = position = self.position()
        while position < len(batches) and (position == start or not self.should_pause()):
            step = first_step + position
            room = min(self.batches_per_block, self.next_stop(step) - step)
            block = batches[position : position + max(1, math.floor(room))]
            shares = [batch[self.rank :: self.world_size] for batch in block]
            sizes, global_sizes = ([len(part) for part in parts] for parts in (shares, block))
            fetched = self.clock()
            yield Block(torch.cat(shares), sizes, global_sizes, epoch, position)
            if self.world_size > 1:
                # Not by the clock: ranks must agree, since Lightning and DDP synchronise them once a block.
                self.batches_per_block = BATCHES_PER_BLOCK_IF_DISTRIBUTED
            elif position > start:  # Lightning fetches the first two blocks at once
                self._adapt(self.clock() - fetched)
            position += len(block)

    def _adapt(self, seconds: float) -> None:
        if seconds < BLOCK_SECONDS / 2:
            self.batches_per_block = min(2 * self.batches_per_block, MOST_BATCHES)
        elif seconds > BLOCK_SECONDS * 2:
            self.batches_per_block = max(self.batches_per_block // 2, 1)
