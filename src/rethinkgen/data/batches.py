"""In which order examples are trained on, and how many batches make a block."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Callable, Iterator
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor

from rethinkgen.data.draws import generator
from rethinkgen.data.timetable import Timetable

BLOCK_SECONDS = 0.2
"""What a block is meant to last: long beside Lightning's 0.3 ms a step, short beside a user's patience."""
MOST_BATCHES = 64
BATCHES_PER_BLOCK_IF_DISTRIBUTED = 16


class Batch(NamedTuple):
    """What one optimizer step is taken on: this rank's share of a batch."""

    images: Tensor
    """``(n, C, H, W)`` float32"""
    labels: Tensor
    """``(n,)`` int64; of a mixed image those of the one that has the larger share in it"""
    global_size: int
    """Examples in the batch over all ranks."""
    indices: Tensor
    """``(n,)`` int64: positions in the training split"""
    other_labels: Tensor | None = None
    """``(n,)`` int64, where images are mixed: the labels of the other image in each"""
    share: float = 1.0
    """Weight of ``labels``, in ``[0.5, 1]``; that of ``other_labels`` is the rest."""
    part_sizes: tuple[int, ...] = ()
    """How many examples go through the network at once; empty: all."""

    def parts(self) -> list[Batch]:
        """Return the micro-batches, whose gradients make up that of the batch."""
        if len(self.part_sizes) < 2:
            return [self]
        ends = (0, *itertools.accumulate(self.part_sizes))
        return [self._part(slice(start, end)) for start, end in itertools.pairwise(ends)]

    def _part(self, part: slice) -> Batch:
        return self._replace(
            images=self.images[part],
            labels=self.labels[part],
            indices=self.indices[part],
            other_labels=None if self.other_labels is None else self.other_labels[part],
            part_sizes=(),
        )


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
    partners: Tensor | None = None
    """``(M,)`` int64, where they are paired: the example after each in its whole batch, whatever rank has that"""


@runtime_checkable
class EndsBlocks(Protocol):
    """A callback of the trainer at whose steps a block must end, so that it is called there."""

    def next_stop(self, step: int) -> float:
        """Return the first such step after ``step``; infinity if there is none."""


@runtime_checkable
class EndsEpochs(Protocol):
    """A callback of the trainer that may have what Lightning takes for an epoch end early, to save a checkpoint."""

    def should_pause(self) -> bool:
        """Whether that should end now; all ranks ask, and are told the same."""


def epoch_order(timetable: Timetable, seed: int, epoch: int) -> list[Tensor]:
    """Return the positions of the examples of each batch of an epoch, over all ranks: a function of seed and epoch.

    However an epoch is cut into batches, the order of its examples is the same.
    """
    order = torch.from_numpy(generator("order", seed, "train", epoch).permutation(timetable.num_examples))
    return list(torch.split(order, timetable.sizes(epoch)))


