"""Faults of the disk; what a killer does to a sweep is ``faults.py``, which ``.ci/run`` starts."""

from __future__ import annotations

import contextlib
import subprocess
from pathlib import Path

import pytest

from conftest import TINY, Command


def test_a_disk_that_fills_up_fails_runs_and_not_the_sweep(
    train: Command, small_disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = ["-m", *TINY, "model.width=64", "seed=range(0,8)", "max_steps=300", f"results_dir={small_disk}"]
    with pytest.raises(SystemExit) as end:
        train(*grid)
    assert end.value.code == 1
    output = capsys.readouterr().out
    assert "no room left" in output
    assert "failed and nothing else" in output
    finished = len(list(small_disk.glob("runs/*/result.json")))
    assert 0 < finished < 8
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    with contextlib.suppress(IndexError, ValueError):  # ``train`` looks for results elsewhere
        train(*grid)
    assert len(list(small_disk.glob("runs/*/result.json"))) == 8
    assert f"{finished} of 8 runs were finished before" in capsys.readouterr().out


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
