from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from every_corruption import EVERY
from in_memory import InMemory

from rethinkgen.data import corruption
from rethinkgen.data.corruption import (
    AsymmetricLabels,
    ClassGroups,
    Gaussian,
    GaussianBlend,
    GivenLabels,
    NoisyInputs,
    PartialLabels,
    RandomLabels,
    RandomPixels,
    RandomSigns,
    ShuffledPixels,
    SymmetricLabels,
    TrueLabels,
    UniqueLabels,
    UniqueLabelsGaussian,
    asymmetric_labels,
    next_class,
    other_class,
    partial_labels,
    random_labels,
    random_signs,
    symmetric_labels,
    uniform_class,
)
from rethinkgen.data.draws import generator
from rethinkgen.data.module import CorruptedImages, Split
from rethinkgen.data.source import Digits

CIFAR10 = ["airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck"]
KEYS = np.arange(5000, dtype=np.uint64)
LABELS = np.random.default_rng(0).integers(0, 10, 5000)
NOISY_PAIR = np.array([[0.5, 0.5, 0, 0], [0, 1, 0, 0], [0.1, 0.2, 0.3, 0.4], [0, 0, 1, 0]])


def make(corruption: type[CorruptedImages], order: Any = None, **data: Any) -> CorruptedImages:
    datamodule = corruption(InMemory(order=order), batch_size=10, **data)
    datamodule.setup()
    return datamodule


# Labels


def test_partial_labels_is_the_slow_obvious_loop() -> None:
    labels, is_drawn = partial_labels(LABELS[:200], KEYS[:200], 10, 0.3, seed=4)
    for key, original, new, drawn in zip(KEYS, LABELS, labels, is_drawn, strict=False):
        stream = generator("labels", 4, "train", int(key))
        hit, place = stream.random(), stream.random()
        assert drawn == (hit < 0.3)
        assert new == (int(place * 10) if hit < 0.3 else original)


@pytest.mark.parametrize("probability", [0.0, 0.3, 1.0])
def test_partial_labels_makes_a_share_of_p_times_nine_tenths_wrong(probability: float) -> None:
    labels, is_drawn = partial_labels(LABELS, KEYS, 10, probability, seed=0)
    assert is_drawn.mean() == pytest.approx(probability, abs=0.025)
    assert (labels != LABELS).mean() == pytest.approx(0.9 * probability, abs=0.025)
    assert not (labels != LABELS)[~is_drawn].any()


def test_drawn_classes_are_uniform_for_every_true_class() -> None:
    labels, _ = random_labels(LABELS, KEYS, 10, seed=0)
    counts = np.zeros((10, 10))
    np.add.at(counts, (LABELS, labels), 1)
    expected = counts.sum(1, keepdims=True) / 10
    assert ((counts - expected) ** 2 / expected).sum() < 137.2  # chi-squared of 90 degrees of freedom, p = 0.001


def test_partial_labels_with_probability_1_are_random_labels() -> None:
    everything = partial_labels(LABELS, KEYS, 10, 1.0, seed=3)
    np.testing.assert_array_equal(everything.labels, random_labels(LABELS, KEYS, 10, seed=3).labels)
    assert everything.is_drawn.all()
    assert torch.equal(
        make(PartialLabels, probability=1.0, seed=3).splits["train"].labels,
        make(RandomLabels, seed=3).splits["train"].labels,
    )


@pytest.mark.parametrize(("probability", "num_wrong"), [(0.0, 0), (0.4, 2000), (0.33333, 1667), (1.0, 5000)])
def test_symmetric_labels_are_exactly_the_share_with_the_lowest_draws(probability: float, num_wrong: int) -> None:
    labels, is_drawn = symmetric_labels(LABELS, KEYS, 10, probability, seed=4)
    draws = np.array([generator("labels", 4, "train", int(key)).random(2) for key in KEYS])
    lowest = sorted(range(len(KEYS)), key=lambda i: draws[i, 0])[:num_wrong]
    assert np.flatnonzero(is_drawn).tolist() == sorted(lowest)
    assert np.flatnonzero(labels != LABELS).tolist() == sorted(lowest)
    for i in lowest:
        others = [k for k in range(10) if k != LABELS[i]]
        assert labels[i] == others[int(draws[i, 1] * 9)]


