"""Sweeps of which something is missing, made from finished ones."""

from __future__ import annotations

import json
import shutil
from pathlib import Path


def leave_unfinished(sweep: Path, reason: str) -> list[Path]:
    """Have one run of the sweep failed, for ``reason``, and another never begun; return the folders of the finished."""
    first, second, *others = sorted(path.parent for path in sweep.glob("*/result.json"))
    (first / "result.json").unlink()
    (first / "status.json").write_text(json.dumps({"state": "failed", "reason": reason}))
    shutil.rmtree(second)
    return others
