"""Gradients of the loss of single examples with respect to the weights, layer by layer.

One pass forward and back gives what each layer was given and the gradient at its output, for all examples at once.
Of linear layers, convolutions and BatchNorm each example's gradient follows in closed form; the parameters of any other
module are differentiated one example after another. ``torch.func``'s ``vmap`` would do all alike, 150 times as slowly
for linear layers, and not through code that a user may write (``contiguous(memory_format=...)`` for one).

In evaluation mode, where examples are independent; of all parameters that require a gradient. The loss is the
cross-entropy of the logits in nats, without what a run may have added to it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rethinkgen.measure.outputs import (
    BYTES,
    bytes_of_pass,
    differentiable,
    leaves,
    noted_pass,
    num_at_once,
    summed_loss,
)
from rethinkgen.measure.predict import BatchNorm, slices


class Passed(NamedTuple):
    """What went through a layer."""

    inputs: Tensor
    """``(n, ...)``"""
    gradients: Tensor
    """``(n, ...)``: of the summed loss, at its output"""


class Piece(NamedTuple):
    """Some rows of a parameter, whose gradients are held at once."""

    layer: str
    kind: str
    """``weight`` or ``bias``; ``factors``: what a linear layer was given and what came back; of a module without a
    closed form the name of the parameter"""
    rows: slice
    """Of the parameter's first dimension"""
    size: int
    """Numbers in it"""