def test_a_part_of_symmetric_labels_keeps_its_own() -> None:
    whole = make(SymmetricLabels, probability=0.4)
    given, true = whole.splits["train"].labels, whole.splits["train"].original_labels
    assert int((given != true).sum()) == round(0.4 * len(true))
    assert whole.noise == {"noise/probability": 0.4, "noise/realised": pytest.approx(0.4, abs=0.5 / len(true))}
    part = make(SymmetricLabels, probability=0.4, num_train=len(true) // 2)
    positions = torch.from_numpy(part.trained_on.copy())
    assert torch.equal(part.splits["train"].labels, given[positions])


@pytest.mark.parametrize(
    ("make_transition", "row"),
    [(uniform_class, [0.7, 0.1, 0.1, 0.1]), (other_class, [0.6, 0.4 / 3, 0.4 / 3, 0.4 / 3])],
)
def test_the_transitions_to_any_class_and_to_the_others(make_transition: Any, row: list[float]) -> None:
    expected = [[row[0] if i == j else row[1] for j in range(4)] for i in range(4)]
    np.testing.assert_allclose(make_transition(4, 0.4), expected)


@pytest.mark.parametrize(
    ("corruption", "arguments"),
    [
        (TrueLabels, {}),
        (PartialLabels, {"probability": 0.3}),
        (RandomLabels, {}),
        (SymmetricLabels, {"probability": 0.3}),
        (AsymmetricLabels, {"probability": 0.3}),
        (AsymmetricLabels, {"matrix": NOISY_PAIR}),
    ],
)
def test_a_corruption_of_labels_says_how_probable_each_class_is(
    corruption: type[CorruptedImages], arguments: dict[str, Any]
) -> None:
    """Of 20,000 labels of each class, to five deviations."""
    datamodule = corruption(InMemory(), **arguments)
    told = datamodule.label_transition(4)
    assert told is not None
    true = np.repeat(np.arange(4), 20_000)
    given = datamodule.corrupt_labels(true, np.arange(len(true), dtype=np.uint64), 4).labels
    seen = np.array([np.bincount(given[true == k], minlength=4) / 20_000 for k in range(4)])
    np.testing.assert_allclose(seen, told, atol=5 * 0.5 / 20_000**0.5)
    assert ((told == 0) == (seen == 0)).all()


def test_labels_of_a_file_or_of_ones_own_function_have_no_known_transition(tmp_path: Path) -> None:
    class Own(CorruptedImages):
        def corrupt_labels(self, labels: Any, keys: Any, num_classes: int) -> Any:
            return labels, np.zeros(len(labels), dtype=bool)

    np.save(tmp_path / "given.npy", np.array([[0, 1]]))
    given = GivenLabels(InMemory(), labels=str(tmp_path / "given.npy"))
    assert given.label_transition(4) is Own(InMemory()).label_transition(4) is None
    assert np.array_equal(Gaussian(InMemory()).label_transition(3), np.eye(3))


def test_next_class_turns_k_into_k_plus_1() -> None:
    np.testing.assert_allclose(next_class(3, 0.25), [[0.75, 0.25, 0], [0, 0.75, 0.25], [0.25, 0, 0.75]])
    labels, is_drawn = asymmetric_labels(LABELS, KEYS, next_class(10, 0.4), seed=0)
    np.testing.assert_array_equal(labels, np.where(is_drawn, (LABELS + 1) % 10, LABELS))
    assert is_drawn.mean() == pytest.approx(0.4, abs=0.03)


def test_asymmetric_labels_follow_the_matrix() -> None:
    original = LABELS % 4
    labels, is_drawn = asymmetric_labels(original, KEYS, NOISY_PAIR, seed=0)
    np.testing.assert_array_equal(is_drawn, labels != original)
    for k, row in enumerate(NOISY_PAIR):
        shares = np.bincount(labels[original == k], minlength=4) / (original == k).sum()
        np.testing.assert_allclose(shares, row, atol=0.06)
        assert (shares[row == 0] == 0).all()


def test_the_matrix_may_lie_in_a_file(tmp_path: Path) -> None:
    np.savetxt(tmp_path / "matrix.csv", NOISY_PAIR, delimiter=",")
    np.save(tmp_path / "matrix.npy", NOISY_PAIR)
    for name in ("matrix.csv", "matrix.npy"):
        np.testing.assert_array_equal(AsymmetricLabels(Digits(), matrix=str(tmp_path / name)).matrix, NOISY_PAIR)
    (tmp_path / "words.csv").write_text("a,b\n")
    np.save(tmp_path / "words.npy", np.array([["a", "b"], ["c", "d"]]))
    # What unpickling runs would be run: such a file is refused unread, numbers or not.
    np.save(tmp_path / "pickled.npy", NOISY_PAIR.astype(object), allow_pickle=True)
    for name in ("words.csv", "words.npy", "pickled.npy", "none.npy"):
        with pytest.raises(ValueError, match=rf"data.corruption.matrix=.*{name}: a .csv or .npy file of numbers"):
            AsymmetricLabels(Digits(), matrix=str(tmp_path / name))


def test_asymmetric_labels_draw_nothing_impossible_where_rows_sum_to_1_only_nearly() -> None:
    third = [[1 / 3, 1 / 3, 1 / 3], [0.0, 1 - 5e-7, 0.0], [0.1, 0.2, 0.7]]
    labels, _ = asymmetric_labels(LABELS % 3, KEYS, corruption.check_transition("m", third), seed=0)
    assert labels.max() == 2
    assert (labels[LABELS % 3 == 1] == 1).all()


def test_random_signs_are_fair_and_independent_of_class_and_neighbour() -> None:
    signs = 2 * random_signs(KEYS, "train", 0) - 1
    assert set(signs.tolist()) == {-1, 1}
    four_deviations = 4 / np.sqrt(5000)
    assert abs(signs.mean()) < four_deviations
    assert abs((signs[1:] * signs[:-1]).mean()) < four_deviations
    for of_class in (signs[label == LABELS] for label in range(10)):
        assert abs(of_class.mean()) < 4 / np.sqrt(len(of_class))
    for split, seed in (("train", 1), ("test", 0)):
        assert abs((signs * (2 * random_signs(KEYS, split, seed) - 1)).mean()) < four_deviations


def test_random_signs_stay_what_they_are_for_ever() -> None:
    assert random_signs(KEYS[:8], "train", 0).tolist() == [1, 0, 0, 1, 1, 0, 0, 1]
    assert random_signs(KEYS[:8], "test", 1).tolist() == [1, 0, 1, 1, 1, 0, 0, 1]
    chosen = make(RandomSigns, num_train=12).splits["train"]
    assert chosen.index.tolist() == make(TrueLabels, num_train=12).splits["train"].index.tolist()


def test_random_signs_make_two_classes_of_every_split_and_call_none_wrong() -> None:
    datamodule = make(RandomSigns, validation=0.2)
    assert (datamodule.class_names, datamodule.num_classes, datamodule.num_outputs) == (("-1", "+1"), 2, 1)
    assert make(TrueLabels).num_outputs == 5
    streams = {"train": "train", "validation": "train", "test": "test"}
    for name, split in datamodule.splits.items():
        expected = random_signs(split.index.numpy().astype(np.uint64), streams[name], 0)
        assert split.labels.tolist() == expected.tolist()
        assert torch.equal(split.labels, split.original_labels)
        assert split.is_drawn.all() == (name != "test")
        assert not split.is_corrupted.any()
    assert datamodule.noise == {"noise/probability": 1.0, "noise/realised": 1.0}


def test_a_sample_of_random_signs_is_balanced_by_class_and_not_by_sign() -> None:
    imbalances = []
    for seed in range(8):
        signs = make(RandomSigns, num_train=100, seed=seed).splits["train"]
        true = make(TrueLabels, num_train=100, seed=seed).splits["train"]
        assert torch.equal(signs.index, true.index)
        imbalances.append(abs(2 * int(signs.labels.sum()) - 100))
    assert max(imbalances) > 4


# Draws


def labels_at(amount: float) -> Split:
    return make(PartialLabels, probability=amount).splits["train"]


def neighbours_at(amount: float) -> Split:
    return make(AsymmetricLabels, probability=amount).splits["train"]


def noise_at(amount: float) -> Split:
    return make(NoisyInputs, fraction=amount).splits["train"]


@pytest.mark.parametrize("at", [labels_at, neighbours_at, noise_at])
def test_what_is_corrupted_at_20_percent_is_so_at_40_and_in_the_same_way(at: Any) -> None:
    less, more = at(0.2), at(0.4)
    assert 0 < less.is_drawn.sum() < more.is_drawn.sum() < len(more)
    assert more.is_drawn[less.is_drawn].all()
    assert torch.equal(less.labels[less.is_drawn], more.labels[less.is_drawn])
    assert torch.equal(less.inputs[less.is_drawn], more.inputs[less.is_drawn])


def test_an_example_is_drawn_below_its_own_number_and_not_at_it() -> None:
    number = float(corruption.uniforms("labels", 0, "train", KEYS[:1], 1)[0, 0])
    for amount, is_hit in ((number, False), (float(np.nextafter(number, 1)), True)):
        assert partial_labels(LABELS[:1], KEYS[:1], 10, amount, seed=0).is_drawn.tolist() == [is_hit]
    number = float(corruption.uniforms("noisy_inputs", 0, "train", KEYS[:1], 1)[0, 0])
    for amount, is_hit in ((number, False), (float(np.nextafter(number, 1)), True)):
        assert make(NoisyInputs, fraction=amount).drawn_pixels("train", KEYS[:1]).tolist() == [is_hit]


SIGNS: tuple[type[CorruptedImages], dict[str, Any]] = (RandomSigns, {})


@pytest.mark.parametrize(("kind", "arguments"), [*EVERY, SIGNS])
def test_a_subset_and_a_held_out_part_keep_their_corruption(kind: Any, arguments: dict[str, Any]) -> None:
    whole = make(kind, **arguments).splits
    part = make(kind, num_train=60, validation=0.2, **arguments).splits
    assert len(part["train"]) == 60
    for name in ("train", "validation"):
        split = part[name]
        kept = whole["train"].index[split.index]
        assert torch.equal(split.labels, whole["train"].labels[kept])
        assert torch.equal(split.original_labels, whole["train"].original_labels[kept])
        if not (kind is NoisyInputs and name == "validation"):  # which stays clean
            torch.testing.assert_close(split.inputs, whole["train"].inputs[kept], rtol=0, atol=1e-5)
            assert torch.equal(split.is_drawn, whole["train"].is_drawn[kept])
    torch.testing.assert_close(part["test"].inputs, whole["test"].inputs, rtol=0, atol=0)


@pytest.mark.parametrize(("kind", "arguments"), [*EVERY, SIGNS])
def test_examples_in_another_order_keep_their_corruption(kind: Any, arguments: dict[str, Any]) -> None:
    order = np.random.default_rng(1).permutation(200)
    straight, permuted = make(kind, **arguments).splits["train"], make(kind, order, **arguments).splits["train"]
    assert torch.equal(permuted.labels, straight.labels[order])
    assert torch.equal(permuted.is_drawn, straight.is_drawn[order])
    torch.testing.assert_close(permuted.inputs, straight.inputs[order], rtol=0, atol=1e-5)


@pytest.mark.parametrize(("kind", "arguments"), [*EVERY[1:], SIGNS])
def test_another_seed_corrupts_otherwise_and_the_same_alike(kind: Any, arguments: dict[str, Any]) -> None:
    first, again = (make(kind, seed=1, **arguments).splits["train"] for _ in range(2))
    other = make(kind, seed=2, **arguments).splits["train"]
    assert torch.equal(first.labels, again.labels)
    assert torch.equal(first.inputs, again.inputs)
    assert not (torch.equal(first.labels, other.labels) and torch.equal(first.inputs, other.inputs))


@pytest.mark.parametrize("kind", [RandomPixels, Gaussian])
def test_test_images_have_draws_of_their_own(kind: Any) -> None:
    class Twice(InMemory):
        def load(self) -> Any:
            images = super().load()
            return type(images)(images.train, images.train, images.class_names)

    datamodule = kind(Twice())
    datamodule.setup()
    train, test = datamodule.splits["train"].inputs, datamodule.splits["test"].inputs
    assert ((train - test).abs().amax((1, 2, 3)) > 0.1).all()


# Pixels


def pixels(split: Split) -> torch.Tensor:
    return split.inputs.flatten(2).transpose(1, 2)  # (N, H * W, C)


def test_shuffled_pixels_moves_positions_with_their_channels_by_one_permutation_after_the_crop() -> None:
    true = make(TrueLabels, preprocessing="none", crop=8).splits
    shuffled = make(ShuffledPixels, preprocessing="none", crop=8).splits
    moved = [pixels(shuffled["train"])[0].tolist().index(pixel) for pixel in pixels(true["train"])[0].tolist()]
    assert sorted(moved) == list(range(64))
    assert moved != list(range(64))
    for name in ("train", "test"):
        assert torch.equal(pixels(shuffled[name])[:, moved], pixels(true[name]))


def test_random_pixels_moves_positions_with_their_channels_by_a_permutation_for_each_image() -> None:
    true = make(TrueLabels, preprocessing="none", crop=8).splits
    shuffled = make(RandomPixels, preprocessing="none", crop=8).splits
    moves = set()
    for name in ("train", "test"):
        for before, after in zip(pixels(true[name]).tolist(), pixels(shuffled[name]).tolist(), strict=True):
            moves.add(tuple(after.index(pixel) for pixel in before))
    assert len(moves) == 250
    assert all(sorted(move) == list(range(64)) for move in moves)


def test_random_pixels_reach_every_position() -> None:
    ramp = torch.arange(16.0).view(1, 1, 4, 4).expand(1600, -1, -1, -1)
    orders = torch.from_numpy(corruption.permutations("pixels", 0, "train", KEYS[:1600], 16))
    first = corruption.random_pixels(ramp, orders)[:, 0, 0, 0].long()
    assert ((torch.bincount(first) - 100) ** 2 / 100).sum() < 37.7  # 15 degrees of freedom, p = 0.001


def test_gaussian_has_each_channel_s_mean_and_deviation_and_is_neither_clipped_nor_rounded() -> None:
    class Coloured(InMemory):
        def load(self) -> Any:
            images = super().load()
            scale = np.array([1.0, 0.5, 0.1])[:, None, None]
            for examples in (images.train, images.test):
                examples.images[:] = (examples.images * scale).astype(np.uint8)
            return images

    true, noise = TrueLabels(Coloured(), preprocessing="none"), Gaussian(Coloured(), preprocessing="none")
    true.setup()
    noise.setup()
    expected, found = true.splits["train"].inputs, noise.splits["train"].inputs
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.mean((0, 2, 3)), expected.mean((0, 2, 3)), rtol=0.02, atol=0)
    torch.testing.assert_close(found.std((0, 2, 3)), expected.std((0, 2, 3)), rtol=0.02, atol=0)
    assert found.min() < -0.1
    assert found.max() > 1.1
    assert len(found.unique()) > 50000
    assert torch.corrcoef(torch.stack((found.flatten(), expected.flatten())))[0, 1].abs() > 0.3  # channels differ,
    within = torch.stack((found[:, 0].flatten(), expected[:, 0].flatten()))
    assert torch.corrcoef(within)[0, 1].abs() < 0.03  # but within one nothing is left of the image


