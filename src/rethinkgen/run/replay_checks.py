"""Compares a replayed training with the run's own rows: digests of the weights, and running losses."""

from __future__ import annotations

import importlib.metadata
import math
from collections.abc import Callable

from rethinkgen.errors import DamagedFileError, ReplayDiffersError
from rethinkgen.measure.fit import state_digest
from rethinkgen.run.curves import STEP, read_rows
from rethinkgen.run.description import changed_code, digest_of_code
from rethinkgen.run.folder import RunFolder
from rethinkgen.run.measured import INEXACT, REPLAYED, TO_TOLERANCE, UNCHECKED
from rethinkgen.run.run import Run
from rethinkgen.run.training import PACKAGES, commit
from rethinkgen.train.classifier import Classifier
from rethinkgen.train.histories import RunningWindow
from rethinkgen.train.kept import State

DIGEST, LOSS = "weights_digest", "train/loss"
TOLERANCE = 0.01
"""By how much a running loss may differ, as a share of it (of 0.1 where it is less), where bits cannot be asked for: of
a run on a GPU, or on several devices."""
ROUNDING = 1e-6
"""The same, where they can: versions have added a window's losses up in another order; digests tell of bits."""

NOTHING_DIFFERS = (
    "Of what the run's files tell nothing is another now: perhaps the libraries below torch are, or the run was "
    "resumed under another number of threads"
)

Tell = Callable[[str], object]


def own_rows(run: Run) -> dict[int, dict[str, str]]:
    """Return the run's rows by step; none where the file cannot be read."""
    try:
        return {int(row[STEP]): row for row in read_rows(RunFolder(run.path).metrics).cells()}
    except DamagedFileError:
        return {}


class Checks:
    """Compares what is replayed with the rows of the run that it passes."""

    def __init__(self, run: Run, state: State | None, *, inexact: bool, tell: Tell) -> None:
        self.run = run
        self.inexact = inexact
        self.tell = tell
        self.rows = own_rows(run)
        self.start = 0 if state is None else state.step
        self.log_every = int(run.key("log_every") or 100)
        self.window = RunningWindow()
        if state is not None and "evaluation" in state.rest:
            self.window.load_state_dict(state.rest["evaluation"]["histories"]["window"])
        self.is_exact = _is_exact(run)
        self.num_checked = 0
        self.last_right = self.start
        """The last step that is known to be the run's: that of the state, or of a row that told the same."""
        self.has_differed = False
        self.device = ""
        """Of the replay."""

    @property
    def worth(self) -> str:
        """How sure what was replayed so far is, a word of ``rethinkgen.run.measured.WORTH``."""
        if self.has_differed:
            return INEXACT
        if not self.num_checked:
            return UNCHECKED
        return REPLAYED if self.is_exact else TO_TOLERANCE

    def next_stop(self, step: int) -> float:
        """Return the first step after ``step`` of which the run tells a digest of the weights."""
        return min((each for each, row in self.rows.items() if each > step and row.get(DIGEST)), default=math.inf)

    def see(self, step: int, model: Classifier) -> None:
        """Compare what the steps up to ``step``, those of ``model.steps``, saw and led to.

        Raises:
            ReplayDiffersError: it is not what the run saw.
        """
        for at, seen in enumerate(model.steps, step - len(model.steps) + 1):
            self.window.update(at, seen)
            told = self.rows.get(at, {}).get(LOSS)
            if told and len(self.window.steps) >= min(self.log_every, at):
                self._compare_losses(at, self.window.mean(self.log_every)[0], float(told))
        self.window.forget(self.log_every)
        if (told := self.rows.get(step, {}).get(DIGEST)) and self.is_exact:
            self.num_checked += 1
            if told != (ours := state_digest(model.state_dict())):
                self._differs(f"its weights at step {step:,} have the digest {ours}, those of the run {told}")
            else:
                self.last_right = step

    def _compare_losses(self, step: int, ours: float, theirs: float) -> None:
        self.num_checked += 1
        bound = (ROUNDING if self.is_exact else TOLERANCE) * max(0.1, abs(theirs))
        if not abs(ours - theirs) <= bound:
            self._differs(f"its running loss at step {step:,} is {ours!r}, that of the run {theirs!r}")

    def _differs(self, what: str) -> None:
        told = differences(self.run, self.device)
        because = f"What is another now: {'; '.join(told)}" if told else NOTHING_DIFFERS
        if not self.inexact:
            raise ReplayDiffersError(
                f"the replay of {self.run.path.name} is not the run: {what}. {because}. replay=inexact goes on all the "
                "same, with numbers that are near and not the run's own."
            )
        if not self.has_differed:
            self.has_differed = True
            self.tell(f"Inexact: {what}. {because}.")

    def conclude(self, last: int) -> None:
        """Say what the comparison was worth."""
        if self.start == last:
            return
        if not self.num_checked:
            self.tell(
                f"Unchecked: between steps {self.start:,} and {last:,} the run has no row that the replay could be "
                "compared with."
            )
        elif not self.is_exact and not self.has_differed:
            self.tell(
                f"Checked to {TOLERANCE:.0%} of the running loss: the run was trained on {_trained_on(self.run)}, "
                "where bits cannot be asked for."
            )


def _is_exact(run: Run) -> bool:
    result = run.result or {}
    return result.get("world_size", 1) == 1 and str(result.get("device", "cpu")).startswith("cpu")


def _trained_on(run: Run) -> str:
    result = run.result or {}
    size = result.get("world_size", 1)
    return f"{size} x {result.get('device')}" if size > 1 else str(result.get("device"))


def differences(run: Run, device: str) -> list[str]:
    """Return what is another than when the run was trained, of what may change numbers."""
    result = run.result or {}
    told = [
        f"{name} is {now} here, was {then}"
        for name, then in (result.get("versions") or {}).items()
        if name in PACKAGES and (now := _version(name)) != then
    ]
    if result.get("device") not in (None, device):
        told.append(f"the device is {device} here, was {result['device']}")
    if result.get("commit") not in (None, ours := commit()):
        told.append(f"rethinkgen is of commit {_brief(ours)} here, was of {_brief(result['commit'])}")
    then = result.get("code") or {}
    told += [
        f"{package} is not the code of then"
        for package in changed_code(then, {name: digest_of_code(name) for name in then})
    ]
    return told


def _brief(commit: str | None) -> str:
    name, plus, changes = (commit or "unknown").partition("+")
    return f"{name[:10]}{plus}{changes}"


def _version(name: str) -> str:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return "not installed"
