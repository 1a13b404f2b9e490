"""What is declared in YAML, checked first of all: file, key and value are named, and what is allowed."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator

from rethinkgen.words import meant

WANTED = {
    "string": "a text",
    "bool": "true or false",
    "float": "a number",
    "int": "a whole number",
    "list": "a list",
    "dict": "key: value pairs",
    "too": "a list of another length",
}
"""Beginning of pydantic's name for a fault -> what there should be."""


class Checked(BaseModel):
    """A part of a file, in which nothing is taken for what it is not: no text for a number, no unknown key."""

    model_config = ConfigDict(frozen=True, strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _has_known_keys(cls, node: Any) -> Any:
        """Name a mistyped key first: it is one that there is not, before it is one that is missing."""
        known = [field.alias or name for name, field in cls.model_fields.items()]
        if unknown := [str(key) for key in (node if isinstance(node, dict) else ()) if key not in known]:
            raise ValueError(f"{unknown[0]}: no such key; allowed are {', '.join(known)}.{meant(unknown[0], known)}")
        return node

    def __hash__(self) -> int:
        """Tell a declaration apart as a thing: what it holds may have no hash."""
        return id(self)


Part = TypeVar("Part", bound=Checked)
Selector = dict[str, Any] | list[dict[str, Any]]
"""Which runs: key -> value, a list of values or a bound; of several, any."""


def checked(kind: type[Part], node: Any, where: str, context: Any = None) -> Part:
    """Return a part of a file as it was declared.

    Raises:
        ValueError: it is not as it has to be; the message names ``where``, key, value, and what is allowed.
    """
    if not isinstance(node, dict):
        raise ValueError(f"{where}: {node!r}: key: value pairs are needed, such as {{x: level, y: test/accuracy}}.")
    try:
        return kind.model_validate(node, context=context)
    except ValidationError as error:
        raise ValueError(f"{where}: {_told(node, error.errors())}") from error


def _told(node: Any, faults: Sequence[Any]) -> str:
    """Say what is wrong first; where one of several types would do, all of them."""
    path: list[str] = []
    first, value = faults[0], node
    for part in first["loc"]:
        # Else it is pydantic's name of one of several types.
        if isinstance(value, dict) and part in value:
            path, value = [*path, str(part)], value[part]
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            value = value[part]
    if first["loc"][-1:] == ("[key]",):
        path, value = path[:-1], first["input"]
    kind, details, place = first["type"], first.get("ctx", {}), ": ".join(path)
    discriminator = details.get("discriminator", "")[1:-1]
    absent = {"missing": "".join(map(str, first["loc"][-1:])), "union_tag_not_found": discriminator}
    if kind in absent:
        return f"{': '.join([*path, absent[kind]])}: is missing."
    if kind == "value_error":
        return ": ".join([*path, str(details["error"])])
    if kind in ("literal_error", "union_tag_invalid"):
        options = re.findall(r"'([^']*)'", details.get("expected") or details["expected_tags"])
        told = details.get("tag", value)
        named = f"{place}: {discriminator}" if discriminator else place
        return f"{named}={told!r}: one of {', '.join(map(repr, options))} is needed.{meant(told, options)}"
    types = [fault["type"].partition("_")[0] for fault in faults if fault["loc"][:1] == first["loc"][:1]]
    wanted = " or ".join(dict.fromkeys(WANTED[name] for name in types if name in WANTED))
    needed = f"{wanted} {'are' if wanted.endswith('pairs') else 'is'} needed"
    return f"{place}={value!r}: {needed if wanted else first['msg']}."


def several(told: Any) -> list[Any]:
    """Return a list of what may stand for a list of one, or of none."""
    return told if isinstance(told, list) else [] if told is None else [told]
