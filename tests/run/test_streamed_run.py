"""Runs on streamed images, through the command line: killed and gone on with, and told what is wrong."""

from __future__ import annotations

import multiprocessing
import os
import random
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest
import torch
from PIL import Image

from conftest import TINY, Command, is_running, read_result, wait_until
from image_folder import make_image_folder
from outcomes import assert_same, outcome, status_text

# Dropout draws from torch's generator in the same process that starts the workers.
RUN = [
    *TINY,
    "data=imagenet",
    "data.crop=16",
    "data.source.resize=20",
    "data.source.num_workers=1",
    "data.batch_size=5",
    "data.validation=0.1",
    "data.corruption=partial_labels",
    "regularizer=[color_jitter,dropout,early_stopping,flip,random_crop]",
    "regularizer.early_stopping=1000",
    "max_steps=203",
    "evaluate_every=2.5",
    "log_every=7",
    "checkpoint_seconds=0.1",
]


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_image_folder(tmp_path_factory.mktemp("images"), num_classes=12, suffix=".jpg")


def last_checkpoint(results: Path) -> float:
    return max((path.stat().st_mtime for path in results.glob("*/*/checkpoints/last.ckpt")), default=0.0)


def test_killed_at_any_moment(start: Callable[..., BaseProcess], train: Command, images: Path, tmp_path: Path) -> None:
    undisturbed = train(*RUN, f"data.root={images}", "data.source.num_workers=0")
    command = [*RUN, f"data.root={images}", f"results_dir={tmp_path}/killed"]
    moments = random.Random(1)
    for _ in range(3):
        before = last_checkpoint(tmp_path / "killed")
        process = start(*command)
        wait_until(lambda: last_checkpoint(tmp_path / "killed") > before or not process.is_alive())  # noqa: B023
        time.sleep(moments.uniform(0, 0.3))
        process.kill()
        process.join()
    process = start(*command)
    process.join()
    assert process.exitcode == 0
    (result,) = (tmp_path / "killed").glob("*/*/result.json")
    assert_same(outcome(result.parent), outcome(undisturbed))
    assert "Going on from step" in (tmp_path / "output.txt").read_text(), "no kill fell between two checkpoints"
    metrics = read_result(undisturbed)["metrics"]
    assert metrics["fit/accuracy"] <= metrics["fit/accuracy_top5"] <= 1
    assert metrics["test/accuracy"] <= metrics["test/accuracy_top5"] <= metrics["test/accuracy_top5_oracle"] <= 1


def test_two_processes_train_as_one(train: Command, images: Path, tmp_path: Path) -> None:
    run = [option for option in RUN if not option.startswith(("regularizer", "max_steps", "trainer"))]
    run += [f"data.root={images}", "regularizer=[flip,random_crop]", "max_steps=20", "trainer.precision=64-true"]
    alone = train(*run, "trainer=cpu")
    together = train(*run, "trainer=ddp_cpu", f"results_dir={tmp_path}/multirun/together")
    (together,) = (tmp_path / "multirun" / "together").glob("*/*")
    ours, theirs = outcome(alone), outcome(together)
    for name, value in ours["weights"].items():
        torch.testing.assert_close(value, theirs["weights"][name], rtol=0, atol=1e-12)
    for name, number in ours["result"]["metrics"].items():
        assert theirs["result"]["metrics"][name] == pytest.approx(number, abs=1e-6), name


def workers_of(pid: int) -> list[int]:
    return [int(child) for path in Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_no_worker_outlives_its_run(
    number: signal.Signals, start: Callable[..., BaseProcess], images: Path, tmp_path: Path
) -> None:
    process = start(*RUN, f"data.root={images}", f"results_dir={tmp_path}/multirun", "max_steps=100000")
    assert process.pid is not None
    pid = process.pid
    wait_until(lambda: bool(workers_of(pid)) or not process.is_alive())
    wait_until(lambda: "going" in status_text(tmp_path / "multirun") or not process.is_alive())
    workers = workers_of(pid)
    assert workers, (tmp_path / "output.txt").read_text()
    if number == signal.SIGKILL:
        for worker in workers:
            os.kill(worker, signal.SIGSTOP)  # so that they cannot find out for themselves, in seconds
    process.kill() if number == signal.SIGKILL else process.terminate()
    process.join()
    # They have inherited the lock on the run's folder.
    wait_until(lambda: not any(map(is_running, workers)))
    if number == signal.SIGTERM:
        output = (tmp_path / "output.txt").read_text()
        assert "The same command goes on" in output
        assert "Traceback" not in output


def test_a_broken_image_ends_the_run_with_its_name(
    train: Command, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    root = make_image_folder(tmp_path / "images")
    broken = root / "train" / "class_2" / "5.png"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:-100])
    with pytest.raises(SystemExit):
        train(*RUN[: len(TINY) + 5], f"data.root={root}", "max_steps=50")
    error = capfd.readouterr().err
    assert "train/class_2/5.png cannot be read" in error
    assert "Traceback" not in error
    assert not multiprocessing.active_children()
    with pytest.raises(OSError, match="truncated"), Image.open(broken) as image:
        image.load()
