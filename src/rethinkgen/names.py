"""Names of files, and texts in CSV files: whatever runs call their data, models and settings."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from rethinkgen.files import csv_cell

if TYPE_CHECKING:
    import pandas as pd

LONGEST_STEM = 80


def stem(text: str) -> str:
    """Return a file's name without its ending, of ASCII letters, digits, ``_``, ``.`` and ``-`` alone.

    A choice of a group below, ``my/cats``, is ``my_cats``.
    """
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", text).strip(".")[:LONGEST_STEM] or "_"


def distinct(stems: Iterable[str]) -> list[str]:
    """Return names of which no two are one file, on any file system; the first of several keeps its own."""
    taken: set[str] = set()
    names = []
    for wanted in stems:
        name, number = wanted, 1
        while name.lower() in taken:
            number += 1
            name = f"{wanted}_{number}"
        taken.add(name.lower())
        names.append(name)
    return names


def in_csv(value: Any) -> Any:
    """Return a value as a CSV file has it: a list is joined by ``+``, an empty one is ``none``."""
    return csv_cell("+".join(map(str, value)) or "none" if isinstance(value, list) else value)


def to_csv(table: pd.DataFrame) -> str:
    """Return a table as CSV, its texts as ``csv_cell`` has them."""
    texts = table.select_dtypes(exclude="number").columns
    safe = table.assign(**{name: table[name].map(csv_cell) for name in texts}) if len(texts) else table
    text: str = safe.rename(columns=csv_cell).to_csv(index=False)
    return text
