"""What a sweep's folder remembers: its cells, and the commands that it came from.

``.index.jsonl`` has a cell a line, written by ``rethinkgen.sweep.index``: so a report can name the runs that nobody has
begun yet. ``commands.txt`` has a time and a command a line.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from rethinkgen.errors import DamagedFileError
from rethinkgen.received import parse_json, read_lines
from rethinkgen.run.schema import CELL, fault

FILE_NAME = ".index.jsonl"
COMMANDS = "commands.txt"
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
        entries = _entries_about(folder, index.parent)
        configs = next(reversed(entries.values())).get("configs") if entries else None
        for entry in entries.values():
            path = Path(os.path.normpath(index.parent / entry["folder"]))
            if path.parent == folder:
                is_latest = configs is not None and entry.get("configs") == configs
                found.append(entry | {"folder": path.name, "is_latest": is_latest})
    return found


def _entries_about(folder: Path, beside: Path) -> dict[str, Entry]:
    """Return the entries of a folder's catalogue, unless it is another folder's that has none about this one."""
    try:
        lines = read_lines(beside / FILE_NAME)
    except DamagedFileError:
        return {}  # said by ``damage``
    about = f'"../{folder.name}/'.encode()
    return parsed(lines)[0] if beside.name == folder.name or any(about in line for line in lines) else {}


def read_entries(folder: Path) -> dict[str, Entry]:
    """Return the entries of a folder's own catalogue by their keys, the latest last; what is damaged is left out."""
    try:
        return parsed(read_lines(folder / FILE_NAME))[0]
    except DamagedFileError:
        return {}  # said by ``damage``


def damage(folder: Path) -> str:
    """Say what of a folder's catalogue cannot be read; nothing where all can."""
    path = folder / FILE_NAME
    try:
        num_bad = parsed(read_lines(path))[1]
    except DamagedFileError as error:
        return str(error)
    lines = f"{num_bad} line{'s' * (num_bad != 1)}"
    return f"{path} is damaged ({lines}): what nobody has begun yet may be missing from the report." if num_bad else ""


def parsed(lines: list[bytes]) -> tuple[dict[str, Entry], int]:
    """Return entries by their keys, the latest last, and the number of lines that are none.

    A line that a kill cut short is none, nor is one about a folder that lies neither in the sweep's nor in one beside.
    """
    entries: dict[str, Entry] = {}
    num_bad = 0
    for line in filter(None, lines):
        try:
            entry = parse_json(line)
        except ValueError:
            num_bad += 1
            continue
        key, folder = entry.get("key"), entry.get("folder")
        if not isinstance(key, str) or not _is_near(folder) or fault(entry, CELL):
            num_bad += 1
            continue
        entries.pop(key, None)
        entries[key] = entry
    return entries, num_bad


def _is_near(folder: Any) -> bool:
    """Whether a path leads from the sweep's folder to one of its runs, or of a sweep beside it: no further."""
    names = folder.split("/") if isinstance(folder, str) else []
    fewest = 1
    if names[:1] == [".."]:
        names, fewest = names[1:], 2
    return len(names) >= fewest and not {"", ".", ".."} & set(names)


def read_commands(folder: Path) -> tuple[list[str], str]:
    """Return the commands that a sweep came from, none where it does not say, and a line on what is damaged of them."""
    path = folder / COMMANDS
    try:
        lines = [line.decode(errors="replace") for line in read_lines(path) if line.strip()]
    except DamagedFileError as error:
        return [], str(error)
    whole = [line for line in lines if line.isprintable() and "\ufffd" not in line]
    left_out = len(lines) - len(whole)
    fault = f"{path} is damaged: {left_out} of its {len(lines)} lines are left out." if left_out else ""
    return [line.split(maxsplit=1)[-1] for line in whole], fault
