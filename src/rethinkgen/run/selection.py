"""``data.exclude`` by what finished runs found: leave out the share of examples of which a column is greatest.

    data.exclude={runs: multirun/runs/digits-..., column: presented_times_forgotten, share: 0.2}

``runs`` is the folder of a run or of a sweep, or a list of such; ``column`` one of their ``examples.npz``, averaged
over the runs that have the example; ``share`` that of the examples that any has. ``least: true`` leaves out where it is
least. Of equal ones those that come first in the source are left out first. A step at which an example was never right
(-1) counts as later than any. Runs that leave out examples themselves are passed over, so that they may lie beside the
runs that they go by.

A run counts by the examples that are left out, whichever runs said so. Which they are stands in its own folder once
it has begun: what becomes of the runs that it went by is of no matter to it from then on. Nothing here imports torch.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rethinkgen.checks import check_between, check_switch, check_text
from rethinkgen.data.example_list import read_exclude
from rethinkgen.errors import DamagedFileError, RunFolderError
from rethinkgen.files import write_atomically
from rethinkgen.received import MOST_BYTES_OF_TABLE, opened_arrays, read_bytes
from rethinkgen.run.folder import RunFolder
from rethinkgen.run.run import Run, read_runs
from rethinkgen.words import how_many

KEY = "data.exclude"
STEPS = ("first_step_fitted", "presented_first_step_right", "presented_last_step_right")
"""Columns in which -1 says that there is no such step."""
COLUMNS = (
    *("index", "labels", "original_labels", "is_drawn", "is_corrupted"),
    *("first_step_fitted", "times_forgotten", "final_loss"),
    *("presented_times", "presented_times_wrong", "presented_times_forgotten"),
    *("presented_loss_sum", "presented_margin_sum", "presented_confidence_sum"),
    *("presented_first_step_right", "presented_last_step_right"),
    *("presented_other_class", "presented_times_other"),
)
"""What a run that ``train.py`` trains leaves of each example."""
READ = "excluded_by"
"""Fact of a run that names the runs it went by."""
MOST_NAMED = 3
EXAMPLE = "{runs: multirun/runs, column: presented_times_forgotten, share: 0.2}"

Positions = NDArray[np.int64]


def check_exclude(key: str, value: Any, or_else: str = "") -> None:
    """Raise a ``ValueError`` where ``value`` is neither the path of a list of examples nor a selection of runs."""
    if not isinstance(value, Mapping):
        read_exclude(key, value, or_else=f"{EXAMPLE}, or {or_else}")
        return
    wrong = [name for name in value if name not in ("runs", "column", "share", "least")]
    if wrong or not {"runs", "column", "share"} <= value.keys():
        raise ValueError(f"{key}={dict(value)}: runs, column and share are needed, as in {EXAMPLE}, and perhaps least.")
    for folder in _folders(value):
        check_text(f"{key}.runs", folder)
    check_text(f"{key}.column", value["column"])
    check_between(f"{key}.share", value["share"], 0, 1, below=True)
    check_switch(f"{key}.least", value.get("least", False))


def check_column(node: Mapping[str, Any]) -> None:
    """Refuse a column that no run will have; raises ``ValueError``."""
    if node["column"] not in COLUMNS:
        raise ValueError(f"{KEY}.column={node['column']!r}: these runs will have {', '.join(COLUMNS)}.")


def reads(node: Mapping[str, Any], places: Set[str]) -> bool:
    """Whether a selection goes by runs that lie, or will lie, at some ``places``: see ``places_of``."""
    return not places.isdisjoint(os.path.realpath(Path(str(each)).expanduser()) for each in _folders(node))


def places_of(runs: Iterable[Path]) -> set[str]:
    """Return what a selection may call these runs: their folders and those of their sweeps."""
    return {os.path.realpath(path) for run in runs for path in (run, run.parent)}


def contents_of_selection(config: Mapping[str, Any], fingerprint: str | None) -> dict[str, str]:
    """Return the digest of the examples that a config leaves out by a selection of runs, by its key.

    Raises:
        ValueError: as of ``selected``, or the runs are of other data than those with this ``fingerprint``.
    """
    node = config["data"].get("exclude")
    return {KEY: digest(selected(node, fingerprint))} if isinstance(node, Mapping) else {}


def digest(positions: Positions) -> str:
    """Hash positions."""
    return hashlib.sha256(positions.astype("<i8").tobytes()).hexdigest()


def selected(node: Mapping[str, Any], fingerprint: str | None = None) -> Positions:
    """Return the positions in the source, ascending, of the examples that a selection leaves out.

    Raises:
        ValueError: runs are not there, not finished, of other data, or do not have the column.
    """
    runs = runs_read(node, fingerprint)
    return _extreme(*_scores(runs, node["column"]), node["share"], least=bool(node.get("least", False)))


def names_read(node: Mapping[str, Any], folder: RunFolder | None = None, *, or_ask: bool = True) -> list[str]:
    """Return the runs that the one in ``folder`` goes by, as ``sweep/run``: as it says, else those that are there.

    Empty where it does not say, and they cannot be asked today.
    """
    known = None if folder is None else folder.read_identity().get(READ)
    if known is not None or not or_ask:
        return list(known or [])
    try:
        return sorted(f"{run.path.absolute().parent.name}/{run.path.name}" for run in runs_read(node))
    except ValueError:
        return []


def words_on(node: Mapping[str, Any], names: Sequence[str]) -> str:
    """Say which runs a run goes by."""
    more = f" and {len(names) - MOST_NAMED} more ({READ} in identity.json)" if len(names) > MOST_NAMED else ""
    return f"{KEY}: by {node['column']} of {how_many(len(names), 'run')}: {', '.join(names[:MOST_NAMED])}{more}."


def words_on_change(name: str, then: Sequence[str], now: Sequence[str]) -> str:
    """Say why the run ``name``, begun by the same command, is not the one of today: it left out other examples."""
    before = f", by {how_many(len(then), 'run')}" if then else ""
    added, gone = ([each for each in one if each not in other] for one, other in ((now, then), (then, now)))
    since = [
        f"{', '.join(names[:MOST_NAMED])}{', ...' if len(names) > MOST_NAMED else ''} {what}"
        for names, what in ((added, "came since"), (gone, "went since"))
        if names and then
    ]
    why = " and ".join(since) or "they are others now, or were trained again"
    return f"{KEY}: the same command was {name}, which leaves out other examples{before}: {why}. This is another run."


def runs_read(node: Mapping[str, Any], fingerprint: str | None = None) -> list[Run]:
    """Return the runs that a selection goes by; raises as ``selected``."""
    try:
        there = read_runs([Path(each).expanduser() for each in _folders(node)])
    except ValueError as error:
        raise ValueError(f"{KEY}.runs={node['runs']}: {error}") from error
    runs = [run for run in there if run.key(KEY) is None]
    if not runs:
        raise ValueError(f"{KEY}.runs={node['runs']}: there is no run but those that leave out examples themselves.")
    unfinished = [run.path.name for run in runs if run.state != "done"]
    if unfinished:
        raise ValueError(
            f"{KEY}.runs={node['runs']}: {len(unfinished)} of {len(runs)} runs are not finished, the first is "
            f"{unfinished[0]}. Finish them, or give the folders of those that are."
        )
    others = [run.path.name for run in runs if fingerprint is not None and run.fingerprint not in (None, fingerprint)]
    if others:
        raise ValueError(
            f"{KEY}.runs={node['runs']}: {len(others)} of {len(runs)} runs are of other data, the first is "
            f"{others[0]}. Give the folders of runs of these."
        )
    return runs


def write_excluded(folder: RunFolder, positions: Positions) -> None:
    """Write down which examples a run leaves out."""
    content = io.BytesIO()
    np.save(content, positions.astype("<i8"))
    write_atomically(folder.excluded, content.getvalue())


def read_excluded(folder: RunFolder, contents: Mapping[str, Any]) -> Positions | None:
    """Return which examples a run left out when it began; nothing where no such file is there, or it is damaged.

    ``contents`` are the run's: the digest in them tells whether the positions are its own.
    """
    try:
        content = read_bytes(folder.excluded, MOST_BYTES_OF_TABLE)
        positions = None if content is None else _positions_in(content)
    except (RunFolderError, ValueError):
        return None  # those that it went by can be asked again, and say what is wrong
    return positions if positions is not None and digest(positions) == contents.get(KEY) else None


def _positions_in(content: bytes) -> Positions:
    """Return the positions in an ``.npy`` file, of which the header says no more than follows it.

    Raises:
        ValueError: it is no such file, or holds something else.
    """
    file = io.BytesIO(content)
    if np.lib.format.read_magic(file) != (1, 0):
        raise ValueError("of another version")
    shape, _, kind = np.lib.format.read_array_header_1_0(file)
    rest = content[file.tell() :]
    if kind != np.dtype("<i8") or shape != (len(rest) // 8,) or len(rest) % 8:
        raise ValueError("no positions in it")
    return np.frombuffer(rest, "<i8").astype(np.int64)


def excluded(
    node: Mapping[str, Any], folder: RunFolder, contents: Mapping[str, Any], *, if_changed: str | None = None
) -> Positions:
    """Return which examples the run in ``folder``, begun or about to be, leaves out by the selection ``node``.

    Raises:
        ValueError: as of ``selected``; or they are not those that the run is described by in ``contents``, which is
            told in the words of ``if_changed``, where the run is none of a command that has just begun.
    """
    if (known := read_excluded(folder, contents)) is not None:
        return known
    positions = selected(node)
    if digest(positions) != contents.get(KEY):
        raise ValueError(
            if_changed
            or f"{KEY}.runs={node['runs']}: these runs have changed since this command began, and would now have other "
            "examples be left out than those that the run is known by. Give the command again."
        )
    return positions


def begun_by(node: Mapping[str, Any], folder: Path, names: str = "*") -> Iterator[tuple[str, str, RunFolder]]:
    """Yield of each run that was begun by the same selection its id, the digest of what it leaves out, and its folder.

    Args:
        node: the selection, its paths as from the working directory.
        folder: of a run, or of a sweep.
        names: what folders of a sweep are called, as ``glob`` spells it.
    """
    for path in sorted([*folder.glob("excluded.npy"), *folder.glob(f"{names}/excluded.npy")]):
        run = RunFolder(path.parent)
        facts = run.read_identity()
        contents = facts.get("contents") or {}
        try:
            theirs = ((run.read_config() or {}).get("data") or {}).get("exclude")
        except RunFolderError:
            continue  # nobody can tell what it was begun by
        if (
            isinstance(theirs, Mapping)
            and _meant(theirs, facts.get("begun_in") or ".") == _meant(node, ".")
            and read_excluded(run, contents) is not None
        ):
            yield str(facts.get("run_id")), contents[KEY], run


def _meant(node: Mapping[str, Any], begun_in: str) -> tuple[Any, ...]:
    """Return what a selection says, in one spelling: its paths are as from the folder ``begun_in``."""
    start = Path(begun_in).absolute()
    runs = sorted(str(start / Path(str(each)).expanduser()) for each in _folders({"runs": None} | dict(node)))
    return runs, node.get("column"), node.get("share"), bool(node.get("least", False))


def _extreme(index: Positions, scores: NDArray[np.float64], share: float, *, least: bool) -> Positions:
    # ``index`` ascends and the sort is stable, so that of equal scores the first are taken.
    order = np.argsort(scores if least else -scores, kind="stable")
    return np.sort(index[order[: round(share * len(index))]])


def _scores(runs: Sequence[Run], column: str) -> tuple[Positions, NDArray[np.float64]]:
    """Return the positions of all examples that a run has, ascending, and the means of the column."""
    found = [_column(run, column) for run in runs]
    index = np.unique(np.concatenate([each for each, _ in found]))
    sums, counts = np.zeros(len(index)), np.zeros(len(index))
    for each, values in found:
        places = np.searchsorted(index, each)
        sums[places] += values
        counts[places] += 1
    return index, sums / counts


def _column(run: Run, name: str) -> tuple[Positions, NDArray[np.float64]]:
    path = RunFolder(run.path).examples
    try:
        with opened_arrays(path) as stored:
            if stored is None:
                raise ValueError(f"{KEY}: {path} is not there.")
            there = stored.files
            index, values = (stored[each] if each in there else None for each in ("index", name))
    except DamagedFileError as error:
        raise ValueError(f"{KEY}: {error}") from error
    if values is None:
        raise ValueError(f"{KEY}.column={name!r}: {path} has {', '.join(there)}.")
    fits = index is not None and index.dtype.kind == "i" and values.shape == index.shape == (len(index),)
    if index is None or not fits or values.dtype.kind not in "biuf" or len(np.unique(index)) < len(index):
        raise ValueError(f"{KEY}: {path} is damaged ({name} is not one number for each example).")
    numbers = values.astype(np.float64)
    if np.isnan(numbers).any():
        raise ValueError(f"{KEY}.column={name!r}: {path} has values that are no numbers.")
    if name in STEPS:
        numbers[numbers < 0] = np.inf
    return index.astype(np.int64), numbers


def _folders(node: Mapping[str, Any]) -> list[Any]:
    runs = node["runs"]
    return [runs] if isinstance(runs, str) or not isinstance(runs, Sequence) else list(runs)
