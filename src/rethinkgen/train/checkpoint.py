"""Checkpoints from which a run goes on to the bit, and the signals that ask it to stop."""

from __future__ import annotations

import contextlib
import logging
import os
import pickle
import random
import signal
import time
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import Checkpoint
from pytorch_lightning.plugins import TorchCheckpointIO
from torch import Tensor

from rethinkgen.collective import gathered, greatest_over_ranks, num_ranks, rank
from rethinkgen.console import first_line
from rethinkgen.data.draws import generator
from rethinkgen.errors import Interrupted, TrainingDivergedError
from rethinkgen.files import atomic_writer, remove_leftovers
from rethinkgen.signals import handled_by, stopping

log = logging.getLogger(__name__)

GRACE_SECONDS = 5.0
"""How long a signal waits for the end of a block, where a checkpoint can be saved; an evaluation may take longer."""


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes beside, syncs and renames; keeps the checkpoint before as ``previous.ckpt``.

    Lightning's own goes through the system's temporary folder, so that a kill while it is copied to another file system
    leaves half a checkpoint under its final name.
    """

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Save ``checkpoint`` at ``path``; at any moment either it or ``previous.ckpt`` is whole."""
        path = Path(path)
        path.parent.mkdir(exist_ok=True)
        with atomic_writer(path, keep_previous_as=path.with_name("previous.ckpt")) as file:
            torch.save(checkpoint, file)


