"""Faults of the disk; what a killer does to a sweep is ``faults.py``, which ``.ci/run`` starts."""

from __future__ import annotations

import contextlib
import errno
import signal
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from conftest import TINY, Command
from rethinkgen.run.folder import RunFolder
from rethinkgen.run.last_words import heard_by
from rethinkgen.sweep import pool, slurm_task
from rethinkgen.sweep.child import run_in_child
from rethinkgen.sweep.slurm import _describe


def test_jobs_that_can_write_nothing_at_all_say_why_and_the_others_go_on(
    train: Command, small_disk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Not a page is left for ``status.json``, or the disk can only be read: one job after the other meets a disk."""
    filler, pool_make_process = small_disk / "filler", pool.make_process

    def fill() -> None:
        with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
            while True:
                file.write(bytes(4096))

    def remount(option: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{option}", str(small_disk)], check=True)

    disks = iter([lambda: None, fill, lambda: remount("ro"), lambda: remount("rw,size=20m")])

    def make_process(target: Any, *arguments: Any) -> Any:
        if target is run_in_child:
            next(disks)()
        return pool_make_process(target, *arguments)

    monkeypatch.setattr(pool, "make_process", make_process)
    grid = ["-m", *TINY, "seed=range(0,4)", "max_steps=20", f"results_dir={small_disk}", "hydra.launcher.n_jobs=1"]
    with pytest.raises(SystemExit) as end:
        train(*grid)
    assert end.value.code == 1
    output = " ".join(capsys.readouterr().out.split())
    assert "failed: there is no room left to write the run's files ([Errno 28]" in output
    assert "failed: the run's files can no longer be written ([Errno 30]" in output
    assert "The same command runs the 2 failed and nothing else" in output
    monkeypatch.undo()
    with contextlib.suppress(ValueError):  # ``train`` looks for results elsewhere
        train(*grid)
    assert len(list(small_disk.glob("runs/*/result.json"))) == 4
    assert "2 of 4 runs were finished before" in capsys.readouterr().out


def test_a_slurm_task_that_can_write_nothing_says_so_by_its_exit_code(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(slurm_task, "_Requeue", lambda folder: SimpleNamespace(signal=signal.SIGUSR2, obey=print))
    monkeypatch.setattr("rethinkgen.run.folder.write_atomically", write)
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGUSR2)}
    try:
        with pytest.raises(SystemExit) as end:
            slurm_task.run_in_task(write, RunFolder(tmp_path))
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        heard_by(None)
    assert "nothing could be written into its folder" in _describe(f"{end.value.code}:0")


def test_a_read_only_folder_is_named_before_anything_begins(
    train: Command, small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(SystemExit) as end:
        train("-m", *TINY, "seed=0,1", f"results_dir={small_disk}")
    assert end.value.code == 1
    error = capsys.readouterr().err
    assert f"results_dir='{small_disk}'" in error
    assert "cannot be written to" in error
