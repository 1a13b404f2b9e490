"""Loggers of others, in step with the checkpoints: a run that goes on repeats no row of theirs."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Mapping
from typing import Any

from pytorch_lightning.loggers.logger import Logger


class DelayedLogger(Logger):
    """Hands rows on to another logger once a checkpoint holds the step that they are of.

    A run that was killed goes on from its checkpoint, and logs what came after it once more: ``metrics.csv`` is cut
    back, but nobody can take a row back from TensorBoard. A run that failed has its last rows in ``metrics.csv`` alone.
    """

    def __init__(self, logger: Logger) -> None:
        super().__init__()
        self.logger = logger
        self._rows: list[tuple[Any, int | None]] = []

    @property
    def name(self) -> str | None:
        """As the other logger has it; the same below."""
        return self.logger.name

    @property
    def version(self) -> int | str | None:
        """See ``name``."""
        return self.logger.version

    @property
    def save_dir(self) -> str | None:
        """See ``name``."""
        return self.logger.save_dir

    @property
    def accepts_text(self) -> bool:
        """Whether a row may have texts in it."""
        return getattr(self.logger, "accepts_text", False) is True

    def log_hyperparams(self, params: dict[str, Any] | Namespace, *args: Any, **kwargs: Any) -> None:
        """Hand on at once."""
        self.logger.log_hyperparams(params, *args, **kwargs)

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Keep a row until it is saved."""
        self._rows.append((dict(metrics), step))

    def save(self) -> None:
        """Hand on all rows; called just before each checkpoint."""
        for metrics, step in self._rows:
            self.logger.log_metrics(metrics, step)
        self._rows.clear()
        self.logger.save()

    def finalize(self, status: str) -> None:
        """Close; what no checkpoint holds is handed on only where there will be none."""
        if status == "success":
            self.save()
        self.logger.finalize(status)
