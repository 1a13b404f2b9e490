"""How much each example would move the weights, and how wrong the network is on it: GraNd and EL2N."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from rethinkgen.data.streaming import in_parts
from rethinkgen.measure.examples import examples
from rethinkgen.measure.fit import judged_by
from rethinkgen.measure.gradients import (
    Layers,
    Passed,
    Piece,
    layers_of,
    of_factors,
    other_gradients,
    passed,
    piece_gradients,
)
from rethinkgen.measure.outputs import BYTES, logits_in_parts, num_at_once
from rethinkgen.measure.predict import slices
from rethinkgen.measure.subject import Findings, Number

if TYPE_CHECKING:
    from rethinkgen.data.module import Split, SplitName
    from rethinkgen.data.streaming import Inputs
    from rethinkgen.measure.subject import Subject


def gradient_norms(
    subject: Subject, *, split: SplitName = "train", num_examples: int | None = 1000, of: str = "all"
) -> Findings:
    """Return GraNd and EL2N of examples (Paul, Ganguli and Dziugaite 2021, arXiv 2107.07075).

    GraNd of an example ``(x, y)`` is the 2-norm of the gradient of its loss with respect to all trained weights, and
    EL2N the 2-norm of the error ``softmax(z) - onehot(y)`` of the logits ``z``. The paper's scores are expectations
    over initialisations at a step early in training: these are of one network, to be averaged over runs of several
    seeds. The loss is the cross-entropy in nats, whatever the run was trained with; ``y`` is the label as given of
    training examples, and the true one of others.

    Numbers: ``grand`` and ``el2n``, the means over the examples; where some of them are wrongly labelled,
    ``<score>_clean``, ``<score>_corrupted`` and ``<score>_auc``, the probability that a wrongly labelled one has a
    higher score than a rightly labelled one (ties count half). The table ``examples`` has ``index, is_corrupted, grand,
    el2n``.

    Raises:
        ValueError: there are no such examples, no trained weights, or no memory for one example.
    """
    chosen = examples(subject.split(split), num_examples, of, memory_mb=subject.memory_mb)
    labels = judged_by(split, chosen)
    scores = {
        "grand": _gradient_norms(subject.network, chosen.inputs, labels, subject.memory_mb),
        "el2n": _error_norms(subject.network, chosen.inputs, labels),
    }
    numbers: dict[str, Number] = {}
    for name, score in scores.items():
        numbers |= {f"{name}{ending}": value for ending, value in _numbers(score, chosen).items()}
    about = {"index": chosen.index.cpu(), "is_corrupted": chosen.is_corrupted.cpu()}
    return Findings(numbers, {"examples": {**about, **scores}})


def _error_norms(network: nn.Module, inputs: Inputs, labels: Tensor) -> Tensor:
    found = []
    for part, logits in logits_in_parts(network, inputs):
        error = logits.cpu().double().softmax(1)
        error[torch.arange(len(error)), labels[part].cpu()] -= 1
        found.append(error.norm(dim=1))
    return torch.cat(found)


def _gradient_norms(network: nn.Module, inputs: Inputs, labels: Tensor, memory_mb: float) -> Tensor:
    layers = layers_of(network, next(in_parts(inputs, [slice(0, 1)])))
    parts = slices(len(labels), num_at_once(layers.bytes_per_example, memory_mb))
    squares = torch.zeros(len(labels), dtype=torch.float64)
    for part, images in zip(parts, in_parts(inputs, parts), strict=True):
        squares[part] = _squared_norms(layers, images, labels[part], memory_mb)
    return squares.sqrt()


def _squared_norms(layers: Layers, images: Tensor, labels: Tensor, memory_mb: float) -> Tensor:
    by_layer = passed(layers, {*layers.closed}, images, labels)
    found = torch.zeros(len(images), dtype=torch.float64)
    for piece in layers.pieces(int(memory_mb * 2**20 / 4 / BYTES / len(images))):
        if piece.layer in layers.closed:
            found += _squares_of(layers, piece, by_layer).cpu()
    if layers.others:
        for i, gradients in enumerate(other_gradients(layers, [*layers.others], images, labels)):
            found[i] += sum(float(gradient.cpu().double().square().sum()) for gradient in gradients)
    return found


def _squares_of(layers: Layers, piece: Piece, by_layer: Mapping[str, Passed]) -> Tensor:
    if piece.kind != "factors":
        return _square_sum(piece_gradients(layers, piece, by_layer))
    given, back = by_layer[piece.layer]
    return of_factors(layers, piece, _square_sum(given), _square_sum(back))


def _square_sum(values: Tensor) -> Tensor:
    # In float64, since the square of a small float32 is none.
    return (values.double() if values.device.type != "mps" else values).square().sum(1)


def _numbers(score: Tensor, chosen: Split) -> dict[str, Number]:
    wrong = chosen.is_corrupted.cpu()
    numbers: dict[str, Number] = {"": float(score.mean())}
    if bool(wrong.any()) and not bool(wrong.all()):
        numbers |= {
            "_clean": float(score[~wrong].mean()),
            "_corrupted": float(score[wrong].mean()),
            "_auc": _area_under_curve(score, wrong),
        }
    return numbers


def _area_under_curve(score: Tensor, is_positive: Tensor) -> float:
    """Return the probability that a positive has the higher score, by ranks (Mann and Whitney's U)."""
    _, place, counts = torch.unique(score, return_inverse=True, return_counts=True)
    # Equal scores share the mean of their ranks.
    rank = (counts.cumsum(0).double() - (counts - 1) / 2)[place]
    num_positive = int(is_positive.sum())
    above = float(rank[is_positive].sum()) - num_positive * (num_positive + 1) / 2
    return above / (num_positive * (len(score) - num_positive))
