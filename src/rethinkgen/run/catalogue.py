"""What a sweep's folder remembers: its cells, and the commands that it came from.

``.index.jsonl`` has a cell a line, written by ``rethinkgen.sweep.index``: so a report can name the runs that nobody has
begun yet. ``commands.txt`` has a time and a command a line.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rethinkgen.errors import DamagedFileError
from rethinkgen.received import each_line as each_line_of
from rethinkgen.received import parse_json, read_lines
from rethinkgen.run.schema import CELL, fault
from rethinkgen.words import how_many

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
    return _by_keys(_whole(lines)) if beside.name == folder.name or any(about in line for line in lines) else {}


def each_line(folder: Path) -> Iterator[tuple[bytes, Entry]]:
    """Yield the lines of a folder's own catalogue and their entries, of which a later one may replace an earlier one.

    What is damaged is left out, and said by ``damage``.
    """
    with contextlib.suppress(DamagedFileError):
        yield from _whole(each_line_of(folder / FILE_NAME))


def damage(folder: Path) -> str:
    """Say what of a folder's catalogue cannot be read; nothing where all can."""
    path = folder / FILE_NAME
    try:
        lines = list(filter(None, read_lines(path)))
    except DamagedFileError as error:
        return str(error)
    num_bad = len(lines) - sum(1 for _ in _whole(lines))
    words = f"{num_bad} line{'s' * (num_bad != 1)}"
    return f"{path} is damaged ({words}): what nobody has begun yet may be missing from the report." if num_bad else ""


def _by_keys(lines: Iterable[tuple[bytes, Entry]]) -> dict[str, Entry]:
    entries: dict[str, Entry] = {}
    for _, entry in lines:
        # The latest last.
        entries.pop(entry["key"], None)
        entries[entry["key"]] = entry
    return entries


def _whole(lines: Iterable[bytes]) -> Iterator[tuple[bytes, Entry]]:
    """Yield lines and their entries.

    A line that a kill cut short is none, nor is one about a folder that lies neither in the sweep's nor in one beside.
    """
    for line in lines:
        try:
            entry = parse_json(line)
        except ValueError:
            continue
        if isinstance(entry.get("key"), str) and _is_near(entry.get("folder")) and not fault(entry, CELL):
            yield line, entry


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
    are = "is" if left_out == 1 else "are"
    fault = f"{path} is damaged: {left_out} of its {how_many(len(lines), 'line')} {are} left out." if left_out else ""
    return [line.split(maxsplit=1)[-1] for line in whole], fault
