"""Where images come from: seven sources, each read whole into memory as ``Images``.

A source has a train and mostly a test part. Its ``parts`` say which of them is trained on: ``[train]``; ``[train,
test]``, one after the other, so that an ``index`` is the position in both; or ``[test]``. Where the test part is
trained on there is none to test on.

Neither this module nor making a source and asking for its fingerprint imports torch: a finished run is
skipped without it.
"""

from __future__ import annotations

import hashlib
import logging
import os
import queue
import shlex
import socket
import sys
import threading
import urllib.request
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from http.client import HTTPException
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, NamedTuple, Protocol
from urllib.error import HTTPError

import numpy as np
from numpy.typing import NDArray

from rethinkgen import files
from rethinkgen.data import idx
from rethinkgen.data.image_listing import File, Listing, digest, folder_at, labelled, list_folder
from rethinkgen.data.parts import TRAIN, check_parts, joined, of_parts
from rethinkgen.data.streamed_source import ImageFiles
from rethinkgen.errors import DamagedFileError, UnsuitableFileError

_log = logging.getLogger(__name__)


Arrays = tuple[NDArray[np.uint8], NDArray[np.int64]]
"""Images (N, C, H, W) and labels (N,) of one part."""


@dataclass(frozen=True, eq=False)
class Examples:
    """One split: ``images`` uint8 (N, C, H, W), ``labels`` int64 (N,), ``keys`` uint64 (N,).

    A key names its example for every random draw: its position in the split, or, in an image folder, a hash
    of its path, so that adding an image leaves the draws of the others alone.
    """

    images: NDArray[np.uint8]
    labels: NDArray[np.int64]
    keys: NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class Images:
    """A data set: two splits whose images have one shape, and a name for each class.

    Raises ``ValueError`` where the arrays do not fit together, a split is empty, there are fewer than two
    classes, or a label is not one of ``0 .. len(class_names) - 1``.
    """

    train: Examples
    test: Examples | None
    """``None`` where there is none: then all numbers of the test set are ``None`` too."""
    class_names: tuple[str, ...]

    def __post_init__(self) -> None:
        if len(self.class_names) < 2:
            raise ValueError(f"data.source: at least two classes are needed, not {list(self.class_names)}.")
        _check_examples("train", self.train, len(self.class_names))
        if self.test is None:
            return
        _check_examples("test", self.test, len(self.class_names))
        _check_shapes(self.train.images, self.test.images)


def _check_shapes(train: NDArray[np.uint8], test: NDArray[np.uint8]) -> None:
    shapes = train.shape[1:], test.shape[1:]
    if shapes[0] != shapes[1]:
        raise ValueError(
            f"data.source: training images are {shapes[0]}, test images {shapes[1]} (channels, height, "
            "width): one shape is needed."
        )


def _check_examples(split: str, examples: Examples, num_classes: int) -> None:
    images, labels, keys = examples.images, examples.labels, examples.keys
    found = [(array.dtype.name, array.ndim) for array in (images, labels, keys)]
    if found != [("uint8", 4), ("int64", 1), ("uint64", 1)] or 0 in images.shape[1:]:
        raise ValueError(
            f"data.source: the {split} split needs images uint8 (N, C, H, W), labels int64 (N,) and keys "
            f"uint64 (N,), not {images.dtype} {images.shape}, {labels.dtype} {labels.shape} and "
            f"{keys.dtype} {keys.shape}."
        )
    if not len(images) == len(labels) == len(keys):
        raise ValueError(
            f"data.source: the {split} split has {len(images)} images, {len(labels)} labels and {len(keys)} "
            "keys: their numbers must agree."
        )
    if len(labels) == 0:
        raise ValueError(f"data.source: the {split} split is empty.")
    wrong = np.flatnonzero((labels < 0) | (labels >= num_classes))
    if len(wrong):
        raise ValueError(
            f"data.source: {len(wrong)} {split} labels are out of range, the first is {labels[wrong[0]]} "
            f"at position {wrong[0]}: {num_classes} classes allow 0 to {num_classes - 1}."
        )
    if len(np.unique(keys)) < len(keys):
        raise ValueError(f"data.source: the {split} split has equal keys: each example needs its own.")


