"""The numbers of an evaluation against slow, obvious loops, on whatever a network may say of whatever labels."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from torch import nn

from rethinkgen.data.module import Split, SplitName
from rethinkgen.measure import predict as prediction
from rethinkgen.measure.fit import evaluate, fit_metrics, judged_by, test_metrics, validation_metrics
from rethinkgen.measure.predict import PREDICTION_BATCH, Predictions, predict, recalibrated_batch_norm


class Example(NamedTuple):
    given: int
    original: int
    said: int
    loss: float
    is_in_top: bool


def split_of(examples: list[Example]) -> Split:
    given_labels, original = (torch.tensor([getattr(one, name) for one in examples]) for name in ("given", "original"))
    # Drawn, but not always changed: what is told apart is whether the label is wrong.
    is_drawn = (given_labels != original) | (torch.arange(len(examples)) % 2 == 0)
    index = torch.arange(len(examples))
    return Split(torch.zeros(len(examples), 1, 1, 1), given_labels, original, is_drawn, given_labels != original, index)


def predictions_of(examples: list[Example], *, has_top: bool) -> Predictions:
    return Predictions(
        torch.tensor([one.loss for one in examples]),
        torch.tensor([one.said for one in examples]),
        torch.tensor([one.is_in_top for one in examples]) if has_top else None,
    )


def share(flags: list[bool]) -> float:
    return sum(flags) / len(flags)


classes = st.integers(0, 3)
examples_of_any_kind = st.lists(
    st.builds(Example, classes, classes, classes, st.floats(0, 100, width=32), st.booleans()), min_size=1, max_size=40
)
# Wrong labels: two memorised, one corrected, one neither. Right ones: three right, two wrong, one of them in the top.
UNEQUAL = [
    *[Example(1, 0, 1, 0.5, True), Example(2, 0, 2, 0.25, True), Example(1, 3, 3, 2.0, False)],
    *[Example(2, 3, 0, 4.0, True), Example(0, 0, 0, 0.125, True), Example(0, 0, 0, 0.0, True)],
    *[Example(3, 3, 3, 1.0, True), Example(3, 3, 1, 8.0, False), Example(1, 1, 2, 16.0, True)],
]


@given(examples_of_any_kind, st.booleans())
@example(UNEQUAL, True)
@example(UNEQUAL, False)
def test_fit_of_any_predictions(examples: list[Example], has_top: bool) -> None:
    expected = {
        "fit/loss": sum(one.loss for one in examples) / len(examples),
        "fit/accuracy": share([one.said == one.given for one in examples]),
    }
    if has_top:
        expected["fit/accuracy_top5"] = share([one.is_in_top for one in examples])
    wrong = [one for one in examples if one.given != one.original]
    right = [one for one in examples if one.given == one.original]
    if wrong:
        expected["fit/accuracy_corrupted"] = share([one.said == one.given for one in wrong])
        expected["fit/accuracy_corrected"] = share([one.said == one.original for one in wrong])
    if wrong and right:
        expected["fit/accuracy_clean"] = share([one.said == one.given for one in right])
    found = fit_metrics(predictions_of(examples, has_top=has_top), split_of(examples))
    assert found == pytest.approx(expected, rel=1e-12)


@given(examples_of_any_kind, st.booleans())
@example(UNEQUAL, True)
def test_validation_of_any_predictions(examples: list[Example], has_top: bool) -> None:
    found = validation_metrics(predictions_of(examples, has_top=has_top), split_of(examples))
    assert found == pytest.approx(
        {
            "validation/loss": sum(one.loss for one in examples) / len(examples),
            "validation/accuracy": share([one.said == one.original for one in examples]),
            "validation/accuracy_corrupted": share([one.said == one.given for one in examples]),
        },
        rel=1e-12,
    )


@given(examples_of_any_kind, st.booleans())
@example(UNEQUAL, True)
@example(UNEQUAL, False)
def test_test_of_any_predictions(examples: list[Example], has_top: bool) -> None:
    # Test labels are true: given and original are one.
    examples = [one._replace(original=one.given) for one in examples]
    expected = {
        "test/loss": sum(one.loss for one in examples) / len(examples),
        "test/accuracy": share([one.said == one.given for one in examples]),
    }
    if has_top:
        expected["test/accuracy_top5"] = share([one.is_in_top for one in examples])
    found = test_metrics(predictions_of(examples, has_top=has_top), split_of(examples))
    assert found == pytest.approx(expected, rel=1e-12)


def test_the_example_has_no_two_shares_alike() -> None:
    metrics = fit_metrics(predictions_of(UNEQUAL, has_top=True), split_of(UNEQUAL))
    assert len(set(metrics.values())) == len(metrics) == 6
    metrics = validation_metrics(predictions_of(UNEQUAL, has_top=True), split_of(UNEQUAL))
    assert len(set(metrics.values())) == len(metrics) == 3


def test_losses_are_against_given_labels_of_the_training_set_alone() -> None:
    split = split_of(UNEQUAL)
    assert judged_by("train", split) is split.labels
    assert judged_by("validation", split) is split.original_labels
    assert judged_by("test", split) is split.original_labels


class Table(nn.Module):
    """Returns the values of each image as logits."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.flatten(1)


