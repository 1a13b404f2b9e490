"""Stiffness against the gradients of every single pair."""

from __future__ import annotations

import math
from itertools import combinations, product

import pytest
import torch
import torch.nn.functional as F
from subjects import network_of, split_of, subject_of
from torch import Tensor, nn

from rethinkgen.data.module import Split
from rethinkgen.measure.gradients import gram_matrix
from rethinkgen.measure.stiffness import critical_length, stiffness, zero_crossing
from rethinkgen.measure.subject import Findings, Subject

Pair = tuple[int, int, float, float, float]
"""Classes, sign, cosine, distance."""


def gradient_of(network: nn.Module, image: Tensor, label: Tensor) -> Tensor:
    loss = F.cross_entropy(network(image[None]).double(), label[None])
    trained = [value for value in network.parameters() if value.requires_grad]
    return torch.cat([gradient.flatten() for gradient in torch.autograd.grad(loss, trained)]).double()


def pairs_of(network: nn.Module, first: Split, second: Split) -> list[Pair]:
    found = []
    for i, j in product(range(len(first)), range(len(second))):
        if first is second and i == j:
            continue
        one, other = (
            gradient_of(network, first.inputs[i], first.labels[i]),
            gradient_of(network, second.inputs[j], second.labels[j]),
        )
        x, y = first.inputs[i].flatten().double(), second.inputs[j].flatten().double()
        distance = 1 - float(x @ y / (x.norm() * y.norm()))
        cosine = float(one @ other / (one.norm() * other.norm()))
        found.append((int(first.labels[i]), int(second.labels[j]), math.copysign(1, cosine), cosine, distance))
    return found


def mean(values: list[float]) -> float:
    return sum(values) / len(values)


@pytest.mark.parametrize("name", ["mlp", "convolutional"])
def test_class_means_are_those_of_every_single_pair(name: str) -> None:
    network = network_of(name)
    splits = {"train": split_of(9, 1, share_wrong=0.4), "test": split_of(7, 3)}
    findings = stiffness(Subject(network, splits))  # type: ignore[arg-type]
    table = findings.tables["classes"]
    rows = {row[:3]: row[3:] for row in zip(*table.values(), strict=True)}
    for pairs, (first, second) in {
        "train_train": ("train", "train"),
        "train_heldout": ("train", "test"),
        "heldout_heldout": ("test", "test"),
    }.items():
        expected = pairs_of(network, splits[first], splits[second])
        matrix: dict[tuple[int, int], tuple[float, float]] = {}
        for a, b in product(range(3), range(3)):
            inside = [pair for pair in expected if pair[:2] == (a, b)]
            matrix[a, b] = mean([pair[2] for pair in inside]), mean([pair[3] for pair in inside])
            sign, cosine, num_pairs = rows[pairs, a, b]
            assert (sign, cosine) == (
                pytest.approx(matrix[a, b][0]),
                pytest.approx(matrix[a, b][1], rel=1e-4, abs=1e-6),
            )
            assert num_pairs == len(inside)
        for i, kind in enumerate(("sign", "cosine")):
            within = mean([value[i] for (a, b), value in matrix.items() if a == b])
            between = mean([value[i] for (a, b), value in matrix.items() if a != b])
            assert findings.numbers[f"{pairs}/{kind}_within"] == pytest.approx(within, rel=1e-4, abs=1e-6)
            assert findings.numbers[f"{pairs}/{kind}_between"] == pytest.approx(between, rel=1e-4, abs=1e-6)
            assert findings.numbers[f"{pairs}/{kind}_gap"] == pytest.approx(within - between, rel=1e-4, abs=2e-6)


