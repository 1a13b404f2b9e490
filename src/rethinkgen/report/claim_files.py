"""Published items as claims, read from ``published/*.yaml`` and checked.

A file holds ``paper`` (its short name), ``reference``, ``sources`` (mark -> what was read there), ``protocols`` and
``items``. A protocol says what makes a run the paper's: key -> the values allowed, ``{at_least: ...}``,
``{at_most: ...}``, or ``{by_model: {model: value}}``; and under ``leaves_open`` the keys of which the paper says
nothing. A key that neither protocol nor claim names must be neutral. An item is a table, a figure or a passage; what
its claims have in common stands beside them. ``figures`` and ``tables`` say what is drawn (docs/figures.md),
``stand_ins`` what is told of data that are not quite the paper's, ``one_axis`` which corruptions are one under several
names at the levels 0 and 1.
"""

from __future__ import annotations

import importlib.resources
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import MISSING, dataclass, field, fields
from functools import cache
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal

import yaml

from rethinkgen.received import MOST_BYTES_OF_TABLE, read_bytes
from rethinkgen.report.declared import check_choice, check_keys, check_number
from rethinkgen.report.rules import RULES, parameters
from rethinkgen.run.command import train_command
from rethinkgen.run.identity import SEEDS

Certainty = Literal["verified", "second-hand", "inferred", "memory"]
CERTAINTIES: dict[str, str] = {
    "verified": "read in the paper's own text or in two independent copies of it",
    "second-hand": "read in somebody's notes about the paper only",
    "inferred": "concluded from what the paper says, not said by it",
    "memory": "recalled without any source: never counted",
}
UNITS = ("%", "x", "steps", "parameters", "parameters beyond 2n + d", "")
DERIVED = (
    "test/error",
    "test/gain_from_stopping",
    "test/unsteadiness",
    "rademacher",
    "steps_to_fall",
    "parameters_beyond_2n+d",
)
"""Quantities that are computed from a run's numbers; see ``rethinkgen.report.quantities.observe``."""
SELECTABLE = (
    "data.corruption", "level", "num_classes", "num_examples", "image_shape", "steps", "until_fit", "evaluate_every",
    "fit_threshold", "log_every",
)  # fmt: skip
ROOTS = ("data", "model", "regularizer", "optimizer", "schedule", "trainer")
BOUNDS = ("at_least", "at_most", "by_model")
MARK = re.compile(r"\b(?:S\d+[a-z]?|MEM)\b")
"""A source that a text names: ``Table 2 [S2, S6]``."""
Selector = Mapping[str, Any]
"""Key -> value, or a list of values of which one must be met: a group, a key of the config, or ``level``."""


@dataclass(frozen=True)
class Rule:
    """How a claim is decided, and why just so."""

    kind: str
    parameters: dict[str, Any]
    because: str

    @property
    def judge(self) -> Callable[..., Any]:
        """The function in ``rethinkgen.report.rules``."""
        return RULES[self.kind]


@dataclass(frozen=True)
class Tuning:
    """How the strength of one setting is chosen, without the test set: by runs that hold a part of the images out.

    A strength that does not act or that ruins the fit is not chosen.
    """

    setting: str
    key: str
    """What is chosen; 0 is without."""
    held_out: Selector
    """What makes a run one of those that choose."""
    by: str
    """The metric that is to be highest."""
    acts_on: str
    """The metric that a strength which acts makes smaller, by ``ACTS`` at least."""
    fits: float
    """fit/accuracy in percent that a strength must leave."""
    at_least: int
    """Strengths that are compared."""


@dataclass(frozen=True, eq=False)
class Paper:
    """Where claims are from."""

    name: str
    reference: str
    sources: Mapping[str, str]
    """Mark, such as S3 -> what was read there."""


