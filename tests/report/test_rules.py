from __future__ import annotations

import math
import re
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.stats import bartlett

from rethinkgen.numbers import shown, shown_summary, shown_with_interval
from rethinkgen.report.rules import RULES, Context, Finding, Seed, alike, pool
from rethinkgen.run.spread import Spread, Summary, half_width

PERCENT = Context(value=50.5, unit="%", chance=10.0, num_test=10_000)
STEPS = Context(value=None, unit="steps", chance=None, num_test=None)


def seeds(*values: float) -> dict[Seed, float]:
    return {(seed,): value for seed, value in enumerate(values)}


def found(kind: str, samples: dict[str, dict[Seed, float]], context: Context = PERCENT, **given: Any) -> Finding:
    finding: Finding = RULES[kind](samples, context, **given)
    return finding


Cases = dict[str, dict[Seed, float]]
EXACT = replace(PERCENT, is_exact=True)

CASES: list[tuple[str, dict[str, Any], Cases, Cases, Cases]] = [
    # Of three seeds the half-width is 2.48 deviations: 1.99 of 0.8, 2.24 of 0.9.
    (
        "within",
        {"tolerance": 2.0},
        {"all": seeds(51.7, 52.5, 53.3)},
        {"all": seeds(51.8, 52.6, 53.4)},
        {"all": seeds(51.6, 52.5, 53.4)},
    ),
    # Far off is far off, however much seeds differ.
    (
        "within",
        {"tolerance": 2.0},
        {"all": seeds(50.5, 50.5)},
        {"all": seeds(80.0, 90.0, 100.0)},
        {"all": seeds(40.0, 52.0, 60.0)},
    ),
    ("within", {"tolerance": 0}, {"all": seeds(50.5, 50.5)}, {"all": seeds(50.5, 50.6)}, {}),
    (
        "at_least",
        {"bound": 99.0},
        {"a": seeds(99.3, 99.4, 99.35), "b": seeds(100.0, 100.0, 100.0)},
        {"a": seeds(98.5, 98.6, 98.7), "b": seeds(100.0, 100.0, 100.0)},
        {"a": seeds(98.9, 99.2, 99.5), "b": seeds(100.0, 100.0, 100.0)},
    ),
    (
        "at_most",
        {"bound": 20.0},
        {"a": seeds(18.0, 19.0, 18.5)},
        {"a": seeds(22.0, 23.0, 22.5)},
        {"a": seeds(19.0, 21.0, 17.0)},
    ),
    # Half of 40.5 points above 10 is 30.25.
    (
        "lead_over_chance",
        {"share": 0.5},
        {"all": seeds(30.5, 30.6, 30.55)},
        {"all": seeds(29.9, 30.0, 29.95)},
        {"all": seeds(30.0, 30.6, 30.5)},
    ),
    # A binomial error of the test set is 0.3, three are 0.9, however many seeds there are.
    (
        "at_chance",
        {"sigmas": 3, "widest": 2.0},
        {"all": seeds(10.6, 10.8, 11.0)},
        {"all": seeds(10.9, 11.1, 11.3)},
        {"all": seeds(9.5, 10.0, 10.5)},
    ),
    (
        "order",
        {"groups": [["a"], ["b", "c"], ["d"]]},
        {"d": seeds(9, 9.1), "a": seeds(1, 1.1), "b": seeds(5, 5.1), "c": seeds(3, 3.1)},
        {"d": seeds(4, 4.1), "a": seeds(1, 1.1), "b": seeds(5, 5.1), "c": seeds(3, 3.1)},
        {"d": seeds(9, 9.1), "a": seeds(1, 7), "b": seeds(5, 5.1), "c": seeds(3, 3.1)},
    ),
    (
        "order",
        {"groups": [["a"], ["b"]], "margin": 1.0},
        {"a": seeds(1, 1.01), "b": seeds(2.1, 2.11)},
        {"a": seeds(1, 1.01), "b": seeds(1.9, 1.91)},
        {"a": seeds(1, 1.2), "b": seeds(2.1, 2.3)},
    ),
    (
        "rising",
        {"slack": 1.0, "rise": 60.0},
        {"0": seeds(14, 14.1), "0.5": seeds(50, 50.1), "0.6": seeds(49.9, 50), "1": seeds(90, 90.1)},
        {"0": seeds(14, 14.1), "0.5": seeds(50, 50.1), "0.6": seeds(48, 48.1), "1": seeds(90, 90.1)},
        {"0": seeds(14, 14.1), "0.5": seeds(50, 50.1), "0.6": seeds(47, 53), "1": seeds(90, 90.1)},
    ),
    (
        "rising",
        {"slack": 1.0, "rise": 60.0},
        {"0": seeds(29, 29.1), "1": seeds(90, 90.1)},
        {"0": seeds(31, 31.1), "1": seeds(90, 90.1)},
        {"0": seeds(28, 31), "1": seeds(90, 91)},
    ),
    (
        "rising_ratio",
        {"slack": 0.1, "rise": 0.1},
        {"0": seeds(100, 200), "0.5": seeds(150, 300), "1": seeds(145, 290)},
        {"0": seeds(100, 200), "0.5": seeds(150, 300), "1": seeds(135, 270)},
        {"0": seeds(100, 200), "0.5": seeds(150, 300), "1": seeds(145, 250)},
    ),
    (
        "ratio",
        {"low": 1.0, "high": 4.0},
        {"0": seeds(100, 200), "1": seeds(390, 790)},
        {"0": seeds(100, 200), "1": seeds(400, 801)},
        {"0": seeds(100, 200), "1": seeds(150, 700)},
    ),
    # The wrong way round is no "1x to 4x", however little.
    (
        "ratio",
        {"low": 1.0, "high": 4.5},
        {"0": seeds(100, 200), "1": seeds(101, 201)},
        {"0": seeds(100, 200), "1": seeds(91, 182)},
        {"0": seeds(100, 200), "1": seeds(50, 700)},
    ),
    (
        "difference",
        {"low": 2.0, "high": 5.0},
        {"a": seeds(86, 86.1), "b": seeds(82, 82.1)},
        {"a": seeds(86, 86.1), "b": seeds(84.5, 84.6)},
        {"a": seeds(86, 87), "b": seeds(82, 82)},
    ),
    (
        "difference",
        {"low": -0.1},
        {"a": seeds(1.2, 1.2), "b": seeds(1.25, 1.25)},
        {"a": seeds(1.2, 1.2), "b": seeds(1.35, 1.35)},
        {"a": seeds(1.2, 1.3), "b": seeds(1.2, 1.2)},
    ),
]


