"""What ``fuzz.py`` types: that it leaves nothing out. ``.ci/run`` types four hundred of its commands."""

from __future__ import annotations

from fuzz import cells


def test_the_list_is_whole() -> None:
    keys = {cell.key for cell in cells()}
    assert {"seed", "data.corruption", "data.source.num_workers", "optimizer.betas", "trainer.profiler"} <= keys
    assert {"hydra.launcher.n_jobs", "regularizer.mixup", "model.bandwidth", "logger.wandb.entity"} <= keys
