"""A source of random images, for tests that need no files."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from rethinkgen.data.source import Examples, Images


@dataclass
class InMemory:
    """Random pixels and labels; ``order`` rearranges the training examples, keys and all."""

    num_train: int = 200
    num_test: int = 50
    shape: tuple[int, int, int] = (3, 10, 10)
    num_classes: int = 5
    order: NDArray[np.intp] | None = None
    times_prepared: int = 0
    times_loaded: int = 0

    def prepare(self) -> None:
        self.times_prepared += 1

    def load(self) -> Images:
        self.times_loaded += 1
        rng = np.random.default_rng(0)
        train, test = self._examples(rng, self.num_train), self._examples(rng, self.num_test)
        if self.order is not None:
            train = Examples(train.images[self.order], train.labels[self.order], train.keys[self.order])
        return Images(train, test, tuple("abcdefghijklmnopqrstuvwxyz"[: self.num_classes]))

    def fingerprint(self) -> str:
        return "in memory"

    def _examples(self, rng: np.random.Generator, n: int) -> Examples:
        images = rng.integers(0, 256, (n, *self.shape), dtype=np.uint8)
        return Examples(images, rng.integers(0, self.num_classes, n), np.arange(n, dtype=np.uint64))
