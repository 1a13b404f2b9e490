"""What wrongly and rightly labelled examples of each class are taken for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rethinkgen.measure.fit import judged_by
from rethinkgen.measure.predict import predict
from rethinkgen.measure.subject import Findings, Number

if TYPE_CHECKING:
    from rethinkgen.data.module import Split
    from rethinkgen.measure.subject import Subject


def confusion(subject: Subject) -> Findings:
    """Count the examples of each split by true, given and predicted class.

    The table ``counts`` has a row for each combination that occurs: ``split, true, given, predicted, count``.

    Numbers, of each split: ``<split>/balanced_accuracy``, the mean over the true classes of the share predicted as
    such. Where labels were changed, of the wrongly labelled examples: the shares predicted as their given label
    (``memorised``), as their true one (``corrected``), and as ``neither``, which together are 1; and
    ``memorised_worst_class`` and ``memorised_best_class``, the least and the greatest share memorised of a true class.
    """
    numbers: dict[str, Number] = {}
    columns: dict[str, list[str] | list[Tensor]] = {"split": []}
    rows: list[Tensor] = []
    for name, split in subject.splits.items():
        predicted = predict(subject.network, split.inputs, judged_by(name, split)).classes
        combinations, counts = torch.unique(
            torch.stack([split.original_labels, split.labels, predicted], 1), dim=0, return_counts=True
        )
        rows.append(torch.cat([combinations, counts[:, None]], 1).cpu())
        columns["split"] += [name] * len(counts)  # type: ignore[operator,list-item]
        numbers |= {f"{name}/{number}": value for number, value in _numbers(predicted, split).items()}
    values = torch.cat(rows)
    counted = {name: values[:, i] for i, name in enumerate(("true", "given", "predicted", "count"))}
    return Findings(numbers, {"counts": {"split": columns["split"], **counted}})


def _numbers(predicted: Tensor, split: Split) -> dict[str, Number]:
    true, wrong = split.original_labels, split.is_corrupted
    numbers: dict[str, Number] = {"balanced_accuracy": _mean(_shares(predicted == true, true))}
    if bool(wrong.any()):
        memorised = (predicted == split.labels)[wrong]
        corrected = (predicted == true)[wrong]
        of_class = _shares(memorised, true[wrong])
        numbers |= {
            "memorised": _mean(memorised),
            "corrected": _mean(corrected),
            "neither": _mean(~(memorised | corrected)),
            "memorised_worst_class": float(of_class.min()),
            "memorised_best_class": float(of_class.max()),
        }
    return numbers


def _shares(hits: Tensor, classes: Tensor) -> Tensor:
    """Return the share of hits in each class that occurs."""
    members = [hits[classes == one] for one in sorted(set(classes.tolist()))]
    return torch.stack([hit.cpu().double().mean() for hit in members])


def _mean(values: Tensor) -> float:
    return float(values.cpu().double().mean())
