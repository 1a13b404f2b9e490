"""SLURM's queue as a sweep sees it: which runs it holds, what it is given, and how each of its jobs ended.

Results are read from the runs' folders alone. SLURM is asked for one thing while a sweep goes on, in one call for all
jobs: which of them it still has. So a job that is cancelled or killed takes no other's result with it, and whoever
issues the command next sees what the one before saw.
"""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import shutil
import signal
import subprocess
import time
from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any
from uuid import uuid4

from rethinkgen.errors import HELD, SlurmError
from rethinkgen.files import in_utf8, lock
from rethinkgen.received import parse_json, read_lines
from rethinkgen.run.folder import now
from rethinkgen.run.schema import NAME, TEXTS, fault
from rethinkgen.signals import handled_by
from rethinkgen.sweep.jobs import Job, describe_exit
from rethinkgen.sweep.slurm_limits import NODES, Nodes, key_behind, read_nodes, refusal
from rethinkgen.sweep.view import Progress

FOLDER = ".slurm"
"""Inside a sweep's: what was submitted, and SLURM's logs."""
TICK_SECONDS = 0.5
LOOK_SECONDS = (2.0, 30.0)
"""Between two questions to SLURM: at first, and after ten minutes. In between it grows with the sweep's age."""
ACCOUNTING_SECONDS = 20.0
"""How long accounting may lag behind the queue."""
FILE_SECONDS = 60.0
"""How long a file that a job wrote may take to be seen here: NFS keeps what it knows of a folder for so long."""
HOPELESS_SECONDS = 30.0
"""How long a reason to wait must stand that cannot pass: a cluster may be about to be set up anew."""
ENDED = {
    "BOOT_FAIL": "its node did not start",
    "CANCELLED": "cancelled",
    "COMPLETED": "ended without a result",
    "DEADLINE": "past its deadline",
    "FAILED": "",
    "NODE_FAIL": "its node failed",
    "OUT_OF_MEMORY": "out of memory: raise hydra.launcher.mem_gb",
    "PREEMPTED": "preempted, and not requeued",
    "TIMEOUT": "out of time",
    "GONE": "left the queue without a result",
}
"""SLURM's last words on a job, and ours. Any other state is that of a job which goes on, a requeued one included."""
DEFAULT_ARRAY_SIZE = 1001


@dataclass(frozen=True)
class Entry:
    """A job as the queue lists it."""

    job_id: str
    """``17``, or ``17_3`` in an array."""
    name: str
    state: str
    reason: str
    partition: str = ""

    @property
    def index(self) -> int:
        """Which of an array's jobs this is."""
        return int(self.job_id.partition("_")[2] or 0)


@dataclass
class Submitted:
    """A job that SLURM has."""

    job: Job
    job_id: str
    state: str = "PENDING"
    started: float = field(default_factory=time.monotonic)
    """When it was first seen running."""
    has_started: bool = True
    """False where it left the queue before it was seen to start: SLURM forgets a waiting job of an array at once."""
    ended: float | None = None
    """When it was first seen to have ended without a result."""
    hopeless_since: float | None = None
    """When it was first seen to wait for what cannot come."""

    def wrote(self, status: Mapping[str, Any]) -> bool:
        """Whether ``status.json`` speaks of this job."""
        return bool(status.get("slurm_job") == self.job_id)


def queue() -> dict[str, Entry]:
    """Return this user's jobs by their ids, those that ended within the last minutes included.

    Raises:
        SlurmError: SLURM does not answer.
    """
    asked = "--format=%i|%T|%r|%P|%j"
    listed = _ask("squeue", "--noheader", "--array", "--states=all", f"--user={os.getuid()}", asked)
    entries = (Entry(job_id, name, *rest) for job_id, *rest, name in _fields(listed, 5))
    return {entry.job_id: entry for entry in entries}


