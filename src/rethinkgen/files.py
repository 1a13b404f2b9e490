"""Files that are whole or not there, and locks between processes: the only writer and the only lock of this package.

Standard library only. numpy and torch write into the file that ``atomic_writer`` gives.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import math
import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, BinaryIO

from rethinkgen.errors import LockIsHeldError

POLL_SECONDS = 0.02
"""Between two attempts to take a lock that is not waited for without end."""


@contextlib.contextmanager
def atomic_writer(path: Path, *, durable: bool = True, keep_previous_as: Path | None = None) -> Iterator[BinaryIO]:
    """Give a file that takes the place of ``path`` at the end, so that readers see the old content or the new one.

    Whatever ends the writing before, the old file stays; only a kill leaves an unfinished one beside it.

    Args:
        path: what is to be written, in a folder that is there.
        durable: the content also outlasts a power cut.
        keep_previous_as: where what was at ``path`` goes; at any moment one of the two is whole.

    Raises:
        OSError: there is no room, or the folder cannot be written. It names ``path``.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}-{os.urandom(4).hex()}.tmp")
    try:
        with _naming(path, beside):
            with beside.open("xb") as file:
                yield file
                file.flush()
                if durable:
                    os.fsync(file.fileno())
            if keep_previous_as is not None and path.exists():
                path.replace(keep_previous_as)
            beside.replace(path)
            if durable:
                _sync_folder(path.parent)
    finally:
        # What ended the writing says more than why this fails too, as on a disk that can only be read.
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)


def write_atomically(path: Path, content: str | bytes, *, durable: bool = True) -> None:
    """Write ``content`` through ``atomic_writer``."""
    with atomic_writer(path, durable=durable) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def remove_leftovers(folder: Path) -> None:
    """Remove what killed writers left in ``folder``; for who knows that nobody else is writing there."""
    for beside in folder.glob(".*.tmp"):
        beside.unlink(missing_ok=True)


@contextlib.contextmanager
def _naming(path: Path, beside: Path) -> Iterator[None]:
    """Have an error of the system that is about ``beside``, or about no file, name ``path``."""
    try:
        yield
    except (OSError, RuntimeError) as error:
        # On a full disk torch fails again while it closes its archive, and hides the reason behind that.
        reason = error if isinstance(error, OSError) else error.__context__
        if not isinstance(reason, OSError) or reason.errno is None or _is_about_another(reason, beside):
            raise
        raise OSError(reason.errno, reason.strerror, str(path)) from None


def _is_about_another(error: OSError, path: Path) -> bool:
    return error.filename is not None and str(error.filename) != str(path)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    except OSError as error:
        # Some file systems cannot sync a folder; the file itself is safe.
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def lock(
    path: Path,
    *,
    patience: float = math.inf,
    on_wait: Callable[[], None] | None = None,
    remove: bool = False,
) -> Iterator[None]:
    """Hold a file against other processes on any host; the system lets go of it when this process dies.

    Args:
        path: the file, which is made, with its folder, where it is missing.
        patience: seconds to wait for another process; 0 asks once.
        on_wait: called once, where another process is waited for.
        remove: take the file away in the end; those who wait then make it anew.

    Raises:
        LockIsHeldError: another process still has it.
        OSError: no lock can be had: the folder cannot be written, or its file system knows none.
    """
    give_up_at = time.monotonic() + patience
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a") as file:
            try:
                if not _try(file, fcntl.LOCK_EX):
                    if on_wait is not None:
                        on_wait()
                        on_wait = None
                    _take(file, fcntl.LOCK_EX, give_up_at)
                is_taken = _is_at(path, file)
            except OSError:
                if remove:
                    _remove(path)
                raise
            # Who held it may have removed the file between our opening and locking it.
            if is_taken:
                try:
                    yield
                finally:
                    if remove:
                        _remove(path)
                return


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock at this moment; for an instant, this keeps others from taking it."""
    try:
        with path.open() as file:
            return not _try(file, fcntl.LOCK_SH)
    except (FileNotFoundError, NotADirectoryError):
        return False


def wait_until_free(path: Path, *, on_wait: Callable[[], None] | None = None) -> bool:
    """Return once nobody holds the lock, and whether somebody did.

    Raises:
        OSError: the file cannot be read, or its file system knows no locks.
    """
    try:
        file = path.open()
    except (FileNotFoundError, NotADirectoryError):
        return False
    with file:
        if _try(file, fcntl.LOCK_SH):
            return False
        if on_wait is not None:
            on_wait()
        _take(file, fcntl.LOCK_SH, math.inf)
    return True


def _take(file: IO[str], kind: int, give_up_at: float) -> None:
    if give_up_at == math.inf:
        fcntl.flock(file, kind)
        return
    while not _try(file, kind):
        if time.monotonic() >= give_up_at:
            raise LockIsHeldError(f"another process holds {file.name}")
        time.sleep(POLL_SECONDS)


def _try(file: IO[str], kind: int) -> bool:
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(path: Path, file: IO[str]) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _remove(path: Path) -> None:
    # It hinders nobody where it stays.
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
