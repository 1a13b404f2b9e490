"""Who decides: each published claim, the runs that bear on it, and the verdict of its rule."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from rethinkgen.report.claim_files import CERTAINTIES, Claim, Rule, load_claims
from rethinkgen.report.numbers import DASH, shown_published, shown_summary, summarise
from rethinkgen.report.quantities import chance, deviations, matches, num_test, observe, property_of, tell_apart
from rethinkgen.report.rules import Context, Finding, Samples, Seed
from rethinkgen.report.runs import SEEDS, Run
from rethinkgen.report.tables import Table

Answer = Literal["reproduced", "same trend", "not reproduced", "not enough runs"]
ANSWERS: tuple[Answer, ...] = ("reproduced", "same trend", "not reproduced", "not enough runs")
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


@dataclass(frozen=True, eq=False)
class Verdict:
    """What became of a claim.

    ``reproduced``: the claim's rule holds for runs of the paper's protocol. ``same trend``: that rule does not hold, or
    the runs are not of the protocol, but the claim's weaker rule holds; or the rule holds under some of the settings
    that the paper leaves open and not under others. Runs of the protocol that miss a number must be ``NEAR`` it too.
    """

    claim: Claim
    verdict: Answer
    ours: str
    n: int
    """Seeds that every mean is over, at least."""
    why: str
    runs: list[Run]
    """Those that were judged."""

    @property
    def is_counted(self) -> bool:
        """Whether it belongs into "n of m reproduced": not where the published item is only remembered."""
        return self.claim.is_counted


@dataclass(frozen=True, eq=False)
class Comparison:
    """Runs that differ in nothing but their seeds and what the claim compares."""

    runs: list[Run]
    samples: Samples
    deviations: tuple[str, ...]
    lacking: str
    """What is not there yet for a verdict; empty where all is."""

    @property
    def n(self) -> int:
        """Seeds of the setting that has fewest."""
        return min((len(values) for values in self.samples.values()), default=0)


def judge(runs: Sequence[Run]) -> list[Verdict]:
    """Return a verdict for each claim that a run bears on, however far that run is; in the order of the papers."""
    verdicts = (_verdict(claim, runs) for claim in load_claims())
    return [verdict for verdict in verdicts if verdict is not None]


def count(verdicts: Sequence[Verdict]) -> dict[str, int]:
    """Return how many of the verdicts that count are of each kind, kinds without any among them."""
    found = Counter(verdict.verdict for verdict in verdicts if verdict.is_counted)
    return {answer: found[answer] for answer in ANSWERS}


def main_table(verdicts: Sequence[Verdict]) -> Table:
    """Return README's table: experiment, command, published, ours, n, verdict; of what has any finished run."""
    from pandas import DataFrame

    told = [verdict for verdict in verdicts if verdict.n]
    columns = ["experiment", "command", "published", "ours", "n", "verdict"]
    rows: list[list[str | float | None]] = [
        [
            f"{verdict.claim.item}: {verdict.claim.statement}",
            verdict.claim.command,
            published(verdict.claim),
            verdict.ours,
            str(verdict.n),
            verdict.verdict if verdict.is_counted else f"{verdict.verdict} (not counted: from memory)",
        ]
        for verdict in told
    ]
    raw = [
        {
            "claim": verdict.claim.id,
            "item": verdict.claim.item,
            "statement": verdict.claim.statement,
            "command": verdict.claim.command,
            "published": verdict.claim.value,
            "published_as": published(verdict.claim),
            "unit": verdict.claim.unit,
            "certainty": verdict.claim.certainty,
            "ours": verdict.ours,
            "n": verdict.n,
            "verdict": verdict.verdict,
            "counted": verdict.is_counted,
            "why": verdict.why,
            "rule": verdict.claim.rule.because,
        }
        for verdict in told
    ]
    numbers = count(told)
    note = "Counted: " + ", ".join(f"{number} {answer}" for answer, number in numbers.items()) + "."
    return Table("claims", "Published and ours", note, columns, rows, DataFrame(raw))


def published(claim: Claim) -> str:
    """Return the published number or statement as a text, marked where it is not certain."""
    text = claim.published or (shown_published(claim.value, claim.unit) if claim.value is not None else claim.statement)
    return text if claim.certainty == "verified" else f"{text} ({claim.certainty})"


def explain_certainty(claim: Claim) -> str:
    """Return what the mark of a claim means."""
    return CERTAINTIES[claim.certainty]


