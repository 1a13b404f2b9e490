"""Random draws that depend on nothing but (purpose, seed, split, key of the example).

A draw is found by its name, not by how many were made before it. So a corruption is the same in memory, in a
subset, on every rank and after a resume, and whatever the order of the examples.

The streams are numpy's Philox (Salmon et al. 2011, "Parallel random numbers: as easy as 1, 2, 3"), a
generator made for this: its 128-bit key is a hash of (purpose, seed, split), and the example's key is the
highest of its counter's four 64-bit words. Each example owns a stretch of 2**192 blocks that no other
reaches.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterator

import numpy as np
from numpy.random import Generator, Philox
from numpy.typing import NDArray


def generator(purpose: str, seed: int, split: str, key: int) -> Generator:
    """Return a new generator at the start of the stream of one example, or of one epoch."""
    counter = np.array([0, 0, 0, key], dtype=np.uint64)  # of a list numpy would make floats, once past 2**63
    return Generator(Philox(key=_philox_key(purpose, seed, split), counter=counter))


def generators(purpose: str, seed: int, split: str, keys: NDArray[np.uint64]) -> Iterator[Generator]:
    """Yield for each key its ``generator``: one object that is moved, so use it before asking for the next.

    Moving takes 1 microsecond. A new Philox takes 8, most of it for entropy that is thrown away.
    """
    shared = generator(purpose, seed, split, 0)
    start = shared.bit_generator.state
    counter = start["state"]["counter"]
    for key in keys.tolist():
        counter[3] = key
        shared.bit_generator.state = start
        yield shared


def uniforms(purpose: str, seed: int, split: str, keys: NDArray[np.uint64], n: int) -> NDArray[np.float64]:
    """Draw ``n`` numbers uniform in ``[0, 1)`` for each of ``keys (N,)``: shape ``(N, n)``."""
    drawn = np.empty((len(keys), n))
    for row, stream in zip(drawn, generators(purpose, seed, split, keys), strict=True):
        stream.random(out=row)
    return drawn


def normals(
    purpose: str, seed: int, split: str, keys: NDArray[np.uint64], shape: tuple[int, ...]
) -> NDArray[np.float32]:
    """Draw an array of standard normal numbers for each of ``keys (N,)``: shape ``(N, *shape)``."""
    drawn = np.empty((len(keys), *shape), dtype=np.float32)
    for row, stream in zip(drawn, generators(purpose, seed, split, keys), strict=True):
        stream.standard_normal(dtype=np.float32, out=row)
    return drawn


def permutations(purpose: str, seed: int, split: str, keys: NDArray[np.uint64], length: int) -> NDArray[np.int32]:
    """Draw a permutation of ``0 .. length - 1`` for each of ``keys (N,)``: shape ``(N, length)``."""
    drawn = np.empty((len(keys), length), dtype=np.int32)
    for row, stream in zip(drawn, generators(purpose, seed, split, keys), strict=True):
        row[:] = stream.permutation(length)
    return drawn


def balanced_subset(
    purpose: str, seed: int, labels: NDArray[np.int64], keys: NDArray[np.uint64], size: int
) -> NDArray[np.intp]:
    """Choose ``size`` training examples in which each class has its share, to within one example.

    Subsets are nested: a smaller one is part of a larger one. Within a class the order is random.

    Examples are chosen one after the other. Of a class with ``n`` of all ``N`` examples, the j-th (from 0) is
    due after ``floor(j N / n)`` choices and before ``ceil((j + 1) N / n)``; taking the earliest deadline
    first meets them all (Tijdeman 1980, "The chairman assignment problem"). To round each class's share of
    ``size`` would not be nested, and need not add up to ``size``.

    Returns:
        Their positions in ``labels``, ascending.
    """
    total = len(labels)
    assert 0 <= size <= total
    ticket = uniforms(purpose, seed, "train", keys, 1)[:, 0]
    shuffled = np.argsort(ticket, kind="stable")
    release, deadline = np.empty(total, dtype=np.int64), np.empty(total, dtype=np.int64)
    for label in np.unique(labels):
        members = shuffled[labels[shuffled] == label]
        place = np.arange(len(members))
        release[members] = place * total // len(members)
        deadline[members] = -(-(place + 1) * total // len(members))

    waiting = iter(np.argsort(release, kind="stable").tolist())
    upcoming = next(waiting, None)
    ready: list[tuple[int, float, int]] = []
    chosen: list[int] = []
    for time in range(size):
        while upcoming is not None and release[upcoming] <= time:
            heapq.heappush(ready, (int(deadline[upcoming]), float(ticket[upcoming]), upcoming))
            upcoming = next(waiting, None)
        chosen.append(heapq.heappop(ready)[2])
    return np.sort(np.array(chosen, dtype=np.intp))


def _philox_key(purpose: str, seed: int, split: str) -> NDArray[np.uint64]:
    name = f"{purpose}/{seed}/{split}".encode()
    return np.frombuffer(hashlib.blake2b(name, digest_size=16).digest(), dtype="<u8").astype(np.uint64)
