"""Packages of the user's own, which the command that is issued opens: by ``code=my_package``, or by a variable.

A config names its classes, and a config may have been found: in a run's folder, or among files that somebody sent. So
none of it says which packages may be imported. ``RETHINKGEN_CODE`` is the one place that does; ``code=...`` on the
command line sets it, so that the processes which a command starts (the pool's, DDP's ranks, SLURM's jobs) have it too.
"""

from __future__ import annotations

import importlib
import os
import re
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

VARIABLE = "RETHINKGEN_CODE"
"""Names of packages or modules, with commas between them."""


def opened() -> list[str]:
    """Return the names of the packages that may be imported.

    Raises:
        ValueError: the variable names what cannot be a package of one's own.
    """
    return _checked(VARIABLE, os.environ.get(VARIABLE, "").split(","))


def is_opened(target: str) -> bool:
    """Whether ``target``, such as ``my_package.nets.MyNet``, lies in an opened package."""
    return any(target.startswith(f"{package}.") for package in opened())


@contextmanager
def opening(packages: Sequence[str]) -> Iterator[None]:
    """Open packages for a while, besides what is open already; they are looked for in the current folder, too."""
    before = os.environ.get(VARIABLE)
    if not (names := dict.fromkeys([*opened(), *packages])):
        yield
        return
    os.environ[VARIABLE] = ",".join(names)
    here = os.getcwd()
    is_new = _look_in(here)
    try:
        yield
    finally:
        if is_new:
            sys.path.remove(here)
        if before is None:
            del os.environ[VARIABLE]
        else:
            os.environ[VARIABLE] = before


def _look_in(folder: str) -> bool:
    if folder in sys.path:
        return False
    sys.path.append(folder)  # last: nothing in it may take the place of what is installed
    return True


def check_opened(code: Any) -> None:
    """Refuse a value of the config's ``code`` that came from a file.

    Raises:
        ValueError: the command does not open it.
    """
    if closed := [package for package in _names("code", code) if package not in opened()]:
        raise ValueError(
            f"code={code!r} stands in a config file, which opens nothing. If you trust it: code={closed[0]} on the "
            f"command line, or {VARIABLE}={closed[0]}."
        )


def asked_for(arguments: Sequence[str]) -> list[str]:
    """Return what ``code=...`` says among the arguments of a command line: as for Hydra, the last one counts.

    Raises:
        ValueError: it is no name, or several among which a sweep would choose.
    """
    from hydra.core.override_parser.overrides_parser import OverridesParser

    given = [argument for argument in arguments if re.match(r"\+{0,2}code=", argument)]
    if not given:
        return []
    override = OverridesParser.create().parse_override(given[-1])
    if override.is_sweep_override():
        raise ValueError(f"{given[-1]}: it is open for the whole sweep. Several packages are a list: 'code=[a,b]'.")
    return _names("code", override.value())


def _names(key: str, value: Any) -> list[str]:
    if value is None:
        return []
    return _checked(key, [value] if isinstance(value, str) else value)


def _checked(key: str, names: Any) -> list[str]:
    try:
        packages = [name.strip() for name in names if name.strip()]
    except (AttributeError, TypeError):
        packages = [""]
    for package in packages:
        is_name = all(part.isidentifier() for part in package.split("."))
        if package == "__main__":
            raise ValueError(
                f"{key}={package}: what is typed into a notebook lies in no file that a run could be known by. Write "
                f"it into one, by %%writefile my_code.py in a notebook: {key}=my_code."
            )
        # Python's own are nobody's, and would open a shell.
        if not is_name or package.split(".")[0] in {*sys.stdlib_module_names, "rethinkgen"}:
            raise ValueError(
                f"{key}={package or names!r}: the name of a package or module of your own is needed, such as "
                f"{key}=my_package for my_package/ or my_package.py."
            )
    return packages


def import_opened(module: str) -> ModuleType:
    """Import a module of an opened package, from the current folder where it is not installed.

    Raises:
        ValueError: it cannot be imported; names the file and line that are to blame.
    """
    assert is_opened(f"{module}.")
    _look_in(os.getcwd())
    try:
        return importlib.import_module(module)
    except Exception as error:
        raise ValueError(_what_failed(module, error)) from error


def _what_failed(module: str, error: Exception) -> str:
    if isinstance(error, ModuleNotFoundError) and f"{module}.".startswith(f"{error.name}."):
        return f"there is no {error.name}, neither installed nor in {os.getcwd()}."
    if isinstance(error, SyntaxError):
        return f"{error.filename}, line {error.lineno}: {type(error).__name__}: {error.msg}"
    machinery = (__file__, importlib.__file__)
    frames = [
        frame
        for frame in traceback.extract_tb(error.__traceback__)
        if frame.filename not in machinery and not frame.filename.startswith("<frozen ")
    ]
    where = f"{frames[-1].filename}, line {frames[-1].lineno}: " if frames else ""
    return f"{where}{type(error).__name__}: {error}"


def suggestion(target: str) -> str:
    """Return how a command opens the package of ``target``, if one of that name lies in the current folder."""
    package = target.split(".")[0]
    is_here = package.isidentifier() and (Path(package).is_dir() or Path(f"{package}.py").is_file())
    return f"code={package if is_here else 'my_package'}"
