"""The last thing done to an image before the network sees it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class ChannelStatistics(NamedTuple):
    """Mean and population standard deviation of each channel of pixels in ``[0, 1]``, shape ``(C, 1, 1)``."""

    mean: Tensor
    std: Tensor

    def to(self, device: torch.device | str) -> ChannelStatistics:
        """Return the same on ``device``."""
        return ChannelStatistics(self.mean.to(device), self.std.to(device))


def channel_statistics(chunks: Iterable[NDArray[np.uint8]]) -> ChannelStatistics:
    """Return the statistics of images ``(N, C, H, W)`` in ``[0, 255]`` that come in chunks.

    They are those of pixels in ``[0, 1]``, and do not depend on the chunks: whole numbers are summed.
    """
    counts = np.sum([_value_counts(chunk) for chunk in chunks], axis=0)
    values = np.arange(256) / 255
    shares = counts / counts.sum(1, keepdims=True)
    mean = shares @ values
    std = np.sqrt((shares * (values - mean[:, None]) ** 2).sum(1))
    return ChannelStatistics(*(torch.from_numpy(x).float()[:, None, None] for x in (mean, std)))


def whitening(images: Tensor) -> Tensor:
    """Standardise each of the images ``(N, C, H, W)`` over all its values.

    ``(x - mean) / max(std, 1 / sqrt(C * H * W))``: this is ``tf.image.per_image_standardization``, which
    Zhang et al. 2017 name; ``std`` is the population's. The floor keeps a nearly constant image from being
    blown up.
    """
    variance, mean = torch.var_mean(images, dim=(1, 2, 3), correction=0, keepdim=True)
    # The floor is put before the root, whose gradient is infinite at the variance of a constant image. The root of a
    # number's square is that number, to the bit.
    least = variance.new_full((), images[0].numel() ** -0.5).square()
    return (images - mean) / variance.clamp_min(least).sqrt()


def signed(images: Tensor) -> Tensor:
    """Map ``[0, 1]`` to ``[-1, 1]``, as TensorFlow's Inception package does (as we remember it, unverified)."""
    return images * 2 - 1


def normalization(images: Tensor, statistics: ChannelStatistics) -> Tensor:
    """Standardise each channel of ``(N, C, H, W)`` by the training set's ``statistics``.

    A channel that is constant in the training set is only centred.
    """
    return (images - statistics.mean) / torch.where(statistics.std > 0, statistics.std, 1.0)


def _value_counts(images: NDArray[np.uint8]) -> NDArray[np.intp]:
    """Count how often each channel of ``(N, C, H, W)`` has each value: ``(C, 256)``."""
    return np.stack([np.bincount(channel.ravel(), minlength=256) for channel in images.swapaxes(0, 1)])
