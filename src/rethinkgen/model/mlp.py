"""Multi-layer perceptrons of Zhang et al. 2017 (Appendix A), and any other width and depth.

On 28x28x3 images and 10 classes the published counts are 1,209,866 (1x512) and 1,735,178 (3x512) trainable parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

from torch import nn

from rethinkgen.checks import check_hidden_layers, check_one_of, check_switch
from rethinkgen.machine import available_bytes
from rethinkgen.model.initialization import glorot_uniform, zeros
from rethinkgen.train.classifier import Classifier

INITIALIZATIONS = {"glorot_uniform": glorot_uniform, "zeros": zeros}


class MLP(Classifier):
    """``depth`` hidden layers of ``width`` ReLU units, then a linear layer; ``width`` may be a list, one for each.

    ``depth=0`` (with ``width=None``) is a linear model, the only one that may start at ``initialization="zeros"``. The
    paper states no initialisation; Glorot uniform with zero biases (the default of TensorFlow's layers of that time) is
    our choice. ``batch_norm`` puts a BatchNorm before each ReLU, in place of the bias. Dropout, where asked for,
    follows every hidden ReLU.
    """

    def __init__(
        self,
        *,
        width: int | Sequence[int] | None = 512,
        depth: int = 1,
        batch_norm: bool = False,
        initialization: str = "glorot_uniform",
        **keywords: Any,
    ) -> None:
        self.batch_norm = check_switch("model.batch_norm", batch_norm)
        self.initialization = check_one_of("model.initialization", initialization, [*INITIALIZATIONS])
        self.widths = check_hidden_layers(width, depth, batch_norm, initialization)
        super().__init__(**keywords)

    def build(self, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        """Build the network on flattened images."""
        channels, height, side = image_shape
        sizes = [channels * height * side, *self.widths, num_classes]
        num_weights = sum(before * after for before, after in pairwise(sizes))
        if 4 * num_weights > (free := available_bytes()):
            raise ValueError(
                f"model.width={max(self.widths, default=None)} model.depth={len(self.widths)}: {num_weights:,} weights "
                f"take {4 * num_weights / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free."
            )
        layers: list[nn.Module] = [nn.Flatten()]
        for before, after in pairwise(sizes[:-1]):
            layers.append(nn.Linear(before, after, bias=not self.batch_norm))
            if self.batch_norm:
                layers.append(nn.BatchNorm1d(after))
            layers += [nn.ReLU(inplace=True), *self.dropout_layers()]
        layers.append(nn.Linear(sizes[-2], num_classes))
        return INITIALIZATIONS[self.initialization](nn.Sequential(*layers))
