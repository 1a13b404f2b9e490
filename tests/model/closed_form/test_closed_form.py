"""Models that are solved in closed form, as a user runs them beside networks."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from hydra import compose, initialize_config_dir
from torch import Tensor

from conftest import ROOT, Command, read_result
from rethinkgen.data.corruption import RandomLabels, TrueLabels
from rethinkgen.data.source import Digits
from rethinkgen.errors import UnsolvableError
from rethinkgen.model.closed_form import kernel as kernels
from rethinkgen.model.closed_form import random_features
from rethinkgen.model.closed_form.closed_form import ClosedForm
from rethinkgen.model.closed_form.gabor import GaborFeatures, gabor_bank
from rethinkgen.model.closed_form.kernel import KernelGaussian, KernelLinear, median_squared_distance
from rethinkgen.model.closed_form.random_features import Pooling, RandomFeatures, all_features, draw_filters
from rethinkgen.run import identity
from rethinkgen.run.description import resolved_config

QUICK = ["trainer=cpu", "logger=none", "threads=1", "data.num_train=300"]
MODELS = ["kernel_gaussian", "kernel_linear", "random_features"]


def fitted(model: ClosedForm, datamodule: TrueLabels | RandomLabels) -> pl.Trainer:
    trainer = pl.Trainer(
        max_epochs=1, accelerator="cpu", logger=False, enable_checkpointing=False, enable_progress_bar=False,
        enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(model, datamodule=datamodule)
    return trainer


def digits(num_train: int = 200, *, random_labels: bool = False) -> TrueLabels | RandomLabels:
    datamodule = (RandomLabels if random_labels else TrueLabels)(Digits(), num_train=num_train, batch_size="all")
    datamodule.setup()
    return datamodule


def problem(datamodule: TrueLabels | RandomLabels) -> tuple[Tensor, Tensor, Tensor]:
    train = datamodule.splits["train"]
    return train.inputs.flatten(1).double(), F.one_hot(train.labels, 10).double(), datamodule.splits["test"].inputs


@pytest.mark.parametrize("l2", [0.0, 0.1])
@pytest.mark.parametrize("solver", ["cholesky_float32", "cholesky_float64"])
def test_the_gaussian_kernel_is_a_dense_solve(solver: str, l2: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rethinkgen.model.closed_form.least_squares.BLOCK", 64)
    datamodule = digits(random_labels=True)
    inputs, targets, test = problem(datamodule)
    model = KernelGaussian(bandwidth=0.02, l2=l2, solver=solver)
    trainer = fitted(model, datamodule)
    gram = np.exp(-0.02 * torch.cdist(inputs, inputs).numpy() ** 2)
    alpha = np.linalg.solve(gram + l2 * np.eye(200), targets.numpy())
    assert np.allclose(model.network.alpha.detach(), alpha, atol=1e-6)
    theirs = np.exp(-0.02 * torch.cdist(test.flatten(1).double(), inputs).numpy() ** 2) @ alpha
    assert np.allclose(model(test), theirs, atol=1e-6)
    assert model.solution_metrics["solution/norm"] == pytest.approx(np.sqrt(np.trace(alpha.T @ gram @ alpha)))
    squares = [(model.solution_metrics[f"solution/norm_output_{k}"] or 0) ** 2 for k in range(10)]
    assert squares == pytest.approx(np.diag(alpha.T @ gram @ alpha))
    if l2 == 0:
        assert trainer.callback_metrics["fit/accuracy"] == 1


def test_the_linear_kernel_is_numpys_least_squares_of_least_norm() -> None:
    for num_train in (40, 300):  # fewer than the 64 pixels, of which some are always 0, and more
        datamodule = digits(num_train)
        inputs, targets, test = problem(datamodule)
        model = KernelLinear()
        fitted(model, datamodule)
        theirs, _, rank, _ = np.linalg.lstsq(inputs.numpy(), targets.numpy(), rcond=1e-6)
        assert np.allclose(model(test), test.flatten(1).double().numpy() @ theirs, atol=1e-8)
        assert model.solution_metrics["solution/rank"] == rank
        assert model.solution_metrics["solution/norm"] == pytest.approx(np.linalg.norm(theirs))


@pytest.mark.parametrize(("num_filters", "l2"), [(30, 0.0), (30, 1e-3), (4, 0.0)])
def test_random_features_are_least_squares_on_the_features(num_filters: int, l2: float) -> None:
    torch.manual_seed(3)
    datamodule = digits()
    _, targets, test = problem(datamodule)
    model = RandomFeatures(num_filters=num_filters, l2=l2)
    fitted(model, datamodule)
    images = datamodule.splits["train"].inputs
    pooling, filters = Pooling(images, 6), model.network.filters.detach()
    features = all_features(images, filters, pooling).double().numpy()
    assert (features.shape[1] > len(images)) is (num_filters == 30)
    weights = np.linalg.lstsq(features, targets.numpy(), rcond=None)[0]
    if l2:
        weights = features.T @ np.linalg.solve(features @ features.T + l2 * np.eye(len(images)), targets.numpy())
    theirs = all_features(test, filters, pooling).double().numpy() @ weights
    assert np.allclose(model(test), theirs, atol=1e-4)


def test_filters_are_patches_normalised_and_whitened_twice_of_the_seed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(random_features, "NUM_PATCHES", 20_000)
    images = torch.rand(20, 2, 9, 9, generator=torch.Generator().manual_seed(0))

    def drawn(seed: int, number: int = 8) -> Tensor:
        return draw_filters(images, number, 4, torch.Generator().manual_seed(seed))

    assert torch.equal(drawn(1), drawn(1))
    assert torch.equal(drawn(1), drawn(1, number=16)[:8])
    assert not torch.equal(drawn(1), drawn(2))
    patches = F.unfold(images, 4).transpose(1, 2).reshape(-1, 2 * 4 * 4).double()
    patches = patches - patches.mean(1, keepdim=True)
    patches = patches / patches.norm(dim=1, keepdim=True)
    # An offset so large that it is all of the whitening leaves the patches, each of which an image must have.
    monkeypatch.setattr(random_features, "ZCA_OFFSET", 1e6)
    rows = 1e6 * drawn(1).flatten(1).double()
    assert float(torch.cdist(rows, patches).amin(1).max()) < 1e-3
    # Whitened twice is once by the inverse of the covariance, here of all patches and not of those drawn.
    monkeypatch.setattr(random_features, "ZCA_OFFSET", 0.05)
    covariance = patches.T @ patches / len(patches) + 0.05 * torch.eye(32)
    expected = np.linalg.solve(covariance.numpy(), rows.T.numpy()).T
    assert np.abs(drawn(1).flatten(1).numpy() - expected).max() < 0.05 * np.abs(expected).max()


def test_random_features_by_hand() -> None:
    images = torch.rand(2, 1, 32, 32, generator=torch.Generator().manual_seed(0))
    filters = 3 * torch.randn(3, 1, 6, 6, generator=torch.Generator().manual_seed(1))
    pooling = Pooling(images, 6)
    assert (pooling.window, pooling.stride, len(pooling)) == ((15, 15), (6, 6), 9)
    features = all_features(images, filters, pooling)
    assert features.shape == (2, 18 * 3)
    responses = F.conv2d(images, filters)
    by_hand = (-responses[1, 2, 6:21, 12:27] - 1).clamp_min(0).mean()
    # Filter 2, negative side, cell (1, 2).
    assert features[1, 2 * 18 + 9 + 5] == pytest.approx(float(by_hand), rel=1e-5)


def test_gabor_wavelets_answer_to_their_own_orientation_and_to_nothing_constant() -> None:
    bank = gabor_bank(4.0, 8)
    assert bank.shape[:2] == (16, 1)
    assert bank.sum((1, 2, 3)).abs().max() < 1e-5
    norms = (bank[:8] ** 2 + bank[8:] ** 2).sum((1, 2, 3))
    assert torch.allclose(norms, torch.ones(8))
    stripes = torch.cos(2 * torch.pi * torch.arange(28.0) / 4).expand(1, 1, 28, 28)  # vary along x: orientation 0
    features = GaborFeatures((1, 28, 28))(stripes).reshape(2, 8, 7, 7)
    assert int(features[0, :, 3, 3].argmax()) == 0
    assert int(GaborFeatures((1, 28, 28))(stripes.mT).reshape(2, 8, 7, 7)[0, :, 3, 3].argmax()) == 4
    # The phase is of no account.
    shifted = torch.cos(2 * torch.pi * (torch.arange(28.0) + 1) / 4).expand(1, 1, 28, 28)
    moved = GaborFeatures((1, 28, 28))(shifted).reshape(2, 8, 7, 7)
    assert torch.allclose(moved[0, 0, 3, 2:5], features[0, 0, 3, 2:5], rtol=0.01)


def test_the_median_is_of_all_pairs() -> None:
    rows = torch.tensor([[0.0], [1.0], [3.0], [10.0]])
    assert median_squared_distance(rows) == np.sort([1, 9, 100, 4, 81, 49])[2]  # torch's is the lower of two


def test_equal_inputs_with_different_labels_are_met_in_the_middle() -> None:
    datamodule = digits(100)
    train = datamodule.splits["train"]
    train.inputs[1] = train.inputs[0]
    train.labels[0], train.labels[1] = 3, 5
    model = KernelGaussian()
    fitted(model, datamodule)
    outputs = model(train.inputs)
    assert outputs[0, [3, 5]].tolist() == pytest.approx([0.5, 0.5])
    assert torch.allclose(outputs[2:], F.one_hot(train.labels[2:], 10).double(), atol=1e-6)


def test_a_kernel_that_tells_nothing_apart_is_refused_with_what_to_do() -> None:
    with pytest.raises(UnsolvableError, match=r"not positive definite in float64\. Set model\.l2=1e-6"):
        fitted(KernelGaussian(bandwidth=1e-12), digits())


@pytest.mark.parametrize("corruption", ["none", "random_labels"])
def test_in_a_grid_beside_networks(train: Command, tmp_path: Path, corruption: str) -> None:
    quick = [*QUICK, "max_steps=20", "hydra/launcher=basic"]
    train("-m", f"model={','.join(MODELS)},mlp_1x512", f"data.corruption={corruption}", *quick)
    folders = [path.parent for path in tmp_path.glob("multirun/runs/*/result.json")]
    results = {read_result(folder)["choices"]["model"]: (folder, read_result(folder)) for folder in folders}
    assert sorted(results) == sorted([*MODELS, "mlp_1x512"])
    for name in MODELS:
        folder, result = results[name]
        metrics = result["metrics"]
        assert result["reason"] == "solved in closed form"
        assert (result["choices"]["optimizer"], result["choices"]["schedule"]) == (None, None)
        assert (metrics["steps"], metrics["epochs"]) == (1, 1)
        assert metrics["solution/norm"] > 0
        with (folder / "metrics.csv").open() as file:
            (row,) = csv.DictReader(file)
        assert float(row["fit/accuracy"]) == metrics["fit/accuracy"]
        assert "train/loss" not in row
        assert np.load(folder / "examples.npz")["final_loss"].shape == (300,)
        # Nothing to go on with, and the training inputs are not written again.
        assert not list(folder.glob("checkpoints/*"))
        if name == "kernel_linear":
            assert metrics["fit/accuracy"] < 1
            assert metrics["steps_to_fit"] is None
        else:
            assert metrics["fit/accuracy"] == 1
            assert metrics["steps_to_fit"] == 1
        if corruption == "random_labels":
            assert metrics["test/accuracy"] < 0.2
        else:
            assert metrics["test/accuracy"] > 0.8
    kernel = torch.load(results["kernel_gaussian"][0] / "weights/end.pt", weights_only=True)
    assert {name: tuple(value.shape) for name, value in kernel.items()} == {"network.alpha": (300, 10)}
    assert results["kernel_gaussian"][1]["metrics"]["num_parameters"] == 3000


@pytest.mark.parametrize("model", MODELS)
def test_keys_without_effect_do_not_name_the_run_and_are_told(
    model: str, train: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    inert = ["optimizer=adam", "schedule=cosine", "max_steps=7", "evaluate_every=3", "data.batch_size=9999"]
    inert += ["trainer.precision=bf16-mixed", "until_fit=false", "model.learning_rate=0.5", "max_epochs=3"]
    with initialize_config_dir(str(ROOT / "conf")):
        plain = resolved_config(compose("train", overrides=[f"model={model}"]))
        others = resolved_config(compose("train", overrides=[f"model={model}", *inert]))
        l2 = resolved_config(compose("train", overrides=[f"model={model}", "model.l2=0.5"]))
    ids = [identity.run_id(config, "digits-1") for config in (plain, others, l2)]
    assert ids[0] == ids[1] != ids[2]
    train(f"model={model}", *QUICK, *inert)
    told = " ".join(capsys.readouterr().out.split())
    assert f"No effect on {model}, which is solved in closed form: {' '.join(inert)}" in told


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ("regularizer=[weight_decay]", "regularizer=[weight_decay]: kernel_gaussian is solved in closed form"),
        ("regularizer=[flip,dropout]", "regularizer=[dropout, flip]: kernel_gaussian is solved in closed form"),
        ("regularizer=[early_stopping] data.validation=0.1", "set regularizer=[]. model.l2=... is its regularizer"),
        ("trainer=ddp_cpu", "trainer.devices=2: KernelGaussian is solved in closed form, on one device"),
        ("model=mlp_1x512 +model.closed_form=true", "model.closed_form=True: MLP declares nothing by its class"),
        ("model.l2=-1", "model.l2=-1: a number from 0"),
        ("model.bandwidth=0", "model.bandwidth=0: a number above 0"),
        ("model.solver=magic", "model.solver='magic': one of auto, cholesky_float64, cholesky_float32"),
        ("model.features=sift", "model.features='sift': one of none, gabor"),
        ("model=random_features model.patch_size=9", "model.patch_size=9: images are 8x8; at most 8"),
        ("model=random_features model.num_filters=0", "model.num_filters=0: a whole number of at least 1"),
    ],
)
def test_what_does_not_go_with_a_closed_form(
    overrides: str, said: str, train: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    keys = {override.split("=")[0] for override in overrides.split()}
    given = [item for item in ["model=kernel_gaussian", *QUICK] if item.split("=")[0] not in keys]
    with pytest.raises(SystemExit):
        train(*given, *overrides.split())
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error
    assert not list(tmp_path.glob("multirun/*/*"))


@pytest.mark.parametrize("model", MODELS)
def test_what_does_not_fit_into_memory_is_refused_before_work(
    model: str, train: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("rethinkgen.model.closed_form.closed_form.available_bytes", lambda: 100_000)
    with pytest.raises(SystemExit):
        train(f"model={model}", *QUICK)
    error = capsys.readouterr().err
    assert "300 examples" in error
    assert "GB are free. Choose fewer examples, data.num_train=" in error


def test_a_bandwidth_that_makes_the_kernel_the_identity_is_warned_of(
    train: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    train("model=kernel_gaussian", *QUICK)
    assert "median entry" not in capsys.readouterr().out
    train("model=kernel_gaussian", *QUICK, "model.bandwidth=10")
    assert capsys.readouterr().out.count("model.bandwidth=10: the median entry of the kernel matrix is") == 1


def test_float32_takes_over_where_float64_would_be_large(monkeypatch: pytest.MonkeyPatch) -> None:
    model = KernelGaussian()
    assert model._precision(20_000) == torch.float64
    assert model._precision(20_001) == torch.float32
    monkeypatch.setattr(kernels, "MOST_FOR_FLOAT64", 10)
    datamodule = digits(random_labels=True)
    trainer = fitted(model, datamodule)
    assert trainer.callback_metrics["fit/accuracy"] == 1
    assert (model.solution_metrics["solution/residual"] or 1) < 1e-10
