"""How hard each training example was, by what the network said of it whenever it stood in a training batch.

``answers`` reads that from the logits of a batch. Summed up over a run it is what ``examples.npz`` has as
``presented_...``, a value for each of N examples. The measures here are functions of these columns, as numpy reads
them:

    with np.load("multirun/runs/<run>/examples.npz") as examples:
        hardest_first = np.argsort(area_under_margin(examples))

What was presented is what the step was taken on: the augmented image, with the label that training was given, and
before the step's own change of the weights. Of an example that was never presented nothing is known: ``nan``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

Columns = Mapping[str, NDArray[Any]]
"""Name in ``examples.npz`` -> ``(N,)``"""
Scores = NDArray[np.float64]


class Answers(NamedTuple):
    """What a network says of n examples, each against its label."""

    losses: Tensor
    """``(n,)`` float32: cross-entropy in nats, whatever loss is trained on, without label smoothing"""
    margins: Tensor
    """``(n,)`` float32: logit of the label less the greatest other"""
    confidences: Tensor
    """``(n,)`` float32: probability of the label, ``exp(-loss)``"""
    is_right: Tensor
    """``(n,)`` bool: the greatest logit is the label's"""
    classes: Tensor
    """``(n,)`` int64: of the greatest logit"""


@torch.no_grad()
def answers(logits: Tensor, labels: Tensor) -> Answers:
    """Return what logits ``(n, C)``, C at least 2, say of labels ``(n,)``; no value depends on another example."""
    classes = logits.argmax(1)
    is_right = classes == labels
    label = labels[:, None]
    logits = logits.float()
    # Of the others' lead over the label: the margin is less its maximum, and the loss log(1 + sum(exp(lead))), which
    # loses no digits where it is small. For 10 classes torch's log_softmax takes several times as long.
    lead = (logits - logits.gather(1, label)).scatter_(1, label, -torch.inf)
    greatest = lead.amax(1)
    shift = greatest.clamp(min=0)
    losses = lead.sub_(shift[:, None]).exp_().sum(1).add_(shift.neg().expm1_()).log1p_().add_(shift)
    return Answers(losses, -greatest, losses.neg().exp_(), is_right, classes)


def area_under_margin(examples: Columns) -> Scores:
    """Return the mean margin over all presentations ``(N,)``: low where the label is wrong.

    Pleiss et al. 2020, "Identifying Mislabeled Data using the Area Under the Margin Ranking", equation 2, in logits.
    """
    return _mean(examples, "presented_margin_sum")


def mean_confidence(examples: Columns) -> Scores:
    """Return the mean probability of the label over all presentations ``(N,)``, in ``[0, 1]``.

    "Confidence" of Swayamdipta et al. 2020, "Dataset Cartography", whose presentations are evaluations once an epoch.
    """
    return _mean(examples, "presented_confidence_sum")


def mean_loss(examples: Columns) -> Scores:
    """Return the mean cross-entropy over all presentations ``(N,)``, in nats."""
    return _mean(examples, "presented_loss_sum")


def share_right(examples: Columns) -> Scores:
    """Return the share of its presentations at which it was predicted as its label ``(N,)``: "correctness" there."""
    return 1 - _mean(examples, "presented_times_wrong")


def forgetting(examples: Columns) -> Scores:
    """Return how often it was right at one presentation and wrong at its next ``(N,)``; infinity: it was never right.

    Toneva et al. 2019, "An Empirical Study of Example Forgetting", who count what was never learnt as forgotten
    infinitely often: so the greatest are the hardest.
    """
    times = examples["presented_times_forgotten"].astype(np.float64)
    times[examples["presented_first_step_right"] < 0] = np.inf
    times[examples["presented_times"] == 0] = np.nan
    return times


def first_step_right(examples: Columns) -> Scores:
    """Return the step at whose batch it was first right ``(N,)``; infinity: at none."""
    return _step(examples, "presented_first_step_right")


def last_step_right(examples: Columns) -> Scores:
    """Return the step at whose batch it was last right ``(N,)``; infinity: at none."""
    return _step(examples, "presented_last_step_right")


def _mean(examples: Columns, column: str) -> Scores:
    times = examples["presented_times"].astype(np.float64)
    return examples[column] / np.where(times == 0, np.nan, times)


def _step(examples: Columns, column: str) -> Scores:
    steps = examples[column].astype(np.float64)
    steps[steps < 0] = np.inf
    steps[examples["presented_times"] == 0] = np.nan
    return steps