def test_gaussian_blend_runs_from_the_image_to_gaussian() -> None:
    for data in ({"preprocessing": "none"}, {}, {"preprocessing": "normalization"}):
        true, noise = make(TrueLabels, **data).splits, make(Gaussian, **data).splits
        for name in ("train", "test"):
            clean = make(GaussianBlend, strength=0.0, **data).splits[name]
            noisy = make(GaussianBlend, strength=1.0, **data).splits[name]
            torch.testing.assert_close(clean.inputs, true[name].inputs, rtol=0, atol=1e-5)
            torch.testing.assert_close(noisy.inputs, noise[name].inputs, rtol=0, atol=1e-5)


def test_gaussian_blend_is_the_issue_s_formula_on_standardised_images() -> None:
    data = {"preprocessing": "normalization"}
    true, noise = (make(kind, **data).splits["train"].inputs for kind in (TrueLabels, Gaussian))
    blend = make(GaussianBlend, strength=0.3, **data).splits["train"].inputs
    torch.testing.assert_close(blend, np.sqrt(0.7) * true + np.sqrt(0.3) * noise, rtol=0, atol=1e-5)


def test_noisy_inputs_replaces_a_fraction_of_the_training_images_and_nothing_else() -> None:
    data = {"validation": 0.2, "preprocessing": "none"}
    true = make(TrueLabels, **data).splits
    noise = make(Gaussian, **data).splits["train"].inputs
    noisy = make(NoisyInputs, fraction=0.4, **data).splits
    for name in ("validation", "test"):
        assert torch.equal(noisy[name].inputs, true[name].inputs)
        assert not noisy[name].is_drawn.any()
    is_noise = noisy["train"].is_drawn
    assert is_noise.float().mean().item() == pytest.approx(0.4, abs=0.1)
    assert torch.equal(noisy["train"].inputs[~is_noise], true["train"].inputs[~is_noise])
    assert torch.equal(noisy["train"].inputs[is_noise], noise[is_noise])
    assert torch.equal(noisy["train"].labels, true["train"].labels)


