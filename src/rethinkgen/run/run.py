"""A run as the files of its folder tell, however far it is; and all runs of sweeps, those never begun among them.

Nothing that a file names is built or imported.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import math
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from rethinkgen.console import first_line
from rethinkgen.errors import DamagedFileError, RunFolderError
from rethinkgen.received import open_regular, telling_of_archive
from rethinkgen.run import catalogue
from rethinkgen.run.catalogue import Entry, latest_entries, read_commands
from rethinkgen.run.curves import read_curves
from rethinkgen.run.folder import RunFolder, read_small
from rethinkgen.run.former_identity import FORMER_NAME
from rethinkgen.run.identity import ID_LENGTH, LEVELS, Contents, counted, flatten, identifying, normalised, place
from rethinkgen.run.measured import Measured, numbers_of, read_measured, with_measures
from rethinkgen.run.schema import CONFIG, IDENTITY, STATUS, fault

if TYPE_CHECKING:
    import pandas as pd

State = Literal["done", "failed", "interrupted", "waiting", "running", "missing"]

MOST_NAMED = 3
"""Runs that are named where another was asked for."""
FOLDERS = (".ImageFolder", ".StreamedFolder", ".AnyImages")
"""Sources that are whatever lies at their path."""
IMAGE_SHAPES = {
    "digits": (1, 8, 8),
    **dict.fromkeys(("mnist", "fashion_mnist"), (1, 28, 28)),
    **dict.fromkeys(("cifar10", "cifar10_jpeg", "cifar100", "svhn"), (3, 32, 32)),
}
"""Of the sources that results name which do not tell the shape themselves: those of commit 785b5e0 and before."""
NUM_TRAIN = {
    "digits": 1437,
    **dict.fromkeys(("mnist", "fashion_mnist"), 60_000),
    **dict.fromkeys(("cifar10", "cifar10_jpeg", "cifar100"), 50_000),
    "svhn": 73_257,
}
"""Training examples of data sets of which everybody has the same; ``data=imagenet`` takes any folder."""
NUM_TEST = {
    "digits": 360,
    **dict.fromkeys(("mnist", "fashion_mnist", "cifar10", "cifar10_jpeg", "cifar100"), 10_000),
    "svhn": 26_032,
}
"""Test examples of the same."""


def has_published_budget(config: Mapping[str, Any]) -> bool:
    """Whether ``conf/train.yaml`` has so many steps for a config's ``data.name``; of own data it has none."""
    name = (config.get("data") or {}).get("name")
    return name in NUM_TRAIN or name == "imagenet"


@dataclass(frozen=True)
class Outcome:
    """How far a run is, as its files tell."""

    state: State
    reason: str = ""
    """Why there is no result, in a line."""
    result: dict[str, Any] | None = None


def outcome_of(folder: RunFolder, fault: Outcome | None = None) -> Outcome:
    """Read how far the run in ``folder`` is; ``fault`` is how it ended, where only its launcher can tell."""
    try:
        return _outcome_of(folder, fault)
    except RunFolderError as error:
        return Outcome("failed", str(error))


def _outcome_of(folder: RunFolder, fault: Outcome | None) -> Outcome:
    result = folder.read_result()
    status, damage = read_small(folder.status, STATUS)
    state = status.get("state")
    if fault and state not in ("failed", "interrupted"):
        return fault
    if result is not None and state is None:
        return Outcome("done", result=result)
    if state in ("failed", "interrupted", "waiting"):
        return Outcome(state, first_line(status.get("reason") or ""), result)
    if state == "running" and folder.is_held:
        return Outcome("running", result=result)
    # The status goes once the result is there: who reads the result first may see neither.
    result = folder.read_result()
    if result is not None and not folder.status.exists():
        return Outcome("done", result=result)
    if state == "running":
        return Outcome("interrupted", "its process ended without a word", result)
    if damage or state is not None:
        return Outcome("interrupted", damage or f"{folder.status} is damaged (state {state}).", result)
    return Outcome("missing", result=result)


