"""Linear systems of closed-form models: large positive definite ones by blocks, and least squares of any rank."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from rethinkgen.errors import UnsolvableError
from rethinkgen.model.closed_form.closed_form import Report

BLOCK = 3072
"""Rows of a block: large for the speed of matrix products, small beside the whole, so that progress can be told."""
TOLERANCE = 1e-10
"""Relative residual at which refinement ends."""
WORST_RESIDUAL = 1e-6
"""Relative residual above which a system counts as not solved."""
MOST_REFINEMENTS = 50

LEAST_SINGULAR_VALUE = 1e-6
"""Share of the largest below which a singular value is taken for rounding: images come in float32, and those that are
whitened sum to zero up to that."""

Gram = Callable[[slice, slice, torch.dtype], Tensor]
"""Given rows, columns and a precision, a new tensor of these entries of a symmetric matrix."""


def full_precision() -> AbstractContextManager[None]:
    """Have convolutions on a GPU compute in float32 proper, where PyTorch's default is TF32, of 10 bits."""
    manager: AbstractContextManager[None] = torch.backends.cudnn.flags(
        enabled=True, benchmark=False, deterministic=True, allow_tf32=False
    )
    return manager


class RefinedSolution(NamedTuple):
    """A solution in float64, and how good it is."""

    weights: Tensor
    """``(n, k)``"""
    residual: float
    """``|targets - (K + l2) weights| / |targets|``, Frobenius norms, computed in float64"""
    num_refinements: int


class Cholesky:
    """The factor of ``K + l2`` in square blocks of its lower triangle alone: half the memory of the matrix.

    A block of ``K`` is asked for when its column is due, and is overwritten by the factor's (left-looking Cholesky).

    Raises:
        UnsolvableError: the matrix is not positive definite in this precision.
    """

    def __init__(self, gram: Gram, n: int, l2: float, dtype: torch.dtype, report: Callable[[float], None]) -> None:
        self.slices = [slice(start, min(start + BLOCK, n)) for start in range(0, n, BLOCK)]
        self.dtype = dtype
        self.blocks: list[list[Tensor]] = [[] for _ in self.slices]
        num_blocks = len(self.slices)
        num_products = sum((num_blocks - k) * (k + 1) for k in range(num_blocks))
        num_done = 0
        for k, columns in enumerate(self.slices):
            for i in range(k, num_blocks):
                block = gram(self.slices[i], columns, dtype)
                if i == k:
                    block.diagonal().add_(l2)
                for j in range(k):
                    block.addmm_(self.blocks[i][j], self.blocks[k][j].T, alpha=-1)
                self.blocks[i].append(self._factor(block) if i == k else self._divide(block, self.blocks[k][k]))
                num_done += k + 1
                report(num_done / num_products)

    def _factor(self, block: Tensor) -> Tensor:
        factor, info = torch.linalg.cholesky_ex(block)
        if int(info) != 0 or not bool(factor.isfinite().all()):
            raise UnsolvableError(f"the matrix is not positive definite in {str(self.dtype).removeprefix('torch.')}")
        lower: Tensor = factor
        return lower

    @staticmethod
    def _divide(block: Tensor, factor: Tensor) -> Tensor:
        divided: Tensor = torch.linalg.solve_triangular(factor.T, block, upper=True, left=False)
        return divided

    def solve(self, targets: Tensor) -> Tensor:
        """Return the solution ``(n, k)`` for ``targets (n, k)``, with the rounding of the factor's precision."""
        found = targets.to(self.dtype, copy=True)
        for i, rows in enumerate(self.slices):
            for j in range(i):
                found[rows] -= self.blocks[i][j] @ found[self.slices[j]]
            found[rows] = torch.linalg.solve_triangular(self.blocks[i][i], found[rows], upper=False)
        for i, rows in reversed(list(enumerate(self.slices))):
            for j in range(i + 1, len(self.slices)):
                found[rows] -= self.blocks[j][i].T @ found[self.slices[j]]
            found[rows] = torch.linalg.solve_triangular(self.blocks[i][i].T, found[rows], upper=True)
        return found


