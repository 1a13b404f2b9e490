"""A run's training once more, from the nearest state that is there, to the bit.

A run is a function of its config, so that its weights at any step can be had again (``weights_at``), each of its steps
looked into (``states``), and states kept that nobody asked for in time (``keep``). Steps are taken by the model's own
``training_step``, on the blocks that training took them on; of Lightning there is what that asks for, a trainer that
never fits. Nothing is evaluated, which draws nothing. On the way the digests of the weights and the running losses are
compared with the run's own rows.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from rethinkgen.console import duration
from rethinkgen.data.module import CorruptedImages
from rethinkgen.errors import DamagedFileError
from rethinkgen.measure.fit import state_digest
from rethinkgen.measure.subject import TrainingStep
from rethinkgen.run.folder import RunFolder
from rethinkgen.run.identity import declaration, takes_steps
from rethinkgen.run.kept import last_step
from rethinkgen.run.replay_checks import DIGEST, Checks, Tell, own_rows
from rethinkgen.run.retraining import Retraining
from rethinkgen.run.run import Run
from rethinkgen.train.kept import State, read_state, read_weights, read_weights_alone, write_state
from rethinkgen.train.kept_files import kept_steps

Note = Callable[[int, Checks], object]
"""Is given each step that was replayed, with what compares that replay, and knows all of it once it has ended."""


def _unnoted(step: int, checks: Checks) -> None:
    pass


def device_of(run: Run) -> torch.device:
    """Return where a replay is nearest to the run: on a GPU what was trained on one, where there is one."""
    was_on_cpu = str((run.result or {}).get("device", "cpu")).startswith("cpu")
    return torch.device("cpu" if was_on_cpu or not torch.cuda.is_available() else "cuda:0")


class RunBuilt(Protocol):
    """A run and its data, as ``Built`` holds them."""

    @property
    def run(self) -> Run:
        """What its files tell."""

    @property
    def datamodule(self) -> CorruptedImages:
        """Set up; where it lies the replay is done."""


@dataclass(frozen=True)
class Built:
    """A run and its data."""

    run: Run
    datamodule: CorruptedImages


def states(
    built: RunBuilt, first: int, last: int, *, inexact: bool = False, tell: Tell = print, note: Note = _unnoted
) -> Iterator[TrainingStep]:
    """Take the optimizer steps ``first`` to ``last - 1`` of a run once more.

    Between two steps generators, threads and whatever else belongs to the whole process are the caller's own.
    ``inexact`` goes on where the run's own rows tell other numbers. ``tell`` is given what it will cost, before it
    begins, and what stands out on the way.

    Raises:
        ValueError: the run has no such steps, or cannot be replayed.
        ReplayDiffersError: the run's own rows tell other numbers.
    """
    check_replayable(built.run, last)
    with begun(built, first, last, inexact=inexact, tell=tell) as training:
        note(last, training.checks)
        training.train_to(first)
        for block in training.blocks(lambda step: step + 1, last):
            with training.setting, training.precision():
                (batch,) = built.datamodule.batches(block)
            yield TrainingStep(training.step, training.model.state_dict(), batch, *training.rate_and_momentum())
            training.take([batch], 1)
        training.checks.conclude(last)


def weights_at(
    built: RunBuilt, step: int, *, inexact: bool = False, tell: Tell = print, note: Note = _unnoted
) -> dict[str, Tensor]:
    """Return the weights after ``step`` steps, on the CPU: those that were kept, or of a replay.

    Raises:
        ValueError, ReplayDiffersError: as ``states``.
    """
    ((_, weights),) = weights_along(built, [step], inexact=inexact, tell=tell, note=note)
    return weights


def weights_along(
    built: RunBuilt, steps: Sequence[int], *, inexact: bool = False, tell: Tell = print, note: Note = _unnoted
) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """Yield the weights at several steps, ascending, in one pass.

    Raises:
        ValueError, ReplayDiffersError: as ``states``.
    """
    steps, folder = sorted(set(steps)), RunFolder(built.run.path)
    there = set(kept_steps(folder.weights)) | ({built.run.end_step} if folder.end_weights.is_file() else set())
    missing = [step for step in steps if step not in there]
    with closing(_replayed(built, missing, inexact=inexact, tell=tell)) as replayed:
        for step in steps:
            if step in there and (weights := _weights_there(built.run, step, tell)) is not None:
                yield step, weights
            elif step not in there:
                yield step, _noted(next(replayed), note)
            else:
                with closing(_replayed(built, [step], inexact=inexact, tell=tell)) as alone:
                    yield step, _noted(next(alone), note)


def _noted(training: Retraining, note: Note) -> dict[str, Tensor]:
    note(training.step, training.checks)
    return {name: value.detach().cpu().clone() for name, value in training.model.state_dict().items()}


def keep(built: RunBuilt, steps: Sequence[int], *, inexact: bool = False, tell: Tell = print) -> None:
    """Replay a run and write its states at ``steps`` into its folder; for who holds the run's lock.

    They hold no histories of evaluations, of which a replay makes none.

    Raises:
        ValueError, ReplayDiffersError: as ``states``; what was kept until then is checked and stays.
    """
    folder = RunFolder(built.run.path).weights
    for training in _replayed(built, sorted(set(steps)), inexact=inexact, tell=tell):
        write_state(folder, built.run.run_id, training.state())


def _replayed(built: RunBuilt, steps: Sequence[int], *, inexact: bool, tell: Tell) -> Generator[Retraining, None, None]:
    """Yield the training at each of ``steps``; where a state lies between two of them, from there on."""
    for step in steps[-1:]:
        check_replayable(built.run, step)
    for part in _parts(steps, kept_steps(RunFolder(built.run.path).weights)):
        with begun(built, part[0], part[-1], inexact=inexact, tell=tell) as training:
            for step in part:
                training.train_to(step)
                if step == part[-1]:
                    training.checks.conclude(step)
                yield training


def _parts(steps: Sequence[int], kept: Sequence[int]) -> list[list[int]]:
    """Cut ascending steps where a kept one lies after the one and at the next or before."""
    parts: list[list[int]] = []
    for step in steps:
        if parts and not any(parts[-1][-1] < each <= step for each in kept):
            parts[-1].append(step)
        else:
            parts.append([step])
    return parts


def check_replayable(run: Run, step: int) -> None:
    """Refuse what cannot be replayed.

    Raises:
        ValueError: there is no such step, the run took none, or was trained by other numbers of ranks in turn.
    """
    name, last = run.path.name, last_step(run)
    if not takes_steps(run.config):
        raise ValueError(f"step={step}: {name} was {declaration(run.config).how}: it has no steps but its end.")
    if not 0 <= step <= last:
        raise ValueError(f"step={step}: {name} has trained {last:,} steps.")
    sizes = (run.result or {}).get("world_sizes") or run.facts.get("world_sizes") or []
    if len(set(sizes)) > 1:
        raise ValueError(
            f"step={step}: {name} was trained on {', then '.join(map(str, sizes))} devices, where dropout and the "
            "order of sums changed on the way. Its kept states can be looked into, and others not be had again."
        )


def _weights_there(run: Run, step: int, tell: Tell) -> dict[str, Tensor] | None:
    """Return weights that lie in the run's folder, once they are verified."""
    folder = RunFolder(run.path)
    if step in kept_steps(folder.weights):
        try:
            return read_weights(folder.weights, step, run.run_id)
        except DamagedFileError as error:
            tell(f"{error} It is passed over.")
    if step != run.end_step or not folder.end_weights.is_file():
        return None
    row = own_rows(run).get(step, {})
    try:
        weights = read_weights_alone(folder.end_weights)
    except DamagedFileError as error:
        tell(f"{error} It is passed over.")
        return None
    if row.get(DIGEST, "") not in ("", state_digest(weights)):
        tell(f"{folder.end_weights} is not this run's: its digest is not that in metrics.csv. It is passed over.")
        return None
    return weights


