"""What a search for wrong labels found, as its files and its page tell it: plain values, from which both are made."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Suspect:
    """One example, and what the network said of it. A row of ``suspects.csv``."""

    index: int
    """Its position in the training split of the source."""
    path: str | None
    """Its file, relative to the folder of the data; ``None`` where images have no names."""
    given: int
    """Its label, a position in ``Findings.class_names``."""
    suggested: int
    """The other class that the network said most often; ``given`` where it never said another."""
    score: float
    """How often, of the times it was presented, the network did not say ``given``, in [0, 1]: mean of the runs."""
    rank: int
    """1 is the most suspicious."""
    confidence: float
    """Share of the evaluations, in [0, 1], in which the network said ``suggested``: mean of the runs."""
    decision: str = ""
    """``keep``, ``relabel`` or ``drop``; the user's, empty at first."""


@dataclass(frozen=True)
class Control:
    """How many labels that were made wrong on purpose a list finds, hence how far to believe one.

    Planted errors are easier than natural ones: what follows from them is an upper bound.
    """

    planted: int
    """How many labels were flipped, in a run of its own."""
    lengths: tuple[int, ...]
    """Lengths of a list, ascending."""
    found: tuple[int, ...]
    """How many of the planted are within the first so many of the list of that run."""
    expected_at_most: tuple[int | None, ...]
    """How many real errors to expect within the first so many of ``suspects``, at most; ``None``: cannot tell."""
    estimate: float | None
    """How many labels are wrong in all, estimated; ``None``: cannot tell."""
    interval: tuple[float, float] | None
    """In which that number lies, 95 %, were real errors as easy as planted ones."""
    cannot_tell: str | None
    """Why there is no estimate, a sentence; ``None`` where there is one."""

    @property
    def rows(self) -> list[tuple[int, int, int | None]]:
        """(length, found, expected at most), of each length."""
        return list(zip(self.lengths, self.found, self.expected_at_most, strict=True))


@dataclass(frozen=True)
class Changed:
    """One example whose label was corrected, or that was left out."""

    index: int
    """Its position in the training split of the source."""
    path: str | None
    """Its file; ``None`` where images have no names."""
    before: int
    """Its label in the source, a position in ``Findings.class_names``."""
    after: int | None
    """Its label now; ``None``: it was left out."""
    is_doubted: bool
    """Whether the network doubts the label that it has now."""


@dataclass(frozen=True)
class Accuracies:
    """Accuracies on images that were not trained on, one of each run."""

    accuracies: tuple[float, ...]
    """In [0, 1]."""
    count: int | None
    """How many images, where that is known."""
    num_doubted: int
    """How many training labels the runs doubted."""
    num_trained: int
    """Of how many."""


@dataclass(frozen=True)
class Changes:
    """What a table of decisions has changed, and what came of it."""

    table: str
    """The file, as the user calls it."""
    changed: tuple[Changed, ...]
    """By label, then by position."""
    total: int
    """Training examples of the source."""
    part: str
    """Which images accuracies are of: ``test``, ``validation`` or ``held-out``."""
    before: Accuracies | None
    """Of runs with the same settings on the labels as they were."""
    after: Accuracies | None
    why_not: str
    """Why nothing compares, a sentence; empty where both are known."""

    @property
    def corrected(self) -> list[Changed]:
        """Those that have another label now."""
        return [each for each in self.changed if each.after is not None]

    @property
    def left_out(self) -> list[Changed]:
        """Those that are not trained on any more."""
        return [each for each in self.changed if each.after is None]


@dataclass(frozen=True, eq=False)
class Findings:
    """What one search found."""

    suspects: tuple[Suspect, ...]
    """All examples, the most suspicious first."""
    class_names: tuple[str, ...]
    confusion: tuple[tuple[int, int, int], ...]
    """(given, suggested, how many of the doubted), the most frequent pair first; pairs that do not occur are left out,
    as 10,000 classes have 100 million."""
    num_doubted: int
    """How many of ``suspects``, its first, the network doubts: the list that is worth looking at. Those of
    ``confusion``."""
    control: Control | None
    """``None``: it was left out."""
    network: str
    """Which, and why that one: one line."""
    held_out_accuracy: float | None
    """On images that were not trained on, whose labels are the given ones; ``None`` where none were held out."""
    held_out: str
    """Which images those are, in words."""
    left_out: tuple[tuple[str, str], ...]
    """(file, reason): not read, so neither trained on nor judged."""
    command: str
    """That made it, ready to be typed again."""
    seconds: float
    """Of its trainings."""
    image: Callable[[int], NDArray[np.uint8]]
    """index -> uint8 ``(C, H, W)``, C 1 or 3, the picture of that example before any corruption."""
    title: str = ""
    """The folder or the data, as the user called it."""
    notes: tuple[str, ...] = field(default=())
    """What else is to be known, a sentence each."""
    root: Path | None = None
    """The folder that ``Suspect.path`` is below; ``None`` where images are no files."""
    changes: Changes | None = None
    """What corrected labels changed, of a search on such."""