@dataclass(frozen=True, kw_only=True)
class Claim:
    """One published number or statement, and what decides whether it is reproduced."""

    id: str
    paper: Paper
    item: str
    """The table, figure or section."""
    statement: str
    source: str
    certainty: Certainty
    metric: str
    runs: Selector
    rule: Rule
    seeds: int
    """Repetitions that a verdict needs."""
    value: float | None = None
    """As published, in ``unit``; nothing for a statement without a number."""
    published: str = ""
    """The same as a text."""
    unit: str = "%"
    experiment: str = ""
    """That makes its runs."""
    of_no_experiment: str = ""
    """The command that makes its runs, where no experiment does. In the file ``command``."""
    settings: Mapping[str, Selector] = field(default_factory=dict)
    """Name -> what tells a setting apart, where the rule compares several."""
    across: Mapping[str, Any] | None = None
    """Where settings are the values of one key: ``key``, how many are needed ``at_least``, which ``including``."""
    vary: Sequence[str] = ()
    """Keys, and all below them, that may differ between the settings that are compared."""
    protocol: Mapping[str, Any] = field(default_factory=dict)
    given: Mapping[str, float] = field(default_factory=dict)
    """Accuracy -> percent that the runs must have reached on the mean for the claim to be about them."""
    leaves_open: Sequence[str] = ()
    """Keys, and all below them, of which the paper says nothing."""
    depends_on: Sequence[str] | None = None
    """Keys, and all below them, that the claim can depend on at all, where these are not all."""
    tuned: Tuning | None = None
    trend: Rule | None = None
    """What must hold at least for "same trend"."""
    repeated_by: str = "seed"
    """The seed that tells repetitions apart: runs that differ in another alone are one."""
    is_exact: bool = False
    """Whether no seed changes the number: then one run tells. In the file ``exact``."""
    pool: str = ""
    """Claims of the same are judged by the deviation over the seeds of all of them."""

    @property
    def command(self) -> str:
        """The command that makes its runs, by the program that was called."""
        return self.of_no_experiment or train_command([f"+experiment={self.experiment}"])

    @property
    def names(self) -> set[str]:
        """Everything that the claim says something of."""
        across = [str(self.across["key"])] if self.across else []
        of_settings = [key for setting in self.settings.values() for key in setting]
        return {*self.protocol, *self.runs, *of_settings, *across}

    @property
    def is_counted(self) -> bool:
        """Whether the item has a source at all."""
        return self.certainty != "memory"

    @property
    def cited(self) -> list[str]:
        """The marks of its sources."""
        return MARK.findall(self.source)


def load_claims() -> list[Claim]:
    """Return the claims of all papers, in the order of the files.

    Raises:
        ValueError: a file says something that cannot be; the message names file, claim and key.
    """
    return list(_claims_of(own_papers()))


@cache
def _claims_of(own: tuple[OwnPaper, ...]) -> tuple[Claim, ...]:
    found: dict[str, Claim] = {}
    # A user's own may not take the place of ours.
    for file in reversed(_files(own)):
        claims = read_claims(file)
        if taken := [claim.id for claim in claims if claim.id in found]:
            raise ValueError(f"{file.name}, claim {taken[0]}: there is one of this id already. Give it another.")
        found = {claim.id: claim for claim in claims} | found
    return tuple(found.values())


def load_papers() -> list[dict[str, Any]]:
    """Return all that the files say, unchecked: what they have besides claims."""
    return _papers_of(own_papers())


@cache
def _papers_of(own: tuple[OwnPaper, ...]) -> list[dict[str, Any]]:
    return [yaml.safe_load(file.read_text(encoding="utf-8")) for file in _files(own)]


def _files(own: tuple[OwnPaper, ...]) -> list[OwnPaper | Traversable]:
    folder = importlib.resources.files("rethinkgen.report") / "published"
    ours = sorted((file for file in folder.iterdir() if file.name.endswith(".yaml")), key=lambda file: file.name)
    return [*own, *ours]


def own_papers() -> tuple[OwnPaper, ...]:
    """Return the files of the user's own that are read before ours."""
    return _OWN.get()


