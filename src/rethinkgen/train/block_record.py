"""What the steps of a block saw: put down as they are taken, and worked out once, at the block's end.

Every small operation costs a small network some percent of its step.
"""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from rethinkgen.data.batches import Batch
from rethinkgen.measure.difficulty import Answers, answers
from rethinkgen.train.histories import Presented
from rethinkgen.train.loss import BlockRows

MOST_CLASSES = 100
"""Of more the logits are not kept until the block's end: 64 batches of 256 with 1,000 classes would be 65 MB."""


class BlockRecord:
    """The steps of a block, of this rank's examples."""

    def __init__(self) -> None:
        self.loss_sums: list[Tensor] = []
        self.indices: list[Tensor] = []
        self.sizes: list[int] = []
        """Examples in each batch over all ranks"""
        self.rates: list[float] = []
        self.is_mixed = False
        """Whether an image was a mixture of two, which have a label each"""
        self._logits: list[Tensor] = []
        self._labels: list[Tensor] = []
        self._answers: list[Answers] = []

    def add(self, batch: Batch, logits: Tensor, loss_sum: Tensor, rate: float) -> None:
        """Put down a step: what it was taken on, and the logits ``(n, C)`` before it was."""
        self.loss_sums.append(loss_sum)
        self.indices.append(batch.indices)
        self.sizes.append(batch.global_size)
        self.rates.append(rate)
        self.is_mixed = self.is_mixed or batch.other_labels is not None
        if logits.shape[1] > MOST_CLASSES:
            self._answers.append(answers(logits, batch.labels))
        else:
            self._logits.append(logits)
            self._labels.append(batch.labels)

    def answers(self) -> Answers:
        """Return what the network said of all examples."""
        if self._answers:
            return Answers(*map(torch.cat, zip(*self._answers, strict=True)))
        return answers(torch.cat(self._logits), torch.cat(self._labels))


def block_totals(loss_sums: list[Tensor], is_right: Tensor, sizes: list[int]) -> Tensor:
    """Return summed loss and number of right examples of each step: ``(steps, 2)``.

    ``is_right``: ``(M,)`` bool, batch after batch, of which ``sizes`` say how many belong to each step.
    """
    ends = list(itertools.accumulate(sizes))
    right_so_far = is_right.cumsum(0)[[end - 1 for end in ends]]
    num_right = right_so_far.diff(prepend=right_so_far.new_zeros(1))
    return torch.stack([torch.stack(loss_sums).float(), num_right.float()], 1)


def presented(rows: BlockRows, sizes: list[int], own: Answers, num_examples: int) -> Presented:
    """Return what was said of the examples of all ranks: what was said of ``own`` is known to this one alone.

    Whether an example was forgotten only who knows its presentation before can tell, which stood on any rank.
    """
    # Classes as float32 too, which holds whole numbers up to 16 million.
    said = torch.stack([*own[:3], own.is_right.float(), own.classes.float()], 1)
    losses, margins, confidences, is_right, classes = rows.gathered(said).unbind(1)
    answers = Answers(losses, margins, confidences, is_right > 0, classes.long())
    return Presented(rows.index, sizes, answers, num_examples)
