"""When a network is evaluated while it trains: a callback that calls the pure functions of ``rethinkgen.measure``."""

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol, cast

import pytorch_lightning as pl
from torch import Tensor

from rethinkgen.checks import check_positive, check_probability, check_switch, check_whole
from rethinkgen.collective import take_buffers_of_rank_zero
from rethinkgen.errors import TrainingDivergedError
from rethinkgen.measure.fit import Metrics, evaluate, fit_metrics, weights_digest, without_test_part
from rethinkgen.measure.predict import has_batch_norm, predict, recalibrated_batch_norm
from rethinkgen.train.histories import (
    Best,
    ExampleHistory,
    History,
    Milestones,
    Oracle,
    Presented,
    PresentedExamples,
    Rates,
    RunningWindow,
    Seen,
    Step,
    of_785b5e0,
)
from rethinkgen.train.other_class import OtherClass
from rethinkgen.words import how_many

if TYPE_CHECKING:
    from rethinkgen.data.module import CorruptedImages
    from rethinkgen.data.timetable import Timetable

log = logging.getLogger(__name__)


class Trained(Protocol):
    """What a module tells of its training; ``rethinkgen.train.classifier.Classifier`` does."""

    steps: list[Step]
    """Of the block trained last"""
    presented: Presented | None
    """What was said of the examples of that block; ``None`` where they were not presented as they are, or not noted"""

    @property
    def own_metrics(self) -> Mapping[str, float | None]:
        """Numbers that it adds to every evaluation, ``None`` where one is not known."""

    @property
    def total_steps(self) -> int:
        """The budget."""

    @property
    def initial_learning_rate(self) -> float | None:
        """Before any schedule; ``None`` where no optimizer takes the steps."""


