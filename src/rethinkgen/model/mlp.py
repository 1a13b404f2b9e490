"""Multi-layer perceptrons of Zhang et al. 2017 (Appendix A), and any other width and depth.

On 28x28x3 images and 10 classes the published counts are 1,209,866 (1x512) and 1,735,178 (3x512) trainable parameters.
"""

from __future__ import annotations

from typing import Any

from torch import nn

from rethinkgen.checks import check_whole
from rethinkgen.machine import available_bytes
from rethinkgen.model.initialization import glorot_uniform
from rethinkgen.train.classifier import Classifier


class MLP(Classifier):
    """``depth`` hidden layers of ``width`` ReLU units, then a linear layer.

    The paper states no initialisation; Glorot uniform with zero biases (the default of TensorFlow's layers of that
    time) is our choice. Dropout, where asked for, follows every hidden ReLU.
    """

    def __init__(self, *, width: int = 512, depth: int = 1, **keywords: Any) -> None:
        self.width = check_whole("model.width", width, 1)
        self.depth = check_whole("model.depth", depth, 1)
        super().__init__(**keywords)

    def build(self, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        """Build the network on flattened images."""
        channels, height, width = image_shape
        layers: list[nn.Module] = [nn.Flatten()]
        num_inputs = channels * height * width
        num_weights = (num_inputs + num_classes + (self.depth - 1) * self.width) * self.width
        if 4 * num_weights > (free := available_bytes()):
            raise ValueError(
                f"model.width={self.width} model.depth={self.depth}: {num_weights:,} weights take "
                f"{4 * num_weights / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free."
            )
        for _ in range(self.depth):
            layers += [nn.Linear(num_inputs, self.width), nn.ReLU(inplace=True), *self.dropout_layers()]
            num_inputs = self.width
        layers.append(nn.Linear(num_inputs, num_classes))
        return glorot_uniform(nn.Sequential(*layers))