@contextmanager
def with_papers(paths: Sequence[Path]) -> Iterator[None]:
    """Read for a while claims, figures and tables of files of the user's own, too.

    Raises:
        ValueError: there is no such file.
    """
    opened = []
    for path in paths:
        if (content := read_bytes(path, MOST_BYTES_OF_TABLE)) is None:
            raise ValueError(f"claims={path}: there is no such file.")
        opened.append(OwnPaper(path.name, content.decode("utf-8", errors="replace")))
    before = _OWN.set((*_OWN.get(), *opened))
    try:
        yield
    finally:
        _OWN.reset(before)


def read_claims(file: OwnPaper | Traversable) -> list[Claim]:
    """Read one file of claims.

    Raises:
        ValueError: see ``load_claims``.
    """
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{file.name}: not YAML ({error}).") from error
    check_keys(file.name, content, PAPER_KEYS, ("sources", "figures", "tables", "stand_ins", "one_axis"))
    claims = list(_claims(file.name, content))
    twice = sorted({claim.id for claim in claims if sum(other.id == claim.id for other in claims) > 1})
    if twice:
        raise ValueError(
            f"{file.name}, claim {twice[0]}: id={twice[0]!r} is used more than once. Give each claim its own."
        )
    return claims


@dataclass(frozen=True)
class OwnPaper:
    """A file of the user's own, as it was when it was opened."""

    name: str
    text: str

    def read_text(self, encoding: str) -> str:
        """Return what stood in it."""
        return self.text


_OWN: ContextVar[tuple[OwnPaper, ...]] = ContextVar("papers of the user's own", default=())
PAPER_KEYS = ("paper", "reference", "protocols", "items")
REQUIRED = tuple(
    entry.name
    for entry in fields(Claim)
    if entry.default is MISSING and entry.default_factory is MISSING and entry.name != "paper"
)
OPTIONAL = (
    *(entry.name for entry in fields(Claim) if entry.name not in (*REQUIRED, "is_exact", "of_no_experiment")),
    "exact",
    "command",
)


def _claims(file: str, content: Mapping[str, Any]) -> Iterable[Claim]:
    paper = Paper(str(content["paper"]), str(content["reference"]), content.get("sources") or {})
    for item in content["items"]:
        shared = {key: value for key, value in item.items() if key != "claims"}
        for own in item.get("claims", ()):
            yield _claim(file, content, paper, {**shared, **own})


def _claim(file: str, content: Mapping[str, Any], paper: Paper, node: dict[str, Any]) -> Claim:
    where = f"{file}, claim {node.get('id', node.get('statement', '?'))}"
    check_keys(where, node, REQUIRED, OPTIONAL)
    settings, across = node.get("settings", {}), node.get("across")
    check_choice(where, "certainty", node["certainty"], CERTAINTIES)
    check_choice(where, "unit", node.get("unit", "%"), UNITS)
    check_choice(where, "repeated_by", node.get("repeated_by", "seed"), SEEDS)
    for key, number in {**node.get("given", {}), "value": node.get("value") or 0}.items():
        check_number(where if key == "value" else f"{where}: given", key, number)
    if not isinstance(node["seeds"], int) or node["seeds"] < 1:
        raise ValueError(f"{where}: seeds={node['seeds']!r}: a whole number from 1 on is needed.")
    metric = str(node["metric"])
    if "/" not in metric and metric not in DERIVED and not metric.startswith(("steps", "num_")):
        raise ValueError(f"{where}: metric={metric!r}: a metric of a run, or one of {', '.join(DERIVED)}.")
    if "experiment" not in node and "command" not in node:
        raise ValueError(f"{where}: experiment: the experiment that makes its runs is needed, or a command.")
    for mark in MARK.findall(str(node["source"])):
        check_choice(where, "source", mark, paper.sources)
    if across is not None:
        check_keys(f"{where}: across", across, ("key",), ("at_least", "including"))
    protocol, left_open = _protocol(where, content["protocols"], node.get("protocol", ()))
    rules = {key: _rule(f"{where}: {key}", node[key], node.get("value")) for key in ("rule", "trend") if node.get(key)}
    for rule in rules.values():
        _check_settings(where, rule, settings, across)
    made: dict[str, Any] = {
        "paper": paper,
        "of_no_experiment": str(node.get("command", "")),
        "runs": _selector(where, "runs", node["runs"]),
        "settings": {str(name): _selector(where, f"settings.{name}", setting) for name, setting in settings.items()},
        "protocol": protocol,
        "leaves_open": (*left_open, *node.get("leaves_open", ())),
        "tuned": _tuning(where, node["tuned"], settings) if "tuned" in node else None,
        "is_exact": bool(node.get("exact")),
    }
    as_they_stand = {key: told for key, told in node.items() if key not in ("exact", "command")}
    return Claim(**as_they_stand | made | rules)


