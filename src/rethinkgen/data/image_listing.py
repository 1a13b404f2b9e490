"""What files a data set consists of: the listing of an image folder, and a digest of names, sizes and beginnings.

Nothing here imports torch: a finished run is skipped without it.
"""

from __future__ import annotations

import hashlib
import logging
import operator
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from rethinkgen.data.parts import of_parts
from rethinkgen.words import how_many

_log = logging.getLogger(__name__)

SPLITS = ("train", "test", "val")
"""Folders of an image folder that hold the classes of a part; ``val`` is looked into where there is no ``test``."""


def folder_at(root: str | Path) -> Path:
    """Return the folder that ``data.root`` names; raise ``ValueError`` if it is no path."""
    if not isinstance(root, (str, Path)) or not str(root):
        raise ValueError(f"data.root={root!r}: the path of a folder is needed.")
    return Path(root).expanduser()


class File(NamedTuple):
    """A file as ``digest`` sees it: ``name`` does not depend on where the data set lies."""

    name: str
    path: str
    size: int
    modified: int


def head(path: str | Path, num_bytes: int) -> bytes:
    """Read the beginning of a file; nothing of one that cannot be read."""
    try:
        with open(path, "rb") as file:
            return file.read(num_bytes)
    except OSError:
        return b""


def digest(files: Sequence[File], read_head: Callable[[str, int], bytes] = head) -> str:
    """Hash all names and sizes, and up to 64 KiB of at most 64 evenly spaced files: sha256, 64 hex digits."""
    state = hashlib.sha256()
    for file in files:
        state.update(os.fsencode(f"{file.name}\0{file.size}\n"))
    for position in np.unique(np.linspace(0, len(files) - 1, 64).astype(np.int64)) if files else ():
        state.update(hashlib.sha256(read_head(files[position].path, 1 << 16)).digest())
    return state.hexdigest()


class Listing(NamedTuple):
    """The files of an image folder, ``<split>/<class>/<file>`` or ``<class>/<file>``, in order."""

    train: list[File]
    test: list[File]
    """None where there is no test part."""
    class_names: tuple[str, ...]

    def of(self, parts: Sequence[str]) -> tuple[list[File], list[File]]:
        """Return the files that are trained on and those that are tested on; raise as ``of_parts``."""
        train, test = of_parts(self.train, self.test or None, parts, operator.add)
        return train, test or []


class Labelled(NamedTuple):
    """What the paths of an image folder say of its examples: ``labels`` int64 (N,), ``keys`` uint64 (N,)."""

    labels: NDArray[np.int64]
    keys: NDArray[np.uint64]


def list_folder(root: str | Path, *, check: bool = True) -> Listing:
    """List an image folder without opening a file.

    Without ``check``, raises ``FileNotFoundError`` if a folder is missing; with it, ``ValueError`` for that
    and for every layout that cannot be trained on.
    """
    folder, where = folder_at(root), f"data.root={str(root)!r}"
    found = splits_of(folder)
    if "train" not in found and found != [""]:
        absent = folder / "train" if found else folder
        if not check:
            raise FileNotFoundError(str(absent))
        what = f"no folder {absent}" if found or not folder.is_dir() else f"no folder in {folder}"
        raise ValueError(
            f"{where}: there is {what}. A folder of images has <root>/train/<class>/<image> and "
            "<root>/test/<class>/<image> (or val in place of test); or, without a test part, <root>/<class>/<image>."
        )
    splits = {split: _list_split(folder, split, check) for split in found}
    if check:
        _check_classes(where, folder, splits)
    train, *others = ([file for files in classes.values() for file in files] for classes in splits.values())
    return Listing(train, others[0] if others else [], tuple(splits[found[0]]))


def splits_of(folder: Path) -> list[str]:
    """Return where the classes of an image folder lie: ``train`` and ``test``, or ``val`` if there is no ``test``.

    If there is none of these, but another folder, ``""``: in the folder itself. Else nothing.
    """
    if there := [split for split in SPLITS if (folder / split).is_dir()]:
        return there[:2]
    with suppress(OSError), os.scandir(folder) as entries:
        if any(entry.is_dir() and not entry.name.startswith(".") for entry in entries):
            return [""]
    return []


