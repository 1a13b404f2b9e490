"""How far each layer has gone from where it was."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rethinkgen.measure.subject import At, Findings, Number, Table
from rethinkgen.measure.weights import check_same_architecture, layer_tensors, state_of

if TYPE_CHECKING:
    from rethinkgen.measure.subject import Subject


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
    layers = {
        layer: difference
        for layer, names in layer_tensors(subject.network).items()
        if len(difference := _difference(here, there, [name for name in names if name in trained]))
    }
    if not layers:
        raise ValueError("measure=distance: the network has no weights that are trained. Leave this run out.")
    everything = torch.cat(list(layers.values()))
    size = float(torch.cat([there[name].flatten().cpu().double() for name in sorted(trained)]).norm())
    numbers: dict[str, Number] = {
        "norm_2": _root_mean_square(everything),
        "norm_max": float(everything.abs().max()),
        "relative": float(everything.norm()) / size if size else None,
    }
    table: Table = {
        "layer": list(layers),
        "num_parameters": [len(difference) for difference in layers.values()],
        "norm_2": [_root_mean_square(difference) for difference in layers.values()],
        "norm_max": [float(difference.abs().max()) for difference in layers.values()],
    }
    return Findings(numbers, {"layers": table})


def _difference(here: Mapping[str, Tensor], there: Mapping[str, Tensor], names: list[str]) -> Tensor:
    parts = [(here[name].cpu().double() - there[name].cpu().double()).flatten() for name in names]
    return torch.cat(parts) if parts else torch.empty(0, dtype=torch.float64)


def _root_mean_square(values: Tensor) -> float:
    return float(values.norm()) / math.sqrt(len(values))
