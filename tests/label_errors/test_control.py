"""What planted errors say of a list, where the truth is planted too."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from rethinkgen.label_errors.control import estimate_errors, how_many_to_plant, in_words, judge, plant
from rethinkgen.label_errors.findings import Control

REPEATS = 100


def simulate(count: int, planted: int, errors: int, lead: float, seed: int, of_errors: float | None = None) -> Control:
    """Judge a list by scores ~ N(0, 1), of planted and natural errors ~ N(lead, 1)."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(size=count)
    scores[:planted] += lead
    scores[planted : planted + errors] += lead if of_errors is None else of_errors
    return judge(np.argsort(-scores) < planted, count - planted)


@pytest.mark.parametrize(
    ("count", "planted", "errors"),
    [(10_000, 200, 500), (10_000, 200, 50), (10_000, 200, 0), (10_000, 200, 2000), (1000, 20, 30)],
)
def test_errors_that_are_as_easy_as_the_planted_are_counted(count: int, planted: int, errors: int) -> None:
    told = [simulate(count, planted, errors, 4.0, seed) for seed in range(REPEATS)]
    can_tell = [each for each in told if each.cannot_tell is None]
    assert len(can_tell) >= 0.95 * REPEATS
    inside = [each.interval[0] <= errors <= each.interval[1] for each in can_tell if each.interval]
    assert sum(inside) >= 0.93 * len(can_tell)
    estimates = [each.estimate for each in can_tell if each.estimate is not None]
    assert np.mean(estimates) == pytest.approx(errors, rel=0.2, abs=2)


def test_of_a_weak_network_it_cannot_tell_or_the_bound_is_above_the_truth() -> None:
    told = [simulate(10_000, 200, 300, 1.0, seed) for seed in range(REPEATS)]
    assert sum(each.cannot_tell is not None for each in told) >= 0.7 * REPEATS
    assert all(each.interval[1] >= 300 for each in told if each.interval)
    nothing = [simulate(10_000, 200, 300, 0.0, seed) for seed in range(20)]
    assert all("too weak" in str(each.cannot_tell) for each in nothing)
    assert all(set(each.expected_at_most) == {None} for each in nothing)


def test_no_more_errors_are_expected_than_there_are_at_most_nor_than_the_list_is_long() -> None:
    rng = np.random.default_rng(0)
    num_checked = num_below = 0
    for seed in range(REPEATS):
        told = simulate(10_000, 200, 300, 3.5, seed)
        if told.interval is None:
            continue
        for length, most in zip(told.lengths, told.expected_at_most, strict=True):
            assert most is not None
            assert most <= min(length, told.interval[1] + 1)
        # Of a list without planted errors, of the same scores.
        scores = rng.normal(size=9_800)
        scores[:300] += 3.5
        order = np.argsort(-scores)
        real = {length: int((order[:length] < 300).sum()) for length in told.lengths}
        for length, most in zip(told.lengths, told.expected_at_most, strict=True):
            num_checked += 1
            num_below += most is not None and most < real[length]
    assert num_below <= 0.02 * num_checked


def test_natural_errors_that_are_harder_are_more_than_it_says() -> None:
    """Which the page says: it is no fault that a number could mend."""
    told = simulate(10_000, 200, 500, 4.0, 0, of_errors=1.0)
    assert told.interval is None or told.interval[1] < 500


def test_few_images_tell_nothing() -> None:
    assert how_many_to_plant(150) == 0
    assert how_many_to_plant(200) == 20
    assert how_many_to_plant(60_000) == 1200
    told = judge(np.zeros(150, bool), 150)
    assert told.estimate is None
    assert "too many" in str(told.cannot_tell)
    assert in_words(told) == [f"How many labels are wrong cannot be told: {told.cannot_tell}"]


def test_a_list_whose_first_are_all_planted_has_no_other_errors() -> None:
    estimate, (low, high) = estimate_errors(np.minimum(np.arange(1, 1001), 50), 50)
    assert (estimate, low) == (0.0, 0.0)
    assert 0 < high < 8
    told = judge(np.arange(1000) < 50, 950)
    assert told.found[:3] == (10, 20, 50)
    assert told.estimate == 0


def test_a_list_that_is_about_fewer_images_is_scaled() -> None:
    half = judge(np.isin(np.arange(1000), np.arange(0, 100, 2)), 1000)
    whole = judge(np.isin(np.arange(1000), np.arange(0, 100, 2)), 2000)
    assert half.estimate is not None
    assert whole.estimate == pytest.approx(2 * half.estimate)
    assert "About" in in_words(whole)[0]


def test_flips_go_along_the_confusions_of_what_is_not_doubted() -> None:
    rng = np.random.default_rng(1)
    labels = rng.integers(0, 4, 4000)
    suggested = labels.copy()
    # What is given as 3 is taken for a 1: so a 1 becomes a 3.
    doubted = np.flatnonzero(labels == 3)[:200]
    suggested[doubted] = 1
    is_doubted = np.isin(np.arange(4000), doubted)
    planted = plant(labels, suggested, is_doubted, 400, 4, seed=0)
    assert len(set(planted.places.tolist())) == 400
    assert not is_doubted[planted.places].any()
    assert (planted.labels != labels[planted.places]).all()
    assert ((planted.labels >= 0) & (planted.labels < 4)).all()
    of_one = Counter(planted.labels[labels[planted.places] == 1].tolist())
    assert of_one[3] > 0.95 * of_one.total()
    of_zero = Counter(planted.labels[labels[planted.places] == 0].tolist())
    assert min(of_zero[each] for each in (1, 2, 3)) > 10, "without a confusion to any other"
    again = plant(labels, suggested, is_doubted, 400, 4, seed=0)
    assert np.array_equal(again.labels, planted.labels)
    assert not np.array_equal(plant(labels, suggested, is_doubted, 400, 4, seed=1).places, planted.places)
