"""A cell of a sweep: the overrides that name it, the folder that its run has, and how far that run is.

All of ``rethinkgen.sweep`` is imported by the process that launches, which stays light: no torch.
"""

from __future__ import annotations

import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from omegaconf import DictConfig

from rethinkgen.run.folder import RunFolder, RunFolderError

State = Literal["done", "failed", "interrupted", "waiting", "running", "missing"]


@dataclass(frozen=True)
class Outcome:
    """How far a run is, as its files tell."""

    state: State
    reason: str = ""
    """Why there is no result, in a line."""
    result: dict[str, Any] | None = None


@dataclass
class Job:
    """One cell of a sweep."""

    overrides: list[str]
    """What was asked for, without Hydra's own."""
    path: Path
    config: DictConfig | None = field(default=None, repr=False)
    """Composed, with Hydra's node; not there where the index already knew the folder."""
    was_done: bool = False
    """Whether it was finished before this command."""

    @cached_property
    def folder(self) -> RunFolder:
        """The run's folder."""
        return RunFolder(self.path)

    @property
    def is_rerun(self) -> bool:
        """Whether the run is to be trained again though it is finished."""
        return self.config is not None and bool(self.config.get("rerun"))

    @property
    def trainer(self) -> DictConfig:
        """What the run wants to be trained on."""
        assert self.config is not None
        trainer: DictConfig = self.config.trainer
        return trainer

    def outcome(self) -> Outcome:
        """Read how far the run is."""
        try:
            result = self.folder.read_result()
        except RunFolderError as error:
            return Outcome("failed", str(error))
        status = self.folder.read_status()
        state = status.get("state")
        if result is not None and state is None:
            return Outcome("done", result=result)
        if state in ("failed", "interrupted", "waiting"):
            return Outcome(state, first_line(status.get("reason", "")), result)
        if state == "running" and not self.folder.is_held:
            return Outcome("interrupted", "its process ended without a word", result)
        if state == "running":
            return Outcome("running", result=result)
        return Outcome("missing", result=result)


def first_line(text: str) -> str:
    """Return what a table has room for."""
    return text.strip().splitlines()[0] if text.strip() else ""


def describe_exit(code: int) -> str:
    """Say how a process ended that told nothing itself: ``-9`` is a SIGKILL."""
    if code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name if -code in signal.valid_signals() else f"signal {-code}"
    hint = ", perhaps for want of memory" if -code == signal.SIGKILL else ""
    return f"killed by {name}{hint}"


def labels(jobs: Sequence[Job]) -> list[str]:
    """Name each job by what tells it from the others: ``random_labels inception seed=1``."""
    varying = varying_overrides(jobs)
    return [" ".join(_shown(override) for override in job.overrides if _key(override) in varying) for job in jobs]


def varying_overrides(jobs: Sequence[Job]) -> list[str]:
    """Return the keys of the overrides that are not the same in all jobs; all keys, if none varies."""
    values: dict[str, set[str]] = {}
    for job in jobs:
        for override in job.overrides:
            values.setdefault(_key(override), set()).add(override)
    counts = {key: sum(_key(override) == key for job in jobs for override in job.overrides) for key in values}
    varying = [key for key, found in values.items() if len(found) > 1 or counts[key] < len(jobs)]
    return varying or list(values)


def _key(override: str) -> str:
    return override.split("=", 1)[0]


def _shown(override: str) -> str:
    key, _, value = override.partition("=")
    # A choice speaks for itself; the value of a key does not.
    is_choice = key.lstrip("+") in ("data", "data.corruption", "model", "optimizer", "schedule", "experiment")
    return value if is_choice or key.lstrip("+") == "regularizer" else f"{key.lstrip('+').rpartition('.')[2]}={value}"
