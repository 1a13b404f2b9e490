"""Every error of this package, what its message is worth, and the exit code that it ends a process with.

Standard library only: each module may import it, and no error is known by its name for want of its class.
"""

from __future__ import annotations

import errno
import signal
import sys

HELD = 75
"""Exit code of a job whose run another process trains (``EX_TEMPFAIL``)."""
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


class RankDiedError(RethinkgenError, RuntimeError):
    """A follower ended before the training did."""


class JobFailedError(RethinkgenError, RuntimeError):
    """A job ended without a result; its folder says why."""


class SlurmError(RethinkgenError, ValueError):
    """SLURM cannot be asked, or refuses what it is given."""


class PublishingError(RethinkgenError, RuntimeError):
    """W&B did not take the report."""


class RunFolderError(RethinkgenError, RuntimeError):
    """The folder cannot be used for this run."""


class RunIsHeldError(RunFolderError):
    """Another process trains this run right now. Where a sweep started it, the job ends with ``HELD``."""


class LockIsHeldError(RethinkgenError):
    """Another process has the lock. Whoever asked for it says what that means."""


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
