"""What the command line of a search asks for, and which overrides of ``train.py`` follow from it."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from rethinkgen.label_errors.control import SHARE
from rethinkgen.label_errors.exports import FILES
from rethinkgen.words import how_many

OWN_KEYS = ("runs", "folds", "control", "export")
NOT_HERE = {
    "debug": "of a trial nothing is kept that a search could read. Try it on few: data.num_train=500 max_epochs=2.",
    "rerun": "a search reads what is trained. Name another folder for new trainings: sweep=...",
}
"""Keys of ``train.py`` that a search has no use for, and why."""
ODD = re.compile(r"[^A-Za-z0-9_.-]+")


@dataclass(frozen=True)
class Asked:
    """A command."""

    folder: Path | None
    """The images, a table of them, or finished runs; ``None``: what ``data=`` says"""
    overrides: list[str]
    """Of ``train.py``"""
    runs: int = 1
    folds: int = 0
    control: float = SHARE
    """Share of the labels that are flipped; 0: no control"""
    exports: tuple[str, ...] = ()
    """Tables for other programs, of ``label_errors.exports.FILES``"""

    @classmethod
    def of(cls, arguments: Sequence[str]) -> Asked:
        """Read the command's arguments.

        Raises:
            ValueError: one is none of a folder, a key of ours and a key of ``train.py``, or has no such value.
        """
        own: dict[str, str] = {}
        folders: list[str] = []
        overrides: list[str] = []
        for argument in arguments:
            key, equals, value = argument.partition("=")
            if key in OWN_KEYS and equals:
                own[key] = value
            elif argument.startswith("-"):
                raise ValueError(f"{argument}: there is no such option here. Keys are given as key=value; see --help.")
            elif equals and not os.path.exists(argument):
                overrides.append(argument)
            else:
                folders.append(argument)
        # Of a key that is given twice the last counts, as in train.py.
        overrides = list({item.partition("=")[0]: item for item in overrides}.values())
        for item in overrides:
            if key_of(item) in NOT_HERE and unquoted(item.partition("=")[2]) != "false":
                raise ValueError(f"{item}: {NOT_HERE[key_of(item)]}")
        _refuse_sweeps(overrides)
        asked = cls(
            _folder(folders, overrides),
            overrides,
            runs=_whole("runs", own.get("runs", "1"), 1),
            folds=_whole("folds", own.get("folds", "0"), 0),
            control=_share(own.get("control", str(SHARE))),
            exports=_exports(own.get("export", "")),
        )
        if asked.folds == 1:
            raise ValueError("folds=1: at least 2 are needed, or 0 for none.")
        return asked

    def value(self, key: str) -> str | None:
        """Return what the command says of a key of ``train.py``, without quotes, if it does."""
        return next((unquoted(item.partition("=")[2]) for item in self.overrides if key_of(item) == key), None)

    @property
    def seed(self) -> int:
        """Of the first run; the others follow."""
        return _whole("seed", self.value("seed") or "0", 0)

    @property
    def title(self) -> str:
        """How the user calls the images."""
        return self.folder.name or str(self.folder) if self.folder is not None else str(self.value("data") or "digits")

    @property
    def sweep_folder(self) -> Path:
        """Where the trainings lie, and what is found."""
        # A search on corrected labels writes nowhere near the table that corrects them.
        corrected = "-relabelled" if self.value("data.relabel") else ""
        name = self.value("sweep") or f"label_errors-{ODD.sub('_', self.title)}{corrected}"
        return Path(self.value("results_dir") or "multirun").expanduser() / name

    @property
    def data(self) -> list[str]:
        """What says which images, if ``folder`` does."""
        if self.folder is None:
            return []
        if self.folder.is_dir():
            return ["data=any_images", f"data.root={quoted(str(self.folder))}"]
        own = [f"data.root={quoted(str(self.folder.parent))}", f"data.source.table={quoted(self.folder.name)}"]
        return ["data=any_images", *own]

    def cost(self) -> str:
        """Say what the trainings cost, beforehand."""
        parts = [f"{how_many(self.runs, 'training')} (runs={self.runs})"]
        total = float(self.runs)
        if self.folds:
            total += self.folds - 1
            parts.append(f"{self.folds} on {self.folds - 1}/{self.folds} of the images each (folds={self.folds})")
        if self.control:
            total += 1
            parts.append("one with labels that are made wrong on purpose (control=false leaves it out)")
        return f"Trains {', '.join(parts)}: in all {total:g} times what one takes."


def key_of(override: str) -> str:
    """Return the key of an override."""
    return override.lstrip("+~").partition("=")[0]


def quoted(text: str) -> str:
    """Return a text as Hydra's grammar of overrides reads it, whatever is in it."""
    found = re.sub(r'(\\*)("|\Z)', lambda end: 2 * end[1] + ('\\"' if end[2] else ""), text)
    return f'"{found}"'


def unquoted(text: str) -> str:
    """Return what a quoted value says."""
    return text[1:-1] if len(text) > 1 and text[0] == text[-1] and text[0] in "'\"" else text


def _folder(folders: Sequence[str], overrides: Sequence[str]) -> Path | None:
    if len(folders) > 1:
        raise ValueError(f"{folders[1]}: one folder a command, and {folders[0]} is given already.")
    if not folders:
        if not any(key_of(item) == "data" for item in overrides):
            raise ValueError("which images? Give a folder of them, a CSV file of paths and labels, or data=mnist.")
        return None
    folder = Path(folders[0]).expanduser()
    if not folder.exists():
        raise ValueError(
            f"{folder}: there is no such folder or file. Give a folder of images, a CSV file of paths and labels, the "
            "folder of finished runs, or data=..."
        )
    twice = next((item for item in overrides if key_of(item) in ("data", "data.root", "data.source.table")), None)
    if twice is not None:
        raise ValueError(f"{twice}: {folder} says already which images. Leave one of them out.")
    if folder.is_file() and folder.suffix.lower() != ".csv":
        raise ValueError(f"{folder}: a folder, or a CSV file of paths and labels, is needed.")
    return folder


def _refuse_sweeps(overrides: Sequence[str]) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    for item in overrides:
        try:
            is_sweep = OverridesParser.create().parse_override(item).is_sweep_override()
        except HydraException:
            continue  # who composes it says what is wrong
        if is_sweep:
            more = " Several seeds: runs=3." if key_of(item) == "seed" else ""
            raise ValueError(f"{item}: one value is needed, since a search is about one network on one data set.{more}")


def _whole(key: str, text: str, least: int) -> int:
    if not text.isdecimal() or int(text) < least:
        raise ValueError(f"{key}={text}: a whole number of at least {least} is needed.")
    return int(text)


def _exports(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name.strip() for name in text.strip("[]").split(",") if name.strip()))
    for name in names:
        if name not in FILES:
            raise ValueError(f"export={text}: {' or '.join(FILES)}, or both with a comma, are needed, not {name!r}.")
    return names


def _share(text: str) -> float:
    if text.lower() in ("true", "false", "null"):
        return SHARE if text.lower() == "true" else 0.0
    try:
        share = float(text)
    except ValueError:
        share = -1.0
    if not 0 <= share <= 0.1:
        raise ValueError(f"control={text}: a share of the labels from 0 to 0.1 is needed, or false.")
    return share
