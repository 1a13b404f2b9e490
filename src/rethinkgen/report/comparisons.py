"""Which runs a claim sets side by side: repetitions in a cell, a cell of each setting that it compares."""

from __future__ import annotations

import itertools
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal, NamedTuple

from rethinkgen.grouping import collected
from rethinkgen.measure.thresholds import NEARLY_FITTED
from rethinkgen.numbers import shown_summary
from rethinkgen.report.claim_files import Claim, Rule, load_papers
from rethinkgen.report.rules import PAIRED, Context, Finding, Samples, Seed, alike, pool
from rethinkgen.report.tuning import chosen_strengths, is_tuned
from rethinkgen.run.identity import SEEDS
from rethinkgen.run.quantities import QUANTITY_KEYS, as_text, chance, observe, property_of
from rethinkgen.run.run import Run
from rethinkgen.run.settings import tell_apart
from rethinkgen.run.spread import Spread, summarise
from rethinkgen.run.where import is_allowed, is_below, matches

Outlook = Literal["complete", "awaited", "failed", "short"]
UNFINISHED = ("running", "waiting", "missing", "interrupted")
"""What may still become a result by itself or by the same command."""
COUNTED: dict[Outlook, tuple[str, ...]] = {
    "complete": (),
    "awaited": UNFINISHED,
    "failed": (*UNFINISHED, "failed"),
}
"""Outlook -> states which a verdict had all that it needs with, if runs of these had finished as well."""
MEASURED = {"num_classes": "num_classes", "num_examples": "num_train"}
"""Properties of the data as they were loaded -> their name in ``result.json``; only a finished run has them."""
NAMED_WITH = QUANTITY_KEYS | {
    "data": ("data.source",),
    **{group: (f"{group}.class", f"{group}.protocol") for group in ("model", "optimizer", "schedule")},
}
"""What a claim names -> the keys of a config that are named with it; all others with all keys below them."""
NOT_NAMED = "named by the paper"
"""What a key that is not neutral is not, where neither claim nor protocol says anything of it."""
Mean = Callable[[Iterable[float]], float]


class Deviation(NamedTuple):
    """What of a run is not the paper's."""

    key: str
    value: str
    wanted: str

    def __str__(self) -> str:
        """Return ``data=digits, not cifar10``."""
        return f"{self.key}={self.value}, not {self.wanted}"


