from __future__ import annotations

from pathlib import Path

import pandas as pd
import pytest
import torch

from conftest import TINY, Command, read_result
from rethinkgen.data.corruption import PartialLabels
from rethinkgen.data.source import Digits
from rethinkgen.data.timetable import Timetable
from rethinkgen.measure.fit import fit_metrics, weights_digest
from rethinkgen.measure.predict import predict
from rethinkgen.model.mlp import MLP
from rethinkgen.run.training import total_budget


def weights(folder: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(folder / "weights/end.pt", weights_only=True)
    return state


def network(folder: Path) -> MLP:
    model = MLP(width=16, image_shape=(1, 8, 8), num_classes=10)
    model.load_state_dict(weights(folder))
    return model


def test_weights_are_of_the_network_that_the_metrics_are_about(train: Command) -> None:
    early = [
        "regularizer=[early_stopping]",
        "data.validation=0.2",
        "data.corruption=partial_labels",
        "data.num_train=500",
    ]
    folder = train(*TINY, *early, "max_steps=400")
    metrics = read_result(folder)["metrics"]
    assert metrics["early_stopping_step"] < metrics["steps"]
    datamodule = PartialLabels(Digits(), probability=0.5, validation=0.2, num_train=500)
    datamodule.setup()
    split = datamodule.splits["train"]
    ours = fit_metrics(predict(network(folder), split.inputs, split.labels), split)
    assert ours == pytest.approx({name: metrics[name] for name in ours})
    table = pd.read_csv(folder / "metrics.csv").set_index("step")
    digests = table["weights_digest"].dropna()
    assert weights_digest(network(folder)) == digests[metrics["early_stopping_step"]] != digests[metrics["steps"]]


def test_corruptions_start_from_the_same_weights_for_the_same_seed(train: Command) -> None:
    # A step of next to nothing: what is saved are the initial weights.
    still = [*TINY, "max_steps=1", "model.learning_rate=1e-30"]
    true, noise = weights(train(*still)), weights(train(*still, "data.corruption=gaussian"))
    other = weights(train(*still, "seed=1"))
    assert all(torch.equal(true[name], noise[name]) for name in ("network.1.weight", "network.3.weight"))
    assert not torch.equal(true["network.1.weight"], other["network.1.weight"])


def test_budget_in_steps_or_epochs() -> None:
    assert total_budget({"max_steps": 30, "max_epochs": None}, Timetable(12, 1)) == 30
    assert total_budget({"max_steps": 30, "max_epochs": 2.5}, Timetable(12, 1)) == 30
    assert total_budget({"max_steps": 30, "max_epochs": 1e-9}, Timetable(12, 1)) == 1


@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed", "64-true"])
def test_precisions(train: Command, precision: str) -> None:
    folder = train(*TINY, "max_steps=60", f"trainer.precision={precision}")
    assert read_result(folder)["metrics"]["test/accuracy"] > 0.5


@pytest.mark.parametrize("schedule", ["constant", "step", "cosine"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_optimizers_and_schedules_train(train: Command, optimizer: str, schedule: str) -> None:
    folder = train(*TINY, "max_steps=60", f"optimizer={optimizer}", f"schedule={schedule}", "log_every=1")
    rows = (folder / "metrics.csv").read_text().splitlines()
    first, last = (float(row.split(",")[rows[0].split(",").index("learning_rate")]) for row in (rows[1], rows[-1]))
    expected = {"constant": 1, "step": 0.01, "cosine": 0.0}[schedule]
    assert last / first == pytest.approx(expected, abs=1e-3)
    assert read_result(folder)["metrics"]["train/loss"] < 2.2
