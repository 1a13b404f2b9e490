"""Runs jobs side by side on this machine, each in a process of its own, so that none can take another down.

A process is forked from a server that has torch and Lightning imported: it starts in 0.02 s, where an interpreter pays
6 s and more of imports.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from multiprocessing import connection, forkserver
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from types import FrameType
from typing import Any

from rethinkgen.errors import HELD
from rethinkgen.machine import SAFE_PATH
from rethinkgen.run.entry import as_the_user_set_it, wait_politely
from rethinkgen.run.run import State
from rethinkgen.signals import handled_by, stopping
from rethinkgen.sweep.jobs import Job, describe_exit
from rethinkgen.sweep.resources import Resources, Share
from rethinkgen.sweep.view import Progress

log = logging.getLogger(__name__)

PRELOADED = ["rethinkgen.run.training", "rethinkgen.sweep.child", "rethinkgen.data.corruption", "rethinkgen.model.mlp"]
TICK_SECONDS = 0.25
SERVER_DIED = 255
"""What multiprocessing makes of a process whose end the fork server did not tell."""
HELD_SECONDS = 1.0
"""Between two looks at a run that another process trains."""
DEAF_SECONDS = 1.0
"""How long a process may take from its fork to listening to signals."""
KILL_AFTER_SECONDS = 30.0
"""How long a job may take to save once it was asked to."""
LEAVING_SECONDS = 10.0
"""The same, where the launcher itself must end."""


@dataclass
class Running:
    """A job that has a process."""

    job: Job
    process: BaseProcess
    share: Share
    words: Connection
    """By which it says how it ended, where its folder cannot."""
    started: float = field(default_factory=time.monotonic)
    stopped_at: float | None = None
    """When it was asked to stop because its time was up."""
    told_at: float | None = None
    """When a signal to the launcher was passed on to it."""

    def wrote(self, status: Mapping[str, Any]) -> bool:
        """Whether ``status.json`` was written by this process."""
        return bool(status.get("pid") == self.process.pid)

    def has_told_its_end(self) -> bool:
        """Whether this process itself wrote why there is no result."""
        status = self.job.folder.read_status()
        return self.wrote(status) and status.get("state") in ("failed", "interrupted")

    def last_words(self) -> tuple[State, str] | None:
        """Return the state and the reason that this process, which has ended, could not write down."""
        with self.words, suppress(EOFError, OSError):
            if self.words.poll():
                state, reason = self.words.recv()
                return state, reason
        return None


class Pool:
    """Runs jobs in as many processes as there is room for.

    Args:
        start: makes the unstarted process of a job with its share of the machine, and the end of a pipe by which it
            says what it cannot write down.
        timeout_min: minutes that a job may take; it is then asked to save, and failed. ``None``: any.
        watch: called several times a second with the progress.
    """

    def __init__(
        self,
        resources: Resources,
        start: Callable[[Job, Share, Connection], BaseProcess],
        *,
        timeout_min: float | None = None,
        watch: Callable[[Progress[Running]], None] = lambda _: None,
    ) -> None:
        self.resources = resources
        self.start = start
        self.timeout_seconds = None if timeout_min is None else 60 * timeout_min
        self.watch = watch
        self.stopped_by: int | None = None
        """The signal that ended the sweep."""
        self._num_signals = 0
        self._looked_at = 0.0
        self._taken_up: set[int] = set()

    def run(self, jobs: Sequence[Job]) -> Progress[Running]:
        """Run all jobs to their ends, or until a signal stops the sweep: each running job then saves and ends."""
        progress: Progress[Running] = Progress(deque(jobs))
        self._server = ForkServer()
        with handled_by(self._note_signal, *stopping()):
            try:
                while progress.waiting or progress.running or progress.elsewhere:
                    self._obey(progress)
                    self._look_elsewhere(progress)
                    progress.is_warm = self._server.is_ready()
                    if progress.is_warm:
                        self._start_what_fits(progress)
                    self.watch(progress)
                    sentinels = [running.process.sentinel for running in progress.running]
                    connection.wait(sentinels, timeout=TICK_SECONDS) if sentinels else time.sleep(TICK_SECONDS / 5)
                    for running in list(progress.running):
                        if running.process.exitcode is not None:
                            self._reap(progress, running)
                        elif self.timeout_seconds is not None:
                            self._watch_the_clock(running)
                self.watch(progress)
            finally:
                _end_all(progress.running)
        return progress

    def _obey(self, progress: Progress[Running]) -> None:
        """On a first signal start nothing more and have the running jobs save; on a second one kill them.

        Also kill those that have not ended long after the first.
        """
        if self.stopped_by is None:
            return
        progress.waiting.clear()
        progress.elsewhere.clear()
        progress.note = "stopping: what runs saves; a second Ctrl-C kills it"
        now = time.monotonic()
        for running in progress.running:
            is_overdue = running.told_at is not None and now - running.told_at > KILL_AFTER_SECONDS
            if self._num_signals > 1 or is_overdue:
                _kill_group(running.process)
            elif running.told_at is None and now - running.started > DEAF_SECONDS:
                running.told_at = now
                _send(running.process, signal.SIGINT if self.stopped_by == signal.SIGINT else signal.SIGTERM)

    def _look_elsewhere(self, progress: Progress[Running]) -> None:
        if time.monotonic() - self._looked_at < HELD_SECONDS:
            return
        self._looked_at = time.monotonic()
        for job in list(progress.elsewhere):
            if not job.folder.is_held:
                progress.elsewhere.remove(job)
                progress.waiting.appendleft(job)

    def _start_what_fits(self, progress: Progress[Running]) -> None:
        # In order, but a job that needs less may pass one that waits for several devices to be free.
        finds_no_room: set[int] = set()
        for job in list(progress.waiting):
            if self.resources.free == 0 or self.stopped_by is not None:
                return
            assert job.cell is not None
            if id(job.cell.needs) in finds_no_room:
                continue  # of ten thousand that need the same, one is asked about
            if job.folder.is_held:
                progress.waiting.remove(job)
                progress.elsewhere.append(job)
                continue
            if job.is_finished():
                # Another sweep has finished it since this one began.
                progress.waiting.remove(job)
                progress.ended.append((job, 0))
                continue
            share = self.resources.take(job.trainer, runs_alone=job.runs_alone)
            if share is None:
                finds_no_room.add(id(job.cell.needs))
                continue
            progress.waiting.remove(job)
            job.fault = None
            listening, speaking = multiprocessing.Pipe(duplex=False)
            with speaking:
                process = self.start(job, share, speaking)
                process.start()
            progress.running.append(Running(job, process, share, listening))

    def _reap(self, progress: Progress[Running], running: Running) -> None:
        process, job = running.process, running.job
        code = process.exitcode
        assert code is not None
        # What it started (DDP's ranks, W&B's service) ends with it; and it itself, if the fork server died instead.
        _kill_group(process)
        process.join()
        progress.running.remove(running)
        self.resources.give_back(running.share)
        words = running.last_words()
        if code in (0, HELD):
            job.find_folder()
        if code == HELD:
            progress.elsewhere.append(job)
            return
        if code != 0 and running.stopped_at is not None:
            assert self.timeout_seconds is not None
            job.fail(f"stopped after {self.timeout_seconds / 60:g} min (hydra.launcher.timeout_min)")
        elif code != 0 and words is not None:
            job.end(*words)
        elif code != 0 and not running.has_told_its_end():
            if self.stopped_by is not None:
                job.interrupt(f"{signal.Signals(self.stopped_by).name}, before it could save")
            elif code == SERVER_DIED and id(job) not in self._taken_up:
                # It is not to blame, and ended with the server. It goes on from its checkpoint, once.
                self._taken_up.add(id(job))
                self._server = ForkServer()
                progress.waiting.appendleft(job)
                return
            else:
                job.fail(describe_exit(code))
        progress.ended.append((job, code))

    def _watch_the_clock(self, running: Running) -> None:
        assert self.timeout_seconds is not None
        now = time.monotonic()
        if running.stopped_at is None and now - running.started > self.timeout_seconds:
            running.stopped_at = now
            _send(running.process, signal.SIGTERM)
        elif running.stopped_at is not None and now - running.stopped_at > KILL_AFTER_SECONDS:
            _kill_group(running.process)

    def _note_signal(self, number: int, _: FrameType | None) -> None:
        self.stopped_by = self.stopped_by or number
        self._num_signals += 1


class ForkServer:
    """The server that jobs are forked from, importing torch and Lightning while this process goes on."""

    def __init__(self) -> None:
        wait_politely()
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(PRELOADED)
        self._begins_left = 2
        self._begin()

    def _begin(self) -> None:
        self._begins_left -= 1
        # Until it serves, a Ctrl-C would end it with a traceback.
        with handled_by(signal.SIG_IGN, *stopping()), as_the_user_set_it(), _without_the_current_folder():
            forkserver.ensure_running()
        self._error: BaseException | None = None
        self._first_process = threading.Thread(target=self._start_a_process, daemon=True)
        self._first_process.start()

    def _start_a_process(self) -> None:
        # Blocks until the server has imported everything, which is why a thread does it.
        try:
            process = make_process(os.getpid)
            process.start()
            process.join()
        except (OSError, EOFError) as error:
            self._error = error

    def is_ready(self) -> bool:
        """Whether a process will start at once.

        Raises:
            RuntimeError: the server ended, and so did another one in its place.
        """
        if self._first_process.is_alive():
            return False
        if self._error is not None and self._begins_left:
            # One that was killed may not have ended yet when it was asked for: its jobs hear of its end before.
            self._begin()
            return False
        if self._error is not None:
            raise RuntimeError(
                "the processes' server ended while it imported torch; its output is above"
            ) from self._error
        return True


@contextmanager
def _without_the_current_folder() -> Iterator[None]:
    """Have Python processes that are started not look for modules in the current folder, as they would first of all."""
    is_ours = SAFE_PATH not in os.environ
    os.environ.setdefault(SAFE_PATH, "1")
    try:
        yield
    finally:
        if is_ours:
            del os.environ[SAFE_PATH]


def make_process(target: Callable[..., Any], *arguments: Any) -> BaseProcess:
    """Return an unstarted process that will be forked from the server."""
    return multiprocessing.get_context("forkserver").Process(target=target, args=arguments)


def _end_all(running: Sequence[Running]) -> None:
    """Have what runs save and end, because the launcher cannot go on."""
    for one in running:
        _send(one.process, signal.SIGTERM)
    give_up_at = time.monotonic() + LEAVING_SECONDS
    for one in running:
        one.process.join(max(0.0, give_up_at - time.monotonic()))
        _kill_group(one.process)


def _send(process: BaseProcess, number: int) -> None:
    assert process.pid is not None
    try:
        os.kill(process.pid, number)
    except ProcessLookupError:
        log.debug("process %d had ended before signal %d", process.pid, number)


def _kill_group(process: BaseProcess) -> None:
    assert process.pid is not None
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        log.debug("nothing is left of process group %d", process.pid)
