"""Whole states that a run keeps along training, from any of which it can be taken up again to the bit.

Where they lie, and why in two files, says ``rethinkgen.train.kept_files``.
"""

from __future__ import annotations

import math
import pickle
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from rethinkgen.collective import gathered
from rethinkgen.console import first_line
from rethinkgen.data.timetable import Moment, Timetable, step_of
from rethinkgen.errors import DamagedFileError
from rethinkgen.files import atomic_writer
from rethinkgen.measure.fit import state_digest
from rethinkgen.train.checkpoint import damage_of, generator_states, load_checkpoint
from rethinkgen.train.evaluation import Evaluation
from rethinkgen.train.kept_files import BEST, state_path, weights_path


@dataclass(frozen=True)
class State:
    """What a run goes on from."""

    step: int
    weights: dict[str, Tensor]
    rest: dict[str, Any]
    """``optimizer``, ``scheduler``, ``generators`` (a rank each), and what the module adds to a checkpoint; of states
    kept while the run trained ``evaluation`` too, with all histories."""


def state_of(model: pl.LightningModule, generators: list[dict[str, Any]]) -> dict[str, Any]:
    """Return all of a training's state but the weights and what evaluations found, as plain types and tensors."""
    optimizer: Any = model.optimizers(use_pl_optimizer=False)
    scheduler: Any = model.lr_schedulers()
    rest = {"optimizer": optimizer.state_dict(), "scheduler": scheduler.state_dict(), "generators": generators}
    model.on_save_checkpoint(rest)
    return rest


def write_state(folder: Path, run_id: str, state: State, name: int | str | None = None) -> None:
    """Write a state into a run's ``weights/``; ``name`` in place of its step.

    The weights come last: where they lie, the rest lies beside them.
    """
    folder.mkdir(exist_ok=True)
    name = state.step if name is None else name
    whose = {"run_id": run_id, "step": state.step, "weights_digest": state_digest(state.weights)}
    weights = dict(state.weights)
    # Not durable: to wait for the disk at each costs more than the rare power cut, after which a replay makes it anew.
    for path, content in ((state_path(folder, name), whose | state.rest), (weights_path(folder, name), weights)):
        with atomic_writer(path, durable=False) as file:
            torch.save(content, file)


def read_state(folder: Path, step: int, run_id: str) -> State:
    """Read a state from a run's ``weights/``.

    Raises:
        DamagedFileError: a file is damaged or not there, is another run's, or the two do not belong together.
    """
    rest = _read(state_path(folder, step))
    return State(step, _matching_weights(folder, step, run_id, rest), rest)


def read_weights(folder: Path, step: int, run_id: str) -> dict[str, Tensor]:
    """Read no more than the weights of a state in a run's ``weights/``: name -> tensor, on the CPU.

    Raises:
        DamagedFileError: as ``read_state``.
    """
    return _matching_weights(folder, step, run_id, _read(state_path(folder, step), lazily=True))


def _matching_weights(folder: Path, step: int, run_id: str, rest: Mapping[str, Any]) -> dict[str, Tensor]:
    path, beside = weights_path(folder, step), state_path(folder, step)
    if rest.get("run_id") != run_id:
        raise DamagedFileError(f"{beside} is not this run's: it says that it is of the run {rest.get('run_id')}.")
    weights = read_weights_alone(path)
    if (rest.get("step"), rest.get("weights_digest")) != (step, state_digest(weights)):
        raise DamagedFileError(f"{path} is not of the state in {beside.name} (its weights have another digest).")
    return weights


def read_weights_alone(path: Path) -> dict[str, Tensor]:
    """Read a ``state_dict``, of which nobody has said whose it is.

    Raises:
        DamagedFileError: it is damaged, is not there or holds something else.
    """
    weights = _read(path)
    if not all(isinstance(value, Tensor) for value in weights.values()):
        raise DamagedFileError(f"{path} is damaged (it holds something else than weights).")
    return weights


