"""Kernel machines solved exactly: equation (3) of Zhang et al. 2017, Section 5.

``K alpha = Y`` for the kernel matrix ``K (n, n)`` of the training inputs and one-hot labels ``Y (n, k)``: its
solution is the interpolant of least norm. Inputs are flattened; there is no intercept. Label coding, bandwidth and l2
are not given by the paper: one-hot labels and the defaults here are ours.
"""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rethinkgen.checks import check_between, check_positive
from rethinkgen.errors import UnsolvableError
from rethinkgen.model.closed_form.closed_form import ClosedForm, Solution, check_memory
from rethinkgen.model.closed_form.gabor import WAVELENGTHS, GaborFeatures
from rethinkgen.model.closed_form.least_squares import (
    BLOCK,
    cholesky_bytes,
    distinct_rows,
    minimum_norm_least_squares,
    solve_positive_definite,
)

log = logging.getLogger(__name__)

SOLVERS = {"cholesky_float64": torch.float64, "cholesky_float32": torch.float32}
MOST_FOR_FLOAT64 = 20_000
"""Examples up to which ``solver=auto`` factorises in float64 (1.6 GB); above in float32, refined to the same
residual."""
NUM_FOR_MEDIAN = 2000
"""Examples among which the median distance is looked at."""
BANDWIDTH_FACTOR = 2.0
LEAST_MEDIAN_ENTRY = 1e-6
FEATURES = ("none", "gabor")