@pytest.mark.parametrize(("name", "split"), [("train", "train"), ("validation", "train"), ("test", "test")])
def test_every_draw_of_pixels_is_that_of_its_own_stream(name: Any, split: str) -> None:
    """By purpose, seed and split of the source; a change of these names would change every stored result."""

    def drawn(kind: type[CorruptedImages], **data: Any) -> tuple[Any, ...]:
        return tuple(part.numpy() for part in make(kind, seed=3, **data).pixel_pattern(name, KEYS[:40]))

    (orders,) = drawn(RandomPixels)
    (noise,) = drawn(Gaussian)
    is_noise, some = drawn(NoisyInputs, fraction=0.4)
    assert is_noise.dtype == np.bool_
    assert some.dtype == np.float32
    for key, order, ours, hit, at_hit in zip(range(40), orders, noise, is_noise, some, strict=True):
        np.testing.assert_array_equal(order, generator("pixels", 3, split, key).permutation(100))
        expected = generator("noise", 3, split, key).standard_normal((3, 10, 10), dtype=np.float32)
        np.testing.assert_array_equal(ours, expected)
        assert hit == (name == "train" and generator("noisy_inputs", 3, "train", key).random() < 0.4)
        np.testing.assert_array_equal(at_hit, expected if hit else np.zeros_like(expected))
    permutation = torch.from_numpy(generator("shuffled_pixels", 3, "", 0).permutation(100))
    images = torch.rand(2, 3, 10, 10)
    shuffled = make(ShuffledPixels, seed=3).corrupt_pixels(images, ())
    assert torch.equal(shuffled.flatten(2), images.flatten(2)[:, :, permutation])


