"""Who decides: each published claim, the runs that bear on it, and the verdict of its rule."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal, get_args

from rethinkgen.grouping import collected
from rethinkgen.numbers import DASH, shown_published, shown_summary
from rethinkgen.report.claim_files import CERTAINTIES, Claim, load_claims
from rethinkgen.report.comparisons import NOT_NAMED, Comparison, Deviation, Pools, comparisons_of, named, pools_of
from rethinkgen.report.rules import Finding, Judgement
from rethinkgen.report.style import facts
from rethinkgen.report.table import Table
from rethinkgen.report.tuning import untuned
from rethinkgen.run.identity import SEEDS
from rethinkgen.run.quantities import property_of
from rethinkgen.run.run import Run
from rethinkgen.run.spread import summarise
from rethinkgen.run.where import matches

Answer = Literal[
    "reproduced", "same trend", "not reproduced", "cannot tell", "not enough steps", "not enough runs", "not comparable"
]
Scope = Literal["within the protocol", "on stand-ins", "not comparable"]
ANSWERS: dict[Judgement, Answer] = {
    "yes": "reproduced",
    "no": "not reproduced",
    "cannot tell": "cannot tell",
    "not enough steps": "not enough steps",
}
"""What a rule says of runs of the protocol -> what that comes to."""
TREND: dict[Judgement, Answer] = {"yes": "same trend"}
OUTSIDE: dict[Judgement, Answer] = {**ANSWERS, **TREND, "no": "not comparable"}
WEAKEST: tuple[Answer, ...] = (
    "not reproduced", "not comparable", "cannot tell", "not enough steps", "not enough runs", "same trend",
    "reproduced",
)  # fmt: skip
"""Of several settings that a claim is stated of all: what the first says of one holds of the claim."""
NEAR = 3.0
"""How many tolerances a number may be missed by, in runs of the protocol, for the same trend to be seen in it."""
CIRCUMSTANCES = {
    "data": "on {}",
    "data.num_train": "{} examples",
    "steps": "{} steps",
    "trainer.precision": "{}",
}
"""Deviations that are told wherever a number is; all others only in the reasons."""
MOST_UNITS = 4
"""Comparisons whose numbers are printed in one cell."""
MOST_WORDS = 12
"""Of a reason, where it is told in brief."""


@dataclass(frozen=True, eq=False)
class Verdict:
    """What became of a claim.

    ``reproduced``: the claim's rule holds for runs of the paper's protocol. ``same trend``: that rule does not hold, or
    the runs are not of the protocol, but the claim's weaker rule holds; or the rule holds under some of the settings
    that the paper leaves open and not under others. Runs of the protocol that miss a number must be ``NEAR`` it too.
    ``cannot tell``: the seeds differ too much. ``not enough steps``: a budget cut short is no evidence. ``not
    comparable``: nothing is seen of it in runs outside the protocol, which contradict nothing either.
    """

    claim: Claim
    verdict: Answer
    numbers: str
    circumstances: str
    """What must stand beside the numbers."""
    n: int
    """Seeds that every mean is over, at least."""
    reason: str
    deviations: tuple[Deviation, ...]
    """What of the runs is not the paper's."""
    runs: list[Run]
    """Those that were judged."""

    @property
    def ours(self) -> str:
        """The numbers and their circumstances."""
        return ", ".join(filter(None, (self.numbers, self.circumstances)))

    @property
    def why(self) -> str:
        """The reason, after what of the runs is not the paper's."""
        odd = f"outside the paper's protocol ({'; '.join(map(str, self.deviations))})" if self.deviations else ""
        return "; ".join(filter(None, (odd, self.reason)))

    @property
    def in_brief(self) -> str:
        """The reason in ``MOST_WORDS`` words, without what the verdict says already."""
        words = self.reason.removeprefix("the trend holds: ").split()
        cut = " ".join(words[:MOST_WORDS]).rstrip(",;:")
        return f"{cut} …" if len(words) > MOST_WORDS else cut

    @property
    def scope(self) -> Scope:
        """The group that it is counted in."""
        if self.verdict == "not comparable":
            return "not comparable"
        return "within the protocol" if not self.deviations else "on stand-ins"


