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

_program: list[str] = ["train.py"]
"""A script; or the console command ``rethinkgen`` and its verb."""
_arguments: list[str] = []


@contextmanager
def typed(program: Sequence[str], arguments: Sequence[str]) -> Iterator[None]:
    """For a while, this is the command that was issued, whatever process this is."""
    global _program, _arguments
    before = _program, _arguments
    _program, _arguments = list(program), list(arguments)
    try:
        yield
    finally:
        _program, _arguments = before


def program() -> list[str]:
    """Return the program that was called as the process was given it: a script, or the console command and its verb."""
    return list(_program)


def train_command(overrides: Sequence[str]) -> str:
    """Return the command with these overrides, quoted for a shell, for whoever has what this one was issued with.

    That is a clone of this project, or the console command.
    """
    # An experiment carries a sweep, even where but one of its runs is asked for.
    multirun = ["-m"] if any(map(_is_experiment, overrides)) else []
    return shlex.join([*noted_program("train"), *multirun, *overrides])


def command_here(overrides: Sequence[str]) -> str:
    """Return the command of one run with these overrides, as one types it where this command was typed.

    The program, the folders of configs and the name of the primary one are those of this command.
    """
    of_hydra = [item for item in _parsed(_arguments).overrides if item.lstrip("+~").startswith(("hydra.", "hydra/"))]
    of_hydra = [item for item in of_hydra if not item.lstrip("+~").startswith(OF_ONE_COMMAND)]
    # Else an experiment would bring its whole sweep.
    mode = ["hydra.mode=RUN"] if any(map(_is_experiment, overrides)) else []
    return shlex.join([*_program_here(), *options_of_configs(), *mode, *of_hydra, *overrides])


def options_of_configs() -> list[str]:
    """Return the options of this command that say where configs are."""
    parsed = _parsed(_arguments)
    named = {
        "--config-path": parsed.config_path,
        "--config-name": parsed.config_name,
        "--config-dir": parsed.config_dir,
    }
    return [word for option, value in named.items() if value is not None for word in (option, value)]


def config_folder() -> Path | None:
    """Return the folder of configs of one's own that this command names, if it names one."""
    folder = _parsed(_arguments).config_dir
    return None if folder is None else Path(folder)


def with_whole_config_path(arguments: Sequence[str]) -> list[str]:
    """Return arguments with ``--config-path`` as from the current folder: Hydra takes it from that of its module."""
    path = _parsed(arguments).config_path
    if path is None or "://" in path:
        return list(arguments)
    spelled = {path: str(Path(path).absolute())}
    spelled |= {f"{option}={path}": f"{option}={spelled[path]}" for option in ("--config-path", "-cp")}
    return [spelled.get(word, word) for word in arguments]


def command_line(*, leaving_out: str = "", adding: str = "") -> str:
    """Return this command as one would type it again, without one key's override, or with an option."""
    kept = [argument for argument in _arguments if not leaving_out or argument.split("=")[0] != leaving_out]
    return shlex.join([*_program_here(), *([adding] if adding else []), *kept])


def other_command(verb: str, arguments: Sequence[str]) -> str | None:
    """Return the command of another verb, such as ``report``, as one types it here; nothing where there is none.

    Beside a script it is the script of that name.
    """
    program, *verbs = _program
    if verbs:
        return shlex.join([*_installed(Path(program)), verb, *arguments])
    script = Path(program).with_name(f"{verb}.py")
    return shlex.join([*python(), str(script), *arguments]) if script.exists() else None


def noted_command() -> str:
    """Return this command for others to read: whichever interpreter runs it here."""
    return shlex.join([*noted_program(), *_arguments])


def noted_program(verb: str | None = None) -> list[str]:
    """Return what calls this command, or another verb in the same way, for others to read."""
    program, *verbs = _program
    if verbs:
        return [Path(program).name, *([verb] if verb else verbs)]
    return ["python", f"{verb}.py" if verb else program]


def _program_here() -> list[str]:
    program, *verbs = _program
    return [*_installed(Path(program)), *verbs] if verbs else [*python(), program]


def is_sweep(arguments: Sequence[str]) -> bool:
    """Whether a command's arguments ask for a sweep."""
    parsed = _parsed(arguments)
    return bool(parsed.multirun) or "hydra.mode=MULTIRUN" in parsed.overrides


def first_cell_shown(arguments: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return arguments that show the config of a sweep's first run, and the overrides that this run has of the swept.

    For Hydra ``-m`` and ``--cfg`` exclude each other. Of any other command, the arguments as they are.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    parsed = _parsed(arguments)
    if parsed.cfg is None or not parsed.multirun:
        return list(arguments), []
    spelled: dict[str, str] = {}
    for word in parsed.overrides:
        try:
            override = OverridesParser.create().parse_override(word)
            if override.is_sweep_override():
                # Of a glob only Hydra knows what it stands for.
                spelled[word] = f"{word.partition('=')[0]}={next(iter(override.sweep_string_iterator()))}"
        except (HydraException, StopIteration):
            continue  # told by who composes it
    kept = [spelled.get(word, word) for word in arguments if word not in ("-m", "--multirun")]
    return kept, list(spelled.values())


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
    return _installed(Path(sys.executable).with_name("wandb"))


def _installed(script: Path) -> list[str]:
    """Return what calls a script that an installed package brought: its name, where the shell finds it by that."""
    found = _on_path(script.name)
    if "UV_RUN_RECURSION_DEPTH" in os.environ:
        words = python()
        return [*words, script.name] if words == ["uv", "run"] else [_short(script)]
    is_this = found is not None and script.exists() and found.samefile(script)
    return [script.name] if is_this else [_short(script)]


def install_command(*packages: str, extra: str | None = None) -> str:
    """Return what installs packages, or an extra of ours, beside what runs here."""
    clone = Path(__file__).parents[3]
    ours = ["-e", f"{_short(clone)}[{extra}]"] if (clone / "pyproject.toml").exists() else [f"rethinkgen[{extra}]"]
    here = _short(Path(sys.executable))
    install = ["uv", "pip", "install", "--python", here] if shutil.which("uv") else [here, "-m", "pip", "install"]
    return shlex.join([*install, *packages, *(ours if extra else [])])


def _on_path(name: str) -> Path | None:
    found = shutil.which(name)
    return Path(found).absolute() if found else None


def _short(path: Path) -> str:
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def _is_experiment(override: str) -> bool:
    return override.startswith("+experiment=")


def _parsed(arguments: Sequence[str]) -> Namespace:
    from hydra._internal.utils import get_args_parser

    return get_args_parser().parse_intermixed_args(list(arguments))
