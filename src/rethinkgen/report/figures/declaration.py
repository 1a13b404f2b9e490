"""A figure as it is declared: what stands in ``published/<paper>.yaml``, in a user's file or on the command line.

What can be said is one dataclass; docs/figures.md shows it with examples. All is checked before anything is drawn.
"""

from __future__ import annotations

import importlib
import importlib.resources
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from rethinkgen.received import MOST_BYTES_OF_TABLE, read_bytes
from rethinkgen.report.claim_files import Paper, load_papers
from rethinkgen.report.declared import check_choice, check_keys, meant
from rethinkgen.report.quantities import QUANTITY_KEYS, TOLD, is_measured, known_quantities, value_of
from rethinkgen.run import own_code
from rethinkgen.run.identity import SEEDS
from rethinkgen.run.run import Run

NEEDED = {
    "lines": ("x", "y"),
    "curves": ("y",),
    "scatter": ("x", "y"),
    "histogram": ("x",),
    "heatmap": ("x", "y", "value"),
    "pictures": ("y",),
}
"""Kind of figure -> keys without which it cannot be drawn."""
MARKS = ("chance", "unfitted")
SPREADS = ("seed", "none", "median")
OURS = "rethinkgen.report.figures.chosen"
"""Where functions are found that a declaration of ours names."""
MOST_LINES = 8
"""In a panel: more cannot be told apart."""

TEXTS = ("title", "kind", "of", "x", "value", "series", "shape", "pick", "spread", "best", "published", "panel_title")
LISTS = ("marks", "log", "merge")
PAIRS = ("needs", "relative_to", "instead", "limits", "labels")

Where = Mapping[str, Any] | Sequence[Mapping[str, Any]]


@dataclass(frozen=True)
class Figure:
    """What a figure shows; every key may be given anew for a panel of it."""

    name: str
    title: str = ""
    kind: str = "lines"
    of: str = "runs"
    """``runs``, or a measure's table by its name."""
    x: str | None = None
    y: Any = None
    """A quantity; a list of them: a panel each; a list in that list: several in one panel."""
    value: str | None = None
    """What the colours of a heat map are, what stands under a picture; for a marker a run, only in the CSV."""
    series: str | None = None
    """What lines are told apart by first; without it, whatever differs."""
    shape: str | None = None
    """What markers of a scatter plot are told apart by."""
    rows: Any = None
    """A key, ``[key, key where one row would be too full]``, or a list of what each row has instead."""
    panels: Any = None
    """A key, ``settings`` (of all but the series), or a list of what each panel has instead."""
    where: Where = field(default_factory=dict)
    """Which runs: as in a claim, a key and its value or values, ``*`` for any text; of a list, any."""
    without: Where = field(default_factory=list)
    besides: Where = field(default_factory=list)
    """Runs that stand in an earlier panel, and need not stand here again; nor is there a panel of these alone."""
    needs: Mapping[str, Any] = field(default_factory=dict)
    """Key -> how many values, or which, there must be in each line (kind lines) or panel."""
    pick: str = ""
    """A function that picks one of the settings."""
    merge: tuple[str, ...] = ()
    """Keys that make no difference to what is shown, where training ends with its budget."""
    relative_to: Mapping[str, Any] | None = None
    """The x whose value, of the same seed, is 1."""
    instead: Mapping[str, str] = field(default_factory=dict)
    """Quantity -> what is shown where it was hardly ever reached, or not logged."""
    spread: str = "seed"
    """``seed``: mean and interval over seeds; ``none``: a marker a run; ``median``: that, and a line of medians."""
    best: str = ""
    """A quantity of which the best value so far is shown, too, dashed."""
    marks: tuple[str, ...] = ()
    published: str = ""
    """Ids of claims, with ``*``, whose published numbers are shown beside ours."""
    log: tuple[str, ...] = ()
    limits: Mapping[str, Sequence[float | None]] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)
    """Quantity -> what it is called here."""
    panel_title: str = ""
    caption: str = ""
    """``{log_every}``: that quantity of what is drawn."""
    leads: bool = False
    """Whether it is among the pictures that a page begins with."""

    def but(self, **changes: Any) -> Figure:
        """Return the figure with what a panel of it has instead."""
        return replace(self, **changes)

    def columns(self) -> list[list[str]]:
        """Return the quantities of each panel along y."""
        several: list[Any] = self.y if isinstance(self.y, list) else [self.x if self.y is None else self.y]
        return [each if isinstance(each, list) else [each] for each in several]


KEYS = tuple(entry.name for entry in fields(Figure) if entry.name != "name")


