"""What a measure is given, and what it gives back.

A measure is a pure function ``(Subject) -> Findings``. It knows nothing of Lightning, Hydra or paths, and leaves the
network as it was: weights, buffers, gradients, modes, and the global random state.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from rethinkgen.data.draws import generator as seeded
from rethinkgen.measure.outputs import num_at_once

if TYPE_CHECKING:
    from rethinkgen.data.batches import Batch
    from rethinkgen.data.module import Split, SplitName

Number = float | int | None
Table = Mapping[str, Sequence[Any] | Tensor]
"""Columns of equal length, in long form: ``layer, step, error``; ``class_a, class_b, value``; ``index, score``."""
At = int | str
"""A step: a number of optimizer steps, ``"10ep"``, ``"end"`` (the chosen step), or ``"last"``."""


@dataclass(frozen=True)
class Findings:
    """What a measure found at one step."""

    numbers: Mapping[str, Number] = field(default_factory=dict)
    """Name -> value; ``None`` where there is none to give. They go by ``measure/<name>/<number>``."""
    tables: Mapping[str, Table] = field(default_factory=dict)


@dataclass(frozen=True)
class Asks:
    """What a measure asks of a run beside its network at the measure's own step: it may cost trainings."""

    parameters: tuple[str, ...] = ()
    """Those of its parameters that name a step, or a list of steps, that it asks for by ``subject.at``."""
    also: tuple[At, ...] = ()
    """Steps that it asks for whatever its parameters are."""
    unless_other: bool = False
    """Whether it asks for none of them where a second run was chosen."""
    trainings: float = 0.0
    """How long it takes at least, in trainings up to its step, since it goes through ``subject.training``."""

    def steps(self, given: Mapping[str, Any], *, has_other: bool) -> list[At]:
        """Return the steps that the measure asks for, given its parameters."""
        if self.unless_other and has_other:
            return []
        named = [given.get(name) for name in self.parameters]
        each = [step for value in named for step in (value if isinstance(value, list | tuple) else [value])]
        return [*self.also, *(step for step in each if step is not None)]


Function = TypeVar("Function", bound=Callable[..., Findings])


def asks(
    *parameters: str, also: Sequence[At] = (), unless_other: bool = False, trainings: float = 0.0
) -> Callable[[Function], Function]:
    """Declare, above a measure's function, which other steps it asks for: see ``Asks``.

    So their cost is said before anything begins, and all that were not kept are had in one replay of the run, together
    with those that other measures ask for. What is not declared is had all the same, each by a replay of its own.

        @asks("origin")
        def distance(subject, *, origin=0): ...
    """

    def declared(function: Function) -> Function:
        function.asks = Asks(parameters, tuple(also), unless_other, trainings)  # type: ignore[attr-defined]
        return function

    return declared


class TrainingStep(NamedTuple):
    """One optimizer step of the training, taken once more."""

    step: int
    """So many were taken before."""
    state: Mapping[str, Tensor]
    """Weights and buffers before the step; to be read at once, not kept."""
    batch: Batch
    learning_rate: float
    momentum: float


class Draw(NamedTuple):
    """One more training like the run's: what tells it from the others."""

    seed: int
    """Of its initial weights and its order."""
    positions: Tensor | None = None
    """``(n,)`` int64: the examples of the training split that it is trained on, ascending; ``None``: all"""


