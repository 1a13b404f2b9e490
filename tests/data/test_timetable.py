"""Steps, epochs and sizes of batches against what one would count by hand."""

from __future__ import annotations

import math

import pytest
import torch

from one_epoch import one_epoch
from rethinkgen.data.batches import Blocks, epoch_order
from rethinkgen.data.timetable import BatchSize, Place, Timetable, batch_sizes

SMITH = [(0, 128), (60, 640), (120, 3200), (160, 5120)]


def stages(*table: tuple[int, int]) -> BatchSize:
    return lambda epoch, step: next(size for first, size in reversed(table) if epoch >= first)


def cyclic(low: int, high: int, period: int) -> BatchSize:
    return lambda epoch, step: high if step % period >= period // 2 else low


CHANGING = [stages((0, 16), (2, 80), (4, 200)), cyclic(7, 33, 10), lambda epoch, step: 1 + (3 * step) % 40]


@pytest.mark.parametrize("num_examples", [1, 7, 10, 11, 100, 1437])
@pytest.mark.parametrize("batch_size", [1, 2, 5, 7, 128])
def test_a_constant_size_counts_as_division_does(num_examples: int, batch_size: int) -> None:
    batch_size = min(batch_size, num_examples)
    constant, by_function = Timetable(num_examples, batch_size), Timetable(num_examples, lambda *_: batch_size)
    per_epoch = len(batch_sizes(num_examples, batch_size))
    for timetable in (constant, by_function):
        assert timetable.sizes(3) == batch_sizes(num_examples, batch_size)
        for step in range(0, 5 * per_epoch, max(1, per_epoch // 9)):
            assert timetable.place(step) == Place(*divmod(step, per_epoch))
            assert timetable.epochs(step) == step / per_epoch
            assert timetable.size(step) == batch_size
            assert timetable.steps_of_latest_epoch(step) == min(step, per_epoch)
        for every in (0.01, 0.1, 0.25, 0.3, 1 / 3, 0.5, 1, 2, 2.5):
            for times in (1, 2, 3, 5, 7, 13):
                assert timetable.step_at(every, times) == round(times * (every * per_epoch))
        assert timetable.first(7) == 7 * per_epoch


@pytest.mark.parametrize("size", CHANGING)
def test_every_epoch_has_every_example_once_whatever_its_batches(size: BatchSize) -> None:
    assert callable(size)
    timetable, step = Timetable(203, size), 0
    for epoch in range(7):
        order = epoch_order(timetable, 5, epoch)
        assert torch.equal(torch.cat(order), torch.cat(epoch_order(Timetable(203, 203), 5, epoch)))
        assert timetable.first(epoch) == step
        for position, batch in enumerate(order):
            assert timetable.place(step) == Place(epoch, position)
            assert timetable.size(step) == size(epoch, step)
            assert len(batch) == size(epoch, step) or batch is order[-1]
            assert len(batch) > 1 or size(epoch, step) == 1, "a batch of one joins the one before"
            assert timetable.epochs(step) == pytest.approx(epoch + position / len(order))
            assert timetable.step_at(timetable.epochs(step)) == step
            step += 1


@pytest.mark.parametrize("size", CHANGING)
def test_it_does_not_matter_in_which_order_it_is_asked(size: BatchSize) -> None:
    asked, other = Timetable(203, size), Timetable(203, size)
    late = other.place(80), other.sizes(6), other.sizes(1), other.first(3)
    assert late == (asked.place(80), asked.sizes(6), asked.sizes(1), asked.first(3))
    assert asked.place(3) == other.place(3)


@pytest.mark.parametrize(
    ("table", "steps"),
    [
        (SMITH[:1], 78_200),
        (SMITH, 29_240),
        ([(0, 640), (60, 3200), (120, 5120)], 6_500),
        ([(0, 3200), (60, 5120)], 2_360),
    ],
)
def test_smith_et_al_2018_count_about_as_many_steps(table: list[tuple[int, int]], steps: int) -> None:
    """Published for CIFAR-10: 80,000, 29,000, fewer than 6,500 and fewer than 2,500 updates, about, in 200 epochs."""
    assert Timetable(50_000, stages(*table)).first(200) == steps


def test_half_epochs_are_half_of_their_steps() -> None:
    timetable = Timetable(100, stages((0, 10), (2, 50)))
    assert [timetable.step_at(0.5, times) for times in range(1, 8)] == [5, 10, 15, 20, 21, 22, 23]
    assert timetable.epochs(21) == 2.5
    # The latest epoch's worth of steps shrinks as batches grow.
    assert [timetable.steps_of_latest_epoch(step) for step in (5, 10, 20, 21, 22, 24)] == [5, 10, 10, 6, 2, 2]


def test_batches_that_do_not_suit_the_data_are_refused_before_training() -> None:
    with pytest.raises(ValueError, match=r"data\.batch_size=11 .* at most 10"):
        Timetable(10, 11)
    growing = Timetable(100, stages((0, 10), (3, 101)))
    growing.check(30, 1)
    with pytest.raises(ValueError, match=r"data\.batch_size=101 .* from 1 to 100"):
        growing.check(31, 1)
    with pytest.raises(ValueError, match=r"data\.batch_size=0 does not suit"):
        Timetable(100, lambda epoch, step: 0)
    with pytest.raises(ValueError, match=r"data\.batch_size=101 .* from 1 to 100"):
        list(one_epoch(100, stages((0, 10), (3, 101)), 0, 3))
    with pytest.raises(ValueError, match=r"data\.batch_size=8.* batch of 2.* 3 devices"):
        Timetable(50, 8).check(1, 3)
    with pytest.raises(ValueError, match=r"data\.batch_size=40.* batch of 20.* 21 devices"):
        Timetable(100, stages((0, 50), (3, 40))).check(7, 21)


def test_a_block_lasts_no_longer_where_batches_grow() -> None:
    """Its time is that of its examples, so these are counted: checkpoints and Ctrl-C wait for its end."""
    timetable, step = Timetable(6400, stages((0, 10), (4, 50))), 0
    now = 0.0
    blocks = Blocks(timetable, 0, lambda: step, lambda _: math.inf, clock=lambda: now)
    seconds: list[float] = []
    while step < timetable.first(8):
        for block in blocks:
            seconds.append(sum(block.global_sizes) * 1e-3)
            now += seconds[-1]
            step += len(block.sizes)
    assert 0.1 <= max(seconds) <= 0.4
    assert all(len(set(block.indices.tolist())) == len(block.indices) for block in one_epoch(6400, 50, 0, 9))
