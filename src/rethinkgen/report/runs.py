"""The runs of one or several sweeps, as their files tell: finished, at work, failed, and never begun."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd

from rethinkgen.errors import RunFolderError
from rethinkgen.run.command import train_command
from rethinkgen.run.entry import flatten
from rethinkgen.run.folder import RunFolder
from rethinkgen.run.identity import LEVELS, identifying
from rethinkgen.sweep.index import Entry, latest_entries
from rethinkgen.sweep.jobs import Job, Outcome, State

FOLDERS = (".ImageFolder", ".StreamedFolder")
"""Sources that are whatever lies at their path."""


@dataclass(frozen=True, eq=False)
class Run:
    """One run, however far it is.

    ``config`` is the resolved one: of the result, else of the folder, else of the sweep's index.
    """

    path: Path
    state: State
    reason: str
    """Why there is no result, in a line."""
    choices: dict[str, Any]
    """Group -> choice, ``regularizer`` -> list."""
    config: dict[str, Any]
    overrides: list[str]
    seed: int
    result: dict[str, Any] | None = field(repr=False)
    """The whole ``result.json`` of a finished run."""

    @property
    def sweep(self) -> Path:
        """The sweep's folder."""
        return self.path.parent

    @property
    def run_id(self) -> str:
        """The hash that names the run."""
        return str((self.result or {}).get("run_id") or self.path.name.rpartition("-")[2])

    @property
    def metrics(self) -> dict[str, Any]:
        """Of a finished run, what was not reached as ``None``; else empty."""
        return {} if self.result is None else dict(self.result.get("metrics", {}))

    @property
    def fitted(self) -> bool | None:
        """Whether a finished run fitted its training set."""
        return None if self.result is None else bool(self.result.get("fitted"))

    @property
    def num_classes(self) -> int | None:
        """Of a finished run."""
        return None if self.result is None else self.result.get("num_classes")

    @property
    def data(self) -> str:
        """The choice of ``data``."""
        return str(self.choices.get("data") or self.key("data.name") or "unknown")

    @property
    def corruption(self) -> str:
        """The choice of ``data.corruption``."""
        return str(self.choices.get("data.corruption") or "unknown")

    @property
    def model(self) -> str:
        """The choice of ``model``."""
        return str(self.choices.get("model") or "unknown")

    @property
    def regularizers(self) -> tuple[str, ...]:
        """Names of those in force, sorted."""
        return tuple(self.choices.get("regularizer") or ())

    @property
    def level(self) -> float | None:
        """How much corruption there is, in [0, 1]; nothing for one that is all or nothing, as shuffled pixels are."""
        if self.corruption in ("none", "random_labels"):
            return float(self.corruption == "random_labels")
        values = [self.key(f"data.corruption.{key}") for key in LEVELS]
        return next((float(value) for value in values if value is not None), None)

    def key(self, dotted: str) -> Any:
        """Return a value of the config, nothing where it has no such key."""
        node: Any = self.config
        for name in dotted.split("."):
            node = node.get(name) if isinstance(node, dict) else None
        return node

    @cached_property
    def curves(self) -> pd.DataFrame:
        """``metrics.csv`` as it is, also of a run at work; empty where there is none."""
        try:
            text = (self.path / "metrics.csv").read_text()
        except (FileNotFoundError, NotADirectoryError):
            return pd.DataFrame()
        # A row that is being written, or that a kill cut short.
        whole = text[: text.rfind("\n") + 1]
        return pd.read_csv(io.StringIO(whole)) if whole else pd.DataFrame()

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Dotted key -> value of all that identifies the run; an image folder by its path, other data by their name."""
        if not self.config:
            return {"run": self.path.name}
        kept = flatten(identifying(self.config, look_at_data=False))
        if str(self.key("data.source._target_")).endswith(FOLDERS):
            kept["data.source.root"] = self.key("data.source.root")
        return kept

    def setting(self, *but_for: str) -> str:
        """Return everything that identifies the run but these dotted keys, and all keys below them.

        Two runs with the same ``setting("data.corruption")`` differ in nothing but their corruption.
        """
        if but_for not in self._settings:
            prefixes = tuple(f"{key}." for key in but_for)
            kept = {key: value for key, value in self.identity.items() if not f"{key}.".startswith(prefixes)}
            self._settings[but_for] = json.dumps(kept, sort_keys=True, default=str)
        return self._settings[but_for]

    @cached_property
    def _settings(self) -> dict[tuple[str, ...], str]:
        # A report asks for the same ones again and again.
        return {}


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Read all runs of sweep folders, or of single runs' folders, each run once.

    A run that lies in two sweeps counts as one: the finished one, the later one. What a sweep was asked for, under the
    configs of its last command, and nobody has begun is among them as ``missing``.

    Raises:
        ValueError: a folder does not exist or holds no run.
    """
    found: dict[str, Run] = {}
    for folder in folders:
        runs = list(_runs_of(Path(folder)))
        if not runs:
            raise ValueError(_nothing_there(Path(folder)))
        for run in runs:
            if run.run_id not in found or _rank(run) > _rank(found[run.run_id]):
                found[run.run_id] = run
    return list(found.values())


