"""Which keys the value of an interpolation depends on, found from its text.

So of a config that differs from another one in a few values, only what follows from these is resolved anew.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

KEY = r"[A-Za-z_][\w-]*(?:\.[A-Za-z_][\w-]*)*"
REFERENCE = re.compile(rf"\$\{{(?P<dots>\.*)(?P<key>{KEY})\}}")
SELECTION = re.compile(rf"\$\{{oc\.select:(?P<key>{KEY})(?=[,}}])")
RESOLVER = re.compile(r"\$\{(?P<name>[A-Za-z_][\w.]*):")
READS: dict[str, tuple[str, ...]] = {
    "oc.env": (),
    "for_data": ("data.name",),
    "unless": (),
    "sweep_name": (),
    "sweep_folder": ("results_dir", "sweep"),
    "slurm_gpus_per_node": ("trainer",),
    "slurm_tasks_per_node": ("trainer",),
}
"""Resolver -> the keys that it reads besides its arguments. ``sweep_name`` reads choices of groups alone. Of any other
resolver that is not known: it may be given the whole config."""
OF_HYDRA = ("hydra.sweep.dir", "hydra.launcher.", "hydra.runtime.choices.", "hydra.runtime.cwd")
"""Keys of Hydra's node that say the same in all jobs of one composition but for what they refer to."""

Place = tuple[str | int, ...]


class References:
    """The interpolations of a config.

    Args:
        tree: the config as plain types, each interpolation as its text.
    """

    def __init__(self, tree: dict[str, Any]) -> None:
        self.tree = tree

    def below(self, node: Any, place: Place = ()) -> Iterator[tuple[Place, str]]:
        """Yield place and text of each interpolation in ``node``, which stands at ``place``."""
        if isinstance(node, dict):
            for key, value in node.items():
                yield from self.below(value, (*place, key))
        elif isinstance(node, list):
            for index, value in enumerate(node):
                yield from self.below(value, (*place, index))
        elif isinstance(node, str) and "${" in node:
            yield place, node

    def read_by(self, place: Place, text: str, seen: frozenset[Place] = frozenset()) -> set[str] | None:
        """Return all keys that the text at a place reads, those behind other interpolations too; ``None``: unknown."""
        keys = _named(place, text)
        if keys is None:
            return None
        found = set(keys)
        for key in keys:
            if key.startswith("hydra.") and not key.startswith(OF_HYDRA):
                return None
            is_known, node = self._find(key)
            if not is_known:
                return None
            for inner, inner_text in self.below(node, tuple(key.split("."))):
                if inner in seen:
                    continue  # OmegaConf has its own word on circles
                read = self.read_by(inner, inner_text, seen | {inner})
                if read is None:
                    return None
                found |= read
        return found

    def source_of(self, place: Place, text: str) -> str | None:
        """Return the key whose very value the text stands for, through any number of ``${key}``; else nothing."""
        for _ in range(100):  # a circle
            match = REFERENCE.fullmatch(text)
            keys = _named(place, text) if match else None
            if not keys:
                return None
            is_known, node = self._find(keys[0])
            if not is_known or isinstance(node, dict | list):
                return None
            if not (isinstance(node, str) and "${" in node):
                return keys[0]
            place, text = tuple(keys[0].split(".")), node
        return None

    def _find(self, key: str) -> tuple[bool, Any]:
        """Return whether the text tells what stands at a key, and that: ``None`` also where nothing does."""
        node: Any = self.tree
        for part in key.split("."):
            if not isinstance(node, dict):
                return node is None, None  # behind another interpolation, or in a list
            node = node.get(part)
        return True, node


def touches(read: set[str] | None, key: str) -> bool:
    """Whether what was read may be another thing where ``key`` has another value."""
    return read is None or any(key == each or key.startswith(f"{each}.") for each in read)


def _named(place: Place, text: str) -> list[str] | None:
    """Return the keys that a text names itself; ``None`` where it may read others."""
    keys = []
    references = list(REFERENCE.finditer(text))
    for match in references:
        dots = len(match["dots"])
        base = place[: len(place) - dots] if dots else ()
        if dots > len(place) or not all(isinstance(part, str) for part in base):
            return None
        keys.append(".".join([*map(str, base), match["key"]]))
    selections = list(SELECTION.finditer(text))
    keys += [match["key"] for match in selections]
    names = [match["name"] for match in RESOLVER.finditer(text)]
    if len(references) + len(names) != text.count("${"):
        return None  # a key that is put together, or in brackets
    others = [name for name in names if name != "oc.select"]
    if len(names) - len(others) != len(selections) or not READS.keys() >= set(others):
        return None
    return keys + [key for name in others for key in READS[name]]
