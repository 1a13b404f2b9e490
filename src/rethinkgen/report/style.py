"""How everything looks that is drawn: a colour, a marker and a line for each name, told apart without colour too.

Colours are those of Okabe and Ito (Color Universal Design, 2008) and of Tol (SRON/EPS/TN/09-002), which people with any
colour vision tell apart; in grey, and on paper, marker and line do.
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase
from functools import cache
from typing import Any, Literal, NamedTuple

import yaml

Dashes = Literal["-"] | tuple[int, tuple[float, ...]]

SOLID: Dashes = "-"
DASHED: Dashes = (0, (5, 1.6))
GREY = "#6E6E6E"
"""Of what is no result: chance, axes, notes."""
REPORT = importlib.resources.files("rethinkgen.report")


class Look(NamedTuple):
    """How a line is drawn."""

    colour: str
    marker: str
    dashes: Dashes


class Facts(NamedTuple):
    """How a quantity is shown."""

    label: str
    scale: float = 1.0
    limits: Sequence[float | None] = (None, None)
    is_log: bool = False
    """Where values reach over more than a few times the smallest."""
    counted_to: str = ""
    """Of steps, at what they end."""


@cache
def any_sweep() -> dict[str, Any]:
    """Return what is declared of any sweep: ``palette``, ``looks``, ``facts`` and ``figures``."""
    told: dict[str, Any] = yaml.safe_load((REPORT / "figures" / "any_sweep.yaml").read_text(encoding="utf-8"))
    return told


@cache
def facts(quantity: str) -> Facts:
    """Return how a quantity is shown; one that nothing is known of by its name and no more."""
    what, _, kind = quantity.rpartition("/")
    for pattern, told in any_sweep()["facts"].items():
        if fnmatchcase(quantity, pattern):
            label = told["label"].format(name=quantity, what=what, kind=kind.replace("_", " "))
            return Facts(**{**told, "label": label})
    return Facts(quantity)


PALETTE = tuple(
    Look(colour, marker, (0, tuple(dashes)) if dashes else SOLID) for colour, marker, dashes in any_sweep()["palette"]
)
"""In this order for what has no look of its own."""


@cache
def known_looks() -> dict[str, Look]:
    """Return name of a corruption or model -> its look, the same in every figure; in the order to list them in."""
    return {name: PALETTE[number] for name, number in any_sweep()["looks"].items()}


def looks_of(names: Sequence[str]) -> dict[str, Look]:
    """Give each of a figure's lines its look: its own by its name, and to the others what is left, in their order."""
    known = known_looks()
    looks = {name: known[name] for name in names if name in known}
    left = [look for look in PALETTE if look not in looks.values()] or list(PALETTE)
    others = [name for name in names if name not in looks]
    return looks | {name: left[number % len(left)] for number, name in enumerate(others)}


@contextmanager
def drawing(salt: str = "rethinkgen") -> Iterator[None]:
    """For a while, matplotlib draws in this style, whatever the user's own; ids in an SVG follow from ``salt``."""
    import matplotlib as mpl

    with mpl.rc_context(), importlib.resources.as_file(REPORT / "report.mplstyle") as style:
        mpl.rcdefaults()
        mpl.rc_file(style, use_default_template=False)
        mpl.rcParams["svg.hashsalt"] = salt
        yield
