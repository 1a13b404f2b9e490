"""ImageNet's networks from torchvision, untrained: Inception V3 (Zhang et al. 2017, Table 2) and ResNet-50."""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn
from torchvision import models

from rethinkgen.train.classifier import Classifier, check_image_size


class InceptionV3(Classifier):
    """torchvision's Inception V3, 23,834,568 parameters for 1000 classes; images of at least 75x75.

    Without the auxiliary classifier (3,326,696 parameters more): it would add a loss of its own to the one that is
    measured, and whether the paper's runs had it is not known; TensorFlow's package trains it with weight 0.4 (as we
    remember it, unverified). Weights are drawn as torchvision does after TensorFlow: normal of std 0.1, cut off at 2.
    Dropout, where asked for, comes before the last layer.
    """

    def __init__(self, *, channels_last: bool = True, **keywords: Any) -> None:
        super().__init__(channels_last=channels_last, **keywords)

    def build(self, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        """Build the network, for images of three channels, or grey ones."""
        check_image_size("inception_v3", image_shape, least=75)
        network = models.inception_v3(
            num_classes=num_classes, aux_logits=False, init_weights=True, dropout=self.dropout, transform_input=False
        )
        return _ThreeChannels(network)


class ResNet50(Classifier):
    """torchvision's ResNet-50 (He et al. 2016), 25,557,032 parameters for 1000 classes; not in Zhang et al. 2017.

    The stride of a halving block is in its 3x3 convolution, as in torchvision. Weights are drawn as torchvision does:
    He's normal by the fan-out. Dropout, where asked for, comes before the last layer.
    """

    def __init__(self, *, channels_last: bool = True, **keywords: Any) -> None:
        super().__init__(channels_last=channels_last, **keywords)

    def build(self, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        """Build the network, for images of three channels, or grey ones."""
        network = models.resnet50(num_classes=num_classes)
        if self.dropout:
            network.fc = nn.Sequential(*self.dropout_layers(), network.fc)
        return _ThreeChannels(network)


class _ThreeChannels(nn.Module):
    """Shows a grey image to all three channels of a network."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of images ``(N, 1 or 3, H, W)``."""
        logits: Tensor = self.network(images.expand(-1, 3, -1, -1))
        return logits
