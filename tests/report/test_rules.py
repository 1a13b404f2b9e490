from __future__ import annotations

import math
from typing import Any

import pytest

from rethinkgen.report.numbers import Summary, shown, shown_summary
from rethinkgen.report.rules import RULES, Context, Finding, Seed, parameters

PERCENT = Context(value=50.5, unit="%", chance=10.0, num_test=10_000)
STEPS = Context(value=None, unit="steps", chance=None, num_test=None)


def seeds(*values: float) -> dict[Seed, float]:
    return {(seed,): value for seed, value in enumerate(values)}


def found(kind: str, samples: dict[str, dict[Seed, float]], context: Context = PERCENT, **given: Any) -> Finding:
    finding: Finding = RULES[kind](samples, context, **given)
    return finding


CASES: list[tuple[str, dict[str, Any], dict[str, dict[Seed, float]], dict[str, dict[Seed, float]]]] = [
    ("within", {"tolerance": 2.0}, {"all": seeds(52.0, 53.0)}, {"all": seeds(52.0, 53.1)}),
    ("at_least", {"bound": 99.0}, {"a": seeds(99.0), "b": seeds(100.0)}, {"a": seeds(98.9), "b": seeds(100.0)}),
    ("at_most", {"bound": 20.0}, {"a": seeds(19.0, 21.0)}, {"a": seeds(19.0, 22.0)}),
    # Half of 40.5 points above 10.
    ("lead_over_chance", {"share": 0.5}, {"all": seeds(30.25)}, {"all": seeds(30.2)}),
    # A binomial error is 0.3, of a single run three are 0.9.
    ("at_chance", {"sigmas": 3, "widest": 2.0}, {"all": seeds(10.89)}, {"all": seeds(10.91)}),
    # Of four runs of spread 0.816: sqrt(0.09 + 0.667) / 2 is 0.435, three are 1.305.
    (
        "at_chance",
        {"sigmas": 3, "widest": 2.0},
        {"all": seeds(10.3, 12.3, 11.3, 11.3)},
        {"all": seeds(10.4, 12.4, 11.4, 11.4)},
    ),
    (
        "order",
        {"groups": [["a"], ["b", "c"], ["d"]]},
        {"d": seeds(9), "a": seeds(1), "b": seeds(5), "c": seeds(3)},
        {"d": seeds(4), "a": seeds(1), "b": seeds(5), "c": seeds(3)},
    ),
    (
        "order",
        {"groups": [["a"], ["b"]], "margin": 1.0},
        {"a": seeds(1), "b": seeds(2)},
        {"a": seeds(1), "b": seeds(1.9)},
    ),
    (
        "rising",
        {"slack": 1.0, "rise": 60.0},
        {"0": seeds(14), "0.5": seeds(50), "0.6": seeds(49), "1": seeds(90)},
        {"0": seeds(14), "0.5": seeds(50), "0.6": seeds(48.9), "1": seeds(90)},
    ),
    ("rising", {"slack": 1.0, "rise": 60.0}, {"0": seeds(30), "1": seeds(90)}, {"0": seeds(31), "1": seeds(90)}),
    (
        "rising_ratio",
        {"slack": 0.1, "rise": 0.1},
        {"0": seeds(100, 200), "0.5": seeds(150, 300), "1": seeds(145, 280)},
        {"0": seeds(100, 200), "0.5": seeds(150, 300), "1": seeds(135, 270)},
    ),
    (
        "ratio",
        {"low": 0.9, "high": 4.0},
        {"0": seeds(100, 200), "1": seeds(400, 700)},
        {"0": seeds(100, 200), "1": seeds(400, 801)},
    ),
    (
        "difference",
        {"low": 2.0, "high": 5.0},
        {"a": seeds(86, 87), "b": seeds(82, 82)},
        {"a": seeds(86), "b": seeds(84.5)},
    ),
]


@pytest.mark.parametrize(("kind", "given", "right", "wrong"), CASES)
def test_a_rule_tells_right_from_wrong(
    kind: str, given: dict[str, Any], right: dict[str, dict[Seed, float]], wrong: dict[str, dict[Seed, float]]
) -> None:
    assert found(kind, right, **given).holds
    finding = found(kind, wrong, **given)
    assert not finding.holds
    assert finding.ours
    assert finding.why


def test_every_rule_is_tested() -> None:
    assert {kind for kind, *_ in CASES} == set(RULES)


def test_rules_name_their_own_parameters() -> None:
    assert parameters(RULES["order"]) == {"groups": True, "margin": False}
    assert parameters(RULES["within"]) == {"tolerance": True}


def test_a_step_that_was_never_reached_comes_last() -> None:
    groups = [["none"], ["random_labels"]]
    samples = {"none": seeds(100, 100), "random_labels": seeds(500, math.inf)}
    assert found("order", samples, STEPS, groups=groups).holds
    assert "not reached" in found("order", samples, STEPS, groups=groups).ours
    # Of two that were never reached nobody knows which would have come first.
    assert not found("order", {name: seeds(math.inf) for name in samples}, STEPS, groups=groups).holds
    assert not found("ratio", {"0": seeds(100), "1": seeds(math.inf)}, STEPS, low=1, high=4).holds
    assert not found("within", {"all": seeds(math.inf)}, PERCENT, tolerance=2.0).holds
    assert found("rising", {"0": seeds(100), "1": seeds(math.inf)}, STEPS, slack=1, rise=1).holds
    assert not found("rising", {"0": seeds(math.inf), "1": seeds(math.inf)}, STEPS, slack=1, rise=1).holds
    assert found("rising_ratio", {"0": seeds(100), "1": seeds(math.inf)}, STEPS, slack=0.1, rise=0.1).holds
    assert not found("rising_ratio", {"0": seeds(math.inf), "1": seeds(100)}, STEPS, slack=0.1, rise=0.1).holds
    assert not found("difference", {"a": seeds(math.inf), "b": seeds(1)}, STEPS, low=0, high=5).holds


def test_ratios_and_differences_are_of_the_same_seed() -> None:
    # Seed by seed 2 and 4 times; the ratio of the means is 2.67.
    ratios = {"0": seeds(100, 50), "1": {(0,): 200.0, (1,): 200.0, (2,): 900.0}}
    assert found("ratio", ratios, STEPS, low=3.0, high=3.0).holds
    assert not found("difference", {"a": {(0,): 5.0}, "b": {(1,): 2.0}}, low=0, high=9).holds


def test_an_interval_around_chance_must_say_something() -> None:
    finding = found("at_chance", {"all": seeds(6.0, 10.0, 14.0)}, sigmas=3, widest=5.0)
    assert not finding.holds
    assert "runs differ too much to tell: 3.05 to 16.95 %" in finding.why


def test_chance_needs_a_test_set_or_a_spread() -> None:
    unknown = Context(None, "%", 10.0, None)
    assert not found("at_chance", {"all": seeds(10.0)}, unknown, sigmas=3, widest=9).holds
    assert found("at_chance", {"all": seeds(9.9, 10.2)}, unknown, sigmas=3, widest=9).holds
    error = Context(14.0, "%", 90.0, 10_000)
    assert found("lead_over_chance", {"all": seeds(52.0)}, error, share=0.5).holds
    assert not found("lead_over_chance", {"all": seeds(52.1)}, error, share=0.5).holds
    assert found("at_chance", {"all": seeds(89.2)}, error, sigmas=3, widest=9).holds
    assert not found("at_chance", {"all": seeds(89.0)}, error, sigmas=3, widest=9).holds


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
