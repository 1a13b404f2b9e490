"""``measure.py`` as a user types it, in this process: what it leaves, skips, makes again, and refuses."""

from __future__ import annotations

import json
import shutil
import signal
import sys
from collections import deque
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest
from hydra import compose, initialize_config_dir
from hydra._internal.core_plugins.basic_launcher import BasicLauncher

import rethinkgen
from conftest import ROOT, Measure, read_result
from rethinkgen.commands.report import main as report
from rethinkgen.errors import SlurmError, StoppedError
from rethinkgen.files import append_line, lock
from rethinkgen.run.folder import RunFolder
from rethinkgen.run.measuring import Measuring, Row
from rethinkgen.run.run import read_runs
from rethinkgen.run.stint import CLAIMS, ROWS, _what_is_due, measure_stint
from rethinkgen.run.where import select
from rethinkgen.sweep import slurm
from rethinkgen.sweep.measuring import Seen, Stint, as_overrides, is_in_use, measure_finished, others_of
from rethinkgen.sweep.view import Progress


@pytest.fixture
def sweep(small_sweep: Path, tmp_path: Path) -> Path:
    """A sweep of four runs: true and random labels, seeds 0 and 1."""
    shutil.copytree(small_sweep, tmp_path / "small")
    return tmp_path / "small"


def table(sweep: Path) -> pd.DataFrame:
    return pd.read_csv(sweep / "measures.csv")


def runs_in(sweep: Path) -> list[Path]:
    return sorted(path.parent for path in sweep.glob("*/result.json"))


def test_the_numbers_of_each_run_are_its_own_once_more_and_are_not_made_again(
    sweep: Path, measure: Measure, capsys: pytest.CaptureFixture[str]
) -> None:
    assert measure(sweep, "measure=[fit,confusion]") == 0
    found = table(sweep)
    fits = found[found.measure == "fit"].set_index("run")
    for run in runs_in(sweep):
        metrics = read_result(run)["metrics"]
        for name in ("fit/accuracy", "fit/loss", "test/accuracy"):
            assert fits.loc[run.name, f"measure/fit/{name}"] == metrics[name]
        assert fits.loc[run.name, "step"] == metrics["steps"]
    assert set(fits["data.corruption"]) == {"none", "random_labels"}
    files = {path: path.stat().st_mtime_ns for path in sweep.glob("*/measures/*/*")}
    assert {path.name for path in files} == {"40.json", "40.npz"}
    assert not (sweep / ".measuring").exists()
    before = {path: path.read_bytes() for path in sweep.glob("*/*") if path.is_file()}
    capsys.readouterr()
    assert measure(sweep, "measure=[fit,confusion]") == 0
    assert "4 of 4 rows were measured before." in capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in files} == files
    pd.testing.assert_frame_equal(table(sweep), found)
    assert {path: path.read_bytes() for path in before} == before


def test_what_is_damaged_or_was_not_finished_is_made_again(sweep: Path, measure: Measure) -> None:
    measure(sweep, "measure=[confusion]")
    found = table(sweep)
    damaged, gone, *_ = sorted(sweep.glob("*/measures/*/*.json"))
    whole = json.loads(damaged.read_text())
    damaged.write_text(damaged.read_text().replace("0.", "0.1", 1))
    gone.unlink()
    assert measure(sweep, "measure=[confusion]") == 0
    assert json.loads(damaged.read_text())["numbers"] == whole["numbers"]
    assert gone.exists()
    pd.testing.assert_frame_equal(table(sweep), found)


def test_runs_are_chosen_and_parameters_are_columns(sweep: Path, measure: Measure) -> None:
    chosen = (
        sweep,
        "measure=[margins]",
        "where=data.corruption=random_labels,seed=1",
        "measure.margins.num_examples=20",
    )
    assert measure(*chosen) == 0
    assert measure(*chosen, "measure.margins.normalization=none") == 0
    found = table(sweep)
    assert len(found) == 2
    assert set(found["margins.normalization"]) == {"gradient", "none"}
    assert set(found["margins.num_examples"]) == {20}
    assert {name.split("/")[1] for name in found if name.startswith("measure/")} == {
        "margins(num_examples=20)",
        "margins(normalization=none,num_examples=20)",
    }


