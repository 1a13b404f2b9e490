"""Every number that a run leaves, computed again from the weights it had after each step.

The weights are taken at ``torch.optim``'s own hook and the network is written out in numpy, so that nothing of ours but
the data comes between. Examples are unequal on purpose: no two of the numbers that could be taken for one another
agree, which is checked first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from numpy.typing import NDArray
from torch.optim.optimizer import register_optimizer_step_post_hook

from conftest import TINY, Command, read_result
from rethinkgen.data.corruption import PartialLabels
from rethinkgen.data.module import Split
from rethinkgen.data.source import Digits
from rethinkgen.model.inception import Inception

Array = NDArray[Any]
Weights = list[Array]


@contextmanager
def weights_of_every_step() -> Iterator[list[Weights]]:
    """Gather the optimizer's parameters after each of its steps, in its order."""
    steps: list[Weights] = []

    def note(optimizer: torch.optim.Optimizer, *_: Any) -> None:
        groups = optimizer.param_groups
        if len(groups) == 1:
            return  # tried on a parameter of its own, before training
        steps.append([value.detach().numpy().copy() for group in groups for value in group["params"]])

    handle = register_optimizer_step_post_hook(note)
    try:
        yield steps
    finally:
        handle.remove()


@dataclass
class Output:
    """What the network says of each example of a split: the cross-entropy against ``labels``, and its class."""

    losses: Array
    classes: Array

    @classmethod
    def of(cls, weights: Weights, split: Split, labels: torch.Tensor) -> Output:
        """Of an MLP with one hidden layer: its two matrices, then its two biases."""
        first, last, first_bias, last_bias = (value.astype(np.float64) for value in weights)
        assert isinstance(split.inputs, torch.Tensor)
        inputs = split.inputs.numpy().reshape(len(split), -1)
        logits = np.maximum(inputs @ first.T + first_bias, 0) @ last.T + last_bias
        log_totals = np.log(np.exp(logits).sum(1))
        return cls(log_totals - logits[np.arange(len(logits)), labels.numpy()], logits.argmax(1))


@dataclass
class Evaluated:
    """The numbers of one evaluation, by their definitions in ``DESIGN``."""

    step: int
    numbers: dict[str, float]
    is_right: Array
    losses: Array

    @classmethod
    def at(cls, step: int, weights: Weights, splits: dict[str, Split]) -> Evaluated:
        train, validation, test = (splits[name] for name in ("train", "validation", "test"))
        fit = Output.of(weights, train, train.labels)
        held_out = Output.of(weights, validation, validation.original_labels)
        tested = Output.of(weights, test, test.original_labels)
        given, true = train.labels.numpy(), train.original_labels.numpy()
        is_wrong = given != true
        numbers = {
            "fit/loss": fit.losses.mean(),
            "fit/accuracy": (fit.classes == given).mean(),
            "fit/accuracy_corrupted": (fit.classes == given)[is_wrong].mean(),
            "fit/accuracy_corrected": (fit.classes == true)[is_wrong].mean(),
            "fit/accuracy_clean": (fit.classes == given)[~is_wrong].mean(),
            "validation/loss": held_out.losses.mean(),
            "validation/accuracy": (held_out.classes == validation.original_labels.numpy()).mean(),
            "validation/accuracy_corrupted": (held_out.classes == validation.labels.numpy()).mean(),
            "test/loss": tested.losses.mean(),
            "test/accuracy": (tested.classes == test.original_labels.numpy()).mean(),
        }
        numbers = {name: float(value) for name, value in numbers.items()}
        return cls(step, numbers, fit.classes == given, fit.losses)


def first_and_last_missed(
    evaluations: list[Evaluated], is_reached: Callable[[dict[str, float]], bool]
) -> tuple[int, int]:
    """Return the first evaluated step that reached it, and the last before that which did not (0: none did not)."""
    first = next(one.step for one in evaluations if is_reached(one.numbers))
    return first, max((one.step for one in evaluations if one.step < first), default=0)


def splits_of(**data: Any) -> dict[str, Split]:
    datamodule = PartialLabels(Digits(), **data)
    datamodule.setup()
    return dict(datamodule.splits)  # type: ignore[arg-type]


