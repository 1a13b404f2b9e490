"""Layers put back and drawn anew, against copies of the network that are put together by hand."""

from __future__ import annotations

import copy
import re

import pytest
import torch
import torch.nn.functional as F
from subjects import network_of, split_of, subject_of
from torch import Tensor, nn

from rethinkgen.measure.distance import distance
from rethinkgen.measure.layer_robustness import layer_robustness, units_of
from rethinkgen.measure.predict import recalibrated_batch_norm
from rethinkgen.measure.subject import Findings, Subject

Row = dict[str, float | str]


def rows(findings: Findings, table: str = "cells") -> list[Row]:
    columns = findings.tables[table]
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def put_together(here: nn.Module, there: nn.Module, layers: list[str]) -> nn.Module:
    other = copy.deepcopy(here)
    for layer in layers:
        other.get_submodule(layer).load_state_dict(there.get_submodule(layer).state_dict())
    return other.eval()


def judged(network: nn.Module, subject: Subject) -> tuple[float, float]:
    test = subject.split("test")
    with torch.no_grad():
        logits = network.eval()(test.inputs)
    return float((logits.argmax(1) != test.labels).double().mean()), F.cross_entropy(logits, test.labels).item()


@pytest.mark.parametrize(("name", "memory_mb"), [("mlp", 0.01), ("mlp", 100), ("convolutional", 100)])
def test_each_cell_is_that_of_a_network_put_together_by_hand(name: str, memory_mb: float) -> None:
    subject = subject_of(name, memory_mb=memory_mb)
    groups = ["from_output"] if name == "mlp" else ["[013]|7"]
    findings = layer_robustness(subject, steps=[0, "2ep"], num_draws=3, batch_size=6, groups=groups)
    units = {unit.name: unit.layers for unit in units_of(subject.network, groups)}
    base = {"kept": judged(subject.network, subject)[0]}
    train = subject.split("train").inputs
    with recalibrated_batch_norm(subject.network, train, 6):
        base["re-estimated"] = judged(subject.network, subject)[0]
    cells = rows(findings)
    assert len(cells) == len(units) * 3 * (2 if name == "convolutional" else 1)
    for cell in cells:
        step, layers = int(cell["step"]), units[str(cell["unit"])]
        sources = [subject.fresh(draw) for draw in range(3)] if step == -1 else [subject.at(step).network]
        scores = []
        for source in sources:
            network = put_together(subject.network, source, layers)
            if cell["statistics"] == "re-estimated":
                with recalibrated_batch_norm(network, train, 6):
                    scores.append(judged(network, subject))
            else:
                scores.append(judged(network, subject))
        errors, losses = torch.tensor(scores, dtype=torch.float64).T
        assert cell["error"] == pytest.approx(float(errors.mean())), cell
        assert cell["loss"] == pytest.approx(float(losses.mean()), rel=1e-4), cell
        assert cell["rise"] == pytest.approx(float(errors.mean()) - base[str(cell["statistics"])])
        spread = float(errors.std()) if len(errors) > 1 else float("nan")
        assert cell["error_spread"] == pytest.approx(spread, nan_ok=True)


@pytest.mark.parametrize("name", ["mlp", "convolutional"])
def test_a_layer_replaced_by_itself_changes_nothing_to_the_bit(name: str) -> None:
    subject = subject_of(name)
    itself = Subject(subject.network, subject.splits, 7, at=lambda _: itself, fresh=lambda _: subject.network)
    findings = layer_robustness(itself, steps=[7], num_draws=1, groups=["from_input", "from_output"])
    numbers = findings.numbers
    for cell in rows(findings):
        ending = "" if cell["statistics"] == "kept" else "_re-estimated"
        assert (cell["error"], cell["loss"]) == (numbers[f"error{ending}"], numbers[f"loss{ending}"])
        assert cell["rise"] == 0
    assert numbers["error"], numbers["loss"] == pytest.approx(judged(subject.network, subject))


@pytest.mark.parametrize("name", ["mlp", "convolutional"])
def test_all_layers_of_a_step_are_the_network_at_that_step(name: str) -> None:
    subject = subject_of(name)
    cells = rows(layer_robustness(subject, steps=[3], num_draws=0, groups=["*"]))
    (found,) = [cell for cell in cells if cell["unit"] == "*" and cell["statistics"] == "kept"]
    there = layer_robustness(Subject(subject.at(3).network, subject.splits, 3, at=subject.at), steps=[3], num_draws=0)
    assert (found["error"], found["loss"]) == (there.numbers["error"], there.numbers["loss"])


def test_criticality_is_the_mean_rise_over_the_steps() -> None:
    findings = layer_robustness(subject_of("mlp"), steps=[0, 3, "2ep"], num_draws=2)
    cells = rows(findings)
    of_layer = {str(row["unit"]): row for row in rows(findings, "units")}
    for layer, row in of_layer.items():
        rises = [float(cell["rise"]) for cell in cells if cell["unit"] == layer and cell["step"] != -1]
        assert len(rises) == 3
        assert row["criticality"] == pytest.approx(sum(rises) / 3)
        (drawn,) = [float(cell["rise"]) for cell in cells if cell["unit"] == layer and cell["step"] == -1]
        assert row["redrawn"] == pytest.approx(drawn)
    criticalities = [float(row["criticality"]) for row in of_layer.values()]
    assert findings.numbers["criticality"] == pytest.approx(sum(criticalities) / 3)
    assert findings.numbers["most_critical"] == max(criticalities)
    assert [row["num_parameters"] for row in of_layer.values()] == [584, 45, 18]


