"""The last thing done to an image before the network sees it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
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


def unit_sphere(images: Tensor, statistics: ChannelStatistics) -> Tensor:
    """Standardise each channel of ``(N, C, H, W)`` as ``normalization`` does, and scale each image to length 1.

    The length is the root of the sum of the squares of all its values: Fort et al. 2019 (arXiv 1901.09491), which does
    not say whether mean and deviation are those of channels. An image that is zero everywhere stays so, and the
    gradient is finite there.
    """
    standard = normalization(images, statistics)
    tiny = torch.finfo(images.dtype).tiny
    return standard / standard.square().sum((1, 2, 3), keepdim=True).clamp_min(tiny).sqrt()


def reduced(images: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """Reduce images ``(N, C, H, W)`` to ``(N, C, side, side)``: each value is the mean of the pixels in its place.

    Places overlap where ``side`` does not divide a side of the image (``torch``'s adaptive average pooling). Means are
    rounded to whole levels, halves to even ones, so that an image is of the same kind as one of the source.
    """
    parts = [torch.from_numpy(images[start : start + 1024]).float() for start in range(0, len(images), 1024)]
    means = [F.adaptive_avg_pool2d(part, (side, side)).round().to(torch.uint8) for part in parts]
    return np.concatenate([part.numpy() for part in means])


def _value_counts(images: NDArray[np.uint8]) -> NDArray[np.intp]:
    """Count how often each channel of ``(N, C, H, W)`` has each value: ``(C, 256)``."""
    return np.stack([np.bincount(channel.ravel(), minlength=256) for channel in images.swapaxes(0, 1)])
