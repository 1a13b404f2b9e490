from __future__ import annotations

import gzip
import hashlib
import logging
import os
import pickle
import shutil
import socket
import subprocess
import sys
import tarfile
import threading
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.error import HTTPError, URLError

import numpy as np
import pytest
import scipy.io
import torchvision.datasets
from PIL import Image

from conftest import PATIENCE_SECONDS
from rethinkgen.data import decoding, source
from rethinkgen.data.source import (
    CIFAR10,
    CIFAR100,
    MNIST,
    SVHN,
    Digits,
    Examples,
    FashionMNIST,
    ImageFolder,
    Images,
)

WELL_KNOWN = [MNIST, FashionMNIST, CIFAR10, CIFAR100, SVHN]


def md5(path: Path) -> str:
    return hashlib.md5(path.read_bytes()).hexdigest()


def pixels(*shape: int) -> np.ndarray:
    return np.random.default_rng(sum(shape)).integers(0, 256, shape, dtype=np.uint8)


@pytest.fixture
def no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*arguments: Any, **keywords: Any) -> None:
        raise URLError("the network is down")

    monkeypatch.setattr(urllib.request, "urlopen", refuse)


# What may not be imported


def test_fingerprints_and_digits_need_neither_torch_nor_other_heavy_imports(tmp_path: Path) -> None:
    code = f"""
import sys
from rethinkgen.data.source import *
for kind in (MNIST, FashionMNIST, CIFAR10, CIFAR100, SVHN, ImageFolder):
    kind({str(tmp_path)!r}).fingerprint()
digits = Digits()
digits.fingerprint(), digits.prepare(), digits.load()
print(sorted({{"torch", "torchvision", "sklearn", "PIL", "rich"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"


# Images


def examples(count: int = 4, shape: tuple[int, ...] = (1, 2, 2)) -> Examples:
    return Examples(
        np.zeros((count, *shape), np.uint8),
        np.arange(count, dtype=np.int64) % 2,
        np.arange(count, dtype=np.uint64),
    )


def with_changes(**changes: Any) -> Examples:
    return Examples(**{**vars(examples()), **changes})


@pytest.mark.parametrize(
    ("test", "names", "message"),
    [
        (examples(), ("one",), "two classes are needed"),
        (examples(0), ("a", "b"), "the test split is empty"),
        (examples(shape=(3, 2, 2)), ("a", "b"), r"\(1, 2, 2\), test images \(3, 2, 2\)"),
        (examples(shape=(1, 0, 2)), ("a", "b"), r"not uint8 \(4, 1, 0, 2\)"),
        (
            with_changes(labels=np.array([0, 2, 1, -1])),
            ("a", "b"),
            "2 test labels are out .* 2 at position 1",
        ),
        (with_changes(labels=np.array([0, 1])), ("a", "b"), "4 images, 2 labels and 4 keys"),
        (with_changes(labels=np.zeros(4, np.int32)), ("a", "b"), r"int32 \(4,\)"),
        (with_changes(images=np.zeros((4, 1, 2, 2), np.float32)), ("a", "b"), "float32"),
        (with_changes(keys=np.zeros(4, np.uint64)), ("a", "b"), "equal keys"),
    ],
)
def test_images_that_do_not_fit_together_are_refused(test: Examples, names: tuple[str, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Images(examples(), test, names)


# Digits


def test_digits_are_scikit_learns_and_split_by_class() -> None:
    images = Digits().load()
    assert images.train.images.shape == (1437, 1, 8, 8)
    assert images.test.images.shape == (360, 1, 8, 8)
    assert images.class_names == tuple("0123456789")
    every = np.concatenate([images.train.images, images.test.images])
    assert sorted(set(every.ravel().tolist())) == [round(level * 255 / 16) for level in range(17)]
    # Facts of load_digits(): the sum of all levels, and the number of images of each class.
    assert np.round(every * 16.0 / 255).sum() == 561_718
    train, test = (np.bincount(split.labels) for split in (images.train, images.test))
    assert (train + test).tolist() == [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]
    assert np.abs(test - (train + test) * 360 / 1797).max() < 1
    assert len(np.unique(every.reshape(1797, -1), axis=0)) == 1797  # so no image is in both
    assert images.test.keys.tolist() == list(range(360))


def test_the_split_of_digits_never_changes_under_one_name() -> None:
    images = Digits().load()
    content = b"".join(split.images.tobytes() + split.labels.tobytes() for split in (images.train, images.test))
    assert (Digits().fingerprint(), hashlib.sha256(content).hexdigest()[:16]) == (
        "digits-1",
        "6a009a142edf9ee6",
    )


# What torchvision reads


def write_idx(path: Path, array: np.ndarray) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(bytes([0, 0, 8, array.ndim]) + np.array(array.shape, ">i4").tobytes() + array.tobytes())


def write_mnist(root: Path, name: str = "MNIST") -> tuple[np.ndarray, np.ndarray]:
    train, test = pixels(20, 28, 28), pixels(10, 28, 28)
    for split, images in (("train", train), ("t10k", test)):
        write_idx(root / name / "raw" / f"{split}-images-idx3-ubyte", images)
        write_idx(root / name / "raw" / f"{split}-labels-idx1-ubyte", np.arange(len(images), dtype=np.uint8) % 10)
    return train, test


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("kind", [MNIST, FashionMNIST])
def test_mnist_is_read_from_unpacked_files(tmp_path: Path, kind: type[MNIST]) -> None:
    train, test = write_mnist(tmp_path, kind.__name__)
    data = kind(tmp_path)
    data.prepare()
    images = data.load()
    assert np.array_equal(images.train.images, train[:, None])
    assert np.array_equal(images.test.images, test[:, None])
    assert images.train.labels.tolist() == [*range(10), *range(10)]
    assert images.train.keys.tolist() == list(range(20))
    assert len(images.class_names) == 10


@pytest.mark.usefixtures("no_network")
def test_mnist_is_downloaded_and_unpacked_by_torchvision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, _ = write_mnist(tmp_path / "server")
    files = sorted((tmp_path / "server" / "MNIST" / "raw").iterdir())
    packed = {f"{path.name}.gz": gzip.compress(path.read_bytes()) for path in files}

    def answer(url: str, path: Path, **keywords: Any) -> None:
        Path(path).write_bytes(packed[url.rsplit("/", 1)[1]])

    data = MNIST(tmp_path)
    with pytest.raises(ValueError, match="the network is down"):
        data.prepare()
    checksums = [(name, hashlib.md5(content).hexdigest()) for name, content in packed.items()]
    monkeypatch.setattr(torchvision.datasets.MNIST, "resources", checksums)
    monkeypatch.setattr(torchvision.datasets.utils, "_urlretrieve", answer)
    monkeypatch.setattr(torchvision.datasets.utils, "_get_redirect_url", lambda url, max_hops: url)
    monkeypatch.setattr(source, "_no_answer", lambda addresses: None)
    data.prepare()
    assert np.array_equal(data.load().train.images[:, 0], train)


@pytest.mark.parametrize("kept", [0, 7, 16, 4000])
def test_truncated_mnist_is_named_as_damaged(tmp_path: Path, kept: int) -> None:
    write_mnist(tmp_path)
    os.truncate(tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte", kept)
    with pytest.raises(ValueError, match=r"MNIST is missing or damaged there and cannot be read"):
        MNIST(tmp_path).load()


def test_fingerprint_of_mnist_is_its_name_before_and_after_the_published_files_are_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = MNIST(tmp_path)
    assert data.fingerprint() == "mnist"
    write_mnist(tmp_path)
    first = data.fingerprint()
    assert first.startswith("mnist-")
    monkeypatch.setattr(MNIST, "_published_digest", first.removeprefix("mnist-"))
    assert data.fingerprint() == "mnist"
    labels = tmp_path / "MNIST" / "raw" / "t10k-labels-idx1-ubyte"
    labels.write_bytes(labels.read_bytes()[:-1] + b"\0")
    assert data.fingerprint() not in ("mnist", first)


def test_fingerprint_of_fashion_mnist_knows_the_published_sizes_and_first_labels(tmp_path: Path) -> None:
    data = FashionMNIST(tmp_path)
    raw = tmp_path / "FashionMNIST" / "raw"
    labels = {
        "train": [9, 0, 0, 3, 0, 2, 7, 2, 5, 5, 0, 9, 5, 5, 7, 9],
        "t10k": [9, 2, 1, 1, 6, 1, 4, 6, 5, 7, 4, 5, 7, 3, 4, 1],
    }
    for split, count in (("train", 60_000), ("t10k", 10_000)):
        write_idx(raw / f"{split}-labels-idx1-ubyte", np.array(labels[split], np.uint8))
        write_idx(raw / f"{split}-images-idx3-ubyte", np.zeros((1, 28, 28), np.uint8))
        os.truncate(raw / f"{split}-labels-idx1-ubyte", 8 + count)
        os.truncate(raw / f"{split}-images-idx3-ubyte", 16 + count * 28 * 28)
    assert data.fingerprint() == "fashion_mnist"
    write_idx(raw / "t10k-labels-idx1-ubyte", np.array(labels["train"], np.uint8))
    os.truncate(raw / "t10k-labels-idx1-ubyte", 10_008)
    assert data.fingerprint().startswith("fashion_mnist-")


class CIFARCopy:
    """A hand-made copy of CIFAR's pickled batches, and torchvision told to expect its checksums."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch, kind: type[CIFAR10], last_label: int = 1) -> None:
        original = getattr(torchvision.datasets, kind.__name__)
        self.folder = root / original.base_folder
        self.folder.mkdir(parents=True)
        label_key = "labels" if kind is CIFAR10 else "fine_labels"
        self.images = {}
        lists: dict[str, list[list[str]]] = {"train_list": [], "test_list": []}
        for which, files in lists.items():
            for name, _ in getattr(original, which):
                self.images[name] = pixels(3, 3072)
                batch = {"data": self.images[name], label_key: [0, 1, last_label]}
                self.write(name, batch)
                files.append([name, md5(self.folder / name)])
            monkeypatch.setattr(original, which, files)
        meta = dict(original.meta)
        self.write(meta["filename"], {meta["key"]: [f"class {label}" for label in range(10)]})
        meta["md5"] = md5(self.folder / meta["filename"])
        monkeypatch.setattr(original, "meta", meta)
        self.archive = root / original.filename
        with tarfile.open(self.archive, "w:gz") as archive:
            archive.add(self.folder, original.base_folder)
        monkeypatch.setattr(original, "tgz_md5", md5(self.archive))

    def write(self, name: str, batch: dict[str, Any]) -> None:
        content = pickle.dumps(batch, protocol=2)
        # dtype("u1", 0, 1) for dtype("u1", False, True), as in the published files: some numpys warn of it.
        (self.folder / name).write_bytes(content.replace(b"\x89\x88\x87", b"K\x00K\x01\x87", 1))

    def stacked(self, names: list[str]) -> np.ndarray:
        return np.concatenate([self.images[name] for name in names]).reshape(-1, 3, 32, 32)


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("kind", [CIFAR10, CIFAR100])
def test_cifar_is_read_from_its_pickled_batches(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: type[CIFAR10]
) -> None:
    copy = CIFARCopy(tmp_path, monkeypatch, kind)
    copy.archive.unlink()
    data = kind(str(tmp_path))
    data.prepare()
    images = data.load()
    train = [f"data_batch_{part}" for part in range(1, 6)] if kind is CIFAR10 else ["train"]
    test = ["test_batch"] if kind is CIFAR10 else ["test"]
    assert np.array_equal(images.train.images, copy.stacked(train))
    assert np.array_equal(images.test.images, copy.stacked(test))
    assert images.train.images.flags.c_contiguous
    assert images.train.labels.tolist() == [0, 1, 1] * len(train)
    assert images.train.keys.tolist() == list(range(3 * len(train)))
    assert images.class_names[:2] == ("class 0", "class 1")
    assert data.fingerprint() == {CIFAR10: "cifar10", CIFAR100: "cifar100"}[kind]