class Subject:
    """A trained network at one step, and all that a measure may ask about it; each is made only when asked for.

    In a notebook ``Subject(network, splits)`` will do for a measure that asks for no more.

    Args:
        network: images ``(N, C, H, W)`` as in ``splits`` to logits ``(N, C)``; in evaluation mode, float32.
        splits: ``train``, ``test`` and, where some were held out, ``validation``, as the network sees them.
        step: how many optimizer steps have been taken.
        seed: of the run; with the measure's name and the step it makes what the measure draws.
        name: of the measure.
        memory_mb: what the measure may hold at once, beside network and data.
        class_names: of the classes, in the order of the labels; or what returns them, if they are asked for.
        pixels: split -> images ``(N, C, H, W)`` in ``[0, 1]``, cropped and corrupted, before the preprocessing.
        from_pixels: such images -> what the network takes; differentiable.
        at: step -> the subject at another step.
        fresh: number of a draw -> a network of the same architecture, newly initialised.
        training: (first, last) -> the training once more, step by step.
        trainings: (draws, epochs, splits) -> the classes that networks trained so give to each split.
        other: the subject of a second run.
    """

    def __init__(
        self,
        network: nn.Module,
        splits: Mapping[SplitName, Split],
        step: int = 0,
        *,
        seed: int = 0,
        name: str = "",
        memory_mb: float = 1024.0,
        class_names: Sequence[str] | Callable[[], Sequence[str]] = (),
        pixels: Callable[[SplitName], Tensor] | None = None,
        from_pixels: Callable[[Tensor], Tensor] | None = None,
        at: Callable[[At], Subject] | None = None,
        fresh: Callable[[int], nn.Module] | None = None,
        training: Callable[[int, int], Iterator[TrainingStep]] | None = None,
        trainings: Callable[[Sequence[Draw], float, Sequence[SplitName]], Mapping[SplitName, Tensor]] | None = None,
        other: Callable[[], Subject] | None = None,
    ) -> None:
        self.network = network
        self.splits = splits
        self.step = step
        self.seed = seed
        self.name = name
        self.memory_mb = memory_mb
        self._class_names = class_names
        self._makers = {
            "pixels": pixels,
            "from_pixels": from_pixels,
            "at": at,
            "fresh": fresh,
            "training": training,
            "trainings": trainings,
            "other": other,
        }

    @property
    def class_names(self) -> list[str]:
        """Of the classes, in the order of the labels."""
        return list(self._class_names() if callable(self._class_names) else self._class_names)

    @property
    def device(self) -> torch.device:
        """Where network and splits are."""
        return next(self.network.parameters()).device

    def split(self, name: SplitName) -> Split:
        """Return a part of the data.

        Raises:
            ValueError: the run has none.
        """
        if name not in self.splits:
            raise ValueError(f"split={name!r}: this run has none; it has {', '.join(self.splits)}.")
        return self.splits[name]

    def check_budget(self) -> None:
        """Refuse a budget that does not hold one example, whatever the measure makes of it.

        Raises:
            ValueError: ``memory_mb`` is too small.
        """
        for split in self.splits.values():
            num_at_once(4 * math.prod(split.inputs.shape[1:]), self.memory_mb)

    def generator(self, purpose: str = "") -> torch.Generator:
        """Return a generator of this measure's own draws: the same each time, whatever else has been drawn."""
        drawn = seeded("measure", self.seed, f"{self.name} {self.step} {purpose}", 0)
        return torch.Generator(self.device).manual_seed(int(drawn.integers(2**63)))

    def pixels(self, name: SplitName) -> Tensor:
        """Return the images of a split ``(N, C, H, W)`` in ``[0, 1]``, as they are before the preprocessing."""
        images: Tensor = self._ask("pixels")(name)
        return images

    def from_pixels(self, images: Tensor) -> Tensor:
        """Return what the network takes for images in ``[0, 1]``; differentiable."""
        inputs: Tensor = self._ask("from_pixels")(images)
        return inputs

    def at(self, step: At) -> Subject:
        """Return the same at another step, which may cost a training up to there."""
        subject: Subject = self._ask("at")(step)
        return subject

    def fresh(self, draw: int) -> nn.Module:
        """Return a network of the same architecture with initial weights of its own: the same for the same draw."""
        network: nn.Module = self._ask("fresh")(draw)
        return network

    def training(self, first: int, last: int) -> Iterator[TrainingStep]:
        """Take the optimizer steps ``first`` to ``last - 1`` of the training once more."""
        steps: Iterator[TrainingStep] = self._ask("training")(first, last)
        return steps

    def trainings(
        self, draws: Sequence[Draw], epochs: float, splits: Sequence[SplitName] = ("train",)
    ) -> Mapping[SplitName, Tensor]:
        """Train a network like the run's for each draw, by many at once where that is faster.

        Each has the run's architecture, optimizer and schedule, data and labels. What is finished is kept: a measure
        that was killed and is asked again goes on.

        Args:
            draws: a network each; those that are trained on subsets, on equally many examples.
            epochs: passes through the examples that a network is trained on.
            splits: of which the networks are asked for classes.

        Returns:
            Split -> the classes ``(R, N)`` int64 that the trained networks give to its examples.

        Raises:
            ValueError: the run was not trained by plain steps on cross-entropy.
        """
        classes: Mapping[SplitName, Tensor] = self._ask("trainings")(draws, epochs, splits)
        return classes

    @property
    def has_other(self) -> bool:
        """Whether a second run was asked for."""
        return self._makers["other"] is not None

    @property
    def other(self) -> Subject:
        """The subject of the second run that was asked for by ``other=``."""
        subject: Subject = self._ask("other")()
        return subject

    def _ask(self, what: str) -> Callable[..., Any]:
        maker = self._makers[what]
        if maker is None:
            raise ValueError(f"measure={self.name or '?'}: it asks for {what!r}, which this subject was not given.")
        return maker
