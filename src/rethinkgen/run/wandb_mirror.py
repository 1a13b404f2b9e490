"""Weights & Biases as a mirror of the run's own files: nothing depends on it, and its failure never ends a run."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers.logger import Logger

from rethinkgen.run.folder import RunFolder

log = logging.getLogger(__name__)

ONLINE_TIMEOUT_SECONDS = 30


class WandbMirror(Logger):
    """Logs to W&B, online if somebody is logged in on this machine, else offline for ``wandb sync`` later.

    ``WANDB_MODE`` (online, offline, disabled) overrules. The W&B run's id is the run's own, so that a resumed run
    continues its curve. After the first failure the mirror says so and is silent from then on.
    """

    def __init__(self, project: str, entity: str | None = None) -> None:
        super().__init__()
        self.project = project
        self.entity = entity
        self._run_id: str | None = None
        self._run: Any = None
        self._has_failed = False
        self.offline_folder: Path | None = None
        """What ``wandb sync`` takes, if the run is logged offline."""

    @property
    def name(self) -> str:
        """Name for Lightning."""
        return "wandb"

    @property
    def version(self) -> str | None:
        """The W&B run's id."""
        return self._run_id

    def start(self, folder: Path, identity: dict[str, Any]) -> None:
        """Open the W&B run that shows the run in ``folder``; online without an answer becomes offline."""
        chosen = identity["choices"]
        tags = [f"{group}={choice}" for group, choice in chosen.items() if isinstance(choice, str)]
        num_earlier = sum(1 for _ in folder.glob("previous-*"))
        # A run that is trained again is another curve.
        begun_as = RunFolder(folder).read_identity().get("wandb_id") or identity["run_id"]
        self._run_id = begun_as + (f"-{num_earlier}" if num_earlier else "")
        describes = {
            "project": self.project,
            "entity": self.entity,
            "dir": str(folder),
            "id": self._run_id,
            "name": folder.name,
            "group": identity["sweep"],
            "job_type": "train",
            "tags": tags + list(chosen["regularizer"]),
            "config": identity["config"] | {"folder": str(folder), "choices": as_config(chosen)},
            "resume": "allow",
            # A run still live in this process is another run of the sweep: W&B would hand it back and mix the two.
            "reinit": "finish_previous",
        }

        def open_run() -> None:
            import wandb

            # Its own lines are about itself; what matters (the folder to sync) our summary says.
            settings = wandb.Settings(init_timeout=ONLINE_TIMEOUT_SECONDS, silent=True, console="off")
            mode: Any = os.environ.get("WANDB_MODE")
            try:
                if mode is None:
                    mode = "online" if wandb.login(prompt=False) else "offline"
                self._run = wandb.init(mode=mode, settings=settings, **describes)
            except wandb.errors.Error as error:
                if mode == "offline":
                    raise
                log.warning("W&B cannot be reached (%s): this run is logged offline", error)
                self._run = wandb.init(mode="offline", settings=settings, **describes)
            if self._run.offline and not self._run.disabled:
                self.offline_folder = Path(self._run.dir).parent
            self._run.define_metric("*", step_metric="trainer/global_step")

        self._attempt(open_run)

    def log_metrics(self, metrics: dict[str, float], step: int | None = None) -> None:
        """Log one row, with the optimizer step as x axis: W&B's own counter restarts when a run is resumed."""
        if self._run is not None:
            self._attempt(lambda: self._run.log({**metrics, "trainer/global_step": step}))

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Do nothing: the run was opened with its config."""

    def set_summary(self, metrics: dict[str, Any]) -> None:
        """Show the result's numbers beside the run."""
        if self._run is not None:
            self._attempt(lambda: self._run.summary.update(metrics))

    def finish(self, exit_code: int) -> None:
        """Close the W&B run; one left open would take in the next run of the process."""
        if self._run is not None:
            run, self._run = self._run, None
            self._attempt(lambda: run.finish(exit_code=exit_code), in_any_case=True)

    def _attempt(self, action: Callable[[], None], *, in_any_case: bool = False) -> None:
        if self._has_failed and not in_any_case:
            return
        try:
            action()
        except Exception as error:  # W&B must never end a run, whatever it raises
            if self._has_failed:
                return
            self._has_failed = True
            log.warning("W&B failed (%s: %s); the run goes on without it", type(error).__name__, error)


def as_config(choices: dict[str, Any]) -> dict[str, str]:
    """Return what was chosen, by group, as keys that W&B can group runs by: without dots, a list as one text."""
    joined = {group: "+".join(choice) or "none" for group, choice in choices.items() if isinstance(choice, list)}
    return {group.replace(".", "_"): str(choice) for group, choice in (choices | joined).items()}