@pytest.mark.parametrize(("kind", "given", "right", "wrong", "unclear"), CASES)
def test_a_rule_tells_right_from_wrong_and_from_what_it_cannot_tell(
    kind: str, given: dict[str, Any], right: Cases, wrong: Cases, unclear: Cases
) -> None:
    assert found(kind, right, **given).judgement == "yes"
    finding = found(kind, wrong, **given)
    assert finding.judgement == "no"
    assert finding.ours
    assert finding.why
    if unclear:
        doubt = found(kind, unclear, **given)
        assert doubt.judgement == "cannot tell"
        assert re.search(r"[1-9]\d* more seeds? would tell", doubt.why)


BUDGETS = {name: {(0,): 1000.0, (1,): 1000.0} for name in ("a", "b", "c")}
STEPS_OF_1000 = replace(STEPS, budgets=BUDGETS)
# Of 100 steps the budget is the double, which 305 are more than.
SHORT = replace(STEPS, budgets={name: {(0,): 200.0, (1,): 200.0} for name in BUDGETS})
NEVER = {"a": seeds(100, 100), "b": seeds(math.inf, math.inf), "c": seeds(300, 310)}
WIDE = {"a": seeds(49.0, 50.0, 51.0), "b": seeds(51.4, 52.4, 53.4)}
POOLED = replace(PERCENT, pooled=dict.fromkeys(("a", "b", "all"), Spread(0.5, 30)))
ODD_CASES: list[tuple[str, Cases, Context, dict[str, Any]]] = [
    ("within", {"all": seeds(50.6)}, PERCENT, {"tolerance": 2.0}),
    ("within", {"all": seeds(50.6)}, EXACT, {"tolerance": 2.0}),
    ("within", {"all": seeds(49.5, 50.5, 51.5)}, POOLED, {"tolerance": 2.0}),
    ("within", {"all": seeds(1201, 1203)}, replace(STEPS, value=1200.0), {"tolerance": 100.0}),
    ("within", {"all": seeds(math.inf, 1.0)}, PERCENT, {"tolerance": 2.0}),
    ("at_least", {"a": seeds(50.0, 50.9)}, PERCENT, {"bound": 50.0}),
    ("at_least", {"a": seeds(50.0, 50.9)}, POOLED, {"bound": 49.0}),
    ("at_most", {"all": seeds(0.03, 0.031)}, replace(PERCENT, unit=""), {"bound": 0.05}),
    ("at_most", {"a": seeds(0.06, 0.061)}, replace(PERCENT, unit="x"), {"bound": 0.05}),
    ("at_most", {"a": seeds(0.06, math.inf)}, STEPS, {"bound": 0.05}),
    ("lead_over_chance", {"all": seeds(30.0)}, replace(PERCENT, chance=None), {"share": 0.5}),
    ("at_chance", {"all": seeds(10.0, 10.1)}, replace(PERCENT, num_test=100), {"sigmas": 3, "widest": 5.0}),
    ("at_chance", {"all": seeds(10.0, 10.1)}, replace(PERCENT, num_test=None), {"sigmas": 3, "widest": 5.0}),
    ("at_chance", {"all": seeds(10.0, 10.1)}, replace(PERCENT, chance=None), {"sigmas": 3, "widest": 5.0}),
    ("at_chance", {"all": seeds(9.5, 10.0, 10.5)}, POOLED, {"sigmas": 3, "widest": 0.9}),
    ("at_chance", {"all": seeds(0.1, 0.101)}, Context(None, "", 0.1, 10_000), {"sigmas": 3, "widest": 0.009}),
    ("order", WIDE, PERCENT, {"groups": [["a"], ["b"]]}),
    ("order", WIDE, POOLED, {"groups": [["a"], ["b"]]}),
    ("order", {"a": seeds(1, 2), "b": seeds(3)}, PERCENT, {"groups": [["a"], ["b"]]}),
    ("order", {"a": seeds(2), "b": seeds(2)}, EXACT, {"groups": [["a"], ["b"]]}),
    ("order", NEVER, STEPS_OF_1000, {"groups": [["a"], ["b"]]}),
    ("order", NEVER, STEPS_OF_1000, {"groups": [["a"], ["b"], ["c"]]}),
    ("rising", WIDE, PERCENT, {"slack": 1, "rise": 1}),
    ("rising", WIDE, POOLED, {"slack": 1, "rise": 1}),
    ("rising", {name: NEVER[name] for name in "ab"}, STEPS_OF_1000, {"slack": 1, "rise": 1}),
    ("rising", NEVER, STEPS_OF_1000, {"slack": 1, "rise": 1}),
    ("rising_ratio", NEVER, STEPS_OF_1000, {"slack": 0.1, "rise": 0.1}),
    ("rising_ratio", NEVER, SHORT, {"slack": 0.1, "rise": 0.1}),
    ("ratio", {"a": seeds(0.0, 100.0), "b": seeds(50.0, 50.0)}, STEPS, {"low": 1, "high": 4}),
    ("ratio", {"a": seeds(math.inf, 100.0), "b": seeds(50.0, 50.0)}, STEPS, {"low": 1, "high": 4}),
    ("rising_ratio", {"a": {(0,): 1.0}, "b": {(1,): 2.0}}, STEPS, {"slack": 0.1, "rise": 0.1}),
    ("ratio", NEVER, STEPS_OF_1000, {"low": 1, "high": 4}),
    ("ratio", NEVER, STEPS_OF_1000, {"low": 1, "high": 12}),
    ("ratio", NEVER, STEPS, {"low": 1, "high": 4}),
    ("ratio", {"a": {(0,): 1.0}, "b": {(1,): 2.0}}, STEPS, {"low": 1, "high": 4}),
    ("difference", {"a": {(0,): 5.0}, "b": {(1,): 2.0}}, PERCENT, {"low": 0, "high": 9}),
    ("difference", {"a": seeds(math.inf, 1), "b": seeds(1, 1)}, STEPS, {"low": 0}),
    ("difference", {"a": seeds(1.1), "b": seeds(1.2)}, EXACT, {"low": -0.1}),
    ("difference", {"a": seeds(12_345.0, 12_346.0), "b": seeds(1, 1)}, STEPS, {"low": 10_000.0, "high": 20_000.0}),
]


