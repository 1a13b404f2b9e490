"""What the ranks of one run settle among themselves; without other ranks each function returns what it is given.

A rank is one of the processes that train a run together, each on its own device. All must call the same functions in
the same order, or they wait for each other for ever: so whatever decides that something is called here must itself be
the same on all ranks.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


def num_ranks() -> int:
    """Return how many processes train together here."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


def rank() -> int:
    """Return which of them this is, from 0 on."""
    return dist.get_rank() if num_ranks() > 1 else 0


def sum_over_ranks(values: Tensor) -> Tensor:
    """Add up ``values`` over all ranks, in place; equal to the bit on all of them."""
    if num_ranks() > 1:
        dist.all_reduce(values)
    return values


def greatest_over_ranks(*values: int, device: torch.device) -> list[int]:
    """Return for each of ``values`` the greatest that a rank gave; ``device`` is the one this rank trains on."""
    if num_ranks() == 1:
        return list(values)
    greatest = torch.tensor(values, dtype=torch.int64, device=device)
    dist.all_reduce(greatest, dist.ReduceOp.MAX)
    return [int(value) for value in greatest.tolist()]


def gathered(value: Any) -> list[Any]:
    """Return what each rank gave, by rank: plain types and tensors on the CPU."""
    values = [value] * num_ranks()
    if num_ranks() > 1:
        dist.all_gather_object(values, value)
    return values


def take_buffers_of_rank_zero(module: nn.Module) -> None:
    """Have running statistics that each rank kept of its own share agree: rank 0's are the run's."""
    if num_ranks() > 1:
        for buffer in module.buffers():
            dist.broadcast(buffer, 0)
