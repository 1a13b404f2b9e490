"""One list of what networks said of each example, against sorting by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from rethinkgen.label_errors.ranking import (
    Opinion,
    held_out,
    order_of,
    pairs,
    places,
    presented,
    shared_ranks,
    suggestions,
)


def columns(**others: NDArray[Any]) -> dict[str, NDArray[Any]]:
    return {
        "presented_times": np.array([10, 10, 10, 10], np.int32),
        "presented_times_wrong": np.array([2, 9, 9, 0], np.int32),
        "presented_loss_sum": np.array([5.0, 20.0, 30.0, 1.0], np.float32),
        "presented_other_class": np.array([3, 0, 2, -1], np.int32),
        "presented_times_other": np.array([2, 5, 9, 0], np.int32),
    } | others


def opinion(score: list[float], tie: list[float] | None = None, suggested: list[int] | None = None) -> Opinion:
    count = len(score)
    said = np.array(suggested if suggested is not None else [-1] * count)
    return Opinion(np.array(score), np.array(tie or [0.0] * count), said, np.where(said < 0, 0.0, np.array(score)))


def test_times_wrong_come_first_and_mean_loss_breaks_ties() -> None:
    said = presented(columns())
    assert said.score.tolist() == pytest.approx([0.2, 0.9, 0.9, 0.0])
    assert order_of([said]).tolist() == [2, 1, 0, 3]
    assert said.suggested.tolist() == [3, 0, 2, -1]
    assert said.confidence.tolist() == pytest.approx([0.2, 0.5, 0.9, 0.0])


def test_runs_of_before_have_no_other_class() -> None:
    there = columns()
    del there["presented_other_class"], there["presented_times_other"]
    assert presented(there).suggested.tolist() == [-1] * 4


def test_runs_that_noted_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="no column presented_times: it was not noted"):
        presented({"index": np.arange(3)})


@pytest.mark.parametrize("seed", range(5))
def test_ranks_are_those_of_counting(seed: int) -> None:
    rng = np.random.default_rng(seed)
    score, tie = rng.integers(0, 4, 30) / 4, rng.integers(0, 3, 30) / 3
    pairs_of = list(zip(score, tie, strict=True))
    expected = [sum(q > p for q in pairs_of) + (1 + sum(q == p for q in pairs_of)) / 2 for p in pairs_of]
    assert shared_ranks(score, tie).tolist() == expected


def test_seeds_are_averaged_by_rank_and_not_by_score() -> None:
    # The first sees little, but is sure; by score it would decide alone.
    one, two, three = opinion([0.9, 0.0, 0.1]), opinion([0.0, 0.02, 0.01]), opinion([0.0, 0.02, 0.01])
    assert order_of([one, two, three]).tolist() == [1, 2, 0]
    assert places(order_of([one, two, three])).tolist() == [2, 0, 1]


def test_the_class_that_most_suggest_is_suggested() -> None:
    labels = np.array([0, 0, 0, 7])
    said = [
        opinion([0.9, 0.2, 0.5, 0], suggested=[4, 1, -1, -1]),
        opinion([0.1, 0.8, 0.5, 0], suggested=[5, 2, 3, -1]),
        opinion([0.2, 0.0, 0.5, 0], suggested=[5, -1, -1, -1]),
    ]
    suggested, confidence = suggestions(said, labels)
    assert suggested.tolist() == [5, 2, 3, 7], "two of three; the surer of two; the only one; none"
    assert confidence.tolist() == pytest.approx([0.3 / 3, 0.8 / 3, 0.5 / 3, 0])


def test_held_out_networks_say_how_probable_the_label_is() -> None:
    said = held_out(np.array([0.1, 0.8]), np.array([2, 1]), np.array([0.7, 0.8]), np.array([0, 1]))
    assert said.score.tolist() == pytest.approx([0.9, 0.2])
    assert said.suggested.tolist() == [2, -1]
    assert said.confidence.tolist() == pytest.approx([0.7, 0])


def test_pairs_of_classes_are_counted_the_most_frequent_first() -> None:
    assert pairs([1, 2, 1, 3, 5], [0, 2, 0, 1, 0]) == ((1, 0, 2), (3, 1, 1), (5, 0, 1))
