"""Types nonsense into every key of every group: each command must be told in a line what is wrong, or begin to train.

``python tests/run/fuzz.py`` types the whole list, which takes some ten minutes on one core, and exits with 1 if a
command ended in any other way; ``--sample 100`` is what CI runs (``.ci/run``), ``--train`` has each command that
begins take some steps (``debug=true``), and words choose the commands that contain them. Commands run in forked
processes, which have torch imported: a second of patience is plenty, and what takes 30 hangs.
"""

from __future__ import annotations

import argparse
import inspect
import multiprocessing
import os
import resource
import sys
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np
from omegaconf import OmegaConf

sys.path.insert(0, str(Path(__file__).parents[1]))

from conftest import ROOT, command_line

CONF = ROOT / "conf"
PATIENCE_SECONDS = 30
MEMORY = 4 << 30
"""Bytes that a command may take beside what the process has before it."""

VALUES = {
    "wrong type": "abc",
    "negative": "-1",
    "zero": "0",
    "large": "1000000000000",
    "huge": "1e30",
    "nan": "nan",
    "empty": "''",
    "list": "[1,2]",
    "null": "null",
}
AWAY = "away"
"""The kind of cell whose key is taken away, by ``~key``."""
QUICK = {"model": "mlp_1x512", "trainer": "cpu", "logger": "none"}
"""Group -> the choice beside which the keys of other groups are tried."""
GROUPS = ("data", "data.corruption", "model", "loss", "regularizer", "optimizer", "schedule", "trainer", "logger")
SWEEPERS = {
    "hydra/sweeper=grid": ("hydra.sweeper.params", "hydra.sweeper.grids"),
    "hydra/launcher=pool": tuple(f"hydra.launcher.{name}" for name in ("n_jobs", "jobs_per_gpu", "timeout_min")),
    "hydra/sweeper=optuna": tuple(
        f"hydra.sweeper.{name}"
        for name in ("n_trials", "n_jobs", "objective", "direction", "max_failure_rate", "retry_failed", "study_name")
    ),
}


IN_TRAINING = ("Try a smaller learning rate", "of the solution", "not positive definite", "needs images of at least")
"""What is said of numbers that diverge, or of the choice beside which a key is tried: it is nothing about the value."""


@dataclass(frozen=True)
class Cell:
    """A command with one mistake, or what may be one."""

    key: str
    kind: str
    arguments: tuple[str, ...]

    def __str__(self) -> str:
        return " ".join(self.arguments)


@dataclass(frozen=True)
class Outcome:
    """How a command ended: ``trains`` or ``told``; else it is ``vague``, ``silent``, ``late``, a ``traceback``, or
    ``hangs``.
    """

    how: str
    said: str = ""

    @property
    def is_fine(self) -> bool:
        return self.how in ("trains", "told")


def cells() -> Iterator[Cell]:
    """Yield the whole list: every key of ``conf/``, of the Trainer and of our classes' options, with every value."""
    known: set[tuple[str, ...]] = set()
    for key, choices, plus in (*_keys_of_all(), *_keys_of_choices(), *_further_keys(), *_keys_of_sweeps()):
        arguments = [f"{plus}{key}={value}" for value in VALUES.values()] + ([] if plus else [f"~{key}"])
        for kind, argument in zip((*VALUES, AWAY), arguments, strict=False):
            cell = Cell(key, kind, (*choices, argument))
            if cell.arguments not in known:
                known.add(cell.arguments)
                yield cell


def sample(number: int) -> list[Cell]:
    """Return so many of the cells, the same each time."""
    found = list(cells())
    chosen = np.random.default_rng(14).choice(len(found), number, replace=False)
    return [found[place] for place in sorted(chosen)]


def _choices(**changed: str) -> tuple[str, ...]:
    return tuple(f"{group}={choice}" for group, choice in (QUICK | changed).items())


def _flat(node: Any, prefix: str = "") -> Iterator[str]:
    for name, value in node.items():
        yield from _flat(value, f"{prefix}{name}.") if isinstance(value, dict) and value else [f"{prefix}{name}"]


def _keys_of_all() -> Iterator[tuple[str, tuple[str, ...], str]]:
    root: Any = OmegaConf.to_container(OmegaConf.load(CONF / "train.yaml"))
    for key in _flat({name: node for name, node in root.items() if name not in ("defaults", "hydra", "results_dir")}):
        yield key, _choices(), ""
    for key in (*GROUPS, "data.source"):
        yield key, _choices(), ""


def _keys_of_choices() -> Iterator[tuple[str, tuple[str, ...], str]]:
    for group in GROUPS:
        for path in sorted((CONF / group).glob("*.yaml")):
            chosen = _choices(**{group: f"[{path.stem}]" if group == "regularizer" else path.stem})
            node: Any = OmegaConf.to_container(OmegaConf.load(path))
            for key in _flat(node):
                yield f"{group}.{key}", chosen, ""


