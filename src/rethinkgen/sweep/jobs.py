"""A cell of a sweep: the overrides that name it, the folder that its run has, and how far that run is.

All of ``rethinkgen.sweep`` is imported by the process that launches, which stays light: no torch.
"""

from __future__ import annotations

import logging
import signal
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from omegaconf import DictConfig

from rethinkgen.console import first_line
from rethinkgen.console import shown as shown
from rethinkgen.errors import UNTOLD
from rethinkgen.run.description import folders_with_id, renamed_since
from rethinkgen.run.folder import RunFolder
from rethinkgen.run.former_identity import FORMER_NAME
from rethinkgen.run.kept import lacks_states
from rethinkgen.run.run import Outcome, State, outcome_of

if TYPE_CHECKING:
    from rethinkgen.sweep.planning import Cell

log = logging.getLogger(__name__)

GROUPS = ("data", "data.corruption", "model", "loss", "optimizer", "schedule", "experiment")


@dataclass(slots=True, eq=False)
class Job:
    """One cell of a sweep, of which there may be many thousands: 1 KB each."""

    overrides: list[str]
    """What was asked for, without Hydra's own."""
    path: Path
    cell: Cell | None = field(default=None, repr=False)
    """How its config is made; not there where the index already knew the folder."""
    was_done: bool = False
    """Whether it was finished before this command."""
    fault: Outcome | None = None
    """How it ended, where only the launcher can tell."""
    number: int | None = None
    """Of a cell that waits for others of the same sweep, its place in it: which run it is, is not known before."""

    @property
    def folder(self) -> RunFolder:
        """The run's folder."""
        return RunFolder(self.path)

    @property
    def is_rerun(self) -> bool:
        """Whether the run is to be trained again though it is finished."""
        return self.cell is not None and bool(self.cell.needs.rerun)

    def is_finished(self) -> bool:
        """Whether nothing is left to do: it has its result, and all states that it is asked to keep."""
        return not self.is_rerun and self.outcome().state == "done" and not self.lacks_states

    @property
    def lacks_states(self) -> bool:
        """Whether its finished run has not all states that it is asked to keep."""
        return self.cell is not None and lacks_states(self.path, self.cell.needs.get("keep") or ())

    @property
    def trainer(self) -> DictConfig:
        """What the run wants to be trained on."""
        assert self.cell is not None
        trainer: DictConfig = self.cell.needs.trainer
        return trainer

    @property
    def runs_alone(self) -> bool:
        """Whether its model takes the memory of a machine, so that nothing fits beside it."""
        return self.cell is not None and bool(self.cell.needs.model.get("runs_alone"))

    def find_folder(self) -> None:
        """Take note of where the run lies, if another process has begun it under another name, or has renamed it."""
        if self.folder.result.exists():
            return
        if FORMER_NAME.search(self.path.name):
            self.path = self.path if self.folder.holds_run else renamed_since(self.path) or self.path
            return
        found = folders_with_id(self.path.name.rpartition("-")[2], self.path.parent)
        at_work = (path for path in found if RunFolder(path).is_held)
        if found:
            self.path = found[0] if RunFolder(found[0]).result.exists() else next(at_work, found[0])

    def fail(self, reason: str, **details: str) -> None:
        """Note in ``status.json`` how the job's process ended; on a full disk, only here."""
        self.end("failed", reason, **details)

    def interrupt(self, reason: str) -> None:
        """Note that the job's process was stopped before it could say so."""
        self.end("interrupted", reason)

    def end(self, state: State, reason: str, **details: str) -> None:
        """Note how the job's process ended."""
        self.fault = Outcome(state, first_line(reason))
        if self.folder.result.exists() and not self.folder.status.exists():
            return  # a finished run that was asked for more stays finished
        try:
            self.folder.add_to_status(state, reason=reason, **details)
        except OSError as error:
            log.warning("%s cannot be written: %s", self.folder.status, error)

    def outcome(self) -> Outcome:
        """Read how far the run is."""
        return outcome_of(self.folder, self.fault)


def describe_exit(code: int) -> str:
    """Say how a process ended that told nothing itself: ``-9`` is a SIGKILL."""
    if code == UNTOLD:
        return "nothing could be written into its folder, not even why: a full disk, or one that can only be read?"
    if code >= 0:
        return f"exit code {code}"
    name = signal.Signals(-code).name if -code in signal.valid_signals() else f"signal {-code}"
    hint = " (out of memory?)" if -code == signal.SIGKILL else ""
    return f"killed by {name}{hint}"


def labels(jobs: Sequence[Job]) -> list[str]:
    """Name each job by what tells it from the others: ``random_labels inception seed=1``."""
    varying = varying_overrides(jobs)
    return [" ".join(_shown(override) for override in job.overrides if _key(override) in varying) for job in jobs]


def varying_overrides(jobs: Sequence[Job]) -> list[str]:
    """Return the keys of the overrides that are not the same in all jobs; if none varies, those that describe a run."""
    values: dict[str, set[str]] = {}
    counts: dict[str, int] = {}
    for job in jobs:
        for override in job.overrides:
            key = _key(override)
            values.setdefault(key, set()).add(override)
            counts[key] = counts.get(key, 0) + 1
    varying = [key for key, found in values.items() if len(found) > 1 or counts[key] < len(jobs)]
    return varying or [key for key in values if key.lstrip("+") in (*GROUPS, "regularizer", "seed")]


def brief(value: str) -> str:
    """Return a number that a sampler drew with as many digits as are looked at; any other text as it is."""
    try:
        return f"{float(value):.4g}" if len(value) > 8 else value
    except ValueError:
        return value


def _key(override: str) -> str:
    return override.split("=", 1)[0]


def _shown(override: str) -> str:
    key, _, value = override.partition("=")
    # A choice speaks for itself; the value of a key does not.
    name = key.lstrip("+")
    return value if name in (*GROUPS, "regularizer") else f"{name.rpartition('.')[2]}={brief(value)}"
