"""A killer let loose on a sweep: SIGKILLs its jobs and its launcher at random moments, and has it started again.

python tests/sweep/faults.py --kills 100
python tests/sweep/faults.py --kills 100 trainer=ddp_cpu                     # runs of two ranks, either of which dies
python tests/sweep/faults.py --kills 100 --single                            # one run, without a sweep
python tests/sweep/faults.py --kills 100 hydra/launcher=slurm hydra.launcher.cpus_per_task=1
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

ROOT = Path(__file__).parents[2]
RUN = [
    *("model=mlp_1x512", "model.width=16", "trainer=cpu", "threads=1", "until_fit=false", "logger=none"),
    *("regularizer=[dropout,flip]", "checkpoint_seconds=0.1", "evaluate_every=2"),
]
"""A run in which all that a resumed one must bring back matters: dropout, augmentation, momentum."""
GRID = ["-m", *RUN, "data.corruption=none,partial_labels"]
SINGLE = [*RUN, "data.corruption=partial_labels"]


class Launcher(Protocol):
    """A process with the sweep's command."""

    pid: int | None

    @property
    def exitcode(self) -> int | None: ...
    def join(self, timeout: float | None = None) -> None: ...


class Witness(threading.Thread):
    """Reads every JSON file below a folder, over and over: none may ever be half there, no result be replaced."""

    def __init__(self, results: Path) -> None:
        super().__init__(daemon=True)
        self.results = results
        self.first_seen: dict[Path, int] = {}
        self.num_read = 0
        self.torn: list[str] = []
        self.replaced: list[str] = []
        self._is_done = threading.Event()

    def run(self) -> None:
        while not self._is_done.wait(0.02):
            for path in self.results.glob("*/*/*.json"):
                with contextlib.suppress(FileNotFoundError):
                    self._read(path)

    def _read(self, path: Path) -> None:
        with path.open() as file:
            written, text = os.fstat(file.fileno()).st_ino, file.read()
        self.num_read += 1
        try:
            json.loads(text)
        except ValueError:
            self.torn.append(f"{path}: {text!r}")
        if path.name == "result.json" and self.first_seen.setdefault(path, written) != written:
            self.replaced.append(str(path))

    def leave(self) -> None:
        """Stop reading."""
        self._is_done.set()
        self.join()


def torment(
    start: Callable[[], Launcher], results: Path, num_kills: int, seed: int, mean_seconds: float = 1.0
) -> Counter[str]:
    """Kill ``num_kills`` times, starting the command anew whenever it has ended; then let it finish.

    Raises:
        AssertionError: left in peace, the sweep does not end with exit code 0.
    """
    chance = random.Random(seed)
    done: Counter[str] = Counter()
    launcher = start()
    done["starts"] += 1
    while done["jobs killed"] + done["launchers killed"] < num_kills:
        time.sleep(chance.expovariate(1 / mean_seconds))
        if launcher.exitcode is not None:
            if launcher.exitcode == 0:
                return done  # too fast for the killer
            launcher = start()
            done["starts"] += 1
            continue
        jobs = training(results)
        if not jobs:
            continue
        # Each dies at least once, however few the kills and whatever is drawn.
        is_its_turn = done["jobs killed"] >= 3 and not done["launchers killed"]
        if chance.random() < 0.2 or is_its_turn:
            assert launcher.pid is not None
            os.kill(launcher.pid, signal.SIGKILL)
            launcher.join()
            done["launchers killed"] += 1
        else:
            with contextlib.suppress(ProcessLookupError):
                os.kill(chance.choice(jobs), signal.SIGKILL)
                done["jobs killed"] += 1
    launcher.join()
    for _ in range(3):
        if launcher.exitcode == 0:
            return done
        launcher = start()
        done["starts"] += 1
        launcher.join()
    raise AssertionError(f"the sweep ends with exit code {launcher.exitcode}")


def training(results: Path) -> list[int]:
    """Return the process ids of the jobs that train at this moment."""
    found = []
    for path in results.glob("*/*/status.json"):
        with contextlib.suppress(FileNotFoundError, KeyError):
            status: dict[str, Any] = json.loads(path.read_text())
            if status["state"] == "running":
                found += [status["pid"], *followers(status["pid"])]
    return sorted(found)


def followers(pid: int) -> list[int]:
    """Return the process ids of the other ranks of a run."""
    with contextlib.suppress(OSError):
        children = map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        return [
            child for child in children if b"rethinkgen.run.follower" in Path(f"/proc/{child}/cmdline").read_bytes()
        ]
    return []


class Command:
    """The sweep's command as a user starts it."""

    def __init__(self, overrides: list[str], output: Path) -> None:
        with output.open("ab") as file:
            self.process = subprocess.Popen(
                [sys.executable, str(ROOT / "train.py"), *overrides], stdout=file, stderr=subprocess.STDOUT
            )
        self.pid = self.process.pid

    @property
    def exitcode(self) -> int | None:
        return self.process.poll()

    def join(self, timeout: float | None = None) -> None:
        self.process.wait(timeout)


def main() -> None:
    sys.path.insert(0, str(ROOT / "tests"))
    from outcomes import assert_same, outcome

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--steps", type=int, default=20_000)
    parser.add_argument("--num-seeds", type=int, default=6, help="each of them is two runs")
    parser.add_argument("--mean-seconds", type=float, default=1.0, help="between two kills")
    parser.add_argument("--single", action="store_true", help="one run in place of a sweep")
    parser.add_argument("overrides", nargs="*", help="more of the sweep's command")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        results, peace = Path(folder) / "tormented", Path(folder) / "undisturbed"
        grid = SINGLE if arguments.single else [*GRID, f"seed=range(0,{arguments.num_seeds})"]
        grid = [*grid, f"max_steps={arguments.steps}", *arguments.overrides]
        # In one process: how runs are launched changes no bit, and starting them is most of what they cost.
        in_peace = [word for word in grid if not word.startswith(("hydra/launcher", "hydra.launcher"))]
        undisturbed = Command([*in_peace, "hydra/launcher=basic", f"results_dir={peace}"], Path(folder) / "peace.txt")
        undisturbed.join()
        assert undisturbed.exitcode == 0, (Path(folder) / "peace.txt").read_text()
        witness = Witness(results)
        witness.start()
        began = time.monotonic()
        output = Path(folder) / "output.txt"
        done = torment(
            lambda: Command([*grid, f"results_dir={results}"], output),
            results,
            arguments.kills,
            arguments.seed,
            arguments.mean_seconds,
        )
        witness.leave()
        assert done["jobs killed"] + done["launchers killed"] >= arguments.kills, f"too fast for the killer: {done}"
        assert not witness.torn, witness.torn
        assert not witness.replaced, witness.replaced
        left = [*results.glob("*/*/status.json"), *results.glob("*/*/**/*.tmp*")]
        assert not left, left
        runs = sorted(peace.glob("*/*/result.json"))
        assert len(runs) == (1 if arguments.single else 2 * arguments.num_seeds)
        for run in runs:
            assert_same(outcome(results / run.parent.relative_to(peace)), outcome(run.parent))
        counts = ", ".join(f"{count} {what}" for what, count in done.items())
        print(
            f"{len(runs)} runs, {counts} in {time.monotonic() - began:.0f} s; {witness.num_read:,} JSON files read, "
            "all whole; every result bit-identical to the undisturbed sweep's, none written twice"
        )


if __name__ == "__main__":
    main()
