"""Optimizers that torch has not. One with ``needs_second_pass`` is given the gradient of its batch a second time."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from rethinkgen.checks import check_between


class SAM(torch.optim.SGD):
    """Sharpness-aware minimisation: Foret et al. 2021 (arXiv 2010.01412), on top of SGD.

    ``w <- SGD step from w by grad L(w + rho g / |g|_2)``, where ``g = grad L(w)`` of the same batch and ``|.|_2`` is
    one norm over all parameters. As in the authors' code (github.com/google-research/sam) the second-order term is
    dropped, and BatchNorm's running statistics are those of the first pass; dropout draws anew in the second.
    Unlike there, weight decay acts in the step alone and not on ``g``; gradients are clipped only where
    ``gradient_clip`` asks for it, which then acts on both (there on the second, at 5); and on several devices ``g`` is
    that of the whole batch, so that a run is the same on any number of them (there each goes by its own share).

    A step counts once, and costs two. ``train/loss`` is that of the first pass, before the step.

    Args:
        rho: how far the weights are moved for the second gradient, in the 2-norm; 0 is SGD to the bit, at its cost.
        lr, momentum, dampening, weight_decay, nesterov, fused: SGD's.
    """

    needs_second_pass = True

    def __init__(
        self,
        params: Any,
        lr: float,
        rho: float = 0.05,
        momentum: float = 0.0,
        dampening: float = 0.0,
        weight_decay: float = 0.0,
        nesterov: bool = False,
        fused: bool | None = None,
    ) -> None:
        self.rho = check_between("optimizer.rho", rho, 0, math.inf, below=True)
        super().__init__(params, lr, momentum, dampening, weight_decay, nesterov, fused=fused)

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Take a step; ``closure`` computes the gradient again, where the weights then are."""
        if closure is None:
            raise ValueError("SAM.step needs a closure that computes the gradient of the batch again.")
        weights = [value for group in self.param_groups for value in group["params"] if value.grad is not None]
        gradients: list[Tensor] = [value.grad for value in weights]
        if self.rho and weights:
            norm = torch.stack(torch._foreach_norm(gradients)).norm()
            # They are copied back rather than moved back, which would be off by a rounding error. Kept here and not in
            # `self.state`, which is part of every checkpoint.
            before = [value.clone() for value in weights]
            # The least normal number: a gradient of zero moves nothing.
            scale = self.rho / norm.clamp(min=torch.finfo(norm.dtype).tiny)
            torch._foreach_add_(weights, torch._foreach_mul(gradients, scale))
            closure()
            torch._foreach_copy_(weights, before)
        return super().step()
