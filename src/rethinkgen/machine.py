"""What this process may use of the machine. Imported by the process that launches, which stays light: no torch."""

from __future__ import annotations

import ctypes
import os
import shutil
import subprocess
from pathlib import Path

CORES_OF_JOB = "RETHINKGEN_CORES"
"""Environment variable by which a sweep's pool tells a job its share of the cores."""
SAFE_PATH = "PYTHONSAFEPATH"
"""Python's own variable, and ``-P``: what lies in the current folder takes the place of no module."""

KEPT_BLOCK_BYTES = 256 << 20
"""Blocks below this stay with the process once they are freed; larger ones, whole data sets, go back to the system."""
_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # <malloc.h>
_MOST_TRIM_BYTES = (1 << 31) - 1  # mallopt takes an int


def num_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cores_of_run() -> int:
    """Return how many cores this run may use: its share, where it is one of several of a sweep."""
    share = os.environ.get(CORES_OF_JOB)
    return num_cores() if share is None else min(int(share), num_cores())


def visible_gpus() -> list[str]:
    """Return the GPUs that this process may use, as ``CUDA_VISIBLE_DEVICES`` names them; CUDA is not started."""
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    if named is not None:
        return [gpu.strip() for gpu in named.split(",") if gpu.strip() not in ("", "-1")]
    if shutil.which("nvidia-smi") is None:
        return []
    query = ["nvidia-smi", "--query-gpu=uuid", "--format=csv,noheader"]
    asked = subprocess.run(query, capture_output=True, text=True, check=False)
    return asked.stdout.split() if asked.returncode == 0 else []


def available_bytes() -> int:
    """Return how much memory is free to be used, as far as the system and the limit of a container or job say."""
    left = _left_of_limit(Path("/sys/fs/cgroup"))
    return _free_here() if left is None else min(_free_here(), left)


def _left_of_limit(group: Path) -> int | None:
    """Return what a control group's own limit leaves, if it has one (cgroup v2, as a container sees it)."""
    try:
        limit, used = ((group / name).read_text(encoding="utf-8").strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return None
    return None if limit == "max" else max(0, int(limit) - int(used))


def _free_here() -> int:
    try:
        lines = Path("/proc/meminfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))


def keep_freed_memory() -> bool:
    """Have the C library keep what is freed for the next step; return whether it does, as it can be asked with glibc.

    By default it hands the activations of each step back to the system, which zeroes them page by page for the next, in
    one thread while the others wait: 5,000 page faults a step of AlexNet in bf16-mixed, how many depending on what was
    allocated before training. That was 10 % of its time in one thread, and more in two. No number changes by it. Where
    the user has set the allocator, or has another, this leaves it alone.
    """
    variables = ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_", "MALLOC_TOP_PAD_")
    if any(name in os.environ for name in variables) or "glibc.malloc" in os.environ.get("GLIBC_TUNABLES", ""):
        return False
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is None:
        return False
    # Before glibc 2.35 the first may be at most 32 MB.
    is_kept = any(mallopt(_M_MMAP_THRESHOLD, size) for size in (KEPT_BLOCK_BYTES, 32 << 20))
    return is_kept and bool(mallopt(_M_TRIM_THRESHOLD, _MOST_TRIM_BYTES))


BF16_FLAGS = {"avx512_bf16", "amx_bf16", "bf16"}
"""How ``/proc/cpuinfo`` names instructions that multiply in bfloat16: of x86, and of Arm."""


def multiplies_in_bf16(cpuinfo: Path = Path("/proc/cpuinfo")) -> bool:
    """Whether this machine's processor says that it multiplies in bfloat16; where it says nothing, no."""
    try:
        lines = cpuinfo.read_text(encoding="utf-8").splitlines()
    except OSError:
        return False
    flags = next((line for line in lines if line.partition(":")[0].strip() in ("flags", "Features")), "")
    return not BF16_FLAGS.isdisjoint(flags.partition(":")[2].split())
