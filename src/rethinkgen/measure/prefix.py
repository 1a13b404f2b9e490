"""A network run from its middle: what comes before a layer is computed once for all that is tried behind it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class Chain:
    """The modules that a network runs one after another, each on what the one before returned.

    Found inside whatever stands around it, as a ``nn.Sequential`` whose members were called once each for ``image (1,
    C, H, W)``. A network that has none is one module, and is always run from its images.
    """

    def __init__(self, network: nn.Module, image: Tensor) -> None:
        self.network = network
        members = _sequential(network)
        self.members = members if _calls(network, members, image) == [1] * len(members) else []
        self._names = {module: name for name, module in network.named_modules()}

    def place(self, name: str) -> int:
        """Return which member holds the tensor of this name in ``state_dict``; 0 for one that is outside."""
        holds = [i for i, member in enumerate(self.members) if name.startswith(f"{self._names[member]}.")]
        return holds[0] if holds else 0

    def inputs(self, place: int, images: Tensor) -> Tensor:
        """Return what a member is given for ``images``."""
        if not place:
            return images
        given: list[Tensor] = []
        # Copied, as the member itself may begin by working in place.
        hook = self.members[place].register_forward_pre_hook(lambda _, given_: given.append(given_[0].clone()))
        try:
            self.network(images)
        finally:
            hook.remove()
        return given[0]

    @contextmanager
    def from_member(self, place: int, inputs: Tensor) -> Iterator[None]:
        """For a while, the network called with the images runs from a member on, which is given ``inputs``.

        What stands around the chain is run as ever.
        """
        before = self.members[:place]
        hook = None
        try:
            for member in before:
                member.forward = _same
            if place:
                hook = self.members[place].register_forward_pre_hook(lambda _, __: (inputs.clone(),))
            yield
        finally:
            for member in before:
                del member.forward
            if hook is not None:
                hook.remove()


def _same(inputs: Tensor) -> Tensor:
    return inputs


def _sequential(network: nn.Module) -> list[nn.Module]:
    module = network
    while type(module).forward is not nn.Sequential.forward:
        inner = [child for child in module.children() if any(True for _ in child.parameters())]
        if len(inner) != 1 or any(True for _ in module.parameters(recurse=False)):
            return []
        module = inner[0]
    return list(module.children())


@torch.no_grad()
def _calls(network: nn.Module, members: list[nn.Module], image: Tensor) -> list[int]:
    calls = dict.fromkeys(members, 0)

    def count(module: nn.Module, _given: tuple[Tensor, ...]) -> None:
        calls[module] += 1

    hooks = [member.register_forward_pre_hook(count) for member in calls]
    try:
        network(image)
    finally:
        for hook in hooks:
            hook.remove()
    return [calls[member] for member in members]