class Blocks:
    """Iterates in blocks of whole batches over the rest of the epoch that ``step()`` lies in.

    The order is a permutation that depends on (seed, epoch) alone. Rank r takes every ``world_size``-th
    example of each global batch, from its r-th on. How many batches a block holds adapts to how fast they are
    trained on, and never changes which examples are in which batch. It is counted in examples, so that a block lasts
    no longer where batches grow. A block lies in one epoch, so that no example stands twice in it.

    There is no ``__len__``, so Lightning fetches one block ahead: what passes between two fetches is the
    training of the block before the last. Blocks are doubled or halved, and only outside a factor of four, so
    this lag cannot make them oscillate. The first block of all holds one batch: of its speed nothing is known.

    Args:
        step: how many optimizer steps were taken before iteration begins.
        next_stop: given a global step, the next one at which a block must end.
        paired: whether each example gets a partner: the next of its batch, which is as random as any.
        should_pause: asked before each block but the first; if so, iteration ends early, and the next one begins at
            ``step()`` again. That is how a checkpoint can fall into an epoch.
        clock: returns seconds.
    """

    def __init__(
        self,
        timetable: Timetable,
        seed: int,
        step: Callable[[], int],
        next_stop: Callable[[int], float],
        rank: int = 0,
        world_size: int = 1,
        clock: Callable[[], float] = time.perf_counter,
        *,
        paired: bool = False,
        should_pause: Callable[[], bool] = lambda: False,
    ) -> None:
        timetable.check_epoch(0, world_size)
        self.timetable = timetable
        self.seed = seed
        self.step = step
        self.next_stop = next_stop
        self.rank = rank
        self.world_size = world_size
        self.clock = clock
        self.paired = paired
        self.should_pause = should_pause
        self.examples_per_block = 1

    def __iter__(self) -> Iterator[Block]:
        """Yield the blocks of what is left of the epoch."""
        step = first_step = self.step()
        epoch, position = self.timetable.place(step)
        self.timetable.check_epoch(epoch, self.world_size)
        batches = epoch_order(self.timetable, self.seed, epoch)
        while position < len(batches) and (step == first_step or not self.should_pause()):
            block = batches[position : position + self._length(batches, position, step)]
            shares = [batch[self.rank :: self.world_size] for batch in block]
            sizes, global_sizes = ([len(part) for part in parts] for parts in (shares, block))
            partners = None
            if self.paired:
                # Of the whole batch, so that a run is the same on any number of ranks.
                partners = torch.cat([batch.roll(-1)[self.rank :: self.world_size] for batch in block])
            fetched = self.clock()
            yield Block(torch.cat(shares), sizes, global_sizes, epoch, position, partners)
            if self.world_size > 1:
                # Not by the clock: ranks must agree, since Lightning and DDP synchronise them once a block.
                self.examples_per_block = BATCHES_PER_BLOCK_IF_DISTRIBUTED * self.timetable.size(0)
            elif step > first_step:  # Lightning fetches the first two blocks at once
                self._adapt(self.clock() - fetched, self.timetable.size(step))
            position, step = position + len(block), step + len(block)

    def _length(self, batches: list[Tensor], position: int, step: int) -> int:
        """Return how many batches the block at ``position`` has: at least one."""
        most = max(1, math.floor(min(self.next_stop(step) - step, MOST_BATCHES)))
        num_examples = itertools.accumulate(len(batch) for batch in batches[position : position + most])
        return max(1, sum(number <= self.examples_per_block for number in num_examples))

    def _adapt(self, seconds: float, batch_size: int) -> None:
        if seconds < BLOCK_SECONDS / 2:
            self.examples_per_block = min(2 * max(self.examples_per_block, batch_size), MOST_BATCHES * batch_size)
        elif seconds > BLOCK_SECONDS * 2:
            self.examples_per_block = max(self.examples_per_block // 2, batch_size)


class Loader:
    """Batches ``(images (n, C, H, W), labels (n,))`` of a split, as a ``DataLoader`` gives them.

    Args:
        batches: the images and labels of an epoch, by its number.
        num_batches: how many that are.
    """

    def __init__(
        self, batches: Callable[[int], Iterator[tuple[Tensor, Tensor]]], num_batches: Callable[[int], int]
    ) -> None:
        self.epoch = 0
        """Of the next iteration: each one is an epoch of its own. Set it to have an epoch again."""
        self._batches = batches
        self._num_batches = num_batches

    def __len__(self) -> int:
        """Return how many batches the next epoch has."""
        return self._num_batches(self.epoch)

    def __iter__(self) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the batches of the next epoch."""
        self.epoch += 1
        return self._batches(self.epoch - 1)


def micro_batch_sizes(global_size: int, micro_batch_size: int, rank: int = 0, world_size: int = 1) -> tuple[int, ...]:
    """Return how many examples of a rank's share each micro-batch has.

    Micro-batches are consecutive examples of the whole batch. A rest of one, or of fewer than there are ranks, joins
    the one before: BatchNorm cannot normalise a single example, and every rank must have a share.
    """
    whole, rest = divmod(global_size, micro_batch_size)
    ends = [micro_batch_size * number for number in range(1, whole + 1)]
    if rest >= max(2, world_size) or not ends:
        ends.append(global_size)
    ends[-1] = global_size
    shares = [len(range(rank, end, world_size)) for end in (0, *ends)]
    return tuple(after - before for before, after in itertools.pairwise(shares))