Pools = Mapping[tuple[str, tuple[Deviation, ...]], Sequence[Sequence[float]]]
"""Name of a pool and what deviates from the protocol -> the values of each setting of its claims."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """Runs that differ in nothing but their seeds and what the claim compares."""

    claim: Claim
    cells: dict[str, list[Run]]
    """Setting -> its runs, which differ in nothing but their seeds."""

    @property
    def runs(self) -> list[Run]:
        """Of all cells, however far they are."""
        return [run for cell in self.cells.values() for run in cell]

    @cached_property
    def values(self) -> Samples:
        """Those of the finished runs, in the claim's unit."""
        metric, mean = self.claim.metric, statistics.fmean
        return {name: self._by_seed(cell, metric, mean, self._scale) for name, cell in self.cells.items()}

    @cached_property
    def samples(self) -> Samples:
        """The values that count."""
        seeds = self._common({name: set(values) for name, values in self.values.items()})
        return {
            name: {seed: value for seed, value in values.items() if seed in seeds[name]}
            for name, values in self.values.items()
        }

    @cached_property
    def lacking(self) -> str:
        """What is not there yet for a verdict; empty where all is."""
        return self._lacking(())

    @cached_property
    def outlook(self) -> Outlook:
        """Whether all is there, will be when the runs have finished that can, or would be if none had failed."""
        return next((outlook for outlook, states in COUNTED.items() if not self._lacking(states)), "short")

    @cached_property
    def deviations(self) -> tuple[Deviation, ...]:
        """What of any run is not the paper's."""
        return tuple(dict.fromkeys(each for run in self.runs for each in deviations(run, self.claim)))

    @property
    def n(self) -> int:
        """Seeds of the setting that has fewest."""
        return min((len(values) for values in self.samples.values()), default=0)

    @property
    def is_cut_short(self) -> bool:
        """Whether runs had not the paper's budget and were not done with it: with more they might have got further."""
        if not any(each.key == "steps" for each in self.deviations):
            return False
        fits = [observe(run, "fit/accuracy") for run in self.runs if run.state == "done"]
        return any(fit is None or fit < NEARLY_FITTED for fit in fits)

    def judged(self, rule: Rule, pools: Pools) -> Finding:
        """Return what a rule says of the samples, or why these are not what the claim is about."""
        done = next(run for run in self.runs if run.state == "done")
        guessed = chance(done, self.claim.metric)
        context = Context(
            value=self.claim.value,
            unit=self.claim.unit,
            chance=None if guessed is None else self._scale * guessed,
            num_test=done.num_test,
            is_exact=self.claim.is_exact,
            pooled=self._pooled(pools),
            budgets={name: self._by_seed(cell, "steps", min) for name, cell in self.cells.items()},
        )
        finding = rule.judge(self.samples, context)
        return replace(not_given, ours=finding.ours) if (not_given := self._not_given()) else finding

    def _pooled(self, pools: Pools) -> dict[str, Spread]:
        """Return for each setting the deviation over the seeds of all rows where its own is in line with it."""
        groups = alike(pools.get((self.claim.pool, self.deviations), ())) if self.claim.pool else []
        of_all = pool(groups)
        return {name: of_all for name, values in self.samples.items() if of_all and list(values.values()) in groups}

    def _not_given(self) -> Finding | None:
        """Say what the runs have not reached without which their numbers are not what the claim is about."""
        for metric, bound in self.claim.given.items():
            for name, cell in self.cells.items():
                where = "" if name == "all" else f" at {name}"
                found = [observe(run, metric) for run in cell if run.state == "done"]
                known = [100.0 * value for value in found if value is not None]
                if len(known) < len(found):
                    return Finding("cannot tell", "", f"{metric} is not known of {len(found) - len(known)} runs{where}")
                if known and summarise(known).mean < bound:
                    reached = shown_summary(summarise(known), "%")
                    return Finding(
                        "no", "", f"{metric} is only {reached}{where}, where {bound:g} % is taken for granted"
                    )
        return None

    @property
    def _scale(self) -> float:
        return 100.0 if self.claim.unit == "%" else 1.0

    def _by_seed(self, runs: Iterable[Run], metric: str, of_one: Mean, scale: float = 1.0) -> dict[Seed, float]:
        """Return what runs measured: those of one seed, which differ in another seed alone, are one repetition."""
        found = ((self._seed_of(run), observe(run, metric)) for run in runs)
        known = collected((seed, scale * value) for seed, value in found if value is not None)
        return {seed: of_one(values) for seed, values in known.items()}

    def _seed_of(self, run: Run) -> Seed:
        found = run.key(self.claim.repeated_by)
        return (run.seed if found is None else found,)

    def _common(self, seeds: Mapping[str, set[Seed]]) -> Mapping[str, set[Seed]]:
        """Return the seeds that count: where a rule compares run for run, those that all settings have."""
        if self.claim.rule.kind not in PAIRED or not seeds:
            return seeds
        return dict.fromkeys(seeds, set.intersection(*seeds.values()))

    def _lacking(self, states: Sequence[str]) -> str:
        """Say what a verdict needs; nothing where all is there once the runs in these states have finished."""
        claim = self.claim
        coming = {name: [run for run in cell if run.state in states] for name, cell in self.cells.items()}
        seeds = {name: {*values, *map(self._seed_of, coming[name])} for name, values in self.values.items()}
        counted = {name: len(found) for name, found in self._common(seeds).items()}
        short = {name: number for name, number in counted.items() if number < claim.seeds}
        if claim.across:
            key, least, needed = claim.across.key, claim.across.at_least, claim.across.including
            enough = [name for name in counted if name not in short]
            absent = [name for value in needed if (name := f"{value:g}") not in enough]
            if len(enough) < least or absent:
                also = f", among them {', '.join(absent)}" if absent else ""
                found = f"{len(enough)} values of {key} have {claim.seeds} seeds"
                return f"{found}, {least} are needed{also}{self._states(self.runs)}"
        if not short:
            return ""
        if claim.rule.kind in PAIRED:
            return f"{min(short.values())} of {claim.seeds} seeds finished in all settings{self._states(self.runs)}"
        name = min(short, key=lambda name: short[name])
        where = "" if name == "all" else f" of {claim.across.key}={name}" if claim.across else f" of {name}"
        return f"{short[name]} of {claim.seeds} seeds{where} finished{self._states(self.cells[name])}"

    def _states(self, runs: Sequence[Run]) -> str:
        waiting = Counter(str(run.state) for run in runs if run.state != "done")
        if without := sum(run.state == "done" and observe(run, self.claim.metric) is None for run in runs):
            waiting[f"without {self.claim.metric}"] = without
        return "".join(f", {number} {state}" for state, number in waiting.items())


