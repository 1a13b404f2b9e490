"""What holds of every subset, and of the batches of every epoch, whatever the sizes, keys and seeds."""

from __future__ import annotations

import math

import numpy as np
import torch
from hypothesis import assume, given
from hypothesis import strategies as st

from rethinkgen.data.batches import Blocks, epoch_order
from rethinkgen.data.draws import balanced_subset, generator
from rethinkgen.data.timetable import Timetable, batch_sizes

seeds = st.integers(0, 2**31)
keys_and_labels = st.dictionaries(st.integers(0, 2**64 - 1), st.integers(0, 5), min_size=1, max_size=30)


@given(keys_and_labels, seeds, st.data())
def test_a_subset_is_balanced_nested_and_knows_keys_alone(
    examples: dict[int, int], seed: int, more: st.DataObject
) -> None:
    keys, labels = np.array(list(examples), dtype=np.uint64), np.array(list(examples.values()), dtype=np.int64)
    total = len(labels)
    size = more.draw(st.integers(0, total))
    chosen = balanced_subset("any", seed, labels, keys, size)
    assert len(chosen) == size
    assert (np.diff(chosen) > 0).all()
    for label in range(6):
        due = size * (labels == label).sum() / total
        assert abs((labels[chosen] == label).sum() - due) < 1
    fewer = balanced_subset("any", seed, labels, keys, more.draw(st.integers(0, size)))
    assert set(fewer) <= set(chosen)
    order = np.array(more.draw(st.permutations(range(total))))
    elsewhere = order[balanced_subset("any", seed, labels[order], keys[order], size)]
    assert set(keys[elsewhere]) == set(keys[chosen])


@given(st.integers(1, 300), st.integers(1, 300))
def test_batches_take_every_example_once_and_none_is_alone(num_examples: int, batch_size: int) -> None:
    assume(batch_size <= num_examples)
    sizes = batch_sizes(num_examples, batch_size)
    assert sum(sizes) == num_examples
    assert all(size == batch_size for size in sizes[:-1])
    assert sizes[-1] <= batch_size + 1
    assert min(sizes) > 1 or batch_size == 1
    assert len(sizes) == num_examples // batch_size + (num_examples % batch_size > 1)


@given(st.integers(2, 120), st.integers(2, 120), seeds, st.integers(0, 5), st.integers(1, 4))
def test_an_epoch_is_one_permutation_shared_among_the_ranks(
    num_examples: int, batch_size: int, seed: int, epoch: int, world_size: int
) -> None:
    assume(batch_size <= num_examples)
    timetable = Timetable(num_examples, batch_size)
    sizes = batch_sizes(num_examples, batch_size)
    assume(min(sizes) >= world_size)
    order = epoch_order(timetable, seed, epoch)
    assert [len(batch) for batch in order] == sizes
    expected = generator("order", seed, "train", epoch).permutation(num_examples)
    np.testing.assert_array_equal(torch.cat(order).numpy(), expected)
    parts: list[list[torch.Tensor]] = []
    for rank in range(world_size):
        first_step = timetable.first(epoch)
        blocks = Blocks(timetable, seed, lambda: first_step, lambda _: math.inf, rank, world_size)  # noqa: B023
        parts.append([part for block in blocks for part in block.indices.split(block.sizes)])
    for batch, *shares in zip(order, *parts, strict=True):
        assert max(map(len, shares)) - min(map(len, shares)) <= 1
        for number, share in enumerate(shares):
            assert torch.equal(share, batch[number::world_size])


@given(st.integers(1, 60), st.lists(st.integers(1, 25), min_size=1, max_size=4), st.data())
def test_a_timetable_of_changing_batches_counts_every_step_once(
    num_examples: int, sizes: list[int], more: st.DataObject
) -> None:
    """The batch size of epoch ``k`` is the k-th of ``sizes``, and from there on the last."""
    assume(max(sizes) <= num_examples)
    timetable = Timetable(num_examples, lambda epoch, step: sizes[min(epoch, len(sizes) - 1)])
    steps = [(epoch, position) for epoch in range(6) for position in range(len(timetable.sizes(epoch)))]
    for epoch in range(6):
        size = sizes[min(epoch, len(sizes) - 1)]
        assert sum(timetable.sizes(epoch)) == num_examples
        assert timetable.sizes(epoch) == batch_sizes(num_examples, size)
        assert timetable.steps(epoch) == len(timetable.sizes(epoch))
        assert timetable.epochs(timetable.first(epoch)) == epoch
        assert timetable.step_at(epoch) == timetable.first(epoch)
    step = more.draw(st.integers(0, len(steps) - 1))
    assert timetable.place(step) == steps[step]
    assert timetable.size(step) == sizes[min(steps[step][0], len(sizes) - 1)]
    assert timetable.step_at(timetable.epochs(step)) == step
