"""The terminal and ``train.log``: where every line of this package goes, and how numbers read there."""

from __future__ import annotations

import codecs
import contextlib
import functools
import io
import logging
import os
import re
import sys
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape
from rich.measure import Measurement
from rich.table import Table
from rich.text import Text

COLUMNS_OF_A_FILE = 160
IN_ASCII = {"→": "->", "·": "|", "≤": "<", "≥": ">", "–": "-", "—": "-", "×": "x", "±": "~", "≈": "~", "…": "."}
"""What stands for a character that a terminal's encoding lacks; of the same width where tables and bars have it."""
ANY_ENCODING = "rethinkgen.any_encoding"
"""The name of the error handler below: ``open(path, "w", encoding="utf-8", errors=ANY_ENCODING)``."""


def _in_another_way(error: UnicodeError) -> tuple[bytes, int]:
    """Return what stands for characters that cannot be encoded, as ``codecs.register_error`` says."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return b"".join(map(_bytes_of, error.object[error.start : error.end])), error.end


def _bytes_of(character: str) -> bytes:
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:
        return bytes([code - 0xDC00])  # of a file's name that is not in the locale's encoding: as it lies on the disk
    if 0x2800 <= code <= 0x28FF:
        return b"|/-\\"[code % 4 : code % 4 + 1]  # rich's spinner
    if found := IN_ASCII.get(character):
        return found.encode()
    # A path with ? in place of a letter is still found by a shell.
    return unicodedata.normalize("NFKD", character).encode("ascii", "ignore") or b"?"


codecs.register_error(ANY_ENCODING, _in_another_way)


def take_any_encoding(*, into_files: bool = False) -> None:
    """Have nothing that is printed or logged from now on fail for the locale's encoding.

    ``into_files``: both streams lead into files of ours, which are UTF-8 under any locale.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(encoding="utf-8" if into_files else None, errors=ANY_ENCODING)
    for handler in _log_files():
        handler.encoding, handler.errors = "utf-8", ANY_ENCODING
        if isinstance(handler.stream, io.TextIOWrapper):
            handler.stream.reconfigure(encoding="utf-8", errors=ANY_ENCODING)


def _log_files() -> Iterator[logging.FileHandler]:
    return (handler for handler in logging.getLogger().handlers if isinstance(handler, logging.FileHandler))


@functools.cache
def stdout() -> Console:
    """Return the console for what the user asked for."""
    console = _console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        # Into a file or a pipe: rich takes 80 columns, too few for the table of a sweep.
        console.width = COLUMNS_OF_A_FILE
    return console


@functools.cache
def stderr() -> Console:
    """Return the console for what went wrong."""
    return _console(stderr=True)


def _console(*, stderr: bool = False) -> Console:
    # A notebook is shown what a file is. Rich's own way needs ipywidgets, and says so at every line; and a kernel calls
    # its output a terminal, though no line can be drawn again there.
    is_notebook = "ipykernel" in sys.modules
    return Console(stderr=stderr, force_jupyter=False, force_terminal=False if is_notebook else None)


def say(
    line: str, *, style: str | None = None, to: Console | None = None, markup: bool = False, end: str = "\n"
) -> None:
    """Print a line as it is, on ``stdout()`` by default: not coloured by its words; on a terminal cut between words.

    What is indented is not cut at all: a command to copy. Only with ``markup`` are ``[bold]`` and its like more than
    text; what comes from outside is then escaped.
    """
    console = to or stdout()
    text = Text.from_markup(line, emoji=False) if markup else Text(line)
    text.stylize(style or "")
    is_cut = console.is_terminal and not console.is_dumb_terminal
    console.print(cut_between_words(text, console.width) if is_cut else text, soft_wrap=True, end=end)


BREAK = re.compile(r"(?<!→) +(?![%· ])")
"""Where a line may be cut: not between a number and its unit, nor behind an arrow."""


def cut_between_words(text: Text, width: int) -> Text:
    """Return a text with a new line wherever the next word would not fit; a word that never does stays whole."""
    lines: list[Text] = []
    for line in text.split("\n", allow_blank=True):
        plain = line.plain
        cuts, start = [], 0
        fitting: int | None = None
        for end, following in (*(space.span() for space in BREAK.finditer(plain)), (len(plain), len(plain))):
            if fitting is not None and cell_len(plain[start:end]) > width:
                cuts.append(fitting)
                start = fitting
            fitting = following
        lines += [line] if plain.startswith("  ") else line.divide(cuts)
    for line in lines[:-1]:
        line.rstrip()
    return Text("\n").join(lines)


