"""Who decides: each published claim, the runs that bear on it, and the verdict of its rule."""

from __future__ import annotations

import itertools
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from rethinkgen.measure.thresholds import NEARLY_FITTED
from rethinkgen.report.claim_files import CERTAINTIES, Claim, Rule, load_claims, load_papers
from rethinkgen.report.numbers import DASH, Spread, shown_published, shown_summary, summarise
from rethinkgen.report.quantities import (
    MILESTONES,
    NOT_NAMED,
    chance,
    deviations,
    is_kindred,
    matches,
    num_test,
    observe,
    property_of,
    tell_apart,
)
from rethinkgen.report.rules import PAIRED, Context, Finding, Judgement, Samples, Seed, alike, pool
from rethinkgen.report.table import Table
from rethinkgen.report.tuning import chosen_strengths, is_tuned, untuned
from rethinkgen.run.identity import SEEDS
from rethinkgen.run.run import Run, State

Answer = Literal[
    "reproduced", "same trend", "not reproduced", "cannot tell", "not enough steps", "not enough runs", "not comparable"
]
ANSWERS: tuple[Answer, ...] = (
    "reproduced", "same trend", "not reproduced", "cannot tell", "not enough steps", "not enough runs",
    "not comparable",
)  # fmt: skip
Scope = Literal["within the protocol", "on stand-ins", "not comparable"]
SCOPES: tuple[Scope, ...] = ("within the protocol", "on stand-ins", "not comparable")
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
UNFINISHED: tuple[State, ...] = ("running", "waiting", "missing", "interrupted")
"""What may still become a result by itself or by the same command."""


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
    deviations: tuple[str, ...]
    """What of the runs is not the paper's."""
    runs: list[Run]
    """Those that were judged."""

    @property
    def ours(self) -> str:
        """The numbers and their circumstances."""
        return f"{self.numbers}, {self.circumstances}" if self.circumstances else self.numbers

    @property
    def why(self) -> str:
        """The reason, after what of the runs is not the paper's."""
        odd = f"outside the paper's protocol ({'; '.join(self.deviations)})" if self.deviations else ""
        return "; ".join(filter(None, (odd, self.reason)))

    @property
    def in_brief(self) -> str:
        """The reason in ``MOST_WORDS`` words, without what the verdict says already."""
        words = self.reason.removeprefix("the trend holds: ").split()
        cut = " ".join(words[:MOST_WORDS]).rstrip(",;:")
        return f"{cut} …" if len(words) > MOST_WORDS else cut

    @property
    def is_of_protocol(self) -> bool:
        """Whether the runs are the paper's own."""
        return not self.deviations

    @property
    def is_counted(self) -> bool:
        """Whether it belongs into "n of m reproduced": not where the published item is only remembered."""
        return self.claim.is_counted

    @property
    def scope(self) -> Scope:
        """The group that it is counted in."""
        if self.verdict == "not comparable":
            return "not comparable"
        return "within the protocol" if self.is_of_protocol else "on stand-ins"


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
    """Return a verdict for each claim that a run bears on, however far that run is: the user's own, then ours."""
    bearing = [(claim, [run for run in runs if _bears_on(run, claim)]) for claim in load_claims()]
    compared = [(claim, found, _comparisons(claim, found)) for claim, found in bearing if found]
    pools = _pools([(claim, comparisons) for claim, _, comparisons in compared])
    return [_verdict(claim, found, comparisons, pools) for claim, found, comparisons in compared]


def count(verdicts: Sequence[Verdict]) -> dict[Scope, dict[Answer, int]]:
    """Return how many of the verdicts that count are of each kind, apart for each scope, without those of none."""
    found = Counter((verdict.scope, verdict.verdict) for verdict in verdicts if verdict.is_counted)
    counts: dict[Scope, dict[Answer, int]] = {
        scope: {answer: found[scope, answer] for answer in ANSWERS if found[scope, answer]} for scope in SCOPES
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
            "scope": verdict.scope,
            "counted": verdict.is_counted,
            "why": verdict.why,
            "rule": verdict.claim.rule.because,
        }
        for verdict in verdicts
    ]
    note = f"Counted: {headline(verdicts)}."
    return Table("claims", "Published and ours", note, columns, rows, DataFrame(raw))


