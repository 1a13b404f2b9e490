"""An image folder too large for memory: its files are listed once, and decoded whenever they are needed.

Neither this module nor asking for a fingerprint imports torch: a finished run is skipped without it.
"""

from __future__ import annotations

import hashlib
import logging
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rethinkgen.checks import check_whole
from rethinkgen.data.image_listing import SPLITS, Listing, digest, folder_at, keys_of, labelled, list_folder, splits_of
from rethinkgen.data.parts import TRAIN, check_parts, joined, of_parts
from rethinkgen.files import atomic_writer
from rethinkgen.words import how_many

_log = logging.getLogger(__name__)

_SETTLED_SECONDS = 2.0
"""A folder changed more lately may change again within the same tick of its clock: such a listing is not kept."""


@dataclass(frozen=True, eq=False)
class Files:
    """One split: ``names`` bytes (N,), paths below the root; ``labels`` int64 (N,); ``keys`` uint64 (N,).

    One array instead of a million objects: worker processes share it, and it costs 40 bytes a file.
    """

    names: NDArray[np.bytes_]
    labels: NDArray[np.int64]
    keys: NDArray[np.uint64]

    def __len__(self) -> int:
        return len(self.labels)


@dataclass(frozen=True, eq=False)
class ImageFiles:
    """A data set whose images stay in their files; what ``Images`` is to those in memory."""

    train: Files
    test: Files | None
    """``None`` where there is none: then all numbers of the test set are ``None`` too."""
    class_names: tuple[str, ...]
    root: str
    resize: int
    """Pixels of the shorter side of every image before it is cropped."""
    num_workers: int | None
    """Processes that decode while training; ``None``: one a core."""


class StreamedFolder:
    """Images as files of any sizes: ``<root>/train/<class>/*`` beside ``<root>/test/<class>/*`` (or ``val``).

    Or without a test part: ``<root>/train/<class>/*`` alone, or ``<root>/<class>/*``.

    Read as ``ImageFolder`` reads them, but three channels always, and each image whenever it is needed. The listing is
    kept in ``<root>/.rethinkgen-listing.npz`` (in ``$XDG_CACHE_HOME/rethinkgen/``, by default ``~/.cache/rethinkgen/``,
    where the root cannot be written), and used as long as the class folders and their modification times are the same:
    files added, removed or renamed are seen. An image changed in place is not: remove the listing then.

    Args:
        root: the folder.
        resize: pixels of the shorter side of every image before it is cropped.
        num_workers: processes that decode while training; ``None``: one a core.
        parts: which are trained on, see the head of ``rethinkgen.data.source``.
    """

    def __init__(
        self, root: str | Path, resize: int = 342, num_workers: int | None = None, parts: Sequence[str] = TRAIN
    ) -> None:
        self.root = root
        self.resize = check_whole("data.source.resize", resize, 1)
        self.num_workers = None if num_workers is None else check_whole("data.source.num_workers", num_workers, 0)
        self.parts = check_parts(parts)
        self._loaded: dict[str, Files] = {}

    def prepare(self) -> None:
        """List the files, so that other processes need not; raise as ``load`` does."""
        self.load()

    def load(self) -> ImageFiles:
        """List the files; no image is opened.

        Raises ``ValueError`` if a folder is missing or empty, there is only one class, the classes of train and test
        differ, files are empty, or the test part is asked for and there is none.
        """
        found = self._kept() or self._list()
        whole, held_out = (
            Files(*(found[f"{split}_{part}"] for part in ("names", "labels", "keys"))) for split in ("train", "test")
        )
        class_names = tuple(map(str, found["class_names"]))
        if self.parts != TRAIN:
            # Beside training images of the same names, keys of their own.
            held_out = replace(held_out, keys=keys_of(held_out.names.tolist()))
        train, test = of_parts(whole, held_out if len(held_out) else None, self.parts, joined)
        self._loaded = {"train": train} if test is None else {"train": train, "test": test}
        return ImageFiles(train, test, class_names, str(folder_at(self.root)), self.resize, self.num_workers)

    def fingerprint(self) -> str | None:
        """Hash all relative paths and sizes, and the beginnings of up to 64 files, as of an ``ImageFolder``.

        ``None`` if a folder is missing. It is kept with the listing.
        """
        if (kept := self._kept("fingerprint")) is not None:
            return str(kept["fingerprint"])
        with suppress(ValueError):  # what is wrong is said by load
            return str(self._list()["fingerprint"])
        try:
            return str(self._list(check=False)["fingerprint"])
        except FileNotFoundError:
            return None

    def num_train(self) -> int | None:
        """Return how many training images there are; ``None`` where no listing of them can be made."""
        with suppress(ValueError):
            found = self._kept("train_labels", "test_labels") or self._list()
            counts = {split: len(found[f"{split}_labels"]) for split in ("train", "test")}
            return sum(counts[part] for part in self.parts)
        return None

    def name_of(self, split: str, position: int) -> str:
        """Return the file of an image that was loaded, below the root."""
        return os.fsdecode(self._loaded[split].names[position])

    def _kept(self, *parts: str) -> dict[str, Any] | None:
        """Return the kept listing, or only these parts of it; ``None`` where there is none of the present state."""
        state = _state(folder_at(self.root))
        if state is None:
            return None
        for path in _listing_paths(folder_at(self.root)):
            try:
                with path.open("rb") as file, np.load(file, allow_pickle=False) as stored:
                    if str(stored["state"]) == state:
                        return {part: stored[part] for part in parts or stored.files}
            except FileNotFoundError:
                continue
            except Exception as error:  # whatever is wrong with it, the files are still there
                _log.warning("%s is damaged (%s): listing the files again.", path, error or type(error).__name__)
        return None

    def _list(self, *, check: bool = True) -> dict[str, Any]:
        state = _state(folder_at(self.root))
        listing = list_folder(self.root, check=check)
        if check:
            _refuse_empty_files(f"data.root={str(self.root)!r}", listing)
        found: dict[str, Any] = {
            "state": np.array(state or ""),
            "fingerprint": np.array(f"image_folder-{digest([*listing.train, *listing.test])}"),
            "class_names": np.array(listing.class_names),
        }
        if check:
            for split, files in (("train", listing.train), ("test", listing.test)):
                found[f"{split}_names"] = np.array([os.fsencode(file.name) for file in files])
                found[f"{split}_labels"], found[f"{split}_keys"] = labelled(files, listing.class_names)
            if state is not None and _is_settled(folder_at(self.root)):
                _keep(folder_at(self.root), found)
        return found


