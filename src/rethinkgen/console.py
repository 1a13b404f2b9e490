"""The terminal: where every line goes that a command of this package prints, and how numbers read there."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape

COLUMNS_OF_A_FILE = 160


@functools.cache
def stdout() -> Console:
    """Return the console for what the user asked for."""
    console = Console()
    if not console.is_terminal and "COLUMNS" not in os.environ:
        # Into a file or a pipe: rich takes 80 columns, too few for the table of a sweep.
        console.width = COLUMNS_OF_A_FILE
    return console


@functools.cache
def stderr() -> Console:
    """Return the console for what went wrong."""
    return Console(stderr=True)


def say(
    line: str, *, style: str | None = None, to: Console | None = None, markup: bool = False, end: str = "\n"
) -> None:
    """Print a line as it is, on ``stdout()`` by default: not coloured by its words, and not cut to the width.

    Only with ``markup`` are ``[bold]`` and its like more than text; what comes from outside is then escaped.
    """
    (to or stdout()).print(line, style=style, markup=markup, highlight=False, soft_wrap=True, end=end)


def say_command(why: str, command: str) -> None:
    """Print a command to copy, below a line that says what for."""
    say(f"{escape(why)}\n  [bold]{escape(command)}[/bold]", markup=True)


def say_error(message: object) -> None:
    """Print what went wrong, in red, on ``stderr()``."""
    say(f"Error: {message}", style="red", to=stderr())


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
