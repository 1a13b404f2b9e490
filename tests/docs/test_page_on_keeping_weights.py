"""The code of ``docs/keeping_weights.md``, run as it stands there; its commands are run by ``tests/test_readme.py``."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import ROOT
from rethinkgen.train.kept_files import kept_steps


def test_the_code_reads_one_network_and_replays_the_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "disabled")
    text = (ROOT / "docs/keeping_weights.md").read_text(encoding="utf-8")
    names: dict[str, Any] = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(block, "docs/keeping_weights.md", "exec"), names)
    folder = names["run"].path
    assert kept_steps(folder / "weights") == [0, 12]
    assert capsys.readouterr().out.count("Replaying 28 steps") == 1
    early, late = (names[name].state_dict() for name in ("early", "late"))
    kept = torch.load(folder / "weights/12.pt", weights_only=True)
    assert all(torch.equal(early[name], kept[name]) for name in kept)
    assert not any(torch.equal(late[name], kept[name]) for name in kept)
