"""What a person or a program sees of a run while it trains: a live bar, or lines in a log, and ``status.json``."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column

from rethinkgen.console import duration, note, percent, say
from rethinkgen.run.folder import RunFolder
from rethinkgen.train.evaluation import Evaluation
from rethinkgen.words import how_many

log = logging.getLogger(__name__)

REFRESH_SECONDS = 0.25
FIRST_LINE_SECONDS = 5.0
LINE_SECONDS = 30.0
"""Between two lines, in ``train.log`` and where nobody looks at a terminal."""
STATUS_SECONDS = 1.0
BAR = 20
"""Columns of the bar, and as many characters as a line of everything leaves to it."""
WIDE = 130
"""Columns of a terminal that has room for the bar."""
LEAST_WINDOW = 60.0
"""Seconds that the time left is judged by, or the latest third of the training where that is longer."""


class Throughput:
    """Images per second of training alone, without evaluations."""

    def __init__(self) -> None:
        self._blocks: deque[tuple[int, float]] = deque(maxlen=50)
        self._num_images = 0
        self._seconds = 0.0

    def add(self, num_images: int, seconds: float) -> None:
        """Count one block."""
        self._blocks.append((num_images, seconds))
        self._num_images += num_images
        self._seconds += seconds

    @property
    def latest(self) -> float:
        """The rate over the latest blocks; 0 before the first."""
        seconds = sum(block[1] for block in self._blocks)
        return sum(block[0] for block in self._blocks) / seconds if seconds else 0.0

    @property
    def mean(self) -> float:
        """The rate since training started or went on; 0 before the first block."""
        return self._num_images / self._seconds if self._seconds else 0.0


class Pace:
    """Steps a second as of late, evaluations and all.

    Of the latest minute, or the latest third of the time where that is longer: what is slow at first, the first blocks
    and a busy machine, is forgotten, and what comes seldom, an evaluation that takes minutes, is not.
    """

    def __init__(self) -> None:
        self._marks: deque[tuple[float, int]] = deque()
        self._first = 0.0

    def mark(self, now: float, step: int) -> None:
        """Note when a step was reached; not too often, and the first block, which warms up, is not counted."""
        if not self._marks:
            self._first = now
        elif now - self._marks[-1][0] < max(1.0, (now - self._first) / 300):
            return
        self._marks.append((now, step))
        since = now - max(LEAST_WINDOW, (now - self._first) / 3)
        while len(self._marks) > 2 and self._marks[1][0] <= since:
            self._marks.popleft()

    def seconds_for(self, num_steps: int, now: float, step: int) -> float | None:
        """Return how long so many steps more will take; ``None`` before that is known."""
        if not self._marks or step <= self._marks[0][1]:
            return None
        then, first = self._marks[0]
        return (now - then) / (step - first) * num_steps


def plan(evaluation: Evaluation, total_steps: int, epochs: float, *, is_asked_for: bool) -> str:
    """Say how long a run will train, before it does; and how to ask for another budget, where nobody did."""
    budget = f"{how_many(total_steps, 'step')} ({how_many(epochs, 'epoch')})"
    early = " Early stopping may end it before." if evaluation.best is not None else ""
    if not evaluation.until_fit:
        return f"Trains for {budget}.{early}"
    threshold = evaluation.fit_threshold
    what = "the whole training set" if threshold == 1 else f"{percent(threshold)} of the training set"
    others = " Another budget: max_epochs=... or max_steps=...; the whole of it: until_fit=false."
    hint = "" if is_asked_for else others
    return f"Trains until {what} is fitted, {budget} at most.{early}{hint}"


class LiveProgress(ProgressBar):
    """Epoch, running loss and accuracy, what was evaluated last, images/s and when it will end.

    On a terminal one line, of what there is room for, with a bar on a wide one; elsewhere, and in ``train.log``, a line
    now and then. Placed before
    ``Evaluation`` among the callbacks, so that a block's time is that of its training alone. Also keeps ``status.json``
    up to date.
    """

    def __init__(self, folder: RunFolder, evaluation: Evaluation, console: Console) -> None:
        super().__init__()
        self.folder = folder
        self.evaluation = evaluation
        self.console = console
        self.throughput = Throughput()
        self.pace = Pace()
        self._progress: Progress | None = None
        self._shown_at = self._line_due = self._status_at = self._block_start = 0.0
        self._started = 0.0
        self._status_has_failed = False

    def disable(self) -> None:
        """Lightning's wish for ranks other than zero: they show nothing."""
        self.console = Console(quiet=True)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the bar where training starts or goes on."""
        self._started = time.monotonic()
        self._line_due = time.monotonic() + FIRST_LINE_SECONDS
        if self.console.is_interactive:
            one_line = Column(no_wrap=True, overflow="ellipsis")
            bar = [BarColumn(bar_width=BAR)] if self.console.width >= WIDE else []
            columns = (*bar, TextColumn("{task.description}", table_column=one_line))
            self._progress = Progress(*columns, console=self.console, transient=True, auto_refresh=False)
            self._progress.start()
            self._progress.add_task("starting", total=1)

    def show_solve(self, what: str, share: float) -> None:
        """Show how far a solve is, not too often: a share of the whole, of which the seconds so far tell the rest.

        Called as ``rethinkgen.model.closed_form.closed_form.WatchesSolve`` says.
        """
        now = time.monotonic()
        seconds = now - self._started
        left = f" · {duration(seconds * (1 - share) / share)} left" if share else ""
        if now - self._status_at >= STATUS_SECONDS and not self._status_has_failed:
            self._status_at = now
            self._try_to_write_status(step=0, epoch=share, solving=what)
        self._show(lambda _: f"{what} · {percent(share)} done{left}", share, now)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Note when the block starts."""
        self._block_start = time.monotonic()

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Show the state after a block, not too often."""
        now = time.monotonic()
        num_images = sum(step.num_examples for step in pl_module.steps)  # type: ignore[union-attr]
        self.throughput.add(num_images, now - self._block_start)
        if now - self._status_at >= STATUS_SECONDS:
            self._status_at = now
            self._write_status(trainer)
        self.pace.mark(now, trainer.global_step)
        if num_images:  # of steps that see no batch there is nothing to tell
            self._show(lambda width: self._text(trainer.global_step, now, width), self._share(trainer.global_step), now)

    def _show(self, text: Callable[[int | None], str], completed: float, now: float) -> None:
        """Show ``text(columns)``, ``None`` for any number of them, wherever that is due; ``completed`` is a share."""
        if self._progress and now - self._shown_at >= REFRESH_SECONDS:
            self._shown_at = now
            width = self.console.width
            shown = text(width - BAR - 1 if width >= WIDE else width)
            self._progress.update(self._progress.task_ids[0], completed=completed, description=shown)
            self._progress.refresh()
        if now >= self._line_due and not self.console.quiet:
            self._line_due = now + LINE_SECONDS
            line = text(None)
            note(line)
            if not self._progress:
                say(line, to=self.console)

    def on_train_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Close the bar."""
        self._close()

    def on_exception(self, trainer: pl.Trainer, pl_module: pl.LightningModule, exception: BaseException) -> None:
        """Close the bar, so that what is printed next is seen."""
        self._close()

    def _close(self) -> None:
        if self._progress:
            self._progress.stop()
            self._progress = None

    def _share(self, step: int) -> float:
        """Return how far the training is: of its budget, or of being fitted where that may end it before."""
        of_budget = step / self.evaluation.total_steps
        if not self.evaluation.until_fit or not self.evaluation.evaluated:
            return of_budget
        return max(of_budget, self.evaluation.evaluated["fit/accuracy"] / (self.evaluation.fit_threshold or 1))

    def _text(self, step: int, now: float, width: int | None) -> str:
        """Return the line, of as many parts as ``width`` columns have room for; ``None``: of all."""
        total, evaluated = self.evaluation.total_steps, self.evaluation.evaluated
        parts = [(1, f"epoch {self.evaluation.timetable.epochs(step):.1f}"), (8, f"step {step:,}/{total:,}")]
        if self.evaluation.window.steps:
            loss, accuracy = self.evaluation.window.mean(self.evaluation.log_every)
            parts += [(5, f"train loss {loss:.3f}"), (4, f"acc {percent(accuracy)}")]
        if evaluated and not self.evaluation.until_fit:
            parts.append((2, f"fit {percent(evaluated['fit/accuracy'])}"))
        if "validation/accuracy" in evaluated:
            parts.append((3, f"validation {percent(evaluated['validation/accuracy'])}"))
        if "test/accuracy" in evaluated:
            parts.append((6, f"test {percent(evaluated['test/accuracy'])}"))
        parts += [(7, f"{self.throughput.latest:,.0f} images/s"), (0, self._ending(step, now))]
        return _fitting(parts, width)

    def _ending(self, step: int, now: float) -> str:
        """Say what will end the training, and when: how soon it will be fitted nobody can tell.

        An extrapolation of the errors so far was tried, and wrong by a factor of 2 to 10: memorising speeds up.
        """
        left = self.pace.seconds_for(self.evaluation.total_steps - step, now, step)
        words = "" if left is None else f"{duration(left)} left"
        if not self.evaluation.until_fit:
            return words
        threshold = self.evaluation.fit_threshold
        ends = "ends when fitted" if threshold == 1 else f"ends when {percent(threshold)} is fitted"
        if self.evaluation.evaluated:
            ends += f": {percent(self.evaluation.evaluated['fit/accuracy'])}"
        return f"{ends}, at most {words}" if words else ends

    def _write_status(self, trainer: pl.Trainer) -> None:
        if not trainer.is_global_zero or self._status_has_failed:
            return
        window = self.evaluation.window
        self._try_to_write_status(
            step=trainer.global_step,
            epoch=self.evaluation.timetable.epochs(trainer.global_step),
            accuracy=window.mean(self.evaluation.log_every)[1] if window.steps else None,
            images_per_second=round(self.throughput.latest),
        )

    def _try_to_write_status(self, **details: Any) -> None:
        try:
            self.folder.write_status("running", **details)
        except OSError as error:
            # A status that cannot be written is no reason to lose the training; a checkpoint that cannot be is.
            self._status_has_failed = True
            log.warning("%s cannot be kept up to date: %s", self.folder.status, error)


def _fitting(parts: Sequence[tuple[int, str]], width: int | None) -> str:
    """Join the parts that there is room for, in their order: those of the smallest numbers, each whole."""
    kept = [part for part in parts if part[1]]
    while True:
        line = " · ".join(text for _, text in kept)
        if width is None or len(line) <= width or len(kept) == 1:
            return line
        kept.remove(max(kept))
