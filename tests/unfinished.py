"""Sweeps of which something is missing, made from finished ones; and runs that break off."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rethinkgen.train.evaluation import Evaluation


@contextmanager
def power_cut_at(step: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Have the command within, which trains a run, break off at the evaluation after ``step`` steps."""
    evaluate = Evaluation.evaluate

    def breaks_off(self: Evaluation, trainer: object, module: object) -> dict[str, float]:
        if trainer.global_step == step:  # type: ignore[attr-defined]
            raise RuntimeError("power cut")
        return evaluate(self, trainer, module)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(Evaluation, "evaluate", breaks_off)
        with pytest.raises(SystemExit):
            yield


def leave_unfinished(sweep: Path, reason: str) -> list[Path]:
    """Have one run of the sweep failed, for ``reason``, and another never begun; return the folders of the finished."""
    first, second, *others = sorted(path.parent for path in sweep.glob("*/result.json"))
    (first / "result.json").unlink()
    (first / "status.json").write_text(json.dumps({"state": "failed", "reason": reason}))
    shutil.rmtree(second)
    return others