class KernelGaussian(ClosedForm):
    """Least squares with the kernel ``exp(-bandwidth * |x - x'|^2)``, solved exactly.

    With ``l2=0`` every training set whose inputs differ is interpolated, whatever its labels. Equal inputs, whose
    labels cannot all be met where they differ, count as one with the mean of their targets: the least-squares
    solution of least norm. ``weights/end.pt`` holds ``alpha`` (float64); the inputs that it belongs to are those of the
    run's training split.

    ``solution/norm`` is the norm in the reproducing kernel Hilbert space, ``sqrt(tr(alpha^T K alpha))``, over all
    outputs; ``solution/norm_output_k`` that of output k alone, of which the first is the root of the sum of squares.
    The paper reports about 220 on MNIST and 390 with wavelets, without its label coding, bandwidth or which of these
    it is. ``solution/residual`` is ``|Y - (K + l2) alpha| / |Y|``, computed in float64.

    Args:
        l2: added to the diagonal of ``K``.
        bandwidth: a number, or ``auto``: 2 / the median squared distance between training inputs (2,000 of them). That
            is 0.019 on MNIST's pixels in ``[0, 1]``; the factor is ours, chosen on a held-out part of its training set.
        solver: ``cholesky_float64``, ``cholesky_float32`` (half the memory and time; refined with residuals in
            float64), or ``auto``: the first up to 20,000 examples, the second above.
        features: ``gabor``: the kernel is of Gabor features instead of pixels (``rethinkgen.model.closed_form.gabor``).
    """

    advice = "Set model.l2=1e-6, a larger model.bandwidth, or model.solver=cholesky_float64."

    def __init__(
        self,
        *,
        l2: float = 0.0,
        bandwidth: float | str = "auto",
        solver: str = "auto",
        features: str = "none",
        **keywords: Any,
    ) -> None:
        super().__init__(**keywords)
        self.l2 = check_between("model.l2", l2, 0, float("inf"), below=True)
        is_chosen = bandwidth != "auto"
        self.bandwidth = check_positive("model.bandwidth", bandwidth, or_else="auto") if is_chosen else bandwidth
        self.solver = _check_choice("model.solver", solver, ("auto", *SOLVERS))
        self.features = _check_choice("model.features", features, FEATURES)

    def check_problem(self, inputs: Tensor, labels: Tensor, num_classes: int) -> None:
        """Refuse what does not fit into memory; warn where the kernel tells nothing apart from anything else."""
        dtype = self._precision(len(inputs))
        extractor = self._extractor(inputs)
        num_features = extractor(inputs[:1]).shape[1]
        needed = cholesky_bytes(len(inputs), dtype) + 3 * BLOCK * num_features * 8
        if extractor.is_copying:
            needed += len(inputs) * num_features * 4
        advice = f"Choose fewer examples, data.num_train={_fitting(needed, len(inputs), self.free_bytes())}"
        if dtype == torch.float64:
            advice += ", or model.solver=cholesky_float32, which takes half"
        check_memory(f"{len(inputs):,} examples, {str(dtype)[6:]}", needed, self.free_bytes(), advice)
        median = median_squared_distance(extractor(_spread(inputs, NUM_FOR_MEDIAN)))
        if median == 0 and self.bandwidth == "auto":
            raise ValueError("model.bandwidth=auto: most training inputs are equal; give a number.")
        self.median = median
        typical = float(np.exp(-self._bandwidth() * median))
        if typical < LEAST_MEDIAN_ENTRY:
            log.warning(
                "model.bandwidth=%g: the median entry of the kernel matrix is %.1e, so that it is hardly more than the "
                "identity and tells nothing about new inputs. model.bandwidth=auto would be %.2g",
                self._bandwidth(),
                typical,
                BANDWIDTH_FACTOR / median,  # not zero: then the typical entry is 1
            )

    def solve(self, inputs: Tensor, labels: Tensor, num_classes: int) -> Solution:
        """Solve for ``alpha``."""
        extractor = self._extractor(inputs)
        features = extractor(inputs)
        targets = F.one_hot(labels, num_classes).double()
        equal = distinct_rows(features, are_merged=self.l2 == 0)
        distinct = features if len(equal.kept) == len(features) else features[equal.kept]
        means = equal.mean(targets)
        kernel = GaussianKernel(self._bandwidth())
        try:
            found = solve_positive_definite(
                lambda rows, columns, dtype: kernel(distinct[rows].to(dtype), distinct[columns].to(dtype)),
                means,
                self.l2,
                self._precision(len(distinct)),
                self.report,
                gram_cost=distinct.shape[1],
            )
        except UnsolvableError as error:
            raise UnsolvableError(f"{error}. {self.advice}") from None
        alpha = found.weights
        squares = (alpha * (means - self.l2 * alpha)).sum(0).clamp_min(0)
        metrics: dict[str, float | None] = {
            "solution/norm": float(squares.sum().sqrt()),
            "solution/residual": found.residual,
            "solution/refinements": found.num_refinements,
            "solution/bandwidth": kernel.bandwidth,
        }
        metrics |= {f"solution/norm_output_{k}": float(square.sqrt()) for k, square in enumerate(squares)}
        network = KernelExpansion(kernel, extractor, features, equal.spread(alpha))
        return Solution(network, metrics)

    def _precision(self, n: int) -> torch.dtype:
        if self.solver == "auto":
            return torch.float64 if n <= MOST_FOR_FLOAT64 else torch.float32
        return SOLVERS[self.solver]

    def _bandwidth(self) -> float:
        return BANDWIDTH_FACTOR / self.median if isinstance(self.bandwidth, str) else self.bandwidth

    def _extractor(self, inputs: Tensor) -> Pixels | GaborFeatures:
        if self.features == "none":
            return Pixels()
        _, channels, height, width = inputs.shape
        if max(height, width) < WAVELENGTHS[0]:
            raise ValueError(
                f"model.features=gabor: images are {height}x{width}, smaller than the shortest wavelength, "
                f"{WAVELENGTHS[0]:g} pixels. Set model.features=none."
            )
        return GaborFeatures((channels, height, width)).to(inputs.device)


