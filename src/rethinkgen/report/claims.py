"""Who decides: each published claim, the runs that bear on it, and the verdict of its rule."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from rethinkgen.report.claim_files import CERTAINTIES, Claim, Rule, load_claims
from rethinkgen.report.numbers import DASH, shown_published, shown_summary, summarise
from rethinkgen.report.quantities import (
    chance,
    deviations,
    is_kindred,
    matches,
    num_test,
    observe,
    property_of,
    tell_apart,
)
from rethinkgen.report.rules import PAIRED, Context, Finding, Samples, Seed
from rethinkgen.report.tables import Table
from rethinkgen.run.identity import SEEDS
from rethinkgen.run.run import Run, State

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
UNFINISHED: tuple[State, ...] = ("running", "waiting", "missing", "interrupted")
"""What may still become a result by itself or by the same command."""
LABEL_CORRUPTIONS = ("none", "partial_labels", "random_labels")


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
class Cell:
    """Runs that differ in nothing but their seeds."""

    runs: list[Run]
    values: dict[Seed, float]
    """Those of the finished runs, in the claim's unit."""
    deviations: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Comparison:
    """A cell of each setting: runs that differ in nothing but their seeds and what the claim compares."""

    cells: dict[str, Cell]
    samples: Samples
    lacking: str
    """What is not there yet for a verdict; empty where all is."""
    is_awaited: bool
    """Whether all will be there when the runs have finished that can."""
    has_failed: bool
    """Whether all would be there if no run had failed."""

    @property
    def runs(self) -> list[Run]:
        """Of all cells, however far they are."""
        return [run for cell in self.cells.values() for run in cell.runs]

    @property
    def deviations(self) -> tuple[str, ...]:
        """What of any run is not the paper's."""
        return tuple(dict.fromkeys(text for cell in self.cells.values() for text in cell.deviations))

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
    """Return README's table: experiment, command, published, ours, n, verdict."""
    from pandas import DataFrame

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
        for verdict in verdicts
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
        for verdict in verdicts
    ]
    numbers = count(verdicts)
    note = "Counted: " + ", ".join(f"{number} {answer}" for answer, number in numbers.items()) + "."
    return Table("claims", "Published and ours", note, columns, rows, DataFrame(raw))


def published(claim: Claim) -> str:
    """Return the published number or statement as a text, marked where it is not certain."""
    text = claim.published or (shown_published(claim.value, claim.unit) if claim.value is not None else claim.statement)
    return text if claim.certainty == "verified" else f"{text} ({claim.certainty})"


def certainty_marks(verdicts: Sequence[Verdict]) -> dict[str, str]:
    """Return what each mark beside a published item means, of those that stand there."""
    found = {verdict.claim.certainty for verdict in verdicts}
    return {mark: meaning for mark, meaning in CERTAINTIES.items() if mark in found and mark != "verified"}


def _verdict(claim: Claim, runs: Sequence[Run]) -> Verdict | None:
    bearing = [run for run in runs if _bears_on(run, claim)]
    if not bearing:
        return None
    comparisons = _comparisons(claim, bearing)
    right = [comparison for comparison in comparisons if not comparison.deviations]
    complete = [comparison for comparison in right if not comparison.lacking]
    # What all settings must agree in is not decided by those that are finished first.
    if awaited := [comparison for comparison in right if comparison.is_awaited]:
        return _not_enough(claim, awaited, num_complete=len(complete))
    if complete:
        return _of_the_protocol(claim, complete, [comparison for comparison in right if comparison.has_failed])
    if others := [comparison for comparison in comparisons if comparison.deviations and not comparison.lacking]:
        nearest = _nearest(claim, others)
        alike = [comparison for comparison in comparisons if comparison.deviations == nearest[0].deviations]
        if awaited := [comparison for comparison in alike if comparison.is_awaited]:
            return _not_enough(claim, awaited, num_complete=len(nearest))
        return _outside_the_protocol(claim, nearest)
    return _not_enough(claim, right or _nearest(claim, comparisons))


def _bears_on(run: Run, claim: Claim) -> bool:
    if not matches(run, claim.runs):
        return False
    return not claim.settings or any(matches(run, setting) for setting in claim.settings.values())


def _comparisons(claim: Claim, runs: Sequence[Run]) -> list[Comparison]:
    groups: dict[str, list[Run]] = defaultdict(list)
    for run in runs:
        groups[run.setting(*SEEDS, *claim.vary)].append(run)
    return [comparison for group in groups.values() for comparison in _comparisons_within(claim, group)]


