"""Each run of a sweep is one W&B run: closed with its exit code and named once to ``wandb sync``."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from conftest import TINY, Command

RUN = [*(override for override in TINY if override != "logger=none"), "max_steps=30", "checkpoint_seconds=0"]


def wandb(*arguments: str, folder: Path) -> str:
    command = [sys.executable, "-m", "wandb", *arguments]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=True)
    return done.stdout + done.stderr


def test_each_run_is_closed_with_its_exit_code_and_synced_once(
    train: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # Not by this process's environment: the server that jobs are forked from may be older than this test.
    home = [f"+hydra.job.env_set.WANDB_{name}_DIR={tmp_path}/wandb-home" for name in ("CONFIG", "CACHE", "DATA")]
    offline = ["+hydra.job.env_set.WANDB_MODE=offline", *home]
    grid = ["-m", *RUN, *offline, "model.learning_rate=0.01,1e30", "sweep=mine"]
    with pytest.raises(SystemExit):
        train(*grid)
    assert "wandb sync" in capsys.readouterr().out
    files = {path.parents[2].name: path for path in tmp_path.glob("multirun/mine/*/wandb/offline-run-*/*.wandb")}
    assert len(files) == 2
    for name, path in files.items():
        has_result = (tmp_path / "multirun/mine" / name / "result.json").exists()
        told = wandb("leet", "inspect", "--summary", str(path), folder=tmp_path)
        assert f"(exit code {0 if has_result else 1})" in told
    paths = [str(path.parent) for path in files.values()]
    listed = wandb("sync", "--dry-run", *paths, folder=tmp_path)
    assert "Would sync 2 run(s)" in listed
    assert all(listed.count(f"{path.stem}.wandb") == 1 for path in files.values())
