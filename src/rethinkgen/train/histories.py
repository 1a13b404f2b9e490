"""What is kept along training: small folds over what was seen, each with a state of its own.

Each is given every evaluation (``Seen``), every optimizer step (``Step``) or every block of steps (``Presented``), once
and in order, and keeps no more than plain types and tensors, so that a checkpoint loads with ``weights_only=True``. A
new thing to keep is a new history, given to ``Evaluation(histories=...)``, and touches nothing else.
"""

from __future__ import annotations

import itertools
from abc import ABC, abstractmethod
from collections import deque
from typing import Any, ClassVar, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor, nn

from rethinkgen.measure.difficulty import Answers
from rethinkgen.measure.fit import Metrics
from rethinkgen.measure.predict import Predictions
from rethinkgen.measure.thresholds import NEARLY_FITTED, STEPS_TO_NEARLY_FIT

LOSS_LEVELS = (0.1, 0.01)
"""Levels of the loss on the whole training set whose first step is recorded."""
ORACLES = ("test/accuracy", "test/accuracy_top5")
"""What ``..._oracle`` tells the best of, along training."""
EXHAUSTED = 0.01
"""Share of the initial learning rate below which nothing more is learnt."""

What = TypeVar("What")


class Step(NamedTuple):
    """What one optimizer step saw: sums over the batch, all ranks' shares of it, before the step was taken."""

    loss_sum: float
    num_correct: int
    num_examples: int
    learning_rate: float
    initial_learning_rate: float
    """Before any schedule"""


class Presented(NamedTuple):
    """What the network said of the examples of a block of steps, before each was taken: of all ranks' M examples."""

    indices: Tensor
    """``(M,)`` int64: positions in the training split, batch after batch; none twice"""
    sizes: list[int]
    """How many belong to each step; their sum is M."""
    answers: Answers
    num_examples: int
    """In the training split"""


class Seen(NamedTuple):
    """What one evaluation saw."""

    metrics: Metrics
    train: Predictions
    """On the training set"""
    is_right: Tensor
    """``(N,)`` bool: which of it are predicted as their given label"""
    network: nn.Module


class History(ABC, Generic[What]):
    """A fold over steps or evaluations."""

    kept: ClassVar[tuple[str, ...]]
    """The attributes that are its state."""

    @abstractmethod
    def update(self, step: int, seen: What) -> None:
        """Take in what was seen at ``step``, the number of optimizer steps taken."""

    def summary(self) -> dict[str, Any]:
        """Return what it adds to the metrics of the finished run."""
        return {}

    def examples(self) -> dict[str, Tensor]:
        """Return what it adds to ``examples.npz``: tensors ``(N, ...)``, by training example."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """Return everything that a resumed run needs to go on."""
        return {name: getattr(self, name) for name in self.kept}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up the state of ``state_dict``."""
        for name in self.kept:
            setattr(self, name, state[name])