def _by_position(images: NDArray[np.uint8], labels: NDArray[np.int64]) -> Examples:
    """Make a split whose keys are positions."""
    return Examples(np.ascontiguousarray(images), labels, np.arange(len(labels), dtype=np.uint64))


def _of_parts(splits: Sequence[Arrays], parts: Sequence[str], class_names: tuple[str, ...]) -> Images:
    """Return the images whose ``parts`` are trained on, of the arrays of train and test; keys are positions."""
    (images, labels), test = of_parts(splits[0], splits[1], parts, _joined)
    return Images(_by_position(images, labels), None if test is None else _by_position(*test), class_names)


def _joined(one: Arrays, other: Arrays) -> Arrays:
    _check_shapes(one[0], other[0])
    return np.concatenate([one[0], other[0]]), np.concatenate([one[1], other[1]])


class Source(Protocol):
    """What the data module asks of a source; anything that has these three methods is one.

    A source that can tell without loading anything how many training examples it has, has ``num_train() -> int | None``
    too: asking for all of them by number is then the same run as asking for none. One whose images have names has
    ``name_of(split, position) -> str`` once they are loaded, for what is said of single images and ``examples.csv``.
    """

    def prepare(self) -> None:
        """Get what is not there yet. Called before any ``load``, perhaps by many processes at a time."""

    def load(self) -> Images | ImageFiles:
        """Read everything into memory, or list what will be streamed."""

    def fingerprint(self) -> str | None:
        """Name the content, fast and without torch; ``None`` if it cannot be known yet.

        The identity of a run holds this instead of a path.
        """


class Digits:
    """scikit-learn's handwritten digits: (1, 8, 8), 1,437 train and 360 test images, no download.

    The 17 grey levels 0 .. 16 become ``round(level * 255 / 16)``. The split is ours, as there is no official
    one of this size: stratified, by a fixed seed that no option reaches.

    Args:
        parts: which are trained on, see the head of this module.
    """

    _NUM_IMAGES, _NUM_TEST = 1797, 360

    def __init__(self, parts: Sequence[str] = TRAIN) -> None:
        self.parts = check_parts(parts)

    def prepare(self) -> None:
        """Do nothing: they come with scikit-learn."""

    def load(self) -> Images:
        """Read the 1,797 images: (1, 8, 8)."""
        # The file itself, since to import scikit-learn takes over a second and this a few milliseconds.
        package = find_spec("sklearn")
        if package is None or package.origin is None:
            raise ValueError("data=digits: they are a part of scikit-learn, which is not installed.")
        table = np.loadtxt(Path(package.origin).parent / "datasets" / "data" / "digits.csv.gz", delimiter=",")
        levels, labels = table[:, :-1], table[:, -1].astype(np.int64)
        images = np.round(levels * 255 / 16).astype(np.uint8).reshape(-1, 1, 8, 8)
        is_test = _stratified(labels, self._NUM_TEST)
        splits = [(images[chosen], labels[chosen]) for chosen in (~is_test, is_test)]
        return _of_parts(splits, self.parts, _DIGIT_NAMES)

    def fingerprint(self) -> str:
        """Name the data and the version of the split."""
        return "digits-1"

    def num_train(self) -> int:
        """Return how many training examples there are."""
        counts = {"train": self._NUM_IMAGES - self._NUM_TEST, "test": self._NUM_TEST}
        return sum(counts[part] for part in self.parts)


def _stratified(labels: NDArray[np.int64], num_chosen: int) -> NDArray[np.bool_]:
    """Choose examples so that each class keeps its share, to within one (largest remainders): bool (N,)."""
    counts = np.bincount(labels)
    shares = counts * num_chosen / len(labels)
    quotas = np.floor(shares).astype(np.int64)
    short = num_chosen - int(quotas.sum())
    quotas[np.argsort(quotas - shares, kind="stable")[:short]] += 1
    is_chosen = np.zeros(len(labels), np.bool_)
    # numpy promises that this old generator never changes its stream; it promises that of no newer one.
    random = np.random.RandomState(0)
    for label, quota in enumerate(quotas):
        is_chosen[random.permutation(np.flatnonzero(labels == label))[:quota]] = True
    return is_chosen


_DIGIT_NAMES = tuple("0123456789")
_FASHION_NAMES = (
    "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
)  # fmt: skip


