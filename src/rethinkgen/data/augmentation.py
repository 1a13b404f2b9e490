"""Random geometry and colour, batched on the device: crop, then flip, then rotation, then colour.

Which image gets which of them is decided by numbers handed in, not by torch's generator, so that it is a
function of (order seed, epoch, example): the same on every rank, in blocks of any length, and after a resume.
All is computed in the images' own type, whatever torch's default is: Lightning changes that in a step of ``64-true``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from rethinkgen.data.draws import generator

CROP_Y, CROP_X, FLIP, ANGLE, BRIGHTNESS, SATURATION, HUE, CONTRAST = range(8)
Images = TypeVar("Images", Tensor, NDArray[np.uint8])


@dataclass(frozen=True)
class Augmentation:
    """Which of the four act, and how much.

    Zhang et al. 2017, Table 1 crops 28x28 out of 32x32 at random; Table 4 flips and rotates by up to 25
    degrees; Table 2 changes colours too. Each draws numbers of its own, so that none changes what another does.
    """

    size: tuple[int, int]
    """Height and width that the network sees."""
    random_crop: bool = False
    flip: bool = False
    rotation: float = 0.0
    """Largest angle in degrees, either way."""
    color_jitter: bool = False

    def __bool__(self) -> bool:
        """Whether anything is random at all."""
        return self.random_crop or self.flip or self.rotation > 0 or self.color_jitter

    def __call__(self, images: Tensor, draws: Tensor) -> Tensor:
        """Turn uncropped images ``(n, C, H, W)`` into ``(n, C, *size)`` by uniform ``draws (n, 4 or 8)``."""
        images = random_crop(images, self.size, draws) if self.random_crop else center_crop(images, self.size)
        if self.flip:
            images = flip(images, draws)
        if self.rotation > 0:
            images = rotation(images, self.rotation, draws)
        if self.color_jitter:
            images = color_jitter(images, draws)
        return images


def epoch_draws(seed: int, epoch: int, num_examples: int, *, color: bool = False) -> Tensor:
    """Draw for each training example of an epoch ``[crop y, crop x, flip, angle]``, uniform in [0, 1).

    Shape ``(num_examples, 4)`` float32; with ``color`` ``(num_examples, 8)``, ``[brightness, saturation, hue,
    contrast]`` beside them.
    """
    purposes = ("augmentation", "color_jitter") if color else ("augmentation",)
    drawn = [generator(purpose, seed, "train", epoch).random((num_examples, 4), np.float32) for purpose in purposes]
    return torch.from_numpy(np.concatenate(drawn, axis=1))


def center_crop(images: Images, size: tuple[int, int]) -> Images:
    """Cut ``size`` out of the middle of ``(..., H, W)``; an odd margin is smaller above and on the left.

    28 of 32 leaves rows and columns 2 to 29, as in Zhang et al. 2017.
    """
    top, left = ((side - wanted) // 2 for side, wanted in zip(images.shape[-2:], size, strict=True))
    return images[..., top : top + size[0], left : left + size[1]]


def random_crop(images: Tensor, size: tuple[int, int], draws: Tensor) -> Tensor:
    """Cut ``size`` out of each of ``(n, C, H, W)``, every position equally likely.

    A side that has no margin is first padded at both ends with zeros, by 1/14 of its length and at least 1
    pixel: the margin that 28 of 32 has.
    """
    pad_y, pad_x = (
        0 if side > wanted else max(1, round(side / 14)) for side, wanted in zip(images.shape[-2:], size, strict=True)
    )
    images = F.pad(images, (pad_x, pad_x, pad_y, pad_y))
    n, channels, height, width = images.shape
    rows = _positions(draws[:, CROP_Y], height - size[0], size[0])
    columns = _positions(draws[:, CROP_X], width - size[1], size[1])
    places = (rows[:, :, None] * width + columns[:, None, :]).view(n, 1, -1)
    cut = images.flatten(2).gather(2, places.expand(-1, channels, -1))
    return cut.view(n, channels, *size)


def flip(images: Tensor, draws: Tensor) -> Tensor:
    """Mirror each of ``(n, C, H, W)`` left to right with probability 1/2."""
    is_flipped = draws[:, FLIP] < 0.5
    return torch.where(is_flipped[:, None, None, None], images.flip(3), images)


def rotation(images: Tensor, degrees: float, draws: Tensor) -> Tensor:
    """Turn each of ``(n, C, H, W)`` about its centre by an angle uniform in ``[-degrees, degrees)``.

    Bilinear; zeros come in from outside. A positive angle is counter-clockwise.
    """
    angle = (draws[:, ANGLE] * 2 - 1) * math.radians(degrees)
    return rotate(images, angle)


def rotate(images: Tensor, angle: Tensor) -> Tensor:
    """Turn each of ``(n, C, H, W)`` counter-clockwise about its centre by its ``angle (n,)`` in radians."""
    _, _, height, width = images.shape
    # Not affine_grid: it multiplies matrices, which autocast and TF32 would do at low precision.
    y, x = (torch.arange(side, device=images.device, dtype=images.dtype) - (side - 1) / 2 for side in (height, width))
    cosine, sine = angle.cos()[:, None, None], angle.sin()[:, None, None]
    source_x = cosine * x - sine * y[:, None]
    source_y = sine * x + cosine * y[:, None]
    grid = torch.stack((source_x * (2 / width), source_y * (2 / height)), dim=-1)
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="zeros", align_corners=False)


def color_jitter(images: Tensor, draws: Tensor) -> Tensor:
    """Change brightness, saturation, hue and contrast of each of ``(n, C, H, W)`` in ``[0, 1]``, in this order.

    What TensorFlow's Inception package does, as we remember it, unverified: added to every value, uniform in -32/255 to
    32/255; saturation (of HSV) times 0.5 to 1.5; hue turned by -0.2 to 0.2 of the circle; distance to the channel's
    mean times 0.5 to 1.5; the result limited to ``[0, 1]``. Grey images have neither saturation nor hue.
    """
    brightness, saturation, hue, contrast = (
        low + (high - low) * draws[:, column, None, None, None]
        for column, low, high in (
            (BRIGHTNESS, -32 / 255, 32 / 255),
            (SATURATION, 0.5, 1.5),
            (HUE, -0.2, 0.2),
            (CONTRAST, 0.5, 1.5),
        )
    )
    images = (images + brightness).clamp(0, 1)
    if images.shape[1] == 3:
        hues, saturations, values = _to_hsv(images)
        images = _from_hsv((hues + hue) % 1, (saturations * saturation).clamp(max=1), values)
    mean = images.mean((2, 3), keepdim=True)
    return ((images - mean) * contrast + mean).clamp(0, 1)


def _to_hsv(images: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return hue (a share of the circle), saturation and value ``(n, 1, H, W)`` of red, green and blue."""
    red, green, blue = images[:, 0:1], images[:, 1:2], images[:, 2:3]
    value, least = images.amax(1, keepdim=True), images.amin(1, keepdim=True)
    spread = value - least
    some = torch.where(spread > 0, spread, 1.0)
    hue = torch.where(
        value == red,
        (green - blue) / some,
        torch.where(value == green, 2 + (blue - red) / some, 4 + (red - green) / some),
    )
    return (hue / 6) % 1, spread / torch.where(value > 0, value, 1.0), value


def _from_hsv(hue: Tensor, saturation: Tensor, value: Tensor) -> Tensor:
    """Undo ``_to_hsv``: each channel is value * (1 - saturation * how far its own hue is, limited to 0 to 1)."""
    sixths = torch.arange(5, 0, -2, device=hue.device, dtype=hue.dtype)  # red, green and blue at 5, 3 and 1
    sixths = sixths.view(1, 3, 1, 1)
    distance = (sixths + 6 * hue) % 6
    return value * (1 - saturation * torch.minimum(distance, 4 - distance).clamp(0, 1))


def _positions(draws: Tensor, margin: int, length: int) -> Tensor:
    first = (draws * (margin + 1)).long()  # at most margin: even the largest float32 below 1 is rounded down
    return first[:, None] + torch.arange(length, device=draws.device)