def last_words(job_ids: Collection[str]) -> dict[str, tuple[str, str]] | None:
    """Return what accounting says of jobs: state (``CANCELLED by 0``) and exit code (``1:0``); nothing without it."""
    if shutil.which("sacct") is None:
        return None
    try:
        listed = _ask(
            "sacct", "--allocations", "--noheader", "--parsable2", "--format=JobID,State,ExitCode",
            f"--jobs={','.join(job_ids)}",
        )  # fmt: skip
    except SlurmError:
        return None  # the queue has said what it knows
    return {job_id: (state, code) for job_id, state, code in _fields(listed, 3)}


def nodes() -> list[Nodes]:
    """Return the cluster's nodes, whatever their state; none where ``sinfo`` does not tell."""
    try:
        return read_nodes(_ask("sinfo", "--noheader", "--exact", "--all", f"--format={NODES}"))
    except SlurmError:
        return []


def greatest_array() -> int:
    """Return how many jobs an array may have here."""
    found = re.search(r"MaxArraySize\s*=\s*(\d+)", _ask("scontrol", "show", "config"))
    return max(1, int(found[1]) - 1 if found else DEFAULT_ARRAY_SIZE - 1)


def _ask(*command: str) -> str:
    try:
        answer = subprocess.run(command, capture_output=True, check=False, timeout=120)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SlurmError(f"SLURM does not answer: {error}") from error
    if answer.returncode != 0:
        raise SlurmError(f"SLURM does not answer: {os.fsdecode(answer.stderr).strip() or f'{command[0]} failed'}")
    return os.fsdecode(answer.stdout)


def _fields(listed: str, number: int) -> Iterator[list[str]]:
    for line in listed.splitlines():
        parts = line.strip().split("|", number - 1)
        if len(parts) == number:
            yield parts


class Submissions:
    """What was ever submitted for the runs of a sweep: ``.slurm/submissions.jsonl``, one line a fact, only added to.

    A submission is known by the name that its jobs have in SLURM, and is written down before ``sbatch`` is called: so
    whatever becomes of this process, SLURM's own list of names tells the next one which runs it has.
    """

    def __init__(self, sweep: Path) -> None:
        self.sweep = sweep
        self.folder = sweep / FOLDER
        self.file = self.folder / "submissions.jsonl"

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Keep other commands from submitting runs of this sweep meanwhile."""
        with lock(self.folder / "lock"):
            yield

    def add(self, jobs: Sequence[Job]) -> str:
        """Write down that ``jobs`` are about to be submitted, and return the name to give them in SLURM."""
        name = f"{self.sweep.name}.{uuid4().hex[:8]}"
        runs = [os.path.relpath(job.path, self.sweep) for job in jobs]
        self._write({"name": name, "time": now(), "runs": runs})
        return name

    def add_id(self, name: str, job_id: str) -> None:
        """Write down SLURM's number of a submission, for people."""
        self._write({"name": name, "time": now(), "slurm_job": job_id})

    def _write(self, line: dict[str, Any]) -> None:
        with self.file.open("ab", buffering=0) as file:
            # On a line of its own, even if a full disk cut the one before short.
            file.write(f"\n{json.dumps(in_utf8(line))}\n".encode())
            os.fsync(file.fileno())

    def alive(self) -> dict[Path, str]:
        """Return the folder of each run that SLURM has now, with the id of its job."""
        runs = self._runs_by_name()
        alive = {}
        for entry in queue().values():
            if entry.name in runs and entry.state not in ENDED and entry.index < len(runs[entry.name]):
                alive[Path(os.path.normpath(self.sweep / runs[entry.name][entry.index]))] = entry.job_id
        return alive

    def _runs_by_name(self) -> dict[str, list[str]]:
        runs: dict[str, list[str]] = {}
        for line in read_lines(self.file):
            with contextlib.suppress(ValueError):  # an empty line, or one that was cut short before its sbatch
                fact = parse_json(line)
                if not fault(fact, {"name": NAME, "runs": TEXTS}) and {"name", "runs"} <= fact.keys():
                    runs[fact["name"]] = fact["runs"]
        return runs

    def log(self, job_id: str) -> Path:
        """Return what SLURM writes of a job's (first) task, both streams."""
        return self.folder / job_id / f"{job_id}_0_log.out"


