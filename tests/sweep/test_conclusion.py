from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from rethinkgen.run.identity import counted, flatten
from rethinkgen.sweep import conclusion
from rethinkgen.sweep.conclusion import conclude, ending_of
from rethinkgen.sweep.jobs import Job, describe_exit, labels
from rethinkgen.sweep.summary import Summary


def result(corruption: str, seed: int = 0, steps: int | None = 100, **keys: Any) -> dict[str, Any]:
    """A result as a run leaves it, of what is read of it here."""
    choices = {"data": "digits", "data.corruption": corruption, "model": keys.get("model", "mlp"), "regularizer": []}
    config = {"model": {"_target_": choices["model"]}, "seed": seed, "data": {"corruption": {"_target_": corruption}}}
    if "probability" in keys:
        config["data"]["corruption"]["probability"] = keys["probability"]
    config["data"]["source"] = {"_target_": "rethinkgen.data.source.Digits"}
    metrics = {"fit/accuracy": keys.get("fit", 1.0), "test/accuracy": keys.get("test", 0.9), "steps_to_fit": steps}
    return {
        "run_id": "0123",
        "choices": choices,
        "config": config,
        "seed": seed,
        "metrics": {**metrics, "steps": 500},
        "fitted": steps is not None,
        "num_classes": 10,
        "seconds": 1.0,
    }


def sentences(results: list[dict[str, Any]]) -> list[str]:
    return conclusion.sentences(ending_of(each, flatten(counted(each["config"]))) for each in results)


def finished(folder: Path, name: str, content: dict[str, Any], *overrides: str) -> Job:
    (folder / name).mkdir(parents=True)
    (folder / name / "result.json").write_text(json.dumps(content | {"run_id": name}))
    return Job(list(overrides), folder / name)


def test_a_sentence_compares_with_the_same_runs_on_true_labels() -> None:
    results = [
        result("none", seed=0, steps=100),
        result("none", seed=1, steps=200),
        result("random_labels", seed=0, steps=310, test=0.08),
        result("random_labels", seed=1, steps=620, test=0.12),
        result("random_labels", seed=2, steps=9_000, test=0.10),
    ]
    first, second = sentences(results)
    assert first == "digits, none (mean of 2): fit 100 %, test 90 % (chance 10 %): fitted in 150 steps"
    # Seed 2 has no counterpart, and a median of ratios is no ratio of means.
    assert second.startswith("digits, random_labels (mean of 3): fit 100 %, test 10 % (chance 10 %): ")
    assert second.endswith(": memorised in 3.1x the steps of true labels")


def test_other_settings_are_not_compared_and_what_is_not_fitted_is_said() -> None:
    results = [
        result("none", model="mlp", steps=100),
        result("partial_labels", model="alexnet", steps=300, probability=0.4),
        result("partial_labels", model="mlp", steps=None, probability=0.4, fit=0.7),
    ]
    assert sentences(results)[1:] == [
        "digits, partial_labels 0.4, alexnet: fit 100 %, test 90 % (chance 10 %): fitted in 300 steps",
        "digits, partial_labels 0.4, mlp: fit 70 %, test 90 % (chance 10 %): 1 of 1 not fitted",
    ]


def test_what_is_fitted_at_the_first_evaluation_has_no_ratio() -> None:
    true, random = result("none", steps=320), result("random_labels", steps=640)
    true["metrics"]["steps_to_fit_last_missed"] = 0
    random["metrics"]["steps_to_fit_last_missed"] = 320
    first, second = sentences([true, random])
    assert first.endswith(": fitted in at most 320 steps: at the first evaluation")
    assert second.endswith(": memorised in 640 steps")


def test_a_mean_over_different_questions_says_so() -> None:
    results = [result("none", seed=0), result("none", seed=1), result("none", seed=0), result("none", seed=1)]
    for one in results[2:]:
        one["config"]["max_steps"] = 5
    assert sentences(results)[0].startswith("digits, none (mean of 4 in 2 settings): ")
    results[0]["choices"]["regularizer"] = ["dropout"]
    first, second = sentences(results)
    assert first.startswith("digits, none, dropout: fit")
    assert second.startswith("digits, none, no regularizer (mean of 3 in 2 settings): fit")


def test_a_mean_over_runs_with_a_test_part_alone_says_so() -> None:
    results = [result("none", seed=0, test=0.8), result("none", seed=1, test=None)]
    (line,) = sentences(results)
    assert line.startswith("digits, none (mean of 2): fit 100 %, test 80 % (of 1 with a test part) (chance 10 %): ")