@pytest.mark.usefixtures("no_network")
def test_damaged_cifar_is_unpacked_again_from_its_archive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    copy = CIFARCopy(tmp_path, monkeypatch, CIFAR10)
    os.truncate(copy.folder / "data_batch_3", 50)
    data = CIFAR10(tmp_path)
    with pytest.raises(ValueError, match=r"CIFAR-10 is missing or damaged there and cannot be read"):
        data.load()
    data.prepare()
    assert np.array_equal(data.load().test.images, copy.stacked(["test_batch"]))


@pytest.mark.usefixtures("no_network")
def test_published_archives_that_cannot_be_unpacked_there_are_not_said_to_be_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = CIFARCopy(tmp_path, monkeypatch, CIFAR10)
    shutil.rmtree(copy.folder)

    def refuse(*arguments: Any, **keywords: Any) -> None:  # as in a folder that can only be read, which root never has
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(tarfile.TarFile, "extractall", refuse)
    with pytest.raises(ValueError, match="Read-only file system") as caught:
        CIFAR10(tmp_path).prepare()
    assert "is there, but packed" in str(caught.value)
    assert f"tar -xzf {copy.archive} -C FOLDER" in str(caught.value)
    assert "missing" not in str(caught.value)
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "tgz_md5", "0" * 32)
    with pytest.raises(ValueError, match=r"cifar-10-python\.tar\.gz   from .* \(what is there is another file"):
        CIFAR10(tmp_path).prepare()


