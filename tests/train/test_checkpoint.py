from __future__ import annotations

import pickle
import random
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from conftest import TINY, Command
from outcomes import assert_same, outcome
from rethinkgen.train.checkpoint import (
    AtomicCheckpointIO,
    Resumable,
    find_checkpoint,
    generator_states,
    load_checkpoint,
    set_generator_states,
)
from unfinished import power_cut_at

RUN = [*TINY, "data.corruption=partial_labels", "regularizer=[dropout,flip]", "max_steps=60", "checkpoint_seconds=0"]


def truncated(content: bytes) -> bytes:
    return content[: len(content) // 2]


def with_a_flipped_bit(content: bytes) -> bytes:
    middle = len(content) // 3
    return content[:middle] + bytes([content[middle] ^ 1]) + content[middle + 1 :]


def emptied(content: bytes) -> bytes:
    return b""


@pytest.fixture
def interrupted(train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Folder of a run that broke off after its fourth epoch and left two checkpoints."""
    with power_cut_at(60, monkeypatch):
        train(*RUN)
    (folder,) = tmp_path.glob("multirun/runs/*/")
    assert sorted(path.name for path in (folder / "checkpoints").iterdir()) == ["last.ckpt", "previous.ckpt"]
    return folder


@pytest.mark.parametrize("damage", [truncated, with_a_flipped_bit, emptied])
def test_a_damaged_checkpoint_is_reported_and_the_one_before_used(
    interrupted: Path,
    train: Command,
    tmp_path: Path,
    damage: Callable[[bytes], bytes],
    capfd: pytest.CaptureFixture[str],
) -> None:
    last = interrupted / "checkpoints" / "last.ckpt"
    before = load_checkpoint(last.with_name("previous.ckpt"))["global_step"]
    assert 0 < before < load_checkpoint(last)["global_step"] < 60
    last.write_bytes(damage(last.read_bytes()))
    resumed = outcome(train(*RUN))
    output = "".join(capfd.readouterr()) + (interrupted / "train.log").read_text()
    assert "last.ckpt is damaged" in output
    assert f"Going on from step {before} (previous.ckpt)" in output
    shutil.rmtree(tmp_path / "multirun")
    assert_same(resumed, outcome(train(*RUN)))


def test_two_damaged_checkpoints_begin_the_run_anew(interrupted: Path, train: Command, tmp_path: Path) -> None:
    for path in (interrupted / "checkpoints").iterdir():
        path.write_bytes(truncated(path.read_bytes()))
    resumed = outcome(train(*RUN))
    shutil.rmtree(tmp_path / "multirun")
    assert_same(resumed, outcome(train(*RUN)))


def test_what_kills_left_unfinished_is_gone_in_the_end(interrupted: Path, train: Command) -> None:
    for name in (".status.json.1-ab.tmp", "checkpoints/.last.ckpt.1-ab.tmp", "weights/.end.pt.1-ab.tmp"):
        (interrupted / name).parent.mkdir(exist_ok=True)
        (interrupted / name).touch()
    assert train(*RUN) == interrupted
    assert not list(interrupted.rglob("*.tmp"))


def test_an_unfinished_checkpoint_is_removed_before_training_goes_on(tmp_path: Path) -> None:
    unfinished = tmp_path / ".last.ckpt.1-ab.tmp"
    unfinished.touch()
    assert find_checkpoint(tmp_path, "mine", {}) is None
    assert not unfinished.exists()


def test_a_checkpoint_that_would_run_code_is_not_loaded(tmp_path: Path) -> None:
    class Mischief:
        def __reduce__(self) -> tuple[object, ...]:
            return print, ("mischief",)

    torch.save({"state_dict": Mischief()}, tmp_path / "last.ckpt")
    with pytest.raises(pickle.UnpicklingError):
        load_checkpoint(tmp_path / "last.ckpt")
    assert find_checkpoint(tmp_path, "mine", {}) is None
    assert (tmp_path / "last.foreign").exists()


def test_a_failed_save_leaves_the_checkpoints_as_they_were(tmp_path: Path) -> None:
    path, io = tmp_path / "last.ckpt", AtomicCheckpointIO()
    for step in (1, 2):
        io.save_checkpoint({"global_step": step, "seconds": 3.0, "state_dict": {}}, path)
    with pytest.raises((AttributeError, pickle.PicklingError)):
        io.save_checkpoint({"step": lambda: None}, path)
    assert len(list(tmp_path.iterdir())) == 2
    assert find_checkpoint(tmp_path, "mine", {}) == Resumable(path, 2, 3.0, names_its_run=False)
    path.unlink()  # as a kill between the two renames leaves it
    assert find_checkpoint(tmp_path, "mine", {}) == Resumable(tmp_path / "previous.ckpt", 1, 3.0, names_its_run=False)


@pytest.mark.parametrize(
    ("alien", "said"),
    [
        ({"run_id": "theirs", "state_dict": {"weight": torch.zeros(2, 3)}}, "it says that it is of the run theirs"),
        ({"run_id": "mine", "state_dict": {"weight": torch.zeros(3, 2)}}, "its network is another: weight"),
        ({"state_dict": {"weight": torch.zeros(2, 3), "bias": torch.zeros(2)}}, "its network is another: bias"),
        ({"step": 3}, "it is no checkpoint: 'state_dict'"),
        ([1, 2], "it is no checkpoint"),
    ],
)
def test_another_runs_checkpoint_is_not_gone_on_from(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, alien: object, said: str
) -> None:
    weights = {"weight": torch.zeros(2, 3)}
    if isinstance(alien, dict):
        alien |= {"global_step": 9, "seconds": 1.0}
    torch.save(alien, tmp_path / "last.ckpt")
    # As commit 785b5e0 left it: it does not say whose it is.
    torch.save({"state_dict": weights, "global_step": 8, "seconds": 1.0}, tmp_path / "previous.ckpt")
    found = find_checkpoint(tmp_path, "mine", weights)
    assert found == Resumable(tmp_path / "previous.ckpt", 8, 1.0, names_its_run=False)
    assert said in caplog.text
    assert (tmp_path / "last.foreign").exists()


def test_generators_go_on_where_they_were(tmp_path: Path) -> None:
    def draws() -> tuple[float, float, float, float]:
        return torch.rand(()).item(), np.random.normal(), random.random(), random.gauss()

    draws()
    torch.save(generator_states(), tmp_path / "states")
    first = draws()
    set_generator_states(torch.load(tmp_path / "states", weights_only=True))
    assert draws() == first