def test_numbers_are_columns_of_the_sweep_and_quantities_of_the_report(
    sweep: Path, measure: Measure, tmp_path: Path
) -> None:
    assert measure(sweep, "measure=[fit]", "at=[0,8,end]") == 0
    runs = rethinkgen.open_sweep(sweep)
    assert list(runs["measure/fit/test/accuracy"]) == list(runs["test/accuracy"])
    (run, *_) = read_runs([sweep])
    curve = run.curves.set_index("step")["measure/fit/test/accuracy"].dropna()
    assert list(curve.index) == [0, 8, 40]
    assert curve.loc[8] == run.curves.set_index("step").loc[8, "test/accuracy"]
    figure = "figure={kind: curves, x: step, y: measure/fit/test/accuracy}"
    assert report([str(sweep), f"out={tmp_path}/report", figure]) == 0
    drawn = pd.read_csv(tmp_path / "report" / "figures" / "own_figure.csv")
    assert set(drawn.step) == {0, 8, 40}
    assert set(drawn.series) == {"measure/fit/test/accuracy"}


def test_what_is_replayed_is_said_before_it_begins_with_what_it_costs(
    sweep: Path, measure: Measure, capsys: pytest.CaptureFixture[str]
) -> None:
    for state in sweep.glob("*/weights/*.state.pt"):
        state.unlink()
    asked = (sweep, "measure=[distance,interpolation,loss_sensitivity]", "at=[end]", "where=data.corruption=none")
    few = ("measure.interpolation.num_alphas=4", "measure.interpolation.num_examples=20", "measure.interpolation.to=8")
    assert measure(*asked, *few, "measure.loss_sensitivity.num_times=1") in (0, 1)
    lines = capsys.readouterr().out.splitlines()
    begun = next(number for number, line in enumerate(lines) if line.startswith("Replaying"))
    said = " ".join(" ".join(lines[:begun]).split())
    assert "To be trained once more: 2 runs, as far as steps that are asked for were not kept; in all about" in said
    assert "To be gone through once more: the trainings of 2 rows, in all about" in said
    replays = [line for line in lines if line.startswith("Replaying 8 steps of")]
    assert len(replays) == 2, "of steps 0 and 8 together, one a run"
    found = table(sweep)
    assert set(found[found.measure == "interpolation"].weights) <= {"replayed", "replayed unchecked"}


def test_a_second_run_is_the_one_that_is_alike_but_for_what_chooses_it(sweep: Path, measure: Measure) -> None:
    few = ("measure.interpolation.num_alphas=4", "measure.interpolation.num_examples=20")
    assert measure(sweep, "measure=[interpolation]", "other=seed=1", *few) == 0
    found = table(sweep).set_index("run")
    runs = {(run.corruption, run.seed): run for run in read_runs([sweep])}
    assert len(found) == 2  # seed 1 is itself the other one
    for corruption in ("none", "random_labels"):
        assert found.loc[runs[corruption, 0].path.name, "other"] == runs[corruption, 1].run_id


def test_the_second_run_must_be_one(sweep: Path) -> None:
    runs = read_runs([sweep])
    with pytest.raises(ValueError, match="needs one second run, of which there are 3"):
        others_of(runs[:1], runs[1:], ["max_steps"])


def test_a_step_that_a_run_has_not_costs_its_row(
    sweep: Path, measure: Measure, capsys: pytest.CaptureFixture[str]
) -> None:
    assert measure(sweep, "measure=[confusion]", "at=[end,999]") == 1
    assert len(table(sweep)) == 4
    out = capsys.readouterr().out
    assert out.count("has trained 40 steps") == 4
    assert "The same command measures the 4 failed and nothing else:" in out


def test_a_budget_that_holds_no_example_costs_the_row_whatever_the_measure(
    sweep: Path, measure: Measure, capsys: pytest.CaptureFixture[str]
) -> None:
    assert measure(sweep, "measure=[fit,margins]", "memory_mb=0.0001") == 1
    # A line of each run as it fails, however wide the screen: the table at the end may wrap its cells.
    failed = [line for line in capsys.readouterr().out.splitlines() if line.startswith("[")]
    assert len(failed) == 4
    for name in ("fit", "margins"):
        assert all(f"{name}: memory_mb=0.0001: one example takes about 0.000244 MB" in line for line in failed)
    assert measure(sweep, "measure=[fit,margins]") == 0


