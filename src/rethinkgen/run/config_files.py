"""Which config file of one's own is at fault, where Hydra and OmegaConf do not say it, or not in a line."""

from __future__ import annotations

import re
from pathlib import Path

import yaml
from yaml.error import MarkedYAMLError, YAMLError


def words_on_a_file(error: BaseException, folder: Path | None) -> str | None:
    """Return what to say of a file that is no config, or leaves out what it must give; ``None``: it is something else.

    ``folder`` is the one of ``--config-dir``. Ours are taken to be right.
    """
    if isinstance(error, MarkedYAMLError):
        return _not_yaml(error)
    if missing := re.search(r"Missing mandatory value: ([\w.]+)", str(error)):
        return f"{missing[1]} must be given, in the chosen file or on the command line: {missing[1]}=..."
    is_of_a_file = isinstance(error, UnicodeDecodeError | YAMLError) or "incompatible container types" in str(error)
    if folder is not None and is_of_a_file:
        return next(filter(None, map(_fault, sorted(folder.rglob("*.yaml")))), None)
    return None


def _not_yaml(error: MarkedYAMLError) -> str:
    mark = error.problem_mark
    where = "" if mark is None else f"{mark.name}, line {mark.line + 1}, column {mark.column + 1}: "
    return f"{where}this is no YAML: {error.problem}."


def _fault(path: Path) -> str | None:
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError as error:
        return f"{path}: no UTF-8 from byte {error.start} on. Save it as UTF-8."
    except MarkedYAMLError as error:
        return _not_yaml(error)
    except YAMLError as error:
        return f"{path}: this is no YAML: {error}"
    if content is None or isinstance(content, dict):
        return None
    return f"{path}: keys with values are needed, such as lr: 0.1. It holds a {type(content).__name__}."