def _comparisons_within(claim: Claim, runs: Sequence[Run]) -> list[Comparison]:
    """Return every choice of one cell for each setting: what may vary need not be the same in all runs of a setting."""
    by_setting = {name: _cells(claim, group) for name, group in _by_setting(claim, runs).items()}
    choices = itertools.product(*(cells or [Cell([], {}, ())] for cells in by_setting.values()))
    return [_comparison(claim, dict(zip(by_setting, cells, strict=True))) for cells in choices]


def _comparison(claim: Claim, cells: dict[str, Cell]) -> Comparison:
    finished = {name: set(cell.values) for name, cell in cells.items()}
    coming = {name: seeds | _seeds_of(cells[name], UNFINISHED) for name, seeds in finished.items()}
    begun = {name: seeds | _seeds_of(cells[name], ("failed",)) for name, seeds in coming.items()}
    lacking = _lacking(claim, finished, cells)
    is_awaited = bool(lacking) and not _lacking(claim, coming, cells)
    has_failed = bool(lacking) and not is_awaited and not _lacking(claim, begun, cells)
    common = _common(claim, finished)
    samples = {
        name: {seed: value for seed, value in cell.values.items() if seed in common[name]}
        for name, cell in cells.items()
    }
    return Comparison(cells, samples, lacking, is_awaited, has_failed)


def _by_setting(claim: Claim, runs: Iterable[Run]) -> dict[str, list[Run]]:
    runs = list(runs)
    if claim.settings:
        return {name: [run for run in runs if matches(run, setting)] for name, setting in claim.settings.items()}
    if claim.across:
        key = str(claim.across["key"])
        values = sorted({value for run in runs if (value := property_of(run, key)) is not None})
        return {f"{value:g}": [run for run in runs if property_of(run, key) == value] for value in values}
    return {"all": runs}


def _cells(claim: Claim, runs: Iterable[Run]) -> list[Cell]:
    groups: dict[tuple[str, ...], list[Run]] = defaultdict(list)
    for run in runs:
        groups[_identity(run)].append(run)
    return [_cell(claim, group) for group in groups.values()]


def _identity(run: Run) -> tuple[str, ...]:
    """Return the same for repetitions of a run, and for true or random labels under each of their names."""
    if run.corruption in LABEL_CORRUPTIONS and run.level in (0.0, 1.0):
        return run.setting(*SEEDS, "data.corruption"), f"{run.level:g}"
    return (run.setting(*SEEDS),)


def _cell(claim: Claim, runs: list[Run]) -> Cell:
    scale = 100.0 if claim.unit == "%" else 1.0
    observed = ((run, observe(run, claim.metric)) for run in runs)
    values = {_seed_of(run): scale * value for run, value in observed if value is not None}
    return Cell(runs, values, tuple(dict.fromkeys(text for run in runs for text in deviations(run, claim.protocol))))


def _seed_of(run: Run) -> Seed:
    return tuple(map(run.key, SEEDS))


def _seeds_of(cell: Cell, states: Sequence[State]) -> set[Seed]:
    return {_seed_of(run) for run in cell.runs if run.state in states}


def _common(claim: Claim, seeds: Mapping[str, set[Seed]]) -> Mapping[str, set[Seed]]:
    """Return the seeds that count: where a rule compares run for run, those that all settings have."""
    if claim.rule.kind not in PAIRED or not seeds:
        return seeds
    return dict.fromkeys(seeds, set.intersection(*seeds.values()))


def _lacking(claim: Claim, seeds: Mapping[str, set[Seed]], cells: Mapping[str, Cell]) -> str:
    """Say what a verdict needs besides these seeds of every setting; nothing where they are enough."""
    counted = {name: len(found) for name, found in _common(claim, seeds).items()}
    short = {name: number for name, number in counted.items() if number < claim.seeds}
    if claim.across:
        enough = [name for name in counted if name not in short]
        needed = [f"{value:g}" for value in claim.across.get("including", ())]
        absent = [name for name in needed if name not in enough]
        least = int(claim.across.get("at_least", 2))
        if len(enough) < least or absent:
            also = f", among them {', '.join(absent)}" if absent else ""
            found = f"{len(enough)} values of {claim.across['key']} have {claim.seeds} seeds"
            return f"{found}, {least} are needed{also}{_states(cells.values())}"
    if not short:
        return ""
    if claim.rule.kind in PAIRED:
        return f"{min(short.values())} of {claim.seeds} seeds finished in all settings{_states(cells.values())}"
    name = min(short, key=lambda name: short[name])
    where = "" if name == "all" else f" of {claim.across['key']}={name}" if claim.across else f" of {name}"
    return f"{short[name]} of {claim.seeds} seeds{where} finished{_states([cells[name]])}"