def comparisons_of(claim: Claim, runs: Sequence[Run]) -> list[Comparison]:
    """Return all that can be compared: of runs that differ in more than a claim compares, each by itself.

    What may vary need not be the same in all runs of a setting: then every choice of one cell for each setting counts.
    """
    if claim.tuned:
        strong, held_out = claim.settings[claim.tuned.setting], claim.tuned.held_out
        chosen = chosen_strengths(claim, runs)
        of_all = [run for run in runs if not matches(run, held_out)]
        runs = [run for run in of_all if not matches(run, strong) or not chosen or is_tuned(run, claim, chosen)]
    groups = collected((run.setting(*SEEDS, *claim.vary), run) for run in runs)
    by_setting = [
        {name: _cells(of_setting) for name, of_setting in _by_setting(claim, group).items()}
        for group in groups.values()
    ]
    return [
        Comparison(claim, dict(zip(cells, choice, strict=True)))
        for cells in by_setting
        for choice in itertools.product(*(several or [[]] for several in cells.values()))
    ]


def pools_of(comparisons: Iterable[Comparison]) -> Pools:
    """Return what claims that share the deviation over their seeds are judged by together."""
    return collected(
        ((comparison.claim.pool, comparison.deviations), list(values.values()))
        for comparison in comparisons
        if comparison.claim.pool and not comparison.lacking
        for values in comparison.samples.values()
    )


def named(claim: Claim, comparisons: Sequence[Comparison]) -> list[str]:
    """Name each comparison by what tells its cells from those of the others."""
    if claim.across:
        return tell_apart([comparison.runs[0] for comparison in comparisons])
    apart = [tell_apart([comparison.cells[name][0] for comparison in comparisons]) for name in comparisons[0].cells]
    return [", ".join(dict.fromkeys(filter(None, texts))) for texts in zip(*apart, strict=True)]


def _by_setting(claim: Claim, runs: Sequence[Run]) -> dict[str, list[Run]]:
    if claim.settings:
        return {name: [run for run in runs if matches(run, setting)] for name, setting in claim.settings.items()}
    if claim.across:
        key = claim.across.key
        values = sorted({value for run in runs if (value := property_of(run, key)) is not None})
        return {f"{value:g}": [run for run in runs if property_of(run, key) == value] for value in values}
    return {"all": list(runs)}


def _cells(runs: Iterable[Run]) -> list[list[Run]]:
    """Put together the repetitions of a run, and true or random labels under each of their names."""
    one_axis = [name for paper in load_papers() for name in paper.one_axis]

    def cell(run: Run) -> tuple[str, float | None]:
        is_end = run.corruption in one_axis and run.level in (0.0, 1.0)
        return (run.setting(*SEEDS, "data.corruption"), run.level) if is_end else (run.setting(*SEEDS), None)

    return list(collected((cell(run), run) for run in runs).values())


def deviations(run: Run, claim: Claim) -> list[Deviation]:
    """Return what of a run is not the paper's; of an unfinished one, as far as its config tells.

    That is what the claim's protocol says otherwise, and what no part of the claim names and is not neutral.
    """
    found = []
    for key, allowed in claim.protocol.items():
        if key in MEASURED and run.state != "done":
            continue
        if isinstance(allowed, dict) and "by_model" in allowed:
            if run.model not in allowed["by_model"]:
                continue
            allowed = allowed["by_model"][run.model]
        value = property_of(run, key)
        if not is_allowed(value, allowed, key):
            found.append(Deviation(key, as_text(value), as_text(allowed)))
    named = {key for name in claim.names for key in NAMED_WITH.get(name, (name,))}
    named |= {*SEEDS, *claim.vary, *claim.leaves_open}
    return found + [
        Deviation(key, as_text(value), NOT_NAMED)
        for key, value in run.not_neutral.items()
        if not is_below(key, named) and (claim.depends_on is None or is_below(key, claim.depends_on))
    ]
