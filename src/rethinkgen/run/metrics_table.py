"""``metrics.csv``: one row a logged step, the run's own record whatever other loggers do."""

from __future__ import annotations

import csv
import io
import os
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers.logger import Logger

from rethinkgen.files import write_atomically


class MetricsTable(Logger):
    """Appends rows to a CSV file; a new column rewrites it, a resumed run first cuts it back to its checkpoint.

    Numbers are written with ``repr``, so that reading them gives the same floats.
    """

    accepts_text = True
    """Of an evaluation, the digest of its weights."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.path = path
        self.columns: list[str] = []
        if path.exists():
            with path.open(newline="") as file:
                self.columns = next(csv.reader(file), [])

    @property
    def name(self) -> str:
        """Name for Lightning."""
        return "metrics"

    @property
    def version(self) -> str:
        """Version for Lightning."""
        return ""

    def log_metrics(self, metrics: dict[str, Any], step: int | None = None) -> None:
        """Append one row."""
        row: dict[str, Any] = {"step": step, **metrics}
        if new := [name for name in row if name not in self.columns]:
            self._rewrite([*self.columns, *new], self._rows())
        with self.path.open("a", newline="") as file:
            csv.DictWriter(file, self.columns, lineterminator="\n").writerow(row)

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Do nothing: the config lies in ``config.yaml``."""

    def save(self) -> None:
        """Make the rows so far durable, as a checkpoint is about to count on them."""
        if self.path.exists():
            with self.path.open("a") as file:
                os.fsync(file.fileno())

    def cut_back(self, step: int) -> None:
        """Drop every row after ``step``, and a last row that a kill left unfinished."""
        # A torn row has fewer fields, which the reader fills with None.
        kept = [row for row in self._rows() if None not in row.values() and int(row["step"]) <= step]
        if kept:
            self._rewrite(self.columns, kept)
        else:
            self.path.unlink(missing_ok=True)
            self.columns = []

    def _rows(self) -> list[dict[str, str]]:
        if not self.path.exists():
            return []
        with self.path.open(newline="") as file:
            return list(csv.DictReader(file))

    def _rewrite(self, columns: list[str], rows: list[dict[str, str]]) -> None:
        self.columns = columns
        text = io.StringIO()
        writer = csv.DictWriter(text, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        # As ``log_metrics``: ``save`` makes it durable.
        write_atomically(self.path, text.getvalue(), durable=False)
