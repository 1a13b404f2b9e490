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
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache, cached_property, reduce
from inspect import Parameter, signature
from itertools import chain
from operator import or_
from typing import TYPE_CHECKING, Annotated, Any, Literal, get_type_hints

import yaml
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, PositiveInt, create_model

from rethinkgen.report.declared import Checked, checked
from rethinkgen.report.rules import RULES, Context, Finding, Samples
from rethinkgen.run.command import train_command
from rethinkgen.run.quantities import FOLLOWING
from rethinkgen.run.run import Run
from rethinkgen.words import meant

Certainty = Literal["verified", "second-hand", "inferred", "memory"]
CERTAINTIES: dict[str, str] = {
    "verified": "read in the paper's own text or in two independent copies of it",
    "second-hand": "read in somebody's notes about the paper only",
    "inferred": "concluded from what the paper says, not said by it",
    "memory": "recalled without any source: never counted",
}
SELECTABLE = (
    "data.corruption", "level", "num_classes", "num_examples", "image_shape", "steps", "until_fit", "evaluate_every",
    "fit_threshold", "log_every",
)  # fmt: skip
ROOTS = ("data", "model", "regularizer", "optimizer", "schedule", "trainer")
BOUNDS: dict[str, Any] = {"at_least": (int, float), "at_most": (int, float), "by_model": dict}
"""What may stand in place of values -> what it holds."""
MARK = re.compile(r"\b(?:S\d+[a-z]?|MEM)\b")
"""A source that a text names: ``Table 2 [S2, S6]``."""


def _selectable(node: dict[str, Any]) -> dict[str, Any]:
    for name, value in node.items():
        if name not in SELECTABLE and str(name).partition(".")[0] not in ROOTS:
            known = (*ROOTS, *SELECTABLE)
            raise ValueError(f"{name}: no such key; allowed are {', '.join(known)}, and all below.{meant(name, known)}")
        bounds = value.items() if isinstance(value, dict) else [("at_least", 0)]
        if [isinstance(bound, BOUNDS.get(kind, ())) for kind, bound in bounds] != [True]:
            raise ValueError(f"{name}={value!r}: a value, a list, or one of {', '.join(BOUNDS)} with what it needs.")
    return node


Selector = Annotated[dict[str, Any], AfterValidator(_selectable)]
"""Key -> value, or a list of values of which one must be met: a group, a key of the config, or ``level``."""
Name = Annotated[str, Field(coerce_numbers_to_str=True)]


class Rule(Checked):
    """How a claim is decided, and why just so; in the file beside what its function in ``rules`` is given."""

    kind: str
    because: str

    @property
    def parameters(self) -> dict[str, Any]:
        """What its function is given besides samples and context."""
        return {key: told for key, told in self if key not in Rule.model_fields}

    def judge(self, samples: Samples, context: Context) -> Finding:
        """Return what the rule says of samples."""
        return RULES[self.kind](samples, context, **self.parameters)


def _rule_of(kind: str) -> type[Rule]:
    """Return the rule whose keys are the parameters of its function."""
    known, hints = signature(RULES[kind]).parameters.values(), get_type_hints(RULES[kind])
    own = [each for each in known if each.kind is Parameter.KEYWORD_ONLY]
    given = {each.name: (hints[each.name], ... if each.default is each.empty else each.default) for each in own}
    fields: dict[str, Any] = {"kind": (Literal[kind], ...), **given}
    return create_model(kind, __base__=Rule, **fields)


if TYPE_CHECKING:
    AnyRule = Rule
else:
    AnyRule = Annotated[reduce(or_, map(_rule_of, RULES)), Field(discriminator="kind")]


class Across(Checked):
    """Settings that are the values of one key: which, how many are needed, and which of them."""

    key: str
    at_least: int = 2
    including: list[float] = Field([])


class Tuning(Checked):
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


