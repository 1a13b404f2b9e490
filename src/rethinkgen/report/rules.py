"""The rules that decide a claim: a small closed set, each a pure function of what the runs measured.

A rule is chosen, with its tolerance and the reason for it, before anything is run: in ``published/*.yaml``. It sees
``Samples`` in the claim's unit, and judges means over seeds. What a run never reached, such as the step at which it
fits, is infinite.
"""

from __future__ import annotations

import inspect
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rethinkgen.report.numbers import Summary, shown, shown_published, shown_summary, summarise

Seed = tuple[Any, ...]
Samples = Mapping[str, Mapping[Seed, float]]
"""Name of a setting -> seed -> value; settings in the order of the claim, levels from low to high."""


@dataclass(frozen=True)
class Finding:
    """What a rule says."""

    holds: bool
    ours: str
    """The numbers that it looked at."""
    why: str


@dataclass(frozen=True)
class Context:
    """What a rule may need to know besides the samples."""

    value: float | None
    """As published."""
    unit: str
    chance: float | None
    """Of an accuracy in the claim's unit."""
    num_test: int | None
    """Examples that a test accuracy is measured on."""


def within(samples: Samples, context: Context, *, tolerance: float) -> Finding:
    """The mean differs from the published value by no more than the tolerance."""
    value, unit = _published(context), context.unit
    summary = _only(samples)
    difference = summary.mean - value
    gap = shown(difference, "points") if unit == "%" else shown(difference, unit)
    why = f"{gap} from the published {shown_published(value, unit)}, where {_number(tolerance)} is allowed"
    return Finding(_is_at_most(abs(difference), tolerance), shown_summary(summary, unit), why)


def at_least(samples: Samples, context: Context, *, bound: float) -> Finding:
    """The mean of every setting reaches the bound."""
    return _bounded(samples, context, lambda mean: _is_at_most(bound, mean), f"at least {shown(bound, context.unit)}")


def at_most(samples: Samples, context: Context, *, bound: float) -> Finding:
    """The mean of no setting exceeds the bound."""
    return _bounded(samples, context, lambda mean: _is_at_most(mean, bound), f"at most {shown(bound, context.unit)}")


def lead_over_chance(samples: Samples, context: Context, *, share: float) -> Finding:
    """The mean is better than chance by at least this share of what the published value is; errors are better below."""
    if context.chance is None:
        return Finding(False, shown_summary(_only(samples), context.unit), "the number of classes is not known")
    bound = context.chance + share * (_published(context) - context.chance)
    is_error = _published(context) < context.chance
    return at_most(samples, context, bound=bound) if is_error else at_least(samples, context, bound=bound)


def at_chance(samples: Samples, context: Context, *, sigmas: float, widest: float) -> Finding:
    """The mean is chance, but for so many standard errors, which must be no more than ``widest``.

    The error is that of the test set's size (binomial, as if every run had a test set of its own) and of the spread
    over seeds, added in squares.
    """
    summary = _only(samples)
    ours = shown_summary(summary, context.unit)
    if context.chance is None or (context.num_test is None and summary.deviation is None):
        return Finding(False, ours, "neither the size of the test set nor a spread over seeds is known")
    scale = 100.0 if context.unit == "%" else 1.0
    share = context.chance / scale
    # The error's is that of the accuracy: p and 1 - p enter alike.
    binomial = 0.0 if context.num_test is None else share * (1 - share) / context.num_test * scale**2
    half_width = sigmas * math.sqrt((binomial + (summary.deviation or 0.0) ** 2) / summary.n)
    interval = f"{context.chance - half_width:.2f} to {context.chance + half_width:.2f} {context.unit}"
    if not _is_at_most(half_width, widest):
        return Finding(False, ours, f"runs differ too much to tell: {interval}")
    holds = _is_at_most(abs(summary.mean - context.chance), half_width)
    where = "inside" if holds else "outside"
    return Finding(holds, ours, f"{where} {interval} (chance and {_number(sigmas)} standard errors)")


def order(samples: Samples, context: Context, *, groups: Sequence[Sequence[str]], margin: float = 0.0) -> Finding:
    """Every setting of a group has a smaller mean, by at least the margin, than every setting of a later group."""
    means = {name: summarise(list(values.values())).mean for name, values in samples.items()}
    wrong = [
        f"{first} is not below {second}"
        for place, group in enumerate(groups)
        for first in group
        for second in (name for later in groups[place + 1 :] for name in later)
        if not (means[first] < means[second] and _is_at_most(margin, means[second] - means[first]))
    ]
    expected = " < ".join(", ".join(group) for group in groups)
    return Finding(not wrong, _listed(samples, context), "; ".join(wrong) if wrong else f"in the order {expected}")


