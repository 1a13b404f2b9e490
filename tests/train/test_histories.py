"""Each history against what one would note by hand, and the state of then in the histories of now."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from rethinkgen.measure.predict import Predictions
from rethinkgen.train.checkpoint import load_checkpoint
from rethinkgen.train.evaluation import Evaluation
from rethinkgen.train.histories import (
    Best,
    ExampleHistory,
    Milestones,
    Oracle,
    Rates,
    RunningWindow,
    Seen,
    Step,
)

FORMER = Path(__file__).parents[1] / "fixtures" / "785b5e0" / "runs"


def seen(
    network: nn.Module | None = None, right: str = "", losses: list[float] | None = None, **metrics: float
) -> Seen:
    """``right`` has a 1 for each training example that is predicted as its label; metrics are spelled with ``__``."""
    is_right = torch.tensor([mark == "1" for mark in right])
    predictions = Predictions(torch.tensor(losses or [0.0] * len(right)), torch.zeros(len(right), dtype=torch.int64))
    return Seen(
        {name.replace("__", "/"): value for name, value in metrics.items()},
        predictions,
        is_right,
        network or nn.Identity(),
    )


def test_milestones_have_the_first_step_and_the_last_that_missed() -> None:
    history = Milestones(fit_threshold=0.995)
    for step, (loss, accuracy, test) in {
        10: (0.5, 0.98, 0.5),
        20: (0.1, 0.991, 0.6),
        30: (0.2, 0.97, 0.7),
        40: (0.011, 0.995, 0.8),
        50: (0.01, 0.999, 0.9),
        60: (0.3, 0.5, 0.4),
    }.items():
        history.update(step, seen(fit__loss=loss, fit__accuracy=accuracy, test__accuracy=test))
    assert history.fitted
    assert history.summary() == {
        "test/accuracy_at_fit": 0.8,
        "steps_to_fit": 40,
        "steps_to_fit_last_missed": 30,
        "steps_to_fit_0.99": 20,
        "steps_to_fit_0.99_last_missed": 10,
        "steps_to_loss_0.1": 20,
        "steps_to_loss_0.1_last_missed": 10,
        "steps_to_loss_0.01": 50,
        "steps_to_loss_0.01_last_missed": 40,
    }


def test_what_is_never_reached_is_none_and_what_is_reached_at_once_was_never_missed() -> None:
    history = Milestones(fit_threshold=0.4)
    history.update(7, seen(fit__loss=0.05, fit__accuracy=0.5, test__accuracy=0.3))
    found = history.summary()
    assert (found["steps_to_fit"], found["steps_to_fit_last_missed"]) == (7, 0)
    assert (found["steps_to_fit_0.99"], found["steps_to_fit_0.99_last_missed"]) == (None, 7)
    assert (found["steps_to_loss_0.01"], found["steps_to_loss_0.1"]) == (None, 7)


def test_examples_are_fitted_once_and_forgotten_from_one_evaluation_to_the_next() -> None:
    history = ExampleHistory()
    for step, (right, losses) in {
        5: ("00110", [5.0, 4, 3, 2, 1]),
        9: ("01010", [1.0, 1, 1, 1, 1]),
        12: ("01101", [9.0, 8, 7, 6, 5]),
        20: ("00011", [0.5, 0.25, 2, 3, 4]),
    }.items():
        history.update(step, seen(right=right, losses=losses))
    examples = {name: values.tolist() for name, values in history.examples().items()}
    assert examples == {
        "first_step_fitted": [-1, 9, 5, 5, 12],
        "times_forgotten": [0, 1, 2, 1, 0],
        "final_loss": [0.5, 0.25, 2, 3, 4],
    }


def test_the_oracle_has_the_greatest_of_each() -> None:
    history = Oracle()
    for step, (test, top5) in enumerate([(0.3, 0.7), (0.6, 0.9), (0.5, 0.95)]):
        history.update(step, seen(test__accuracy=test, test__accuracy_top5=top5))
    assert history.summary() == {"test/accuracy_oracle": 0.6, "test/accuracy_top5_oracle": 0.95}
    without = Oracle()
    without.update(1, seen(test__accuracy=0.2))
    assert without.summary() == {"test/accuracy_oracle": 0.2}


def test_the_best_weights_are_the_earliest_of_equal_ones_and_patience_ends() -> None:
    network, history = nn.Linear(1, 1), Best(patience=2)
    assert history.summary() == {}
    for step, accuracy in {3: 0.5, 6: 0.7, 9: 0.7}.items():
        nn.init.constant_(network.weight, step)
        history.update(step, seen(network, validation__accuracy_corrupted=accuracy))
        assert not history.is_out_of_patience
    history.update(12, seen(network, validation__accuracy_corrupted=0.6))
    assert history.is_out_of_patience
    assert history.summary() == {"early_stopping_step": 6}
    assert float(history.weights["weight"]) == 6


def test_the_window_weighs_by_examples_and_the_rate_is_exhausted_once() -> None:
    window, rates = RunningWindow(), Rates()
    for step, (loss, right, size, rate) in enumerate([(10.0, 1, 10, 1.0), (4.0, 6, 8, 0.01), (3.0, 1, 2, 0.009)], 1):
        for history in (window, rates):
            history.update(step, Step(loss, right, size, rate, 1.0))
    rates.update(4, Step(1.0, 1, 1, 1e-9, 1.0))
    assert rates.exhausted_at == 3
    assert window.mean(2) == (7 / 10, 7 / 10)
    assert window.mean(99) == (17 / 20, 8 / 20)
    window.forget(1)
    assert window.mean(99) == (3 / 2, 1 / 2)


def test_a_checkpoint_of_785b5e0_is_taken_up() -> None:
    (folder,) = FORMER.glob("*-early_stopping-*")
    state = load_checkpoint(folder / "checkpoints" / "last.ckpt")["callbacks"]["Evaluation"]
    assert "histories" not in state
    evaluation = Evaluation(patience=1000)
    evaluation.load_state_dict(state)
    assert evaluation.best is not None
    assert (evaluation.best.accuracy, evaluation.best.step) == (state["best"]["accuracy"], state["best"]["step"])
    assert evaluation.best.num_evaluations_since == state["best"]["num_evaluations_since"]
    assert evaluation.best.weights.keys() == state["best"]["weights"].keys() != set()
    assert list(evaluation.window.steps) == [tuple(step) for step in state["window"]] != []
    assert evaluation.milestones.first_steps == state["first_steps"] != {}
    assert evaluation.milestones.last_missed_steps == state["last_missed_steps"] != {}
    assert evaluation.of_evaluations["oracle"].summary() == state["oracle"] != {}
    assert evaluation.rates.exhausted_at == state["rate_exhausted_at"]
    assert evaluation.evaluated == state["evaluated"]
    assert torch.equal(evaluation.examples()["first_step_fitted"], state["first_fitted"])
    assert torch.equal(evaluation.examples()["times_forgotten"], state["times_forgotten"])
    assert torch.equal(evaluation.examples()["final_loss"], state["losses"])
    assert torch.equal(evaluation.example_history.is_right, state["is_right"])
    again = Evaluation(patience=1000)
    again.load_state_dict(evaluation.state_dict())
    assert again.best is not None
    assert again.best.step == evaluation.best.step