@dataclass(frozen=True, eq=False)
class Run:
    """One run, however far it is.

    ``config`` is the resolved one: of the result, else of the folder, else of the sweep's index; in one spelling for
    values that mean the same, whichever version wrote it.
    """

    path: Path
    state: State
    reason: str
    """Why there is no result, in a line."""
    choices: dict[str, Any]
    """Group -> choice, ``regularizer`` -> list."""
    config: dict[str, Any] = field(repr=False)
    overrides: list[str] = field(repr=False)
    seed: int
    result: dict[str, Any] | None = field(repr=False)
    """The whole ``result.json`` of a finished run."""
    facts: dict[str, Any] = field(default_factory=dict, repr=False)
    """``identity.json``: which run it is; empty in folders of before."""
    faults: tuple[str, ...] = field(default=(), repr=False)
    """What is damaged of the files that it can do without, a line each, but for ``metrics.csv``."""

    @property
    def sweep(self) -> Path:
        """The sweep's folder."""
        return self.path.parent

    @cached_property
    def run_id(self) -> str:
        """The hash that names the run; of one that still has a former id, a name for it without the data."""
        if self.facts.get("run_id"):
            return str(self.facts["run_id"])
        if self.has_former_id and self.config:
            return self.id_without_fingerprint
        return str((self.result or {}).get("run_id") or self.path.name.rpartition("-")[2])

    @property
    def has_former_id(self) -> bool:
        """Whether the folder still has the name that commit 785b5e0 gave it, and no word of an id of today."""
        return not self.facts.get("run_id") and FORMER_NAME.search(self.path.name) is not None

    @cached_property
    def id_without_fingerprint(self) -> str:
        """A name for the run that every folder of it has, whatever spelling its former id was made of."""
        # On which data, only their name can tell, and the path of an image folder.
        text = json.dumps([identifying(self.config), self.data, self._image_folder], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:ID_LENGTH]

    @property
    def _image_folder(self) -> Any:
        return self.key("data.source.root") if str(self.key("data.source._target_")).endswith(FOLDERS) else None

    @property
    def contents(self) -> Contents:
        """Digests of the files that keys name: of the folder, else of the result, which may have come alone."""
        return self.facts.get("contents") or (self.result or {}).get("contents") or {}

    @property
    def fingerprint(self) -> str | None:
        """That of its data: as the folder tells, else the result, which may have come alone; not told by old ones."""
        return self.facts.get("fingerprint") or (self.result or {}).get("fingerprint")

    @property
    def end_weights(self) -> Path:
        """Where the weights lie, once the run is finished, that its metrics are about."""
        return RunFolder(self.path).end_weights

    @property
    def is_in_place(self) -> bool:
        """Whether the folder is named by the run's id of today."""
        return self.path.name.endswith(f"-{self.run_id}")

    @cached_property
    def metrics(self) -> dict[str, Any]:
        """Of a finished run, what was not reached, or is no finite number, as ``None``; else empty.

        What measures found of its end is among them, as ``measure/...``.
        """
        numbers = dict(self._own_metrics)
        for each in self.measured[0] if numbers else ():
            numbers |= numbers_of(each) if each.step == self.end_step else {}
        return numbers

    @cached_property
    def _own_metrics(self) -> dict[str, Any]:
        told = {} if self.result is None else self.result.get("metrics", {})
        return {name: None if _is_no_number(value) else value for name, value in told.items()}

    @property
    def end_step(self) -> int | None:
        """The step that the result is about: with early stopping the best, else the last; none without a result."""
        if self.result is None:
            return None
        best = self._own_metrics.get("early_stopping_step")
        return int(self._own_metrics.get("steps") or 0) if best is None else int(best)

    @cached_property
    def measured(self) -> tuple[list[Measured], list[str]]:
        """What measures found of it, at any step, and what of that is damaged, a line each."""
        return read_measured(self.path)

    def number(self, metric: str) -> float:
        """Return a metric, not a number where the run has none."""
        value = self.metrics.get(metric)
        return math.nan if value is None else float(value)

    @property
    def fitted(self) -> bool | None:
        """Whether a finished run fitted its training set."""
        return None if self.result is None else bool(self.result.get("fitted"))

    @property
    def num_classes(self) -> int | None:
        """Of a finished run."""
        return None if self.result is None else self.result.get("num_classes")

    @property
    def num_test(self) -> int | None:
        """How many examples the test accuracy is measured on, where that is known."""
        found = (self.result or {}).get("num_test", NUM_TEST.get(self.data))
        return int(found) if found else None

    @property
    def image_shape(self) -> tuple[int, int, int] | None:
        """``(channels, height, width)`` that the network saw, where that is known."""
        found = (self.result or {}).get("image_shape")
        if found is not None:
            return tuple(found)
        if self.data not in IMAGE_SHAPES:
            return None
        channels, height, width = IMAGE_SHAPES[self.data]
        crop = self.key("data.crop")
        side = (28 if height == 32 else None) if crop == "auto" else crop
        return (channels, height, width) if side is None else (channels, side, side)

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
        # A class of one's own may call by these names what is no number.
        return next((float(value) for value in values if isinstance(value, int | float)), None)

    def key(self, dotted: str) -> Any:
        """Return a value of the config, nothing where it has no such key."""
        node: Any = self.config
        for name in dotted.split("."):
            node = node.get(name) if isinstance(node, dict) else None
        return node

    @cached_property
    def curves(self) -> pd.DataFrame:
        """The whole rows of ``metrics.csv``, also of a run at work; empty where there are none.

        What measures found at steps stands in columns ``measure/...``.
        """
        return with_measures(self._read_curves[0], self.measured[0])

    @property
    def damage(self) -> list[str]:
        """What is damaged of the run's files, a line each; what keeps it from having a result is its ``reason``."""
        told = [self._read_curves[1], self._count_examples[1], *self.measured[1]]
        return [*self.faults, *filter(None, told)]

    @property
    def num_examples(self) -> int | None:
        """On how many examples a finished run was trained, where that is known."""
        return self._count_examples[0]

    @cached_property
    def _count_examples(self) -> tuple[int | None, str]:
        if self.result is None:
            return None, ""
        if told := self.result.get("num_train"):
            return int(told), ""
        # Results of before do not say it.
        if (asked := self.key("data.num_train")) and not self.key("data.validation"):
            return int(asked), ""
        return count_examples(RunFolder(self.path).examples)

    @cached_property
    def _read_curves(self) -> tuple[pd.DataFrame, str]:
        return read_curves(RunFolder(self.path).metrics)

    @cached_property
    def identity(self) -> dict[str, Any]:
        """Dotted key -> value of all that identifies the run; an image folder by its path, other data by their name."""
        if not self.config:
            return {"run": self.path.name}
        kept = flatten(counted(self.config, self.contents))
        if self._image_folder is not None:
            kept["data.source.root"] = self._image_folder
        return kept

    @cached_property
    def not_neutral(self) -> dict[str, Any]:
        """The same of what is not neutral, image folders aside."""
        return flatten(identifying(self.config, contents=self.contents)) if self.config else {}

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


