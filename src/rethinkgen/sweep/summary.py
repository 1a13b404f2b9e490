"""``summary.csv``: every choice and number of every run of a sweep, for ``pandas.read_csv``."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rethinkgen.files import csv_cell, write_atomically
from rethinkgen.names import in_csv
from rethinkgen.run.folder import RunFolder
from rethinkgen.run.identity import counted, flatten
from rethinkgen.run.run import Run, rank, read_run


@dataclass(frozen=True, slots=True)
class Row:
    """What is kept of a run until all are read: 2 KB."""

    facts: dict[str, Any]
    differing: dict[str, Any]
    """Of its config, what is not as in the first one; of a key that it lacks ``None``."""
    has_config: bool
    metrics: tuple[tuple[str, ...], tuple[Any, ...]]
    """Names, of which runs share one tuple, and values."""


class Summary:
    """The runs of a sweep's folder, each once.

    Args:
        folder: as it is called without links.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._rows: dict[str, tuple[tuple[bool, bool, bool, str], Row]] = {}
        self._read: set[str] = set()
        """Names of the folders that were read."""
        self._first: dict[str, Any] = {}
        """What counts of the first config."""
        self._keys: dict[str, None] = {}
        """Of all configs, in the order in which they came."""
        self._names: dict[tuple[str, ...], tuple[str, ...]] = {}

    def add(self, run: Run, settings: dict[str, Any]) -> None:
        """Keep what stands in the row of ``run``, unless a better folder of the same run was seen.

        ``settings`` is all that counts of its config, by dotted keys; empty where none is known.
        """
        if run.state == "missing":
            return
        self._read.add(run.path.name)
        ranked = rank(run)
        known = self._rows.get(run.run_id)
        if known is not None and ranked <= known[0]:
            return
        self._keys |= dict.fromkeys(settings)
        self._first = self._first or settings
        keys = self._first.keys() | settings.keys() if settings else ()
        differing = {key: settings.get(key) for key in keys if str(settings.get(key)) != str(self._first.get(key))}
        names = tuple(run.metrics)
        metrics = (self._names.setdefault(names, names), tuple(run.metrics.values()))
        self._rows[run.run_id] = (ranked, Row(_facts(run, self.folder), differing, bool(settings), metrics))

    def write(self) -> Path:
        """Write ``summary.csv``: a row for each run in the folder, those that were not added too.

        A column for every choice, every value that varies, and every metric. A list is joined by ``+``, an empty one is
        ``none``, what was not reached is empty.
        """
        for path in _run_folders(self.folder):
            if path.name not in self._read:
                run = read_run(path)
                self.add(run, flatten(counted(run.config, run.contents)) if run.config else {})
        rows = sorted((row for _, row in self._rows.values()), key=lambda row: row.facts["folder"])
        varied = self._varied(rows)
        columns = dict.fromkeys([*(rows[0].facts if rows else ()), *varied])
        for row in rows:
            columns |= dict.fromkeys([*row.facts, *row.metrics[0]])
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(map(csv_cell, columns))
        writer = csv.DictWriter(text, list(columns), lineterminator="\n")
        for row in rows:
            config = {key: self._value(row, key) for key in varied if row.has_config}
            cells = {**config, **row.facts, **dict(zip(*row.metrics, strict=True))}
            writer.writerow({key: in_csv(value) for key, value in cells.items()})
        self.folder.mkdir(parents=True, exist_ok=True)
        summary = self.folder / "summary.csv"
        write_atomically(summary, text.getvalue(), durable=False)
        return summary

    def _varied(self, rows: Sequence[Row]) -> list[str]:
        """Return the keys of configs that do not have the same value in all of them."""
        known = [row for row in rows if row.has_config]
        differing = {key for row in known for key in row.differing}
        # The first one may have given way to a better folder of its run.
        varied = {key for key in differing if len({str(self._value(row, key)) for row in known}) > 1}
        return [key for key in self._keys if key in varied]

    def _value(self, row: Row, key: str) -> Any:
        return row.differing.get(key, self._first.get(key))


def _run_folders(folder: Path) -> list[Path]:
    """Return the folders of runs that were begun, each once where links lead to one."""
    if not folder.is_dir():
        return []
    begun = [
        entry
        for entry in os.scandir(folder.resolve())
        if any(os.path.exists(f"{entry.path}/{name}.json") for name in ("result", "status"))
    ]
    return sorted({Path(entry.path).resolve() if entry.is_symlink() else Path(entry.path) for entry in begun})


def _facts(run: Run, folder: Path) -> dict[str, Any]:
    told = run.result or RunFolder(run.path).read_status()
    facts: dict[str, Any] = {"run": run.path.name, "state": run.state, "reason": run.reason}
    # From the sweep's, so that it is right wherever that is taken.
    facts |= {"folder": os.path.relpath(run.path, folder), "run_id": run.run_id}
    facts |= told.get("choices", {})
    facts["seed"] = told.get("seed")
    for key in ("fitted", "seconds", "images_per_second", "device", "finished", "commit"):
        facts[key] = told.get(key)
    return facts