Send = Callable[[Sequence[Job], str, dict[str, Any]], Sequence[str]]
"""Submits jobs as one array, given its name and the launcher's values, and returns their ids."""


class SlurmSweep:
    """Has SLURM run jobs, and watches them.

    Args:
        watch: called about twice a second with the progress.
    """

    def __init__(self, sweep: Path, send: Send, watch: Callable[[Progress[Submitted]], None] = lambda _: None) -> None:
        self.submissions = Submissions(sweep)
        self.send = send
        self.watch = watch
        self.stopped_by: int | None = None
        """The signal that ended the watch. The jobs go on."""
        self.alive: list[Submitted] = []
        self.refusals: list[SlurmError] = []
        self.progress: Progress[Submitted] = Progress(deque(), is_warm=True)
        self._began = time.monotonic()
        self._looked = float("-inf")

    def submit(self, jobs: Sequence[Job]) -> list[str]:
        """Submit those of ``jobs`` that SLURM does not have yet, and return a line on each thing that was done.

        What SLURM refuses is failed, and noted in ``refusals``.

        Raises:
            SlurmError: SLURM does not answer.
        """
        with self.submissions.alone():
            alive = self.submissions.alive()
            attached: list[Submitted] = []
            missing: list[Job] = []
            for job in jobs:
                if job.path in alive:
                    attached.append(Submitted(job, alive[job.path]))
                elif job.is_finished():
                    # Another command has had it trained since this one began.
                    self.progress.ended.append((job, 0))
                else:
                    (self.progress.elsewhere if job.folder.is_held else missing).append(job)
            self.alive += attached
            submitted = []
            there_are = nodes() if missing else []
            for group, values in _arrays(missing):
                try:
                    _refuse_what_no_node_has(group, values, there_are)
                    submitted += self._submit_array(group, values)
                except SlurmError as refusal:
                    self.refusals.append(refusal)
                    self.progress.ended += [(job, 1) for job in group]
            self.alive += submitted
        lines = []
        if attached:
            lines.append(f"In SLURM's queue already: {_count(attached)}.")
        if submitted:
            lines.append(
                f"Submitted to SLURM: {_count(submitted)}. They need this command no longer; "
                "issued again, it shows them again."
            )
        return lines

    def _submit_array(self, jobs: Sequence[Job], values: dict[str, Any]) -> list[Submitted]:
        for job in jobs:
            job.fault = None
            # Before the job can start: what it writes must stand.
            job.folder.add_to_status("waiting", reason=f"submitted to SLURM on {now()}", slurm_job=None)
        # A Ctrl-C or the terminal's end must not come between sbatch and what is written down of it.
        with _holding_back(signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            name = self.submissions.add(jobs)
            try:
                job_ids = self.send(jobs, name, values)
            except SlurmError as refusal:
                for job in jobs:
                    job.fail(str(refusal))
                raise
            self.submissions.add_id(name, job_ids[0].partition("_")[0])
            for job, job_id in zip(jobs, job_ids, strict=True):
                _link(job.folder.output, self.submissions.log(job_id))
        return [Submitted(job, job_id) for job, job_id in zip(jobs, job_ids, strict=True)]

    def run(self) -> Progress[Submitted]:
        """Watch until SLURM has none of the jobs any more, or until a signal ends the watch."""
        progress = self.progress
        with handled_by(self._note_signal, signal.SIGINT, signal.SIGTERM):
            while (self.alive or progress.elsewhere) and self.stopped_by is None:
                if time.monotonic() - self._looked >= self._pause():
                    self._look()
                    self._looked = time.monotonic()
                self.watch(progress)
                time.sleep(TICK_SECONDS)
            self.watch(progress)
        return progress

    def _pause(self) -> float:
        shortest, longest = LOOK_SECONDS
        return min(longest, max(shortest, (time.monotonic() - self._began) / 20))

    def _look(self) -> None:
        progress = self.progress
        try:
            entries = queue()
        except SlurmError as error:
            # The controller is restarted, or busy. Nothing is known to have ended.
            progress.note = str(error).splitlines()[0]
            return
        ended = []
        for one in list(self.alive):
            entry = entries.get(one.job_id)
            state = "GONE" if entry is None else entry.state
            if state == "RUNNING" and one.state != "RUNNING":
                one.started = time.monotonic()
            if state == "GONE" and one.state == "PENDING":
                one.has_started = False
            one.state = state
            if state in ENDED:
                ended.append(one)
        self._settle(ended)
        self._end_hopeless(entries)
        self._look_elsewhere()
        progress.running = [one for one in self.alive if one.state not in ("PENDING", *ENDED)]
        progress.waiting = deque(one.job for one in self.alive if one.state == "PENDING")
        waiting = [entry for one in self.alive if (entry := entries.get(one.job_id)) and entry.state == "PENDING"]
        why = sorted({entry.reason for entry in waiting} - {"None", "Priority"})
        progress.note = f"SLURM: {', '.join(why)}" if why else ""

    def _end_hopeless(self, entries: Mapping[str, Entry]) -> None:
        """Take jobs out of the queue that SLURM would let wait for ever: another submission would find them there."""
        there_are = functools.cache(nodes)
        hopeless = []
        for one in self.alive:
            entry = entries.get(one.job_id)
            waits_for = entry.reason if entry is not None and entry.state == "PENDING" else ""
            key = key_behind(waits_for, entry.partition, there_are) if entry is not None else None
            one.hopeless_since = None if key is None else one.hopeless_since or time.monotonic()
            if one.hopeless_since is not None and time.monotonic() - one.hopeless_since >= HOPELESS_SECONDS:
                hopeless.append((one, f"SLURM would never start it ({waits_for}): change {key}"))
        if not hopeless:
            return
        with contextlib.suppress(SlurmError):  # it is tried again at the next look
            _ask("scancel", *(one.job_id for one, _ in hopeless))
            for one, reason in hopeless:
                one.job.fail(f"{reason}. It is no longer in the queue", slurm_job=one.job_id)
                self._end(one, 1)

    def _settle(self, ended: Sequence[Submitted]) -> None:
        """Find out how jobs ended that SLURM runs no more."""
        without_result = []
        for one in ended:
            one.job.find_folder()
            if one.job.outcome().state == "done" and not one.job.lacks_states:
                self._end(one, 0)
            else:
                without_result.append(one)
        words = last_words([one.job_id for one in without_result]) if without_result else None
        for one in without_result:
            one.ended = one.ended or time.monotonic()
            state, code = (words or {}).get(one.job_id, (one.state, ""))
            kind = state.split()[0]
            is_late = words is not None and (one.job_id not in words or kind not in ENDED)
            patience = FILE_SECONDS if kind == "COMPLETED" else ACCOUNTING_SECONDS if is_late else 0.0
            if time.monotonic() - one.ended < patience:
                continue
            if kind not in ENDED:
                state = kind = one.state
            self._fail(one, kind, state, code)

    def _fail(self, one: Submitted, kind: str, state: str, code: str) -> None:
        """Write into a run's folder why there is no result, unless its job has, or another process has the run."""
        job = one.job
        if job.folder.is_held:
            self.alive.remove(one)
            self.progress.elsewhere.append(job)
            return
        if code.startswith(f"{HELD}:"):
            # The files are those of a process whose lock cannot be seen from here.
            self._end(one, HELD)
            return
        status = job.folder.read_status()
        has_told = one.wrote(status) and status.get("state") == "failed"
        if kind != "FAILED" or not has_told:
            reason = f"{ENDED[kind] or _describe(code)} (SLURM: {state})"
            if kind == "GONE" and not one.has_started:
                reason = "cancelled before it started, as it seems: SLURM knows no more of it"
            log = str(self.submissions.log(one.job_id))
            job.fail(reason, slurm_job=one.job_id, slurm_log=log)
        self._end(one, 1)

    def _end(self, one: Submitted, code: int) -> None:
        self.alive.remove(one)
        self.progress.ended.append((one.job, code))

    def _look_elsewhere(self) -> None:
        free = [job for job in self.progress.elsewhere if not job.folder.is_held]
        self.progress.elsewhere = [job for job in self.progress.elsewhere if job not in free]
        try:
            if free:
                self.submit(free)
        except SlurmError as error:
            self.progress.note = str(error).splitlines()[0]
            self.progress.elsewhere += free

    def _note_signal(self, number: int, _: FrameType | None) -> None:
        self.stopped_by = self.stopped_by or number

    def farewell(self) -> str:
        """Say what becomes of the jobs that are left to themselves."""
        return (
            f"Going on in SLURM: {_count(self.alive)}. The same command shows them again; to end them:\n"
            f"  scancel {_base_ids(self.alive)}"
        )


def _arrays(jobs: Sequence[Job]) -> Iterator[tuple[Sequence[Job], dict[str, Any]]]:
    """Split jobs into arrays: the jobs of one ask for the same, and are no more than SLURM allows.

    What a job asks for stands in its own config, where ``hydra.launcher`` was resolved by its own trainer.
    """
    if not jobs:
        return
    groups: dict[str, list[Job]] = {}
    for job in jobs:
        assert job.cell is not None
        values = job.cell.launcher_values()
        groups.setdefault(json.dumps(values, sort_keys=True), []).append(job)
    size = greatest_array()
    for key, group in groups.items():
        for begin in range(0, len(group), size):
            yield group[begin : begin + size], json.loads(key)


def _refuse_what_no_node_has(jobs: Sequence[Job], values: Mapping[str, Any], there_are: Sequence[Nodes]) -> None:
    """Refuse jobs that could never start.

    Raises:
        SlurmError: no node has what they ask for.
    """
    if (reason := refusal(values, there_are)) is not None:
        for job in jobs:
            job.fail(reason)
        raise SlurmError(reason)


def _count(submitted: Sequence[Submitted]) -> str:
    return f"{len(submitted)} run{'s' * (len(submitted) != 1)} ({_base_ids(submitted)})"


def _base_ids(submitted: Sequence[Submitted]) -> str:
    return " ".join(dict.fromkeys(one.job_id.partition("_")[0] for one in submitted))


def _describe(code: str) -> str:
    """``1:0`` -> exit code 1; ``0:9``, ``137:0`` and ``9:0`` -> killed by SIGKILL.

    The last is srun's: it ends with the number of the signal that ended a task. No task of ours ends so by itself.
    """
    status, _, number = code.partition(":")
    if not status.isdigit():
        return "its process failed"
    if number.isdigit() and int(number):
        return describe_exit(-int(number))
    if 2 <= int(status) <= 64:
        return describe_exit(-int(status))
    return describe_exit(128 - int(status) if 128 < int(status) <= 192 else int(status))


def _link(output: Path, log: Path) -> None:
    """Have a run's ``output.txt`` be SLURM's log of its last job; what another launcher wrote there is kept."""
    if output.exists() and not output.is_symlink():
        return
    output.unlink(missing_ok=True)
    output.symlink_to(os.path.relpath(log, output.parent))


@contextlib.contextmanager
def _holding_back(*numbers: signal.Signals) -> Iterator[None]:
    """Let signals wait; processes that are started within inherit that, so that Ctrl-C does not end sbatch."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