def what_rules_say() -> list[str]:
    plain = [(kind, case, PERCENT, given) for kind, given, *cases in CASES for case in cases if case]
    findings = [(kind, found(kind, case, context, **given)) for kind, case, context, given in [*plain, *ODD_CASES]]
    return [f"{kind} | {finding.judgement} | {finding.ours} | {finding.why}" for kind, finding in findings]


def test_what_rules_say_is_what_was_read_and_found_right() -> None:
    # Written by this list, and read; a rule that says something else is read again.
    assert what_rules_say() == Path(__file__).with_name("what_rules_say.txt").read_text().splitlines()


def test_every_rule_is_tested() -> None:
    assert {kind for kind, *_ in CASES} == set(RULES)


def test_one_run_tells_only_where_no_seed_has_a_part_in_it() -> None:
    one = {"all": seeds(50.6)}
    assert found("within", one, tolerance=2.0).judgement == "cannot tell"
    assert "of one run nobody knows the spread: 2 more seeds would show it" in found("within", one, tolerance=2.0).why
    assert found("within", one, EXACT, tolerance=2.0).holds
    assert found("order", {"a": seeds(1), "b": seeds(2)}, EXACT, groups=[["a"], ["b"]]).holds
    assert found("order", {"a": seeds(2), "b": seeds(2)}, EXACT, groups=[["a"], ["b"]]).judgement == "no"
    assert found("order", {"a": seeds(1), "b": seeds(2)}, groups=[["a"], ["b"]]).judgement == "cannot tell"
    assert found("at_least", {"all": seeds(99.0)}, EXACT, bound=99.0).holds
    assert found("difference", {"a": seeds(1.1), "b": seeds(1.2)}, EXACT, low=-0.1).holds


