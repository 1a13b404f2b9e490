"""Regularizers of ours that are a piece of code, each against a slow or obvious version."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributions import Categorical

from conftest import TINY, Command, read_result
from rethinkgen.data.batches import Batch
from rethinkgen.data.corruption import PartialLabels
from rethinkgen.data.module import CorruptedImages
from rethinkgen.data.source import Digits
from rethinkgen.measure.predict import batch_norms
from rethinkgen.model.mlp import MLP
from rethinkgen.run.build import build
from rethinkgen.train.checkpoint import AtomicCheckpointIO, ExactCheckpoint
from rethinkgen.train.classifier import Classifier, num_call_arguments
from rethinkgen.train.evaluation import Evaluation
from rethinkgen.train.loss import CrossEntropy
from rethinkgen.train.regularizer import (
    Adversarial,
    ConfidencePenalty,
    HiddenDropout,
    HiddenNoise,
    InputDropout,
    InputNoise,
)

STEPS = 9
OF_ARPIT: dict[str, Callable[[float], Any]] = {
    "input_dropout": InputDropout,
    "input_noise": InputNoise,
    "hidden_dropout": HiddenDropout,
    "hidden_noise": HiddenNoise,
    "adversarial": lambda weight: Adversarial(weight, radius=40, step_size=20, noise=10, num_iterations=2),
}


def data(**keywords: Any) -> CorruptedImages:
    return PartialLabels(Digits(), probability=0.4, **{"num_train": 90, "batch_size": 25} | keywords)  # type: ignore[arg-type]


def make(*regularizers: Any, **keywords: Any) -> Classifier:
    torch.manual_seed(0)
    mixes = [each for each in regularizers if num_call_arguments(type(each)) == 2]
    penalties = [each for each in regularizers if each not in mixes]
    return MLP(
        image_shape=(1, 8, 8),
        num_classes=10,
        **{"width": 16, "learning_rate": 0.05, "mix": mixes[0] if mixes else None, "penalties": penalties} | keywords,
    )


def fit(
    model: Classifier, datamodule: CorruptedImages | None = None, folder: Path | None = None, *callbacks: Any
) -> Any:
    """Train; from the checkpoint in ``folder``, where there is one."""
    last = None if folder is None else folder / "last.ckpt"
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=STEPS,
        max_epochs=-1,
        callbacks=[
            Evaluation(every=0.5),
            *([] if folder is None else [ExactCheckpoint(folder, every_seconds=0)]),
            *callbacks,
        ],
        plugins=[AtomicCheckpointIO()],
        logger=False,
        enable_checkpointing=folder is not None,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    torch.manual_seed(1)
    trainer.fit(model, datamodule or data(), ckpt_path=last if last and last.exists() else None, weights_only=True)
    return model.state_dict()


def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return all(torch.equal(value, other[name]) for name, value in one.items())


def test_confidence_penalty_is_minus_the_entropy_of_the_predictions() -> None:
    logits = 3 * torch.randn(20, 7, generator=torch.Generator().manual_seed(0))
    found = ConfidencePenalty(0.3)(nn.Identity(), logits, torch.zeros(20, dtype=torch.long))
    torch.testing.assert_close(found, -0.3 * Categorical(logits=logits).entropy().mean())
    assert ConfidencePenalty(0.3)(nn.Identity(), logits.bfloat16(), torch.zeros(20)).dtype == torch.float32


def test_a_class_and_a_yaml_are_all_that_it_needs(train: Command) -> None:
    run = [*TINY, "max_steps=60"]
    plain, penalised = (read_result(train(*run, f"regularizer={chosen}")) for chosen in ("[]", "[confidence_penalty]"))
    assert penalised["choices"]["regularizer"] == ["confidence_penalty"]
    assert penalised["run_id"] != plain["run_id"]
    assert penalised["metrics"]["fit/loss"] > plain["metrics"]["fit/loss"]
    with pytest.raises(ValueError, match=r"regularizer\.confidence_penalty\.strength=0"):
        build({"_target_": "rethinkgen.train.regularizer.ConfidencePenalty", "strength": 0}, "regularizer")


def a_batch(count: int = 30) -> Batch:
    draws = torch.Generator().manual_seed(3)
    images = torch.randn(count, 1, 8, 8, generator=draws)
    return Batch(images, torch.randint(10, (count,), generator=draws), count, torch.arange(count))


def test_input_noise_is_added_to_each_value() -> None:
    batch = a_batch()
    torch.manual_seed(7)
    noise = torch.randn(batch.images.shape)
    torch.manual_seed(7)
    found = InputNoise(0.3)(batch, nn.Identity())
    torch.testing.assert_close(
        found.images, torch.stack([x + 0.3 * e for x, e in zip(batch.images, noise, strict=True)])
    )
    assert found.labels is batch.labels
    assert found.other_labels is None


def test_input_dropout_leaves_a_value_out_or_makes_it_larger() -> None:
    batch = a_batch(500)
    torch.manual_seed(7)
    found = InputDropout(0.2)(batch, nn.Identity()).images
    is_left = found != 0
    torch.testing.assert_close(found[is_left], batch.images[is_left] / 0.8)
    assert float(is_left.double().mean()) == pytest.approx(0.8, abs=4 * (0.2 * 0.8 / found.numel()) ** 0.5)


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        (HiddenNoise, lambda units: units + 0.3 * torch.randn_like(units)),
        (HiddenDropout, lambda units: F.dropout(units, 0.3)),
    ],
)
def test_hidden_units_are_changed_behind_each_relu_in_training_alone(
    kind: type[HiddenNoise | HiddenDropout], change: Callable[[Tensor], Tensor]
) -> None:
    images = a_batch().images
    model, chosen = make(depth=2), kind(0.3)
    first, second, last = (module for module in model.modules() if isinstance(module, nn.Linear))
    plain = model(images)
    hooks = chosen.begin(model)
    torch.manual_seed(7)
    found = model(images)
    torch.manual_seed(7)
    expected = last(change(second(change(first(images.flatten(1)).relu())).relu()))
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert not torch.equal(found, plain)
    assert torch.equal(model.eval()(images), plain)
    for hook in hooks:
        hook.remove()
    assert torch.equal(model.train()(images), plain)
    assert float(chosen(model, plain, torch.zeros(30))) == 0


def begun(chosen: Adversarial, model: Classifier, low: float = -1.0, high: float = 1.5) -> None:
    """Begin as a trainer would, on training images that lie between ``low`` and ``high``."""
    inputs = torch.linspace(low, high, 64).view(1, 1, 8, 8)
    splits = {"train": type("Split", (), {"inputs": inputs})}
    datamodule = type("Data", (), {"splits": splits, "mixup": 0.0})
    model.__dict__["_trainer"] = type("Trainer", (), {"datamodule": datamodule, "barebones": False})()
    chosen.begin(model)


def adversarial_images(model: nn.Module, images: Tensor, noises: Tensor, level: float, chosen: Adversarial) -> Tensor:
    """One example after the other, as the paper's algorithm is printed."""
    made = []
    for i in range(len(images)):
        x = images[i : i + 1]
        k = int(model(x).argmax())
        now = x
        for noise in noises[:, i : i + 1]:
            now = now.detach().requires_grad_(True)
            (gradient,) = torch.autograd.grad(F.cross_entropy(model(now), torch.tensor([k])), now)
            moved = now.detach() + level * (chosen.step_size * gradient.sign() + chosen.noise * noise)
            now = torch.minimum(torch.maximum(moved, x - level * chosen.radius), x + level * chosen.radius)
            if int(model(now).argmax()) != k:
                break
        made.append(now.detach())
    return torch.cat(made)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_adversarial_images_and_their_share_of_the_loss(smoothing: float) -> None:
    batch, chosen = a_batch(), Adversarial(0.3, radius=6, step_size=3, noise=2, num_iterations=3)
    model = make(chosen, dropout=0.5, loss=CrossEntropy(smoothing)).double()
    images = batch.images.double()
    begun(chosen, model)
    torch.manual_seed(7)
    logits = model(images)
    state = torch.get_rng_state()
    loss = F.cross_entropy(logits, batch.labels, label_smoothing=smoothing)
    (loss + chosen(model, logits, batch.labels)).backward()
    found = [p.grad for p in model.parameters()]

    torch.set_rng_state(state)
    noises = torch.stack([torch.randn_like(images) for _ in range(3)])
    after_search = torch.get_rng_state()
    model.eval()
    theirs = adversarial_images(model, images, noises, 2.5 / 255, chosen)
    changed = model(theirs).argmax(1) != model(images).argmax(1)
    assert 0 < int(changed.sum()) < 30, "some have a critical image, some have not"
    model.train()
    model.zero_grad()
    torch.manual_seed(7)
    one = F.cross_entropy(model(images), batch.labels, label_smoothing=smoothing)
    torch.set_rng_state(after_search)
    two = F.cross_entropy(model(theirs), batch.labels, label_smoothing=smoothing)
    (0.7 * one + 0.3 * two).backward()
    for ours, parameter in zip(found, model.parameters(), strict=True):
        torch.testing.assert_close(ours, parameter.grad)


