"""Which parts of a source are trained on, and what there is where nothing is left to test on."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import rethinkgen
from conftest import TINY, Command, Measure
from image_folder import make_image_folder
from rethinkgen.data.corruption import Gaussian, PartialLabels, RandomSigns, TrueLabels
from rethinkgen.data.image_listing import list_folder
from rethinkgen.data.parts import check_parts
from rethinkgen.data.source import CIFAR10, MNIST, SVHN, Digits, ImageFolder, Images
from rethinkgen.data.streamed_source import StreamedFolder

BOTH = ["train", "test"]


def of_one_size(rng: np.random.Generator) -> tuple[int, int]:
    return 8, 8


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Four classes, eight images each to train on and three to test on, of the same names."""
    return make_image_folder(tmp_path / "images", size=of_one_size)


def test_digits_are_joined_train_first_and_training_examples_keep_their_keys() -> None:
    apart, joined, alone = Digits().load(), Digits(BOTH).load(), Digits(["test"]).load()
    assert apart.test is not None
    assert joined.test is None
    assert alone.test is None
    for name in ("images", "labels"):
        parts = [getattr(part, name) for part in (apart.train, apart.test)]
        assert np.array_equal(getattr(joined.train, name), np.concatenate(parts))
        assert np.array_equal(getattr(alone.train, name), parts[1])
    assert joined.train.keys.tolist() == list(range(1797))
    assert [Digits(parts).num_train() for parts in (["train"], BOTH, ["test"])] == [1437, 1797, 360]


@pytest.mark.parametrize(
    ("kind", "counts"), [(MNIST, (60_000, 70_000)), (CIFAR10, (50_000, 60_000)), (SVHN, (73_257, 99_289))]
)
def test_published_data_know_how_many_examples_both_parts_have(
    kind: Callable[..., Any], counts: tuple[int, int], tmp_path: Path
) -> None:
    assert (kind(tmp_path).num_train(), kind(tmp_path, parts=BOTH).num_train()) == counts


