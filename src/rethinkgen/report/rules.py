"""The rules that decide a claim: a small closed set, each a pure function of what the runs measured.

A rule is chosen, with its tolerance and the reason for it, before anything is run: in ``published/*.yaml``. It sees
``Samples`` in the claim's unit, and judges means over seeds by their 95 % intervals (Student's t): before it says yes
or no it asks whether the runs can tell. What a run never reached, such as the step at which it fits, is infinite.
``docs/how_claims_are_judged.md`` has the error rates.
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from rethinkgen.numbers import shown, shown_published, shown_summary
from rethinkgen.run.spread import CONFIDENCE, Spread, binomial_error, half_width, own_spread, summarise

Seed = tuple[Any, ...]
Samples = Mapping[str, Mapping[Seed, float]]
"""Name of a setting -> seed -> value; settings in the order of the claim, levels from low to high."""
Judgement = Literal["yes", "no", "cannot tell", "not enough steps"]
MOST_SEEDS = 1000
"""More are not asked for."""


@dataclass(frozen=True)
class Finding:
    """What a rule says."""

    judgement: Judgement
    ours: str
    """The numbers that it looked at."""
    why: str

    @property
    def holds(self) -> bool:
        """Whether the runs show that it is so."""
        return self.judgement == "yes"


@dataclass(frozen=True)
class Context:
    """What a rule may need to know besides the samples."""

    value: float | None
    """As published."""
    unit: str
    chance: float | None
    """Of an accuracy in the claim's unit."""
    num_test: int | None
    """Examples of the test set, which all runs share."""
    is_exact: bool = False
    """Whether no seed changes the number: then one run tells."""
    pooled: Mapping[str, Spread] = field(default_factory=dict)
    """Setting -> deviation over the seeds of all rows of its table, where that stands in for the setting's own."""
    budgets: Samples = field(default_factory=dict)
    """The steps that every run was given: what it did not reach lies beyond."""

    @property
    def published(self) -> float:
        """The value, which a claim has whose rule compares with it."""
        assert self.value is not None
        return self.value


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds, or a difference of two."""

    mean: float
    n: int
    spread: Spread | None
    """Nothing where one run alone says nothing of it."""

    @property
    def half(self) -> float:
        """Half the width of its 95 % interval."""
        return half_width(self.spread, self.n)

    @property
    def low(self) -> float:
        """The interval's lower end."""
        return self.mean - self.half

    @property
    def high(self) -> float:
        """The interval's upper end."""
        return self.mean + self.half


def within(samples: Samples, context: Context, *, tolerance: float) -> Finding:
    """The mean differs from the published value by no more than the tolerance; with none, every run has that value."""
    value, unit = context.published, context.unit
    (name,) = samples
    values = list(samples[name].values())
    ours = shown_summary(summarise(values), unit)
    if tolerance == 0:
        wrong = [one for one in values if not math.isclose(one, value, rel_tol=1e-9, abs_tol=1e-9)]
        told = f"{shown(wrong[0], unit)} is not {shown_published(value, unit)}" if wrong else "exactly as published"
        return Finding("no" if wrong else "yes", ours, told)
    estimate = _estimate(values, context, name)
    difference = estimate.mean - value
    gap = shown(difference, "points") if unit == "%" else shown(difference, unit)
    why = f"{gap} from the published {shown_published(value, unit)}, where {_number(tolerance)} is allowed"
    return _in_range(replace(estimate, mean=difference), -tolerance, tolerance, ours, why)


def at_least(samples: Samples, context: Context, *, bound: float) -> Finding:
    """The mean of every setting reaches the bound, its interval included."""
    return _bounded(samples, context, bound, math.inf, f"at least {shown(bound, context.unit)}")


def at_most(samples: Samples, context: Context, *, bound: float) -> Finding:
    """The mean of no setting exceeds the bound, its interval included."""
    return _bounded(samples, context, -math.inf, bound, f"at most {shown(bound, context.unit)}")


def lead_over_chance(samples: Samples, context: Context, *, share: float) -> Finding:
    """The mean is better than chance by at least this share of what the published value is; errors are better below."""
    if context.chance is None:
        return Finding("cannot tell", _listed(samples, context), "the number of classes is not known")
    bound = context.chance + share * (context.published - context.chance)
    is_error = context.published < context.chance
    return at_most(samples, context, bound=bound) if is_error else at_least(samples, context, bound=bound)


