"""How often each rule says the wrong thing, at its edge and beyond, in simulated sweeps: the table of ``docs/``."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from conftest import ROOT
from rethinkgen.report.rules import RULES, Context, Judgement, pool

NUM_SWEEPS = 1000
CONTEXT = Context(value=50.0, unit="%", chance=10.0, num_test=10_000)
LEVELS = ("0", "0.2", "0.4", "0.6", "0.8", "1")

Means = Mapping[str, float]
Case = tuple[str, dict[str, Any], Means, float, int]
"""Rule, its parameters, the true means of its settings, the deviation over seeds, how many seeds."""


def rates(kind: str, given: dict[str, Any], means: Means, deviation: float, seeds: int, rows: int = 1) -> Counter[str]:
    """Return how often, in percent, each judgement comes of sweeps whose seeds are drawn around the true means.

    With ``rows`` the deviation is pooled over as many rows of a table.
    """
    drawn = np.random.default_rng(0)  # the same sweeps each time
    found: Counter[str] = Counter()
    for _ in range(NUM_SWEEPS):
        samples = {
            name: {(seed,): mean + deviation * drawn.standard_normal() for seed in range(seeds)}
            for name, mean in means.items()
        }
        context = CONTEXT
        if rows > 1:
            others = [list(deviation * drawn.standard_normal(seeds)) for _ in range(rows - 1)]
            pooled = {name: pool([list(values.values()), *others]) for name, values in samples.items()}
            context = replace(CONTEXT, pooled=pooled)
        found[RULES[kind](samples, context, **given).judgement] += 1
    return Counter({judgement: 100 * number / NUM_SWEEPS for judgement, number in found.items()})


WITHIN = {"tolerance": 2.0}
RISING = {"slack": 1.0, "rise": 30.0}
RANGE = {"low": 2.0, "high": 5.0}
ORDER = {"groups": [["a"], ["b"]]}
CHANCE = {"sigmas": 3, "widest": 2.0}
RATIO = {"low": 1.0, "high": 4.5}
RATIOS = {"slack": 0.1, "rise": 0.1}
SLACK = {"slack": 1.0, "rise": -10.0}
STEADY, BACK_BY_1, BACK_BY_4, EVER_BACK = (
    dict(zip(LEVELS, means, strict=True))
    for means in (
        (50, 58, 66, 74, 82, 90),
        (50, 60, 59, 70, 80, 90),
        (50, 60, 56, 70, 80, 90),
        (50, 49, 48, 47, 46, 45),
    )
)
HALF_LEAD = {"share": 0.5}
TABLE: list[tuple[str, Case, int, dict[Judgement, float]]] = [
    # What is true; rule and truth; rows pooled; percent that say yes, no (the rest cannot tell).
    ("as published", ("within", WITHIN, {"all": 50.0}, 0.5, 3), 1, {"yes": 92, "no": 0}),
    ("as published, seeds differ by 10", ("within", WITHIN, {"all": 50.0}, 10.0, 3), 1, {"yes": 0, "no": 4}),
    ("off by the tolerance", ("within", WITHIN, {"all": 52.0}, 0.5, 3), 1, {"yes": 47, "no": 44}),
    ("off by twice the tolerance", ("within", WITHIN, {"all": 54.0}, 0.5, 3), 1, {"yes": 0, "no": 94}),
    ("off by twice, seeds differ by 10", ("within", WITHIN, {"all": 54.0}, 10.0, 3), 1, {"yes": 0, "no": 5}),
    ("as published, seeds differ by 1", ("within", WITHIN, {"all": 50.0}, 1.0, 3), 1, {"yes": 48, "no": 0}),
    ("the same, 19 rows pooled", ("within", WITHIN, {"all": 50.0}, 1.0, 3), 19, {"yes": 100, "no": 0}),
    ("at the bound", ("at_least", {"bound": 50.0}, {"all": 50.0}, 0.5, 3), 1, {"yes": 3, "no": 3}),
    ("above it by 2 deviations", ("at_least", {"bound": 50.0}, {"all": 51.0}, 0.5, 3), 1, {"yes": 46, "no": 0}),
    ("below it by 2 deviations", ("at_most", {"bound": 50.0}, {"all": 49.0}, 0.5, 3), 1, {"yes": 48, "no": 0}),
    ("half of the lead over chance", ("lead_over_chance", HALF_LEAD, {"all": 30.0}, 0.5, 3), 1, {"yes": 3, "no": 3}),
    ("chance", ("at_chance", CHANCE, {"all": 10.0}, 0.3, 3), 1, {"yes": 78, "no": 0}),
    ("chance, 5 rows pooled", ("at_chance", CHANCE, {"all": 10.0}, 0.3, 3), 5, {"yes": 100, "no": 0}),
    ("2 points above chance", ("at_chance", CHANCE, {"all": 12.0}, 0.3, 3), 1, {"yes": 0, "no": 87}),
    ("no order at all", ("order", ORDER, {"a": 50.0, "b": 50.0}, 0.5, 3), 1, {"yes": 1, "no": 1}),
    ("apart by 4 deviations", ("order", ORDER, {"a": 50.0, "b": 52.0}, 0.5, 3), 1, {"yes": 89, "no": 0}),
    ("the other way round", ("order", ORDER, {"a": 52.0, "b": 50.0}, 0.5, 3), 1, {"yes": 0, "no": 90}),
    ("rises by 8 points a level", ("rising", RISING, STEADY, 0.5, 3), 1, {"yes": 100, "no": 0}),
    ("a step back of the slack", ("rising", RISING, BACK_BY_1, 0.5, 3), 1, {"yes": 2, "no": 1}),
    ("a step back of 4 points", ("rising", RISING, BACK_BY_4, 0.5, 3), 1, {"yes": 0, "no": 99}),
    ("a step back of the slack at every level", ("rising", SLACK, EVER_BACK, 0.5, 3), 1, {"yes": 0, "no": 8}),
    ("middle of the range", ("difference", RANGE, {"a": 53.5, "b": 50.0}, 0.3, 3), 1, {"yes": 87, "no": 0}),
    ("end of the range", ("difference", RANGE, {"a": 52.0, "b": 50.0}, 0.3, 3), 1, {"yes": 44, "no": 42}),
    ("2 points outside", ("difference", RANGE, {"a": 50.0, "b": 50.0}, 0.3, 3), 1, {"yes": 0, "no": 96}),
    ("twice the steps", ("ratio", RATIO, {"0": 50.0, "1": 100.0}, 2.0, 3), 1, {"yes": 100, "no": 0}),
    ("as many steps", ("ratio", RATIO, {"0": 50.0, "1": 50.0}, 1.0, 3), 1, {"yes": 50, "no": 50}),
    ("a tenth fewer steps", ("ratio", RATIO, {"0": 50.0, "1": 45.0}, 1.0, 3), 1, {"yes": 0, "no": 100}),
    ("ratios rise by their least", ("rising_ratio", RATIOS, {"0": 50.0, "1": 55.0}, 1.0, 3), 1, {"yes": 2, "no": 2}),
    ("half as many steps again", ("rising_ratio", RATIOS, {"0": 50.0, "1": 75.0}, 1.0, 3), 1, {"yes": 100, "no": 0}),
]  # fmt: skip
NEAR = 0.6
"""Percent points that a rate may differ by from what is written: the sweeps are the same each time."""


@pytest.mark.parametrize(("truth", "case", "rows", "expected"), TABLE)
def test_a_rule_errs_as_often_as_is_written(
    truth: str, case: Case, rows: int, expected: dict[Judgement, float]
) -> None:
    found = rates(*case, rows=rows)
    assert found["yes"] == pytest.approx(expected["yes"], abs=NEAR), truth
    assert found["no"] == pytest.approx(expected["no"], abs=NEAR), truth


def test_every_rule_has_its_rates_and_the_page_has_them_too() -> None:
    assert {case[0] for _, case, _, _ in TABLE} == set(RULES)
    page = (ROOT / "docs" / "how_claims_are_judged.md").read_text()
    for truth, (kind, _, _, deviation, seeds), _, expected in TABLE:
        row = f"| `{kind}` | {truth} | {deviation:g} | {seeds} | {expected['yes']:g} | {expected['no']:g} |"
        assert row in page, row


def test_three_wild_seeds_no_longer_pass() -> None:
    # Of the issue: 40, 52 and 60 % against 50.51; and an offset of 4 points with a deviation of 10 passed in 22 %.
    context = replace(CONTEXT, value=50.51)
    wild = {"all": {(0,): 40.0, (1,): 52.0, (2,): 60.0}}
    finding = RULES["within"](wild, context, **WITHIN)
    assert finding.judgement == "cannot tell"
    assert rates("within", WITHIN, {"all": 54.0}, 10.0, 3)["yes"] < 1


def print_table(say: Callable[[str], object] = print) -> None:
    """Print what the simulation gives, to be written into ``TABLE`` and the page."""
    for truth, case, rows, _ in TABLE:
        found = rates(*case, rows=rows)
        say(f"{found['yes']:5.1f} {found['no']:5.1f}  {case[0]} {truth}")


if __name__ == "__main__":
    print_table()