def departures(verdicts: Sequence[Verdict]) -> list[str]:
    """Return what of the judged runs is not the paper's, each key once: ``data: digits instead of cifar10``."""
    found: dict[tuple[str, str], list[str]] = defaultdict(list)
    for text in dict.fromkeys(text for verdict in verdicts for text in verdict.deviations):
        key, _, rest = text.partition("=")
        value, _, wanted = rest.partition(", not ")
        found[key, wanted].append(value)
    return [
        f"{key}: {_from_to(values)}{', not ' if wanted == NOT_NAMED else ' instead of '}{wanted}"
        for (key, wanted), values in found.items()
    ]


def published(claim: Claim) -> str:
    """Return the published number or statement as a text, marked where it is not certain."""
    text = claim.published or (shown_published(claim.value, claim.unit) if claim.value is not None else claim.statement)
    return text if claim.certainty == "verified" else f"{text} ({claim.certainty})"


def certainty_marks(verdicts: Sequence[Verdict]) -> dict[str, str]:
    """Return what each mark beside a published item means, of those that stand there."""
    found = {verdict.claim.certainty for verdict in verdicts}
    return {mark: meaning for mark, meaning in CERTAINTIES.items() if mark in found and mark != "verified"}


def _verdict(claim: Claim, bearing: Sequence[Run], comparisons: Sequence[Comparison], pools: Pools) -> Verdict:
    right = [comparison for comparison in comparisons if not comparison.deviations]
    missing = untuned(claim, bearing) if claim.tuned else ""
    if not comparisons:
        return Verdict(claim, "not enough runs", DASH, "", 0, missing, (), list(bearing))
    if missing:
        return _not_enough(claim, right or _nearest(claim, comparisons), reason=missing)
    complete = [comparison for comparison in right if not comparison.lacking]
    # What all settings must agree in is not decided by those that are finished first.
    if awaited := [comparison for comparison in right if comparison.is_awaited]:
        return _not_enough(claim, awaited, num_complete=len(complete))
    if complete:
        return _of_the_protocol(claim, complete, [comparison for comparison in right if comparison.has_failed], pools)
    if others := [comparison for comparison in comparisons if comparison.deviations and not comparison.lacking]:
        nearest = _nearest(claim, others)
        alike = [comparison for comparison in comparisons if comparison.deviations == nearest[0].deviations]
        if awaited := [comparison for comparison in alike if comparison.is_awaited]:
            return _not_enough(claim, awaited, num_complete=len(nearest))
        return _outside_the_protocol(claim, nearest, pools)
    return _not_enough(claim, right or _nearest(claim, comparisons))


Pools = Mapping[tuple[str, tuple[str, ...]], Sequence[Sequence[float]]]
"""Name of a pool and what deviates from the protocol -> the values of each setting of its claims."""


def _pools(compared: Iterable[tuple[Claim, Sequence[Comparison]]]) -> Pools:
    found: dict[tuple[str, tuple[str, ...]], list[list[float]]] = defaultdict(list)
    for claim, comparisons in compared:
        for comparison in comparisons:
            if claim.pool and not comparison.lacking:
                groups = [list(values.values()) for values in comparison.samples.values()]
                found[claim.pool, comparison.deviations] += groups
    return found


def _pooled(claim: Claim, comparison: Comparison, pools: Pools) -> dict[str, Spread]:
    """Return for each setting the deviation over the seeds of all rows, where its own is not out of line with it."""
    groups = alike(pools.get((claim.pool, comparison.deviations), ())) if claim.pool else []
    of_all = pool(groups)
    if of_all is None:
        return {}
    return {name: of_all for name, values in comparison.samples.items() if list(values.values()) in groups}


def _bears_on(run: Run, claim: Claim) -> bool:
    if not matches(run, claim.runs):
        return False
    return not claim.settings or any(matches(run, setting) for setting in claim.settings.values())


def _comparisons(claim: Claim, runs: Sequence[Run]) -> list[Comparison]:
    groups: dict[str, list[Run]] = defaultdict(list)
    if claim.tuned:
        strong = claim.settings[claim.tuned.setting]
        chosen = chosen_strengths(claim, runs)
        of_all = [run for run in runs if not matches(run, claim.tuned.held_out)]
        runs = [run for run in of_all if not matches(run, strong) or not chosen or is_tuned(run, claim, chosen)]
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
    coming = {name: seeds | _seeds_of(claim, cells[name], UNFINISHED) for name, seeds in finished.items()}
    begun = {name: seeds | _seeds_of(claim, cells[name], ("failed",)) for name, seeds in coming.items()}
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
    one_axis = [name for paper in load_papers() for name in paper.get("one_axis", ())]
    if run.corruption in one_axis and run.level in (0.0, 1.0):
        return run.setting(*SEEDS, "data.corruption"), f"{run.level:g}"
    return (run.setting(*SEEDS),)