def count_examples(path: Path) -> tuple[int | None, str]:
    """Return how many examples an ``examples.npz`` is about, by the head of a column, and what is damaged of it."""
    import numpy as np

    try:
        file = open_regular(path)
        if file is None:
            return None, ""
        with telling_of_archive(path), file, zipfile.ZipFile(file) as archive, archive.open("index.npy") as column:
            np.lib.format.read_magic(column)
            (number,), _, _ = np.lib.format.read_array_header_1_0(column)
    except DamagedFileError as error:
        return None, str(error)
    return int(number), ""


def read_runs(folders: Sequence[Path]) -> list[Run]:
    """Read all runs of sweep folders, or of single runs' folders, each run once.

    A run that lies in two sweeps counts as one: the finished one, the later one. What a sweep was asked for, under the
    configs of its last command, and nobody has begun is among them as ``missing``.

    Raises:
        ValueError: a folder does not exist or holds no run.
    """
    found: list[Run] = []
    for folder in map(Path, folders):
        runs = list(_runs_of(folder))
        if not runs:
            raise ValueError(_nothing_there(folder))
        found += runs
    return each_once(found)


def each_once(runs: Iterable[Run]) -> list[Run]:
    """Return of the folders of one run one: the finished one, the one under its id of today, the later one."""
    runs, found = list(runs), dict[str, Run]()
    for run, name in zip(runs, _names(runs), strict=True):
        if name not in found or rank(run) > rank(found[name]):
            found[name] = run
    return list(found.values())


def _names(runs: Sequence[Run]) -> list[str]:
    """Return a name for each run that its folders share: of one under a former id the id of its twin of today.

    Where runs of today differ in their data alone, it cannot be told whose twin that is, and it counts by itself.
    """
    if not any(run.has_former_id for run in runs):
        return [run.run_id for run in runs]
    of_today: dict[str, set[str]] = {}
    for run in runs:
        if not run.has_former_id:
            of_today.setdefault(run.id_without_fingerprint, set()).add(run.run_id)
    twins = {name: min(ids) for name, ids in of_today.items() if len(ids) == 1}
    return [twins.get(run.run_id, run.run_id) if run.has_former_id else run.run_id for run in runs]


