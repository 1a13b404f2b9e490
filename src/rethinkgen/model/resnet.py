"""Residual networks for images of CIFAR's size: He et al. 2016 (a and b), Zagoruyko and Komodakis 2016.

A 3x3 convolution first, without a max-pool after it; stages of residual blocks, each with twice the channels of the one
before and, but for the first, half its pixels a side; the mean over the pixels; a linear layer.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import Tensor, nn

from rethinkgen.checks import check_depth_of_wide_resnet, check_switch, check_whole
from rethinkgen.model.initialization import he_normal
from rethinkgen.train.classifier import Classifier

BOTTLENECK_EXPANSION = 4
"""Channels that a bottleneck block returns for one of its 3x3 convolution."""


class CifarResNet(Classifier):
    """A residual network by the number of ``blocks`` of each stage, and the ``width`` (channels) of the first stage.

    ``bottleneck``: blocks of 1x1, 3x3 and 1x1 convolutions, which return four times as many channels, instead of two
    3x3 ones. ``pre_activation``: BatchNorm and ReLU come before each convolution (version 2, He et al. 2016b), instead
    of after it and after the sum. A block that changes the shape has a 1x1 convolution in its shortcut, which sees what
    the first convolution sees. ``stem_width``: channels of the first convolution, by default ``width``.
    ``batch_norm=False`` leaves BatchNorm out and gives convolutions biases. Weights are drawn by He's normal,
    those of convolutions by the fan-out, biases zero. Dropout, where asked for, comes before the last layer.
    """

    def __init__(
        self,
        *,
        blocks: Sequence[int] = (2, 2, 2, 2),
        width: int = 64,
        stem_width: int | None = None,
        bottleneck: bool = False,
        pre_activation: bool = True,
        batch_norm: bool = True,
        channels_last: bool = True,
        **keywords: Any,
    ) -> None:
        if isinstance(blocks, str) or not isinstance(blocks, Sequence) or not blocks:
            raise ValueError(f"model.blocks={blocks!r}: a list of whole numbers, the blocks of each stage, is needed.")
        self.blocks = [check_whole("model.blocks", number, 1) for number in blocks]
        self.width = check_whole("model.width", width, 1)
        self.stem_width = self.width if stem_width is None else check_whole("model.stem_width", stem_width, 1)
        self.bottleneck = check_switch("model.bottleneck", bottleneck)
        self.pre_activation = check_switch("model.pre_activation", pre_activation)
        self.batch_norm = check_switch("model.batch_norm", batch_norm)
        super().__init__(channels_last=channels_last, **keywords)

    def build(self, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        """Build the network."""
        make = _Block(self.bottleneck, self.pre_activation, self.batch_norm)
        widths = (self.stem_width, self.width)
        return _network(image_shape[0], self.blocks, widths, make, self.dropout_layers(), num_classes)


class WideResNet(Classifier):
    """WRN-``depth``-``widening`` of Zagoruyko and Komodakis 2016: three stages of (depth - 4) / 6 blocks of version 2.

    Their widths are 16, 32 and 64 times ``widening``, after a first convolution of 16 channels; all else is as in
    ``CifarResNet``.
    """

    def __init__(self, *, depth: int = 28, widening: int = 10, channels_last: bool = True, **keywords: Any) -> None:
        self.depth = check_depth_of_wide_resnet("model.depth", depth)
        self.widening = check_whole("model.widening", widening, 1)
        super().__init__(channels_last=channels_last, **keywords)

    def build(self, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        """Build the network."""
        make = _Block(bottleneck=False, pre_activation=True, batch_norm=True)
        blocks, widths = 3 * [(self.depth - 4) // 6], (16, 16 * self.widening)
        return _network(image_shape[0], blocks, widths, make, self.dropout_layers(), num_classes)


def _network(
    num_inputs: int,
    blocks: Sequence[int],
    widths: tuple[int, int],
    make: _Block,
    dropout: Sequence[nn.Module],
    num_classes: int,
) -> nn.Module:
    """Return the whole network; ``widths`` are of the first convolution and of the first stage."""
    num_channels, first = widths
    layers: list[nn.Module] = [make.convolution(num_inputs, num_channels)]
    if not make.pre_activation:
        layers += make.activation(num_channels)
    for stage, num_blocks in enumerate(blocks):
        width = first * 2**stage
        of_stage: list[nn.Module] = []
        for block in range(num_blocks):
            of_stage.append(ResidualBlock(num_channels, width, 2 if stage and not block else 1, make))
            num_channels = make.num_outputs(width)
        layers.append(nn.Sequential(*of_stage))
    if make.pre_activation:
        layers += make.activation(num_channels)
    layers += [nn.AdaptiveAvgPool2d(1), nn.Flatten(), *dropout, nn.Linear(num_channels, num_classes)]
    return he_normal(nn.Sequential(*layers), mode="fan_out")


class _Block:
    """What blocks of one network have in common."""

    def __init__(self, bottleneck: bool, pre_activation: bool, batch_norm: bool) -> None:
        self.bottleneck, self.pre_activation, self.batch_norm = bottleneck, pre_activation, batch_norm

    def num_outputs(self, width: int) -> int:
        return width * BOTTLENECK_EXPANSION if self.bottleneck else width

    def convolution(self, num_inputs: int, num_outputs: int, size: int = 3, stride: int = 1) -> nn.Conv2d:
        return nn.Conv2d(num_inputs, num_outputs, size, stride, padding=size // 2, bias=not self.batch_norm)

    def activation(self, num_channels: int) -> list[nn.Module]:
        # In place only on what a BatchNorm has made: what comes in may be wanted by a shortcut, too.
        return [*self.norm(num_channels), nn.ReLU(inplace=self.batch_norm)]

    def norm(self, num_channels: int) -> list[nn.Module]:
        return [nn.BatchNorm2d(num_channels)] if self.batch_norm else []

    def convolutions(self, num_inputs: int, width: int, stride: int) -> list[nn.Conv2d]:
        """Return those of the residual branch, in order; a bottleneck's stride is in the 3x3 one, as in torchvision."""
        if not self.bottleneck:
            return [self.convolution(num_inputs, width, stride=stride), self.convolution(width, width)]
        return [
            self.convolution(num_inputs, width, 1),
            self.convolution(width, width, stride=stride),
            self.convolution(width, self.num_outputs(width), 1),
        ]


