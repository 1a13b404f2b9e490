"""Files that say something of single training examples: which are left out, and which get another label.

A ``.csv`` has a column ``index`` (position in the source's training split) or ``path`` (of the image, below
``data.root``, as ``examples.csv`` spells it), a column ``label`` (the name of a class, or, where none is called so, its
number from 0 on) where labels are given, and perhaps a column ``decision``, which is obeyed: ``keep`` (or nothing),
``relabel``, ``drop``. Other columns are passed over. Where there is none called ``label``, it may be called
``suggested``, as in the ``suspects.csv`` of ``find_label_errors.py``, whose rows without a decision change nothing.

A ``.npy`` has positions ``(K,)`` or bool ``(N,)``, where examples are left out; where labels are given integers
``(K, 2)``, positions and labels, or ``(N,)``, the labels of all N examples in order.

Nothing here imports torch: what is wrong with such a file by itself is said before anything is begun.
"""

from __future__ import annotations

import csv
import functools
import stat
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from numpy.typing import NDArray

from rethinkgen.checks import check_text
from rethinkgen.files import csv_cell

KEEP, RELABEL, DROP = "keep", "relabel", "drop"
DECISIONS = (KEEP, RELABEL, DROP)

Positions = NDArray[np.int64]
NameOf = Callable[[int], str]
"""Position in the training split -> path of the image below the root."""


@dataclass(frozen=True)
class Split:
    """What an example list is about: the source's training split."""

    count: int
    class_names: Sequence[str]
    name_of: NameOf | None
    """``None`` where images have no names"""


@dataclass(frozen=True)
class ExampleList:
    """Rows of such a file, as they were read: none of them has met the data yet."""

    where: str
    """Key and path"""
    lines: Sequence[int]
    """Where each row stands; in a ``.npy`` its number, from 0 on"""
    columns: dict[str, list[str]]
    """``index`` or ``path`` or both, ``label`` where labels are given, and ``decision``, of each row"""
    of_all: bool = False
    """Whether there is a row for each example, of an array without positions."""
    is_named: bool = True
    """Whether labels may be names; those of an array are numbers, whatever classes are called."""

    def dropped(self, split: Split) -> Positions:
        """Return the positions of what is to be left out, ascending.

        Raises:
            ValueError: a row names no example.
        """
        return np.unique(self._positions(split, self._decided(DROP)))

    def relabelled(self, split: Split) -> tuple[Positions, NDArray[np.int64]]:
        """Return the positions ``(K,)`` of what gets a label, ascending, and these labels ``(K,)``.

        Raises:
            ValueError: a row names no example or no class, two rows give one example different labels, or another row
                drops it.
        """
        rows = self._decided(RELABEL)
        positions, labels = self._positions(split, rows), self._labels(split, rows)
        order = np.argsort(positions, kind="stable")
        positions, labels = positions[order], labels[order]
        again = np.flatnonzero((positions[1:] == positions[:-1]) & (labels[1:] != labels[:-1]))
        if len(again):
            first, second = (rows[order[again[0] + step]] for step in (0, 1))
            self._refuse(
                second, "label", f"the same example has another label at {self._at(first)}: one label each is needed."
            )
        dropping = self._decided(DROP)
        both = np.flatnonzero(np.isin(self._positions(split, dropping), positions))
        if len(both):
            self._refuse(dropping[both[0]], "decision", "another line gives the same example a label: one line each.")
        found, first_places = np.unique(positions, return_index=True)
        return found, labels[first_places]

    def count(self, decision: str) -> int:
        """Return how many rows decide so."""
        return len(self._decided(decision))

    def _decided(self, decision: str) -> list[int]:
        return [row for row, each in enumerate(self.columns["decision"]) if each == decision]

    def _positions(self, split: Split, rows: Sequence[int]) -> Positions:
        if self.of_all and len(self.lines) != split.count:
            raise ValueError(
                f"{self.where}: it has {len(self.lines):,} values, and the source {split.count:,} training examples: "
                "one for each is needed."
            )
        if "path" not in self.columns or ("index" in self.columns and split.name_of is None):
            return np.array([self._index(split, row) for row in rows], np.int64)
        if split.name_of is None:
            raise ValueError(
                f"{self.where}: the images of this source have no paths. A column index is needed, positions from 0 to "
                f"{split.count - 1}."
            )
        known = {split.name_of(position): position for position in range(split.count)}
        known = {csv_cell(name): position for name, position in known.items()} | known
        found = [self._place(known, row) for row in rows]
        for row, position in zip(rows, found, strict=True):
            if "index" in self.columns and self._index(split, row) != position:
                self._refuse(row, "index", f"{self.columns['path'][row]} is number {position}: leave one column out.")
        return np.array(found, np.int64)

    def _index(self, split: Split, row: int) -> int:
        text = self.columns["index"][row]
        if not text.isdecimal() or int(text) >= split.count:
            self._refuse(
                row, "index", f"a whole number from 0 to {split.count - 1} is needed, a position in the source."
            )
        return int(text)

    def _place(self, known: dict[str, int], row: int) -> int:
        path = self.columns["path"][row]
        position = known.get(path, known.get(path.removeprefix("./")))
        if position is None:
            example = next(iter(known))
            self._refuse(row, "path", f"no training image has it. Paths are those below data.root, such as {example}.")
        return position

    def _labels(self, split: Split, rows: Sequence[int]) -> NDArray[np.int64]:
        known = {str(number): number for number in range(len(split.class_names))}
        if self.is_named:
            names = {name: number for number, name in enumerate(split.class_names)}
            known |= {csv_cell(name): number for name, number in names.items()} | names
        for row in rows:
            if self.columns["label"][row] not in known:
                self._refuse(row, "label", _needed_class(split.class_names, is_named=self.is_named))
        return np.array([known[self.columns["label"][row]] for row in rows], np.int64)

    def _at(self, row: int) -> str:
        return f"line {self.lines[row]}"

    def _refuse(self, row: int, column: str, needed: str) -> NoReturn:
        raise ValueError(f"{self.where}, {self._at(row)}, column {column}={self.columns[column][row]!r}: {needed}")


