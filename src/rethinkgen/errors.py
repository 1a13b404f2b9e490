"""Every error of this package, what its message is worth, and the exit code that it ends a process with.

Standard library only: each module may import it, and no error is known by its name for want of its class.
"""

from __future__ import annotations

import errno
import os
import signal
import sys
from pathlib import Path

HELD = 75
"""Exit code of a job whose run another process trains (``EX_TEMPFAIL``)."""
UNTOLD = 74
"""Exit code of a job that cannot write down why it ended, and has nobody else to tell (``EX_IOERR``)."""
GO_ON = "the same command goes on from the last checkpoint."
USERS_MISTAKE = 2
"""Exit code of a command other than ``train.py`` that cannot be met as it was typed."""


class RethinkgenError(Exception):
    """What this package raises where its message says all: no traceback is needed."""

    exit_code = 1


class TrainingDivergedError(RethinkgenError, RuntimeError):
    """The training loss is no longer a finite number."""


class UnsolvableError(RethinkgenError, RuntimeError):
    """The system has no solution that can be found with the numbers at hand; the message says what to do."""


class UnreadableImageError(RethinkgenError, ValueError):
    """A file cannot be decoded; the message names it and says what to do."""


class UnsuitableFileError(RethinkgenError, ValueError):
    """A file of a data set is whole, but not what its name says; the message names it and says what to do."""


class WorkersFailedError(RethinkgenError, RuntimeError):
    """Processes that decode images died or cannot be started."""


class RankDiedError(RethinkgenError, RuntimeError):
    """A follower ended before the training did."""


class ReplayDiffersError(RethinkgenError, RuntimeError):
    """A replayed training does not give the numbers that the run's own rows tell."""


class JobFailedError(RethinkgenError, RuntimeError):
    """A job ended without a result; its folder says why."""


class SlurmError(RethinkgenError, ValueError):
    """SLURM cannot be asked, or refuses what it is given."""


class PublishingError(RethinkgenError, RuntimeError):
    """W&B did not take the report."""


class RunFolderError(RethinkgenError, RuntimeError):
    """The folder cannot be used for this run."""


class DamagedFileError(RunFolderError):
    """A file in the folder of a run or of a sweep is not what it should be; the message names it and says why."""


class RunIsHeldError(RunFolderError):
    """Another process trains this run right now. Where a sweep started it, the job ends with ``HELD``."""


class LockIsHeldError(RethinkgenError):
    """Another process has the lock. Whoever asked for it says what that means.

    ``advice``: what to do where nobody can tell whether that process still is.
    """

    def __init__(self, message: str, *, advice: str = "") -> None:
        super().__init__(message)
        self.advice = advice


class StoppedError(RethinkgenError):
    """A signal stopped the sweep."""

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number
        self.exit_code = 128 + number

    def __reduce__(self) -> tuple[type[StoppedError], tuple[int]]:
        return type(self), (self.number,)


class Interrupted(BaseException):
    """A signal ended the training; the same command goes on.

    No ``Exception``: nothing that forgives errors, such as a logger, may take it for one.
    """

    def __init__(self, number: int) -> None:
        super().__init__(signal.Signals(number).name)
        self.number = number
        self.exit_code = 128 + number

    def __reduce__(self) -> tuple[type[Interrupted], tuple[int]]:
        return type(self), (self.number,)


def is_full_disk(error: BaseException) -> bool:
    """Whether ``error`` says that no more can be written: a full disk, a quota, or a limit on a file's size."""
    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def storage_trouble(error: BaseException, folder: Path) -> str:
    """Say that the place where a run's files go is full, can no longer be written, or is gone; else nothing."""
    error = cause_of(error)
    if is_full_disk(error):
        return f"there is no room left to write the run's files ({error}). Make room; {GO_ON}"
    if not isinstance(error, OSError):
        return ""
    is_inside = error.filename is not None and Path(os.fsdecode(error.filename)).is_relative_to(folder)
    is_unwritable = is_inside and error.errno in (errno.EROFS, errno.EACCES, errno.EPERM)
    if not is_unwritable and not folder.is_dir():
        return f"{folder} is gone: somebody has moved or removed it. The same command trains the run again."
    if is_unwritable or (is_inside and error.errno in (errno.EIO, errno.ESTALE)):
        return f"the run's files can no longer be written ({error}). Once they can, {GO_ON}"
    if error.errno == errno.ENOENT and is_inside:
        return f"a file of the run is gone ({error}): somebody has moved or removed it. If the rest is there, {GO_ON}"
    return ""


def cause_of(error: BaseException) -> BaseException:
    """Return what the system said where ``logging`` hides it, as when a run's ``train.log`` cannot be opened."""
    hidden = error.__cause__
    return hidden if isinstance(hidden, OSError) and "configure handler" in str(error) else error


def is_outside_trouble(error: BaseException) -> bool:
    """Whether the message of what ended the training says all, so that no traceback is needed."""
    return isinstance(error, (RethinkgenError, Interrupted, KeyboardInterrupt)) or is_full_disk(error)


def is_users_mistake(error: BaseException) -> bool:
    """Whether the message of what came before training says all: it is about values, files and folders."""
    configuration = is_of(error, "hydra.errors", "HydraException") or is_of(
        error, "omegaconf.errors", "OmegaConfBaseException"
    )
    return isinstance(error, (ValueError, OSError)) or configuration or is_outside_trouble(error)


def is_of(error: BaseException, module: str, name: str) -> bool:
    """Whether ``error`` is of a class of another package, which has raised nothing where it is not imported."""
    kind = getattr(sys.modules.get(module), name, None)
    return isinstance(kind, type) and isinstance(error, kind)


def reason_of(error: BaseException) -> str:
    """Return a message that says what happened: with its type, where it was not written for a user."""
    return str(error) if is_users_mistake(error) else f"{type(error).__name__}: {error}".removesuffix(": ")


def exit_code_of(error: BaseException) -> int:
    """Return the exit code of a process that ``error`` ends: 128 + number where that was a signal."""
    if isinstance(error, KeyboardInterrupt):
        return 128 + signal.SIGINT
    return error.exit_code if isinstance(error, (RethinkgenError, Interrupted)) else 1
