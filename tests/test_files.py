from __future__ import annotations

import errno
import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from rethinkgen.errors import LockIsHeldError, is_full_disk
from rethinkgen.files import atomic_writer, is_locked, lock, remove_leftovers, wait_until_free, write_atomically

HOLD = """
import sys, time
from pathlib import Path
from rethinkgen.files import lock
with lock(Path(sys.argv[1]), remove=bool(sys.argv[3:])):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""
WRITE_HALF = """
import sys, time
from pathlib import Path
from rethinkgen.files import atomic_writer
with atomic_writer(Path(sys.argv[1])) as file:
    file.write(b"half")
    file.flush()
    print("written", flush=True)
    time.sleep(60)
"""


def start(code: str, *arguments: object) -> subprocess.Popen[str]:
    """Start a process and return once it has said its first line."""
    process = subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline()
    return process


def no_room(*_: object) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "result.json"
    write_atomically(path, "old")
    with pytest.raises(TypeError):
        write_atomically(path, ["new"])  # type: ignore[arg-type]

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, "half")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_kill_in_the_middle_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    write_atomically(path, b"old")
    process = start(WRITE_HALF, path)
    process.kill()
    process.communicate()
    assert path.read_bytes() == b"old"
    assert len(list(tmp_path.iterdir())) == 2
    remove_leftovers(tmp_path)
    assert list(tmp_path.iterdir()) == [path]


def test_what_was_there_is_kept_only_once_the_new_file_is_whole(tmp_path: Path) -> None:
    path, previous = tmp_path / "last.ckpt", tmp_path / "previous.ckpt"
    for content in (b"1", b"2", b"3"):
        with atomic_writer(path, keep_previous_as=previous) as file:
            file.write(content)
    assert (path.read_bytes(), previous.read_bytes()) == (b"3", b"2")
    with pytest.raises(ZeroDivisionError), atomic_writer(path, keep_previous_as=previous):
        _ = 1 // 0
    assert (path.read_bytes(), previous.read_bytes()) == (b"3", b"2")


@pytest.mark.parametrize("durable", [True, False])
def test_durable_files_are_synced_with_their_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, durable: bool
) -> None:
    synced = []
    monkeypatch.setattr(os, "fsync", lambda descriptor: synced.append(Path(os.readlink(f"/proc/self/fd/{descriptor}"))))
    write_atomically(tmp_path / "a", "text", durable=durable)
    assert [path.parent if path.is_file() or not path.exists() else path for path in synced] == [tmp_path] * 2 * durable


def test_a_full_disk_is_said_to_be_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "result.json"
    write_atomically(path, "old")
    monkeypatch.setattr(os, "fsync", no_room)
    with pytest.raises(OSError, match=r"No space left on device.*result\.json'$") as failed:
        write_atomically(path, "new")
    assert is_full_disk(failed.value)
    assert list(tmp_path.iterdir()) == [path]
    assert path.read_text() == "old"


@pytest.mark.parametrize("library", ["torch", "numpy"])
def test_no_library_hides_that_the_disk_is_full(tmp_path: Path, library: str) -> None:
    # A limit on the size of files: the system refuses to write on, as it does on a full disk.
    code = """
import resource, signal, sys
from pathlib import Path
import numpy as np, torch
from rethinkgen.errors import is_full_disk
from rethinkgen.files import atomic_writer
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
try:
    with atomic_writer(Path(sys.argv[1])) as file:
        if sys.argv[2] == "torch":
            torch.save({"weights": torch.zeros(100_000)}, file)
        else:
            np.savez(file, images=np.zeros(100_000))
except Exception as error:
    sys.exit(0 if is_full_disk(error) and error.filename == sys.argv[1] else repr(error))
sys.exit("nothing was raised")
"""
    path = tmp_path / "weights"
    ended = subprocess.run(
        [sys.executable, "-c", code, str(path), library], check=False, capture_output=True, text=True
    )
    assert ended.returncode == 0, ended.stderr
    assert list(tmp_path.iterdir()) == []


def test_numpy_and_torch_write_into_the_file(tmp_path: Path) -> None:
    with atomic_writer(tmp_path / "a.npz") as file:
        np.savez_compressed(file, numbers=np.arange(3))
    with atomic_writer(tmp_path / "a.pt") as file:
        torch.save({"numbers": torch.arange(3)}, file)
    assert np.load(tmp_path / "a.npz")["numbers"].tolist() == [0, 1, 2]
    assert torch.load(tmp_path / "a.pt", weights_only=True)["numbers"].tolist() == [0, 1, 2]


def test_errors_name_the_file_and_not_the_one_beside_it(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError) as failed:
        write_atomically(tmp_path / "missing" / "a", "text")
    assert failed.value.filename == str(tmp_path / "missing" / "a")
    with pytest.raises(FileNotFoundError) as failed, atomic_writer(tmp_path / "a"):
        (tmp_path / "another").read_text()
    assert str(failed.value.filename) == str(tmp_path / "another")


def test_a_signal_while_torch_writes_is_not_hidden_by_what_torch_then_says(tmp_path: Path) -> None:
    def save() -> None:
        try:
            raise KeyboardInterrupt
        finally:
            raise RuntimeError("[enforce fail at inline_container.cc:671] . unexpected pos 128 vs 16")

    with pytest.raises(KeyboardInterrupt), atomic_writer(tmp_path / "a"):
        save()
    assert not list(tmp_path.iterdir())


def test_one_process_holds_a_lock_until_it_is_killed(tmp_path: Path) -> None:
    path = tmp_path / "folder" / ".lock"
    assert not is_locked(path)
    process = start(HOLD, path, 60)
    assert is_locked(path)
    asked = time.monotonic()
    with pytest.raises(LockIsHeldError), lock(path, patience=0.2):
        pass
    assert 0.2 <= time.monotonic() - asked < 60
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert not is_locked(path)
    with lock(path, patience=0):
        assert is_locked(path)


@pytest.mark.parametrize("remove", [True, False])
def test_who_waits_gets_the_lock_in_the_end(tmp_path: Path, remove: bool) -> None:
    path, told = tmp_path / ".lock", []
    process = start(HOLD, path, 0.5, *["remove"] * remove)
    with lock(path, on_wait=lambda: told.append("waiting")):
        assert told == ["waiting"]
        assert is_locked(path)
    process.communicate()


def test_waiting_until_others_are_done(tmp_path: Path) -> None:
    path, told = tmp_path / ".lock", []
    assert not wait_until_free(path)
    assert not path.exists()
    process = start(HOLD, path, 0.5)
    assert wait_until_free(path, on_wait=lambda: told.append("waiting"))
    assert told == ["waiting"]
    assert not wait_until_free(path)
    process.communicate()


def test_a_lock_on_a_removed_file_does_not_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / ".lock"
    taken: list[int] = []

    def flock_after_removal(file: object, operation: int) -> None:
        if not taken:
            path.unlink()
        taken.append(operation)

    monkeypatch.setattr(fcntl, "flock", flock_after_removal)
    with lock(path):
        assert len(taken) == 2
        assert path.exists()


def test_an_error_of_the_lock_is_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Where the file system knows none: tests/test_ownership.py.
    def failing(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(fcntl, "flock", failing)
    with pytest.raises(OSError, match="Input/output error"), lock(tmp_path / ".lock"):
        pass