def test_how_many_more_seeds_would_tell_is_right() -> None:
    values = seeds(48.5, 50.5, 52.5)
    finding = found("within", {"all": values}, tolerance=2.0)
    # A deviation of 2: t(0.975, n - 1) * 2 / sqrt(n) is 2.10 for n = 6 and 1.85 for n = 7.
    assert "only known to ± 4.968: 4 more seeds would tell" in finding.why
    assert half_width(Spread(2.0, 5), 6) > 2.0 >= half_width(Spread(2.0, 6), 7)
    wild = found("within", {"all": seeds(0.0, 100.0)}, replace(PERCENT, value=50.0), tolerance=0.01)
    assert "more than 1,000 more seeds would be needed" in wild.why


def test_a_deviation_of_many_rows_tells_more_than_that_of_three_seeds() -> None:
    values = {"all": seeds(49.5, 50.5, 51.5)}
    assert found("within", values, tolerance=2.0).judgement == "cannot tell"
    spread = pool([[49.5, 50.5, 51.5], [1.0, 2.0, 3.0], [7.0, 8.0, 9.0], [5.0]])
    assert spread == Spread(1.0, 6)
    assert half_width(spread, 3) == pytest.approx(1.4127, abs=1e-4)
    assert found("within", values, replace(PERCENT, pooled={"all": spread}), tolerance=2.0).holds
    assert pool([[1.0], [2.0]]) is None
    assert pool([[1.0, 3.0], [5.0, 9.0]]) == Spread(pytest.approx(math.sqrt(5)), 2)