def test_what_torchvision_reads_is_joined(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def split(count: int) -> tuple[Any, Any]:
        return np.full((count, 1, 4, 4), count, np.uint8), np.arange(count) % 2

    monkeypatch.setattr(MNIST, "_read", lambda self: ([split(5), split(3)], ("a", "b")))
    images = MNIST(tmp_path, parts=BOTH).load()
    assert images.train.images[:, 0, 0, 0].tolist() == [5] * 5 + [3] * 3
    assert images.train.labels.tolist() == [0, 1, 0, 1, 0, 0, 1, 0]

    monkeypatch.setattr(
        MNIST, "_read", lambda self: ([split(5), (np.zeros((3, 1, 5, 4), np.uint8), np.arange(3))], "ab")
    )
    with pytest.raises(ValueError, match=r"training images are \(1, 4, 4\), test images \(1, 5, 4\)"):
        MNIST(tmp_path, parts=BOTH).load()


@pytest.mark.parametrize("kind", [ImageFolder, StreamedFolder])
def test_files_are_joined_under_keys_and_paths_of_their_own(kind: Callable[..., Any], folder: Path) -> None:
    apart, source = kind(folder).load(), kind(folder, parts=BOTH)
    source.prepare()
    joined = source.load()
    assert joined.test is None
    assert source.num_train() == len(joined.train) == 44
    assert np.array_equal(joined.train.labels, np.concatenate([apart.train.labels, apart.test.labels]))
    assert np.array_equal(joined.train.keys[:32], apart.train.keys), "a corruption of them stays as it was"
    assert len(set(joined.train.keys.tolist())) == 44, "val/class_0/0.png is not train/class_0/0.png"
    names = [source.name_of("train", position) for position in range(44)]
    assert names[0] == "train/class_0/0.png"
    assert names[32:34] == ["val/class_0/0.png", "val/class_0/1.png"]
    alone = kind(folder, parts=["test"]).load()
    assert np.array_equal(alone.train.keys, joined.train.keys[32:])
    assert kind(folder).fingerprint() == source.fingerprint()


@pytest.mark.parametrize("kind", [ImageFolder, StreamedFolder])
def test_a_folder_needs_no_test_part_nor_a_folder_train(kind: Callable[..., Any], folder: Path, tmp_path: Path) -> None:
    trained_on = kind(folder).load().train
    (folder / "val").rename(tmp_path / "elsewhere")
    beside = kind(folder)
    assert beside.load().test is None
    assert np.array_equal(beside.load().train.keys, trained_on.keys)
    with pytest.raises(ValueError, match=r"parts=\[train,test\]: these data have no test part"):
        kind(folder, parts=BOTH).load()

    classes = kind(folder / "train")
    found = classes.load()
    assert found.test is None
    assert found.class_names == ("class_0", "class_1", "class_2", "class_3")
    assert np.array_equal(found.train.labels, trained_on.labels)
    assert np.array_equal(found.train.keys, trained_on.keys)
    assert classes.name_of("train", 8) == "class_1/0.png"
    assert classes.fingerprint() != beside.fingerprint()

    Image.new("RGB", (8, 8)).save(folder / "train" / "class_1" / "new.png")
    assert len(kind(folder / "train").load().train) == 33


def test_folders_that_are_none_of_images_are_refused(folder: Path, tmp_path: Path) -> None:
    (folder / "train").rename(tmp_path / "moved")
    with pytest.raises(ValueError, match=r"there is no folder .*images/train.*<root>/<class>/<image>"):
        list_folder(folder)
    (tmp_path / "empty").mkdir()
    with pytest.raises(ValueError, match=r"there is no folder in .*empty"):
        list_folder(tmp_path / "empty")
    with pytest.raises(ValueError, match="images holds 1 folder"):
        list_folder(tmp_path)


@pytest.mark.parametrize(
    "parts", [None, "train", [], ["test", "train"], ["train", "train"], ["val"], 3, ["train", 1], {"train": 1}]
)
def test_other_parts_are_refused(parts: Any) -> None:
    with pytest.raises(ValueError, match=r"^data.source.parts=.*\[train\], \[train,test\] .*or \[test\] is needed"):
        check_parts(parts)


def test_the_data_of_a_run_have_no_test_split_and_the_index_is_the_position_in_both() -> None:
    apart, joined = PartialLabels(Digits(), probability=0.4), PartialLabels(Digits(BOTH), probability=0.4)
    apart.setup()
    joined.setup()
    assert list(joined.splits) == ["train"]
    assert joined.splits["train"].index.tolist() == list(range(1797))
    assert joined.splits["train"].labels[:1437].tolist() == apart.splits["train"].labels.tolist()
    assert any("nothing is left to test on" in note for note in joined.notes)
    assert not any("nothing is left to test on" in note for note in apart.notes)
    held_out = TrueLabels(Digits(BOTH), validation=0.1)
    held_out.setup()
    assert {name: len(split) for name, split in held_out.splits.items()} == {"train": 1617, "validation": 180}
    for kind in (RandomSigns, Gaussian):
        other = kind(Digits(["test"]))
        other.setup()
        assert len(other.splits["train"]) == 360


def test_a_streamed_run_may_have_none_either(tmp_path: Path) -> None:
    source = StreamedFolder(make_image_folder(tmp_path), resize=32, num_workers=0, parts=BOTH)
    data = TrueLabels(source, crop=24, batch_size="all")
    data.setup()
    assert list(data.splits) == ["train"]
    assert len(data.splits["train"].inputs) == 44


def test_images_without_a_test_part_are_a_source_of_ones_own() -> None:
    class Own:
        def prepare(self) -> None: ...

        def fingerprint(self) -> str:
            return "own"

        def load(self) -> Images:
            return Images(Digits().load().train, None, tuple("0123456789"))

    data = TrueLabels(Own())
    data.setup()
    assert list(data.splits) == ["train"]


def test_test_numbers_are_null_from_the_result_to_the_table_and_the_measures(
    train: Command, measure: Measure, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(*TINY, "data.source.parts=[train,test]", "max_steps=30", "data.corruption=partial_labels")
    printed = capsys.readouterr().out
    assert "nothing is left to test on: every number of the test set is null" in printed
    result = json.loads((run / "result.json").read_text())
    nulls = ("test/accuracy", "test/loss", "test/accuracy_at_fit", "test/accuracy_oracle", "generalization_gap")
    assert [result["metrics"][name] for name in nulls] == [None] * 5
    assert (result["num_train"], result["num_test"]) == (1797, 0)
    assert not [name for name in pd.read_csv(run / "metrics.csv") if name.startswith("test/")]
    assert pd.DataFrame(dict(np.load(run / "examples.npz")))["index"].tolist() == list(range(1797))

    assert measure(run, "measure=[fit,stiffness,confusion,margins]") == 0
    (found,) = (run / "measures").glob("fit-*/*.json")
    numbers = json.loads(found.read_text())["numbers"]
    assert {name: numbers[name] for name in nulls[:2] + nulls[4:]} == dict.fromkeys(nulls[:2] + nulls[4:])
    assert measure(run, "measure=layer_robustness") == 1
    assert "split='test': this run has none; it has train" in capsys.readouterr().out

    opened = rethinkgen.open_run(run)
    assert len(opened.images([1436, 1796])) == 2
    with pytest.raises(ValueError, match="split='test': nothing is left to test on"):
        opened.images(0, "test")
