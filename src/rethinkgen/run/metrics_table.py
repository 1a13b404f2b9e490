"""``metrics.csv``: one row a logged step, the run's own record whatever other loggers do."""

from __future__ import annotations

import csv
import io
import logging
import os
from pathlib import Path
from typing import Any

from pytorch_lightning.loggers.logger import Logger

from rethinkgen.errors import DamagedFileError
from rethinkgen.files import append_line, write_atomically
from rethinkgen.run.curves import STEP, Rows, read_rows

log = logging.getLogger(__name__)


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
            rows = read_rows(self.path)
            self._rewrite([*rows.columns, *(name for name in new if name not in rows.columns)], rows.cells())
        # Not made anew: a file that somebody has taken away would go on without its beginning.
        append_line(self.path, _as_lines([row], self.columns), create=False)

    def log_hyperparams(self, *_: Any, **__: Any) -> None:
        """Do nothing: the config lies in ``config.yaml``."""

    def save(self) -> None:
        """Make the rows so far durable, as a checkpoint is about to count on them."""
        if self.columns:
            with self.path.open("rb+") as file:
                os.fsync(file.fileno())

    def cut_back(self, step: int) -> None:
        """Take up the table of an earlier command: without what came after ``step``, and without damaged rows.

        A last row that a kill left unfinished is dropped; a file in which more is damaged is kept beside, and named.
        """
        try:
            rows = read_rows(self.path)
            damage = f"{len(rows.damaged)} of its lines are left out" if rows.damaged else ""
        except DamagedFileError as error:
            rows, damage = Rows(), str(error)
        if damage:
            aside = self.path.with_suffix(".damaged")
            self.path.replace(aside)
            log.warning("%s is damaged (%s) and is kept in %s", self.path, damage, aside.name)
        kept = [row for row in rows.cells() if int(row[STEP]) <= step]
        if kept:
            self._rewrite(rows.columns, kept)
        else:
            self.path.unlink(missing_ok=True)
            self.columns = []

    def _rewrite(self, columns: list[str], rows: list[dict[str, str]]) -> None:
        self.columns = columns
        head = dict(zip(columns, columns, strict=True))
        # As ``log_metrics``: ``save`` makes it durable.
        write_atomically(self.path, _as_lines([head, *rows], columns) + "\n", durable=False)


def _as_lines(rows: list[dict[str, Any]], columns: list[str]) -> str:
    text = io.StringIO()
    csv.DictWriter(text, columns, lineterminator="\n").writerows(rows)
    return text.getvalue().removesuffix("\n")
