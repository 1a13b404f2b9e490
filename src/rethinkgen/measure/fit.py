"""The numbers of every run: what the fixed network gets right, on what it was given and on what is true.

Accuracies are fractions in ``[0, 1]``; losses are mean cross-entropies in nats.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor, nn

from rethinkgen.checks import check_whole
from rethinkgen.measure.predict import TOP, Predictions, has_batch_norm, predict, recalibrated_batch_norm
from rethinkgen.measure.subject import Findings

if TYPE_CHECKING:
    from rethinkgen.data.module import Split, SplitName
    from rethinkgen.measure.subject import Subject

Metrics = dict[str, float]
OF_TEST_PART = ("test/loss", "test/accuracy", "generalization_gap")


def fit_metrics(predictions: Predictions, split: Split) -> Metrics:
    """``fit/...`` of the training set: against the labels as given, and apart for wrong and for right ones.

    ``fit/accuracy_corrupted`` is the share of wrongly labelled examples predicted as their wrong label (memorised),
    ``fit/accuracy_corrected`` the share of the same predicted as their true one (learnt through the noise),
    ``fit/accuracy_clean`` the accuracy on all others. Without wrong labels only loss and accuracy are given.
    """
    right = predictions.classes == split.labels
    metrics = {"fit/loss": _mean(predictions.losses), "fit/accuracy": _mean(right), **_top("fit", predictions)}
    wrong = split.is_corrupted
    if bool(wrong.any()):
        metrics["fit/accuracy_corrupted"] = _mean(right[wrong])
        metrics["fit/accuracy_corrected"] = _mean((predictions.classes == split.original_labels)[wrong])
        if not bool(wrong.all()):
            metrics["fit/accuracy_clean"] = _mean(right[~wrong])
    return metrics


def validation_metrics(predictions: Predictions, split: Split) -> Metrics:
    """``validation/accuracy`` against true labels and ``validation/accuracy_corrupted`` against the labels as given.

    The second is what somebody whose labels are noisy could measure; without label corruption both are equal. The loss
    of ``predictions`` is against the true labels.
    """
    return {
        "validation/loss": _mean(predictions.losses),
        "validation/accuracy": _mean(predictions.classes == split.original_labels),
        "validation/accuracy_corrupted": _mean(predictions.classes == split.labels),
    }


def test_metrics(predictions: Predictions, split: Split) -> Metrics:
    """``test/loss`` and ``test/accuracy``, against true labels."""
    right = predictions.classes == split.labels
    return {"test/loss": _mean(predictions.losses), "test/accuracy": _mean(right), **_top("test", predictions)}


test_metrics.__test__ = False  # type: ignore[attr-defined]  # a name that pytest would collect


def judged_by(name: str, split: Split) -> Tensor:
    """Return the labels that a split's loss is against: true ones, but of the training set those that were given."""
    return split.labels if name == "train" else split.original_labels


def _top(name: str, predictions: Predictions) -> Metrics:
    return {} if predictions.is_in_top is None else {f"{name}/accuracy_top{TOP}": _mean(predictions.is_in_top)}


def _mean(values: Tensor) -> float:
    # On the CPU, since not every device has float64.
    return float(values.cpu().double().mean())


class Evaluated(NamedTuple):
    """What an evaluation of all splits found."""

    metrics: Metrics
    train: Predictions


def evaluate(network: nn.Module, splits: Mapping[SplitName, Split], *, is_shared: bool = False) -> Evaluated:
    """Return the numbers of every split there is, and what is predicted of the training set.

    ``is_shared``: as of ``predict``.
    """
    predictions = {
        name: predict(network, split.inputs, judged_by(name, split), is_shared=is_shared)
        for name, split in splits.items()
    }
    metrics = [METRICS[name](predicted, splits[name]) for name, predicted in predictions.items()]
    return Evaluated({name: value for found in metrics for name, value in found.items()}, predictions["train"])


def without_test_part(splits: Mapping[SplitName, Split]) -> dict[str, None]:
    """Return the numbers that a run has none of where nothing is left to test on, by name; else nothing."""
    return {} if "test" in splits else dict.fromkeys(OF_TEST_PART)


def weights_digest(network: nn.Module) -> str:
    """Return a short hash of all bytes of the network's ``state_dict``, in its order: equal weights, equal digest.

    Not of names, which another version may change, and in no form that could be read as a number.
    """
    return state_digest(network.state_dict())


def state_digest(state: Mapping[str, Tensor]) -> str:
    """Return the same of a ``state_dict``."""
    digest = hashlib.sha256()
    for value in state.values():
        digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return f"sha256-{digest.hexdigest()[:16]}"


def fit(subject: Subject, *, batch_size: int = 100) -> Findings:
    """Every number of the network at one step, by the names that a run has for them, and of the same digits.

    ``fit/accuracy_recalibrated`` is given of every network with BatchNorm: of statistics that are means over one pass
    through the training set, in batches of ``batch_size``.
    """
    check_whole("batch_size", batch_size, 2)
    metrics = evaluate(subject.network, subject.splits).metrics
    if has_batch_norm(subject.network):
        train = subject.split("train")
        with recalibrated_batch_norm(subject.network, train.inputs, batch_size):
            predictions = predict(subject.network, train.inputs, train.labels)
        metrics["fit/accuracy_recalibrated"] = fit_metrics(predictions, train)["fit/accuracy"]
    if "test" in subject.splits:
        metrics["generalization_gap"] = metrics["fit/accuracy"] - metrics["test/accuracy"]
    return Findings({**metrics, **without_test_part(subject.splits)})


METRICS: dict[str, Callable[[Predictions, Split], Metrics]] = {
    "train": fit_metrics,
    "validation": validation_metrics,
    "test": test_metrics,
}
"""What is computed of each split."""
