"""When a network is evaluated while it trains: a callback that calls the pure functions of ``rethinkgen.measure``."""

from __future__ import annotations

import itertools
import math
from collections import deque
from typing import TYPE_CHECKING, Any

import pytorch_lightning as pl
import torch
from torch import Tensor

from rethinkgen.checks import check_positive, check_probability, check_switch, check_whole
from rethinkgen.collective import take_buffers_of_rank_zero
from rethinkgen.measure.fit import METRICS, Metrics, fit_metrics, judged_by, test_metrics, validation_metrics
from rethinkgen.measure.predict import Predictions, has_batch_norm, predict, recalibrated_batch_norm
from rethinkgen.measure.thresholds import NEARLY_FITTED, STEPS_TO_NEARLY_FIT

if TYPE_CHECKING:
    from rethinkgen.data.module import Split
    from rethinkgen.data.timetable import Timetable

LOSS_LEVELS = (0.1, 0.01)
"""Levels of the loss on the whole training set whose first step is recorded."""
ORACLES = {"test/accuracy", "test/accuracy_top5"}
"""What ``..._oracle`` tells the best of, along training."""


def diverged(what: str, value: float, step: int, model: pl.LightningModule) -> TrainingDivergedError:
    """Return the error that says so, and which learning rate to try."""
    rate: float = model.initial_learning_rate  # type: ignore[assignment]
    return TrainingDivergedError(
        f"the {what} became {value} at step {step} (learning rate {rate:g} at the start). Try a smaller learning rate, "
        f"for example optimizer.lr={rate / 10:g}."
    )


class _Window:
    """Sums over the latest optimizer steps, for the running numbers ``train/...``."""

    def __init__(self) -> None:
        self.steps: deque[tuple[float, int, int]] = deque()

    def mean(self, num_steps: int) -> tuple[float, float]:
        latest = list(itertools.islice(reversed(self.steps), num_steps))
        num_examples = sum(step[2] for step in latest)
        return sum(step[0] for step in latest) / num_examples, sum(step[1] for step in latest) / num_examples

    def forget(self, num_steps: int) -> None:
        """Keep the latest ``num_steps`` alone."""
        while len(self.steps) > num_steps:
            self.steps.popleft()


class TrainingDivergedError(RuntimeError):
    """The training loss is no longer a finite number."""


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

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Learn what evaluations go by."""
        self.timetable: Timetable = trainer.datamodule.timetable  # type: ignore[attr-defined]
        self.total_steps: int = pl_module.total_steps  # type: ignore[assignment]
        self.is_closed_form = bool(pl_module.is_closed_form)

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop at once if a resumed run was already to stop."""
        if self.evaluated and self._should_stop():
            trainer.should_stop = True

    def next_stop(self, step: int) -> int:
        """Return the first evaluated step after ``step``: a multiple of ``every`` epochs, or the end of the budget.

        Blocks of batches end there (``rethinkgen.data.batches.EndsBlocks``).
        """
        near = max(1, math.floor(self.timetable.epochs(step) / self.every) - 1)
        due = (max(1, self.timetable.step_at(self.every, times)) for times in itertools.count(near))
        following = next(at for at in due if at > step)
        return min(following, self.total_steps) if step < self.total_steps else following

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the steps of the block just trained; evaluate if one is due at its end."""
        steps = pl_module.steps
        before = trainer.global_step - len(steps)  # type: ignore[arg-type]
        is_due = self.next_stop(trainer.global_step - 1) == trainer.global_step
        for step, (loss_sum, num_correct, num_examples, rate) in enumerate(steps, before + 1):  # type: ignore[arg-type]
            if not math.isfinite(loss_sum):
                raise diverged("training loss", loss_sum, step, pl_module)
            self.window.steps.append((loss_sum, num_correct, num_examples))
            if self.rate_exhausted_at is None and rate < 0.01 * pl_module.initial_learning_rate:  # type: ignore[operator]
                self.rate_exhausted_at = step
            if step % self.log_every == 0 or (is_due and step == trainer.global_step):
                row = self._training_row(step, rate)
                if is_due and step == trainer.global_step:
                    row |= self.evaluate(trainer, pl_module)
                self._log(trainer, row, step)
        if self.is_closed_form:
            row = {"epoch": self.timetable.epochs(trainer.global_step), **self.evaluate(trainer, pl_module)}
            self.solved = dict(pl_module.solution_metrics)  # type: ignore[arg-type]
            self._log(trainer, row | {name: value for name, value in self.solved.items() if value is not None}, 1)
        self.window.forget(max(self.log_every, self.timetable.steps_of_latest_epoch(trainer.global_step)))
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
        metrics: Metrics = {}
        if self.window.steps:
            loss, accuracy = self.window.mean(self.timetable.steps_of_latest_epoch(step))
            metrics |= {"train/loss_epoch": loss, "train/accuracy_epoch": accuracy}
        for name, split in splits.items():
            predictions = predict(pl_module, split.inputs, judged_by(name, split), is_shared=True)
            metrics |= METRICS[name](predictions, split)
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
            batch_size = trainer.datamodule.timetable.size(trainer.global_step - 1)  # type: ignore[attr-defined]
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

    def _training_row(self, step: int, rate: float) -> Metrics:
        loss, accuracy = self.window.mean(self.log_every)
        epoch = self.timetable.epochs(step)
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