# What is kept


@pytest.mark.parametrize(("kind", "arguments"), EVERY)
def test_test_labels_stay_true_and_pixel_kinds_leave_all_labels(kind: Any, arguments: dict[str, Any]) -> None:
    datamodule = make(kind, **arguments)
    true = make(TrueLabels).splits
    test, train = datamodule.splits["test"], datamodule.splits["train"]
    assert torch.equal(test.labels, true["test"].labels)
    assert not test.is_corrupted.any()
    assert torch.equal(train.original_labels, true["train"].labels)
    assert torch.equal(train.is_corrupted, train.labels != train.original_labels)
    assert train.is_corrupted.any() == kind.__name__.endswith("Labels") & (kind is not TrueLabels)
    hit = train.is_corrupted if kind.__name__.endswith("Labels") else train.is_drawn
    assert datamodule.noise["noise/realised"] == pytest.approx(hit.float().mean().item())


def test_noise_probability_names_the_amount() -> None:
    amounts = [make(kind, **arguments).noise["noise/probability"] for kind, arguments in EVERY]
    assert amounts == [0.0, 0.5, 1.0, 0.5, 1.0, 1.0, 1.0, 0.5, 0.5, 0.5]
    by_matrix = make(AsymmetricLabels, matrix=next_class(5, 0.5).tolist())
    assert by_matrix.noise["noise/probability"] is None
    assert torch.equal(by_matrix.splits["train"].labels, make(AsymmetricLabels, probability=0.5).splits["train"].labels)


