"""What a person or a program sees of a run while it trains: a live bar, or lines in a log, and ``status.json``."""

from __future__ import annotations

import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any

import pytorch_lightning as pl
from pytorch_lightning.callbacks import ProgressBar
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Column

from rethinkgen.console import duration, note, percent, say
from rethinkgen.run.folder import RunFolder
from rethinkgen.train.evaluation import Evaluation

log = logging.getLogger(__name__)

REFRESH_SECONDS = 0.25
FIRST_LINE_SECONDS = 5.0
LINE_SECONDS = 30.0
"""Between two lines, in ``train.log`` and where nobody looks at a terminal."""
STATUS_SECONDS = 1.0
WIDE = 130
"""Columns of a terminal that has room for everything; a narrower one is shown less, and no bar."""


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


class LiveProgress(ProgressBar):
    """Epoch, running loss and accuracy, test accuracy, images/s and time left.

    On a terminal a bar over the whole budget; elsewhere, and in ``train.log``, a line now and then. Placed before
    ``Evaluation`` among the callbacks, so that a block's time is that of its training alone. Also keeps ``status.json``
    up to date.
    """

    def __init__(self, folder: RunFolder, evaluation: Evaluation, console: Console) -> None:
        super().__init__()
        self.folder = folder
        self.evaluation = evaluation
        self.console = console
        self.throughput = Throughput()
        self._progress: Progress | None = None
        self._shown_at = self._line_due = self._status_at = self._block_start = 0.0
        self._started: tuple[float, int] = (0.0, 0)
        self._status_has_failed = False

    def disable(self) -> None:
        """Lightning's wish for ranks other than zero: they show nothing."""
        self.console = Console(quiet=True)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Open the bar where training starts or goes on."""
        self._started = (time.monotonic(), trainer.global_step)
        self._line_due = time.monotonic() + FIRST_LINE_SECONDS
        if self.console.is_interactive:
            one_line = Column(no_wrap=True, overflow="ellipsis")
            bar = [BarColumn(bar_width=20)] if self.console.width >= WIDE else []
            columns = (*bar, TextColumn("{task.description}", table_column=one_line))
            self._progress = Progress(*columns, console=self.console, transient=True, auto_refresh=False)
            self._progress.start()
            total = pl_module.total_steps
            self._progress.add_task("starting", total=total, completed=trainer.global_step)  # type: ignore[arg-type]

    def show_solve(self, what: str, share: float) -> None:
        """Show how far a solve is, not too often: a share of the whole, of which the seconds so far tell the rest.

        Called as ``rethinkgen.model.closed_form.closed_form.WatchesSolve`` says.
        """
        now = time.monotonic()
        seconds = now - self._started[0]
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
        if num_images:  # of steps that see no batch there is nothing to tell
            self._show(lambda is_wide: self._text(trainer, is_wide=is_wide), trainer.global_step, now)

    def _show(self, text: Callable[[bool], str], completed: float, now: float) -> None:
        """Show ``text(is_wide)`` wherever that is due."""
        if self._progress and now - self._shown_at >= REFRESH_SECONDS:
            self._shown_at = now
            shown = text(self.console.width >= WIDE)
            self._progress.update(self._progress.task_ids[0], completed=completed, description=shown)
            self._progress.refresh()
        if now >= self._line_due and not self.console.quiet:
            self._line_due = now + LINE_SECONDS
            line = text(True)
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

    def _text(self, trainer: pl.Trainer, *, is_wide: bool) -> str:
        step, total = trainer.global_step, self.evaluation.total_steps
        seconds, first_step = self._started
        left = (time.monotonic() - seconds) / (step - first_step) * (total - step)
        evaluated = self.evaluation.evaluated
        parts = [f"epoch {self.evaluation.timetable.epochs(step):.1f}"]
        if is_wide:
            parts.append(f"step {step:,}/{total:,}")
        if self.evaluation.window.steps:
            loss, accuracy = self.evaluation.window.mean(self.evaluation.log_every)
            parts.append(f"{'train ' if is_wide else ''}loss {loss:.3f} acc {percent(accuracy)}")
        if evaluated and is_wide:
            parts.append(f"fit {percent(evaluated['fit/accuracy'])}")
        if evaluated:
            parts.append(f"test {percent(evaluated['test/accuracy'])}")
        at_most = "≤ " if self.evaluation.until_fit else ""
        parts += [f"{self.throughput.latest:,.0f} images/s", f"{at_most}{duration(left)} left"]
        return " · ".join(parts)

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