def rank(run: Run) -> tuple[bool, bool, bool, str]:
    """Return what is greatest for that of several folders of one run which counts."""
    is_done, is_running = run.state == "done", run.state == "running"
    return is_done, is_running, run.is_in_place, str((run.result or {}).get("finished", ""))


def _runs_of(folder: Path) -> Iterable[Run]:
    if _holds_run(folder):
        yield read_run(folder, _entries(folder.parent).get(folder.name))
        return
    entries = _entries(folder)
    begun = {path.name: path for path in sorted(folder.glob("*")) if _holds_run(path)}
    # In the order that the sweep has, then what no index knows.
    for name in dict.fromkeys([*entries, *begun]):
        if name in begun:
            yield read_run(begun[name], entries.get(name))
        elif (entry := entries[name]).get("is_latest"):
            yield read_run(folder / name, entry)


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


def open_one(path: Path) -> Run:
    """Read the run in a folder, where there is one.

    Raises:
        ValueError: there is none; the message says what is there instead.
    """
    if _holds_run(path):
        run = read_run(path)
        # Of a run that failed at the door no more than the sweep's index tells what it was to be; it may be long.
        return run if run.config else read_run(path, _entries(path.parent).get(path.name))
    if path.is_file() and _holds_run(path.parent):
        raise ValueError(f"{path}: it is a file of a run. Give the run's folder, {path.parent}.")
    around = path if path.is_dir() else next((each for each in path.parents if each.is_dir()), Path("multirun"))
    runs = sorted(str(each) for each in around.glob("*/") if _holds_run(each))
    if not runs:
        raise ValueError(_nothing_there(path))
    # Their names are alike but for a few letters: those with most in common are meant.
    near = difflib.get_close_matches(str(path), runs, n=MOST_NAMED, cutoff=0) if path != around else runs[:MOST_NAMED]
    what = f"it is the folder of a sweep, which open_sweep({str(path)!r}) reads whole" if path == around else "no run"
    more = f" and {len(runs) - len(near)} more" if len(runs) > len(near) else ""
    raise ValueError(f"{path}: {what}. Runs in {around}: {', '.join(Path(each).name for each in near)}{more}.")


def damage_of(folder: Path) -> list[str]:
    """Return what is damaged of a sweep's own files, a line each."""
    return list(filter(None, [catalogue.damage(folder), read_commands(folder)[1]]))


def read_run(path: Path, entry: Entry | None = None) -> Run:
    """Read the run in a folder; ``entry`` is what its sweep remembers of it."""
    folder, known = RunFolder(path), entry or {}
    # What was asked for by mistake stands there too, as max_steps=abc.
    planned = {} if fault(known.get("config") or {}, CONFIG) else known.get("config") or {}
    outcome = outcome_of(folder)
    result = outcome.result if outcome.state == "done" else None
    config = (result or {}).get("config") or {}
    if not config:
        # Only then: YAML takes ten times as long to read as JSON.
        try:
            config = folder.read_config() or planned
        except RunFolderError as error:
            config, result, outcome = planned, None, Outcome("failed", str(error))
    status, of_status = read_small(folder.status, STATUS)
    facts, of_identity = read_small(folder.identity, IDENTITY)
    sources = [source for source in (result, status, known) if source]
    return Run(
        path=path,
        state=outcome.state,
        reason=outcome.reason,
        choices=next((source["choices"] for source in sources if source.get("choices")), {}),
        config=in_one_spelling(config),
        overrides=next((source["overrides"] for source in sources if source.get("overrides")), []),
        seed=next((int(seed) for seed in (config.get("seed"), status.get("seed")) if isinstance(seed, int)), 0),
        result=result,
        facts=facts,
        faults=tuple(line for line in (of_status, of_identity) if line and line != outcome.reason),
    )


def in_one_spelling(config: dict[str, Any]) -> dict[str, Any]:
    """Return a config with the values that ``describe`` tells a run's id from: for all examples, no number of them."""
    told = normalised(config)
    data, _ = place(told, "data.num_train")
    count, held_out = NUM_TRAIN.get(str(data.get("name"))), data.get("validation") or 0
    is_train_part = place(told, "data.source.parts")[0].get("parts") in (None, ["train"])
    if count is None or not is_train_part or not isinstance(held_out, int | float) or not 0 <= held_out < 1:
        return told  # it may be anybody's
    if data.get("num_train") == count - round(held_out * count):
        data["num_train"] = None
    return told


def _is_no_number(value: Any) -> bool:
    return isinstance(value, float) and not math.isfinite(value)
