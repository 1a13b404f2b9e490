"""What a run leaves, for comparing two runs to the bit."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from conftest import read_result
from rethinkgen.train.checkpoint import load_checkpoint

TIMES = ("seconds", "images_per_second", "finished", "overrides", "config", "checksum")


def outcome(folder: Path) -> dict[str, Any]:
    """Everything that must not depend on how often a run was killed."""
    checkpoint = load_checkpoint(folder / "checkpoints" / "last.ckpt")
    return {
        "result": {key: value for key, value in read_result(folder).items() if key not in TIMES},
        "weights": checkpoint["state_dict"],
        "momentum": [state["momentum_buffer"] for state in checkpoint["optimizer_states"][0]["state"].values()],
        "best": torch.load(folder / "weights.pt", weights_only=True),
        "metrics": (folder / "metrics.csv").read_bytes(),
    }


def assert_same(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    assert ours["result"] == theirs["result"]
    assert ours["metrics"] == theirs["metrics"]
    assert all(torch.equal(ours["weights"][name], theirs["weights"][name]) for name in theirs["weights"])
    assert all(torch.equal(ours["best"][name], theirs["best"][name]) for name in theirs["best"])
    assert all(torch.equal(a, b) for a, b in zip(ours["momentum"], theirs["momentum"], strict=True))


def status_text(results: Path) -> str:
    """Return ``going`` once the run in ``results`` has trained a step."""
    states = [path.read_text() for path in results.glob("*/*/status.json")]
    return "going" if states and '"step"' in states[0] else f"{states}"
