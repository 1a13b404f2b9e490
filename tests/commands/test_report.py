"""What ``report.py`` does on the command line: where it writes, what it says, what it refuses."""

from __future__ import annotations

import fcntl
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT, TINY
from rethinkgen.commands.report import main
from rethinkgen.report.contents import gather
from rethinkgen.report.page import write
from rethinkgen.run.run import read_runs
from unfinished import leave_unfinished


def run_alone(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run ``report.py`` in a fresh interpreter, warnings being errors, which at the end prints its heavy imports."""
    program = f"""
import runpy, sys
sys.argv = ["report.py", *{list(arguments)!r}]
try:
    runpy.run_path({str(ROOT / "report.py")!r}, run_name="__main__")
finally:
    print("heavy:", [name for name in ("torch", "pytorch_lightning", "wandb", "sklearn") if name in sys.modules])
    print("late:", [name for name in ("pandas", "matplotlib") if name in sys.modules])
"""
    command = [sys.executable, "-W", "error", "-c", program]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, check=False)


@pytest.fixture
def sweep(small_sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the sweep, named as seen from the folder that the test is in."""
    shutil.copytree(small_sweep, tmp_path / "multirun" / "small")
    monkeypatch.chdir(tmp_path)
    return Path("multirun/small")


def test_a_report_is_made_without_torch_and_says_where_it_is(sweep: Path, tmp_path: Path) -> None:
    ended = run_alone(str(sweep), cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert ended.stderr == ""
    assert "heavy: []" in ended.stdout
    assert "4 of 4 runs finished." in ended.stdout
    assert "multirun/small/report/index.html" in ended.stdout
    assert "python report.py multirun/small" in (sweep / "report" / "index.html").read_text()


def test_help_is_light(tmp_path: Path) -> None:
    ended = run_alone("--help", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "heavy: []" in ended.stdout
    assert "late: []" in ended.stdout
    assert all(key in ended.stdout for key in ("out=", "publish=wandb", "SWEEP"))
    assert list(tmp_path.iterdir()) == []


def test_several_sweeps_and_a_folder_of_ones_own(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    other = sweep.with_name("other")
    shutil.copytree(sweep, other)
    leave_unfinished(other, "cut short")
    assert main([str(other), "out=shared/report", str(sweep)]) == 0
    text = Path("shared/report/index.html").read_text()
    # A run that lies in both counts once, and is finished.
    assert "4 of 4 runs finished." in text
    assert "shared/report/index.html" in capsys.readouterr().out
    assert not (sweep / "report").exists()


def test_a_single_run_has_a_report(sweep: Path) -> None:
    run = min(path.parent for path in sweep.glob("*/result.json"))
    assert main([str(run)]) == 0
    assert "1 of 1 runs finished." in (run / "report" / "index.html").read_text()


def test_a_sweep_that_still_runs(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    at_work, *_ = leave_unfinished(sweep, "cut short")
    (at_work / "result.json").unlink()
    (at_work / "status.json").write_text(json.dumps({"state": "running"}))
    with (at_work / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert main([str(sweep)]) == 0
    said = "1 of 4 runs finished, 1 running, 1 failed, 1 missing."
    assert said in capsys.readouterr().out
    assert said in (sweep / "report" / "index.html").read_text()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], ["which runs?", "python report.py multirun/NAME", "multirun/small"]),
        (["multirun/smal"], ["multirun/smal does not exist", "There are: multirun/small."]),
        (["nowhere/smal"], ["nowhere/smal does not exist", "There are: multirun/small."]),
        (["multirun"], ["no run", "multirun/small"]),
        (["multirun/small", "multirun/small/commands.txt"], ["commands.txt is a file"]),
        (["multirun/small", "ouT=x"], ["ouT=x: there is no such key", "Did you mean out=x?", "publish="]),
        (["multirun/small", "colour=red"], ["colour=red: there is no such key", "out= (a folder)"]),
        (["multirun/small", "publish=wandv"], ["publish=wandv: only wandb is possible"]),
        (["multirun/small", "share=true"], ["share=true says how to publish: add publish=wandb"]),
        (["multirun/small", "entity=me"], ["entity=me says how to publish: add publish=wandb"]),
        (["multirun/small", "publish=wandb", "share=yes"], ["share=yes: true or false is possible"]),
        (["multirun/small", "out="], ["out= has no value: a folder is needed"]),
        (["multirun/small", "out=a", "out=b"], ["out= is given twice (a and b)"]),
        (["multirun/small", "out=multirun/small/commands.txt"], ["commands.txt is a file"]),
        (["multirun/small", "figure={x: modle}"], ["figure own_figure: x=modle: no run has it. Did you mean model?"]),
        (["multirun/small", "figure={kind: pie}"], ["figure={kind: pie}: kind='pie': one of 'lines'"]),
        (["multirun/small", "figure="], ["figure= has no value: {x: ..., y: ...} or a YAML file is needed"]),
        (["multirun/small", "claims=mine.yaml"], ["claims=mine.yaml: there is no such file"]),
        (["multirun/small", "--out", "x"], ["--out: there is no such option", "--help"]),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else None,
)
def test_what_cannot_be_meant_is_refused(
    arguments: list[str],
    said: list[str],
    sweep: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "argv", ["report.py", *arguments])
    before = sorted(Path().rglob("*"))
    assert main(arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("Error: ")
    for part in said:
        assert part in printed.err, printed.err
    assert sorted(Path().rglob("*")) == before


def test_somebody_elses_page_is_left_alone(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tables = Path("docs/tables")
    tables.mkdir(parents=True)
    (tables / "precious.csv").write_text("mine")
    # Not even UTF-8.
    page = b'<html>caf\xe9 <a href="tables/precious.csv">mine</a></html>'
    Path("docs/index.html").write_bytes(page)
    before = sorted(Path().rglob("*"))
    assert main([str(sweep), "out=docs"]) == 2
    assert "docs/index.html is no report of ours, and would be replaced" in capsys.readouterr().err
    assert sorted(Path().rglob("*")) == before
    assert Path("docs/index.html").read_bytes() == page
    with pytest.raises(ValueError, match=r"docs/index\.html is no report of ours"):
        write(gather(read_runs([sweep]), command="python report.py"), Path("docs"))
    assert sorted(Path().rglob("*")) == before


def test_a_report_of_ours_is_replaced(sweep: Path) -> None:
    assert main([str(sweep), "out=docs"]) == 0
    page = Path("docs/index.html")
    page.write_bytes(page.read_bytes() + b"<!-- caf\xe9 -->")
    assert main([str(sweep), "out=docs"]) == 0
    assert b"caf\xe9" not in page.read_bytes()


OWN_PAPER = """
paper: mine
reference: Me, in my notebook
sources: {}
protocols: {mine: {data: digits, leaves_open: [data, model, max_steps, until_fit, evaluate_every, threads]}}
items:
  - item: Table 1
    source: my notebook
    certainty: verified
    command: python train.py
    metric: test/accuracy
    seeds: 1
    protocol: mine
    claims:
      - id: mine.one
        statement: it learns
        value: 50
        runs: {data: digits}
        rule: {kind: within, tolerance: 50, because: anything will do}
tables: {mine: {title: My table, items: [Table 1], claims: mine.*}}
figures: {mine: {kind: curves, y: test/accuracy, title: My curves}}
"""


def test_figures_and_papers_of_ones_own_stand_on_the_page(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("mine.yaml").write_text(OWN_PAPER)
    figure = "figure={kind: scatter, x: fit/accuracy, y: test/accuracy, title: My scatter}"
    assert main([str(sweep), "claims=mine.yaml", figure, "out=own"]) == 0, capsys.readouterr().err
    page = Path("own/index.html").read_text()
    assert all(title in page for title in ("My scatter", "My curves", "My table", "it learns"))
    assert len(Path("own/figures/own_figure.csv").read_text().splitlines()) == 5
    Path("mine.yaml").write_text(OWN_PAPER.replace("kind: within", "kind: withn"))
    assert main([str(sweep), "claims=mine.yaml", "out=other"]) == 2
    assert "mine.yaml, claim mine.one: rule: kind='withn'" in capsys.readouterr().err
    assert not Path("other").exists()


def test_a_figure_of_which_nothing_can_be_drawn_is_named_here_and_on_the_page(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(sweep), "figure={x: data.batch_size, y: test/accuracy, title: Batches}"]) == 0
    line = "figure own_figure (Batches): nothing to draw"
    assert line in " ".join(capsys.readouterr().out.split())
    assert line in (sweep / "report" / "index.html").read_text()


def test_a_papers_figure_that_these_runs_do_not_have_is_said_and_left_out(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = "figures: {theirs: {kind: curves, y: tset/accuracy}, names: {kind: scatter, x: level, y: model}, "
    Path("mine.yaml").write_text(OWN_PAPER.replace("figures: {", more))
    assert main([str(sweep), "claims=mine.yaml"]) == 0, capsys.readouterr().err
    said = " ".join(capsys.readouterr().out.split())
    assert "not drawn: figure theirs: y=tset/accuracy: no run has it. Did you mean test/accuracy?" in said
    assert "not drawn: figure names: model: has names as values" in said
    page = (sweep / "report" / "index.html").read_text()
    assert "My curves" in page
    assert "figures-theirs" not in page
    assert "not drawn: figure theirs: y=tset/accuracy: no run has it." in page


@pytest.mark.parametrize(
    ("told", "named"),
    [
        ("items: Table 1", "table mine: items='Table 1': a list is needed"),
        ("where: 3", "table mine: where=3: key: value pairs are needed"),
        ("claims: 3", "table mine: claims=3: a text is needed"),
        ("columns: {ours: {}}", "table mine: columns: ours={}"),
        ("columns: {ours: 3}", "table mine: columns: ours=3"),
    ],
)
def test_a_table_declared_wrongly_is_refused_by_its_key(
    told: str, named: str, sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("mine.yaml").write_text(OWN_PAPER.replace("items: [Table 1], claims: mine.*", told))
    assert main([str(sweep), "claims=mine.yaml"]) == 2
    assert f"claims=mine.yaml: mine, {named}" in capsys.readouterr().err.replace("\n", " ")


def test_a_table_of_runs_has_no_published_difference(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = "where: {data: digits}, columns: {model: {told: model}, less: {difference: test/accuracy}}"
    Path("mine.yaml").write_text(OWN_PAPER.replace("items: [Table 1], claims: mine.*", told))
    assert main([str(sweep), "claims=mine.yaml"]) == 0, capsys.readouterr().err


def test_a_figure_of_which_nothing_can_be_drawn_is_said(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figure = "figure={x: level, y: test/accuracy, where: {data.corruption: nonesuch}}"
    assert main([str(sweep), figure]) == 0
    assert "figure own_figure (Test accuracy against level" in capsys.readouterr().out


def test_a_figure_may_be_longer_than_a_files_name(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figure = f"figure={{kind: scatter, x: fit.accuracy, y: test.accuracy, title: {'long ' * 60}}}"
    assert main([str(sweep), figure]) == 2
    assert "x=fit.accuracy: no run has it" in capsys.readouterr().err


def test_a_run_that_cannot_be_read_is_one_failed_row(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = min(sweep.glob("*/result.json"))
    result.unlink()
    result.mkdir()
    assert main([str(sweep)]) == 0
    printed = capsys.readouterr().out
    assert "3 of 4 runs finished, 1 failed." in printed
    assert f"{result} cannot be read (it is a folder)." in printed
    assert "it is a folder" in (sweep / "report" / "index.html").read_text()


def test_a_folder_that_cannot_be_written(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(sweep), "out=/proc/report"]) == 1
    assert "out=/proc/report: the report cannot be written" in capsys.readouterr().err


def test_a_sweep_ends_with_the_command_of_its_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = [sys.executable, str(ROOT / "train.py"), "-m", "hydra/launcher=basic", *TINY, "max_steps=5", "seed=0,1"]
    ended = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    (line,) = re.findall(r"^  (.*report\.py .*)$", ended.stdout, flags=re.MULTILINE)
    printed = ["bash", "-c", line]
    made = subprocess.run(printed, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "2 of 2 runs finished." in made.stdout
    assert (tmp_path / "multirun/runs/report/index.html").exists()
    # The report is none of the runs.
    assert main([str(tmp_path / "multirun/runs")]) == 0
    assert "2 of 2 runs finished." in capsys.readouterr().out