def _cell(claim: Claim, runs: list[Run]) -> Cell:
    scale = 100.0 if claim.unit == "%" else 1.0
    observed: dict[Seed, list[float]] = defaultdict(list)
    for run in runs:
        if (value := observe(run, claim.metric)) is not None:
            observed[_seed_of(run, claim)].append(scale * value)
    # Runs of one seed, which differ in another seed alone, are one repetition.
    values = {seed: statistics.fmean(found) for seed, found in observed.items()}
    return Cell(runs, values, tuple(dict.fromkeys(text for run in runs for text in deviations(run, claim))))


def _seed_of(run: Run, claim: Claim) -> Seed:
    found = run.key(claim.repeated_by)
    return (run.seed if found is None else found,)


def _seeds_of(claim: Claim, cell: Cell, states: Sequence[State]) -> set[Seed]:
    return {_seed_of(run, claim) for run in cell.runs if run.state in states}


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
            return f"{found}, {least} are needed{also}{_states(claim, cells.values())}"
    if not short:
        return ""
    if claim.rule.kind in PAIRED:
        return f"{min(short.values())} of {claim.seeds} seeds finished in all settings{_states(claim, cells.values())}"
    name = min(short, key=lambda name: short[name])
    where = "" if name == "all" else f" of {claim.across['key']}={name}" if claim.across else f" of {name}"
    return f"{short[name]} of {claim.seeds} seeds{where} finished{_states(claim, [cells[name]])}"


def _states(claim: Claim, cells: Iterable[Cell]) -> str:
    runs = [run for cell in cells for run in cell.runs]
    waiting = Counter(str(run.state) for run in runs if run.state != "done")
    if without := sum(run.state == "done" and observe(run, claim.metric) is None for run in runs):
        waiting[f"without {claim.metric}"] = without
    return "".join(f", {number} {state}" for state, number in waiting.items())


def _of_the_protocol(
    claim: Claim, comparisons: list[Comparison], failed: Sequence[Comparison], pools: Pools
) -> Verdict:
    findings = [_apply(claim.rule, claim, comparison, pools) for comparison in comparisons]
    answers: list[Answer] = []
    reasons = []
    for comparison, finding in zip(comparisons, findings, strict=True):
        answer, reason = _answer(claim, comparison, finding, pools)
        answers.append(answer)
        reasons.append(reason)
    not_judged = [f"not judged: {comparison.lacking}" for comparison in failed]
    return _told(claim, comparisons, findings, answers, reasons, not_judged)


def _answer(claim: Claim, comparison: Comparison, finding: Finding, pools: Pools) -> tuple[Answer, str]:
    """Return what a finding about runs of the protocol comes to, and why."""
    if finding.judgement == "yes":
        return "reproduced", finding.why
    if finding.judgement != "no":
        return finding.judgement, finding.why
    weaker = _apply(claim.trend, claim, comparison, pools) if claim.trend else None
    if weaker and weaker.holds and not _is_near(claim, comparison, pools):
        weaker = Finding("no", weaker.ours, f"more than {NEAR:g} times the tolerance away")
    answers: dict[str, Answer] = {"yes": "same trend", "no": "not reproduced"}
    judgement = "no" if weaker is None else weaker.judgement
    # The number is missed; of the trend nobody knows.
    answer = answers.get(judgement, "cannot tell" if judgement == "cannot tell" else "not enough steps")
    return answer, f"{finding.why}; {_trend_text(weaker)}"


def _is_near(claim: Claim, comparison: Comparison, pools: Pools) -> bool:
    """Whether runs of the protocol that miss a number miss it by no more than some tolerances."""
    if claim.rule.kind != "within":
        return True
    wider = Rule("within", {"tolerance": NEAR * claim.rule.parameters["tolerance"]}, claim.rule.because)
    return _apply(wider, claim, comparison, pools).holds