def judge(runs: Sequence[Run]) -> list[Verdict]:
    """Return a verdict for each claim that a run bears on, however far that run is: the user's own, then ours."""
    bearing = {claim: [run for run in runs if _bears_on(run, claim)] for claim in load_claims()}
    compared = {claim: comparisons_of(claim, found) for claim, found in bearing.items() if found}
    pools = pools_of(comparison for comparisons in compared.values() for comparison in comparisons)
    return [_verdict(claim, bearing[claim], comparisons, pools) for claim, comparisons in compared.items()]


def _bears_on(run: Run, claim: Claim) -> bool:
    if not matches(run, claim.runs) or not _is_measured_by(run, claim.metric):
        return False
    return not claim.settings or any(matches(run, setting) for setting in claim.settings.values())


def _is_measured_by(run: Run, metric: str) -> bool:
    """Whether the measure that a number is of has looked at the run, is asked to, or may be: it has not finished."""
    _, is_of_one, rest = metric.rpartition("measure/")
    called = rest.partition("/")[0]
    return (
        not is_of_one
        or run.state != "done"
        or any(fnmatchcase(each.called, called) for each in run.measured[0])
        or run.key(f"measure.{re.split(r'[(*]', called)[0]}") is not None
    )


def _verdict(claim: Claim, bearing: list[Run], comparisons: list[Comparison], pools: Pools) -> Verdict:
    """Judge the runs of the protocol, and where none of these are or will be enough, those nearest to it."""
    untold = untuned(claim, bearing) if claim.tuned else ""
    if not comparisons:
        return Verdict(claim, "not enough runs", DASH, "", 0, untold, (), bearing)
    right = [comparison for comparison in comparisons if not comparison.deviations]
    complete = [comparison for comparison in comparisons if not comparison.lacking]
    for alike in (right, _nearest(claim, comparisons, complete)):
        # What all settings must agree in is not decided by those that are finished first.
        awaited = [comparison for comparison in alike if comparison.outlook == "awaited"]
        judged = [comparison for comparison in alike if comparison.outlook == "complete"]
        if not untold and awaited:
            return _not_enough(claim, awaited, f"; finished elsewhere: {len(judged)}, all count" if judged else "")
        if not untold and judged:
            return _of_all(claim, judged, [one for one in alike if one.outlook == "failed"], pools)
    return _not_enough(claim, right or _nearest(claim, comparisons, comparisons), reason=untold)


def _nearest(claim: Claim, comparisons: Sequence[Comparison], among: Sequence[Comparison]) -> list[Comparison]:
    """Return those that deviate from the protocol as does the one that deviates least; of equals most steps, seeds."""

    def distance(comparison: Comparison) -> tuple[int, bool, float, int]:
        first = comparison.runs[0]
        steps = -float(property_of(first, "steps") or 0)
        return len(comparison.deviations), not claim.is_on_its_data(first), steps, -comparison.n

    nearest = min(among, key=distance, default=None)
    return [comparison for comparison in comparisons if nearest and comparison.deviations == nearest.deviations]


def _answer(comparison: Comparison, pools: Pools) -> tuple[Finding, Answer, str]:
    """Return what the rule of a claim finds, what that comes to, and why.

    Of runs that are not the paper's only the trend is asked: what they do not show they do not contradict.
    """
    claim = comparison.claim
    if not comparison.deviations:
        finding = comparison.judged(claim.rule, pools)
        if finding.judgement != "no":
            return finding, ANSWERS[finding.judgement], finding.why
        # The number is missed; where nobody knows of the trend, neither of the claim.
        weaker = _weaker(comparison, pools)
        if weaker is None:
            return finding, "not reproduced", f"{finding.why}; no weaker trend is claimed"
        return finding, (ANSWERS | TREND)[weaker.judgement], f"{finding.why}; {_trend_text(weaker)}"
    if claim.trend is None:
        return comparison.judged(claim.rule, pools), "not comparable", "nothing of this claim can be seen there"
    finding = comparison.judged(claim.trend, pools)
    is_cut_short = comparison.is_cut_short and not finding.holds
    return finding, "not enough steps" if is_cut_short else OUTSIDE[finding.judgement], _trend_text(finding)


