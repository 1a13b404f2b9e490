"""Which optimizer step lies in which epoch, and on how many examples it is taken: the only place that knows.

Whoever counts in epochs asks here, so that batches may grow or change along training (Smith et al. 2018) and everything
else, evaluations, schedules and the resume among it, goes on to mean what it says.
"""

from __future__ import annotations

import bisect
import math
import re
from collections.abc import Callable
from typing import Any, NamedTuple

BatchSize = int | Callable[[int, int], int]
"""Examples in a batch over all devices; or ``(epoch, step) -> `` them, a pure function."""


Moment = int | str
"""A point of the training: after so many steps, ``10ep`` (epochs), ``end`` (the chosen step) or ``last`` (the last)."""
MOMENTS = "a number of steps, epochs such as 10ep, end (the step that the result is about) or last"


class Place(NamedTuple):
    """Where a step stands."""

    epoch: int
    position: int
    """Of its batch in the epoch."""


class Timetable:
    """Maps steps to epochs and batches, and back, for a training set of ``num_examples``.

    An epoch is one pass over all of them. Its last batch may be short, but a batch of one joins the one before:
    BatchNorm cannot normalise a batch of one, and dropping it would leave an example out of the epoch.

    Epochs are counted by steps: after 3 of the 12 steps of the third epoch, 2.25 have passed, whatever their sizes.

    Raises:
        ValueError: a batch is larger than the training set; where batches change, one of the first epoch, and of later
            ones ``check`` tells.
    """

    def __init__(self, num_examples: int, size: BatchSize) -> None:
        self.num_examples = num_examples
        self._size = size
        self._first_steps = [0]  # of each epoch that was asked for, and of the next
        self._latest: tuple[int, list[int]] = (0, self._sizes(0))
        self._first_steps.append(len(self._latest[1]))
        self.check_epoch(0)

    def sizes(self, epoch: int) -> list[int]:
        """Return how many examples each batch of an epoch has."""
        if not callable(self._size):
            return self._latest[1]
        if self._latest[0] != epoch:
            self.first(epoch)
            self._latest = epoch, self._sizes(epoch)
        return self._latest[1]

    def first(self, epoch: int) -> int:
        """Return how many steps lie before an epoch."""
        if not callable(self._size):
            return epoch * self._first_steps[1]
        while len(self._first_steps) <= epoch:
            self._extend()
        return self._first_steps[epoch]

    def place(self, step: int) -> Place:
        """Return where the batch stands that the step after ``step`` steps is taken on."""
        if not callable(self._size):
            return Place(*divmod(step, self._first_steps[1]))
        while self._first_steps[-1] <= step:
            self._extend()
        epoch = bisect.bisect_right(self._first_steps, step) - 1
        return Place(epoch, step - self._first_steps[epoch])

    def steps(self, epoch: int) -> int:
        """Return how many steps an epoch has."""
        return self.first(epoch + 1) - self.first(epoch)

    def size(self, step: int) -> int:
        """Return how many examples the batch after ``step`` steps has, were it not the last of its epoch."""
        return self._size(self.place(step).epoch, step) if callable(self._size) else self._size

    def epochs(self, step: int) -> float:
        """Return how many epochs have passed after ``step`` steps."""
        epoch, position = self.place(step)
        num_steps = self.steps(epoch)
        return (epoch * num_steps + position) / num_steps

    def step_at(self, epochs: float, times: int = 1) -> int:
        """Return after how many steps ``times * epochs`` epochs have passed, to the nearest step."""
        whole = max(0, math.floor(times * epochs))
        num_steps = self.steps(whole)
        # Where all epochs are equal this is round(times * epochs * num_steps), to the bit.
        return self.first(whole) - whole * num_steps + round(times * (epochs * num_steps))

    def steps_of_latest_epoch(self, step: int) -> int:
        """Return how many of the first ``step`` steps make the latest epoch's worth."""
        return step - max(0, self.step_at(self.epochs(step) - 1))

    def check(self, total_steps: int, num_ranks: int = 1) -> None:
        """Refuse batches that there cannot be, up to the end of the budget.

        Raises:
            ValueError: a batch is larger than the training set, or smaller than the number of ranks.
        """
        for epoch in range(self.place(total_steps - 1).epoch + 1 if callable(self._size) else 1):
            self.check_epoch(epoch, num_ranks)

    def check_epoch(self, epoch: int, num_ranks: int = 1) -> None:
        """Do the same for one epoch."""
        sizes, first_step = self.sizes(epoch), self.first(epoch)
        if callable(self._size):
            for step in range(first_step, first_step + len(sizes)):
                self._check(self._size(epoch, step))
        if (smallest := min(sizes)) < num_ranks:
            raise ValueError(
                f"data.batch_size={self.size(first_step)}: an epoch of {self.num_examples} training examples has a "
                f"batch of {smallest}, fewer than the {num_ranks} devices. Choose another data.batch_size or "
                "data.num_train."
            )

    def _extend(self) -> None:
        self._first_steps.append(self._first_steps[-1] + len(self.sizes(len(self._first_steps) - 1)))

    def _sizes(self, epoch: int) -> list[int]:
        if not callable(self._size):
            return batch_sizes(self.num_examples, self._size)
        first_step, left = self._first_steps[epoch], self.num_examples
        sizes: list[int] = []
        while left:
            # Whoever looks beyond the budget is not to fail there; within it, check refuses what is too large.
            size = max(1, min(self._size(epoch, first_step + len(sizes)), left))
            is_followed_by_a_rest_of_one = left - size == 1 and self._size(epoch, first_step + len(sizes) + 1) > 1
            sizes.append(left if is_followed_by_a_rest_of_one else size)
            left -= sizes[-1]
        return sizes

    def _check(self, size: int) -> None:
        if not 1 <= size <= self.num_examples:
            raise ValueError(
                f"data.batch_size={size} does not suit a training set of {self.num_examples} examples: a number from "
                f"1 to {self.num_examples} is needed."
            )


def batch_sizes(num_examples: int, batch_size: int) -> list[int]:
    """Return the sizes of an epoch's batches: the last may be short, but a batch of one joins the one before.

    Raises:
        ValueError: the batch is larger than the training set.
    """
    if batch_size > num_examples:
        raise ValueError(
            f"data.batch_size={batch_size} is larger than the training set of {num_examples} examples: "
            f"at most {num_examples} is allowed."
        )
    whole, rest = divmod(num_examples, batch_size)
    sizes = [batch_size] * whole
    if rest == 1:
        sizes[-1] += 1
    elif rest > 1:
        sizes.append(rest)
    return sizes


def check_moment(key: str, value: Any) -> Moment:
    """Return a moment as ``step_of`` takes it: a number of steps, also where it came as text, or a word.

    Raises:
        ValueError: it is none.
    """
    text = str(value).strip() if isinstance(value, int | str) and not isinstance(value, bool) else ""
    if re.fullmatch(r"\d{1,12}", text):
        return int(text)
    if re.fullmatch(r"\d{1,12}(\.\d{1,12})?ep|end|last", text):
        return text
    raise ValueError(f"{key}={value!r}: {MOMENTS} is needed.")


def step_of(moment: Moment, timetable: Timetable, *, end: int, last: int) -> int:
    """Return after how many steps a moment is; of one beyond the end too: whoever asks says what that means.

    ``end`` is the step that the result is about, ``last`` the one that training ends at.

    Raises:
        ValueError: it is none.
    """
    moment = check_moment("step", moment)
    if isinstance(moment, int):
        return moment
    if moment in ("end", "last"):
        return end if moment == "end" else last
    return timetable.step_at(float(moment.removesuffix("ep")))
