"""Networks without a published count have that of their architecture, written down here a second time."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from conftest import ROOT
from rethinkgen.model.mlp import MLP
from rethinkgen.model.resnet import CifarResNet, ResidualBlock, WideResNet
from rethinkgen.model.small_cnn import ArpitCNN, ConvNet
from rethinkgen.model.vgg import CifarVGG
from rethinkgen.run.build import target_class
from rethinkgen.train.classifier import Classifier

CIFAR: dict[str, Any] = {"image_shape": (3, 32, 32), "num_classes": 10}


def dense(*sizes: int) -> int:
    return sum((before + 1) * after for before, after in pairwise(sizes))


def convolutions(size: int, *channels: int) -> int:
    """Count 3x3 (or other) convolutions with biases."""
    return sum((size * size * before + 1) * after for before, after in pairwise(channels))


def vgg(*stages: int) -> int:
    widths = [width for width, number in zip((64, 128, 256, 512, 512), stages, strict=True) for _ in range(number)]
    return convolutions(3, 3, *widths) + dense(512, 10)


def residual(blocks: Sequence[int], width: int, stem: int, bottleneck: bool, version_2: bool, norm: bool = True) -> int:
    """Count a residual network: its stem, blocks, projections, BatchNorms (2 a channel) or biases (1 a channel)."""
    expansion = 4 if bottleneck else 1
    weights, outputs, normalised = 27 * stem, stem, 0 if version_2 else stem
    channels = stem
    for stage, number in enumerate(blocks):
        inner = width * 2**stage
        for block in range(number):
            shapes = [(1, channels, inner), (9, inner, inner), (1, inner, 4 * inner)]
            shapes = shapes if bottleneck else [(9, channels, inner), (9, inner, inner)]
            normalised += sum(before if version_2 else after for _, before, after in shapes)
            if block == 0 and (stage or channels != inner * expansion):
                shapes.append((1, channels, inner * expansion))
                normalised += 0 if version_2 else inner * expansion
            weights += sum(size * before * after for size, before, after in shapes)
            outputs += sum(after for _, _, after in shapes)
            channels = inner * expansion
    normalised += channels if version_2 else 0
    return weights + (2 * normalised if norm else outputs) + dense(channels, 10)


COUNTS = {
    "fcn_3x256": dense(3072, 256, 256, 256, 10),
    "fcn_5x256": dense(3072, 256, 256, 256, 256, 256, 10),
    "linear": dense(3072, 10),
    "mlp_2x4096": dense(3072, 4096, 4096, 10),
    "fc_500_300_100": dense(3072, 500, 300, 100, 10),
    "cnn_16_32_32": convolutions(3, 3, 16, 32, 32) + dense(32 * 4 * 4, 10),
    # BatchNorm in place of biases: one number a channel more.
    "arpit_cnn": convolutions(5, 3, 200, 200) + 400 + dense(200 * 8 * 8, 384, 192) + 576 + dense(192, 10),
    "cifar_vgg11": vgg(1, 1, 2, 2, 2),
    "cifar_vgg13": vgg(2, 2, 2, 2, 2),
    "cifar_vgg16": vgg(2, 2, 3, 3, 3),
    "cifar_vgg19": vgg(2, 2, 4, 4, 4),
    "cifar_resnet18": residual([2, 2, 2, 2], 64, 64, bottleneck=False, version_2=True),
    "cifar_resnet34": residual([3, 4, 6, 3], 64, 64, bottleneck=False, version_2=True),
    "cifar_resnet50": residual([3, 4, 6, 3], 64, 64, bottleneck=True, version_2=True),
    "cifar_resnet101": residual([3, 4, 23, 3], 64, 64, bottleneck=True, version_2=True),
    "cifar_resnet152": residual([3, 8, 36, 3], 64, 64, bottleneck=True, version_2=True),
    "cifar_resnet56": residual([9, 9, 9], 16, 16, bottleneck=False, version_2=False),
    "resnet20_no_bn": residual([3, 3, 3], 16, 16, bottleneck=False, version_2=False, norm=False),
    "wide_resnet": residual([4, 4, 4], 160, 16, bottleneck=False, version_2=True),
}


def make(name: str, **keywords: Any) -> Classifier:
    told = yaml.safe_load((ROOT / "conf" / "model" / f"{name}.yaml").read_text())
    kind: Any = target_class(told, "model")
    told = {key: value for key, value in told.items() if key not in ("_target_", "protocol", "learning_rate")}
    model: Classifier = kind(**(CIFAR | told | keywords))
    return model


@pytest.mark.parametrize("name", COUNTS)
def test_count(name: str) -> None:
    with torch.device("meta"):
        assert make(name).num_parameters == COUNTS[name]


@pytest.mark.parametrize(("depth", "widening"), [(28, 1), (16, 4)])
def test_count_of_smaller_wide_networks(depth: int, widening: int) -> None:
    expected = residual(3 * [(depth - 4) // 6], 16 * widening, 16, bottleneck=False, version_2=True)
    with torch.device("meta"):
        assert make("wide_resnet", depth=depth, widening=widening).num_parameters == expected


SMALL: dict[str, Callable[..., Classifier]] = {
    "linear": lambda **k: MLP(width=None, depth=0, initialization="zeros", **k),
    "widths": lambda **k: MLP(width=[8, 6], depth=2, batch_norm=True, **k),
    "convolutions": lambda **k: ConvNet(channels=[4, 6], **k),
    "arpit": ArpitCNN,
    "vgg": lambda **k: CifarVGG(depth=11, batch_norm=True, **k),
    "resnet_2": lambda **k: CifarResNet(blocks=[1, 2], width=4, **k),
    "resnet_2_no_bn": lambda **k: CifarResNet(blocks=[1, 2], width=4, batch_norm=False, **k),
    "resnet_1": lambda **k: CifarResNet(blocks=[1, 2], width=4, pre_activation=False, **k),
    "resnet_bottleneck": lambda **k: CifarResNet(blocks=[1, 2], width=4, bottleneck=True, **k),
    "wide": lambda **k: WideResNet(depth=10, widening=1, **k),
}


@pytest.mark.parametrize("name", SMALL)
@pytest.mark.parametrize("image_shape", [(1, 8, 8), (2, 17, 23)])
def test_other_shapes_and_class_counts(name: str, image_shape: tuple[int, int, int]) -> None:
    model = SMALL[name](image_shape=image_shape, num_classes=7)
    assert all(module.training for module in model.modules())
    images = torch.randn(3, *image_shape)
    before = images.clone()
    logits = model(images)
    assert logits.shape == (3, 7)
    assert torch.equal(images, before)
    logits.square().sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())


@pytest.mark.parametrize("batch_norm", [True, False])
def test_a_block_of_version_2_is_the_formula(batch_norm: bool) -> None:
    """x + conv(relu(bn(conv(relu(bn(x)))))): He et al. 2016b, Figure 1(b)."""
    torch.manual_seed(0)
    model = CifarResNet(blocks=[1], width=4, batch_norm=batch_norm, **CIFAR).eval()
    (block,) = (module for module in model.modules() if isinstance(module, ResidualBlock))
    layers = [module for module in block.modules() if isinstance(module, nn.Conv2d | nn.BatchNorm2d)]
    images = torch.randn(2, 4, 5, 5)
    expected = images
    for layer in layers:
        expected = layer(expected.relu() if isinstance(layer, nn.Conv2d) else expected)
    torch.testing.assert_close(block(images), images + expected)


@pytest.mark.parametrize("name", ["resnet_1", "resnet_2", "wide", "vgg"])
def test_convolutions_begin_as_he_says_and_logits_small(name: str) -> None:
    torch.manual_seed(0)
    model = SMALL[name](**CIFAR)
    stds = {module: module.weight.std().item() for module in model.modules() if isinstance(module, nn.Conv2d)}
    for convolution, std in stds.items():
        fan = convolution.in_channels if name == "vgg" else convolution.out_channels
        if convolution.weight.numel() > 500:
            assert std == pytest.approx((2 / (fan * convolution.weight[0, 0].numel())) ** 0.5, rel=0.15)
    (last,) = (module for module in model.modules() if isinstance(module, nn.Linear))
    assert last.weight.std().item() == pytest.approx((2 / last.in_features) ** 0.5, rel=0.3)
    assert not last.bias.any()


def test_a_linear_model_that_starts_at_zero_knows_nothing() -> None:
    model = MLP(width=None, depth=0, initialization="zeros", **CIFAR)
    assert not model(torch.randn(5, 3, 32, 32)).any()


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: MLP(depth=0, **CIFAR), "model.depth=0 model.width=512: a linear model has no hidden units"),
        (lambda: MLP(width=[8, 6], depth=1, **CIFAR), "as many hidden layers as widths"),
        (lambda: MLP(width=[8, 8], depth=2, **CIFAR), "write model.width=8"),
        (lambda: MLP(initialization="zeros", **CIFAR), "hidden units that start at zero learn nothing"),
        (lambda: MLP(width=None, depth=0, batch_norm=True, **CIFAR), "no hidden layer to normalise"),
        (lambda: MLP(initialization="he", **CIFAR), "one of glorot_uniform, zeros"),
        (lambda: CifarVGG(depth=12, **CIFAR), "model.depth=12: one of 11, 13, 16, 19"),
        (lambda: CifarResNet(blocks=[], **CIFAR), r"model.blocks=\[\]: a list of whole numbers"),
        (lambda: CifarResNet(blocks=[2, 0], **CIFAR), "model.blocks=0: a whole number of at least 1"),
        (lambda: WideResNet(depth=12, **CIFAR), r"6n \+ 4 is needed"),
        (lambda: ConvNet(**({"channels": 3} | CIFAR)), "model.channels=3: a list"),
        (lambda: ConvNet(image_shape=(1, 4, 8), num_classes=2), "at least 8x8 pixels"),
        (lambda: ArpitCNN(image_shape=(1, 3, 8), num_classes=2), "at least 4x4 pixels"),
    ],
)
def test_what_cannot_be_built_is_said(build: Callable[[], Classifier], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build()
