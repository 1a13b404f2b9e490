"""How everything looks that is drawn: a colour, a marker and a line for each name, told apart without colour too.

Colours are those of Okabe and Ito (Color Universal Design, 2008) and of Tol (SRON/EPS/TN/09-002), which people with any
colour vision tell apart; in grey, and on paper, marker and line do.
"""

from __future__ import annotations

import importlib.resources
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any, Literal, NamedTuple

import yaml

Dashes = Literal["-"] | tuple[int, tuple[float, ...]]

SOLID: Dashes = "-"
DASHED: Dashes = (0, (5, 1.6))
DOTTED: Dashes = (0, (1.2, 1.4))
DASH_DOT: Dashes = (0, (6, 1.6, 1.2, 1.6))
LONG: Dashes = (0, (9, 2))
DASH_DOT_DOT: Dashes = (0, (6, 1.4, 1.2, 1.4, 1.2, 1.4))

BLUE, VERMILLION, GREEN, PURPLE = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
ORANGE, SKY, BLACK, WINE, OLIVE, TEAL = "#E69F00", "#56B4E9", "#000000", "#882255", "#808000", "#117766"
GREY = "#6E6E6E"
"""Of what is no result: chance, axes, notes."""


class Look(NamedTuple):
    """How a line is drawn."""

    colour: str
    marker: str
    dashes: Dashes


PALETTE = (
    Look(BLUE, "o", SOLID),
    Look(VERMILLION, "s", DASHED),
    Look(GREEN, "^", DASH_DOT),
    Look(PURPLE, "v", LONG),
    Look(BLACK, "D", DOTTED),
    Look(ORANGE, "P", DASH_DOT_DOT),
    Look(SKY, "X", SOLID),
    Look(WINE, "<", DASHED),
    Look(OLIVE, ">", DASH_DOT),
    Look(TEAL, "h", LONG),
)
"""In this order for what has no look of its own."""


@cache
def known_looks() -> dict[str, Look]:
    """Return name of a corruption or model -> its look, the same in every figure; in the order to list them in."""
    file = importlib.resources.files("rethinkgen.report") / "figures" / "any_sweep.yaml"
    numbers: dict[str, int] = yaml.safe_load(file.read_text(encoding="utf-8"))["looks"]
    return {name: PALETTE[number] for name, number in numbers.items()}


def looks_of(names: Sequence[str]) -> dict[str, Look]:
    """Give each of a figure's lines its look: its own by its name, and to the others what is left, in their order."""
    known = known_looks()
    looks = {name: known[name] for name in names if name in known}
    left = [look for look in PALETTE if look not in looks.values()] or list(PALETTE)
    others = [name for name in names if name not in looks]
    return looks | {name: left[number % len(left)] for number, name in enumerate(others)}


FONT_SIZE = 8.5

RC_PARAMS: Mapping[str, Any] = {
    "font.family": "sans-serif",
    "font.size": FONT_SIZE,
    "axes.titlesize": FONT_SIZE + 0.5,
    "axes.labelsize": FONT_SIZE,
    "xtick.labelsize": FONT_SIZE - 0.5,
    "ytick.labelsize": FONT_SIZE - 0.5,
    "legend.fontsize": FONT_SIZE - 0.5,
    "legend.frameon": False,
    "legend.handlelength": 2.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.7,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#E6E6E6",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.4,
    "lines.markersize": 4.5,
    "figure.facecolor": "white",
    "savefig.facecolor": "white",
    # Whoever calls a network a$b$c means no formula.
    "text.parse_math": False,
    # Text stays text: searchable, and in the reader's font where ours is missing.
    "svg.fonttype": "none",
    # TrueType, embedded: journals refuse Type 3.
    "pdf.fonttype": 42,
}


@contextmanager
def drawing(salt: str = "rethinkgen") -> Iterator[None]:
    """For a while, matplotlib draws in this style, whatever the user's own; ids in an SVG follow from ``salt``."""
    import matplotlib as mpl

    with mpl.rc_context():
        mpl.rcdefaults()
        for key, value in {**RC_PARAMS, "svg.hashsalt": salt}.items():
            mpl.rcParams[key] = value  # type: ignore[index]
        yield
