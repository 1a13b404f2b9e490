"""Which other class the network said of each training example while it was presented: the label it would suggest."""

from __future__ import annotations

import torch
from torch import Tensor

from rethinkgen.train.histories import History, Presented


class OtherClass(History[Presented]):
    """The class, other than its label, that the network said most often of each training example, found in one pass.

    Boyer and Moore 1981, "A Fast Majority Vote Algorithm": a candidate gains with every presentation at which it was
    said, and loses with every one at which a third class was; at zero the next takes its place. If one class is more
    than half of what was said against the label, it is the candidate in the end, whatever the order. It takes 12 bytes
    an example, where counts of all classes would take 4 for each class.
    """

    kept = ("is_whole", "votes")

    def __init__(self) -> None:
        self.is_whole = True
        """Whether every presentation so far was noted: what is of some alone is not told."""
        self.votes = torch.empty(0, 3, dtype=torch.int32)
        """``(N, 3)`` int32: candidate or -1, its lead, how often it was said since it became one"""

    def update(self, step: int, seen: Presented) -> None:
        """Take in the block that ends with ``step``."""
        if not self.is_whole:
            return
        index, said, is_right = seen.indices, seen.answers.classes, seen.answers.is_right
        if len(self.votes) == 0:
            self.votes = torch.tensor([-1, 0, 0], dtype=torch.int32).repeat(seen.num_examples, 1)
        if self.votes.device != index.device:
            self.votes = self.votes.to(index.device)
        candidate, lead, times = self.votes.index_select(0, index).unbind(1)
        is_against = ~is_right
        is_new = is_against & (lead == 0) & (candidate != said)
        candidate = torch.where(is_new, said.int(), candidate)
        is_for = is_against & (candidate == said)
        lead = lead + is_for.int() - (is_against & ~is_for).int()
        times = torch.where(is_new, 0, times) + is_for.int()
        # No example stands twice in a block, which lies in one epoch (rethinkgen.data.batches.Blocks).
        self.votes.index_copy_(0, index, torch.stack([candidate, lead, times.int()], 1))

    def miss(self) -> None:
        """Give up: examples were presented of which nothing was noted, or not as they are."""
        self.is_whole = False
        self.votes = self.votes[:0].clone()

    def examples(self) -> dict[str, Tensor]:
        """Return ``presented_other_class`` (-1: none was said) and ``presented_times_other``: so often, at least."""
        if len(self.votes) == 0:
            return {}
        candidate, _, times = self.votes.unbind(1)
        return {"presented_other_class": candidate, "presented_times_other": times}