def _class_folders(root: Path) -> Iterator[os.DirEntry[str]]:
    """Yield the folders that a listing looks into, by split and name."""
    found = splits_of(root)
    for split in SPLITS if found != [""] else found:
        with suppress(FileNotFoundError, NotADirectoryError), os.scandir(root / split) as entries:
            yield from sorted((entry for entry in entries if entry.is_dir()), key=lambda entry: entry.name)


def _state(root: Path) -> str | None:
    """Hash what changes when a file is added, removed or renamed; ``None`` if a folder cannot be looked at."""
    state = hashlib.sha256(b"1\n")  # the version of the listing's layout
    try:
        for entry in _class_folders(root):
            state.update(os.fsencode(f"{Path(entry.path).parent.name}/{entry.name}\0{entry.stat().st_mtime_ns}\n"))
    except OSError:
        return None
    return state.hexdigest()


def _is_settled(root: Path) -> bool:
    newest = max((entry.stat().st_mtime for entry in _class_folders(root)), default=0.0)
    return newest < time.time() - _SETTLED_SECONDS


def _listing_paths(root: Path) -> list[Path]:
    """Return where a listing may be kept, the best place first."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "rethinkgen"
    name = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:16]
    return [root / ".rethinkgen-listing.npz", cache / f"listing-{name}.npz"]


def _keep(root: Path, found: dict[str, Any]) -> None:
    """Write the listing whole or not at all, in the first place that can be written."""
    troubles = []
    for path in _listing_paths(root):
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with atomic_writer(path) as file:
                np.savez(file, allow_pickle=False, **found)
            return
        except OSError as error:
            troubles.append(str(error))
    _log.warning("The listing of %s cannot be kept (%s): the next run lists it again.", root, "; ".join(troubles))


def _refuse_empty_files(where: str, listing: Listing) -> None:
    empty = [file.name for file in (*listing.train, *listing.test) if file.size <= 0]
    if empty:
        more = f" and {len(empty) - 5} more" if len(empty) > 5 else ""
        raise ValueError(
            f"{where}: {how_many(len(empty), 'file')} empty or linking to nowhere: {', '.join(empty[:5])}{more}. "
            "Replace or remove them."
        )