@dataclass(frozen=True)
class Column:
    """A column of a table for people."""

    name: str
    kind: Literal["setting", "number", "words"] = "number"
    """``words`` may take several lines"""


def say_table(columns: Sequence[Column], rows: Sequence[Sequence[str]], styles: Sequence[str | None] = ()) -> None:
    """Print a table on ``stdout()``; where there is no room for it, each row as lines, every word and number whole.

    ``styles`` are those of the rows, if they have any.
    """
    console = stdout()
    table = Table(box=None, pad_edge=False, header_style="dim")
    for column in columns:
        is_number, takes_lines = column.kind == "number", column.kind == "words"
        table.add_column(Text(column.name), justify="right" if is_number else "left", no_wrap=not takes_lines)
    styles = styles or [None] * len(rows)
    for row, style in zip(rows, styles, strict=True):
        table.add_row(*map(Text, row), style=style)
    # Of words, what is needed is the longest one: the others go below each other.
    needed = Measurement.get(console, console.options.update(max_width=10**6), table).minimum
    if needed <= console.width or not console.is_terminal:
        console.print(table, width=max(needed, console.width), crop=False)
        return
    for row, style in zip(rows, styles, strict=True):
        for line in _in_lines(columns, row, console.width):
            say(line, style=style)


def _in_lines(columns: Sequence[Column], row: Sequence[str], width: int) -> Iterator[str]:
    """Yield the lines of one row: its settings, and below them what came of it."""
    cells = [(column, cell) for column, cell in zip(columns, row, strict=True) if cell]
    settings = [f"{column.name} {cell}" for column, cell in cells if column.kind == "setting"]
    found = [
        cell if column.kind == "words" else f"{column.name} {cell}"
        for column, cell in cells
        if column.kind != "setting"
    ]
    indent = "  " if settings else ""
    for items, before in ((settings, ""), (found, indent)):
        line = ""
        for item in items:
            if line and len(f"{before}{line}, {item},") > width:
                yield f"{before}{line},"
                line = ""
            line += f", {item}" if line else item
        if line:
            yield from (
                f"{before}{part}" for part in cut_between_words(Text(line), width - len(before)).plain.split("\n")
            )


def note(line: str) -> None:
    """Write a line into ``train.log``, and nowhere else: whoever sees the terminal sees something better there."""
    record = logging.LogRecord("rethinkgen", logging.INFO, "", 0, line, None, None)
    for handler in _log_files():
        # Where nothing more can be written, the run's own files tell it. ``logging`` would print a traceback a line.
        with contextlib.suppress(OSError):
            if handler.stream is not None:
                handler.stream.write(handler.format(record) + handler.terminator)
                handler.flush()


def say_command(why: str, command: str) -> None:
    """Print a command to copy, below a line that says what for."""
    say(f"{escape(why)}\n  [bold]{escape(command)}[/bold]", markup=True)


def say_error(message: object) -> None:
    """Print what went wrong, in red, on ``stderr()``."""
    say(f"Error: {message}", style="red", to=stderr())


def shown(path: Path) -> str:
    """Return a path as short as it can be typed here."""
    path = path.absolute()
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def first_line(text: str) -> str:
    """Return what a table has room for."""
    return text.strip().splitlines()[0] if text.strip() else ""


def percent(share: float | None) -> str:
    """Return a share as percent; 100 % only where all of it is meant."""
    if share is None:
        return "-"
    text = f"{100 * share:.1f} %"
    if share < 1 and text == "100.0 %":
        return "> 99.9 %"
    return text.replace(".0 %", " %")


def steps_to_fit(result: Mapping[str, Any]) -> str:
    """Return a finished run's number of steps until it fitted, or that it was more than it had."""
    metrics = result["metrics"]
    if result.get("fitted"):
        return f"{metrics['steps_to_fit']:,}"
    return f"> {metrics['steps']:,}" if metrics.get("steps") is not None else "-"


def duration(seconds: float) -> str:
    """Return seconds as ``m:ss`` or ``h:mm:ss``."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{seconds:02d}" if hours else f"{minutes}:{seconds:02d}"
