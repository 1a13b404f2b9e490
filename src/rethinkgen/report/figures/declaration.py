"""A figure as it is declared: what stands in ``published/<paper>.yaml``, in a user's file or on the command line.

What can be said is one class; docs/figures.md shows it with examples. All is checked before anything is drawn.
"""

from __future__ import annotations

import fnmatch
import importlib
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from rethinkgen.report.claim_files import load_papers
from rethinkgen.report.declared import Checked, Selector, checked, several
from rethinkgen.report.style import any_sweep
from rethinkgen.run import own_code
from rethinkgen.run.identity import SEEDS
from rethinkgen.run.quantities import QUANTITY_KEYS, is_measured, known_quantities, value_of
from rethinkgen.run.run import Run
from rethinkgen.words import meant

NEEDED = {
    "lines": ("x", "y"),
    "curves": ("y",),
    "scatter": ("x", "y"),
    "histogram": ("x",),
    "heatmap": ("x", "y", "value"),
    "pictures": ("y",),
}
"""Kind of figure -> keys without which it cannot be drawn."""
OURS = "rethinkgen.report.figures.chosen"
"""Where functions are found that a declaration of ours names."""
MOST_LINES = 8
"""In a panel: more cannot be told apart."""
TOLD_OF_RUNS = re.compile(r"\{([\w./]+)\}")
"""In a caption or title: a quantity of what is drawn."""
FITTED = "fitted"
"""In braces: which share of the training set the steps of the figure count to."""

ONE_OR_SEVERAL = BeforeValidator(several)
Axis = Literal["x", "y", "value"]


def _are_two(ends: list[float | None]) -> list[float | None]:
    if len(ends) != 2:
        raise ValueError("[low, high] is needed, a number or null each.")
    return ends


class Figure(Checked):
    """What a figure shows; every key may be given anew for a panel of it."""

    name: str = ""
    title: str = ""
    kind: Literal["lines", "curves", "scatter", "histogram", "heatmap", "pictures"] = "lines"
    of: str = "runs"
    """``runs``, or a measure's table by its name; ``*`` for any text of it."""
    x: str | None = None
    y: str | Annotated[list[str | list[str]], Field(min_length=1)] | None = None
    """A quantity; a list of them: a panel each; a list in that list: several in one panel."""
    value: str | None = None
    """What the colours of a heat map are, what stands under a picture; for a marker a run, only in the CSV."""
    series: str | None = None
    """What lines are told apart by first; without it, whatever differs."""
    shape: str | None = None
    """What markers of a scatter plot are told apart by."""
    rows: str | list[str | dict[str, Any]] | None = None
    """A key, ``[key, key where one row would be too full]``, or a list of what each row has instead."""
    panels: str | list[str | dict[str, Any]] | None = None
    """A key, ``settings`` (of all but the series), or a list of what each panel has instead."""
    where: Selector = Field(default={})
    """Which runs: as in a claim, a key and its value or values, ``*`` for any text; of a list, any."""
    only: dict[str, Any] = Field(default={})
    """Which rows of a measure's table: column -> its value or values."""
    without: Selector = Field(default=[])
    besides: Selector = Field(default=[])
    """Runs that stand in an earlier panel, and need not stand here again; nor is there a panel of these alone."""
    needs: dict[str, Any] = Field(default={})
    """Key -> how many values, or which, there must be in each line (kind lines) or panel."""
    pick: str = ""
    """A function that picks one of the settings."""
    merge: Annotated[list[str], ONE_OR_SEVERAL] = Field(default=[])
    """Keys that make no difference to what is shown, where training ends with its budget."""
    relative_to: dict[str, Any] | None = None
    """The x whose value, of the same seed, is 1."""
    instead: dict[str, str] = Field(default={})
    """Quantity -> what is shown where it was hardly ever reached, or not logged."""
    spread: Literal["seed", "none", "median"] = "seed"
    """``seed``: mean and interval over seeds; ``none``: a marker a run; ``median``: that, and a line of medians."""
    best: str = ""
    """A quantity of which the best value so far is shown, too, dashed."""
    marks: Annotated[list[Literal["chance", "unfitted"]], ONE_OR_SEVERAL] = Field(default=[])
    published: str = ""
    """Ids of claims, with ``*``, whose published numbers are shown beside ours."""
    log: Annotated[list[Literal["x", "y"]], ONE_OR_SEVERAL] = Field(default=[])
    limits: dict[Axis, Annotated[list[float | None], AfterValidator(_are_two)]] = Field(default={})
    percent: Annotated[list[str], ONE_OR_SEVERAL] = Field(default=[])
    """Columns of a measure's table that are shares, shown in percent."""
    labels: dict[str, str] = Field(default={})
    """Quantity -> what it is called here."""
    panel_title: str = ""
    caption: str = ""
    """``{log_every}``: that quantity of what is drawn."""
    leads: bool = False
    """Whether it is among the pictures that a page begins with."""

    @model_validator(mode="after")
    def _is_relative_to_its_x(self) -> Self:
        if self.relative_to is not None and self.x is not None and list(self.relative_to) != [self.x]:
            raise ValueError(f"relative_to={self.relative_to}: {{{self.x}: VALUE}} is needed, a value of x.")
        return self

    def but(self, **changes: Any) -> Figure:
        """Return the figure with what a panel of it has instead."""
        return self.model_copy(update=changes)

    def each(self, key: Literal["rows", "panels"], where: str = "") -> list[Figure]:
        """Return what each row or panel has, where these are told one by one."""
        told = getattr(self, key)
        if not isinstance(told, list) or all(isinstance(part, str) for part in told):
            return []
        return [checked(Figure, {**self.model_dump(), key: None, **part}, f"{where}: {key}") for part in told]

    def parts(self, where: str = "") -> list[Figure]:
        """Return what each of its panels has."""
        own = [*self.each("rows", where), *self.each("panels", where)]
        return [each for part in own for each in part.parts(where)] or [self]

    def columns(self) -> list[list[str]]:
        """Return the quantities of each panel along y."""
        several: list[Any] = self.y if isinstance(self.y, list) else [self.x if self.y is None else self.y]
        return [each if isinstance(each, list) else [each] for each in several]

    def named(self) -> Iterator[tuple[str, str]]:
        """Yield key, quantity for all that it names."""
        for key in ("x", "y", "value", "series", "shape", "best", "rows", "panels"):
            told = [name for part in several(getattr(self, key)) for name in several(part)]
            yield from ((key, name) for name in told if isinstance(name, str) and name not in ("", "settings"))
        yield from (("instead", name) for name in self.instead.values())
        for key in ("where", "without", "besides", "needs"):
            yield from ((key, str(name)) for part in several(getattr(self, key)) for name in part)
        for key in ("caption", "panel_title"):
            yield from ((key, name) for name in TOLD_OF_RUNS.findall(getattr(self, key)) if name != FITTED)