class _Archive(NamedTuple):
    """What torchvision downloads: a file, its checksum, and where it is to be had."""

    path: Path
    md5: str
    addresses: list[str]


class _WellKnown:
    """A data set that torchvision downloads, checks and reads; its files lie where torchvision puts them.

    Args:
        root: the folder that they lie in.
        parts: which are trained on, see the head of this module.
    """

    _name: ClassVar[str]
    _title: ClassVar[str]
    _num_train: ClassVar[int]
    _num_test: ClassVar[int] = 10_000

    def __init__(self, root: str | Path, parts: Sequence[str] = TRAIN) -> None:
        self.root = root
        self.parts = check_parts(parts)

    def num_train(self) -> int | None:
        """Return how many training examples the published data have; ``None`` of other files under their names."""
        counts = {"train": self._num_train, "test": self._num_test}
        return sum(counts[part] for part in self.parts) if self.fingerprint() == self._name else None

    def prepare(self) -> None:
        """Download what is not there or is damaged.

        Raises ``ValueError`` if that cannot be done, within about ten seconds if the network does not answer;
        it says which files to put where.
        """
        lock = _lock_path(self.root, self._name)
        # While another process unpacks them, files seem to be there that are not whole.
        if self._is_there() and (not _wait_for_others(lock, f"downloads {self._title}") or self._is_there()):
            return
        self._refuse_other_names()
        wanted = self._wanted_archives()
        trouble = _no_answer(wanted[0].addresses) if wanted else None
        if trouble is None:
            with _alone(lock, f"downloads {self._title}"):
                if self._is_there():
                    return
                self._refuse_to_overwrite()
                trouble = self._download()
        if trouble is not None:
            raise ValueError(self._advice(f"cannot be downloaded ({trouble})") if wanted else self._packed(trouble))

    def _refuse_other_names(self) -> None:
        """Refuse files that are meant to be these, but lie under names that nothing reads."""

    def _refuse_to_overwrite(self) -> None:
        """Refuse to download over somebody's own data."""

    def _is_there(self) -> bool:
        from torchvision.datasets.utils import check_integrity

        return all(check_integrity(path, md5) for path, md5 in self._files())

    def _wanted_archives(self) -> list[_Archive]:
        from torchvision.datasets.utils import check_integrity

        return [item for item in self._archives() if not check_integrity(item.path, item.md5)]

    def _download(self) -> str | None:
        """Let torchvision download and unpack; return what went wrong."""
        _log.info("Downloading %s to %s", self._title, folder_at(self.root))
        try:
            with _impatient_sockets():
                for split in ("train", "test"):
                    self._open(split, download=True)
        except (OSError, RuntimeError, HTTPException) as error:
            return " ".join(str(error).split()) or type(error).__name__
        return None

    def load(self) -> Images:
        """Read both splits. Raises ``ValueError`` if files are missing, damaged or not what they should be."""
        try:
            splits, names = self._read()
        except UnsuitableFileError as error:  # to put the published files there is no advice for who has others
            raise UnsuitableFileError(f"{self._where()}: {error}") from error
        except Exception as error:  # a truncated file makes torchvision's readers raise nearly anything
            reason = f"cannot be read ({' '.join(str(error).split()) or type(error).__name__})"
            raise ValueError(self._advice(reason)) from error
        return _of_parts(splits, self.parts, names)

    def fingerprint(self) -> str:
        """Name the data set: torchvision has checked its bytes."""
        return self._name

    def _where(self) -> str:
        return f"data.root={str(self.root)!r}"

    def _advice(self, trouble: str) -> str:
        folder, archives = folder_at(self.root), self._archives()
        other = "   (what is there is another file, cut short or damaged)"
        wanted = [
            f"  {item.path.relative_to(folder)}   from {item.addresses[0]}{other if self._is_other(item) else ''}"
            for item in archives
        ]
        unpacked = {path for path, _ in self._files()} - {item.path for item in archives}
        if unpacked:
            names = sorted(str(path.relative_to(folder)) for path in unpacked)
            wanted.append(f"or what is in them: {', '.join(names)}")
        return "\n".join(
            [
                f"{self._where()}: {self._title} is missing or damaged there and {trouble}. "
                "Remove what is damaged, then put these into that folder:",
                *wanted,
                "or set data.root (or RETHINKGEN_DATA) to where they are. data=digits needs no download.",
            ]
        )

    def _is_other(self, archive: _Archive) -> bool:
        """Whether a file lies there under the name of a published one that is not this."""
        from torchvision.datasets.utils import check_integrity

        return archive.path.is_file() and not check_integrity(archive.path, archive.md5)

    def _packed(self, trouble: str) -> str:
        """Say what to do with published archives in a folder that cannot be written to."""
        archives = " ".join(shlex.quote(str(item.path)) for item in self._archives())
        return (
            f"{self._where()}: {self._title} is there, but packed, and cannot be unpacked in that folder ({trouble}). "
            f"Unpack it in one that can be written to, and set data.root to that: tar -xzf {archives} -C FOLDER"
        )

    def _files(self) -> list[tuple[Path, str | None]]:
        """List the files that are read, each with the checksum that it must have, if one is known."""
        raise NotImplementedError

    def _archives(self) -> list[_Archive]:
        raise NotImplementedError

    def _open(self, split: str, *, download: bool = False) -> Any:
        """Make torchvision's data set."""
        raise NotImplementedError

    def _read(self) -> tuple[list[tuple[NDArray[np.uint8], NDArray[np.int64]]], tuple[str, ...]]:
        """Return images (N, C, H, W) and labels (N,) of train and test, and the class names."""
        raise NotImplementedError


