"""What is seen while runs are measured: the runs at work and the count on a terminal, a line a row elsewhere."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.live import Live
from rich.text import Text

from rethinkgen.console import duration, say, stdout
from rethinkgen.run.measuring import Row, told_of
from rethinkgen.run.run import Run
from rethinkgen.sweep.view import LINE_SECONDS, Progress

if TYPE_CHECKING:
    from rethinkgen.sweep.measuring import Stints

MOST_LATEST = 12


@contextmanager
def watching(stints: Stints) -> Iterator[Callable[[Progress[Any]], None]]:
    """Give a function that shows how far ``stints`` are, and has dead ones replaced."""
    view = View(stints)
    console = stdout()
    if not console.is_interactive:
        yield view.print_lines
        view.print_rows()
        return
    with Live(console=console, transient=True, auto_refresh=False) as live:

        def show(progress: Progress[Any]) -> None:
            live.update(view.draw(progress), refresh=True)

        yield show


class View:
    """Shows rows as they come."""

    def __init__(self, stints: Stints) -> None:
        self.stints = stints
        self.began = time.monotonic()
        self.total = sum(len(task.steps) for task in stints.tasks)
        self._num_told = 0
        self._told_at = time.monotonic()

    def draw(self, progress: Progress[Any]) -> RenderableType:
        """Return the latest rows and the count."""
        self._look(progress)
        latest = self.stints.seen.latest[-MOST_LATEST:]
        return Group(*(Text(self._line(number, row)) for number, row in latest), Text(self._count(progress)))

    def print_lines(self, progress: Progress[Any]) -> None:
        """Print a line for each row that has come, and the count every so often."""
        self._look(progress)
        self.print_rows()
        if time.monotonic() - self._told_at >= LINE_SECONDS:
            self._told_at = time.monotonic()
            say(self._count(progress))

    def print_rows(self) -> None:
        """Print what has come since."""
        self.stints.seen.read()
        for number, row in self.stints.seen.latest[self._num_told :]:
            self._num_told += 1
            self._told_at = time.monotonic()
            say(f"[{self._num_told}/{self.total}] {self._line(number, row)}")

    def _look(self, progress: Progress[Any]) -> None:
        self.stints.seen.read()
        self.stints.replace_dead(progress)

    def _line(self, number: int, row: Row) -> str:
        return f"{name_of(self.stints.tasks[number].run)} step {row.step}: {told_of(row)}"

    def _count(self, progress: Progress[Any]) -> str:
        if not progress.is_warm and progress.waiting and not self.stints.seen.latest:
            return "starting torch and Lightning"
        rows = [row for _, row in self.stints.seen.latest]
        failed = sum(row.state == "failed" for row in rows)
        counts = f"{len(rows) - failed:,} of {self.total:,} rows measured"
        more = f" · {failed:,} failed" if failed else ""
        note = f" · {progress.note}" if progress.note else ""
        seconds = time.monotonic() - self.began
        left = f" · {duration(seconds / len(rows) * (self.total - len(rows)))} left" if rows else ""
        return f"{counts}{more} · {duration(seconds)}{left}{note}"


def name_of(run: Run) -> str:
    """Return what a run is called here: its folder's name without the id."""
    return run.path.name.removesuffix(f"-{run.run_id}")
