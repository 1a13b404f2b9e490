"""When a network is evaluated, and what is kept of it."""

from __future__ import annotations

import math
import pickle

import pytest
import pytorch_lightning as pl
import torch

from rethinkgen.data.corruption import PartialLabels, RandomLabels, TrueLabels
from rethinkgen.data.source import Digits
from rethinkgen.data.timetable import Timetable
from rethinkgen.errors import TrainingDivergedError
from rethinkgen.model.mlp import MLP
from rethinkgen.train.evaluation import Evaluation
from rethinkgen.train.histories import History, Seen


def evaluated_steps(every: float, steps_per_epoch: int, total: int) -> list[int]:
    evaluation = Evaluation(every=every)
    evaluation.timetable, evaluation.total_steps = Timetable(steps_per_epoch, 1), total
    steps, step = [], 0
    while step < total:
        step = evaluation.next_stop(step)
        steps.append(step)
    return steps


def test_evaluations_fall_on_multiples_of_their_interval_and_on_the_end() -> None:
    assert evaluated_steps(1, 12, 36) == [12, 24, 36]
    assert evaluated_steps(0.25, 12, 12) == [3, 6, 9, 12]
    assert evaluated_steps(0.3, 10, 13) == [3, 6, 9, 12, 13]
    assert evaluated_steps(2, 5, 12) == [10, 12]
    assert evaluated_steps(0.01, 10, 4) == [1, 2, 3, 4], "never twice at one step"


class Rows(pl.loggers.logger.DummyLogger):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.rows: dict[int, dict[str, float]] = {}

    def log_metrics(self, metrics: dict[str, float], step: int) -> None:  # type: ignore[override]
        assert step not in self.rows
        self.rows[step] = metrics


def fit(
    datamodule: pl.LightningDataModule, evaluation: Evaluation, steps: int, **model: object
) -> tuple[MLP, pl.Trainer, Rows]:
    pl.seed_everything(0, verbose=False)
    rows = Rows()
    network = MLP(**{"width": 32, "learning_rate": 0.05} | model)  # type: ignore[arg-type]
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=steps,
        callbacks=[evaluation],
        logger=rows,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(network, datamodule=datamodule)
    return network, trainer, rows


def test_running_numbers_are_means_over_the_latest_steps() -> None:
    datamodule = TrueLabels(Digits(), num_train=640)
    _, _, rows = fit(datamodule, Evaluation(every=2, log_every=4), steps=13)
    assert sorted(rows.rows) == [4, 8, 10, 12, 13]
    assert "fit/accuracy" in rows.rows[10]
    assert "fit/accuracy" not in rows.rows[12]
    assert rows.rows[10]["epoch"] == 2
    # Each row's mean over four steps; steps 9 and 10 are in two of them.
    _, _, every = fit(TrueLabels(Digits(), num_train=640), Evaluation(every=2, log_every=1), steps=13)
    for step in (4, 8, 10, 12):
        mean = sum(every.rows[at]["train/loss"] for at in range(step - 3, step + 1)) / 4
        assert rows.rows[step]["train/loss"] == pytest.approx(mean)


def test_steps_to_fit_until_fit_and_examples() -> None:
    evaluation = Evaluation(until_fit=True, every=0.5)
    datamodule = RandomLabels(Digits(), num_train=100, batch_size=20)
    model, trainer, rows = fit(datamodule, evaluation, steps=5000, width=256)
    summary = evaluation.summary(trainer, model)
    unfitted = [step for step, row in rows.rows.items() if row.get("fit/accuracy", 1) < 1]
    assert summary["fit/accuracy"] == 1
    assert summary["steps_to_fit"] == summary["steps"] == trainer.global_step < 5000
    assert summary["steps_to_fit_last_missed"] == max(unfitted)
    assert summary["steps_to_fit_0.99"] <= summary["steps_to_fit"]
    assert summary["steps_to_loss_0.01"] is None
    assert summary["test/accuracy_at_fit"] == summary["test/accuracy"] <= summary["test/accuracy_oracle"]
    assert summary["generalization_gap"] == 1 - summary["test/accuracy"]
    assert evaluation.reason(trainer) == f"fitted at step {trainer.global_step}"
    examples = evaluation.examples()
    assert int(examples["first_step_fitted"].min()) > 0
    assert int(examples["first_step_fitted"].max()) <= trainer.global_step
    assert float(examples["final_loss"].mean()) == pytest.approx(summary["fit/loss"])
    assert int(examples["times_forgotten"].sum()) > 0, "memorising 100 random labels forgets some on the way"


