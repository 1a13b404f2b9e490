"""What a network is trained to make small: ``loss(logits, labels, index) -> (n,)``, one value an example.

Logits are ``(n, C)``, labels ``(n,)``; ``index (n,)`` are positions in the training split, for a loss that remembers
something of each example.
"""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from torch import Tensor

from rethinkgen.checks import check_between
from rethinkgen.collective import num_ranks, rank, sum_over_ranks


class Loss(Protocol):
    """One value an example, against the label that it is given: in float32, whatever the logits are in."""

    def __call__(self, logits: Tensor, labels: Tensor, index: Tensor) -> Tensor:
        """Return the losses ``(n,)`` of logits ``(n, C)``; of one call no value depends on another example."""


@runtime_checkable
class RemembersExamples(Protocol):
    """A loss that keeps something of each training example, as ELR its running prediction.

    What it keeps are tensors ``(N, ...)`` on the training device, no buffers of the network: those would be copied with
    its best weights, and taken from rank 0 at every block.
    """

    def begin(self, num_examples: int, num_classes: int, device: torch.device) -> None:
        """Make room, when training begins or goes on; a state, if there is one, is loaded after it."""

    def end_block(self, rows: BlockRows) -> None:
        """After each block of steps, have what was written in it ``exchanged`` with the other ranks."""

    def state_dict(self) -> dict[str, Any]:
        """Return plain types and tensors, which are part of a checkpoint."""

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up the state of ``state_dict``."""


class CrossEntropy:
    """Cross-entropy in nats.

    Args:
        label_smoothing: share of the target spread evenly over all classes, in ``[0, 1)``.
    """

    def __init__(self, label_smoothing: float = 0.0) -> None:
        self.label_smoothing = check_between("regularizer.label_smoothing", label_smoothing, 0, 1, below=True)

    def __call__(self, logits: Tensor, labels: Tensor, index: Tensor) -> Tensor:
        """Return the losses."""
        return F.cross_entropy(logits, labels, reduction="none", label_smoothing=self.label_smoothing)


class Squared:
    """``sum_k (logit_k - [k = y])^2``: the squared error of the one-hot label, without a factor of a half."""

    def __call__(self, logits: Tensor, labels: Tensor, index: Tensor) -> Tensor:
        """Return the losses."""
        logits = _in_full(logits)
        return (logits - F.one_hot(labels, logits.shape[1])).square().sum(1)


def log_probabilities(logits: Tensor) -> Tensor:
    """Return ``log softmax (n, C)`` in float32 at least."""
    return F.log_softmax(_in_full(logits), 1)


def _in_full(logits: Tensor) -> Tensor:
    return logits if logits.dtype in (torch.float32, torch.float64) else logits.float()


class BlockRows:
    """Which training examples a block of steps was about, over all ranks.

    A block lies in one epoch, so that each stands in it once; what one rank writes of its own no other reads in it.

    Args:
        index: ``(M,)``: positions in the training split of this rank's examples, batch after batch.
        global_sizes: examples in each batch over all ranks, which have every ``num_ranks()``-th each.
    """

    def __init__(self, index: Tensor, global_sizes: list[int]) -> None:
        self.own = index
        self.index = index
        """``(sum(global_sizes),)``: those of all ranks, the same on each"""
        if num_ranks() > 1:
            starts = [sum(global_sizes[:number]) for number in range(len(global_sizes))]
            places = [
                place
                for start, size in zip(starts, global_sizes, strict=True)
                for place in range(start + rank(), start + size, num_ranks())
            ]
            self._places = torch.tensor(places, device=index.device)
            self.index = sum_over_ranks(index.new_zeros(sum(global_sizes)).index_copy_(0, self._places, index))

    def gathered(self, own: Tensor) -> Tensor:
        """Return by ``index`` what each rank has of its own examples, ``(M, ...)``."""
        if num_ranks() == 1:
            return own
        # Each row is one rank's and zero on the others, so that the sum is exact.
        return sum_over_ranks(own.new_zeros(len(self.index), *own.shape[1:]).index_copy_(0, self._places, own))

    def exchange(self, memory: Tensor) -> None:
        """Write into ``memory (N, ...)`` the rows that other ranks have written of their examples into theirs."""
        if num_ranks() > 1:
            memory.index_copy_(0, self.index, self.gathered(memory.index_select(0, self.own)))
