"""Batches that grow, or change from step to step, train, are evaluated, and resume to the bit, as others do."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.loggers.logger import DummyLogger

from rethinkgen.data.corruption import PartialLabels
from rethinkgen.data.source import Digits
from rethinkgen.model.mlp import MLP
from rethinkgen.train.checkpoint import AtomicCheckpointIO, ExactCheckpoint
from rethinkgen.train.evaluation import Evaluation


def growing(epoch: int, step: int) -> int:
    return 16 * 5 ** (epoch // 2)


def cyclic(epoch: int, step: int) -> int:
    return 100 if step // 10 % 2 else 16


class PowerCutError(Exception):
    pass


class PowerCut(pl.Callback):
    """Comes in the first block that ends at ``step`` or later."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step >= self.step:
            raise PowerCutError


class Rows(DummyLogger):
    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[int, dict[str, float]] = {}

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:  # type: ignore[override]
        self.rows[step] = metrics


def by_epochs(step: int, total: int, epochs: float) -> float:
    return 0.5 ** int(epochs)


def run(
    folder: Path, size: Callable[[int, int], int], power_cuts: list[int]
) -> tuple[dict[str, Any], dict[int, dict[str, float]]]:
    """Train for six epochs, again after each power cut; return what is left, and all rows."""
    rows = Rows()
    for step in [*power_cuts, 10**9]:
        pl.seed_everything(0, verbose=False)
        model = MLP(width=32, learning_rate=0.05, dropout=0.3, schedule=by_epochs)
        datamodule = PartialLabels(Digits(), probability=0.4, num_train=417, batch_size=size, flip=True)
        evaluation = Evaluation(every=0.5, log_every=3)
        trainer = pl.Trainer(
            accelerator="cpu",
            max_epochs=-1,
            max_steps=90 if size is cyclic else 2 * 26 + 2 * 6 + 2 * 2,
            callbacks=[evaluation, ExactCheckpoint(folder, every_seconds=0), PowerCut(step)],
            plugins=[AtomicCheckpointIO()],
            logger=rows,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        last = folder / "last.ckpt"
        try:
            trainer.fit(model, datamodule, ckpt_path=last if last.exists() else None, weights_only=True)
        except PowerCutError:
            assert trainer.global_step >= step
    summary = evaluation.summary(trainer, model)
    return {**summary, **model.state_dict(), **evaluation.examples()}, rows.rows


@pytest.mark.parametrize(("size", "power_cuts"), [(growing, [7, 30, 60]), (cyclic, [5, 21, 60])])
def test_a_run_goes_on_to_the_bit(size: Callable[[int, int], int], power_cuts: list[int], tmp_path: Path) -> None:
    undisturbed, rows = run(tmp_path / "undisturbed", size, [])
    resumed, rows_of_resumed = run(tmp_path / "resumed", size, power_cuts)
    assert rows_of_resumed == rows
    assert undisturbed.keys() == resumed.keys()
    for name, value in undisturbed.items():
        same = torch.equal(value, resumed[name]) if isinstance(value, torch.Tensor) else value == resumed[name]
        assert same, name


def test_evaluations_and_schedules_go_by_the_epochs_of_growing_batches(tmp_path: Path) -> None:
    _, rows = run(tmp_path, growing, [])
    evaluated = {step: row for step, row in rows.items() if "fit/accuracy" in row}
    # 417 examples: 26 whole batches of 16 of which the last takes in the rest of one, 6 of 80, 2 of 400.
    assert [row["epoch"] for row in evaluated.values()] == [number / 2 for number in range(1, 13)][: len(evaluated)]
    assert list(evaluated)[:6] == [13, 26, 39, 52, 55, 58]
    rates = {row["epoch"]: row["learning_rate"] for row in evaluated.values()}
    assert rates[0.5] == 0.05
    assert rates[3] == 0.05 / 4, "of the last step before the epoch's end"
    assert rates[3.5] == 0.05 / 8
