from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from rethinkgen.data.timetable import Timetable
from rethinkgen.run.folder import RunFolder
from rethinkgen.run.progress import LiveProgress, Throughput
from rethinkgen.train.evaluation import Evaluation


def text(width: int, is_terminal: bool, tmp_path: Path) -> str:
    evaluation = Evaluation(until_fit=True)
    evaluation.timetable, evaluation.total_steps = Timetable(12, 1), 20_000
    evaluation.window.steps.append((25.6, 64, 128))
    evaluation.evaluated = {"fit/accuracy": 0.99999, "test/accuracy": 0.981}
    console = Console(file=io.StringIO(), width=width, force_terminal=is_terminal)
    return LiveProgress(RunFolder(tmp_path), evaluation, console)._text(SimpleNamespace(global_step=30))  # type: ignore[arg-type]


def test_a_narrow_terminal_is_shown_what_fits(tmp_path: Path) -> None:
    narrow = text(80, True, tmp_path)
    assert narrow.startswith("epoch 2.5 · loss 0.200 acc 50 % · test 98.1 % · 0 images/s · ≤ ")
    assert len(narrow) < 80
    for whole in (text(140, True, tmp_path), text(80, False, tmp_path)):
        assert "step 30/20,000 · train loss 0.200 acc 50 % · fit > 99.9 % · test 98.1 %" in whole


def test_throughput_of_late_and_of_all() -> None:
    throughput = Throughput()
    assert throughput.latest == throughput.mean == 0
    throughput.add(100, 10)
    for _ in range(50):
        throughput.add(100, 1)
    assert throughput.latest == pytest.approx(100)
    assert throughput.mean == pytest.approx(5100 / 60)