def at_chance(samples: Samples, context: Context, *, sigmas: float, widest: float) -> Finding:
    """The mean is chance, but for so many binomial errors of the test set, which must be no more than ``widest``.

    All runs share the test set: its error is that of one test of its size, however many seeds there are, and is what
    is allowed. What seeds differ by counts once, as the half-width of the mean's interval.
    """
    (name,) = samples
    values = list(samples[name].values())
    ours = shown_summary(summarise(values), context.unit)
    if context.chance is None or context.num_test is None:
        return Finding("cannot tell", ours, "neither chance nor the size of the test set is known")
    scale = 100.0 if context.unit == "%" else 1.0
    # The error's is that of the accuracy: p and 1 - p enter alike.
    tolerance = sigmas * scale * binomial_error(context.chance / scale, context.num_test)
    asked = f"{_number(sigmas)} binomial errors of the test set are {tolerance:.2g} {context.unit}".rstrip()
    if not _is_at_most(tolerance, widest):
        return Finding("cannot tell", ours, f"the test set is too small: {asked}, where {_number(widest)} are allowed")
    estimate = _estimate(values, context, name)
    difference = estimate.mean - context.chance
    why = f"{difference:+.2g} from chance; {asked}"
    return _in_range(replace(estimate, mean=difference), -tolerance, tolerance, ours, why)


def order(samples: Samples, context: Context, *, groups: Sequence[Sequence[str]], margin: float = 0.0) -> Finding:
    """Every setting of a group has a smaller mean, by more than the margin, than every setting of a later group."""
    pairs = [
        (first, second)
        for place, group in enumerate(groups)
        for first in group
        for second in (name for later in groups[place + 1 :] for name in later)
    ]
    judged = {f"{one} < {other}": _judge_gain(samples, context, one, other, margin, _gain) for one, other in pairs}
    expected = " < ".join(", ".join(group) for group in groups)
    return _weakest(judged, _listed(samples, context), f"in the order {expected}", "out of order")


def rising(samples: Samples, context: Context, *, slack: float, rise: float) -> Finding:
    """From a setting to the next the mean never falls by more than the slack; from first to last it gains the rise."""
    return _rising(samples, context, slack, rise, _gain)


def rising_ratio(samples: Samples, context: Context, *, slack: float, rise: float) -> Finding:
    """As ``rising``, of every setting's ratio to the first, run for run of the same seed; slack and rise are ratios."""
    ratios, budgets = _ratios(samples, context)
    if not all(ratios.values()):
        return Finding("cannot tell", "", "no two runs share a seed")
    return _rising(ratios, replace(context, unit="x", budgets=budgets), slack, rise, _paired_gain)


def ratio(samples: Samples, context: Context, *, low: float, high: float) -> Finding:
    """Of every setting to the first, run for run of the same seed, the mean ratio lies in the range."""
    ratios, budgets = _ratios(samples, context)
    first = next(iter(samples))
    others = {name: values for name, values in ratios.items() if name != first}
    seen = {name: values for name, values in others.items() if values}
    asked = f"{_number(low)} to {_number(high)} times"
    ours = _listed(seen, replace(context, unit="x"))
    if not seen:
        return Finding("cannot tell", ours, "no two runs share a seed")
    judged = {name: _judge_ratio(values, context, budgets[name], low, high) for name, values in seen.items()}
    return _weakest(judged, ours, f"all within {asked}", f"outside {asked}", unreached="not fitted in the budget")


def _judge_ratio(
    values: Mapping[Seed, float], context: Context, budgets: Mapping[Seed, float], low: float, high: float
) -> Finding:
    if math.inf in values.values():
        bound = _estimate([min(value, budgets[seed]) for seed, value in values.items()], context)
        # Only its least is known: enough where even that is too much.
        is_beyond = math.isfinite(bound.mean) and bound.low > high
        told = f"more than {shown(bound.mean, 'x')}" if math.isfinite(bound.mean) else ""
        return Finding("no" if is_beyond else "not enough steps", "", told)
    estimate = _estimate(list(values.values()), context)
    return _in_range(estimate, low, high, "", shown(estimate.mean, "x"))


def difference(samples: Samples, context: Context, *, low: float, high: float = math.inf) -> Finding:
    """The first setting's value less the second's, run for run of the same seed, has its mean in the range.

    Without ``high`` the whole interval lies above ``low``.
    """
    first, second = samples.values()
    differences = [value - second[seed] for seed, value in first.items() if seed in second]
    if not differences:
        return Finding("cannot tell", "", "no two runs share a seed")
    estimate = _estimate(differences, context)
    unit = "points" if context.unit == "%" else context.unit
    asked = f"at least {_number(low)}" if high == math.inf else f"{_number(low)} to {_number(high)}"
    ours = shown_summary(summarise(differences), unit)
    return _in_range(estimate, low, high, ours, f"{ours}, where {asked} is asked")


RULES: dict[str, Callable[..., Finding]] = {
    rule.__name__: rule
    for rule in (within, at_least, at_most, lead_over_chance, at_chance, order, rising, rising_ratio, ratio, difference)
}


PAIRED = ("ratio", "rising_ratio", "difference")
"""Rules that compare run for run of the same seed: they are given the seeds that all settings have."""


