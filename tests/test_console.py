from __future__ import annotations

import contextlib
import io
import logging
import sys
from pathlib import Path

import pytest
from rich.console import Console
from rich.progress import track
from rich.text import Text

from rethinkgen import console as console_module
from rethinkgen.console import (
    Column,
    cut_between_words,
    duration,
    note,
    percent,
    say,
    say_command,
    say_error,
    say_table,
    take_any_encoding,
)


@pytest.mark.parametrize(
    ("share", "text"),
    [(1.0, "100 %"), (0.99999, "> 99.9 %"), (0.9975, "99.8 %"), (0.1, "10 %"), (0.0, "0 %"), (None, "-")],
)
def test_percent_says_100_only_where_all_of_it_is_meant(share: float | None, text: str) -> None:
    assert percent(share) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (59.6, "1:00"), (3599, "59:59"), (3661, "1:01:01")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_line_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    line = "regularizer=[bold] " + "long " * 100 + "3.14"
    say(line)
    say("[bold]run[/bold]", markup=True)
    say("no end", end="")
    assert capsys.readouterr().out == f"{line}\nrun\nno end"
    say_command("With [dim] things:", "python train.py 'regularizer=[bold]'")
    assert capsys.readouterr().out == "With [dim] things:\n  python train.py 'regularizer=[bold]'\n"


def test_errors_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    say_error(ValueError("seed=[red]: no"))
    assert capsys.readouterr() == ("", "Error: seed=[red]: no\n")


def test_a_quiet_console_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    say("of another rank", to=Console(quiet=True))
    assert capsys.readouterr() == ("", "")


SAID = "epoch 2.5 · ≤ 0:03 left → caf\xe9 – 5 ± 2 \u2713 \udce9"


@pytest.mark.parametrize(
    ("encoding", "shown"),
    [
        ("utf-8", SAID.encode("utf-8", "surrogateescape")),
        ("iso-8859-1", b"epoch 2.5 \xb7 < 0:03 left -> caf\xe9 - 5 \xb1 2 ? \xe9"),
        ("iso-8859-15", b"epoch 2.5 \xb7 < 0:03 left -> caf\xe9 - 5 \xb1 2 ? \xe9"),
        ("euc_jp", "epoch 2.5 | < 0:03 left → caf\xe9 - 5 ± 2 ? ".encode("euc_jp") + b"\xe9"),
        ("ascii", b"epoch 2.5 | < 0:03 left -> cafe - 5 ~ 2 ? \xe9"),
    ],
)
@pytest.mark.parametrize("errors", ["strict", "surrogateescape", "backslashreplace"])
def test_any_encoding_is_written_in(encoding: str, shown: bytes, errors: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also a file's name that is in no encoding: as its bytes lie on the disk."""
    streams = [io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors=errors) for _ in range(2)]
    monkeypatch.setattr(sys, "stdout", streams[0])
    monkeypatch.setattr(sys, "stderr", streams[1])
    take_any_encoding()
    for stream in streams:
        say(SAID, to=Console(file=stream))
        stream.flush()
        assert stream.buffer.getvalue() == shown + b"\n"  # type: ignore[attr-defined]


def test_bars_and_spinners_are_shown_in_ascii(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.TextIOWrapper(io.BytesIO(), encoding="ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    take_any_encoding()
    console = Console(file=stream, force_terminal=True, width=60, _environ={"TERM": "xterm"})
    with console.status("starting"):
        console.print("while it spins")
    assert list(track(range(3), "a description that is too long to be shown whole", console=console)) == [0, 1, 2]
    stream.flush()
    shown = stream.buffer.getvalue()  # type: ignore[attr-defined]
    assert b"100%" in shown
    assert b"?" not in shown.replace(b"\x1b[?25", b"")


@pytest.fixture
def log_file(tmp_path: Path) -> Path:
    """Return what a handler of the root logger writes to, opened as Hydra does under a locale of ASCII."""
    handler = logging.FileHandler(tmp_path / "train.log", encoding="ascii")
    logging.getLogger().addHandler(handler)
    yield tmp_path / "train.log"
    logging.getLogger().removeHandler(handler)
    handler.close()


def test_a_note_goes_into_the_log_alone_and_in_utf_8(log_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    take_any_encoding()
    note("epoch 2.5 · ≤ 0:03 left")
    logging.getLogger("anybody").warning("[→]")
    assert log_file.read_text(encoding="utf-8") == "epoch 2.5 · ≤ 0:03 left\n[→]\n"
    assert "epoch" not in "".join(capsys.readouterr())


def test_a_note_that_finds_no_room_is_no_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    handler = logging.FileHandler("/dev/full")
    monkeypatch.setattr(logging.getLogger(), "handlers", [handler])
    note("what matters less")
    with contextlib.suppress(OSError):
        handler.close()
    assert capsys.readouterr() == ("", "")


@pytest.mark.parametrize(
    ("line", "width", "shown"),
    [
        ("fit 97 %, test 98.1 % (chance 10 %): fitted", 20, ["fit 97 %, test", "98.1 % (chance", "10 %): fitted"]),
        ("a  → /a/very/long/path and more", 10, ["a", "→ /a/very/long/path", "and more"]),
        ("why it is:\n  python train.py model=mlp seed=1", 12, ["why it is:", "  python train.py model=mlp seed=1"]),
        ("short", 80, ["short"]),
    ],
)
def test_lines_are_cut_between_words_and_commands_nowhere(line: str, width: int, shown: list[str]) -> None:
    assert cut_between_words(Text(line), width).plain.split("\n") == shown


COLUMNS = [Column("data.corruption", "setting"), Column("seed", "setting"), Column("fit"), Column("steps to fit")]
ROWS = [["random_labels", "0", "97.5 %", "1,234", "done"], ["none", "1", "", "", "failed: one of its files is damaged"]]


@pytest.mark.parametrize("width", [31, 36, 37, 38, 60, 80, 200])
def test_a_table_keeps_words_and_numbers_whole(width: int, monkeypatch: pytest.MonkeyPatch) -> None:
    printed = io.StringIO()
    terminal = Console(file=printed, width=width, force_terminal=True, _environ={"TERM": "xterm", "NO_COLOR": "1"})
    monkeypatch.setattr(console_module, "stdout", lambda: terminal)
    say_table([*COLUMNS, Column("status", "words")], ROWS, [None, "red"])
    said = printed.getvalue()
    assert "\x1b[31m" not in said, "NO_COLOR"
    lines = [Text.from_ansi(line).plain.rstrip() for line in said.splitlines()]
    assert all(len(line) <= width for line in lines)
    for whole in ("data.corruption", "random_labels", "97.5 %", "1,234", "damaged"):
        assert any(whole in line for line in lines), whole
    assert lines[0].startswith("data.corruption  seed" if width >= 60 else "data.corruption random_labels,"), lines
