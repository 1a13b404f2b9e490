from __future__ import annotations

import ctypes
import os
import subprocess
import sys
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


def page_faults(*calls: str) -> int:
    """Page faults of eight blocks of 30 MB, written and freed one after the other, in a process of its own."""
    lines = [
        "import resource",
        "from rethinkgen.machine import keep_freed_memory",
        *calls,
        "b'1' * (30 << 20)",
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt",
        "for _ in range(8): b'1' * (30 << 20)",
        "print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)",
    ]
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("MALLOC_", "GLIBC_"))}
    output = subprocess.run(
        [sys.executable, "-c", "\n".join(lines)], env=environment, capture_output=True, text=True, check=True
    ).stdout
    return int(output)


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="only glibc can be asked")
def test_freed_memory_is_kept() -> None:
    # Given back when it is freed, each block is 7,680 pages of 4 kB that are faulted in anew.
    told = "import ctypes; ctypes.CDLL(None).mallopt(-3, 1 << 20)"
    assert page_faults(told) > 8 * 1000  # pages may be larger
    assert page_faults("assert keep_freed_memory()") < 100


def test_the_users_own_settings_of_the_allocator_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.trim_threshold=1000")
    assert not machine.keep_freed_memory()
    monkeypatch.delenv("GLIBC_TUNABLES")
    monkeypatch.setenv("MALLOC_MMAP_THRESHOLD_", "1000")
    assert not machine.keep_freed_memory()


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("flags\t\t: fpu avx512_bf16 sse\n", True),
        ("flags\t\t: fpu amx_bf16 amx_tile\n", True),
        ("Features\t: fp asimd bf16\n", True),
        ("flags\t\t: fpu avx512f avx512_vnni\n", False),
        ("model name\t: a bf16 of a name\nflags\t\t: fpu\n", False),
        ("", False),
    ],
)
def test_instructions_for_bf16(tmp_path: Path, line: str, expected: bool) -> None:
    assert not machine.multiplies_in_bf16(tmp_path / "cpuinfo")
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\n{line}")
    assert machine.multiplies_in_bf16(tmp_path / "cpuinfo") is expected
