"""What a job's process does: it was forked from a server that has torch and Lightning imported, but no CUDA started."""

from __future__ import annotations

import contextlib
import importlib
import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from multiprocessing.connection import Connection
from typing import Any, NoReturn

from hydra.core.plugins import Plugins
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, run_job, setup_globals
from hydra.types import HydraContext
from omegaconf import DictConfig

from rethinkgen.console import ANY_ENCODING, say
from rethinkgen.errors import HELD, RunIsHeldError
from rethinkgen.machine import CORES_OF_JOB, SAFE_PATH
from rethinkgen.run import own_code, trial
from rethinkgen.run.command import typed
from rethinkgen.run.entry import how_it_ended, note_failure
from rethinkgen.run.folder import RunFolder
from rethinkgen.run.last_words import heard_by, say_last
from rethinkgen.sweep.resources import Share

GRACE_SECONDS = 10.0
"""Between asking a job without a launcher to save and killing it."""
LONGEST_WORDS = 4000
"""Characters; far less than a pipe holds whose other end is read only once this process has ended."""


@dataclass
class Command:
    """All that a job's process must be told."""

    config: DictConfig
    """Composed, with Hydra's node."""
    hydra_context: HydraContext
    singletons: dict[Any, Any]
    task_module: str
    task_name: str
    program: list[str]
    arguments: list[str]
    """What would have been typed, were this job alone."""
    folder: str
    share: Share
    opened: list[str]
    """Packages of the user's own that the command opened."""
    has_safe_path: bool
    """Whether the user wants no Python process to look into the current folder: ``PYTHONSAFEPATH``."""
    trial: str | None
    """Where the trial runs of the command lie, if these are some."""


def run_in_child(command: Command, launcher: Connection) -> NoReturn:
    """Run one job and exit with its code: 0, 1 (failed), 128 + signal, or ``HELD``.

    ``status.json`` says why there is no result; where that cannot be written, ``launcher`` is told.
    """
    # Out of the terminal's group: Ctrl-C is the launcher's to pass on. And a group that can be ended as a whole.
    os.setsid()
    threading.Thread(target=_end_with_launcher, daemon=True).start()
    # The server was started with both ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    heard_by(lambda state, reason: launcher.send((state, reason[:LONGEST_WORDS])))
    folder = RunFolder(command.folder)
    try:
        _redirect_output(folder)
    except OSError as error:
        say_last(*how_it_ended(error, folder))
        os._exit(1)
    _take_share(command.share)
    sys.argv = [command.program[0], *command.arguments]
    if not command.has_safe_path:
        os.environ.pop(SAFE_PATH, None)  # the server's
    if command.trial is not None:
        os.environ[trial.VARIABLE] = command.trial
    code = 1
    try:
        # The server may have been started by an earlier command of this process.
        with typed(command.program, command.arguments), own_code.opening(command.opened):
            code = _run(command, folder)
        if code in (0, HELD):
            folder.remove_unused()  # made for what is printed, where the run turned out to lie elsewhere
    except SystemExit as error:
        # A run that ended well returns; and what is above 255 would be cut to something else.
        is_code = isinstance(error.code, int) and 0 < error.code < 256 and error.code != HELD
        code = int(error.code) if is_code else 1  # type: ignore[arg-type]
        if folder.read_status().get("pid") != os.getpid():
            _note_exit(folder, f"sys.exit({error.code!r})")
    finally:
        _close_wandb(code)
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError):  # on a full disk; the exit code says more than how this fails
                stream.flush()
        os._exit(code)


def _note_exit(folder: RunFolder, reason: str) -> None:
    try:
        folder.add_to_status("failed", reason=reason, pid=os.getpid())
    except OSError:
        say_last("failed", reason)


def _run(command: Command, folder: RunFolder) -> int:
    Singleton._instances = command.singletons
    Plugins.instance()
    setup_globals()
    task = getattr(importlib.import_module(command.task_module), command.task_name)
    return exit_code(
        lambda: run_job(
            hydra_context=command.hydra_context,
            # By its name stands what @hydra.main made of the function.
            task_function=getattr(task, "__wrapped__", task),
            config=command.config,
            job_dir_key="hydra.sweep.dir",
            job_subdir_key="hydra.sweep.subdir",
        ),
        folder,
    )


def exit_code(run: Callable[[], JobReturn], folder: RunFolder) -> int:
    """Run a job; return 0, 1 (failed, as ``status.json``, or else its last words, then say), or ``HELD``."""
    try:
        _ = run().return_value  # raises what the job raised
    except RunIsHeldError as error:
        say(str(error))
        return HELD
    except Exception as error:
        status = folder.read_status()
        if status.get("pid") != os.getpid() or status.get("state") != "failed":
            note_failure(folder, *how_it_ended(error, folder), error)
        return 1
    return 0


def _end_with_launcher() -> None:
    """Save and end when the launcher is gone, even by a SIGKILL: the fork server would not pass that on."""
    launcher = multiprocessing.parent_process()
    assert launcher is not None
    launcher.join()
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(GRACE_SECONDS)
    os.killpg(0, signal.SIGKILL)


def _redirect_output(folder: RunFolder) -> None:
    folder.path.mkdir(parents=True, exist_ok=True)
    output = os.open(folder.output, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.close(output)
    streams = [
        os.fdopen(number, "w", buffering=1, closefd=False, encoding="utf-8", errors=ANY_ENCODING) for number in (1, 2)
    ]
    sys.stdout, sys.stderr = streams


def _take_share(share: Share) -> None:
    # For torch this comes too late, as it is imported: rethinkgen reads it. For what else it starts it does not.
    cores = share.threads * share.num_slots
    os.environ |= {"OMP_NUM_THREADS": str(cores), CORES_OF_JOB: str(cores)}
    if share.gpus:
        os.environ["CUDA_VISIBLE_DEVICES"] = ",".join(share.gpus)


def _close_wandb(code: int) -> None:
    # W&B writes its last bytes at exit, of which a forked process knows nothing.
    wandb = sys.modules.get("wandb")
    if wandb is not None:
        wandb.teardown(code)
