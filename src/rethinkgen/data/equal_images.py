"""Equal images: with other labels, which no network can fit, or in a split that it should not know yet."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from torch import Tensor


class Conflicts(NamedTuple):
    """What equal inputs with different labels cost."""

    num_conflicts: int
    """Examples whose input is also that of an example with another label"""
    ceiling: float
    """Best accuracy that any function of the inputs can have on the labels"""


def find_conflicts(inputs: Tensor, labels: Tensor) -> Conflicts:
    """Find rows of ``inputs (N, ...)`` on the CPU that are bitwise equal but whose ``labels (N,)`` differ."""
    rows = inputs.flatten(1).numpy()
    alike: defaultdict[bytes, list[int]] = defaultdict(list)
    for i, values in enumerate(_sketches(rows)):
        alike[values.tobytes()].append(i)
    equal: defaultdict[bytes, Counter[int]] = defaultdict(Counter)
    for i in (i for group in alike.values() if len(group) > 1 for i in group):
        equal[_digest(rows[i])][int(labels[i])] += 1
    conflicting = [counts for counts in equal.values() if len(counts) > 1]
    num_missed = sum(counts.total() - max(counts.values()) for counts in conflicting)
    return Conflicts(sum(counts.total() for counts in conflicting), 1 - num_missed / len(rows))


def find_shared(
    images: NDArray[np.uint8], index: NDArray[np.intp], others: NDArray[np.uint8], other_index: NDArray[np.intp]
) -> list[tuple[int, int]]:
    """Find which of ``others[other_index]`` are also among ``images[index]``, both ``(N, C, H, W)``.

    Returns pairs (position in ``others``, first position in ``images``), ordered by the former.
    """
    rows, other_rows = images.reshape(len(images), -1), others.reshape(len(others), -1)
    sketches = [values.tobytes() for values in _sketches(other_rows)[other_index]]
    sought, alike = set(sketches), set()
    first: dict[bytes, int] = {}
    for i, values in zip(index.tolist(), _sketches(rows)[index], strict=True):
        if (sketch := values.tobytes()) in sought:
            alike.add(sketch)
            first.setdefault(_digest(rows[i]), i)
    candidates = (j for j, sketch in zip(other_index.tolist(), sketches, strict=True) if sketch in alike)
    return [(j, first[digest]) for j in candidates if (digest := _digest(other_rows[j])) in first]


def _sketches(rows: NDArray[Any]) -> NDArray[Any]:
    """Return some 64 values of each row: they tell nearly all images apart, and only the others are compared whole."""
    return np.ascontiguousarray(rows[:, :: max(1, rows.shape[1] // 64)])


def _digest(row: NDArray[Any]) -> bytes:
    return hashlib.blake2b(row.tobytes(), digest_size=16).digest()