def read_figure(name: str, node: Any, where: str, *, may_guess: bool = False) -> Figure:
    """Return a declaration, checked; ``may_guess``: what it does not say can be found out from the runs.

    Raises:
        ValueError: an unknown key, kind, quantity or function, or what its kind needs is missing.
    """
    figure = _checked(Figure(name), node, where)
    for part in (*_overrides(figure, "rows", where), *_overrides(figure, "panels", where)) or (figure,):
        missing = [key for key in NEEDED[part.kind] if getattr(part, key) is None]
        if missing and not (may_guess and part.kind in ("lines", "curves") and part.of == "runs"):
            raise ValueError(
                f"{where}: {missing[0]}: is missing; kind={part.kind} needs {', '.join(NEEDED[part.kind])}."
            )
    return figure if figure.title else figure.but(title=name.replace("_", " "))


def _overrides(figure: Figure, key: str, where: str) -> list[Figure]:
    told = getattr(figure, key)
    if not isinstance(told, list) or all(isinstance(part, str) for part in told):
        return []
    return [_checked(figure.but(**{key: None}), part, f"{where}: {key}") for part in told]


def _checked(figure: Figure, node: Any, where: str) -> Figure:
    check_keys(where, node, (), KEYS)
    for key, value in node.items():
        _check_type(where, key, value)
    told = {
        key: ((value,) if isinstance(value, str) else tuple(value)) if key in LISTS else value
        for key, value in node.items()
    }
    found = figure.but(**told)
    check_choice(where, "kind", found.kind, NEEDED)
    check_choice(where, "spread", found.spread, SPREADS)
    for mark in found.marks:
        check_choice(where, "marks", mark, MARKS)
    for axis in found.log:
        check_choice(where, "log", axis, ("x", "y"))
    for axis in found.limits:
        check_choice(where, "limits", axis, ("x", "y"))
    if found.relative_to is not None and found.x is not None and list(found.relative_to) != [found.x]:
        raise ValueError(f"{where}: relative_to={found.relative_to}: {{{found.x}: VALUE}} is needed, a value of x.")
    if found.pick:
        function(found.pick, where)
    return found


def _check_type(where: str, key: str, value: Any) -> None:
    """Refuse what would only fail when it is drawn."""
    if value is None and key in ("x", "y", "value", "series", "shape", "rows", "panels", "relative_to"):
        return
    if key in (*TEXTS, "caption"):
        # A kind or spread of another type is refused with what there is.
        if not isinstance(value, str) and key not in ("kind", "spread"):
            raise ValueError(f"{where}: {key}={value!r}: a text is needed.")
    elif key in LISTS:
        if not isinstance(value, str | list):
            raise ValueError(f"{where}: {key}={value!r}: a list is needed.")
    elif key in PAIRS:
        if not isinstance(value, Mapping):
            raise ValueError(f"{where}: {key}={value!r}: key: value pairs are needed.")
        _check_pairs(where, key, value)
    elif key in ("where", "without", "besides"):
        if not all(isinstance(part, Mapping) for part in (value if isinstance(value, list) else [value])):
            raise ValueError(f"{where}: {key}={value!r}: key: value pairs are needed, or a list of such.")
    elif key in ("rows", "panels"):
        if not isinstance(value, str | list):
            raise ValueError(f"{where}: {key}={value!r}: a key, or a list is needed.")
    elif key == "y":
        if not isinstance(value, str | list) or value == []:
            raise ValueError(f"{where}: y={value!r}: a quantity, or a list of such is needed.")
    elif key == "leads" and not isinstance(value, bool):
        raise ValueError(f"{where}: leads={value!r}: true or false is needed.")


def _check_pairs(where: str, key: str, pairs: Mapping[Any, Any]) -> None:
    for name, told in pairs.items():
        if key in ("instead", "labels") and not isinstance(told, str):
            raise ValueError(f"{where}: {key}: {name}={told!r}: a text is needed.")
        ends = told if isinstance(told, list) else []
        is_ends = len(ends) == 2 and all(
            end is None or (isinstance(end, int | float) and not isinstance(end, bool)) for end in ends
        )
        if key == "limits" and not is_ends:
            raise ValueError(f"{where}: limits: {name}={told!r}: [low, high] is needed, a number or null each.")