def test_cifar_labels_out_of_range_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    CIFARCopy(tmp_path, monkeypatch, CIFAR10, last_label=12)
    with pytest.raises(ValueError, match="5 train labels are out of range, the first is 12 at position 2"):
        CIFAR10(tmp_path).load()


@pytest.mark.usefixtures("no_network")
def test_svhn_is_read_from_its_matrices(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = {"train": pixels(32, 32, 3, 6), "test": pixels(32, 32, 3, 4)}
    files = {}
    for split, images in stored.items():
        path = tmp_path / f"{split}_32x32.mat"
        labels = np.arange(10, 10 - images.shape[-1], -1, dtype=np.uint8)[:, None]  # 10 is the digit 0
        scipy.io.savemat(path, {"X": images, "y": labels})
        files[split] = ["http://nowhere.invalid/", path.name, md5(path)]
    monkeypatch.setattr(torchvision.datasets.SVHN, "split_list", files)
    data = SVHN(tmp_path)
    data.prepare()
    images = data.load()
    assert np.array_equal(images.train.images, stored["train"].transpose(3, 2, 0, 1))
    assert images.train.labels.tolist() == [0, 9, 8, 7, 6, 5]
    assert images.test.images.shape == (4, 3, 32, 32)
    assert images.class_names == tuple("0123456789")


# A download that cannot happen


@pytest.mark.usefixtures("no_network")
@pytest.mark.parametrize("kind", WELL_KNOWN)
def test_without_network_the_error_says_which_files_to_put_where(tmp_path: Path, kind: type[MNIST]) -> None:
    root = tmp_path / "data"
    start = time.monotonic()
    with pytest.raises(ValueError, match="the network is down") as caught:
        kind(root).prepare()
    assert time.monotonic() - start < 20
    wanted = {
        MNIST: "MNIST/raw/train-images-idx3-ubyte.gz",
        FashionMNIST: "FashionMNIST/raw/train-images-idx3-ubyte.gz",
        CIFAR10: "cifar-10-python.tar.gz",
        CIFAR100: "cifar-100-python.tar.gz",
        SVHN: "train_32x32.mat",
    }[kind]
    assert f"data.root='{root}'" in str(caught.value)
    assert f"  {wanted}   from http" in str(caught.value)
    assert not root.exists()
    with pytest.raises(ValueError, match=wanted):
        kind(root).load()


def test_a_network_that_swallows_everything_is_given_up_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    end = threading.Event()

    def silence(*arguments: Any, **keywords: Any) -> None:
        end.wait(PATIENCE_SECONDS)
        raise URLError("too late")

    monkeypatch.setattr(urllib.request, "urlopen", silence)
    start = time.monotonic()
    assert source._no_answer(["http://a.invalid", "http://b.invalid"], seconds=0.05) == "no answer in 0.05 s"
    assert time.monotonic() - start < PATIENCE_SECONDS / 2
    end.set()


def test_one_mirror_that_answers_is_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    def ask(request: urllib.request.Request, timeout: float) -> None:
        if "good" in request.full_url:
            time.sleep(0.02)
            raise HTTPError(request.full_url, 403, "HEAD is forbidden", None, None)  # type: ignore[arg-type]
        raise URLError("no such host")

    monkeypatch.setattr(urllib.request, "urlopen", ask)
    assert source._no_answer(["http://bad.invalid", "http://good.invalid"]) is None
    assert source._no_answer(["http://bad.invalid", "http://worse.invalid"]) == "no such host"


def test_a_download_that_breaks_off_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    timeouts = []

    def break_off(*arguments: Any, **keywords: Any) -> None:
        timeouts.append(socket.getdefaulttimeout())
        raise TimeoutError("timed out")

    monkeypatch.setattr(source, "_no_answer", lambda addresses: None)
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "download", break_off)
    with pytest.raises(ValueError, match=r"cannot be downloaded \(timed out\)"):
        CIFAR10(tmp_path).prepare()
    assert timeouts == [30.0]
    assert socket.getdefaulttimeout() is None