def evaluated(steps: list[Weights], splits: dict[str, Split], every: int) -> list[Evaluated]:
    due = sorted({*range(every, len(steps) + 1, every), len(steps)})
    return [Evaluated.at(step, steps[step - 1], splits) for step in due]


def assert_rows(folder: Path, evaluations: list[Evaluated]) -> None:
    """``metrics.csv`` has each evaluation's numbers at its step, and none at others."""
    table = pd.read_csv(folder / "metrics.csv").set_index("step")
    rows = table[table["fit/accuracy"].notna()]
    assert list(rows.index) == [one.step for one in evaluations]
    for name in evaluations[0].numbers:
        expected = [one.numbers[name] for one in evaluations]
        np.testing.assert_allclose(rows[name], expected, rtol=1e-4, atol=1e-6, err_msg=name)


def assert_examples(folder: Path, evaluations: list[Evaluated], train: Split, final: Evaluated | None = None) -> None:
    """``examples.npz`` is the history of each example over the evaluations; ``final``: the one it ended with."""
    rights = np.stack([one.is_right for one in evaluations])
    steps = np.array([one.step for one in evaluations])
    first = np.where(rights.any(0), steps[rights.argmax(0)], -1)
    forgotten = sum(before & ~after for before, after in pairwise(rights))
    learnt = sum(~before & after for before, after in pairwise(rights))
    assert forgotten.max() > 1
    assert (forgotten != learnt).any()
    with np.load(folder / "examples.npz") as examples:
        np.testing.assert_array_equal(examples["first_step_fitted"], first)
        np.testing.assert_array_equal(examples["times_forgotten"], forgotten)
        np.testing.assert_allclose(examples["final_loss"], (final or evaluations[-1]).losses, rtol=1e-3, atol=1e-5)
        np.testing.assert_array_equal(examples["index"], train.index)
        np.testing.assert_array_equal(examples["labels"], train.labels)
        np.testing.assert_array_equal(examples["original_labels"], train.original_labels)
        np.testing.assert_array_equal(examples["is_corrupted"], train.labels != train.original_labels)


def assert_unequal(numbers: dict[str, float]) -> None:
    """No two of them are the same: one that was taken for another would be seen."""
    assert len(set(numbers.values())) == len(numbers), numbers


DATA = {"probability": 0.45, "num_train": 83, "batch_size": 20, "validation": 0.1}
"""Five batches an epoch, the last of three."""
NOISY = [
    "data.corruption=partial_labels",
    f"data.corruption.probability={DATA['probability']}",
    f"data.num_train={DATA['num_train']}",
    f"data.batch_size={DATA['batch_size']}",
    f"data.validation={DATA['validation']}",
    "data.seed=5",
    "model.width=128",
]


def test_a_run_through_its_fit_and_beyond(train: Command) -> None:
    rate = ["model.learning_rate=0.06", "schedule=constant"]
    with weights_of_every_step() as steps:
        folder = train(*TINY, *NOISY, *rate, "max_steps=361", "fit_threshold=0.8", "evaluate_every=0.6")
    assert len(steps) == 361
    splits = splits_of(seed=5, **DATA)
    evaluations = evaluated(steps, splits, every=3)
    numbers = evaluations[-1].numbers
    milestones = {
        "steps_to_fit": first_and_last_missed(evaluations, lambda at: at["fit/accuracy"] >= 0.8),
        "steps_to_fit_0.99": first_and_last_missed(evaluations, lambda at: at["fit/accuracy"] >= 0.99),
        "steps_to_loss_0.1": first_and_last_missed(evaluations, lambda at: at["fit/loss"] <= 0.1),
        "steps_to_loss_0.01": first_and_last_missed(evaluations, lambda at: at["fit/loss"] <= 0.01),
    }
    at_fit = next(one for one in evaluations if one.step == milestones["steps_to_fit"][0])
    peak = max(one.numbers["test/accuracy"] for one in evaluations)
    expected: dict[str, float] = numbers | {
        "test/accuracy_at_fit": at_fit.numbers["test/accuracy"],
        "test/accuracy_oracle": peak,
        "generalization_gap": numbers["fit/accuracy"] - numbers["test/accuracy"],
        "steps": 361,
    }
    for milestone, (first, missed) in milestones.items():
        expected |= {milestone: first, f"{milestone}_last_missed": missed}
    assert_unequal({name: expected[name] for name in milestones})
    assert_unequal({name: expected[name] for name in ("test/accuracy", "test/accuracy_at_fit", "test/accuracy_oracle")})
    for name in ("fit", "validation"):
        assert_unequal({key: value for key, value in at_fit.numbers.items() if key.startswith(name)})

    metrics = read_result(folder)["metrics"]
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, rel=1e-4)
    assert_rows(folder, evaluations)
    assert_examples(folder, evaluations, splits["train"])


