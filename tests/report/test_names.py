"""What runs call their data, models and settings is anybody's text: it names no file elsewhere, and runs nothing."""

from __future__ import annotations

import csv
import json
import os
import shutil
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conftest import ROOT, TINY, Command
from rethinkgen.commands.report import main
from rethinkgen.names import distinct, stem, to_csv
from rethinkgen.sweep.summary import Summary
from run_folders import write_run

ODD = "x/../../../F"
FORMULA = '=HYPERLINK("x")'


@given(st.lists(st.text(max_size=300), max_size=6))
def test_a_stem_is_a_name_in_any_folder(texts: list[str]) -> None:
    names = distinct(map(stem, texts))
    assert len({name.lower() for name in names}) == len(texts)
    for name in names:
        assert name.isascii()
        assert set(name) & set('/\\ :*?"<>|\0') == set()
        assert not name.startswith(".")
        assert 0 < len(name) < 100


def test_an_ordinary_name_stays() -> None:
    for name in ("grid_digits", "figure_1b_cifar10", "a-b.c"):
        assert stem(name) == name
    assert stem("grid_my/cats") == "grid_my_cats"
    assert distinct(["a", "A", "a_2", "a"]) == ["a", "A_2", "a_2_2", "a_3"]


def choose(run: Path, **choices: str) -> None:
    """Have a run say other choices of itself."""
    result = json.loads((run / "result.json").read_text())
    result["choices"] |= {name.replace("__", "."): value for name, value in choices.items()}
    (run / "result.json").write_text(json.dumps(result))


@pytest.fixture
def odd_sweep(tmp_path: Path) -> Path:
    """A sweep on data and models of odd names, in a folder deep enough for the way out to be seen."""
    sweep = tmp_path / "a" / "b" / "c" / "multirun" / "sweep"
    named = [(ODD, FORMULA), (ODD, "$\\frac$"), ("x_.._.._.._F", "-1+1"), ("con", "_m")]
    for number, (data, model) in enumerate(named):
        for corruption in ("none", "random_labels"):
            choose(write_run(sweep, corruption=corruption, seed=number), data=data, model=model)
    return sweep


def test_every_file_lies_in_the_reports_own_folder(odd_sweep: Path, tmp_path: Path) -> None:
    before = {path for path in tmp_path.rglob("*") if path.is_file()}
    assert main([str(odd_sweep)]) == 0
    written = {path for path in tmp_path.rglob("*") if path.is_file()} - before
    report = odd_sweep / "report"
    assert {path.parent for path in written} == {report, report / "tables", report / "figures"}
    assert len(written) > 20
    for path in written:
        assert stem(path.name) == path.name
        if path.suffix == ".csv":
            with path.open(newline="") as file:
                assert [cell for row in csv.reader(file) for cell in row if cell[:1] in ("=", "@")] == []


def test_a_summary_runs_nothing_in_a_spreadsheet(odd_sweep: Path) -> None:
    summary = Summary(odd_sweep.resolve()).write()
    with summary.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["model"] for row in rows} == {f"'{FORMULA}", "$\\frac$", "'-1+1", "_m"}
    assert {float(row["test/accuracy"]) for row in rows} == {0.5}


def test_numbers_stay_numbers(tmp_path: Path) -> None:
    text = to_csv(pd.DataFrame({"=a": [-1.5, 2.0], "b": ["-2", "-x"], "c": [None, "@x"]}))
    assert text == "'=a,b,c\n-1.5,-2,\n2.0,'-x,'@x\n"
    assert to_csv(pd.DataFrame()) == pd.DataFrame().to_csv(index=False)


@pytest.mark.parametrize("name", ["tables", "figures", "."])
def test_the_report_is_written_through_no_link(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    sweep, elsewhere = tmp_path / "sweep", tmp_path / "elsewhere"
    write_run(sweep)
    elsewhere.mkdir()
    link = Path(os.path.normpath(sweep / "report" / name))
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(elsewhere)
    assert main([str(sweep)]) == 2
    assert f"{link} is a link, and the report is written through none" in capsys.readouterr().err
    assert list(elsewhere.iterdir()) == []
    # A folder that the user names herself may be one.
    if name == ".":
        assert main([str(sweep), f"out={link}"]) == 0
        assert (elsewhere / "index.html").exists()


def test_a_page_that_is_a_link_is_not_ours(tmp_path: Path) -> None:
    write_run(tmp_path / "sweep")
    assert main([str(tmp_path / "sweep"), f"out={tmp_path}/ours"]) == 0
    (tmp_path / "out").mkdir()
    for target in (tmp_path / "ours" / "index.html", Path("/dev/zero")):
        (tmp_path / "out" / "index.html").unlink(missing_ok=True)
        (tmp_path / "out" / "index.html").symlink_to(target)
        assert main([str(tmp_path / "sweep"), f"out={tmp_path}/out"]) == 2


def test_runs_that_differ_in_the_name_of_a_choice_alone(tmp_path: Path) -> None:
    for seed, (model, corruption) in enumerate([("mlp_1x512", "none"), ("my/copy", "none"), ("mlp_1x512", "my/none")]):
        for kind in ("none", "random_labels"):
            run = write_run(tmp_path / "sweep", corruption=kind, seed=seed)
            choose(run, model=model, data__corruption=corruption if kind == "none" else kind)
    assert main([str(tmp_path / "sweep")]) == 0
    assert "my/copy" in (tmp_path / "sweep/report/index.html").read_text()


def test_a_choice_in_a_folder_of_ones_own(train: Command, tmp_path: Path) -> None:
    for group, name in (("data", "digits"), ("model", "mlp_1x512")):
        (tmp_path / "mine" / group / "my").mkdir(parents=True)
        shutil.copy(ROOT / "conf" / group / f"{name}.yaml", tmp_path / "mine" / group / "my" / "cats.yaml")
    mine = [f"--config-dir={tmp_path}/mine", "data=my/cats", "model=my/cats", *TINY[1:], "max_steps=5"]
    run = train(*mine)
    assert run.name.startswith("my_cats-none-my_cats-seed0-")
    assert json.loads((run / "result.json").read_text())["choices"]["data"] == "my/cats"
    assert main([str(run.parent)]) == 0
    assert (run.parent / "report/tables/grid_my_cats.csv").is_file()