@pytest.mark.parametrize("root", [None, "", 3])
def test_a_root_that_is_no_path_is_refused(root: Any) -> None:
    with pytest.raises(ValueError, match=rf"data\.root={root!r}"):
        CIFAR10(root).load()


# Image folders

CLASSES = ("cat", "dog")


def write_folder(root: Path, *, per_class: int = 3, second: str = "test", channels: int = 3) -> Path:
    for split in ("train", second):
        for name in CLASSES:
            folder = root / split / name
            folder.mkdir(parents=True)
            for index in range(per_class):
                image = np.random.default_rng([len(split), len(name), ord(name[0]), index])
                array = image.integers(0, 256, (6, 5, channels), dtype=np.uint8)
                Image.fromarray(array.squeeze()).save(folder / f"{index}.png")
    return root


def test_an_image_folder_is_read_in_order(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    root = write_folder(tmp_path)
    (root / "train" / "cat" / ".DS_Store").write_bytes(b"clutter")
    (root / "train" / "README").write_text("no class")
    images = ImageFolder(root).load()
    assert "1 file directly in train (the first is 'README'), in no folder of a class: left out" in caplog.text
    assert images.class_names == CLASSES
    assert images.train.labels.tolist() == [0, 0, 0, 1, 1, 1]
    for split, found in (("train", images.train), ("test", images.test)):
        names = [f"{name}/{index}.png" for name in CLASSES for index in range(3)]
        expected = [np.asarray(Image.open(root / split / name)).transpose(2, 0, 1) for name in names]
        assert np.array_equal(found.images, np.stack(expected))
        keys = [hashlib.blake2b(name.encode(), digest_size=8).digest() for name in names]
        assert found.keys.tolist() == [int.from_bytes(key, "little") for key in keys]


def test_an_image_keeps_its_key_when_others_come(tmp_path: Path) -> None:
    root = write_folder(tmp_path)
    before = ImageFolder(root).load().train
    shutil.copy(root / "train" / "dog" / "0.png", root / "train" / "cat" / "00.png")
    after = ImageFolder(root).load().train
    assert len(after) == 7
    assert set(before.keys) < set(after.keys)


def test_grey_folders_have_one_channel_and_val_stands_in_for_test(tmp_path: Path) -> None:
    images = ImageFolder(write_folder(tmp_path, second="val", channels=1)).load()
    assert images.train.images.shape == images.test.images.shape == (6, 1, 6, 5)


def remove_root(root: Path) -> None:
    shutil.rmtree(root)


def remove_train(root: Path) -> None:
    shutil.rmtree(root / "train")


def empty_train(root: Path) -> None:
    shutil.rmtree(root / "train")
    (root / "train").mkdir()


def empty_class(root: Path) -> None:
    (root / "test" / "emu").mkdir()


def remove_dogs(root: Path) -> None:
    shutil.rmtree(root / "train" / "dog")
    shutil.rmtree(root / "test" / "dog")


def rename_test_class(root: Path) -> None:
    (root / "test" / "dog").rename(root / "test" / "wolf")


def flatten_test(root: Path) -> None:
    for folder in sorted((root / "test").iterdir()):
        for path in folder.iterdir():
            path.rename(root / "test" / f"{folder.name}_{path.name}")
        folder.rmdir()


def nest(root: Path) -> None:
    (root / "train" / "cat" / "more").mkdir()


def spoil_seven(root: Path) -> None:
    for index in range(5):
        (root / "train" / "cat" / f"spoilt_{index}.png").write_bytes(b"not an image")
    half = (root / "test" / "cat" / "0.png").read_bytes()[:60]
    (root / "test" / "cat" / "0.png").write_bytes(half)
    (root / "test" / "dog" / "gone.png").symlink_to(root / "nowhere.png")


def resize_one(root: Path) -> None:
    Image.new("RGB", (9, 8)).save(root / "test" / "dog" / "1.png")


@pytest.mark.parametrize(
    ("spoil", "messages"),
    [
        (remove_root, ["there is no folder", "<root>/train/<class>/<image>"]),
        (remove_train, ["there is no folder {root}/train"]),
        (empty_train, ["train is empty", "train/<class>/*"]),
        (flatten_test, ["6 files directly in test (the first is 'cat_0.png')", "test/<class>/*"]),
        (empty_class, ["no image in test/emu"]),
        (remove_dogs, ["one class, cat"]),
        (rename_test_class, ["train and test differ", "only in train: dog", "only in test: wolf"]),
        (nest, ["train/cat holds 1 folder (the first is 'more')"]),
        (spoil_seven, ["7 of 18 images cannot be read", "train/cat/spoilt_4.png", "and 2 more"]),
        (
            resize_one,
            ["images of 2 sizes", "5 x 6: 11 images", "9 x 8: 1 images, the first is test/dog/1.png"],
        ),
    ],
)
def test_a_folder_that_cannot_be_trained_on_is_refused(
    tmp_path: Path, spoil: Callable[[Path], None], messages: list[str]
) -> None:
    root = write_folder(tmp_path / "pictures")
    spoil(root)
    with pytest.raises(ValueError, match=r"^data\.root=") as caught:
        ImageFolder(root).load()
    for message in [str(root), *messages]:
        assert message.format(root=root) in str(caught.value)
    assert "gone.png" not in str(caught.value)  # the seventh
    assert not list(tmp_path.rglob(".rethinkgen*"))


@pytest.mark.parametrize("num_workers", [0, -1, 1.5, True, "two"])
def test_num_workers_must_be_a_positive_whole_number(tmp_path: Path, num_workers: Any) -> None:
    with pytest.raises(ValueError, match=rf"data\.source\.num_workers={num_workers!r}"):
        ImageFolder(write_folder(tmp_path), num_workers).load()


# The cache of an image folder


def caches(root: Path) -> list[Path]:
    return sorted(root.glob(".rethinkgen*"))


def assert_equal(left: Images, right: Images) -> None:
    assert left.class_names == right.class_names
    for split in ("train", "test"):
        for name, array in vars(getattr(left, split)).items():
            other = getattr(getattr(right, split), name)
            assert array.dtype == other.dtype
            assert np.array_equal(array, other)


def test_images_are_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = ImageFolder(write_folder(tmp_path)).load()
    (cache,) = caches(tmp_path)
    assert cache.stat().st_size > 2 * 6 * 90
    monkeypatch.setattr(decoding, "decode", None)
    assert_equal(ImageFolder(tmp_path).load(), first)


def test_an_edit_that_keeps_the_size_is_seen(tmp_path: Path) -> None:
    root = write_folder(tmp_path)
    for path in root.rglob("*.png"):  # a format whose size does not depend on the pixels
        Image.open(path).save(path.with_suffix(".bmp"))
        path.unlink()
    ImageFolder(root).load()
    (old,) = caches(root)
    edited = root / "train" / "dog" / "2.bmp"
    before = edited.stat()
    Image.new("RGB", (5, 6), (1, 2, 3)).save(edited)
    assert edited.stat().st_size == before.st_size
    os.utime(edited, ns=(before.st_atime_ns, before.st_mtime_ns + 1000))
    images = ImageFolder(root).load()
    assert images.train.images[-1, :, 0, 0].tolist() == [1, 2, 3]
    assert len(caches(root)) == 1
    assert caches(root) != [old]


def cut(content: bytes) -> bytes:
    return content[: len(content) // 2]


def flip_a_bit(content: bytes) -> bytes:
    middle = len(content) // 3
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def blank(content: bytes) -> bytes:
    return bytes(len(content))


@pytest.mark.parametrize("damage", [cut, flip_a_bit, blank])
def test_a_damaged_cache_is_made_again(
    tmp_path: Path, damage: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    first = ImageFolder(write_folder(tmp_path, per_class=20)).load()
    (cache,) = caches(tmp_path)
    whole = cache.read_bytes()
    cache.write_bytes(damage(whole))
    assert_equal(ImageFolder(tmp_path).load(), first)
    assert "is damaged" in caplog.text
    caplog.clear()
    assert_equal(ImageFolder(tmp_path).load(), first)
    assert caplog.text == ""


def test_a_folder_that_cannot_be_written_to_only_warns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(file: Any, **arrays: Any) -> None:
        file.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(np, "savez", full)
    assert len(ImageFolder(write_folder(tmp_path)).load().train) == 6
    assert [record.levelno for record in caplog.records] == [logging.WARNING]
    assert "No space left on device" in caplog.text
    assert caches(tmp_path) == []


def test_what_was_prepared_is_loaded_once_and_then_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = ImageFolder(write_folder(tmp_path))
    data.prepare()
    with monkeypatch.context() as patch:
        patch.setattr(np, "load", None)
        prepared = data.load()
    again = data.load()
    assert again is not prepared
    assert_equal(again, prepared)


def test_no_progress_bar_where_there_is_no_terminal(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    ImageFolder(write_folder(tmp_path)).load()
    assert capfd.readouterr() == ("", "")


# Several processes at a time: the jobs of a sweep that begin together

TOGETHER = """
import logging, os, sys, time
from pathlib import Path
import numpy as np
from rethinkgen.data import source

logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
root = Path({root!r})

def note():
    with (root.parent / "work.txt").open("a") as file:
        file.write(f"{{os.getpid()}}\\n")
    time.sleep(0.5)

{setting}

(root.parent / f"ready-{{os.getpid()}}").touch()
while not (root.parent / "go").exists():
    time.sleep(0.001)
data.prepare()
images = data.load()
print(images.train.images.shape, int(images.train.images.sum()))
"""

DECODING = """
decode = source.ImageFolder._decode
source.ImageFolder._decode = lambda self, listing: (note(), decode(self, listing))[1]
data = source.ImageFolder(root, num_workers=1)
"""

# As torchvision does, it writes file after file, and knows no checksum of these.
DOWNLOADING = """
def download(self):
    self._raw().mkdir(parents=True)
    for path, _ in self._files():
        count = 20 if "train" in path.name else 10
        shape = (count,) if "labels" in path.name else (count, 28, 28)
        header = bytes([0, 0, 8, len(shape)]) + np.array(shape, ">i4").tobytes()
        with path.open("wb") as file:
            file.write(header)
            note() if "t10k-labels" in path.name else None
            file.write(bytes(int(np.prod(shape))))

import torchvision.datasets  # not while the others wait, on a busy machine for seconds
source.MNIST._download = download
source._no_answer = lambda addresses: None
data = source.MNIST(root)
"""


def together(folder: Path, setting: str) -> list[str]:
    """Run two processes that begin at the same moment, and return what each printed."""
    program = TOGETHER.format(root=str(folder / "data"), setting=setting)
    started = [
        subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        for _ in range(2)
    ]
    while len(list(folder.glob("ready-*"))) < 2 and all(process.poll() is None for process in started):
        time.sleep(0.01)
    (folder / "go").touch()
    ended = [process.communicate(timeout=240) for process in started]
    assert [process.returncode for process in started] == [0, 0], ended
    return [output for output, _ in ended]


@pytest.mark.parametrize(("setting", "what"), [(DECODING, "decodes"), (DOWNLOADING, "downloads MNIST")])
def test_of_processes_that_begin_together_one_prepares_and_the_others_wait(
    tmp_path: Path, setting: str, what: str
) -> None:
    if setting == DECODING:
        write_folder(tmp_path / "data")
    printed = together(tmp_path, setting)
    assert len((tmp_path / "work.txt").read_text().splitlines()) == 1
    assert len({output.splitlines()[-1] for output in printed}) == 1, "all read the same"
    assert not list(tmp_path.rglob("*.lock"))
    assert sorted(f"Waiting for another process that {what}" in output for output in printed) == [False, True]


def test_files_that_another_process_is_unpacking_are_waited_for(tmp_path: Path) -> None:
    write_mnist(tmp_path)
    labels = tmp_path / "MNIST" / "raw" / "t10k-labels-idx1-ubyte"
    whole = labels.read_bytes()
    labels.write_bytes(whole[:5])
    data = MNIST(tmp_path)
    with source._alone(source._lock_path(tmp_path, "mnist"), "unpacks"):
        preparing = threading.Thread(target=data.prepare)
        preparing.start()
        preparing.join(0.2)
        assert preparing.is_alive()
        labels.write_bytes(whole)
    preparing.join(PATIENCE_SECONDS)
    assert not preparing.is_alive()
    assert len(data.load().test) == 10


def test_without_a_lock_the_work_is_done_all_the_same(tmp_path: Path) -> None:
    # As in a folder that cannot be written to, which root can everywhere.
    source._lock_path(tmp_path, "image_folder").mkdir()
    assert len(ImageFolder(write_folder(tmp_path)).load().train) == 6


# The fingerprint of an image folder


def test_fingerprint_of_a_folder_names_its_content(tmp_path: Path) -> None:
    data = ImageFolder(tmp_path / "here")
    assert data.fingerprint() is None
    root = write_folder(tmp_path / "here")
    first = data.fingerprint()
    assert first is not None
    data.load()  # the cache does not count

    copy = tmp_path / "there"
    shutil.copytree(root, copy, copy_function=shutil.copy)  # other modification times
    assert ImageFolder(copy).fingerprint() == first == data.fingerprint()

    seen = {first}
    image = copy / "train" / "cat" / "0.png"
    content = image.read_bytes()
    image.write_bytes(content[:-1] + b"\0")
    seen.add(ImageFolder(copy).fingerprint() or "")
    image.write_bytes(content + b"\0")
    seen.add(ImageFolder(copy).fingerprint() or "")
    image.write_bytes(content)
    assert ImageFolder(copy).fingerprint() == first
    image.rename(image.with_name("zero.png"))
    seen.add(ImageFolder(copy).fingerprint() or "")
    shutil.rmtree(copy / "test")
    seen.add(ImageFolder(copy).fingerprint() or "")
    assert len(seen) == 5
    (copy / "train").rename(copy / "test")
    assert ImageFolder(copy).fingerprint() is None
