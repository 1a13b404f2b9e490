from __future__ import annotations

import hashlib
from typing import Any

import numpy as np
import pytest
import pytorch_lightning as pl
import torch
from in_memory import InMemory
from numpy.typing import NDArray
from torch import Tensor

from one_epoch import one_epoch
from rethinkgen.data.augmentation import center_crop, epoch_draws
from rethinkgen.data.batches import Batch, Block
from rethinkgen.data.corruption import Gaussian, NoisyInputs, RandomLabels, RandomPixels, ShuffledPixels, TrueLabels
from rethinkgen.data.draws import balanced_subset
from rethinkgen.data.equal_images import find_conflicts
from rethinkgen.data.module import CorruptedImages, Labels
from rethinkgen.data.source import Digits, Examples, Images

AUGMENTATION = {"random_crop": True, "flip": True, "rotation": 20.0}


def make(kind: type[CorruptedImages] = TrueLabels, source: Any = None, **data: Any) -> CorruptedImages:
    datamodule = kind(source or InMemory(), **{"batch_size": 16, **data})
    datamodule.setup()
    return datamodule


def block(indices: list[int], sizes: list[int], epoch: int = 0) -> Block:
    return Block(torch.tensor(indices), sizes, sizes, epoch)


def whiten(image: NDArray[np.float64]) -> NDArray[np.float64]:
    return (image - image.mean()) / max(image.std(), image.size**-0.5)


class Recorder(pl.LightningModule):
    """Trains one weight and keeps every batch it saw."""

    def __init__(self) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.seen: list[Batch] = []
        self.block_lengths: list[int] = []

    def training_step(self, batches: Any, _: int) -> None:
        before = len(self.seen)
        for batch in batches:
            self.seen.append(batch)
            loss = (self.weight * batch.images.float().mean()).square()
            self.manual_backward(loss)
            self.optimizers().step()  # type: ignore[union-attr]
        self.block_lengths.append(len(self.seen) - before)

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1)


def trainer(**arguments: Any) -> pl.Trainer:
    return pl.Trainer(
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        **{"max_epochs": 2, **arguments},
    )


# The chain, by hand


def test_inputs_are_the_hand_written_chain_of_crop_permutation_and_whitening() -> None:
    source = InMemory(shape=(3, 32, 32))
    images = source.load()
    permutation = ShuffledPixels(source, seed=5)
    permutation.setup()
    order = hand_drawn("shuffled_pixels/5/").permutation(28 * 28)
    for name, examples in (("train", images.train), ("test", images.test)):
        expected = []
        for image in examples.images:
            x = image[:, 2:30, 2:30].astype(np.float64) / 255
            x = x.reshape(3, 784)[:, order].reshape(3, 28, 28)
            expected.append(whiten(x))
        np.testing.assert_allclose(permutation.splits[name].inputs.numpy(), np.stack(expected), atol=1e-5)  # type: ignore[index]
    assert permutation.image_shape == (3, 28, 28)
    assert permutation.num_classes == 5
    assert permutation.class_names == tuple("abcde")


def hand_drawn(name: str, key: int = 0) -> np.random.Generator:
    words = np.frombuffer(hashlib.blake2b(name.encode(), digest_size=16).digest(), dtype="<u8")
    return np.random.Generator(np.random.Philox(key=words, counter=[0, 0, 0, key]))


def test_augmented_inputs_are_the_hand_written_chain_of_geometry_then_pixels_then_whitening() -> None:
    images = InMemory(shape=(3, 32, 32)).load().train
    data = make(RandomPixels, InMemory(shape=(3, 32, 32)), random_crop=True, flip=True, seed=5, order_seed=6)
    draws = hand_drawn("augmentation/6/train", 3).random((200, 4), dtype=np.float32)
    chosen = [7, 199, 0]
    ((inputs, labels, size, *_),) = data.batches(block(chosen, [3], epoch=3))
    assert size == 3
    for i, found, label in zip(chosen, inputs.numpy(), labels.tolist(), strict=True):
        top, left = int(draws[i, 0] * 5), int(draws[i, 1] * 5)
        x = images.images[i][:, top : top + 28, left : left + 28].astype(np.float64) / 255
        x = x[:, :, ::-1] if draws[i, 2] < 0.5 else x
        order = hand_drawn("pixels/5/train", i).permutation(784)
        x = x.reshape(3, 784)[:, order].reshape(3, 28, 28)
        np.testing.assert_allclose(found, whiten(x), atol=1e-5)
        assert label == images.labels[i]