def check_quantities(figure: Figure, runs: Sequence[Run], where: str) -> None:
    """Refuse what none of the runs has, and what cannot be drawn of it.

    Raises:
        ValueError: a key, choice or number is named that no run has; the message says what there is. Or names stand
            where numbers are needed, or runs of one setting would have to stand apart.
    """
    if figure.of != "runs":
        raise ValueError(f"{where}: of={figure.of}: only runs can be drawn here; a measure's table from Python.")
    known = known_quantities(runs)
    for part in (figure, *_overrides(figure, "rows", where), *_overrides(figure, "panels", where)):
        named = [("x", part.x), ("value", part.value), ("series", part.series), ("shape", part.shape)]
        named += [("y", name) for column in part.columns() for name in column]
        named += [
            (key, name) for key in ("rows", "panels") for name in _texts(getattr(part, key)) if name != "settings"
        ]
        named += [("instead", name) for name in part.instead.values()]
        named += [("best", name) for name in (part.best,) if name]
        selectors = [(key, getattr(part, key)) for key in ("where", "without", "besides", "needs")]
        named += [(key, name) for key, told in selectors for name in _names_in(told) if name not in TOLD]
        for key, name in named:
            if name is not None and name not in known:
                told = [one for one in known if "." not in one or "/" in one]
                raise ValueError(
                    f"{where}: {key}={name}: no run has it.{meant(name, known)} There are the keys of their config, "
                    f"such as model.width, and {', '.join(told)}."
                )
            if key in ("rows", "panels") or (key == "series" and part.kind in ("lines", "curves")):
                _check_tells_settings(str(name), f"{where}: {key}")
        y = [name for key, name in named if key == "y" and part.y is not None]
        numbers = {"histogram": [part.x], "heatmap": [part.value]}.get(part.kind, y)
        for name in numbers:
            if name is not None and any(isinstance(value_of(run, name), str) for run in runs):
                raise ValueError(f"{where}: {name}: has names as values; a number is needed there (kind={part.kind}).")


def _names_in(where: Where) -> list[str]:
    return [str(name) for part in ([where] if isinstance(where, Mapping) else where) for name in part]


def _check_tells_settings(name: str, where: str) -> None:
    """Refuse what differs between runs of one setting, which are one line."""
    if name in SEEDS or (name not in QUANTITY_KEYS and is_measured(name)):
        raise ValueError(
            f"{where}={name}: runs that differ in their seeds alone are one line; a choice or key of the config is "
            "needed. For each run by itself: kind: scatter."
        )


def _texts(told: Any) -> list[str]:
    return [told] if isinstance(told, str) else [part for part in told or () if isinstance(part, str)]


def function(name: str, where: str = "") -> Callable[..., Any]:
    """Return the function that a declaration names: one of ours, or of a package that the command itself opened.

    Raises:
        ValueError: there is none of that name, or its package is not open.
    """
    module, _, last = name.rpartition(".")
    if module and not own_code.is_opened(name):
        raise ValueError(f"{where}: {name}: its package is not open: {own_code.suggestion(name)} on the command line.")
    found = getattr(own_code.import_opened(module) if module else importlib.import_module(OURS), last, None)
    if not callable(found) or last.startswith("_") or not (module or found.__module__ == OURS):
        raise ValueError(f"{where}: {name}: there is no such function{'' if module else f' in {OURS}'}.")
    return found  # type: ignore[no-any-return]


def packaged() -> tuple[Figure, ...]:
    """Return the figures of the papers, then those of any sweep.

    Raises:
        ValueError: see ``read_figure``.
    """
    return _figures_of(load_papers())


@cache
def _figures_of(papers: tuple[Paper, ...]) -> tuple[Figure, ...]:
    any_sweep = importlib.resources.files("rethinkgen.report") / "figures" / "any_sweep.yaml"
    declared = [(paper.name, paper.figures) for paper in papers]
    declared += [("any_sweep", yaml.safe_load(any_sweep.read_text(encoding="utf-8"))["figures"])]
    return tuple(
        read_figure(name, node, f"{paper}, figure {name}")
        for paper, figures in declared
        for name, node in figures.items()
    )


def declared_in(argument: str) -> list[Figure]:
    """Return the figures that ``figure=...`` says: ``{x: ..., y: ...}``, or a YAML file that has ``figures``.

    Raises:
        ValueError: it is neither, or says what no figure has.
    """
    where = f"figure={argument}"
    if argument.endswith((".yaml", ".yml")):
        content = read_bytes(Path(argument), MOST_BYTES_OF_TABLE)
        if content is None:
            raise ValueError(f"{where}: there is no such file.")
        told = _loaded(content.decode("utf-8", errors="replace"), where)
        if not isinstance(told, Mapping) or not isinstance(told.get("figures"), Mapping):
            raise ValueError(f"{where}: figures: is missing: a name for each figure, and what it shows.")
        return [_asked_for(str(name), node, f"{where}, {name}") for name, node in told["figures"].items()]
    return [_asked_for("own_figure", _loaded(argument, where), where)]


def _asked_for(name: str, node: Any, where: str) -> Figure:
    figure = read_figure(name, node, where, may_guess=True)
    return figure if "leads" in node else figure.but(leads=True)


def _loaded(text: str, where: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{where}: not YAML ({' '.join(str(error).split())}).") from error
