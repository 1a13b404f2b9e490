"""What is kept of each training example's presentations, against a loop over them and over ways to train the same."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from threaded_ranks import on_ranks
from torch import Tensor, nn

from rethinkgen.data.batches import Batch
from rethinkgen.data.corruption import PartialLabels
from rethinkgen.data.module import CorruptedImages
from rethinkgen.data.source import Digits
from rethinkgen.measure.difficulty import Answers, answers
from rethinkgen.model.mlp import MLP
from rethinkgen.train import block_record, loss
from rethinkgen.train.block_record import BlockRecord, block_totals, presented
from rethinkgen.train.checkpoint import AtomicCheckpointIO, ExactCheckpoint, load_checkpoint
from rethinkgen.train.classifier import Classifier
from rethinkgen.train.evaluation import Evaluation
from rethinkgen.train.histories import Presented, PresentedExamples
from rethinkgen.train.loss import BlockRows

STEPS, NUM_TRAIN = 14, 90
"""Of 4 steps an epoch: 3.5 presentations an example."""


def data(**keywords: Any) -> CorruptedImages:
    return PartialLabels(Digits(), probability=0.4, **{"num_train": NUM_TRAIN, "batch_size": 25} | keywords)  # type: ignore[arg-type]


def fit(
    evaluation: Evaluation,
    model: Classifier | None = None,
    folder: Path | None = None,
    *callbacks: pl.Callback,
    **keywords: Any,
) -> Evaluation:
    """Train; from the checkpoint in ``folder``, where there is one."""
    torch.manual_seed(0)
    model = model or MLP(width=16, learning_rate=0.1)
    last = None if folder is None else folder / "last.ckpt"
    trainer = pl.Trainer(
        accelerator="cpu",
        max_steps=STEPS,
        max_epochs=-1,
        callbacks=[evaluation, *callbacks, *([] if folder is None else [ExactCheckpoint(folder, every_seconds=0)])],
        plugins=[AtomicCheckpointIO()],
        logger=False,
        enable_checkpointing=folder is not None,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    trainer.fit(model, data(**keywords), ckpt_path=last if last and last.exists() else None, weights_only=True)
    return evaluation


class Witness:
    """Notes before each step what the network says of its batch, example by example, and changes nothing."""

    def __init__(self) -> None:
        self.said: list[tuple[int, int, Tensor, int]] = []
        """Step, example, logits, label"""
        self.steps = itertools.count(1)

    def __call__(self, batch: Batch, network: nn.Module) -> Batch:
        step = next(self.steps)
        with torch.no_grad():
            logits = network(batch.images)
        self.said += [
            (step, i, logits[row].double(), int(batch.labels[row])) for row, i in enumerate(batch.indices.tolist())
        ]
        return batch

    def of(self, example: int) -> dict[str, float]:
        found: dict[str, float] = dict.fromkeys(("times", "times_wrong", "times_forgotten"), 0)
        found |= dict.fromkeys(("loss_sum", "margin_sum", "confidence_sum"), 0.0)
        found |= {"first_step_right": -1, "last_step_right": -1}
        was_right = False
        for step, i, logits, label in self.said:
            if i != example:
                continue
            right = int(logits.argmax()) == label
            found["times"] += 1
            found["times_wrong"] += not right
            found["times_forgotten"] += was_right and not right
            found["loss_sum"] += float(F.cross_entropy(logits[None], torch.tensor([label])))
            found["margin_sum"] += float(logits[label]) - max(float(z) for k, z in enumerate(logits) if k != label)
            found["confidence_sum"] += float(logits.softmax(0)[label])
            if right:
                found["first_step_right"] = step if found["first_step_right"] < 0 else found["first_step_right"]
                found["last_step_right"] = step
            was_right = right
        return found


@pytest.mark.parametrize("keywords", [{}, {"flip": True, "rotation": 20.0}, {"micro_batch_size": 7}])
@pytest.mark.parametrize("most_classes", [100, 9])
def test_what_was_presented_is_what_one_would_note_before_each_step(
    keywords: dict[str, Any], most_classes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(block_record, "MOST_CLASSES", most_classes)
    witness = Witness()
    model = MLP(width=16, learning_rate=0.1, mix=witness, loss=loss.CrossEntropy(label_smoothing=0.3))
    columns = fit(Evaluation(every=0.5), model, **keywords).examples()
    by_hand = [witness.of(example) for example in range(NUM_TRAIN)]
    assert len({row["times_forgotten"] for row in by_hand}) > 1
    for name in by_hand[0]:
        found, expected = columns[f"presented_{name}"], torch.tensor([float(row[name]) for row in by_hand])
        assert found.dtype == (torch.float32 if name.endswith("sum") else torch.int32)
        torch.testing.assert_close(found.float(), expected, rtol=1e-4, atol=1e-5)


def test_blocks_of_any_length_tell_the_same() -> None:
    short, long = (fit(Evaluation(every=every)).presented for every in (0.25, 10.0))
    for one, other in zip(short.state_dict().values(), long.state_dict().values(), strict=True):
        assert torch.equal(one, other) if isinstance(one, Tensor) else one == other


class PowerCut(pl.Callback):
    def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
        if trainer.global_step >= 6:
            raise KeyError("power cut")


def interrupted(folder: Path) -> Path:
    """Return the checkpoint of a run that was cut off."""
    with pytest.raises(KeyError, match="power cut"):
        fit(Evaluation(every=0.5), None, folder, PowerCut())
    return folder / "last.ckpt"


def test_a_resumed_run_has_the_same(tmp_path: Path) -> None:
    undisturbed = fit(Evaluation(every=0.5)).presented
    interrupted(tmp_path)
    again = fit(Evaluation(every=0.5), None, tmp_path).presented
    assert torch.equal(again.counts, undisturbed.counts)
    assert torch.equal(again.sums, undisturbed.sums)


def test_what_was_begun_before_they_were_noted_tells_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    last = interrupted(tmp_path)
    checkpoint = load_checkpoint(last)
    for name in ("presented", "other_class"):
        del checkpoint["callbacks"]["Evaluation"]["histories"][name]
    torch.save(checkpoint, last)
    evaluation = fit(Evaluation(every=0.5), None, tmp_path)
    assert not any(name.startswith("presented") for name in evaluation.examples())
    assert "examples.npz will have no presented_... columns" in caplog.text
    again = Evaluation()
    again.load_state_dict(evaluation.state_dict())
    assert not again.presented.is_whole, "nor after a second interruption"


def test_of_mixed_images_nothing_is_told() -> None:
    evaluation = fit(Evaluation(every=0.5), mixup=1.0)
    assert not any(name.startswith("presented") for name in evaluation.examples())
    assert len(evaluation.examples()["first_step_fitted"]) == NUM_TRAIN


class NotesNothing(MLP):
    """A user's own steps, of which only the running numbers are told."""

    def training_step(self, batches: Any, block: int) -> None:
        super().training_step(batches, block)
        self.presented = None


