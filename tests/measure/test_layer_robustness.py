"""Layers put back and drawn anew, against copies of the network that are put together by hand."""

from __future__ import annotations

import copy
import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from subjects import network_of, split_of, subject_of
from torch import Tensor, nn

from rethinkgen.measure.distance import distance
from rethinkgen.measure.layer_robustness import layer_robustness, rank_correlation, units_of
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
    trained = [cell for cell in rows(findings) if cell["source"] == "as trained"]
    kinds = ["kept", "re-estimated"] if name == "convolutional" else ["kept"]
    assert {(cell["statistics"], cell["error"]) for cell in trained} == {(kind, base[kind]) for kind in kinds}
    cells = [cell for cell in rows(findings) if cell["source"] != "as trained" and cell["kind"] != "robust"]
    assert len(cells) == len(units) * 3 * len(kinds)
    for cell in cells:
        step, layers = int(cell["source_step"]), units[str(cell["unit"])]
        assert cell["source"] == {-1: "drawn anew", 0: "0", 20: "2ep"}[step]
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
        assert (cell["error"], cell["loss"]) == (numbers[f"test/error{ending}"], numbers[f"test/loss{ending}"])
        assert cell["rise"] == 0
    assert (numbers["test/error"], numbers["test/loss"]) == pytest.approx(judged(subject.network, subject))


@pytest.mark.parametrize("name", ["mlp", "convolutional"])
def test_all_layers_of_a_step_are_the_network_at_that_step(name: str) -> None:
    subject = subject_of(name)
    cells = rows(layer_robustness(subject, steps=[3], num_draws=0, groups=["*"]))
    (found,) = [cell for cell in cells if (cell["unit"], cell["statistics"], cell["source"]) == ("*", "kept", "3")]
    there = layer_robustness(Subject(subject.at(3).network, subject.splits, 3, at=subject.at), steps=[3], num_draws=0)
    assert (found["error"], found["loss"]) == (there.numbers["test/error"], there.numbers["test/loss"])


def test_criticality_is_the_mean_rise_over_the_steps() -> None:
    findings = layer_robustness(subject_of("mlp"), steps=[3, 0, "2ep"], num_draws=2, critical_from=0.1)
    numbers = {name.removeprefix("test/"): value for name, value in findings.numbers.items()}
    rises = {(cell["unit"], cell["source"]): float(cell["rise"]) for cell in rows(findings)}
    of_layer = {str(row["unit"]): row for row in rows(findings, "units") if row["kind"] == "layer"}
    for layer, row in of_layer.items():
        assert row["criticality"] == pytest.approx(sum(rises[layer, source] for source in ("3", "0", "2ep")) / 3)
        assert row["redrawn"] == pytest.approx(rises[layer, "drawn anew"])
    criticalities = [float(row["criticality"]) for row in of_layer.values()]
    assert numbers["criticality"] == pytest.approx(sum(criticalities) / 3)
    assert numbers["most_critical"] == max(criticalities)
    assert [row["num_parameters"] for row in of_layer.values()] == [584, 45, 18]
    assert [row["layer"] for row in of_layer.values()] == ["1 (8x72)", "4 (5x8)", "6 (3x5)"]
    # Of the earliest step, wherever it stands.
    at_0 = [rises[layer, "0"] for layer in of_layer]
    assert numbers["first_layer"] == at_0[0]
    assert numbers["other_layers"] == max(at_0[1:])
    assert numbers["critical_share"] == pytest.approx(sum(rise > 0.1 for rise in at_0) / 3)
    least = min(rises[layer, "drawn anew"] for layer in of_layer)
    assert numbers["least_redrawn"] == pytest.approx(numbers["error"] + least)
    for norm in ("norm_2", "norm_max"):
        expected = rank_correlation(criticalities, [float(row[norm]) for row in of_layer.values()])
        assert numbers[f"{norm}_correlation"] == expected


@pytest.mark.parametrize("memory_mb", [0.001, 100])
@pytest.mark.parametrize("name", ["mlp", "convolutional"])
def test_robust_layers_are_put_back_together(name: str, memory_mb: float) -> None:
    subject = subject_of(name, memory_mb=memory_mb)
    asked: dict[str, Any] = {"steps": ["2ep", 3], "num_draws": 1, "splits": ["test", "train"]}

    def of_layers(findings: Findings) -> dict[str, float]:
        told = [cell for cell in rows(findings) if (cell["kind"], cell["split"]) == ("layer", "test")]
        kept = [cell for cell in told if (cell["source"], cell["statistics"]) == ("3", "kept")]
        return {str(cell["unit"]): float(cell["rise"]) for cell in kept}

    rises = of_layers(layer_robustness(subject, **asked))
    most = sorted(rises.values())[1]
    robust = {layer: rise for layer, rise in rises.items() if rise <= most}
    assert 1 < len(robust) <= len(rises)
    findings = layer_robustness(subject, **asked, critical_from=most)
    of_test = [cell for cell in rows(findings) if (cell["kind"], cell["split"]) == ("robust", "test")]
    found = {cell["statistics"]: cell for cell in of_test if cell["source"] == "3"}
    assert list(found) == (["kept", "re-estimated"] if name == "convolutional" else ["kept"])
    in_units = [row for row in rows(findings, "units") if (row["kind"], row["split"]) == ("robust", "test")]
    assert {row["num_layers"] for row in in_units} == {len(robust)}
    together = put_together(subject.network, subject.at(3).network, list(robust))
    assert found["kept"]["error"] == pytest.approx(judged(together, subject)[0])
    assert findings.numbers["test/robust_together"] == found["kept"]["rise"]
    excess = float(found["kept"]["rise"]) - max(robust.values())
    assert findings.numbers["test/robust_excess"] == pytest.approx(excess)
    # No layer is robust: there is nothing to put back.
    none = layer_robustness(subject, **asked, critical_from=-2.0).numbers
    assert none["test/robust_together"] is None
    assert none["test/critical_share"] == 1


