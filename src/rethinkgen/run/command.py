"""What one types to have a run, from where this command was typed."""

from __future__ import annotations

import os
import shlex
import shutil
import sys
from argparse import Namespace
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

OF_ONE_COMMAND = ("hydra.mode=", "hydra.run.", "hydra.sweep", "hydra/sweep", "hydra.launcher", "hydra/launcher")
"""Hydra's own overrides that another command is not given: how and where this one has its runs done."""

_typed: list[str] = ["train.py"]


@contextmanager
def typed(arguments: Sequence[str]) -> Iterator[None]:
    """For a while, these are the script and the arguments of the command that was issued, whatever process this is."""
    global _typed
    before, _typed = _typed, list(arguments)
    try:
        yield
    finally:
        _typed = before


def train_command(overrides: Sequence[str]) -> str:
    """Return the command with these overrides, quoted for a shell: as one types it in a clone of this project."""
    # An experiment carries a sweep, even where but one of its runs is asked for.
    multirun = ["-m"] if any(map(_is_experiment, overrides)) else []
    return shlex.join(["python", "train.py", *multirun, *overrides])


def command_here(overrides: Sequence[str]) -> str:
    """Return the command of one run with these overrides, as one types it where this command was typed.

    The script, the folders of configs and the name of the primary one are those of this command.
    """
    of_hydra = [item for item in _parsed(_typed).overrides if item.lstrip("+~").startswith(("hydra.", "hydra/"))]
    of_hydra = [item for item in of_hydra if not item.lstrip("+~").startswith(OF_ONE_COMMAND)]
    # Else an experiment would bring its whole sweep.
    mode = ["hydra.mode=RUN"] if any(map(_is_experiment, overrides)) else []
    return shlex.join([*python(), *script_and_configs(), *mode, *of_hydra, *overrides])


def script_and_configs() -> list[str]:
    """Return the script of this command and its options that say where configs are."""
    parsed = _parsed(_typed)
    named = {
        "--config-path": parsed.config_path,
        "--config-name": parsed.config_name,
        "--config-dir": parsed.config_dir,
    }
    return [_typed[0], *(word for option, value in named.items() if value is not None for word in (option, value))]


def config_folder() -> Path | None:
    """Return the folder of configs of one's own that this command names, if it names one."""
    folder = _parsed(_typed).config_dir
    return None if folder is None else Path(folder)


def command_line(*, leaving_out: str = "", adding: str = "") -> str:
    """Return this command as one would type it again, without one key's override, or with an option."""
    script, *arguments = _typed
    kept = [argument for argument in arguments if not leaving_out or argument.split("=")[0] != leaving_out]
    return shlex.join([*python(), script, *([adding] if adding else []), *kept])


def noted_command() -> str:
    """Return this command for others to read: whichever interpreter runs it here."""
    return shlex.join(["python", *_typed])


def is_sweep(arguments: Sequence[str]) -> bool:
    """Whether a command's arguments, the script's path before them, ask for a sweep."""
    parsed = _parsed(arguments)
    return bool(parsed.multirun) or "hydra.mode=MULTIRUN" in parsed.overrides


def python() -> list[str]:
    """Return what calls this interpreter from the shell that the command was typed in."""
    interpreter = Path(sys.executable)
    if "UV_RUN_RECURSION_DEPTH" in os.environ:
        # The shell's own path knows nothing of the environment that uv had found.
        here = Path.cwd()
        return ["uv", "run"] if Path(sys.prefix).parent in (here, *here.parents) else [_short(interpreter)]
    found = _on_path("python")
    is_this = found is not None and found.parent == interpreter.parent and found.samefile(interpreter)
    return ["python"] if is_this else [_short(interpreter)]


def wandb() -> list[str]:
    """Return what calls W&B's program of this environment."""
    own = Path(sys.executable).with_name("wandb")
    if "UV_RUN_RECURSION_DEPTH" not in os.environ and _on_path("wandb") == own:
        return ["wandb"]
    words = python()
    return [*words, "wandb"] if words == ["uv", "run"] else [_short(own)]


def install_command(*packages: str, extra: str | None = None) -> str:
    """Return what installs packages, or an extra of ours, beside what runs here."""
    own = [] if extra is None else ["-e", f"{_short(Path(__file__).parents[3])}[{extra}]"]
    return shlex.join(["uv", "pip", "install", "--python", _short(Path(sys.executable)), *packages, *own])


def _on_path(name: str) -> Path | None:
    found = shutil.which(name)
    return Path(found).absolute() if found else None


def _short(path: Path) -> str:
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _is_experiment(override: str) -> bool:
    return override.startswith("+experiment=")


def _parsed(arguments: Sequence[str]) -> Namespace:
    from hydra._internal.utils import get_args_parser

    return get_args_parser().parse_intermixed_args(list(arguments[1:]))
