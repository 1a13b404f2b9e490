"""Images of any sizes, in class folders or listed in a table, whose bad files are left out: somebody's own folder.

Neither making the source nor asking for its fingerprint imports torch.
"""

from __future__ import annotations

import csv
import hashlib
import json
import logging
import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from rethinkgen import files
from rethinkgen.checks import check_whole
from rethinkgen.data.decoding import fitted
from rethinkgen.data.image_listing import File, digest, folder_at, keys_of, list_folder
from rethinkgen.data.parts import TRAIN, check_parts, joined, of_parts
from rethinkgen.data.source import Examples, Images, _progress_bar
from rethinkgen.machine import num_cores
from rethinkgen.words import how_many

_log = logging.getLogger(__name__)

LARGEST_KEPT = 64
"""Pixels a side up to which images of one size are taken as they are; all others are brought to ``FITTED``."""
FITTED = 32
"""Pixels a side of what is trained on, unless asked for otherwise: small networks see enough, and are fast."""
PATHS = ("path", "file", "filename", "image")
LABELS = ("label", "class", "category")
_AT_ONCE = 256


@dataclass(frozen=True)
class Listed:
    """The files of both parts and the label of each."""

    train: list[File]
    test: list[File]
    labels: dict[str, list[int]]
    """By part, ``train`` and ``test``"""
    class_names: tuple[str, ...]


