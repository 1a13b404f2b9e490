"""What may take part in a step, each against a loop that somebody would write by hand."""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from one_epoch import one_epoch
from rethinkgen.data.batches import Batch, micro_batch_sizes
from rethinkgen.data.corruption import PartialLabels
from rethinkgen.data.draws import generator
from rethinkgen.data.module import CorruptedImages
from rethinkgen.data.source import Digits
from rethinkgen.measure.predict import batch_norms
from rethinkgen.model.inception import Inception
from rethinkgen.model.mlp import MLP
from rethinkgen.train.checkpoint import AtomicCheckpointIO, ExactCheckpoint
from rethinkgen.train.classifier import Classifier
from rethinkgen.train.evaluation import Evaluation
from rethinkgen.train.loss import CrossEntropy
from rethinkgen.train.optimizer import SAM
from rethinkgen.train.robust_loss import EarlyLearningRegularization

STEPS = 12


def sgd(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=0.05, momentum=0.9)


def make(kind: type[Classifier] = MLP, **keywords: Any) -> Classifier:
    torch.manual_seed(0)
    keywords = {"width": 16} | keywords if kind is MLP else keywords
    return kind(image_shape=(1, 8, 8), num_classes=10, **{"optimizer": sgd} | keywords)  # type: ignore[arg-type]


def data(**keywords: Any) -> CorruptedImages:
    return PartialLabels(Digits(), probability=0.4, **{"num_train": 210, "batch_size": 50} | keywords)  # type: ignore[arg-type]


def fit(model: Classifier, datamodule: CorruptedImages, steps: int = STEPS, **keywords: Any) -> pl.Trainer:
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=steps,
        precision="64-true",
        **{"logger": False, "enable_checkpointing": False, "callbacks": [Evaluation(every=100)]} | keywords,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, datamodule)
    return trainer


def by_hand(
    model: Classifier,
    datamodule: CorruptedImages,
    objective: Callable[[nn.Module, Batch], Tensor],
    take: Callable[[torch.optim.Optimizer, Callable[[], None]], None] | None = None,
) -> dict[str, Tensor]:
    """Train a copy with ``objective``; ``take`` takes the step, given what computes the gradient."""
    datamodule.setup()
    model = copy.deepcopy(model).double()
    optimizer = sgd([{"params": list(model.parameters())}])
    timetable = datamodule.timetable
    for step in range(STEPS):
        epoch, position = timetable.place(step)
        blocks = one_epoch(
            timetable.num_examples, 50, 0, epoch, lambda at: at + 1, position=position, paired=datamodule.mixup > 0
        )
        (batch,) = datamodule.batches(next(iter(blocks)))
        batch = batch._replace(images=batch.images.double())

        def backward(batch: Batch = batch) -> None:
            optimizer.zero_grad()
            objective(model, batch).backward()

        if take is None:
            backward()
            optimizer.step()
        else:
            take(optimizer, backward)
    return model.state_dict()


