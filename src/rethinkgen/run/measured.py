"""What measures have left in a run's folder: ``measures/<name>-<id6>/<step>.json``, tables in ``<step>.npz`` beside it.

Read within bounds and never built: a folder may be anybody's. Light: no torch.
"""

from __future__ import annotations

import hashlib
import json
import math
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rethinkgen.errors import DamagedFileError
from rethinkgen.files import atomic_writer, write_atomically
from rethinkgen.received import MOST_BYTES_OF_TABLE, open_regular, read_json, telling_of_archive
from rethinkgen.run.folder import checksum
from rethinkgen.run.schema import MEASURED, fault

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd

FOLDER = "measures"
ID_LENGTH = 6
WORTH = (
    READ := "read",
    SOLVED := "solved",
    REPLAYED := "replayed",
    TO_TOLERANCE := "replayed nearly",
    UNCHECKED := "replayed unchecked",
    INEXACT := "replayed inexactly",
)
"""How weights were had, the surest first: as they were kept; solved once more; trained up to once more, where the run's
own rows told the same on the way, to the bit, or nearly (1 % of the loss) where bits cannot be asked for; where it had
no row on the way; where they told something else."""


def least_sure(words: Iterable[str]) -> str:
    """Return of several words of ``WORTH`` the last; nothing of none."""
    return max(words, key=lambda word: WORTH.index(word) if word in WORTH else len(WORTH), default="")


NEEDED = ("measure", "function", "protocol", "parameters", "step", "numbers", "tables")


@dataclass(frozen=True)
class Measured:
    """What one measure found of a run at one step."""

    path: Path = field(repr=False)
    """Of the JSON file."""
    measure: str
    """By what name it was asked for."""
    called: str
    """The same, with those of its parameters that are not at their defaults."""
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
    def weights(self) -> str | None:
        """How the least sure of the weights that it looked at were had; ``None`` of files that do not tell."""
        return least_sure(filter(None, (self.facts.get("weights") or {}).values())) or None

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
        called=told.get("called") or told["measure"],
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


def read_measured(run: Path) -> tuple[list[Measured], list[str]]:
    """Return all that measures found of a run, by name and step, and what of it is damaged, a line each."""
    found, damage = [], []
    for path in sorted((run / FOLDER).glob("*/*.json")):
        try:
            measured = read_file(path)
        except DamagedFileError as error:
            damage.append(str(error))
            continue
        if measured is not None:
            found.append(measured)
    # Of one name the latest protocol comes last, so that its number is the one that stands by that name.
    found.sort(key=lambda each: (each.measure, each.protocol, each.key, each.step))
    return _told_apart(found), damage


def _told_apart(found: Sequence[Measured]) -> list[Measured]:
    """Have measures with other second runs go by other names: where the same words chose several, by their ids too."""
    others: dict[str, set[str]] = {}
    for each in found:
        others.setdefault(each.called, set()).add(each.other or "")
    return [
        replace(each, called=f"{each.called.removesuffix(')')},{each.other})")
        if each.other and len(others[each.called]) > 1
        else each
        for each in found
    ]


def called(name: str, parameters: Mapping[str, Any], defaults: Mapping[str, Any]) -> str:
    """Return what a measure is called beside itself under other parameters: ``margins``, ``margins(share=0.2)``."""
    plain = {key: list(value) if isinstance(value, tuple) else value for key, value in defaults.items()}
    changed = [key for key in parameters if key not in plain or parameters[key] != plain[key]]
    words = ",".join(f"{key}={_brief(parameters[key])}" for key in changed)
    return f"{name}({words})" if words else name


def _brief(value: Any) -> str:
    return "null" if value is None else "+".join(map(_brief, value)) if isinstance(value, list | dict) else f"{value}"


def _finite(value: Any) -> Any:
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _read_table(path: Path, table: str) -> dict[str, np.ndarray[Any, Any]]:
    import numpy as np

    columns: dict[str, np.ndarray[Any, Any]] = {}
    file = open_regular(path)
    if file is None:
        raise DamagedFileError(f"{path} is not there: of this measure only the numbers are left.")
    with telling_of_archive(path), file, zipfile.ZipFile(file) as archive:
        members = [each for each in archive.infolist() if each.filename.startswith(f"{table}/")]
        if sum(each.file_size for each in members) > MOST_BYTES_OF_TABLE:
            raise DamagedFileError(f"{path} cannot be read (more than {MOST_BYTES_OF_TABLE:,} bytes).")
        for member in members:
            with archive.open(member) as column:
                name = member.filename.removeprefix(f"{table}/").removesuffix(".npy")
                columns[name] = np.lib.format.read_array(column, allow_pickle=False)
    if len({column.shape for column in columns.values()}) != 1 or any(each.ndim != 1 for each in columns.values()):
        raise DamagedFileError(f"{path} is damaged (its columns are not of one length).")
    return columns


def row_of(measured: Measured) -> dict[str, Any]:
    """Return a row of ``measures.csv``: the step, the measure, its parameters and its numbers by their names."""
    return {
        "step": measured.step,
        "epoch": measured.epoch,
        "measure": measured.measure,
        "id": measured.key.rpartition("-")[2],
        "protocol": measured.protocol,
        "other": measured.other,
        "weights": measured.weights,
        **{f"{measured.measure}.{key}": value for key, value in measured.parameters.items()},
        **numbers_of(measured),
    }


def numbers_of(measured: Measured) -> dict[str, float | int | None]:
    """Return the numbers by the names that they go by among all numbers of a run: ``measure/margins/clean/median``."""
    return {f"measure/{measured.called}/{name}": value for name, value in measured.numbers.items()}


def with_measures(curves: pd.DataFrame, measured: Sequence[Measured]) -> pd.DataFrame:
    """Return the rows of ``metrics.csv`` with numbers of measures as further columns, and rows of their own steps."""
    if not measured:
        return curves
    import pandas as pd

    by_step: dict[int, dict[str, Any]] = {}
    for each in measured:
        by_step.setdefault(each.step, {"step": each.step, "epoch": each.epoch}).update(numbers_of(each))
    rows = pd.DataFrame(list(by_step.values()))
    if curves.empty:
        return rows.sort_values("step", ignore_index=True)
    whole = curves.merge(rows, on="step", how="outer", suffixes=("", " measured"), sort=True)
    if "epoch measured" in whole:
        whole["epoch"] = whole["epoch"].fillna(whole.pop("epoch measured"))
    return whole