def _verdict(claim: Claim, runs: Sequence[Run]) -> Verdict | None:
    bearing = [run for run in runs if _bears_on(run, claim)]
    if not bearing:
        return None
    comparisons = _comparisons(claim, bearing)
    right = [comparison for comparison in comparisons if not comparison.deviations]
    if complete := [comparison for comparison in right if not comparison.lacking]:
        return _of_the_protocol(claim, complete)
    others = [comparison for comparison in comparisons if comparison.deviations and not comparison.lacking]
    if others:
        return _outside_the_protocol(claim, _nearest(claim, others))
    return _not_enough(claim, right or _nearest(claim, comparisons))


def _bears_on(run: Run, claim: Claim) -> bool:
    if not matches(run, claim.runs):
        return False
    return not claim.settings or any(matches(run, setting) for setting in claim.settings.values())


def _comparisons(claim: Claim, runs: Sequence[Run]) -> list[Comparison]:
    groups: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        groups[run.setting(*SEEDS, *claim.vary)].append(run)
    return [_comparison(claim, group) for group in groups.values()]


def _comparison(claim: Claim, runs: list[Run]) -> Comparison:
    by_setting = _by_setting(claim, runs)
    samples = {name: _values(claim, group) for name, group in by_setting.items()}
    lacking = _lacking(claim, samples, by_setting)
    if claim.across:
        # A level that is still being repeated waits; the others do not wait for it.
        samples = {name: values for name, values in samples.items() if len(values) >= claim.seeds} or samples
    odd = dict.fromkeys(text for run in runs for text in deviations(run, claim.protocol))
    return Comparison(runs, samples, tuple(odd), lacking)


def _by_setting(claim: Claim, runs: Iterable[Run]) -> dict[str, list[Run]]:
    runs = list(runs)
    if claim.settings:
        return {name: [run for run in runs if matches(run, setting)] for name, setting in claim.settings.items()}
    if claim.across:
        key = str(claim.across["key"])
        values = sorted({value for run in runs if (value := property_of(run, key)) is not None})
        return {f"{value:g}": [run for run in runs if property_of(run, key) == value] for value in values}
    return {"all": runs}


def _values(claim: Claim, runs: Iterable[Run]) -> dict[Seed, float]:
    scale = 100.0 if claim.unit == "%" else 1.0
    observed = ((run, observe(run, claim.metric)) for run in runs)
    return {tuple(map(run.key, SEEDS)): scale * value for run, value in observed if value is not None}


def _lacking(claim: Claim, samples: Samples, by_setting: Mapping[str, Sequence[Run]]) -> str:
    short = {name: values for name, values in samples.items() if len(values) < claim.seeds}
    if claim.across:
        enough = [name for name in samples if name not in short]
        needed = [f"{value:g}" for value in claim.across.get("including", ())]
        absent = [name for name in needed if name not in enough]
        least = int(claim.across.get("at_least", 2))
        if len(enough) >= least and not absent:
            return ""
        key = claim.across["key"]
        also = f", among them {', '.join(absent)}" if absent else ""
        return f"{len(enough)} values of {key} have {claim.seeds} seeds, {least} are needed{also}"
    if not short:
        return ""
    name, values = min(short.items(), key=lambda item: len(item[1]))
    where = "" if name == "all" else f" of {name}"
    waiting = Counter(run.state for run in by_setting[name] if run.state != "done")
    states = "".join(f", {number} {state}" for state, number in waiting.items())
    return f"{len(values)} of {claim.seeds} seeds{where} finished{states}"


def _of_the_protocol(claim: Claim, comparisons: list[Comparison]) -> Verdict:
    findings = [_apply(claim.rule, claim, comparison) for comparison in comparisons]
    answers: list[Answer] = []
    reasons = []
    for comparison, finding in zip(comparisons, findings, strict=True):
        if finding.holds:
            answers.append("reproduced")
            reasons.append(finding.why)
            continue
        weaker = _apply(claim.trend, claim, comparison) if claim.trend else None
        if weaker and weaker.holds and not _is_near(claim, comparison):
            weaker = Finding(False, weaker.ours, f"more than {NEAR:g} times the tolerance away")
        answers.append("same trend" if weaker and weaker.holds else "not reproduced")
        reasons.append(f"{finding.why}; {_trend_text(weaker)}")
    answer: Answer = answers[0] if len(set(answers)) == 1 else "same trend"
    return _told(claim, answer, comparisons, findings, reasons)


def _is_near(claim: Claim, comparison: Comparison) -> bool:
    """Whether runs of the protocol that miss a number miss it by no more than some tolerances."""
    if claim.rule.kind != "within":
        return True
    wider = Rule("within", {"tolerance": NEAR * claim.rule.parameters["tolerance"]}, claim.rule.because)
    return _apply(wider, claim, comparison).holds


