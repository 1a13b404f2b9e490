"""A network's weights by layer, and put in another's place for a while."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn

State = dict[str, Tensor]


def state_of(network: nn.Module) -> State:
    """Return copies of all weights and buffers, by name."""
    return {name: value.detach().clone() for name, value in network.state_dict().items()}


@contextmanager
def replaced(network: nn.Module, values: Mapping[str, Tensor]) -> Iterator[None]:
    """For a while, these weights and buffers have these values.

    Nothing is copied: what stands in the network is put aside, and comes back to the bit.
    """
    own = network.state_dict(keep_vars=True)
    saved = {name: own[name].data for name in values}
    try:
        for name, value in values.items():
            own[name].data = value.to(saved[name].device)
        yield
    finally:
        for name, value in saved.items():
            own[name].data = value


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
        start = f"{name}." if name else ""
        own = [f"{start}{key}" for key, _ in module.named_parameters(recurse=False)]
        if own:
            buffers = [f"{start}{key}" for key, _ in module.named_buffers(recurse=False)]
            found[name] = [*own, *(key for key in buffers if key in known)]
    start = _start(network)
    return {name.removeprefix(start): names for name, names in found.items()}


def _start(network: nn.Module) -> str:
    """Return the modules, ``"a.b."``, that all layers are in."""
    owners = [name for name, module in network.named_modules() if _has_parameters(module, recurse=False)]
    parts = [name.split(".")[:-1] for name in owners]
    common = []
    for level in zip(*parts, strict=False):
        if len({*level}) > 1:
            break
        common.append(f"{level[0]}.")
    return "".join(common)


def block_layers(network: nn.Module) -> dict[str, list[str]]:
    """Return block -> its layers, as ``layer_tensors`` names them: modules of several layers, but not of all.

    A residual network's stages and blocks, an Inception module and its branches, a convolution with its BatchNorm.
    """
    layers = list(layer_tensors(network))
    start = _start(network)
    found = {}
    for name, _ in network.named_modules():
        inside = [layer for layer in layers if f"{start}{layer}".startswith(f"{name}.")]
        if 1 < len(inside) < len(layers):
            found[name.removeprefix(start)] = inside
    return found


def residual_stages(network: nn.Module) -> dict[str, list[str]]:
    """Return stage -> the layers of all its blocks but the first.

    A stage is an ``nn.Sequential`` of several blocks of one class, which consist of modules themselves.
    """
    layers, start = list(layer_tensors(network)), _start(network)
    found = {}
    for name, module in network.named_modules():
        blocks = list(module.named_children())
        is_alike = len(blocks) > 1 and len({type(block) for _, block in blocks}) == 1
        if isinstance(module, nn.Sequential) and is_alike and next(blocks[0][1].children(), None):
            later = tuple(f"{name}.{block}." for block, _ in blocks[1:])
            found[name.removeprefix(start)] = [layer for layer in layers if f"{start}{layer}".startswith(later)]
    return {stage: inside for stage, inside in found.items() if inside}


def _has_parameters(module: nn.Module, *, recurse: bool) -> bool:
    return next(module.parameters(recurse), None) is not None


def check_untied(network: nn.Module) -> None:
    """Refuse a network in which two layers share a weight: neither can be replaced alone.

    Raises:
        ValueError: two do.
    """
    first: dict[int, str] = {}
    for name, value in network.named_parameters(remove_duplicate=False):
        if (other := first.setdefault(id(value), name)) != name:
            raise ValueError(
                f"the network has tied weights: {other} is {name}, so that neither layer can be replaced alone. "
                "Leave this run out."
            )