def test_distances_are_of_pairs_within_classes_in_equal_intervals() -> None:
    network = network_of("mlp")
    split = split_of(12, 1)
    table = stiffness(Subject(network, {"train": split, "test": split_of(6, 2)}), num_bins=3).tables["distances"]
    found = [row[1:] for row in zip(*table.values(), strict=True) if row[0] == "train_train"]
    within = [pair for pair in pairs_of(network, split, split) if pair[0] == pair[1]]
    low, high = min(pair[4] for pair in within), max(pair[4] for pair in within)
    for i, (middle, sign, cosine, num_pairs) in enumerate(found):
        edges = [low + (high - low) * k / 3 for k in (i, i + 1)]
        inside = [pair for pair in within if edges[0] <= pair[4] + 1e-9 and (pair[4] < edges[1] or i == 2)]
        assert middle == pytest.approx(sum(edges) / 2)
        assert num_pairs == len(inside)
        assert sign == pytest.approx(mean([pair[2] for pair in inside]))
        assert cosine == pytest.approx(mean([pair[3] for pair in inside]), rel=1e-4)
    assert len(found) == 3


def test_the_summary_has_the_numbers_of_each_kind_of_pairs_beside_the_loss() -> None:
    network, split = network_of("mlp"), split_of(12, 1, share_wrong=0.3)
    findings = stiffness(Subject(network, {"train": split, "test": split_of(6, 2)}))
    table = findings.tables["summary"]
    loss = float(F.cross_entropy(network(split.inputs), split.labels).detach())
    assert list(table["loss"]) == [pytest.approx(loss)] * 3
    for row, pairs in enumerate(table["pairs"]):
        told = {name: float(column[row]) for name, column in table.items() if name not in ("pairs", "loss")}
        assert len(told) == 10
        assert findings.numbers["loss"] == pytest.approx(loss)
        for name, value in told.items():
            expected = findings.numbers[f"{pairs}/{name}"]
            assert math.isnan(value) if expected is None else value == expected


@pytest.mark.parametrize(
    ("intercept", "slope", "expected"), [(1.0, -2.0, 0.5), (1.0, 2.0, None), (1.0, 0.0, None), (1.0, -0.1, None)]
)
def test_the_critical_length_is_where_a_falling_line_crosses_zero(
    intercept: float, slope: float, expected: float | None
) -> None:
    distance = torch.linspace(0, 1, 11, dtype=torch.float64)
    noise = torch.tensor([1, -1, -1, 1, 1, -2, 1, 1, -1, -1, 1], dtype=torch.float64)  # of no mean, and no slope
    found = critical_length(distance, intercept + slope * distance + 0.01 * noise)
    assert found == (None if expected is None else pytest.approx(expected))
    crossing = zero_crossing(distance, intercept + slope * distance + 0.01 * noise)
    assert crossing == (pytest.approx(-intercept / slope) if slope < 0 else None)


def test_without_two_distances_there_is_no_length() -> None:
    assert critical_length(torch.tensor([0.5]), torch.tensor([1.0])) is None
    assert critical_length(torch.tensor([0.5, 0.5]), torch.tensor([1.0, -1.0])) is None


@pytest.mark.parametrize("memory_mb", [0.06, 0.1, 100])
def test_products_are_those_of_whole_gradients_whatever_may_be_held(memory_mb: float) -> None:
    network, split = network_of("convolutional"), split_of(9, 1)
    gradients = torch.stack([gradient_of(network, *one) for one in zip(split.inputs, split.labels, strict=True)])
    found = gram_matrix(network, split.inputs, split.labels, memory_mb)
    torch.testing.assert_close(found, gradients @ gradients.T, rtol=1e-4, atol=1e-6)


def test_fitted_examples_have_exact_angles_and_are_counted() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(72, 3))
    with torch.no_grad():
        network[1].weight.zero_()
        network[1].bias.copy_(torch.tensor([30.0, 0, 0]))
    split = split_of(6, 1)  # two of them of class 0, fitted to a probability of 1 - 2e-13
    findings = stiffness(Subject(network, {"train": split, "test": split_of(6, 3)}))
    assert findings.numbers["num_small"] == 4
    table = findings.tables["classes"]
    rows = {row[:3]: row[4] for row in zip(*table.values(), strict=True)}
    x, y = split.inputs[split.labels == 0].flatten(1).double()
    # Equal errors, so that the inputs, and the 1 of the bias, are all that tells them apart.
    expected = float((x @ y + 1) / ((x @ x + 1) * (y @ y + 1)).sqrt())
    assert rows["train_train", 0, 0] == pytest.approx(expected, rel=1e-4)


