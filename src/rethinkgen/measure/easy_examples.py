"""Which examples are learnt first, whatever the initial weights and the order."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch

from rethinkgen.checks import check_positive, check_whole
from rethinkgen.data.draws import generator
from rethinkgen.measure.examples import positions
from rethinkgen.measure.subject import Draw, Findings, Number

if TYPE_CHECKING:
    from rethinkgen.measure.subject import Subject


def easy_examples(
    subject: Subject, *, num_draws: int = 100, epochs: float = 1.0, num_examples: int | None = 1000
) -> Findings:
    """Return how often each training example is right after an epoch (Arpit et al. 2017, arXiv 1706.05394).

    ``num_draws`` networks of the run's architecture are trained for ``epochs`` on its training set, each with initial
    weights and an order of its own; data, labels and corruption stay as they are. ``P``, the probability of an example,
    is the share of them that give it its label, as given to training, in evaluation mode. ``num_examples`` (the paper's
    1,000) are looked at; all are trained on. The network at this step plays no part: every step has the same answer.

    Were all examples alike, ``num_draws * P`` would be binomial: the paper compares the sorted ``1 - P`` with as many
    draws of ``Binomial(num_draws, p) / num_draws``. Its ``p`` is the mean of ``P`` on random inputs; here it is that of
    this run, as each is to be compared with its own.

    Numbers: ``mean`` of ``P``; ``dispersion``, the variance of ``P`` over ``p (1 - p) / num_draws`` (1 where examples
    are alike, give or take ``sqrt(2 / n)``; ``None`` where ``P`` is 0 or 1 of all); ``share_always`` and
    ``share_never``, of examples that all networks, and that none, has right; where some are wrongly labelled
    ``mean_clean`` and ``mean_corrupted``. Tables: ``examples`` with ``index, is_corrupted, probability``; ``sorted``
    with ``rank`` (in ``(0, 1]``), ``error`` (``1 - P``, ascending) and ``binomial`` (the draws, ascending).

    Raises:
        ValueError: the run was not trained by plain steps on cross-entropy.
    """
    check_whole("num_draws", num_draws, 2)
    check_positive("epochs", epochs)
    train = subject.split("train")
    chosen = positions(train, num_examples)
    # Of no step; and fewer draws are the first of more.
    seeds = generator("measure", subject.seed, "easy_examples", 0).integers(2**31, size=num_draws)
    classes = subject.trainings([Draw(int(seed)) for seed in seeds], epochs)["train"][:, chosen]
    probability = (classes == train.labels[chosen]).double().mean(0).cpu()
    p = float(probability.mean())
    expected = p * (1 - p) / num_draws
    numbers: dict[str, Number] = {
        "mean": p,
        "dispersion": float(probability.var()) / expected if expected and len(chosen) > 1 else None,
        "share_always": float((probability == 1).double().mean()),
        "share_never": float((probability == 0).double().mean()),
    }
    wrong = train.is_corrupted[chosen].cpu()
    if bool(wrong.any()) and not bool(wrong.all()):
        numbers |= {
            "mean_clean": float(probability[~wrong].mean()),
            "mean_corrupted": float(probability[wrong].mean()),
        }
    n = len(chosen)
    alike = generator("measure", subject.seed, "easy_examples binomial", 0).binomial(num_draws, 1 - p, size=n)
    return Findings(
        numbers,
        {
            "examples": {"index": train.index[chosen].cpu(), "is_corrupted": wrong, "probability": probability},
            "sorted": {
                "rank": torch.arange(1, n + 1, dtype=torch.float64) / n,
                "error": (1 - probability).sort().values,
                "binomial": torch.from_numpy(np.sort(alike / num_draws)),
            },
        },
    )