class Evaluation(pl.Callback):
    """Evaluates while training, logs, and stops where asked to; what is kept on the way, its histories keep.

    Rows go to the trainer's loggers: the running ``train/loss`` and ``train/accuracy`` (means over the latest
    ``log_every`` steps) every ``log_every`` steps and at each evaluation; ``train/loss_epoch`` and
    ``train/accuracy_epoch`` over the latest epoch's worth of steps, ``fit/...``, ``test/...`` and ``validation/...`` at
    each evaluation: every ``every`` epochs (fractions allowed) and at the end of the budget. A logger that
    ``accepts_text`` is also given ``weights_digest``, by which a replay of the run is recognised.

    Args:
        fit_threshold: ``fit/accuracy`` from which the training set counts as fitted.
        until_fit: stop at the first evaluation that finds it fitted.
        patience: early stopping: stop after this many evaluations without a better ``validation/accuracy_corrupted``,
            and go back to the weights of the best. Needs a held-out part (``data.validation``).
        histories: by name, what else is to be kept of the evaluations.
    """

    def __init__(
        self,
        *,
        every: float = 1.0,
        fit_threshold: float = 1.0,
        until_fit: bool = False,
        log_every: int = 100,
        patience: int | None = None,
        histories: Mapping[str, History[Seen]] | None = None,
    ) -> None:
        self.every = check_positive("evaluate_every", every)
        self.fit_threshold = check_probability("fit_threshold", fit_threshold)
        self.until_fit = check_switch("until_fit", until_fit)
        self.log_every = check_whole("log_every", log_every, 1)
        patience = None if patience is None else check_whole("regularizer.early_stopping", patience, 1)

        self.latest: Metrics = {}
        """The row logged last."""
        self.evaluated: Metrics = {}
        """The latest evaluation; ``step`` is among its keys."""
        self.window = RunningWindow()
        self.rates = Rates()
        self.milestones = Milestones(self.fit_threshold)
        self.example_history = ExampleHistory()
        self.presented = PresentedExamples()
        self.other_class = OtherClass()
        self.best = None if patience is None else Best(patience)
        self.of_steps: dict[str, History[Step]] = {"window": self.window, "rates": self.rates}
        self.of_evaluations: dict[str, History[Seen]] = {
            **({} if self.best is None else {"best": self.best}),
            "milestones": self.milestones,
            "oracle": Oracle(),
            "examples": self.example_history,
            **(histories or {}),
        }

    # When: Lightning's hooks.

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Refuse what cannot work, before anything is trained."""
        if self.best is not None and not _datamodule(trainer).validation:
            raise ValueError(
                "regularizer.early_stopping needs a held-out part of the training set: add data.validation=0.1. "
                "Nothing is ever chosen on the test set."
            )

    def on_fit_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Learn what evaluations go by."""
        self.timetable: Timetable = _datamodule(trainer).timetable
        self.total_steps = _trained(pl_module).total_steps

    def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Stop at once if a resumed run was already to stop."""
        if self.evaluated and self._should_stop():
            trainer.should_stop = True

    def next_stop(self, step: int) -> int:
        """Return the first evaluated step after ``step``: a multiple of ``every`` epochs, or the end of the budget.

        Blocks of batches end there (``rethinkgen.data.batches.EndsBlocks``).
        """
        if self.timetable.steps(self.timetable.place(step).epoch) * self.every <= 0.5:
            return step + 1  # several are due at each step, and to look through them would take for ever
        near = max(1, math.floor(self.timetable.epochs(step) / self.every) - 1)
        due = (max(1, self.timetable.step_at(self.every, times)) for times in itertools.count(near))
        following = next(at for at in due if at > step)
        return min(following, self.total_steps) if step < self.total_steps else following

    def on_train_batch_end(
        self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Log the steps of the block just trained; evaluate if one is due at its end."""
        model, last = _trained(pl_module), trainer.global_step
        is_due = self.next_stop(last - 1) == last
        row: Metrics = {"epoch": self.timetable.epochs(last)}  # of steps that see no batch there is no more to tell
        for step, seen in enumerate(model.steps, last - len(model.steps) + 1):
            if not math.isfinite(seen.loss_sum):
                raise diverged("training loss", seen.loss_sum, step, model)
            for history in self.of_steps.values():
                history.update(step, seen)
            if is_due and step == last:
                row = self._training_row(step, seen.learning_rate)
            elif step % self.log_every == 0:
                self._log(trainer, self._training_row(step, seen.learning_rate), step)
        of_blocks: tuple[PresentedExamples | OtherClass, ...] = (self.presented, self.other_class)
        for of_block in of_blocks:
            if model.presented is None:
                of_block.miss()
            else:
                of_block.update(last, model.presented)
        if is_due:
            row |= self.evaluate(trainer, pl_module)
            row |= {name: value for name, value in model.own_metrics.items() if value is not None}
            self._log(trainer, row, last, {"weights_digest": weights_digest(pl_module)})
        self.window.forget(max(self.log_every, self.timetable.steps_of_latest_epoch(last)))
        if is_due and self._should_stop():
            trainer.should_stop = True

    def on_train_epoch_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Show the latest numbers to other callbacks and to whoever reads ``trainer.callback_metrics``."""
        pl_module.log_dict(self.latest, logger=False, batch_size=1)

    # What.

    def evaluate(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> Metrics:
        """Evaluate every split, tell the histories, and return the metrics.

        With several ranks each evaluates its share of the examples, and all know the metrics of the whole.
        """
        take_buffers_of_rank_zero(pl_module)
        step, splits = trainer.global_step, _datamodule(trainer).splits
        metrics: Metrics = {}
        if self.window.steps:
            loss, accuracy = self.window.mean(self.timetable.steps_of_latest_epoch(step))
            metrics |= {"train/loss_epoch": loss, "train/accuracy_epoch": accuracy}
        found = evaluate(pl_module, splits, is_shared=True)
        metrics |= found.metrics
        if not math.isfinite(metrics["fit/loss"]):
            raise diverged("loss on the training set", metrics["fit/loss"], step, _trained(pl_module))
        seen = Seen(metrics, found.train, found.train.classes == splits["train"].labels, pl_module)
        for history in self.of_evaluations.values():
            history.update(step, seen)
        self.evaluated = {"step": step, **metrics}
        return metrics

    def summary(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> dict[str, Any]:
        """Return the numbers of the finished run; with early stopping, of the best weights, which are put back.

        Needs no more than the state kept in a checkpoint, so that a run resumed after its last step gives the same.
        """
        metrics: dict[str, Any] = {**self.latest, **self.evaluated}
        del metrics["step"]
        splits = _datamodule(trainer).splits
        train = splits["train"]
        pl_module.to(train.inputs.device)
        if self.best is not None:
            pl_module.load_state_dict(self.best.weights)
            found = evaluate(pl_module, splits)
            metrics |= found.metrics
            self.example_history.losses = found.train.losses.cpu()
        metrics |= _trained(pl_module).own_metrics
        if has_batch_norm(pl_module) and metrics["fit/accuracy"] < self.fit_threshold:
            batch_size = _datamodule(trainer).timetable.size(trainer.global_step - 1)
            with recalibrated_batch_norm(pl_module, train.inputs, batch_size):
                recalibrated = predict(pl_module, train.inputs, train.labels)
            metrics["fit/accuracy_recalibrated"] = fit_metrics(recalibrated, train)["fit/accuracy"]
        if "test" in splits:
            metrics["generalization_gap"] = metrics["fit/accuracy"] - metrics["test/accuracy"]
        metrics |= without_test_part(splits)
        for history in self._histories.values():
            metrics |= history.summary()
        metrics["steps"] = trainer.global_step
        return metrics

    @property
    def fitted(self) -> bool:
        """Whether an evaluation found the training set fitted."""
        return self.milestones.fitted

    def reason(self, trainer: pl.Trainer) -> str:
        """Say in words why training ended, and why without a fit where there was none."""
        step = trainer.global_step
        if self.best is not None and self.best.is_out_of_patience:
            return f"early stopping at step {step}: best validation accuracy at step {self.best.step}"
        if self.until_fit and self.fitted:
            return f"fitted at step {step}"
        budget = f"the budget of {how_many(step, 'step')} is used up"
        if self.fitted or self.rates.exhausted_at is None:
            return budget
        return f"{budget}; the learning rate fell below 1 % of its start at step {self.rates.exhausted_at}"

    def examples(self) -> dict[str, Tensor]:
        """Return what the histories know of each training example: ``examples`` of each says what that is."""
        return {name: values for history in self._histories.values() for name, values in history.examples().items()}

    @property
    def _histories(self) -> dict[str, History[Any]]:
        return {**self.of_steps, **self.of_evaluations, "presented": self.presented, "other_class": self.other_class}

    def _should_stop(self) -> bool:
        return (self.until_fit and self.fitted) or (self.best is not None and self.best.is_out_of_patience)

    def _training_row(self, step: int, rate: float) -> Metrics:
        loss, accuracy = self.window.mean(self.log_every)
        epoch = self.timetable.epochs(step)
        return {"epoch": epoch, "learning_rate": rate, "train/loss": loss, "train/accuracy": accuracy}

    def _log(self, trainer: pl.Trainer, row: Metrics, step: int, text: Mapping[str, str] | None = None) -> None:
        self.latest = row
        if trainer.is_global_zero:
            for logger in trainer.loggers:
                # What others do with a text is not known: some refuse it. (A dummy logger has every attribute.)
                accepts_text = getattr(logger, "accepts_text", False) is True
                whole: dict[str, Any] = {**row, **(text or {})} if accepts_text else row
                logger.log_metrics(whole, step)

    # State: plain types and tensors, which a checkpoint loads with ``weights_only=True``.

    def state_dict(self) -> dict[str, Any]:
        """Everything that a resumed run needs to end with the same numbers."""
        return {
            "latest": self.latest,
            "evaluated": self.evaluated,
            "histories": {name: history.state_dict() for name, history in self._histories.items()},
        }

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take up the state of ``state_dict``, of a checkpoint of commit 785b5e0 too."""
        self.latest, self.evaluated = state_dict["latest"], state_dict["evaluated"]
        states = state_dict["histories"] if "histories" in state_dict else of_785b5e0(state_dict)
        for name, state in states.items():
            if (history := self._histories.get(name)) is not None:
                history.load_state_dict(state)
        if "presented" not in states:
            log.warning(
                "The checkpoint is of a version that did not note what the network said of each training example: "
                "examples.npz will have no presented_... columns"
            )
            self.presented.miss()
        if "other_class" not in states:  # of a version that did not note it
            self.other_class.miss()


def diverged(what: str, value: float, step: int, model: Trained) -> TrainingDivergedError:
    """Return the error that says so, and which learning rate to try, if there is one."""
    rate = model.initial_learning_rate
    if rate is None:
        return TrainingDivergedError(f"the {what} became {value} at step {step}.")
    return TrainingDivergedError(
        f"the {what} became {value} at step {step} (learning rate {rate:g} at the start). Try a smaller learning rate, "
        f"for example optimizer.lr={rate / 10:g}."
    )


def _trained(module: pl.LightningModule) -> Trained:
    return cast(Trained, module)


def _datamodule(trainer: pl.Trainer) -> CorruptedImages:
    return cast("CorruptedImages", trainer.datamodule)  # type: ignore[attr-defined]
