"""The processes that train one run together, each on a device of its own: how they start, and how they end.

Rank 0 is the process that somebody started: the user, a sweep, or SLURM. It alone holds the run's lock, decides whether
there is anything to train, writes files and speaks. The others, the followers, train their share and nothing else. Rank
0 starts them as fresh interpreters, unless SLURM did. Every follower and rank 0 hold the two ends of a connection, on
which rank 0 says when to begin and each follower how it ended. A process that dies, whatever kills it, closes its end:
so the other side knows at once, also across machines, and no rank trains on or waits for one that is gone.

Light to import, since a finished run is skipped without torch.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from rethinkgen.console import say, stderr
from rethinkgen.errors import Interrupted, RankDiedError, is_of
from rethinkgen.machine import num_cores, visible_gpus
from rethinkgen.signals import STOPPING

GATHERING_SECONDS = 600.0
"""How long SLURM's tasks wait for each other when a job starts."""
PARTING_SECONDS = 3.0
"""How long rank 0 has to end by itself when a follower died, and how long it looks for who caused an error."""
HANGING_SECONDS = 8.0
"""How long after a signal rank 0 must have stopped, else it hangs; more than ``checkpoint.GRACE_SECONDS``."""
SILENT_SECONDS = 5.0
"""After which the first of SLURM's tasks says for whom it waits."""
SPEAKING_SECONDS = 60.0
"""After which it says so again, and the others do too."""
FINISHING_SECONDS = 30.0
"""How long followers have to end after the last step."""
MOST_ON_ANY_MACHINE = 16
"""Ranks that may be tried out on any machine, however few cores it has."""


GiveUp = Callable[[BaseException], None]


