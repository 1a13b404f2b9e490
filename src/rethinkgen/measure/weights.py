"""A network's weights by layer, and put in another's place for a while."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn

State = dict[str, Tensor]


def state_of(network: nn.Module) -> State:
    """Return copies of all weights and buffers, by name."""
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


@contextmanager
def replaced(network: nn.Module, values: Mapping[str, Tensor]) -> Iterator[None]:
    """For a while, these weights and buffers have these values."""
    own = network.state_dict()
    saved = {name: own[name].clone() for name in values}
    try:
        _copy(values, own)
        yield
    finally:
        _copy(saved, own)


@torch.no_grad()
def _copy(values: Mapping[str, Tensor], own: Mapping[str, Tensor]) -> None:
    for name, value in values.items():
        own[name].copy_(value)


def check_same_architecture(here: Mapping[str, Tensor], there: Mapping[str, Tensor], which: str) -> None:
    """Refuse weights of another architecture; ``which`` tells what chose them, as ``key=value``.

    Raises:
        ValueError: a name or a shape differs.
    """
    for name in [*here, *there]:
        one, other = (tuple(state[name].shape) if name in state else "absent" for state in (here, there))
        if one != other:
            raise ValueError(
                f"{which}: its network is another one: {name} is {one} here and {other} there. Choose a run of the "
                "same architecture, on images of the same size and as many classes."
            )


def layer_tensors(network: nn.Module) -> dict[str, list[str]]:
    """Return layer -> the names in ``state_dict`` of what is its own: weights, then buffers.

    A layer is a module with parameters of its own, so that a convolution and the BatchNorm behind it are two. What all
    names have in common at their beginning is left out of the layer's.
    """
    known = network.state_dict().keys()
    found = {}
    for name, module in network.named_modules():
        prefix = f"{name}." if name else ""
        own = [key for key, _ in module.named_parameters(prefix.rstrip("."), recurse=False)]
        if own:
            buffers = [f"{prefix}{key}" for key, _ in module.named_buffers(recurse=False)]
            found[name] = [*own, *(key for key in buffers if key in known)]
    return dict(zip(_without_common_prefix(list(found)), found.values(), strict=True))


def _without_common_prefix(names: list[str]) -> list[str]:
    parts = [name.split(".") for name in names]
    while parts and all(len(part) > 1 for part in parts) and len({part[0] for part in parts}) == 1:
        parts = [part[1:] for part in parts]
    return [".".join(part) for part in parts]
