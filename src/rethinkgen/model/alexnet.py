"""The small AlexNet of Zhang et al. 2017 (Appendix A).

The paper gives no channel numbers; 64 and 64 with 'SAME' padding are the ones that yield its 1,387,786 parameters on
28x28x3, and are the CIFAR-10 network of TensorFlow's tutorial, whose normalisation and initialisation are used here.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rethinkgen.train.classifier import Classifier, check_image_size


class AlexNet(Classifier):
    """Two modules of (5x5 convolution, 3x3 max-pool, local response normalisation), then 384, 192 and a linear layer.

    As in the tutorial, the second module normalises before it pools. Dropout, where asked for, follows the two hidden
    dense ReLUs. The dense layers' initialisation (std 0.04, bias 0.1) is the tutorial's as we remember it, unverified.
    """

    def __init__(self, *, channels_last: bool = True, **keywords: Any) -> None:
        super().__init__(channels_last=channels_last, **keywords)

    def build(self, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        """Build the network; each side must survive two halvings."""
        check_image_size("alexnet", image_shape, least=4)
        channels, height, width = image_shape
        num_features = 64 * _halved_twice(height) * _halved_twice(width)
        layers = [
            _convolution(channels, bias=0.0),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, stride=2, padding=1),
            LocalResponseNorm(64, radius=4, bias=1.0, alpha=0.001 / 9, beta=0.75),
            _convolution(64, bias=0.1),
            nn.ReLU(inplace=True),
            LocalResponseNorm(64, radius=4, bias=1.0, alpha=0.001 / 9, beta=0.75),
            nn.MaxPool2d(3, stride=2, padding=1),
            nn.Flatten(),
            _dense(num_features, 384),
            nn.ReLU(inplace=True),
            *self.dropout_layers(),
            _dense(384, 192),
            nn.ReLU(inplace=True),
            *self.dropout_layers(),
            _dense(192, num_classes, std=1 / 192, bias=0.0),
        ]
        return nn.Sequential(*layers)


class LocalResponseNorm(nn.Module):
    """x_i / (bias + alpha * sum of x_j^2 over channels j from i - radius to i + radius)^beta, per pixel.

    Krizhevsky et al. 2012, Section 3.3, in TensorFlow's parameters (PyTorch's own divides alpha by the width of the
    window). The sum over neighbours is a 1x1 convolution with a band of ones: four times as fast on a CPU as PyTorch's
    layer, whose backward pass on a GPU is not deterministic either.
    """

    band: Tensor

    def __init__(self, num_channels: int, *, radius: int, bias: float, alpha: float, beta: float) -> None:
        super().__init__()
        self.bias, self.beta = bias, beta
        channels = torch.arange(num_channels)
        band = (channels[:, None] - channels).abs() <= radius
        self.register_buffer("band", alpha * band.float()[:, :, None, None], persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Normalise ``(N, num_channels, H, W)``, in float32 under any precision: the small sum needs its digits."""
        with torch.autocast(images.device.type, enabled=False):
            images = images.to(self.band.dtype)
            return images * (self.bias + F.conv2d(images.square(), self.band)).pow(-self.beta)


def _halved_twice(side: int) -> int:
    return ((side + 1) // 2 + 1) // 2


def _convolution(num_inputs: int, bias: float) -> nn.Conv2d:
    layer = nn.Conv2d(num_inputs, 64, 5, padding=2)
    nn.init.trunc_normal_(layer.weight, std=0.05, a=-0.1, b=0.1)
    assert layer.bias is not None
    nn.init.constant_(layer.bias, bias)
    return layer


def _dense(num_inputs: int, num_outputs: int, std: float = 0.04, bias: float = 0.1) -> nn.Linear:
    layer = nn.Linear(num_inputs, num_outputs)
    nn.init.trunc_normal_(layer.weight, std=std, a=-2 * std, b=2 * std)
    nn.init.constant_(layer.bias, bias)
    return layer
