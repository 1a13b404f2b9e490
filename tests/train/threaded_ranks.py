"""Ranks as threads of one process: enough for what only adds up over ranks, without processes and their seconds."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import ModuleType
from typing import TypeVar

import pytest
import torch
from torch import Tensor

T = TypeVar("T")


def on_ranks(module: ModuleType, size: int, work: Callable[[int], T]) -> list[T]:
    """Return what ``work(rank)`` gives on each rank, where ``module`` asks ``rethinkgen.collective`` what it needs."""
    place = threading.local()
    meeting = threading.Barrier(size, timeout=60)
    given: list[Tensor | None] = [None] * size

    def sum_over_ranks(values: Tensor) -> Tensor:
        given[place.rank] = values.detach().clone()
        meeting.wait()
        total = torch.stack([each for each in given if each is not None]).sum(0)
        meeting.wait()
        return values.copy_(total)

    def at(rank: int) -> T:
        place.rank = rank
        try:
            return work(rank)
        except BaseException:
            meeting.abort()
            raise

    with pytest.MonkeyPatch.context() as patch, ThreadPoolExecutor(size) as threads:
        patch.setattr(module, "num_ranks", lambda: size)
        patch.setattr(module, "rank", lambda: place.rank, raising=False)
        patch.setattr(module, "sum_over_ranks", sum_over_ranks)
        return list(threads.map(at, range(size)))
