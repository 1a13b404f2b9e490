from __future__ import annotations

from pathlib import Path

import pytest

from rethinkgen import machine


def test_a_limit_on_memory_counts(tmp_path: Path) -> None:
    (tmp_path / "memory.max").write_text("4096\n")
    (tmp_path / "memory.current").write_text("1024\n")
    assert machine._left_of_limit(tmp_path) == 3072
    (tmp_path / "memory.max").write_text("max\n")
    assert machine._left_of_limit(tmp_path) is None
    assert machine._left_of_limit(tmp_path / "elsewhere") is None


def test_a_job_of_a_sweep_has_its_share_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "num_cores", lambda: 8)
    monkeypatch.delenv(machine.CORES_OF_JOB, raising=False)
    assert machine.cores_of_run() == 8
    monkeypatch.setenv(machine.CORES_OF_JOB, "2")
    assert machine.cores_of_run() == 2
    monkeypatch.setenv(machine.CORES_OF_JOB, "16")
    assert machine.cores_of_run() == 8