def rising(samples: Samples, context: Context, *, slack: float, rise: float) -> Finding:
    """From a setting to the next the mean never falls by more than the slack; from first to last it gains the rise."""
    means = {name: summarise(list(values.values())).mean for name, values in samples.items()}
    names = list(means)
    falls = [
        f"falls from {first} to {second} by {_number(means[first] - means[second])}"
        for first, second in itertools.pairwise(names)
        if means[second] < means[first] and not _is_at_most(means[first] - means[second], slack)
    ]
    gained = means[names[-1]] - means[names[0]]
    falls += [
        f"neither {first} nor {second} is reached"
        for first, second in itertools.pairwise(names)
        if math.isinf(means[first]) and math.isinf(means[second])
    ]
    if not _is_at_most(rise, gained):
        falls.append(f"gains {_number(gained)} in all, where {_number(rise)} is expected")
    steadily = f"no step back of more than {_number(slack)}, and a gain of {_number(gained)}"
    return Finding(not falls, _listed(samples, context), "; ".join(falls) or steadily)


def rising_ratio(samples: Samples, context: Context, *, slack: float, rise: float) -> Finding:
    """As ``rising``, of every setting's ratio to the first, run for run of the same seed; slack and rise are ratios."""
    base = next(iter(samples.values()))
    ratios = {
        name: {seed: _ratio(value, base[seed]) for seed, value in values.items() if seed in base}
        for name, values in samples.items()
    }
    return rising(ratios, Context(None, "x", None, context.num_test), slack=slack, rise=rise)


def ratio(samples: Samples, context: Context, *, low: float, high: float) -> Finding:
    """Of every setting to the first, run for run of the same seed, the mean ratio lies in the range."""
    names = list(samples)
    base = samples[names[0]]
    ratios = {
        name: {seed: _ratio(value, base[seed]) for seed, value in samples[name].items() if seed in base}
        for name in names[1:]
    }
    means = {name: summarise(list(values.values())).mean for name, values in ratios.items() if values}
    wrong = [f"{shown(mean, 'x')} at {name}" for name, mean in means.items() if not _is_between(low, mean, high)]
    asked = f"{_number(low)} to {_number(high)} times"
    why = f"outside {asked}: {', '.join(wrong)}" if wrong else f"all within {asked}"
    return Finding(bool(means) and not wrong, _listed(ratios, Context(None, "x", None, None)), why)


def difference(samples: Samples, context: Context, *, low: float, high: float) -> Finding:
    """The first setting's value less the second's, run for run of the same seed, has its mean in the range."""
    first, second = samples.values()
    differences = [value - second[seed] for seed, value in first.items() if seed in second]
    if not differences:
        return Finding(False, "", "no two runs share a seed")
    summary = summarise(differences)
    unit = "points" if context.unit == "%" else context.unit
    asked = f"{_number(low)} to {_number(high)}"
    holds = _is_between(low, summary.mean, high)
    return Finding(holds, shown_summary(summary, unit), f"{'within' if holds else 'outside'} {asked}")


RULES: dict[str, Callable[..., Finding]] = {
    rule.__name__: rule
    for rule in (within, at_least, at_most, lead_over_chance, at_chance, order, rising, rising_ratio, ratio, difference)
}


PAIRED = ("ratio", "rising_ratio", "difference")
"""Rules that compare run for run of the same seed: they are given the seeds that all settings have."""


def parameters(rule: Callable[..., Finding]) -> dict[str, bool]:
    """Return the names of a rule's own parameters, and whether each must be given."""
    return {
        name: parameter.default is inspect.Parameter.empty
        for name, parameter in inspect.signature(rule).parameters.items()
        if parameter.kind is inspect.Parameter.KEYWORD_ONLY
    }


def _bounded(samples: Samples, context: Context, is_right: Callable[[float], bool], asked: str) -> Finding:
    means = {name: summarise(list(values.values())).mean for name, values in samples.items()}
    wrong = [name for name, mean in means.items() if not is_right(mean)]
    named = f" ({', '.join(wrong)})" if wrong and len(samples) > 1 else ""
    return Finding(not wrong, _listed(samples, context), f"{'not ' if wrong else ''}{asked}{named}")


def _only(samples: Samples) -> Summary:
    (values,) = samples.values()
    return summarise(list(values.values()))


def _published(context: Context) -> float:
    assert context.value is not None
    return context.value


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


def _is_between(low: float, value: float, high: float) -> bool:
    return _is_at_most(low, value) and _is_at_most(value, high)


def _number(value: float) -> str:
    if not math.isfinite(value):
        return "no known number" if math.isnan(value) else "more than the budget"
    return f"{value:,.4g}" if abs(value) < 1e4 else f"{value:,.0f}"
