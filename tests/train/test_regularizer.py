"""Regularizers of ours that are a piece of code, each against a slow or obvious version."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.distributions import Categorical

from conftest import TINY, Command, read_result
from rethinkgen.run.build import build
from rethinkgen.train.regularizer import ConfidencePenalty


def test_confidence_penalty_is_minus_the_entropy_of_the_predictions() -> None:
    logits = 3 * torch.randn(20, 7, generator=torch.Generator().manual_seed(0))
    found = ConfidencePenalty(0.3)(nn.Identity(), logits, torch.zeros(20, dtype=torch.long))
    torch.testing.assert_close(found, -0.3 * Categorical(logits=logits).entropy().mean())
    assert ConfidencePenalty(0.3)(nn.Identity(), logits.bfloat16(), torch.zeros(20)).dtype == torch.float32


def test_a_class_and_a_yaml_are_all_that_it_needs(train: Command) -> None:
    run = [*TINY, "max_steps=60"]
    plain, penalised = (read_result(train(*run, f"regularizer={chosen}")) for chosen in ("[]", "[confidence_penalty]"))
    assert penalised["choices"]["regularizer"] == ["confidence_penalty"]
    assert penalised["run_id"] != plain["run_id"]
    assert penalised["metrics"]["fit/loss"] > plain["metrics"]["fit/loss"]
    with pytest.raises(ValueError, match=r"regularizer\.confidence_penalty\.strength=0"):
        build({"_target_": "rethinkgen.train.regularizer.ConfidencePenalty", "strength": 0}, "regularizer")