def test_of_steps_that_note_nothing_nothing_is_told() -> None:
    evaluation = fit(Evaluation(every=0.5), NotesNothing(width=16))
    assert not any(name.startswith("presented") for name in evaluation.examples())


def test_it_takes_36_bytes_an_example() -> None:
    state = fit(Evaluation(every=10)).presented.state_dict()
    assert sum(value.nbytes for value in state.values() if isinstance(value, Tensor)) == 36 * NUM_TRAIN


@pytest.mark.parametrize("size", [2, 3])
def test_ranks_tell_what_one_process_does(size: int) -> None:
    torch.manual_seed(1)
    blocks = []
    for _ in range(6):
        order = torch.randperm(40)
        blocks.append([(part, torch.randn(len(part), 5), torch.randint(5, (len(part),))) for part in order.split(9)])

    def told(rank: int, world_size: int) -> PresentedExamples:
        history = PresentedExamples()
        for number, batches in enumerate(blocks, 1):
            record = BlockRecord()
            for whole in batches:
                index, logits, labels = (part[rank::world_size] for part in whole)
                batch = Batch(torch.empty(len(index), 0), labels, len(whole[0]), index)
                record.add(batch, logits, torch.tensor(0.0), 0.1)
            rows = BlockRows(torch.cat(record.indices), record.sizes)
            history.update(number * len(batches), presented(rows, record.sizes, record.answers(), 40))
        return history

    alone = told(0, 1)
    assert alone.counts[:, 2].sum() > 0, "some are forgotten"
    for history in on_ranks(loss, size, lambda rank: told(rank, size)):
        assert torch.equal(history.counts, alone.counts)
        torch.testing.assert_close(history.sums, alone.sums, rtol=1e-6, atol=1e-6)


def test_totals_of_steps_of_any_size() -> None:
    is_right = torch.tensor([True, False, True, True, False, False])
    totals = block_totals([torch.tensor(2.0), torch.tensor(0.5), torch.tensor(9.0)], is_right, [3, 1, 2])
    assert totals.tolist() == [[2.0, 2.0], [0.5, 1.0], [9.0, 0.0]]


def test_a_history_that_gave_up_stays_so() -> None:
    history = PresentedExamples()
    seen = Presented(torch.tensor([1]), [1], Answers(*answers(torch.eye(2)[:1], torch.tensor([0]))), 3)
    history.update(1, seen)
    assert history.examples()["presented_times"].tolist() == [0, 1, 0]
    history.miss()
    history.update(2, seen)
    assert history.examples() == {}