def _further_keys() -> Iterator[tuple[str, tuple[str, ...], str]]:
    from pytorch_lightning import Trainer

    from rethinkgen.run.identity import rules

    for name in inspect.signature(Trainer.__init__).parameters:
        if name not in ("self", "accelerator", "devices", "precision", "sync_batchnorm", "deterministic"):
            yield f"trainer.{name}", _choices(), "+"
    for optimizer, target in {"sgd": "SGD", "adam": "Adam", "rmsprop": "RMSprop"}.items():
        for option in rules()["classes"][f"torch.optim.{target}"]:
            yield f"optimizer.{option}", _choices(optimizer=optimizer), "++"
    for option in ("channels_last", "runs_alone", "declares", "closed_form"):
        yield f"model.{option}", _choices(), "++"


def _keys_of_sweeps() -> Iterator[tuple[str, tuple[str, ...], str]]:
    for choice, keys in SWEEPERS.items():
        ranges = ("model.learning_rate=interval(0.01,0.1)",) if "optuna" in choice else ("seed=0,1",)
        for key in keys:
            yield key, ("-m", choice, *_choices(), *ranges), ""


# Running them.


class Begins(BaseException):
    """Training would begin now."""


def outcomes(chosen: Sequence[Cell], *, train: bool = False) -> Iterator[tuple[Cell, Outcome]]:
    """Yield how each command ends."""
    context = multiprocessing.get_context("fork")
    process: Any = None
    ours: Any = None
    for cell in chosen:
        if process is None:
            ours, theirs = context.Pipe()
            process = context.Process(target=_work, args=(theirs, train), daemon=True)
            process.start()
            theirs.close()
        ours.send(cell)
        outcome = Outcome("hangs")
        if ours.poll(PATIENCE_SECONDS):
            try:
                outcome = ours.recv()
            except EOFError:
                outcome = Outcome("traceback", "the process died")
        if outcome.how in ("hangs", "traceback"):
            process.kill()
            process.join()
            process = None
        yield cell, outcome
    if process is not None:
        process.kill()
        process.join()


def _work(pipe: Connection, train: bool) -> None:
    from rethinkgen.run import entry
    from rethinkgen.run.training import Training
    from rethinkgen.sweep.pool import Pool

    def begin(*_: Any, **__: Any) -> None:
        raise Begins

    Pool.run = begin  # type: ignore[method-assign, assignment]
    if not train:
        Training.run = begin  # type: ignore[method-assign, assignment]
    assert entry
    size = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY, resource.RLIM_INFINITY))
    os.environ["WANDB_MODE"] = "disabled"
    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        with open("output.txt", "w+") as output:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            while True:
                cell = pipe.recv()
                output.seek(0)
                output.truncate()
                how = _run(cell, train)
                sys.stdout.flush()
                sys.stderr.flush()
                pipe.send(_judged(cell, how, Path("output.txt").read_text(errors="replace")))


def _run(cell: Cell, train: bool) -> str:
    is_single = "-m" not in cell.arguments
    trial = ["debug=true"] if train and is_single and not cell.key.startswith("debug") else []
    try:
        command_line("results_dir=multirun", "threads=1", *trial, *(a for a in cell.arguments if a != "threads=1"))
    except Begins:
        return "trains"
    except SystemExit as error:
        return "told" if error.code not in (0, None) else "silent"
    except BaseException as error:
        return f"traceback: {type(error).__name__}: {error}"
    return "trains" if train else "silent"


def _judged(cell: Cell, how: str, said: str) -> Outcome:
    said = "\n".join(line for line in said.splitlines() if line.strip())
    if how.startswith("traceback"):
        return Outcome("traceback", f"{how}\n{said}")
    if how == "told" and any(words in said for words in IN_TRAINING):
        return Outcome("trains", said)
    if how == "told":
        if "Traceback" in said:
            return Outcome("traceback", said)
        if "The run's folder" in said:
            return Outcome("late", said)
        # Or another key that the value does not go with.
        if cell.key.rpartition(".")[2] not in said and f" {cell.key.partition('.')[0]}." not in said:
            return Outcome("vague", said)
    return Outcome(how, said)


def main() -> int:
    """Run the cells that the command line chooses, and tell of those that end badly."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("words", nargs="*")
    parser.add_argument("--sample", type=int)
    parser.add_argument("--train", action="store_true")
    parser.add_argument("--all", action="store_true", help="tell of those that end well, too")
    asked = parser.parse_args()
    import rethinkgen.run.training  # noqa: F401  # before the fork

    chosen = sample(asked.sample) if asked.sample else list(cells())
    chosen = [cell for cell in chosen if all(word in str(cell) for word in asked.words)]
    counts: Counter[str] = Counter()
    for cell, outcome in outcomes(chosen, train=asked.train):
        counts[outcome.how] += 1
        if asked.all or not outcome.is_fine:
            print(f"{outcome.how:9} {cell}\n    " + "\n    ".join(outcome.said.splitlines()[-12:]), flush=True)
    print(f"{len(chosen):,} commands:", ", ".join(f"{count:,} {how}" for how, count in counts.most_common()))
    return 0 if set(counts) <= {"trains", "told"} else 1


if __name__ == "__main__":
    sys.exit(main())
