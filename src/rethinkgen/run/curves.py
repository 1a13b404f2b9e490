"""``metrics.csv`` as it is read: the rows that are whole. One that a disk damaged costs itself and no other.

Light: pandas is imported where a table of it is wanted.
"""

from __future__ import annotations

import io
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rethinkgen.errors import DamagedFileError
from rethinkgen.received import MOST_BYTES_OF_TABLE, read_bytes

if TYPE_CHECKING:
    import pandas as pd

STEP = "step"
TEXTS = ("weights_digest",)
"""Columns that hold no number."""
MOST_NAMED = 3
"""Damaged lines whose numbers are told."""
_CELLS = {STEP: r"\d{1,18}", **dict.fromkeys(TEXTS, r"[\w.:-]*")}
_NUMBER = r"(?:-?\d{1,25}(?:\.\d*)?(?:e[-+]\d+)?|-?nan|-?inf)?"


@dataclass(frozen=True)
class Rows:
    """What is whole of a table."""

    columns: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    """Without the head."""
    damaged: list[int] = field(default_factory=list)
    """Numbers of the lines that are left out, the head being line 1."""

    def cells(self) -> list[dict[str, str]]:
        """Return the rows by column."""
        return [dict(zip(self.columns, line.split(","), strict=True)) for line in self.lines]


def read_rows(path: Path) -> Rows:
    """Return the whole rows of a table, also of a run at work; none where there is no file.

    Raises:
        DamagedFileError: it cannot be read, or its head is no head.
    """
    # What follows the last line's end is being written, or was cut short by a kill.
    head, *lines = (read_bytes(path, MOST_BYTES_OF_TABLE) or b"").decode(errors="replace").split("\n")[:-1] or [""]
    if not head:
        return Rows(damaged=[1] if lines else [])
    columns = head.split(",")
    if STEP not in columns or len(set(columns)) < len(columns) or not head.isprintable() or '"' in head:
        raise DamagedFileError(f"{path} is damaged (its first line, {head[:40]!r}, names no columns).")
    row = re.compile(",".join(_CELLS.get(column, _NUMBER) for column in columns), flags=re.ASCII)
    whole = [bool(row.fullmatch(line)) for line in lines]
    damaged = [number for number, is_whole in enumerate(whole, 2) if not is_whole]
    return Rows(columns, [line for line, is_whole in zip(lines, whole, strict=True) if is_whole], damaged)


def read_curves(path: Path) -> tuple[pd.DataFrame, str]:
    """Return a table's whole rows, empty where there are none, and a line on what of it is damaged."""
    import pandas as pd

    try:
        rows = read_rows(path)
    except DamagedFileError as error:
        return pd.DataFrame(), str(error)
    if not rows.columns:
        return pd.DataFrame(), f"{path} is damaged (it has no first line)." if rows.damaged else ""
    kinds: dict[str, Any] = {name: str if name in TEXTS else float for name in rows.columns} | {STEP: "int64"}
    text = "\n".join([",".join(rows.columns), *rows.lines])
    table = pd.read_csv(io.StringIO(text), dtype=kinds)
    if "inf" in text or "e+" in text:
        # A loss that is no finite number, or none that a float holds, is nothing that can be drawn.
        table = table.replace([math.inf, -math.inf], math.nan)
    return table, _damage(path, rows)


def _damage(path: Path, rows: Rows) -> str:
    if not rows.damaged:
        return ""
    named = ", ".join(map(str, rows.damaged[:MOST_NAMED]))
    more = f" and {len(rows.damaged) - MOST_NAMED} more" if len(rows.damaged) > MOST_NAMED else ""
    return f"{path} is damaged: line {named}{more} of {len(rows.damaged) + len(rows.lines) + 1} is left out."
