"""A lock where the file system knows none (some NFS, Lustre, EFS): a file that says which process has it.

Made with ``O_EXCL``, so by one process alone. The system does not remove it when that process dies, so who finds it
judges whether it is left behind:

- on the same host by the process, of which the file has the number and the time of its start;
- under SLURM by the job: one that was started again owns what it had before, and one that SLURM no longer has owns
  nothing;
- of any other process on another host nobody knows: the file then stays, and the message names it.

There is no heartbeat: a process that was only paused would lose its run to a second one, and both would write.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import time
from dataclasses import asdict, dataclass
from pathlib import Path

from rethinkgen.errors import LockIsHeldError

WRITING_SECONDS = 1.0
"""How long a file may stay empty: who made it is writing."""
SLURM_SECONDS = 20.0
"""How long SLURM has to say whether it has a job."""


@dataclass(frozen=True)
class Owner:
    """The process that made the file."""

    host: str
    pid: int
    started: str = ""
    """In ticks since its machine was started; empty where the system does not say: numbers of processes are reused."""
    job: str = ""
    """SLURM's number of its job."""
    attempt: str = ""
    """How often that job was started before."""
    num_nodes: str = ""
    """Of that job."""

    @property
    def name(self) -> str:
        """What a message calls it."""
        return f"process {self.pid} on {self.host}{f', of SLURM job {self.job}' if self.job else ''}"


def this_process() -> Owner:
    """Return the owner that this process would be."""
    job = os.environ.get("SLURM_JOB_ID", "")
    attempt = os.environ.get("SLURM_RESTART_COUNT", "0") if job else ""
    num_nodes = os.environ.get("SLURM_JOB_NUM_NODES", "1") if job else ""
    return Owner(socket.gethostname(), os.getpid(), _start_of(os.getpid()), job, attempt, num_nodes)


def take(path: Path) -> bool:
    """Make the file, where nobody who still is has it; return whether this process has it now."""
    for _ in range(2):
        with contextlib.suppress(FileExistsError):
            # Anybody may look who it is.
            descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
            with os.fdopen(descriptor, "w", encoding="utf-8") as file:
                json.dump(asdict(this_process()), file)
            return True
        if not _is_left_behind(path) or not _remove_left(path):
            return False
    return False


def let_go(path: Path) -> None:
    """Remove the file, if it is this process's."""
    with contextlib.suppress(OSError):
        if _owner(path) == this_process():
            path.unlink()


def is_taken(path: Path) -> bool:
    """Whether a process that still is, or of which nobody knows, has the file."""
    return os.path.lexists(path) and not _is_left_behind(path)


def held(path: Path) -> LockIsHeldError:
    """Return the error of who cannot have the file; of a process that cannot be seen from here, with what to do."""
    owner = _owner(path)
    if owner is None:
        return LockIsHeldError(f"{path} says not who has it", advice=f"If nobody has it, delete {path}.")
    if owner.host == socket.gethostname():
        return LockIsHeldError(f"{owner.name} holds {path}")
    advice = f"Whether {owner.name} still runs cannot be seen from here. If it does not, delete {path}."
    return LockIsHeldError(f"{owner.name} holds {path}", advice=advice)


def _is_left_behind(path: Path) -> bool:
    owner = _owner(path)
    if owner is None:
        return False
    ours = this_process()
    if owner.host == ours.host:
        return owner.started != _start_of(owner.pid) if owner.started else not _is_alive(owner.pid)
    if not owner.job:
        return False
    if owner.job == ours.job:
        # Of one attempt at a job on several nodes, another process may be at work on another node.
        return owner.attempt != ours.attempt or owner.num_nodes == "1"
    return _has_slurm(owner.job) is False


def _owner(path: Path) -> Owner | None:
    """Return who made the file; nothing where that cannot be read."""
    give_up_at = time.monotonic() + WRITING_SECONDS
    while True:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW)
            with os.fdopen(descriptor, "rb") as file:
                told = json.loads(file.read(4096))
            return Owner(**{name: type(value)(told[name]) for name, value in asdict(Owner("", 0)).items()})
        except (OSError, ValueError, KeyError, TypeError):
            if time.monotonic() > give_up_at or not os.path.lexists(path):
                return None
            time.sleep(0.05)


def _remove_left(path: Path) -> bool:
    """Remove a file that was left behind; return whether this process, and no other, has done so.

    Another process may have found the same and be quicker: what was removed is looked at once more, and what is
    somebody's put back.
    """
    aside = path.with_name(f"{path.name}.{socket.gethostname()}.{os.getpid()}")
    try:
        path.rename(aside)
    except FileNotFoundError:
        return True  # gone by itself: whoever makes it now has it
    if not _is_left_behind(aside):
        with contextlib.suppress(FileExistsError):
            os.link(aside, path)
        aside.unlink()
        return False
    aside.unlink()
    return True


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass  # somebody else's
    return True


def _start_of(pid: int) -> str:
    """Return when a process was started, in ticks; nothing where it is not, or where the system does not tell."""
    try:
        # Its name, in brackets, may have anything in it.
        state, *fields = (
            Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        )
    except (OSError, ValueError):
        return ""
    return "" if state in "ZX" or len(fields) < 19 else fields[18]


def _has_slurm(job: str) -> bool | None:
    """Whether SLURM still has a job; nothing where it does not answer."""
    command = ["squeue", "--noheader", f"--jobs={job}", "--format=%T"]
    try:
        answer = subprocess.run(command, capture_output=True, text=True, check=False, timeout=SLURM_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return None
    if answer.returncode != 0:
        return False if "Invalid job id" in answer.stderr else None
    return bool(answer.stdout.strip())
