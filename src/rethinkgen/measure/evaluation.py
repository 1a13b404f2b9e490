"""The numbers of every run: what the fixed network gets right, on what it was given and on what is true.

``predict``, ``fit_metrics`` and their like are pure functions; ``Evaluation`` is the callback that decides when. All
accuracies are fractions in ``[0, 1]``; losses are mean cross-entropies in nats; every evaluation is in float32.
"""

from __future__ import annotations

import itertools
import math
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rethinkgen.checks import check_positive, check_probability, check_switch, check_whole
from rethinkgen.collective import greatest_over_ranks, num_ranks, rank, sum_over_ranks, take_buffers_of_rank_zero
from rethinkgen.data.streaming import Inputs, in_parts
from rethinkgen.errors import TrainingDivergedError
from rethinkgen.measure.thresholds import NEARLY_FITTED, STEPS_TO_NEARLY_FIT
from rethinkgen.model.batch_norm import batch_norms

if TYPE_CHECKING:
    from rethinkgen.data.module import Split

Metrics = dict[str, float]

LOSS_LEVELS = (0.1, 0.01)
"""Levels of the loss on the whole training set whose first step is recorded."""
PREDICTION_BATCH = 500
PREDICTION_VALUES = 2**24
"""Of the inputs that are predicted at once, at most: 500 images up to 105x105, 62 of 299x299, for memory's sake."""
TOP = 5
"""``.../accuracy_top5`` counts an example as right whose label is among so many best guesses."""
ORACLES = {"test/accuracy", "test/accuracy_top5"}
"""What ``..._oracle`` tells the best of, along training."""
FEW_CLASSES = 10
"""Up to so many classes, it is not given."""


class Predictions(NamedTuple):
    """A network's output on examples: cross-entropy ``(N,)`` against the given labels, and classes ``(N,)``."""

    losses: Tensor
    classes: Tensor
    is_in_top: Tensor | None = None
    """``(N,)`` bool: the given label is among the ``TOP`` best guesses; of more than ``FEW_CLASSES`` classes"""


