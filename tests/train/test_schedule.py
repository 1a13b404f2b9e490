from __future__ import annotations

import pytest

from rethinkgen.train.schedule import constant, cosine, exponential, step


def test_exponential_is_the_papers_decay_an_epoch_of_cifar10() -> None:
    factors = [exponential(at, 25_000, factor=0.95, every=391) for at in (0, 390, 391, 781, 782, 64 * 391)]
    assert factors == pytest.approx([1, 1, 0.95, 0.95, 0.95**2, 0.0375], rel=1e-3)


def test_step_falls_at_shares_of_the_budget() -> None:
    assert [step(at, 100, factor=0.1, at=[0.5, 0.75]) for at in (0, 49, 50, 74, 75)] == pytest.approx(
        [1, 1, 0.1, 0.1, 0.01]
    )


def test_cosine_goes_from_one_to_zero() -> None:
    assert [cosine(at, 100) for at in (0, 50, 100, 150)] == pytest.approx([1, 0.5, 0, 0])


def test_constant() -> None:
    assert constant(7, 10) == 1


def test_bad_values_are_refused() -> None:
    with pytest.raises(ValueError, match=r"schedule\.factor=0"):
        exponential(1, 10, factor=0, every=3)
    with pytest.raises(ValueError, match=r"schedule\.every=-1"):
        exponential(1, 10, factor=0.5, every=-1)
    with pytest.raises(ValueError, match=r"schedule.at=\[1.5\]"):
        step(1, 10, factor=0.5, at=[1.5])
