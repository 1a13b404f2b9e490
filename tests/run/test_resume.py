"""A run that is killed and started again ends with the numbers and weights of an undisturbed one, to the bit."""

from __future__ import annotations

import random
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import TINY, Command, read_result
from rethinkgen.run.checkpoint import load_checkpoint

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
TIMES = ("seconds", "images_per_second", "finished", "overrides", "config")


def outcome(folder: Path) -> dict[str, Any]:
    """Everything that must not depend on how often a run was killed."""
    checkpoint = load_checkpoint(folder / "checkpoints" / "last.ckpt")
    return {
        "result": {key: value for key, value in read_result(folder).items() if key not in TIMES},
        "weights": checkpoint["state_dict"],
        "momentum": [state["momentum_buffer"] for state in checkpoint["optimizer_states"][0]["state"].values()],
        "best": torch.load(folder / "weights.pt", weights_only=True),
        "metrics": (folder / "metrics.csv").read_bytes(),
    }


def assert_same(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert ours["result"] == theirs["result"]
    assert ours["metrics"] == theirs["metrics"]
    assert all(torch.equal(ours["weights"][name], theirs["weights"][name]) for name in theirs["weights"])
    assert all(torch.equal(ours["best"][name], theirs["best"][name]) for name in theirs["best"])
    assert all(torch.equal(a, b) for a, b in zip(ours["momentum"], theirs["momentum"], strict=True))


@pytest.fixture
def undisturbed(train: Command) -> Path:
    return train(*RUN)


def finish_despite(start: Callable[..., BaseProcess], results: Path, number: int, pauses: list[float]) -> Path:
    """Send signal ``number`` after each of ``pauses`` seconds, start again, and return the folder in the end."""
    command = [f"results_dir={results}", *RUN]
    for pause in pauses:
        process = start(*command)
        time.sleep(pause)
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


def status_text(results: Path) -> str:
    """Return ``going`` once the run in ``results`` has trained a step."""
    states = [path.read_text() for path in results.glob("*/*/status.json")]
    return "going" if states and '"step"' in states[0] else f"{states}"