@given(
    st.integers(2, 14).flatmap(lambda num_classes: st.tuples(st.just(num_classes), st.integers(1, 20))),
    st.integers(0, 2**32 - 1),
)
@example((10, 17), 0)
@example((11, 17), 0)
def test_predictions_of_any_logits(size: tuple[int, int], seed: int) -> None:
    num_classes, num_examples = size
    draw = torch.Generator().manual_seed(seed)
    logits = torch.randn(num_examples, num_classes, generator=draw) * 5
    labels = torch.randint(num_classes, (num_examples,), generator=draw)
    predictions = predict(Table(), logits[:, :, None, None], labels)
    for row, label, loss, said in zip(logits.tolist(), labels.tolist(), *predictions[:2], strict=True):
        total = sum(torch.tensor(row, dtype=torch.float64).exp().tolist())
        expected = float(torch.tensor(total, dtype=torch.float64).log()) - row[label]
        assert float(loss) == pytest.approx(expected, rel=1e-4, abs=1e-5)
        assert row[int(said)] == max(row)
    if num_classes <= 10:
        assert predictions.is_in_top is None
    else:
        assert predictions.is_in_top is not None
        for row, label, is_in_top in zip(logits.tolist(), labels.tolist(), predictions.is_in_top.tolist(), strict=True):
            assert is_in_top == (sum(value > row[label] for value in row) < 5)


def test_at_most_so_many_values_are_predicted_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """For memory's sake: fewer images the larger they are, yet one at least."""
    sizes: list[int] = []

    class Counting(Table):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            sizes.append(len(images))
            return super().forward(images)

    monkeypatch.setattr(prediction, "PREDICTION_VALUES", 3 * 24 + 23)
    predict(Counting(), torch.zeros(10, 2, 3, 4), torch.zeros(10, dtype=torch.int64))
    assert sizes == [3, 3, 3, 1]
    sizes.clear()
    monkeypatch.setattr(prediction, "PREDICTION_VALUES", 23)
    predict(Counting(), torch.zeros(3, 2, 3, 4), torch.zeros(3, dtype=torch.int64))
    assert sizes == [1, 1, 1]