@torch.no_grad()
def predict(network: nn.Module, inputs: Inputs, labels: Tensor, *, is_shared: bool = False) -> Predictions:
    """Run ``network`` in evaluation mode on inputs ``(N, C, H, W)``, in memory or not, in batches, without autocast.

    No value depends on another example. The mode of every module is put back. ``is_shared``: all ranks call this with
    the same network and examples; each runs its share of the batches, and all return the whole.
    """
    # Whole batches are shared out, so that the numbers are those of one process.
    first, num_shares = (rank(), num_ranks()) if is_shared else (0, 1)
    parts = slices(len(labels), min(PREDICTION_BATCH, max(1, PREDICTION_VALUES // math.prod(inputs.shape[1:]))))
    parts = parts[first::num_shares]
    losses, classes = labels.new_zeros(len(labels), dtype=torch.float32), torch.zeros_like(labels)
    is_in_top = torch.zeros_like(labels)
    num_classes = 0
    with evaluation_mode(network), torch.autocast(labels.device.type, enabled=False):
        for part, images in zip(parts, in_parts(inputs, parts), strict=True):
            logits = network(images).float()
            losses[part] = F.cross_entropy(logits, labels[part], reduction="none")
            classes[part] = logits.argmax(1)
            num_classes = logits.shape[1]
            if num_classes > FEW_CLASSES:
                is_in_top[part] = (logits.topk(TOP).indices == labels[part, None]).any(1).long()
    if is_shared:
        # Every example is one rank's and zero on the others. A rank that had no share does not know how many classes.
        sum_over_ranks(losses)
        sum_over_ranks(classes)
        sum_over_ranks(is_in_top)
        (num_classes,) = greatest_over_ranks(num_classes, device=labels.device)
    return Predictions(losses, classes, is_in_top.bool() if num_classes > FEW_CLASSES else None)


def slices(total: int, size: int) -> list[slice]:
    """Cut ``range(total)`` into slices of ``size``, the last of which may be shorter."""
    return [slice(start, min(start + size, total)) for start in range(0, total, size)]


@contextmanager
def evaluation_mode(network: nn.Module) -> Iterator[None]:
    """Switch dropout and BatchNorm to evaluation, and every module back to the mode it was in."""
    modes = [(module, module.training) for module in network.modules()]
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes:
            module.training = mode


@contextmanager
@torch.no_grad()
def recalibrated_batch_norm(network: nn.Module, inputs: Inputs, batch_size: int) -> Iterator[None]:
    """For a while, BatchNorm's running statistics are plain means over one pass through ``inputs``.

    The moving average that BatchNorm keeps lags behind weights that still move, so that a network may fit every batch
    while it trains and yet miss some of the same examples in evaluation mode.
    """
    norms = batch_norms(network)
    saved = [({name: value.clone() for name, value in norm.named_buffers()}, norm.momentum) for norm in norms]
    with evaluation_mode(network):
        try:
            for norm in norms:
                norm.reset_running_stats()
                norm.momentum = None  # a cumulative mean
                norm.train()
            parts = slices(len(inputs), batch_size)
            for images in in_parts(inputs, parts[:-1] if len(parts) > 1 and len(inputs) % batch_size else parts):
                network(images)
            yield
        finally:
            for norm, (buffers, momentum) in zip(norms, saved, strict=True):
                norm.load_state_dict(buffers, strict=False)
                norm.momentum = momentum


def has_batch_norm(network: nn.Module) -> bool:
    """Whether any module keeps running statistics."""
    return bool(batch_norms(network))


def fit_metrics(predictions: Predictions, split: Split) -> Metrics:
    """``fit/...`` of the training set: against the labels as given, and apart for wrong and for right ones.

    ``fit/accuracy_corrupted`` is the share of wrongly labelled examples predicted as their wrong label (memorised),
    ``fit/accuracy_corrected`` the share of the same predicted as their true one (learnt through the noise),
    ``fit/accuracy_clean`` the accuracy on all others. Without wrong labels only loss and accuracy are given.
    """
    right = predictions.classes == split.labels
    metrics = {"fit/loss": _mean(predictions.losses), "fit/accuracy": _mean(right), **_top("fit", predictions)}
    wrong = split.is_corrupted
    if bool(wrong.any()):
        metrics["fit/accuracy_corrupted"] = _mean(right[wrong])
        metrics["fit/accuracy_corrected"] = _mean((predictions.classes == split.original_labels)[wrong])
        if not bool(wrong.all()):
            metrics["fit/accuracy_clean"] = _mean(right[~wrong])
    return metrics


def validation_metrics(predictions: Predictions, split: Split) -> Metrics:
    """``validation/accuracy`` against true labels and ``validation/accuracy_corrupted`` against the labels as given.

    The second is what somebody whose labels are noisy could measure; without label corruption both are equal. The loss
    of ``predictions`` is against the true labels.
    """
    return {
        "validation/loss": _mean(predictions.losses),
        "validation/accuracy": _mean(predictions.classes == split.original_labels),
        "validation/accuracy_corrupted": _mean(predictions.classes == split.labels),
    }


def test_metrics(predictions: Predictions, split: Split) -> Metrics:
    """``test/loss`` and ``test/accuracy``, against true labels."""
    right = predictions.classes == split.labels
    return {"test/loss": _mean(predictions.losses), "test/accuracy": _mean(right), **_top("test", predictions)}


test_metrics.__test__ = False  # type: ignore[attr-defined]  # a name that pytest would collect


def judged_by(name: str, split: Split) -> Tensor:
    """Return the labels that a split's loss is against: true ones, but of the training set those that were given."""
    return split.labels if name == "train" else split.original_labels


def diverged(what: str, value: float, step: int, model: pl.LightningModule) -> TrainingDivergedError:
    """Return the error that says so, and which learning rate to try."""
    rate: float = model.initial_learning_rate  # type: ignore[assignment]
    return TrainingDivergedError(
        f"the {what} became {value} at step {step} (learning rate {rate:g} at the start). Try a smaller learning rate, "
        f"for example optimizer.lr={rate / 10:g}."
    )


def _top(name: str, predictions: Predictions) -> Metrics:
    return {} if predictions.is_in_top is None else {f"{name}/accuracy_top5": _mean(predictions.is_in_top)}


def _mean(values: Tensor) -> float:
    # On the CPU, since not every device has float64.
    return float(values.cpu().double().mean())


class _Window:
    """Sums over the latest optimizer steps, for the running numbers ``train/...``."""

    def __init__(self) -> None:
        self.steps: deque[tuple[float, int, int]] = deque()

    def mean(self, num_steps: int) -> tuple[float, float]:
        latest = list(itertools.islice(reversed(self.steps), num_steps))
        num_examples = sum(step[2] for step in latest)
        return sum(step[0] for step in latest) / num_examples, sum(step[1] for step in latest) / num_examples


class Evaluation(pl.Callback):
    """Evaluates while training, logs, notes when the training set is fitted, and stops where asked to.

    Rows go to the trainer's loggers: the running ``train/loss`` and ``train/accuracy`` (means over the latest
    ``log_every`` steps) every ``log_every`` steps and at each evaluation; ``train/loss_epoch`` and
    ``train/accuracy_epoch`` over the latest epoch's worth of steps, ``fit/...``, ``test/...`` and ``validation/...`` at
    each evaluation: every ``every`` epochs (fractions allowed) and at the end of the budget.

    Args:
        fit_threshold: ``fit/accuracy`` from which the training set counts as fitted.
        until_fit: stop at the first evaluation that finds it fitted.
        patience: early stopping: stop after this many evaluations without a better ``validation/accuracy_corrupted``,
            and go back to the weights of the best. Needs a held-out part (``data.validation``).
    """

    def __init__(
        self,
        *,
        every: float = 1.0,
        fit_threshold: float = 1.0,
        until_fit: bool = False,
        log_every: int = 100,
        patience: int | None = None,
    ) -> None:
        self.every = check_positive("evaluate_every", every)
        self.fit_threshold = check_probability("fit_threshold", fit_threshold)
        self.until_fit = check_switch("until_fit", until_fit)
        self.log_every = check_whole("log_every", log_every, 1)
        self.patience = None if patience is None else check_whole("regularizer.early_stopping", patience, 1)

        self.latest: Metrics = {}
        """The row logged last."""
        self.evaluated: Metrics = {}
        """The latest evaluation; ``step`` is among its keys."""
        self.window = _Window()
        self.first_steps: dict[str, int | None] = {}
        """Milestone -> first evaluated step that reached it."""
        self.last_missed_steps: dict[str, int] = {}
        """Milestone -> last evaluated step before that which did not."""
        self.at_fit: Metrics = {}
        self.oracle: Metrics = {}
        """Each test accuracy at its best so far: a peek."""
        self.rate_exhausted_at: int | None = None
        """First step whose learning rate was below 1 % of the initial one."""
        self.first_fitted = torch.empty(0, dtype=torch.int64)
        self.times_forgotten = torch.empty(0, dtype=torch.int64)
        self.is_right = torch.empty(0, dtype=torch.bool)
        self.losses = torch.empty(0)
        self.is_closed_form = False
        self.solved: dict[str, float | None] = {}
        """``solution/...`` of a model that is solved in closed form."""
        self.best: dict[str, Any] = {}
        """Early stopping: accuracy, step and weights of the best evaluation so far."""

    # When: Lightning's hooks.

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse what cannot work, before anything is trained."""
        if self.patience is not None and not trainer.datamodule.validation:  # type: ignore[attr-defined]
            raise ValueError(
                "regularizer.early_stopping needs a held-out part of the training set: add data.validation=0.1. "
                "Nothing is ever chosen on the test set."
            )

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Have blocks end where an evaluation is due, and stop at once if a resumed run was already to stop."""
        datamodule = trainer.datamodule  # type: ignore[attr-defined]
        self.steps_per_epoch: int = datamodule.steps_per_epoch
        self.total_steps: int = pl_module.total_steps  # type: ignore[assignment]
        self.is_closed_form = bool(pl_module.is_closed_form)
        datamodule.next_stop = self.next_evaluation
        if self.evaluated and self._should_stop():
            trainer.should_stop = True

    def next_evaluation(self, step: int) -> int:
        """Return the first evaluated step after ``step``: a multiple of ``every`` epochs, or the end of the budget."""
        interval = self.every * self.steps_per_epoch
        first = max(1, math.floor(step / interval))
        following = next(due for k in itertools.count(first) if (due := max(1, round(k * interval))) > step)
        return min(following, self.total_steps) if step < self.total_steps else following

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the steps of the block just trained; evaluate if one is due at its end."""
        steps = pl_module.steps
        before = trainer.global_step - len(steps)  # type: ignore[arg-type]
        is_due = self.next_evaluation(trainer.global_step - 1) == trainer.global_step
        for step, (loss_sum, num_correct, num_examples, rate) in enumerate(steps, before + 1):  # type: ignore[arg-type]
            if not math.isfinite(loss_sum):
                raise diverged("training loss", loss_sum, step, pl_module)
            self._push(loss_sum, num_correct, num_examples)
            if self.rate_exhausted_at is None and rate < 0.01 * pl_module.initial_learning_rate:  # type: ignore[operator]
                self.rate_exhausted_at = step
            if step % self.log_every == 0 or (is_due and step == trainer.global_step):
                row = self._training_row(step, rate)
                if is_due and step == trainer.global_step:
                    row |= self.evaluate(trainer, pl_module)
                self._log(trainer, row, step)
        if self.is_closed_form:
            row = {"epoch": trainer.global_step / self.steps_per_epoch, **self.evaluate(trainer, pl_module)}
            self.solved = dict(pl_module.solution_metrics)  # type: ignore[arg-type]
            self._log(trainer, row | {name: value for name, value in self.solved.items() if value is not None}, 1)
        if is_due and self._should_stop():
            trainer.should_stop = True

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the latest numbers to other callbacks and to whoever reads ``trainer.callback_metrics``."""
        pl_module.log_dict(self.latest, logger=False, batch_size=1)

    # What.

    def evaluate(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> Metrics:
        """Evaluate every split, note milestones and per-example history, and return the metrics.

        With several ranks each evaluates its share of the examples, and all know the metrics of the whole.
        """
        take_buffers_of_rank_zero(pl_module)
        step = trainer.global_step
        splits: dict[str, Split] = trainer.datamodule.splits  # type: ignore[attr-defined]
        compute: dict[str, Callable[[Predictions, Split], Metrics]] = {
            "train": fit_metrics,
            "validation": validation_metrics,
            "test": test_metrics,
        }
        metrics: Metrics = {}
        if self.window.steps:
            loss, accuracy = self.window.mean(self.steps_per_epoch)
            metrics |= {"train/loss_epoch": loss, "train/accuracy_epoch": accuracy}
        for name, split in splits.items():
            predictions = predict(pl_module, split.inputs, judged_by(name, split), is_shared=True)
            metrics |= compute[name](predictions, split)
            if name == "train":
                self._note_examples(predictions, split, step)
        if not math.isfinite(metrics["fit/loss"]):
            raise diverged("loss on the training set", metrics["fit/loss"], step, pl_module)
        self._note_milestones(metrics, step)
        for name in ORACLES & metrics.keys():
            self.oracle[f"{name}_oracle"] = max(metrics[name], self.oracle.get(f"{name}_oracle", 0.0))
        if self.patience is not None and metrics["validation/accuracy_corrupted"] > self.best.get("accuracy", -1):
            weights = {name: value.detach().cpu().clone() for name, value in pl_module.state_dict().items()}
            self.best = {"accuracy": metrics["validation/accuracy_corrupted"], "step": step, "weights": weights}
            self.best["num_evaluations_since"] = 0
        elif self.patience is not None:
            self.best["num_evaluations_since"] += 1
        self.evaluated = {"step": step, **metrics}
        return metrics

    def summary(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """Return the numbers of the finished run; with early stopping, of the best weights, which are put back.

        Needs no more than the state kept in a checkpoint, so that a run resumed after its last step gives the same.
        """
        metrics: dict[str, Any] = {**self.latest, **self.evaluated, **self.solved}
        del metrics["step"]
        splits: dict[str, Split] = trainer.datamodule.splits  # type: ignore[attr-defined]
        train = splits["train"]
        pl_module.to(train.inputs.device)
        if self.best:
            metrics["early_stopping_step"] = self.best["step"]
            pl_module.load_state_dict(self.best["weights"])
            predictions = predict(pl_module, train.inputs, train.labels)
            metrics |= fit_metrics(predictions, train)
            self.losses = predictions.losses.cpu()
            for name, compute in (("validation", validation_metrics), ("test", test_metrics)):
                split = splits[name]
                metrics |= compute(predict(pl_module, split.inputs, judged_by(name, split)), split)
        if has_batch_norm(pl_module) and metrics["fit/accuracy"] < self.fit_threshold:
            batch_size: int = trainer.datamodule.batch_size  # type: ignore[attr-defined]
            with recalibrated_batch_norm(pl_module, train.inputs, batch_size):
                recalibrated = predict(pl_module, train.inputs, train.labels)
            metrics["fit/accuracy_recalibrated"] = fit_metrics(recalibrated, train)["fit/accuracy"]
        metrics["generalization_gap"] = metrics["fit/accuracy"] - metrics["test/accuracy"]
        metrics |= {"test/accuracy_at_fit": self.at_fit.get("test/accuracy"), **self.oracle}
        for milestone, first_step in self.first_steps.items():
            metrics[milestone] = first_step
            metrics[f"{milestone}_last_missed"] = self.last_missed_steps.get(milestone, 0)
        metrics["steps"] = trainer.global_step
        return metrics

    @property
    def fitted(self) -> bool:
        """Whether an evaluation found the training set fitted."""
        return self.first_steps.get("steps_to_fit") is not None

    def reason(self, trainer: pl.Trainer) -> str:
        """Say in words why training ended, and why without a fit where there was none."""
        step = trainer.global_step
        if self.is_closed_form:
            return "solved in closed form"
        if self.patience is not None and self.best.get("num_evaluations_since", 0) >= self.patience:
            return f"early stopping at step {step}: best validation accuracy at step {self.best['step']}"
        if self.until_fit and self.fitted:
            return f"fitted at step {step}"
        budget = f"the budget of {step} steps is used up"
        if self.fitted or self.rate_exhausted_at is None:
            return budget
        return f"{budget}; the learning rate fell below 1 % of its start at step {self.rate_exhausted_at}"

    def examples(self) -> dict[str, Tensor]:
        """Per training example: ``first_step_fitted`` (-1: never seen right), ``times_forgotten``, ``final_loss``.

        Forgotten as in Toneva et al. 2019: right at one evaluation and wrong at the next.
        """
        return {
            "first_step_fitted": self.first_fitted,
            "times_forgotten": self.times_forgotten,
            "final_loss": self.losses,
        }

    def _should_stop(self) -> bool:
        if self.until_fit and self.fitted:
            return True
        return self.patience is not None and self.best["num_evaluations_since"] >= self.patience

    def _push(self, loss_sum: float, num_correct: int, num_examples: int) -> None:
        self.window.steps.append((loss_sum, num_correct, num_examples))
        while len(self.window.steps) > max(self.log_every, self.steps_per_epoch):
            self.window.steps.popleft()

    def _training_row(self, step: int, rate: float) -> Metrics:
        loss, accuracy = self.window.mean(self.log_every)
        epoch = step / self.steps_per_epoch
        return {"epoch": epoch, "learning_rate": rate, "train/loss": loss, "train/accuracy": accuracy}

    def _log(self, trainer: pl.Trainer, row: Metrics, step: int) -> None:
        self.latest = row
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                logger.log_metrics(row, step)

    def _note_milestones(self, metrics: Metrics, step: int) -> None:
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

    def _note_examples(self, predictions: Predictions, split: Split, step: int) -> None:
        is_right = (predictions.classes == split.labels).cpu()
        if len(self.is_right) == 0:
            self.first_fitted = torch.full((len(split),), -1, dtype=torch.int64)
            self.times_forgotten = torch.zeros(len(split), dtype=torch.int64)
            self.is_right = torch.zeros(len(split), dtype=torch.bool)
        self.first_fitted[is_right & (self.first_fitted < 0)] = step
        self.times_forgotten += self.is_right & ~is_right
        self.is_right, self.losses = is_right, predictions.losses.cpu()

    # State: plain types and tensors, which a checkpoint loads with ``weights_only=True``.

    _STATE = (
        *("latest", "evaluated", "first_steps", "last_missed_steps", "at_fit", "oracle", "rate_exhausted_at"),
        *("first_fitted", "times_forgotten", "is_right", "losses", "best"),
    )

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs to end with the same numbers."""
        return {name: getattr(self, name) for name in self._STATE} | {"window": list(self.window.steps)}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the state of ``state_dict``."""
        for name in self._STATE:
            setattr(self, name, state_dict[name])
        self.window.steps = deque(tuple(step) for step in state_dict["window"])