class MNIST(_WellKnown):
    """MNIST: (1, 28, 28), 60,000 train and 10,000 test images of 10 digits.

    Files: ``<root>/MNIST/raw/train-images-idx3-ubyte`` and so on, or the same as ``.gz``, the published or any others:
    they are read as they are.
    """

    _name = "mnist"
    _title = "MNIST"
    _num_train = 60_000
    _class_names: ClassVar[tuple[str, ...]] = _DIGIT_NAMES
    _published_shapes: ClassVar[list[tuple[int, ...]]] = [(60_000, 28, 28), (60_000,), (10_000, 28, 28), (10_000,)]
    # Of the published files, by ``digest``.
    _published_digest: ClassVar[str] = "16c21c327970b4e077802fee54ab241bd1a4fc792a64d3ce3d940dc64a832fcf"

    def fingerprint(self) -> str:
        """Name the data set if the published files are there, or will be after a download.

        torchvision checks the packed files that it downloads, but unpacked ones are read unchecked. So other
        files under these names (another data set, a subset, changed labels) get a digest of their own: of the
        sizes, all labels and the first 83 images of each split, which is as much as can be read without
        delay. It is the same of a file and of its ``.gz``.
        """
        found = self._found()
        if None in found:
            return self._name
        described = [idx.describe(path) for path in found if path]
        return self._name if self._is_published(described) else f"{self._name}-{digest(described, idx.head)}"

    def _is_published(self, described: Sequence[File]) -> bool:
        return digest(described, idx.head) == self._published_digest

    def _raw(self) -> Path:
        return folder_at(self.root) / type(self).__name__ / "raw"

    def _files(self) -> list[tuple[Path, str | None]]:
        names = [f"{split}-{kind}-ubyte" for split in ("train", "t10k") for kind in ("images-idx3", "labels-idx1")]
        return [(self._raw() / name, None) for name in names]

    def _found(self) -> list[Path | None]:
        """Return the file that each of those wanted is read from: unpacked, or else packed and whole."""
        found: list[Path | None] = []
        for path, _ in self._files():
            packed = _packed_name(path)
            is_whole = not path.is_file() and packed.is_file() and idx.shape_of(packed) is not None
            found.append(path if path.is_file() else packed if is_whole else None)
        return found

    def _is_there(self) -> bool:
        return None not in self._found()

    def _missing(self) -> list[Path]:
        return [path for (path, _), found in zip(self._files(), self._found(), strict=True) if found is None]

    def _refuse_other_names(self) -> None:
        """Refuse ``train-images.idx3-ubyte``, as Kaggle spells it, and right names in the wrong place."""
        root = folder_at(self.root)
        missing = {_letters(path.name): path for path in self._missing()}
        known = [path for wanted in missing.values() for path in (wanted, _packed_name(wanted))]
        other = []
        for folder in (self._raw(), self._raw().parent, root):
            for path in sorted(folder.iterdir()) if folder.is_dir() else ():
                wanted = missing.get(_letters(path.name.removesuffix(".gz")))
                if wanted and path not in known and path.is_file():
                    wanted = _packed_name(wanted) if path.suffix == ".gz" else wanted
                    other.append(f"  {path.relative_to(root)} is wanted as {wanted.relative_to(root)}")
        if other:
            raise ValueError(
                "\n".join([f"{self._where()}: {self._title}'s files are there under other names:", *other])
                + "\nRename, move or remove them: nothing is downloaded beside them."
            )

    def _refuse_to_overwrite(self) -> None:
        """A download writes all four files, whichever are missing."""
        here = [path for wanted, _ in self._files() for path in (wanted, _packed_name(wanted)) if path.is_file()]
        own = ", ".join(path.name for path in here if not self._may_be_replaced(path))
        if own:
            missing = ", ".join(path.name for path in self._missing())
            raise ValueError(
                f"{self._where()}: of {self._title}'s files in {self._raw()} these are other than the published ones: "
                f"{own}; and these are missing or unreadable: {missing}. Nothing is downloaded over your own: add what "
                "is missing, or remove what is there."
            )

    def _may_be_replaced(self, path: Path) -> bool:
        """Whether a file is a published one, or the beginning of it, as a download that was cut short leaves it."""
        begins = idx.head(path, 16)
        if not begins:
            return path.stat().st_size == 0 or idx.is_gzip(path)
        return len(begins) < 16 or idx.stated_shape(begins) in self._published_shapes

    def _archives(self) -> list[_Archive]:
        kind = _torchvision(type(self).__name__)
        return [
            _Archive(self._raw() / name, md5, [mirror + name for mirror in kind.mirrors])
            for name, md5 in kind.resources
        ]

    def _open(self, split: str, *, download: bool = False) -> Any:
        return _torchvision(type(self).__name__)(folder_at(self.root), train=split == "train", download=download)

    def _read(self) -> tuple[list[tuple[NDArray[np.uint8], NDArray[np.int64]]], tuple[str, ...]]:
        found = self._found()
        for (path, _), at in zip(self._files(), found, strict=True):
            if at is None:
                raise FileNotFoundError(f"there is no {path.name}, packed or not")
        train_images, train_labels, test_images, test_labels = (path for path in found if path)
        splits = [self._read_split(train_images, train_labels), self._read_split(test_images, test_labels)]
        return splits, self._class_names

    def _read_split(self, images: Path, labels: Path) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
        pixels, classes = idx.read(images, 3)[:, None], idx.read(labels, 1).astype(np.int64)
        if len(pixels) != len(classes):
            raise UnsuitableFileError(
                f"{images.name} holds {len(pixels):,} images and {labels.name} {len(classes):,} labels in "
                f"{self._raw()}: their numbers must agree."
            )
        if len(classes) and classes.max() >= len(self._class_names):
            count = len(self._class_names)
            from_one = " They seem to be counted from 1: subtract 1." if classes.min() == 1 else ""
            raise UnsuitableFileError(
                f"the labels in {self._raw() / labels.name} are {classes.min()} to {classes.max()}: the {count} "
                f"classes of {self._title} allow 0 to {count - 1}.{from_one} Data of more classes: data=image_folder."
            )
        return pixels, classes


