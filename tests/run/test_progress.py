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


def watched(tmp_path: Path, console: Console) -> LiveProgress:
    evaluation = Evaluation(until_fit=True)
    evaluation.timetable, evaluation.total_steps = Timetable(12, 1), 20_000
    evaluation.window.steps.append((25.6, 64, 128))
    evaluation.evaluated = {"fit/accuracy": 0.99999, "test/accuracy": 0.981}
    return LiveProgress(RunFolder(tmp_path), evaluation, console)


WHOLE = "epoch 2.5 · step 30/20,000 · train loss 0.200 acc 50 % · fit > 99.9 % · test 98.1 %"


def test_a_narrow_terminal_is_shown_what_fits(tmp_path: Path) -> None:
    trainer = SimpleNamespace(global_step=30)
    progress = watched(tmp_path, Console(quiet=True))
    narrow = progress._text(trainer, is_wide=False)  # type: ignore[arg-type]
    assert narrow.startswith("epoch 2.5 · loss 0.200 acc 50 % · test 98.1 % · 0 images/s · ≤ ")
    assert len(narrow) < 80
    assert progress._text(trainer, is_wide=True).startswith(WHOLE)  # type: ignore[arg-type]


class Clock:
    """Stands for ``time`` in the module."""

    def __init__(self) -> None:
        self.now = 1000.0

    def monotonic(self) -> float:
        return self.now


def seconds_of_lines(progress: LiveProgress, monkeypatch: pytest.MonkeyPatch) -> tuple[list[int], list[str]]:
    """Train for 100 s in blocks of a second; return after how many seconds a line was noted, and the lines."""
    clock, trainer = Clock(), SimpleNamespace(global_step=0, is_global_zero=True)
    model = SimpleNamespace(total_steps=20_000, steps=[SimpleNamespace(num_examples=128)])
    seconds, lines = [], []
    monkeypatch.setattr("rethinkgen.run.progress.time", clock)
    monkeypatch.setattr("rethinkgen.run.progress.note", lines.append)
    progress.on_train_start(trainer, model)  # type: ignore[arg-type]
    trainer.global_step = 30
    for second in range(1, 101):
        clock.now += 1
        before = len(lines)
        progress.on_train_batch_end(trainer, model, None, None, 0)  # type: ignore[arg-type]
        seconds += [second] * (len(lines) - before)
    progress.on_train_end(trainer, model)  # type: ignore[arg-type]
    return seconds, lines


@pytest.mark.parametrize(
    ("terminal", "is_told"),
    [(None, True), ("dumb", True), ("xterm", False)],
)
def test_lines_now_and_then_in_the_log_and_where_nothing_moves(
    terminal: str | None, is_told: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = io.StringIO()
    console = Console(
        file=printed, width=80, force_terminal=terminal is not None, _environ={"TERM": terminal or "xterm"}
    )
    seconds, lines = seconds_of_lines(watched(tmp_path, console), monkeypatch)
    assert seconds == [5, 35, 65, 95]
    assert all(line.startswith(WHOLE) and line.endswith(" left") for line in lines)
    assert (printed.getvalue().splitlines() == lines) == is_told


def test_other_ranks_are_silent(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    progress = watched(tmp_path, Console(file=io.StringIO()))
    progress.disable()
    assert seconds_of_lines(progress, monkeypatch) == ([], [])


def test_throughput_of_late_and_of_all() -> None:
    throughput = Throughput()
    assert throughput.latest == throughput.mean == 0
    throughput.add(100, 10)
    for _ in range(50):
        throughput.add(100, 1)
    assert throughput.latest == pytest.approx(100)
    assert throughput.mean == pytest.approx(5100 / 60)
