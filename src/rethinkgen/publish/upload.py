"""What W&B lacks of some runs is sent there from their plain files: whole curves, results, how they ended.

W&B itself is asked what it has, so that whatever was sent before, by whomever and however far, is not sent again, and
that what was sent is seen to have arrived. Rows are only ever added: W&B takes none back.
"""

from __future__ import annotations

import contextlib
import logging
import math
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rethinkgen.errors import DamagedFileError
from rethinkgen.run.curves import STEP, TEXTS, read_rows
from rethinkgen.run.folder import RunFolder
from rethinkgen.run.run import Run
from rethinkgen.run.wandb_mirror import QUIET, X_AXIS, Notices, as_logged, as_opened, id_in_wandb, made_with
from rethinkgen.run.wandb_offline import in_brief, unsent_of

if TYPE_CHECKING:
    import wandb
    from wandb.apis.public.runs import Run as RunThere

AT_ONCE = 4
"""Runs that are compared and sent at a time: nearly all of it is waiting for the server."""
MOST_ASKED_FOR = 200
"""Runs that are asked for by their ids in one request."""
INIT_SECONDS, FINISH_SECONDS = 60, 300
ARRIVAL_SECONDS = 30
"""In which W&B must show what it has taken."""
ASKING = threading.Lock()
"""The client's cache of runs is one for all threads."""
TOLERANCE = 1e-9
"""Relative, below which a number is the same after its way through W&B's JSON."""


@dataclass(frozen=True)
class Place:
    """A project on W&B."""

    entity: str
    project: str

    def __str__(self) -> str:
        return f"{self.entity}/{self.project}"


@dataclass
class Lacking:
    """What W&B does not have of a run."""

    rows: list[dict[str, float]] = field(default_factory=list)
    """With the x axis, in the order of the steps."""
    summary: dict[str, Any] = field(default_factory=dict)
    is_open: bool = False
    """W&B does not know that the run is finished."""

    def __bool__(self) -> bool:
        return bool(self.rows or self.summary or self.is_open)


@dataclass
class Sent:
    """What came of it, for all runs."""

    runs: int = 0
    """Of which something was sent."""
    rows: int = 0
    were_there: int = 0
    at_work: int = 0
    """They are being trained, and send what they log themselves."""
    empty: int = 0
    """Without anything to send: never begun, or ended before the first row."""
    failures: list[str] = field(default_factory=list)
    """A line for each run that was not sent, or is not seen to have arrived."""


def default_entity(api: wandb.Api) -> str:
    """Return whose project a run is in that names no entity, as ``wandb.init`` and ``wandb sync`` find it."""
    # Of WANDB_ENTITY or a settings file, else of whoever is logged in.
    return str(api.settings["entity"] or api.viewer.entity or api.viewer.username)


def logged_to(run: Run, api: wandb.Api) -> Place | None:
    """Return where a run's config says that it is; nothing of one that was logged nowhere."""
    # It may be somebody else's file, and anything stand there.
    entity, project = run.key("logger.wandb.entity"), run.key("logger.wandb.project")
    return Place(str(entity or default_entity(api)), str(project)) if project else None


def be_quiet() -> None:
    """Have W&B's client print nothing of its own in this process."""
    import wandb

    settings = wandb.Settings(silent=True, sagemaker_disable=True)
    wandb.setup(settings)
    wandb.termsetup(settings, Notices())
    # What it logs, Python would print for want of a handler.
    logging.getLogger("wandb").addHandler(logging.NullHandler())


