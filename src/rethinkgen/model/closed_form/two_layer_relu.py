"""The network of Theorem 1 of Zhang et al. 2017: two layers and ``2 n + d`` weights fit any labels of ``n`` inputs.

``c(z) = sum_j w_j max(<a, z> - b_j, 0)``, with one direction ``a`` in R^d that all ``n`` hidden units share, thresholds
``b`` and weights ``w`` in R^n. The proof is a construction, and this module follows it: project on a random ``a``,
sort, place a threshold below each projection, solve a triangular system for ``w``. The paper places thresholds anywhere
between neighbours; that they stand just above the lower one, and how ``a`` is chosen among several, is ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.linalg import LinearOperator, svds
from torch import Tensor, nn

from rethinkgen.checks import check_between
from rethinkgen.data.equal_images import find_conflicts
from rethinkgen.model.closed_form.closed_form import ClosedForm, Solution

Vector = NDArray[np.float64]

MOST_EXAMPLES = 5000
"""Up to here residuals stay below 1e-6 in float64. On MNIST with random labels the largest of 6 draws was 5e-9 with
1,000 examples, 4e-7 with 5,000, 1e-6 with 10,000; of 3 draws 3e-6 with 20,000. The smallest gap between neighbours
shrinks with the square of their number."""
NUM_DIRECTIONS = 16
"""Directions of which the one is taken that leaves the widest smallest gap. With the first that comes, the residual on
5,000 MNIST images was up to 2e-6 (6 draws), once 1e-5."""
MOST_TRIES = 4
CHUNK = 500
"""Inputs whose hidden units are computed at once: 20 MB with 5,000 units."""


class Ramps(NamedTuple):
    """The lower triangular ``A_ij = max(x_i - b_j, 0)``, ``b_1 < x_1 < b_2 < ... < x_n``, never written out.

    Below the diagonal ``A_ij = x_i - b_j``. So two running sums, of slopes and of slopes times thresholds, make every
    product and every substitution O(n).
    """

    points: Vector
    """``x``, ``(n,)`` ascending"""
    thresholds: Vector
    """``b``, ``(n,)``"""

    def times(self, weights: Vector) -> Vector:
        """Return ``A w``."""
        product: Vector = self.points * np.cumsum(weights) - np.cumsum(weights * self.thresholds)
        return product

    def transposed_times(self, values: Vector) -> Vector:
        """Return ``A^T v``."""
        return _sums_from_here_on(values * self.points) - self.thresholds * _sums_from_here_on(values)

    def solve(self, targets: Vector) -> Vector:
        """Return ``w`` with ``A w = y``, by forward substitution."""
        slope = offset = 0.0
        weights = []
        for x, b, y in zip(self.points.tolist(), self.thresholds.tolist(), targets.tolist(), strict=True):
            weight = (y - (slope * x - offset)) / (x - b)
            slope, offset = slope + weight, offset + weight * b
            weights.append(weight)
        return np.array(weights)

    def transposed_solve(self, targets: Vector) -> Vector:
        """Return ``v`` with ``A^T v = u``, by backward substitution."""
        total = moment = 0.0
        values = []
        for x, b, u in zip(*(part.tolist()[::-1] for part in (self.points, self.thresholds, targets)), strict=True):
            value = (u - (moment - b * total)) / (x - b)
            total, moment = total + value, moment + value * x
            values.append(value)
        return np.array(values[::-1])

    def condition_number(self) -> float:
        """Return the ratio of the largest to the smallest singular value of ``A``, to three digits or more.

        The smallest is one over the largest of the inverse, which ``solve`` applies: Lanczos' method needs no more.
        """
        size = len(self.points)
        if size == 1:
            return 1.0
        # At random: Lanczos' method does not find what its start has no share in, and a constant has next to none in
        # what is largest for the inverse, a few neighbours of alternating sign.
        start = np.random.default_rng(0).standard_normal(size)
        largest = 1.0
        for product, transposed in ((self.times, self.transposed_times), (self.solve, self.transposed_solve)):
            operator = LinearOperator(
                (size, size),
                matvec=lambda vector, apply=product: apply(np.ravel(vector)),
                rmatvec=lambda vector, apply=transposed: apply(np.ravel(vector)),
                dtype=np.float64,
            )
            largest *= float(svds(operator, k=1, tol=1e-4, v0=start, return_singular_vectors=False)[0])
        return largest


def interleaved(points: Vector, share: float) -> Vector:
    """Place a threshold below each of the ascending ``points (n,)``: ``share`` of the gap above the previous point.

    The first stands below all points by their mean gap. Just above the previous point, weights are smallest: midway the
    residual is a thousand times larger (5,000 points).

    Raises:
        FloatingPointError: two points are so close that no number lies between them.
    """
    gaps = np.diff(points, prepend=points[0] - (np.ptp(points) / (len(points) - 1) if len(points) > 1 else 1.0))
    previous = points - gaps
    previous[1:] = points[:-1]
    thresholds: Vector = previous + share * gaps
    if not ((previous < thresholds) & (thresholds < points)).all():
        raise FloatingPointError("two points are too close")
    return thresholds


def separating_direction(inputs: Tensor, share: float) -> tuple[Tensor, Ramps, NDArray[np.intp]]:
    """Draw a direction on which all ``inputs (n, d)``, float64, have projections apart.

    Drawn from torch's own generator, as the initial weights of a network are.

    Returns:
        The direction ``(d,)``, the system of the sorted projections, and the order that sorts them.

    Raises:
        ValueError: two projections were the same, to float64's precision, in every direction tried.
    """
    for _ in range(MOST_TRIES):
        directions = torch.randn(inputs.shape[1], NUM_DIRECTIONS, dtype=torch.float64).to(inputs.device)
        gaps = (inputs @ directions).sort(0).values.diff(dim=0)
        best = int(gaps.amin(0).argmax()) if len(gaps) else 0
        direction = directions[:, best].contiguous()
        points = project(inputs, direction).cpu().numpy()
        order = np.argsort(points)
        try:
            return direction, Ramps(points[order], interleaved(points[order], share)), order
        except FloatingPointError:
            continue
    raise ValueError(
        f"model: of {len(inputs):,} training inputs two differ so little that none of {MOST_TRIES * NUM_DIRECTIONS} "
        "directions tells them apart in float64. Take fewer examples (data.num_train=...) or another data.seed."
    )


def project(inputs: Tensor, direction: Tensor) -> Tensor:
    """Return ``<a, z>`` for inputs ``(N, d)``: a sum for each alone, so that a batch does not change its rounding."""
    return torch.cat([(part * direction).sum(1) for part in torch.split(inputs, CHUNK)])


class SharedDirection(nn.Module):
    """``c(z)`` for images, and how near it is to the number of each class.

    Args:
        direction: ``a``, ``(d,)``.
        thresholds: ``b``, ``(n,)``.
        weights: ``w``, ``(n,)``.
        num_classes: classes are the numbers ``0 .. num_classes - 1``.
    """

    def __init__(self, direction: Tensor, thresholds: Tensor, weights: Tensor, num_classes: int) -> None:
        super().__init__()
        self.direction = nn.Parameter(direction)
        self.thresholds = nn.Parameter(thresholds)
        self.weights = nn.Parameter(weights)
        self.num_classes = num_classes

    def value(self, images: Tensor) -> Tensor:
        """Return ``c(z)``, float64 ``(N,)``, of images ``(N, C, H, W)``."""
        points = project(images.flatten(1).double(), self.direction)
        hidden = [(part[:, None] - self.thresholds).clamp_(min=0) for part in torch.split(points, CHUNK)]
        return torch.cat([part @ self.weights for part in hidden])

    def forward(self, images: Tensor) -> Tensor:
        """Return outputs ``(N, num_classes)``, of which the largest is the class nearest to ``c(z)``: minus their
        squared distance, once ``c(z)`` has been moved to the nearest number between the first and the last class.

        Between training points ``c`` reaches millions, of which float32 would not tell neighbouring classes apart.
        """
        values = self.value(images).clamp(0, self.num_classes - 1)
        classes = torch.arange(self.num_classes, device=values.device)
        return -(values[:, None] - classes).square()


class TwoLayerReLU(ClosedForm):
    """Fits a class label, taken as a number, by the construction of Theorem 1. The nearest class is predicted.

    Equal inputs are one point: with equal labels they count once, with different ones no function fits them and the
    run is refused. ``num_parameters`` is ``2 n + d`` for ``n`` different inputs of ``d`` values. All is float64.
    ``fit/loss`` and ``test/loss`` mean nothing here: class numbers are no logits.

    ``solution/residual`` is the largest ``|c(z_i) - y_i|``, of the network as it predicts;
    ``solution/condition_number`` that of the triangular matrix; ``solution/smallest_gap`` that between two projections,
    and ``solution/largest_weight`` the largest ``|w_j|``.

    Args:
        threshold_share: of the gap between two projections, how far above the lower one the threshold stands.
    """

    def __init__(self, *, threshold_share: float = 0.01, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.threshold_share = check_between("model.threshold_share", threshold_share, 1e-6, 1, below=True)

    def check_problem(self, inputs: Tensor, labels: Tensor, num_classes: int) -> None:
        """Refuse more examples than float64 is good for, and equal inputs with different labels."""
        if len(inputs) > MOST_EXAMPLES:
            raise ValueError(
                f"model: two_layer_relu takes at most {MOST_EXAMPLES:,} training examples, these are {len(inputs):,}: "
                "with 10,000 float64 no longer keeps the residual below 1e-6. "
                f"Set data.num_train={MOST_EXAMPLES} or less."
            )
        num_conflicts, _ = find_conflicts(without_negative_zeros(inputs).cpu(), labels)
        if num_conflicts:
            raise ValueError(
                f"model: {num_conflicts:,} of {len(inputs):,} training images equal another one that carries a "
                "different label, and no function fits both. Take fewer examples (data.num_train=...), another "
                "data.seed, true labels (data.corruption=none), or a copy of the data that holds no image twice."
            )

    def solve(self, inputs: Tensor, labels: Tensor, num_classes: int) -> Solution:
        """Follow the construction."""
        first = first_of_equals(inputs)
        points = inputs[first].flatten(1).double()
        self.report("projecting", 0.1)
        direction, system, order = separating_direction(points, self.threshold_share)
        self.report("forward substitution", 0.5)
        weights = system.solve(labels[first].cpu().numpy().astype(np.float64)[order])
        thresholds, found = (torch.from_numpy(part).to(inputs.device) for part in (system.thresholds, weights))
        network = SharedDirection(direction, thresholds, found, num_classes)
        self.report("condition number", 0.7)
        return Solution(
            network,
            {
                "solution/residual": float((network.value(inputs) - labels).abs().max()),
                "solution/condition_number": system.condition_number(),
                "solution/smallest_gap": float(np.diff(system.points).min()) if len(first) > 1 else None,
                "solution/largest_weight": float(np.abs(weights).max()),
            },
        )


def first_of_equals(inputs: Tensor) -> Sequence[int]:
    """Return the places, ascending, of ``inputs (N, ...)`` but for those that equal an earlier one."""
    rows = without_negative_zeros(inputs).flatten(1).cpu().numpy()
    places: dict[bytes, int] = {}
    for place, row in enumerate(rows):
        places.setdefault(row.tobytes(), place)
    return list(places.values())


def without_negative_zeros(inputs: Tensor) -> Tensor:
    """Return the same numbers, of which equal ones have equal bits."""
    return inputs + 0.0


def _sums_from_here_on(values: Vector) -> Vector:
    sums: Vector = np.cumsum(values[::-1])[::-1]
    return sums
