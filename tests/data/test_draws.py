from __future__ import annotations

import hashlib

import numpy as np
import pytest
from numpy.random import Generator, Philox

from rethinkgen.data.draws import balanced_subset, generator, generators, normals, permutations, uniforms

KEYS = np.array([3, 0, 2**64 - 1, 2**63 + 1, 7], dtype=np.uint64)


def test_every_kind_of_draw_is_that_of_a_generator_made_for_the_example_alone() -> None:
    alone = [generator("noise", 5, "train", int(key)) for key in KEYS]
    np.testing.assert_array_equal(
        uniforms("noise", 5, "train", KEYS, 3), np.stack([stream.random(3) for stream in alone])
    )
    alone = [generator("noise", 5, "train", int(key)) for key in KEYS]
    expected = np.stack([stream.standard_normal((2, 3, 3), dtype=np.float32) for stream in alone])
    np.testing.assert_array_equal(normals("noise", 5, "train", KEYS, (2, 3, 3)), expected)
    alone = [generator("noise", 5, "train", int(key)) for key in KEYS]
    expected = np.stack([stream.permutation(9) for stream in alone])
    np.testing.assert_array_equal(permutations("noise", 5, "train", KEYS, 9), expected)


def test_a_moved_generator_keeps_nothing_of_the_example_before() -> None:
    # An odd number of 32-bit draws leaves half a word over, which must not leak into the next example.
    drawn = []
    for stream in generators("noise", 0, "train", KEYS):
        drawn.append(stream.integers(0, 100, 3, dtype=np.int32))
        stream.random(5)
    alone = [generator("noise", 0, "train", int(key)).integers(0, 100, 3, dtype=np.int32) for key in KEYS]
    np.testing.assert_array_equal(drawn, alone)


def test_more_numbers_for_an_example_begin_with_the_same() -> None:
    np.testing.assert_array_equal(uniforms("a", 0, "train", KEYS, 7)[:, :2], uniforms("a", 0, "train", KEYS, 2))


@pytest.mark.parametrize("other", [("b", 0, "train"), ("a", 1, "train"), ("a", 0, "test")])
def test_purpose_seed_and_split_each_give_other_draws(other: tuple[str, int, str]) -> None:
    assert not np.isin(uniforms(*other, KEYS, 4), uniforms("a", 0, "train", KEYS, 4)).any()


def test_draws_stay_what_they_are_for_ever() -> None:
    # Stored results are compared with new ones: if this fails, every corruption needs a new protocol number. NumPy
    # promises to keep Philox's bits, but not what Generator's methods make of them.
    drawn = uniforms("labels", 0, "train", np.array([0, 1], dtype=np.uint64), 1)
    assert drawn[:, 0].tolist() == [0.5697400025250605, 0.09552532043602369]
    keys = np.array([0, 1], dtype=np.uint64)
    noise = normals("pixels", 0, "train", keys, (1, 1, 2)).ravel().tolist()
    assert noise == [-0.39022764563560486, -0.35656091570854187, -1.1121597290039062, -0.6392990350723267]
    assert permutations("pixels", 0, "train", keys, 6).tolist() == [[2, 1, 5, 0, 4, 3], [0, 1, 5, 2, 4, 3]]
    assert generator("order", 0, "train", 0).permutation(6).tolist() == [0, 2, 3, 4, 5, 1]
    chosen = balanced_subset("subset", 0, np.arange(12) % 3, np.arange(12, dtype=np.uint64), 6)
    assert chosen.tolist() == [2, 3, 6, 7, 10, 11]
    key = np.frombuffer(hashlib.blake2b(b"labels/0/train", digest_size=16).digest(), dtype="<u8")
    assert Generator(Philox(key=key, counter=[0, 0, 0, 1])).random() == 0.09552532043602369


def test_draws_are_uniform_and_normal() -> None:
    keys = np.arange(2000, dtype=np.uint64)
    drawn = uniforms("labels", 0, "train", keys, 2)
    for column in drawn.T:
        counts = np.histogram(column, bins=20, range=(0, 1))[0]
        assert ((counts - 100) ** 2 / 100).sum() < 43.8  # chi-squared of 19 degrees of freedom, p = 0.001
    assert abs(np.corrcoef(drawn.T)[0, 1]) < 0.08
    assert abs(np.corrcoef(drawn[:-1, 0], drawn[1:, 0])[0, 1]) < 0.08
    noise = normals("noise", 0, "train", keys, (10,))
    assert noise.dtype == np.float32
    assert abs(noise.mean()) < 0.03
    assert abs(noise.std() - 1) < 0.02


@pytest.mark.parametrize("sizes", [[100] * 10, [900] + [11] * 9, [1, 2, 3, 500], [33, 33, 34]])
def test_each_class_keeps_its_share_to_within_one_in_nested_subsets(sizes: list[int]) -> None:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(sizes)), sizes))
    keys = np.arange(len(labels), dtype=np.uint64)
    smaller: set[int] = set()
    for size in range(0, len(labels) + 1, 1 + len(labels) // 60):
        subset = balanced_subset("subset", 0, labels, keys, size)
        assert len(np.unique(subset)) == size
        assert np.all(np.diff(subset) > 0)
        counts = np.bincount(labels[subset], minlength=len(sizes))
        assert np.abs(counts - np.array(sizes) * size / len(labels)).max() < 1
        assert smaller <= set(subset.tolist())
        smaller = set(subset.tolist())


def test_a_subset_is_random_and_follows_keys_not_positions() -> None:
    labels = np.repeat(np.arange(4), 50)
    keys = np.arange(200, dtype=np.uint64)
    subset = balanced_subset("subset", 0, labels, keys, 80)
    order = np.random.default_rng(1).permutation(200)
    permuted = balanced_subset("subset", 0, labels[order], keys[order], 80)
    np.testing.assert_array_equal(np.sort(order[permuted]), subset)
    for other in (
        balanced_subset("subset", 1, labels, keys, 80),
        balanced_subset("validation", 0, labels, keys, 80),
    ):
        assert 10 < len(np.intersect1d(subset, other)) < 55  # 32 +- 4.4 of independent choices


def test_which_classes_a_small_subset_leaves_out_is_drawn() -> None:
    labels = np.arange(20)
    keys = np.arange(20, dtype=np.uint64)
    chosen = {tuple(balanced_subset("subset", seed, labels, keys, 3)) for seed in range(5)}
    assert len(chosen) == 5
