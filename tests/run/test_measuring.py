"""``measure=[...]`` of ``train.py``: a run is measured as it ends, and what is missing is made by the same command."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from conftest import TINY, Command, read_result
from rethinkgen.measure.subject import Findings
from rethinkgen.run.measures_asked import Measure, measures_in
from rethinkgen.run.measuring import checked
from rethinkgen.run.wandb_mirror import WandbMirror

RUN = [*TINY, "data.num_train=200", "max_steps=20"]


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
