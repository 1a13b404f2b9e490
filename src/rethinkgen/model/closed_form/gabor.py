"""Gabor wavelet features of images: the "Gabor wavelets" of Zhang et al. 2017, Table 3.

The paper gives neither scales nor orientations nor pooling; these are ours, chosen on a held-out part of MNIST's
training set.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rethinkgen.model.closed_form.least_squares import full_precision

WAVELENGTHS = (4.0, 8.0)
"""In pixels; the envelope's standard deviation is 0.4 of it."""
NUM_ORIENTATIONS = 8
CELLS = 7
"""Responses are averaged over a grid of so many cells a side, or of as many as there are pixels."""
CHUNK = 500


class GaborFeatures(nn.Module):
    """The magnitude of Gabor wavelets' responses, averaged over a grid of cells.

    ``|g * x|`` for the complex wavelets ``g(u, v) = exp(-(u'^2 + v'^2) / (2 s^2)) exp(2 pi i u' / w) - c``, ``u',
    v'`` being the coordinates turned by the orientation, ``w`` the wavelength, ``s = 0.4 w``, and ``c`` a multiple of
    the envelope that makes the mean zero; each has an l2 norm of 1. Images are padded with zeros.
    """

    is_copying = True

    def __init__(self, image_shape: tuple[int, int, int]) -> None:
        super().__init__()
        self.image_shape = image_shape
        wavelengths = [wavelength for wavelength in WAVELENGTHS if wavelength <= max(image_shape[1:])]
        self.banks = [f"bank_{number}" for number in range(len(wavelengths))]
        for name, wavelength in zip(self.banks, wavelengths, strict=True):
            self.register_buffer(name, gabor_bank(wavelength, NUM_ORIENTATIONS), persistent=False)

    def forward(self, images: Tensor) -> Tensor:
        """Return ``(N, d)`` float32 for images ``(N, C, H, W)``."""
        return torch.cat([self._features(chunk) for chunk in torch.split(images, CHUNK)])

    def _features(self, images: Tensor) -> Tensor:
        height, width = images.shape[2:]
        flat = images.reshape(-1, 1, height, width)
        cells = (min(CELLS, height), min(CELLS, width))
        found = []
        for name in self.banks:
            bank = getattr(self, name)
            with full_precision():
                even, odd = F.conv2d(flat, bank, padding=bank.shape[-1] // 2).chunk(2, dim=1)
            found.append(F.adaptive_avg_pool2d(torch.sqrt(even**2 + odd**2), cells))
        return torch.cat(found, dim=1).reshape(len(images), -1)


def gabor_bank(wavelength: float, num_orientations: int) -> Tensor:
    """Return the wavelets of one wavelength: real parts, then imaginary parts, ``(2 * num_orientations, 1, side,
    side)``."""
    deviation = 0.4 * wavelength
    radius = math.ceil(3 * deviation)
    axis = torch.arange(-radius, radius + 1, dtype=torch.float64)
    v, u = torch.meshgrid(axis, axis, indexing="ij")
    real, imaginary = [], []
    for number in range(num_orientations):
        angle = math.pi * number / num_orientations
        turned = u * math.cos(angle) + v * math.sin(angle)
        envelope = torch.exp(-(u**2 + v**2) / (2 * deviation**2))
        even = envelope * torch.cos(2 * math.pi * turned / wavelength)
        even -= envelope * (even.sum() / envelope.sum())
        odd = envelope * torch.sin(2 * math.pi * turned / wavelength)
        norm = torch.sqrt((even**2 + odd**2).sum())
        real.append(even / norm)
        imaginary.append(odd / norm)
    return torch.stack(real + imaginary)[:, None].float()
