"""Steps are taken, counted and averaged as a plain loop would."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F

from one_epoch import never, one_epoch
from rethinkgen.data.batches import Blocks
from rethinkgen.data.corruption import RandomLabels, RandomSigns, TrueLabels
from rethinkgen.data.module import CorruptedImages
from rethinkgen.data.source import Digits
from rethinkgen.measure.predict import predict
from rethinkgen.model.inception import Inception
from rethinkgen.model.mlp import MLP
from rethinkgen.train.evaluation import Evaluation
from rethinkgen.train.loss import CrossEntropy
from rethinkgen.train.schedule import exponential


def trainer(steps: int, **keywords: Any) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",
        max_steps=steps,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **keywords,
    )


def bare_loop(model: MLP, datamodule: CorruptedImages, steps: int, smoothing: float, decay: float) -> list[float]:
    """The loop that somebody would write by hand, over the same batches; returns its losses."""
    optimizer = torch.optim.SGD(
        [
            {"params": [p for name, p in model.named_parameters() if name.endswith("weight")], "weight_decay": decay},
            {"params": [p for name, p in model.named_parameters() if name.endswith("bias")]},
        ],
        lr=0.05,
        momentum=0.9,
    )
    losses: list[float] = []
    while True:
        for block in Blocks(datamodule.timetable, 0, lambda: len(losses), never):
            for images, labels, *_ in datamodule.batches(block):
                for group in optimizer.param_groups:
                    group["lr"] = 0.05 * 0.95 ** (len(losses) // 7)
                loss = F.cross_entropy(model.network(images), labels, label_smoothing=smoothing)
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
                if len(losses) == steps:
                    return losses


def test_training_is_that_of_a_loop_written_by_hand() -> None:
    def make(seed: int) -> MLP:
        torch.manual_seed(seed)
        return MLP(
            width=16,
            image_shape=(1, 8, 8),
            num_classes=10,
            loss=CrossEntropy(label_smoothing=0.1),
            optimizer=lambda groups: torch.optim.SGD(groups, lr=0.05, momentum=0.9, weight_decay=0.01),
            schedule=lambda step, total: exponential(step, total, factor=0.95, every=7),
        )

    steps, ours, theirs = 30, make(0), make(0)
    datamodule = RandomLabels(Digits(), num_train=1000)
    evaluation = Evaluation(every=100)
    ours_trainer = trainer(steps, callbacks=[evaluation])
    ours_trainer.fit(ours, datamodule=datamodule)

    theirs_data = RandomLabels(Digits(), num_train=1000)
    theirs_data.setup()
    losses = bare_loop(theirs, theirs_data, steps, smoothing=0.1, decay=0.01)
    for name, weight in theirs.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], weight, rtol=1e-4, atol=1e-6)
    seen = [loss_sum / size for loss_sum, _, size in evaluation.window.steps]
    assert seen == pytest.approx(losses[-len(seen) :], rel=1e-4)


def test_every_optimizer_step_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = 0
    step = torch.optim.SGD.step

    def counting(*arguments: Any, **keywords: Any) -> Any:
        nonlocal taken
        taken += 1
        return step(*arguments, **keywords)

    monkeypatch.setattr(torch.optim.SGD, "step", counting)
    ours = trainer(-1, max_epochs=3)
    ours.fit(MLP(width=4), datamodule=TrueLabels(Digits(), batch_size=100))
    assert taken == ours.global_step == 3 * 15
    budget = trainer(50)
    budget.fit(MLP(width=4), datamodule=TrueLabels(Digits(), batch_size=100))
    assert budget.global_step == 50


@pytest.mark.parametrize("make", [MLP, Inception])
def test_a_notebook_needs_neither_config_nor_callbacks(make: Callable[..., pl.LightningModule]) -> None:
    ours = trainer(4)
    model = make()
    ours.fit(model, datamodule=TrueLabels(Digits(), num_train=200, batch_size=100))
    assert model.image_shape == (1, 8, 8)
    assert {"fit/accuracy", "test/accuracy", "train/loss"} <= ours.callback_metrics.keys()


def test_one_output_is_trained_with_the_logistic_loss() -> None:
    torch.manual_seed(0)
    model = MLP(width=16, image_shape=(1, 8, 8), num_classes=2, num_outputs=1)
    assert model.num_parameters == 64 * 16 + 16 + 16 + 1
    theirs = copy.deepcopy(model.network)
    datamodule = RandomSigns(Digits(), num_train=300, batch_size=100)
    evaluation = Evaluation(every=100)
    trainer(12, callbacks=[evaluation]).fit(model, datamodule=datamodule)

    optimizer = torch.optim.SGD(theirs.parameters(), lr=0.01, momentum=0.9)
    losses: list[float] = []
    for epoch in range(4):
        for block in one_epoch(300, 100, 0, epoch):
            for images, labels, *_ in datamodule.batches(block):
                loss = F.binary_cross_entropy_with_logits(theirs(images)[:, 0], labels.float())
                optimizer.zero_grad()
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
    seen = [loss_sum / size for loss_sum, _, size in evaluation.window.steps]
    assert seen == pytest.approx(losses, rel=1e-4)
    for name, weight in theirs.state_dict().items():
        torch.testing.assert_close(model.network.state_dict()[name], weight, rtol=1e-4, atol=1e-6)

    split = datamodule.splits["train"]
    predictions = predict(model, split.inputs, split.labels)
    with torch.no_grad():
        logits = model.network(split.inputs)[:, 0]
    expected = F.binary_cross_entropy_with_logits(logits, split.labels.float(), reduction="none")
    torch.testing.assert_close(predictions.losses, expected)
    assert torch.equal(predictions.classes, (logits > 0).long())


def test_the_datamodule_says_how_many_outputs_a_network_has() -> None:
    for kind, num_outputs in ((RandomSigns, 1), (TrueLabels, 10)):
        model = MLP(width=4)
        trainer(1).fit(model, datamodule=kind(Digits(), num_train=200))
        assert model.network[-1].out_features == model.num_outputs == num_outputs  # type: ignore[index, union-attr]


@pytest.mark.parametrize(("num_classes", "num_outputs"), [(10, 1), (2, 3), (None, 1)])
def test_outputs_are_as_many_as_classes_or_one_for_two(num_classes: int | None, num_outputs: int) -> None:
    with pytest.raises(ValueError, match=rf"num_outputs={num_outputs}: .* one for each class; or 1 for 2"):
        MLP(image_shape=(1, 8, 8), num_classes=num_classes, num_outputs=num_outputs)


def test_bf16_trains_in_bfloat16_and_evaluates_in_float32() -> None:
    kinds = set()

    class Watched(MLP):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits = super().forward(images)
            kinds.add((self.training, logits.dtype))
            return logits

    trainer(12, precision="bf16-mixed").fit(Watched(width=8), datamodule=TrueLabels(Digits()))
    assert kinds == {(True, torch.bfloat16), (False, torch.float32)}


def test_weight_decay_spares_biases_and_shifts() -> None:
    model = Inception(image_shape=(1, 8, 8), num_classes=3)
    groups: list[dict[str, Any]] = []

    def make(given: list[dict[str, Any]]) -> torch.optim.Optimizer:
        groups.extend(given)
        return torch.optim.SGD(given, lr=0.1, weight_decay=0.5)

    model.make_optimizer = make
    decays = [group["weight_decay"] for group in model.configure_optimizers()["optimizer"].param_groups]
    assert decays == [0.5, 0.0]
    assert all(parameter.ndim > 1 for parameter in groups[0]["params"])
    assert sum(parameter.numel() for group in groups for parameter in group["params"]) == model.num_parameters


def test_a_model_without_shape_or_datamodule_says_what_it_needs() -> None:
    loader = torch.utils.data.DataLoader(torch.zeros(4, 1))
    with pytest.raises(ValueError, match="give image_shape and num_classes"):
        trainer(1).fit(MLP(), train_dataloaders=loader)
