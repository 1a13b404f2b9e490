"""``measure=[...]`` of ``train.py``: a run is measured as it ends, and what is missing is made by the same command."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from conftest import ROOT, TINY, Command, read_result
from rethinkgen.errors import ReplayDiffersError
from rethinkgen.measure.subject import Findings, asks
from rethinkgen.run.measured import called, file_of, measure_id, numbers_of, read_measured, row_of, write_measured
from rethinkgen.run.measures_asked import Measure, Request, measures_in
from rethinkgen.run.measuring import Measuring, checked
from rethinkgen.run.opened import open_run
from rethinkgen.run.run import read_run
from rethinkgen.run.wandb_mirror import WandbMirror

RUN = [*TINY, "data.num_train=200", "max_steps=20"]
CONFUSION = {"confusion": {"_target_": "rethinkgen.measure.confusion.confusion", "protocol": 1}}
DISTANCE = {"distance": {"_target_": "rethinkgen.measure.distance.distance", "protocol": 1, "origin": 3}}
LAYERS = yaml.safe_load((ROOT / "conf" / "measure" / "layer_robustness.yaml").read_text())
LAYERS["layer_robustness"] |= {"steps": [5, "1ep"], "num_draws": 0, "num_examples": 10}


def files(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("measures/*/*.json")}


def test_a_run_is_measured_as_it_ends_and_again_only_where_something_is_missing(
    train: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = train(*RUN)
    result, plain = (folder / "result.json").read_bytes(), folder.name
    assert not (folder / "measures").exists()
    folder = train(*RUN, "measure=[fit,confusion]", "at=[0,end]")
    assert folder.name == plain, "what is measured does not count"
    before = files(folder)
    assert sorted(before) == ["0.json", "20.json"]  # of either measure
    assert len(list(folder.glob("measures/*/*.json"))) == 4
    rows: list[dict[str, Any]] = []
    mirror = WandbMirror("rethinkgen")
    mirror._run = SimpleNamespace(log=rows.append)
    mirror.show_measured(folder)
    assert {row["trainer/global_step"] for row in rows} == {0, 20}
    assert rows[-1]["measure/fit/fit/accuracy"] == read_result(folder)["metrics"]["fit/accuracy"]
    (told,) = folder.glob("measures/fit-*/20.json")
    assert json.loads(told.read_text())["numbers"]["fit/accuracy"] == read_result(folder)["metrics"]["fit/accuracy"]
    told.unlink()
    capsys.readouterr()
    train(*RUN, "measure=[fit,confusion]", "at=[0,end]")
    assert "measured at step 20" in (out := capsys.readouterr().out)
    assert "measured at step 0" not in out
    assert told.exists()
    assert (folder / "result.json").read_bytes() == result


def test_a_measure_that_fails_leaves_the_result(train: Command, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as failed:
        train(*RUN, "seed=1", "measure=[confusion]", "at=999")
    assert failed.value.code == 1
    assert "measured at step 999: failed: step=999" in " ".join(capsys.readouterr().out.split())
    folder = train(*RUN, "seed=1")
    assert read_result(folder)["metrics"]["steps"] == 20
    assert not (folder / "status.json").exists()


def test_what_a_run_ended_before_is_named_and_fails_nothing(train: Command, capsys: pytest.CaptureFixture[str]) -> None:
    folder = train(*RUN, "seed=2", "measure=[confusion]", "at=[0,99ep,end]")
    said = " ".join(capsys.readouterr().out.split())
    assert "at=99ep: the run ended before, at step 20." in said
    assert sorted(files(folder)) == ["0.json", "20.json"]


def test_a_replay_that_differs_costs_no_step_that_is_there(train: Command) -> None:
    folder = train(*RUN, "seed=3", "keep=[0]", "evaluate_every=0.5")
    rows = (folder / "metrics.csv").read_text().splitlines()
    place = rows[0].split(",").index("weights_digest")
    cells = [row.split(",") for row in rows]
    next(row for row in cells[1:] if row[place] and row != cells[1])[place] = "sha256-0000"
    (folder / "metrics.csv").write_text("".join(f"{','.join(row)}\n" for row in cells))
    request = Request(measures=measures_in(CONFUSION), at=[0, 15, 17, "end"])
    states = {row.step: row.state for row in Measuring(request).rows(folder)}
    assert states == {0: "done", 15: "failed", 17: "failed", 20: "done"}


def weights_told(folder: Path, measure: str, step: int) -> dict[str, str]:
    (path,) = folder.glob(f"measures/{measure}-*/{step}.json")
    told: dict[str, str] = json.loads(path.read_text())["weights"]
    return told


def test_all_steps_that_measures_ask_for_are_one_replay_and_each_file_says_how_they_were_had(
    train: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = train(*RUN, "seed=5", "evaluate_every=1", "data.batch_size=25")  # an epoch is 8 steps
    capsys.readouterr()
    request = Request(measures=measures_in(DISTANCE | LAYERS), at=[6, 17, "end"])
    rows = list(Measuring(request).rows(folder))
    assert [(row.step, row.state, row.weights) for row in rows] == [(step, "done", "replayed") for step in (6, 17, 20)]
    assert capsys.readouterr().out.count("Replaying") == 1
    assert weights_told(folder, "distance", 20) == {"20": "read", "3": "replayed"}
    layers = {"0": "replayed", "5": "replayed", "8": "replayed"}
    assert weights_told(folder, "layer_robustness", 17) == {"17": "replayed"} | layers
    assert [row.weights for row in Measuring(request).rows(folder)] == ["replayed"] * 3  # measured before
    found = {each.key: row_of(each)["weights"] for each in read_measured(folder)[0]}
    assert set(found.values()) == {"replayed"}


def test_of_a_replay_it_is_told_whether_it_was_checked_or_differed(train: Command) -> None:
    folder = train(*RUN, "seed=5", "evaluate_every=1", "data.batch_size=25")
    assert (
        next(Measuring(Request(measures=measures_in(CONFUSION), at=[4])).rows(folder)).weights == "replayed unchecked"
    )
    rows = [row.split(",") for row in (folder / "metrics.csv").read_text().splitlines()]
    (of_16,) = (row for row in rows if row[0] == "16")
    of_16[rows[0].index("weights_digest")] = "sha256-0000"
    (folder / "metrics.csv").write_text("".join(f"{','.join(row)}\n" for row in rows))
    opened = open_run(folder)
    with pytest.raises(ReplayDiffersError) as differs:
        opened.replay([5, 8, 12, 17, "end"])
    assert opened.at_hand == {5, 8}, "the row of step 8 told the same"
    opened.network(8)
    with pytest.raises(ReplayDiffersError) as again:
        opened.network(12)
    assert again.value is differs.value
    opened = open_run(folder, inexact=True)
    opened.replay([17, "end"])
    assert opened.provenance == {17: "replayed inexactly", 20: "read"}


def test_ctrl_c_while_it_is_measured_leaves_a_run_finished(
    train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(*_: Any) -> bool:
        raise KeyboardInterrupt

    monkeypatch.setattr("rethinkgen.run.measuring.measure_own", stopped)
    with pytest.raises(SystemExit) as end:
        train(*RUN, "seed=4", "measure=[confusion]")
    assert end.value.code == 128 + 2
    (result,) = tmp_path.glob("**/result.json")
    assert not (result.parent / "status.json").exists()
    assert read_run(result.parent).state == "done"


def test_the_number_by_a_name_is_of_the_latest_protocol(tmp_path: Path) -> None:
    for protocol in (2, 1):
        facts = {
            "measure": "mine",
            "called": "mine",
            "function": "f",
            "protocol": protocol,
            "parameters": {},
            "step": 3,
        }
        path = file_of(tmp_path, "mine", measure_id("f", protocol, {}), 3)
        write_measured(path, {**facts, "numbers": {"x": protocol / 10}}, {})
    found, damage = read_measured(tmp_path)
    assert not damage
    assert {name: value for each in found for name, value in numbers_of(each).items()} == {"measure/mine/x": 0.2}
    assert called("mine", {"steps": [0, 1], "other": "seed=1"}, {"steps": (0, 1)}) == "mine(other=seed=1)"


def test_the_same_words_that_chose_two_second_runs_are_two_names(tmp_path: Path) -> None:
    plain = {"measure": "mine", "function": "f", "protocol": 1, "parameters": {}, "step": 3}
    for other in ("aaa", "bbb", "ccc"):
        called = "mine(other=seed=2)" if other == "ccc" else "mine(other=seed=1)"
        path = file_of(tmp_path, "mine", measure_id("f", 1, {}, other), 3)
        write_measured(path, {**plain, "called": called, "other": other, "numbers": {"x": 1.0}}, {})
    names = {name for each in read_measured(tmp_path)[0] for name in numbers_of(each)}
    assert names == {
        "measure/mine(other=seed=1,aaa)/x",
        "measure/mine(other=seed=1,bbb)/x",
        "measure/mine(other=seed=2)/x",
    }


@pytest.mark.parametrize(
    ("override", "words"),
    [
        ("measure=[nothing]", "measure/nothing"),
        ("at=soon", "at='soon'"),
        ("+measure.mine={_target_:os.system}", "a measure (a function whose first parameter is called subject)"),
        ("+measure.mine=3", "is needed as its _target_"),
    ],
)
def test_what_is_no_measure_is_said_before_anything_is_trained(
    override: str, words: str, train: Command, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(SystemExit):
        train(*RUN, override)
    assert words in " ".join(capsys.readouterr().err.split())
    assert not list(tmp_path.glob("multirun/*/*/config.yaml"))


def test_numbers_and_tables_are_plain_or_refused() -> None:
    told = Findings({"a": torch.tensor(0.5), "b": None, "c": float("inf"), "d": 3}, {"t": {"x": range(2), "y": "ab"}})
    numbers, tables = checked("mine", told)
    assert numbers == {"a": 0.5, "b": None, "c": None, "d": 3}
    assert {name: column.tolist() for name, column in tables["t"].items()} == {"x": [0, 1], "y": ["a", "b"]}
    wrong: list[tuple[Any, str]] = [
        ("3", "it returned str"),
        (Findings({"a b": 1.0}), "is no name"),
        (Findings({"a": "1"}), r"numbers\['a'\] is '1'"),  # type: ignore[dict-item]
        (Findings({"a": True}), r"numbers\['a'\] is True"),
        (Findings({}, {"t": {"x": [1], "y": [1, 2]}}), r"not of one length \(x: 1, y: 2\)"),
        (Findings({}, {"t": {"x": torch.zeros(2, 2)}}), r"float32 of shape \(2, 2\)"),
        (Findings({}, {"t": {"x": [object()]}}), "object of shape"),
    ]
    for findings, words in wrong:
        with pytest.raises(ValueError, match=words):
            checked("mine", findings)


def test_a_measure_declares_which_steps_it_asks_for() -> None:
    @asks("to", "steps", also=(0,), unless_other=True, trainings=2)
    def mine(subject: object, *, to: object = None, steps: tuple[int, ...] = ()) -> Findings:
        return Findings()

    declared = mine.asks  # type: ignore[attr-defined]
    assert declared.steps({"to": "1ep", "steps": [3, "end"]}, has_other=False) == [0, "1ep", 3, "end"]
    assert declared.steps({"to": None, "steps": ()}, has_other=False) == [0]
    assert declared.steps({"to": "1ep", "steps": [3]}, has_other=True) == []
    assert declared.trainings == 2


def test_what_a_measure_is_known_by() -> None:
    def key(other: str | None = None, **changed: object) -> str:
        node = {"_target_": "rethinkgen.measure.margins.margins", "protocol": 1, "share": 0.1} | changed
        (measure,) = measures_in({"margins": node})
        assert isinstance(measure, Measure)
        return measure.key(other)

    plain = key()
    assert plain.startswith("margins-")
    assert key(_target_="rethinkgen.moved.margins") == plain
    assert len({plain, key(protocol=2), key(share=0.2), key(more=1), key(_target_="mine.margins"), key("b1bf5b")}) == 6