def test_batch_norm_takes_no_note_of_adversarial_images() -> None:
    batch, chosen = a_batch(), Adversarial(0.5, radius=30)
    model, plain = make(batch_norm=True), make(batch_norm=True)
    begun(chosen, model)
    chosen(model, model(batch.images), batch.labels)
    plain(batch.images)
    assert same(model.state_dict(), plain.state_dict())
    assert all(norm.track_running_stats for norm in batch_norms(model))
    assert all(module.training for module in model.modules())


def test_two_ranks_have_the_adversarial_gradient_of_one() -> None:
    """A rank has every second example, and its penalty is weighed by how many these are."""
    batch, chosen = a_batch(25), Adversarial(0.5, radius=30, noise=0.0)
    model = make().double()
    begun(chosen, model)

    def gradient(*shares: slice) -> list[Tensor]:
        model.zero_grad()
        for share in shares:
            labels = batch.labels[share]
            logits = model(batch.images[share].double())
            (chosen(model, logits, labels) * (len(labels) / 25)).backward()
        return [p.grad.clone() for p in model.parameters() if p.grad is not None]

    for whole, shared in zip(gradient(slice(None)), gradient(slice(0, None, 2), slice(1, None, 2)), strict=True):
        torch.testing.assert_close(shared, whole)


