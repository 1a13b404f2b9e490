"""What is said of images that are in two splits, and of classes without any."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from in_memory import InMemory
from PIL import Image

from rethinkgen.data.corruption import RandomLabels, RandomSigns, TrueLabels
from rethinkgen.data.equal_images import find_shared
from rethinkgen.data.module import CorruptedImages
from rethinkgen.data.source import Examples, ImageFolder, Images


class Odd(InMemory):
    """Has its first test images among its training images, and no image of the last classes."""

    def __init__(self, shared: int = 0, classes: int = 5, root: str | None = None, **options: Any) -> None:
        super().__init__(**options)
        self.shared, self.classes = shared, classes
        if root is not None:
            self.root = root

    def load(self) -> Images:
        images = super().load()
        images.test.images[: self.shared] = images.train.images[7 : 7 + self.shared]
        train, test = (
            Examples(part.images, part.labels % self.classes, part.keys) for part in (images.train, images.test)
        )
        return Images(train, test, images.class_names)


def notes(source: Any, kind: type[CorruptedImages] = TrueLabels, **data: Any) -> list[str]:
    datamodule = kind(source, **{"batch_size": 16, **data})
    datamodule.setup()
    return datamodule.notes


def test_shared_images_are_those_that_comparing_all_pairs_finds() -> None:
    rng = np.random.default_rng(0)
    images, others = (rng.integers(0, 2, (count, 1, 2, 3), dtype=np.uint8) for count in (40, 30))
    index, other_index = np.arange(0, 40, 3), np.arange(29, 0, -2)
    found = find_shared(images, index, others, other_index)
    expected = []
    for j in other_index:
        twins = [i for i in index if np.array_equal(images[i], others[j])]
        expected += [(j, twins[0])] if twins else []
    assert found == expected
    assert 0 < len(found) < len(other_index)


def test_images_that_differ_in_one_value_only_are_not_shared() -> None:
    images = np.zeros((100, 1, 28, 28), np.uint8)
    images.reshape(100, -1)[range(100), range(3, 703, 7)] = 1
    index = np.arange(100)
    assert find_shared(images, index[:50], images, index[50:]) == []
    assert find_shared(images, index[40:60], images, index[50:]) == [(i, i) for i in range(50, 60)]


def test_ordinary_data_have_no_notes() -> None:
    assert notes(InMemory()) == []
    assert notes(InMemory(), RandomLabels, validation=0.2, num_train=50, flip=True) == []


def test_test_images_that_are_trained_on_are_counted_with_the_folder() -> None:
    (note,) = notes(Odd(shared=3, root="some/where"))
    assert note == (
        "data.root='some/where': 3 of 50 test images are also trained on (the first: number 0 of test is number 7 of "
        "train): test/accuracy counts them in."
    )
    (note,) = notes(Odd(shared=3), RandomSigns)
    assert note.startswith("data: 3 of 50 test images")
    assert notes(Odd(shared=3), num_train=5, batch_size=2) == [], "none of the three is among these five"


def test_held_out_images_that_are_trained_on_are_counted() -> None:
    class Twice(InMemory):
        def load(self) -> Images:
            images = super().load()
            images.train.images[100:] = images.train.images[:100]
            return images

    note, *_ = notes(Twice(), validation=0.1)
    assert " of 20 validation images are also trained on (the first: number " in note
    assert note.endswith("validation/accuracy counts them in.")


def test_images_of_a_folder_are_named_by_their_files(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for split, name, count in (("train", "cat", 4), ("train", "dog", 4), ("test", "cat", 2), ("test", "dog", 2)):
        (tmp_path / split / name).mkdir(parents=True)
        for number in range(count):
            Image.fromarray(rng.integers(0, 256, (5, 5), dtype=np.uint8)).save(
                tmp_path / split / name / f"{number}.png"
            )
    Image.open(tmp_path / "train" / "dog" / "2.png").save(tmp_path / "test" / "cat" / "1.bmp")
    (note,) = notes(ImageFolder(tmp_path, 1), batch_size=2)
    assert note == (
        f"data.root='{tmp_path}': 1 of 5 test images are also trained on (the first: test/cat/1.bmp is "
        "train/dog/2.png): test/accuracy counts them in."
    )


def test_classes_without_images_are_named() -> None:
    train, test = notes(Odd(classes=3, root="here"))
    assert train == ("data.root='here': 2 of 5 classes have no training image (d, e): chance is not one in 5.")
    assert "2 of 5 classes have no test image (d, e)" in test
    assert any(
        "of 26 classes have no training image" in note
        for note in notes(InMemory(num_classes=26), num_train=9, batch_size=2)
    )


def test_labels_that_leave_out_the_first_class_may_be_counted_from_1() -> None:
    class FromOne(InMemory):
        def load(self) -> Images:
            images = super().load()
            parts = (Examples(part.images, part.labels + 1, part.keys) for part in (images.train, images.test))
            return Images(*parts, tuple("abcdef"))

    train, test = notes(FromOne())
    assert train.endswith("(a): chance is not one in 6. Are labels counted from 1?")
    assert "no test image (a)" in test


@pytest.mark.parametrize("flip", [False, True])
def test_conflicts_are_a_note_with_the_folder(flip: bool) -> None:
    class Alike(Odd):
        def load(self) -> Images:
            images = super().load()
            images.train.images[:4] = images.train.images[0]
            return images

    found = notes(Alike(root="here"), flip=flip)
    said = "training images equal another one that carries a different label: fit/accuracy cannot exceed "
    assert [said in note and note.startswith("data.root='here': ") for note in found] == ([] if flip else [True])
