"""From what networks said of each example to one list, the most suspicious first. Pure functions of arrays; no torch.

The score is how often, of the times that it stood in a training batch, an example was not predicted as its label; ties
are broken by its mean loss over the same presentations. Over seven settings its average precision was never more than
0.012 below that of the best of nine scores, which no other score reached (``docs/noisy_labels.md``).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rethinkgen.measure.difficulty import mean_loss, share_right

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]
Columns = Mapping[str, NDArray[Any]]
"""Name in ``examples.npz`` -> ``(N,)``"""
NEEDED = ("presented_times", "presented_times_wrong", "presented_loss_sum")
DOUBTED = 0.5
"""Share of its presentations at which an example was not predicted as its label, from which the network doubts it."""


@dataclass(frozen=True, eq=False)
class Opinion:
    """What one network said of N examples."""

    score: Floats
    """``(N,)``: greater is more suspicious"""
    tie: Floats
    """``(N,)``: the same, among equal scores"""
    suggested: Ints
    """``(N,)``: the class that it would give each; -1 where it never said another than the label"""
    confidence: Floats
    """``(N,)``, in [0, 1]: how sure it was of that"""

    @property
    def ranks(self) -> Floats:
        """``(N,)``: 1 is the most suspicious; equal ones share the mean of their ranks."""
        return shared_ranks(self.score, self.tie)


def shared_ranks(score: Floats, tie: Floats) -> Floats:
    """Return ranks ``(N,)`` from 1, of the greatest score, among equal ones of the greatest tie; what is equal in both
    has the mean of its ranks.
    """
    order = np.lexsort((-tie, -score))
    is_first = np.ones(len(order), bool)
    is_first[1:] = (np.diff(score[order]) != 0) | (np.diff(tie[order]) != 0)
    group = np.cumsum(is_first) - 1
    first = np.flatnonzero(is_first)
    counts = np.diff([*first, len(order)])
    ranks = np.empty(len(order))
    ranks[order] = (first + (counts + 1) / 2)[group]
    return ranks


def presented(columns: Columns) -> Opinion:
    """Return what a run's network said while the examples were presented: times wrong, ties by mean loss.

    Raises:
        ValueError: the columns are not there, as of mixed images.
    """
    if missing := [name for name in NEEDED if name not in columns]:
        raise ValueError(
            f"examples.npz has no column {missing[0]}: it was not noted what the network said of each image. Of runs "
            "with regularizer.mixup, or of an earlier version, it is not; train them anew without it."
        )
    times = np.maximum(columns["presented_times"], 1)
    nothing = np.full(len(times), -1)
    suggested = columns.get("presented_other_class", nothing)
    return Opinion(
        score=1 - share_right(columns),
        tie=mean_loss(columns),
        suggested=np.asarray(suggested, np.int64),
        confidence=np.asarray(columns.get("presented_times_other", 0 * times) / times, np.float64),
    )


def held_out(probabilities_of_label: Floats, predicted: Ints, probabilities: Floats, labels: Ints) -> Opinion:
    """Return what networks that were not trained on an example say of it, each of ``(N,)``.

    Args:
        probabilities_of_label: of the given label.
        predicted: the most probable class.
        probabilities: of that class.
        labels: the given ones.
    """
    return Opinion(
        score=1 - probabilities_of_label,
        tie=np.zeros(len(labels)),
        suggested=np.where(predicted == labels, -1, predicted),
        confidence=np.where(predicted == labels, 0.0, probabilities),
    )


def joined_ranks(opinions: Sequence[Opinion]) -> Floats:
    """Return the mean of the opinions' ranks ``(N,)``."""
    mean: Floats = np.mean([opinion.ranks for opinion in opinions], axis=0)
    return mean


def order_of(opinions: Sequence[Opinion]) -> Ints:
    """Return positions ``(N,)``, the most suspicious first: by the mean of the ranks, then of the scores and ties.

    What is equal in all keeps its order.
    """
    score = np.mean([opinion.score for opinion in opinions], axis=0)
    return np.lexsort((-score, joined_ranks(opinions)))


def places(order: Ints) -> Ints:
    """Return at which place of a list each example stands ``(N,)``, from 0, of ``order`` as ``order_of`` has it."""
    found = np.empty_like(order)
    found[order] = np.arange(len(order))
    return found


def suggestions(opinions: Sequence[Opinion], labels: Ints) -> tuple[Ints, Floats]:
    """Return for each example the class that most opinions suggest, the surest of equal ones, and how sure they are.

    Where none suggests another, it is the label, and the confidence 0.
    """
    classes = np.stack([opinion.suggested for opinion in opinions])
    sure = np.stack([np.where(opinion.suggested < 0, 0, opinion.confidence) for opinion in opinions])
    best, greatest = labels.copy(), np.zeros(len(labels), int)
    confidence = np.zeros(len(labels))
    for candidates in classes:
        votes = (classes == candidates).sum(0)
        total = np.where(classes == candidates, sure, 0).sum(0) / len(opinions)
        is_better = (candidates >= 0) & ((votes > greatest) | ((votes == greatest) & (total > confidence)))
        best = np.where(is_better, candidates, best)
        greatest = np.where(is_better, votes, greatest)
        confidence = np.where(is_better, total, confidence)
    return best, confidence


def pairs(given: Sequence[int], suggested: Sequence[int]) -> tuple[tuple[int, int, int], ...]:
    """Return (given, suggested, how many), the most frequent first, of those that differ."""
    counts = Counter(pair for pair in zip(given, suggested, strict=True) if pair[0] != pair[1])
    found = [(label, other, count) for (label, other), count in counts.items()]
    return tuple(sorted(found, key=lambda row: (-row[2], row[0], row[1])))
