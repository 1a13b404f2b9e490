"""Blocked and refined solutions, beside numpy's dense ones."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from rethinkgen.errors import UnsolvableError
from rethinkgen.model.closed_form import least_squares
from rethinkgen.model.closed_form.least_squares import (
    Cholesky,
    cholesky_bytes,
    distinct_rows,
    minimum_norm_least_squares,
    solve_positive_definite,
)


def positive_definite(n: int, condition: float) -> Tensor:
    generator = torch.Generator().manual_seed(n)
    q, _ = torch.linalg.qr(torch.randn(n, n, dtype=torch.float64, generator=generator))
    return (q * torch.logspace(0, -np.log10(condition), n, dtype=torch.float64)) @ q.T


def entries(matrix: Tensor) -> least_squares.Gram:
    return lambda rows, columns, dtype: matrix[rows, columns].to(dtype, copy=True)


def silent(what: str, share: float) -> None:
    assert 0 <= share <= 1, what


@pytest.mark.parametrize("block", [7, 16, 100])
@pytest.mark.parametrize("l2", [0.0, 0.3])
def test_blocked_cholesky_is_the_dense_one(monkeypatch: pytest.MonkeyPatch, block: int, l2: float) -> None:
    monkeypatch.setattr(least_squares, "BLOCK", block)
    matrix, targets = positive_definite(50, 100), torch.eye(50, 3, dtype=torch.float64)
    shares: list[float] = []
    cholesky = Cholesky(entries(matrix), 50, l2, torch.float64, shares.append)
    regularized = matrix + l2 * torch.eye(50, dtype=torch.float64)
    factor = np.linalg.cholesky(regularized.numpy())
    for i, rows in enumerate(cholesky.slices):
        for j, columns in enumerate(cholesky.slices[: i + 1]):
            assert np.allclose(np.tril(factor)[rows, columns], cholesky.blocks[i][j])
    assert np.allclose(cholesky.solve(targets), np.linalg.solve(regularized.numpy(), targets.numpy()))
    assert shares == sorted(shares)
    assert shares[-1] == 1


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_refined_solutions_have_the_quality_of_float64(monkeypatch: pytest.MonkeyPatch, dtype: torch.dtype) -> None:
    monkeypatch.setattr(least_squares, "BLOCK", 64)
    matrix, targets = positive_definite(200, 1e5), torch.eye(200, 4, dtype=torch.float64)
    found = solve_positive_definite(entries(matrix), targets, 0.0, dtype, silent)
    assert np.allclose(found.weights, np.linalg.solve(matrix.numpy(), targets.numpy()), rtol=1e-6, atol=1e-6)
    residual = float((matrix @ found.weights - targets).norm() / targets.norm())
    assert found.residual == pytest.approx(residual, rel=0.1, abs=1e-14)
    assert found.residual <= least_squares.TOLERANCE
    assert found.num_refinements == 1 or dtype == torch.float32


def test_a_matrix_that_is_not_positive_definite_is_told() -> None:
    singular = torch.ones(5, 5, dtype=torch.float64)
    with pytest.raises(UnsolvableError, match="not positive definite in float64"):
        solve_positive_definite(entries(singular), torch.eye(5, dtype=torch.float64), 0.0, torch.float64, silent)
    # Beyond float32, but not beyond float64.
    hard, targets = positive_definite(100, 1e9), torch.eye(100, 2, dtype=torch.float64)
    with pytest.raises(UnsolvableError, match=r"not positive definite in float32|residual stays at"):
        solve_positive_definite(entries(hard), targets, 0.0, torch.float32, silent)
    assert solve_positive_definite(entries(hard), targets, 0.0, torch.float64, silent).residual < 1e-6


@pytest.mark.parametrize("shape", [(40, 12), (12, 40), (20, 20)])
@pytest.mark.parametrize("rank", [5, 12])
def test_least_squares_of_any_rank_are_numpys(shape: tuple[int, int], rank: int) -> None:
    generator = torch.Generator().manual_seed(rank)
    left, right = (torch.randn(side, rank, dtype=torch.float64, generator=generator) for side in shape)
    inputs, targets = left @ right.T, torch.randn(shape[0], 3, dtype=torch.float64, generator=generator)
    found = minimum_norm_least_squares(inputs, targets)
    theirs, _, their_rank, _ = np.linalg.lstsq(inputs.numpy(), targets.numpy(), rcond=1e-6)
    assert np.allclose(found.weights, theirs)
    assert found.rank == their_rank == rank


def test_l2_is_that_of_ridge_regression() -> None:
    generator = torch.Generator().manual_seed(0)
    inputs, targets = (torch.randn(30, width, dtype=torch.float64, generator=generator) for width in (8, 2))
    dense = np.linalg.solve((inputs.T @ inputs + 0.7 * torch.eye(8)).numpy(), (inputs.T @ targets).numpy())
    assert np.allclose(minimum_norm_least_squares(inputs, targets, 0.7).weights, dense)


def test_equal_rows_count_as_one_with_the_mean_of_their_targets() -> None:
    rows = torch.tensor([[1.0, 2.0], [3.0, 4.0], [1.0, 2.0], [5.0, 6.0]])
    targets = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0], [1.0, 0.0]], dtype=torch.float64)
    equal = distinct_rows(rows)
    assert equal.kept.tolist() == [0, 1, 3]
    assert equal.mean(targets).tolist() == [[0.5, 0.5], [0, 1], [1, 0]]
    assert equal.spread(torch.tensor([[2.0], [3.0], [4.0]])).flatten().tolist() == [1, 3, 1, 4]
    assert distinct_rows(rows, are_merged=False).kept.tolist() == [0, 1, 2, 3]


def test_memory_is_half_a_matrix() -> None:
    assert cholesky_bytes(60_000, torch.float32) < 8.5e9
    assert cholesky_bytes(60_000, torch.float64) < 17e9
    assert cholesky_bytes(60_000, torch.float32) > 60_000**2 / 2 * 4