class Claim(Checked):
    """One published number or statement, and what decides whether it is reproduced."""

    id: str
    item: str
    """The table, figure or section."""
    statement: str
    source: str
    certainty: Certainty
    metric: str
    runs: Selector
    rule: AnyRule
    seeds: PositiveInt
    """Repetitions that a verdict needs."""
    value: float | None = None
    """As published, in ``unit``; nothing for a statement without a number."""
    published: str = ""
    """The same as a text."""
    unit: Literal["%", "x", "steps", "parameters", "parameters beyond 2n + d", ""] = "%"
    experiment: str = ""
    """That makes its runs."""
    of_no_experiment: str = Field("", alias="command")
    """The command that makes its runs, where no experiment does."""
    settings: dict[Name, Selector] = Field({})
    """Name -> what tells a setting apart, where the rule compares several."""
    across: Across | None = None
    vary: list[str] = Field([])
    """Keys, and all below them, that may differ between the settings that are compared."""
    protocol: Selector = Field({})
    given: dict[str, float] = Field({})
    """Accuracy -> percent that the runs must have reached on the mean for the claim to be about them."""
    leaves_open: list[str] = Field([])
    """Keys, and all below them, of which the paper says nothing."""
    depends_on: list[str] | None = None
    """Keys, and all below them, that the claim can depend on at all, where these are not all."""
    tuned: Tuning | None = None
    trend: AnyRule | None = None
    """What must hold at least for "same trend"."""
    repeated_by: Literal["seed", "data.seed", "data.order_seed"] = "seed"
    """The seed that tells repetitions apart: runs that differ in another alone are one."""
    is_exact: bool = Field(False, alias="exact")
    """Whether no seed changes the number: then one run tells."""
    pool: str = ""
    """Claims of the same are judged by the deviation over the seeds of all of them."""

    @property
    def command(self) -> str:
        """The command that makes its runs, by the program that was called."""
        return self.of_no_experiment or train_command([f"+experiment={self.experiment}"])

    @property
    def names(self) -> set[str]:
        """Everything that the claim says something of."""
        of_settings = [key for setting in self.settings.values() for key in setting]
        return {*self.protocol, *self.runs, *of_settings, *([self.across.key] if self.across else [])}

    @property
    def is_counted(self) -> bool:
        """Whether its verdict belongs into "n of m reproduced": not where the item has no source but memory."""
        return self.certainty != "memory"

    @property
    def cited(self) -> list[str]:
        """The marks of its sources."""
        return MARK.findall(self.source)

    @property
    def paper(self) -> Paper:
        """The file that it stands in."""
        return self._paper

    def is_on_its_data(self, run: Run) -> bool:
        """Whether a run is on the data set that the protocol names, if it names one, or on its images as JPEG."""
        wanted = self.protocol.get("data", run.data)
        return run.data in (wanted, f"{wanted}_jpeg")

    def model_post_init(self, context: Paper, /) -> None:
        """Check what only all keys together tell."""
        self._paper = context
        if "/" not in self.metric and self.metric not in FOLLOWING and not self.metric.startswith(("steps", "num_")):
            raise ValueError(f"metric={self.metric!r}: a metric of a run, or one of {', '.join(FOLLOWING)}.")
        if not self.experiment and not self.of_no_experiment:
            raise ValueError("experiment: the experiment that makes its runs is needed, or a command.")
        if unknown := [mark for mark in self.cited if mark not in context.sources]:
            raise ValueError(f"source={unknown[0]!r}: one of {', '.join(context.sources)} is needed.")
        if self.tuned and self.tuned.setting not in self.settings:
            raise ValueError(f"tuned: setting={self.tuned.setting!r}: one of {', '.join(self.settings)} is needed.")
        for rule in filter(None, (self.rule, self.trend)):
            self._check_settings(rule)

    def _check_settings(self, rule: Any) -> None:
        if rule.kind in ("within", "lead_over_chance") and self.value is None:
            raise ValueError(f"kind={rule.kind!r} compares with the published value; give the claim a value.")
        if rule.kind in ("rising", "rising_ratio", "ratio") and self.across is None and len(self.settings) < 2:
            raise ValueError(f"{rule.kind} compares settings; give across, or settings.")
        if rule.kind == "difference" and len(self.settings) != 2:
            raise ValueError("settings: difference needs two, the second to be taken from the first.")
        if rule.kind == "order" and (unknown := {*chain(*rule.groups)} ^ {*self.settings}):
            raise ValueError(f"groups and settings name different things: {', '.join(sorted(unknown))}.")
        if rule.kind in ("within", "at_chance", "lead_over_chance") and (self.settings or self.across):
            raise ValueError(f"{rule.kind} judges a single setting; settings and across have no place here.")


