"""Files that are whole or not there, and locks between processes: the only writer and the only lock of this package.

Standard library only. numpy and torch write into the file that ``atomic_writer`` gives.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import math
import os
import stat
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO

from rethinkgen.errors import DamagedFileError, LockIsHeldError
from rethinkgen.ownership import held, is_taken, let_go, take

POLL_SECONDS = 0.02
"""Between two attempts to take a lock that is not waited for without end."""
FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""What a spreadsheet takes for the beginning of a formula."""
ODD = "backslashreplace"
"""What becomes of a file's name that is in no encoding: a text file stays UTF-8."""
WITHOUT_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""What a file system says that knows no locks."""


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
        file.write(content.encode("utf-8", ODD) if isinstance(content, str) else content)


def in_utf8(value: Any) -> Any:
    """Return plain types with the texts that ``write_atomically`` would write.

    A file's name in no encoding is half a character here and there in Python, which no reader of JSON or YAML takes.
    """
    if isinstance(value, str):
        return value.encode("utf-8", ODD).decode()
    if isinstance(value, dict):
        return {in_utf8(key): in_utf8(each) for key, each in value.items()}
    return [in_utf8(each) for each in value] if isinstance(value, list | tuple) else value


def append_line(path: Path, line: str, *, create: bool = True) -> None:
    """Add a line to a file in one write, on a line of its own where something cut the last one short.

    Raises:
        DamagedFileError: what lies there is a link or no regular file.
        OSError: there is no room, the folder cannot be written, or nothing lies there, without ``create``.
    """
    # Whoever opens a FIFO may wait for ever, and a link leads out of the folder.
    flags = os.O_RDWR | os.O_APPEND | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | (os.O_CREAT if create else 0)
    try:
        descriptor = os.open(path, flags, 0o666)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise
        raise DamagedFileError(f"{path} cannot be added to: it is no regular file.") from error
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise DamagedFileError(f"{path} cannot be added to: it is no regular file.")
        is_torn = status.st_size > 0 and os.pread(descriptor, 1, status.st_size - 1) != b"\n"
        content = (b"\n" if is_torn else b"") + f"{line}\n".encode("utf-8", ODD)
        with _naming(path, path):
            if os.write(descriptor, content) < len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    finally:
        os.close(descriptor)


def csv_cell(value: Any) -> Any:
    """Return a value as a CSV file may have it: a text that a spreadsheet would run as a formula gets a quote before.

    The names of choices and keys are the user's, or of whoever made the runs. A text that is a number stays one.
    """
    if not isinstance(value, str) or not value.startswith(FORMULA):
        return value
    try:
        float(value)
    except ValueError:
        return f"'{value}"
    return value


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
        # On a full disk torch fails again while it closes its archive, and hides the reason behind that; or a signal.
        if error.__context__ is not None and not isinstance(error.__context__, Exception):
            raise error.__context__ from None
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

    Where the file system knows no locks, a file beside says who has it: see ``rethinkgen.ownership``.

    Args:
        path: the file, which is made, with its folder, where it is missing.
        patience: seconds to wait for another process; 0 asks once.
        on_wait: called once, where another process is waited for.
        remove: take the file away in the end; those who wait then make it anew.

    Raises:
        LockIsHeldError: another process still has it.
        DamagedFileError: what lies there is a link or no regular file.
        OSError: the folder cannot be written.
    """
    give_up_at = time.monotonic() + patience
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with _open_lock(path, os.O_RDWR | os.O_CREAT) as file:
            if not _try(path, file, fcntl.LOCK_EX):
                if on_wait is not None:
                    on_wait()
                    on_wait = None
                _take(path, file, fcntl.LOCK_EX, give_up_at)
            try:
                # Who held it may have removed the file between our opening and locking it.
                if _is_at(path, file):
                    yield
                    return
            finally:
                let_go(_owner_file(path))
                if remove and _is_at(path, file):
                    _remove(path)


def is_locked(path: Path) -> bool:
    """Whether a process holds the lock at this moment; for an instant, this keeps others from taking it."""
    try:
        with _open_lock(path) as file:
            return not _try(path, file, fcntl.LOCK_SH)
    except (FileNotFoundError, NotADirectoryError):
        return is_taken(_owner_file(path))
    except DamagedFileError:
        return False  # nobody can hold it


def wait_until_free(path: Path, *, on_wait: Callable[[], None] | None = None) -> bool:
    """Return once nobody holds the lock, and whether somebody did.

    Raises:
        OSError: the file cannot be read.
    """
    try:
        file = _open_lock(path)
    except (FileNotFoundError, NotADirectoryError):
        return False
    with file:
        if _try(path, file, fcntl.LOCK_SH):
            return False
        if on_wait is not None:
            on_wait()
        _take(path, file, fcntl.LOCK_SH, math.inf)
    return True


def _open_lock(path: Path, flags: int = os.O_RDONLY) -> IO[Any]:
    try:
        descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno not in (errno.ELOOP, errno.EISDIR, errno.ENXIO):
            raise
        raise DamagedFileError(f"{path} is no lock: it is no regular file.") from error
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise DamagedFileError(f"{path} is no lock: it is no regular file.")
    return os.fdopen(descriptor, "rb", buffering=0)


def _owner_file(path: Path) -> Path:
    return path.with_name(f"{path.name}.owner")


def _take(path: Path, file: IO[Any], kind: int, give_up_at: float) -> None:
    if give_up_at == math.inf:
        with _without_locks():
            fcntl.flock(file, kind)
    while not _try(path, file, kind):
        if time.monotonic() >= give_up_at:
            owner = _owner_file(path)
            raise held(owner) if is_taken(owner) else LockIsHeldError(f"another process holds {path}")
        time.sleep(POLL_SECONDS)


def _try(path: Path, file: IO[Any], kind: int) -> bool:
    owner = _owner_file(path)
    try:
        fcntl.flock(file, kind | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise
        return take(owner) if kind == fcntl.LOCK_EX else not is_taken(owner)
    # Of a process that could not have the system's lock, as where its host has no lock daemon.
    return not is_taken(owner)


@contextlib.contextmanager
def _without_locks() -> Iterator[None]:
    """Have it be no error that the file system knows no locks."""
    try:
        yield
    except OSError as error:
        if error.errno not in WITHOUT_LOCKS:
            raise


def _is_at(path: Path, file: IO[Any]) -> bool:
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _remove(path: Path) -> None:
    # It hinders nobody where it stays.
    with contextlib.suppress(OSError):
        path.unlink(missing_ok=True)
