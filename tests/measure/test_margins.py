"""Margins against networks whose boundary is known, and against a loop."""

from __future__ import annotations

import dataclasses
import re

import pytest
import torch
from subjects import network_of, split_of, subject_of
from torch import Tensor, nn

from rethinkgen.measure.margins import margins
from rethinkgen.measure.subject import Findings, Subject


def column(findings: Findings, group: str) -> Tensor:
    table = findings.tables["examples"]
    values = [value for name, value in zip(table["group"], table["margin"], strict=True) if name == group]
    return torch.tensor(values)


def test_of_a_linear_network_the_gradient_gives_the_exact_distance() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(72, 3))
    split = split_of(12, 1)
    findings = margins(Subject(network, {"train": split}), num_examples=None)
    weight, bias = network[1].weight.detach(), network[1].bias.detach()
    for image, label, found in zip(
        split.inputs.flatten(1), split.labels.tolist(), column(findings, "clean"), strict=True
    ):
        logits = weight @ image + bias
        other = max((j for j in range(3) if j != label), key=lambda j: float(logits[j]))
        plane = weight[label] - weight[other]
        assert float(found) == pytest.approx(float((logits[label] - logits[other]) / plane.norm()), rel=1e-4)
        # Moved by that much against the plane, both logits are equal.
        there = weight @ (image - found * plane / plane.norm()) + bias
        assert float(there[label]) == pytest.approx(float(there[other]), abs=1e-4)


def test_scaling_the_weights_changes_no_normalised_margin() -> None:
    def found(normalization: str, scale: float) -> Tensor:
        network = network_of("mlp")[:3]
        network.append(nn.Linear(8, 3, bias=False))
        nn.init.constant_(network[3].weight, 0.1)
        with torch.no_grad():
            network[3].weight[0] += 0.3
            network[3].weight[:, 2] -= 0.2
            network[3].weight *= scale
        return column(margins(Subject(network, {"train": split_of(9, 1)}), normalization=normalization), "clean")

    for normalization in ("gradient", "spectral"):
        torch.testing.assert_close(found(normalization, 5.0), found(normalization, 1.0), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(found("none", 5.0), 5 * found("none", 1.0), rtol=1e-5, atol=1e-5)


def test_spectral_is_the_output_margin_over_the_product_of_largest_singular_values() -> None:
    subject = subject_of("mlp")
    product = 1.0
    for layer in (1, 4, 6):
        product *= float(torch.linalg.svdvals(subject.network[layer].weight.detach())[0])
    for split, group in (("test", "test"), ("validation", "validation")):
        part = subject.splits[split]  # type: ignore[index]
        expected = []
        for image, label in zip(part.inputs, part.original_labels.tolist(), strict=True):
            logits = subject.network(image[None])[0].tolist()
            expected.append((logits[label] - max(z for j, z in enumerate(logits) if j != label)) / product)
        found = column(margins(subject, normalization="spectral", num_examples=None), group)
        assert found.tolist() == pytest.approx(expected, rel=1e-4)


def test_a_kernel_counts_as_a_matrix_of_its_outputs() -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Conv2d(2, 3, 6), nn.Flatten())
    matrix = network[0].weight.detach().reshape(3, 72)
    subject = Subject(network, {"train": split_of(9, 1)})
    spectral, plain = (column(margins(subject, normalization=how), "clean") for how in ("spectral", "none"))
    torch.testing.assert_close(plain / spectral, torch.linalg.svdvals(matrix)[0].expand(9).double())


def test_numbers_are_of_wrong_and_right_labels_apart() -> None:
    subject = subject_of("mlp")
    findings = margins(subject, normalization="none", num_examples=None)
    train = subject.split("train")
    logits = subject.network(train.inputs).detach()
    own = logits[torch.arange(len(train)), train.labels]
    logits[torch.arange(len(train)), train.labels] = -torch.inf
    margin = (own - logits.max(1).values).double()
    for group, members in (("corrupted", train.is_corrupted), ("clean", ~train.is_corrupted)):
        values = margin[members]
        assert findings.numbers[f"{group}/mean"] == pytest.approx(float(values.mean()), abs=1e-6)
        assert findings.numbers[f"{group}/median"] == pytest.approx(float(values.quantile(0.5)), abs=1e-6)
        assert findings.numbers[f"{group}/percentile_10"] == pytest.approx(float(values.quantile(0.1)), abs=1e-6)
        assert findings.numbers[f"{group}/negative"] == float((values < 0).double().mean())
        assert findings.numbers[f"{group}/num_undefined"] == 0
    table = findings.tables["examples"]
    index = [int(i) for name, i in zip(table["group"], table["index"], strict=True) if name == "corrupted"]
    assert index == train.index[train.is_corrupted].tolist()


def test_each_group_has_examples_of_its_own() -> None:
    findings = margins(subject_of("mlp"), num_examples=4)
    assert list(findings.tables["examples"]["group"]) == [
        name for name in ("clean", "corrupted", "validation", "test") for _ in range(4)
    ]


def test_an_example_without_a_gradient_has_no_distance() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(72, 4), nn.ReLU(), nn.Linear(4, 3))
    with torch.no_grad():
        network[1].weight.zero_()
        network[1].bias.fill_(-1)
    numbers = margins(Subject(network, {"train": split_of(6, 1)})).numbers
    assert numbers["clean/num_undefined"] == 6
    assert numbers["clean/mean"] is None
    assert numbers["clean/negative"] is None


def test_groups_that_are_not_there_are_left_out_unless_they_are_asked_for() -> None:
    subject = subject_of("mlp", share_wrong=0.0)
    assert {name.split("/")[0] for name in margins(subject).numbers} == {"clean", "validation", "test"}
    assert {name.split("/")[0] for name in margins(subject, groups=["test"]).numbers} == {"test"}
    with pytest.raises(ValueError, match=r"of=corrupted: no label of these examples was changed"):
        margins(subject, groups=["corrupted"])
    train = subject.split("train")
    wrong = dataclasses.replace(train, is_corrupted=torch.ones_like(train.is_corrupted))
    assert {name.split("/")[0] for name in margins(Subject(subject.network, {"train": wrong})).numbers} == {"corrupted"}
    with pytest.raises(ValueError, match=r"split='validation': this run has none"):
        margins(Subject(subject.network, {"train": wrong}), groups=["validation"])


def test_what_cannot_be_normalised_so_is_refused() -> None:
    message = (
        "normalization=spectral: the network has BatchNorm, whose scale is in no weight. Take normalization=gradient."
    )
    with pytest.raises(ValueError, match=re.escape(message)):
        margins(subject_of("convolutional"), normalization="spectral")
    frozen = network_of("mlp").requires_grad_(False)
    with pytest.raises(ValueError, match=r"normalization=spectral: the network has no weights that are trained"):
        margins(subject_of(frozen), normalization="spectral")
    with pytest.raises(ValueError, match=r"normalization='l2': one of gradient, spectral, none is needed"):
        margins(subject_of(), normalization="l2")
    with pytest.raises(ValueError, match=r"groups='train': one of clean, corrupted, validation, test is needed"):
        margins(subject_of(), groups=["train"])
