"""The runs of a search: ordinary ones of ``train.py``, in one sweep's folder, and what their networks say."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from rethinkgen.errors import DamagedFileError
from rethinkgen.files import write_atomically
from rethinkgen.label_errors.asked import key_of, quoted
from rethinkgen.label_errors.ranking import Opinion, held_out, presented
from rethinkgen.received import opened_arrays
from rethinkgen.run.catalogue import latest_entries
from rethinkgen.run.folder import RunFolder
from rethinkgen.run.run import Run, read_run

if TYPE_CHECKING:
    from torch import Tensor

    from rethinkgen.run.opened import OpenedRun

Train = Callable[[Sequence[str]], None]
"""Runs a sweep of ``train.py`` with these overrides; ends the process if one of its runs fails."""
Ints = NDArray[np.int64]
LISTS = ".label_errors"
"""The folder in the sweep's for lists of examples that runs are given."""
OF_HYDRA = ("hydra.", "hydra/")
"""Keys that say how runs are done, not which."""
AT_ONCE = 500
"""Images that a network is asked of at once."""


@dataclass
class Trainings:
    """The runs of a search."""

    train: Train
    overrides: list[str]
    """That all have in common"""
    folder: Path
    """The sweep's"""
    seconds: float = field(default=0.0, init=False)
    """That the runs which were asked for have taken, whenever they did."""

    def run(self, key: str, values: Sequence[str], instead: Mapping[str, str | None] | None = None) -> list[Run]:
        """Train a run for each value of ``key`` and return them in this order.

        ``instead``: key -> what it is in these runs whatever all have in common; ``None``: it is not given.

        Raises:
            DamagedFileError: the sweep's folder does not tell which of its runs they are.
        """
        changed = dict(instead or {})
        # What is below a group's key goes with it: data.corruption.probability is of no other corruption.
        taken = tuple(f"{name}." for name in (key, *changed))
        common = [item for item in self.overrides if not f"{key_of(item)}.".startswith(taken)]
        common += [f"{name}={value}" for name, value in changed.items() if value is not None]
        self.train([*common, f"{key}={','.join(values)}"])
        entries = {frozenset(entry.get("overrides") or ()): entry for entry in latest_entries(self.folder)}
        found = []
        for value in values:
            of_run = [item for item in [*common, f"{key}={value}"] if not key_of(item).startswith(OF_HYDRA)]
            entry = entries.get(frozenset(map(_as_noted, of_run)))
            if entry is None:
                raise DamagedFileError(f"{self.folder}: it is not noted there which of its runs has {key}={value}.")
            run = read_run(self.folder / str(entry["folder"]), entry)
            if run.result is None:
                raise DamagedFileError(f"{run.path}: the run has no result ({run.reason or run.state}).")
            self.seconds += float(run.result.get("seconds") or 0.0)
            found.append(run)
        return found

    def keep(self, name: str, array: NDArray[Any]) -> str:
        """Write an array that a key names; return the path as an override's value. The name tells the content."""
        content = io.BytesIO()
        np.save(content, array, allow_pickle=False)
        digest = hashlib.sha256(content.getvalue()).hexdigest()[:8]
        path = self.folder.absolute() / LISTS / f"{name}-{digest}.npy"
        if not path.is_file():
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomically(path, content.getvalue())
        return quoted(str(path))


def _as_noted(override: str) -> str:
    """Return an override as a sweep's folder spells it."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create().parse_override(override)
    return f"{parsed.get_key_element()}={parsed.get_value_element_as_str()}"


@dataclass(frozen=True, eq=False)
class Judged:
    """What runs on the same examples with the same labels said of these."""

    index: Ints
    """``(N,)``: positions in the source's training split"""
    labels: Ints
    """``(N,)``: as training was given them"""
    is_changed: bool
    """Whether a corruption changed some."""
    opinions: tuple[Opinion, ...]
    """Of each run"""

    @classmethod
    def of(cls, runs: Sequence[Run]) -> Judged:
        """Read what was noted while each run was trained.

        Raises:
            ValueError: it was not noted, or the runs were trained on different examples or labels.
        """
        found: list[dict[str, NDArray[Any]]] = []
        for run in runs:
            with opened_arrays(RunFolder(run.path).examples) as stored:
                if stored is None:
                    raise ValueError(f"{run.path}: there is no examples.npz, which tells what was said of each image.")
                found.append({name: stored[name] for name in stored.files})
            same = all(np.array_equal(found[0][name], found[-1][name]) for name in ("index", "labels"))
            if not same:
                raise ValueError(
                    f"{run.path.name} and {runs[0].path.name}: they were trained on different images, or on different "
                    "labels of these. Give the folder of one of them."
                )
        opinions = []
        for run, columns in zip(runs, found, strict=True):
            try:
                opinions.append(presented(columns))
            except ValueError as error:
                raise ValueError(f"{run.path}: {error}") from error
        first = found[0]
        labels = first["labels"].astype(np.int64)
        is_changed = bool((labels != first.get("original_labels", labels)).any())
        return cls(first["index"].astype(np.int64), labels, is_changed, tuple(opinions))


def probabilities(opened: OpenedRun, images: OpenedRun, index: Ints) -> Iterator[Tensor]:
    """Yield what a run's network says of examples, ``AT_ONCE`` at a time: ``(n, K)`` float32.

    ``images`` is a run on the same source, in which they are at hand.
    """
    import torch

    network = opened.network()
    for start in range(0, len(index), AT_ONCE):
        inputs = opened.inputs(images.images(index[start : start + AT_ONCE]))
        with torch.no_grad(), torch.autocast(opened.device.type, enabled=False):
            yield network(inputs).float().softmax(1).cpu()


def ask(opened: OpenedRun, images: OpenedRun, index: Ints, labels: Ints) -> Opinion:
    """Return what a run's network says of examples ``index (n,)`` that it was not trained on, against ``labels (n,)``.

    ``images`` is a run on the same source, in which they are at hand.
    """
    of_label: list[NDArray[np.float64]] = []
    predicted: list[Ints] = []
    greatest: list[NDArray[np.float64]] = []
    for number, said in enumerate(probabilities(opened, images, index)):
        given = labels[number * AT_ONCE : number * AT_ONCE + len(said)]
        of_label.append(said.numpy()[np.arange(len(said)), given].astype(np.float64))
        best = said.max(1)
        predicted.append(best.indices.numpy())
        greatest.append(best.values.double().numpy())
    return held_out(np.concatenate(of_label), np.concatenate(predicted), np.concatenate(greatest), labels)