def test_brackets_in_names_are_no_markup(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "a [bold]b[/red]"
    overrides = ["regularizer=[weight_decay]", "regularizer=[flip]"]
    jobs = [finished(folder, f"run{n}", result("none"), override) for n, override in enumerate(overrides)]
    for number, content in ((1, "logged"), (2, "")):
        (folder / f"run{number - 1}" / "wandb" / f"offline-run-{number}").mkdir(parents=True)
        (folder / f"run{number - 1}" / "wandb" / f"offline-run-{number}" / "run-1.wandb").write_text(content)
    assert conclude([folder], jobs) == 0
    output = capsys.readouterr().out
    assert "[weight_decay]" in output
    assert f"{folder}/summary.csv" in output
    assert "Not sent to W&B yet:\n  " in output
    assert f"wandb sync '{folder}'/*/wandb/offline-run-*" in output
    (folder / "run0" / "wandb" / "offline-run-1" / "run-1.wandb.synced").touch()
    assert conclude([folder], jobs) == 0
    assert "wandb sync" not in capsys.readouterr().out


def test_the_summary_is_flat_and_pandas_reads_it_as_it_is(tmp_path: Path) -> None:
    finished(tmp_path, "a", result("none", steps=100))
    finished(tmp_path, "b", result("partial_labels", steps=None, probability=0.4))
    (tmp_path / "c").mkdir()
    status = {"state": "failed", "reason": "one, two", "choices": {"model": "mlp", "regularizer": ["dropout", "flip"]}}
    (tmp_path / "c" / "status.json").write_text(json.dumps(status))
    table = pd.read_csv(Summary(tmp_path).write()).set_index("run")
    assert list(table["state"]) == ["done", "done", "failed"]
    assert table.loc["c", "reason"] == "one, two"
    assert list(table["regularizer"]) == ["none", "none", "dropout+flip"]
    assert list(table["data.corruption"][:2]) == ["none", "partial_labels"]
    assert table.loc["b", "data.corruption.probability"] == 0.4
    assert table.loc["a", "steps_to_fit"] == 100
    assert table["steps_to_fit"].isna().tolist() == [False, True, True]
    assert table["test/accuracy"].dtype == float


def test_the_summary_has_each_run_once_and_what_differs_among_these(tmp_path: Path) -> None:
    old, kept, other = (result("none", seed=seed, steps=100) for seed in (7, 1, 2))
    old["finished"], kept["finished"] = "2026-01-01", "2026-01-02"
    for name, content in (("a", old), ("b", kept), ("c", other)):
        job = finished(tmp_path, name, content)
        content["run_id"] = "other" if name == "c" else "one"
        (job.path / "result.json").write_text(json.dumps(content))
    (tmp_path / "link").symlink_to(tmp_path / "c")
    table = pd.read_csv(Summary(tmp_path).write())
    assert list(table["run"]) == ["b", "c"]
    assert list(table["seed"]) == [1, 2]
    assert list(table["folder"]) == ["b", "c"], "from the folder of the summary"
    # Its class and source are the same in all that are left.
    assert not {"model.class", "data.source.class"} & set(table)


def test_a_file_of_one_content_does_not_vary_wherever_it_lies(tmp_path: Path) -> None:
    for seed, file in enumerate(("a.csv", "b.csv")):
        told = result("asymmetric_labels", seed)
        told["config"]["data"]["corruption"]["matrix"] = file
        finished(tmp_path, f"run{seed}", told | {"contents": {"data.corruption.matrix": "0123"}})
    assert not [name for name in pd.read_csv(Summary(tmp_path).write()).columns if "matrix" in name]


def test_failed_rows_come_first_where_there_are_too_many(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    jobs = [finished(tmp_path, f"run{seed}", result("none", seed), f"seed={seed}") for seed in range(100)]
    (tmp_path / "run99" / "status.json").write_text('{"state": "failed", "reason": "at last"}')
    assert conclude([tmp_path], jobs) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].startswith("99 ")
    assert "failed: at last" in lines[1]
    assert "... 40 more" in "\n".join(lines)
    assert any("The same command runs the 1 failed and nothing else" in line for line in lines)


def test_labels_name_what_tells_jobs_apart(tmp_path: Path) -> None:
    common = ["trainer=cpu", "model.learning_rate=0.1"]
    grid = [["data.corruption=none", "seed=0"], ["data.corruption=none", "seed=1", "data.corruption.probability=0.2"]]
    jobs = [Job([*common, *cell], tmp_path) for cell in grid]
    assert labels(jobs) == ["seed=0", "seed=1 probability=0.2"]
    assert labels(jobs[:1]) == ["none seed=0"]


@pytest.mark.parametrize(("code", "text"), [(3, "exit code 3"), (-9, "killed by SIGKILL"), (-11, "killed by SIGSEGV")])
def test_an_exit_is_described(code: int, text: str) -> None:
    assert describe_exit(code).startswith(text)