def _outside_the_protocol(claim: Claim, comparisons: list[Comparison]) -> Verdict:
    if claim.trend is None:
        findings = [_apply(claim.rule, claim, comparison) for comparison in comparisons]
        reasons = ["nothing of this claim can be seen there"]
        answer: Answer = "not enough runs"
    else:
        findings = [_apply(claim.trend, claim, comparison) for comparison in comparisons]
        reasons = [_trend_text(finding) for finding in findings]
        answer = "same trend" if all(finding.holds for finding in findings) else "not reproduced"
    odd = "; ".join(comparisons[0].deviations)
    return _told(claim, answer, comparisons, findings, [f"outside the paper's protocol ({odd})", *reasons])


def _not_enough(claim: Claim, comparisons: list[Comparison]) -> Verdict:
    nearest = max(comparisons, key=lambda comparison: comparison.n)
    means = {
        name: shown_summary(summarise(list(values.values())), claim.unit)
        for name, values in nearest.samples.items()
        if values
    }
    told = ", ".join(text if name == "all" else f"{name}: {text}" for name, text in means.items())
    ours = f"{told}{_circumstances(nearest)}" if told else DASH
    odd = f"outside the paper's protocol ({'; '.join(nearest.deviations)}); " if nearest.deviations else ""
    return Verdict(claim, "not enough runs", ours, nearest.n, f"{odd}{nearest.lacking}", nearest.runs)


def _told(
    claim: Claim, answer: Answer, comparisons: list[Comparison], findings: list[Finding], reasons: list[str]
) -> Verdict:
    names = tell_apart([comparison.runs[0] for comparison in comparisons])
    if len({finding.ours for finding in findings}) == 1:
        names = [""]
    texts = [
        f"{name}: {finding.ours}" if name else finding.ours for name, finding in zip(names, findings, strict=False)
    ]
    more = [f"and {len(texts) - MOST_UNITS} more"] if len(texts) > MOST_UNITS else []
    ours = "; ".join([*texts[:MOST_UNITS], *more]) + _circumstances(comparisons[0])
    runs = list(itertools.chain.from_iterable(comparison.runs for comparison in comparisons))
    why = "; ".join(dict.fromkeys(reasons))
    return Verdict(claim, answer, ours, min(comparison.n for comparison in comparisons), why, runs)


def _circumstances(comparison: Comparison) -> str:
    """Return what must stand beside a number that is not of the paper's data, all of them, and its budget."""
    odd = dict(text.partition(", not ")[0].split("=", 1) for text in comparison.deviations)
    told = {key: text.format(odd[key]) for key, text in CIRCUMSTANCES.items() if key in odd}
    return "".join(f", {text}" for text in told.values())


def _apply(rule: Rule, claim: Claim, comparison: Comparison) -> Finding:
    done = next(run for run in comparison.runs if run.state == "done")
    share = chance(done, claim.metric)
    scale = 100.0 if claim.unit == "%" else 1.0
    context = Context(claim.value, claim.unit, None if share is None else scale * share, num_test(done))
    finding: Finding = rule.judge(comparison.samples, context, **rule.parameters)
    lacking = _not_given(claim, comparison)
    return Finding(False, finding.ours, lacking) if lacking else finding


def _not_given(claim: Claim, comparison: Comparison) -> str:
    """Say what the runs have not reached without which their numbers are not what the claim is about."""
    for metric, bound in claim.given.items():
        for name, runs in _by_setting(claim, comparison.runs).items():
            found = [100.0 * value for run in runs if (value := observe(run, metric)) is not None]
            if found and summarise(found).mean < bound:
                where = "" if name == "all" else f" at {name}"
                reached = shown_summary(summarise(found), "%")
                return f"{metric} is only {reached}{where}, where {bound:g} % is taken for granted"
    return ""


def _trend_text(finding: Finding | None) -> str:
    if finding is None:
        return "no weaker trend is claimed"
    return f"the trend {'holds' if finding.holds else 'does not hold'}: {finding.why}"


def _nearest(claim: Claim, comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Return those that deviate least from the protocol, all in the same way; most seeds first among equals."""
    wanted = str(claim.protocol.get("data", ""))

    def distance(comparison: Comparison) -> tuple[int, bool, int]:
        is_kindred = bool(wanted) and comparison.runs[0].data.startswith(wanted)
        return len(comparison.deviations), not is_kindred, -comparison.n

    nearest = min(comparisons, key=distance)
    return [comparison for comparison in comparisons if comparison.deviations == nearest.deviations]
