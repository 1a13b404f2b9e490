"""A small folder of images, for tests of what is streamed."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image


def make_image_folder(
    root: Path,
    *,
    num_classes: int = 4,
    num_train: int = 8,
    num_test: int = 3,
    size: Callable[[np.random.Generator], tuple[int, int]] = lambda rng: tuple(rng.integers(40, 70, 2).tolist()),
    suffix: str = ".png",
) -> Path:
    """Write smooth random images of several sizes, ``num_train`` and ``num_test`` a class."""
    rng = np.random.default_rng(0)
    for split, count in (("train", num_train), ("val", num_test)):
        for label in range(num_classes):
            folder = root / split / f"class_{label}"
            folder.mkdir(parents=True)
            for number in range(count):
                coarse = Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8))
                coarse.resize(size(rng), Image.Resampling.BICUBIC).save(folder / f"{number}{suffix}")
            # Long ago, so that the listing is kept.
            os.utime(folder, (1e9, 1e9))
    return root
