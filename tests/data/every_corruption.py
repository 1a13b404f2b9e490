"""Every corruption of a source's own labels or pixels, with its arguments."""

from __future__ import annotations

from typing import Any

from rethinkgen.data.corruption import (
    AsymmetricLabels,
    Gaussian,
    GaussianBlend,
    NoisyInputs,
    PartialLabels,
    RandomLabels,
    RandomPixels,
    ShuffledPixels,
    SymmetricLabels,
    TrueLabels,
)
from rethinkgen.data.module import CorruptedImages

EVERY: list[tuple[type[CorruptedImages], dict[str, Any]]] = [
    (TrueLabels, {}),
    (PartialLabels, {"probability": 0.5}),
    (RandomLabels, {}),
    (AsymmetricLabels, {"probability": 0.5}),
    (ShuffledPixels, {}),
    (RandomPixels, {}),
    (Gaussian, {}),
    (GaussianBlend, {"strength": 0.5}),
    (NoisyInputs, {"fraction": 0.5}),
    (SymmetricLabels, {"probability": 0.5}),
]
