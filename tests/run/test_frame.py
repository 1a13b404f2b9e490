"""A table of runs in which no mean is over what was swept."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest

import rethinkgen
from report.made_up import made_up_run
from rethinkgen.run import frame
from rethinkgen.run.measured import called, file_of, measure_id, write_measured
from rethinkgen.run.run import Run


def _table(monkeypatch: pytest.MonkeyPatch, runs: list[Run]) -> pd.DataFrame:
    monkeypatch.setattr(frame.runs_on_disk, "read_runs", lambda folders: runs)
    return rethinkgen.read_runs("multirun/runs")


def test_each_run_of_a_sweep_is_a_row_and_means_are_over_seeds(small_sweep: Path) -> None:
    runs = rethinkgen.read_runs(small_sweep)
    assert runs.index.names == ["data", "data.corruption", "model", "regularizer", "seed"]
    assert runs.index.is_unique
    assert set(runs["state"]) == {"done"}
    assert all((Path(folder) / "result.json").is_file() for folder in runs["folder"])
    means = rethinkgen.mean_over_seeds(runs, "test/accuracy")
    of_random = runs.xs("random_labels", level="data.corruption")["test/accuracy"]
    told = means.xs("random_labels", level="data.corruption").iloc[0]
    assert told["mean"] == pytest.approx(sum(of_random) / 2)
    assert told["std"] == pytest.approx(abs(of_random.iloc[0] - of_random.iloc[1]) / math.sqrt(2))
    assert told["n"] == 2
    assert means["mean"].unstack("data.corruption").shape == (1, 2)
    with pytest.raises(ValueError, match=r"metric='test/accurcy': no run has it\. There are .*test/accuracy"):
        rethinkgen.mean_over_seeds(runs, "test/accurcy")


def test_what_was_swept_is_never_averaged_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    grid = [
        made_up_run(tmp_path, corruption="partial_labels", level=level, regularizers=kind, seed=seed, config=config)
        for level in (0.2, 0.4)
        for kind in ([], ["weight_decay"])
        for seed in (0, 1)
        for config in ({}, {"max_steps": 100}, {"crop": 28}, {"crop": "auto"}, {"crop": None, "num_train": 500})
    ]
    runs = _table(monkeypatch, grid)
    assert runs.index.is_unique
    means = rethinkgen.mean_over_seeds(runs, "test/accuracy")
    assert set(means["n"]) == {2}
    assert len(means) == len(grid) / 2
    assert {"data.corruption.probability", "max_steps", "crop", "data.num_train"} <= set(means.index.names)
    with pytest.raises(ValueError, match="duplicate"):
        runs["test/accuracy"].droplevel(["seed", "data.corruption.probability"]).unstack("regularizer")


def test_what_follows_from_a_choice_is_not_told_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = _table(monkeypatch, [made_up_run(tmp_path, model=model) for model in ("inception", "alexnet")])
    assert runs.index.names == ["data", "data.corruption", "model", "regularizer", "seed"]


def test_a_mean_does_not_leave_out_the_slow_ones_or_those_without_a_result(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = _table(
        monkeypatch,
        [
            made_up_run(tmp_path, seed=0),
            made_up_run(tmp_path, seed=1, steps_to_fit=None),
            made_up_run(tmp_path, seed=2, state="failed"),
            made_up_run(tmp_path, model="alexnet", seed=0),
        ],
    )
    assert list(runs.xs("inception", level="model")["state"]) == ["done", "done", "failed"]
    steps = rethinkgen.mean_over_seeds(runs, "steps_to_fit").droplevel(["data", "data.corruption", "regularizer"])
    assert math.isnan(steps.loc["inception", "mean"])
    assert steps.loc["inception", "n"] == 2
    assert steps.loc["alexnet", "mean"] == 5000
    assert math.isnan(steps.loc["alexnet", "std"])
    assert rethinkgen.mean_over_seeds(runs, "test/accuracy")["n"].tolist() == [1, 2]


def test_other_data_under_the_same_name_are_another_setting(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [made_up_run(tmp_path, seed=seed) for seed in (0, 1)]
    found[0].facts["fingerprint"], found[1].facts["fingerprint"] = "before", "after"
    runs = _table(monkeypatch, found)
    # Whoever has one seed of each cannot tell the two apart, and means are over what one cannot tell apart.
    assert "data.fingerprint" in runs.index.names


def _measure(run: Run, step: int, accuracy: float | None, **parameters: object) -> None:
    known_by = measure_id("margins", 1, parameters)
    name = called("margins", parameters, {"share": 0.1})
    facts = {
        "measure": "margins",
        "called": name,
        "function": "margins",
        "protocol": 1,
        "parameters": parameters,
        "step": step,
    }
    write_measured(file_of(run.path, "margins", known_by, step), {**facts, "numbers": {"mean": accuracy}}, {})


def test_what_was_measured_at_the_end_stands_beside_the_metrics(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = [made_up_run(tmp_path, seed=seed) for seed in (0, 1, 2)]
    for run, value in zip(found, (0.25, None), strict=False):
        _measure(run, int(run.metrics["steps"]), value, share=0.1)
        _measure(run, 0, 0.9, share=0.1)
    runs = _table(monkeypatch, list(map(replace, found)))
    assert [name for name in runs if name.startswith("measure/")] == ["measure/margins/mean"]
    assert runs["measure/margins/mean"].fillna(-1).tolist() == [0.25, -1, -1]
    assert runs["measure/margins/mean"].dtype == float
    _measure(found[0], int(found[0].metrics["steps"]), 0.5, share=0.2)
    runs = _table(monkeypatch, list(map(replace, found)))  # read anew
    assert runs["measure/margins/mean"].iloc[0] == 0.25
    assert rethinkgen.mean_over_seeds(runs.iloc[:1], "measure/margins(share=0.2)/mean")["mean"].tolist() == [0.5]
    (path,) = found[1].path.glob(f"measures/*/{found[1].metrics['steps']}.json")
    path.write_text("{")
    with pytest.warns(UserWarning, match="is damaged"):
        _table(monkeypatch, list(map(replace, found)))
