"""torchvision's networks as classifiers."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torchvision.models import Inception_V3_Weights, ResNet50_Weights

from rethinkgen.model.torchvision_networks import InceptionV3, ResNet50

AUXILIARY = 3_326_696
"""Parameters of Inception V3's auxiliary classifier, which ours lacks."""


def test_parameter_counts_are_the_published_ones() -> None:
    with torch.device("meta"):
        inception = InceptionV3(image_shape=(3, 299, 299), num_classes=1000)
        resnet = ResNet50(image_shape=(3, 224, 224), num_classes=1000)
    published = Inception_V3_Weights.IMAGENET1K_V1.meta["num_params"]
    assert inception.num_parameters == published - AUXILIARY == 23_834_568
    assert resnet.num_parameters == ResNet50_Weights.IMAGENET1K_V1.meta["num_params"] == 25_557_032


@pytest.mark.parametrize(("kind", "least"), [(InceptionV3, 75), (ResNet50, 8)])
@pytest.mark.parametrize("num_channels", [1, 3])
def test_training_and_evaluation_give_logits_of_colour_and_of_grey_images(
    kind: type[InceptionV3 | ResNet50], least: int, num_channels: int
) -> None:
    torch.manual_seed(0)
    model = kind(image_shape=(num_channels, least, least), num_classes=7)
    images = torch.randn(2, num_channels, least, least)
    for mode in (True, False):
        model.train(mode)
        with torch.no_grad():
            logits = model(images)
        assert logits.shape == (2, 7)
        assert logits.isfinite().all()
    if num_channels == 1:
        torch.testing.assert_close(model(images.expand(-1, 3, -1, -1)), model(images))


def test_images_below_75_pixels_are_refused() -> None:
    with pytest.raises(ValueError, match="inception_v3 needs images of at least 75x75 pixels, these are 74x80"):
        InceptionV3(image_shape=(3, 74, 80), num_classes=7)


@pytest.mark.parametrize("kind", [InceptionV3, ResNet50])
def test_dropout_comes_before_the_last_layer(kind: type[InceptionV3 | ResNet50]) -> None:
    with torch.device("meta"):
        plain, dropping = (kind(image_shape=(3, 75, 75), num_classes=7, dropout=rate) for rate in (0.0, 0.2))
    assert [module.p for module in dropping.modules() if isinstance(module, nn.Dropout)] == [0.2]
    assert not any(module.p for module in plain.modules() if isinstance(module, nn.Dropout))
