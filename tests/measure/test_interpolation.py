"""The line against a loop that puts the weights in by hand."""

from __future__ import annotations

import copy
import re

import pytest
import torch
import torch.nn.functional as F
from subjects import network_of, subject_of
from torch import nn

from rethinkgen.measure.fit import evaluate
from rethinkgen.measure.interpolation import interpolation
from rethinkgen.measure.predict import recalibrated_batch_norm
from rethinkgen.measure.subject import Subject

Row = dict[str, float | str]


def rows_of(subject: Subject, **keywords: object) -> list[Row]:
    table = interpolation(subject, **keywords).tables["line"]  # type: ignore[arg-type]
    return [dict(zip(table, row, strict=True)) for row in zip(*table.values(), strict=True)]


def by_hand(here: nn.Module, there: nn.Module, alpha: float) -> nn.Module:
    between = copy.deepcopy(here)
    for value, one, other in zip(between.parameters(), here.parameters(), there.parameters(), strict=True):
        value.data = (1 - alpha) * one.data + alpha * other.data
    for (name, value), one, other in zip(between.named_buffers(), here.buffers(), there.buffers(), strict=True):
        if value.is_floating_point():
            value.data = (1 - alpha) * one + alpha * other
            if name.endswith("running_var"):
                value.data = value.data.clamp(min=0)
    return between.eval()


@pytest.mark.parametrize("network", ["mlp", "convolutional"])
def test_loss_and_accuracy_are_those_of_weights_put_in_by_hand(network: str) -> None:
    subject = subject_of(network)
    here, there = subject.network, subject.at(0).network
    rows = rows_of(subject, first=-1, last=2, num_alphas=7, num_examples=None, batch_size=5)
    assert sorted({row["alpha"] for row in rows}) == [-1, -0.5, 0, 0.5, 1, 1.5, 2]
    assert len(rows) == 7 * 3 * (2 if network == "convolutional" else 1)
    for row in rows:
        split = subject.splits[row["split"]]  # type: ignore[index]
        labels = split.labels if row["split"] == "train" else split.original_labels
        between = by_hand(here, there, float(row["alpha"]))
        if row["statistics"] == "re-estimated":
            with recalibrated_batch_norm(between, subject.split("train").inputs, 5):
                logits = between.eval()(split.inputs)
        else:
            logits = between(split.inputs)
        assert row["loss"] == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-4)
        assert row["accuracy"] == pytest.approx(float((logits.argmax(1) == labels).float().mean()))


def test_its_ends_are_the_two_networks_to_the_bit() -> None:
    subject = subject_of("convolutional")
    kept = [row for row in rows_of(subject, num_examples=None) if row["statistics"] == "kept"]
    for alpha, network in ((0, subject.network), (1, subject.at(0).network)):
        metrics = evaluate(network, subject.splits).metrics
        found = {row["split"]: row for row in kept if row["alpha"] == alpha}
        assert found["test"]["loss"] == metrics["test/loss"]
        assert found["train"]["loss"] == metrics["fit/loss"]
        assert found["validation"]["accuracy"] == metrics["validation/accuracy"]


def test_a_barrier_is_the_height_above_the_mean_of_both_ends() -> None:
    subject = subject_of("mlp")
    findings = interpolation(subject, num_alphas=13, num_examples=None)
    rows = [row for row in rows_of(subject, num_alphas=13, num_examples=None) if row["split"] == "test"]
    inside = {float(row["alpha"]): row for row in rows if 0 <= float(row["alpha"]) <= 1}
    assert sorted(inside) == [0, 0.25, 0.5, 0.75, 1]
    ends = (float(inside[0]["loss"]) + float(inside[1]["loss"])) / 2
    assert findings.numbers["test/loss_barrier"] == pytest.approx(max(float(r["loss"]) for r in inside.values()) - ends)
    ends = (float(inside[0]["accuracy"]) + float(inside[1]["accuracy"])) / 2
    lowest = min(float(row["accuracy"]) for row in inside.values())
    assert findings.numbers["test/error_barrier"] == pytest.approx(ends - lowest)


def test_to_itself_there_is_no_barrier_and_another_run_goes_before_a_step() -> None:
    network = network_of("mlp")
    itself = interpolation(subject_of(network)).numbers
    assert itself["train/loss_barrier"] == pytest.approx(0, abs=1e-6)
    other = subject_of(network_of("mlp", seed=5))
    to_other = interpolation(subject_of(network, other=lambda: other)).numbers
    assert to_other["train/loss_barrier"] != pytest.approx(0, abs=1e-6)


def test_ends_are_there_whatever_the_spacing() -> None:
    assert sorted({row["alpha"] for row in rows_of(subject_of(), num_alphas=2)}) == [-1, 0, 1, 2]


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"num_alphas": 1}, "num_alphas=1: a whole number of at least 2"),
        ({"first": 2.0}, "first=2.0 last=2.0: two numbers are needed, of which the second is greater"),
        ({"last": float("inf")}, "first=-1.0 last=inf: two numbers are needed"),
        ({"batch_size": 1}, "batch_size=1: a whole number of at least 2"),
        ({"num_examples": 0}, "num_examples=0: a whole number of at least 1"),
    ],
)
def test_nonsense_is_named(keywords: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        interpolation(subject_of(), **keywords)  # type: ignore[arg-type]


def test_another_architecture_is_named_with_both_shapes() -> None:
    other = network_of("mlp")
    other[4] = nn.Linear(8, 6)
    message = "other: its network is another one: 4.weight is (5, 8) here and (6, 8) there. Choose a run of the same"
    with pytest.raises(ValueError, match=re.escape(message)):
        interpolation(subject_of("mlp", other=lambda: subject_of(other)))
    with pytest.raises(
        ValueError, match=re.escape("to=3: its network is another one: 1.weight is (8, 72) here and (4,) there")
    ):
        interpolation(subject_of("mlp", at=lambda _: subject_of("convolutional")), to=3)


def test_weights_that_are_not_finite_on_the_way_give_no_barrier() -> None:
    network = network_of("mlp")
    other = copy.deepcopy(network)
    with torch.no_grad():
        other[1].weight.fill_(torch.nan)
    numbers = interpolation(subject_of(network, at=lambda _: subject_of(other))).numbers
    assert numbers["train/loss_barrier"] is None


def test_a_layer_that_the_other_lacks_is_named() -> None:
    shorter = network_of("mlp")[:-1]
    with pytest.raises(ValueError, match=re.escape("6.weight is (3, 5) here and absent there")):
        interpolation(subject_of("mlp", at=lambda _: subject_of(shorter)))
    with pytest.raises(ValueError, match=re.escape("6.weight is absent here and (3, 5) there")):
        interpolation(subject_of(shorter, at=lambda _: subject_of("mlp")))
