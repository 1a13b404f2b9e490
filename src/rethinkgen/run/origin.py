"""What one types to have some runs."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from rethinkgen.run.catalogue import read_commands
from rethinkgen.run.command import train_command
from rethinkgen.run.run import Run


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
