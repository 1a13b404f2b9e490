"""Labels that are made wrong on purpose, and what it says of a list how many of these it finds. Pure; no torch.

**Planting.** In one more run a share of the labels is flipped, as the network's own confusions go: where it takes many
images that are given as 7 for a 1, what is given as 1 mostly becomes 7. Only examples that it does not doubt are
flipped: their labels are right, as far as it knows.

**Estimate.** Let m be planted, and E labels wrong by nature, among the same examples. If both were equally easy to
find, then among what a list finds rightly they stand as m : E at every length; what it lists wrongly comes on top. So
if the first k of the list hold f planted and k - f others, (k - f) m / f is E plus those, and its least value over k is
the estimate: an upper bound, up to chance. It is the mixture proportion's of Blanchard, Lee and Scott 2010,
"Semi-Supervised Novelty Detection": the infimum over regions of P(region) / P_planted(region). The length is chosen by
the upper end of the interval, as Garg et al. 2021 ("Mixture Proportion Estimation and PU Learning: A Modern Approach")
do, since the least of many ratios of small counts would be too small. (Both from memory, unverified.) The interval is
that of Clopper and Pearson for the share f / k. Natural errors are harder to find than planted ones where the image
itself misleads: then E is greater.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rethinkgen.label_errors.findings import Control

Ints = NDArray[np.int64]

SHARE = 0.02
LEAST_PLANTED = 20
MOST_SHARE = 0.1
"""Of all examples that may be flipped: more would be another problem."""
RECALLS = (0.5, 0.75, 0.9)
"""Shares of the planted at whose lengths the list is looked at: few, as the least of many would be too small."""
MOST_BEFORE_HALF = 0.25
"""Share of the other examples that may come before half of the planted."""
NOT_BY_CHANCE = 0.01
LEVEL = 0.95
LENGTHS = (10, 20, 50, 100, 200, 300, 500, 1000, 2000, 5000, 10_000, 20_000, 50_000)


class Planted(NamedTuple):
    """Flips."""

    places: Ints
    """``(m,)``, ascending: which of the N examples"""
    labels: Ints
    """``(m,)``: what they become"""


def how_many_to_plant(count: int, share: float = SHARE) -> int:
    """Return how many of ``count`` labels are flipped; 0 where a tenth of them would be fewer than 20."""
    wanted = max(LEAST_PLANTED, round(share * count))
    return wanted if wanted <= MOST_SHARE * count else 0


def plant(
    labels: Ints, suggested: Ints, is_doubted: NDArray[np.bool_], number: int, num_classes: int, seed: int
) -> Planted:
    """Choose ``number`` of the examples that are not doubted, and what their labels become.

    Of class i label j becomes as often as the network takes for i what is given as j, with one count more that is
    shared by all other classes, so that no confusion is needed to begin with.

    Args:
        labels: ``(N,)`` given.
        suggested: ``(N,)``: what the network takes each for.
        is_doubted: ``(N,)``.
        number: of flips, at most the examples that are not doubted.
        num_classes: at least 2.
        seed: the same draws the same.
    """
    random = np.random.RandomState(seed)  # whose stream numpy never changes
    places = np.sort(random.permutation(np.flatnonzero(~is_doubted))[:number])
    confused = is_doubted & (suggested != labels)
    becomes = np.empty(len(places), np.int64)
    for row, own in enumerate(labels[places]):
        as_what = labels[confused & (suggested == own)]
        if random.random_sample() < len(as_what) / (len(as_what) + 1):
            becomes[row] = as_what[random.randint(len(as_what))]
        else:
            other = random.randint(num_classes - 1)
            becomes[row] = other + (other >= own)
    return Planted(places, becomes)


def judge(is_planted: NDArray[np.bool_], num_listed: int) -> Control:
    """Return what a list says of another that is like it but for the planted errors.

    Args:
        is_planted: ``(n,)``: of the list with the planted errors, the most suspicious first.
        num_listed: length of the other, of which is told how many real errors to expect.
    """
    planted, count = int(is_planted.sum()), len(is_planted)
    found = np.cumsum(is_planted, dtype=np.int64)
    lengths = [length for length in LENGTHS if length < min(num_listed, count)]
    at = tuple(int(found[length - 1]) for length in lengths)
    reason = _why_not(is_planted)
    if reason is not None:
        nothing = tuple(None for _ in lengths)
        return Control(planted, tuple(lengths), at, nothing, None, None, reason)
    estimate, interval = estimate_errors(found, planted)
    others = np.arange(1, count + 1) - found
    scale = count / num_listed
    expected = []
    for length in lengths:
        # Where the list with the planted errors has let as many others pass.
        place = min(int(np.searchsorted(others, length * scale)), count - 1)
        share = _upper_end(int(found[place]), planted)
        expected.append(min(length, int(np.ceil(interval[1] / scale * share))))
    return Control(
        planted,
        tuple(lengths),
        at,
        tuple(expected),
        estimate / scale,
        (float(np.floor(interval[0] / scale)), float(np.ceil(interval[1] / scale))),
        None,
    )


def estimate_errors(found: Ints, planted: int) -> tuple[float, tuple[float, float]]:
    """Return how many errors there are beside the planted, by the head of this module, and its 95 % interval.

    ``found``: ``(n,)``, how many of the planted are within the first 1, 2, ... n; all in the end.
    """
    from scipy.stats import beta

    f = np.unique(np.ceil(planted * np.array(RECALLS)).astype(np.int64))
    k = np.searchsorted(found, f) + 1
    tail = (1 - LEVEL) / 2
    least = beta.ppf(tail, f, k - f + 1)
    most = np.where(f == k, 1.0, beta.ppf(1 - tail, f + 1, np.maximum(k - f, 1)))
    highs = planted * (1 - least) / least
    best = int(np.argmin(highs))
    estimate = planted * (k[best] - f[best]) / f[best]
    low = planted * (1 - most[best]) / most[best]
    most_possible = float(len(found) - planted)
    return min(float(estimate), most_possible), (float(low), min(float(highs[best]), most_possible))


def _upper_end(hits: int, of: int) -> float:
    """Return the upper end of the 95 % interval of a share, as Clopper and Pearson."""
    from scipy.stats import beta

    return 1.0 if hits == of else float(beta.ppf((1 + LEVEL) / 2, hits + 1, of - hits))


def _why_not(is_planted: NDArray[np.bool_]) -> str | None:
    """Return why a list with planted errors, the most suspicious first, tells nothing of others; else ``None``."""
    planted, count = int(is_planted.sum()), len(is_planted)
    if planted < LEAST_PLANTED // 2:
        return (
            f"{LEAST_PLANTED} labels at least are to be made wrong on purpose, and no more than a tenth of all; of "
            f"{count:,} images that is too many."
        )
    places = np.flatnonzero(is_planted)
    half, first = (int(places[int(np.ceil(share * planted)) - 1]) + 1 for share in (0.5, 0.25))
    share = (half - int(np.ceil(planted / 2))) / (count - planted)
    if share > MOST_BEFORE_HALF:
        return (
            f"the network is too weak on these images, or very many labels are wrong: before half of the {planted:,} "
            f"labels that were made wrong on purpose come {share:.0%} of the others."
        )
    if first < half and _is_less(int(is_planted[:first].sum()), first, int(is_planted[first:half].sum()), half - first):
        return (
            f"the network is too weak on these images: further down the list, before half of the {planted:,} labels "
            "that were made wrong on purpose are found, others are ever more among them."
        )
    return None


def _is_less(hits: int, of: int, later_hits: int, later_of: int) -> bool:
    """Whether the later share of hits is less than the earlier, by Fisher's exact test at 0.01."""
    from scipy.stats import hypergeom

    return bool(hypergeom.sf(hits - 1, of + later_of, hits + later_hits, of) < NOT_BY_CHANCE)


def in_words(control: Control) -> Sequence[str]:
    """Return what a control says, a sentence each."""
    if control.cannot_tell is not None:
        return [f"How many labels are wrong cannot be told: {control.cannot_tell}"]
    assert control.estimate is not None
    assert control.interval is not None
    low, high = control.interval
    told = [
        f"About {control.estimate:,.0f} labels are wrong ({low:,.0f} to {high:,.0f}), if real errors are as easy to "
        f"find as the {control.planted:,} that were planted."
    ]
    for length, found, most in zip(control.lengths, control.found, control.expected_at_most, strict=True):
        if length in (100, 1000) and most is not None:
            told.append(
                f"Of the first {length:,} at most about {most:,} are real errors. Where some were planted, the first "
                f"{length:,} hold {found:,} of these."
            )
    return told