def _weaker(comparison: Comparison, pools: Pools) -> Finding | None:
    """Judge runs of the protocol that miss a number by the trend; they must not miss the number by far."""
    claim = comparison.claim
    if claim.trend is None:
        return None
    finding = comparison.judged(claim.trend, pools)
    if finding.holds and claim.rule.kind == "within":
        wider = {"tolerance": NEAR * claim.rule.parameters["tolerance"]}
        if not comparison.judged(claim.rule.model_copy(update=wider), pools).holds:
            return Finding("no", finding.ours, f"more than {NEAR:g} times the tolerance away")
    return finding


def _trend_text(finding: Finding) -> str:
    words = {"yes": "holds", "no": "does not hold"}
    return f"the trend {words.get(finding.judgement, 'cannot be told')}: {finding.why}"


def _not_enough(claim: Claim, comparisons: Sequence[Comparison], besides: str = "", reason: str = "") -> Verdict:
    nearest = max(comparisons, key=lambda comparison: comparison.n)
    means = {
        name: shown_summary(summarise(list(values.values())), claim.unit)
        for name, values in nearest.values.items()
        if values
    }
    told = ", ".join(text if name == "all" else f"{name}: {text}" for name, text in means.items())
    around = _circumstances(nearest) if told else ""
    reason = (reason or nearest.lacking) + besides
    return Verdict(claim, "not enough runs", told or DASH, around, nearest.n, reason, nearest.deviations, nearest.runs)


def _of_all(claim: Claim, comparisons: list[Comparison], failed: list[Comparison], pools: Pools) -> Verdict:
    """Judge each setting that a claim is stated of, and say what all of them come to."""
    findings, answers, reasons = zip(*(_answer(comparison, pools) for comparison in comparisons), strict=True)
    answer = _combined(claim, comparisons, answers)
    names = named(claim, comparisons)
    besides = [f"not judged: {one.lacking}" for one in failed if not one.deviations]
    weakest = [name for name, one in zip(names, answers, strict=True) if one == answer and name]
    if len(set(answers)) > 1 and weakest and answer != "same trend":
        reasons = tuple(reason for reason, one in zip(reasons, answers, strict=True) if one == answer)
        besides = [f"weakest of {len(answers)} settings: {', '.join(weakest)}", *besides]
    texts = [f"{name}: {found.ours}" if name else found.ours for name, found in zip(names, findings, strict=True)]
    if len({finding.ours for finding in findings}) == 1:
        texts = [findings[0].ours]
    more = [f"and {len(texts) - MOST_UNITS} more"] if len(texts) > MOST_UNITS else []
    return Verdict(
        claim,
        answer,
        "; ".join([*texts[:MOST_UNITS], *more]),
        _circumstances(*comparisons),
        min(comparison.n for comparison in comparisons),
        "; ".join(dict.fromkeys(filter(None, [*reasons, *besides]))),
        comparisons[0].deviations,
        list(dict.fromkeys(run for comparison in comparisons for run in comparison.runs)),
    )


def _combined(claim: Claim, comparisons: Sequence[Comparison], answers: Sequence[Answer]) -> Answer:
    """Return what several settings come to: as weak as the weakest, but for those that the paper leaves open.

    Where it holds under some of these and not under others, it is the same trend.
    """
    settings = [one.runs[0].setting(*SEEDS, *claim.vary, *claim.leaves_open) for one in comparisons]
    mixed = ({"reproduced", "same trend"}, {"not reproduced", "not comparable"})
    found: list[Answer] = [
        "same trend" if all(each.intersection(kinds) for each in mixed) else min(kinds, key=WEAKEST.index)
        for kinds in collected(zip(settings, answers, strict=True)).values()
    ]
    return min(found, key=WEAKEST.index)