def send_missing(places: Mapping[Place, Sequence[Run]], tell: Callable[[str], None] = lambda _: None) -> Sent:
    """Send what W&B lacks of ``places``' runs; ``tell`` is given how far it is.

    Raises:
        wandb.errors.Error: W&B cannot be asked what it has. What happens to one run is a line of ``failures``.
    """
    import wandb

    api, sent = wandb.Api(), Sent()
    for place, runs in places.items():
        ready = [run for run in runs if _counts(run, sent)]
        there = runs_there(api, place, [wandb_id(run) for run in ready])
        with tempfile.TemporaryDirectory(prefix="rethinkgen-wandb-") as scratch, ThreadPoolExecutor(AT_ONCE) as pool:

            def attempt(
                run: Run, place: Place = place, there: dict[str, RunThere] = there, scratch: str = scratch
            ) -> int | str:
                try:
                    return _send_run(api, place, run, there.get(wandb_id(run)), Path(scratch))
                except Exception as error:  # of any kind: the network's, or W&B's; the other runs are sent
                    return f"{run.path.name}: {type(error).__name__}: {in_brief(error)}"

            for number, outcome in enumerate(pool.map(attempt, ready), 1):
                _note(outcome, sent)
                tell(f"{number:,} of {len(ready):,} runs compared with {place}")
    return sent


def _counts(run: Run, sent: Sent) -> bool:
    """Whether a run has something to send; if not, note why."""
    if run.state == "running":
        sent.at_work += 1
    elif run.result is None and not _rows(run):
        sent.empty += 1
    else:
        return True
    return False


def _note(outcome: int | str, sent: Sent) -> None:
    if isinstance(outcome, str):
        sent.failures.append(outcome)
    elif outcome < 0:
        sent.were_there += 1
    else:
        sent.runs += 1
        sent.rows += outcome


def wandb_id(run: Run) -> str:
    """Return the id that the run has in W&B: that which it began under."""
    begun_as = run.facts.get("wandb_id") or (run.result or {}).get("run_id") or run.run_id
    return id_in_wandb(run.path, str(begun_as))


def runs_there(api: wandb.Api, place: Place, ids: Sequence[str]) -> dict[str, RunThere]:
    """Return those of the runs that W&B has, by id; none where there is no such project."""
    found: dict[str, RunThere] = {}
    for first in range(0, len(ids), MOST_ASKED_FOR):
        wanted = {"name": {"$in": list(ids[first : first + MOST_ASKED_FOR])}}
        try:
            with ASKING:
                # Else it would tell what it was told before.
                untyped: Any = api
                untyped.flush()
                found |= {run.id: run for run in api.runs(str(place), filters=wanted, per_page=100, lazy=False)}
        except ValueError as error:
            # Of W&B's client; its other errors are of other kinds.
            if "Could not find project" not in str(error):
                raise
    return found


def lacking(run: Run, there: RunThere | None) -> Lacking:
    """Compare a run's files with what W&B has of it."""
    rows = _rows(run)
    wanted = {key: value for key, value in run.metrics.items() if value is not None}
    if there is None:
        return Lacking(rows, _last_values(rows) | wanted, is_open=True)
    seen: dict[tuple[float, str], Any] = {}
    for row in there.scan_history(use_cache=False):
        # Of what was logged twice, by a run that was resumed, the later counts.
        if (step := row.get(X_AXIS)) is not None:
            seen |= {(step, key): value for key, value in row.items() if value is not None}
    missing = []
    for row in rows:
        new = {key: value for key, value in row.items() if not _same(value, seen.get((row[X_AXIS], key)))}
        if new:
            missing.append({X_AXIS: row[X_AXIS], **new})
    summary = there.summary_metrics
    is_complete = all(_same(value, _of_summary(summary, key)) for key, value in wanted.items())
    told = {} if is_complete and not missing else _last_values(rows) | wanted
    return Lacking(missing, told, is_open=run.result is not None and there.state != "finished")


def _rows(run: Run) -> list[dict[str, float]]:
    """Return the rows of ``metrics.csv`` as the mirror logs them, and what measures found at steps."""
    measured = [as_logged(each) for each in run.measured[0]]
    try:
        cells = read_rows(RunFolder(run.path).metrics).cells()
    except DamagedFileError:
        return measured  # the report names it
    return measured + [
        {name: float(cell) for name, cell in row.items() if cell and name not in (STEP, *TEXTS)}
        | {X_AXIS: int(row[STEP])}
        for row in cells
    ]


