"""What becomes of a run whose disk is full, can only be read, or is gone in mid-run: a line, and the same command."""

from __future__ import annotations

import contextlib
import json
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import TINY, Command
from outcomes import assert_same, outcome
from rethinkgen.commands.report import main as report
from rethinkgen.run.curves import read_rows
from rethinkgen.run.metrics_table import MetricsTable

RUN = [*TINY, "max_steps=60", "evaluate_every=1", "checkpoint_seconds=0"]


@contextlib.contextmanager
def full(run: Path) -> Iterator[None]:
    filler = run.parent / "filler"
    with contextlib.suppress(OSError), filler.open("wb", buffering=0) as file:
        while True:
            file.write(bytes(4096))
    yield
    filler.unlink()


@contextlib.contextmanager
def read_only(run: Path) -> Iterator[None]:
    # Over the folder itself, as files of it are open.
    subprocess.run(["mount", "--bind", str(run), str(run)], check=True)
    subprocess.run(["mount", "-o", "remount,ro,bind", str(run)], check=True)
    yield
    subprocess.run(["umount", "-l", str(run)], check=True)


@contextlib.contextmanager
def gone(run: Path) -> Iterator[None]:
    shutil.rmtree(run)
    yield


@pytest.mark.parametrize(
    ("trouble", "words"),
    [(full, "there is no room left"), (read_only, "can no longer be written"), (gone, "is gone: somebody has moved")],
)
def test_a_run_that_loses_its_disk_says_so_in_a_line_and_goes_on(
    train: Command, small_disk: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
    trouble: Callable[[Path], contextlib.AbstractContextManager[None]], words: str,
) -> None:  # fmt: skip
    undisturbed = outcome(train(*RUN))
    log_metrics, rows = MetricsTable.log_metrics, []
    with contextlib.ExitStack() as stack:

        def until(table: MetricsTable, *arguments: Any, **keywords: Any) -> None:
            rows.append(arguments)
            if len(rows) == 3:
                stack.enter_context(trouble(table.path.parent))
            log_metrics(table, *arguments, **keywords)

        capsys.readouterr()
        with monkeypatch.context() as patch:
            patch.setattr(MetricsTable, "log_metrics", until)
            with pytest.raises(SystemExit) as end:
                train(*RUN, f"results_dir={small_disk}")
        assert end.value.code == 1
        error = capsys.readouterr().err
        assert error.count("Error: ") == 1
        assert words in error
        assert "Traceback" not in error
    with contextlib.suppress(ValueError):  # ``train`` looks for results elsewhere
        train(*RUN, f"results_dir={small_disk}")
    (result,) = small_disk.glob("runs/*/result.json")
    assert_same(outcome(result.parent), undisturbed)


def test_finished_runs_on_a_disk_that_can_only_be_read(
    train: Command, small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with contextlib.suppress(ValueError):
        train(*RUN, f"results_dir={small_disk}")
    (run,) = (path.parent for path in small_disk.glob("runs/*/result.json"))
    for folder, named in ((run, "train.log"), (small_disk, f"results_dir='{small_disk}'")):
        with read_only(folder):
            capsys.readouterr()
            with pytest.raises(SystemExit):
                train(*RUN, f"results_dir={small_disk}")
            error = capsys.readouterr().err
            assert error.count("\n") == 1
            assert named in error
    with read_only(run.parent):
        assert report([str(run.parent)]) == 1
        error = capsys.readouterr().err
        assert "the report cannot be written: [Errno 30] Read-only file system" in error
        assert "Name another folder: out=..." in error


@pytest.fixture
def interrupted(train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a run that a full disk ended, with its checkpoints."""
    log_metrics, rows = MetricsTable.log_metrics, []

    def until(table: MetricsTable, *arguments: Any, **keywords: Any) -> None:
        rows.append(arguments)
        if len(rows) == 4:
            raise OSError(28, "No space left on device", str(table.path))
        log_metrics(table, *arguments, **keywords)

    with monkeypatch.context() as patch:
        patch.setattr(MetricsTable, "log_metrics", until)
        with pytest.raises(SystemExit):
            train(*RUN)
    (status,) = tmp_path.glob("multirun/*/*/status.json")
    return status.parent


def test_damaged_files_cost_no_checkpoint(
    train: Command, interrupted: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("config.yaml", "metrics.csv", "status.json", "identity.json"):
        lines = (interrupted / name).read_bytes().splitlines(keepends=True)
        (interrupted / name).write_bytes(b"".join([*lines[:1], b"\xff\0{[,\n", *lines[1:]]))
    num_rows = len((interrupted / "metrics.csv").read_text(errors="replace").splitlines()) - 1
    capsys.readouterr()
    assert train(*RUN) == interrupted
    printed = capsys.readouterr().out
    assert "Going on from step" in printed
    assert "config.yaml is damaged" in printed
    assert json.loads((interrupted / "result.json").read_text())["metrics"]["steps"] == 60
    assert "\ufffd" in (interrupted / "metrics.damaged").read_text(errors="replace")
    assert len(read_rows(interrupted / "metrics.csv").lines) > num_rows


def test_a_damaged_config_in_a_folder_of_ones_own_name_is_not_taken_for_another_run(
    train: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = f"hydra.run.dir={tmp_path}/multirun/runs/mine"
    run = train(*RUN, folder)
    (run / "config.yaml").write_text("a: [")
    (run / "identity.json").unlink()
    with pytest.raises(SystemExit):
        train(*RUN, folder)
    error = capsys.readouterr().err
    assert "config.yaml is damaged" in error
    assert "move the file away: all else stays" in error
