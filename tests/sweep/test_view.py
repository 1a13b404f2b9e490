from __future__ import annotations

import io
from collections import deque
from pathlib import Path

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
