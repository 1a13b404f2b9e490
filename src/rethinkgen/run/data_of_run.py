"""The data of a run once more: found from any working directory, known to be the same, and loaded once for many runs.

Other data than those that a run was trained on are never looked at: their fingerprint is in the run's folder.
"""

from __future__ import annotations

import copy
import json
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import torch

from rethinkgen.data.module import CorruptedImages
from rethinkgen.data.source import Images, Source
from rethinkgen.data.streamed_source import ImageFiles
from rethinkgen.run import selection, trial
from rethinkgen.run.build import build
from rethinkgen.run.folder import RunFolder
from rethinkgen.run.former_identity import FORMER_NAME, former_ids
from rethinkgen.run.identity import content_of_file, named_files, place
from rethinkgen.run.run import Run
from rethinkgen.run.training import build_datamodule

VARIABLE = "RETHINKGEN_DATA"
MOST_PARENTS = 4
"""Of a run's folder, in which its data may lie: ``data`` beside ``multirun`` is two above the sweep's."""


class LoadedSource:
    """A source whose images are in memory already; whatever else is asked of it, the source itself answers."""

    def __init__(self, source: Source, images: Images | ImageFiles) -> None:
        self._source = source
        self._images = images

    def prepare(self) -> None:
        """Have nothing to do."""

    def load(self) -> Images | ImageFiles:
        """Return the images, always the same."""
        return self._images

    def fingerprint(self) -> str | None:
        """Name the content."""
        return self._source.fingerprint()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._source, name)


_sources: WeakValueDictionary[str, LoadedSource] = WeakValueDictionary()
_datamodules: WeakValueDictionary[str, CorruptedImages] = WeakValueDictionary()
_latest: list[LoadedSource] = []
"""The one that was asked for last: who looks at one run after another has let go of the one before."""


def datamodule_of(
    run: Run, config: dict[str, Any], data_root: str | Path | None, device: torch.device
) -> CorruptedImages:
    """Return the data of a run on ``device``, set up; the same object for all runs that have the same, while it lives.

    Args:
        run: whose they are.
        config: the ``data`` node of its config as it acts.
        data_root: where they lie, if the caller knows.
        device: where they are wanted.

    Raises:
        ValueError: they are not found, or are not what the run was trained on.
    """
    config = copy.deepcopy(config)
    if not isinstance(config.get("source"), dict) or not isinstance(config.get("corruption"), dict):
        raise ValueError(f"{run.path}: its config names no source of images, or no corruption.")
    _point_to_files(config, run)
    source = _source_of(run, config["source"], data_root)
    at_most = trial.num_examples(config["batch_size"]) if run.config.get("debug") else None
    key = json.dumps([config, dict(run.contents), id(source), str(device), at_most], sort_keys=True)
    if (datamodule := _datamodules.get(key)) is None:
        datamodule = build_datamodule(config, source)
        datamodule.at_most = at_most
        datamodule.setup()
        datamodule.move(device)
        _datamodules[key] = datamodule
    return datamodule


def _source_of(run: Run, node: dict[str, Any], data_root: str | Path | None) -> LoadedSource:
    """Return the loaded source of a run's data, from the first place where they are; ``node`` then names that."""
    seen: list[str] = []
    for root in _roots(run, node, data_root):
        if root is not None:
            node["root"] = str(root)
            if not root.is_dir():
                seen.append(f"  {root}: there is no such folder")
                continue
        made: Source = build(node, "data.source")
        found = made.fingerprint()
        if (is_ours := _is_of(run, found, made)) is False:
            seen.append(f"  {root}: other data ({found}, and the run was trained on {run.fingerprint or 'others'})")
            continue
        key = json.dumps([node, found], sort_keys=True)
        if (loaded := _sources.get(key)) is None:
            try:
                loaded = _sources[key] = LoadedSource(made, made.load())
            except ValueError as error:
                seen.append(f"  {error}")
                continue
        _latest[:] = [loaded]
        if is_ours is None:
            warnings.warn(f"{run.path}: nothing in it says which data it was trained on: unchecked.", stacklevel=6)
        return loaded
    places = "\n".join(seen)
    raise ValueError(
        f"{run.path}: the data that it was trained on ({run.data}) are not found. Looked at:\n{places}\n"
        'Say where they are, by open_run(..., data_root="FOLDER") or RETHINKGEN_DATA.'
    )


