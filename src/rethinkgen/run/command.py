"""What one types to have a run."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence


def train_command(overrides: Sequence[str]) -> str:
    """Return the command with these overrides, quoted for a shell."""
    # An experiment carries a sweep, even where but one of its runs is asked for.
    multirun = ["-m"] if any(override.startswith("+experiment=") for override in overrides) else []
    return shlex.join(["python", "train.py", *multirun, *overrides])


def command_line(*, leaving_out: str = "") -> str:
    """Return the command that this process was started with, as one would type it, without one key's override."""
    arguments = [argument for argument in sys.argv if not leaving_out or argument.split("=")[0] != leaving_out]
    return shlex.join(["python", *arguments])
