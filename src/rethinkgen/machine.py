"""What this process may use of the machine. Imported by the process that launches, which stays light: no torch."""

from __future__ import annotations

import os
from pathlib import Path

CORES_OF_JOB = "RETHINKGEN_CORES"
"""Environment variable by which a sweep's pool tells a job its share of the cores."""


def num_cores() -> int:
    """Return how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def cores_of_run() -> int:
    """Return how many cores this run may use: its share, where it is one of several of a sweep."""
    share = os.environ.get(CORES_OF_JOB)
    return num_cores() if share is None else min(int(share), num_cores())


def available_bytes() -> int:
    """Return how much memory is free to be used, as far as the system and the limit of a container or job say."""
    left = _left_of_limit(Path("/sys/fs/cgroup"))
    return _free_here() if left is None else min(_free_here(), left)


def _left_of_limit(group: Path) -> int | None:
    """Return what a control group's own limit leaves, if it has one (cgroup v2, as a container sees it)."""
    try:
        limit, used = ((group / name).read_text().strip() for name in ("memory.max", "memory.current"))
    except OSError:
        return None
    return None if limit == "max" else max(0, int(limit) - int(used))


def _free_here() -> int:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable"))
