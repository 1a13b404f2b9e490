"""Files that a disk may have damaged, or somebody else written: read within bounds, and named where they are no good.

What this package reads from the folder of a run or of a sweep it reads here. Only a regular file is read, however it is
called: a FIFO would never answer, and a link leads out of the folder. Size, depth and number of nodes are bounded, and
nothing but plain types comes of a file.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import stat
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

import yaml

from rethinkgen.errors import DamagedFileError

MOST_BYTES = 2**22
"""Of JSON and YAML; ours have some kilobytes."""
MOST_BYTES_OF_TABLE = 2**28
"""Of what has a line for each step or each run: a million steps take half of it."""
MOST_DEPTH = 50
MOST_NODES = 100_000
_Loader: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def open_regular(path: Path) -> BinaryIO | None:
    """Open a file to be read, or return nothing where there is none.

    Raises:
        DamagedFileError: it is no regular file, or cannot be opened.
    """
    try:
        # Without O_NONBLOCK, opening a FIFO waits for somebody to write into it.
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise DamagedFileError(f"{path} cannot be read ({_reason(error)}).") from error
    if not stat.S_ISREG(mode := os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise DamagedFileError(
            f"{path} cannot be read (it is {'a folder' if stat.S_ISDIR(mode) else 'no regular file'})."
        )
    return os.fdopen(descriptor, "rb")


@contextlib.contextmanager
def telling_of_archive(path: Path) -> Iterator[None]:
    """Read columns of a zipped archive within.

    Raises:
        DamagedFileError: what ``zipfile`` and NumPy say of one that was damaged, or is none.
    """
    try:
        yield
    except (zipfile.BadZipFile, KeyError, ValueError, OSError, EOFError, NotImplementedError, zlib.error) as error:
        raise DamagedFileError(f"{path} is damaged ({' '.join(str(error).split())}).") from error


@contextlib.contextmanager
def opened_arrays(path: Path) -> Iterator[Any]:
    """Give the arrays of an ``.npz``, each read when it is asked for; nothing where there is no file.

    Raises:
        DamagedFileError: it was damaged, also where that shows as an array is asked for.
    """
    import numpy as np

    file = open_regular(path)
    if file is None:
        yield None
        return
    with telling_of_archive(path), file, np.load(file, allow_pickle=False) as stored:
        yield stored


def read_bytes(path: Path, most: int = MOST_BYTES) -> bytes | None:
    """Return a file's content, or nothing where there is none.

    Raises:
        DamagedFileError: it is no regular file, has more than ``most`` bytes, or cannot be read.
    """
    file = open_regular(path)
    if file is None:
        return None
    with file, _bounded(file, path, most):
        return file.read(most)


@contextlib.contextmanager
def _bounded(file: BinaryIO, path: Path, most: int) -> Iterator[None]:
    """Read ``file`` within.

    Raises:
        DamagedFileError: it has more than ``most`` bytes, or cannot be read.
    """
    size = os.fstat(file.fileno()).st_size
    if size > most:
        raise DamagedFileError(f"{path} cannot be read (its {size:,} bytes are more than {most:,}).")
    try:
        yield
    except OSError as error:
        raise DamagedFileError(f"{path} cannot be read ({_reason(error)}).") from error


def _reason(error: OSError) -> str:
    return "it is a link" if error.errno == errno.ELOOP else str(error.strerror)


def read_text(path: Path, most: int = MOST_BYTES) -> str | None:
    """Return a file's content as text, or nothing where there is none.

    Raises:
        DamagedFileError: as ``read_bytes``, or it is no UTF-8.
    """
    content = read_bytes(path, most)
    try:
        return None if content is None else content.decode()
    except UnicodeDecodeError as error:
        raise DamagedFileError(f"{path} is damaged ({error}).") from error


def read_lines(path: Path, most: int = MOST_BYTES_OF_TABLE) -> list[bytes]:
    """Return a file's lines, which a damaged one keeps to itself; none where there is no file.

    Raises:
        DamagedFileError: as ``read_bytes``.
    """
    return (read_bytes(path, most) or b"").splitlines()


def each_line(path: Path, most: int = MOST_BYTES_OF_TABLE) -> Iterator[bytes]:
    """Yield what ``read_lines`` returns, of which only one is in memory at a time.

    Raises:
        DamagedFileError: as ``read_bytes``.
    """
    file = open_regular(path)
    if file is None:
        return
    with file, _bounded(file, path, most):
        yield from (line.rstrip(b"\r\n") for line in file)


def read_json(path: Path) -> dict[str, Any] | None:
    """Return the JSON object in a file, or nothing where there is no file.

    Raises:
        DamagedFileError: as ``read_bytes``, or it holds something else.
    """
    content = read_bytes(path)
    try:
        return None if content is None else parse_json(content)
    except ValueError as error:
        raise DamagedFileError(f"{path} is damaged ({error}).") from error


def parse_json(content: bytes) -> dict[str, Any]:
    """Return the JSON object in ``content``.

    Raises:
        ValueError: it is none, is nested too deep, or has a text that no file can hold.
    """
    try:
        found = json.loads(content)
    except RecursionError:
        raise ValueError("it is nested too deep") from None
    if not isinstance(found, dict):
        raise ValueError("no object in it")
    # Whoever has fewer brackets than that is not nested deeper.
    if content.count(b"{") + content.count(b"[") > MOST_DEPTH:
        _check_depth(found)
    if b"\\u" in content:
        json.dumps(found, ensure_ascii=False).encode()  # half a character in an escape is no text
    return found


def _check_depth(content: Any) -> None:
    level, depth = [content], 0
    while level:
        depth += 1
        if depth > MOST_DEPTH:
            raise ValueError("it is nested too deep")
        below = (list(node.values()) if isinstance(node, dict) else node for node in level)
        level = [child for children in below for child in children if isinstance(child, dict | list)]


def read_yaml(path: Path) -> dict[str, Any] | None:
    """Return the keys and values in a YAML file, as JSON has them; nothing where there is no file.

    Raises:
        DamagedFileError: as ``read_bytes``, or it is no YAML, too much of it, or holds something else.
    """
    content = read_bytes(path)
    if content is None:
        return None
    try:
        _check_events(content)
        found = json.loads(json.dumps(yaml.load(content, _Loader)))
        if not isinstance(found, dict):
            raise ValueError("no keys and values in it")
    except (ValueError, TypeError, yaml.YAMLError) as error:
        raise DamagedFileError(f"{path} is damaged ({' '.join(str(error).split())}).") from error
    return found


def _check_events(content: bytes) -> None:
    """Refuse YAML that would take long to build: a few aliases of aliases are more than any memory holds."""
    depth = 0
    for number, event in enumerate(yaml.parse(content, _Loader)):
        if isinstance(event, yaml.AliasEvent):
            raise ValueError(f"it has an alias, *{event.anchor}")
        depth += isinstance(event, yaml.CollectionStartEvent) - isinstance(event, yaml.CollectionEndEvent)
        if depth > MOST_DEPTH or number > MOST_NODES:
            raise ValueError(f"it is nested deeper than {MOST_DEPTH}, or has more than {MOST_NODES:,} values")