def solve_positive_definite(
    gram: Gram, targets: Tensor, l2: float, dtype: torch.dtype, report: Report, *, gram_cost: float = 0.0
) -> RefinedSolution:
    """Solve ``(K + l2) weights = targets`` for ``targets (n, k)`` float64: Cholesky in ``dtype``, then refinement.

    Each refinement computes the residual with ``K`` in float64 and solves for it again (Wilkinson), so that a factor in
    float32 gives a solution of float64's quality as long as the condition of ``K`` is well below 1e7.

    ``gram_cost``, the multiplications that an entry of ``K`` costs, is for telling how much of the work is done.

    Raises:
        UnsolvableError: no solution with a relative residual below ``WORST_RESIDUAL`` was found.
    """
    n = len(targets)
    # A pass in float64 counts twice. Of refinements some three are to be expected.
    num_expected = 3
    factor_cost, pass_cost = n / 3 + gram_cost / 2, gram_cost
    total = factor_cost + num_expected * pass_cost
    cholesky = Cholesky(gram, n, l2, dtype, lambda share: report("Cholesky factorisation", share * factor_cost / total))
    weights, residual = torch.zeros_like(targets), targets
    best = float("inf")
    for number in range(1, MOST_REFINEMENTS + 1):
        correction = cholesky.solve(residual).double()
        proposed = weights + correction
        residual = targets - _times(gram, proposed) - l2 * proposed
        relative = float(residual.norm() / targets.norm())
        report(
            f"refinement, residual {relative:.1e}",
            (factor_cost + min(number, num_expected - 1) * pass_cost) / total,
        )
        is_better = relative < best
        if is_better:
            weights, best = proposed, relative
        if best <= TOLERANCE or not is_better:
            break
    if not best <= WORST_RESIDUAL:
        raise UnsolvableError(f"the relative residual stays at {best:.1e}")
    return RefinedSolution(weights, best, number)


def _times(gram: Gram, weights: Tensor) -> Tensor:
    """Return ``K weights`` in float64, computing each block of the lower triangle once."""
    n = len(weights)
    slices = [slice(start, min(start + BLOCK, n)) for start in range(0, n, BLOCK)]
    product = torch.zeros_like(weights)
    for i, rows in enumerate(slices):
        for j, columns in enumerate(slices[: i + 1]):
            block = gram(rows, columns, torch.float64)
            product[rows] += block @ weights[columns]
            if j < i:
                product[columns] += block.T @ weights[rows]
    return product


def cholesky_bytes(n: int, dtype: torch.dtype) -> int:
    """Return the memory that ``solve_positive_definite`` takes at its peak, beside the examples."""
    num_blocks = -(-n // BLOCK)
    size = min(n, BLOCK) ** 2
    factor = num_blocks * (num_blocks + 1) // 2 * size * dtype.itemsize
    return factor + 4 * size * 8


class DistinctRows(NamedTuple):
    """Examples whose inputs are equal to the bit, as one each: together they are asked for the mean of their targets.

    With several equal rows a kernel matrix is singular. What meets the means, and has least norm, is the least-squares
    solution of least norm.
    """

    kept: Tensor
    """``(m,)``: position of the first of each group"""
    groups: Tensor
    """``(n,)``: to which group an example belongs"""
    counts: Tensor
    """``(m,)``: how many are in a group"""

    def mean(self, targets: Tensor) -> Tensor:
        """Return the means ``(m, k)`` over groups of ``targets (n, k)``."""
        sums = targets.new_zeros(len(self.kept), targets.shape[1])
        return sums.index_add_(0, self.groups, targets) / self.counts[:, None]

    def spread(self, weights: Tensor) -> Tensor:
        """Share out the weights ``(m, k)`` of groups evenly among their examples: ``(n, k)``."""
        return (weights / self.counts[:, None])[self.groups]


def distinct_rows(rows: Tensor, *, are_merged: bool = True) -> DistinctRows:
    """Find which of ``rows (n, d)`` are equal; unless they ``are_merged``, each counts as one of its own."""
    seen: dict[bytes, int] = {}
    hashes = (hashlib.blake2b(row, digest_size=16).digest() for row in np.ascontiguousarray(rows.cpu().numpy()))
    first = [seen.setdefault(digest, i) for i, digest in enumerate(hashes)] if are_merged else list(range(len(rows)))
    kept, groups, counts = torch.unique(torch.tensor(first), return_inverse=True, return_counts=True)
    return DistinctRows(kept.to(rows.device), groups.to(rows.device), counts.to(rows.device))


class LeastSquares(NamedTuple):
    """The least-squares solution of least norm."""

    weights: Tensor
    """``(d, k)``"""
    rank: int


def minimum_norm_least_squares(inputs: Tensor, targets: Tensor, l2: float = 0.0) -> LeastSquares:
    """Minimise ``|inputs weights - targets|^2 + l2 |weights|^2``; for ``l2 = 0``, of all minimisers that of least norm.

    ``inputs (n, d)`` and ``targets (n, k)`` are float64. The longer side is first reduced by a QR factorisation, then
    the rest is a singular value decomposition of ``min(n, d)`` rows and columns. Singular values below
    ``LEAST_SINGULAR_VALUE`` of the largest count as zero.
    """
    is_wide = len(inputs) < inputs.shape[1]
    q, r = torch.linalg.qr(inputs.T if is_wide else inputs)
    u, singular, vh = torch.linalg.svd(r, full_matrices=False)
    left, right = (vh.T, q @ u) if is_wide else (q @ u, vh.T)
    cutoff = LEAST_SINGULAR_VALUE * float(singular[0])
    kept = singular > cutoff
    inverse = torch.where(kept, singular / (singular**2 + l2), 0.0)  # zero divided by zero is not taken
    return LeastSquares(right @ (inverse[:, None] * (left.T @ targets)), int(kept.sum()))
