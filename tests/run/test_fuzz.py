"""Four hundred commands with nonsense in them, of those of ``fuzz.py``: each is told in a line, or trains."""

from __future__ import annotations

import pytest
from fuzz import cells, outcomes, sample

import rethinkgen.run.training  # noqa: F401  # before processes are forked


@pytest.mark.timeout(900)  # a minute, where nothing else has the core
def test_nonsense_is_told_or_trains() -> None:
    ended = list(outcomes(sample(400)))
    assert {str(cell): outcome for cell, outcome in ended if not outcome.is_fine} == {}
    assert sum(outcome.how == "told" for _, outcome in ended) > 200
    assert sum(outcome.how == "trains" for _, outcome in ended) > 20


def test_the_list_is_whole() -> None:
    keys = {cell.key for cell in cells()}
    assert {"seed", "data.corruption", "data.source.num_workers", "optimizer.betas", "trainer.profiler"} <= keys
    assert {"hydra.launcher.n_jobs", "regularizer.mixup", "model.bandwidth", "logger.wandb.entity"} <= keys