def labelled(files: Sequence[File], class_names: Sequence[str], *, by_part: bool = False) -> Labelled:
    """Return the labels and keys of files of one split.

    Keys are hashes of ``<class>/<file>``; ``by_part``, of all of the name.
    """
    position = {name: label for label, name in enumerate(class_names)}
    paths = ["/".join(file.name.split("/")[-2:]) for file in files]
    labels = np.array([position[path.split("/", 1)[0]] for path in paths], np.int64)
    named = [file.name for file in files] if by_part else paths
    return Labelled(labels, keys_of([os.fsencode(path) for path in named]))


def keys_of(paths: Sequence[bytes]) -> NDArray[np.uint64]:
    """Return the key of each path."""
    hashes = [hashlib.blake2b(path, digest_size=8).digest() for path in paths]
    return np.frombuffer(b"".join(hashes), "<u8").astype(np.uint64)


def _list_split(folder: Path, split: str, check: bool) -> dict[str, list[File]]:
    """List the images of each class, both sorted by name."""
    with os.scandir(folder / split) as entries:
        names = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    classes: dict[str, list[File]] = {}
    above = f"{split}/" if split else ""
    for name in names:
        with os.scandir(folder / split / name) as entries:
            found = sorted((entry for entry in entries if not _is_clutter(entry.name)), key=lambda entry: entry.name)
        nested = [entry.name for entry in found if entry.is_dir()]
        if nested and check:
            raise ValueError(
                f"data.root={str(folder)!r}: {above}{name} holds {how_many(len(nested), 'folder')} (the first is "
                f"{nested[0]!r}): images lie directly in the folder of their class."
            )
        classes[name] = [_file(entry, f"{above}{name}/{entry.name}") for entry in found if not entry.is_dir()]
    return classes


def _is_clutter(name: str) -> bool:
    """Tell what file managers leave behind."""
    return name.startswith(".") or name in ("Thumbs.db", "desktop.ini")


def _file(entry: os.DirEntry[str], name: str) -> File:
    try:
        status = entry.stat()
    except OSError:  # a link to nowhere: named as unreadable when it is its turn
        return File(name, entry.path, -1, 0)
    return File(name, entry.path, status.st_size, status.st_mtime_ns)


def _loose_files(folder: Path) -> list[str]:
    """Return the names of the files that lie in no folder of a class."""
    with os.scandir(folder) as entries:
        return sorted(entry.name for entry in entries if not entry.is_dir() and not _is_clutter(entry.name))


def _check_classes(where: str, folder: Path, splits: dict[str, dict[str, list[File]]]) -> None:
    for split, classes in splits.items():
        loose = _loose_files(folder / split)
        place, above = split or "it", f"{split}/" if split else ""
        lie = f"{how_many(len(loose), 'file')} directly in {place} (the first is {loose[0]!r})" if loose else ""
        if not classes:
            raise ValueError(
                f"{where}: {lie or f'{place} is empty'}. It needs one folder a class, with its images: "
                f"{above}<class>/*."
            )
        if loose:
            _log.warning("%s: %s, in no folder of a class: left out.", where, lie)
        empty = [name for name, files in classes.items() if not files]
        if empty:
            raise ValueError(f"{where}: no image in {above}{_some(empty)}. Remove empty folders, or fill them.")
    (train, in_train), *others = ((split, set(classes)) for split, classes in splits.items())
    for test, in_test in others:
        if in_train == in_test:
            continue
        only = [
            f"only in {split}: {_some(sorted(names))}"
            for split, names in ((train, in_train - in_test), (test, in_test - in_train))
            if names
        ]
        raise ValueError(f"{where}: the classes of {train} and {test} differ; {'; '.join(only)}. Both need the same.")
    if len(in_train) == 1:
        raise ValueError(f"{where}: there is one class, {_some(sorted(in_train))}; at least two are needed.")


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 5} more" if len(names) > 5 else ""
    return ", ".join(names[:5]) + more
