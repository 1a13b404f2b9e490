"""GraNd and EL2N against one ``backward`` for each example."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from subjects import network_of, split_of, subject_of
from torch import Tensor, nn

from rethinkgen.measure.gradient_norms import gradient_norms
from rethinkgen.measure.gradients import layers_of
from rethinkgen.measure.outputs import num_at_once
from rethinkgen.measure.subject import Subject


def slow_norms(network: nn.Module, inputs: Tensor, labels: Tensor) -> Tensor:
    trained = [value for value in network.parameters() if value.requires_grad]
    found = []
    for image, label in zip(inputs, labels, strict=True):
        loss = F.cross_entropy(network(image[None]).double(), label[None])
        gradients = torch.autograd.grad(loss, trained)
        found.append(math.sqrt(sum(float(g.double().square().sum()) for g in gradients)))
    return torch.tensor(found, dtype=torch.float64)


@pytest.mark.parametrize("name", ["mlp", "convolutional"])
@pytest.mark.parametrize("split", ["train", "validation"])
def test_grand_is_the_norm_of_each_examples_gradient(name: str, split: str) -> None:
    subject = subject_of(name)
    table = gradient_norms(subject, split=split, num_examples=None).tables["examples"]  # type: ignore[arg-type]
    part = subject.splits[split]  # type: ignore[index]
    labels = part.labels if split == "train" else part.original_labels
    torch.testing.assert_close(table["grand"], slow_norms(subject.network, part.inputs, labels), rtol=1e-4, atol=1e-7)
    assert torch.equal(torch.as_tensor(table["index"]), part.index)
    assert torch.equal(torch.as_tensor(table["is_corrupted"]), part.is_corrupted)


def test_el2n_is_the_length_of_the_error() -> None:
    subject = subject_of("convolutional")
    found = gradient_norms(subject, num_examples=None).tables["examples"]["el2n"]
    train = subject.split("train")
    error = subject.network(train.inputs).detach().double().softmax(1) - F.one_hot(train.labels, 3)
    torch.testing.assert_close(found, error.norm(dim=1), rtol=1e-5, atol=1e-7)


def test_of_a_fitted_example_all_digits_are_there() -> None:
    # The probability of the label differs from 1 by some 1e-11, which float32 would not tell from 0.
    network = nn.Sequential(nn.Flatten(), nn.Linear(72, 3))
    with torch.no_grad():
        network[1].weight.zero_()
        network[1].bias.copy_(torch.tensor([25.0, 0, 0]))
    split = split_of(3, 1)
    table = gradient_norms(Subject(network, {"train": split})).tables["examples"]
    small = math.exp(-25) / (1 + 2 * math.exp(-25))
    expected = small * math.sqrt(4 + 1 + 1)
    assert float(table["el2n"][0]) == pytest.approx(expected, rel=1e-6)
    length = math.sqrt(1 + float(split.inputs[0].square().sum()))
    assert float(table["grand"][0]) == pytest.approx(expected * length, rel=1e-4)


def test_means_are_of_wrong_and_right_labels_apart_and_the_area_is_that_of_all_pairs() -> None:
    findings = gradient_norms(subject_of("mlp"), num_examples=None)
    table = findings.tables["examples"]
    wrong = torch.as_tensor(table["is_corrupted"])
    for name in ("grand", "el2n"):
        score = torch.as_tensor(table[name])
        assert findings.numbers[name] == pytest.approx(float(score.mean()))
        assert findings.numbers[f"{name}_corrupted"] == pytest.approx(float(score[wrong].mean()))
        assert findings.numbers[f"{name}_clean"] == pytest.approx(float(score[~wrong].mean()))
        pairs = [(float(a) > float(b)) + (float(a) == float(b)) / 2 for a in score[wrong] for b in score[~wrong]]
        assert findings.numbers[f"{name}_auc"] == pytest.approx(sum(pairs) / len(pairs))


def test_equal_scores_are_half_a_pair() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(72, 3))
    for value in network.parameters():
        nn.init.zeros_(value)
    numbers = gradient_norms(subject_of(network)).numbers
    assert numbers["el2n_auc"] == 0.5
    assert numbers["el2n"] == pytest.approx(math.sqrt((2 / 3) ** 2 + 2 / 9))


def test_without_wrong_labels_nothing_is_told_apart() -> None:
    assert set(gradient_norms(subject_of(share_wrong=0.0)).numbers) == {"grand", "el2n"}
    assert set(gradient_norms(subject_of(), of="corrupted").numbers) == {"grand", "el2n"}


class Shared(nn.Module):
    """A layer that is used twice, one whose weight is another's, and one on sequences."""

    def __init__(self) -> None:
        super().__init__()
        self.twice = nn.Linear(6, 6)
        self.of_rows = nn.Linear(6, 4)
        self.tied = nn.Linear(6, 4)
        self.tied.weight = self.of_rows.weight
        self.last = nn.Linear(8, 3)

    def forward(self, images: Tensor) -> Tensor:
        rows = self.twice(torch.tanh(self.twice(images.flatten(1, 2))))
        return self.last(torch.cat([self.of_rows(rows).mean(1), self.tied(rows).amax(1)], 1))