# Other tasks


def test_each_training_example_may_be_a_class_of_its_own() -> None:
    datamodule = make(UniqueLabels, num_train=60)
    true = make(TrueLabels, num_train=60).splits["train"]
    split = datamodule.splits["train"]
    assert split.labels.tolist() == split.original_labels.tolist() == list(range(60))
    assert datamodule.num_classes == datamodule.num_outputs == 60
    assert datamodule.class_names == tuple(str(i) for i in true.index.tolist())
    assert torch.equal(split.index, true.index), "chosen by the source's classes"
    assert torch.equal(split.inputs, true.inputs)
    assert set(datamodule.splits) == {"train"}
    assert any("test set is null" in note for note in datamodule.notes)
    assert not split.is_corrupted.any()
    assert split.is_drawn.all()
    assert datamodule.noise == {"noise/probability": 1.0, "noise/realised": 1.0}


def test_a_class_of_its_own_and_noise_are_those_of_the_two_corruptions() -> None:
    both = make(UniqueLabelsGaussian, num_train=60)
    split, noise = both.splits["train"], make(Gaussian, num_train=60).splits["train"]
    assert torch.equal(split.inputs, noise.inputs)
    assert torch.equal(split.index, noise.index)
    assert split.labels.tolist() == split.original_labels.tolist() == list(range(60))
    assert set(both.splits) == {"train"}
    assert both.noise == {"noise/probability": 1.0, "noise/realised": 1.0}