@pytest.mark.parametrize("preprocessing", ["none", "normalization"])
def test_the_other_preprocessings(preprocessing: str) -> None:
    images = InMemory().load()
    data = make(crop=8, num_train=100, preprocessing=preprocessing)
    x = center_crop(images.test.images, (8, 8)) / 255
    if preprocessing == "normalization":  # by the whole training set, whatever is trained on
        pixels = center_crop(images.train.images, (8, 8)) / 255
        x = (x - pixels.mean((0, 2, 3))[:, None, None]) / pixels.std((0, 2, 3))[:, None, None]
    np.testing.assert_allclose(data.splits["test"].inputs.numpy(), x, atol=1e-5)


def test_images_on_the_unit_sphere_are_standardised_by_channel_first() -> None:
    standard, sphere = (
        make(crop=8, preprocessing=name).splits["test"].inputs for name in ("normalization", "unit_sphere")
    )
    for before, after in zip(standard.double(), sphere.double(), strict=True):
        torch.testing.assert_close(after, before / float((before * before).sum()) ** 0.5, rtol=0, atol=1e-6)


@pytest.mark.parametrize("corner", [{}, {"flip": True, "random_crop": True}])
def test_images_are_reduced_to_means_before_anything_else(corner: dict[str, Any]) -> None:
    images = InMemory(shape=(3, 28, 28)).load()
    data = make(source=InMemory(shape=(3, 28, 28)), resize=14, preprocessing="none", **corner)
    assert data.image_shape == (3, 14, 14)
    for found, image in zip(data.splits["test"].inputs.numpy() * 255, images.test.images, strict=True):
        for (c, y, x), value in np.ndenumerate(found[:, ::5, ::5]):
            four = image[c, 10 * y : 10 * y + 2, 10 * x : 10 * x + 2].astype(float)
            assert value == pytest.approx(np.rint(four.mean()), abs=1e-4)
    (batch,) = data.batches(block([3, 7], [2]))
    assert batch.images.shape == (2, 3, 14, 14)
    assert make(source=InMemory(shape=(3, 28, 28)), resize=14, crop=12).image_shape == (3, 12, 12)


def test_images_are_never_made_larger() -> None:
    with pytest.raises(ValueError, match=r"data\.resize=29: images are 28x28"):
        make(source=InMemory(shape=(1, 28, 28)), resize=29)
    with pytest.raises(ValueError, match=r"data\.resize=0: a whole number of at least 1"):
        make(resize=0)


@pytest.mark.parametrize(
    ("shape", "crop", "size"),
    [
        ((3, 32, 32), "auto", (28, 28)),
        ((1, 28, 28), "auto", (28, 28)),
        ((3, 32, 30), "auto", (32, 30)),
        ((3, 32, 32), None, (32, 32)),
        ((3, 32, 30), 20, (20, 20)),
    ],
)
def test_crop(shape: tuple[int, int, int], crop: Any, size: tuple[int, int]) -> None:
    data = make(source=InMemory(shape=shape, num_train=20, num_test=5), crop=crop)
    assert data.image_shape == (shape[0], *size)
    assert data.splits["train"].inputs.shape == (20, shape[0], *size)


# Batches