@contextmanager
def begun(built: RunBuilt, first: int, last: int, *, inexact: bool, tell: Tell) -> Iterator[Retraining]:
    """Give the training at the nearest state up to ``first``, once it is told what it costs to go on to ``last``."""
    state = nearest_state(built.run, first, tell)
    if (start := 0 if state is None else state.step) < last:
        tell(announced(built.run, start, last))
    checks = Checks(built.run, state, inexact=inexact, tell=tell)
    training = Retraining(built.run, built.datamodule, state, checks)
    try:
        yield training
    finally:
        training.end()


def nearest_state(run: Run, step: int, tell: Tell) -> State | None:
    """Read the latest whole state of the run that is not after ``step``; say which ones are passed over."""
    folder = RunFolder(run.path).weights
    for each in reversed([kept for kept in kept_steps(folder) if kept <= step]):
        try:
            return read_state(folder, each, run.run_id)
        except DamagedFileError as error:
            tell(f"{error} It is passed over.")
    return None


def cost(run: Run, start: int, last: int) -> float | None:
    """Return about how many seconds it takes to replay a run from one step to another, by its own time."""
    seconds, steps = (run.result or {}).get("seconds"), run.metrics.get("steps")
    return seconds / steps * (last - start) if seconds and steps else None


def cost_of_steps(run: Run, steps: Sequence[int]) -> float:
    """Return about how many seconds it takes to replay a run for all of these steps, 0 where its files do not tell."""
    kept = kept_steps(RunFolder(run.path).weights)
    parts = _parts(sorted(set(steps)), kept)
    starts = [max((step for step in kept if step <= part[0]), default=0) for part in parts]
    return sum(cost(run, start, part[-1]) or 0.0 for start, part in zip(starts, parts, strict=True))


def announced(run: Run, start: int, last: int) -> str:
    """Say what will be replayed, and what it costs."""
    seconds = cost(run, start, last)
    told = "how long it takes its files do not tell" if seconds is None else f"at most about {duration(seconds)}"
    where = "the start" if start == 0 else f"the state kept at step {start:,}"
    return f"Replaying {last - start:,} steps of {run.path.name} from {where}, up to step {last:,}: {told}."
