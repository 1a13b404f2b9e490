"""``debug=true``: the quick trial run. A few steps on a few examples, in which everything is done, and nothing is kept.

The run's folder lies in a temporary one, which goes when the command ends. Light: no torch.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rethinkgen.console import say

VARIABLE = "RETHINKGEN_TRIAL"
"""Environment variable by which a command tells the processes that it starts where its trial runs lie."""
STEPS = 3
LEAST_EXAMPLES = 256

_is_ours = False
"""Whether this process made the folder, and so removes it."""


def folder() -> Path:
    """Return the folder that takes the place of ``results_dir``; made when it is asked for the first time."""
    global _is_ours
    if VARIABLE not in os.environ:
        os.environ[VARIABLE] = tempfile.mkdtemp(prefix="rethinkgen-trial-")
        _is_ours = True
    return Path(os.environ[VARIABLE])


def is_on() -> bool:
    """Whether this command, or the one that started this process, makes trial runs."""
    return VARIABLE in os.environ


@contextmanager
def leaving_nothing() -> Iterator[None]:
    """Remove afterwards the folder of trial runs, if one was made within."""
    global _is_ours
    try:
        yield
    finally:
        if _is_ours:
            shutil.rmtree(os.environ.pop(VARIABLE), ignore_errors=True)
            _is_ours = False


def keep() -> None:
    """Leave the folder, as what failed in it is to be looked into."""
    global _is_ours
    if _is_ours:
        _is_ours = False
        say(f"What they left is kept, to be looked into: {os.environ.pop(VARIABLE)}")


def shortened(config: dict[str, Any]) -> dict[str, Any]:
    """Return a run's config for a trial: a few steps, a row and a checkpoint as often as can be, and no logger."""
    steps = config["max_steps"]
    return config | {
        "keep": [0, "end"] if config.get("keep") else [],
        "at": [0, "end"] if config.get("measure") else config.get("at", "end"),
        "max_steps": STEPS if steps is None else min(steps, STEPS),
        "max_epochs": None,
        "until_fit": False,
        "log_every": 1,
        "checkpoint_seconds": 0,
        "logger": {},
    }


def num_examples(batch_size: int | str) -> int:
    """Return how many examples of each split a trial takes, of those that there are."""
    return LEAST_EXAMPLES if isinstance(batch_size, str) else max(LEAST_EXAMPLES, 2 * batch_size)
