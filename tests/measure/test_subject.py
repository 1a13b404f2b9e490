"""What a measure may ask, and what it is told where there is nothing to give."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from rethinkgen.measure.subject import Subject


def test_what_is_drawn_depends_on_seed_measure_step_and_purpose_alone() -> None:
    def drawn(seed: int = 1, name: str = "margins", step: int = 7, purpose: str = "") -> float:
        subject = Subject(nn.Linear(1, 1), {}, step, seed=seed, name=name)
        torch.rand(3)
        return torch.rand(1, generator=subject.generator(purpose)).item()

    assert drawn() == drawn()
    others = [drawn(seed=2), drawn(name="fit"), drawn(step=8), drawn(purpose="images")]
    assert len({drawn(), *others}) == 5


def test_what_it_was_not_given_is_named() -> None:
    subject = Subject(nn.Linear(1, 1), {}, name="margins")
    with pytest.raises(ValueError, match=r"measure=margins: it asks for 'fresh'"):
        subject.fresh(0)
    with pytest.raises(ValueError, match=r"split='validation': this run has none"):
        subject.split("validation")
