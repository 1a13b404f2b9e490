"""BatchNorm over the shares of all ranks is torch's own over the whole batch."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from threaded_ranks import on_ranks
from torch import Tensor, nn

from rethinkgen.train import batch_norm
from rethinkgen.train.batch_norm import SyncBatchNormOnCPU, synchronised_batch_norm

SHARES = [slice(0, 3), slice(3, 8)]
"""Of eight examples: not of one size."""
MADE: list[tuple[type[nn.Module], tuple[int, ...], dict[str, Any]]] = [
    (nn.BatchNorm1d, (8, 4), {}),
    (nn.BatchNorm2d, (8, 4, 3, 5), {"momentum": None}),
    (nn.BatchNorm2d, (8, 4, 2, 2), {"affine": False}),
    (nn.BatchNorm2d, (8, 4, 2, 2), {"track_running_stats": False}),
]


@pytest.mark.parametrize(("kind", "shape", "keywords"), MADE)
def test_two_shares_are_the_whole_batch(kind: type[nn.Module], shape: tuple[int, ...], keywords: Any) -> None:
    generator = torch.Generator().manual_seed(0)
    inputs = torch.randn(shape, generator=generator, dtype=torch.float64) * 3 + 50  # far from 0
    weights = torch.randn(shape, generator=generator, dtype=torch.float64)
    norm = kind(4, **keywords).double()
    whole = copy.deepcopy(norm)
    given = inputs.clone().requires_grad_()
    expected = whole(given)
    (expected * weights).sum().backward()

    def work(rank: int) -> tuple[Tensor, Tensor, nn.Module]:
        mine = copy.deepcopy(norm)
        share = inputs[SHARES[rank]].clone().requires_grad_()
        outputs = synchronised_batch_norm(mine, share)
        (outputs * weights[SHARES[rank]]).sum().backward()
        assert share.grad is not None
        return outputs.detach(), share.grad, mine

    found = on_ranks(batch_norm, 2, work)
    torch.testing.assert_close(torch.cat([outputs for outputs, _, _ in found]), expected.detach())
    torch.testing.assert_close(torch.cat([gradient for _, gradient, _ in found]), given.grad, rtol=1e-6, atol=1e-9)
    for _, _, mine in found:
        torch.testing.assert_close(mine.state_dict(), whole.state_dict())
    for name, parameter in whole.named_parameters():
        both = sum(dict(mine.named_parameters())[name].grad for _, _, mine in found)  # type: ignore[misc]
        torch.testing.assert_close(both, parameter.grad)


def test_bfloat16_goes_in_and_comes_out_and_statistics_are_float32() -> None:
    inputs = (torch.randn(8, 4, generator=torch.Generator().manual_seed(0)) + 200).bfloat16()
    norm = nn.BatchNorm1d(4)
    expected = copy.deepcopy(norm)(inputs.float())
    found = on_ranks(batch_norm, 2, lambda rank: synchronised_batch_norm(copy.deepcopy(norm), inputs[SHARES[rank]]))
    assert all(outputs.dtype == torch.bfloat16 for outputs in found)
    torch.testing.assert_close(torch.cat(found), expected.bfloat16(), rtol=0, atol=1e-5)


def test_in_evaluation_mode_and_alone_it_is_torchs_own() -> None:
    inputs = torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    norm = nn.BatchNorm1d(4)
    assert torch.equal(synchronised_batch_norm(norm, inputs), nn.BatchNorm1d(4)(inputs))
    expected = norm.eval()(inputs)
    found = on_ranks(batch_norm, 2, lambda rank: synchronised_batch_norm(norm, inputs[SHARES[rank]]))
    assert torch.equal(torch.cat(found), expected)


def test_it_is_put_in_place_and_taken_back() -> None:
    network = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.ReLU())
    names, plain = list(network.state_dict()), network[1].forward
    network = SyncBatchNormOnCPU().apply(network)
    assert network[1].forward.func is synchronised_batch_norm
    assert "forward" not in network[0].__dict__
    assert list(network.state_dict()) == names
    network = SyncBatchNormOnCPU().revert(network)
    assert network[1].forward == plain


def test_images_of_another_shape_are_refused_as_torch_does() -> None:
    with pytest.raises(ValueError, match="expected 4D input"):
        on_ranks(batch_norm, 2, lambda rank: synchronised_batch_norm(nn.BatchNorm2d(4), torch.ones(3, 4)))