def _packed_name(path: Path) -> Path:
    return path.with_name(f"{path.name}.gz")


def _letters(name: str) -> str:
    """Return what is left of a name where dots, dashes and capitals do not count."""
    return "".join(letter for letter in name.lower() if letter.isalnum())


class FashionMNIST(MNIST):
    """Fashion-MNIST: (1, 28, 28), 60,000 train and 10,000 test images of 10 kinds of clothing.

    Files: ``<root>/FashionMNIST/raw/train-images-idx3-ubyte`` and so on, or the same as ``.gz``.
    """

    _name = "fashion_mnist"
    _title = "Fashion-MNIST"
    _class_names = _FASHION_NAMES

    def _is_published(self, described: Sequence[File]) -> bool:
        # The project has never had these files at hand to take their digest. The published sizes and first
        # labels tell them from everything but changed pixels, or later labels, in files of the same sizes.
        sizes = [47_040_016, 60_008, 7_840_016, 10_008]
        if [file.size for file in described] != sizes:
            return False
        first_labels = (
            bytes.fromhex("09000003000207020505000905050709"),
            bytes.fromhex("09020101060104060507040507030401"),
        )
        labels = (described[1], described[3])
        return all(idx.head(file.path, 24)[8:] == first for file, first in zip(labels, first_labels, strict=True))