def _circumstances(*comparisons: Comparison) -> str:
    """Return what must stand beside a number: what its steps count to, data that are not the paper's, budget."""
    metric = comparisons[0].claim.metric
    found = collected((each.key, each.value) for comparison in comparisons for each in comparison.deviations)
    told = [text.format(_from_to(found[key])) for key, text in CIRCUMSTANCES.items() if key in found]
    milestone = facts(metric).counted_to
    return ", ".join(([f"counted to {milestone}"] if milestone else []) + told)


def _from_to(values: Sequence[str]) -> str:
    """Return the one value, the least and the largest of several numbers, or all."""
    several = list(dict.fromkeys(values))
    try:
        ordered = sorted(several, key=lambda value: float(value.replace(",", "")))
    except ValueError:
        return " and ".join(several)
    return ordered[0] if len(ordered) == 1 else f"{ordered[0]} to {ordered[-1]}"


def departures(verdicts: Sequence[Verdict]) -> list[str]:
    """Return what of the judged runs is not the paper's, each key once: ``data: digits instead of cifar10``."""
    all_of_them = dict.fromkeys(each for verdict in verdicts for each in verdict.deviations)
    found = collected(((each.key, each.wanted), each.value) for each in all_of_them)
    return [
        f"{key}: {_from_to(values)}{', not ' if wanted == NOT_NAMED else ' instead of '}{wanted}"
        for (key, wanted), values in found.items()
    ]


def count(verdicts: Sequence[Verdict]) -> dict[Scope, dict[Answer, int]]:
    """Return how many of the verdicts that count are of each kind, apart for each scope, without those of none."""
    found = Counter((verdict.scope, verdict.verdict) for verdict in verdicts if verdict.claim.is_counted)
    counts: dict[Scope, dict[Answer, int]] = {
        scope: {answer: found[scope, answer] for answer in get_args(Answer) if found[scope, answer]}
        for scope in get_args(Scope)
    }
    return {scope: numbers for scope, numbers in counts.items() if numbers}


def headline(verdicts: Sequence[Verdict]) -> str:
    """Say how many verdicts that count are of each kind: ``within the protocol 1 reproduced; 3 not comparable``."""
    texts = []
    for scope, numbers in count(verdicts).items():
        told = ", ".join(f"{number} {answer}" for answer, number in numbers.items())
        texts.append(told if scope == "not comparable" else f"{scope} {told}")
    return "; ".join(texts) or "none"


def main_table(verdicts: Sequence[Verdict]) -> Table:
    """Return README's table: experiment, command, published, ours, n, verdict."""
    from pandas import DataFrame

    rows: list[list[str | float | None]] = []
    raw = []
    for verdict in verdicts:
        claim, counted = verdict.claim, verdict.claim.is_counted
        told = verdict.verdict if counted else f"{verdict.verdict} (not counted: from memory)"
        statement = f"{claim.item}: {claim.statement}"
        rows.append([statement, claim.command, published(claim), verdict.ours, str(verdict.n), told])
        raw.append(
            {"claim": claim.id, "item": claim.item, "statement": claim.statement, "command": claim.command}
            | {"published": claim.value, "published_as": published(claim), "unit": claim.unit}
            | {"certainty": claim.certainty, "ours": verdict.ours, "n": verdict.n, "verdict": verdict.verdict}
            | {"scope": verdict.scope, "counted": counted, "why": verdict.why, "rule": claim.rule.because}
        )
    columns = ["experiment", "command", "published", "ours", "n", "verdict"]
    return Table("claims", "Published and ours", f"Counted: {headline(verdicts)}.", columns, rows, DataFrame(raw))


def published(claim: Claim) -> str:
    """Return the published number or statement as a text, marked where it is not certain."""
    text = claim.published or (shown_published(claim.value, claim.unit) if claim.value is not None else claim.statement)
    return text if claim.certainty == "verified" else f"{text} ({claim.certainty})"


def certainty_marks(verdicts: Sequence[Verdict]) -> dict[str, str]:
    """Return what each mark beside a published item means, of those that stand there."""
    found = {verdict.claim.certainty for verdict in verdicts}
    return {mark: meaning for mark, meaning in CERTAINTIES.items() if mark in found and mark != "verified"}
