"""Losses of single examples, and what a loss that remembers them learns of other ranks' shares."""

from __future__ import annotations

import math

import pytest
import torch
from threaded_ranks import on_ranks
from torch import Tensor

from rethinkgen.train import loss
from rethinkgen.train.loss import BlockRows, CrossEntropy

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.0, 3.0, 1.0]])
LABELS = torch.tensor([2, 1])
INDEX = torch.tensor([7, 4])


@pytest.mark.parametrize("smoothing", [0.0, 0.3])
def test_cross_entropy_is_that_of_the_smoothed_target(smoothing: float) -> None:
    losses = CrossEntropy(label_smoothing=smoothing)(LOGITS, LABELS, INDEX)
    for row, label, found in zip(LOGITS.tolist(), LABELS.tolist(), losses.tolist(), strict=True):
        total = sum(map(math.exp, row))
        target = [smoothing / 3 + (1 - smoothing) * (name == label) for name in range(3)]
        expected = -sum(share * (value - math.log(total)) for share, value in zip(target, row, strict=True))
        assert found == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("smoothing", [-0.1, 1.0, math.nan, "much"])
def test_a_share_that_is_none_is_refused(smoothing: float) -> None:
    with pytest.raises(ValueError, match=r"regularizer\.label_smoothing"):
        CrossEntropy(label_smoothing=smoothing)


def test_by_itself_a_process_has_all_rows_of_a_block() -> None:
    rows = BlockRows(INDEX, [2])
    assert rows.index is rows.own is INDEX
    memory = torch.ones(9, 2)
    rows.exchange(memory)
    assert torch.equal(memory, torch.ones(9, 2))


@pytest.mark.parametrize("size", [2, 3])
def test_ranks_learn_each_others_rows(size: int) -> None:
    batches = [torch.tensor([5, 0, 3, 8, 1]), torch.tensor([2, 9]), torch.tensor([4, 7, 6])]

    def work(rank: int) -> tuple[Tensor, Tensor]:
        own = torch.cat([batch[rank::size] for batch in batches])
        rows = BlockRows(own, [len(batch) for batch in batches])
        memory = torch.full((12, 2), -1.0)
        memory[own] = torch.stack([own * 10.0, torch.full_like(own, rank, dtype=torch.float32)], 1)
        rows.exchange(memory)
        return rows.index, memory

    expected = torch.full((12, 2), -1.0)
    for batch in batches:
        for place, example in enumerate(batch.tolist()):
            expected[example] = torch.tensor([example * 10.0, place % size])
    for index, memory in on_ranks(loss, size, work):
        assert torch.equal(index, torch.cat(batches))
        assert torch.equal(memory, expected), "of examples in no batch nothing is written"
