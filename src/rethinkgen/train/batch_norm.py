"""BatchNorm over all ranks' shares of a batch on the CPU, where torch's ``SyncBatchNorm`` refuses to work."""

from __future__ import annotations

import functools
from typing import Any

import torch
from pytorch_lightning.plugins import LayerSync
from torch import Tensor, nn

from rethinkgen.collective import num_ranks, sum_over_ranks
from rethinkgen.measure.predict import BatchNorm, batch_norms


class SyncBatchNormOnCPU(LayerSync):
    """Has every BatchNorm of a network normalise by the whole batch while it trains.

    Shares of different sizes count by their sizes, so that two ranks train as one process does, up to rounding. The
    modules stay as they are but for their ``forward``: parameters, buffers and ``state_dict`` do not change.
    """

    def apply(self, model: nn.Module) -> nn.Module:
        """Put the synchronised ``forward`` in place."""
        for norm in batch_norms(model):
            norm.forward = functools.partial(synchronised_batch_norm, norm)  # type: ignore[method-assign]
        return model

    def revert(self, model: nn.Module) -> nn.Module:
        """Put the module's own ``forward`` back."""
        for norm in batch_norms(model):
            norm.__dict__.pop("forward", None)
        return model


def synchronised_batch_norm(norm: BatchNorm, inputs: Tensor) -> Tensor:
    """Return what ``norm`` makes of this rank's share ``(n, C, ...)`` of a batch, by statistics of the whole batch."""
    if not norm.training or num_ranks() == 1:
        return type(norm).forward(norm, inputs)
    norm._check_input_dim(inputs)  # type: ignore[no-untyped-call]
    # As torch's own: under autocast the input is bfloat16, its statistics are not.
    values = inputs if inputs.dtype == torch.float64 else inputs.float()
    others = [dim for dim in range(inputs.ndim) if dim != 1]
    shape = [-1 if dim == 1 else 1 for dim in range(inputs.ndim)]

    count = values.new_tensor([inputs.numel() // inputs.shape[1]])
    totals: Tensor = _SumOverRanks.apply(torch.cat([values.sum(others), count]))
    count = totals[-1].detach()
    mean = totals[:-1] / count
    # In two passes: the mean of squares less the square of the mean loses all digits where the mean is large.
    centred = values - mean.view(shape)
    variance: Tensor = _SumOverRanks.apply(centred.square().sum(others)) / count
    _note_statistics(norm, mean.detach(), variance.detach() * count / (count - 1))

    normalised = centred * (variance + norm.eps).rsqrt().view(shape)
    if norm.affine:
        normalised = normalised * norm.weight.view(shape) + norm.bias.view(shape)
    return normalised.to(inputs.dtype)


def _note_statistics(norm: BatchNorm, mean: Tensor, variance: Tensor) -> None:
    if not norm.track_running_stats:
        return
    assert norm.num_batches_tracked is not None
    assert norm.running_mean is not None
    assert norm.running_var is not None
    norm.num_batches_tracked.add_(1)
    share = 1 / int(norm.num_batches_tracked) if norm.momentum is None else norm.momentum
    norm.running_mean.lerp_(mean.to(norm.running_mean.dtype), share)
    norm.running_var.lerp_(variance.to(norm.running_var.dtype), share)


class _SumOverRanks(torch.autograd.Function):
    """Sum over ranks; every rank's output depends on every rank's input, so gradients are summed over ranks too."""

    @staticmethod
    def forward(ctx: Any, values: Tensor) -> Tensor:
        return sum_over_ranks(values.clone())

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Tensor:
        return sum_over_ranks(gradients[0].clone())
