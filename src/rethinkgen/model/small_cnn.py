"""The small convolutional networks of Arpit et al. 2017 (Section 3) and Fort et al. 2019."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from rethinkgen.checks import check_whole
from rethinkgen.model.initialization import glorot_uniform
from rethinkgen.train.classifier import Classifier, check_image_size


class ArpitCNN(Classifier):
    """Two modules of (5x5 convolution of 200 channels, BatchNorm, ReLU, 3x3 max-pool), then 384, 192, a linear layer.

    Arpit et al. 2017, "small AlexNet-style"; BatchNorm follows the dense layers, too. Not stated there, and chosen as
    in the small AlexNet of Zhang et al. 2017: padding that keeps the size, and pools of stride 2. The initialisation is
    not stated either: Glorot uniform. They crop 32x32 to 28x28, which is what ``data.crop`` does. Dropout, where asked
    for, follows the two hidden dense ReLUs.
    """

    def __init__(self, *, channels_last: bool = True, **keywords: Any) -> None:
        super().__init__(channels_last=channels_last, **keywords)

    def build(self, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        """Build the network; each side must survive two halvings."""
        check_image_size("arpit_cnn", image_shape, least=4)
        layers: list[nn.Module] = []
        num_inputs = image_shape[0]
        for _ in range(2):
            layers += [
                nn.Conv2d(num_inputs, 200, 5, padding=2, bias=False),
                nn.BatchNorm2d(200),
                nn.ReLU(inplace=True),
                nn.MaxPool2d(3, stride=2, padding=1),
            ]
            num_inputs = 200
        layers.append(nn.Flatten())
        height, breadth = ((side + 3) // 4 for side in image_shape[1:])  # halved twice, upwards
        num_features = 200 * height * breadth
        for width in (384, 192):
            layers += [
                nn.Linear(num_features, width, bias=False),
                nn.BatchNorm1d(width),
                nn.ReLU(inplace=True),
                *self.dropout_layers(),
            ]
            num_features = width
        return glorot_uniform(nn.Sequential(*layers, nn.Linear(num_features, num_classes)))


class ConvNet(Classifier):
    """3x3 convolutions of the given ``channels``, each with ReLU and a 2x2 max-pool, then a linear layer.

    With channels 16, 32 and 32 the network of Fort et al. 2019, who state neither padding (here the size is kept) nor
    initialisation (Glorot uniform). Dropout, where asked for, comes before the linear layer.
    """

    def __init__(self, *, channels: Sequence[int] = (16, 32, 32), channels_last: bool = True, **keywords: Any) -> None:
        if isinstance(channels, str) or not isinstance(channels, Sequence) or not channels:
            raise ValueError(f"model.channels={channels!r}: a list of whole numbers is needed.")
        self.channels = [check_whole("model.channels", each, 1) for each in channels]
        super().__init__(channels_last=channels_last, **keywords)

    def build(self, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        """Build the network; each side must survive as many halvings as there are convolutions."""
        check_image_size("this network", image_shape, least=2 ** len(self.channels))
        layers: list[nn.Module] = []
        num_inputs = image_shape[0]
        for width in self.channels:
            layers += [nn.Conv2d(num_inputs, width, 3, padding=1), nn.ReLU(inplace=True), nn.MaxPool2d(2)]
            num_inputs = width
        layers.append(nn.Flatten())
        height, breadth = (side // 2 ** len(self.channels) for side in image_shape[1:])
        num_features = num_inputs * height * breadth
        layers += [*self.dropout_layers(), nn.Linear(num_features, num_classes)]
        return glorot_uniform(nn.Sequential(*layers))
