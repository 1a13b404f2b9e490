"""Fixtures that run ``train.py`` as a user would: in this process, or in one of its own that can be killed."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import os
import runpy
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

import installed
from rethinkgen.run.entry import wait_politely

wait_politely()  # before a test imports torch

# The same examples each time, on a machine however busy.
settings.register_profile("here", deadline=None, derandomize=True, database=None, max_examples=60)
settings.load_profile("here")

ROOT = Path(__file__).parents[1]
TINY = ["model=mlp_1x512", "model.width=16", "trainer=cpu", "logger=none", "threads=1", "until_fit=false"]
"""Overrides of a run that takes well under a second."""

PATIENCE_SECONDS = 120.0
"""What takes a second or ten on an idle machine may take, on one however busy, before it counts as never."""

Command = Callable[..., Path]
Measure = Callable[..., int]


def command_line(*overrides: str) -> None:
    """Run ``python train.py *overrides`` here."""
    before = sys.argv
    sys.argv = ["train.py", *overrides]
    try:
        runpy.run_path(str(ROOT / "train.py"), run_name="__main__")
    finally:
        sys.argv = before


def in_own_process(folder: Path, *overrides: str) -> None:
    """Body of a process of its own: its output goes to ``folder/output.txt``."""
    os.chdir(folder)
    with (folder / "output.txt").open("a") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    command_line(*overrides)


@pytest.fixture
def train(tmp_path: Path) -> Command:
    """Run ``train.py`` with overrides and return the run's folder; raises ``SystemExit`` where the command fails."""

    def run(*overrides: str) -> Path:
        with contextlib.chdir(tmp_path):
            command_line(f"results_dir={tmp_path}/multirun", *overrides)
        folders = [path.parent for path in (tmp_path / "multirun").glob("*/*/result.json")]
        return max(folders, key=lambda folder: (folder / "result.json").stat().st_mtime)

    return run


@pytest.fixture
def start(tmp_path: Path) -> Callable[..., BaseProcess]:
    """Start ``train.py`` in a process of its own, forked from a server that has torch imported."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["rethinkgen.run.training"])

    def begin(
        *overrides: str,
        folder: Path = tmp_path,
        body: Callable[..., None] = in_own_process,
        arguments: tuple[Any, ...] = (),
    ) -> BaseProcess:
        process = context.Process(target=body, args=(folder, *arguments, *overrides))
        process.start()
        return process

    return begin


@pytest.fixture
def measure(tmp_path: Path) -> Measure:
    """Run ``python measure.py`` in this process, without others; return the exit code."""

    def run(*arguments: object) -> int:
        before = sys.argv
        sys.argv = ["measure.py", *map(str, arguments), "hydra/launcher=basic"]
        try:
            with contextlib.chdir(tmp_path):
                runpy.run_path(str(ROOT / "measure.py"), run_name="__main__")
        except SystemExit as error:
            return int(error.code or 0)
        finally:
            sys.argv = before
        return 0

    return run


@pytest.fixture(scope="session")
def small_sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a finished sweep: true and random labels, two seeds, four tiny runs. To be copied, not changed."""
    results = tmp_path_factory.mktemp("small") / "multirun"
    grid = ["data.corruption=none,random_labels", "seed=0,1", "data.num_train=200", "max_steps=40"]
    command_line("-m", "hydra/launcher=basic", *TINY, *grid, f"results_dir={results}", "sweep=small")
    return results / "small"


@pytest.fixture(scope="session")
def installed_wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The ``bin`` of an environment of its own that has rethinkgen from a wheel; ``RETHINKGEN_WHEEL`` is kept."""
    kept = os.environ.get("RETHINKGEN_WHEEL")
    folder = Path(kept) if kept else tmp_path_factory.mktemp("wheel")
    yield installed.install(folder)
    if not kept:
        shutil.rmtree(folder)  # tens of thousands of files


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own with 600 kB."""
    folder = tmp_path / "small"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=600k", "tmpfs", str(folder)], check=False)
    if mounted.returncode:
        pytest.skip("mounting a file system is not allowed here")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def wait_until(condition: Callable[[], bool], seconds: float = PATIENCE_SECONDS) -> None:
    """Return once ``condition()`` holds; it must within ``seconds``."""
    give_up_at = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < give_up_at
        time.sleep(0.02)


def is_running(pid: int) -> bool:
    """Whether a process exists and is no zombie."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


def ctrl_c(launcher: BaseProcess, folder: Path) -> str:
    """Interrupt a command that was started in ``folder``; it must end in order. Return what it printed."""
    assert launcher.pid is not None
    os.kill(launcher.pid, signal.SIGINT)
    launcher.join()
    output = (folder / "output.txt").read_text()
    assert launcher.exitcode == 128 + signal.SIGINT, output
    assert "Traceback" not in output
    return output


def read_result(folder: Path) -> dict[str, Any]:
    """Return the run's ``result.json``."""
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    return result
