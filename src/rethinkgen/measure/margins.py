"""How far wrongly and rightly labelled examples lie from the boundary of their class."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from rethinkgen.checks import check_one_of
from rethinkgen.data.streaming import Inputs, in_parts
from rethinkgen.measure.examples import examples
from rethinkgen.measure.fit import judged_by
from rethinkgen.measure.outputs import differentiable, logits_in_parts, output_margins, prediction_parts
from rethinkgen.measure.predict import has_batch_norm
from rethinkgen.measure.subject import Findings, Number

if TYPE_CHECKING:
    from rethinkgen.data.module import SplitName
    from rethinkgen.measure.subject import Subject

NORMALIZATIONS = ("gradient", "spectral", "none")
GROUPS: dict[str, tuple[SplitName, str]] = {
    "clean": ("train", "clean"),
    "corrupted": ("train", "corrupted"),
    "validation": ("validation", "all"),
    "test": ("test", "all"),
}
"""Group of examples -> its split, and which of it."""


def margins(
    subject: Subject,
    *,
    normalization: str = "gradient",
    num_examples: int | None = 1000,
    groups: Sequence[str] | None = None,
) -> Findings:
    """Return the margins of examples, normalised.

    The output margin is ``z_y - max_{j != y} z_j`` of the logits ``z``: above zero where the label is predicted. ``y``
    is the label as given of training examples, memorised or not, and the true one of others. It grows with the scale of
    the weights, so it is divided by

    - ``gradient``: the 2-norm of its own gradient at the input, which gives the distance to where the label and the
      largest other logit are equal, to first order, in units of what the network sees, after the preprocessing (as
      Elsayed et al. 2018, arXiv 1803.05598, approximate it at the input). An example without a gradient has none.
    - ``spectral``: the product of the layers' spectral norms, of the weights alone, a kernel reshaped to ``(outputs,
      everything else)``. Of a chain of linear layers and ReLUs this is a Lipschitz constant, and the first factor of
      the spectral complexity of Bartlett, Foster and Telgarsky 2017 (arXiv 1706.08498), whose second factor, of
      distances from reference matrices, is left out. Of kernels, and of a network with branches, it is a number and no
      bound; a network with BatchNorm, whose scale is in no weight, is refused.
    - ``none``: nothing.

    Groups are ``clean`` and ``corrupted`` (wrongly labelled) training examples, ``validation`` and ``test``: ``None``
    means those there are, each with ``num_examples`` of its own.

    Numbers, of each group: ``<group>/mean``, ``/median``, ``/percentile_10`` of its margins; ``/negative``, the share
    below zero; ``/num_undefined``, those without one. The table ``examples`` has ``group, index, margin``, with ``nan``
    for none.

    Raises:
        ValueError: a group that was asked for is empty, or the network cannot be normalised so.
    """
    check_one_of("normalization", normalization, NORMALIZATIONS)
    scale = _spectral_product(subject.network) if normalization == "spectral" else 1.0
    numbers: dict[str, Number] = {}
    names: list[str] = []
    index, values = [], []
    for group in _groups(subject) if groups is None else groups:
        name, of = GROUPS[check_one_of("groups", group, tuple(GROUPS))]
        split = examples(subject.split(name), num_examples, of, memory_mb=subject.memory_mb)
        labels = judged_by(name, split)
        if normalization == "gradient":
            found = _input_distances(subject.network, split.inputs, labels)
        else:
            found = _output_margins(subject.network, split.inputs, labels) / scale
        numbers |= {f"{group}/{number}": value for number, value in _numbers(found).items()}
        names += [group] * len(found)
        index.append(split.index.cpu())
        values.append(found)
    return Findings(numbers, {"examples": {"group": names, "index": torch.cat(index), "margin": torch.cat(values)}})


def _groups(subject: Subject) -> list[str]:
    wrong = subject.split("train").is_corrupted
    there = {"clean": not bool(wrong.all()), "corrupted": bool(wrong.any())}
    return [group for group, (name, _) in GROUPS.items() if name in subject.splits and there.get(group, True)]


def _output_margins(network: nn.Module, inputs: Inputs, labels: Tensor) -> Tensor:
    found = [output_margins(logits, labels[part]).cpu() for part, logits in logits_in_parts(network, inputs)]
    return torch.cat(found).double()


def _input_distances(network: nn.Module, inputs: Inputs, labels: Tensor) -> Tensor:
    found = []
    parts = prediction_parts(inputs)
    with differentiable(network, labels.device):
        for part, images in zip(parts, in_parts(inputs, parts), strict=True):
            # Examples are independent in evaluation mode, so the gradient of the sum holds each one's own.
            images = images.detach().requires_grad_(True)
            margin = output_margins(network(images).float(), labels[part])
            (gradient,) = torch.autograd.grad(margin.sum(), images)
            length = gradient.flatten(1).norm(dim=1)
            found.append(torch.where(length > 0, margin / length, torch.nan).detach().cpu())
    return torch.cat(found).double()


def _spectral_product(network: nn.Module) -> float:
    if has_batch_norm(network):
        raise ValueError(
            "normalization=spectral: the network has BatchNorm, whose scale is in no weight. "
            "Take normalization=gradient."
        )
    weights = [value.detach() for value in network.parameters() if value.dim() > 1 and value.requires_grad]
    if not weights:
        raise ValueError("normalization=spectral: the network has no weights that are trained. Take another.")
    return math.prod(float(torch.linalg.matrix_norm(weight.float().flatten(1).cpu(), 2)) for weight in weights)


def _numbers(margin: Tensor) -> dict[str, Number]:
    there = margin[margin.isfinite()]
    numbers: dict[str, Number] = dict.fromkeys(("median", "mean", "percentile_10", "negative"))
    if len(there):
        numbers = {
            "median": float(there.quantile(0.5)),
            "mean": float(there.mean()),
            "percentile_10": float(there.quantile(0.1)),
            "negative": float((there < 0).double().mean()),
        }
    return numbers | {"num_undefined": len(margin) - len(there)}