def _outside_the_protocol(claim: Claim, comparisons: list[Comparison], pools: Pools) -> Verdict:
    """Judge runs that are not the paper's by the trend alone: what they do not show they do not contradict."""
    findings = [_apply(claim.trend or claim.rule, claim, comparison, pools) for comparison in comparisons]
    answers: list[Answer] = []
    reasons = []
    for comparison, finding in zip(comparisons, findings, strict=True):
        if claim.trend is None:
            answers.append("not comparable")
            reasons.append("nothing of this claim can be seen there")
            continue
        outside: dict[Judgement, Answer] = {"yes": "same trend", "no": "not comparable"}
        answer = outside.get(finding.judgement, "cannot tell")
        if not finding.holds and (finding.judgement == "not enough steps" or _is_cut_short(comparison)):
            answer = "not enough steps"
        answers.append(answer)
        reasons.append(_trend_text(finding))
    return _told(claim, comparisons, findings, answers, reasons, [])


def _not_enough(claim: Claim, comparisons: Sequence[Comparison], num_complete: int = 0, reason: str = "") -> Verdict:
    nearest = max(comparisons, key=lambda comparison: comparison.n)
    means = {
        name: shown_summary(summarise(list(cell.values.values())), claim.unit)
        for name, cell in nearest.cells.items()
        if cell.values
    }
    told = ", ".join(text if name == "all" else f"{name}: {text}" for name, text in means.items())
    besides = f"; finished elsewhere: {num_complete}, all count" if num_complete else ""
    return Verdict(
        claim,
        "not enough runs",
        told or DASH,
        _circumstances(claim, nearest) if told else "",
        nearest.n,
        f"{reason or nearest.lacking}{besides}",
        nearest.deviations,
        nearest.runs,
    )


def _combined(claim: Claim, comparisons: Sequence[Comparison], answers: Sequence[Answer]) -> Answer:
    """Return what several settings come to: as weak as the weakest, but for those that the paper leaves open.

    Where it holds under some of these and not under others, it is the same trend.
    """
    stated: dict[str, list[Answer]] = defaultdict(list)
    for comparison, answer in zip(comparisons, answers, strict=True):
        stated[comparison.runs[0].setting(*SEEDS, *claim.vary, *claim.leaves_open)].append(answer)
    return min(map(_of_open_settings, stated.values()), key=WEAKEST.index)


def _of_open_settings(answers: Sequence[Answer]) -> Answer:
    kinds = set(answers)
    if kinds & {"reproduced", "same trend"} and kinds & {"not reproduced", "not comparable"}:
        return "same trend"
    return min(answers, key=WEAKEST.index)


def _told(
    claim: Claim,
    comparisons: list[Comparison],
    findings: list[Finding],
    answers: Sequence[Answer],
    reasons: Sequence[str],
    besides: Sequence[str],
) -> Verdict:
    answer = _combined(claim, comparisons, answers)
    names = _names(claim, comparisons)
    weakest_ones = [name for name, one in zip(names, answers, strict=True) if one == answer and name]
    if len(set(answers)) > 1 and weakest_ones and answer != "same trend":
        reasons = [reason for reason, one in zip(reasons, answers, strict=True) if one == answer]
        besides = [f"weakest of {len(answers)} settings: {', '.join(weakest_ones)}", *besides]
    if len({finding.ours for finding in findings}) == 1:
        names = [""]
    texts = [
        f"{name}: {finding.ours}" if name else finding.ours for name, finding in zip(names, findings, strict=False)
    ]
    more = [f"and {len(texts) - MOST_UNITS} more"] if len(texts) > MOST_UNITS else []
    return Verdict(
        claim,
        answer,
        "; ".join([*texts[:MOST_UNITS], *more]),
        _circumstances(claim, *comparisons),
        min(comparison.n for comparison in comparisons),
        "; ".join(dict.fromkeys(filter(None, [*reasons, *besides]))),
        comparisons[0].deviations,
        list(dict.fromkeys(run for comparison in comparisons for run in comparison.runs)),
    )


def _names(claim: Claim, comparisons: Sequence[Comparison]) -> list[str]:
    """Name each comparison by what tells its cells from those of the others."""
    if claim.across:
        return tell_apart([comparison.runs[0] for comparison in comparisons])
    apart = [
        tell_apart([comparison.cells[name].runs[0] for comparison in comparisons]) for name in comparisons[0].cells
    ]
    return [", ".join(dict.fromkeys(filter(None, texts))) for texts in zip(*apart, strict=True)]