@pytest.mark.parametrize("name", OF_ARPIT)
def test_at_strength_zero_it_is_plain_training_to_the_bit_and_otherwise_not(name: str) -> None:
    plain = fit(make(dropout=0.3))
    assert same(fit(make(OF_ARPIT[name](0.0), dropout=0.3)), plain)
    assert not same(fit(make(OF_ARPIT[name](0.3), dropout=0.3)), plain)


class PowerCut(pl.Callback):
    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step >= 5:
            raise KeyError("power cut")


@pytest.mark.parametrize("name", OF_ARPIT)
def test_it_goes_on_exactly(name: str, tmp_path: Path) -> None:
    undisturbed = fit(make(OF_ARPIT[name](0.3)), None, tmp_path / "undisturbed")
    with pytest.raises(KeyError, match="power cut"):
        fit(make(OF_ARPIT[name](0.3)), None, tmp_path / "cut", PowerCut())
    assert same(fit(make(OF_ARPIT[name](0.3)), None, tmp_path / "cut"), undisturbed)


def test_adversarial_refuses_what_it_has_no_images_of() -> None:
    with pytest.raises(ValueError, match=r"adversarial\.weight=0\.3: a mixed image .* without regularizer\.mixup"):
        fit(make(OF_ARPIT["adversarial"](0.3)), data(mixup=1.0))
    with pytest.raises(ValueError, match=r"adversarial\.weight=0\.3 loss=Own: .* loss=cross_entropy"):
        fit(make(OF_ARPIT["adversarial"](0.3), loss=type("Own", (CrossEntropy,), {})()))
    streamed: Any = type("Data", (), {"splits": {"train": type("Split", (), {"inputs": object()})}, "mixup": 0.0})
    with pytest.raises(ValueError, match=r"adversarial\.weight=0\.3: the range of streamed images is not known"):
        make(OF_ARPIT["adversarial"](0.3)).check_parts(streamed, None)


@pytest.mark.parametrize("name", ["hidden_dropout", "hidden_noise"])
def test_hidden_units_are_those_of_relus(name: str) -> None:
    with pytest.raises(ValueError, match=rf"regularizer=\[{name}\]: MLP has no torch\.nn\.ReLU"):
        OF_ARPIT[name](0.1).begin(make(width=None, depth=0))


@pytest.mark.parametrize(
    ("name", "key", "value", "allowed"),
    [
        ("InputDropout", "rate", 1.0, "from 0 to below 1"),
        ("InputNoise", "std", -0.1, "from 0"),
        ("HiddenDropout", "rate", "much", "from 0 to below 1"),
        ("HiddenNoise", "std", float("nan"), "from 0"),
        ("Adversarial", "weight", 1.1, "from 0 to 1"),
        ("Adversarial", "radius", 0, "above 0"),
        ("Adversarial", "num_iterations", 0, "at least 1"),
    ],
)
def test_values_that_are_not_allowed(name: str, key: str, value: Any, allowed: str) -> None:
    node = {"_target_": f"rethinkgen.train.regularizer.{name}", "weight": 0.5, key: value}
    if name != "Adversarial":
        del node["weight"]
    with pytest.raises(ValueError, match=rf"regularizer\.[a-z_]+\.{key}={value!r}: .*{allowed}"):
        build(node, "regularizer")


def test_those_of_arpit_from_the_command_line(train: Command) -> None:
    run = [*TINY, "max_steps=20", "data.num_train=200"]
    chosen = [[], ["dropout", "adversarial"], ["input_dropout"], ["input_noise"], ["hidden_dropout", "hidden_noise"]]
    results = [read_result(train(*run, f"regularizer=[{','.join(names)}]")) for names in chosen]
    assert [result["choices"]["regularizer"] for result in results] == [sorted(names) for names in chosen]
    assert len({result["run_id"] for result in results}) == len(chosen)
    assert len({result["metrics"]["fit/loss"] for result in results}) == len(chosen)
