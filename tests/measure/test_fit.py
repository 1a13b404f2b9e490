"""The numbers against their definitions, written out by hand."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from subjects import subject_of
from torch import nn

from rethinkgen.data.module import Split
from rethinkgen.measure.fit import evaluate, fit, fit_metrics, test_metrics, validation_metrics, weights_digest
from rethinkgen.measure.predict import Predictions, predict, recalibrated_batch_norm
from rethinkgen.measure.subject import Subject


def split(given: list[int], original: list[int]) -> Split:
    labels, true = torch.tensor(given), torch.tensor(original)
    return Split(
        torch.zeros(len(given), 1, 1, 1), labels, true, labels != true, labels != true, torch.arange(len(given))
    )


def test_fit_tells_memorised_from_corrected_from_clean() -> None:
    # Wrong labels at 0, 1, 2: memorised, corrected, neither. Right labels at 3, 4: right, wrong.
    predictions = Predictions(torch.tensor([1.0, 2, 3, 4, 5]), torch.tensor([1, 0, 2, 0, 1]))
    metrics = fit_metrics(predictions, split([1, 1, 1, 0, 0], [0, 0, 0, 0, 0]))
    assert metrics == pytest.approx(
        {
            "fit/loss": 3,
            "fit/accuracy": 2 / 5,
            "fit/accuracy_corrupted": 1 / 3,
            "fit/accuracy_corrected": 1 / 3,
            "fit/accuracy_clean": 1 / 2,
        }
    )


def test_fit_without_wrong_labels_has_no_names_for_them() -> None:
    predictions = Predictions(torch.ones(2), torch.tensor([0, 1]))
    assert fit_metrics(predictions, split([0, 0], [0, 0])) == {"fit/loss": 1, "fit/accuracy": 0.5}
    assert "fit/accuracy_clean" not in fit_metrics(predictions, split([1, 1], [0, 0]))


def test_validation_is_judged_by_true_and_by_given_labels() -> None:
    predictions = Predictions(torch.ones(4), torch.tensor([0, 0, 0, 1]))
    metrics = validation_metrics(predictions, split([1, 0, 0, 1], [0, 0, 0, 0]))
    assert metrics == {"validation/loss": 1, "validation/accuracy": 3 / 4, "validation/accuracy_corrupted": 3 / 4}
    assert test_metrics(predictions, split([0, 0, 0, 0], [0, 0, 0, 0])) == {"test/loss": 1, "test/accuracy": 3 / 4}


def test_top5_is_given_of_more_than_ten_classes() -> None:
    class Table(nn.Module):
        """Returns the first values of each image as logits."""

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.flatten(1)

    def predicted(num_classes: int) -> Predictions:
        logits = torch.arange(num_classes, dtype=torch.float32).expand(num_classes, 1, 1, -1)
        return predict(Table(), logits, torch.arange(num_classes))

    eleven = predicted(11)
    assert eleven.is_in_top is not None
    assert eleven.is_in_top.tolist() == [False] * 6 + [True] * 5
    labels = list(range(11))
    assert fit_metrics(eleven, split(labels, labels))["fit/accuracy_top5"] == pytest.approx(5 / 11)
    assert test_metrics(eleven, split(labels, labels))["test/accuracy_top5"] == pytest.approx(5 / 11)
    assert predicted(10).is_in_top is None


def test_equal_weights_have_an_equal_digest_and_no_number_could_be_read_from_it() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 3, 2), nn.BatchNorm2d(3))
    digest = weights_digest(network)
    assert re.fullmatch(r"sha256-[0-9a-f]{16}", digest)
    assert weights_digest(copy.deepcopy(network).to(memory_format=torch.channels_last)) == digest
    for name in network.state_dict():
        other = copy.deepcopy(network)
        value = other.state_dict()[name].view(-1)
        value[-1] = torch.nextafter(value[-1], torch.tensor(9.0)) if value.is_floating_point() else 1
        assert weights_digest(other) != digest, name


def test_the_measure_gives_the_numbers_of_an_evaluation() -> None:
    subject = subject_of("convolutional")
    found = fit(subject, batch_size=4).numbers
    expected = evaluate(subject.network, subject.splits).metrics
    assert found == expected | {
        "fit/accuracy_recalibrated": found["fit/accuracy_recalibrated"],
        "generalization_gap": expected["fit/accuracy"] - expected["test/accuracy"],
    }
    train = subject.split("train")
    with recalibrated_batch_norm(subject.network, train.inputs, 4):
        right = subject.network.eval()(train.inputs).argmax(1) == train.labels
    assert found["fit/accuracy_recalibrated"] == float(right.double().mean()) != found["fit/accuracy"]
    assert "fit/accuracy_recalibrated" not in fit(subject_of("mlp")).numbers
    joined = Subject(subject.network, {"train": train})
    assert {value for name, value in fit(joined).numbers.items() if "test" in name or "gap" in name} == {None}
    with pytest.raises(ValueError, match=r"batch_size=1: a whole number of at least 2"):
        fit(subject, batch_size=1)
