"""The LightningDataModule that every corruption shares: source, splits, preprocessing and batches."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
from functools import partial
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np
import pytorch_lightning as pl
import torch
from numpy.typing import NDArray
from torch import Tensor

from rethinkgen.blame import source_of
from rethinkgen.checks import check_between, check_switch, check_whole
from rethinkgen.data import example_list
from rethinkgen.data.augmentation import Augmentation, center_crop, epoch_draws
from rethinkgen.data.batches import Batch, Block, Blocks, EndsBlocks, EndsEpochs, Loader, epoch_order, micro_batch_sizes
from rethinkgen.data.draws import balanced_subset, generator
from rethinkgen.data.equal_images import find_conflicts, find_shared
from rethinkgen.data.preprocessing import (
    ChannelStatistics,
    channel_statistics,
    normalization,
    reduced,
    signed,
    unit_sphere,
    whitening,
)
from rethinkgen.data.source import Examples, Images, Source
from rethinkgen.data.streamed_source import Files, ImageFiles
from rethinkgen.data.streaming import (
    Decoded,
    Inputs,
    Reader,
    StreamedInputs,
    TrainingStream,
    View,
    crop_seeds,
    in_parts,
    num_workers_here,
)
from rethinkgen.data.timetable import BatchSize, Timetable

SplitName = Literal["train", "validation", "test"]
Pattern = tuple[Tensor, ...]
"""What was drawn once for each of N examples: tensors whose first dimension is N."""
PREPROCESSINGS = ("whitening", "normalization", "unit_sphere", "signed", "none")
SAMPLE_OF_CORRUPTION = 64
"""Training images on which it is tried whether a corruption leaves something of them."""
CHUNK = 1024
"""Images preprocessed at once: few, for memory's sake, but on a busy machine every operation's threads wait."""
_STREAMED_CHUNK = 64
KNOWN_AFTER_SETUP = (
    "image_shape",
    "class_names",
    "num_classes",
    "num_outputs",
    "timetable",
    "num_conflicts",
    "fit_ceiling",
)
VALUES_AT_ONCE = 1 << 20
"""Values of images (4 MB) that are preprocessed at once on the CPU."""
SAMPLE = 10_000
"""Streamed training images that the statistics of channels are taken from, where there are more."""


class Labels(NamedTuple):
    """Labels after corruption."""

    labels: NDArray[np.int64]
    """``(N,)``"""
    is_drawn: NDArray[np.bool_]
    """``(N,)``: the draw hit this example, though it may have drawn the label that was there"""


@dataclass
class Split:
    """One part of the data, as the network sees it without augmentation."""

    inputs: Inputs
    """``(N, C, H, W)`` float32: cropped at the centre, corrupted, preprocessed"""
    labels: Tensor
    """``(N,)`` int64, as given to training; of the test split the true ones"""
    original_labels: Tensor
    """``(N,)`` int64"""
    is_drawn: Tensor
    """``(N,)`` bool: the corruption's draw hit the label or the pixels"""
    is_corrupted: Tensor
    """``(N,)`` bool: the label differs from the original"""
    index: Tensor
    """``(N,)`` int64: position in the source's training or test split; where both are trained on, in both, joined"""

    def __len__(self) -> int:
        """Return the number of examples."""
        return len(self.labels)

    def to(self, device: torch.device | str) -> Split:
        """Return the same on ``device``."""
        return Split(**{field.name: getattr(self, field.name).to(device) for field in fields(self)})


