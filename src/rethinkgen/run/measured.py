"""What measures have left in a run's folder: ``measures/<name>-<id6>/<step>.json``, tables in ``<step>.npz`` beside it.

Read within bounds and never built: a folder may be anybody's. Light: no torch.
"""

from __future__ import annotations

import hashlib
import json
import math
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rethinkgen.errors import DamagedFileError
from rethinkgen.files import atomic_writer, write_atomically
from rethinkgen.received import MOST_BYTES_OF_TABLE, open_regular, read_json
from rethinkgen.run.folder import checksum
from rethinkgen.run.schema import MEASURED, fault

if TYPE_CHECKING:
    import numpy as np

FOLDER = "measures"
ID_LENGTH = 6
NEEDED = ("measure", "function", "protocol", "parameters", "step", "numbers", "tables")


@dataclass(frozen=True)
class Measured:
    """What one measure found of a run at one step."""

    path: Path = field(repr=False)
    """Of the JSON file."""
    measure: str
    """By what name it was asked for."""
    function: str
    protocol: int
    parameters: dict[str, Any]
    other: str | None
    """Id of the second run, where there was one."""
    step: int
    epoch: float | None
    numbers: dict[str, float | int | None]
    tables: tuple[str, ...]
    facts: dict[str, Any] = field(repr=False)
    """All that the file holds."""

    @property
    def key(self) -> str:
        """What the measure is known by, its parameters included: ``margins-3f2a9c``."""
        return self.path.parent.name

    def table(self, name: str) -> dict[str, np.ndarray[Any, Any]]:
        """Read the columns of a table.

        Raises:
            ValueError: there is no such table.
            DamagedFileError: the file was damaged, or is none of ours.
        """
        if name not in self.tables:
            there = ", ".join(self.tables) or "none"
            raise ValueError(f"measure/{self.measure}/{name}: there is no such table; it has {there}.")
        return _read_table(self.path.with_suffix(".npz"), name)


def measure_id(function: str, protocol: int, parameters: Mapping[str, Any], other: str | None = None) -> str:
    """Return the hash of what a measure computes, whatever name it goes by: all parameters, their defaults too."""
    told = {"function": function, "protocol": protocol, "parameters": dict(parameters), "other": other}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:ID_LENGTH]


def file_of(run: Path, name: str, known_by: str, step: int) -> Path:
    """Return where what a measure finds at a step lies, or will lie."""
    return run / FOLDER / f"{name}-{known_by}" / f"{step}.json"


