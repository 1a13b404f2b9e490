"""Files in MNIST's format (IDX), unpacked or as ``.gz``.

Two zero bytes, the type of the values, the number of dimensions, each dimension in four bytes, big end first; then the
values. Nothing here imports torch: a finished run is skipped without it.
"""

from __future__ import annotations

import gzip
import math
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rethinkgen.data import image_listing
from rethinkgen.data.image_listing import File
from rethinkgen.errors import UnsuitableFileError

_UNSIGNED_BYTES = 8
_GZIP = b"\x1f\x8b"
_DISGUISES = {
    _GZIP: "gzip-compressed under the name of an unpacked file: rename it to {name}.gz, which is read as it is",
    b"PK": "a zip archive under the name of what should be in it: unpack it",
    b"\0\0": "not compressed, as its name says: take .gz off its name",
}


def read(path: Path, num_dimensions: int) -> NDArray[np.uint8]:
    """Read unsigned bytes of so many dimensions: images have 3, labels 1.

    Raises:
        UnsuitableFileError: the file is something else than its name says.
        ValueError: it is cut short or damaged.
        OSError: it cannot be read.
    """
    _refuse_disguise(path)
    try:
        content = _unpacked(path.read_bytes()) if _is_packed(path) else np.fromfile(path, np.uint8)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise ValueError(f"{path.name} cannot be unpacked: {error}") from error
    shape = stated_shape(content[: 4 + 4 * 255].tobytes())
    if shape is None:
        raise ValueError(f"{path.name} does not begin as a file of this format does")
    if content[2] != _UNSIGNED_BYTES:
        raise UnsuitableFileError(f"{path.name} holds values of type {content[2]:#04x}: bytes (0x08) are needed.")
    if len(shape) != num_dimensions:
        raise UnsuitableFileError(
            f"{path.name} holds numbers in {len(shape)} dimensions, {num_dimensions} are needed: images have 3, labels "
            "1. Are the files of images and labels swapped?"
        )
    values = content[4 + 4 * len(shape) :]
    if len(values) != math.prod(shape):
        raise ValueError(f"{path.name} has {len(values):,} of the {math.prod(shape):,} values that its header states")
    return values.reshape(shape)


def stated_shape(beginning: bytes) -> tuple[int, ...] | None:
    """Return the dimensions that a header states; ``None`` where ``beginning`` is none."""
    if len(beginning) < 4 or beginning[:2] != b"\0\0":
        return None
    num_dimensions = beginning[3]
    if num_dimensions == 0 or len(beginning) < 4 + 4 * num_dimensions:
        return None
    return tuple(np.frombuffer(beginning, ">u4", num_dimensions, offset=4).tolist())


def shape_of(path: Path) -> tuple[int, ...] | None:
    """Return the dimensions of a file whose size is what its header states, packed or not; ``None`` of any other.

    A packed one ends with the size of what is in it, so this opens no more than its two ends.
    """
    shape = stated_shape(head(path, 4 + 4 * 255))
    return shape if shape and _size(path) == 4 + 4 * len(shape) + math.prod(shape) else None


def describe(path: Path) -> File:
    """Look at what is in a file that must be there: packed or not, its name and size are those unpacked."""
    status = path.stat()
    return File(path.name.removesuffix(".gz"), str(path), _size(path), status.st_mtime_ns)


def head(path: str | Path, num_bytes: int) -> bytes:
    """Read the beginning of what is in a file; nothing of one that cannot be read."""
    path = Path(path)
    if not _is_packed(path):
        return image_listing.head(path, num_bytes)
    try:
        with path.open("rb") as file:
            return zlib.decompressobj(wbits=31).decompress(file.read(num_bytes + 1024), num_bytes)
    except (OSError, zlib.error):
        return b""


def is_gzip(path: Path) -> bool:
    """Whether a file begins as a compressed one."""
    return image_listing.head(path, 2) == _GZIP


def _is_packed(path: Path) -> bool:
    return path.suffix == ".gz"


def _unpacked(content: bytes) -> NDArray[np.uint8]:
    return np.frombuffer(bytearray(gzip.decompress(content)), np.uint8)


def _size(path: Path) -> int:
    """Return the size of what is in a file; of a packed one modulo 2^32."""
    if not _is_packed(path):
        return path.stat().st_size
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 4))
        return int.from_bytes(file.read(4), "little")


def _refuse_disguise(path: Path) -> None:
    begins = image_listing.head(path, 4)
    for magic, words in _DISGUISES.items():
        is_right = magic == (_GZIP if _is_packed(path) else b"\0\0")
        if begins.startswith(magic) and not is_right:
            raise UnsuitableFileError(f"{path.name} is {words.format(name=path.name)}.")