def test_nothing_is_held_out_of_examples_with_a_class_each() -> None:
    with pytest.raises(ValueError, match=r"data\.validation=0\.2 .*unique_labels: .* Set data\.validation=0\.0"):
        make(UniqueLabels, validation=0.2)
    with pytest.raises(ValueError, match=r"data\.num_train=1: two examples"):
        UniqueLabels(InMemory(), batch_size=1, num_train=1).setup()


def test_classes_may_be_learnt_by_group() -> None:
    names = make(TrueLabels).class_names
    groups = {"late": names[2:], "early": names[:2]}
    found, true = (
        make(kind, validation=0.2, **given) for kind, given in ((ClassGroups, {"groups": groups}), (TrueLabels, {}))
    )
    assert found.class_names == ("late", "early")
    for name, split in found.splits.items():
        expected = [0 if label >= 2 else 1 for label in true.splits[name].labels.tolist()]
        assert split.labels.tolist() == split.original_labels.tolist() == expected
        assert torch.equal(split.inputs, true.splits[name].inputs)
        assert torch.equal(split.index, true.splits[name].index), "chosen by the source's classes"
    assert found.noise == {"noise/probability": 0.0, "noise/realised": 0.0}


def test_the_groups_of_cifar10_are_its_classes() -> None:
    assert sorted(name for names in corruption.CIFAR10_GROUPS.values() for name in names) == CIFAR10


