from __future__ import annotations

import io
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from rethinkgen.data.timetable import Timetable
from rethinkgen.run.folder import RunFolder
from rethinkgen.run.progress import LiveProgress, Pace, Throughput, plan
from rethinkgen.train.evaluation import Evaluation


def watched(tmp_path: Path, console: Console) -> LiveProgress:
    evaluation = Evaluation(until_fit=True)
    evaluation.timetable, evaluation.total_steps = Timetable(12, 1), 20_000
    evaluation.window.steps.append((25.6, 64, 128))
    evaluation.evaluated = {"fit/accuracy": 0.99999, "test/accuracy": 0.981}
    return LiveProgress(RunFolder(tmp_path), evaluation, console)


def test_a_narrow_terminal_is_shown_what_fits_and_each_word_whole(tmp_path: Path) -> None:
    progress = watched(tmp_path, Console(quiet=True))
    progress.pace.mark(0, 0)
    progress.pace.mark(10, 10)
    whole = progress._text(30, 30, None)
    assert whole == (
        "epoch 2.5 · step 30/20,000 · train loss 0.200 · acc 50 % · test 98.1 % · 0 images/s · "
        "ends when fitted: > 99.9 %, at most 5:32:50 left"
    )
    lines = {width: progress._text(30, 30, width) for width in (40, 62, 80, 110)}
    assert lines[62] == "epoch 2.5 · ends when fitted: > 99.9 %, at most 5:32:50 left"
    for width, line in lines.items():
        assert len(line) <= max(width, len("ends when fitted: > 99.9 %, at most 5:32:50 left")), line
        assert set(line.split(" · ")) <= set(whole.split(" · "))
        assert line.endswith("left")
    assert len({*lines.values()}) == 4, "more is shown where there is more room"


def test_how_a_run_ends_is_told_from_the_beginning(tmp_path: Path) -> None:
    progress = watched(tmp_path, Console(quiet=True))
    progress.evaluation.evaluated = {}
    assert progress._text(30, 30, None).endswith(" · ends when fitted")
    progress.evaluation.fit_threshold = 0.9
    progress.evaluation.evaluated = {"fit/accuracy": 0.5, "test/accuracy": 0.4, "validation/accuracy": 0.3}
    assert progress._text(30, 30, None).endswith(
        "validation 30 % · test 40 % · 0 images/s · ends when 90 % is fitted: 50 %"
    )
    assert progress._share(30) == pytest.approx(0.5 / 0.9)
    progress.evaluation.until_fit = False
    assert "fit 50 % · validation 30 %" in progress._text(30, 30, None)
    assert progress._share(30) == 30 / 20_000


def test_the_time_left_is_judged_by_what_was_seen_last() -> None:
    pace = Pace()
    pace.mark(0, 16)
    assert pace.seconds_for(100, 0, 16) is None
    step = 16
    for second in range(1, 601):  # ten steps a second for five minutes, then a hundred
        step += 10 if second <= 300 else 100
        pace.mark(float(second), step)
    assert pace.seconds_for(1000, 600.0, step) == pytest.approx(10, rel=0.05)
    assert len(pace._marks) < 400


@pytest.mark.parametrize(
    ("evaluation", "said"),
    [
        (Evaluation(), "Trains for 300 steps (100 epochs)."),
        (Evaluation(until_fit=True), "Trains until the whole training set is fitted, 300 steps (100 epochs) at most."),
        (Evaluation(until_fit=True, fit_threshold=0.9), "Trains until 90 % of the training set is fitted, 300 steps"),
        (Evaluation(patience=2), "Trains for 300 steps (100 epochs). Early stopping may end it before."),
    ],
)
def test_plan(evaluation: Evaluation, said: str) -> None:
    assert plan(evaluation, 300, 100.0, is_asked_for=False).startswith(said)
    asked = plan(evaluation, 300, 100.0, is_asked_for=True)
    assert asked.startswith(said)
    assert "until_fit=false" not in asked


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
    for second in range(1, 101):
        clock.now += 1
        trainer.global_step += 6
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
    assert lines[0].startswith("epoch 2.5 · step 30/20,000 · train loss 0.200 · acc 50 % · test 98.1 % · ")
    assert all(line.endswith(" left") for line in lines)
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
