"""The construction of Theorem 1 against the dense system that it never writes out."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray

from conftest import Command, read_result
from rethinkgen.data.corruption import RandomLabels, TrueLabels
from rethinkgen.data.source import Digits, Examples, Images
from rethinkgen.measure.predict import predict
from rethinkgen.model.closed_form.two_layer_relu import (
    Ramps,
    SharedDirection,
    TwoLayerReLU,
    first_of_equals,
    interleaved,
    separating_direction,
)


def system(n: int, share: float = 0.01) -> Ramps:
    points = np.sort(np.random.default_rng(n).standard_normal(n))
    return Ramps(points, interleaved(points, share))


def dense(ramps: Ramps) -> NDArray[np.float64]:
    return np.maximum(ramps.points[:, None] - ramps.thresholds, 0)


@torch.no_grad()
def solved(inputs: torch.Tensor, labels: torch.Tensor, **keywords: Any) -> tuple[SharedDirection, dict[str, Any]]:
    network, metrics = TwoLayerReLU(**keywords).solve(inputs, labels, 10)
    assert isinstance(network, SharedDirection)
    return network, metrics


@pytest.mark.parametrize("n", [1, 2, 3, 40])
@pytest.mark.parametrize("share", [0.01, 0.5])
def test_running_sums_are_the_dense_matrix(n: int, share: float) -> None:
    ramps = system(n, share)
    matrix = dense(ramps)
    assert (np.triu(matrix, 1) == 0).all()
    assert (np.diag(matrix) > 0).all()
    vector = np.random.default_rng(0).standard_normal(n)
    np.testing.assert_allclose(ramps.times(vector), matrix @ vector, rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(ramps.transposed_times(vector), matrix.T @ vector, rtol=1e-10, atol=1e-10)
    for found, expected in (
        (ramps.solve(vector), np.linalg.solve(matrix, vector)),
        (ramps.transposed_solve(vector), np.linalg.solve(matrix.T, vector)),
    ):
        np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-9 * np.abs(expected).max())


@pytest.mark.parametrize("n", [1, 2, 3, *range(20, 260, 12), 400])
def test_the_condition_number_is_that_of_the_dense_matrix(n: int) -> None:
    ramps = system(n)
    assert ramps.condition_number() == pytest.approx(np.linalg.cond(dense(ramps)), rel=1e-3)


def test_thresholds_interleave_with_points() -> None:
    points = np.array([0.0, 1.0, 3.0, 3.5])
    thresholds = interleaved(points, 0.1)
    np.testing.assert_allclose(thresholds[1:], [0.1, 1.2, 3.05])
    assert thresholds[0] < points[0]
    with pytest.raises(FloatingPointError):
        interleaved(np.array([0.0, 1.0, np.nextafter(1.0, 2.0)]), 0.1)
    with pytest.raises(FloatingPointError):
        interleaved(np.array([0.0, 1.0, 1.0]), 0.1)


def test_any_labels_of_distinct_inputs_are_fitted_with_2n_plus_d_parameters() -> None:
    torch.manual_seed(0)
    inputs, labels = torch.randn(300, 2, 4, 5), torch.randint(0, 10, (300,))
    network, metrics = solved(inputs, labels)
    assert sum(parameter.numel() for parameter in network.parameters()) == 2 * 300 + 40
    assert {parameter.dtype for parameter in network.parameters()} == {torch.float64}
    points = inputs.flatten(1).double().numpy() @ network.direction.detach().numpy()
    hidden = np.maximum(points[:, None] - network.thresholds.detach().numpy(), 0)
    assert (np.linalg.matrix_rank(hidden), len(hidden)) == (300, 300)
    np.testing.assert_allclose(hidden @ network.weights.detach().numpy(), labels.numpy(), atol=1e-7)
    by_hand = np.abs(network.value(inputs).detach().numpy() - labels.numpy()).max()
    assert 0 < metrics["solution/residual"] == by_hand < 1e-8
    assert metrics["solution/condition_number"] > 1e4
    assert metrics["solution/largest_weight"] == network.weights.abs().max()
    assert metrics["solution/smallest_gap"] == pytest.approx(np.diff(np.sort(points)).min(), rel=1e-6)


def test_weights_are_those_of_the_dense_triangular_solve() -> None:
    torch.manual_seed(0)
    inputs, labels = torch.randn(60, 1, 3, 3), torch.randint(0, 10, (60,))
    network, _ = solved(inputs, labels)
    points = inputs.flatten(1).double().numpy() @ network.direction.detach().numpy()
    order = np.argsort(points)
    matrix = np.maximum(points[order][:, None] - network.thresholds.detach().numpy(), 0)
    expected = np.linalg.solve(matrix, labels.numpy()[order])
    np.testing.assert_allclose(network.weights.detach().numpy(), expected, rtol=1e-5)


def test_an_input_is_projected_alike_in_every_batch() -> None:
    torch.manual_seed(0)
    inputs, labels = torch.randn(1200, 3, 8, 8), torch.randint(0, 10, (1200,))
    network, _ = solved(inputs, labels)
    together = network.value(inputs)
    alone = torch.cat([network.value(image[None]) for image in inputs[:50]])
    torch.testing.assert_close(alone, together[:50], rtol=0, atol=1e-7)


def test_the_nearest_class_is_predicted_however_far_the_value_is() -> None:
    network = SharedDirection(torch.ones(1, dtype=torch.float64), *torch.tensor([[0.0], [1.0]]).double(), 4)
    values = torch.tensor([-5.0, 0.2, 0.6, 1.4, 1.6, 3.2, 1e12]).double()
    images = values.view(-1, 1, 1, 1)
    torch.testing.assert_close(network.value(images), values.clamp(min=0))
    outputs = network(images)
    assert outputs.float().argmax(1).tolist() == [0, 0, 1, 1, 2, 3, 3]
    torch.testing.assert_close(outputs[3], -((1.4 - torch.arange(4.0).double()) ** 2))


def test_equal_inputs_with_equal_labels_count_once() -> None:
    torch.manual_seed(0)
    inputs, labels = torch.randn(50, 1, 3, 3), torch.randint(0, 10, (50,))
    inputs[3, 0, 0, 0] = 0.0
    twice, twice_labels = torch.cat([inputs, inputs[:7]]), torch.cat([labels, labels[:7]])
    twice[53, 0, 0, 0] = -0.0
    assert first_of_equals(twice) == list(range(50))
    TwoLayerReLU().check_problem(twice, twice_labels, 10)
    network, metrics = solved(twice, twice_labels)
    assert len(network.weights) == 50
    assert metrics["solution/residual"] < 1e-8


def test_a_single_example_is_fitted() -> None:
    network, metrics = solved(torch.ones(1, 1, 2, 2), torch.tensor([7]))
    assert predict(network, torch.ones(1, 1, 2, 2), torch.tensor([7])).classes.tolist() == [7]
    assert (metrics["solution/smallest_gap"], metrics["solution/condition_number"]) == (None, 1.0)


def test_of_several_directions_one_that_leaves_wide_gaps_is_taken() -> None:
    torch.manual_seed(0)
    inputs = torch.randn(400, 20, dtype=torch.float64)
    _, ramps, order = separating_direction(inputs, 0.01)
    first = [float((inputs @ torch.randn(20, dtype=torch.float64)).sort().values.diff().min()) for _ in range(20)]
    assert np.diff(ramps.points).min() > np.median(first)
    assert sorted(order.tolist()) == list(range(400))


def test_inputs_that_float64_cannot_tell_apart_are_refused() -> None:
    inputs = torch.zeros(3, 2, dtype=torch.float64)
    inputs[1], inputs[2, 0] = 1.0, 1e-300
    with pytest.raises(ValueError, match=r"of 3 training inputs two differ so little .*data\.num_train=.*data\.seed"):
        separating_direction(inputs + 1, 0.01)


@dataclass
class RandomImages:
    """Ten classes; the last ``num_doubled`` training images are the first ones again."""

    num_train: int = 200
    num_doubled: int = 0

    def prepare(self) -> None:
        pass

    def fingerprint(self) -> str:
        return "random images"

    def load(self) -> Images:
        rng = np.random.default_rng(0)
        pixels = rng.integers(0, 256, (self.num_train, 1, 8, 8), dtype=np.uint8)
        pixels[self.num_train - self.num_doubled :] = pixels[: self.num_doubled]
        keys = np.arange(self.num_train, dtype=np.uint64)
        train = Examples(pixels, rng.integers(0, 10, self.num_train), keys)
        return Images(train, Examples(pixels[:20], train.labels[:20], keys[:20]), tuple("abcdefghij"))


def fit(datamodule: pl.LightningDataModule) -> tuple[TwoLayerReLU, pl.Trainer]:
    model = TwoLayerReLU()
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=1,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, datamodule=datamodule)
    return model, trainer


def test_equal_inputs_with_different_labels_are_refused_with_their_number() -> None:
    datamodule = RandomLabels(RandomImages(num_doubled=10))
    datamodule.setup()
    assert 10 <= datamodule.num_conflicts <= 20
    message = (
        rf"model: {datamodule.num_conflicts} of 200 training images equal another one that carries a different label"
    )
    with pytest.raises(ValueError, match=message):
        fit(datamodule)


def test_more_examples_than_float64_is_good_for_are_refused() -> None:
    with pytest.raises(ValueError, match=r"at most 5,000 training examples, these are 5,001.*Set data\.num_train=5000"):
        fit(TrueLabels(RandomImages(5001)))
    model, trainer = fit(RandomLabels(RandomImages(5000)))
    assert trainer.callback_metrics["fit/accuracy"] == 1
    assert model.num_parameters == 2 * 5000 + 64
    assert model.solution_metrics["solution/residual"] < 1e-6  # type: ignore[operator]


@pytest.mark.parametrize("share", [0, 1, -0.5, "x"])
def test_a_threshold_share_that_is_none_is_named_with_its_key(share: Any) -> None:
    with pytest.raises(ValueError, match=r"model\.threshold_share=.*a number from 1e-06 to below 1"):
        TwoLayerReLU(threshold_share=share)


def test_in_a_notebook_the_digits_are_fitted_and_the_seed_draws_the_direction() -> None:
    directions = []
    for seed in (0, 0, 1):
        torch.manual_seed(seed)
        model, trainer = fit(RandomLabels(Digits(), num_train=200))
        assert trainer.callback_metrics["fit/accuracy"] == 1
        directions.append(model.network.direction)
    assert torch.equal(directions[0], directions[1])  # type: ignore[arg-type]
    assert not torch.equal(directions[0], directions[2])  # type: ignore[arg-type]


def test_it_is_one_word_on_the_command_line(train: Command, capsys: pytest.CaptureFixture[str]) -> None:
    shared = ["data.corruption=random_signs", "trainer=cpu", "logger=none", "threads=1", "data.num_train=300"]
    result = read_result(train("model=two_layer_relu", *shared))
    metrics = result["metrics"]
    assert (metrics["fit/accuracy"], metrics["num_parameters"]) == (1.0, 2 * 300 + 64)
    assert 0 < metrics["solution/residual"] < 1e-6
    assert metrics["solution/condition_number"] > 1
    assert "Traceback" not in capsys.readouterr().err


def test_a_conflict_is_a_line_on_the_command_line(
    train: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Digits, "load", lambda self: RandomImages(num_doubled=10).load())
    with pytest.raises(SystemExit):
        train("model=two_layer_relu", "data.corruption=random_labels", "trainer=cpu", "logger=none")
    said = capsys.readouterr().err
    assert "training images equal another one that carries a different label" in said
    assert "Traceback" not in said
    assert not list((tmp_path / "multirun").glob("*/*"))
