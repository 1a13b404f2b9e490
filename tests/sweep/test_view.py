from __future__ import annotations

import io
import time
from collections import deque
from pathlib import Path
from types import SimpleNamespace

import pytest
from rich.console import Console

from rethinkgen.sweep import view
from rethinkgen.sweep.jobs import Job


@pytest.mark.parametrize(("terminal", "is_line"), [(None, True), ("dumb", True), ("xterm", False)])
def test_where_nothing_can_move_there_are_lines(
    terminal: str | None, is_line: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    printed = io.StringIO()
    console = Console(file=printed, force_terminal=terminal is not None, _environ={"TERM": terminal or "xterm"})
    monkeypatch.setattr(view, "stdout", lambda: console)
    job = Job(["seed=1"], tmp_path / "run")
    job.fail("no room")
    with view.watching([job], 1) as show:
        show(view.Progress(deque(), ended=[(job, 1)], note="a word"))
    assert ("[1/1] seed=1: failed: no room" in printed.getvalue()) == is_line
    assert "0 done · 0 running · 1 failed · 0 left · 0:00 · a word" in printed.getvalue()


@pytest.mark.parametrize("width", [40, 60, 80])
def test_a_narrow_terminal_is_shown_fewer_columns_and_each_number_whole(
    width: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    console = Console(file=io.StringIO(), width=width, height=20, force_terminal=True, _environ={"TERM": "xterm"})
    job = Job(["data.corruption=random_labels"], tmp_path / "run")
    job.folder.add_to_status("running", step=3, epoch=12.5, accuracy=0.975, images_per_second=123456)
    running = SimpleNamespace(job=job, started=time.monotonic() - 3600, wrote=lambda status: True)
    shown = view.View({id(job): "random_labels seed=10 model=mlp_1x512"}, 1, console)
    console.print(shown.draw(view.Progress(deque(), running=[running], is_warm=True)))  # type: ignore[list-item]
    said = console.file.getvalue()  # type: ignore[attr-defined]
    assert ("123,456" in said, "97.5 %" in said, "1:00:00" in said) == (width == 80, width >= 60, True)
    assert "random_labels seed=10" in said
    assert "model=mlp_1x512" in said
