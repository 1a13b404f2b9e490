"""Least squares on random convolutional features: the "random conv-net" of Zhang et al. 2017, Table 3.

The paper says no more than that there were 32,000 random filters. The recipe here is the nearest public one, of
Coates and Ng's kind, by a co-author's group (github.com/modestyachts/nondeep, random_features/): it reports 83.3 % on
CIFAR-10 with 32,000 filters, the paper's 17 % error. Neither is known to be the other's code.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rethinkgen.checks import check_between, check_whole
from rethinkgen.errors import UnsolvableError
from rethinkgen.model.closed_form.closed_form import ClosedForm, Solution, check_memory
from rethinkgen.model.closed_form.least_squares import (
    BLOCK,
    cholesky_bytes,
    distinct_rows,
    full_precision,
    minimum_norm_least_squares,
    solve_positive_definite,
)

NUM_PATCHES = 100_000
ZCA_OFFSET = 1e-3
THRESHOLD = 1.0
FILTERS_AT_ONCE = 128
IMAGES_AT_ONCE = {"cuda": 250, "cpu": 32}
"""On the CPU so few that their responses to ``FILTERS_AT_ONCE`` stay in the cache, which is four times as fast."""


class RandomFeatures(ClosedForm):
    """One-hot least squares on features of random filters, by the dual (kernel) system where there are more of them.

    Filters are random patches of the training images (from torch's seed, so ``seed``): mean subtracted, divided by
    their l2 norm, whitened twice (ZCA, eigenvalues + 1e-3). Features are ``relu(f * x - 1)`` and ``relu(-f * x -
    1)``, averaged over 15x15 of the 27x27 positions with stride 6: 9 cells, 18 features a filter, on 32x32 images. On
    other sizes window and stride are the same shares of the side, rounded. Patches of one value alone are no filters.

    ``solution/norm`` is ``|W|`` (Frobenius) of the weights on the features, ``solution/residual`` that of the dual
    system, or ``|X W - Y| / |Y|`` with fewer features than examples. What is counted and kept are filters and weights.

    Args:
        num_filters: the paper's number is 32,000.
        patch_size: side of a filter.
        l2: on the diagonal of the features' Gram matrix.
    """

    def __init__(self, *, num_filters: int = 512, patch_size: int = 6, l2: float = 0.0, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.num_filters = check_whole("model.num_filters", num_filters, 1)
        self.patch_size = check_whole("model.patch_size", patch_size, 2)
        self.l2 = check_between("model.l2", l2, 0, float("inf"), below=True)

    def check_problem(self, inputs: Tensor, labels: Tensor, num_classes: int) -> None:
        """Refuse patches that are larger than the images, and what does not fit into memory."""
        n, _, height, width = inputs.shape
        if self.patch_size > min(height, width):
            raise ValueError(
                f"model.patch_size={self.patch_size}: images are {height}x{width}; at most {min(height, width)} fits."
            )
        num_features = self.num_filters * len(Pooling(inputs, self.patch_size)) * 2
        if num_features < n:
            needed = 8 * (4 * n * num_features + 5 * num_features**2)
        else:
            share = FILTERS_AT_ONCE * num_features // self.num_filters
            needed = 8 * n**2 + cholesky_bytes(n, torch.float64) + 12 * n * share + 8 * BLOCK * n
        free = self.free_bytes()
        most = max(1, int(0.95 * n * (free / needed) ** 0.5))
        advice = f"Choose fewer examples, data.num_train={most}"
        if num_features < n:
            advice += f", or fewer than {self.num_filters:,} filters, model.num_filters=..."
        check_memory(f"{n:,} examples and {num_features:,} features", needed, free, advice)

    def solve(self, inputs: Tensor, labels: Tensor, num_classes: int) -> Solution:
        """Draw the filters and solve for the weights of their features."""
        seeded = torch.Generator().manual_seed(torch.initial_seed())
        filters = draw_filters(inputs, self.num_filters, self.patch_size, seeded)
        pooling = Pooling(inputs, self.patch_size)
        targets = F.one_hot(labels, num_classes).double()
        is_dual = 2 * self.num_filters * len(pooling) >= len(inputs)
        weights, metrics = (self._dual if is_dual else self._primal)(inputs, targets, filters, pooling)
        metrics["solution/norm"] = float(weights.norm())
        metrics |= {f"solution/norm_output_{k}": float(column.norm()) for k, column in enumerate(weights.T)}
        return Solution(RandomConvolution(filters, weights, pooling), metrics)

    def _dual(
        self, inputs: Tensor, targets: Tensor, filters: Tensor, pooling: Pooling
    ) -> tuple[Tensor, dict[str, float | None]]:
        equal = distinct_rows(inputs.flatten(1), are_merged=self.l2 == 0)
        images, means = inputs[equal.kept], equal.mean(targets)
        gram = torch.zeros(len(images), len(images), dtype=torch.float64, device=inputs.device)
        num_parts = -(-len(filters) // FILTERS_AT_ONCE)
        for number, part in enumerate(_parts(filters)):
            # In float64: the largest eigenvalue is some 1e7 times the smallest, and rounding would drown that.
            features = all_features(images, part, pooling).double()
            for start in range(0, len(images), BLOCK):
                rows = slice(start, start + BLOCK)
                gram[rows, : start + BLOCK] += features[rows] @ features[: start + BLOCK].T
            self.report("features", 0.6 * (number + 1) / num_parts)
        try:
            found = solve_positive_definite(
                lambda rows, columns, dtype: gram[rows, columns].to(dtype, copy=True),
                means,
                self.l2,
                # The condition number grows three- to fivefold with each doubling of the examples: 5e7 at 4,000.
                torch.float64,
                lambda what, share: self.report(what, 0.6 + 0.2 * share),
            )
        except UnsolvableError as error:
            least = 1e-6 * float(gram.diagonal().mean())
            raise UnsolvableError(
                f"{error}. Set model.l2={least:.1g} or larger, or more filters, model.num_filters=..."
            ) from None
        weights = []
        for number, part in enumerate(_parts(filters)):
            weights.append(all_features(images, part, pooling).double().T @ found.weights)
            self.report("weights of the features", 0.8 + 0.2 * (number + 1) / num_parts)
        return torch.cat(weights), {"solution/residual": found.residual, "solution/refinements": found.num_refinements}

    def _primal(
        self, inputs: Tensor, targets: Tensor, filters: Tensor, pooling: Pooling
    ) -> tuple[Tensor, dict[str, float | None]]:
        parts = [all_features(inputs, part, pooling).double() for part in _parts(filters)]
        self.report("QR and singular value decomposition", 0.5)
        features = torch.cat(parts, dim=1)
        found = minimum_norm_least_squares(features, targets, self.l2)
        residual = float((features @ found.weights - targets).norm() / targets.norm())
        return found.weights, {"solution/residual": residual, "solution/rank": found.rank}


class Pooling:
    """Cells over which the responses to a filter are averaged."""

    def __init__(self, images: Tensor, patch_size: int) -> None:
        sides = [side - patch_size + 1 for side in images.shape[2:]]
        self.window = tuple(max(1, round(side * 15 / 27)) for side in sides)
        self.stride = tuple(max(1, round(side * 6 / 27)) for side in sides)
        rows, columns = (
            F.avg_pool1d(torch.eye(side)[:, None], window, stride)[:, 0]
            for side, window, stride in zip(sides, self.window, self.stride, strict=True)
        )
        self.averages = torch.kron(rows, columns)
        """``(positions, cells)``: what each position counts in each cell. A product is faster than pooling."""

    def __len__(self) -> int:
        """Return the number of cells."""
        return self.averages.shape[1]

    def __call__(self, responses: Tensor) -> Tensor:
        """Average ``(N, K, positions)`` over the cells: ``(N, K, cells)``."""
        return responses @ self.averages.to(responses.device)


class RandomConvolution(nn.Module):
    """Convolution, two-sided threshold, average pooling, and a linear layer in float64.

    Args:
        filters: ``(K, C, s, s)``
        weights: ``(K * 2 * cells, k)``: for each filter the positive cells, then the negative ones.
    """

    def __init__(self, filters: Tensor, weights: Tensor, pooling: Pooling) -> None:
        super().__init__()
        self.filters = nn.Parameter(filters)
        self.weights = nn.Parameter(weights)
        self.pooling = pooling

    def forward(self, images: Tensor) -> Tensor:
        """Return ``(N, k)`` for images ``(N, C, H, W)``."""
        outputs = self.weights.new_zeros(len(images), self.weights.shape[1])
        size = FILTERS_AT_ONCE * len(self.weights) // len(self.filters)
        for filters, weights in zip(_parts(self.filters), torch.split(self.weights, size), strict=True):
            outputs += all_features(images, filters, self.pooling).double() @ weights
        return outputs


def draw_filters(images: Tensor, num_filters: int, patch_size: int, seeded: torch.Generator) -> Tensor:
    """Return ``(num_filters, C, s, s)`` normalised patches of ``images (N, C, H, W)``, whitened twice.

    Raises:
        UnsolvableError: nearly all patches have one value alone.
    """
    n, channels, height, width = images.shape
    number = max(NUM_PATCHES, 4 * num_filters)
    which = torch.randint(n, (number,), generator=seeded).to(images.device)
    down = torch.randint(height - patch_size + 1, (number,), generator=seeded).to(images.device)
    right = torch.randint(width - patch_size + 1, (number,), generator=seeded).to(images.device)
    offsets = torch.arange(patch_size, device=images.device)
    patches = images[
        which[:, None, None, None],
        torch.arange(channels, device=images.device)[:, None, None],
        (down[:, None] + offsets)[:, None, :, None],
        (right[:, None] + offsets)[:, None, None, :],
    ]
    rows = patches.flatten(1).double()
    rows = rows - rows.mean(1, keepdim=True)
    norms = rows.norm(dim=1)
    rows = (rows[norms > 1e-6].T / norms[norms > 1e-6]).T
    if len(rows) < num_filters:
        raise UnsolvableError(
            f"only {len(rows)} of {number} patches of the images have more than one value: model.num_filters="
            f"{num_filters} cannot be drawn. Choose fewer, or a larger model.patch_size."
        )
    eigenvalues, vectors = torch.linalg.eigh(rows.T @ rows / len(rows))
    twice = vectors @ ((vectors / (eigenvalues.clamp_min(0) + ZCA_OFFSET)).T)
    filters: Tensor = rows[:num_filters] @ twice
    return filters.float().reshape(num_filters, channels, patch_size, patch_size)


def all_features(images: Tensor, filters: Tensor, pooling: Pooling) -> Tensor:
    """Return ``(N, K * 2 * cells)`` float32 for ``images (N, C, H, W)`` and ``filters (K, C, s, s)``."""
    features = images.new_empty(len(images), len(filters), 2, len(pooling))
    at_once = IMAGES_AT_ONCE["cuda" if images.is_cuda else "cpu"]
    for part in (slice(start, start + at_once) for start in range(0, len(images), at_once)):
        with full_precision():
            responses = F.conv2d(images[part], filters).flatten(2)
        features[part, :, 0] = pooling((responses - THRESHOLD).clamp_min_(0))
        features[part, :, 1] = pooling(responses.neg_().sub_(THRESHOLD).clamp_min_(0))
    return features.flatten(1)


def _parts(filters: Tensor) -> Iterator[Tensor]:
    yield from torch.split(filters, FILTERS_AT_ONCE)