class AnyImages:
    """Images as files of any sizes and kinds: ``<root>/train/<class>/*`` beside ``<root>/test/<class>/*`` (or ``val``),
    ``<root>/<class>/*``, or those that a table lists. Held in memory.

    The whole of each image is stretched or reduced to ``size`` x ``size`` pixels: nothing is cut off. A file that no
    image can be read from is left out and named in ``left_out``; so are, of class folders, folders without an image. An
    ``index`` counts what is left. One channel if every image is grey, else three. What was decoded is kept in
    ``<root>/.rethinkgen-any-*.npz``, where that can be written, and follows every change of a name, size or time.

    Args:
        root: the folder.
        table: a CSV file in it, with the columns ``path`` (below the root) and ``label`` (the name of a class), which
            are trained on, and perhaps ``split``, where ``test`` says that an image is tested on.
        size: pixels a side; ``None``: as they are, if all have one size of at most ``LARGEST_KEPT`` a side, else
            ``FITTED``.
        num_workers: threads that decode; ``None``: one a core.
        parts: which are trained on, see ``rethinkgen.data.source``.
    """

    def __init__(
        self,
        root: str | Path,
        table: str | None = None,
        size: int | None = None,
        num_workers: int | None = None,
        parts: Sequence[str] = TRAIN,
    ) -> None:
        self.root = root
        self.table = table
        self.size = None if size is None else check_whole("data.source.size", size, 1)
        self.num_workers = None if num_workers is None else check_whole("data.source.num_workers", num_workers, 1)
        self.parts = check_parts(parts)
        self.left_out: list[tuple[str, str]] = []
        """(file below the root, why), of what was loaded."""
        self._prepared: Images | None = None
        self._names: dict[str, list[str]] = {}

    def prepare(self) -> None:
        """Decode the images and write the cache, so that other processes need not; raise as ``load`` does."""
        self._prepared = self.load()

    def load(self) -> Images:
        """Read both parts.

        Raises ``ValueError`` if a folder or the table is missing, nothing can be read, or fewer than two classes are
        left.
        """
        if self._prepared is not None:
            images, self._prepared = self._prepared, None
            return images
        listed = self._list()
        cache = self._cache_path(listed)
        found = _read_cache(cache) or self._decoded(listed, cache)
        return self._as_images(listed, found)

    def fingerprint(self) -> str | None:
        """Hash all relative paths and sizes, the beginnings of up to 64 files, and the table.

        ``None`` if a folder is missing. No other file is opened.
        """
        try:
            if self.table is None:
                listing = list_folder(self.root, check=False)
                return f"any_images-{digest([*listing.train, *listing.test])}"
            listed = self._list()
            labels = json.dumps([listed.labels, listed.class_names])
            found = digest([*listed.train, *listed.test])
        except (OSError, ValueError):
            return None
        return f"any_images-{hashlib.sha256((found + labels).encode()).hexdigest()}"

    def name_of(self, split: str, position: int) -> str:
        """Return the file of an image that was loaded, below the root."""
        return self._names[split][position]

    def _list(self) -> Listed:
        return self._listed_by_folder() if self.table is None else self._listed_by_table(self.table)

    def _listed_by_folder(self) -> Listed:
        try:
            listing = list_folder(self.root, check=False)
        except FileNotFoundError:
            listing = list_folder(self.root)  # says what is missing
        if not [*listing.train, *listing.test]:
            list_folder(self.root)  # says what is missing
        names = sorted({_class_of(file) for file in (*listing.train, *listing.test)})
        if len(names) < 2:
            # list_folder says it of all that are there; here one of several may have no image.
            _refuse_one_class(f"data.root={str(self.root)!r}", names)
        place = {name: label for label, name in enumerate(names)}
        parts = {"train": listing.train, "test": listing.test}
        labels = {part: [place[_class_of(file)] for file in found] for part, found in parts.items()}
        return Listed(listing.train, listing.test, labels, tuple(names))

    def _listed_by_table(self, table: str) -> Listed:
        folder, where = folder_at(self.root), f"data.source.table={table}"
        rows = _read_table(where, folder / table)
        names = sorted({label for _, label, _ in rows})
        if len(names) < 2:
            _refuse_one_class(where, names)
        place = {name: label for label, name in enumerate(names)}
        found: dict[str, list[File]] = {"train": [], "test": []}
        labels: dict[str, list[int]] = {"train": [], "test": []}
        for path, label, part in rows:
            found[part].append(_file_at(folder, path))
            labels[part].append(place[label])
        if not found["train"]:
            raise ValueError(f"{where}: every row has split=test, so nothing is left to train on.")
        return Listed(found["train"], found["test"], labels, tuple(names))

    def _decoded(self, listed: Listed, cache: Path) -> dict[str, Any]:
        every = [*listed.train, *listed.test]
        with _progress_bar(f"Decoding {folder_at(self.root)}", len(every)) as advance:
            found = decode_any([file.path for file in every], self.size, self.num_workers, advance)
        if not len(found["places"]):
            first = f": {every[0].name} ({found['reasons'][0]})" if every else ""
            raise ValueError(f"data.root={str(self.root)!r}: no image can be read{first}.")
        try:
            with files.atomic_writer(cache) as file:
                np.savez(file, allow_pickle=False, **found)
            for old in cache.parent.glob(".rethinkgen-any-*.npz"):
                if old != cache:
                    old.unlink(missing_ok=True)
        except OSError as error:
            _log.warning("No cache of the images in %s (%s): the next run decodes them again.", cache.parent, error)
        return found

    def _cache_path(self, listed: Listed) -> Path:
        state = hashlib.sha256(f"1\n{self.size}\n".encode())
        for file in (*listed.train, *listed.test):
            state.update(os.fsencode(f"{file.name}\0{file.size}\0{file.modified}\n"))
        return folder_at(self.root) / f".rethinkgen-any-{state.hexdigest()[:12]}.npz"

    def _as_images(self, listed: Listed, found: dict[str, Any]) -> Images:
        every = [*listed.train, *listed.test]
        self.left_out = [
            (every[place].name, str(reason)) for place, reason in zip(found["bad"], found["reasons"], strict=True)
        ]
        if self.left_out:
            name, reason = self.left_out[0]
            _log.warning(
                "data.root=%s: %s of %s left out, which no image can be read from. The first is %s (%s).",
                self.root,
                how_many(len(self.left_out), "file"),
                f"{len(every):,}",
                name,
                reason,
            )
        labels = np.array([*listed.labels["train"], *listed.labels["test"]], np.int64)[found["places"]]
        is_train = found["places"] < len(listed.train)
        if len(left := np.unique(labels[is_train])) < 2:
            _refuse_one_class(f"data.root={str(self.root)!r}", [listed.class_names[label] for label in left])
        names = [every[place].name for place in found["places"]]
        keys = keys_of([os.fsencode(name) for name in names])
        train, test = (
            Examples(np.ascontiguousarray(found["images"][which]), labels[which], keys[which])
            for which in (is_train, ~is_train)
        )
        own, others = of_parts(train, test if len(test) else None, self.parts, joined)
        of_train = [name for name, own in zip(names, is_train, strict=True) if own]
        of_test = names[len(of_train) :]
        by_part = {"train": of_train, "test": of_test}
        self._names = {"train": [name for part in self.parts for name in by_part[part]], "test": of_test}
        return Images(own, others, listed.class_names)


