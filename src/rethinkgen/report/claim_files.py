"""Published items as claims, read from ``published/*.yaml`` and checked.

A file holds ``paper`` (its short name), ``reference``, ``sources`` (mark -> what was read there), ``protocols`` and
``items``. A protocol says what makes a run
the paper's: key -> the values allowed, ``{at_least: ...}``, ``{at_most: ...}``, or ``{by_model: {model: value}}``; and
under ``leaves_open`` the keys of which the paper says nothing. A key that neither protocol nor claim names must be
neutral. An item is a table, a figure or a passage; what its claims have in common stands beside them.
"""

from __future__ import annotations

import importlib.resources
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any, Literal

import yaml

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


@dataclass(frozen=True)
class Claim:
    """One published number or statement, and what decides whether it is reproduced."""

    id: str
    paper: Paper
    item: str
    """The table, figure or section."""
    statement: str
    value: float | None
    """As published, in ``unit``; nothing for a statement without a number."""
    published: str
    """The same as a text."""
    unit: str
    source: str
    certainty: Certainty
    command: str
    metric: str
    runs: Selector
    settings: Mapping[str, Selector]
    """Name -> what tells a setting apart, where the rule compares several."""
    across: Mapping[str, Any] | None
    """Where settings are the values of one key: ``key``, how many are needed ``at_least``, which ``including``."""
    vary: Sequence[str]
    """Keys, and all below them, that may differ between the settings that are compared."""
    protocol: Mapping[str, Any]
    given: Mapping[str, float]
    """Accuracy -> percent that the runs must have reached on the mean for the claim to be about them."""
    leaves_open: Sequence[str]
    """Keys, and all below them, of which the paper says nothing."""
    depends_on: Sequence[str] | None
    """Keys, and all below them, that the claim can depend on at all, where these are not all."""
    tuned: Tuning | None
    rule: Rule
    trend: Rule | None
    """What must hold at least for "same trend"."""
    seeds: int
    """Repetitions that a verdict needs."""
    repeated_by: str
    """The seed that tells repetitions apart: runs that differ in another alone are one."""
    is_exact: bool
    """Whether no seed changes the number: then one run tells."""
    pool: str
    """Claims of the same are judged by the deviation over the seeds of all of them."""

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
    return list(_packaged())


@cache
def _packaged() -> tuple[Claim, ...]:
    folder = importlib.resources.files("rethinkgen.report") / "published"
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".yaml")), key=lambda file: file.name)
    return tuple(claim for file in files for claim in read_claims(file))


def read_own_claims(path: str) -> list[Claim]:
    """Read the claims that ``claims=...`` names: a file of the form of ``published/*.yaml``.

    Raises:
        ValueError: there is no such file, it says something that cannot be, or uses an id of ours.
    """
    where = f"claims={path}"
    if not Path(path).is_file():
        raise ValueError(f"{where}: there is no such file.")
    try:
        found = read_claims(Path(path))
    except (ValueError, TypeError, AttributeError, KeyError) as error:
        raise ValueError(f"{where}: {error}") from error
    ours = {claim.id for claim in load_claims()}
    if taken := [claim.id for claim in found if claim.id in ours]:
        raise ValueError(f"{where}, claim {taken[0]}: there is one of this id already. Give it another.")
    return found


def read_claims(file: Traversable | Path) -> list[Claim]:
    """Read one file of claims.

    Raises:
        ValueError: see ``load_claims``.
    """
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise ValueError(f"{file.name}: not YAML ({error}).") from error
    _check_keys(file.name, content, required=("paper", "reference", "sources", "protocols", "items"))
    claims = list(_claims(file.name, content))
    twice = sorted({claim.id for claim in claims if sum(other.id == claim.id for other in claims) > 1})
    if twice:
        raise ValueError(
            f"{file.name}, claim {twice[0]}: id={twice[0]!r} is used more than once. Give each claim its own."
        )
    return claims


REQUIRED = ("id", "item", "statement", "source", "certainty", "metric", "runs", "rule", "seeds")
OPTIONAL = (
    "value", "unit", "published", "experiment", "command", "settings", "across", "vary", "protocol", "given", "trend",
    "leaves_open", "depends_on", "tuned", "repeated_by", "exact", "pool",
)  # fmt: skip


def _claims(file: str, content: Mapping[str, Any]) -> Iterable[Claim]:
    paper = Paper(str(content["paper"]), str(content["reference"]), content["sources"])
    for item in content["items"]:
        shared = {key: value for key, value in item.items() if key != "claims"}
        for own in item.get("claims", ()):
            yield _claim(file, content, paper, {**shared, **own})


