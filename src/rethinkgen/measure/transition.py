"""How labels go wrong, as a network that was trained on them tells: Patrini et al. 2017 (arXiv 1609.03683)."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from rethinkgen.checks import check_between
from rethinkgen.measure.outputs import logits_in_parts
from rethinkgen.measure.subject import Findings, Number

if TYPE_CHECKING:
    from rethinkgen.measure.subject import Subject


def transition(subject: Subject, *, percentile: float | None = 97.0) -> Findings:
    """Estimate the probabilities ``T[i, j]`` that an example of class ``i`` is labelled ``j``.

    Of class ``i`` the training image that the network is surest to be of it stands for what is certainly of it: row
    ``i`` is what the network says of that image. Of probabilities at or above the ``percentile`` of their class none
    is taken, as outliers may be there; ``None``: all are (the authors, on CIFAR-100). Each row sums to 1.

    Good after training by cross-entropy, while wrong labels are not yet memorised.

    The table ``transition`` has ``true, given, probability``, row after row: ``loss.transition`` reads it.
    Numbers: ``kept``, the mean of its diagonal; where labels were changed ``kept_realised``, the same of the labels
    themselves, and ``error``, the mean absolute difference of the two matrices over the classes that occur.

    Raises:
        ValueError: ``percentile`` is none.
    """
    if percentile is not None:
        check_between("percentile", percentile, 0, 100)
    split = subject.splits["train"]
    logits = [part for _, part in logits_in_parts(subject.network, split.inputs)]
    probabilities = torch.softmax(torch.cat(logits).double().cpu(), 1)
    estimated = estimated_transition(probabilities, percentile)
    num_classes = len(estimated)
    numbers: dict[str, Number] = {"kept": float(estimated.diagonal().mean())}
    if bool(split.is_corrupted.any()):
        true, given = split.original_labels.cpu(), split.labels.cpu()
        counts = torch.zeros(num_classes, num_classes, dtype=torch.float64)
        counts.index_put_((true, given), torch.ones(len(true), dtype=torch.float64), accumulate=True)
        occurs = counts.sum(1) > 0
        realised = counts[occurs] / counts[occurs].sum(1, keepdim=True)
        numbers["kept_realised"] = float(realised[:, occurs].diagonal().mean())
        numbers["error"] = float((estimated[occurs] - realised).abs().mean())
    classes = torch.arange(num_classes)
    table = {
        "true": classes.repeat_interleave(num_classes),
        "given": classes.repeat(num_classes),
        "probability": estimated.flatten(),
    }
    return Findings(numbers, {"transition": table})


def estimated_transition(probabilities: Tensor, percentile: float | None) -> Tensor:
    """Return ``(K, K)`` from what a network says of ``n`` examples, ``(n, K)``: see ``transition``."""
    rows = []
    for of_class in probabilities.T:
        if percentile is not None:
            is_below = of_class < float(np.percentile(of_class.numpy(), percentile))  # torch's takes 16 million at most
            # All may be equal.
            of_class = torch.where(is_below, of_class, -1.0) if bool(is_below.any()) else of_class
        rows.append(probabilities[of_class.argmax()])
    matrix = torch.stack(rows)
    return matrix / matrix.sum(1, keepdim=True)
