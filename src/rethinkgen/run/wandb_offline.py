"""When a run is logged to W&B offline, and what is then left to send.

Whether the server answers is found out in seconds, and of a server that does not once for all runs of a sweep.
"""

from __future__ import annotations

import contextlib
import json
import logging
import multiprocessing
import os
import shutil
import socket
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rethinkgen.errors import LockIsHeldError
from rethinkgen.files import lock, write_atomically

log = logging.getLogger(__name__)

ANSWER_SECONDS = 5
"""In which the server must say whether it knows the login. W&B's own client is satisfied with 40."""
REMEMBERED_SECONDS = 900
"""After which a sweep asks a server again that did not answer."""
LONGEST_REASON = 400
OFFLINE = "offline-run-"
"""How W&B's folders begin that ``wandb sync`` is to take."""
NOBODY_LOGGED_IN = "nobody is logged in here (wandb login, or WANDB_API_KEY)"


class Sweep:
    """What the runs of one command tell each other of W&B's server, in a file of the sweep's folder."""

    def __init__(self, folder: Path, server: str) -> None:
        self.path = folder / ".wandb-unreachable.json"
        self.whose = {"command": _command(), "host": socket.gethostname(), "server": server}

    @contextlib.contextmanager
    def in_turn(self) -> Iterator[None]:
        """Let one run ask at a time: those that wait then know what it found."""
        with contextlib.ExitStack() as stack:
            # Without a lock each asks for itself.
            with contextlib.suppress(OSError, LockIsHeldError):
                beside = self.path.with_suffix(".lock")
                stack.enter_context(lock(beside, patience=2 * ANSWER_SECONDS, remove=True))
            yield

    def remembered(self) -> str | None:
        """Return why an earlier run could not be logged online, if one could not."""
        try:
            found: dict[str, Any] = json.loads(self.path.read_text(encoding="utf-8"))
            is_ours = {key: found[key] for key in self.whose} == self.whose
            is_fresh = 0 <= time.time() - float(found["time"]) < REMEMBERED_SECONDS
            return str(found["reason"]) if is_ours and is_fresh else None
        except (OSError, ValueError, KeyError, TypeError):
            return None

    def remember(self, reason: str) -> None:
        """Tell the runs that follow."""
        with contextlib.suppress(OSError):
            write_atomically(self.path, json.dumps({**self.whose, "time": time.time(), "reason": reason}) + "\n")


def _command() -> str:
    """Return what the runs of one command have in common: SLURM's job array, or the launcher that forked them."""
    launcher = multiprocessing.parent_process()
    return os.environ.get("SLURM_ARRAY_JOB_ID") or str(os.getpid() if launcher is None else launcher.pid)


def reason_to_log_offline(settings: Any, sweep: Sweep) -> str | None:
    """Return why nothing can be logged to the server now, or nothing where it knows the login found on this machine.

    Args:
        settings: W&B's, of this process.
        sweep: where the answer is found, if another run had one, and kept.
    """
    import wandb

    with sweep.in_turn():
        if (reason := sweep.remembered()) is not None:
            return reason
        begun = time.monotonic()
        try:
            return None if is_logged_in(settings) else NOBODY_LOGGED_IN
        except wandb.errors.Error as error:
            reason = in_brief(error)
        if time.monotonic() - begun > ANSWER_SECONDS:
            # W&B's own words blame a process of its own.
            reason = f"{settings.base_url} gave no answer within {ANSWER_SECONDS} s"
        sweep.remember(reason)
    return reason


def is_logged_in(settings: Any) -> bool:
    """Whether a login is found on this machine; if so the server knows it, which is asked for some seconds.

    Raises:
        wandb.errors.Error: it does not, or does not answer.
    """
    import wandb

    with _impatient(settings):
        return bool(wandb.login(prompt=False))


@contextlib.contextmanager
def _impatient(settings: Any) -> Iterator[None]:
    """Have W&B's client ask for seconds only; what a run is logged with later stays as patient as it was."""
    patience = {
        "x_graphql_timeout_seconds": ANSWER_SECONDS,
        "x_graphql_retry_max": 2,
        "x_graphql_retry_wait_min_seconds": 0.2,
        "x_graphql_retry_wait_max_seconds": 1.0,
    }
    before = {name: getattr(settings, name) for name in patience}
    variable = os.environ.get("WANDB_HTTP_TIMEOUT")
    os.environ["WANDB_HTTP_TIMEOUT"] = str(ANSWER_SECONDS)
    for name, value in patience.items():
        setattr(settings, name, value)
    try:
        yield
    finally:
        for name, value in before.items():
            setattr(settings, name, value)
        if variable is None:
            os.environ.pop("WANDB_HTTP_TIMEOUT")
        else:
            os.environ["WANDB_HTTP_TIMEOUT"] = variable


def in_brief(error: BaseException) -> str:
    """Return what a warning has room for of one of W&B's errors, which quote whole answers."""
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= LONGEST_REASON else text[: LONGEST_REASON - 1] + "…"


def unsent(folder: Path) -> Iterator[Path]:
    """Give what ``wandb sync`` has still to send of the runs in a sweep's folder."""
    return _unsent(folder.glob(f"*/wandb/{OFFLINE}*"))


def unsent_of(run_folder: Path) -> Iterator[Path]:
    """Give the same of one run."""
    return _unsent(run_folder.glob(f"wandb/{OFFLINE}*"))


def _unsent(log_folders: Iterable[Path]) -> Iterator[Path]:
    for path in log_folders:
        # So W&B marks what it has sent.
        if not any(path.glob("*.wandb.synced")) and not _is_empty(path):
            yield path


def as_logged_offline(log_folder: Path) -> Path:
    """Rename the log of a run that was not sent to its end: ``wandb sync`` passes over what was logged online."""
    new = log_folder.with_name(f"offline-{log_folder.name}")
    log_folder.rename(new)
    return new


def remove_empty_logs(folder: Path) -> None:
    """Remove what a kill left of a log that had just begun, before the run goes on: with it ``wandb sync`` fails."""
    for path in folder.glob("wandb/*run-*"):
        if _is_empty(path):
            shutil.rmtree(path, ignore_errors=True)


def _is_empty(log_folder: Path) -> bool:
    return not any(path.stat().st_size for path in log_folder.glob("*.wandb"))
