"""Augmentation and preprocessing give the same images whatever precision the network is trained in."""

from __future__ import annotations

import math
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from every_corruption import EVERY
from in_memory import InMemory

from rethinkgen.data.batches import Block
from rethinkgen.data.corruption import GaussianBlend, TrueLabels
from rethinkgen.data.module import PREPROCESSINGS, CorruptedImages
from rethinkgen.model.mlp import MLP

AUGMENTATIONS: dict[str, dict[str, Any]] = {
    "random_crop": {"random_crop": True},
    "flip": {"flip": True},
    "rotation": {"rotation": 25.0},
    "color_jitter": {"color_jitter": True},
    "mixup": {"mixup": 1.0},
}
AUGMENTATIONS["all"] = {name: value for options in AUGMENTATIONS.values() for name, value in options.items()}
PRECISIONS = {
    "32-true": torch.float32,
    "64-true": torch.float64,
    "bf16-mixed": torch.float32,
    "bf16-true": torch.bfloat16,
}
"""Of the network's weights."""


def first_batch(kind: type[CorruptedImages], default: torch.dtype, **options: Any) -> torch.Tensor:
    """Return the images of a batch that is made while ``default`` is torch's type, as in a step of that precision."""
    data = kind(InMemory(num_train=40, num_test=5), batch_size=12, crop=8, **options)
    data.setup()
    index = torch.arange(12)
    partners = index.roll(-1) if data.mixup else None
    before = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        (batch,) = data.batches(Block(index, [12], [12], epoch=1, partners=partners))
    finally:
        torch.set_default_dtype(before)
    return batch.images


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16, torch.float16])
def test_images_are_the_same_to_the_bit_in_every_precision(name: str, default: torch.dtype) -> None:
    options = AUGMENTATIONS[name]
    expected = first_batch(GaussianBlend, torch.float32, strength=0.3, **options)
    found = first_batch(GaussianBlend, default, strength=0.3, **options)
    assert found.dtype == torch.float32
    assert torch.equal(found, expected)


@pytest.mark.parametrize("preprocessing", PREPROCESSINGS)
@pytest.mark.parametrize(("kind", "arguments"), EVERY)
def test_corruptions_and_preprocessings_too(kind: Any, arguments: dict[str, Any], preprocessing: str) -> None:
    options = {**arguments, "flip": True, "preprocessing": preprocessing}
    expected = first_batch(kind, torch.float32, **options)
    assert torch.equal(first_batch(kind, torch.float64, **options), expected)


@pytest.mark.parametrize("name", AUGMENTATIONS)
@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_augmentation_trains_in_every_precision(precision: Any, name: str) -> None:
    sums: list[float] = []

    class Watched(MLP):
        def training_step(self, *arguments: Any) -> Any:
            found = super().training_step(*arguments)
            sums.append(float(next(self.parameters()).detach().double().sum()))
            return found

    data = TrueLabels(InMemory(num_train=40, num_test=5), batch_size=12, crop=8, **AUGMENTATIONS[name])
    trainer = pl.Trainer(
        accelerator="cpu",
        precision=precision,
        max_steps=3,
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
    )
    model = Watched(width=4)
    trainer.fit(model, datamodule=data)
    assert sums
    assert all(map(math.isfinite, sums))
    assert next(model.parameters()).dtype == PRECISIONS[precision]