def read_figure(name: str, node: Any, where: str, *, may_guess: bool = False) -> Figure:
    """Return a declaration, checked; ``may_guess``: what it does not say can be found out from the runs.

    Raises:
        ValueError: an unknown key, kind, quantity or function, or what its kind needs is missing.
    """
    figure = checked(Figure, {"name": name, **node} if isinstance(node, dict) else node, where)
    for part in figure.parts(where):
        if part.pick:
            function(part.pick, where)
        missing = [key for key in NEEDED[part.kind] if getattr(part, key) is None]
        if missing and not (may_guess and part.kind in ("lines", "curves") and part.of == "runs"):
            needed = ", ".join(NEEDED[part.kind])
            raise ValueError(f"{where}: {missing[0]}: is missing; kind={part.kind} needs {needed}.")
    return figure if figure.title else figure.but(title=figure.name.replace("_", " "))


def check_quantities(figure: Figure, runs: Sequence[Run], where: str) -> None:
    """Refuse what none of the runs has, and what cannot be drawn of it.

    Raises:
        ValueError: a key, choice or number is named that no run has; the message says what there is. Or names stand
            where numbers are needed, or runs of one setting would have to stand apart.
    """
    for part in figure.parts(where):
        if part.of != "runs":
            _check_table(part, runs, where)
    known = known_quantities(runs)
    for part in (part for part in figure.parts(where) if part.of == "runs"):
        for key, name in part.named():
            if name not in known:
                told = ", ".join(one for one in known if "." not in one or "/" in one)
                raise ValueError(
                    f"{where}: {key}={name}: no run has it.{meant(name, known)} There are the keys of their config, "
                    f"such as model.width, and {told}."
                )
            if key in ("rows", "panels") or (key == "series" and part.kind in ("lines", "curves")):
                _check_tells_settings(name, f"{where}: {key}")
        numbers = {"histogram": [[part.x]], "heatmap": [[part.value]]}.get(part.kind, part.columns() if part.y else [])
        for name in [name for column in numbers for name in column if name is not None]:
            if any(isinstance(value_of(run, name), str) for run in runs):
                raise ValueError(f"{where}: {name}: has names as values; a number is needed there (kind={part.kind}).")


def _check_table(figure: Figure, runs: Sequence[Run], where: str) -> None:
    """Refuse a table that no measure has left of these runs."""
    measured = [each for run in runs for each in run.measured[0]]
    known = list(dict.fromkeys(f"measure/{each.called}/{name}" for each in measured for name in each.tables))
    if not fnmatch.filter(known, figure.of):
        there = f"There are {', '.join(known)}." if known else "No measure has left any of these runs."
        raise ValueError(f"{where}: of={figure.of}: no such table.{meant(figure.of, known)} {there}")


def _check_tells_settings(name: str, where: str) -> None:
    """Refuse what differs between runs of one setting, which are one line."""
    if name in SEEDS or (name not in QUANTITY_KEYS and is_measured(name)):
        raise ValueError(
            f"{where}={name}: runs that differ in their seeds alone are one line; a choice or key of the config is "
            "needed. For each run by itself: kind: scatter."
        )


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
    declared = [*((paper.name, paper.figures) for paper in load_papers()), ("any_sweep", any_sweep()["figures"])]
    return tuple(
        read_figure(name, node, f"{paper}, figure {name}") for paper, told in declared for name, node in told.items()
    )
