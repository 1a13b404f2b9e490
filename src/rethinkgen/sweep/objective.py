"""What a sweep may tune: metrics by name, which way is better, and none that was measured on the test set."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from rethinkgen.measure.thresholds import STEPS_TO_NEARLY_FIT
from rethinkgen.words import meant

Direction = Literal["minimize", "maximize"]

KEY = "hydra.sweeper.objective"
DIRECTIONS: dict[str, Direction] = {
    "validation/accuracy_corrupted": "maximize",
    "validation/accuracy": "maximize",
    "validation/loss": "minimize",
    "steps_to_fit": "minimize",
    STEPS_TO_NEARLY_FIT: "minimize",
    "steps_to_loss_0.1": "minimize",
    "steps_to_loss_0.01": "minimize",
    "fit/accuracy": "maximize",
    "fit/accuracy_corrupted": "maximize",
    "fit/accuracy_corrected": "maximize",
    "fit/accuracy_clean": "maximize",
    "fit/accuracy_recalibrated": "maximize",
    "fit/loss": "minimize",
    "train/accuracy": "maximize",
    "train/accuracy_epoch": "maximize",
    "train/loss": "minimize",
    "train/loss_epoch": "minimize",
}
"""The metrics that can be tuned, and which way is better unless the user says otherwise."""


@dataclass(frozen=True)
class Objective:
    """A metric and which way is better."""

    name: str
    direction: Direction

    @property
    def needs_validation(self) -> bool:
        """Whether it is there only if a part of the training set is held out."""
        return self.name.startswith("validation/")

    def why_none(self, result: dict[str, Any]) -> str:
        """Say why a finished run has no value of it."""
        metrics = result["metrics"]
        if self.name in metrics:
            return f"{self.name} is null: {result['reason']}"
        return f"the run has no {self.name}; it has {', '.join(sorted(filter(_can_be_tuned, metrics)))}"


def check_objective(name: Any, direction: Any) -> Objective:
    """Return the objective of that name.

    Raises:
        ValueError: it is no metric, or one of the test set; or the direction is none, or must be given.
    """
    if not isinstance(name, str):
        raise ValueError(f"{KEY}={name!r}: the name of one metric is needed, such as {next(iter(DIRECTIONS))}.")
    if _is_of_test_set(name):
        raise ValueError(
            f"{KEY}={name}: it is measured on the test set, and nothing is chosen on the test set: its numbers would "
            f"then say too much. Hold out a part of the training set instead: {KEY}=validation/accuracy "
            "data.validation=0.1"
        )
    if not _can_be_tuned(name):
        raise ValueError(
            f"{KEY}={name}: there is no such metric.{meant(name, DIRECTIONS)} There are {', '.join(DIRECTIONS)}."
        )
    chosen = DIRECTIONS.get(name) if direction is None else getattr(direction, "name", direction)
    if chosen not in ("minimize", "maximize"):
        raise ValueError(f"hydra.sweeper.direction={chosen}: with {KEY}={name}, minimize or maximize is needed.")
    return Objective(name, chosen)


def _can_be_tuned(name: str) -> bool:
    # Which measures a run has is known once it has run.
    return name in DIRECTIONS or name.startswith("measure/")


def _is_of_test_set(name: str) -> bool:
    return "test" in name.split("/") or name.endswith(("_oracle", "_at_fit")) or name == "generalization_gap"