@pytest.mark.parametrize("has_validation", [True, False])
def test_an_evaluation_has_the_numbers_of_every_split_there_is(has_validation: bool) -> None:
    draw = torch.Generator().manual_seed(3)
    splits: dict[SplitName, Split] = {}
    for name, size in (("train", 23), ("validation", 11), ("test", 17)):
        original = torch.randint(4, (size,), generator=draw)
        given_labels = original if name == "test" else torch.where(torch.arange(size) % 3 == 0, original, 3 - original)
        inputs = torch.randn(size, 4, 1, 1, generator=draw)
        is_wrong = given_labels != original
        if has_validation or name != "validation":
            splits[name] = Split(inputs, given_labels, original, is_wrong, is_wrong, torch.arange(size))  # type: ignore[index]
    found = evaluate(Table(), splits)
    expected = {}
    for name, split in splits.items():
        logits = split.inputs.flatten(1)  # type: ignore[union-attr]
        labels = split.labels if name == "train" else split.original_labels
        prefix = "fit" if name == "train" else name
        expected[f"{prefix}/loss"] = float(-logits.log_softmax(1)[range(len(labels)), labels].mean())
        expected[f"{prefix}/accuracy"] = float((logits.argmax(1) == labels).double().mean())
    assert len(set(expected.values())) == len(expected)
    assert {name: found.metrics[name] for name in expected} == pytest.approx(expected, rel=1e-5)
    assert ("validation/accuracy_corrupted" in found.metrics) == has_validation
    assert torch.equal(found.train.classes, splits["train"].inputs.flatten(1).argmax(1))  # type: ignore[union-attr]


class Ranks:
    """Threads that settle things among themselves as ranks do, so that what they share out is tested without them."""

    def __init__(self, size: int, monkeypatch: pytest.MonkeyPatch) -> None:
        self.size = size
        self.number = threading.local()
        self.barrier = threading.Barrier(size, timeout=60)
        self.given: list[Any] = [None] * size
        monkeypatch.setattr(prediction, "rank", lambda: self.number.value)
        monkeypatch.setattr(prediction, "num_ranks", lambda: size)
        monkeypatch.setattr(prediction, "sum_over_ranks", self.sum)
        monkeypatch.setattr(prediction, "greatest_over_ranks", self.greatest)

    def gather(self, value: Any) -> list[Any]:
        self.barrier.wait()
        self.given[self.number.value] = value
        self.barrier.wait()
        return list(self.given)

    def sum(self, values: torch.Tensor) -> torch.Tensor:
        values.copy_(torch.stack(self.gather(values.clone())).sum(0))
        return values

    def greatest(self, *values: int, device: torch.device) -> list[int]:
        return [max(given) for given in zip(*self.gather(values), strict=True)]

    def run(self, body: Callable[[], Any]) -> list[Any]:
        def as_rank(number: int) -> Any:
            self.number.value = number
            try:
                return body()
            except BaseException:
                self.barrier.abort()
                raise

        with ThreadPoolExecutor(self.size) as threads:
            return list(threads.map(as_rank, range(self.size)))


@pytest.mark.parametrize("num_classes", [10, 12])
@pytest.mark.parametrize("num_examples", [1, PREDICTION_BATCH + 7, 4 * PREDICTION_BATCH + 1])
def test_ranks_share_out_whole_batches_and_all_know_the_whole(
    monkeypatch: pytest.MonkeyPatch, num_examples: int, num_classes: int
) -> None:
    draw = torch.Generator().manual_seed(0)
    logits = torch.randn(num_examples, num_classes, 1, 1, generator=draw)
    labels = torch.randint(num_classes, (num_examples,), generator=draw)
    whole = predict(Table(), logits, labels)
    sizes: list[int] = []

    class Counting(Table):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            sizes.append(len(images))
            return super().forward(images)

    ranks = Ranks(3, monkeypatch)
    for shared in ranks.run(lambda: predict(Counting(), logits, labels, is_shared=True)):
        for ours, theirs in zip(shared, whole, strict=True):
            assert (ours is None) == (theirs is None) == (num_classes <= 10 and theirs is None)
            assert ours is None or torch.equal(ours, theirs)
    assert sum(sizes) == num_examples, "each example is predicted once, by one rank"
    split = Split(logits, labels, labels, labels < 0, labels < 0, torch.arange(num_examples))
    sizes.clear()
    for evaluated in ranks.run(lambda: evaluate(Counting(), {"train": split}, is_shared=True)):
        assert torch.equal(evaluated.train.losses, whole.losses)
    assert sum(sizes) == num_examples
    sizes.clear()
    ranks.run(lambda: evaluate(Counting(), {"train": split}))
    assert sum(sizes) == 3 * num_examples, "without being asked to share, each rank predicts everything"
    for alone in ranks.run(lambda: predict(Table(), logits, labels)):
        assert torch.equal(alone.losses, whole.losses)


