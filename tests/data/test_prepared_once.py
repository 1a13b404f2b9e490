"""A folder of images is decoded once a run, and no copy of them is kept beside what is trained on."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch

from image_folder import make_image_folder
from rethinkgen.data import source
from rethinkgen.data.corruption import TrueLabels
from rethinkgen.data.image_listing import Listing
from rethinkgen.data.source import ImageFolder, Images
from rethinkgen.model.mlp import MLP


@pytest.fixture(params=["cache", "no cache"])
def folder(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Images of which a cache can be written, or not, as where a folder can only be read."""
    if request.param == "no cache":
        monkeypatch.setattr(source, "_write_cache", lambda cache, images: None)
    return make_image_folder(tmp_path / "images", num_classes=2, size=lambda rng: (12, 12))


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[weakref.ref[np.ndarray]]:
    """Note the training images whenever they are decoded or read from a cache."""
    seen: list[weakref.ref[np.ndarray]] = []

    def noting(original: Callable[..., Images | None]) -> Callable[..., Images | None]:
        def note(*arguments: Any, **keywords: Any) -> Images | None:
            images = original(*arguments, **keywords)
            if images is not None:
                seen.append(weakref.ref(images.train.images))
            return images

        return note

    decode = ImageFolder._decode

    def decoded(self: ImageFolder, listing: Listing) -> Images:
        return decode(self, listing)

    monkeypatch.setattr(ImageFolder, "_decode", noting(decoded))
    monkeypatch.setattr(source, "_read_cache", noting(source._read_cache))
    return seen


class Watch(pl.Callback):
    """Counts which of the images that were loaded are in memory while it is trained."""

    def __init__(self, loaded: list[weakref.ref[np.ndarray]]) -> None:
        self.loaded = loaded
        self.alive: list[int] = []

    def on_train_batch_start(self, *arguments: Any) -> None:
        self.alive.append(sum(images() is not None for images in self.loaded))


@pytest.mark.parametrize("flip", [False, True])
def test_images_are_loaded_once_and_not_kept_twice(
    folder: Path, loaded: list[weakref.ref[np.ndarray]], flip: bool
) -> None:
    for _ in range(2):  # the second run has the cache, if any
        loaded.clear()
        data = TrueLabels(ImageFolder(folder, 1), batch_size=4, flip=flip)
        # As train.py does: prepared and set up before the trainer is made, which does both again.
        data.prepare_data()
        data.setup()
        watch = Watch(loaded)
        trainer = pl.Trainer(
            accelerator="cpu",
            max_steps=3,
            logger=False,
            enable_checkpointing=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[watch],
        )
        trainer.fit(MLP(width=4), datamodule=data)
        assert len(loaded) == 1
        assert watch.alive, "it was trained"
        # Augmentation needs the pixels: the very ones that were loaded.
        assert {*watch.alive} == {int(flip)}
        assert data.source._prepared is None
        if flip:
            (images,) = loaded
            assert torch.equal(data._uncropped, torch.from_numpy(images()))