class OfRows(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.rows = nn.Linear(6, 4)
        self.last = nn.Linear(4, 3)

    def forward(self, images: Tensor) -> Tensor:
        return self.last(torch.tanh(self.rows(images.flatten(1, 2))).mean(1))


@pytest.mark.parametrize(("kind", "closed"), [(Shared, {"last"}), (OfRows, {"rows", "last"})])
def test_layers_used_twice_tied_and_on_sequences(kind: type[nn.Module], closed: set[str]) -> None:
    torch.manual_seed(0)
    network = kind().eval()
    subject = subject_of(network)
    train = subject.split("train")
    assert layers_of(network, train.inputs[:1]).closed.keys() == closed
    found = gradient_norms(subject, num_examples=None).tables["examples"]["grand"]
    torch.testing.assert_close(found, slow_norms(network, train.inputs, train.labels), rtol=1e-4, atol=1e-7)


def test_what_has_a_closed_form() -> None:
    network = network_of("convolutional")
    layers = layers_of(network, torch.zeros(1, 2, 6, 6))
    assert {*layers.others} == {"10.scale"}
    pieces = layers.pieces(10)
    assert layers.flat == {"7", "9"}
    # Of the flat layers their factors: 36 + 4 and 4 + 3 instead of 148 and 15.
    trained = sum(value.numel() for value in network.parameters() if value.requires_grad)
    assert sum(piece.size for piece in pieces) == trained - 148 - 15 + 40 + 7
    # A row of the first kernel is 18 numbers, of the second, of two groups, 4.
    assert [piece.rows for piece in pieces if piece.layer == "0"] == [slice(i, i + 1) for i in range(4)]
    assert [piece.size for piece in pieces if piece.layer == "3"] == [8, 8, 8, 6]


def test_so_many_go_through_at_once_as_may_be_held() -> None:
    layers = layers_of(network_of("convolutional"), torch.zeros(1, 2, 6, 6))
    # 72 pixels, and what the 11 modules compute; the first convolution's columns are 18 places of 9, the second's 24.
    values = 72 + 3 * 36 + 3 * 36 + 36 + 4 + 4 + 3 + 3
    assert layers.bytes_per_example == 4 * (3 * values + 2 * 9 * 9)
    per_example = layers.bytes_per_example / 2**20
    assert num_at_once(layers.bytes_per_example, 2 * per_example * 3.5) == 3
    assert num_at_once(layers.bytes_per_example, 1e6) == 500
    with pytest.raises(
        ValueError, match=r"memory_mb=0.001: one example takes about 0\.0\d+ MB\. Allow 0\.0\d+ at least"
    ):
        gradient_norms(subject_of("convolutional", memory_mb=0.001))


def test_a_network_that_is_not_trained_by_gradients_is_refused() -> None:
    with pytest.raises(ValueError, match=r"no weights that are trained by gradients\. Leave this run out"):
        gradient_norms(subject_of(network_of("mlp").requires_grad_(False)))
