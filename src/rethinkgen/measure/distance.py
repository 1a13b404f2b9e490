"""How far each layer has gone from where it was."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rethinkgen.measure.subject import At, Findings, Number, Table, asks
from rethinkgen.measure.weights import check_same_architecture, layer_tensors, state_of

if TYPE_CHECKING:
    from rethinkgen.measure.subject import Subject


@asks("origin")
def distance(subject: Subject, *, origin: At = 0) -> Findings:
    """Return the normalised 2-norm and the max-norm of how far each layer's weights are from those at ``origin``.

    Of a layer with ``p`` parameters, weight and bias together: ``|w - w_0|_2 / sqrt(p)``, the root of the mean square,
    and ``max |w - w_0|``. Zhang, Bengio and Singer 2019 (arXiv 1902.01996) draw both beside the robustness of layers;
    that the first is divided by ``sqrt(p)`` is as we remember it, and was not seen in a source.

    Frozen parameters and buffers, as BatchNorm's running statistics, are no part of it.

    Numbers: ``norm_2`` and ``norm_max`` of all parameters as one layer; ``relative``, the 2-norm of the difference over
    that of the weights at ``origin`` (``None`` where these are zero). The table ``layers`` has ``layer, num_parameters,
    norm_2, norm_max``.
    """
    # Copied first: the subject at another step may be the same module with other weights.
    here = state_of(subject.network)
    trained = {name for name, value in subject.network.named_parameters() if value.requires_grad}
    there = state_of(subject.at(origin).network)
    check_same_architecture(here, there, f"origin={origin}")
    if not trained:
        raise ValueError("the network has no weights that are trained. Leave this run out.")
    # Subtracted and summed in float64, as neighbouring steps differ in few digits.
    moved = {name: here[name].cpu().double() - there[name].cpu().double() for name in sorted(trained)}
    layers = {
        layer: [moved[name] for name in names if name in trained]
        for layer, names in layer_tensors(subject.network).items()
        if trained.intersection(names)
    }
    norm_2, norm_max = norms(list(moved.values()))
    root_mean_square = norms([there[name] for name in sorted(trained)])[0]
    numbers: dict[str, Number] = {
        "norm_2": norm_2,
        "norm_max": norm_max,
        "relative": norm_2 / root_mean_square if root_mean_square else None,
    }
    table: Table = {
        "layer": list(layers),
        "num_parameters": [sum(part.numel() for part in parts) for parts in layers.values()],
        "norm_2": [norms(parts)[0] for parts in layers.values()],
        "norm_max": [norms(parts)[1] for parts in layers.values()],
    }
    return Findings(numbers, {"layers": table})


def norms(parts: Sequence[Tensor]) -> tuple[float, float]:
    """Return the root mean square and the largest size of all numbers in ``parts``."""
    values = torch.cat([part.cpu().double().flatten() for part in parts])
    return float(values.norm()) / math.sqrt(len(values)), float(values.abs().max())
