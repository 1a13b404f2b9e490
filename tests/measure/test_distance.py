"""Distances against closed forms."""

from __future__ import annotations

import copy
import re

import pytest
import torch
from subjects import network_of, subject_of
from torch import nn

from rethinkgen.measure.distance import distance
from rethinkgen.measure.subject import Subject


def moved(network: nn.Module, by: dict[str, float]) -> nn.Module:
    """Return a copy in which every weight of a layer has moved as far, up or down in turn."""
    other = copy.deepcopy(network)
    for name, value in other.named_parameters():
        signs = 1.0 - 2 * (torch.arange(value.numel()) % 2).view_as(value)
        value.data += by[name.rpartition(".")[0]] * signs
    return other


def test_a_layer_that_has_moved_by_d_everywhere_is_at_distance_d() -> None:
    network = network_of("mlp").double()
    moves = {"1": 0.5, "4": 0.0, "6": 2.0}
    origin = Subject(moved(network, moves), {})
    findings = distance(Subject(network, {}, at={3: origin}.__getitem__), origin=3)
    table = findings.tables["layers"]
    assert list(table["layer"]) == ["1", "4", "6"]
    assert list(table["num_parameters"]) == [72 * 8 + 8, 8 * 5 + 5, 5 * 3 + 3]
    assert list(table["norm_2"]) == pytest.approx([0.5, 0, 2])
    assert list(table["norm_max"]) == pytest.approx([0.5, 0, 2])
    square = 584 * 0.5**2 + 18 * 2.0**2
    assert findings.numbers["norm_2"] == pytest.approx((square / 647) ** 0.5)
    assert findings.numbers["norm_max"] == pytest.approx(2)
    size = sum(float(value.detach().square().sum()) for value in origin.network.parameters()) ** 0.5
    assert findings.numbers["relative"] == pytest.approx(square**0.5 / size)


def test_weight_and_bias_are_one_layer_and_its_largest_move_is_found() -> None:
    network = nn.Sequential(nn.Linear(3, 1))
    other = copy.deepcopy(network)
    other[0].weight.data += torch.tensor([[3.0, 0, 0]])
    other[0].bias.data -= 4
    numbers = distance(Subject(network, {}, at=lambda _: Subject(other, {})), origin=0).numbers
    assert numbers["norm_2"] == pytest.approx(5 / 4**0.5)
    assert numbers["norm_max"] == pytest.approx(4)


def test_what_is_not_trained_is_no_part_of_it() -> None:
    findings = distance(subject_of("convolutional"))
    # The scale of the first BatchNorm is frozen.
    assert list(findings.tables["layers"]["num_parameters"]) == [72, 4, 30, 12, 148, 8, 15, 3]


def test_at_its_own_step_all_is_zero_and_zero_weights_have_no_size() -> None:
    network = network_of("mlp")
    numbers = distance(Subject(network, {}, at=lambda _: Subject(network, {}))).numbers
    assert set(numbers.values()) == {0.0}
    for value in network.parameters():
        value.data.zero_()
    assert distance(Subject(network, {}, at=lambda _: Subject(network, {}))).numbers["relative"] is None


def test_another_architecture_and_a_network_that_is_not_trained_are_refused() -> None:
    other = network_of("mlp")
    other[1] = nn.Linear(72, 9)
    with pytest.raises(
        ValueError, match=re.escape("origin=0: its network is another one: 1.weight is (8, 72) here and (9, 72)")
    ):
        distance(Subject(network_of("mlp"), {}, at=lambda _: Subject(other, {})))
    frozen = network_of("mlp").requires_grad_(False)
    with pytest.raises(ValueError, match=r"the network has no weights that are trained"):
        distance(Subject(frozen, {}, at=lambda _: Subject(frozen, {})))
