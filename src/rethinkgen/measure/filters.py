"""The weights of the first layer, as pictures."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from rethinkgen.checks import check_whole
from rethinkgen.measure.examples import images_at
from rethinkgen.measure.outputs import noted_pass
from rethinkgen.measure.subject import Findings

if TYPE_CHECKING:
    from rethinkgen.measure.subject import Subject


def filters(subject: Subject, *, num_filters: int = 36) -> Findings:
    """Return the weights of the first layer in the form of images (Arpit et al. 2017, arXiv 1706.05394, Figure 2).

    The first layer is the first linear or convolutional one that an image comes to. Of a linear one a unit's weights
    have the shape of the image that it sees, after the preprocessing. Of its units those ``num_filters`` are shown
    whose weights have the largest 2-norm: the others may be as they were drawn.

    A filter's *roughness* is the mean squared difference of neighbouring weights, across and down, over twice the
    variance of its weights, channel by channel (Geary's C): about 1 if neighbours have nothing to do with each other,
    as when they are newly drawn, and less the more alike they are. A filter of one weight, or of equal ones, has none.

    Numbers: ``num_filters`` of the layer, and ``roughness``, the mean over all of these. Tables: ``pictures`` with
    ``filter, channel, row, column, weight``, the largest filter first; ``filters`` with ``filter, norm, roughness``, of
    all, in the layer's order.

    Raises:
        ValueError: the network begins with no such layer, or not on the image as it is.
    """
    check_whole("num_filters", num_filters, 1)
    image = images_at(subject.split("train").inputs, torch.tensor([0], device=subject.device), subject.memory_mb)
    weights = _first_weights(subject.network, image).detach().cpu().double()
    norms, roughness = weights.flatten(1).norm(dim=1), _roughness(weights)
    shown = norms.argsort(descending=True, stable=True)[:num_filters]
    places = torch.cartesian_prod(shown, *(torch.arange(size) for size in weights.shape[1:]))
    names = ("filter", "channel", "row", "column")
    known = roughness[~roughness.isnan()]
    return Findings(
        {"num_filters": len(weights), "roughness": float(known.mean()) if len(known) else None},
        {
            "pictures": {
                **{name: places[:, i] for i, name in enumerate(names)},
                "weight": weights[tuple(places.T)],
            },
            "filters": {"filter": torch.arange(len(weights)), "norm": norms, "roughness": roughness},
        },
    )


def _first_weights(network: nn.Module, image: Tensor) -> Tensor:
    """Return the weights ``(n, C, H, W)`` of the first layer that an image ``(1, C, H, W)`` comes to."""
    found: list[tuple[nn.Module, Tensor]] = []

    def note(module: nn.Module, given: tuple[Tensor, ...], _output: Tensor) -> None:
        found.append((module, given[0]))

    layers = [module for module in network.modules() if isinstance(module, nn.Linear | nn.Conv2d)]
    noted_pass(network, image, layers, note)
    layer, given = found[0] if found else (None, image)
    if isinstance(layer, nn.Conv2d):
        return layer.weight
    if isinstance(layer, nn.Linear) and given.shape == (1, image.numel()):
        return layer.weight.reshape(-1, *image.shape[1:])
    raise ValueError(
        "the network does not begin with a convolution, or with a linear layer on the whole image: it has no filters "
        "that are pictures. Leave this run out."
    )


def _roughness(weights: Tensor) -> Tensor:
    """Return ``(n,)``: the mean squared difference of neighbours over twice the variance, not a number if it is 0."""
    down, across = weights.diff(dim=2).square(), weights.diff(dim=3).square()
    num_pairs = down[0].numel() + across[0].numel()
    if not num_pairs:
        return torch.full((len(weights),), torch.nan, dtype=weights.dtype)
    differences = (down.flatten(1).sum(1) + across.flatten(1).sum(1)) / num_pairs
    variance = weights.flatten(2).var(dim=2).mean(1)
    return torch.where(variance > 0, differences / (2 * variance), torch.nan)