def decode_any(
    paths: Sequence[str],
    size: int | None,
    num_workers: int | None = None,
    advance: Callable[[int], None] = lambda count: None,
) -> dict[str, NDArray[Any]]:
    """Read image files, each stretched or reduced to ``size``: see ``AnyImages``.

    Returns ``images`` uint8 (n, C, size, size) of those that can be read, ``places`` int64 (n,) of these in ``paths``,
    and ``bad`` int64 (m,) and ``reasons`` (m,) of the others.
    """
    with ThreadPoolExecutor(num_workers or num_cores()) as pool:
        shapes = list(pool.map(_size_of, paths))
        known = {shape for shape in shapes if not isinstance(shape, str)}
        shape = next(iter(known)) if len(known) == 1 else (FITTED, FITTED)
        if size is not None or max(shape) > LARGEST_KEPT:
            shape = (size or FITTED,) * 2
        images: NDArray[np.uint8] | None = None
        places: list[int] = []
        reasons: dict[int, str] = {}
        for start in range(0, len(paths), _AT_ONCE):
            part = range(start, min(start + _AT_ONCE, len(paths)))
            for place, pixels in zip(part, pool.map(lambda at: _read(paths[at], shapes[at], shape), part), strict=True):
                if isinstance(pixels, str):
                    reasons[place] = pixels
                    continue
                colours = pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
                if images is None:
                    images = np.empty((len(paths), 1, shape[1], shape[0]), np.uint8)
                if len(colours) > images.shape[1]:  # grey until now
                    images = np.repeat(images, 3, axis=1)
                images[len(places)] = colours
                places.append(place)
            advance(len(part))
    return {
        "images": np.empty((0, 1, 1, 1), np.uint8) if images is None else images[: len(places)],
        "places": np.array(places, np.int64),
        "bad": np.array(list(reasons), np.int64),
        "reasons": np.array(list(reasons.values()), np.str_),
    }


def _size_of(path: str) -> tuple[int, int] | str:
    """Read the head of a file: (width, height), or why it cannot be read."""
    try:
        with Image.open(path) as image:
            return image.size
    except Exception as error:  # Pillow's readers raise nearly everything on a damaged file
        return _reason(path, error)


def _read(path: str, size: tuple[int, int] | str, shape: tuple[int, int]) -> NDArray[np.uint8] | str:
    if isinstance(size, str):
        return size
    try:
        return fitted(path, shape)
    except Exception as error:
        return _reason(path, error)


def _reason(path: str, error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "there is no such file"
    text = "it is no image" if type(error).__name__ == "UnidentifiedImageError" else str(error) or type(error).__name__
    return " ".join(text.replace(path, "the file").split())


def _read_cache(cache: Path) -> dict[str, Any] | None:
    try:
        with cache.open("rb") as file, np.load(file, allow_pickle=False) as stored:
            return {name: stored[name] for name in ("images", "places", "bad", "reasons")}
    except FileNotFoundError:
        return None
    except Exception as error:  # whatever is wrong with it, the images are still there
        _log.warning("%s is damaged (%s): decoding the images again.", cache, str(error) or type(error).__name__)
        return None


def _class_of(file: File) -> str:
    return file.name.split("/")[-2]


def _file_at(folder: Path, path: str) -> File:
    at = folder / path
    try:
        status = at.stat()
    except (OSError, ValueError):  # named as unreadable when it is its turn
        return File(path, str(at), -1, 0)
    return File(path, str(at), status.st_size, status.st_mtime_ns)


def _read_table(where: str, path: Path) -> list[tuple[str, str, str]]:
    """Return (path, label, part) of each row.

    Raises:
        ValueError: it cannot be read, has no such columns, or a row lacks a path or a label.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{where}: the file cannot be read as UTF-8 text ({error}).") from error
    first = text.partition("\n")[0]
    reader = csv.DictReader(text.splitlines(), delimiter=";" if ";" in first and "," not in first else ",")
    header = {str(name).strip().lower(): str(name) for name in reader.fieldnames or ()}
    columns = [next((header[name] for name in names if name in header), None) for names in (PATHS, LABELS)]
    if None in columns:
        there = ", ".join(header) or "none"
        raise ValueError(f"{where}: its columns are {there}. One called path and one called label are needed.")
    split = header.get("split")
    rows: list[tuple[str, str, str]] = []
    seen: dict[str, int] = {}
    for row in reader:
        name, label = ((row[str(column)] or "").strip() for column in columns)
        if not name and not label:
            continue
        if not name or not label:
            raise ValueError(f"{where}, line {reader.line_num}: path={name!r}, label={label!r}: both are needed.")
        if name in seen:
            raise ValueError(f"{where}, line {reader.line_num}: path={name!r} stands in line {seen[name]} already.")
        seen[name] = reader.line_num
        is_test = split is not None and (row[split] or "").strip().lower() in ("test", "val", "validation")
        rows.append((name, label, "test" if is_test else "train"))
    if not rows:
        raise ValueError(f"{where}: it has no row.")
    return rows


def _refuse_one_class(where: str, names: Sequence[str]) -> None:
    what = f"there is one class with images, {names[0]}" if names else "no class has an image"
    raise ValueError(f"{where}: {what}; at least two are needed.")
