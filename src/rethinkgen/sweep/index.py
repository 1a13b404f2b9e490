"""Which folder a list of overrides leads to, remembered: a look-up takes 20 us.

What a cell is, is remembered too, so that a report can name the runs that nobody has begun yet.

An entry holds for as long as nothing changes that the way from overrides to folder depends on: ``conf/``, the code that
names runs, the environment variables that ``conf/`` reads, and the data. The file may be somebody else's: no source of
data that it names is built, so that the first cell on each source is composed to learn of it.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import logging
import os
import re
import sys
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from rethinkgen.errors import DamagedFileError
from rethinkgen.files import ODD, append_line, in_utf8
from rethinkgen.run import identity
from rethinkgen.run.catalogue import FILE_NAME, Entry, each_line
from rethinkgen.run.description import Description
from rethinkgen.run.identity import named_files, place
from rethinkgen.run.selection import KEY as EXCLUDE

log = logging.getLogger(__name__)

CONTROLLER_PREFIXES = ("hydra.launcher.", "hydra/launcher=", "hydra.sweeper.", "hydra/sweeper=", "hydra.mode=")
"""Overrides that say how jobs are run, not which."""
MOST_PENDING = 200
"""Lines that are written at a time, of 2 KB each; packed until then, as there may be 20,000."""


class Known(NamedTuple):
    """What is kept in memory of a line; its config would take ten times as much."""

    folder: str
    run_id: str | None
    """Not there in lines of before, nor where it does not follow from the line."""
    source: str
    fingerprint: str | None
    line: int
    """Hash of the whole line."""


class Index:
    """The entries in ``<sweep's folder>/.index.jsonl``, one a line, only ever added to.

    What is added is written at the end of a ``with`` block, and not at all where an error ends it: what a command is
    refused for leaves no cells that a report would then call unfinished.

    Args:
        folder: the sweep's.
        config_folders: where configs are read from.
        hydra_overrides: Hydra's own of the command, which all jobs share.
        config_name: of the config that all begin with.
    """

    def __init__(
        self, folder: Path, config_folders: Sequence[Path], hydra_overrides: Sequence[str], config_name: str = "train"
    ) -> None:
        self.folder = folder
        shared = sorted(item for item in hydra_overrides if not item.startswith(CONTROLLER_PREFIXES))
        self._configs = _state_of(config_folders)
        self._state = _hash([self._configs, config_name, *shared])
        self._entries: dict[str, Known] = {}
        self._latest: str | None = None
        """The configs of the last line."""
        for line, entry in each_line(folder):
            self._keep(line, entry)
        self._sources: dict[str, str | None] = {}
        """Fingerprints of the sources that were composed here, by their configs as JSON."""
        self._pending: list[bytes] = []
        self._packed: list[bytes] = []

    def __enter__(self) -> Index:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._write()

    def find(self, overrides: Sequence[str]) -> tuple[Path, str] | None:
        """Return the folder and the run's id of the job with these overrides, if they are known and sure."""
        if any(item.lstrip("+").startswith("rerun") for item in overrides):
            return None
        entry = self._entries.get(self._key(overrides))
        if entry is None or entry.run_id is None or entry.source not in self._sources:
            return None
        if self._sources[entry.source] != entry.fingerprint:
            return None
        return Path(os.path.normpath(self.folder / entry.folder)), entry.run_id

    def add(self, overrides: Sequence[str], path: Path, description: Description) -> None:
        """Remember the folder of a planned job."""
        source = json.dumps(description.config["data"]["source"], sort_keys=True)
        self._sources[source] = description.fingerprint
        if description.config.get("rerun"):
            return
        key = self._key(overrides)
        entry: Entry = {
            "key": key,
            "folder": os.path.relpath(path, self.folder),
            "run_id": description.run_id,
            "source": source,
            "fingerprint": description.fingerprint,
            "configs": self._configs,
            "overrides": list(overrides),
            "choices": description.choices,
            "config": description.config,
        }
        line = json.dumps(in_utf8(entry)).encode()
        known = self._entries.get(key)
        # Where the configs were changed and changed back, its last line must say so.
        if known is not None and known.line == hash(line) and self._latest == self._configs:
            return
        self._keep(line, entry)
        self._pending.append(line)
        if len(self._pending) >= MOST_PENDING:
            self._pack()

    def _pack(self) -> None:
        if self._pending:
            self._packed.append(zlib.compress(b"\n".join(self._pending), 1))
            self._pending.clear()

    def _write(self) -> None:
        self._pack()
        if not self._packed:
            return
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            for lines in self._packed:
                # In one write: two sweeps may add at the same time.
                append_line(self.folder / FILE_NAME, zlib.decompress(lines).decode())
        except DamagedFileError as error:
            log.warning("%s The cells of this sweep are composed each time.", error)

    def _keep(self, line: bytes, entry: Entry) -> None:
        source, run_id = sys.intern(str(entry.get("source"))), entry.get("run_id")
        config = entry.get("config") or {}
        if named_files(config) or isinstance(place(config, EXCLUDE)[0].get("exclude"), dict):
            run_id = None  # looked for anew each time: the file, or what runs say, may have changed
        fingerprint = entry.get("fingerprint")
        self._entries[entry["key"]] = Known(
            str(entry.get("folder")),
            None if run_id is None else str(run_id),
            source,
            None if fingerprint is None else sys.intern(str(fingerprint)),
            hash(line),
        )
        self._latest = entry.get("configs")

    def _key(self, overrides: Sequence[str]) -> str:
        return _hash([self._state, *sorted(overrides)])


def _hash(parts: Sequence[str]) -> str:
    return hashlib.sha256("\0".join(parts).encode("utf-8", ODD)).hexdigest()[:24]


def _state_of(config_folders: Sequence[Path]) -> str:
    texts = [
        f"{path.relative_to(folder)}\n{path.read_text(encoding='utf-8')}"
        for folder in config_folders
        for path in sorted(folder.rglob("*.yaml"))
    ]
    names = sorted({name for text in texts for name in re.findall(r"oc\.env:\s*([A-Za-z0-9_]+)", text)})
    variables = [f"{name}={os.environ.get(name)}" for name in names]
    naming = ("identity.py", "neutral.yaml", "former_identity.py", "description.py")
    code = [Path(identity.__file__).with_name(name).read_text(encoding="utf-8") for name in naming]
    return _hash([importlib.metadata.version("rethinkgen"), *code, *variables, *texts])