class Protocol(BaseModel):
    """Key -> values allowed, and the keys of which a paper says nothing."""

    model_config = ConfigDict(strict=True, extra="allow")
    leaves_open: list[str] = Field([])


class Item(BaseModel):
    """A table, a figure or a passage: its claims, and the keys that these have in common."""

    model_config = ConfigDict(strict=True, extra="allow")
    claims: list[dict[str, Any]] = Field([])


class Paper(Checked):
    """A file of one paper: where claims are from, and what is drawn of them."""

    name: str = Field(alias="paper")
    reference: str
    protocols: dict[str, Protocol]
    items: list[Item]
    sources: dict[str, str] = Field({})
    """Mark, such as S3 -> what was read there."""
    figures: dict[str, Any] = Field({})
    tables: dict[str, Any] = Field({})
    stand_ins: dict[str, str] = Field({})
    one_axis: list[str] = Field([])

    @cached_property
    def claims(self) -> list[Claim]:
        """In the order of the file, as ``read_paper`` reads them."""
        return []


def read_paper(name: str, text: str) -> Paper:
    """Read a paper's file.

    Raises:
        ValueError: it says something that cannot be; the message names file, claim and key.
    """
    try:
        content = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ValueError(f"{name}: not YAML ({error}).") from error
    paper = checked(Paper, content, name)
    for item in paper.items:
        for own in item.claims:
            node = {**(item.model_extra or {}), **own}
            where = f"{name}, claim {node.get('id', node.get('statement', '?'))}"
            claim = checked(Claim, node | _protocol(where, paper.protocols, node), where, paper)
            if any(other.id == claim.id for other in paper.claims):
                raise ValueError(f"{where}: id={claim.id!r} is used more than once. Give each claim its own.")
            paper.claims.append(claim)
    return paper


def _protocol(where: str, protocols: Mapping[str, Protocol], node: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the protocols of a claim say together, and what they leave open and do not say."""
    merged: dict[str, Any] = {}
    left_open: list[str] = []
    names = node.get("protocol", [])
    for name in names if isinstance(names, list) else [names]:
        if not isinstance(name, str) or name not in protocols:
            raise ValueError(f"{where}: protocol={name!r}: there are {', '.join(sorted(protocols))}.")
        merged |= protocols[name].model_extra or {}
        left_open += protocols[name].leaves_open
    kept, own = [key for key in left_open if key not in merged], node.get("leaves_open", [])
    return {"protocol": merged, "leaves_open": [*kept, *own] if isinstance(own, list) else own}


@cache
def _packaged() -> tuple[Paper, ...]:
    folder = importlib.resources.files("rethinkgen.report") / "published"
    files = sorted((file for file in folder.iterdir() if file.name.endswith(".yaml")), key=lambda file: file.name)
    return tuple(read_paper(file.name, file.read_text(encoding="utf-8")) for file in files)


_OWN: ContextVar[tuple[Paper, ...]] = ContextVar("papers of the user's own", default=())


def load_papers() -> tuple[Paper, ...]:
    """Return the papers: the user's own, then ours."""
    return (*_OWN.get(), *_packaged())


def load_claims() -> list[Claim]:
    """Return the claims of all papers, in the order of the files."""
    return [claim for paper in load_papers() for claim in paper.claims]


@contextmanager
def with_paper(own: Paper) -> Iterator[None]:
    """Have for a while a paper of the user's own before ours, but for its figures: these are drawn as one asks."""
    before = _OWN.set((own.model_copy(update={"figures": {}}), *_OWN.get()))
    try:
        yield
    finally:
        _OWN.reset(before)