def _roots(run: Run, node: dict[str, Any], data_root: str | Path | None) -> Iterator[Path | None]:
    """Yield where a run's data may lie, the likeliest first; nothing but ``None`` where its source has no folder."""
    told = node.get("root")
    if not isinstance(told, str):
        yield None
    elif data_root is not None:
        yield Path(data_root).expanduser().absolute()
    else:
        given = os.environ.get(VARIABLE)
        here = [Path(given).expanduser().absolute()] if given else []
        first, *others = _in_any_folder(run, told)
        yield from dict.fromkeys([first, *here, *others])


def _in_any_folder(run: Run, path: str) -> Iterator[Path]:
    """Yield what a path of a run's config may mean: it is told from where the run's command was given."""
    told = Path(path).expanduser()
    begun_in = run.facts.get("begun_in")
    if begun_in:
        yield Path(begun_in) / told
    yield Path.cwd() / told
    for parent in run.path.absolute().parents[:MOST_PARENTS]:
        yield parent / told


def _is_of(run: Run, found: str | None, source: Source) -> bool | None:
    """Whether data with this fingerprint are the run's; ``None`` where nobody can tell.

    In the folders of commit 785b5e0 no fingerprint stands by itself, but it is in the id that they are named by.
    """
    if (told := run.fingerprint) is not None:
        return told == found
    former = FORMER_NAME.search(run.path.name)
    if former is None:
        return None
    count = source.num_train() if hasattr(source, "num_train") else None
    held_out = run.key("data.validation") or 0
    return former[1] in former_ids(run.config, found, None if count is None else count - round(held_out * count))


def _point_to_files(data: dict[str, Any], run: Run) -> None:
    """Have each file and each run that the config of the data names be found from here.

    Raises:
        ValueError: one is gone, or is not what it was.
    """
    point_to_files({"data": data}, run)
    if isinstance(exclude := data.get("exclude"), dict):
        data["exclude"] = _selected(exclude, run)


def point_to_files(config: dict[str, Any], run: Run) -> None:
    """Have each file that a node of a run's config names be found from here, wherever the run's command was given.

    Raises:
        ValueError: one is gone, or is not what it was.
    """
    for key, path in named_files(config).items():
        node, name = place(config, key)
        digest = run.contents.get(key)
        candidates = (each for each in _in_any_folder(run, path) if each.is_file())
        found = next((each for each in candidates if digest in (None, content_of_file(key, str(each)))), None)
        if found is None:
            raise ValueError(
                f"{key}={path!r}: the file that {run.path} was trained with is gone, or is not what it was (SHA-256 "
                f"{digest}). Put it back."
            )
        node[name] = str(found)


def _selected(node: dict[str, Any], run: Run) -> list[int]:
    """Return which examples a run left out by what other runs found: as its folder says, else as those still do.

    Raises:
        ValueError: its folder does not say so, and they are gone, or say something else.
    """
    folders = [node["runs"]] if isinstance(node["runs"], str) else node["runs"]
    places = [next((each for each in _in_any_folder(run, path) if each.is_dir()), Path(path)) for path in folders]
    positions = selection.excluded(
        node | {"runs": [str(place) for place in places]},
        RunFolder(run.path),
        run.contents,
        if_changed=f"{selection.KEY}={node}: {run.path} left out other examples than these runs would have it today, "
        "and has no list of its own (excluded.npy): that is lost or damaged, or was not kept when the run began. Put "
        "these runs back as they were (take out those that came since), or train it once more.",
    )
    return [int(position) for position in positions]
