"""Weights & Biases as a mirror of the run's own files: nothing depends on it, and its failure never ends a run."""

from __future__ import annotations

import functools
import logging
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers.logger import Logger

from rethinkgen.run.folder import RunFolder
from rethinkgen.run.measured import Measured, numbers_of, read_measured
from rethinkgen.run.wandb_offline import (
    NOBODY_LOGGED_IN,
    Sweep,
    as_logged_offline,
    in_brief,
    reason_to_log_offline,
    remove_empty_logs,
)

log = logging.getLogger(__name__)

INIT_SECONDS = 15
"""In which the server must take a new run; it knew the login a moment before."""
FINISH_SECONDS = 20
"""In which what was logged last must reach the server. What does not is on the disk."""
FLUSH_SECONDS = 0.5
"""Between two writes of the log on the disk; W&B's own 15 are as long as a small run."""
LONGEST_TAG = 64
"""Characters, W&B's limit."""
MADE_WITH = ("device", "world_size", "threads", "commit", "versions")
"""What a result says of machine and code; W&B's own list of it holds paths and names of this machine."""
QUIET: dict[str, Any] = {
    "silent": True,
    "console": "off",
    # Else the command line goes into the config, with its paths.
    "x_disable_meta": True,
}
"""Settings of every run that we open in W&B."""
X_AXIS = "trainer/global_step"
"""The optimizer step, by which every row is drawn: W&B's own counter restarts when a run is resumed."""
PLACES = ("results_dir", "data.root", "data.source.root")
"""Keys that say where things lie on this machine."""
PATH = re.compile(r"(~|[A-Za-z]:\\|/)[^\s]*[/\\]")
"""An absolute path, also below somebody's home."""


class WandbMirror(Logger):
    """Logs to W&B, online if somebody is logged in on this machine, else offline for ``wandb sync`` later.

    ``WANDB_MODE`` (online, offline, disabled) overrules. The W&B run's id is the run's own, so that a resumed run
    continues its curve. A server that does not answer or refuses costs seconds and is named, once for all runs of a
    sweep; the run is then logged offline. After any other failure the mirror says so and is silent from then on.
    """

    def __init__(self, project: str, entity: str | None = None) -> None:
        super().__init__()
        self.project = project
        self.entity = entity
        self._run_id: str | None = None
        self._run: Any = None
        self._has_failed = False
        self._notices = Notices()
        self.unsent_folder: Path | None = None
        """What ``wandb sync`` takes: of a run that is logged offline, or was not sent to its end."""

    @property
    def name(self) -> str:
        """Name for Lightning."""
        return "wandb"

    @property
    def version(self) -> str | None:
        """The W&B run's id."""
        return self._run_id

    def start(self, folder: Path, identity: dict[str, Any]) -> None:
        """Open the W&B run that shows the run in ``folder``."""
        begun_as = RunFolder(folder).read_identity().get("wandb_id") or identity["run_id"]
        self._run_id = id_in_wandb(folder, begun_as)
        place = {"project": self.project, "entity": self.entity, "dir": str(folder)}
        # A run still live in this process is another run of the sweep: W&B would hand it back and mix the two.
        described = place | as_opened(folder, self._run_id, identity) | {"reinit": "finish_previous"}
        self._attempt(lambda: self._open(folder, described))

    def _open(self, folder: Path, described: dict[str, Any]) -> None:
        remove_empty_logs(folder)
        session = self._session()
        mode = os.environ.get("WANDB_MODE") or session.settings.mode
        if mode in ("online", "run", "shared"):
            sweep = Sweep(folder.parent, session.settings.base_url)
            reason = reason_to_log_offline(session.settings, sweep) or self._open_online(mode, described, sweep)
            if reason is None:
                return
            if reason != NOBODY_LOGGED_IN or "WANDB_MODE" in os.environ:
                log.warning("This run is logged to W&B offline: %s", reason)
            mode = "offline"
        self._begin(mode, described)

    def _session(self) -> Any:
        """Return W&B's session of this process, in which this run's id is in force."""
        import wandb

        # W&B's own lines go into our log; what matters of them (what to sync) our summary says.
        quiet = wandb.Settings(silent=True)
        # ``wandb agent`` and SageMaker have ids of their own, which would give two runs one id.
        session = wandb.setup(wandb.Settings(silent=True, run_id=self._run_id, sagemaker_disable=True))
        wandb.termsetup(quiet, self._notices)
        return session

    def _open_online(self, mode: str, described: dict[str, Any], sweep: Sweep) -> str | None:
        """Begin to log to the server; where that cannot be, let go of the run's id and return why."""
        import wandb

        try:
            self._begin(mode, described)
        except Exception as error:  # also of kinds that W&B does not call its own
            sweep.remember(in_brief(error))
            # The client holds the id of the run that it could not open, and would refuse it.
            wandb.teardown()
            self._session()
            return in_brief(error)
        return None

    def _begin(self, mode: Any, described: dict[str, Any]) -> None:
        import wandb

        settings = wandb.Settings(
            **QUIET,
            program=Path(sys.argv[0]).name,
            # Of a run that is killed, what was logged before is on the disk.
            x_transaction_log_flush_interval=FLUSH_SECONDS,
            init_timeout=INIT_SECONDS,
            finish_timeout=FINISH_SECONDS,
            finish_timeout_raises=True,
        )
        self._run = wandb.init(mode=mode, settings=settings, **described)
        if self._run.offline and not self._run.disabled:
            self.unsent_folder = Path(self._run.dir).parent
        self._run.define_metric("*", step_metric=X_AXIS)

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Log one row, with the optimizer step as x axis."""
        if self._run is not None:
            self._attempt(lambda: self._run.log({**metrics, X_AXIS: step}))

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Do nothing: the run was opened with its config."""

    def show_result(self, result: dict[str, Any]) -> None:
        """Show the result's numbers beside the run, and in its config with what they were made."""
        if self._run is not None:
            self._attempt(lambda: self._show(result))

    def _show(self, result: dict[str, Any]) -> None:
        self._run.summary.update(result["metrics"])
        self._run.config.update(made_with(result), allow_val_change=True)

    def show_measured(self, run: Path) -> None:
        """Log what measures have found of the run, each at its step."""
        if self._run is not None:
            for each in read_measured(run)[0]:
                self._attempt(functools.partial(self._run.log, as_logged(each)))

    def finish(self, exit_code: int) -> None:
        """Close the W&B run; one left open would take in the next run of the process."""
        if self._run is not None:
            run, self._run = self._run, None
            self._attempt(lambda: self._close(run, exit_code), in_any_case=True)

    def _close(self, run: Any, exit_code: int) -> None:
        try:
            run.finish(exit_code=exit_code)
            is_sent = not self._notices.tell_loss
        except TimeoutError:
            is_sent = False
        if not is_sent:
            self.unsent_folder = as_logged_offline(Path(run.dir).parent)
            log.warning("Not all that was logged reached W&B. It is in %s", self.unsent_folder)

    def _attempt(self, action: Callable[[], None], *, in_any_case: bool = False) -> None:
        if self._has_failed and not in_any_case:
            return
        try:
            action()
        except Exception as error:  # W&B must never end a run, whatever it raises
            if self._has_failed:
                return
            self._has_failed = True
            log.warning("W&B failed (%s: %s); the run goes on without it", type(error).__name__, in_brief(error))


