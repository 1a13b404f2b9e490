"""Mean and spread over repetitions, against their definitions."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pandas as pd
import pytest

from rethinkgen.run.rows import mean_curve, means


def curve(values: Mapping[int, float]) -> pd.DataFrame:
    return pd.DataFrame({"step": list(values), "value": list(values.values())})


def test_a_mean_curve_has_the_steps_that_every_run_logged() -> None:
    """Three runs that end together; steps 20 and 40 were not logged by all, and a mean over fewer would jump."""
    table = mean_curve(
        [curve({10: 1, 20: 2, 30: 4, 50: 6}), curve({10: 2, 30: 8, 50: 7}), curve({10: 6, 30: 0, 40: 9, 50: 5})]
    )
    assert table is not None
    assert table["step"].tolist() == [10, 30, 50]
    assert table["n"].tolist() == [3, 3, 3]
    assert table["mean"].tolist() == pytest.approx([3, 4, 6])
    assert table["std"].tolist() == pytest.approx([math.sqrt(7), 4, 1])


def test_runs_that_end_apart_or_none_at_all_have_no_mean_curve() -> None:
    assert mean_curve([curve({10: 1, 20: 2}), curve({10: 3})]) is None
    assert mean_curve([]) is None


def test_one_run_is_its_own_mean_without_a_spread() -> None:
    table = mean_curve([curve({5: 0.25, 9: 0.75})])
    assert table is not None
    assert table["mean"].tolist() == [0.25, 0.75]
    assert table["std"].isna().all()


def test_means_have_the_sample_deviation_and_the_means_interval() -> None:
    rows = pd.DataFrame({"x": [8, 8, 8, 4, 2], "y": [1.0, 2.0, 6.0, 4.0, math.nan]})
    table = means(rows, "x", "y").set_index("x")
    assert list(table.index) == [2, 4, 8]
    # t(0.975, 2) is 4.3027.
    half = 4.30265 * math.sqrt(7) / math.sqrt(3)
    expected = {"mean": 3, "std": math.sqrt(7), "low": 3 - half, "high": 3 + half, "n": 3}
    assert table.loc[8].to_dict() == pytest.approx(expected, rel=1e-5)
    nothing = {"std": math.nan, "low": math.nan, "high": math.nan}
    assert table.loc[4].to_dict() == pytest.approx({"mean": 4, **nothing, "n": 1}, nan_ok=True)
    assert table.loc[2].to_dict() == pytest.approx({"mean": math.nan, **nothing, "n": 0}, nan_ok=True)


def test_names_stay_in_their_order() -> None:
    rows = pd.DataFrame({"x": ["none", "gaussian", "none"], "y": [1.0, 2.0, 3.0]})
    assert means(rows, "x", "y")["x"].tolist() == ["none", "gaussian"]


def test_a_mean_curve_has_the_interval_of_each_mean() -> None:
    table = mean_curve([curve({10: 1, 20: 5}), curve({10: 2, 20: 5}), curve({10: 6, 20: 5})])
    assert table is not None
    half = 4.30265 * math.sqrt(7) / math.sqrt(3)
    assert table["low"].tolist() == pytest.approx([3 - half, 5], rel=1e-5)
    assert table["high"].tolist() == pytest.approx([3 + half, 5], rel=1e-5)