def _claim(file: str, content: Mapping[str, Any], paper: Paper, node: dict[str, Any]) -> Claim:
    where = f"{file}, claim {node.get('id', node.get('statement', '?'))}"
    _check_keys(where, node, REQUIRED, OPTIONAL)
    value, unit = node.get("value"), node.get("unit", "%")
    _check_choice(where, "certainty", node["certainty"], CERTAINTIES)
    _check_choice(where, "unit", unit, UNITS)
    _check_number(where, "value", value, is_optional=True)
    if not isinstance(node["seeds"], int) or node["seeds"] < 1:
        raise ValueError(f"{where}: seeds={node['seeds']!r}: a whole number from 1 on is needed.")
    if (
        "/" not in str(node["metric"])
        and node["metric"] not in DERIVED
        and not str(node["metric"]).startswith(("steps", "num_"))
    ):
        raise ValueError(f"{where}: metric={node['metric']!r}: a metric of a run, or one of {', '.join(DERIVED)}.")
    if "experiment" not in node and "command" not in node:
        raise ValueError(f"{where}: experiment: the experiment that makes its runs is needed, or a command.")
    if node.get("repeated_by", "seed") not in SEEDS:
        raise ValueError(f"{where}: repeated_by={node['repeated_by']!r}: one of {', '.join(SEEDS)} is needed.")
    for mark in MARK.findall(str(node["source"])):
        _check_choice(where, "source", mark, paper.sources)
    protocol, left_open = _protocol(where, content["protocols"], node.get("protocol", ()))
    rules = {key: _rule(f"{where}: {key}", node[key], value) for key in ("rule", "trend") if node.get(key)}
    settings, across = node.get("settings", {}), node.get("across")
    for rule in rules.values():
        _check_settings(where, rule, settings, across)
    for key, bound in node.get("given", {}).items():
        _check_number(f"{where}: given", key, bound)
    if across is not None:
        _check_keys(f"{where}: across", across, ("key",), ("at_least", "including"))
    return Claim(
        id=node["id"],
        paper=paper,
        item=node["item"],
        statement=node["statement"],
        value=value,
        published=str(node.get("published", "")),
        unit=unit,
        source=node["source"],
        certainty=node["certainty"],
        command=node.get("command") or train_command([f"+experiment={node['experiment']}"]),
        metric=node["metric"],
        runs=_selector(where, "runs", node["runs"]),
        given=node.get("given", {}),
        settings={str(name): _selector(where, f"settings.{name}", setting) for name, setting in settings.items()},
        across=across,
        vary=tuple(node.get("vary", ())),
        protocol=protocol,
        leaves_open=(*left_open, *node.get("leaves_open", ())),
        depends_on=node.get("depends_on"),
        tuned=_tuning(where, node["tuned"], settings) if "tuned" in node else None,
        rule=rules["rule"],
        trend=rules.get("trend"),
        seeds=node["seeds"],
        repeated_by=node.get("repeated_by", "seed"),
        is_exact=bool(node.get("exact")),
        pool=str(node.get("pool", "")),
    )


def _rule(where: str, node: Any, value: float | None) -> Rule:
    _check_keys(where, node, ("kind", "because"), allow_others=True)
    kind = node["kind"]
    _check_choice(where, "kind", kind, RULES)
    given = {key: content for key, content in node.items() if key not in ("kind", "because")}
    known = parameters(RULES[kind])
    _check_keys(f"{where} {kind}", given, [key for key, is_needed in known.items() if is_needed], list(known))
    for key, content in given.items():
        if key != "groups":
            _check_number(where, key, content)
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
    _check_keys(f"{where}: tuned", node, ("setting", "key", "held_out", "by", "acts_on", "fits", "at_least"))
    _check_choice(f"{where}: tuned", "setting", node["setting"], settings)
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


def _check_keys(
    where: str, node: Any, required: Sequence[str], optional: Sequence[str] = (), *, allow_others: bool = False
) -> None:
    if not isinstance(node, dict):
        raise ValueError(f"{where}: {node!r}: key: value pairs are needed.")
    if missing := [key for key in required if key not in node]:
        raise ValueError(f"{where}: {missing[0]}: is missing.")
    unknown = [str(key) for key in node if key not in (*required, *optional)]
    if unknown and not allow_others:
        allowed = ", ".join((*required, *optional)) or "none"
        raise ValueError(f"{where}: {unknown[0]}: no such key; allowed are {allowed}.")


def _check_choice(where: str, key: str, value: Any, allowed: Iterable[str]) -> None:
    if value not in tuple(allowed):
        raise ValueError(f"{where}: {key}={value!r}: one of {', '.join(map(repr, allowed))} is needed.")


def _check_number(where: str, key: str, value: Any, *, is_optional: bool = False) -> None:
    if value is None and is_optional:
        return
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{where}: {key}={value!r}: a number is needed.")