def as_logged(measured: Measured) -> dict[str, float]:
    """Return what a measure found as a row of W&B's."""
    return {**{name: value for name, value in numbers_of(measured).items() if value is not None}, X_AXIS: measured.step}


class Notices:
    """Takes what W&B's client would print, and hears whether some of it says that data are not sent."""

    def __init__(self) -> None:
        self.tell_loss = False

    def info(self, message: str) -> None:
        """Drop what is no warning."""

    def warning(self, message: str) -> None:
        """Hear what W&B's client warns of."""
        log.debug("W&B: %s", message)
        self.tell_loss |= "will not be synced" in message

    error = warning


def id_in_wandb(folder: Path, begun_as: str) -> str:
    """Return the id in W&B of a run that began under this one: trained again, it is another curve."""
    num_earlier = sum(1 for _ in folder.glob("previous-*"))
    return begun_as + (f"-{num_earlier}" if num_earlier else "")


def as_opened(folder: Path, run_id: str, identity: dict[str, Any]) -> dict[str, Any]:
    """Return what a W&B run is opened with that shows the run in ``folder``, whenever that is: for ``wandb.init``."""
    chosen = identity["choices"]
    tags = [f"{group}={choice}" for group, choice in chosen.items() if isinstance(choice, str)]
    about = {"folder": f"{folder.parent.name}/{folder.name}", "choices": as_config(chosen)}
    return {
        "id": run_id,
        "name": folder.name,
        "group": identity["sweep"],
        "job_type": "train",
        "tags": [tag[:LONGEST_TAG] for tag in tags + list(chosen.get("regularizer") or [])],
        "config": without_places(identity["config"]) | about,
        "resume": "allow",
    }


def made_with(result: dict[str, Any]) -> dict[str, Any]:
    """Return what the config of a finished run says of machine and code."""
    return {"made_with": {key: result[key] for key in MADE_WITH if key in result}}


def without_places(config: dict[str, Any]) -> dict[str, Any]:
    """Return the config without where things lie on this machine: others see it, and it is not what was run."""

    def shortened(value: Any, key: str) -> Any:
        if isinstance(value, dict):
            inner = {name: f"{key}.{name}".lstrip(".") for name in value}
            return {name: shortened(item, inner[name]) for name, item in value.items() if inner[name] not in PLACES}
        if isinstance(value, list):
            return [shortened(item, key) for item in value]
        if isinstance(value, str) and PATH.match(value):
            return f".../{Path(value).name}"
        return value

    return {str(name): value for name, value in shortened(config, "").items()}


def as_config(choices: dict[str, Any]) -> dict[str, str]:
    """Return what was chosen, by group, as keys that W&B can group runs by: without dots, a list as one text."""
    joined = {group: "+".join(choice) or "none" for group, choice in choices.items() if isinstance(choice, list)}
    return {group.replace(".", "_"): str(choice) for group, choice in (choices | joined).items()}