@dataclass
class Ranks:
    """The place of this process among those that train a run together; by default it trains alone."""

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1
    """How many of them are on this machine."""
    has_own_cores: bool = False
    """Whether it need not share this machine's cores with them."""
    node: int = 0
    num_nodes: int = 1
    address: str = "127.0.0.1"
    """Where torch's process group meets."""
    port: int = 0

    @property
    def is_leading(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    def begin(self, folder: Path, run_identity: dict[str, Any]) -> None:
        """Have the followers begin: the run must be trained."""

    @contextlib.contextmanager
    def fetching_data(self) -> Iterator[None]:
        """Fetch what is missing of the data within: rank 0 first, so that no two processes download it."""
        yield

    @contextlib.contextmanager
    def together(self, give_up: GiveUp) -> Iterator[None]:
        """Train within: the death of a rank ends all others.

        Where this thread hangs, since it waits for a rank that is gone or does not answer, another one calls
        ``give_up`` to tell of it, and ends the process.
        """
        yield


class Follower(Ranks):
    """Any rank but 0."""

    def connect(self, connection: socket.socket) -> dict[str, Any] | None:
        """Wait until rank 0 says that there is something to train: what, or nothing where there is not."""
        self._connection = connection
        self._is_fetched = threading.Event()
        self._has_ended = False
        if not (line := _read_line(connection)):
            return None
        begin: dict[str, Any] = json.loads(line)
        self.address, self.port = begin["address"], begin["port"]
        threading.Thread(target=self._listen, daemon=True).start()
        return begin

    def _listen(self) -> None:
        while _read_line(self._connection):
            self._is_fetched.set()
        if not self._has_ended:
            print("Rank 0 is gone, so this rank ends too.", file=sys.stderr, flush=True)
            os._exit(1)

    @contextlib.contextmanager
    def fetching_data(self) -> Iterator[None]:
        """Fetch within, after rank 0 has."""
        self._is_fetched.wait()
        yield

    def end(self, error: str = "") -> None:
        """Tell rank 0 how this rank ended: with an error of its own, or as all ranks do."""
        self._has_ended = True
        with contextlib.suppress(OSError):
            _send(self._connection, {"error": error})


class Leader(Ranks):
    """Rank 0 of several."""

    def __init__(self, **place: Any) -> None:
        super().__init__(**place)
        self._connections: dict[int, socket.socket] = {}
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._logs: dict[int, Path] = {}
        self._watchers: list[threading.Thread] = []
        self._stage: Literal["preparing", "training", "over"] = "preparing"
        self._ends: dict[int, str] = {}
        """Rank -> how it died, or nothing where it ended as all do."""
        self._changed = threading.Condition()
        """Guards the two above."""

    def gather(self) -> None:
        """Wait for the tasks that SLURM started beside this one.

        Raises:
            RankDiedError: they did not all come.
        """
        host = self.address if self.num_nodes == 1 else ""
        missing = set(range(1, self.size))
        waiting = _Waiting(lambda: f"SLURM's {_tasks(missing)}", silent=SILENT_SECONDS)
        with socket.create_server((host, _meeting_port())) as server:
            server.settimeout(0.5)
            while missing:
                try:
                    connection, _ = server.accept()
                except TimeoutError:
                    waiting.go_on()
                    continue
                connection.settimeout(None)
                rank = json.loads(_read_line(connection))["rank"]
                self._connections[rank] = connection
                missing.remove(rank)

    def begin(self, folder: Path, run_identity: dict[str, Any]) -> None:
        """Start the followers, if SLURM has not, and have them begin."""
        self.port = _free_port(self.address if self.num_nodes == 1 else "")
        begin = {"address": self.address, "port": self.port, "folder": str(folder), "identity": run_identity}
        if not self._connections:
            for rank in range(1, self.size):
                self._start(rank, folder)
        self._tell(begin)
        self._watchers = [threading.Thread(target=self._watch, args=(rank,), daemon=True) for rank in self._connections]
        for watcher in self._watchers:
            watcher.start()

    def _start(self, rank: int, folder: Path) -> None:
        ours, theirs = socket.socketpair()
        self._connections[rank] = ours
        self._logs[rank] = folder / f"rank{rank}.log"
        with self._logs[rank].open("wb") as output, theirs:
            self._processes[rank] = subprocess.Popen(
                # -P: what lies in the current folder takes the place of nothing.
                [sys.executable, "-P", "-m", "rethinkgen.run.follower", *map(str, (theirs.fileno(), rank, self.size))],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                pass_fds=[theirs.fileno()],
            )

    @contextlib.contextmanager
    def fetching_data(self) -> Iterator[None]:
        """Fetch within; then the followers may."""
        yield
        self._tell({"is_fetched": True})

    @contextlib.contextmanager
    def together(self, give_up: GiveUp) -> Iterator[None]:
        """Train within; an error that comes of a follower's death names it.

        Raises:
            RankDiedError: a follower died.
        """
        self._give_up = give_up
        if (death := self._death()) is not None:
            raise death
        self._enter("training")
        try:
            with self._stoppable():
                yield
        except Exception as error:
            self._enter("over")
            if _is_lost_connection(error) and (death := self._death(PARTING_SECONDS)) is not None:
                raise death from error
            raise
        finally:
            self._enter("over")

    def close(self, *, is_finished: bool) -> None:
        """End the followers: let them finish where training has, or kill them."""
        self._enter("over")
        if is_finished:
            with self._changed:
                self._changed.wait_for(lambda: len(self._ends) == len(self._watchers), FINISHING_SECONDS)
        for process in self._processes.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(FINISHING_SECONDS if is_finished else 0)
            process.kill()
            process.wait()
        for connection in self._connections.values():
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)  # which also wakes its watcher
        for watcher in self._watchers:
            watcher.join()
        for connection in self._connections.values():
            connection.close()

    def _enter(self, stage: Literal["training", "over"]) -> None:
        with self._changed:
            self._stage = stage
            self._changed.notify_all()

    def _tell(self, message: dict[str, Any]) -> None:
        for connection in self._connections.values():
            with contextlib.suppress(OSError):  # it died, which is told once training needs it
                _send(connection, message)

    def _watch(self, rank: int) -> None:
        """Note how a follower ends; where it died and the main thread hangs for that, give up."""
        last_word = _read_line(self._connections[rank])
        end = json.loads(last_word)["error"] if last_word else self._how_killed(rank)
        with self._changed:
            self._ends[rank] = end
            self._changed.notify_all()
            if not end:
                return
            # While it prepares, rank 0 will come upon the same fault and tell of it better.
            self._changed.wait_for(lambda: self._stage != "preparing")
            if self._changed.wait_for(lambda: self._stage == "over", PARTING_SECONDS):
                return
            death = self._death()
            assert death is not None
            self._leave(death, 1)

    @contextlib.contextmanager
    def _stoppable(self) -> Iterator[None]:
        """Have a signal end this process also while it waits for another rank, where Python's handlers never run."""
        ours, theirs = socket.socketpair()
        theirs.setblocking(False)
        before = signal.set_wakeup_fd(theirs.fileno(), warn_on_full_buffer=False)
        threading.Thread(target=self._watch_signals, args=(ours,), daemon=True).start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(before)
            theirs.close()

    def _watch_signals(self, wakeups: socket.socket) -> None:
        with wakeups:
            while number := wakeups.recv(1):
                if number[0] not in STOPPING:
                    continue
                with self._changed:
                    if not self._changed.wait_for(lambda: self._stage == "over", HANGING_SECONDS):
                        self._leave(Interrupted(number[0]), 128 + number[0])

    def _leave(self, error: BaseException, code: int) -> None:
        """End this process and all others, whatever the main thread does."""
        self._give_up(error)
        for process in self._processes.values():
            process.kill()
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)

    def _how_killed(self, rank: int) -> str:
        if rank not in self._processes:
            return "died without a word: it was killed, or its machine failed"
        code = self._processes[rank].wait()
        how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        tail = self._logs[rank].read_text(encoding="utf-8", errors="replace").strip().splitlines()[-20:]
        return "\n".join([f"{how}; the end of {self._logs[rank]}:", *tail] if tail else [how])

    def _death(self, seconds: float = 0) -> RankDiedError | None:
        """Return who died and how, if that is known within ``seconds``."""
        with self._changed:
            self._changed.wait_for(lambda: any(self._ends.values()), seconds)
            deaths = [f"rank {rank} {how}" for rank, how in sorted(self._ends.items()) if how]
        return RankDiedError("\n".join(deaths)) if deaths else None


