"""The networks of Zhang et al. 2017 have the published sizes, and refuse images they cannot take."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from rethinkgen.model.alexnet import AlexNet, LocalResponseNorm
from rethinkgen.model.inception import Inception
from rethinkgen.model.mlp import MLP
from rethinkgen.train.classifier import Classifier

CIFAR = {"image_shape": (3, 28, 28), "num_classes": 10}

NETWORKS: dict[str, tuple[Callable[..., Classifier], int]] = {
    "inception": (Inception, 1_649_402),
    "inception_no_bn": (lambda **k: Inception(batch_norm=False, **k), 1_649_402),
    "alexnet": (AlexNet, 1_387_786),
    "mlp_1x512": (MLP, 1_209_866),
    "mlp_3x512": (lambda **k: MLP(depth=3, **k), 1_735_178),
}


@pytest.fixture(params=NETWORKS)
def published(request: pytest.FixtureRequest) -> tuple[Callable[..., Classifier], int]:
    return NETWORKS[request.param]


def test_parameter_counts_of_table_1(published: tuple[Callable[..., Classifier], int]) -> None:
    make, count = published
    assert make(**CIFAR).num_parameters == count


@pytest.mark.parametrize("image_shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (2, 17, 23)])
def test_other_shapes_and_class_counts(
    published: tuple[Callable[..., Classifier], int], image_shape: tuple[int, int, int]
) -> None:
    model = published[0](image_shape=image_shape, num_classes=7)
    assert model(torch.randn(2, *image_shape)).shape == (2, 7)


@pytest.mark.parametrize("make", [Inception, AlexNet])
def test_too_small_images_name_the_least_size(make: Callable[..., Classifier]) -> None:
    with pytest.raises(ValueError, match="at least 4x4 pixels, these are 3x9"):
        make(image_shape=(1, 3, 9), num_classes=10)
    assert make(image_shape=(1, 4, 4), num_classes=10)(torch.randn(2, 1, 4, 4)).shape == (2, 10)


def test_channels_last_changes_rounding_only() -> None:
    torch.manual_seed(0)
    plain = Inception(channels_last=False, **CIFAR)
    fast = Inception(channels_last=True, **CIFAR)
    fast.load_state_dict(plain.state_dict())
    images = torch.randn(4, 3, 28, 28)
    torch.testing.assert_close(fast(images), plain(images), rtol=1e-4, atol=1e-4)


def test_batch_norm_has_a_shift_that_learns_and_a_scale_that_does_not() -> None:
    norms = [module for module in Inception(**CIFAR).modules() if isinstance(module, nn.BatchNorm2d)]
    assert sum(norm.num_features for norm in norms) == 1712
    assert all(norm.bias.requires_grad and not norm.weight.requires_grad for norm in norms)
    assert {(norm.momentum, norm.eps) for norm in norms} == {(0.1, 1e-3)}


@pytest.mark.parametrize(
    ("make", "places"), [(Inception, 1), (AlexNet, 2), (MLP, 1), (lambda **k: MLP(depth=3, **k), 3)]
)
def test_dropout_comes_after_every_hidden_dense_relu(make: Callable[..., Classifier], places: int) -> None:
    def count(dropout: float) -> int:
        return sum(isinstance(module, nn.Dropout) for module in make(dropout=dropout, **CIFAR).modules())

    assert (count(0.5), count(0.0)) == (places, 0)


@pytest.mark.parametrize(("key", "value"), [("width", 0), ("depth", -1), ("width", 1.5), ("depth", True)])
def test_mlp_sizes_are_whole_and_positive(key: str, value: object) -> None:
    with pytest.raises(ValueError, match=f"model.{key}="):
        MLP(**{key: value})


def test_local_response_norm_is_that_of_pytorch() -> None:
    images = torch.randn(2, 12, 5, 5) * 20
    ours = LocalResponseNorm(12, radius=4, bias=1.0, alpha=0.001 / 9, beta=0.75)(images)
    # PyTorch takes the width of the window and divides alpha by it.
    torch.testing.assert_close(ours, nn.LocalResponseNorm(9, alpha=0.001, beta=0.75, k=1.0)(images))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        same = LocalResponseNorm(12, radius=4, bias=1.0, alpha=0.001 / 9, beta=0.75)(images)
    assert torch.equal(same, ours)
