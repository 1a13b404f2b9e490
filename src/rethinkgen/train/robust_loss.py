"""Losses under which wrong labels weigh less, each ``loss(logits, labels, index) -> (n,)`` (``rethinkgen.train.loss``).

``p = softmax(logits)``, ``y`` the given label. All are computed in float32 at least, under any precision.
"""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from rethinkgen.checks import check_between
from rethinkgen.train.loss import BlockRows, log_probabilities

LEAST, MOST = 1e-4, 1 - 1e-4
"""What ELR's probabilities are kept between, as in its authors' code."""
MOST_BYTES = 2**31
"""That ELR may remember of a training set."""


class GeneralizedCrossEntropy:
    """``(1 - p_y^q) / q``: Zhang and Sabuncu 2018 (arXiv 1805.07836), without the truncation of their second form.

    Args:
        q: from 0, which is cross-entropy, to 1, which is the mean absolute error (halved).
    """

    def __init__(self, q: float = 0.7) -> None:
        self.q = check_between("loss.q", q, 0, 1)

    def __call__(self, logits: Tensor, labels: Tensor, index: Tensor) -> Tensor:
        """Return the losses."""
        of_label = _of_labels(log_probabilities(logits), labels)
        return -torch.expm1(self.q * of_label) / self.q if self.q else -of_label


class BootstrapSoft:
    """``-sum_k (b [k = y] + (1 - b) p_k) log p_k``: Reed et al. 2015 (arXiv 1412.6596), soft bootstrapping.

    The gradient goes through both ``p``, so that it is ``b`` times cross-entropy plus ``1 - b`` times the entropy of
    the prediction; whether the authors hold the target constant our notes do not say.

    Args:
        beta: ``b`` in ``[0, 1]``; 1 is cross-entropy.
    """

    def __init__(self, beta: float = 0.95) -> None:
        self.beta = check_between("loss.beta", beta, 0, 1)

    def __call__(self, logits: Tensor, labels: Tensor, index: Tensor) -> Tensor:
        """Return the losses."""
        logs = log_probabilities(logits)
        return -self.beta * _of_labels(logs, labels) - (1 - self.beta) * (logs.exp() * logs).sum(1)


class BootstrapHard:
    """``-b log p_y - (1 - b) log max_k p_k``: Reed et al. 2015 (arXiv 1412.6596), hard bootstrapping.

    Args:
        beta: ``b`` in ``[0, 1]``; 1 is cross-entropy.
    """

    def __init__(self, beta: float = 0.8) -> None:
        self.beta = check_between("loss.beta", beta, 0, 1)

    def __call__(self, logits: Tensor, labels: Tensor, index: Tensor) -> Tensor:
        """Return the losses."""
        logs = log_probabilities(logits)
        return -self.beta * _of_labels(logs, labels) - (1 - self.beta) * logs.amax(1)


class SymmetricCrossEntropy:
    """``a CE(y, p) + b RCE(p, y)``, where RCE takes the label for the prediction: Wang et al. 2019.

    ``RCE = -sum_k p_k log [k = y]`` with ``log 0 := A``, which is ``-A (1 - p_y)``.

    Args:
        alpha: ``a``, of cross-entropy.
        beta: ``b``, of the reverse; 0 and ``alpha`` 1 are cross-entropy.
        log_zero: ``A``, negative.
    """

    def __init__(self, alpha: float = 0.1, beta: float = 1.0, log_zero: float = -4.0) -> None:
        self.alpha = check_between("loss.alpha", alpha, 0, math.inf, below=True)
        self.beta = check_between("loss.beta", beta, 0, math.inf, below=True)
        self.log_zero = check_between("loss.log_zero", log_zero, -1000, 0)

    def __call__(self, logits: Tensor, labels: Tensor, index: Tensor) -> Tensor:
        """Return the losses."""
        of_label = _of_labels(log_probabilities(logits), labels)
        return -self.alpha * of_label + self.beta * self.log_zero * torch.expm1(of_label)


class EarlyLearningRegularization:
    """``CE + lambda log(1 - <t_i, p>)``: Liu et al. 2020 (arXiv 2007.00151), ELR.

    The target ``t_i`` of each example is a running mean of what the network said of it, ``beta t_i + (1 - beta) p``,
    moved before the loss is taken and constant in the gradient; ``p`` is kept in ``[1e-4, 1 - 1e-4]``, and made to sum
    to 1 again where it moves the target. Targets start at 0.

    Args:
        strength: lambda; 0 is cross-entropy.
        momentum: beta.
    """

    def __init__(self, strength: float = 3.0, momentum: float = 0.7) -> None:
        self.strength = check_between("loss.strength", strength, 0, math.inf, below=True)
        self.momentum = check_between("loss.momentum", momentum, 0, 1, below=True)
        self._targets = torch.empty(0)

    def begin(self, num_examples: int, num_classes: int, device: torch.device) -> None:
        """Make room for the targets ``(N, C)``.

        Raises:
            ValueError: there is none.
        """
        if (size := 4 * num_examples * num_classes) > MOST_BYTES:
            raise ValueError(
                f"loss=elr: it remembers a number for each of {num_examples:,} examples and {num_classes:,} classes, "
                f"{size / 2**30:.1f} GB; {MOST_BYTES / 2**30:.0f} GB are the most. Train on fewer (data.num_train), or "
                "with loss=gce, which remembers nothing."
            )
        self._targets = torch.zeros(num_examples, num_classes, device=device)

    def __call__(self, logits: Tensor, labels: Tensor, index: Tensor) -> Tensor:
        """Return the losses, and move the targets of these examples."""
        logs = log_probabilities(logits)
        clamped = logs.exp().clamp(LEAST, MOST)
        with torch.no_grad():
            self._targets = self._targets.to(clamped.dtype)
            said = clamped / clamped.sum(1, keepdim=True)
            targets = self.momentum * self._targets.index_select(0, index) + (1 - self.momentum) * said
            self._targets.index_copy_(0, index, targets)
        return -_of_labels(logs, labels) + self.strength * torch.log1p(-(targets * clamped).sum(1))

    def end_block(self, rows: BlockRows) -> None:
        """Take up the targets of other ranks' examples."""
        rows.exchange(self._targets)

    def state_dict(self) -> dict[str, Any]:
        """Return the targets."""
        return {"targets": self._targets}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up the targets."""
        self._targets = state["targets"].to(self._targets.device, copy=True)


def _of_labels(logs: Tensor, labels: Tensor) -> Tensor:
    """Return ``log p_y (n,)``, to the bit the negative of cross-entropy."""
    return -F.nll_loss(logs, labels, reduction="none")