def test_rows_that_differ_in_their_spread_are_not_pooled() -> None:
    narrow = [[1.0, 1.2, 1.4], [5.0, 5.3, 5.5], [7.0, 7.0, 7.4]]
    wild, wilder = [50.0, 60.0, 70.0], [10.0, 60.0, 110.0]
    assert alike([wild, *narrow, wilder, [3.0, 3.0, 3.0], [4.0]]) == sorted(narrow, key=statistics.variance)
    assert alike([wild, narrow[0]]) == []
    assert alike([narrow[0]]) == []
    # As scipy has it.
    rows = np.random.default_rng(3).normal(size=(200, 4, 3)) * [[1.0], [2.0], [3.0], [8.0]]
    theirs = [bartlett(*row).pvalue >= 0.05 for row in rows]
    ours = [len(alike(row.tolist())) == 4 for row in rows]
    assert ours == theirs
    assert 0 < sum(ours) < 200


def test_a_step_that_was_never_reached_is_no_evidence_but_for_what_its_budget_shows() -> None:
    groups = [["none"], ["random_labels"]]
    given_steps = {name: {(0,): 1000.0, (1,): 1000.0} for name in ("none", "random_labels", "0", "1", "2")}
    steps = replace(STEPS, budgets=given_steps)
    samples = {"none": seeds(100, 101), "random_labels": seeds(500, math.inf)}
    assert found("order", samples, steps, groups=groups).judgement == "not enough steps"
    assert "not reached" in found("order", samples, steps, groups=groups).ours
    # Longer than its whole budget, where the other took less than that: the order is the other way round.
    samples["random_labels"] = seeds(math.inf, math.inf)
    assert found("order", samples, steps, groups=groups[::-1]).judgement == "no"
    assert found("order", samples, STEPS, groups=groups[::-1]).judgement == "not enough steps"
    never = {name: seeds(math.inf, math.inf) for name in samples}
    assert found("order", never, steps, groups=groups).judgement == "not enough steps"
    # 10 times as long at least; no more than 4 times is excluded, no more than 12 is not.
    long = {"0": seeds(100, 100), "1": seeds(math.inf, math.inf)}
    assert found("ratio", long, steps, low=1, high=4).judgement == "no"
    assert found("ratio", long, steps, low=1, high=12).judgement == "not enough steps"
    assert found("within", {"all": seeds(math.inf, 1.0)}, PERCENT, tolerance=2.0).judgement == "not enough steps"
    assert found("rising", {"0": seeds(100, 101), "1": seeds(math.inf, 5.0)}, steps, slack=1, rise=1).judgement == (
        "not enough steps"
    )
    assert found("rising_ratio", long, steps, slack=0.1, rise=0.1).judgement == "not enough steps"
    fallen = {"0": seeds(100, 100), "1": seeds(math.inf, math.inf), "2": seeds(200, 210)}
    assert found("rising_ratio", fallen, steps, slack=0.1, rise=0.1).judgement == "no"
    assert found("rising", fallen, steps, slack=1, rise=1).judgement == "no"
    assert found("difference", {"a": seeds(math.inf, 1), "b": seeds(1, 1)}, steps, low=0).judgement == (
        "not enough steps"
    )


def test_ratios_and_differences_are_of_the_same_seed() -> None:
    # Seed by seed 2 and 4 times; the ratio of the means is 2.67.
    ratios = {"0": seeds(100, 50), "1": {(0,): 299.0, (1,): 151.0, (2,): 900.0}}
    assert found("ratio", ratios, STEPS, low=2.8, high=3.2).holds
    assert not found("difference", {"a": {(0,): 5.0}, "b": {(1,): 2.0}}, low=0, high=9).holds
    assert found("ratio", {"0": {(0,): 1.0}, "1": {(1,): 2.0}}, STEPS, low=1, high=4).judgement == "cannot tell"


def test_the_weakest_setting_is_named() -> None:
    samples = {"0": seeds(99.5, 99.6, 99.4), "0.5": seeds(98.0, 98.1, 98.2), "1": seeds(98.0, 99.0, 100.0)}
    finding = found("at_least", samples, bound=99.0)
    assert (finding.judgement, finding.why) == ("no", "not at least 99.0 %: 0.5 (98.1 %)")
    doubt = found("at_least", {name: samples[name] for name in ("0", "1")}, bound=99.0)
    assert doubt.judgement == "cannot tell"
    assert doubt.why.startswith("at least 99.0 % cannot be told: 1 (99.0 %; the mean is only known to ± 2.48")