class ResidualBlock(nn.Module):
    """A residual branch and a shortcut, added."""

    def __init__(self, num_inputs: int, width: int, stride: int, make: _Block) -> None:
        super().__init__()
        num_outputs = make.num_outputs(width)
        convolutions = make.convolutions(num_inputs, width, stride)
        branch: list[nn.Module] = []
        for place, convolution in enumerate(convolutions):
            if make.pre_activation:
                # That of the first convolution stands before the fork: the shortcut's convolution sees it, too.
                branch += [*(make.activation(convolution.in_channels) if place else []), convolution]
            else:
                is_last = place == len(convolutions) - 1
                after = make.norm if is_last else make.activation
                branch += [convolution, *after(convolution.out_channels)]
        self.before = nn.Sequential(*make.activation(num_inputs)) if make.pre_activation else None
        self.branch = nn.Sequential(*branch)
        self.shortcut: nn.Module | None = None
        if stride != 1 or num_inputs != num_outputs:
            projection: list[nn.Module] = [make.convolution(num_inputs, num_outputs, 1, stride)]
            self.shortcut = nn.Sequential(*projection, *([] if make.pre_activation else make.norm(num_outputs)))
        self.after = None if make.pre_activation else nn.ReLU(inplace=True)

    def forward(self, images: Tensor) -> Tensor:
        """Map ``(N, num_inputs, H, W)`` to ``(N, num_outputs, ceil(H / stride), ceil(W / stride))``."""
        seen = images if self.before is None else self.before(images)
        kept = images if self.shortcut is None else self.shortcut(seen)
        total: Tensor = self.branch(seen) + kept
        return total if self.after is None else self.after(total)
