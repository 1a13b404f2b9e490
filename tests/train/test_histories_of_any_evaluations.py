"""What is kept along training, against slow, obvious loops over all of it, and over a break at any place."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import nn

from rethinkgen.measure.predict import Predictions
from rethinkgen.train.histories import (
    Best,
    ExampleHistory,
    History,
    Milestones,
    Oracle,
    Rates,
    RunningWindow,
    Seen,
    Step,
    of_785b5e0,
)

# Few levels, on either side of every threshold and on it, so that curves cross them, come back, and are equal.
shares = st.sampled_from([0.0, 0.5, 0.79, 0.8, 0.9, 0.985, 0.99, 1.0])
losses = st.sampled_from([2.0, 0.11, 0.1, 0.05, 0.01, 0.001])
evaluations = st.lists(st.tuples(shares, losses, shares, shares), min_size=1, max_size=12)
rights = st.integers(1, 6).flatmap(
    lambda n: st.lists(st.lists(st.booleans(), min_size=n, max_size=n), min_size=1, max_size=10)
)
Evaluations = list[tuple[float, float, float, float]]


def seen_of(accuracy: float, loss: float, test: float, held_out: float, number: int = 0, **more: float) -> Seen:
    network = nn.Linear(1, 1)
    nn.init.constant_(network.weight, number)
    predictions = Predictions(torch.tensor([loss]), torch.tensor([0]))
    metrics = {"fit/accuracy": accuracy, "fit/loss": loss, "test/accuracy": test, **more}
    metrics |= {"validation/accuracy_corrupted": held_out, "validation/accuracy": 1 - held_out, "test/loss": 3 - loss}
    return Seen(metrics, predictions, torch.tensor([True]), network)


def fold(make: Callable[[], History[Any]], sequence: list[tuple[int, Any]], break_at: int | None = None) -> Any:
    """Take in the sequence; at a break, go on in a new history from the state of the old, as a checkpoint holds it."""
    history = make()
    for place, (step, seen) in enumerate(sequence):
        if place == break_at:
            state = history.state_dict()
            history = make()
            history.load_state_dict(state)
        history.update(step, seen)
    return history


@given(evaluations, st.integers(0, 12))
@example([(0.5, 2.0, 0.5, 0.5), (0.8, 0.1, 0.9, 0.5), (0.5, 2.0, 1.0, 0.5), (0.99, 0.01, 0.5, 0.5)], 2)
def test_milestones(curve: Evaluations, break_at: int) -> None:
    sequence = [(7 * k, seen_of(*numbers)) for k, numbers in enumerate(curve, 1)]
    history = fold(lambda: Milestones(0.8), sequence, break_at)
    reached: dict[str, list[bool]] = {
        "steps_to_fit": [accuracy >= 0.8 for accuracy, *_ in curve],
        "steps_to_fit_0.99": [accuracy >= 0.99 for accuracy, *_ in curve],
        "steps_to_loss_0.1": [loss <= 0.1 for _, loss, *_ in curve],
        "steps_to_loss_0.01": [loss <= 0.01 for _, loss, *_ in curve],
    }
    expected: dict[str, Any] = {"test/accuracy_at_fit": None}
    for milestone, hits in reached.items():
        first = next((7 * k for k, hit in enumerate(hits, 1) if hit), None)
        expected[milestone] = first
        before = [7 * k for k, _ in enumerate(hits, 1) if first is None or 7 * k < first]
        expected[f"{milestone}_last_missed"] = max(before, default=0)
        if milestone == "steps_to_fit" and first is not None:
            expected["test/accuracy_at_fit"] = curve[first // 7 - 1][2]
    assert history.summary() == expected
    assert history.fitted == any(reached["steps_to_fit"])


@given(evaluations, st.integers(0, 12), st.booleans())
@example([(0.5, 2.0, 0.5, 0.5), (0.5, 2.0, 0.9, 0.5), (0.5, 2.0, 0.8, 0.5)], 1, True)
def test_the_oracle_is_the_best(curve: Evaluations, break_at: int, has_top: bool) -> None:
    sequence = []
    for k, (accuracy, loss, test, held_out) in enumerate(curve, 1):
        more = {"test/accuracy_top5": held_out} if has_top else {}
        sequence.append((k, seen_of(accuracy, loss, test, held_out, **more)))
    expected = {"test/accuracy_oracle": max(test for _, _, test, _ in curve)}
    if has_top:
        expected["test/accuracy_top5_oracle"] = max(held_out for *_, held_out in curve)
    history = fold(Oracle, sequence, break_at)
    assert history.summary() == expected
    history.summary().clear()
    assert history.summary() == expected


@given(rights, st.integers(0, 10))
@example([[False, True], [True, False], [False, True], [True, False]], 2)
def test_examples(curve: list[list[bool]], break_at: int) -> None:
    sequence = []
    for k, is_right in enumerate(curve):  # the first before any step
        predictions = Predictions(torch.arange(len(is_right)) + k / 8, torch.zeros(len(is_right), dtype=torch.int64))
        sequence.append((5 * k, Seen({}, predictions, torch.tensor(is_right), nn.Identity())))
    found = fold(ExampleHistory, sequence, break_at).examples()
    for number, of_one in enumerate(zip(*curve, strict=True)):
        first = next((5 * k for k, is_right in enumerate(of_one) if is_right), -1)
        forgotten = sum(before and not after for before, after in pairwise(of_one))
        assert int(found["first_step_fitted"][number]) == first
        assert int(found["times_forgotten"][number]) == forgotten
        assert float(found["final_loss"][number]) == number + (len(curve) - 1) / 8
    assert found["first_step_fitted"].dtype == found["times_forgotten"].dtype == torch.int64


@given(evaluations, st.integers(0, 12), st.integers(1, 4))
@example([(0.5, 2.0, 0.5, 0.5), (0.5, 2.0, 0.5, 0.9), (0.5, 2.0, 0.5, 0.9), (0.5, 2.0, 0.5, 0.8)], 2, 2)
@example([(0.5, 2.0, 0.5, 0.0)], 3, 1)
def test_the_best_weights_are_the_earliest_of_equal_ones(curve: Evaluations, break_at: int, patience: int) -> None:
    sequence = [(3 * k, seen_of(*numbers, number=k)) for k, numbers in enumerate(curve, 1)]
    history = fold(lambda: Best(patience), sequence, break_at)
    best = max(range(len(curve)), key=lambda k: (curve[k][3], -k))
    assert history.summary() == {"early_stopping_step": 3 * (best + 1)}
    assert history.accuracy == curve[best][3]
    assert history.weights["weight"].item() == best + 1
    assert not history.weights["weight"].requires_grad
    assert history.is_out_of_patience == (len(curve) - 1 - best >= patience)
    sequence[best][1].network.weight.data.fill_(-1.0)  # training goes on, and the kept weights stay
    assert history.weights["weight"].item() == best + 1


def test_before_the_first_evaluation_nothing_is_known() -> None:
    assert Best(3).summary() == {}
    assert Best(3).state_dict() == {"accuracy": -1.0, "step": 0, "weights": {}, "num_evaluations_since": 0}
    assert not Best(1).is_out_of_patience
    assert Oracle().summary() == {"test/accuracy_oracle": None}
    assert Oracle().examples() == {}
    assert not Milestones(1.0).fitted
    assert Milestones(1.0).summary() == {"test/accuracy_at_fit": None}
    assert Rates().exhausted_at is None
    empty = ExampleHistory()
    assert [len(column) for column in empty.examples().values()] == [0, 0, 0]
    dtypes = [empty.first_fitted.dtype, empty.times_forgotten.dtype, empty.is_right.dtype, empty.losses.dtype]
    assert dtypes == [torch.int64, torch.int64, torch.bool, torch.float32]


steps_taken = st.lists(st.tuples(st.floats(0, 100), st.integers(0, 9), st.integers(1, 9)), min_size=1, max_size=12)


@given(steps_taken, st.integers(1, 14), st.integers(1, 14), st.integers(0, 12))
@example([(1.0, 1, 2), (3.0, 2, 5), (7.0, 0, 1)], 2, 2, 1)
def test_running_numbers_are_means_over_the_examples_of_the_latest_steps(
    taken: list[tuple[float, int, int]], size: int, kept: int, break_at: int
) -> None:
    sequence = [(k, Step(*sums, 0.1, 0.2)) for k, sums in enumerate(taken, 1)]
    window = fold(RunningWindow, sequence, break_at)
    window.forget(kept)
    latest = taken[-min(size, kept) :]
    total = sum(num_examples for *_, num_examples in latest)
    loss, accuracy = window.mean(size)
    assert loss == pytest.approx(sum(loss_sum for loss_sum, *_ in latest) / total)
    assert accuracy == pytest.approx(sum(num_correct for _, num_correct, _ in latest) / total)
    assert window.state_dict() == {"steps": taken[-kept:]}


@given(st.lists(st.sampled_from([0.2, 0.0021, 0.01 * 0.2, 0.0019, 0.0]), min_size=1, max_size=8), st.integers(0, 8))
@example([0.2, 0.01 * 0.2, 0.0019, 0.0], 2)
def test_a_rate_is_exhausted_below_a_hundredth(rates: list[float], break_at: int) -> None:
    sequence = [(2 * k, Step(1.0, 1, 2, rate, 0.2)) for k, rate in enumerate(rates, 1)]
    expected = next((2 * k for k, rate in enumerate(rates, 1) if rate < 0.01 * 0.2), None)
    assert fold(Rates, sequence, break_at).exhausted_at == expected


@pytest.mark.parametrize("has_best", [True, False])
def test_a_flat_state_of_785b5e0_is_handed_to_the_histories(has_best: bool) -> None:
    flat = {
        "window": [(1.0, 2, 3)],
        "rate_exhausted_at": 40,
        "first_steps": {"steps_to_fit": 7},
        "last_missed_steps": {"steps_to_fit": 6},
        "at_fit": {"test/accuracy": 0.25},
        "oracle": {"test/accuracy_oracle": 0.75},
        "first_fitted": torch.tensor([3, -1]),
        "times_forgotten": torch.tensor([2, 0]),
        "is_right": torch.tensor([True, False]),
        "losses": torch.tensor([0.5, 4.0]),
        "best": {},
    }
    weights = {"weight": torch.ones(1, 1)}
    if has_best:
        flat["best"] = {"accuracy": 0.5, "step": 9, "weights": weights, "num_evaluations_since": 2}
    made: dict[str, History[Any]] = {
        "window": RunningWindow(),
        "rates": Rates(),
        "milestones": Milestones(1.0),
        "oracle": Oracle(),
        "examples": ExampleHistory(),
    }
    made |= {"best": Best(2)} if has_best else {}
    states = of_785b5e0(flat)
    assert states.keys() == made.keys()
    for name, history in made.items():
        history.load_state_dict(states[name])
    assert made["window"].state_dict() == {"steps": [(1.0, 2, 3)]}
    assert made["rates"].state_dict() == {"exhausted_at": 40}
    milestones = {"test/accuracy_at_fit": 0.25, "steps_to_fit": 7, "steps_to_fit_last_missed": 6}
    assert made["milestones"].summary() == milestones
    assert made["oracle"].summary() == {"test/accuracy_oracle": 0.75}
    columns = {name: column.tolist() for name, column in made["examples"].examples().items()}
    assert columns == {"first_step_fitted": [3, -1], "times_forgotten": [2, 0], "final_loss": [0.5, 4.0]}
    assert made["examples"].state_dict()["is_right"].tolist() == [True, False]
    if has_best:
        assert made["best"].state_dict() == flat["best"]