def test_early_stopping_goes_back_to_the_best_weights() -> None:
    evaluation = Evaluation(patience=5)
    datamodule = PartialLabels(Digits(), probability=0.6, num_train=300, validation=0.2)
    model, trainer, rows = fit(datamodule, evaluation, steps=3000, width=512)
    assert trainer.global_step < 3000
    curve = {step: row["validation/accuracy_corrupted"] for step, row in rows.rows.items() if "fit/loss" in row}
    best = max(curve, key=lambda step: (curve[step], -step))
    summary = evaluation.summary(trainer, model)
    assert summary["early_stopping_step"] == best
    assert list(curve)[-1 - 5] == best
    for name in ("fit/accuracy", "test/accuracy", "validation/accuracy", "validation/accuracy_corrupted"):
        assert summary[name] == rows.rows[best][name]
    assert evaluation.reason(trainer).startswith("early stopping")


def test_early_stopping_needs_a_held_out_part() -> None:
    with pytest.raises(ValueError, match=r"add data.validation=0.1"):
        fit(TrueLabels(Digits()), Evaluation(patience=5), steps=10)


def test_a_loss_that_is_no_number_ends_training_and_suggests_a_rate() -> None:
    with pytest.raises(TrainingDivergedError, match=r"learning rate 1e\+20.*optimizer\.lr=1e\+19"):
        fit(TrueLabels(Digits()), Evaluation(), steps=200, learning_rate=1e20)


def test_an_exhausted_learning_rate_is_given_as_the_reason() -> None:
    evaluation = Evaluation()
    _, trainer, _ = fit(RandomLabels(Digits()), evaluation, steps=24, schedule=lambda step, total: 0.5**step)
    assert not evaluation.fitted
    assert "fell below 1 % of its start at step 8" in evaluation.reason(trainer)


def test_state_survives_a_checkpoint() -> None:
    evaluation = Evaluation(patience=1)
    evaluation.best.load_state_dict(  # type: ignore[union-attr]
        {"accuracy": 0.5, "step": 3, "weights": {"a": torch.ones(2)}, "num_evaluations_since": 0}
    )
    evaluation.window.steps.append((1.5, 3, 4))
    evaluation.of_evaluations["oracle"].load_state_dict({"best": {"test/accuracy_oracle": math.pi}})
    other = Evaluation(patience=1)
    other.load_state_dict(pickle.loads(pickle.dumps(evaluation.state_dict())))
    assert other.state_dict()["histories"].keys() == evaluation.state_dict()["histories"].keys()
    assert list(other.window.steps) == [(1.5, 3, 4)]
    assert other.of_evaluations["oracle"].summary() == {"test/accuracy_oracle": math.pi}
    assert other.best is not None
    assert (other.best.accuracy, other.best.step, other.best.weights["a"].tolist()) == (0.5, 3, [1, 1])


def test_a_history_of_one_s_own_is_told_of_evaluations_kept_and_written() -> None:
    class Margin(History[Seen]):
        kept = ("greatest",)

        def __init__(self) -> None:
            self.greatest = torch.empty(0)

        def update(self, step: int, seen: Seen) -> None:
            self.greatest = torch.maximum(self.greatest, seen.train.losses) if step > 8 else seen.train.losses

        def summary(self) -> dict[str, float]:
            return {"greatest_loss": float(self.greatest.max())}

        def examples(self) -> dict[str, torch.Tensor]:
            return {"greatest_loss": self.greatest}

    evaluation = Evaluation(histories={"margin": Margin()})
    model, trainer, rows = fit(TrueLabels(Digits(), num_train=1024), evaluation, steps=24)
    summary, examples = evaluation.summary(trainer, model), evaluation.examples()
    assert summary["greatest_loss"] == float(examples["greatest_loss"].max())
    assert bool((examples["greatest_loss"] >= examples["final_loss"]).all())
    other = Margin()
    Evaluation(histories={"margin": other}).load_state_dict(evaluation.state_dict())
    assert torch.equal(other.greatest, examples["greatest_loss"])
    assert all(isinstance(value, float | int) for row in rows.rows.values() for value in row.values()), (
        "a logger that does not say that it takes text is given none"
    )


@pytest.mark.parametrize(
    ("keywords", "key"),
    [
        ({"every": 0}, "evaluate_every=0"),
        ({"every": "often"}, "evaluate_every='often'"),
        ({"fit_threshold": 1.5}, "fit_threshold=1.5"),
        ({"log_every": 0.5}, "log_every=0.5"),
        ({"patience": 0}, "regularizer.early_stopping=0"),
    ],
)
def test_bad_values_name_their_key(keywords: dict[str, object], key: str) -> None:
    with pytest.raises(ValueError, match=key):
        Evaluation(**keywords)  # type: ignore[arg-type]