class RunningWindow(History[Step]):
    """Sums over the latest optimizer steps, for the running numbers ``train/...``."""

    def __init__(self) -> None:
        self.steps: deque[tuple[float, int, int]] = deque()

    def update(self, step: int, seen: Step) -> None:
        """Take in the sums."""
        self.steps.append((seen.loss_sum, seen.num_correct, seen.num_examples))

    def mean(self, num_steps: int) -> tuple[float, float]:
        """Return loss and accuracy, means over the examples of the latest ``num_steps`` steps."""
        latest = list(itertools.islice(reversed(self.steps), num_steps))
        num_examples = sum(step[2] for step in latest)
        return sum(step[0] for step in latest) / num_examples, sum(step[1] for step in latest) / num_examples

    def forget(self, num_steps: int) -> None:
        """Keep the latest ``num_steps`` alone."""
        while len(self.steps) > num_steps:
            self.steps.popleft()

    def state_dict(self) -> dict[str, Any]:
        """Return the steps as a list, which a checkpoint may hold."""
        return {"steps": list(self.steps)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Take up the state of ``state_dict``."""
        self.steps = deque(tuple(step) for step in state["steps"])


class Rates(History[Step]):
    """When the learning rate fell below a hundredth of the initial one."""

    kept = ("exhausted_at",)

    def __init__(self) -> None:
        self.exhausted_at: int | None = None
        """First such step."""

    def update(self, step: int, seen: Step) -> None:
        """Compare the step's rate."""
        if self.exhausted_at is None and seen.learning_rate < EXHAUSTED * seen.initial_learning_rate:
            self.exhausted_at = step


class Milestones(History[Seen]):
    """First evaluated step at which the training set is fitted, nearly fitted, or its loss low; the last before that.

    Args:
        fit_threshold: ``fit/accuracy`` from which the training set counts as fitted.
    """

    kept = ("first_steps", "last_missed_steps", "at_fit")

    def __init__(self, fit_threshold: float) -> None:
        self.fit_threshold = fit_threshold
        self.first_steps: dict[str, int | None] = {}
        """Milestone -> first evaluated step that reached it."""
        self.last_missed_steps: dict[str, int] = {}
        """Milestone -> last evaluated step before that which did not."""
        self.at_fit: Metrics = {}
        """The evaluation that found it fitted."""

    def update(self, step: int, seen: Seen) -> None:
        """Compare with each level that was not reached before."""
        metrics = seen.metrics
        reached = {
            "steps_to_fit": metrics["fit/accuracy"] >= self.fit_threshold,
            STEPS_TO_NEARLY_FIT: metrics["fit/accuracy"] >= NEARLY_FITTED,
        }
        for level in LOSS_LEVELS:
            reached[f"steps_to_loss_{level}"] = metrics["fit/loss"] <= level
        for milestone, is_reached in reached.items():
            if self.first_steps.setdefault(milestone, None) is not None:
                continue
            if is_reached:
                self.first_steps[milestone] = step
                if milestone == "steps_to_fit":
                    self.at_fit = dict(metrics)
            else:
                self.last_missed_steps[milestone] = step

    @property
    def fitted(self) -> bool:
        """Whether an evaluation found the training set fitted."""
        return self.first_steps.get("steps_to_fit") is not None

    def summary(self) -> dict[str, Any]:
        """Return ``test/accuracy_at_fit``, and each milestone's step with the last that missed it (0: none did)."""
        found: dict[str, Any] = {"test/accuracy_at_fit": self.at_fit.get("test/accuracy")}
        for milestone, first_step in self.first_steps.items():
            found[milestone] = first_step
            found[f"{milestone}_last_missed"] = self.last_missed_steps.get(milestone, 0)
        return found


class Oracle(History[Seen]):
    """Each test accuracy at its best so far: a peek."""

    kept = ("best",)

    def __init__(self) -> None:
        self.best: Metrics = {}

    def update(self, step: int, seen: Seen) -> None:
        """Keep the greater."""
        for name in ORACLES:
            if name in seen.metrics:
                self.best[f"{name}_oracle"] = max(seen.metrics[name], self.best.get(f"{name}_oracle", 0.0))

    def summary(self) -> dict[str, Any]:
        """Return ``test/..._oracle``; ``None`` where nothing is left to test on."""
        return {f"{ORACLES[0]}_oracle": None, **self.best}


class ExampleHistory(History[Seen]):
    """Which training examples were predicted as their given label, evaluation by evaluation."""

    kept = ("first_fitted", "times_forgotten", "is_right", "losses")

    def __init__(self) -> None:
        self.first_fitted = torch.empty(0, dtype=torch.int64)
        self.times_forgotten = torch.empty(0, dtype=torch.int64)
        self.is_right = torch.empty(0, dtype=torch.bool)
        self.losses = torch.empty(0)

    def update(self, step: int, seen: Seen) -> None:
        """Compare with the evaluation before."""
        is_right = seen.is_right.cpu()
        if len(self.is_right) == 0:
            self.first_fitted = torch.full_like(is_right, -1, dtype=torch.int64)
            self.times_forgotten = torch.zeros_like(is_right, dtype=torch.int64)
            self.is_right = torch.zeros_like(is_right)
        self.first_fitted[is_right & (self.first_fitted < 0)] = step
        self.times_forgotten += self.is_right & ~is_right
        self.is_right, self.losses = is_right, seen.train.losses.cpu()

    def examples(self) -> dict[str, Tensor]:
        """Return ``first_step_fitted`` (-1: never seen right), ``times_forgotten``, ``final_loss``.

        Forgotten as in Toneva et al. 2019: right at one evaluation and wrong at the next.
        """
        return {
            "first_step_fitted": self.first_fitted,
            "times_forgotten": self.times_forgotten,
            "final_loss": self.losses,
        }


class PresentedExamples(History[Presented]):
    """What the network said of each training example whenever it stood in a training batch, before the step was taken.

    With augmentation it is the augmented image that was presented, with the label that the step was given. It takes 36
    bytes an example, in two matrices: one access to each a block costs a small network a thousandth of its time.
    """

    kept = ("is_whole", "sums", "counts")

    def __init__(self) -> None:
        self.is_whole = True
        """Whether every presentation so far was noted: what is of some alone is not told."""
        self.sums = torch.empty(0, 3)
        """``(N, 3)`` float32: of losses, margins, confidences"""
        self.counts = torch.empty(0, 6, dtype=torch.int32)
        """``(N, 6)`` int32: times presented, wrong, forgotten; right the last time, or 0; first and last step right"""

    def update(self, step: int, seen: Presented) -> None:
        """Take in the block that ends with ``step``."""
        if not self.is_whole:
            return
        index, answers = seen.indices, seen.answers
        if len(self.counts) == 0:
            self.sums = torch.zeros(seen.num_examples, 3)
            self.counts = torch.tensor([0, 0, 0, 0, -1, -1], dtype=torch.int32).repeat(seen.num_examples, 1)
        if self.counts.device != index.device:
            self.sums, self.counts = self.sums.to(index.device), self.counts.to(index.device)
        self.sums.index_add_(0, index, torch.stack(answers[:3], 1))
        times, wrong, forgotten, was_right, first, last = self.counts.index_select(0, index).unbind(1)
        is_right = answers.is_right
        is_wrong = (~is_right).int()
        taken = torch.arange(step - len(seen.sizes) + 1, step + 1, dtype=torch.int32, device=index.device)
        steps = taken.repeat_interleave(torch.tensor(seen.sizes, device=index.device), output_size=len(index))
        columns = [
            times + 1,
            wrong + is_wrong,
            forgotten + was_right * is_wrong,
            is_right.int(),
            torch.where(is_right & (first < 0), steps, first),
            torch.where(is_right, steps, last),
        ]
        # No example stands twice in a block, which lies in one epoch (rethinkgen.data.batches.Blocks).
        self.counts.index_copy_(0, index, torch.stack(columns, 1))

    def miss(self) -> None:
        """Give up: examples were presented of which nothing was noted, or not as they are."""
        self.is_whole = False
        self.sums, self.counts = self.sums[:0].clone(), self.counts[:0].clone()

    def examples(self) -> dict[str, Tensor]:
        """Return ``presented_...``: see ``rethinkgen.measure.difficulty``. Nothing where it is not known of all.

        ``_times``, ``_times_wrong`` and ``_times_forgotten`` (right at one presentation and wrong at the next, Toneva
        et al. 2019); ``_loss_sum`` (cross-entropy in nats), ``_margin_sum`` (logit of the label less the greatest
        other, Pleiss et al. 2020), ``_confidence_sum`` (probability of the label); ``_first_step_right`` and
        ``_last_step_right``, counted as in ``metrics.csv`` (-1: at none). They are of the whole training: with early
        stopping also of what came after the best weights.
        """
        if len(self.counts) == 0:
            return {}
        (times, wrong, forgotten, _, first, last), sums = self.counts.unbind(1), self.sums.unbind(1)
        return {
            "presented_times": times,
            "presented_times_wrong": wrong,
            "presented_times_forgotten": forgotten,
            **dict(zip(("presented_loss_sum", "presented_margin_sum", "presented_confidence_sum"), sums, strict=True)),
            "presented_first_step_right": first,
            "presented_last_step_right": last,
        }


class Best(History[Seen]):
    """The weights of the best ``validation/accuracy_corrupted`` so far, the earliest of equal ones.

    Args:
        patience: after so many evaluations without a better one, training is to stop.
    """

    kept = ("accuracy", "step", "weights", "num_evaluations_since")

    def __init__(self, patience: int) -> None:
        self.patience = patience
        self.accuracy = -1.0
        self.step = 0
        self.weights: dict[str, Tensor] = {}
        """On the CPU; empty before the first evaluation."""
        self.num_evaluations_since = 0

    def update(self, step: int, seen: Seen) -> None:
        """Keep the weights if they are better."""
        accuracy = seen.metrics["validation/accuracy_corrupted"]
        if accuracy > self.accuracy:
            self.accuracy, self.step, self.num_evaluations_since = accuracy, step, 0
            self.weights = {name: value.detach().cpu().clone() for name, value in seen.network.state_dict().items()}
        else:
            self.num_evaluations_since += 1

    @property
    def is_out_of_patience(self) -> bool:
        """Whether it is time to stop."""
        return self.num_evaluations_since >= self.patience

    def summary(self) -> dict[str, Any]:
        """Return ``early_stopping_step``, that of the best weights."""
        return {"early_stopping_step": self.step} if self.weights else {}


def of_785b5e0(state: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Return by history what a checkpoint of commit 785b5e0 kept flat."""
    states = {
        "window": {"steps": state["window"]},
        "rates": {"exhausted_at": state["rate_exhausted_at"]},
        "milestones": {name: state[name] for name in Milestones.kept},
        "oracle": {"best": state["oracle"]},
        "examples": {name: state[name] for name in ExampleHistory.kept},
    }
    return states | ({"best": state["best"]} if state["best"] else {})