def _circumstances(claim: Claim, *comparisons: Comparison) -> str:
    """Return what must stand beside a number: what its steps count to, data that are not the paper's, budget."""
    found: dict[str, list[str]] = defaultdict(list)
    for text in (text for comparison in comparisons for text in comparison.deviations):
        key, _, value = text.partition(", not ")[0].partition("=")
        found[key].append(value)
    told = [text.format(_from_to(found[key])) for key, text in CIRCUMSTANCES.items() if key in found]
    milestone = [f"counted to {MILESTONES[claim.metric]}"] if claim.metric in MILESTONES else []
    return ", ".join((*milestone, *told))


def _from_to(values: Sequence[str]) -> str:
    """Return the one value, the least and the largest of several numbers, or all."""
    several = list(dict.fromkeys(values))
    try:
        ordered = sorted(several, key=lambda value: float(value.replace(",", "")))
    except ValueError:
        return " and ".join(several)
    return ordered[0] if len(ordered) == 1 else f"{ordered[0]} to {ordered[-1]}"


def _apply(rule: Rule, claim: Claim, comparison: Comparison, pools: Pools) -> Finding:
    done = next(run for run in comparison.runs if run.state == "done")
    share = chance(done, claim.metric)
    scale = 100.0 if claim.unit == "%" else 1.0
    context = Context(
        claim.value,
        claim.unit,
        None if share is None else scale * share,
        num_test(done),
        claim.is_exact,
        _pooled(claim, comparison, pools),
        {name: _budgets(claim, cell) for name, cell in comparison.cells.items()},
    )
    finding: Finding = rule.judge(comparison.samples, context, **rule.parameters)
    lacking = _not_given(claim, comparison)
    return Finding(lacking[0], finding.ours, lacking[1]) if lacking else finding


def _budgets(claim: Claim, cell: Cell) -> dict[Seed, float]:
    budgets: dict[Seed, float] = {}
    for run in cell.runs:
        if (steps := observe(run, "steps")) is not None:
            seed = _seed_of(run, claim)
            budgets[seed] = min(steps, budgets.get(seed, steps))
    return budgets


def _not_given(claim: Claim, comparison: Comparison) -> tuple[Judgement, str] | None:
    """Say what the runs have not reached without which their numbers are not what the claim is about."""
    for metric, bound in claim.given.items():
        for name, cell in comparison.cells.items():
            where = "" if name == "all" else f" at {name}"
            found = [observe(run, metric) for run in cell.runs if run.state == "done"]
            known = [100.0 * value for value in found if value is not None]
            if len(known) < len(found):
                return "cannot tell", f"{metric} is not known of {len(found) - len(known)} runs{where}"
            if known and summarise(known).mean < bound:
                reached = shown_summary(summarise(known), "%")
                return "no", f"{metric} is only {reached}{where}, where {bound:g} % is taken for granted"
    return None


def _is_cut_short(comparison: Comparison) -> bool:
    """Whether runs had not the paper's budget and were not done with it: with more they might have got further."""
    if not any(text.startswith("steps=") for text in comparison.deviations):
        return False
    fits = [observe(run, "fit/accuracy") for run in comparison.runs if run.state == "done"]
    return any(fit is None or fit < NEARLY_FITTED for fit in fits)


def _trend_text(finding: Finding | None) -> str:
    if finding is None:
        return "no weaker trend is claimed"
    words = {"yes": "holds", "no": "does not hold"}
    return f"the trend {words.get(finding.judgement, 'cannot be told')}: {finding.why}"


def _nearest(claim: Claim, comparisons: Sequence[Comparison]) -> list[Comparison]:
    """Return those that deviate least from the protocol, all in the same way; among equals most steps, most seeds."""
    wanted = str(claim.protocol.get("data", ""))

    def distance(comparison: Comparison) -> tuple[int, bool, float, int]:
        first = comparison.runs[0]
        steps = -float(property_of(first, "steps") or 0)
        return len(comparison.deviations), not is_kindred(first.data, wanted), steps, -comparison.n

    nearest = min(comparisons, key=distance)
    return [comparison for comparison in comparisons if comparison.deviations == nearest.deviations]