def test_predictions_are_in_float32_whatever_the_network_returns_and_leave_no_gradient() -> None:
    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.linear = nn.Linear(4, 3)
            self.was: list[tuple[bool, bool]] = []

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            self.was.append((torch.is_autocast_enabled("cpu"), torch.is_grad_enabled()))
            logits: torch.Tensor = self.linear(images.flatten(1))
            return logits.bfloat16()

    network = Half()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        predictions = predict(network, torch.randn(5, 1, 2, 2), torch.tensor([0, 1, 2, 0, 1]))
        assert torch.is_autocast_enabled("cpu")
    assert network.was == [(False, False)]
    assert predictions.losses.dtype == torch.float32
    assert not predictions.losses.requires_grad
    assert len(predictions.losses.unique()) > 1


@pytest.mark.parametrize("num_examples", [1, PREDICTION_BATCH - 1, PREDICTION_BATCH, 2 * PREDICTION_BATCH + 3])
def test_predictions_have_the_examples_order_over_all_batches(num_examples: int) -> None:
    sizes: list[int] = []

    class Counting(Table):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            sizes.append(len(images))
            return super().forward(images)

    labels = torch.arange(num_examples) % 3
    logits = nn.functional.one_hot((labels + torch.arange(num_examples) // 7) % 3, 3).float()
    predictions = predict(Counting(), logits[:, :, None, None], labels)
    assert torch.equal(predictions.classes, logits.argmax(1))
    assert sum(sizes) == num_examples
    assert max(sizes) <= PREDICTION_BATCH


class Normalised(nn.Module):
    """BatchNorm alone, and how it was called: sizes of batches and modes."""

    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm2d(2)
        self.other = nn.Dropout(0.5)
        self.calls: list[tuple[int, bool, bool]] = []

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.calls.append((len(images), self.norm.training, self.other.training))
        return self.norm(images).mean((2, 3))


@pytest.mark.parametrize(
    ("num_examples", "sizes"),
    [(48, [16, 16, 16]), (55, [16, 16, 16]), (17, [16]), (16, [16]), (9, [9]), (32, [16, 16])],
)
def test_recalibrated_statistics_are_means_over_whole_batches(num_examples: int, sizes: list[int]) -> None:
    """A short last batch would count as much as a whole one; it is left out unless it is the only one."""
    network = Normalised()
    network.norm.momentum = 0.3
    draw = torch.Generator().manual_seed(0)
    network.norm.running_mean = torch.randn(2, generator=draw)
    before: dict[str, Any] = {name: value.clone() for name, value in network.state_dict().items()}
    # Each batch has a mean and a spread of its own.
    scale = (1 + torch.arange(num_examples) // 5).view(-1, 1, 1, 1)
    inputs = torch.randn(num_examples, 2, 3, 3, generator=draw) * scale
    batches = [inputs[start : start + 16] for start in range(0, 16 * len(sizes), 16)]
    with recalibrated_batch_norm(network, inputs, 16):
        assert network.calls == [(size, True, False) for size in sizes]
        mean = sum(batch.mean((0, 2, 3)) for batch in batches) / len(batches)
        variance = sum(batch.var((0, 2, 3), correction=1) for batch in batches) / len(batches)
        torch.testing.assert_close(network.norm.running_mean, mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(network.norm.running_var, variance, rtol=1e-4, atol=1e-5)
    assert network.norm.momentum == 0.3
    assert network.training
    assert network.norm.training
    assert network.other.training
    for name, value in network.state_dict().items():
        assert torch.equal(value, before[name]), name


def test_statistics_are_put_back_where_something_went_wrong() -> None:
    network = Normalised()
    network.eval()
    inputs = torch.randn(8, 2, 3, 3)
    with pytest.raises(RuntimeError, match="inside"), recalibrated_batch_norm(network, inputs, 4):
        raise RuntimeError("inside")
    assert network.norm.running_mean is not None
    assert network.norm.running_mean.tolist() == [0, 0]
    assert not network.norm.training
    assert network.norm.momentum == 0.1
