"""What a sweep's folder remembers of its cells: ``.index.jsonl``, one a line, written by ``rethinkgen.sweep.index``.

So a report can name the runs that nobody has begun yet.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

FILE_NAME = ".index.jsonl"
Entry = dict[str, Any]


def latest_entries(folder: Path) -> list[Entry]:
    """Return what is remembered of the cells whose runs lie in ``folder``, by the names of their folders.

    ``is_latest`` are those of the configs that the latest line was written under: what the sweep wants today. The
    others only say what lies in the folders that there are. A sweep over data sets has a folder for each, whose cells
    stand in the index of a folder beside.
    """
    folder = folder.absolute()
    found = []
    for index in sorted(folder.parent.glob(f"*/{FILE_NAME}")):
        if index.parent.name != folder.name and f'"../{folder.name}/' not in index.read_text():
            continue
        entries = read_entries(index.parent)
        configs = next(reversed(entries.values())).get("configs") if entries else None
        for entry in entries.values():
            path = Path(os.path.normpath(index.parent / str(entry["folder"])))
            if path.parent == folder:
                is_latest = configs is not None and entry.get("configs") == configs
                found.append(entry | {"folder": path.name, "is_latest": is_latest})
    return found


def read_entries(folder: Path) -> dict[str, Entry]:
    """Return the entries of a folder's own catalogue by their keys, the latest last."""
    entries: dict[str, Entry] = {}
    for _, entry in each_line(folder):
        # The latest last.
        entries.pop(entry["key"], None)
        entries[entry["key"]] = entry
    return entries


def each_line(folder: Path) -> Iterator[tuple[bytes, Entry]]:
    """Yield the lines of a folder's own catalogue and their entries, of which a later one may replace an earlier one.

    What is damaged is left out.
    """
    try:
        file = (folder / FILE_NAME).open("rb")
    except (FileNotFoundError, NotADirectoryError):
        return
    with file:
        for line in map(bytes.rstrip, file):
            try:
                entry = json.loads(line)
                is_entry = isinstance(entry["key"], str)
            except (ValueError, TypeError, KeyError):
                continue  # cut short by a kill: its job is planned once more
            if is_entry:
                yield line, entry