def test_without_augmentation_a_batch_is_rows_of_the_training_split() -> None:
    data = make(RandomLabels)
    train = data.splits["train"]
    first, second = data.batches(Block(torch.tensor([5, 3, 9, 9, 0]), [3, 2], [6, 4], 0))
    assert torch.equal(first.images, train.inputs[[5, 3, 9]])
    assert torch.equal(first.labels, train.labels[[5, 3, 9]])
    assert torch.equal(second.images, train.inputs[[9, 0]])
    assert (first.global_size, second.global_size) == (6, 4)


def test_batches_are_gathered_one_at_a_time() -> None:
    data = make()
    batches = data.batches(block([0, 1, 2, 3], [2, 2]))
    next(batches)
    data.splits["train"].inputs[2] = 77
    assert (next(batches).images[0] == 77).all()


def test_augmentation_is_off_unless_asked_for_and_leaves_the_splits_alone() -> None:
    bare, augmented = make(), make(**AUGMENTATION)
    assert not bare.augmentation
    for name in ("train", "test"):
        assert torch.equal(bare.splits[name].inputs, augmented.splits[name].inputs)
    ((images, *_),) = augmented.batches(block(list(range(16)), [16]))
    assert images.shape == bare.splits["train"].inputs[:16].shape
    assert not torch.isclose(images, bare.splits["train"].inputs[:16]).all((1, 2, 3)).any()
    (again,), (later,) = augmented.batches(block([3], [1])), augmented.batches(block([3], [1], epoch=1))
    assert torch.equal(again.images[0], images[3])
    assert not torch.equal(later.images[0], images[3])


@pytest.mark.parametrize("kind", [TrueLabels, RandomPixels, Gaussian])
def test_augmented_batches_are_the_same_in_blocks_of_any_length_and_interleave_over_ranks(kind: Any) -> None:
    data = make(kind, order_seed=3, **AUGMENTATION)

    def batches(batches_per_block: int, rank: int = 0, world_size: int = 1) -> list[Batch]:
        blocks = one_epoch(200, 16, 3, 2, lambda step: step + batches_per_block, rank, world_size, clock=lambda: 0.0)
        return [batch for block in blocks for batch in data.batches(block)]

    whole = batches(1)
    for one, longer, *shares in zip(whole, batches(5), batches(3, 0, 2), batches(3, 1, 2), strict=True):
        assert torch.equal(one.images, longer.images)
        assert torch.equal(one.labels, longer.labels)
        for rank, share in enumerate(shares):
            torch.testing.assert_close(share.images, one.images[rank::2], rtol=0, atol=1e-6)
            assert torch.equal(share.labels, one.labels[rank::2])
            assert share.global_size == len(one.labels)


def test_pixel_corruption_is_fixed_under_augmentation() -> None:
    data = make(Gaussian, flip=True)
    for epoch in (0, 1):  # noise takes the image's place after geometry, so nothing random is left
        ((images, *_),) = data.batches(block(list(range(20)), [20], epoch))
        torch.testing.assert_close(images, data.splits["train"].inputs[:20], rtol=0, atol=1e-5)
    noisy = make(NoisyInputs, fraction=0.5, flip=True)
    ((first, *_),) = noisy.batches(block(list(range(20)), [20], 0))
    ((second, *_),) = noisy.batches(block(list(range(20)), [20], 1))
    is_noise = noisy.splits["train"].is_drawn[:20]
    assert torch.equal(first[is_noise], second[is_noise])
    draws = (epoch_draws(0, 0, 200)[:20, 2] < 0.5) != (epoch_draws(0, 1, 200)[:20, 2] < 0.5)
    assert torch.equal((first != second).any(3).any(2).any(1), draws & ~is_noise)


def test_augmentation_of_a_subset_follows_its_own_examples() -> None:
    data = make(num_train=50, random_crop=True, preprocessing="none")
    ((images, *_),) = data.batches(block(list(range(50)), [50]))
    source = InMemory().load().train.images[data.splits["train"].index] / 255
    for image, whole in zip(images.numpy(), source, strict=True):
        padded = np.pad(whole, ((0, 0), (1, 1), (1, 1)))
        windows = [padded[:, y : y + 10, x : x + 10] for y in range(3) for x in range(3)]
        assert any(np.allclose(image, window, atol=1e-6) for window in windows)


