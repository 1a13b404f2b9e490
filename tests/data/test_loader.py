"""A datamodule without a trainer: its tensors, and its batches as a ``DataLoader`` would give them."""

from __future__ import annotations

import pytest
import torch
from pytorch_lightning import Trainer

from rethinkgen import MLP, Digits, RandomLabels


def test_training_batches_are_those_of_a_run() -> None:
    data = RandomLabels(Digits(), num_train=300)
    loader = data.train_dataloader()
    epochs = [list(loader) for _ in range(2)]
    assert [len(labels) for _, labels in epochs[0]] == [128, 128, 44]
    assert len(loader) == 3
    train = data.splits["train"]
    for epoch in epochs:
        images, labels = (torch.cat(parts) for parts in zip(*epoch, strict=True))
        assert torch.equal(labels.sort().values, train.labels.sort().values)
        assert images.sum() == pytest.approx(float(train.inputs.sum()), abs=1)
    assert not torch.equal(epochs[0][0][1], epochs[1][0][1]), "each epoch has its own order"
    loader.epoch = 0
    for (images, labels), (again, labels_again) in zip(epochs[0], loader, strict=True):
        assert torch.equal(images, again)
        assert torch.equal(labels, labels_again)

    seen: list[torch.Tensor] = []

    class Watching(MLP):
        def training_step(self, batches, block):  # type: ignore[no-untyped-def]
            batches = list(batches)
            seen.extend(batch.labels for batch in batches)
            super().training_step(iter(batches), block)

    other = RandomLabels(Digits(), num_train=300)
    trainer = Trainer(
        max_epochs=2, logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
        accelerator="cpu",
    )  # fmt: skip
    trainer.fit(Watching(width=8, depth=1), datamodule=other)
    assert all(map(torch.equal, seen, [labels for epoch in epochs for _, labels in epoch]))
    # After training too, whatever Lightning is given then.
    assert len(list(other.loader("train"))) == 3


def test_other_splits_are_in_order() -> None:
    data = RandomLabels(Digits(), validation=0.1)
    images, labels = next(iter(data.test_dataloader()))
    assert torch.equal(images, data.splits["test"].inputs)  # type: ignore[arg-type]
    assert torch.equal(labels, data.splits["test"].original_labels)
    parts = [labels for _, labels in data.loader("validation", batch_size=100)]
    assert [len(labels) for labels in parts] == [100, 44]
    assert torch.equal(torch.cat(parts), data.splits["validation"].labels)


def test_augmented_batches_are_augmented() -> None:
    data = RandomLabels(Digits(), flip=True, num_train=200)
    loader = data.loader()
    first = torch.cat([images for images, _ in loader])
    loader.epoch = 0
    assert torch.equal(first, torch.cat([images for images, _ in loader]))
    assert first.sum() == pytest.approx(float(data.splits["train"].inputs.sum()), abs=1)
    assert not torch.equal(first.sort(0).values, data.splits["train"].inputs.sort(0).values)  # type: ignore[union-attr]


def test_what_there_is_not_is_refused() -> None:
    data = RandomLabels(Digits(), mixup=1.0)
    with pytest.raises(ValueError, match=r"split='valid': there are train, test\. .*validation=0\.1"):
        data.loader("valid")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"mixup=1\.0: mixed images have two labels"):
        data.loader("train")
    with pytest.raises(ValueError, match=r"batch_size=7: training batches are those of a run, RandomLabels\("):
        RandomLabels(Digits()).loader("train", batch_size=7)
    for size in (0, -1, 2.5):
        with pytest.raises(ValueError, match=rf"batch_size={size}: a whole number of at least 1"):
            data.loader("test", batch_size=size)  # type: ignore[arg-type]
