"""A run that is killed and started again ends with the numbers and weights of an undisturbed one, to the bit."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from conftest import TINY, Command
from outcomes import assert_same, outcome, status_text

# Dropout draws from torch's generator, the flip from the epoch's; labels are wrong; early stopping keeps weights of its
# own: all that a checkpoint must hold.
RUN = [
    *TINY,
    "data.corruption=partial_labels",
    "data.validation=0.2",
    "data.num_train=600",
    "regularizer=[dropout,early_stopping,flip]",
    "regularizer.early_stopping=1000",
    "max_steps=603",
    "evaluate_every=0.5",
    "log_every=7",
    "checkpoint_seconds=0.02",
]


@pytest.fixture
def undisturbed(train: Command) -> Path:
    return train(*RUN)


def finish_despite(start: Callable[..., BaseProcess], results: Path, number: int, pauses: list[float]) -> Path:
    """Send signal ``number`` after each of ``pauses`` seconds, start again, and return the folder in the end.

    The first time they are counted from the first checkpoint, however long that takes on a busy machine.
    """
    command = [f"results_dir={results}", *RUN]
    for i, pause in enumerate(pauses):
        process = start(*command)
        while i == 0 and process.is_alive() and not list(results.glob("*/*/checkpoints/last.ckpt")):
            time.sleep(0.01)
        time.sleep(pause if i else 0.1 * pause)
        if process.is_alive():
            process.kill() if number == signal.SIGKILL else process.terminate()
        process.join()
    process = start(*command)
    process.join()
    assert process.exitcode == 0
    (result,) = results.glob("*/*/result.json")
    return result.parent


def test_killed_at_any_moment(start: Callable[..., BaseProcess], undisturbed: Path, tmp_path: Path) -> None:
    moments = random.Random(0)
    pauses = [moments.uniform(0.3, 2.0) for _ in range(6)]
    killed = finish_despite(start, tmp_path / "killed", signal.SIGKILL, pauses)
    assert_same(outcome(killed), outcome(undisturbed))
    assert "Going on from step" in (tmp_path / "output.txt").read_text(), "no kill fell between two checkpoints"


def test_asked_to_stop(start: Callable[..., BaseProcess], undisturbed: Path, tmp_path: Path) -> None:
    process = start(f"results_dir={tmp_path}/stopped", *RUN, "checkpoint_seconds=1000")
    while "going" not in (text := status_text(tmp_path / "stopped")):
        assert process.is_alive(), text
        time.sleep(0.02)
    process.terminate()
    process.join()
    assert process.exitcode == 128 + signal.SIGTERM
    output = (tmp_path / "output.txt").read_text()
    assert "The same command goes on" in output
    stopped = finish_despite(start, tmp_path / "stopped", signal.SIGTERM, [])
    assert "Going on from step" in (tmp_path / "output.txt").read_text()
    assert_same(outcome(stopped), outcome(undisturbed))