def assert_equal(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> None:
    for name, value in theirs.items():
        torch.testing.assert_close(ours[name].double(), value.double(), rtol=1e-10, atol=1e-12)


def cross_entropy(model: nn.Module, batch: Batch) -> Tensor:
    return F.cross_entropy(model(batch.images), batch.labels)


def test_a_loss_is_given_the_examples_it_is_about() -> None:
    model, datamodule = make(loss=EarlyLearningRegularization(7.0)), data()
    memory = torch.zeros(210, 10, dtype=torch.float64)

    def objective(network: nn.Module, batch: Batch) -> Tensor:
        logits = network(batch.images)
        p = logits.softmax(1).clamp(1e-4, 1 - 1e-4)
        for row, i in enumerate(batch.indices.tolist()):
            memory[i] = 0.7 * memory[i] + 0.3 * (p[row] / p[row].sum()).detach()
        agreement = torch.stack([memory[i] @ p[row] for row, i in enumerate(batch.indices.tolist())])
        return F.cross_entropy(logits, batch.labels) + 7 * (1 - agreement).log().mean()

    theirs = by_hand(make(), datamodule, objective)
    fit(model, datamodule)
    assert_equal(model.state_dict(), theirs)
    torch.testing.assert_close(model.loss.state_dict()["targets"], memory)  # type: ignore[attr-defined]
    assert not any("targets" in name for name in model.state_dict())


class PowerCut(pl.Callback):
    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step >= 7:
            raise KeyError("power cut")


def test_what_a_loss_remembers_is_part_of_a_checkpoint(tmp_path: Path) -> None:
    def run(*callbacks: pl.Callback) -> Classifier:
        model, last = make(loss=EarlyLearningRegularization(7.0)), tmp_path / "last.ckpt"
        trainer = pl.Trainer(
            accelerator="cpu",
            max_steps=STEPS,
            max_epochs=-1,
            callbacks=[Evaluation(every=0.2), ExactCheckpoint(tmp_path, every_seconds=0), *callbacks],
            plugins=[AtomicCheckpointIO()],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(model, data(), ckpt_path=last if last.exists() else None, weights_only=True)
        return model

    undisturbed = run()
    (tmp_path / "last.ckpt").unlink()
    with pytest.raises(KeyError, match="power cut"):
        run(PowerCut())
    resumed = run()
    assert all(torch.equal(value, undisturbed.state_dict()[name]) for name, value in resumed.state_dict().items())
    assert torch.equal(*(each.loss.state_dict()["targets"] for each in (resumed, undisturbed)))  # type: ignore[attr-defined]


def test_what_remembers_examples_and_what_mixes_them_are_refused_together() -> None:
    with pytest.raises(ValueError, match=r"loss=EarlyLearningRegularization: .* without regularizer\.mixup"):
        fit(make(loss=EarlyLearningRegularization(7.0)), data(mixup=1.0))


def test_what_remembers_examples_and_what_shows_each_twice_are_refused_together() -> None:
    with pytest.raises(ValueError, match=r"loss=EarlyLearningRegularization optimizer=SAM: .* shows it each twice"):
        fit(make(loss=EarlyLearningRegularization(7.0), optimizer=lambda groups: SAM(groups, lr=0.05)), data())


class RandomDirection:
    """A penalty that draws when training begins, and again when it goes on."""

    def begin(self, network: nn.Module) -> list[RemovableHandle]:
        self.direction = torch.randn(10)
        return []

    def __call__(self, network: nn.Module, logits: Tensor, labels: Tensor) -> Tensor:
        return (logits @ self.direction.to(logits)).square().mean()


def test_a_penalty_that_draws_goes_on_as_it_began(tmp_path: Path) -> None:
    def run(folder: Path, *callbacks: pl.Callback) -> dict[str, Tensor]:
        pl.seed_everything(5, verbose=False)
        model, last = MLP(width=16, dropout=0.5, penalties=[RandomDirection()]), folder / "last.ckpt"
        trainer = pl.Trainer(
            accelerator="cpu",
            max_steps=STEPS,
            max_epochs=-1,
            callbacks=[ExactCheckpoint(folder, every_seconds=0), *callbacks],
            plugins=[AtomicCheckpointIO()],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(model, data(), ckpt_path=last if last.exists() else None, weights_only=True)
        return model.state_dict()

    undisturbed = run(tmp_path / "undisturbed")
    with pytest.raises(KeyError, match="power cut"):
        run(tmp_path / "cut", PowerCut())
    for name, value in run(tmp_path / "cut").items():
        assert torch.equal(value, undisturbed[name]), name


def test_mixup_is_that_of_a_loop_written_by_hand() -> None:
    datamodule, mixed = data(), data(mixup=0.4)
    shares = [generator("mixup", 0, "train", epoch).beta(0.4, 0.4, 5) for epoch in range(3)]
    taken = iter(np.maximum(np.concatenate(shares), 1 - np.concatenate(shares)))

    def objective(network: nn.Module, batch: Batch) -> Tensor:
        share = float(next(taken))
        order = [*range(1, len(batch.labels)), 0]
        images = share * batch.images + (1 - share) * batch.images[order]
        logits = network(images)
        return share * F.cross_entropy(logits, batch.labels) + (1 - share) * F.cross_entropy(
            logits, batch.labels[order]
        )

    theirs = by_hand(make(), datamodule, objective)
    model = make()
    fit(model, mixed)
    # Images are mixed in float32.
    for name, value in theirs.items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("keywords", [{}, {"flip": True, "rotation": 10.0}])
def test_pairs_are_those_of_the_whole_batch_on_any_number_of_ranks(keywords: dict[str, Any]) -> None:
    datamodule = data(mixup=1.0, **keywords)
    datamodule.setup()

    def batches(rank: int = 0, world_size: int = 1, most: int = 1) -> list[Batch]:
        blocks = one_epoch(210, 50, 0, 2, lambda step: step + most, rank, world_size, paired=True, clock=lambda: 0.0)
        return [batch for block in blocks for batch in datamodule.batches(block)]

    whole, longer = batches(), batches(most=4)
    for rank in range(3):
        for share, one, other in zip(batches(rank, 3), whole, longer, strict=True):
            torch.testing.assert_close(share.images, one.images[rank::3], rtol=0, atol=1e-6)
            assert torch.equal(share.labels, one.labels[rank::3])
            assert share.other_labels is not None
            assert one.other_labels is not None
            assert torch.equal(share.other_labels, one.other_labels[rank::3])
            assert 0.5 <= share.share == one.share == other.share <= 1
            assert torch.equal(one.images, other.images)
    assert len({batch.share for batch in whole}) == len(whole)


def test_a_mix_may_ask_the_network_and_makes_what_is_trained_on() -> None:
    def half_of_most_certain(batch: Batch, network: nn.Module) -> Batch:
        with torch.no_grad():
            certain = network(batch.images).softmax(1).amax(1)
        others = certain.argsort()
        return batch._replace(
            images=0.75 * batch.images.double() + 0.25 * batch.images[others].double(),
            other_labels=batch.labels[others],
            share=0.75,
        )

    def objective(network: nn.Module, batch: Batch) -> Tensor:
        mixed = half_of_most_certain(batch, network)
        logits = network(mixed.images)
        assert mixed.other_labels is not None
        return 0.75 * F.cross_entropy(logits, mixed.labels) + 0.25 * F.cross_entropy(logits, mixed.other_labels)

    datamodule, model = data(), make(mix=half_of_most_certain)
    theirs = by_hand(make(), datamodule, objective)
    fit(model, datamodule)
    assert_equal(model.state_dict(), theirs)


class ActivityPenalty:
    """Of the squared activations behind the first layer."""

    def __init__(self) -> None:
        self.activations = torch.empty(0)

    def begin(self, network: nn.Module) -> Sequence[RemovableHandle]:
        def note(_: nn.Module, __: Any, output: Tensor) -> None:
            self.activations = output.clone()  # a ReLU after it works in place

        return [next(m for m in network.modules() if isinstance(m, nn.Linear)).register_forward_hook(note)]

    def __call__(self, network: nn.Module, logits: Tensor, labels: Tensor) -> Tensor:
        return 0.1 * self.activations.square().mean()


def confidence_penalty(network: nn.Module, logits: Tensor, labels: Tensor) -> Tensor:
    return 0.3 * (logits.softmax(1) * logits.log_softmax(1)).sum(1).mean()


@pytest.mark.parametrize("micro_batch_size", [None, 16])
def test_penalties_are_added_to_the_mean_loss_and_see_the_network_by_hooks(micro_batch_size: int | None) -> None:
    def objective(network: nn.Module, batch: Batch) -> Tensor:
        first = next(m for m in network.modules() if isinstance(m, nn.Linear))
        logits, activations = network(batch.images), first(batch.images.flatten(1))
        entropy = (logits.softmax(1) * logits.log_softmax(1)).sum(1).mean()
        return F.cross_entropy(logits, batch.labels) + 0.1 * activations.square().mean() + 0.3 * entropy

    theirs = by_hand(make(), data(), objective)
    model = make(penalties=[ActivityPenalty(), confidence_penalty])
    fit(model, data(micro_batch_size=micro_batch_size))
    assert_equal(model.state_dict(), theirs)
    assert not any(module._forward_hooks for module in model.modules()), "removed when training ends"


@pytest.mark.parametrize("norm", [0.01, 0.3, 1e9])
def test_a_gradient_is_clipped_to_its_norm(norm: float) -> None:
    def take(optimizer: torch.optim.Optimizer, backward: Callable[[], None]) -> None:
        backward()
        gradients = [p.grad for group in optimizer.param_groups for p in group["params"]]
        length = float(sum(g.square().sum() for g in gradients)) ** 0.5
        for gradient in gradients:
            gradient.mul_(min(1, norm / length))
        optimizer.step()

    theirs = by_hand(make(), data(), cross_entropy, take)
    model = make(gradient_clip=norm)
    fit(model, data())
    for name, value in theirs.items():
        torch.testing.assert_close(model.state_dict()[name], value, rtol=1e-4, atol=1e-7)


def test_clipping_says_what_it_takes() -> None:
    with pytest.raises(ValueError, match=r"gradient_clip=0"):
        make(gradient_clip=0)


@pytest.mark.parametrize("micro_batch_size", [1, 7, 16, 49, 50, 64])
def test_micro_batches_have_the_gradient_of_the_whole_batch(micro_batch_size: int) -> None:
    theirs = by_hand(make(), data(), cross_entropy)
    evaluation = Evaluation(every=100, log_every=1)
    model = make()
    fit(model, data(micro_batch_size=micro_batch_size), callbacks=[evaluation])
    assert_equal(model.state_dict(), theirs)
    whole = Evaluation(every=100, log_every=1)
    fit(make(), data(), callbacks=[whole])
    for ours, other in zip(evaluation.window.steps, whole.window.steps, strict=True):
        assert ours == pytest.approx(other)


@pytest.mark.parametrize(
    ("size", "micro", "world_size", "expected"),
    [
        (50, 16, 1, [(16, 16, 16, 2)]),
        (49, 16, 1, [(16, 16, 17)]),  # a rest of one joins the one before
        (10, 16, 1, [(10,)]),
        (50, 16, 2, [(8, 8, 8, 1), (8, 8, 8, 1)]),
        (33, 16, 2, [(8, 9), (8, 8)]),
        (35, 16, 4, [(4, 5), (4, 5), (4, 5), (4, 4)]),  # a rest of which some rank would have none
        (3, 1, 1, [(1, 1, 1)]),  # those of one that were asked for stay
    ],
)
def test_sizes_of_micro_batches(size: int, micro: int, world_size: int, expected: list[tuple[int, ...]]) -> None:
    assert [micro_batch_sizes(size, micro, rank, world_size) for rank in range(world_size)] == expected


@pytest.mark.parametrize("kind", [MLP, pytest.param(Inception, marks=pytest.mark.slow)])  # ten seconds
def test_an_optimizer_may_ask_for_the_gradient_elsewhere(kind: type[Classifier]) -> None:
    """BatchNorm's running statistics are those of the first pass alone; its batch statistics are of each."""

    def take(optimizer: torch.optim.Optimizer, backward: Callable[[], None]) -> None:
        backward()
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = float(sum(p.grad.square().sum() for p in parameters)) ** 0.5
        moves = [0.1 * p.grad / norm for p in parameters]
        norms = batch_norms(network)
        statistics = [copy.deepcopy(dict(norm.named_buffers())) for norm in norms]
        with torch.no_grad():
            for p, move in zip(parameters, moves, strict=True):
                p += move
        backward()
        with torch.no_grad():
            for p, move in zip(parameters, moves, strict=True):
                p -= move
        for module, saved in zip(norms, statistics, strict=True):
            module.load_state_dict(saved, strict=False)
        optimizer.step()

    network: nn.Module = make(kind)

    def objective(model: nn.Module, batch: Batch) -> Tensor:
        nonlocal network
        network = model
        return cross_entropy(model, batch)

    theirs = by_hand(make(kind), data(), objective, take)
    model = make(kind, optimizer=lambda groups: SAM(groups, rho=0.1, lr=0.05, momentum=0.9))
    trainer = fit(model, data())
    assert trainer.global_step == STEPS, "one step, though it costs two"
    for name, value in theirs.items():
        torch.testing.assert_close(model.state_dict()[name].double(), value.double(), rtol=1e-6, atol=1e-8)
    assert all(norm.track_running_stats for norm in batch_norms(model))


def test_sam_of_no_radius_is_sgd_to_the_bit() -> None:
    weights = []
    for optimizer in (sgd, functools.partial(SAM, lr=0.05, momentum=0.9, rho=0.0), functools.partial(SAM, lr=0.05)):
        model = make(dropout=0.5, optimizer=optimizer)
        fit(model, data())
        weights.append(model.state_dict())
    plain, neutral, moved = weights
    assert all(torch.equal(value, neutral[name]) for name, value in plain.items())
    assert not all(torch.equal(value, moved[name]) for name, value in plain.items())


def test_sam_moves_by_rho_along_the_gradient_of_all_parameters_together() -> None:
    weights = [nn.Parameter(torch.tensor([3.0, 0.0])), nn.Parameter(torch.tensor([[4.0]])), nn.Parameter(torch.ones(2))]
    optimizer, seen = SAM(weights, lr=0.1, rho=0.5, weight_decay=0.2), []
    for value in weights[:2]:
        value.grad = value.detach().clone()  # of norm 5 together; the third has no gradient

    def again() -> None:
        seen.extend(value.detach().clone() for value in weights)
        for value in weights[:2]:
            value.grad = torch.ones_like(value)

    optimizer.step(again)
    for found, expected in zip(seen, ([3.3, 0.0], [[4.4]], [1.0, 1.0]), strict=True):
        torch.testing.assert_close(found, torch.tensor(expected))
    # From where they were, by the second gradient; weight decay goes by where they were, too.
    for value, expected in zip(weights, ([3 - 0.1 * 1.6, -0.1], [[4 - 0.1 * 1.8]], [1.0, 1.0]), strict=True):
        torch.testing.assert_close(value.detach(), torch.tensor(expected))


def test_sam_moves_nothing_where_the_gradient_is_zero() -> None:
    weight = nn.Parameter(torch.ones(3))
    weight.grad = torch.zeros(3)
    SAM([weight], lr=0.1, rho=0.5).step(lambda: None)
    assert weight.tolist() == [1, 1, 1]


def test_sam_says_what_it_needs() -> None:
    weight = nn.Parameter(torch.ones(3))
    with pytest.raises(ValueError, match=r"optimizer\.rho=-1"):
        SAM([weight], lr=0.1, rho=-1)
    with pytest.raises(ValueError, match="needs a closure"):
        SAM([weight], lr=0.1).step()


def test_sam_goes_on_as_it_began(tmp_path: Path) -> None:
    def run(*callbacks: pl.Callback) -> dict[str, Tensor]:
        pl.seed_everything(5, verbose=False)
        optimizer = functools.partial(SAM, lr=0.05, momentum=0.9, rho=0.5)
        model, last = MLP(width=16, dropout=0.5, optimizer=optimizer), tmp_path / "last.ckpt"
        trainer = pl.Trainer(
            accelerator="cpu",
            max_steps=STEPS,
            max_epochs=-1,
            callbacks=[Evaluation(every=0.2), ExactCheckpoint(tmp_path, every_seconds=0), *callbacks],
            plugins=[AtomicCheckpointIO()],
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
        )
        trainer.fit(model, data(), ckpt_path=last if last.exists() else None, weights_only=True)
        return model.state_dict()

    undisturbed = run()
    (tmp_path / "last.ckpt").unlink()
    with pytest.raises(KeyError, match="power cut"):
        run(PowerCut())
    assert all(torch.equal(value, undisturbed[name]) for name, value in run().items())


def test_the_loss_of_a_batch_is_that_of_torch() -> None:
    logits, labels = torch.randn(7, 10), torch.randint(10, (7,))
    for smoothing in (0.0, 0.3):
        found = CrossEntropy(smoothing)(logits, labels, torch.arange(7))
        expected = F.cross_entropy(logits, labels, label_smoothing=smoothing)
        assert found.shape == (7,)
        torch.testing.assert_close(found.mean(), expected)
    with pytest.raises(ValueError, match=r"regularizer\.label_smoothing=1"):
        CrossEntropy(1)
