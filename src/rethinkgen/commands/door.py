"""What ``rethinkgen`` does with its first word, the verb: a module does all else. Light, as a verb imports its own."""

from __future__ import annotations

import difflib
import importlib
import os
import re
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

COMPLETION = ("-sc", "--shell-completion")
"""Hydra's options by which a shell asks what a word may become."""


@dataclass(frozen=True)
class Verb:
    """What a verb does."""

    module: str
    """Has ``main(arguments, program)``, which returns an exit code or nothing."""
    summary: str
    takes_overrides: bool = False
    """Whether it is Hydra's to complete what is typed; else they are names of files."""


VERBS = {
    "train": Verb(
        "rethinkgen.commands.train", "train one network, or with -m every combination of choices", takes_overrides=True
    ),
    "measure": Verb(
        "rethinkgen.commands.measure",
        "look into finished runs: measures of their networks, at any step",
        takes_overrides=True,
    ),
    "report": Verb("rethinkgen.commands.report", "set runs beside the published numbers: tables, figures, one page"),
    "find-label-errors": Verb(
        "rethinkgen.commands.find_label_errors", "a page of the images of a folder that are most likely mislabelled"
    ),
}


def main() -> int | None:
    """Hand ``sys.argv`` to the module of its verb; return the exit code."""
    called, *arguments = sys.argv
    name = Path(called).name
    if arguments[:1] and arguments[0] in COMPLETION:
        return _complete(called, arguments)
    if not arguments or arguments[0] in ("-h", "--help", "help"):
        print(_help(name))
        return 0
    if arguments[0] in ("-V", "--version"):
        from importlib.metadata import version

        print(f"rethinkgen {version('rethinkgen')}")
        return 0
    if arguments[0] not in VERBS:
        from rethinkgen.console import say_error, take_any_encoding
        from rethinkgen.errors import USERS_MISTAKE

        take_any_encoding()
        say_error(_no_verb(name, arguments[0]))
        return USERS_MISTAKE
    return _run(called, *arguments)


def _run(called: str, verb: str, *arguments: str) -> int | None:
    sys.argv = [called, *arguments]
    code: int | None = importlib.import_module(VERBS[verb].module).main(arguments, program=[called, verb])
    return code


def _help(name: str) -> str:
    verbs = "\n".join(f"  {name} {verb:<17}  {each.summary}" for verb, each in VERBS.items())
    return f"{verbs}\n\nEach says more: {name} VERB --help. The version: {name} --version."


def _no_verb(name: str, word: str) -> str:
    if "=" in word or word.startswith("-"):
        meant = f" The verb comes first: {name} train {word}."
    else:
        close = difflib.get_close_matches(word, VERBS, n=1)
        meant = f" Did you mean {name} {close[0]}?" if close else ""
    return f"{name} {word}: there is no such verb.{meant} There are {', '.join(VERBS)}."


def _complete(called: str, arguments: Sequence[str]) -> int | None:
    """Answer a shell, which asks ``rethinkgen`` without its verb: that stands in the line that is typed."""
    typed = re.match(r"\s*\S+\s+(\S+)\s", os.environ.get("COMP_LINE", ""))
    if not arguments[-1].startswith("query="):
        verb = "train"  # Hydra's script is the same for all
    elif typed is None:
        print("\n".join(VERBS) if arguments[-1].endswith("=fish") else " ".join(VERBS))
        return 0
    else:
        verb = typed[1]
    if verb not in VERBS or not VERBS[verb].takes_overrides:
        return 0  # the shell offers names of files
    if typed is not None:
        line = os.environ["COMP_LINE"]
        os.environ["COMP_LINE"] = line[: typed.start(1)] + line[typed.end() :]
    return _run(called, verb, *arguments)
