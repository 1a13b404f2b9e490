"""The code of ``docs/python.md``, run as it stands there."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import matplotlib as mpl
import pytest

import rethinkgen
from conftest import ROOT


@pytest.mark.filterwarnings("ignore::UserWarning:pytorch_lightning", "ignore:.*does not have many workers")
def test_every_block_runs_after_those_above_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    mpl.use("agg")
    text = (ROOT / "docs/python.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(block, "docs/python.md", "exec"), names)
    run, means, train = names["run"], names["means"], names["train"]
    # Its command and this call are one run, and so is the first of the loop.
    assert len(rethinkgen.open_sweep("multirun/runs")) == 4
    assert run.metrics["steps"] == 300
    assert names["wrong"]["is_corrupted"].all()
    assert len(names["opened"].predict(names["hardest"])) == 4
    assert means["n"].tolist() == [2, 2]
    assert len(train) == 1437
    assert "data.corruption" in capsys.readouterr().out
    assert 0 < float(names["trainer"].callback_metrics["test/accuracy"]) < 1