def _estimate(values: Sequence[float], context: Context, setting: str | None = None) -> Estimate:
    pooled = context.pooled.get(setting) if setting is not None else None
    spread = Spread(0.0, 1) if context.is_exact else pooled or own_spread(values)
    return Estimate(summarise(values).mean, len(values), spread)


def _gain(samples: Samples, context: Context, first: str, second: str) -> Estimate:
    """Return the second's mean less the first's, by Welch: spreads may differ."""
    one, other = (_estimate(list(samples[name].values()), context, name) for name in (first, second))
    # Of as many seeds as the smaller one has: what more of both would do.
    mean, n = other.mean - one.mean, min(one.n, other.n)
    if one.spread is None or other.spread is None:
        return Estimate(mean, n, None)
    parts = [(each.spread.deviation**2 / each.n, each.spread.df) for each in (one, other) if each.spread]
    variance = sum(part for part, _ in parts)
    df = variance**2 / sum(part**2 / df for part, df in parts) if variance else 1.0
    return Estimate(mean, n, Spread(math.sqrt(variance * n), df))


def _paired_gain(samples: Samples, context: Context, first: str, second: str) -> Estimate:
    shared = [seed for seed in samples[first] if seed in samples[second]]
    return _estimate([samples[second][seed] - samples[first][seed] for seed in shared], context)


Gain = Callable[[Samples, Context, str, str], Estimate]


def _judge_gain(
    samples: Samples, context: Context, first: str, second: str, least: float, gain: Gain, asked: str = ""
) -> Finding:
    """Judge by how much the second is more than the first; where nothing else varies it must be more, not the same."""
    if not all(map(math.isfinite, [*samples[first].values(), *samples[second].values()])):
        return _judge_unreached(samples, context, first, second, least, gain)
    found = gain(samples, context, first, second)
    told = f"{found.mean:+,.4g}{asked}"
    if found.half == 0 and not asked:
        return Finding("yes" if found.mean > 0 and _is_at_most(least, found.mean) else "no", "", told)
    return _in_range(found, least, math.inf, "", told)


def _judge_unreached(samples: Samples, context: Context, first: str, second: str, least: float, gain: Gain) -> Finding:
    """Judge a gain of which one end was not reached: it lies beyond its budget, which may be enough for a no."""
    bounds = {seed: min(value, _budget(context, first, seed)) for seed, value in samples[first].items()}
    if all(map(math.isfinite, [*samples[second].values(), *bounds.values()])):
        most = gain({first: bounds, second: samples[second]}, context, first, second)
        if most.high < least:
            return Finding("no", "", "")
    return Finding("not enough steps", "", "")


def _budget(context: Context, setting: str, seed: Seed) -> float:
    return context.budgets.get(setting, {}).get(seed, math.inf)


def _rising(samples: Samples, context: Context, slack: float, rise: float, gain: Gain) -> Finding:
    names = list(samples)
    ends = {
        **{f"{first} to {second}": (first, second, -slack) for first, second in itertools.pairwise(names)},
        "from first to last": (names[0], names[-1], rise),
    }
    judged = {
        what: _judge_gain(
            samples, context, first, second, least, gain, f", where no less than {_number(least)} is asked"
        )
        for what, (first, second, least) in ends.items()
    }
    low, high = (summarise(list(samples[name].values())).mean for name in (names[0], names[-1]))
    right = f"rises, by {_number(high - low)} in all"
    return _weakest(judged, _listed(samples, context), right, "does not rise")


def _ratios(samples: Samples, context: Context) -> tuple[Samples, Samples]:
    """Return every value, and every budget, over the value of the first setting of the same seed."""
    base = next(iter(samples.values()))
    ratios = {
        name: {seed: _ratio(value, base[seed]) for seed, value in values.items() if seed in base}
        for name, values in samples.items()
    }
    budgets = {
        name: {seed: _ratio(_budget(context, name, seed), base[seed]) for seed in values}
        for name, values in ratios.items()
    }
    return ratios, budgets


def _bounded(samples: Samples, context: Context, low: float, high: float, asked: str) -> Finding:
    means = {name: _estimate(list(values.values()), context, name) for name, values in samples.items()}
    judged = {name: _in_range(mean, low, high, "", shown(mean.mean, context.unit)) for name, mean in means.items()}
    return _weakest(judged, _listed(samples, context), asked, f"not {asked}", unclear=f"{asked} cannot be told")