OWN = """
import os
from rethinkgen import Findings

def mine(subject, *, power=1.0, fails=None):
    if subject.seed == fails:
        raise RuntimeError("mine fails")
    return Findings({"norm": float(sum((p.detach().abs() ** power).sum() for p in subject.network.parameters()))})
"""
YAML = "mine:\n  _target_: my_measures.mine\n  protocol: 1\n  power: 1.0\n  fails: null\n"


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Path]:
    (tmp_path / "my_measures.py").write_text(OWN)
    (tmp_path / "configs" / "measure").mkdir(parents=True)
    (tmp_path / "configs" / "measure" / "mine.yaml").write_text(YAML)
    yield tmp_path / "configs"
    sys.modules.pop("my_measures", None)


def test_one_that_fails_costs_its_row(
    sweep: Path, measure: Measure, own: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    asked = ("--config-dir", own, "code=my_measures", sweep, "measure=[mine,confusion]", "measure.mine.fails=1")
    assert measure(*asked) == 1
    found = table(sweep)
    assert dict(found.measure.value_counts()) == {"confusion": 4, "mine": 2}
    assert set(found[found.measure == "mine"].seed) == {0}
    assert "failed: mine: RuntimeError: mine fails" in capfd.readouterr().out


def test_ones_own_is_opened_by_the_command_alone(
    sweep: Path, measure: Measure, own: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert measure("--config-dir", own, sweep, "measure=[mine]") == 1
    assert "code=my_measures" in capsys.readouterr().err
    (own / "measure" / "mine.yaml").write_text(YAML.replace("  power: 1.0\n", ""))
    assert measure("--config-dir", own, "code=my_measures", sweep, "measure=[mine]") == 1
    assert "Add the line there: power: 1.0" in capsys.readouterr().err
    assert not list(sweep.glob("*/measures"))


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["measure=[]"], "Name what to look at"),
        (["measure=[fitt]"], "'measure/fitt'"),
        (["measure=[margins]", "measure.margins.normalisation=none"], "Did you mean measure.margins.normalization"),
        (["measure=[margins]", "measure.margins.num_examples=10,20"], "one value is needed"),
        (["measure=[fit]", "at=soon"], "at='soon'"),
        (["measure=[fit]", "where=data.corruptio=none"], "Did you mean data.corruption?"),
        (["measure=[fit]", "where=seed=7"], "There are seed: 0, 1"),
        (["measure=[fit]", "other=seed=1"], "none of measure=[fit] uses a second run"),
        (["measure=[fit]", "memory_mb=0"], "memory_mb=0"),
        (["measure=[fit]", "replay=maybe"], "replay='maybe'"),
        (["measure=[fit]", "threads=0"], "threads=0"),
    ],
)
def test_what_cannot_be_met_is_said_before_anything_is_begun(
    arguments: list[str], words: str, sweep: Path, measure: Measure, capsys: pytest.CaptureFixture[str]
) -> None:
    assert measure(sweep, *arguments) == 1
    assert words in " ".join(capsys.readouterr().err.split())
    assert not list(sweep.glob("*/measures"))


def test_folders_stand_without_a_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("runs", 'odd "one"', "a=b"):
        Path(name).mkdir()
    told = as_overrides(["runs", "measure=[fit]", 'odd "one"', "where=seed=0", "--config-dir", "runs", "a=b"])
    assert told == [
        "measure=[fit]",
        'where="seed=0"',
        "--config-dir",
        "runs",
        r'folders=["runs","odd \"one\"","a=b"]',
    ]
    assert as_overrides(["--help"]) == ["--help"]
    with pytest.raises(ValueError, match="nothing: there is no such folder"):
        as_overrides(["nothing"])
    with pytest.raises(ValueError, match="which runs"):
        as_overrides(["measure=[fit]"])