def test_early_stopping_leaves_the_numbers_of_its_best_weights(train: Command) -> None:
    stops = ["regularizer=[dropout,early_stopping]", "regularizer.early_stopping=6", "evaluate_every=0.4"]
    with weights_of_every_step() as steps:
        folder = train(*TINY, *NOISY, *stops, "max_steps=500", "model.learning_rate=0.1", "schedule=constant")
    splits = splits_of(seed=5, **DATA)
    evaluations = evaluated(steps, splits, every=2)
    best = max(evaluations, key=lambda one: (one.numbers["validation/accuracy_corrupted"], -one.step))
    assert [one.step for one in evaluations].index(best.step) == len(evaluations) - 1 - 6
    expected: dict[str, float] = best.numbers | {
        "early_stopping_step": best.step,
        "steps": len(steps),
        "test/accuracy_oracle": max(one.numbers["test/accuracy"] for one in evaluations),
        "generalization_gap": best.numbers["fit/accuracy"] - best.numbers["test/accuracy"],
    }
    for name, value in best.numbers.items():
        assert value != pytest.approx(evaluations[-1].numbers[name], rel=1e-4), f"{name}: best and last tell nothing"

    metrics = read_result(folder)["metrics"]
    assert {name: metrics[name] for name in expected} == pytest.approx(expected, rel=1e-4)
    assert_rows(folder, evaluations)
    assert_examples(folder, evaluations, splits["train"], final=best)
    assert_kept(folder, steps[best.step - 1])


def assert_kept(folder: Path, weights: Weights) -> None:
    """The weights in the run's folder are these."""
    state = torch.load(folder / "weights" / "end.pt", weights_only=True)
    kept = sorted(state.values(), key=lambda value: -value.ndim)  # matrices first, as the optimizer has them
    for ours, theirs in zip(kept, weights, strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs)


def test_recalibration_leaves_out_the_short_last_batch(train: Command) -> None:
    """Of 67 examples in batches of 16, the last three; with them the accuracy would be another, which is checked."""
    data = {"num_train": 67, "batch_size": 16}
    small = [*(item for item in TINY if not item.startswith("model")), "model=inception", "max_steps=21"]
    folder = train(*small, *(f"data.{name}={value}" for name, value in data.items()), "model.learning_rate=0.05")
    datamodule = PartialLabels(Digits(), probability=0.0, **data)
    datamodule.setup()
    train_split = datamodule.splits["train"]
    network = Inception(image_shape=datamodule.image_shape, num_classes=10)
    network.load_state_dict(torch.load(folder / "weights" / "end.pt", weights_only=True))
    norms = [module for module in network.modules() if isinstance(module, torch.nn.BatchNorm2d)]

    @torch.no_grad()
    def accuracy() -> float:
        network.eval()
        return float((network(train_split.inputs).argmax(1) == train_split.labels).double().mean())

    @torch.no_grad()
    def recalibrated(num_examples: int) -> float:
        """Accuracy after a pass through the first examples, each batch of which counts the same."""
        for norm in norms:
            norm.reset_running_stats()
            norm.momentum = None
        network.train()
        for start in range(0, num_examples, 16):
            network(train_split.inputs[start : start + 16][: num_examples - start])
        return accuracy()

    metrics = read_result(folder)["metrics"]
    assert metrics["fit/accuracy"] == pytest.approx(accuracy())
    expected = recalibrated(64)
    print(metrics, expected, recalibrated(67))
    assert len({metrics["fit/accuracy"], expected, recalibrated(67)}) == 3
    assert metrics["fit/accuracy_recalibrated"] == pytest.approx(expected)
