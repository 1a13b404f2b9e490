"""Regularizers that are a piece of code: objects called with ``(network, logits, labels)``, which return a penalty.

Or with ``(batch, network)``, and return the batch that is trained on instead (``rethinkgen.train.classifier``). Each is
one class here and one YAML in ``conf/regularizer/``, and needs no other place.
"""

from __future__ import annotations

from torch import Tensor, nn

from rethinkgen.checks import check_positive


class ConfidencePenalty:
    """Reward predictions of high entropy: Pereyra et al. 2017, "Regularizing neural networks by penalizing confident
    output distributions".

    Added to the mean loss is ``-strength`` times the mean over examples of ``H(p) = -sum_k p_k ln p_k`` in nats.
    """

    def __init__(self, strength: float) -> None:
        self.strength = check_positive("regularizer.confidence_penalty.strength", strength)

    def __call__(self, network: nn.Module, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the penalty of logits ``(n, K)``."""
        told = logits.float().log_softmax(1)
        return self.strength * (told.exp() * told).sum(1).mean()
