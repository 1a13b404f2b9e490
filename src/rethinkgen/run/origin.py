"""What one types to have some runs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from rethinkgen.run.catalogue import read_commands
from rethinkgen.run.command import train_command
from rethinkgen.run.run import Run

MOST_COMMANDS = 200
"""Lines shown: runs that no sweep started have one each."""


def command_of(runs: Sequence[Run]) -> str:
    """Return what one types to have these runs, a line for each command; of single runs, their overrides.

    Paths of the machine are left out: results go to ``multirun``, and data lie where one has them.
    """
    commands: dict[str, None] = {}
    noted: dict[Path, list[str]] = {}
    for run in runs:
        if run.sweep not in noted:
            noted[run.sweep] = [_portable(command) for command in read_commands(run.sweep)[0]]
        commands |= dict.fromkeys(noted[run.sweep] or [_portable(train_command(run.overrides))])
    return "\n".join(commands)


def _portable(command: str) -> str:
    """Return a command without the paths of the machine that it was given on."""
    command = re.sub(r"^python \S*/(?=\w+\.py)", "python ", command)
    command = re.sub(r" results_dir=\S+", "", command)
    return re.sub(r"=/(?:\S*/)?(?=[^\s/])", "=path/to/", command)


def shown_commands(commands: str, most: int = MOST_COMMANDS) -> list[str]:
    """Return commands, a line each, as a reader can use them; of very many, the first."""
    lines = [without_machine_paths(line) for line in commands.splitlines()]
    left_out = len(lines) - most
    where = " above" if most < MOST_COMMANDS else ""
    return [*lines[:most], f"# and {left_out:,} more{where}"] if left_out > 1 else lines


def without_machine_paths(text: str) -> str:
    """Shorten absolute paths to ``.../<last part>``: where things lie on one machine is nobody else's business.

    Our own scripts are named as one types them where they are.
    """
    text = re.sub(r"(?<![\w./~-])/(?:[^\s/]+/)*((?:train|measure|report)\.py)\b", r"\1", text)
    return re.sub(r"(?<![\w./~-])~?/(?:[\w.@+-]+/)+([\w.@+-]+)", r".../\1", text)
