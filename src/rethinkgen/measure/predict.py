"""What a network says of examples: in evaluation mode, in float32, each example by itself."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rethinkgen.collective import greatest_over_ranks, num_ranks, rank, sum_over_ranks
from rethinkgen.data.streaming import Inputs, in_parts

BatchNorm = nn.modules.batchnorm._BatchNorm

PREDICTION_BATCH = 500
PREDICTION_VALUES = 2**24
"""Of the inputs that are predicted at once, at most: 500 images up to 105x105, 62 of 299x299, for memory's sake."""
TOP = 5
"""``Predictions.is_in_top`` marks an example whose label is among so many best guesses."""
FEW_CLASSES = 10
"""Up to so many classes, it is not given."""


class Predictions(NamedTuple):
    """A network's output on examples: cross-entropy ``(N,)`` against the given labels, and classes ``(N,)``."""

    losses: Tensor
    classes: Tensor
    is_in_top: Tensor | None = None
    """``(N,)`` bool: the given label is among the ``TOP`` best guesses; of more than ``FEW_CLASSES`` classes"""


@torch.no_grad()
def predict(network: nn.Module, inputs: Inputs, labels: Tensor, *, is_shared: bool = False) -> Predictions:
    """Run ``network`` in evaluation mode on inputs ``(N, C, H, W)``, in memory or not, in batches, without autocast.

    No value depends on another example. The mode of every module is put back. ``is_shared``: all ranks call this with
    the same network and examples; each runs its share of the batches, and all return the whole.
    """
    # Whole batches are shared out, so that the numbers are those of one process.
    first, num_shares = (rank(), num_ranks()) if is_shared else (0, 1)
    parts = slices(len(labels), min(PREDICTION_BATCH, max(1, PREDICTION_VALUES // math.prod(inputs.shape[1:]))))
    parts = parts[first::num_shares]
    losses, classes = labels.new_zeros(len(labels), dtype=torch.float32), torch.zeros_like(labels)
    is_in_top = torch.zeros_like(labels)
    num_classes = 0
    with evaluation_mode(network), torch.autocast(labels.device.type, enabled=False):
        for part, images in zip(parts, in_parts(inputs, parts), strict=True):
            logits = network(images).float()
            losses[part] = F.cross_entropy(logits, labels[part], reduction="none")
            classes[part] = logits.argmax(1)
            num_classes = logits.shape[1]
            if num_classes > FEW_CLASSES:
                is_in_top[part] = (logits.topk(TOP).indices == labels[part, None]).any(1).long()
    if is_shared:
        # Every example is one rank's and zero on the others. A rank that had no share does not know how many classes.
        sum_over_ranks(losses)
        sum_over_ranks(classes)
        sum_over_ranks(is_in_top)
        (num_classes,) = greatest_over_ranks(num_classes, device=labels.device)
    return Predictions(losses, classes, is_in_top.bool() if num_classes > FEW_CLASSES else None)


def slices(total: int, size: int) -> list[slice]:
    """Cut ``range(total)`` into slices of ``size``, the last of which may be shorter."""
    return [slice(start, min(start + size, total)) for start in range(0, total, size)]


@contextmanager
def evaluation_mode(network: nn.Module) -> Iterator[None]:
    """Switch dropout and BatchNorm to evaluation, and every module back to the mode it was in."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
@torch.no_grad()
def recalibrated_batch_norm(network: nn.Module, inputs: Inputs, batch_size: int) -> Iterator[None]:
    """For a while, BatchNorm's running statistics are plain means over one pass through ``inputs``.

    The moving average that BatchNorm keeps lags behind weights that still move, so that a network may fit every batch
    while it trains and yet miss some of the same examples in evaluation mode.
    """
    norms = batch_norms(network)
    saved = [({name: value.clone() for name, value in norm.named_buffers()}, norm.momentum) for norm in norms]
    with evaluation_mode(network):
        try:
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # a cumulative mean
                norm.train()
            parts = slices(len(inputs), batch_size)
            for images in in_parts(inputs, parts[:-1] if len(parts) > 1 and len(inputs) % batch_size else parts):
                network(images)
            yield
        finally:
            for norm, (buffers, momentum) in zip(norms, saved, strict=True):
                norm.load_state_dict(buffers, strict=False)
                norm.momentum = momentum


def batch_norms(network: nn.Module) -> list[BatchNorm]:
    """Return the modules that keep running statistics."""
    return [module for module in network.modules() if isinstance(module, BatchNorm)]


def has_batch_norm(network: nn.Module) -> bool:
    """Whether any module keeps running statistics."""
    return bool(batch_norms(network))
