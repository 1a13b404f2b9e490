from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator

import numpy as np
import pytest
import torch

from one_epoch import never, one_epoch
from rethinkgen.data.batches import Block, Blocks
from rethinkgen.data.draws import generator
from rethinkgen.data.timetable import batch_sizes


class Clock:
    """Advances by what the consumer of blocks spends on them."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def train(blocks: Blocks, clock: Clock, seconds_per_batch: float, lookahead: int = 1) -> list[int]:
    """Train an epoch as Lightning does, which fetches ``lookahead`` blocks ahead; return the blocks' lengths."""
    lengths = []
    fetched: list[Block] = []
    iterator = iter(blocks)
    for block in itertools.chain(iterator, [None] * lookahead):
        fetched += [block] if block else []
        if len(fetched) > lookahead or block is None:
            length = len(fetched.pop(0).sizes)
            clock.now += length * seconds_per_batch
            lengths.append(length)
    return lengths


def batches(blocks: Blocks) -> Iterator[tuple[torch.Tensor, int]]:
    """Yield each batch's indices and global size."""
    for indices, sizes, global_sizes, *_ in blocks:
        assert len(indices) == sum(sizes)
        yield from zip(indices.split(sizes), global_sizes, strict=True)


@pytest.mark.parametrize(
    ("num_examples", "batch_size", "sizes"),
    [
        (10, 5, [5, 5]),
        (12, 5, [5, 5, 2]),
        (11, 5, [5, 6]),  # a batch of one joins the one before
        (5, 5, [5]),
        (6, 5, [6]),
        (3, 1, [1, 1, 1]),
    ],
)
def test_sizes_of_an_epoch_s_batches(num_examples: int, batch_size: int, sizes: list[int]) -> None:
    assert batch_sizes(num_examples, batch_size) == sizes
    blocks = one_epoch(num_examples, batch_size, 0, 0, never)
    assert blocks.timetable.steps(0) == len(sizes)
    assert [global_size for _, global_size in batches(blocks)] == sizes


def test_a_batch_larger_than_the_data_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"data\.batch_size=11 .* at most 10"):
        batch_sizes(10, 11)


@pytest.mark.parametrize("epoch", [0, 3])
def test_an_epoch_is_the_permutation_of_its_own_stream(epoch: int) -> None:
    order = generator("order", 7, "train", epoch).permutation(53)
    indices = torch.cat([index for index, _ in batches(one_epoch(53, 8, 7, epoch, never))])
    np.testing.assert_array_equal(indices.numpy(), order)
    assert [block.epoch for block in one_epoch(53, 8, 7, epoch, never)][-1] == epoch


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = {
        tuple(torch.cat([block.indices for block in one_epoch(50, 8, seed, epoch, never)]).tolist())
        for seed in range(3)
        for epoch in range(3)
    }
    assert len(orders) == 9


@pytest.mark.parametrize("world_size", [2, 3])
def test_the_ranks_batches_interleave_to_the_batches_of_one_rank(world_size: int) -> None:
    whole = list(batches(one_epoch(53, 8, 0, 1, never)))
    ranks = [list(batches(one_epoch(53, 8, 0, 1, never, rank, world_size))) for rank in range(world_size)]
    for (indices, size), *shares in zip(whole, *ranks, strict=True):
        interleaved = torch.empty_like(indices)
        for rank, (share, global_size) in enumerate(shares):
            interleaved[rank::world_size] = share
            assert global_size == size
        assert torch.equal(interleaved, indices)


def test_ranks_agree_on_blocks_whatever_their_clocks_say() -> None:
    lengths = []
    for rank, seconds in enumerate((0.001, 1.0)):
        clock = Clock()
        blocks = one_epoch(400, 4, 0, 0, never, rank, 2, clock=clock)
        lengths.append([*train(blocks, clock, seconds), *train(blocks, clock, seconds)])
    assert lengths[0] == lengths[1]
    assert max(lengths[0]) > 1


def test_a_batch_with_nothing_for_some_device_is_an_error() -> None:
    with pytest.raises(ValueError, match=r"data\.batch_size=8.* batch of 2.* 3 devices"):
        one_epoch(50, 8, 0, 0, never, rank=0, world_size=3)


@pytest.mark.parametrize("lookahead", [0, 1])
def test_blocks_grow_until_they_last_about_a_fifth_of_a_second(lookahead: int) -> None:
    clock = Clock()
    blocks = one_epoch(1600, 2, 0, 0, never, clock=clock)
    lengths = [length for _ in range(3) for length in train(blocks, clock, 0.01, lookahead)]
    assert lengths[0] == 1
    settled = lengths[10:]
    assert {0.1 <= length * 0.01 <= 0.4 for length in settled[:-1]} == {True}
    assert len({*settled[:-1]} - {800 % settled[0]}) == 1  # no oscillation


@pytest.mark.parametrize(("seconds", "length"), [(1e-6, 64), (5.0, 1)])
def test_blocks_hold_between_1_and_64_batches(seconds: float, length: int) -> None:
    clock = Clock()
    blocks = one_epoch(2000, 2, 0, 0, never, clock=clock)
    train(blocks, clock, seconds)
    assert train(blocks, clock, seconds)[3] == length


def test_blocks_shrink_when_batches_become_slow() -> None:
    clock = Clock()
    blocks = one_epoch(2000, 2, 0, 0, never, clock=clock)
    train(blocks, clock, 0.001)
    assert max(train(blocks, clock, 1.0)[8:]) == 1


def test_the_first_block_of_all_holds_one_batch_as_nothing_is_known_of_its_speed() -> None:
    for world_size in (1, 2):
        first = next(iter(one_epoch(100, 4, 0, 0, never, 0, world_size)))
        assert len(first.sizes) == 1


@pytest.mark.parametrize("epoch", [0, 2])
def test_a_block_ends_at_every_stop_and_batches_are_the_same(epoch: int) -> None:
    def every_7(step: int) -> float:
        return (step // 7 + 1) * 7

    blocks = one_epoch(100, 4, 0, epoch, every_7, clock=lambda: 0.0)  # time stands still: blocks grow
    ends, step = [], epoch * 25
    for block in blocks:
        step += len(block.sizes)
        ends.append(step)
    assert {stop for stop in range(epoch * 25 + 1, epoch * 25 + 26) if stop % 7 == 0} <= set(ends)
    assert max(np.diff(ends)) > 1
    free = one_epoch(100, 4, 0, epoch, never)
    for (stopped, _), (unstopped, _) in zip(batches(blocks), batches(free), strict=True):
        assert torch.equal(stopped, unstopped)


def test_a_stop_that_is_not_ahead_cannot_stall() -> None:
    lengths: Callable[[], list[int]] = lambda: [len(b.sizes) for b in one_epoch(40, 4, 0, 1, lambda _: 0.0)]  # noqa: E731
    assert lengths() == [1] * 10