def _read(path: Path, *, lazily: bool = False) -> dict[str, Any]:
    # Lazily, a file's tensors are read when they are used, and its checksums not looked at.
    if not path.is_file() or path.is_symlink():
        raise DamagedFileError(f"{path} cannot be read (it is no regular file).")
    if not lazily and (fault := damage_of(path)) is not None:
        raise DamagedFileError(f"{path} is damaged ({fault}).")
    try:
        found = torch.load(path, map_location="cpu", weights_only=True, mmap=True) if lazily else load_checkpoint(path)
    except (RuntimeError, pickle.UnpicklingError, OSError, EOFError, AttributeError, KeyError, ValueError) as error:
        raise DamagedFileError(f"{path} is damaged ({first_line(str(error))}).") from error
    if not isinstance(found, dict):
        raise DamagedFileError(f"{path} is damaged (it holds something else than a state).")
    return found


class KeepsStates(pl.Callback):
    """Keeps whole states while a run trains; blocks of batches end there. Placed after ``Evaluation``.

    What a resumed run passes again it writes again, to the same bits; what it has of before stays. With early stopping
    which step is the ``end`` shows afterwards: the best so far is kept in its place. Several ranks give their
    generators, and rank 0 writes.

    Args:
        folder: the run's ``weights/``.
        moments: when: see ``rethinkgen.data.timetable.step_of``. Steps that training does not reach are left out.
        run_id: of the run, which each state says that it is of.
    """

    def __init__(self, folder: Path, moments: Sequence[Moment], *, run_id: str, evaluation: Evaluation) -> None:
        self.folder = folder
        self.moments = list(moments)
        self.run_id = run_id
        self.evaluation = evaluation
        self.steps: list[int] = []
        """Those that are known beforehand."""

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Learn what epochs are."""
        self.steps = known_steps(self.moments, trainer.datamodule.timetable)  # type: ignore[attr-defined]

    def next_stop(self, step: int) -> float:
        """Return the first step after ``step`` whose state is kept (``rethinkgen.data.batches.EndsBlocks``)."""
        return min((each for each in self.steps if each > step), default=math.inf)

    def on_train_batch_start(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        """Keep the state that training begins with: not before all that takes part in it has begun."""
        if trainer.global_step == 0 and 0 in self.steps:
            self._keep(trainer, pl_module)

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Keep the state after the block just trained, if it is one to keep."""
        step, best = trainer.global_step, self.evaluation.best
        is_last = trainer.should_stop or step >= pl_module.total_steps  # type: ignore[operator]
        is_end = is_last and (best.step == step if best is not None else True)
        if step in self.steps or (is_last and "last" in self.moments) or (is_end and "end" in self.moments):
            self._keep(trainer, pl_module)
        if best is None or "end" not in self.moments:
            return
        if best.step == step and not is_last:
            self._keep(trainer, pl_module, BEST)
        if is_last and trainer.is_global_zero:
            self._settle(best.step)

    def _keep(self, trainer: pl.Trainer, model: pl.LightningModule, name: str | None = None) -> None:
        generators = gathered(generator_states())
        if trainer.is_global_zero:
            rest = state_of(model, generators) | {"evaluation": self.evaluation.state_dict()}
            write_state(self.folder, self.run_id, State(trainer.global_step, model.state_dict(), rest), name)

    def _settle(self, end: int) -> None:
        """Give the best state the name of its step, unless that has been kept under it."""
        try:
            # A kill may have left one of a step that this run, resumed elsewhere, has not found the best.
            is_needed = end not in self.steps and _read(state_path(self.folder, BEST), lazily=True).get("step") == end
        except DamagedFileError:
            is_needed = False
        for place in (state_path, weights_path):
            best = place(self.folder, BEST)
            if is_needed and best.exists():
                best.rename(place(self.folder, end))
            best.unlink(missing_ok=True)


def known_steps(moments: Iterable[Moment], timetable: Timetable) -> list[int]:
    """Return the steps, ascending, of those moments that do not hang on how the training ends."""
    return sorted({step_of(each, timetable, end=-1, last=-1) for each in moments if each not in ("end", "last")})
