"""Derivatives by way of a whole training: the adjoint of SGD with momentum."""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call

from rethinkgen.measure.outputs import BYTES, differentiable, prediction_parts
from rethinkgen.measure.predict import slices
from rethinkgen.measure.weights import State

AT_ONCE = 32
"""Losses whose derivatives go back through a step together."""


class Step(NamedTuple):
    """One step of SGD with momentum: ``m' = momentum m + g``, ``w' = w - learning_rate m'``."""

    number: int
    """So many were taken before."""
    weights: State
    """Before it"""
    indices: Tensor
    """``(b,)``: positions of its batch in the training split"""
    learning_rate: float
    momentum: float


class Adjoint:
    """Derivatives of losses along a training with respect to the images that it was on, by going back step by step.

    Args:
        network: its architecture; of its own weights only those that are not trained are used.
        inputs: ``(n, C, H, W)``, of all training examples
        labels: ``(n,)``
        times: after how many steps a loss is taken; ascending
        parts: ``(parts, n)``: weight of each example in each part of the loss, all of which together are the mean
    """

    def __init__(self, network: nn.Module, inputs: Tensor, labels: Tensor, times: list[int], parts: Tensor) -> None:
        self.network, self.times, self.parts = network, times, parts
        self.inputs, self.labels = inputs, labels
        trained = [(name, value) for name, value in network.named_parameters() if value.requires_grad]
        if not trained:
            raise ValueError("the network has no weights that are trained by gradients. Leave this run out.")
        self.names = [name for name, _ in trained]
        self.parameters = [value for _, value in trained]
        self.open = 0
        """Derivatives of so many losses are under way: of the last times, each in its parts."""
        self.of_weights: list[Tensor] = []
        self.of_momenta: list[Tensor] = []
        self.of_images: Tensor | None = None
        """``(losses, n, C, H, W)``, the last time first, by way of the weights"""
        self.direct: list[Tensor] = []
        """Of each time, the last first: ``(n, C, H, W)``, of the whole loss with the weights held fixed"""

    def check_memory(self, memory_mb: float, num_times: int) -> None:
        """Refuse more derivatives than fit into half of what may be held."""
        size = 2 * sum(value.numel() for value in self.parameters) + self.inputs.numel()
        needed = BYTES * len(self.times) * (len(self.parts) * size + self.inputs.numel()) / 2**20
        if needed > memory_mb / 2:
            raise ValueError(
                f"num_times={num_times}: {len(self.times)} times, with {len(self.parts)} losses at each, take about "
                f"{needed:,.3g} MB, and memory_mb={memory_mb:g}. Allow {2 * needed:,.3g}, or take fewer times or "
                "by_class=false."
            )

    def gradients(self, step: Step) -> State:
        """Return the gradient that a step is taken with."""
        with differentiable(self.network, self.inputs.device):
            weights = {name: value.clone().requires_grad_(True) for name, value in step.weights.items()}
            images, labels = self.inputs[step.indices], self.labels[step.indices]
            loss = F.cross_entropy(functional_call(self.network, weights, (images,)), labels)
            found = torch.autograd.grad(loss, list(weights.values()))
        return dict(zip(self.names, found, strict=True))

    def go_back(self, step: Step, after: State) -> None:
        """Take the derivatives from behind a step, where the weights were ``after``, to before it."""
        if self.of_images is None:
            num_losses = len(self.times) * len(self.parts)
            self.of_weights = [value.new_zeros(num_losses, *value.shape) for value in self.parameters]
            self.of_momenta = [torch.zeros_like(value) for value in self.of_weights]
            self.of_images = self.inputs.new_zeros(num_losses, *self.inputs.shape)
        if step.number + 1 in self.times:
            self._begin(after)
        with differentiable(self.network, self.inputs.device):
            weights = [value.clone().requires_grad_(True) for value in step.weights.values()]
            images = self.inputs[step.indices].clone().requires_grad_(True)
            logits = functional_call(self.network, dict(zip(self.names, weights, strict=True)), (images,))
            loss = F.cross_entropy(logits, self.labels[step.indices])
            gradients = torch.autograd.grad(loss, weights, create_graph=True)
            for rows in slices(self.open, AT_ONCE):
                of_steps = [
                    of_momentum[rows] - step.learning_rate * of_weight[rows]
                    for of_momentum, of_weight in zip(self.of_momenta, self.of_weights, strict=True)
                ]
                *found, of_batch = torch.autograd.grad(
                    gradients, [*weights, images], of_steps, retain_graph=True, allow_unused=True, is_grads_batched=True
                )
                for place, value in zip(self.of_weights, found, strict=True):
                    place[rows] += 0 if value is None else value
                for place, value in zip(self.of_momenta, of_steps, strict=True):
                    place[rows] = step.momentum * value
                self.of_images[rows].index_add_(1, step.indices, of_batch)

    def _begin(self, weights_now: State) -> None:
        """Add the losses at this time to those whose derivatives are under way."""
        rows = slice(self.open, self.open + len(self.parts))
        direct = torch.zeros_like(self.inputs)
        with differentiable(self.network, self.inputs.device):
            weights = [value.clone().requires_grad_(True) for value in weights_now.values()]
            for part in prediction_parts(self.inputs):
                images = self.inputs[part].clone().requires_grad_(True)
                logits = functional_call(self.network, dict(zip(self.names, weights, strict=True)), (images,))
                losses = F.cross_entropy(logits, self.labels[part], reduction="none")
                (direct[part],) = torch.autograd.grad(losses.sum() / len(self.labels), images, retain_graph=True)
                for row, shares in enumerate(self.parts[:, part], self.open):
                    found = torch.autograd.grad((shares * losses).sum(), weights, retain_graph=True)
                    for place, value in zip(self.of_weights, found, strict=True):
                        place[row] += value
        self.direct.append(direct)
        self.open = rows.stop