def write_measured(
    path: Path, facts: Mapping[str, Any], tables: Mapping[str, Mapping[str, np.ndarray[Any, Any]]]
) -> None:
    """Write what a measure found, the tables first: once the JSON file is there, all of it is."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if tables:
        import numpy as np

        arrays = {f"{table}/{name}": column for table, columns in tables.items() for name, column in columns.items()}
        with atomic_writer(path.with_suffix(".npz"), durable=False) as file:
            np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    numbers = {name: _finite(value) for name, value in facts["numbers"].items()}
    whole = {**facts, "numbers": numbers, "tables": list(tables)}
    whole["checksum"] = checksum(whole)
    write_atomically(path, json.dumps(whole, indent=2, allow_nan=False) + "\n", durable=False)


def read_file(path: Path) -> Measured | None:
    """Read one file, or return nothing where there is none.

    Raises:
        DamagedFileError: it was damaged, or is none of ours.
    """
    told = read_json(path)
    if told is None:
        return None
    wrong = fault(told, MEASURED)
    absent = [key for key in NEEDED if told.get(key) is None]
    if not wrong and absent:
        wrong = f"no {absent[0]} in it"
    if not wrong and told.get("checksum") != checksum(told):
        wrong = "its numbers do not match its checksum"
    if wrong:
        raise DamagedFileError(f"{path} is damaged ({wrong}).")
    return Measured(
        path=path,
        measure=told["measure"],
        function=told["function"],
        protocol=int(told["protocol"]),
        parameters=told["parameters"],
        other=told.get("other"),
        step=int(told["step"]),
        epoch=told.get("epoch"),
        numbers=told["numbers"],
        tables=tuple(told["tables"]),
        facts=told,
    )


def read_measured(run: Path, step: int | None = None) -> tuple[list[Measured], list[str]]:
    """Return all that measures found of a run, by name and step, and what of it is damaged, a line each.

    ``step``: no more than they found at this one.
    """
    found, damage = [], []
    for path in sorted((run / FOLDER).glob("*/*.json" if step is None else f"*/{step}.json")):
        try:
            measured = read_file(path)
        except DamagedFileError as error:
            damage.append(str(error))
            continue
        if measured is not None:
            found.append(measured)
    found.sort(key=lambda each: (each.key, each.step))
    return found, damage


def names_of(measured: Iterable[Measured]) -> dict[str, str]:
    """Return for the key of each measure what it is called: its name, and of several of one name what differs.

    ``margins``, or ``margins(share=0.2)`` beside ``margins(share=0.1)``. Which second run there was differs only where
    one run has several: each run has its own.
    """
    by_name: dict[str, dict[str, dict[str, Any]]] = {}
    others: dict[tuple[Any, ...], set[str | None]] = {}
    for each in measured:
        told = {**each.parameters, "protocol": each.protocol, "function": each.function}
        by_name.setdefault(each.measure, {})[each.key] = told | {"other": each.other}
        others.setdefault((each.measure, each.path.parents[2], each.step, repr(told)), set()).add(each.other)
    with_others = {measure for (measure, *_), found in others.items() if len(found) > 1}
    called = {}
    for measure, variants in by_name.items():
        names = dict.fromkeys(name for told in variants.values() for name in told)
        varying = [
            name
            for name in names
            if len({repr(told.get(name)) for told in variants.values()}) > 1
            and (name != "other" or measure in with_others)
        ]
        for key, told in variants.items():
            words = ",".join(f"{name}={_brief(told.get(name))}" for name in varying)
            called[key] = f"{measure}({words})" if words else measure
    return called


def _brief(value: Any) -> str:
    return "null" if value is None else "+".join(map(_brief, value)) if isinstance(value, list) else f"{value}"


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _read_table(path: Path, table: str) -> dict[str, np.ndarray[Any, Any]]:
    import numpy as np

    columns: dict[str, np.ndarray[Any, Any]] = {}
    try:
        file = open_regular(path)
        if file is None:
            raise DamagedFileError(f"{path} is not there: of this measure only the numbers are left.")
        with file, zipfile.ZipFile(file) as archive:
            members = [each for each in archive.infolist() if each.filename.startswith(f"{table}/")]
            if sum(each.file_size for each in members) > MOST_BYTES_OF_TABLE:
                raise DamagedFileError(f"{path} cannot be read (more than {MOST_BYTES_OF_TABLE:,} bytes).")
            for member in members:
                with archive.open(member) as column:
                    name = member.filename.removeprefix(f"{table}/").removesuffix(".npy")
                    columns[name] = np.lib.format.read_array(column, allow_pickle=False)
    except (zipfile.BadZipFile, KeyError, ValueError, OSError, EOFError, NotImplementedError, zlib.error) as error:
        raise DamagedFileError(f"{path} is damaged ({' '.join(str(error).split())}).") from error
    if len({column.shape for column in columns.values()}) != 1 or any(each.ndim != 1 for each in columns.values()):
        raise DamagedFileError(f"{path} is damaged (its columns are not of one length).")
    return columns


def rows_of(measured: Sequence[Measured]) -> list[dict[str, Any]]:
    """Return the rows of ``measures.csv``: one a step and measure, its parameters and numbers by their names."""
    called = names_of(measured)
    return [
        {
            "step": each.step,
            "epoch": each.epoch,
            "measure": each.measure,
            "id": each.key.rpartition("-")[2],
            "other": each.other,
            **{f"{each.measure}.{key}": value for key, value in each.parameters.items()},
            **{f"measure/{called[each.key]}/{name}": value for name, value in each.numbers.items()},
        }
        for each in measured
    ]