class KernelLinear(ClosedForm):
    """Least squares on the inputs themselves, of all solutions the one of least norm: ``W (d, k)``.

    The solution of equation (3) with the kernel ``x . x'`` where that has one, which takes inputs of rank n; with more
    examples than dimensions it is the best fit instead, and ``fit/accuracy`` stays below 1. Solved in float64, where
    inputs are deficient in rank by the pseudo-inverse; ``solution/rank`` says which rank was found.

    ``solution/norm`` is ``|W|`` (Frobenius), ``solution/residual`` is ``|X W - Y| / |Y|``.

    Args:
        l2: weight of ``|W|^2`` beside the sum of squared errors.
    """

    def __init__(self, *, l2: float = 0.0, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.l2 = check_between("model.l2", l2, 0, float("inf"), below=True)

    def check_problem(self, inputs: Tensor, labels: Tensor, num_classes: int) -> None:
        """Refuse what does not fit into memory."""
        num_inputs = inputs[0].numel()
        needed = 8 * (4 * inputs.numel() + 5 * min(len(inputs), num_inputs) ** 2)
        least = int(len(inputs) * self.free_bytes() / needed)
        advice = f"Choose fewer examples, data.num_train={least}"
        check_memory(f"{len(inputs):,} examples of {num_inputs:,} values", needed, self.free_bytes(), advice)

    def solve(self, inputs: Tensor, labels: Tensor, num_classes: int) -> Solution:
        """Solve for ``W``."""
        rows, targets = inputs.flatten(1).double(), F.one_hot(labels, num_classes).double()
        self.report("QR and singular value decomposition", 0.0)
        found = minimum_norm_least_squares(rows, targets, self.l2)
        metrics: dict[str, float | None] = {
            "solution/norm": float(found.weights.norm()),
            "solution/residual": float((rows @ found.weights - targets).norm() / targets.norm()),
            "solution/rank": found.rank,
        }
        metrics |= {f"solution/norm_output_{k}": float(column.norm()) for k, column in enumerate(found.weights.T)}
        return Solution(Linear(found.weights), metrics)


class GaussianKernel:
    """``exp(-bandwidth * |x - x'|^2)`` of all pairs of two sets of rows."""

    def __init__(self, bandwidth: float) -> None:
        self.bandwidth = bandwidth

    def __call__(self, rows: Tensor, columns: Tensor) -> Tensor:
        """Return ``(n, m)`` for ``rows (n, d)`` and ``columns (m, d)``, in their precision."""
        return squared_distances(rows, columns).mul_(-self.bandwidth).exp_()


class Linear(nn.Module):
    """Flattened inputs times weights ``(d, k)``, in float64."""

    def __init__(self, weights: Tensor) -> None:
        super().__init__()
        self.weights = nn.Parameter(weights)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return ``(N, k)`` for inputs ``(N, C, H, W)``."""
        return inputs.flatten(1).to(self.weights.dtype) @ self.weights


class KernelExpansion(nn.Module):
    """``sum_i alpha_i k(x_i, x)`` over the training examples, in float64.

    Args:
        extractor: inputs ``(N, C, H, W)`` to what the kernel is of, ``(N, d)``.
        centers: ``x_i (n, d)``; not written with the weights, as they are the run's training split.
        alpha: ``(n, k)``
    """

    def __init__(self, kernel: GaussianKernel, extractor: nn.Module, centers: Tensor, alpha: Tensor) -> None:
        super().__init__()
        self.kernel = kernel
        self.extractor = extractor
        self.centers: Tensor
        self.register_buffer("centers", centers, persistent=False)
        self.alpha = nn.Parameter(alpha)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return ``(N, k)`` for inputs ``(N, C, H, W)``."""
        rows = self.extractor(inputs).to(self.alpha.dtype)
        outputs = self.alpha.new_zeros(len(rows), self.alpha.shape[1])
        for centers, alpha in zip(torch.split(self.centers, BLOCK), torch.split(self.alpha, BLOCK), strict=True):
            outputs += self.kernel(rows, centers.to(self.alpha.dtype)) @ alpha
        return outputs


class Pixels(nn.Module):
    """The inputs as they are, flattened."""

    is_copying = False

    def forward(self, inputs: Tensor) -> Tensor:
        """Return ``(N, d)`` for inputs ``(N, C, H, W)``."""
        return inputs.flatten(1)


def squared_distances(rows: Tensor, columns: Tensor) -> Tensor:
    """Return ``|x - x'|^2 (n, m)`` for ``rows (n, d)`` and ``columns (m, d)``."""
    products = rows @ columns.T
    distances = products.mul_(-2).add_(rows.square().sum(1)[:, None]).add_(columns.square().sum(1))
    return distances.clamp_min_(0)


def median_squared_distance(rows: Tensor) -> float:
    """Return the median over all pairs of different rows of ``(n, d)``."""
    above = torch.triu_indices(len(rows), len(rows), offset=1, device=rows.device)
    return float(squared_distances(rows.double(), rows.double())[above[0], above[1]].median())


def _spread(inputs: Tensor, number: int) -> Tensor:
    """Return at most ``number`` of the inputs, evenly spread."""
    step = -(-len(inputs) // number)
    return inputs[::step]


def _fitting(needed: int, n: int, free: int) -> int:
    """Return how many examples of ``n`` would fit, where memory goes with their square."""
    return max(1, int(0.95 * n * (free / needed) ** 0.5))


def _check_choice(key: str, value: Any, allowed: tuple[str, ...]) -> str:
    if value in allowed:
        return str(value)
    raise ValueError(f"{key}={value!r}: one of {', '.join(allowed)} is needed.")