def _rank(run: Run) -> tuple[bool, bool, str]:
    return run.state == "done", run.state == "running", str((run.result or {}).get("finished", ""))


def _runs_of(folder: Path) -> Iterable[Run]:
    if _holds_run(folder):
        yield _read_run(folder, _entries(folder.parent).get(folder.name))
        return
    entries = _entries(folder)
    begun = {path.name: path for path in sorted(folder.glob("*")) if _holds_run(path)}
    # In the order that the sweep has, then what no index knows.
    for name in dict.fromkeys([*entries, *begun]):
        if name in begun:
            yield _read_run(begun[name], entries.get(name))
        elif (entry := entries[name]).get("is_latest"):
            yield _read_run(folder / name, entry)


def _entries(folder: Path) -> dict[str, Entry]:
    return {str(entry["folder"]): entry for entry in latest_entries(folder)}


def _holds_run(path: Path) -> bool:
    return any((path / name).is_file() for name in ("result.json", "status.json", "config.yaml"))


def _nothing_there(folder: Path) -> str:
    if not folder.is_dir():
        around = folder.parent if folder.parent.is_dir() else Path("multirun")
        what = "there is no such folder"
    else:
        around, what = folder, "no run was ever begun there"
    sweeps = sorted(str(path) for path in around.glob("*/") if any(map(_holds_run, path.glob("*"))))
    there = f" There are: {', '.join(sweeps)}." if sweeps else ""
    return f"{folder}: {what}. Give the folder of a sweep, such as multirun/runs, or of a run.{there}"


def _read_run(path: Path, entry: Entry | None) -> Run:
    folder, known = RunFolder(path), entry or {}
    outcome = Job([], path).outcome()
    result = outcome.result if outcome.state == "done" else None
    if result is not None and not _has_metrics(result):
        result, outcome = None, Outcome("failed", f"{folder.result} is damaged (no metrics in it).")
    config = (result or {}).get("config") or {}
    if not config:
        # Only then: YAML takes ten times as long to read as JSON.
        try:
            config = folder.read_config() or known.get("config") or {}
        except RunFolderError as error:
            config, outcome = known.get("config") or {}, Outcome("failed", str(error))
    status = folder.read_status()
    sources = [source for source in (result, status, known) if source]
    return Run(
        path=path,
        state=outcome.state,
        reason=outcome.reason,
        choices=next((source["choices"] for source in sources if source.get("choices")), {}),
        config=config,
        overrides=next((source["overrides"] for source in sources if source.get("overrides")), []),
        seed=int(config.get("seed") or status.get("seed") or 0),
        result=result,
    )


def _has_metrics(result: Any) -> bool:
    return isinstance(result, dict) and isinstance(result.get("metrics"), dict)


def command_of(runs: Sequence[Run]) -> str:
    """Return what one types to have these runs, a line for each command; of single runs, their overrides.

    Paths of the machine are left out: results go to ``multirun``, and data lie where one has them.
    """
    commands: dict[str, None] = {}
    for run in runs:
        noted = run.sweep / "commands.txt"
        if noted.exists():
            # A line is a time and the command.
            lines = noted.read_text().splitlines()
            commands |= dict.fromkeys(_portable(line.split(maxsplit=1)[-1]) for line in lines if line.strip())
        else:
            commands[_portable(train_command(run.overrides))] = None
    return "\n".join(commands)


def _portable(command: str) -> str:
    """Return a command without the paths of the machine that it was given on."""
    command = re.sub(r"^python \S*/(?=\w+\.py)", "python ", command)
    command = re.sub(r" results_dir=\S+", "", command)
    return re.sub(r"=/(?:\S*/)?(?=[^\s/])", "=path/to/", command)