def _states(cells: Iterable[Cell]) -> str:
    waiting = Counter(run.state for cell in cells for run in cell.runs if run.state != "done")
    return "".join(f", {number} {state}" for state, number in waiting.items())


def _of_the_protocol(claim: Claim, comparisons: list[Comparison], failed: Sequence[Comparison]) -> Verdict:
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
    reasons += [f"not judged: {comparison.lacking}" for comparison in failed]
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
        if any(_is_too_short(comparison) and _not_given(claim, comparison) for comparison in comparisons):
            answer = "not enough runs"
    odd = "; ".join(comparisons[0].deviations)
    return _told(claim, answer, comparisons, findings, [f"outside the paper's protocol ({odd})", *reasons])


def _not_enough(claim: Claim, comparisons: list[Comparison], num_complete: int = 0) -> Verdict:
    nearest = max(comparisons, key=lambda comparison: comparison.n)
    means = {
        name: shown_summary(summarise(list(cell.values.values())), claim.unit)
        for name, cell in nearest.cells.items()
        if cell.values
    }
    told = ", ".join(text if name == "all" else f"{name}: {text}" for name, text in means.items())
    ours = f"{told}{_circumstances(nearest)}" if told else DASH
    odd = f"outside the paper's protocol ({'; '.join(nearest.deviations)}); " if nearest.deviations else ""
    besides = f"; finished elsewhere: {num_complete}, all count" if num_complete else ""
    return Verdict(claim, "not enough runs", ours, nearest.n, f"{odd}{nearest.lacking}{besides}", nearest.runs)


def _told(
    claim: Claim, answer: Answer, comparisons: list[Comparison], findings: list[Finding], reasons: list[str]
) -> Verdict:
    names = _names(claim, comparisons)
    if len({finding.ours for finding in findings}) == 1:
        names = [""]
    texts = [
        f"{name}: {finding.ours}" if name else finding.ours for name, finding in zip(names, findings, strict=False)
    ]
    more = [f"and {len(texts) - MOST_UNITS} more"] if len(texts) > MOST_UNITS else []
    ours = "; ".join([*texts[:MOST_UNITS], *more]) + _circumstances(comparisons[0])
    runs = list(dict.fromkeys(run for comparison in comparisons for run in comparison.runs))
    why = "; ".join(dict.fromkeys(reasons))
    return Verdict(claim, answer, ours, min(comparison.n for comparison in comparisons), why, runs)


def _names(claim: Claim, comparisons: Sequence[Comparison]) -> list[str]:
    """Name each comparison by what tells its cells from those of the others."""
    if claim.across:
        return tell_apart([comparison.runs[0] for comparison in comparisons])
    apart = [
        tell_apart([comparison.cells[name].runs[0] for comparison in comparisons]) for name in comparisons[0].cells
    ]
    return [", ".join(dict.fromkeys(filter(None, texts))) for texts in zip(*apart, strict=True)]


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
        for name, cell in comparison.cells.items():
            found = [100.0 * value for run in cell.runs if (value := observe(run, metric)) is not None]
            if found and summarise(found).mean < bound:
                where = "" if name == "all" else f" at {name}"
                reached = shown_summary(summarise(found), "%")
                return f"{metric} is only {reached}{where}, where {bound:g} % is taken for granted"
    return ""


def _is_too_short(comparison: Comparison) -> bool:
    """Whether the runs had not the paper's budget: what they did not reach they might have reached with it."""
    return any(text.startswith("steps=") for text in comparison.deviations)


def _trend_text(finding: Finding | None) -> str:
    if finding is None:
        return "no weaker trend is claimed"
    return f"the trend {'holds' if finding.holds else 'does not hold'}: {finding.why}"


def _nearest(claim: Claim, comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Return those that deviate least from the protocol, all in the same way; most seeds first among equals."""
    wanted = str(claim.protocol.get("data", ""))

    def distance(comparison: Comparison) -> tuple[int, bool, int]:
        return len(comparison.deviations), not is_kindred(comparison.runs[0].data, wanted), -comparison.n

    nearest = min(comparisons, key=distance)
    return [comparison for comparison in comparisons if comparison.deviations == nearest.deviations]
