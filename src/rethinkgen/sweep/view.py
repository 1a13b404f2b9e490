"""What is seen of a sweep while it runs: a live table on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Generic, Protocol, TypeVar

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.table import Table
from rich.text import Text

from rethinkgen.console import duration, percent, say, shown, stdout
from rethinkgen.signals import STOPPING
from rethinkgen.sweep.jobs import Job, labels

LINE_SECONDS = 30.0
"""Between two lines of the count where nobody looks at a terminal."""
MOST_ROWS = 30
STOPPED = tuple(128 + number for number in STOPPING)
"""Exit codes of jobs that saved because they were told to."""


class Running(Protocol):
    """A job that runs, whoever runs it."""

    @property
    def job(self) -> Job:
        """The job."""

    @property
    def started(self) -> float:
        """When it began, on the monotonic clock."""

    def wrote(self, status: Mapping[str, Any]) -> bool:
        """Whether ``status.json`` speaks of this attempt, and not of one before."""


R = TypeVar("R", bound=Running)


@dataclass
class Progress(Generic[R]):
    """How far a sweep is: what a view shows."""

    waiting: deque[Job]
    running: list[R] = field(default_factory=list)
    elsewhere: list[Job] = field(default_factory=list)
    """Waiting for another process that trains the same run."""
    ended: list[tuple[Job, int]] = field(default_factory=list)
    """With their exit codes, in the order in which they ended."""
    is_warm: bool = False
    """Whether torch and Lightning are imported, so that jobs can start."""
    note: str = ""
    """What else there is to say."""


@contextmanager
def watching(jobs: Sequence[Job], num_missing: int) -> Iterator[Callable[[Progress[Any]], None]]:
    """Give a function that shows the progress of ``num_missing`` of ``jobs``; the others were finished before."""
    console = stdout()
    names = dict(zip(map(id, jobs), labels(jobs), strict=True))
    view = View(names, num_missing, console)
    if not console.is_interactive:
        yield view.print_lines
        return
    with Live(console=console, transient=True, auto_refresh=False) as live:

        def show(progress: Progress[Any]) -> None:
            live.update(view.draw(progress), refresh=True)

        yield show


COLUMNS = ("running", "epoch", "accuracy", "images/s", "time")
DROPPED = (3, 1, 2)
"""Columns that a narrow terminal is not shown, the first first."""


def _table(rows: Sequence[Sequence[str]], width: int) -> tuple[Table, int]:
    """Return the table of what a terminal has room for, each number whole, and how many rows it shows.

    Where even then the name of a run is too long, it is cut between its words, and fewer runs are shown.
    """
    widths = [max(len(row[column]) for row in [COLUMNS, *rows]) for column in range(len(COLUMNS))]
    kept = list(range(len(COLUMNS)))
    for column in DROPPED:
        if sum(widths[each] + 2 for each in kept) - 2 > width:
            kept.remove(column)
    room = max(1, width - sum(widths[each] + 2 for each in kept[1:]))
    table = Table(box=None, pad_edge=False, header_style="dim")
    table.add_column(COLUMNS[0], width=min(room, widths[0]), overflow="fold")
    for column in kept[1:]:
        table.add_column(COLUMNS[column], justify="right", no_wrap=True, width=widths[column])
    num_shown = max(1, len(rows) // max(1, math.ceil(widths[0] / room)))
    for row in rows[:num_shown]:
        table.add_row(*(Text(row[column]) for column in kept))
    return table, min(num_shown, len(rows))


class View:
    """Draws the progress of a sweep; ``names`` gives each job's label by its ``id``."""

    def __init__(self, names: dict[int, str], total: int, console: Console) -> None:
        self.names = names
        self.total = total
        self.console = console
        self.began = time.monotonic()
        self._num_told = 0
        self._told_at = time.monotonic()
        self._last_note = ""

    def draw(self, progress: Progress[Any]) -> RenderableType:
        """Return one line for each running job, and the count."""
        # Of what is too tall, a terminal would show the top and leave out the count.
        num_rows = max(1, min(MOST_ROWS, self.console.height - 4))
        table, num_shown = _table([self._row(running) for running in progress.running[:num_rows]], self.console.width)
        if more := len(progress.running) - num_shown:
            table.add_row(f"... {more} more")
        parts: list[RenderableType] = [table] if progress.running else []
        if not progress.is_warm and progress.waiting:
            parts.append(Text("starting torch and Lightning", style="dim"))
        return Group(*parts, Text(self._count(progress)))

    def print_lines(self, progress: Progress[Any]) -> None:
        """Print a line for each job that has ended, and the count every so often."""
        for job, code in progress.ended[self._num_told :]:
            self._num_told += 1
            self._print(f"[{self._num_told}/{self.total}] {self.names[id(job)]}: {_how_it_ended(job, code)}")
        has_news = progress.note != self._last_note
        self._last_note = progress.note
        if has_news or time.monotonic() - self._told_at >= LINE_SECONDS:
            self._print(self._count(progress))

    def _print(self, line: str) -> None:
        self._told_at = time.monotonic()
        say(line, to=self.console)

    def _row(self, running: Running) -> list[str]:
        status = running.job.folder.read_status()
        seconds = duration(time.monotonic() - running.started)
        if not running.wrote(status) or "step" not in status:
            return [self.names[id(running.job)], "", "", "", seconds]
        epoch, accuracy = status.get("epoch"), status.get("accuracy")
        return [
            self.names[id(running.job)],
            "" if epoch is None else f"{epoch:.1f}",
            "" if accuracy is None else percent(accuracy),
            f"{status.get('images_per_second') or 0:,}",
            seconds,
        ]

    def _count(self, progress: Progress[Any]) -> str:
        num_done = sum(code == 0 for _, code in progress.ended)
        num_stopped = sum(code in STOPPED for _, code in progress.ended)
        counts = {
            "done": num_done,
            "running": len(progress.running),
            "failed": len(progress.ended) - num_done - num_stopped,
            "left": len(progress.waiting),
        }
        if num_stopped:
            counts["stopped"] = num_stopped
        if progress.elsewhere:
            counts["running elsewhere"] = len(progress.elsewhere)
        text = " · ".join(f"{count} {name}" for name, count in counts.items())
        text = f"{text} · {duration(time.monotonic() - self.began)}"
        return f"{text} · {progress.note}" if progress.note else text


def _how_it_ended(job: Job, code: int) -> str:
    outcome = job.outcome()
    if code != 0 or outcome.result is None:
        return f"{outcome.state}: {outcome.reason} ({shown(job.folder.output)})"
    metrics = outcome.result["metrics"]
    tested = metrics.get("test/accuracy")
    test = "" if tested is None else f"test {percent(tested)}, "
    return f"fit {percent(metrics.get('fit/accuracy'))}, {test}{outcome.result.get('seconds') or 0:,.0f} s"
