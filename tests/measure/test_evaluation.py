"""The numbers against their definitions, written out by hand."""

from __future__ import annotations

import math

import pytest
import pytorch_lightning as pl
import torch
from torch import nn

from rethinkgen.data.corruption import PartialLabels, RandomLabels, TrueLabels
from rethinkgen.data.module import Split
from rethinkgen.data.source import Digits
from rethinkgen.errors import TrainingDivergedError
from rethinkgen.measure.evaluation import (
    Evaluation,
    Predictions,
    fit_metrics,
    has_batch_norm,
    predict,
    recalibrated_batch_norm,
    test_metrics,
    validation_metrics,
)
from rethinkgen.model.inception import Inception
from rethinkgen.model.mlp import MLP


def split(given: list[int], original: list[int]) -> Split:
    labels, true = torch.tensor(given), torch.tensor(original)
    return Split(
        torch.zeros(len(given), 1, 1, 1), labels, true, labels != true, labels != true, torch.arange(len(given))
    )


def test_fit_tells_memorised_from_corrected_from_clean() -> None:
    # Wrong labels at 0, 1, 2: memorised, corrected, neither. Right labels at 3, 4: right, wrong.
    predictions = Predictions(torch.tensor([1.0, 2, 3, 4, 5]), torch.tensor([1, 0, 2, 0, 1]))
    metrics = fit_metrics(predictions, split([1, 1, 1, 0, 0], [0, 0, 0, 0, 0]))
    assert metrics == pytest.approx(
        {
            "fit/loss": 3,
            "fit/accuracy": 2 / 5,
            "fit/accuracy_corrupted": 1 / 3,
            "fit/accuracy_corrected": 1 / 3,
            "fit/accuracy_clean": 1 / 2,
        }
    )


def test_fit_without_wrong_labels_has_no_names_for_them() -> None:
    predictions = Predictions(torch.ones(2), torch.tensor([0, 1]))
    assert fit_metrics(predictions, split([0, 0], [0, 0])) == {"fit/loss": 1, "fit/accuracy": 0.5}
    assert "fit/accuracy_clean" not in fit_metrics(predictions, split([1, 1], [0, 0]))


def test_validation_is_judged_by_true_and_by_given_labels() -> None:
    predictions = Predictions(torch.ones(4), torch.tensor([0, 0, 0, 1]))
    metrics = validation_metrics(predictions, split([1, 0, 0, 1], [0, 0, 0, 0]))
    assert metrics == {"validation/loss": 1, "validation/accuracy": 3 / 4, "validation/accuracy_corrupted": 3 / 4}
    assert test_metrics(predictions, split([0, 0, 0, 0], [0, 0, 0, 0])) == {"test/loss": 1, "test/accuracy": 3 / 4}


def test_top5_is_given_of_more_than_ten_classes() -> None:
    class Table(nn.Module):
        """Returns the first values of each image as logits."""

        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.flatten(1)

    def predicted(num_classes: int) -> Predictions:
        logits = torch.arange(num_classes, dtype=torch.float32).expand(num_classes, 1, 1, -1)
        return predict(Table(), logits, torch.arange(num_classes))

    eleven = predicted(11)
    assert eleven.is_in_top is not None
    assert eleven.is_in_top.tolist() == [False] * 6 + [True] * 5
    labels = list(range(11))
    assert fit_metrics(eleven, split(labels, labels))["fit/accuracy_top5"] == pytest.approx(5 / 11)
    assert test_metrics(eleven, split(labels, labels))["test/accuracy_top5"] == pytest.approx(5 / 11)
    assert predicted(10).is_in_top is None


def test_predictions_are_those_of_each_image_alone_in_float32() -> None:
    torch.manual_seed(0)
    model = MLP(width=8, dropout=0.5, image_shape=(1, 2, 2), num_classes=3)
    model.train()
    inputs, labels = torch.randn(1201, 1, 2, 2), torch.randint(3, (1201,))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        predictions = predict(model, inputs, labels)
    assert model.training
    assert predictions.losses.dtype == torch.float32
    model.eval()
    with torch.no_grad():
        logits = torch.cat([model(image[None]) for image in inputs[:50]])
    expected = -logits.log_softmax(1)[torch.arange(50), labels[:50]]
    torch.testing.assert_close(predictions.losses[:50], expected)
    assert torch.equal(predictions.classes[:50], logits.argmax(1))
    assert len(predictions.classes) == 1201


def test_recalibrated_batch_norm_has_the_statistics_of_the_data_for_a_while() -> None:
    norm = nn.BatchNorm2d(2)
    norm.eval()
    inputs = torch.randn(64, 2, 3, 3) * 3 + 5
    with recalibrated_batch_norm(norm, inputs, batch_size=16):
        torch.testing.assert_close(norm.running_mean, inputs.mean((0, 2, 3)))
        assert norm.training
    assert norm.running_mean is not None
    assert norm.running_mean.tolist() == [0, 0]
    assert (norm.momentum, norm.training, int(norm.num_batches_tracked)) == (0.1, False, 0)  # type: ignore[arg-type]
    assert has_batch_norm(Inception(image_shape=(1, 8, 8), num_classes=2))
    assert not has_batch_norm(MLP(image_shape=(1, 8, 8), num_classes=2))


def evaluated_steps(every: float, steps_per_epoch: int, total: int) -> list[int]:
    evaluation = Evaluation(every=every)
    evaluation.steps_per_epoch, evaluation.total_steps = steps_per_epoch, total
    steps, step = [], 0
    while step < total:
        step = evaluation.next_evaluation(step)
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
    evaluation.best = {"accuracy": 0.5, "step": 3, "weights": {"a": torch.ones(2)}, "num_evaluations_since": 0}
    evaluation.window.steps.append((1.5, 3, 4))
    evaluation.oracle = {"test/accuracy_oracle": math.pi}
    other = Evaluation(patience=1)
    other.load_state_dict(evaluation.state_dict())
    assert other.state_dict().keys() == evaluation.state_dict().keys()
    assert (other.oracle, list(other.window.steps)) == ({"test/accuracy_oracle": math.pi}, [(1.5, 3, 4)])


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