@dataclass(frozen=True)
class Layers:
    """A network's layers as this module sees them."""

    network: nn.Module
    closed: Mapping[str, nn.Module]
    """Name -> a layer with a closed form."""
    flat: frozenset[str]
    """Of these the linear layers on vectors, whose gradients are products of what is given and what comes back."""
    others: Mapping[str, nn.Parameter]
    """Name -> a parameter without a closed form."""
    bytes_per_example: int
    """That a pass forward and back holds, about."""

    def pieces(self, most: int) -> list[Piece]:
        """Cut all trained parameters into pieces of at most ``most`` numbers, but of one row at least.

        Of a flat layer its factors are one piece. What has no closed form is differentiated whole.
        """
        found = [Piece(name, name, slice(0, len(value)), value.numel()) for name, value in self.others.items()]
        for name, layer in self.closed.items():
            trained = [(kind, value) for kind, value in layer.named_parameters(recurse=False) if value.requires_grad]
            if name in self.flat and trained:
                found.append(Piece(name, "factors", slice(0, 0), sum(layer.weight.shape)))  # type: ignore[arg-type]
            elif name not in self.flat:
                found += [
                    Piece(name, kind, rows, (rows.stop - rows.start) * value[0].numel())
                    for kind, value in trained
                    for rows in slices(len(value), max(1, most // value[0].numel()))
                ]
        return found


def layers_of(network: nn.Module, image: Tensor) -> Layers:
    """Find out, by one pass of an image ``(1, C, H, W)``, which layers have a closed form.

    A module has one if it is called once and shares no parameter with another.

    Raises:
        ValueError: no parameter requires a gradient.
    """
    names = {module: name for name, module in network.named_modules()}
    calls: dict[str, int] = {}
    is_usual: dict[str, bool] = {}
    on_vectors: set[str] = set()
    unfolded = 0

    def note(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal unfolded
        unfolded = max(unfolded, _unfolded_numel(module, arguments, output))
        calls[names[module]] = calls.get(names[module], 0) + 1
        is_usual[names[module]] = len(arguments) == 1 and _has_closed_form(module, arguments[0])
        if type(module) is nn.Linear and arguments[0].dim() == 2:
            on_vectors.add(names[module])

    noted_pass(network, image, leaves(network), note)
    owners: dict[nn.Parameter, set[str]] = {}
    for module, name in names.items():
        for value in module.parameters(recurse=False):
            owners.setdefault(value, set()).add(name)
    shared = {name for which in owners.values() if len(which) > 1 for name in which}
    modules = dict(network.named_modules())
    closed = {name: modules[name] for name, n in calls.items() if n == 1 and is_usual[name] and name not in shared}
    trained = {name: value for name, value in network.named_parameters() if value.requires_grad}
    if not trained:
        raise ValueError("the network has no weights that are trained by gradients. Leave this run out.")
    others = {name: value for name, value in trained.items() if name.rpartition(".")[0] not in closed}
    bytes_per_example = bytes_of_pass(network, image) + BYTES * unfolded
    return Layers(network, closed, frozenset(on_vectors & closed.keys()), others, bytes_per_example)


def _has_closed_form(module: nn.Module, inputs: Tensor) -> bool:
    # A subclass may do anything, so the very class; BatchNorm's own subclasses differ in training mode alone.
    if type(module) is nn.Linear:
        return inputs.dim() > 1 and len(inputs) == 1
    if type(module) is nn.Conv2d:
        return inputs.dim() == 4 and module.padding_mode == "zeros" and not isinstance(module.padding, str)
    return isinstance(module, BatchNorm) and module.running_mean is not None


def _unfolded_numel(module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> int:
    """Return the numbers of a convolution's input in the form of one column for each place of its kernel."""
    if type(module) is not nn.Conv2d or output.dim() != 4:
        return 0
    return int(arguments[0].shape[1] * module.kernel_size[0] * module.kernel_size[1] * output[0, 0].numel())


def passed(layers: Layers, names: set[str], images: Tensor, labels: Tensor) -> dict[str, Passed]:
    """Take examples ``(n, C, H, W)`` once forward and back; return what went through the layers named."""
    given: dict[str, Tensor] = {}
    gradients: dict[str, Tensor] = {}

    def watch(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
        def note(_module: nn.Module, arguments: tuple[Tensor, ...], output: Tensor) -> None:
            given[name] = arguments[0].detach()
            # A tensor's own hook gets the gradient at what left the layer, also where a ReLU then works in its place.
            output.register_hook(  # type: ignore[no-untyped-call]
                lambda gradient: gradients.__setitem__(name, gradient.detach())
            )

        return note

    hooks = [layers.closed[name].register_forward_hook(watch(name)) for name in names if name in layers.closed]
    try:
        with differentiable(layers.network, images.device):
            # With respect to the images: it goes by every layer, and computes no gradient of a weight.
            images = images.detach().requires_grad_(True)
            torch.autograd.grad(summed_loss(layers.network(images).float(), labels), images)
    finally:
        for hook in hooks:
            hook.remove()
    return {name: Passed(given[name], gradients[name]) for name in given}


def piece_gradients(layers: Layers, piece: Piece, by_layer: Mapping[str, Passed]) -> Tensor:
    """Return the gradients ``(n, size)`` of a piece of a layer with a closed form, one row an example."""
    layer, (inputs, gradients), rows = layers.closed[piece.layer], by_layer[piece.layer], piece.rows
    if isinstance(layer, nn.Linear):
        gradients = gradients.reshape(len(gradients), -1, gradients.shape[-1])[..., rows]
        inputs = inputs.reshape(len(inputs), -1, inputs.shape[-1])
        found = gradients.sum(1) if piece.kind == "bias" else torch.einsum("nto,nti->noi", gradients, inputs)
    elif isinstance(layer, nn.Conv2d):
        found = _convolution_gradients(layer, piece, inputs, gradients)
    else:
        assert isinstance(layer, BatchNorm)
        gradients = gradients[:, rows]
        if piece.kind == "weight":
            gradients = gradients * _normalised(layer, inputs)[:, rows]
        found = gradients.flatten(2).sum(2) if gradients.dim() > 2 else gradients
    return found.flatten(1)


def _convolution_gradients(layer: nn.Conv2d, piece: Piece, inputs: Tensor, gradients: Tensor) -> Tensor:
    n, outputs = gradients.shape[:2]
    gradients = gradients.reshape(n, outputs, -1)
    if piece.kind == "bias":
        return gradients[:, piece.rows].sum(2)
    columns = F.unfold(inputs, layer.kernel_size, layer.dilation, layer.padding, layer.stride)  # type: ignore[arg-type]
    if layer.groups == 1:
        return torch.einsum("nol,nkl->nok", gradients[:, piece.rows], columns)
    gradients = gradients.reshape(n, layer.groups, outputs // layer.groups, -1)
    columns = columns.reshape(n, layer.groups, -1, columns.shape[-1])
    return torch.einsum("ngol,ngkl->ngok", gradients, columns).reshape(n, outputs, -1)[:, piece.rows]


def _normalised(layer: BatchNorm, inputs: Tensor) -> Tensor:
    shape = (1, -1, *[1] * (inputs.dim() - 2))
    assert layer.running_mean is not None
    assert layer.running_var is not None
    return (inputs - layer.running_mean.view(shape)) / (layer.running_var.view(shape) + layer.eps).sqrt()


def other_gradients(layers: Layers, names: list[str], images: Tensor, labels: Tensor) -> Iterator[list[Tensor]]:
    """Yield for each example the gradients of parameters without a closed form, flat, in the order of ``names``."""
    parameters = [layers.others[name] for name in names]
    with differentiable(layers.network, images.device):
        for i in range(len(images)):
            loss = summed_loss(layers.network(images[i : i + 1]).float(), labels[i : i + 1])
            found = torch.autograd.grad(loss, parameters, allow_unused=True)
            yield [
                torch.zeros_like(parameter).flatten() if gradient is None else gradient.detach().flatten()
                for parameter, gradient in zip(parameters, found, strict=True)
            ]


def gram_matrix(network: nn.Module, images: Tensor, labels: Tensor, memory_mb: float) -> Tensor:
    """Return the products ``(n, n)`` float64 of the gradients of examples ``(n, C, H, W)``, over all trained weights.

    Of a linear layer on vectors it is ``(D D^T) * (A A^T + 1)``, of what was given ``A`` and what came back ``D``, the
    one being the bias's. Other gradients are held for as many parameters at a time as memory allows, each time with a
    pass through the network.
    """
    layers = layers_of(network, images[:1])
    parts = slices(len(images), num_at_once(layers.bytes_per_example, memory_mb))
    most = max(1, int(memory_mb * 2**20 / 2 / BYTES / len(images)))
    found = torch.zeros(len(images), len(images), dtype=torch.float64)
    for pieces in _groups(layers.pieces(most), most):
        names = {piece.layer for piece in pieces}
        held: list[list[Tensor]] = [[] for _ in pieces]
        for part in parts:
            by_layer = passed(layers, names, images[part], labels[part]) if names & layers.closed.keys() else {}
            for piece, whole in zip(pieces, held, strict=True):
                some = _held_of(layers, piece, by_layer, images[part], labels[part])
                whole += [value.new_empty(len(images), *value.shape[1:]) for value in some] if not whole else []
                for place, value in zip(whole, some, strict=True):
                    place[part] = value
        for piece, whole in zip(pieces, held, strict=True):
            found += _products(layers, piece, whole)
    return found


def _groups(pieces: list[Piece], most: int) -> Iterator[list[Piece]]:
    """Yield the pieces, as many at a time as have at most ``most`` numbers together, but one at least."""
    group: list[Piece] = []
    for piece in pieces:
        if group and sum(one.size for one in group) + piece.size > most:
            yield group
            group = []
        group.append(piece)
    yield group


def _held_of(
    layers: Layers, piece: Piece, by_layer: Mapping[str, Passed], images: Tensor, labels: Tensor
) -> tuple[Tensor, ...]:
    if piece.layer in layers.others:
        return (torch.stack([each for (each,) in other_gradients(layers, [piece.layer], images, labels)]),)
    if piece.kind == "factors":
        return by_layer[piece.layer]
    return (piece_gradients(layers, piece, by_layer),)


def _products(layers: Layers, piece: Piece, held: list[Tensor]) -> Tensor:
    if piece.kind != "factors":
        return (held[0] @ held[0].T).cpu().double()
    # Of vectors, so cheap: fitted examples' products would leave float32's range.
    given, back = (factor.cpu().double() for factor in held)
    return of_factors(layers, piece, given @ given.T, back @ back.T)


def of_factors(layers: Layers, piece: Piece, given: Tensor, back: Tensor) -> Tensor:
    """Return the products of a flat layer's gradients from those of what it was given, and of what came back."""
    layer = layers.closed[piece.layer]
    assert isinstance(layer, nn.Linear)
    has_bias = layer.bias is not None and layer.bias.requires_grad
    return back * (given * float(layer.weight.requires_grad) + float(has_bias))
