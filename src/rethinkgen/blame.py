"""Code of the user's own: what went wrong in it, in which file and line, and what its place wants of it."""

from __future__ import annotations

import inspect
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

NOT_OWN = ("rethinkgen", "torch", "torchvision", "pytorch_lightning", "lightning_fabric", "numpy")


def is_own(thing: Any) -> bool:
    """Whether a class or function, or the class of an object, is of none of the packages that we know."""
    return _package(_definition(thing)) not in NOT_OWN


def source_of(thing: Any) -> str:
    """Return ``name (file, line n)`` of a class, a function, or the class of an object."""
    found = _definition(thing)
    name = getattr(found, "__qualname__", repr(found))
    try:
        return f"{name} ({inspect.getsourcefile(found)}, line {inspect.getsourcelines(found)[1]})"
    except (OSError, TypeError):  # typed into a notebook, or of a compiled module
        return name


@contextmanager
def blamed(thing: Any, key: str, wants: str) -> Iterator[None]:
    """Where ``thing`` of the user's own fails within, say where, and that the place ``key`` ``wants`` this of it.

    A ``ValueError`` that it raises, or that we raise about what it does, says what is wrong already.

    Raises:
        ValueError: it failed.
    """
    try:
        yield
    except Exception as error:
        frames = list(traceback.walk_tb(error.__traceback__))
        packages = [str(frame.f_globals.get("__name__", "")).partition(".")[0] for frame, _ in frames]
        own = _package(_definition(thing))
        is_told = isinstance(error, ValueError) and packages[-1] in (own, "rethinkgen")
        # Without a frame of its own it can only be that it cannot be called as its place does.
        is_its = own in packages or isinstance(error, TypeError | AttributeError)
        if not is_own(thing) or is_told or not is_its:
            raise
        where = source_of(thing)
        if own in packages:
            frame, line = frames[len(packages) - 1 - packages[::-1].index(own)]
            where = f"{frame.f_code.co_filename}, line {line}"
        raise ValueError(f"{key}: {where}: {type(error).__name__}: {error}\n{key} wants {wants}.") from error


def _definition(thing: Any) -> Any:
    thing = getattr(thing, "func", thing)  # of a partial
    return thing if inspect.isclass(thing) or inspect.isroutine(thing) else type(thing)


def _package(definition: Any) -> str:
    return str(getattr(definition, "__module__", "")).partition(".")[0]