def is_follower(trainer: Mapping[str, Any]) -> bool:
    """Whether SLURM started this process as another rank than 0 of a run on several devices.

    Raises:
        ValueError: SLURM started another number of processes than the trainer has devices.
    """
    return _slurm_rank(trainer) not in (None, 0)


def num_slurm_tasks() -> int:
    """Return how many tasks srun started together with this process, itself among them."""
    return int(os.environ.get("SLURM_STEP_NUM_TASKS", 1))


def follow_slurm() -> tuple[Follower, dict[str, Any] | None]:
    """Return this process's place and what rank 0 says to begin with: nothing where there is nothing to train."""
    ranks = Follower(**_slurm_place())
    return ranks, ranks.connect(_meet_rank_zero())


@contextlib.contextmanager
def leading(trainer: Mapping[str, Any]) -> Iterator[Ranks]:
    """Lead the processes that the trainer asks for; whatever happens within, none outlives it.

    Raises:
        ValueError: the trainer asks for what cannot be.
    """
    if _slurm_rank(trainer) == 0:
        ranks = Leader(**_slurm_place())
        ranks.gather()
    else:
        size = num_devices(trainer)
        if trainer.get("num_nodes", 1) != 1:
            raise ValueError(f"trainer.num_nodes={trainer['num_nodes']}: several machines only through SLURM.")
        if int(os.environ.get("TORCHELASTIC_RESTART_COUNT", -1)) >= 0 and os.environ.get("WORLD_SIZE") != "1":
            raise ValueError("start the command itself, not through torchrun: it starts its ranks.")
        if size == 1:
            yield Ranks()
            return
        check_size(size)
        ranks = Leader(size=size, local_size=size)
    is_finished = False
    try:
        yield ranks
        is_finished = True
    finally:
        ranks.close(is_finished=is_finished)


def check_size(size: int) -> None:
    """Refuse to start more processes than make sense on this machine.

    Raises:
        ValueError: it is more.
    """
    cores, gpus = num_cores(), len(visible_gpus())
    if size > (most := max(MOST_ON_ANY_MACHINE, cores, gpus)):
        raise ValueError(
            f"trainer.devices={size}: each device is a process, and this machine has {cores} cores and {gpus} GPUs. At "
            f"most {most} are started."
        )


def wants_gpu(trainer: Mapping[str, Any]) -> bool:
    """Whether a trainer takes GPUs where there are some."""
    return trainer.get("accelerator", "auto") in ("auto", "gpu", "cuda")


def num_devices(trainer: Mapping[str, Any]) -> int:
    """Return how many devices of one machine the trainer asks for; 1 where its value makes no sense to us."""
    devices = trainer.get("devices", 1)
    if isinstance(devices, str) and re.fullmatch(r"\d+(,\d+)+", devices):
        return devices.count(",") + 1
    if isinstance(devices, Sequence) and not isinstance(devices, str):
        return len(devices)
    if devices in ("auto", "-1", -1):
        return _num_gpus() if wants_gpu(trainer) else 1
    with contextlib.suppress(TypeError, ValueError):
        return max(1, int(devices))
    return 1  # what Lightning will say about it


def _num_gpus() -> int:
    import torch

    return max(1, torch.cuda.device_count())


def _slurm_rank(trainer: Mapping[str, Any]) -> int | None:
    """Return which of a step's tasks this is, or nothing where SLURM did not start this run's ranks.

    Of a step: in a batch script the job's variables speak of several tasks too, but only srun starts them.
    """
    num_tasks = num_slurm_tasks()
    if num_tasks == 1:
        return None
    is_auto = trainer.get("devices", 1) in ("auto", "-1", -1)
    size = num_tasks if is_auto else num_devices(trainer) * trainer.get("num_nodes", 1)
    if size == 1:
        return None
    if size != num_tasks:
        raise ValueError(
            f"trainer.devices={trainer['devices']} on trainer.num_nodes={trainer.get('num_nodes', 1)}: SLURM started "
            f"{num_tasks} tasks, one for each device is needed (tasks_per_node and nodes of hydra.launcher). "
            f"{_why_slurm()}"
        )
    return int(os.environ["SLURM_PROCID"])


