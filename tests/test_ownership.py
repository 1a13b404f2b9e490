"""Locks where the file system knows none: ``flock`` fails as it does on some NFS, Lustre and EFS."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from rethinkgen import ownership
from rethinkgen.errors import LockIsHeldError, RunIsHeldError
from rethinkgen.files import is_locked, lock, wait_until_free
from rethinkgen.ownership import Owner, this_process
from rethinkgen.run.folder import RunFolder

HOLD = """
import errno, fcntl, sys, time
from pathlib import Path
def unsupported(*_):
    raise OSError(errno.ENOLCK, "No locks available")
fcntl.flock = unsupported
from rethinkgen.files import lock
with lock(Path(sys.argv[1]), remove=bool(sys.argv[3:])):
    print("held", flush=True)
    time.sleep(float(sys.argv[2]))
"""


def without_flock(monkeypatch: pytest.MonkeyPatch, number: int) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(fcntl, "flock", unsupported)


@pytest.fixture
def _without_flock(monkeypatch: pytest.MonkeyPatch) -> None:
    without_flock(monkeypatch, errno.ENOLCK)
    for name in ("SLURM_JOB_ID", "SLURM_RESTART_COUNT", "SLURM_JOB_NUM_NODES"):
        monkeypatch.delenv(name, raising=False)


pytestmark = pytest.mark.usefixtures("_without_flock")


@contextlib.contextmanager
def held_by_another(path: Path, seconds: float, *more: str) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-c", HOLD, str(path), str(seconds), *more]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        try:
            yield process
        finally:
            process.kill()


def left_by(path: Path, **facts: object) -> Path:
    """Write the file of an owner who is somewhere else."""
    owner = replace(Owner("far-away", 7), **facts)  # type: ignore[arg-type]
    file = path.with_name(f"{path.name}.owner")
    file.write_text(json.dumps(asdict(owner)))
    return file


def can_be_had(path: Path) -> bool:
    try:
        with lock(path, patience=0):
            return True
    except LockIsHeldError:
        return False


@pytest.mark.parametrize("number", [errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP], ids=errno.errorcode.get)
@pytest.mark.parametrize("remove", [True, False])
def test_a_lock_is_held_and_let_go(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, remove: bool, number: int) -> None:
    without_flock(monkeypatch, number)
    path = tmp_path / "folder" / ".lock"
    assert not is_locked(path)
    with lock(path, remove=remove):
        assert is_locked(path)
        assert not can_be_had(path)
    assert not is_locked(path)
    assert path.exists() is not remove
    assert not list(path.parent.glob("*.owner"))


def test_another_process_holds_it_until_it_is_killed(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    with held_by_another(path, 60) as process:
        assert is_locked(path)
        assert not can_be_had(path)
        process.kill()
        # It need not have been waited for: a zombie holds nothing.
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        assert not is_locked(path)
        assert can_be_had(path)


@pytest.mark.parametrize("remove", [[], ["remove"]])
def test_who_waits_gets_it_in_the_end(tmp_path: Path, remove: list[str]) -> None:
    path, told = tmp_path / ".lock", []
    with held_by_another(path, 0.3, *remove), lock(path, on_wait=lambda: told.append("waiting")):
        assert told == ["waiting"]
    with held_by_another(path, 0.3, *remove):
        assert wait_until_free(path)


def test_a_number_that_another_process_has_now_is_no_owner(tmp_path: Path) -> None:
    path = tmp_path / ".lock"
    ours = this_process()
    left_by(path, host=ours.host, pid=ours.pid, started=ours.started)
    assert not can_be_had(path)
    left_by(path, host=ours.host, pid=ours.pid, started="1")
    assert can_be_had(path)


def test_a_process_on_another_host_is_left_alone_and_the_file_named(tmp_path: Path) -> None:
    run = RunFolder(tmp_path)
    file = left_by(tmp_path / ".lock")
    assert is_locked(tmp_path / ".lock")
    with (
        pytest.raises(RunIsHeldError, match=rf"process 7 on far-away still runs cannot be seen.*delete {file}"),
        run.lock(),
    ):
        pass
    file.unlink()
    with run.lock():
        pass


def test_a_file_that_says_nothing_is_nobodys_to_take(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ownership, "WRITING_SECONDS", 0.02)
    path = tmp_path / ".lock"
    for content in ("", "[]", '{"host": 1}'):
        (tmp_path / ".lock.owner").write_text(content)
        with pytest.raises(LockIsHeldError) as held, lock(path, patience=0):
            pass
        assert f"delete {tmp_path}/.lock.owner" in held.value.advice


@pytest.mark.parametrize(
    ("owner", "ours", "is_free"),
    [
        # SLURM started the job again, on another host.
        ({"job": "17", "attempt": "0", "num_nodes": "2"}, {"SLURM_JOB_ID": "17", "SLURM_RESTART_COUNT": "1"}, True),
        ({"job": "17", "attempt": "0", "num_nodes": "1"}, {"SLURM_JOB_ID": "17"}, True),
        # Two steps of one attempt, each on a node of its own.
        ({"job": "17", "attempt": "0", "num_nodes": "2"}, {"SLURM_JOB_ID": "17", "SLURM_JOB_NUM_NODES": "2"}, False),
        ({"job": "17"}, {"SLURM_JOB_ID": "18"}, False),
        ({"job": "17"}, {}, False),
        # One that SLURM no longer has.
        ({"job": "16"}, {"SLURM_JOB_ID": "18"}, True),
        ({"job": "16"}, {}, True),
        ({"job": "15"}, {}, True),
        # SLURM does not say.
        ({"job": "99"}, {}, False),
        ({}, {"SLURM_JOB_ID": "18"}, False),
    ],
)
def test_under_slurm_the_job_owns_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, owner: dict[str, str], ours: dict[str, str], is_free: bool
) -> None:
    squeue = tmp_path / "squeue"
    squeue.write_text(
        '#!/bin/sh\ncase "$*" in *--jobs=17*) echo RUNNING;; *--jobs=16*) ;;\n'
        "*--jobs=15*) echo 'slurm_load_jobs error: Invalid job id specified' >&2; exit 1;;\n"
        "*) echo 'Unable to contact slurm controller' >&2; exit 1;; esac\n"
    )
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    for name, value in ours.items():
        monkeypatch.setenv(name, value)
    left_by(tmp_path / ".lock", **owner)
    assert can_be_had(tmp_path / ".lock") is is_free


def test_of_two_who_find_it_left_behind_one_has_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / ".lock"
    ours = this_process()
    file = left_by(path, host=ours.host, pid=ours.pid, started="1")
    rename = Path.rename

    def after_another(self: Path, target: Path) -> Path:
        # Between our look and our hand another process has removed the file and made its own.
        file.write_text(json.dumps(asdict(Owner("far-away", 8))))
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", after_another)
    assert not can_be_had(path)
    assert json.loads(file.read_text())["pid"] == 8
    assert [found.name for found in tmp_path.glob("*owner*")] == [file.name]


def test_the_systems_lock_heeds_who_could_not_have_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / ".lock"
    left_by(path)
    monkeypatch.setattr(fcntl, "flock", lambda *_: None)
    assert is_locked(path)
    assert not can_be_had(path)
