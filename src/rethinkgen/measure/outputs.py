"""What a network answers, part by part, where more is wanted of it than loss and class."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rethinkgen.data.streaming import Inputs, in_parts
from rethinkgen.measure.predict import PREDICTION_BATCH, PREDICTION_VALUES, evaluation_mode, slices

BYTES = 4
"""Of a float32."""


def prediction_parts(inputs: Inputs) -> list[slice]:
    """Cut the inputs ``(N, C, H, W)`` as ``predict`` does."""
    return slices(len(inputs), min(PREDICTION_BATCH, max(1, PREDICTION_VALUES // math.prod(inputs.shape[1:]))))


@torch.no_grad()
def logits_in_parts(network: nn.Module, inputs: Inputs) -> Iterator[tuple[slice, Tensor]]:
    """Yield each part of the inputs, and its logits ``(n, C)`` float32, as ``predict`` computes them."""
    parts = prediction_parts(inputs)
    with evaluation_mode(network):
        for part, images in zip(parts, in_parts(inputs, parts), strict=True):
            with torch.autocast(images.device.type, enabled=False):
                logits = network(images).float()
            yield part, logits


@contextmanager
def differentiable(network: nn.Module, device: torch.device) -> Iterator[None]:
    """Evaluation mode, gradients on, without autocast; no ``.grad`` is touched by ``torch.autograd.grad``."""
    with evaluation_mode(network), torch.enable_grad(), torch.autocast(device.type, enabled=False):
        yield


Note = Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]
"""Is given a module, the arguments of a call of it, and what it returned."""


def leaves(network: nn.Module) -> list[nn.Module]:
    """Return the modules that consist of no others."""
    return [module for module in network.modules() if not next(module.children(), None)]


def noted_pass(network: nn.Module, image: Tensor, modules: Iterable[nn.Module], note: Note) -> None:
    """Pass an ``image (1, C, H, W)`` through the network, in evaluation mode, and note each call of ``modules``."""
    hooks = [module.register_forward_hook(note) for module in modules]
    try:
        with evaluation_mode(network), torch.no_grad(), torch.autocast(image.device.type, enabled=False):
            network(image)
    finally:
        for hook in hooks:
            hook.remove()


def bytes_of_pass(network: nn.Module, image: Tensor) -> int:
    """Return what a pass of ``image (1, C, H, W)`` forward and back holds, about: three times all that is computed."""
    values = image.numel()

    def note(_module: nn.Module, _given: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal values
        values += output.numel()

    noted_pass(network, image, leaves(network), note)
    return 3 * BYTES * values


def num_at_once(bytes_per_example: int, memory_mb: float) -> int:
    """Return how many examples may go through a network at once, in half of what may be held.

    Raises:
        ValueError: not one.
    """
    fits = int(memory_mb * 2**20 / 2 / bytes_per_example)
    if not fits:
        needed = bytes_per_example / 2**20
        raise ValueError(
            f"memory_mb={memory_mb:g}: one example takes about {needed:.3g} MB. Allow {2 * needed:.3g} at least."
        )
    return min(fits, PREDICTION_BATCH)


def summed_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """Return the sum of the cross-entropies in nats, in float64 where the device has it.

    Of a fitted example the gradient at the logits is a probability less one, of which float32 leaves no digit.
    """
    return F.cross_entropy(logits if logits.device.type == "mps" else logits.double(), labels, reduction="sum")


def output_margins(logits: Tensor, labels: Tensor) -> Tensor:
    """Return ``(n,)``: the logit of the label less the largest other one; above zero where the label is predicted."""
    own = logits.gather(1, labels[:, None])
    return (own - logits.scatter(1, labels[:, None], -torch.inf).amax(1, keepdim=True))[:, 0]