class CorruptedImages(pl.LightningDataModule):
    """Images in memory on the training device, or streamed from files, corrupted in a way that is fixed for the run.

    A corruption is a subclass that overrides ``corrupt_labels``, or ``pixel_pattern`` and ``corrupt_pixels``.
    The order is that of Zhang et al. 2017: labels once; geometry (crop, flip, rotation), then pixels, then
    ``preprocessing``. Without augmentation it is all computed once; of streamed images every time, to the same
    numbers. Colours are changed before the pixels: noise is no photograph, and would be limited to ``[0, 1]``.

    ``setup`` may be called by hand, without a trainer: ``splits`` is then on the CPU.

    Args:
        source: one of ``rethinkgen.data.source``, or ``rethinkgen.data.streamed_source.StreamedFolder``.
        batch_size: of the global batch, over all devices; ``all``: the whole training set; or a function
            ``(epoch, step) ->`` size, of batches that change along training.
        micro_batch_size: examples of a batch, over all devices, that go through the network at once; their gradients
            are added up. ``None``: all.
        preprocessing: ``whitening`` of each image, ``normalization`` of each channel by the statistics of the
            source's training images (a sample of them if they are streamed), ``unit_sphere``, which then scales each
            image to length 1, ``signed`` to ``[-1, 1]``, or ``none``, which leaves pixels in ``[0, 1]``.
        resize: images are first reduced to so many pixels a side, each the mean of those in its place; ``None``: not.
        crop: side of the centre crop, ``auto`` (28 if images are 32x32, else none) or ``None``. Streamed images
            need a number.
        num_train: train on so many examples, balanced by original label; smaller subsets are part of larger.
        validation: share of the training examples that is held out, balanced by original label.
        exclude: a file of training examples that are left out, of the held-out part too, see
            ``rethinkgen.data.example_list``; or their positions in the source.
        relabel: a file of labels that take the place of the source's own, which they correct: they are the original
            ones from then on. What it decides to drop is left out.
        seed: of the corruption and the subsets.
        order_seed: of the order of batches and the augmentation; ``None``: ``seed``.
        random_crop: crop at random, see ``rethinkgen.data.augmentation``; streamed images as torchvision's
            ``RandomResizedCrop`` does.
        flip: mirror left to right with probability 1/2.
        rotation: largest random angle in degrees.
        color_jitter: change colours at random, see ``rethinkgen.data.augmentation``.
        mixup: train on mixtures of two images and of their labels (Zhang et al. 2018, "mixup"), whose shares are drawn
            once a batch from Beta(mixup, mixup); 0: on the images as they are.

    Raises:
        ValueError: a value is not allowed; the message names its config key. From ``setup``: a value does not
            suit the source.
    """

    at_most: int | None = None
    """Take no more than so many examples of each split, for a trial run; ``None``: all."""
    noise_probability: float | None = 0.0
    """``noise/probability``, with which an example is drawn; ``None`` where it is not one number.

    A corruption of the user's own that does not say it has none."""

    def __init__(
        self,
        source: Source,
        *,
        batch_size: int | str | Callable[[int, int], int] = 128,
        micro_batch_size: int | None = None,
        preprocessing: str = "whitening",
        resize: int | None = None,
        crop: str | int | None = "auto",
        num_train: int | None = None,
        validation: float = 0.0,
        exclude: str | list[int] | None = None,
        relabel: str | None = None,
        seed: int = 0,
        order_seed: int | None = None,
        random_crop: bool = False,
        flip: bool = False,
        rotation: float = 0.0,
        color_jitter: bool = False,
        mixup: float = 0.0,
    ) -> None:
        super().__init__()
        self.source = source
        self.batch_size: BatchSize | None = None  # all
        if batch_size != "all":
            self.batch_size = batch_size if callable(batch_size) else check_whole("data.batch_size", batch_size, 1)
        self.micro_batch_size = (
            None if micro_batch_size is None else check_whole("data.micro_batch_size", micro_batch_size, 1)
        )
        if preprocessing not in PREPROCESSINGS:
            allowed = ", ".join(PREPROCESSINGS)
            raise ValueError(f"data.preprocessing={preprocessing!r}: one of {allowed} is needed.")
        self.preprocessing = preprocessing
        self.resize = None if resize is None else check_whole("data.resize", resize, 1)
        is_size = crop is not None and crop != "auto"
        self.crop = check_whole("data.crop", crop, 1, or_else="auto or null") if is_size else crop
        self.num_train = None if num_train is None else check_whole("data.num_train", num_train, 1)
        self.validation = check_between("data.validation", validation, 0, 1, below=True)
        self.exclude = None if exclude is None else example_list.read_exclude("data.exclude", exclude)
        self.relabel = None if relabel is None else example_list.read_labels("data.relabel", relabel)
        self.seed = check_whole("data.seed", seed, 0)
        self.order_seed = self.seed if order_seed is None else check_whole("data.order_seed", order_seed, 0)
        self.random_crop = check_switch("regularizer.random_crop", random_crop)
        self.flip = check_switch("regularizer.flip", flip)
        self.rotation = check_between("regularizer.rotation", rotation, 0, 180)
        self.color_jitter = check_switch("regularizer.color_jitter", color_jitter)
        self.mixup = check_between("regularizer.mixup", mixup, 0, math.inf, below=True)

        self.splits: dict[SplitName, Split] = {}
        """``train``; ``test``, ``validation`` where there are such. Empty before ``setup``, as all below."""
        self.image_shape: tuple[int, int, int]
        """``(C, H, W)`` that the network sees."""
        self.class_names: tuple[str, ...]
        self.timetable: Timetable
        """Which step lies in which epoch, and how large its batch is."""
        self.num_conflicts: int
        """Training examples whose input another, with another label, has too; 0 under augmentation or streamed."""
        self.fit_ceiling: float | None
        """Best training accuracy that equal inputs with other labels allow; ``None`` where not sought."""
        self.trained_on: NDArray[np.intp]
        """``(n,)``: positions, ascending, of the training examples in the source's; known to ``replace_task``."""
        self._some_keys: NDArray[np.uint64]
        self.notes: list[str] = []
        """What stands out in the data and is no mistake for certain: each begins with where they lie."""
        self._statistics: ChannelStatistics | None = None
        self._files: ImageFiles | None = None
        self._stream: TrainingStream | None = None
        self._uncropped: Tensor | None = None
        self._pattern: Pattern = ()
        self._epoch_draws: tuple[int, Tensor] | None = None
        self._epoch_shares: tuple[int, NDArray[np.float64]] | None = None
        self._is_prepared = False

    # What a corruption overrides.

    def replace_task(self, images: Images | ImageFiles) -> Images | ImageFiles:
        """Return the images with the labels and classes that are to be learnt: the source's own.

        Called once the examples of each split are chosen, so that these are balanced by the source's classes.
        """
        return images

    def corrupt_labels(self, labels: NDArray[np.int64], keys: NDArray[np.uint64], num_classes: int) -> Labels:
        """Return what training is given for labels ``(N,)`` of training examples; test labels stay true."""
        return Labels(labels, np.zeros(len(labels), dtype=bool))

    def label_transition(self, num_classes: int) -> NDArray[np.float64] | None:
        """Return ``(K, K)``: in row ``k`` how probable each class is as the label of a training example of class ``k``.

        ``None`` where that is not known: of a corruption of the user's own that does not say it, of labels in a file.
        """
        changes_labels = type(self).corrupt_labels is not CorruptedImages.corrupt_labels
        return None if changes_labels else np.eye(num_classes)

    def drawn_pixels(self, split: SplitName, keys: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Tell which examples' pixels are corrupted: ``(N,)``."""
        return np.zeros(len(keys), dtype=bool)

    def pixel_pattern(self, split: SplitName, keys: NDArray[np.uint64]) -> Pattern:
        """Draw on the CPU what ``corrupt_pixels`` needs for the examples ``keys (N,)``."""
        return ()

    def corrupt_pixels(self, images: Tensor, pattern: Pattern) -> Tensor:
        """Corrupt images ``(n, C, H, W)`` in ``[0, 1]``, after geometry, by the same examples' pattern."""
        return images

    # Lightning's hooks.

    def prepare_data(self) -> None:
        """Fetch what is missing; Lightning calls this on one process, perhaps again when all is set up."""
        if self.splits:
            return
        self.source.prepare()
        self._is_prepared = True

    def setup(self, stage: str | None = None) -> None:
        """Load and compute everything the first time; move it to the trainer's device every time."""
        if not self.splits:
            if self.trainer is None and not self._is_prepared:
                self.prepare_data()
            self._load()
        if self.trainer is not None:
            self.move(self.trainer.strategy.root_device)

    def check_shares(self, num_ranks: int) -> None:
        """Refuse what so many devices cannot share, once the data are set up.

        Raises:
            ValueError: micro-batches do not divide, or images from files would be mixed.
        """
        if self.micro_batch_size is not None and self.micro_batch_size % num_ranks:
            raise ValueError(
                f"data.micro_batch_size={self.micro_batch_size}: a multiple of the {num_ranks} devices is needed, so "
                "that each has its share."
            )
        if self._files is not None and self.mixup and num_ranks > 1:
            raise ValueError(
                f"regularizer.mixup={self.mixup}: on {num_ranks} devices each image would be decoded twice. Train on "
                "one, or on images in memory."
            )

    def train_dataloader(self) -> Blocks | Loader:
        """Return the order of the examples, in blocks of batches; without a trainer ``loader("train")``."""
        trainer = self.trainer
        if trainer is None:
            return self.loader("train")
        self.check_shares(trainer.world_size)
        if self._files is not None:
            self._open_stream(trainer.global_rank, trainer.world_size, trainer.num_devices)
        stops = [callback for callback in trainer.callbacks if isinstance(callback, EndsBlocks)]  # type: ignore[attr-defined]
        pauses = [callback for callback in trainer.callbacks if isinstance(callback, EndsEpochs)]  # type: ignore[attr-defined]
        return Blocks(
            self.timetable,
            self.order_seed,
            # Not trainer.current_epoch: a resumed run asks for its first block before that is right.
            step=lambda: trainer.global_step,
            next_stop=lambda step: min((callback.next_stop(step) for callback in stops), default=math.inf),
            rank=trainer.global_rank,
            world_size=trainer.world_size,
            paired=self.mixup > 0,
            should_pause=lambda: any(callback.should_pause() for callback in pauses),
        )

    def test_dataloader(self) -> Loader:
        """Return ``loader("test")``. In training the test split is evaluated without it."""
        return self.loader("test")

    def loader(self, split: SplitName = "train", batch_size: int | None = None) -> Loader:
        """Return batches ``(images, labels)`` of a split, whoever trains on them; sets up what is not yet.

        Those of ``train`` are a run's own: its sizes, its order and its augmentation, each iteration the next epoch. Of
        other splits they are in order, ``batch_size`` images each, 1,000 by default.

        Raises:
            ValueError: there is no such split or size, the size is asked for of ``train``, or training mixes images, of
                which none has one label.
        """
        if not self.splits:
            self.setup()
        if split not in self.splits:
            there = ", ".join(self.splits)
            raise ValueError(f"split={split!r}: there are {there}. A validation split needs validation=0.1, say.")
        if split == "train":
            if batch_size is not None:
                raise ValueError(
                    f"batch_size={batch_size!r}: training batches are those of a run, {type(self).__name__}(source, "
                    "batch_size=...)."
                )
            if self.mixup:
                raise ValueError(f"mixup={self.mixup}: mixed images have two labels. Read batches() instead.")
            return Loader(self._training_batches, self.timetable.steps)
        size = check_whole("batch_size", 1000 if batch_size is None else batch_size, 1)
        parts = [slice(start, start + size) for start in range(0, len(self.splits[split]), size)]
        return Loader(lambda _: self._batches_in_order(split, parts), lambda _: len(parts))

    def _training_batches(self, epoch: int) -> Iterator[tuple[Tensor, Tensor]]:
        order = epoch_order(self.timetable, self.order_seed, epoch)
        device = self.splits["train"].labels.device
        sizes = list(map(len, order))
        block = Block(torch.cat(order).to(device), sizes, sizes, epoch)
        return ((batch.images, batch.labels) for batch in self.batches(block))

    def _batches_in_order(self, name: SplitName, parts: list[slice]) -> Iterator[tuple[Tensor, Tensor]]:
        split = self.splits[name]
        for part, images in zip(parts, in_parts(split.inputs, parts), strict=True):
            yield images, split.labels[part]

    def teardown(self, stage: str) -> None:
        """End the processes that decode."""
        if self._stream is not None:
            self._stream.close()

    def on_exception(self, exception: BaseException) -> None:
        """End the processes that decode."""
        self.teardown("fit")

    def on_after_batch_transfer(self, batch: Any, dataloader_idx: int) -> Any:
        """Turn a ``Block`` on the device into an iterator over its ``Batch``es."""
        return self.batches(batch) if isinstance(batch, Block) else batch

    def batches(self, block: Block) -> Iterator[Batch]:
        """Gather, and if asked to augment and to mix, the batches of ``block``, each when it is asked for."""
        labels = self.splits["train"].labels
        start = 0
        for number, (size, global_size) in enumerate(zip(block.sizes, block.global_sizes, strict=True)):
            part, position = slice(start, start + size), block.position + number
            start += size
            index = block.indices[part]
            batch = Batch(self._images(index, block.epoch, position), labels.index_select(0, index), global_size, index)
            if block.partners is not None:
                batch = self._mixed(batch, block.partners[part], block.epoch, position)
            if self.micro_batch_size is not None:
                batch = batch._replace(part_sizes=micro_batch_sizes(global_size, self.micro_batch_size, *self._rank()))
            yield batch

    def _images(self, index: Tensor, epoch: int, position: int) -> Tensor:
        inputs = self.splits["train"].inputs
        if not isinstance(inputs, Tensor):
            return self._streamed(index, epoch, position)
        return self._augmented(index, epoch) if self.augmentation else inputs.index_select(0, index)

    def _mixed(self, batch: Batch, partners: Tensor, epoch: int, position: int) -> Batch:
        """Mix each image with its partner's, which on one device is the next in the batch."""
        share = self._share(epoch, position)
        is_whole = len(batch.indices) == batch.global_size
        others = batch.images.roll(-1, 0) if is_whole else self._images(partners, epoch, position)
        images = torch.lerp(others, batch.images, share)
        return batch._replace(
            images=images, other_labels=self.splits["train"].labels.index_select(0, partners), share=share
        )

    def _share(self, epoch: int, position: int) -> float:
        """Return the weight of the larger part: the two parts have one distribution, so no more need be known."""
        if self._epoch_shares is None or self._epoch_shares[0] != epoch:
            # All of an epoch at once: a draw a step would cost a small network a tenth of its time.
            drawn = generator("mixup", self.order_seed, "train", epoch).beta(
                self.mixup, self.mixup, self.timetable.steps(epoch)
            )
            self._epoch_shares = epoch, np.maximum(drawn, 1 - drawn)
        return float(self._epoch_shares[1][position])

    def _rank(self) -> tuple[int, int]:
        return (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)

    # Known after ``setup``.

    @property
    def num_classes(self) -> int:
        """How many classes the source has."""
        return len(self.class_names)

    @property
    def num_outputs(self) -> int:
        """How many outputs a network needs: one for each class."""
        return self.num_classes

    @property
    def noise(self) -> dict[str, float | None]:
        """``noise/probability``, and ``noise/realised``: the share of training examples that it hit.

        Of a corruption of labels those whose label is wrong, of a corruption of pixels those that were drawn.
        """
        changes_labels = type(self).corrupt_labels is not CorruptedImages.corrupt_labels
        hit = self.splits["train"].is_corrupted if changes_labels else self.splits["train"].is_drawn
        realised = float(hit.cpu().double().mean())
        kinds = list(itertools.takewhile(lambda kind: kind is not CorruptedImages, type(self).__mro__))
        is_told = any("noise_probability" in vars(each) for each in (self, *kinds))
        corrupts = any(name in vars(kind) for kind in kinds for name in ("corrupt_labels", "corrupt_pixels"))
        told = self.noise_probability if is_told or not corrupts else None
        return {"noise/probability": told, "noise/realised": realised}

    @property
    def statistics(self) -> ChannelStatistics:
        """Of the source's training images in ``[0, 1]``, cropped at the centre; of streamed ones once they are needed.

        If there are more than ``SAMPLE`` of those, of the ones with the smallest keys, which are hashes of their paths.
        """
        if self._statistics is None:
            assert self._files is not None
            train = self._files.train
            sample = np.sort(np.argsort(train.keys, kind="stable")[:SAMPLE])
            inputs = StreamedInputs(
                self._reader("train", train, sample, is_corrupted=False),
                lambda decoded: decoded.images,
                torch.Size((len(sample), *self.image_shape)),
                num_workers_here(self._files.num_workers),
            )
            parts = [slice(start, start + _STREAMED_CHUNK) for start in range(0, len(sample), _STREAMED_CHUNK)]
            found = channel_statistics(images.numpy() for images in in_parts(inputs, parts))
            self._statistics = found.to(self.splits["train"].labels.device)
        return self._statistics

    if not TYPE_CHECKING:  # where any name would do then

        def __getattr__(self, name: str) -> Any:
            """Say of what is not known yet when it will be."""
            if name in KNOWN_AFTER_SETUP:
                raise AttributeError(f"{type(self).__name__}.{name} is known after setup(): call it first.")
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    # How it is computed.

    def _load(self) -> None:
        images = self.source.load()
        if not isinstance(images, Images | ImageFiles):
            raise ValueError(
                f"data.source: load() of {source_of(self.source)} returned {_told(images)}. Images(train, test, "
                "class_names) is wanted, of two Examples, or ImageFiles."
            )
        images, is_left_out, notes = self._listed(images if self.resize is None else self._reduced(images, self.resize))
        train, test = images.train, images.test
        if isinstance(images, ImageFiles):
            self._files = images
            self.image_shape = (3, *self._size_streamed(images.resize))
        else:
            channels, height, width = images.train.images.shape[1:]
            self.image_shape = (channels, *self._size_seen(height, width))
            self._statistics = channel_statistics(self._crops(images.train, np.arange(len(train))))
        # Streamed images are cropped where they are decoded.
        is_cropped_here = self.random_crop and self._files is None
        self.augmentation = Augmentation(
            self.image_shape[1:], is_cropped_here, self.flip, self.rotation, self.color_jitter
        )

        chosen = self._choose(train, is_left_out)
        if test is None:
            notes.append(f"{self._where()}: nothing is left to test on: every number of the test set is null.")
        self.notes = [*notes, *self._missing_classes(images, chosen[0]), *self._shared_images(images, *chosen)]
        training, held_out = map(self._cut, chosen)
        self.trained_on = training
        images = self._replaced(images)
        train, test, self.class_names = images.train, images.test, images.class_names
        # An error is better now than when training begins.
        self.timetable = Timetable(len(training), self.batch_size or len(training))
        given = self._given_labels(train)
        splits: dict[SplitName, Split] = {"train": self._split("train", train, given, training)}
        if self.validation:
            splits["validation"] = self._split("validation", train, given, held_out)
        if self.augmentation and isinstance(train, Examples):
            # All of them as they are: a copy would be a second one. Torch warns of what must not be written to.
            is_whole = len(training) == len(train) and train.images.flags.writeable
            self._uncropped = torch.from_numpy(train.images if is_whole else train.images[training])
            self._pattern = self._drawn_pattern("train", train.keys[training])
        self._some_keys = train.keys[training[:SAMPLE_OF_CORRUPTION]]
        del images, train  # 150 MB of CIFAR-10, which at its peak has all the float32 inputs beside it
        if test is not None:
            true = Labels(test.labels, np.zeros(len(test), dtype=bool))
            splits["test"] = self._split("test", test, true, self._cut(np.arange(len(test))))

        self.num_conflicts, self.fit_ceiling = 0, None
        inputs = splits["train"].inputs
        if not self.augmentation and isinstance(inputs, Tensor):
            self.num_conflicts, self.fit_ceiling = find_conflicts(inputs, splits["train"].labels)
            if self.num_conflicts:
                self.notes.append(
                    f"{self._where()}: {self.num_conflicts:,} training images equal another one that carries a "
                    f"different label: fit/accuracy cannot exceed {self.fit_ceiling:.4%}."
                )
        self.splits = splits

    def _listed(self, images: Images | ImageFiles) -> tuple[Images | ImageFiles, NDArray[np.bool_], list[str]]:
        """Return the images with their labels corrected, which training examples are left out, and words for it."""
        split, notes = self.as_listed(len(images.train), images.class_names), []
        is_left_out = np.zeros(split.count, dtype=bool)
        if self.relabel is not None:
            positions, corrected = self.relabel.relabelled(split)
            labels = images.train.labels.copy()
            labels[positions] = corrected
            is_left_out[self.relabel.dropped(split)] = True
            changed = np.count_nonzero(labels != images.train.labels)
            notes.append(f"{self.relabel.where}: {changed:,} of {split.count:,} training labels are corrected.")
            images = replace(images, train=replace(images.train, labels=labels))  # type: ignore[arg-type]
        if self.exclude is not None:
            is_left_out[self.exclude.dropped(split)] = True
            if self.relabel is None and (num_kept := self.exclude.count(example_list.RELABEL)):
                notes.append(
                    f"{self.exclude.where}: {num_kept:,} rows say relabel, and their labels are as they were: "
                    "data.relabel with the same file corrects them."
                )
        if where := ", ".join(each.where for each in (self.exclude, self.relabel) if each and is_left_out.any()):
            notes.append(
                f"{where}: {np.count_nonzero(is_left_out):,} of {split.count:,} training examples are left out."
            )
        return images, is_left_out, notes

    def as_listed(self, count: int, class_names: Sequence[str]) -> example_list.Split:
        """Return the source's training split as a file of examples may name them."""
        name_of = getattr(self.source, "name_of", None)
        return example_list.Split(count, class_names, None if name_of is None else partial(name_of, "train"))

    def _where(self) -> str:
        root = getattr(self.source, "root", None)
        return "data" if root is None else f"data.root={str(root)!r}"

    def _missing_classes(self, images: Images | ImageFiles, training: NDArray[np.intp]) -> Iterator[str]:
        """Say which classes nothing can be learnt of, or asked about."""
        names = images.class_names
        parts = [("training", images.train.labels[training])]
        if images.test is not None:
            parts.append(("test", images.test.labels))
        for split, labels in parts:
            missing = np.flatnonzero(np.bincount(labels, minlength=len(names)) == 0).tolist()
            if missing:
                which = ", ".join(names[label] for label in missing[:10]) + (", ..." if len(missing) > 10 else "")
                from_one = " Are labels counted from 1?" if missing == [0] else ""
                yield (
                    f"{self._where()}: {len(missing)} of {len(names)} classes have no {split} image ({which}): chance "
                    f"is not one in {len(names)}.{from_one}"
                )

    def _shared_images(
        self, images: Images | ImageFiles, training: NDArray[np.intp], held_out: NDArray[np.intp]
    ) -> Iterator[str]:
        """Say which images are no test of what was learnt, since they are trained on; streamed ones are not read."""
        if not isinstance(images, Images):
            return
        train = images.train.images
        parts = [("validation", train, held_out)]
        if images.test is not None:
            parts.append(("test", images.test.images, np.arange(len(images.test))))
        for split, others, index in parts:
            shared = find_shared(train, training, others, index)
            if shared:
                place, twin = shared[0]
                first = self._name_of("train" if split == "validation" else "test", place)
                yield (
                    f"{self._where()}: {len(shared):,} of {len(index):,} {split} images are also trained on (the "
                    f"first: {first} is {self._name_of('train', twin)}): {split}/accuracy counts them in."
                )

    def _name_of(self, split: str, position: int) -> str:
        name_of = getattr(self.source, "name_of", None)
        return name_of(split, position) if name_of else f"number {position} of {split}"

    def check_regularizers_act(self) -> None:
        """Refuse mixing where there is nothing to mix with, and augmentation of images of which nothing is left.

        Raises:
            ValueError: the run would be called by what does nothing.
        """
        if self.mixup and set(self.timetable.sizes(0)) == {1}:
            raise ValueError(
                f"regularizer.mixup={self.mixup}: batches of one image have no other to mix it with, where it does not "
                "act. Raise data.batch_size, or leave it out."
            )
        augmenting = [name for name in ("random_crop", "flip", "rotation", "color_jitter") if getattr(self, name)]
        if not augmenting:
            return
        random = torch.Generator().manual_seed(0)
        pattern = self.pixel_pattern("train", self._some_keys)
        shape = (len(self._some_keys), *self.image_shape)
        one, other = (self.corrupt_pixels(torch.rand(shape, generator=random), pattern) for _ in range(2))
        if torch.equal(one, other):
            raise ValueError(
                f"regularizer=[{', '.join(augmenting)}]: {type(self).__name__} leaves nothing of the images, where "
                "these do not act. Leave them out."
            )

    # What a corruption's own code hands back, looked at before anything is made of it.

    def _cut(self, index: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return of some positions, ascending, no more than ``at_most``, spread over all: folders are in order."""
        if self.at_most is None or len(index) <= self.at_most:
            return index
        return index[np.linspace(0, len(index) - 1, self.at_most).astype(np.intp)]

    def _reduced(self, images: Images | ImageFiles, side: int) -> Images:
        if not isinstance(images, Images):
            raise ValueError(f"data.resize={side}: streamed images are resized by data.source.resize. Set null here.")
        height, width = images.train.images.shape[2:]
        if side > min(height, width):
            raise ValueError(f"data.resize={side}: images are {height}x{width}, and are only made smaller.")
        train = replace(images.train, images=reduced(images.train.images, side))
        test = None if images.test is None else replace(images.test, images=reduced(images.test.images, side))
        return replace(images, train=train, test=test)

    def _replaced(self, images: Images | ImageFiles) -> Images | ImageFiles:
        found = self.replace_task(images)
        if not isinstance(found, Images | ImageFiles) or len(found.train) != len(images.train):
            raise self._unfit("replace_task", found, "the images with other labels and class_names are")
        return found

    def _given_labels(self, train: Examples | Files) -> Labels:
        given: Any = self.corrupt_labels(train.labels, train.keys, self.num_classes)
        count, last = len(train), self.num_classes - 1
        wants = (
            f"Labels(labels, is_drawn), labels int64 ({count},) of classes 0 to {last} and is_drawn bool ({count},), is"
        )
        if not isinstance(given, tuple) or len(given) != 2:
            raise self._unfit("corrupt_labels", given, wants)
        labels, is_drawn = map(np.asarray, given)
        kinds = labels.dtype.kind, is_drawn.dtype.kind
        if kinds not in (("i", "b"), ("u", "b")) or not labels.shape == is_drawn.shape == (count,):
            raise self._unfit("corrupt_labels", given, wants)
        if labels.min() < 0 or labels.max() > last:
            raise self._unfit("corrupt_labels", given, wants, f"classes from {labels.min()} to {labels.max()}")
        return Labels(labels.astype(np.int64, copy=False), is_drawn)

    def _drawn(self, name: SplitName, keys: NDArray[np.uint64]) -> NDArray[np.bool_]:
        found: Any = self.drawn_pixels(name, keys)
        if not isinstance(found, np.ndarray) or (found.dtype, found.shape) != (np.dtype(bool), keys.shape):
            raise self._unfit("drawn_pixels", found, f"an array bool ({len(keys)},) is")
        return found

    def _drawn_pattern(self, name: SplitName, keys: NDArray[np.uint64]) -> Pattern:
        found: Any = self.pixel_pattern(name, keys)
        if not isinstance(found, tuple) or not all(
            isinstance(part, Tensor) and len(part) == len(keys) for part in found
        ):
            raise self._unfit("pixel_pattern", found, f"a tuple of tensors ({len(keys)}, ...) is")
        return found

    def _corrupted(self, images: Tensor, pattern: Pattern) -> Tensor:
        found: Any = self.corrupt_pixels(images, pattern)
        if not isinstance(found, Tensor) or found.shape != images.shape or not found.is_floating_point():
            raise self._unfit("corrupt_pixels", found, f"a float tensor {tuple(images.shape)} is")
        return found

    def _unfit(self, method: str, found: Any, wants: str, what: str = "") -> ValueError:
        where = source_of(getattr(type(self), method))
        return ValueError(f"data.corruption: {where} returned {what or _told(found)}. {wants} wanted.")

    def _size_seen(self, height: int, width: int) -> tuple[int, int]:
        if self.crop is None:
            return height, width
        if isinstance(self.crop, str):  # auto
            return (28, 28) if (height, width) == (32, 32) else (height, width)
        if self.crop > min(height, width):
            raise ValueError(f"data.crop={self.crop}: images are {height}x{width}; at most {min(height, width)} fits.")
        return self.crop, self.crop

    def _size_streamed(self, resize: int) -> tuple[int, int]:
        if not isinstance(self.crop, int) or self.crop > resize:
            raise ValueError(
                f"data.crop={self.crop!r}: streamed images, whose shorter side is resized to data.source.resize="
                f"{resize}, are cropped to a number of pixels, at most {resize}."
            )
        return self.crop, self.crop

    def _choose(
        self, train: Examples | Files, is_left_out: NDArray[np.bool_]
    ) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return the positions, ascending, of training and of held-out examples.

        The held-out part is that of all examples, less those left out: so runs that leave out others compare.
        """
        total = len(train)
        num_held_out = round(self.validation * total)
        if self.validation and not 0 < num_held_out < total:
            raise ValueError(
                f"data.validation={self.validation} holds out {num_held_out} of {total} training examples: "
                "at least one must be held out and one must be left."
            )
        held_out, training = np.arange(0), np.arange(total)
        if num_held_out:
            held_out = balanced_subset("validation", self.seed, train.labels, train.keys, num_held_out)
            training = np.setdiff1d(training, held_out)
        training, held_out = (index[~is_left_out[index]] for index in (training, held_out))
        if not len(training) or (num_held_out and not len(held_out)):
            raise ValueError(
                f"data.exclude: {np.count_nonzero(is_left_out):,} of {total:,} training examples are left out, so that "
                f"{len(training)} are left to train on, and {len(held_out)} of the held-out part. Leave out fewer."
            )
        if self.num_train is not None and self.num_train > len(training):
            left_out = np.count_nonzero(is_left_out)
            besides = f" and data.exclude or data.relabel leaves out {left_out}" if left_out else ""
            raise ValueError(
                f"data.num_train={self.num_train}: at most {len(training)} is allowed, as the source "
                f"has {total} training examples, of which data.validation={self.validation} holds out "
                f"{num_held_out}{besides}."
            )
        if self.num_train is not None:
            labels, keys = train.labels[training], train.keys[training]
            training = training[balanced_subset("subset", self.seed, labels, keys, self.num_train)]
        return training, held_out

    def _split(self, name: SplitName, examples: Examples | Files, given: Labels, index: NDArray[np.intp]) -> Split:
        keys = examples.keys[index]
        inputs: Inputs
        if isinstance(examples, Examples):
            inputs = self._inputs(name, examples, index)
        else:
            inputs = self._streamed_inputs(name, examples, index)
        labels, original = torch.from_numpy(given.labels[index]), torch.from_numpy(examples.labels[index])
        is_drawn = torch.from_numpy(given.is_drawn[index] | self._drawn(name, keys))
        return Split(inputs, labels, original, is_drawn, labels != original, torch.from_numpy(index).long())

    def _inputs(self, name: SplitName, examples: Examples, index: NDArray[np.intp]) -> Tensor:
        keys = examples.keys[index]
        inputs = torch.empty((len(index), *self.image_shape), dtype=torch.float32)
        start = 0
        for crops in self._crops(examples, index):
            stop = start + len(crops)
            pixels = torch.from_numpy(crops.astype(np.float32)).div_(255)
            pixels = self._corrupted(pixels, self._drawn_pattern(name, keys[start:stop]))
            inputs[start:stop] = self.preprocess(pixels)
            start = stop
        return inputs

    def _streamed_inputs(self, name: SplitName, files: Files, index: NDArray[np.intp]) -> StreamedInputs:
        assert self._files is not None
        return StreamedInputs(
            self._reader(name, files, index),
            self._finished_beside_workers,
            torch.Size((len(index), *self.image_shape)),
            num_workers_here(self._files.num_workers),
        )

    def _reader(self, name: SplitName, files: Files, index: NDArray[np.intp], *, is_corrupted: bool = True) -> Reader:
        assert self._files is not None
        part = Files(files.names[index], files.labels[index], files.keys[index])
        view = View(self._files.resize, self.image_shape[1:])
        return Reader(
            self._files.root, part, view, lambda keys: self._drawn_pattern(name, keys) if is_corrupted else ()
        )

    def _crops(self, examples: Examples, index: NDArray[np.intp]) -> Iterator[NDArray[np.uint8]]:
        """Yield the centre crops of the examples at ``index``, in chunks, in ``[0, 255]``."""
        _, height, width = self.image_shape
        crops = center_crop(examples.images, (height, width))
        for start in range(0, len(index), CHUNK):
            yield crops[index[start : start + CHUNK]]

    def preprocess(self, images: Tensor) -> Tensor:
        """Return what the network is given for images ``(n, C, H, W)`` in ``[0, 1]`` of its size; differentiable."""
        if self.preprocessing == "whitening":
            return whitening(images)
        if self.preprocessing == "normalization":
            return normalization(images, self.statistics)
        if self.preprocessing == "unit_sphere":
            return unit_sphere(images, self.statistics)
        if self.preprocessing == "signed":
            return signed(images)
        return images

    def _augmented(self, index: Tensor, epoch: int) -> Tensor:
        assert self._uncropped is not None
        pattern = tuple(drawn.index_select(0, index) for drawn in self._pattern)
        return self._finished(Decoded(self._uncropped.index_select(0, index), pattern), self._draws(index, epoch))

    def _draws(self, index: Tensor, epoch: int) -> Tensor:
        if self._epoch_draws is None or self._epoch_draws[0] != epoch:
            draws = epoch_draws(self.order_seed, epoch, len(self.splits["train"]), color=self.color_jitter)
            self._epoch_draws = epoch, draws.to(index.device)
        return self._epoch_draws[1].index_select(0, index)

    def _streamed(self, index: Tensor, epoch: int, position: int) -> Tensor:
        if self._stream is None:
            self._open_stream()
        assert self._stream is not None
        decoded = self._stream.take(epoch, position)
        return self._finished_beside_workers(decoded, self._draws(index, epoch) if self.augmentation else None)

    def _finished_beside_workers(self, decoded: Decoded, draws: Tensor | None = None) -> Tensor:
        # In one thread: the cores have workers on them, and threads that wait for each other there wait long.
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return self._finished(decoded, draws)
        finally:
            torch.set_num_threads(threads)

    def _finished(self, decoded: Decoded, draws: Tensor | None = None) -> Tensor:
        """Turn images as they were decoded into what the network sees; with ``draws``, augmented."""
        count = len(decoded.images)
        at_once = max(1, VALUES_AT_ONCE // math.prod(self.image_shape))
        if count <= at_once or decoded.images.device.type != "cpu":
            return self._finished_part(decoded, draws)
        # A few at a time: what lies between the first step and the last stays in the cache.
        finished = torch.empty((count, *self.image_shape), dtype=torch.float32)
        for part in (slice(start, start + at_once) for start in range(0, count, at_once)):
            cut = Decoded(decoded.images[part], tuple(drawn[part] for drawn in decoded.pattern))
            finished[part] = self._finished_part(cut, None if draws is None else draws[part])
        return finished

    def _finished_part(self, decoded: Decoded, draws: Tensor | None) -> Tensor:
        # Batches are gathered during the training step, so under its autocast, meant for the network alone.
        with torch.autocast(decoded.images.device.type, enabled=False):
            images = decoded.images.float().div_(255)
            if draws is not None:
                images = self.augmentation(images, draws)
            return self.preprocess(self._corrupted(images, decoded.pattern))

    def _open_stream(self, rank: int = 0, world_size: int = 1, num_processes: int = 1) -> None:
        """Have the training batches of one rank decoded from where it will ask for them.

        ``num_processes`` of this machine share its cores.
        """
        assert self._files is not None
        num_workers = num_workers_here(self._files.num_workers, num_processes)
        for split in self.splits.values():
            assert isinstance(split.inputs, StreamedInputs)
            split.inputs = replace(split.inputs, num_workers=num_workers)
        train = self.splits["train"]
        assert isinstance(train.inputs, StreamedInputs)
        self.teardown("fit")
        self._stream = TrainingStream(
            train.inputs.reader,
            lambda epoch: [batch[rank::world_size] for batch in epoch_order(self.timetable, self.order_seed, epoch)],
            (lambda epoch: crop_seeds(self.order_seed, epoch, len(train))) if self.random_crop else None,
            num_workers,
            train.inputs.device,
        )

    def move(self, device: torch.device) -> None:
        """Have everything on ``device``; a trainer asks for it by itself."""
        self.splits = {name: split.to(device) for name, split in self.splits.items()}
        self._statistics = None if self._statistics is None else self._statistics.to(device)
        self._uncropped = None if self._uncropped is None else self._uncropped.to(device)
        self._pattern = tuple(drawn.to(device) for drawn in self._pattern)
        self._epoch_draws = None


def _told(value: Any) -> str:
    """Say what a value is: ``float64 (1437,)`` of an array or a tensor, of a tuple what its parts are."""
    if isinstance(value, tuple):
        return f"{type(value).__name__}({', '.join(map(_told, value))})"
    if isinstance(value, np.ndarray | Tensor):
        return f"{type(value).__name__} {str(value.dtype).removeprefix('torch.')} {tuple(value.shape)}"
    return type(value).__name__
