"""``debug=true`` does everything on little, and leaves nothing."""

from __future__ import annotations

import multiprocessing.util
import os
import tempfile
from pathlib import Path
from typing import Any

import pytest

from conftest import TINY, Command, command_line
from rethinkgen.data.corruption import TrueLabels
from rethinkgen.data.source import Digits
from rethinkgen.run import trial
from rethinkgen.train.checkpoint import AtomicCheckpointIO

NOISY = ["data.corruption=partial_labels", "data.validation=0.2", "regularizer=[early_stopping,dropout,flip]"]


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which temporary ones are made."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    multiprocessing.util.get_temp_dir()  # its own, which outlives the test
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    monkeypatch.chdir(tmp_path)
    return folder


def test_a_trial_run_goes_through_everything_and_leaves_nothing(
    temporary: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    saved: list[Path] = []
    save = AtomicCheckpointIO.save_checkpoint

    def note(self: AtomicCheckpointIO, checkpoint: Any, path: Any, storage_options: Any = None) -> None:
        saved.append(path)
        save(self, checkpoint, path, storage_options)

    monkeypatch.setattr(AtomicCheckpointIO, "save_checkpoint", note)
    command_line(*(item for item in TINY if item != "logger=none"), *NOISY, "debug=true", "max_epochs=100")
    told = capsys.readouterr().out
    assert "Trial run: 3 steps, 256 training and 256 test examples" in told
    assert saved
    assert "W&B" not in told
    assert list(temporary.parent.iterdir()) == [temporary]
    assert list(temporary.glob("rethinkgen-*")) == []
    assert trial.VARIABLE not in os.environ


def test_a_trial_run_finds_what_the_run_would(
    train: Command, temporary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for mistake, said in {
        "data.num_train=5000": "data.num_train=5000: at most 1437",
        "data.batch_size=5000": "data.batch_size=5000 is larger than the training set of 1437",
        "trainer.devices=1e30": "trainer.devices=1e+30",
    }.items():
        with pytest.raises(SystemExit):
            train(*TINY, "debug=true", mistake)
        assert said in capsys.readouterr().err
        assert list(temporary.glob("rethinkgen-*")) == []


def test_a_trial_run_takes_no_result_for_its_own(train: Command, capsys: pytest.CaptureFixture[str]) -> None:
    folder = train(*TINY, "max_steps=5")
    before = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    command_line(f"results_dir={folder.parents[1]}", *TINY, "max_steps=5", "debug=true")
    assert "Trial run: 3 steps" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()} == before


def test_a_sweep_of_trial_runs(temporary: Path, capsys: pytest.CaptureFixture[str]) -> None:
    # In the pool's processes.
    command_line("-m", *TINY, "debug=true", "seed=0,1")
    told = capsys.readouterr().out
    assert told.count(" done") == 2
    assert "These were trial runs" in told
    assert "summary.csv" not in told
    assert list(temporary.parent.iterdir()) == [temporary]
    assert list(temporary.glob("rethinkgen-*")) == []


def test_what_fails_in_a_sweep_of_trial_runs_can_be_looked_into(
    temporary: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        command_line("-m", "hydra/launcher=basic", *TINY, "debug=true", "data.num_train=5000,300")
    told = capsys.readouterr().out
    (kept,) = temporary.iterdir()
    assert f"kept, to be looked into: {kept}" in told
    assert len(list(kept.glob("runs/*/status.json"))) == 1


def test_a_trial_run_of_what_is_solved_at_once(temporary: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command_line("model=kernel_linear", "trainer=cpu", "logger=none", "threads=1", "debug=true")
    assert "Trial run: solved in closed form, 256 training" in capsys.readouterr().out


def test_a_part_of_the_examples_is_spread_over_all() -> None:
    datamodule = TrueLabels(Digits(), batch_size=50, num_train=700, validation=0.3)
    datamodule.at_most = 100
    datamodule.setup()
    assert {name: len(split) for name, split in datamodule.splits.items()} == {
        "train": 100,
        "validation": 100,
        "test": 100,
    }
    index = datamodule.splits["train"].index
    assert (index[0] < 30, index[-1] > 1400) == (True, True)
    assert index.diff().min() > 0