@pytest.mark.parametrize(
    ("groups", "words"),
    [
        ("animals", "at least two groups"),
        ({"all": list("0123456789")}, "at least two groups"),
        ({"one": list("0123456789"), "two": []}, "at least two groups"),
        ({"one": "01234", "two": ["5"]}, "at least two groups"),
        ({"one": list("01234"), "two": list("5678")}, r": 9: each class"),
        ({"one": list("012345"), "two": list("56789")}, r": 5: each class"),
        ({"one": list("01234"), "two": [*"56789", "ten"]}, r": ten: each class"),
        (None, r"bird, .*: each class"),
    ],
)
def test_groups_must_have_each_class_once(groups: Any, words: str) -> None:
    with pytest.raises(ValueError, match=rf"data\.corruption\.groups.*{words}"):
        ClassGroups(Digits(), groups=groups).setup()


# Bad input


def test_more_random_signs_than_there_are_examples_are_refused() -> None:
    with pytest.raises(ValueError, match=r"data\.num_train=201: at most 200 is allowed"):
        make(RandomSigns, num_train=201)


@pytest.mark.parametrize("value", [-0.1, 1.1, float("nan"), float("inf"), "0.5", True, None, [0.5]])
@pytest.mark.parametrize(
    ("kind", "name"), [(PartialLabels, "probability"), (GaussianBlend, "strength"), (NoisyInputs, "fraction")]
)
def test_an_amount_that_is_no_probability_is_named_with_its_key(kind: Any, name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"data\.corruption\.{name}=.*from 0 to 1"):
        kind(InMemory(), **{name: value})


def test_asymmetric_labels_refuses_a_bad_probability() -> None:
    with pytest.raises(ValueError, match=r"data\.corruption\.probability=2: a number from 0 to 1"):
        AsymmetricLabels(InMemory(), probability=2)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        ([[0.5, 0.5], [1.0]], "as many rows as columns"),
        ([[0.5, 0.5]], "as many rows as columns"),
        ([], "as many rows as columns"),
        (3.0, "as many rows as columns"),
        ([[0.5, 0.4], [0, 1]], r"matrix\[0\].* sums to 0.9"),
        ([[0, 1], [1.5, -0.5]], r"matrix\[1\]\[0\]=1.5: a number from 0 to 1"),
        ([[0, 1], ["a", 1]], r"matrix\[1\]\[0\]='a'"),
        ([[0, 1], [float("nan"), 1]], r"matrix\[1\]\[0\]=nan"),
    ],
)
def test_asymmetric_labels_refuses_what_is_no_transition(matrix: Any, message: str) -> None:
    with pytest.raises(ValueError, match=rf"data\.corruption\.matrix.*{message}|data\.corruption\.{message}"):
        AsymmetricLabels(InMemory(), matrix=matrix)


def test_asymmetric_labels_needs_one_of_probability_and_matrix_and_as_many_rows_as_classes() -> None:
    for arguments in ({}, {"probability": 0.5, "matrix": [[1, 0], [0, 1]]}):
        with pytest.raises(
            ValueError,
            match=r"probability=.*data\.corruption\.matrix=.*: one of them is needed, and the other must be null\.$",
        ):
            AsymmetricLabels(InMemory(), **arguments)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"data\.corruption\.matrix has 2 rows.*5 classes"):
        make(AsymmetricLabels, matrix=[[1, 0], [0, 1]])
