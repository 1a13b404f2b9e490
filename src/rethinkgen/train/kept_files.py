"""Where the states lie that a run keeps along training. Light: no torch.

``weights/<step>.pt`` holds the network's ``state_dict`` and nothing else: whoever looks into a network loads no more,
and anybody's ``torch.load`` understands it. ``weights/<step>.state.pt`` holds all the rest that the run would go on
from, which for momentum or Adam is once or twice as large; and whose state it is, with a digest of the weights, by
which the two belong together.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from pathlib import Path

BEST = "best"
"""In place of a step: the best so far, where only the end tells whether it is the one to keep."""
_STATE = re.compile(r"(0|[1-9]\d{0,17})\.state\.pt")


def weights_path(folder: Path, step: int | str) -> Path:
    """Return where in a run's ``weights/`` the network after ``step`` steps lies."""
    return folder / f"{step}.pt"


def state_path(folder: Path, step: int | str) -> Path:
    """Return where the rest of the state lies."""
    return folder / f"{step}.state.pt"


def kept_steps(folder: Path) -> list[int]:
    """Return the steps, ascending, of which both files lie in a run's ``weights/``, whatever is in them."""
    found = (_STATE.fullmatch(path.name) for path in folder.glob("*.state.pt"))
    steps = sorted(int(match[1]) for match in found if match)
    return [step for step in steps if weights_path(folder, step).is_file() and state_path(folder, step).is_file()]


def is_whole(folder: Path, step: int) -> bool:
    """Whether both files of a state have the content that their checksums tell, which reads all of them."""
    try:
        for path in (weights_path(folder, step), state_path(folder, step)):
            with zipfile.ZipFile(path) as archive:
                if archive.testzip() is not None:
                    return False
    except (zipfile.BadZipFile, EOFError, OSError, RuntimeError, NotImplementedError, zlib.error):
        return False
    return True
