"""What a process does that measures runs: it takes one after another off a list that it shares with others.

In its folder it tells each row that comes of a run in a line; ``rethinkgen.sweep.measuring`` reads them. Beside that
folder lie the list, and for each run that was taken a link that names the stint which did.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from rethinkgen.files import append_line, lock
from rethinkgen.received import each_line
from rethinkgen.run.measures_asked import Request
from rethinkgen.run.measuring import Measuring

ENDED = "ended"
"""The file by which a process says that it found nothing more to do."""
ROWS = "rows.jsonl"
REQUEST = "request.json"
CLAIMS = "claims"
LOCK = ".lock"
"""What a process holds while it lives, in its folder, and a command in the one that those lie in."""


def measure_stint(config: DictConfig) -> dict[str, Any]:
    """Measure, in this process, one run after another of those that no other stint has taken."""
    import torch

    from rethinkgen.run.training import default_threads

    torch.set_num_threads(config.threads or default_threads())  # a forked process imported it long before
    path = Path(config.stint)
    with lock(path / LOCK):
        _measure(path)
    return {}


def _measure(path: Path) -> None:
    told = json.loads((path.parent / REQUEST).read_text(encoding="utf-8"))
    request, runs = Request.from_json(told["request"]), told["runs"]
    measuring = Measuring(request)
    measuring.check()
    for number, steps in _what_is_due(path, [steps for _, _, steps in runs]):
        run, other, _ = runs[number]
        for row in measuring.rows(Path(run), None if other is None else Path(other), steps):
            append_line(path / ROWS, json.dumps({"run": number, **row.__dict__}))
    (path / ENDED).touch()


def _what_is_due(path: Path, steps: Sequence[list[int]]) -> Iterator[tuple[int, list[int]]]:
    """Yield the run that this stint was at, where it was begun before, and then those that it takes; with steps."""
    told = _told(path)
    for number in sorted(claims_of(path)):  # where SLURM has requeued its job
        if left := [step for step in steps[number] if step not in told.get(number, ())]:
            yield number, left
    for number in _in_turn(path, len(steps)):
        yield number, steps[number]


def _told(path: Path) -> dict[int, set[int]]:
    """Return the steps that this stint has told of, by run."""
    told: dict[int, set[int]] = {}
    for line in each_line(path / ROWS):
        with contextlib.suppress(ValueError):  # cut short as the process was killed
            row = json.loads(line)
            told.setdefault(row["run"], set()).add(row["step"])
    return told


def claims_of(path: Path) -> list[int]:
    """Return the runs that a stint has taken."""
    return [number for number, stint in claims(path.parent).items() if stint == path.name]


def claims(root: Path) -> dict[int, str]:
    """Return the name of the stint that took it for each run that was taken."""
    found = {}
    with os.scandir(root / CLAIMS) as entries:
        for entry in entries:
            with contextlib.suppress(OSError, ValueError):  # it is none of ours
                found[int(entry.name)] = os.readlink(entry.path)
    return found


def _in_turn(path: Path, num_runs: int) -> Iterator[int]:
    """Yield the runs that this stint is the first to take; each begins at another place of the list."""
    stints = sum(1 for _ in path.parent.glob("stint-*"))
    first = int(path.name.removeprefix("stint-")) * num_runs // max(1, stints) % num_runs
    for number in (*range(first, num_runs), *range(first)):
        try:
            # Whose it is must be there in the same instant: a kill right after it would else lose the run.
            os.symlink(path.name, path.parent / CLAIMS / str(number))
        except FileExistsError:
            continue
        yield number