def test_steps_alone_and_draws_alone() -> None:
    numbers = layer_robustness(subject_of("mlp"), steps=[], num_draws=2).numbers
    assert numbers["criticality"] is None
    assert numbers["redrawn"] is not None
    numbers = layer_robustness(subject_of("mlp"), steps=[0], num_draws=0).numbers
    assert numbers["criticality"] is not None
    assert numbers["redrawn"] is None


def test_statistics_are_not_estimated_again_unless_asked_for() -> None:
    findings = layer_robustness(subject_of("convolutional"), steps=[0], num_draws=0, num_for_statistics=0)
    assert {row["statistics"] for row in rows(findings)} == {"kept"}
    assert not [name for name in findings.numbers if name.endswith("re-estimated")]


def test_distances_are_those_from_step_0() -> None:
    subject = subject_of("mlp")
    found = rows(layer_robustness(subject, steps=[0, 3], num_draws=0), "distances")
    assert {int(row["step"]) for row in found} == {0, 3, 7}
    for step, network in ((3, subject.at(3).network), (7, subject.network)):
        expected = rows(distance(Subject(network, subject.splits, at=subject.at)), "layers")
        at_step = [row for row in found if row["step"] == step]
        assert [row["norm_2"] for row in at_step] == pytest.approx([row["norm_2"] for row in expected], rel=1e-5)
        assert [row["norm_max"] for row in at_step] == pytest.approx([row["norm_max"] for row in expected], rel=1e-5)
    assert {row["norm_2"] for row in found if row["step"] == 0} == {0.0}


class Residual(nn.Module):
    """Begins in place, as pre-activation blocks do."""

    def __init__(self) -> None:
        super().__init__()
        self.relu = nn.ReLU(inplace=True)
        self.one = nn.Conv2d(2, 2, 3, padding=1)
        self.two = nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        return self.two(torch.tanh(self.one(self.relu(images)))) + images


class Whole(nn.Module):
    """As a Classifier: what it runs is inside."""

    def __init__(self) -> None:
        super().__init__()
        stage = nn.Sequential(Residual(), Residual(), Residual())
        self.network = nn.Sequential(nn.Conv2d(2, 2, 1), stage, nn.Flatten(), nn.Linear(72, 2))

    def forward(self, images: Tensor) -> Tensor:
        return F.pad(self.network(2 * images), (1, 0))


def whole(seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return Whole().eval()


def test_blocks_and_stages_and_what_stands_around_the_chain() -> None:
    network, start = whole(0), whole(1)
    splits = {"train": split_of(9, 1), "test": split_of(11, 3)}
    subject = Subject(network, splits, 5, at=lambda _: Subject(start, splits, 0))  # type: ignore[arg-type]
    units = {unit.name: unit for unit in units_of(network, ["stages"])}
    assert {name for name, unit in units.items() if unit.kind == "block"} == {"1", "1.0", "1.1", "1.2"}
    later = ["1.1.one", "1.1.two", "1.2.one", "1.2.two"]
    assert units["1 but its first block"].layers == later
    assert units["all stages but their first blocks"].layers == later
    for cell in rows(layer_robustness(subject, steps=[0], num_draws=0, groups=["stages"])):
        layers = [f"network.{layer}" for layer in units[str(cell["unit"])].layers]
        error, loss = judged(put_together(network, start, layers), subject)
        assert (cell["error"], cell["loss"]) == (pytest.approx(error), pytest.approx(loss, rel=1e-5))


@pytest.mark.parametrize(
    ("groups", "message"),
    [
        (["fc*"], "groups='fc*': no layer of this network goes by it. Its layers are 1, 4, 6; from_input, from_output"),
        (["stages"], "groups='stages': no layer of this network goes by it"),
    ],
)
def test_a_group_that_matches_nothing_lists_the_layers(groups: list[str], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        layer_robustness(subject_of("mlp"), groups=groups)


def test_bad_input_is_named() -> None:
    tied = network_of("mlp")
    tied.append(nn.Linear(3, 3))
    tied.append(nn.Linear(3, 3))
    tied[8].weight = tied[7].weight
    with pytest.raises(ValueError, match=r"the network has tied weights: 7\.weight is 8\.weight"):
        layer_robustness(subject_of(tied))
    with pytest.raises(ValueError, match=r"steps=\[\] num_draws=0: nothing would be replaced"):
        layer_robustness(subject_of("mlp"), steps=[], num_draws=0)
    with pytest.raises(ValueError, match=r"steps=0: its network is another one"):
        layer_robustness(subject_of("mlp", at=lambda _: subject_of("convolutional")))