def test_a_process_that_dies_costs_the_run_that_it_was_at(
    sweep: Path, measure: Measure, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = Measuring.rows

    def until_the_second(self: Measuring, path: Path, *more: Any) -> Iterator[Row]:
        if list(sweep.glob("*/measures/*/*.json")):
            raise KeyboardInterrupt  # nothing that a process does is in the way of a kill
        return rows(self, path, *more)

    def launch_jobs(self: object, stints: list[Stint], whole: object, watch: object) -> None:
        (stint,) = stints
        assert stint.cell is not None
        if stint.path.name != "stint-0":
            measure_stint(stint.cell.compose())
            return
        with monkeypatch.context() as patched:
            patched.setattr(Measuring, "rows", until_the_second)
            with pytest.raises(KeyboardInterrupt):
                measure_stint(stint.cell.compose())
        stint.fail("killed by SIGKILL")

    with monkeypatch.context() as patched:
        patched.setattr(BasicLauncher, "launch_jobs", launch_jobs, raising=False)
        assert measure(sweep, "measure=[confusion]") == 1
    assert len(table(sweep)) == 3
    assert capsys.readouterr().out.count("failed: killed by SIGKILL") == 1
    assert list(sweep.glob(".measuring/*/stint-0/status.json"))
    assert measure(sweep, "measure=[confusion]") == 0
    assert len(table(sweep)) == 4
    assert not (sweep / ".measuring").exists()


Launch = Callable[[list[Stint], Callable[[Any], None]], None]


@pytest.fixture
def launching(monkeypatch: pytest.MonkeyPatch) -> Callable[[Launch], None]:
    """Have a function launch the stints of each command of the test."""

    def by(launch: Launch) -> None:
        def launch_jobs(self: object, stints: list[Stint], whole: object, watch: Callable[[Any], None]) -> None:
            launch(stints, watch)

        monkeypatch.setattr(BasicLauncher, "launch_jobs", launch_jobs, raising=False)

    return by


def test_processes_that_end_before_they_take_a_run_are_not_begun_again_and_again(
    sweep: Path, measure: Measure, launching: Callable[[Launch], None], capsys: pytest.CaptureFixture[str]
) -> None:
    launched: list[Stint] = []

    def dying(stints: list[Stint], watch: Callable[[Any], None]) -> None:
        launched.extend(stints)
        assert len(launched) == 1
        progress: Progress[Any] = Progress(deque())
        for stint in stints:
            stint.fail("RuntimeError: no such device")
            progress.ended.append((stint, 1))
        watch(progress)
        assert not progress.waiting

    launching(dying)
    assert measure(sweep, "measure=[confusion]") == 1
    out = capsys.readouterr().out
    # Cells are wrapped by the width of the terminal.
    assert "".join(out.split()).count("failed:RuntimeError:nosuchdevice") == 4
    assert "not begun" not in out


def test_a_stint_that_slurm_requeues_goes_on_with_the_run_that_it_was_at(
    sweep: Path, measure: Measure, launching: Callable[[Launch], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(self: Measuring, *more: Any) -> Iterator[Row]:
        raise KeyboardInterrupt

    def twice(stints: list[Stint], watch: Callable[[Any], None]) -> None:
        (stint,) = stints
        assert stint.cell is not None
        with monkeypatch.context() as patched:
            patched.setattr(Measuring, "rows", killed)
            with pytest.raises(KeyboardInterrupt):
                measure_stint(stint.cell.compose())
        assert stint.has_taken
        measure_stint(stint.cell.compose())

    launching(twice)
    assert measure(sweep, "measure=[confusion]") == 0
    assert len(table(sweep)) == 4


def test_beside_what_is_no_run_of_ours_nothing_is_written(
    measure: Measure, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "somebodys" / "thing"
    folder.mkdir(parents=True)
    (folder / "result.json").write_text('{"a": 1}')
    (folder / "config.yaml").write_text("hello")
    assert measure(folder.parent, "measure=[fit]") == 1
    assert "Only a finished run is measured." in " ".join(capsys.readouterr().out.split())
    assert sorted(path.name for path in folder.parent.rglob("*")) == ["config.yaml", "result.json", "thing"]


def test_of_the_run_that_a_stint_was_at_only_the_steps_that_it_has_not_told_are_due(tmp_path: Path) -> None:
    path = tmp_path / "stint-0"
    path.mkdir()
    (tmp_path / CLAIMS).mkdir()
    steps = [[0, 8, 40]] * 3
    for number, due in zip((0, 1), _what_is_due(path, steps), strict=False):
        assert due == (number, [0, 8, 40])
    lines = [*({"run": 0, "step": step} for step in steps[0]), {"run": 1, "step": 0}]
    (path / ROWS).write_text("".join(f"{json.dumps(line)}\n" for line in lines) + '{"run": 1, "st')
    assert list(_what_is_due(path, steps)) == [(1, [8, 40]), (2, [0, 8, 40])]
    # Killed between its claim of the last run and its first line, it has that run to do.
    assert list(_what_is_due(path, [[0], [0], [0]])) == [(2, [0])]
    other = tmp_path / "stint-1"
    other.mkdir()
    assert list(_what_is_due(other, steps)) == []


def test_rows_are_read_on_from_where_they_ended_and_a_torn_one_is_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "stint-0" / ROWS
    path.parent.mkdir()
    seen = Seen(tmp_path, 3)
    seen.read()
    whole = [json.dumps({"run": run, **Row(0, "done", numbers={"x": run}).__dict__}) for run in range(3)]
    path.write_text(f"{whole[0]}\n{whole[1][:20]}")
    seen.read()
    seen.read()
    assert [run for run, _ in seen.latest] == [0]
    append_line(path, whole[2])  # on a line of its own
    seen.read()
    assert [(run, row.numbers) for run, row in seen.latest] == [(0, {"x": 0}), (2, {"x": 2})]
    path.write_bytes(b"#" * path.stat().st_size + b"\n")  # what was read once is not read again
    seen.read()
    assert len(seen.latest) == 2


def test_what_is_alive_of_a_command_before_keeps_its_folder(
    sweep: Path, measure: Measure, monkeypatch: pytest.MonkeyPatch
) -> None:
    dead, locked, submitted = (sweep / ".measuring" / name / "stint-0" for name in ("dead", "locked", "submitted"))
    for stint in (dead, locked, submitted):
        stint.mkdir(parents=True)
    submissions = slurm.Submissions(submitted.parent)
    submissions.folder.mkdir()
    name = submissions.add([Stint([], submitted)])
    queued = {"17_0": slurm.Entry("17_0", name, "PENDING", "Priority")}
    monkeypatch.setattr(slurm, "queue", lambda: queued)
    with lock(locked / ".lock"):
        assert measure(sweep, "measure=[confusion]") == 0
        assert {path.name for path in (sweep / ".measuring").iterdir()} == {"locked", "submitted"}
    queued.clear()
    assert not is_in_use(submitted.parent)

    def without_answer() -> None:
        raise SlurmError("SLURM does not answer")

    monkeypatch.setattr(slurm, "queue", without_answer)
    assert is_in_use(submitted.parent)
    assert not is_in_use(locked.parent)


def test_jobs_of_slurm_go_on_after_ctrl_c(
    sweep: Path,
    measure: Measure,
    launching: Callable[[Launch], None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    alive: list[Stint] = []

    def stopped(stints: list[Stint], watch: Callable[[Any], None]) -> None:
        submissions = slurm.Submissions(stints[0].path.parent)
        submissions.folder.mkdir()
        entry = slurm.Entry("17_0", submissions.add(stints), "RUNNING", "None")
        monkeypatch.setattr(slurm, "queue", lambda: {"17_0": entry})
        alive.extend(stints)
        raise StoppedError(signal.SIGINT)

    launching(stopped)
    assert measure(sweep, "measure=[confusion]") == 130
    out = " ".join(capsys.readouterr().out.split())
    assert "These jobs go on measuring without this command" in out
    assert "its job goes on in SLURM" in out
    (stint,) = alive
    assert stint.cell is not None
    measure_stint(stint.cell.compose())
    assert len(list(sweep.glob("*/measures/*/*.json"))) == 4
    assert measure(sweep, "measure=[confusion]") == 0
    assert len(table(sweep)) == 4


def test_a_second_run_without_a_result_costs_the_row_of_its_partner_alone(
    sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    runs = {(run.corruption, run.seed): run.path for run in read_runs([sweep])}
    failed = RunFolder(runs["none", 1])
    failed.result.unlink()
    failed.add_to_status("failed", reason="out of memory")
    asked = ["measure=[interpolation]", 'measure.interpolation.other="seed=1"', "hydra/launcher=basic", "trainer=cpu"]
    few = ["measure.interpolation.num_alphas=4", "measure.interpolation.num_examples=20"]
    with initialize_config_dir(str(ROOT / "conf")):
        config = compose("train", [*asked, *few], return_hydra_config=True)
    launcher: Any = SimpleNamespace(config=None)
    assert measure_finished(launcher, config, list(runs.values()), select) == 1
    assert list(table(sweep).run) == [runs["random_labels", 0].name]
    out = "".join(capsys.readouterr().out.split())
    assert f"failed:interpolation:step='end':{failed.path.name}" in out  # as it comes; the table may wrap it
