"""Files in MNIST's format that are somebody's own: what is read, and what is said of those that are not."""

from __future__ import annotations

import gzip
import shutil
import urllib.request
from pathlib import Path
from typing import Any
from urllib.error import URLError

import numpy as np
import pytest

from rethinkgen.data import source
from rethinkgen.data.source import MNIST, FashionMNIST

NAMES = [f"{split}-{kind}-ubyte" for split in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]


def idx(array: np.ndarray, kind: int = 8) -> bytes:
    return bytes([0, 0, kind, array.ndim]) + np.array(array.shape, ">i4").tobytes() + array.tobytes()


@pytest.fixture
def raw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with 20 and 10 images, from which no network can be reached."""

    def refuse(*arguments: Any, **keywords: Any) -> None:
        raise URLError("the network is down")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)
    folder = tmp_path / "MNIST" / "raw"
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for split, count in (("train", 20), ("t10k", 10)):
        images = rng.integers(0, 256, (count, 16, 15), dtype=np.uint8)
        (folder / f"{split}-images-idx3-ubyte").write_bytes(idx(images))
        (folder / f"{split}-labels-idx1-ubyte").write_bytes(idx(np.arange(count, dtype=np.uint8) % 10))
    return folder


def of(raw: Path) -> MNIST:
    return MNIST(raw.parents[1])


def pack(path: Path) -> Path:
    packed = path.with_name(f"{path.name}.gz")
    packed.write_bytes(gzip.compress(path.read_bytes(), 1))
    path.unlink()
    return packed


def refused(data: MNIST) -> str:
    def begin() -> None:
        data.prepare()
        data.load()

    with pytest.raises(ValueError, match=r"^data\.root=") as caught:
        begin()
    assert f"data.root={str(data.root)!r}" in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("names", [NAMES, NAMES[1:3]])
def test_packed_files_are_read_as_they_are_and_are_the_same_data(raw: Path, names: list[str]) -> None:
    before, fingerprint = of(raw).load(), of(raw).fingerprint()
    for name in names:
        pack(raw / name)
    data = of(raw)
    data.prepare()
    images = data.load()
    assert np.array_equal(images.train.images, before.train.images)
    assert np.array_equal(images.test.labels, before.test.labels)
    assert images.train.images.flags.writeable, "torch warns of others"
    assert data.fingerprint() == fingerprint != "mnist"
    assert sorted(path.name for path in raw.iterdir()) == sorted(
        f"{name}.gz" if name in names else name for name in NAMES
    ), "nothing is unpacked beside them, where perhaps nothing can be written"


def test_the_published_data_are_known_whoever_packed_them(raw: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(MNIST, "_published_digest", of(raw).fingerprint().removeprefix("mnist-"))
    for name in NAMES:
        pack(raw / name)
    assert of(raw).fingerprint() == "mnist"
    assert of(raw).num_train() == 60_000


def test_what_is_packed_under_an_unpacked_name_is_named_with_what_to_do(raw: Path) -> None:
    packed = pack(raw / NAMES[0])
    packed.rename(raw / NAMES[0])
    said = refused(of(raw))
    assert f"{NAMES[0]} is gzip-compressed under the name of an unpacked file: rename it to {NAMES[0]}.gz" in said
    (raw / NAMES[0]).rename(packed)
    assert len(of(raw).load().train) == 20, "as it says"
    (raw / NAMES[1]).write_bytes(b"PK\3\4 and so on")
    assert f"{NAMES[1]} is a zip archive" in refused(of(raw))


@pytest.mark.parametrize("suffix", ["", ".gz"])
def test_other_spellings_and_places_are_named_with_the_wanted_ones(raw: Path, suffix: str) -> None:
    kaggle = raw / f"train-images.idx3-ubyte{suffix}"
    (pack(raw / NAMES[0]) if suffix else raw / NAMES[0]).rename(kaggle)
    (raw / NAMES[3]).rename(raw.parents[1] / NAMES[3])
    said = refused(of(raw))
    assert f"  MNIST/raw/{kaggle.name} is wanted as MNIST/raw/{NAMES[0]}{suffix}\n" in said
    assert f"  {NAMES[3]} is wanted as MNIST/raw/{NAMES[3]}\n" in said
    assert kaggle.exists()


def test_labels_that_count_from_1_are_refused_with_their_file(raw: Path) -> None:
    (raw / NAMES[1]).write_bytes(idx(np.arange(20, dtype=np.uint8) % 10 + 1))
    said = refused(of(raw))
    assert f"the labels in {raw / NAMES[1]} are 1 to 10: the 10 classes of MNIST allow 0 to 9" in said
    assert "counted from 1: subtract 1" in said
    (raw / NAMES[1]).write_bytes(idx(np.arange(20, dtype=np.uint8)))
    assert "counted from 1" not in refused(of(raw))


def test_numbers_that_differ_are_refused_with_both_files(raw: Path) -> None:
    (raw / NAMES[3]).write_bytes(idx(np.zeros(9, np.uint8)))
    said = refused(of(raw))
    assert f"{NAMES[2]} holds 10 images and {NAMES[3]} 9 labels in {raw}: their numbers must agree" in said


def test_swapped_files_and_other_types_are_refused_by_name(raw: Path) -> None:
    images, labels = raw / NAMES[0], raw / NAMES[1]
    whole = images.read_bytes()
    images.write_bytes(idx(np.zeros((20, 16, 15), ">f4"), kind=13))
    assert f"{NAMES[0]} holds values of type 0x0d: bytes (0x08) are needed" in refused(of(raw))
    images.write_bytes(labels.read_bytes())
    labels.write_bytes(whole)
    assert f"{NAMES[0]} holds numbers in 1 dimensions, 3 are needed" in refused(of(raw))


def test_a_damaged_packed_file_is_named(raw: Path) -> None:
    packed = pack(raw / NAMES[2])
    whole = packed.read_bytes()
    packed.write_bytes(whole[:-8] + bytes([whole[-8] ^ 1]) + whole[-7:])  # its checksum
    assert f"cannot be read ({NAMES[2]}.gz cannot be unpacked" in refused(of(raw))
    # Cut short it counts as not there: its id must not be that of what a download then puts in its place.
    packed.write_bytes(whole[:-5])
    assert of(raw).fingerprint() == "mnist"
    said = refused(of(raw))
    assert f"MNIST/raw/{NAMES[2]}.gz   from http" in said
    assert "(what is there is another file, cut short or damaged)" in said


def may_download(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    begun: list[str] = []
    monkeypatch.setattr(source, "_no_answer", lambda addresses: None)
    monkeypatch.setattr(MNIST, "_download", lambda self: begun.append("") or "cut off")
    return begun


@pytest.mark.parametrize("form", ["unpacked", "packed", "packed in name only"])
def test_nothing_is_downloaded_over_somebody_s_own_data(raw: Path, monkeypatch: pytest.MonkeyPatch, form: str) -> None:
    begun = may_download(monkeypatch)
    (raw / NAMES[2]).unlink()
    if form != "unpacked":
        pack(raw / NAMES[0])
    if form == "packed in name only":
        (raw / f"{NAMES[0]}.gz").write_bytes(idx(np.zeros((20, 16, 15), np.uint8)))
    said = refused(of(raw))
    assert f"{NAMES[0]}{'' if form == 'unpacked' else '.gz'}, {NAMES[1]}, {NAMES[3]}; " in said
    assert NAMES[2] in said
    assert not begun


@pytest.mark.parametrize(
    "left", [b"", b"\x1f\x8b\x08", gzip.compress(idx(np.zeros((10_000, 28, 28), np.uint8)))[:5000]]
)
def test_what_an_interrupted_download_left_is_downloaded_again(
    raw: Path, monkeypatch: pytest.MonkeyPatch, left: bytes
) -> None:
    begun = may_download(monkeypatch)
    shutil.rmtree(raw)
    raw.mkdir()
    (raw / f"{NAMES[2]}.gz").write_bytes(left)
    assert "cut off" in refused(of(raw))
    assert begun


def test_the_files_of_fashion_mnist_are_known_when_packed(raw: Path) -> None:
    root = raw.parents[1]
    shutil.copytree(raw, root / "FashionMNIST" / "raw")
    fingerprint = FashionMNIST(root).fingerprint()
    for name in NAMES:
        pack(root / "FashionMNIST" / "raw" / name)
    assert FashionMNIST(root).fingerprint() == fingerprint
    assert fingerprint.startswith("fashion_mnist-")
