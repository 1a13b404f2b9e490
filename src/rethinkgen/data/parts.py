"""Which parts of a source are trained on: its train part, its test part, or both, one after the other.

Nothing here imports torch: a finished run is skipped without it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import Any, TypeVar

import numpy as np

TRAIN, BOTH, TEST = ("train",), ("train", "test"), ("test",)
KEY = "data.source.parts"

Part = TypeVar("Part")


def check_parts(parts: Any) -> tuple[str, ...]:
    """Return the parts that are trained on, or raise ``ValueError``."""
    listed = parts if isinstance(parts, Sequence) and not isinstance(parts, str) else [parts]
    found = tuple(listed)
    if isinstance(parts, str) or found not in (TRAIN, BOTH, TEST):
        shown = f"[{','.join(map(str, parts))}]" if listed is parts else repr(parts)
        raise ValueError(
            f"{KEY}={shown}: [train], [train,test] (both are trained on, in this order) or [test] is needed, a list."
        )
    return found


def joined(one: Part, other: Part) -> Part:
    """Return two parts, dataclasses of arrays ``(N, ...)``, as one: first the examples of the one, then the other's."""
    both = ([getattr(part, field.name) for part in (one, other)] for field in fields(one))  # type: ignore[arg-type]
    return type(one)(*map(np.concatenate, both))


def of_parts(
    train: Part, test: Part | None, parts: Sequence[str], join: Callable[[Part, Part], Part]
) -> tuple[Part, Part | None]:
    """Return what is trained on and what is tested on: nothing, where the test part is trained on.

    Raises:
        ValueError: the test part is to be trained on, and there is none.
    """
    if tuple(parts) == TRAIN:
        return train, test
    if test is None:
        raise ValueError(f"{KEY}=[{','.join(parts)}]: these data have no test part. [train] is needed.")
    return (join(train, test) if tuple(parts) == BOTH else test), None
