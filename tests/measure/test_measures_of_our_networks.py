"""Measures of every architecture of ours, with dropout: against the gradients of single examples, and put together."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from subjects import NUM_CLASSES, SHAPE, split_of, subject_of
from test_every_measure import everything_of
from test_layer_robustness import rows
from test_stiffness import gradient_of

import rethinkgen.model.vgg
from rethinkgen.measure.critical_samples import critical_samples
from rethinkgen.measure.gradients import gram_matrix
from rethinkgen.measure.layer_robustness import layer_robustness
from rethinkgen.measure.subject import At, Subject
from rethinkgen.model.alexnet import AlexNet
from rethinkgen.model.inception import Inception
from rethinkgen.model.mlp import MLP
from rethinkgen.model.resnet import CifarResNet, WideResNet
from rethinkgen.model.small_cnn import ArpitCNN, ConvNet
from rethinkgen.model.vgg import CifarVGG
from rethinkgen.train.classifier import Classifier

SMALL: dict[str, tuple[Callable[..., Classifier], dict[str, Any]]] = {
    "linear": (MLP, {"width": None, "depth": 0}),
    "mlp": (MLP, {"width": [8, 6], "depth": 2}),
    "mlp with BatchNorm": (MLP, {"width": 8, "depth": 2, "batch_norm": True}),
    "convolutions": (ConvNet, {"channels": [4, 6]}),
    "vgg": (CifarVGG, {"depth": 11}),
    "vgg with BatchNorm": (CifarVGG, {"depth": 11, "batch_norm": True}),
    "resnet, version 2": (CifarResNet, {"blocks": [1, 2], "width": 4}),
    "resnet, version 2, bottleneck": (CifarResNet, {"blocks": [1, 2], "width": 4, "bottleneck": True}),
    "resnet, version 1": (CifarResNet, {"blocks": [1, 2], "width": 4, "pre_activation": False}),
    "resnet, version 1, without BatchNorm": (
        CifarResNet,
        {"blocks": [1, 2], "width": 4, "pre_activation": False, "batch_norm": False},
    ),
    "wide resnet": (WideResNet, {"depth": 10, "widening": 1}),
}
LARGE: dict[str, tuple[Callable[..., Classifier], dict[str, Any]]] = {
    "arpit": (ArpitCNN, {}),
    "alexnet": (AlexNet, {}),
    "inception": (Inception, {}),
}
"""Whose sizes are fixed."""


@pytest.fixture(autouse=True)
def narrow_vgg(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rethinkgen.model.vgg, "WIDTHS", (8, 8, 12, 12, 12))


def trained(name: str, seed: int = 0) -> Classifier:
    """A network that has seen some images, so that its running statistics are of something."""
    kind, options = (SMALL | LARGE)[name]
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = kind(image_shape=SHAPE, num_classes=NUM_CLASSES, dropout=0.3, **options).train()
        for _ in range(3):
            network(torch.randn(16, *SHAPE))
        return network.eval()


def subject(name: str) -> Subject:
    def at(step: At) -> Subject:
        return subject_of(trained(name, seed=1 + int(step)), step=int(step), at=at)

    return subject_of(trained(name), at=at, fresh=lambda draw: trained(name, seed=100 + draw))


@pytest.mark.parametrize("memory_mb", [0.3, 100])
@pytest.mark.parametrize("name", SMALL)
def test_products_of_gradients_are_those_of_single_examples(name: str, memory_mb: float) -> None:
    network, split = trained(name), split_of(5, 1)
    before = everything_of(network)
    found = gram_matrix(network, split.inputs, split.labels, memory_mb)
    assert everything_of(network) == before
    gradients = torch.stack([gradient_of(network, *one) for one in zip(split.inputs, split.labels, strict=True)])
    assert float(gradients.norm(dim=1).min()) > 0
    torch.testing.assert_close(found, gradients @ gradients.T, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("name", SMALL)
def test_all_layers_of_another_step_are_the_network_at_that_step(name: str) -> None:
    here = subject(name)
    before = everything_of(here.network)
    findings = layer_robustness(here, steps=[3], num_draws=1, groups=["*"])
    assert everything_of(here.network) == before
    (found,) = (
        cell for cell in rows(findings) if (cell["unit"], cell["statistics"], cell["source"]) == ("*", "kept", "3")
    )
    there = layer_robustness(here.at(3), steps=[3], num_draws=0).numbers
    assert (found["error"], found["loss"]) == (there["test/error"], there["test/loss"])
    assert found["loss"] != findings.numbers["test/loss"]
    layers = {cell["unit"] for cell in rows(findings) if cell["kind"] == "layer"}
    with_weights = [each for each in here.network.modules() if [*each.parameters(recurse=False)]]
    assert len(layers) == len(with_weights)


@pytest.mark.parametrize("name", SMALL | LARGE)
def test_dropout_and_the_mode_are_left_as_they_were_by_a_search_for_critical_samples(name: str) -> None:
    here = subject_of(trained(name).train())
    before = everything_of(here.network)
    first = critical_samples(here, num_examples=4).numbers
    assert critical_samples(here, num_examples=4).numbers == first, "dropout did not act"
    assert everything_of(here.network) == before


@pytest.mark.parametrize("name", SMALL | LARGE)
def test_bfloat16_changes_rounding_only(name: str) -> None:
    network, images = trained(name), split_of(6, 1).inputs
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = network(images).float()
    expected = network(images)
    torch.testing.assert_close(found, expected, rtol=0, atol=0.1 * float(expected.detach().abs().max()))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        network.train()(images).float().square().sum().backward()
    for weights in (parameter for parameter in network.parameters() if parameter.requires_grad):
        assert weights.grad is not None
        assert weights.grad.dtype == torch.float32
        assert weights.grad.isfinite().all()