def _rule(where: str, node: Any, value: float | None) -> Rule:
    check_keys(where, node, ("kind", "because"), allow_others=True)
    kind = node["kind"]
    check_choice(where, "kind", kind, RULES)
    given = {key: content for key, content in node.items() if key not in ("kind", "because")}
    known = parameters(RULES[kind])
    check_keys(f"{where} {kind}", given, [key for key, is_needed in known.items() if is_needed], list(known))
    for key, content in given.items():
        if key != "groups":
            check_number(where, key, content)
    if kind in ("within", "lead_over_chance") and value is None:
        raise ValueError(f"{where}: kind={kind!r} compares with the published value; give the claim a value.")
    return Rule(kind, given, str(node["because"]))


def _check_settings(where: str, rule: Rule, settings: Mapping[str, Any], across: Any) -> None:
    if rule.kind in ("rising", "rising_ratio", "ratio") and across is None and len(settings) < 2:
        raise ValueError(f"{where}: {rule.kind} compares settings; give across, or settings.")
    if rule.kind == "difference" and len(settings) != 2:
        raise ValueError(f"{where}: settings: difference needs two, the second to be taken from the first.")
    if rule.kind == "order":
        named = {name for group in rule.parameters["groups"] for name in group}
        if unknown := sorted(named ^ set(settings)):
            raise ValueError(f"{where}: groups and settings name different things: {', '.join(unknown)}.")
    if rule.kind in ("within", "at_chance", "lead_over_chance") and (settings or across):
        raise ValueError(f"{where}: {rule.kind} judges a single setting; settings and across have no place here.")


def _selector(where: str, key: str, node: Any) -> dict[str, Any]:
    if not isinstance(node, dict):
        raise ValueError(f"{where}: {key}={node!r}: key: value pairs are needed, such as {{model: inception}}.")
    for name in node:
        if name not in SELECTABLE and str(name).partition(".")[0] not in ROOTS:
            raise ValueError(f"{where}: {key}: {name}: neither a key below {', '.join(ROOTS)} nor one of {SELECTABLE}.")
    return node


def _tuning(where: str, node: Any, settings: Mapping[str, Any]) -> Tuning:
    check_keys(f"{where}: tuned", node, ("setting", "key", "held_out", "by", "acts_on", "fits", "at_least"))
    check_choice(f"{where}: tuned", "setting", node["setting"], settings)
    return Tuning(**{**node, "held_out": _selector(f"{where}: tuned", "held_out", node["held_out"])})


def _protocol(
    where: str, protocols: Mapping[str, Any], names: str | Sequence[str]
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return what the protocols say together, and what they leave open and do not say."""
    merged: dict[str, Any] = {}
    left_open: list[str] = []
    for name in [names] if isinstance(names, str) else names:
        if name not in protocols:
            raise ValueError(f"{where}: protocol={name!r}: there are {', '.join(sorted(protocols))}.")
        merged |= {key: value for key, value in protocols[name].items() if key != "leaves_open"}
        left_open += protocols[name].get("leaves_open", ())
    _selector(where, "protocol", merged)
    for key, allowed in merged.items():
        if isinstance(allowed, dict) and (len(allowed) != 1 or next(iter(allowed)) not in BOUNDS):
            raise ValueError(f"{where}: protocol: {key}={allowed!r}: a value, a list, or one of {', '.join(BOUNDS)}.")
    return merged, tuple(key for key in left_open if key not in merged)
