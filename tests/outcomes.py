"""What a run leaves, for comparing two runs to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from conftest import read_result
from rethinkgen.run.folder import RunFolder

TIMES = ("seconds", "images_per_second", "finished", "overrides", "config", "checksum")


def outcome(folder: Path) -> dict[str, Any]:
    """Everything that must not depend on how often a run was killed.

    ``metrics`` holds a digest of the weights at each evaluation, the last one at the end of training; what the
    optimizer keeps moves the weights in every step.
    """
    return {
        "result": {key: value for key, value in read_result(folder).items() if key not in TIMES},
        "weights": torch.load(RunFolder(folder).end_weights, weights_only=True),
        "metrics": (folder / "metrics.csv").read_bytes(),
    }


def assert_same(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert ours["result"] == theirs["result"]
    assert ours["metrics"] == theirs["metrics"]
    assert all(torch.equal(ours["weights"][name], theirs["weights"][name]) for name in theirs["weights"])


def status_text(results: Path) -> str:
    """Return ``going`` once the run in ``results`` has trained a step."""
    states = [path.read_text() for path in results.glob("*/*/status.json")]
    return "going" if states and '"step"' in states[0] else f"{states}"
