"""What holds of every corruption and draw, whatever the labels, keys, amounts and seeds."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from numpy.typing import NDArray

from rethinkgen.data.corruption import (
    asymmetric_labels,
    gaussian,
    gaussian_blend,
    next_class,
    noisy_inputs,
    partial_labels,
    random_labels,
    random_pixels,
    random_signs,
    shuffled_pixels,
    symmetric_labels,
)
from rethinkgen.data.draws import generator, normals, permutations, uniforms
from rethinkgen.data.preprocessing import ChannelStatistics

NUM_CLASSES = 6
seeds = st.integers(0, 2**31)
probabilities = st.floats(0, 1)
keys_of_examples = st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=30, unique=True).map(
    lambda keys: np.array(keys, dtype=np.uint64)
)


@st.composite
def labelled(draw: Any, num_classes: int = NUM_CLASSES) -> tuple[NDArray[np.int64], NDArray[np.uint64]]:
    """Labels and as many different keys."""
    keys = draw(keys_of_examples)
    labels = draw(st.lists(st.integers(0, num_classes - 1), min_size=len(keys), max_size=len(keys)))
    return np.array(labels, dtype=np.int64), keys


@st.composite
def transitions(draw: Any, size: int = NUM_CLASSES) -> NDArray[np.float64]:
    """Matrices whose rows are distributions, many of their entries 0."""
    weights = draw(arrays(np.int64, (size, size), elements=st.integers(0, 3)))
    weights[np.arange(size), np.arange(size)] += weights.sum(1) == 0
    return weights / weights.sum(1, keepdims=True)


# Labels


@given(labelled(), probabilities, seeds)
def test_partial_labels_are_a_loop_over_examples(
    data: tuple[NDArray[np.int64], NDArray[np.uint64]], probability: float, seed: int
) -> None:
    labels, keys = data
    new, is_drawn = partial_labels(labels, keys, NUM_CLASSES, probability, seed)
    for label, key, ours, drawn in zip(labels, keys, new, is_drawn, strict=True):
        hit, place = generator("labels", seed, "train", int(key)).random(2)
        assert drawn == (hit < probability)
        assert ours == (math.floor(place * NUM_CLASSES) if hit < probability else label)


@given(labelled(), probabilities, probabilities, seeds)
def test_what_is_drawn_at_less_is_drawn_at_more_with_the_same_label(
    data: tuple[NDArray[np.int64], NDArray[np.uint64]], one: float, other: float, seed: int
) -> None:
    labels, keys = data
    less, more = sorted((one, other))
    for at in (
        lambda amount: partial_labels(labels, keys, NUM_CLASSES, amount, seed),
        lambda amount: symmetric_labels(labels, keys, NUM_CLASSES, amount, seed),
        lambda amount: asymmetric_labels(labels, keys, next_class(NUM_CLASSES, amount), seed),
    ):
        few, many = at(less), at(more)
        assert not (few.is_drawn & ~many.is_drawn).any()
        np.testing.assert_array_equal(few.labels[few.is_drawn], many.labels[few.is_drawn])
        np.testing.assert_array_equal(few.labels[~few.is_drawn], labels[~few.is_drawn])


@given(labelled(), transitions(), seeds)
def test_asymmetric_labels_are_a_loop_over_examples(
    data: tuple[NDArray[np.int64], NDArray[np.uint64]], transition: NDArray[np.float64], seed: int
) -> None:
    labels, keys = data
    new, is_drawn = asymmetric_labels(labels, keys, transition, seed)
    for label, key, ours, drawn in zip(labels.tolist(), keys, new.tolist(), is_drawn, strict=True):
        hit, place = generator("labels", seed, "train", int(key)).random(2)
        others = [(j, p) for j, p in enumerate(transition[label]) if j != label]
        leave = sum(p for _, p in others)
        assume(abs(hit - leave) > 1e-9)
        assert drawn == (hit < leave)
        if not drawn:
            assert ours == label
            continue
        assert ours != label
        assert transition[label, ours] > 0
        below = sum(p for j, p in others if j < ours)
        assert below - 1e-9 <= place * leave <= below + transition[label, ours] + 1e-9


@given(st.integers(2, 12), probabilities)
def test_the_transition_to_the_next_class(num_classes: int, probability: float) -> None:
    for k, row in enumerate(next_class(num_classes, probability)):
        expected = dict.fromkeys(range(num_classes), 0.0)
        expected[k] += 1 - probability
        expected[(k + 1) % num_classes] += probability
        assert row.tolist() == list(expected.values())


@given(seeds, st.sampled_from([0.1, 0.35, 0.8]))
def test_the_share_that_is_hit_is_the_probability_to_within_five_deviations(seed: int, probability: float) -> None:
    n = 1500
    keys = np.arange(n, dtype=np.uint64) + np.uint64(seed)
    # Unequal classes, the last of which is rare.
    labels = np.searchsorted(np.cumsum([0.4, 0.25, 0.15, 0.12, 0.06]), (np.arange(n) + 0.5) / n)
    deviation = math.sqrt(probability * (1 - probability) / n)
    new, is_drawn = partial_labels(labels, keys, NUM_CLASSES, probability, seed)
    assert abs(is_drawn.mean() - probability) < 5 * deviation
    wrong = probability * (NUM_CLASSES - 1) / NUM_CLASSES
    assert abs((new != labels).mean() - wrong) < 5 * math.sqrt(wrong * (1 - wrong) / n)
    new, is_drawn = asymmetric_labels(labels, keys, next_class(NUM_CLASSES, probability), seed)
    assert abs(is_drawn.mean() - probability) < 5 * deviation
    np.testing.assert_array_equal(new, np.where(is_drawn, (labels + 1) % NUM_CLASSES, labels))


@given(labelled(), transitions(), probabilities, seeds, st.randoms(use_true_random=False))
def test_no_draw_depends_on_the_order_or_on_who_else_there_is(
    data: tuple[NDArray[np.int64], NDArray[np.uint64]],
    transition: NDArray[np.float64],
    probability: float,
    seed: int,
    shuffler: Any,
) -> None:
    labels, keys = data
    some = shuffler.sample(range(len(keys)), shuffler.randint(1, len(keys)))
    for draw in (
        lambda labels, keys: np.stack(partial_labels(labels, keys, NUM_CLASSES, probability, seed)),
        lambda labels, keys: np.stack(random_labels(labels, keys, NUM_CLASSES, seed)),
        lambda labels, keys: np.stack(asymmetric_labels(labels, keys, transition, seed)),
        lambda labels, keys: random_signs(keys, "test", seed),
        lambda labels, keys: uniforms("any", seed, "train", keys, 3).T,
        lambda labels, keys: normals("any", seed, "train", keys, (2, 1)).T,
        lambda labels, keys: permutations("any", seed, "train", keys, 5).T,
    ):
        np.testing.assert_array_equal(draw(labels, keys)[..., some], draw(labels[some], keys[some]))


# Pixels


@st.composite
def images_and_orders(draw: Any) -> tuple[torch.Tensor, NDArray[np.int64]]:
    """Images all of whose values differ, and a permutation of the pixels of each."""
    n, channels, height, width = (draw(st.integers(1, most)) for most in (4, 3, 4, 5))
    values = torch.arange(n * channels * height * width, dtype=torch.float32)
    orders = [draw(st.permutations(range(height * width))) for _ in range(n)]
    return values.view(n, channels, height, width), np.array(orders)


@given(images_and_orders())
def test_shuffled_pixels_are_undone_by_the_inverse_and_keep_channels_together(
    data: tuple[torch.Tensor, NDArray[np.int64]],
) -> None:
    images, orders = data
    permutation, inverse = torch.from_numpy(orders[0]), torch.from_numpy(np.argsort(orders[0]))
    shuffled = shuffled_pixels(images, permutation)
    assert shuffled.shape == images.shape
    assert torch.equal(shuffled_pixels(shuffled, inverse), images)
    assert torch.equal(shuffled_pixels(images, torch.arange(len(permutation))), images)
    flat, whole = shuffled.flatten(2), images.flatten(2)
    for place, source in enumerate(permutation.tolist()):
        assert torch.equal(flat[:, :, place], whole[:, :, source])


@given(images_and_orders())
def test_random_pixels_are_shuffled_pixels_of_each_image_alone(data: tuple[torch.Tensor, NDArray[np.int64]]) -> None:
    images, orders = data
    found = random_pixels(images, torch.from_numpy(orders).int())
    for image, order, ours in zip(images, orders, found, strict=True):
        assert torch.equal(ours, shuffled_pixels(image[None], torch.from_numpy(order))[0])


@given(st.integers(1, 4), probabilities, seeds)
def test_noise_by_the_formula_of_one_pixel(n: int, strength: float, seed: int) -> None:
    draw = torch.Generator().manual_seed(seed)
    images, noise = torch.rand(2, n, 3, 2, 2, generator=draw, dtype=torch.float64)
    statistics = ChannelStatistics(*torch.rand(2, 3, 1, 1, generator=draw, dtype=torch.float64))
    is_noise = torch.rand(n, generator=draw) < strength
    blended = gaussian_blend(images, noise, statistics, strength)
    replaced = noisy_inputs(images, is_noise, noise, statistics)
    for place in np.ndindex(n, 3, 2, 2):
        mean, std = (float(value[place[1], 0, 0]) for value in statistics)
        drawn = mean + std * float(noise[place])
        standardised = (float(images[place]) - mean) / std if std else 0.0
        assert math.isclose(float(gaussian(noise, statistics)[place]), drawn, abs_tol=1e-12)
        expected = mean + std * (math.sqrt(1 - strength) * standardised + math.sqrt(strength) * float(noise[place]))
        assert math.isclose(float(blended[place]), expected, rel_tol=1e-9, abs_tol=1e-9)
        assert float(replaced[place]) == (
            float(gaussian(noise, statistics)[place]) if is_noise[place[0]] else float(images[place])
        )