def _slurm_place() -> dict[str, Any]:
    num_nodes = int(os.environ.get("SLURM_STEP_NUM_NODES", 1))
    size = int(os.environ["SLURM_STEP_NUM_TASKS"])
    return {
        "rank": int(os.environ["SLURM_PROCID"]),
        "size": size,
        "local_rank": int(os.environ["SLURM_LOCALID"]),
        "local_size": size // num_nodes,
        "has_own_cores": "SLURM_CPUS_PER_TASK" in os.environ,
        "node": int(os.environ["SLURM_NODEID"]),
        "num_nodes": num_nodes,
        "address": "127.0.0.1" if num_nodes == 1 else _first_host(os.environ["SLURM_STEP_NODELIST"]),
    }


def _first_host(nodes: str) -> str:
    """``gpu[03-05,09],cpu1`` -> ``gpu03``."""
    found = re.match(r"([^\[,]+)(?:\[([^\],-]+))?", nodes)
    assert found is not None
    return found[1] + (found[2] or "")


def _meeting_port() -> int:
    # Known to all tasks of a job without a word. An array's tasks are jobs of their own.
    return 15000 + int(os.environ["SLURM_JOB_ID"]) % 10000


def _meet_rank_zero() -> socket.socket:
    place = _slurm_place()
    waiting = _Waiting(lambda: f"SLURM's task 0 on {place['address']}", silent=SPEAKING_SECONDS)
    while True:
        try:
            connection = socket.create_connection((place["address"], _meeting_port()), timeout=10)
        except OSError as error:
            waiting.go_on(f" ({error})")
            time.sleep(0.1)
            continue
        connection.settimeout(None)
        _send(connection, {"rank": place["rank"]})
        return connection


class _Waiting:
    """A task's wait for others: says for whom, and why it thinks that they will come.

    They never do in a shell that srun opened for several tasks: of those only the first has a terminal.
    """

    def __init__(self, whom: Callable[[], str], silent: float) -> None:
        self._whom = whom
        self._began = time.monotonic()
        self._due = silent

    def go_on(self, error: str = "") -> None:
        """Say so if it is time to.

        Raises:
            RankDiedError: they did not come.
        """
        seconds = time.monotonic() - self._began
        if seconds > GATHERING_SECONDS:
            raise RankDiedError(f"{self._whom()} did not start in {GATHERING_SECONDS:.0f} s{error}. {_why_slurm()}")
        if seconds >= self._due:
            self._due += SPEAKING_SECONDS
            say(f"Waiting for {self._whom()}, {seconds:.0f} s so far{error}. {_why_slurm()}", to=stderr())


def _tasks(ranks: Collection[int]) -> str:
    """``{2, 3}`` -> tasks 2, 3; of many the first."""
    first = ", ".join(map(str, sorted(ranks)[:8]))
    return f"task{'s' * (len(ranks) != 1)} {first}" + (f" and {len(ranks) - 8} more" if len(ranks) > 8 else "")


def _why_slurm() -> str:
    return (
        f"SLURM_STEP_NUM_TASKS={os.environ['SLURM_STEP_NUM_TASKS']} says that srun started so many tasks. In a shell "
        "that srun opened (--pty) only the first runs commands: with env -u SLURM_STEP_NUM_TASKS before it, a command "
        "starts its ranks itself."
    )


def _free_port(host: str) -> int:
    with socket.create_server((host, 0)) as server:
        port: int = server.getsockname()[1]
        return port


def _send(connection: socket.socket, message: dict[str, Any]) -> None:
    connection.sendall(json.dumps(message).encode() + b"\n")


def _read_line(connection: socket.socket) -> bytes:
    """Return the next line, or nothing where the other side closed or died; reads no byte beyond it."""
    line = b""
    while not line.endswith(b"\n"):
        try:
            byte = connection.recv(1)
        except OSError:
            return b""
        if not byte:
            return b""
        line += byte
    return line


def _is_lost_connection(error: Exception) -> bool:
    """Whether torch's process group says that another rank no longer answers."""
    return is_of(error, "torch.distributed", "DistError") or (
        isinstance(error, RuntimeError) and any(word in str(error).lower() for word in ("gloo", "nccl", "connection"))
    )
