"""A run's folder: what lies where, written so that nobody ever sees half a file.

``config.yaml`` (resolved), ``overrides.yaml``, ``excluded.npy`` (which examples it leaves out by what other runs
found), ``identity.json`` (which run it is: id, fingerprint of the data, id in W&B), ``metrics.csv``, ``examples.npz``,
``examples.csv`` (of images in files), ``weights/end.pt``, ``result.json`` (written last), ``status.json`` (while it
runs, or when it stopped without a result), ``checkpoints/`` (until there is a result), ``train.log``, and in a sweep
``output.txt``.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import socket
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from rethinkgen.errors import DamagedFileError, LockIsHeldError, RunFolderError, RunIsHeldError
from rethinkgen.files import in_utf8, is_locked, lock, write_atomically
from rethinkgen.received import read_json, read_yaml
from rethinkgen.run.schema import CONFIG, IDENTITY, STATUS, Schema, fault, fault_of_result

log = logging.getLogger(__name__)

TRAIN_AGAIN = "Move it away, and the same command trains the run again."
LOCK_PATIENCE_SECONDS = 0.5
"""How long to ask for a lock again: who only asks whether a run is being trained holds it for an instant."""


class RunFolder:
    """Paths and small files of one run."""

    def __init__(self, path: str | Path) -> None:
        self._status: dict[str, Any] = {}
        self.has_begun = False
        """Whether this process trains, or trained, the run."""
        self.move_to(Path(path))

    def move_to(self, path: Path) -> None:
        """Take note that the folder has been renamed to ``path``."""
        self.path = path
        self.config = self.path / "config.yaml"
        self.overrides = self.path / "overrides.yaml"
        self.excluded = self.path / "excluded.npy"
        self.identity = self.path / "identity.json"
        self.metrics = self.path / "metrics.csv"
        self.examples = self.path / "examples.npz"
        self.examples_by_name = self.path / "examples.csv"
        self.weights = self.path / "weights"
        self.result = self.path / "result.json"
        self.status = self.path / "status.json"
        self.checkpoints = self.path / "checkpoints"
        self.output = self.path / "output.txt"
        """What a run of a sweep printed."""

    @property
    def end_weights(self) -> Path:
        """Where the weights lie, or will lie, that the result's metrics are about."""
        former = self.path / "weights.pt"  # of commit 785b5e0 and before
        path = self.weights / "end.pt"
        return former if former.exists() and not path.exists() else path

    @property
    def holds_run(self) -> bool:
        """Whether a run was begun in it, or has come as a result alone."""
        return self.config.exists() or self.result.exists()

    def remove_remains(self) -> None:
        """Remove what a finished run no longer needs; its status last: until then each command looks after it."""
        self.remove_checkpoints()
        self.status.unlink(missing_ok=True)

    def tidy_up(self) -> None:
        """Remove what a process left of a finished run that was killed before it could, unless another is at it.

        Or that meant to train it again, and did not.
        """
        if self.status.exists() or self.checkpoints.exists():
            with contextlib.suppress(RunFolderError, OSError), self.lock():
                if self.read_result() is not None:
                    self.remove_remains()

    def remove_checkpoints(self) -> None:
        """Remove those of a finished run; what cannot be removed is of no harm."""
        try:
            shutil.rmtree(self.checkpoints)
        except FileNotFoundError:
            pass  # a model that is solved saves none
        except OSError as error:
            log.warning("%s of a finished run cannot be removed: %s", self.checkpoints, error)

    def read_result(self) -> dict[str, Any] | None:
        """Return ``result.json``, or nothing where the run is not finished.

        Raises:
            DamagedFileError: the file was damaged by something else than a run, which replaces it in one go.
        """
        try:
            result = read_json(self.result)
        except DamagedFileError as error:
            raise DamagedFileError(f"{error} {TRAIN_AGAIN}") from error
        # Results of commit 785b5e0 and before have none.
        if result is not None and "checksum" in result and result["checksum"] != checksum(result):
            raise DamagedFileError(f"{self.result} is damaged (its numbers do not match its checksum). {TRAIN_AGAIN}")
        if result is not None and (wrong := fault_of_result(result)):
            raise DamagedFileError(f"{self.result} is damaged ({wrong}). {TRAIN_AGAIN}")
        return result

    def write_result(self, result: dict[str, Any]) -> None:
        """Write ``result.json``, by which the run is finished."""
        result = in_utf8(result)
        whole = {**result, "checksum": checksum(result)}
        write_atomically(self.result, json.dumps(whole, indent=2, allow_nan=False) + "\n")

    def describe(self, **details: Any) -> None:
        """Add to what every ``status.json`` of this process says: what run this is."""
        self._status |= details

    def read_status(self) -> dict[str, Any]:
        """Return ``status.json``, or an empty dictionary where there is none that can be read."""
        return read_small(self.status, STATUS)[0]

    def write_status(self, state: str, **details: Any) -> None:
        """Replace ``status.json``: state is running, interrupted or failed; what this process wrote before is kept."""
        ours = {"pid": os.getpid(), "host": socket.gethostname(), "updated": now()}
        self._status |= {"state": state} | ours | details
        write_atomically(self.status, json.dumps(in_utf8(self._status), indent=2) + "\n", durable=False)
        self.has_begun = True

    def add_to_status(self, state: str, **details: Any) -> None:
        """Say of a run of another process how it ended; what that process wrote is kept."""
        self.path.mkdir(parents=True, exist_ok=True)
        status = self.read_status() | {"state": state, "updated": now()} | details
        write_atomically(self.status, json.dumps(in_utf8(status), indent=2) + "\n", durable=False)

    def write_config(self, config: dict[str, Any], overrides: list[str]) -> None:
        """Write the resolved config and the overrides it came from."""
        write_atomically(self.config, yaml.safe_dump(in_utf8(config), sort_keys=False))
        write_atomically(self.overrides, yaml.safe_dump(in_utf8(overrides)))

    def read_identity(self) -> dict[str, Any]:
        """Return ``identity.json``, or an empty dictionary where there is none that can be read."""
        return read_small(self.identity, IDENTITY)[0]

    def add_to_identity(
        self, *, code: Mapping[str, str | None] | None = None, begun_in: str | None = None, **facts: Any
    ) -> None:
        """Write down which run this is; what stands there stays, but for what the latest command replaces.

        That is the ``code`` that trains it, and ``begun_in``: the paths of ``config.yaml`` are as from that folder.
        """
        facts = facts | self.read_identity()
        if code is not None:
            facts["code"] = dict(code)
        if begun_in is not None:
            facts["begun_in"] = begun_in
        write_atomically(self.identity, json.dumps(in_utf8(facts), indent=2) + "\n")

    def note_ranks(self, size: int, *, is_anew: bool) -> None:
        """Write down on how many ranks the run is trained from here on: one that is resumed on others has no replay."""
        facts = self.read_identity()
        sizes = [] if is_anew else list(facts.get("world_sizes") or [])
        if sizes[-1:] != [size]:
            facts["world_sizes"] = [*sizes, size]
            write_atomically(self.identity, json.dumps(facts, indent=2) + "\n")

    def read_config(self) -> dict[str, Any] | None:
        """Return the resolved config of the run that this folder holds, or nothing where it holds none.

        Raises:
            DamagedFileError: the file was damaged.
        """
        config = read_yaml(self.config)
        if config is not None and (wrong := fault(config, CONFIG)):
            raise DamagedFileError(f"{self.config} is damaged ({wrong}).")
        return config

    def set_aside_result(self) -> Path:
        """Move all that a finished run left into ``previous-<n>/`` and return that folder."""
        self.remove_checkpoints()
        number = 1 + sum(1 for _ in self.path.glob("previous-*"))
        aside = self.path / f"previous-{number}"
        aside.mkdir()
        staying = {self.result.name, self.output.name, "train.log", ".lock", ".lock.owner"}
        for path in sorted(self.path.iterdir()):
            # The other ranks of the run about to be trained already write their logs.
            if path.name not in staying and not path.name.startswith(("previous-", "rank")):
                path.rename(aside / path.name)
        # The result goes last: killed half-way, the run still counts as finished and nothing is trained over it.
        self.result.rename(aside / self.result.name)
        return aside

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder against any other process on any host; the system lets go when this process dies.

        Raises:
            RunIsHeldError: another process holds it.
        """
        with contextlib.ExitStack() as stack:
            try:
                stack.enter_context(lock(self.path / ".lock", patience=LOCK_PATIENCE_SECONDS))
            except LockIsHeldError as error:
                holder = self.read_status()
                who = (
                    f"process {holder['pid']} on {holder['host']}"
                    if {"pid", "host"} <= holder.keys()
                    else "another process"
                )
                raise RunIsHeldError(
                    f"this run is being trained by {who} right now: {self.path}\n"
                    f"{error.advice or 'Wait for it: the same command will then show its result.'}"
                ) from None
            yield

    @property
    def is_held(self) -> bool:
        """Whether a process trains the run at this moment."""
        return is_locked(self.path / ".lock")

    def remove_unused(self) -> None:
        """Remove the folder that was made for a run that never began, unless another process is at it."""
        with contextlib.suppress(RunFolderError, OSError):
            if not self._is_unused():
                return
            with self.lock():
                if self._is_unused():
                    for path in self.path.iterdir():
                        path.unlink()
                    self.path.rmdir()

    def _is_unused(self) -> bool:
        made_for_it = ("train.log", ".lock", ".lock.owner", self.output.name)
        return all(path.name in made_for_it or path.name.startswith("rank") for path in self.path.iterdir())


def checksum(result: dict[str, Any]) -> str:
    """Hash all of a result but its own checksum: a flipped bit may leave a file readable, with another number in it."""
    told = {key: value for key, value in result.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:16]


def now() -> str:
    """Return the time in UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def read_small(path: Path, schema: Schema) -> tuple[dict[str, Any], str]:
    """Return what a file holds that a run can do without, and what is wrong with it: then it counts as empty."""
    try:
        content = read_json(path) or {}
    except DamagedFileError as error:
        return {}, str(error)
    return ({}, f"{path} is damaged ({wrong}).") if (wrong := fault(content, schema)) else (content, "")
