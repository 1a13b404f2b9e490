"""The small Inception of Zhang et al. 2017 (Figure 3), with and without BatchNorm.

Both have the published 1,649,402 trainable parameters on 28x28x3 and 10 classes. That count holds one number for each
convolution channel, so BatchNorm has a shift and no scale and its convolution no bias (TensorFlow slim's default of
that time); without BatchNorm the bias is back. Another reading fits the count too: biases, and BatchNorm with neither.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from rethinkgen.checks import check_switch
from rethinkgen.model.initialization import glorot_uniform
from rethinkgen.train.classifier import Classifier, check_image_size


class Inception(Classifier):
    """The small Inception; ``batch_norm=False`` removes every BatchNorm and gives the convolutions biases.

    Momentum 0.1 (PyTorch's sense) and epsilon 1e-3 of BatchNorm and the initialisation are not stated in the paper. A
    strided layer pads by one pixel on each side, where TensorFlow pads the bottom and the right: the same sizes,
    sampled one pixel apart. Dropout, where asked for, comes before the last layer.
    """

    def __init__(self, *, batch_norm: bool = True, channels_last: bool = True, **keywords: Any) -> None:
        self.batch_norm = check_switch("model.batch_norm", batch_norm)
        super().__init__(channels_last=channels_last, **keywords)

    def build(self, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        """Build the network; each side must survive two halvings."""
        check_image_size("inception", image_shape, least=4)
        norm = self.batch_norm
        layers = [
            ConvModule(image_shape[0], 96, 3, batch_norm=norm),
            InceptionModule(96, 32, 32, batch_norm=norm),
            InceptionModule(64, 32, 48, batch_norm=norm),
            DownsampleModule(80, 80, batch_norm=norm),
            InceptionModule(160, 112, 48, batch_norm=norm),
            InceptionModule(160, 96, 64, batch_norm=norm),
            InceptionModule(160, 80, 80, batch_norm=norm),
            InceptionModule(160, 48, 96, batch_norm=norm),
            DownsampleModule(144, 96, batch_norm=norm),
            InceptionModule(240, 176, 160, batch_norm=norm),
            InceptionModule(336, 176, 160, batch_norm=norm),
            # The mean over 7x7 for 28x28 images.
            nn.AdaptiveAvgPool2d(1),
            nn.Flatten(),
            *self.dropout_layers(),
            nn.Linear(336, num_classes),
        ]
        return glorot_uniform(nn.Sequential(*layers))


class ConvModule(nn.Sequential):
    """Convolution, BatchNorm (shift only) if asked for, ReLU."""

    def __init__(self, num_inputs: int, num_outputs: int, size: int, stride: int = 1, *, batch_norm: bool) -> None:
        layers: list[nn.Module] = [
            nn.Conv2d(num_inputs, num_outputs, size, stride, padding=size // 2, bias=not batch_norm)
        ]
        if batch_norm:
            norm = nn.BatchNorm2d(num_outputs, eps=1e-3, momentum=0.1)
            # A scale fixed at one: the published count has a shift alone. Frozen instead of absent, since cuDNN's
            # BatchNorm and SyncBatchNorm want both.
            norm.weight.requires_grad_(False)
            layers.append(norm)
        super().__init__(*layers, nn.ReLU(inplace=True))


class InceptionModule(nn.Module):
    """A 1x1 and a 3x3 convolution module side by side, concatenated."""

    def __init__(self, num_inputs: int, num_1x1: int, num_3x3: int, *, batch_norm: bool) -> None:
        super().__init__()
        self.conv_1x1 = ConvModule(num_inputs, num_1x1, 1, batch_norm=batch_norm)
        self.conv_3x3 = ConvModule(num_inputs, num_3x3, 3, batch_norm=batch_norm)

    def forward(self, images: Tensor) -> Tensor:
        """Map ``(N, num_inputs, H, W)`` to ``(N, num_1x1 + num_3x3, H, W)``."""
        return torch.cat([self.conv_1x1(images), self.conv_3x3(images)], dim=1)


class DownsampleModule(nn.Module):
    """A 3x3 convolution module and a 3x3 max-pool, both with stride 2, concatenated."""

    def __init__(self, num_inputs: int, num_3x3: int, *, batch_norm: bool) -> None:
        super().__init__()
        self.conv_3x3 = ConvModule(num_inputs, num_3x3, 3, stride=2, batch_norm=batch_norm)
        self.pool = nn.MaxPool2d(3, stride=2, padding=1)

    def forward(self, images: Tensor) -> Tensor:
        """Map ``(N, num_inputs, H, W)`` to ``(N, num_3x3 + num_inputs, ceil(H / 2), ceil(W / 2))``."""
        return torch.cat([self.conv_3x3(images), self.pool(images)], dim=1)