class CIFAR10(_WellKnown):
    """CIFAR-10: (3, 32, 32), 50,000 train and 10,000 test images of 10 classes.

    Files: ``<root>/cifar-10-batches-py/data_batch_1`` and so on, or the archive
    ``<root>/cifar-10-python.tar.gz``.
    """

    _name = "cifar10"
    _title = "CIFAR-10"
    _num_train = 50_000

    def _files(self) -> list[tuple[Path, str | None]]:
        kind = _torchvision(type(self).__name__)
        batches = [*kind.train_list, *kind.test_list, (kind.meta["filename"], kind.meta["md5"])]
        return [(folder_at(self.root) / kind.base_folder / name, md5) for name, md5 in batches]

    def _archives(self) -> list[_Archive]:
        kind = _torchvision(type(self).__name__)
        return [_Archive(folder_at(self.root) / kind.filename, kind.tgz_md5, [kind.url])]

    def _open(self, split: str, *, download: bool = False) -> Any:
        with warnings.catch_warnings():
            # The published pickles come from a very old numpy: 2.4.0 to 2.4.4 warn of that, no other does.
            warnings.filterwarnings("ignore", r"dtype\(\): align", np.exceptions.VisibleDeprecationWarning)
            return _torchvision(type(self).__name__)(folder_at(self.root), train=split == "train", download=download)

    def _read(self) -> tuple[list[tuple[NDArray[np.uint8], NDArray[np.int64]]], tuple[str, ...]]:
        opened = [self._open(split) for split in ("train", "test")]
        splits = [(split.data.transpose(0, 3, 1, 2), np.asarray(split.targets, np.int64)) for split in opened]
        return splits, tuple(opened[0].classes)


class CIFAR100(CIFAR10):
    """CIFAR-100: (3, 32, 32), 50,000 train and 10,000 test images, the 100 fine classes.

    Files: ``<root>/cifar-100-python/train``, ``test`` and ``meta``, or the archive
    ``<root>/cifar-100-python.tar.gz``.
    """

    _name = "cifar100"
    _title = "CIFAR-100"


class SVHN(_WellKnown):
    """Street View House Numbers: (3, 32, 32), 73,257 train and 26,032 test images of 10 cropped digits.

    Files: ``<root>/train_32x32.mat`` and ``<root>/test_32x32.mat``; the ``extra`` images are not used. Class
    0 is the digit 0 (label 10 in the files).
    """

    _name = "svhn"
    _title = "SVHN"
    _num_train = 73_257
    _num_test = 26_032

    def _files(self) -> list[tuple[Path, str | None]]:
        return [(item.path, item.md5) for item in self._archives()]

    def _archives(self) -> list[_Archive]:
        parts = [_torchvision("SVHN").split_list[split] for split in ("train", "test")]
        return [_Archive(folder_at(self.root) / name, md5, [address]) for address, name, md5 in parts]

    def _open(self, split: str, *, download: bool = False) -> Any:
        return _torchvision("SVHN")(folder_at(self.root), split=split, download=download)

    def _read(self) -> tuple[list[tuple[NDArray[np.uint8], NDArray[np.int64]]], tuple[str, ...]]:
        opened = [self._open(split) for split in ("train", "test")]
        return [(split.data, split.labels.astype(np.int64)) for split in opened], _DIGIT_NAMES


def _torchvision(name: str) -> Any:
    """Return torchvision's class of that name."""
    import torchvision.datasets

    return getattr(torchvision.datasets, name)


def _no_answer(addresses: Sequence[str], seconds: float = 10.0) -> str | None:
    """Ask all addresses at once whether they can be reached; return why not, or ``None`` if one answers.

    torchvision itself sets no time limit and tries one mirror, and each of a mirror's machines, after the
    other: behind a firewall that swallows packets that is many minutes.
    """
    answers: queue.Queue[str | None] = queue.Queue()

    def ask(address: str) -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=seconds).close()
        except HTTPError:
            answers.put(None)  # it refuses this question, but it is there
        except Exception as error:
            answers.put(str(getattr(error, "reason", error)) or type(error).__name__)
        else:
            answers.put(None)

    for address in addresses:
        threading.Thread(target=ask, args=(address,), daemon=True).start()
    reason = f"no answer in {seconds:g} s"
    try:
        for _ in addresses:
            answer = answers.get(timeout=seconds)
            if answer is None:
                return None
            reason = answer
    except queue.Empty:
        pass
    return reason