class ExactCheckpoint(Checkpoint):
    """Saves ``last.ckpt`` every few seconds, with the states of all random generators, and obeys signals.

    Order and augmentation are functions of the seed and the step, so a run goes on to the bit from the end of any
    block. Lightning resumes exactly only from the end of what it takes for an epoch: the datamodule therefore ends
    that where a checkpoint is due (``should_pause``), in the middle of an epoch of the data if need be.

    Several ranks save and stop at the same block, whichever of them a signal reached.

    Args:
        every_seconds: no two checkpoints within this time; 0 for one after every block.
        seed: from which each of several ranks draws its own dropout.
        is_leading: whether a signal that is not obeyed in time ends this process; false on all ranks but 0, which go
            by rank 0 and end with it.
        run_id: of the run, which each checkpoint says that it is of.
    """

    def __init__(
        self, folder: Path, *, every_seconds: float = 10.0, seed: int = 0, is_leading: bool = True, run_id: str = ""
    ) -> None:
        self.folder = folder
        self.run_id = run_id
        self.every_seconds = every_seconds
        self.seed = seed
        self.is_leading = is_leading
        self.saved_at = time.monotonic()
        self._begun_at = time.monotonic()
        self.signal: int | None = None
        self._is_obeying = False
        self._obeyed: tuple[int, ...] = ()
        self._generators: list[dict[str, Any]] = []
        self._device = torch.device("cpu")

    def begin(self, seconds: float) -> None:
        """Start the clock of the run's time, of which ``seconds`` were spent before it was interrupted."""
        self._begun_at = time.monotonic() - seconds

    @property
    def seconds(self) -> float:
        """The run's time so far, over all its interruptions."""
        return time.monotonic() - self._begun_at

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Save if it is time to, if training ends here, or if a signal came.

        Raises:
            TrainingDivergedError: a weight is no finite number; the checkpoint before stays.
            Interrupted: a signal came.
        """
        is_last = trainer.should_stop or trainer.global_step >= pl_module.total_steps  # type: ignore[operator]
        is_due, number = self._agree()
        if is_last or is_due:
            check_finite(pl_module)
            if trainer.is_global_zero:
                for logger in trainer.loggers:
                    logger.save()
            if pl_module.is_resumable:
                trainer.save_checkpoint(self.folder / "last.ckpt", weights_only=False)
            self.saved_at = time.monotonic()
        if number and not is_last:
            raise Interrupted(number)

    def should_pause(self) -> bool:
        """Whether it is time to save, or a signal came, on any rank; all ranks must ask.

        Blocks of batches end there (``rethinkgen.data.batches.EndsEpochs``).
        """
        return self._agree()[0]

    def _agree(self) -> tuple[bool, int]:
        """Return, the same on all ranks, whether to save, and the signal that came or 0."""
        is_due = self.signal is not None or time.monotonic() - self.saved_at >= self.every_seconds
        is_due_anywhere, number = greatest_over_ranks(is_due, self.signal or 0, device=self._device)
        return bool(is_due_anywhere), number

    def on_save_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Add whose it is, the generators' states, and the time spent so far."""
        checkpoint["run_id"] = self.run_id
        checkpoint["generators"] = gathered(generator_states())
        checkpoint["seconds"] = self.seconds

    def on_load_checkpoint(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """Keep the generators' states until training starts: what is set up in between may draw."""
        states = checkpoint["generators"]
        self._generators = states if isinstance(states, list) else [states]

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Set the generators as they were, and the signal handlers, where Lightning has put one of its own."""
        self._device = pl_module.device
        if len(self._generators) == num_ranks():
            set_generator_states(self._generators[rank()])
        elif self._generators or num_ranks() > 1:
            # Each rank its own: equal draws on all would be the same dropout for several examples of a batch.
            seed_generators(self.seed, rank(), trainer.global_step)
        if self._generators and len(self._generators) != num_ranks():
            log.warning(
                "The checkpoint was saved by %d processes, these are %d: dropout draws other numbers from here on",
                len(self._generators),
                num_ranks(),
            )
        if self._is_obeying:
            for number in self._obeyed:
                signal.signal(number, self._stop)

    @contextlib.contextmanager
    def obeying_signals(self) -> Iterator[None]:
        """On a signal that asks to stop, save at the end of the epoch if that comes within seconds; then interrupt.

        A second signal, or the end of the grace time, interrupts at once, wherever training is; the last checkpoint
        stands. The process's own handlers are put back afterwards.
        """
        self._obeyed = (*told, signal.SIGALRM) if (told := stopping()) else ()
        with handled_by(self._stop, *self._obeyed):
            self._is_obeying = True
            try:
                yield
            finally:
                self._is_obeying = False
                signal.setitimer(signal.ITIMER_REAL, 0)

    def _stop(self, number: int, _: FrameType | None) -> None:
        if not self.is_leading:
            self.signal = self.signal or number
            return
        if self.signal is not None:
            raise Interrupted(self.signal)
        self.signal = number
        # Again every second, should something swallow what is raised.
        signal.setitimer(signal.ITIMER_REAL, GRACE_SECONDS, 1.0)


def check_finite(model: pl.LightningModule) -> None:
    """Raise ``TrainingDivergedError`` if a weight or buffer is no finite number, on any rank; all ranks must ask."""
    broken = (
        name
        for name, value in model.state_dict().items()
        if value.is_floating_point() and not bool(value.isfinite().all())
    )
    name = next(broken, None)
    if greatest_over_ranks(name is not None, device=model.device) != [0]:
        raise TrainingDivergedError(f"{name or 'a weight'} is no longer a finite number. Try a smaller learning rate.")


@dataclass(frozen=True)
class Resumable:
    """A whole checkpoint of a run, from which it goes on."""

    path: Path
    step: int
    seconds: float
    """The run's time until then."""
    names_its_run: bool


def find_checkpoint(folder: Path, run_id: str, weights: Mapping[str, Tensor]) -> Resumable | None:
    """Return the newest whole checkpoint of this run; say which ones are passed over, and put them aside.

    For who holds the run's lock: what a kill left unfinished is removed.

    Args:
        folder: of the checkpoints.
        run_id: whose it must be, where it says so; those of commit 785b5e0 and before do not.
        weights: state of the network, whose names and shapes it must have.
    """
    remove_leftovers(folder)
    for name in ("last.ckpt", "previous.ckpt"):
        path = folder / name
        if not os.path.lexists(path):
            continue
        if (fault := damage_of(path)) is not None:
            log.warning("%s is damaged (%s) and is not used", path, fault)
            path.rename(path.with_suffix(".damaged"))
        elif isinstance(found := _taken_as_ours(path, run_id, weights), Resumable):
            return found
        else:
            log.warning("%s is not this run's (%s) and is not used", path, found)
            path.rename(path.with_suffix(".foreign"))
    return None


def _taken_as_ours(path: Path, run_id: str, weights: Mapping[str, Tensor]) -> Resumable | str:
    """Return what a checkpoint says, or what shows that it is another run's."""
    try:
        saved = load_checkpoint(path)
        told, shapes = saved.get("run_id", run_id), {name: value.shape for name, value in saved["state_dict"].items()}
        found = Resumable(path, int(saved["global_step"]), float(saved["seconds"]), "run_id" in saved)
    except (RuntimeError, pickle.UnpicklingError, AttributeError, KeyError, TypeError, ValueError) as error:
        return f"it is no checkpoint: {first_line(str(error))}"
    if told != run_id:
        return f"it says that it is of the run {told}"
    ours = {name: value.shape for name, value in weights.items()}
    other = next((name for name in sorted(ours.keys() | shapes.keys()) if ours.get(name) != shapes.get(name)), None)
    return found if other is None else f"its network is another: {other}"


def load_checkpoint(path: Path) -> dict[str, Any]:
    """Load a checkpoint's tensors and plain values on the CPU, and nothing that could run code."""
    checkpoint: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    return checkpoint


def damage_of(path: Path) -> str | None:
    """Return what is wrong with a file that torch wrote, in words; nothing where its checksums are right."""
    if not path.is_file():  # a FIFO would be waited for
        return "it is no regular file"
    # The zip's own checksums show a flipped bit, which torch.load would let through.
    try:
        with zipfile.ZipFile(path) as archive:
            broken = archive.testzip()
        return f"its part {broken} does not match its checksum" if broken else None
    except (zipfile.BadZipFile, EOFError, OSError, RuntimeError, NotImplementedError, zlib.error) as error:
        return str(error)


def generator_states() -> dict[str, Any]:
    """Return the states of torch's, NumPy's and Python's generators as tensors and plain types."""
    name, keys, position, has_gauss, cached = np.random.get_state()
    version, numbers, gauss = random.getstate()
    return {
        "torch": torch.get_rng_state(),
        # Of the device in use: asking all would start CUDA on every GPU.
        "cuda": [torch.cuda.get_rng_state()] if torch.cuda.is_available() else [],
        "numpy": [name, torch.from_numpy(np.asarray(keys).astype(np.int64)), position, has_gauss, cached],
        "python": [version, list(numbers), gauss],
    }


def set_generator_states(states: dict[str, Any]) -> None:
    """Undo ``generator_states``."""
    torch.set_rng_state(states["torch"])
    if states["cuda"] and torch.cuda.is_available():
        torch.cuda.set_rng_state(states["cuda"][0])
    name, keys, position, has_gauss, cached = states["numpy"]
    np.random.set_state((name, keys.numpy().astype(np.uint32), position, has_gauss, cached))
    version, numbers, gauss = states["python"]
    random.setstate((version, tuple(numbers), gauss))


def seed_generators(seed: int, rank: int, step: int) -> None:
    """Seed torch, NumPy and Python for one of several ranks that trains from ``step`` on."""
    own = int(generator("rank", seed, f"step {step}", rank).integers(2**32))
    torch.manual_seed(own)
    np.random.seed(own)
    random.seed(own)
