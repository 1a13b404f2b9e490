"""Somebody's own folder: images of any sizes, by folders or by a table, whose bad files are left out and named."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rethinkgen.data.any_images import AnyImages


def draw(path: Path, size: tuple[int, int] = (9, 5), mode: str = "L", value: int = 100) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new(mode, size, value if mode == "L" else (value, 0, 255)).save(path)
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    draw(tmp_path / "cat" / "a.png", (9, 5), value=10)
    draw(tmp_path / "cat" / "b.jpg", (300, 200), "RGB", value=20)
    draw(tmp_path / "dog" / "c.png", (9, 5), value=30)
    (tmp_path / "dog" / "broken.jpg").write_bytes(b"\xff\xd8\xff nothing more")
    (tmp_path / "dog" / "notes.txt").write_text("no image")
    draw(tmp_path / "dog" / "cut.png", (64, 64), value=40)
    whole = (tmp_path / "dog" / "cut.png").read_bytes()
    (tmp_path / "dog" / "cut.png").write_bytes(whole[: len(whole) // 2])
    (tmp_path / "empty").mkdir()
    return tmp_path


def test_of_any_sizes_each_is_stretched_and_bad_files_are_named(folder: Path) -> None:
    source = AnyImages(folder)
    images = source.load()
    assert images.train.images.shape == (3, 3, 32, 32)
    assert images.class_names == ("cat", "dog")
    assert images.test is None
    assert [source.name_of("train", place) for place in range(3)] == ["cat/a.png", "cat/b.jpg", "dog/c.png"]
    assert images.train.labels.tolist() == [0, 0, 1]
    assert images.train.images[2].tolist() == np.full((3, 32, 32), 30).tolist()
    assert dict(source.left_out).keys() == {"dog/broken.jpg", "dog/notes.txt", "dog/cut.png"}
    assert dict(source.left_out)["dog/notes.txt"] == "it is no image"


def test_what_was_decoded_is_kept_until_a_file_changes(folder: Path) -> None:
    first, before = AnyImages(folder).load(), AnyImages(folder).fingerprint()
    (kept,) = folder.glob(".rethinkgen-any-*.npz")
    again = AnyImages(folder)
    assert np.array_equal(again.load().train.images, first.train.images)
    assert len(again.left_out) == 3
    assert AnyImages(folder).fingerprint() == before
    draw(folder / "dog" / "cut.png", (64, 64), value=40)
    source = AnyImages(folder)
    assert len(source.load().train) == 4
    assert source.fingerprint() != before
    assert not kept.exists()
    kept = next(folder.glob(".rethinkgen-any-*.npz"))
    kept.write_bytes(b"damaged")
    assert len(AnyImages(folder).load().train) == 4


def test_small_ones_of_one_size_stay_as_they_are(tmp_path: Path) -> None:
    for label in ("a", "b"):
        draw(tmp_path / "train" / label / "1.png", (9, 5))
        draw(tmp_path / "test" / label / "1.png", (9, 5))
    images = AnyImages(tmp_path).load()
    assert images.train.images.shape == (2, 1, 5, 9)
    assert images.test is not None
    source = AnyImages(tmp_path, size=4, parts=["train", "test"])
    assert source.load().train.images.shape == (4, 1, 4, 4)
    assert source.name_of("train", 3) == "test/b/1.png"


def test_a_table_says_which_are_what(folder: Path) -> None:
    (folder / "labels.csv").write_text(
        "path,label,split\ncat/a.png,one,train\ndog/c.png,two,train\ncat/b.jpg,two,test\ngone.png,one,train\n"
    )
    source = AnyImages(folder, table="labels.csv")
    images = source.load()
    assert images.class_names == ("one", "two")
    assert images.train.labels.tolist() == [0, 1]
    assert images.test is not None
    assert images.test.labels.tolist() == [1]
    assert source.left_out == [("gone.png", "there is no such file")]
    before = source.fingerprint()
    (folder / "labels.csv").write_text("path,label\ncat/a.png,two\ndog/c.png,one\n")
    assert AnyImages(folder, table="labels.csv").fingerprint() != before


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a,b\n1,2\n", "its columns are a, b. One called path and one called label"),
        ("path,label\nx.png,\n", "line 2: path='x.png', label='': both are needed"),
        ("path,label\nx.png,a\nx.png,b\n", "line 3: path='x.png' stands in line 2 already"),
        ("path,label\nx.png,a\n", "one class with images, a; at least two"),
        ("path,label\n", "it has no row"),
        ("path,label\ncat/a.png,one\ngone.png,two\n", "one class with images, one; at least two"),
    ],
)
def test_tables_that_are_none_are_refused(text: str, reason: str, folder: Path) -> None:
    (folder / "labels.csv").write_text(text)
    with pytest.raises(ValueError, match=reason):
        AnyImages(folder, table="labels.csv").load()


def test_folders_without_two_classes_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="there is no folder"):
        AnyImages(tmp_path / "nowhere").load()
    with pytest.raises(ValueError, match="no folder in"):
        AnyImages(tmp_path).load()
    (tmp_path / "cat").mkdir()
    with pytest.raises(ValueError, match="no image in cat"):
        AnyImages(tmp_path).load()
    (tmp_path / "cat" / "1.png").write_bytes(b"none")
    (tmp_path / "dog").mkdir()
    with pytest.raises(ValueError, match="one class with images, cat; at least two"):
        AnyImages(tmp_path).load()
    (tmp_path / "dog" / "1.png").write_bytes(b"none")
    with pytest.raises(ValueError, match=r"no image can be read: cat/1.png \(it is no image\)"):
        AnyImages(tmp_path).load()
    assert AnyImages(tmp_path / "nowhere").fingerprint() is None