def _in_range(estimate: Estimate, low: float, high: float, ours: str, why: str) -> Finding:
    """Judge a mean by a range, or by a bound where one end is infinite.

    Against a bound the whole interval must lie on its right side for a yes, on its wrong side for a no. Within a range
    the mean decides where the interval's half-width is no more than half the range; else the runs can tell at most
    that all of the interval lies outside.
    """
    if not math.isfinite(estimate.mean):
        return Finding("not enough steps", ours, "" if ours == "" else "not reached in the budget")
    if not _is_at_most(low, estimate.high) or not _is_at_most(estimate.low, high):
        return Finding("no", ours, why)
    tolerance = (high - low) / 2
    if math.isinf(tolerance):
        if _is_at_most(low, estimate.low) and _is_at_most(estimate.high, high):
            return Finding("yes", ours, why)
        room = estimate.mean - low if math.isinf(high) else high - estimate.mean
        return Finding("cannot tell", ours, f"{why}; {_more_seeds(estimate, room)}")
    if not _is_at_most(estimate.half, tolerance):
        return Finding("cannot tell", ours, f"{why}; {_more_seeds(estimate, tolerance)}")
    is_inside = _is_at_most(low, estimate.mean) and _is_at_most(estimate.mean, high)
    return Finding("yes" if is_inside else "no", ours, why)


def _more_seeds(estimate: Estimate, room: float) -> str:
    """Say how many more seeds would tell, if they differ as these do."""
    if estimate.spread is None:
        return "of one run nobody knows the spread: 2 more seeds would show it"
    told = f"the mean is only known to ± {_number(estimate.half)}"
    room = abs(room)
    for n in range(estimate.n + 1, estimate.n + MOST_SEEDS):
        grown = replace(estimate.spread, df=estimate.spread.df + n - estimate.n)
        if room > 0 and half_width(grown, n) <= room:
            more = n - estimate.n
            return f"{told}: {more} more seed{'' if more == 1 else 's'} would tell"
    return f"{told}: more than {MOST_SEEDS:,} more seeds would be needed"


def _weakest(
    judged: Mapping[str, Finding],
    ours: str,
    right: str,
    wrong: str,
    unclear: str = "cannot be told",
    unreached: str = "not reached in the budget",
) -> Finding:
    """Return what several findings, which are named, come to: one no is a no, one doubt leaves all in doubt."""
    words: dict[Judgement, str] = {"no": wrong, "cannot tell": unclear, "not enough steps": unreached}
    for judgement, told in words.items():
        named = [
            found.why if name == "all" else f"{name} ({found.why})" if found.why else name
            for name, found in judged.items()
            if found.judgement == judgement
        ]
        if named:
            return Finding(judgement, ours, f"{told}: {', '.join(named)}")
    return Finding("yes", ours, right)


def _listed(samples: Samples, context: Context) -> str:
    texts = {
        name: shown_summary(summarise(list(values.values())), context.unit)
        for name, values in samples.items()
        if values
    }
    return (
        next(iter(texts.values())) if len(texts) == 1 else ", ".join(f"{name}: {text}" for name, text in texts.items())
    )


def _ratio(value: float, base: float) -> float:
    return math.inf if math.isinf(value) or math.isinf(base) or base == 0 else value / base


def _is_at_most(value: float, limit: float) -> bool:
    # 85.75 + 2.0 and 87.75 are the same number to a reader, not to a float.
    return value <= limit or math.isclose(value, limit, rel_tol=1e-9)


def _number(value: float) -> str:
    if not math.isfinite(value):
        return "no known number" if math.isnan(value) else "more than the budget"
    return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def pool(groups: Sequence[Sequence[float]]) -> Spread | None:
    """Return the deviation over all seeds of several settings, each about its own mean; nothing of single runs."""
    squares = sum((len(group) - 1) * statistics.variance(group) for group in groups if len(group) > 1)
    df = sum(len(group) - 1 for group in groups if len(group) > 1)
    return Spread(math.sqrt(squares / df), df) if df else None


def alike(groups: Sequence[Sequence[float]]) -> list[Sequence[float]]:
    """Return the settings whose variances differ by no more than chance, by Bartlett's test.

    Those of the largest variance are left out, one by one, until the others agree; and what has no spread at all.
    """
    spread = [group for group in groups if (own := own_spread(group)) is not None and own.deviation > 0]
    left = sorted(spread, key=statistics.variance)
    while len(left) > 1 and not _has_one_variance(left):
        left.pop()
    return left if len(left) > 1 else []


def _has_one_variance(groups: Sequence[Sequence[float]]) -> bool:
    from scipy.special import chdtri  # see ``half_width``

    dfs = [len(group) - 1 for group in groups]
    of_all = pool(groups)
    assert of_all is not None
    pairs = zip(dfs, groups, strict=True)
    statistic = of_all.df * 2 * math.log(of_all.deviation) - sum(
        df * math.log(statistics.variance(group)) for df, group in pairs
    )
    correction = 1 + (sum(1 / df for df in dfs) - 1 / of_all.df) / (3 * (len(groups) - 1))
    return statistic / correction <= float(chdtri(len(groups) - 1, 1 - CONFIDENCE))