def test_autocast_of_the_training_step_does_not_touch_the_images() -> None:
    class Mixed(TrueLabels):
        def corrupt_pixels(self, images: Tensor, pattern: tuple[Tensor, ...]) -> Tensor:
            return images @ torch.rand(10, 10, generator=torch.Generator().manual_seed(0))

    data = make(Mixed, **AUGMENTATION)
    ((plain, *_),) = data.batches(block(list(range(16)), [16]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        ((images, *_),) = data.batches(block(list(range(16)), [16]))
        assert torch.is_autocast_enabled("cpu")
    assert images.dtype == torch.float32
    assert torch.equal(images, plain)


# Splits


def test_validation_is_held_out_first_and_num_train_is_chosen_from_the_rest() -> None:
    whole = make(validation=0.2).splits
    held_out = set(whole["validation"].index.tolist())
    assert len(held_out) == 40
    assert held_out | set(whole["train"].index.tolist()) == set(range(200))
    smaller: set[int] = set()
    for num_train in (50, 90, 160):
        part = make(validation=0.2, num_train=num_train).splits
        chosen = set(part["train"].index.tolist())
        assert set(part["validation"].index.tolist()) == held_out
        assert len(chosen) == num_train
        assert smaller < chosen
        assert not chosen & held_out
        assert part["train"].index.tolist() == sorted(chosen)
        smaller = chosen


def test_parts_are_balanced_by_original_label() -> None:
    splits = make(RandomLabels, num_train=80, validation=0.25).splits
    shares = np.bincount(InMemory().load().train.labels) / 200
    for name, size in (("train", 80), ("validation", 50)):
        counts = np.bincount(splits[name].original_labels, minlength=5)  # type: ignore[index]
        assert np.abs(counts - size * shares).max() <= (1 if name == "validation" else 2)
    assert splits["validation"].is_corrupted.any()


def test_who_is_held_out_follows_the_seed_of_the_data_and_true_labels_alone() -> None:
    """By ``data.seed`` and the examples' keys, of unequal classes: not by place, the order's seed or the noise."""
    source = InMemory().load().train
    keys = np.arange(200, dtype=np.uint64)
    by_seed = {}
    for seed in (0, 1):
        expected = balanced_subset("validation", seed, source.labels, keys, 34)
        for kind in (TrueLabels, RandomLabels, RandomPixels):
            splits = make(kind, validation=0.17, seed=seed, order_seed=3).splits
            assert splits["validation"].index.tolist() == expected.tolist()
            assert splits["train"].index.tolist() == sorted({*range(200)} - {*expected.tolist()})
        by_seed[seed] = set(expected.tolist())
    assert len(by_seed[0] & by_seed[1]) < 20, "6 are expected of two independent choices"
    order = np.random.default_rng(1).permutation(200)
    moved = make(source=InMemory(order=order), validation=0.17).splits["validation"]
    assert set(order[moved.index].tolist()) == by_seed[0]


def test_who_is_held_out_stays_the_same_for_ever() -> None:
    # Results of early stopping are compared with stored ones: if this fails, they no longer can be.
    assert make(validation=0.05).splits["validation"].index.tolist() == [6, 42, 71, 85, 86, 97, 120, 124, 144, 145]
    chosen = make(validation=0.05, num_train=10, batch_size=8).splits["train"].index.tolist()
    assert chosen == [20, 29, 43, 74, 88, 95, 101, 147, 153, 159]


def test_without_validation_there_is_no_such_split() -> None:
    assert list(make().splits) == ["train", "test"]


# Conflicts


def test_conflicts_are_counted_as_by_comparing_all_pairs() -> None:
    rng = np.random.default_rng(0)
    inputs = torch.from_numpy(rng.integers(0, 2, (60, 1, 2, 2)).astype(np.float32))
    labels = torch.from_numpy(rng.integers(0, 3, 60))
    equal = (inputs.flatten(1)[:, None] == inputs.flatten(1)[None]).all(2)
    conflicting = (equal & (labels[:, None] != labels[None])).any(1).sum().item()
    best = 0
    for image in inputs.flatten(1).unique(dim=0):
        best += torch.bincount(labels[(inputs.flatten(1) == image).all(1)]).max().item()
    found = find_conflicts(inputs, labels)
    assert found.num_conflicts == conflicting > 0
    assert found.ceiling == pytest.approx(best / 60)


def test_images_that_differ_in_one_value_only_are_no_conflict() -> None:
    inputs = torch.zeros(100, 1, 28, 28)
    inputs.flatten(1)[range(100), range(3, 703, 7)] = 1.0
    assert find_conflicts(inputs, torch.arange(100)) == (0, 1.0)


def test_images_that_whitening_makes_equal_are_found_and_none_are_sought_under_augmentation() -> None:
    class Scaled(InMemory):
        def load(self) -> Images:
            train = Examples(np.zeros((4, 1, 4, 4), np.uint8), np.array([0, 1, 0, 0]), np.arange(4, dtype=np.uint64))
            train.images[0] += 50  # constant, as the second and third, but brighter
            train.images[3, 0, 1, 1] = 9
            return Images(train, train, ("a", "b"))

    data = make(source=Scaled(), batch_size=2)
    assert data.num_conflicts == 3  # whitened, all constant images are black
    assert data.fit_ceiling == pytest.approx(0.75)
    assert make(source=Scaled(), batch_size=2, flip=True).fit_ceiling is None
    assert make(source=Scaled(), batch_size=2, preprocessing="none").num_conflicts == 2
    assert make(source=InMemory()).fit_ceiling == 1.0


# Lightning


def test_setup_by_hand_prepares_and_loads_once() -> None:
    source = InMemory()
    data = RandomLabels(source)
    data.setup()
    splits = data.splits
    for stage in ("fit", "test", None):
        data.setup(stage)
    assert (source.times_prepared, source.times_loaded) == (1, 1)
    assert data.splits is splits
    assert data.splits["train"].inputs.device.type == "cpu"


def test_prepared_data_is_not_prepared_again() -> None:
    source = InMemory()
    data = RandomLabels(source)
    data.prepare_data()
    data.setup()
    assert source.times_prepared == 1


def test_a_trainer_sees_every_example_once_an_epoch_in_the_order_of_seed_and_epoch() -> None:
    model, data = Recorder(), RandomLabels(InMemory(), batch_size=16, order_seed=9, flip=True)
    trainer(max_epochs=3).fit(model, data)
    per_epoch = data.timetable.steps(0)
    assert per_epoch == 13
    assert len(model.seen) == 3 * per_epoch
    for epoch in range(3):
        expected = [batch for block in one_epoch(200, 16, 9, epoch) for batch in data.batches(block)]
        found = model.seen[epoch * per_epoch : (epoch + 1) * per_epoch]
        for left, right in zip(found, expected, strict=True):
            assert torch.equal(left.images, right.images)
            assert torch.equal(left.labels, right.labels)
    assert max(model.block_lengths) > 1


def test_blocks_end_where_a_callback_wants_to_be_called() -> None:
    stops: list[int] = []

    class Stop(pl.Callback):
        def next_stop(self, step: int) -> float:
            return (step // 10 + 1) * 10

        def on_train_batch_end(self, trainer: pl.Trainer, *_: Any) -> None:
            stops.append(trainer.global_step)

    trainer(callbacks=[Stop()], max_epochs=8).fit(Recorder(), RandomLabels(InMemory(), batch_size=16))
    assert set(range(10, 104, 10)) <= set(stops)
    assert max(np.diff(stops)) > 1


def test_a_second_fit_uses_the_same_data_and_repeats_it() -> None:
    data = RandomLabels(InMemory(), batch_size=16)
    first, second = Recorder(), Recorder()
    trainer().fit(first, data)
    inputs = data.splits["train"].inputs
    trainer().fit(second, data)
    assert data.splits["train"].inputs.data_ptr() == inputs.data_ptr()
    assert all(torch.equal(a.images, b.images) for a, b in zip(first.seen, second.seen, strict=True))


def test_digits_need_no_config_and_no_files() -> None:
    model = Recorder()
    trainer(max_epochs=1).fit(model, RandomLabels(Digits()))
    assert sum(len(batch.labels) for batch in model.seen) == 1437
    assert model.seen[0].images.shape == (128, 1, 8, 8)


def test_everything_moves_to_the_trainer_s_device() -> None:
    data = make(RandomPixels, **AUGMENTATION)
    data.move(torch.device("meta"))
    moved: list[Tensor] = [data.splits["train"].inputs, data.splits["test"].labels, data.statistics.mean]
    assert data._uncropped is not None
    moved += [data._uncropped, *data._pattern]
    assert {tensor.device.type for tensor in moved} == {"meta"}


# Bad input


@pytest.mark.parametrize(
    ("key", "values"),
    [
        ("data.batch_size", [0, -1, 2.5, "128", True, None]),
        ("data.num_train", [0, -5, 10.5, "all"]),
        ("data.validation", [-0.1, 1, 1.0, 2, float("nan"), "0.1", True, None]),
        ("data.crop", [0, -28, 27.5, "center", True]),
        ("data.preprocessing", ["whiten", None, 3]),
        ("data.seed", [-1, 0.5, "zero", None]),
        ("data.order_seed", [-1, "zero"]),
        ("regularizer.rotation", [-1, 181, float("nan"), "25", True, None]),
        ("regularizer.flip", [1, "yes", None]),
        ("regularizer.random_crop", [4, "true"]),
    ],
)
def test_a_bad_value_is_named_with_its_key_before_anything_is_loaded(key: str, values: list[Any]) -> None:
    source = InMemory()
    for value in values:
        with pytest.raises(ValueError, match=rf"^{key}={value!r}: .* needed".replace(".", r"\.").replace(r"\.*", ".*")):
            TrueLabels(source, **{key.split(".")[1]: value})
    assert source.times_loaded == 0


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({"num_train": 201}, r"data\.num_train=201: at most 200 .* 200 training examples"),
        ({"num_train": 161, "validation": 0.2}, r"data\.num_train=161: at most 160 .* holds out 40"),
        ({"validation": 0.001}, r"data\.validation=0\.001 holds out 0 of 200"),
        ({"validation": 0.999}, r"data\.validation=0\.999 holds out 200 of 200"),
        ({"crop": 11}, r"data\.crop=11: images are 10x10; at most 10"),
        ({"batch_size": 201}, r"data\.batch_size=201 is larger than the training set of 200"),
        ({"batch_size": 20, "num_train": 19}, r"data\.batch_size=20 is larger than the training set of 19"),
    ],
)
def test_a_value_that_does_not_suit_the_source_is_an_error_of_setup(data: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(**data)


def test_numbers_of_numpy_are_numbers() -> None:
    data = make(batch_size=np.int64(8), validation=np.float32(0.25), rotation=np.float64(5))
    assert len(data.splits["validation"]) == 50
    assert data.rotation == 5


def test_a_corruption_that_does_not_say_how_much_it_is_has_no_probability() -> None:
    class Silent(CorruptedImages):
        def corrupt_labels(self, labels: NDArray[np.int64], keys: NDArray[np.uint64], num_classes: int) -> Labels:
            return Labels((labels + 1) % num_classes, np.ones(len(labels), dtype=bool))

    class Telling(Silent):
        def __init__(self, source: Any, **data: Any) -> None:
            super().__init__(source, **data)
            self.noise_probability = 0.5

    assert make(Silent).noise == {"noise/probability": None, "noise/realised": 1.0}
    assert make(Telling).noise["noise/probability"] == 0.5
    assert make(TrueLabels).noise["noise/probability"] == 0.0