def _last_values(rows: Iterable[Mapping[str, float]]) -> dict[str, float]:
    return {key: value for row in rows for key, value in row.items()}


def _of_summary(summary: Mapping[str, Any], key: str) -> Any:
    """Return a value; a key with a dot may be told as a key inside another."""
    if key in summary or "." not in key:
        return summary.get(key)
    outer, _, inner = key.partition(".")
    nested = summary.get(outer)
    return nested.get(inner) if isinstance(nested, Mapping) else None


def _same(ours: Any, theirs: Any) -> bool:
    try:
        ours, theirs = float(ours), float(theirs)
    except (TypeError, ValueError):
        return bool(ours == theirs)
    return math.isclose(ours, theirs, rel_tol=TOLERANCE) or (math.isnan(ours) and math.isnan(theirs))


def _send_run(api: wandb.Api, place: Place, run: Run, there: RunThere | None, scratch: Path) -> int:
    """Send what W&B lacks of one run and see it arrive; return the number of rows, -1 where nothing was lacking.

    Raises:
        TimeoutError: what was sent is not to be seen there yet.
    """
    what = lacking(run, there)
    if what:
        _upload(place, run, what, scratch, is_new=there is None)
        _see_arrive(api, place, run)
    # W&B's own sync would put its lines in the place of those that are there now. What was sent elsewhere it must send.
    if logged_to(run, api) in (None, place):
        _mark_as_sent(run)
    return len(what.rows) if what else -1


def _upload(place: Place, run: Run, what: Lacking, scratch: Path, *, is_new: bool) -> None:
    run_id = wandb_id(run)
    identity = {
        "choices": run.choices,
        "sweep": (run.result or {}).get("sweep") or run.sweep.name,
        "config": (run.result or {}).get("config") or run.config,
    }
    # What its owner has named or tagged anew on W&B stays so.
    described = as_opened(run.path, run_id, identity) if is_new else {"id": run_id, "resume": "must"}
    opened = open_run(place, scratch, described)
    exit_code = 1
    try:
        opened.define_metric("*", step_metric=X_AXIS)
        for row in what.rows:
            opened.log(row)
        opened.summary.update(what.summary)
        if run.result is not None:
            config: Any = opened.config
            config.update(made_with(run.result), allow_val_change=True)
            exit_code = 0
    finally:
        opened.finish(exit_code=exit_code)


def open_run(place: Place, scratch: Path, described: Mapping[str, Any]) -> wandb.Run:
    """Open a W&B run beside others of this process, without a word of this machine; its files lie in ``scratch``."""
    import wandb

    settings = wandb.Settings(
        **QUIET,
        run_id=described["id"],
        program="report.py",
        sagemaker_disable=True,
        x_disable_stats=True,
        init_timeout=INIT_SECONDS,
        finish_timeout=FINISH_SECONDS,
        finish_timeout_raises=True,
    )
    how: dict[str, Any] = {"dir": str(scratch), "reinit": "create_new", "mode": "online", **described}
    return wandb.init(entity=place.entity, project=place.project, settings=settings, **how)


def _see_arrive(api: wandb.Api, place: Place, run: Run) -> None:
    give_up_at = time.monotonic() + ARRIVAL_SECONDS
    wait = 0.1
    while lacking(run, runs_there(api, place, [wandb_id(run)]).get(wandb_id(run))):
        if time.monotonic() > give_up_at:
            raise TimeoutError(f"sent, but {ARRIVAL_SECONDS} s later W&B does not show all of it; publish again to see")
        time.sleep(wait)
        wait = min(2 * wait, 5)


def _mark_as_sent(run: Run) -> None:
    for log_folder in unsent_of(run.path):
        if any(path.is_symlink() for path in (log_folder.parent, log_folder)):
            continue
        for path in log_folder.glob("*.wandb"):
            # As ``wandb sync`` does. Where it cannot be written, that only sends once more what is there.
            with contextlib.suppress(OSError):
                path.with_suffix(".wandb.synced").touch()