def test_a_test_set_too_small_says_nothing_about_chance() -> None:
    finding = found("at_chance", {"all": seeds(10.0, 10.1)}, replace(PERCENT, num_test=100), sigmas=3, widest=5.0)
    assert finding.judgement == "cannot tell"
    assert "the test set is too small: 3 binomial errors of the test set are 9 %, where 5 are allowed" in finding.why
    unknown = Context(None, "%", 10.0, None)
    assert found("at_chance", {"all": seeds(10.0)}, unknown, sigmas=3, widest=9).judgement == "cannot tell"
    error = Context(14.0, "%", 90.0, 10_000)
    assert found("lead_over_chance", {"all": seeds(51.0, 51.05)}, error, share=0.5).holds
    assert found("lead_over_chance", {"all": seeds(54.5, 54.6)}, error, share=0.5).judgement == "no"
    assert found("lead_over_chance", {"all": seeds(30.0)}, unknown_classes(), share=0.5).judgement == "cannot tell"
    assert found("at_chance", {"all": seeds(89.2, 89.22)}, error, sigmas=3, widest=9).holds
    assert found("at_chance", {"all": seeds(89.0, 89.02)}, error, sigmas=3, widest=9).judgement == "no"


def unknown_classes() -> Context:
    return replace(PERCENT, chance=None)


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (100.0, "%", "100 %"),
        (99.999, "%", "> 99.99 %"),
        (99.34, "%", "99.34 %"),
        (85.749, "%", "85.7 %"),
        (0.0, "%", "0 %"),
        (0.001, "%", "< 0.01 %"),
        (1_649_402, "parameters", "1,649,402 parameters"),
        (2.345, "x", "2.35x"),
        (-1.5, "points", "-1.50 points"),
        (1.2e-9, "", "1.2e-09"),
        (None, "%", "–"),
        (math.inf, "steps", "not reached"),
    ],
)
def test_numbers_are_printed_as_one_looks_at_them(value: float | None, unit: str, text: str) -> None:
    assert shown(value, unit) == text


@pytest.mark.parametrize(
    ("summary", "unit", "text"),
    [
        (Summary(85.44, 0.31, 3), "%", "85.4 ± 0.3 %"),
        (Summary(99.97, 0.02, 3), "%", "99.97 ± 0.02 %"),
        (Summary(85.44, None, 1), "%", "85.4 %"),
        (Summary(5100.0, 120.0, 2), "steps", "5,100 ± 120 steps"),
        (Summary(math.inf, None, 2), "steps", "not reached"),
        (Summary(2.4, 0.1, 3), "x", "2.40 ± 0.10x"),
        (Summary(3.4, 0.5, 3), "points", "+3.40 ± 0.50 points"),
    ],
)
def test_a_spread_stands_beside_a_mean(summary: Summary, unit: str, text: str) -> None:
    assert shown_summary(summary, unit) == text


@pytest.mark.parametrize(
    ("summary", "unit", "text"),
    [
        # t(0.975, 2) / sqrt(3) is 2.484.
        (Summary(85.44, 0.31, 3), "%", "85.4 ± 0.3 [84.7, 86.2] %"),
        (Summary(99.97, 0.02, 3), "%", "99.97 ± 0.02 [99.92, 100.00] %"),
        (Summary(85.44, None, 1), "%", "85.4 %"),
        (Summary(100.0, 0.0, 3), "%", "100 ± 0 %"),
        (Summary(5100.0, 120.0, 2), "steps", "5,100 ± 120 [4,022, 6,178] steps"),
        (Summary(2.4, 0.1, 3), "x", "2.40 ± 0.10 [2.15, 2.65]x"),
        (Summary(1.2e-9, 1e-10, 3), "", "1.2e-09 ± 1e-10 [9.52e-10, 1.45e-09]"),
        (Summary(math.inf, None, 2), "steps", "not reached"),
    ],
)
def test_an_interval_stands_beside_a_spread(summary: Summary, unit: str, text: str) -> None:
    assert shown_with_interval(summary, unit) == text
    assert (summary.interval is None) == (summary.deviation is None)