def read_exclude(key: str, path: Any, *, or_else: str = "") -> ExampleList:
    """Read which examples are left out: all rows, or, where there are decisions, those with ``drop``.

    ``path`` may be a list of positions itself.

    Raises:
        ValueError: ``path`` is none, or the file no such list; the message names ``key``, line, column and value.
    """
    if isinstance(path, list):
        columns = {"index": [str(each) for each in path], "decision": [DROP] * len(path)}
        return ExampleList(key, range(len(path)), columns, is_named=False)
    return _read(key, path, _state(key, check_text(key, path, or_else=or_else)), gives_labels=False)


def read_labels(key: str, path: Any, *, or_else: str = "") -> ExampleList:
    """Read which examples get which label: all rows, or, where there are decisions, those with ``relabel``.

    Raises:
        ValueError: as of ``read_exclude``.
    """
    return _read(key, path, _state(key, check_text(key, path, or_else=or_else)), gives_labels=True)


def _state(key: str, path: str) -> tuple[int, int]:
    try:
        status = Path(path).expanduser().stat()
    except (OSError, ValueError) as error:
        raise ValueError(f"{key}={path}: the file cannot be read ({error}).") from error
    if not stat.S_ISREG(status.st_mode):  # a FIFO would be waited for
        raise ValueError(f"{key}={path}: it is no regular file. A .csv or .npy file is needed.")
    return status.st_size, status.st_mtime_ns


@functools.lru_cache(maxsize=4)  # each cell of a sweep is looked at
def _read(key: str, path: str, state: tuple[int, int], *, gives_labels: bool) -> ExampleList:
    where, file = f"{key}={path}", Path(path).expanduser()
    if file.suffix == ".npy":
        return _from_array(where, file, gives_labels=gives_labels)
    if file.suffix != ".csv":
        raise ValueError(f"{where}: a .csv or .npy file is needed.")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ValueError(f"{where}: the file cannot be read as UTF-8 text ({error}).") from error
    return _from_table(where, text, gives_labels=gives_labels)