def test_the_training_set_is_judged_by_the_labels_as_given() -> None:
    subject = subject_of("mlp", share_wrong=0.6)
    findings = layer_robustness(subject, steps=[0], num_draws=0, splits=["train", "validation"])
    for name, labels in (("train", "labels"), ("validation", "original_labels")):
        split = subject.split(name)  # type: ignore[arg-type]
        wrong = subject.network(split.inputs).argmax(1) != getattr(split, labels)
        assert findings.numbers[f"{name}/error"] == pytest.approx(float(wrong.double().mean()))
        cells = [cell for cell in rows(findings) if cell["split"] == name and cell["source"] == "as trained"]
        assert {cell["error"] for cell in cells} == {findings.numbers[f"{name}/error"]}


def test_rank_correlation() -> None:
    assert rank_correlation([1, 2, 3, 10], [0.1, 0.2, 0.3, 0.31]) == pytest.approx(1)
    assert rank_correlation([1, 2, 3], [3, 2, 1]) == pytest.approx(-1)
    # 1 - 6 * (0 + 1 + 1 + 0) / (4 * 15); and equal values share the mean of their ranks.
    assert rank_correlation([1, 2, 3, 4], [1, 3, 2, 4]) == pytest.approx(0.8)
    assert rank_correlation([1, 1, 2], [1, 2, 3]) == pytest.approx(0.75**0.5)
    assert rank_correlation([1, 2], [1, 2]) is None
    assert rank_correlation([1, 1, 1], [1, 2, 3]) is None


class Counted(nn.Linear):
    """A layer that counts the images it is run on."""

    images = 0

    def forward(self, images: Tensor) -> Tensor:
        self.images += len(images)
        return super().forward(images)


@pytest.mark.parametrize("num_steps", [1, 4])
def test_what_lies_before_the_replaced_layer_is_run_once_for_all_steps(num_steps: int) -> None:
    def network(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), Counted(72, 8), nn.ReLU(), Counted(8, 8), nn.ReLU(), Counted(8, 3)).eval()

    with torch.random.fork_rng():
        others = [Subject(network(step), {}, step) for step in range(num_steps)]
        splits = {"test": split_of(11, 3)}
        subject = Subject(network(9), splits, 9, at=others.__getitem__)  # type: ignore[arg-type]
    layer_robustness(subject, steps=range(num_steps), num_draws=0, critical_from=-2.0)
    found = [layer.images for layer in subject.network if isinstance(layer, Counted)]
    # The network itself; the replacements of this layer and of those before it; and once, for each of the three layers,
    # what comes before it. Two single images show how the network is run.
    assert found == [11 * (1 + place * num_steps + 3) + 2 for place in (1, 2, 3)]


def test_steps_alone_and_draws_alone() -> None:
    numbers = layer_robustness(subject_of("mlp"), steps=[], num_draws=2).numbers
    known = [name for name, value in numbers.items() if value is not None]
    assert known == ["test/error", "test/loss", "test/redrawn", "test/least_redrawn"]
    numbers = layer_robustness(subject_of("mlp"), steps=[0], num_draws=0).numbers
    assert numbers["test/criticality"] is not None
    assert numbers["test/redrawn"] is None
    assert numbers["test/least_redrawn"] is None


def test_statistics_are_not_estimated_again_unless_asked_for() -> None:
    findings = layer_robustness(subject_of("convolutional"), steps=[0], num_draws=0, num_for_statistics=0)
    assert {row["statistics"] for row in rows(findings)} == {"kept"}
    assert not [name for name in findings.numbers if name.endswith("re-estimated")]


def test_distances_are_those_from_step_0() -> None:
    subject = subject_of("mlp")
    found = rows(layer_robustness(subject, steps=[0, 3], num_draws=0), "distances")
    assert {(row["source"], row["source_step"]) for row in found} == {("0", 0), ("3", 3), ("as trained", 7)}
    for step, network in ((3, subject.at(3).network), (7, subject.network)):
        expected = rows(distance(Subject(network, subject.splits, at=subject.at)), "layers")
        at_step = [row for row in found if row["source_step"] == step]
        assert [row["norm_2"] for row in at_step] == pytest.approx([row["norm_2"] for row in expected], rel=1e-5)
        assert [row["norm_max"] for row in at_step] == pytest.approx([row["norm_max"] for row in expected], rel=1e-5)
    assert {row["norm_2"] for row in found if row["source_step"] == 0} == {0.0}


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
    cells = rows(layer_robustness(subject, steps=[0], num_draws=0, groups=["stages"]))
    for cell in [cell for cell in cells if cell["source"] == "0" and cell["kind"] != "robust"]:
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
    with pytest.raises(ValueError, match=r"splits=\[\]: what are the networks to be judged on\?"):
        layer_robustness(subject_of("mlp"), splits=[])
    with pytest.raises(ValueError, match=r"split='held_out': this run has none"):
        layer_robustness(subject_of("mlp"), splits=["held_out"])  # type: ignore[list-item]
    with pytest.raises(ValueError, match=r"steps=0: its network is another one"):
        layer_robustness(subject_of("mlp", at=lambda _: subject_of("convolutional")))