def _lock_path(root: str | Path, name: str) -> Path:
    return folder_at(root) / f".rethinkgen-{name}.lock"


@contextmanager
def _alone(lock: Path, what: str) -> Iterator[None]:
    """Let one process at a time do what all the jobs of a sweep that begin together would do, and do once.

    Where no lock can be had (the folder cannot be written to, the file system knows none), go on without.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(files.lock(lock, on_wait=partial(_tell_waiting, lock, what), remove=True))
        except (OSError, DamagedFileError) as error:
            _log.debug("No lock %s (%s): other processes may do the same work.", lock, error)
        yield


def _wait_for_others(lock: Path, what: str) -> bool:
    """Return once nobody is ``_alone`` with this lock, and whether somebody was."""
    try:
        return files.wait_until_free(lock, on_wait=partial(_tell_waiting, lock, what))
    except (OSError, DamagedFileError) as error:
        _log.debug("No lock %s (%s): other processes may do the same work.", lock, error)
        return False


def _tell_waiting(lock: Path, what: str) -> None:
    _log.info("Waiting for another process that %s (%s)", what, lock)


@contextmanager
def _impatient_sockets(seconds: float = 30.0) -> Iterator[None]:
    """Let network reads that say no time limit end after ``seconds`` of silence."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(seconds)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


class ImageFolder:
    """Images as files: ``<root>/train/<class>/*`` beside ``<root>/test/<class>/*`` (if there is none,
    ``val``), or ``<root>/<class>/*``, which has no test part; nor need there be one beside ``train``.

    All images have one size, 8 bits a channel, in any format that Pillow reads; classes are sorted by name,
    images by class, then file name. Hidden files are left out. Of an animation the first frame is read, and an
    orientation that a camera noted is left alone, as torchvision does. One channel if every image is grey, else
    three. They are decoded once, by ``num_workers`` processes (default: one a core), and kept as an array in
    ``<root>/.rethinkgen-cache-*.npz``, which follows every change of a name, size or modification time.

    Args:
        root: the folder.
        num_workers: processes that decode; ``None``: one a core.
        parts: which are trained on, see the head of this module.
    """

    def __init__(self, root: str | Path, num_workers: int | None = None, parts: Sequence[str] = TRAIN) -> None:
        self.root = root
        self.num_workers = num_workers
        self.parts = check_parts(parts)
        self._prepared: Images | None = None
        self._names: dict[str, list[str]] = {}
        """Files of the images that were loaded, by split"""

    def prepare(self) -> None:
        """Decode the images and write the cache, so that other processes need not; raise as ``load`` does."""
        self._prepared = self.load()

    def load(self) -> Images:
        """Read both splits.

        Raises ``ValueError`` if a folder is missing or empty, there is only one class, the classes of train
        and test differ, images cannot be read or differ in size, or the test part is asked for and there is none.
        """
        if self._prepared is not None:
            images, self._prepared = self._prepared, None
            return images
        if self.num_workers is not None and (type(self.num_workers) is not int or self.num_workers < 1):
            raise ValueError(
                f"data.source.num_workers={self.num_workers!r}: a whole number of at least 1 is needed, or "
                "null for one process a core."
            )
        listing = list_folder(self.root)
        listed = zip(("train", "test"), listing.of(self.parts), strict=True)
        self._names = {split: [file.name for file in found] for split, found in listed}
        cache = _cache_path(folder_at(self.root), listing)
        found = _read_cache(cache, is_last_word=False)
        if found is None:
            with _alone(_lock_path(self.root, "image_folder"), f"decodes {folder_at(self.root)}"):
                found = _read_cache(cache, is_last_word=True)
                if found is None:
                    found = self._decode(listing)
                    _write_cache(cache, found)
        return self._of_parts(found, listing)

    def _of_parts(self, images: Images, listing: Listing) -> Images:
        train, test = images.train, images.test
        if test is not None and self.parts != TRAIN:
            # Beside training images of the same names, keys of their own.
            test = replace(test, keys=labelled(listing.test, listing.class_names, by_part=True).keys)
        train, test = of_parts(train, test, self.parts, joined)
        return Images(train, test, images.class_names)

    def fingerprint(self) -> str | None:
        """Hash all relative paths and sizes, and the beginnings of up to 64 files.

        ``None`` if a folder is missing. No other file is opened: 60,000 images take a third of a second.
        """
        try:
            listing = list_folder(self.root, check=False)
        except FileNotFoundError:
            return None
        return f"image_folder-{digest([*listing.train, *listing.test])}"

    def num_train(self) -> int | None:
        """Return how many training images there are; ``None`` if a folder is missing."""
        try:
            return len(list_folder(self.root, check=False).of(self.parts)[0])
        except (FileNotFoundError, ValueError):
            return None

    def name_of(self, split: str, position: int) -> str:
        """Return the file of an image that was loaded, below the root."""
        return self._names[split][position]

    def _decode(self, listing: Listing) -> Images:
        from rethinkgen.data.decoding import decode

        files = [*listing.train, *listing.test]
        with _progress_bar(f"Decoding {folder_at(self.root)}", len(files)) as advance:
            pixels = decode(
                [file.path for file in files],
                self.num_workers,
                advance=advance,
                where=f"data.root={str(self.root)!r}",
                names=[file.name for file in files],
            )
        num_train, names = len(listing.train), listing.class_names
        train = Examples(pixels[:num_train], *labelled(listing.train, names))
        test = Examples(pixels[num_train:], *labelled(listing.test, names)) if listing.test else None
        return Images(train, test, names)