def _from_table(where: str, text: str, *, gives_labels: bool) -> ExampleList:
    first = text.partition("\n")[0]
    # As some spreadsheets write them where the comma is the decimal mark.
    separator = ";" if ";" in first and "," not in first else ","
    reader = csv.reader(text.splitlines(keepends=True), delimiter=separator, strict=True)
    rows: list[list[str]] = []
    lines: list[int] = []
    try:
        header = [name.strip().lower() for name in next(reader, [])]
        for row in reader:
            if any(row) and len(row) != len(header):
                raise ValueError(f"{where}, line {reader.line_num}: {len(row)} cells, under {len(header)} columns.")
            if any(row):
                rows.append(row)
                lines.append(reader.line_num)
    except csv.Error as error:
        raise ValueError(f"{where}, line {reader.line_num}: it is no CSV file ({error}).") from error
    if "label" not in header and "decision" in header:
        header = ["label" if name == "suggested" else name for name in header]
    wanted = [name for name in ("index", "path", "label", "decision") if name in header]
    _check_columns(where, header, wanted, gives_labels=gives_labels)
    columns: dict[str, list[str]] = {name: [row[header.index(name)].strip() for row in rows] for name in wanted}
    decided = [each.lower() or KEEP for each in columns.get("decision", [])]
    columns["decision"] = decided if "decision" in header else [RELABEL if gives_labels else DROP] * len(rows)
    found = ExampleList(where, lines, columns)
    for number, decision in enumerate(columns["decision"]):
        if decision not in DECISIONS:
            found._refuse(number, "decision", f"one of {', '.join(DECISIONS)} is needed, or nothing.")
    return found


def _check_columns(where: str, header: Sequence[str], wanted: Sequence[str], *, gives_labels: bool) -> None:
    there = f"its columns are {', '.join(header)}" if header else "it has no line with the names of its columns"
    if "index" not in wanted and "path" not in wanted:
        raise ValueError(f"{where}: {there}. One called index or path is needed, which says which example is meant.")
    if gives_labels and "label" not in wanted:
        raise ValueError(f"{where}: {there}. One called label is needed.")
    double = next((name for name in wanted if header.count(name) > 1), None)
    if double:
        raise ValueError(f"{where}: {there}. One alone may be called {double}.")


def _from_array(where: str, file: Path, *, gives_labels: bool) -> ExampleList:
    try:
        array: Any = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{where}: the file cannot be read as an array ({error}).") from error
    kind, shape = getattr(array.dtype, "kind", "?"), array.shape
    is_whole = kind in "iu"
    of_all = (len(shape) == 1) and (is_whole if gives_labels else kind == "b")
    if gives_labels and not (is_whole and (len(shape) == 1 or (len(shape) == 2 and shape[1] == 2))):
        needed = "integers (K, 2) of positions and labels, or (N,) labels of all examples, are needed"
        raise ValueError(f"{where}: it is {array.dtype} {shape}: {needed}.")
    if not gives_labels and not (len(shape) == 1 and kind in "iub"):
        raise ValueError(f"{where}: it is {array.dtype} {shape}: integers (K,), positions, or bool (N,) are needed.")
    count = len(array)
    columns: dict[str, list[str]] = {"decision": [RELABEL if gives_labels else DROP] * count}
    if of_all:
        columns["index"] = list(map(str, range(count)))
        if kind == "b":
            columns["decision"] = [DROP if each else KEEP for each in array.tolist()]
    else:
        columns["index"] = list(map(str, (array[:, 0] if gives_labels else array).tolist()))
    if gives_labels:
        columns["label"] = list(map(str, (array if of_all else array[:, 1]).tolist()))
    return ExampleList(where, range(count), columns, of_all, is_named=False)


def _needed_class(names: Sequence[str], *, is_named: bool) -> str:
    shown = ", ".join(names[:10]) + (", ..." if len(names) > 10 else "")
    by_name = f", or by name: {shown}" if is_named else ""
    return f"a class is needed, by number from 0 to {len(names) - 1}{by_name}."
