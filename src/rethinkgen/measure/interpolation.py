"""Loss and accuracy along the straight line from this network's weights to another's."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from rethinkgen.checks import check_whole
from rethinkgen.measure.examples import examples
from rethinkgen.measure.fit import judged_by
from rethinkgen.measure.predict import batch_norms, has_batch_norm, predict, recalibrated_batch_norm
from rethinkgen.measure.subject import At, Findings, Number, asks
from rethinkgen.measure.weights import State, check_same_architecture, replaced, state_of

if TYPE_CHECKING:
    from rethinkgen.data.module import Split
    from rethinkgen.measure.subject import Subject

Row = dict[str, Any]


@asks("to", unless_other=True)
def interpolation(
    subject: Subject,
    *,
    to: At = 0,
    first: float = -1.0,
    last: float = 2.0,
    num_alphas: int = 25,
    num_examples: int | None = 1000,
    batch_size: int = 100,
) -> Findings:
    """Evaluate ``(1 - alpha) w + alpha w'``, from ``first`` to ``last``, where ``w`` are this network's weights.

    ``w'`` are the weights at the step ``to``, or, where ``other=`` chooses a second run, that run's. Alpha takes
    ``num_alphas`` evenly spaced values, and 0 and 1.

    BatchNorm's running statistics lie on the same line (``kept``), where beyond its ends a variance is not let below
    zero; or they are means over one pass through the training examples chosen, in batches of ``batch_size``
    (``re-estimated``).

    Of each split ``num_examples`` are looked at, ``None``: all. The loss is the mean cross-entropy in nats, of training
    examples against the labels as given, of others against the true ones.

    The table ``line`` has ``alpha, split, statistics, loss, accuracy``. Numbers: ``<split>/error_barrier`` and
    ``<split>/loss_barrier``: the greatest value for alpha in ``[0, 1]`` less the mean of those at its ends (Frankle et
    al. 2020, arXiv 1912.05671, of the error); with BatchNorm also ``..._re-estimated``.
    """
    alphas = _alphas(first, last, num_alphas)
    check_whole("batch_size", batch_size, 2)
    # Copied first: the subject at another step may be the same module with other weights.
    here = state_of(subject.network)
    there = state_of((subject.other if subject.has_other else subject.at(to)).network)
    check_same_architecture(here, there, "other" if subject.has_other else f"to={to}")
    chosen = {
        name: examples(split, num_examples, "all", memory_mb=subject.memory_mb)
        for name, split in subject.splits.items()
    }
    rows: list[Row] = []
    with replaced(subject.network, here):
        for alpha in alphas:
            with replaced(subject.network, _between(here, there, alpha, subject.network)):
                rows += _evaluate(subject.network, chosen, alpha, "kept")
                if has_batch_norm(subject.network):
                    with recalibrated_batch_norm(subject.network, chosen["train"].inputs, batch_size):
                        rows += _evaluate(subject.network, chosen, alpha, "re-estimated")
    numbers: dict[str, Number] = {}
    for statistics in dict.fromkeys(row["statistics"] for row in rows):
        ending = "" if statistics == "kept" else f"_{statistics}"
        for name in chosen:
            line = [row for row in rows if (row["split"], row["statistics"]) == (name, statistics)]
            numbers[f"{name}/error_barrier{ending}"] = _barrier(line, [1 - row["accuracy"] for row in line])
            numbers[f"{name}/loss_barrier{ending}"] = _barrier(line, [row["loss"] for row in line])
    return Findings(numbers, {"line": {name: [row[name] for row in rows] for name in rows[0]}})


def _alphas(first: float, last: float, num_alphas: int) -> list[float]:
    check_whole("num_alphas", num_alphas, 2)
    if not (math.isfinite(first) and math.isfinite(last) and first < last):
        raise ValueError(f"first={first} last={last}: two numbers are needed, of which the second is greater.")
    spaced = (first + (last - first) * i / (num_alphas - 1) for i in range(num_alphas))
    return sorted({0.0, 1.0, *spaced})


def _between(here: State, there: State, alpha: float, network: nn.Module) -> dict[str, Tensor]:
    # lerp gives each end to the bit.
    values = {
        name: torch.lerp(value, there[name].to(value.device), alpha)
        for name, value in here.items()
        if value.is_floating_point()
    }
    variances = {id(norm.running_var) for norm in batch_norms(network)}
    for name, buffer in network.named_buffers():
        if id(buffer) in variances:
            values[name] = values[name].clamp_min(0)
    return values


def _evaluate(network: nn.Module, chosen: Mapping[Any, Split], alpha: float, statistics: str) -> list[Row]:
    rows = []
    for name, split in chosen.items():
        labels = judged_by(name, split)
        predictions = predict(network, split.inputs, labels)
        rows.append(
            {
                "alpha": alpha,
                "split": name,
                "statistics": statistics,
                "loss": float(predictions.losses.cpu().double().mean()),
                "accuracy": float((predictions.classes == labels).cpu().double().mean()),
            }
        )
    return rows


def _barrier(line: Sequence[Row], values: Sequence[float]) -> Number:
    of = {row["alpha"]: value for row, value in zip(line, values, strict=True)}
    inside = [value for alpha, value in of.items() if 0 <= alpha <= 1]
    return max(inside) - (of[0.0] + of[1.0]) / 2 if all(map(math.isfinite, inside)) else None
