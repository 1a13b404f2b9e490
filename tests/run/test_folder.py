from __future__ import annotations

import contextlib
import fcntl
import json
import re
from pathlib import Path
from typing import Any

import pytest

from rethinkgen.errors import DamagedFileError, RunFolderError
from rethinkgen.run.folder import RunFolder


def test_one_process_at_a_time_holds_the_lock(tmp_path: Path) -> None:
    ours, theirs = RunFolder(tmp_path / "run"), RunFolder(tmp_path / "run")
    with ours.lock():
        ours.write_status("running")
        with pytest.raises(RunFolderError, match=r"is being trained by process \d+ on "), theirs.lock():
            pass
    with theirs.lock():
        pass


def test_a_lock_on_a_removed_file_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = RunFolder(tmp_path / "run")
    taken: list[int] = []

    def flock_after_removal(file: object, operation: int) -> None:
        if not taken:
            (tmp_path / "run/.lock").unlink()
        taken.append(operation)

    monkeypatch.setattr(fcntl, "flock", flock_after_removal)
    with folder.lock():
        assert len(taken) == 2
        assert (tmp_path / "run/.lock").exists()


def test_only_a_folder_with_nothing_but_a_log_is_unused(tmp_path: Path) -> None:
    unused, used, held = (RunFolder(tmp_path / name) for name in ("unused", "used", "held"))
    for folder in (unused, used, held):
        folder.path.mkdir()
        (folder.path / "train.log").touch()
    used.write_config({"seed": 0}, [])
    unused.remove_unused()
    used.remove_unused()
    with held.lock():
        RunFolder(held.path).remove_unused()
    assert not unused.path.exists()
    assert used.read_config() == {"seed": 0}
    assert (held.path / "train.log").exists()


def test_set_aside_results_are_numbered_and_the_log_stays(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    (tmp_path / "train.log").touch()
    for number in (1, 2):
        for path in (folder.checkpoints / "last.ckpt", folder.end_weights):
            path.parent.mkdir()
            path.touch()
        folder.result.write_text(json.dumps({"number": number}))
        assert folder.set_aside_result() == tmp_path / f"previous-{number}"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["previous-1", "previous-2", "train.log"]
    assert json.loads((tmp_path / "previous-1/result.json").read_text()) == {"number": 1}
    assert (tmp_path / "previous-2/weights/end.pt").exists()
    # A kill had left it: of a finished run it is kept nowhere.
    assert not (tmp_path / "previous-2/checkpoints").exists()


@pytest.mark.parametrize("content", ["", "{", "\x00\x01"])
def test_a_damaged_file_is_named(tmp_path: Path, content: str) -> None:
    folder = RunFolder(tmp_path)
    for path, read in ((folder.result, folder.read_result), (folder.config, folder.read_config)):
        path.write_text(content)
        with pytest.raises(DamagedFileError, match=rf"{path.name} is damaged ") as damaged:
            read()
        # Advice never costs a checkpoint, nor anything else.
        assert not re.search("(?i)remove|delete", str(damaged.value))
    folder.status.write_text(content)
    assert folder.read_status() == {}


def test_a_result_with_another_number_in_it_is_damaged(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    metrics = {"fit/accuracy": 0.5, "test/accuracy": 0.25, "steps": 40}
    choices = {"data": "digits", "data.corruption": "none", "model": "mlp", "regularizer": []}
    result = {"metrics": metrics, "choices": choices, "config": {}, "num_classes": 10, "fitted": False}
    folder.write_result(result)
    written = folder.result.read_bytes()
    assert folder.read_result() == json.loads(written)
    num_readable = 0
    positions = range(0, 8 * len(written), 5)
    for position in positions:
        flipped = bytearray(written)
        flipped[position // 8] ^= 1 << position % 8
        folder.result.write_bytes(flipped)
        with contextlib.suppress(RunFolderError):
            read = folder.read_result()
            assert read is not None
            assert read["metrics"] == metrics
            num_readable += 1
    # Of white space, and of the checksum's own name.
    assert 0 < num_readable < len(positions) / 4
    # One of before has no checksum and is taken.
    folder.result.write_text(json.dumps(result))
    assert folder.read_result() == result


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"metrics": None}, "no metrics in it"),
        ({"metrics": {"fit/accuracy": 1, "test/accuracy": 1}}, "no steps in it"),
        ({"metrics": {"fit/accuracy": "1", "test/accuracy": 1, "steps": 1}}, "not a number for each metric"),
        ({"choices": {"data": "a\nb"}}, "not a choice for each group"),
        ({"num_classes": 0}, "num_classes is 0, not a number above 0"),
        ({"seconds": 10**400}, "seconds is 1000"),
        ({"fitted": True}, "no steps_to_fit"),
        ({"config": {"data": {"num_train": "2p0"}}}, "config: data.num_train is '2p0'"),
        ({"config": {"data": []}}, r"config: data is \[\], not keys and values"),
    ],
)
def test_a_value_of_another_kind_is_damage(tmp_path: Path, changes: dict[str, Any], fault: str) -> None:
    metrics = {"fit/accuracy": 0.5, "test/accuracy": None, "steps": 40}
    choices = {"data": "digits", "data.corruption": "none", "model": "mlp", "regularizer": []}
    result = {"metrics": metrics, "choices": choices, "config": {}, "num_classes": 10, "fitted": False}
    folder = RunFolder(tmp_path)
    folder.write_result(result)
    assert folder.read_result() is not None
    folder.write_result(result | changes)
    with pytest.raises(DamagedFileError, match=fault):
        folder.read_result()


def test_the_weights_of_a_folder_of_before_are_found(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    assert folder.end_weights == tmp_path / "weights/end.pt"
    (tmp_path / "weights.pt").touch()
    assert folder.end_weights == tmp_path / "weights.pt"
    # Trained to its end by this version.
    folder.weights.mkdir()
    (folder.weights / "end.pt").touch()
    assert folder.end_weights == tmp_path / "weights/end.pt"


def test_checkpoints_that_cannot_be_removed_do_no_harm(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = RunFolder(tmp_path)
    folder.remove_checkpoints()
    assert not caplog.text
    folder.checkpoints.touch()
    folder.remove_checkpoints()
    assert "cannot be removed" in caplog.text


def test_it_is_noted_on_how_many_ranks_a_run_is_trained_in_turn(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.add_to_identity(run_id="mine")
    for size, is_anew, told in ((2, True, [2]), (2, False, [2]), (1, False, [2, 1]), (4, True, [4])):
        folder.note_ranks(size, is_anew=is_anew)
        assert folder.read_identity() == {"run_id": "mine", "world_sizes": told}


def test_the_folder_that_paths_are_told_from_is_that_of_the_latest_command(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    folder.add_to_identity(run_id="mine", wandb_id="first", code={"own": "1"}, begun_in="/a")
    folder.add_to_identity(run_id="mine", wandb_id="second", code={"own": "2"}, begun_in="/b")
    told = {"run_id": "mine", "wandb_id": "first", "code": {"own": "2"}, "begun_in": "/b"}
    assert folder.read_identity() == told
    folder.add_to_identity(run_id="mine")
    assert folder.read_identity() == told