@contextmanager
def _progress_bar(title: str, total: int) -> Iterator[Any]:
    """Show a bar on a terminal, nothing elsewhere; gives a function to call with how many more are done."""
    from rich.progress import Progress

    from rethinkgen.console import stderr

    with Progress(console=stderr(), disable=not sys.stderr.isatty(), transient=True) as progress:
        task = progress.add_task(title, total=total)
        yield lambda count: progress.advance(task, count)


def _cache_path(folder: Path, listing: Listing) -> Path:
    """Name the cache by all that would change with the images, modification times included.

    Those do not enter the fingerprint (a copy has its own), but they show an edit that leaves all sizes as
    they were.
    """
    state = hashlib.sha256(b"2\n")  # the version of the cache: 2 holds no image of more than 8 bits
    for file in (*listing.train, *listing.test):
        state.update(os.fsencode(f"{file.name}\0{file.size}\0{file.modified}\n"))
    return folder / f".rethinkgen-cache-{state.hexdigest()[:12]}.npz"


def _read_cache(cache: Path, *, is_last_word: bool) -> Images | None:
    if not cache.exists():
        return None
    try:
        # numpy checks the CRC of each array; a file that it opens itself and cannot use stays open.
        with cache.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            train, test = (
                Examples(*(stored[f"{split}_{part}"] for part in ("images", "labels", "keys")))
                if f"{split}_images" in stored.files
                else None
                for split in ("train", "test")
            )
            assert train is not None
            return Images(train, test, tuple(map(str, stored["class_names"])))
    except Exception as error:  # whatever is wrong with it, the images are still there
        if is_last_word:
            _log.warning("%s is damaged (%s): decoding the images again.", cache, str(error) or type(error).__name__)
        return None


def _write_cache(cache: Path, images: Images) -> None:
    """Write whole or not at all, and remove the caches of earlier states of the folder."""
    arrays: dict[str, Any] = {"class_names": np.array(images.class_names)}
    for split, examples in (("train", images.train), ("test", images.test)):
        if examples is not None:
            arrays |= {f"{split}_{part}": getattr(examples, part) for part in ("images", "labels", "keys")}
    try:
        with files.atomic_writer(cache) as file:
            np.savez(file, allow_pickle=False, **arrays)
        for old in cache.parent.glob(".rethinkgen-cache-*.npz"):
            if old != cache:
                old.unlink(missing_ok=True)
    except OSError as error:
        _log.warning("No cache of the decoded images in %s (%s): the next run decodes them again.", cache.parent, error)
