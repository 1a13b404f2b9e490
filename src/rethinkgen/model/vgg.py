"""The plain convolutional networks of Simonyan and Zisserman 2015 (Table 1, A, B, D and E), as used on CIFAR-10.

Their convolutions, and one linear layer in place of the three, which are made for 224x224 pixels. No published count of
that form is known to us; a test counts what the architecture says.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from rethinkgen.checks import check_is_one_number_of, check_switch
from rethinkgen.model.initialization import he_normal
from rethinkgen.train.classifier import Classifier

WIDTHS = (64, 128, 256, 512, 512)
"""Channels of the convolutions of each stage."""
STAGES = {11: (1, 1, 2, 2, 2), 13: (2, 2, 2, 2, 2), 16: (2, 2, 3, 3, 3), 19: (2, 2, 4, 4, 4)}
"""Depth, counted with the three dense layers of the original -> 3x3 convolutions of each stage."""


class CifarVGG(Classifier):
    """Five stages of 3x3 convolutions with ReLU and a 2x2 max-pool, the mean over the pixels left, a linear layer.

    Sides that are odd are halved upwards, so that images of any size are taken; what is left of 32x32 is one pixel.
    ``batch_norm`` puts a BatchNorm after each convolution, whose bias it replaces. Zhang, Bengio, Singer 2019 state no
    initialisation that we have seen: He's normal by the fan-in, biases zero. Dropout, where asked for, comes before the
    last layer.
    """

    def __init__(
        self, *, depth: int = 11, batch_norm: bool = False, channels_last: bool = True, **keywords: Any
    ) -> None:
        self.depth = check_is_one_number_of("model.depth", depth, [*STAGES])
        self.batch_norm = check_switch("model.batch_norm", batch_norm)
        super().__init__(channels_last=channels_last, **keywords)

    def build(self, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        """Build the network."""
        layers: list[nn.Module] = []
        num_inputs = image_shape[0]
        for width, num_convolutions in zip(WIDTHS, STAGES[self.depth], strict=True):
            for _ in range(num_convolutions):
                layers.append(nn.Conv2d(num_inputs, width, 3, padding=1, bias=not self.batch_norm))
                if self.batch_norm:
                    layers.append(nn.BatchNorm2d(width))
                layers.append(nn.ReLU(inplace=True))
                num_inputs = width
            layers.append(nn.MaxPool2d(2, ceil_mode=True))
        layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), *self.dropout_layers(), nn.Linear(num_inputs, num_classes)]
        return he_normal(nn.Sequential(*layers))