def test_what_is_held_out_is_the_validation_set_where_there_is_one() -> None:
    subject = subject_of("mlp")
    default = stiffness(subject).numbers
    assert default == stiffness(subject, held_out="validation").numbers
    assert default != stiffness(subject, held_out="test").numbers
    with pytest.raises(ValueError, match=r"num_examples=1: a whole number of at least 2"):
        stiffness(subject, num_examples=1)


GROUPS = {"two": ["a", "b"], "others": ["c", "d", "e"]}


def grouped(num: int = 20, groups: dict[str, list[str]] = GROUPS) -> Findings:
    torch.manual_seed(1)
    network = nn.Sequential(nn.Flatten(), nn.Linear(8, 6), nn.ReLU(), nn.Linear(6, 5))
    labels = torch.arange(num) % 5
    never = torch.zeros(num, dtype=torch.bool)
    split = Split(torch.randn(num, 2, 2, 2), labels, labels, never, never, torch.arange(num))
    return stiffness(Subject(network, {"train": split}, class_names=["a", "b", "c", "d", "e"]), groups=groups)


def test_between_classes_of_one_group_and_of_two_are_told_apart() -> None:
    findings = grouped()
    table = findings.tables["classes"]
    same, other = [], []
    for a, b, cosine in zip(table["class_a"], table["class_b"], table["cosine"], strict=True):
        if a != b:
            (same if (a < 2) == (b < 2) else other).append(float(cosine))
    assert (len(same), len(other)) == (8, 12)
    assert findings.numbers["train_train/cosine_same_group"] == pytest.approx(mean(same))
    assert findings.numbers["train_train/cosine_other_group"] == pytest.approx(mean(other))
    assert findings.numbers["train_train/cosine_group_gap"] == pytest.approx(mean(same) - mean(other))


def test_the_chance_of_a_gap_is_that_among_all_ways_to_group_the_classes() -> None:
    findings = grouped()
    table = findings.tables["classes"]
    cosine = dict(zip(zip(table["class_a"], table["class_b"], strict=True), map(float, table["cosine"]), strict=True))

    def gap(two: tuple[int, ...]) -> float:
        parts: dict[bool, list[float]] = {True: [], False: []}
        for (a, b), value in cosine.items():
            if a != b:
                parts[(a in two) == (b in two)].append(value)
        return mean(parts[True]) - mean(parts[False])

    gaps = [gap(two) for two in combinations(range(5), 2)]
    expected = mean([float(each >= gaps[0] - 1e-12) for each in gaps])
    # Of 10,000 draws the deviation is at most 0.005.
    assert findings.numbers["train_train/cosine_group_chance"] == pytest.approx(expected, abs=0.02)


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        ({"two": ["a", "b"], "others": ["c", "d"]}, "groups: e: each class must be in one group"),
        ({"two": ["a", "b"], "others": ["b", "c", "d", "e", "f"]}, "groups: b, f: "),
        ({"all": ["a"]}, "at least two groups"),
    ],
)
def test_groups_that_are_no_partition_of_the_classes_are_refused(groups: dict[str, list[str]], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        grouped(groups=groups)


def test_a_group_of_all_classes_but_one_and_of_classes_that_do_not_occur() -> None:
    # Of classes a and c alone no two are of one group.
    numbers = grouped(4, {"one": ["a", "b"], "rest": ["c", "d", "e"]}).numbers
    assert numbers["train_train/cosine_same_group"] is not None  # a with b, c with d
    few = grouped(2, {"one": ["a", "c"], "rest": ["b", "d", "e"]}).numbers
    assert few["train_train/cosine_same_group"] is None
    assert few["train_train/cosine_group_gap"] is None
    assert few["train_train/cosine_group_chance"] is None
