"""What a job does inside SLURM: train, and be requeued when it is preempted or its time is up.

submitit starts it and requeues it. It would do so the moment the signal comes; here the run first saves at the end of
its block. Only rank 0 of several tasks requeues; the others end without an error, which would end rank 0 too early.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from types import FrameType
from typing import Any, NoReturn

from hydra.core.utils import JobReturn

from rethinkgen.console import take_any_encoding
from rethinkgen.errors import UNTOLD
from rethinkgen.run.entry import slurm_job
from rethinkgen.run.folder import RunFolder
from rethinkgen.run.last_words import heard_by
from rethinkgen.sweep.child import exit_code

ASKING_SECONDS = 60


def run_in_task(run: Callable[[], JobReturn], folder: RunFolder) -> None:
    """Run a job; where it does not end well, exit with its code or have it requeued.

    Whoever waits for it hears of the exit code alone: ``UNTOLD`` where the folder does not say why.
    """
    take_any_encoding(into_files=True)
    _take_cpus()
    requeue = _Requeue(folder)
    untold: list[str] = []
    heard_by(lambda state, reason: untold.append(reason))
    for number in (signal.SIGTERM, requeue.signal):
        # Outside of training, where there is nothing to save.
        signal.signal(number, requeue.obey)
    try:
        code = exit_code(run, folder)
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
        if code in (128 + signal.SIGTERM, 128 + requeue.signal):
            requeue.obey(code - 128)
    if code:
        sys.exit(UNTOLD if code == 1 and untold and not folder.result.exists() else code)


def _take_cpus() -> None:
    # SLURM need not bind a task to its CPUs. Whoever set the variable has his reason.
    if "SLURM_CPUS_PER_TASK" in os.environ:
        os.environ.setdefault("OMP_NUM_THREADS", os.environ["SLURM_CPUS_PER_TASK"])


class _Requeue:
    """Ends this process, and has its job requeued if SLURM is to end it for a while only."""

    def __init__(self, folder: RunFolder) -> None:
        from submitit import JobEnvironment

        self.folder = folder
        self.signal: int = JobEnvironment._usr_sig()
        submitits_own: Any = signal.getsignal(self.signal)
        self._requeue: Callable[[int, FrameType | None], None] = submitits_own
        self.is_leading = JobEnvironment().global_rank == 0

    def obey(self, number: int, frame: FrameType | None = None) -> NoReturn:
        """End; requeued unless SLURM has ended the job already, by a scancel or a requeue of its own."""
        # Nothing more must come between.
        for each in (signal.SIGTERM, self.signal):
            signal.signal(each, signal.SIG_IGN)
        if not self.is_leading:
            sys.exit(0)
        # Preempted jobs are sent a SIGTERM where SLURM is not set up to send them the other signal.
        if number == signal.SIGTERM and _state() != "RUNNING":
            sys.exit(128 + number)
        self._note("interrupted", "preempted or out of time: requeued")
        try:
            self._requeue(number, frame)
        except (RuntimeError, OSError, subprocess.SubprocessError) as error:
            # Out of time too often, or SLURM does not requeue this job.
            self._note("failed", f"preempted or out of time, and not requeued: {error}")
        sys.exit(128 + number)

    def _note(self, state: str, reason: str) -> None:
        status = self.folder.read_status()
        if status.get("state") == "running" and status.get("pid") != os.getpid() and self.folder.is_held:
            return  # another process has the run
        self.folder.add_to_status(state, reason=reason, **slurm_job())


def _state() -> str:
    """Return what SLURM says of this job: it is RUNNING while it waits to be preempted, and not once it is ended."""
    command = ["squeue", "--noheader", f"--jobs={os.environ['SLURM_JOB_ID']}", "--format=%T"]
    try:
        asked = subprocess.run(command, capture_output=True, text=True, check=False, timeout=ASKING_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return asked.stdout.strip()
