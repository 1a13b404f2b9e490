"""What one command does: train, skip, resume, refuse, and what it says and leaves."""

from __future__ import annotations

import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, cast

import pytest
from omegaconf import OmegaConf

from conftest import PATIENCE_SECONDS, ROOT, TINY, Command, Measure, in_own_process, read_result
from outcomes import assert_same, outcome, status_text
from rethinkgen.errors import RunIsHeldError
from rethinkgen.run import entry
from rethinkgen.run.description import Description
from rethinkgen.run.folder import RunFolder
from rethinkgen.train import checkpoint

RUN = [*TINY, "max_steps=30"]
LONG = [*TINY, "max_steps=1000000", "checkpoint_seconds=1000", "evaluate_every=1000"]
Start = Callable[..., BaseProcess]


def run_alone(*overrides: str, then: str = "", cwd: Path) -> subprocess.CompletedProcess[str]:
    """Run ``train.py`` in a fresh interpreter, which at the end prints what of heavy imports it holds."""
    program = f"""
import runpy, sys
sys.argv = ["train.py", *{list(overrides)!r}]
try:
    runpy.run_path({str(ROOT / "train.py")!r}, run_name="__main__")
finally:
    heavy = ("torch", "pytorch_lightning", "torchvision", "wandb", "sklearn", "pandas", "matplotlib")
    print("heavy:", [name for name in heavy if name in sys.modules])
"""
    return subprocess.run([sys.executable, "-c", program], cwd=cwd, capture_output=True, text=True)


def test_help_is_light_and_names_the_groups(tmp_path: Path) -> None:
    ended = run_alone("--help", cwd=tmp_path)
    assert ended.returncode == 0, ended.stderr
    assert "heavy: []" in ended.stdout
    assert "data.corruption: asymmetric_labels" in ended.stdout
    assert list(tmp_path.iterdir()) == []


def test_a_finished_run_is_skipped_with_its_numbers_date_and_commit(
    train: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = train(*RUN)
    result = read_result(folder)
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.name != "train.log"}
    capsys.readouterr()
    assert train(*RUN) == folder
    ours = capsys.readouterr().out
    assert result["finished"] in ours
    assert result["commit"] is None or result["commit"][:10] in ours
    assert f"{100 * result['metrics']['test/accuracy']:.1f} %" in ours
    assert "rerun=true" in ours
    alone = run_alone(f"results_dir={tmp_path}/multirun", *RUN, cwd=tmp_path)
    assert alone.returncode == 0, alone.stderr
    assert "heavy: []" in alone.stdout
    assert "was finished on" in alone.stdout
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_the_same_command_twice_gives_the_same_numbers_to_the_bit(train: Command, tmp_path: Path) -> None:
    run = [*TINY, "max_steps=60", "data.corruption=gaussian_blend", "regularizer=[dropout,flip]"]
    first = outcome(train(*run))
    shutil.move(tmp_path / "multirun", tmp_path / "first")
    assert_same(outcome(train(*run)), first)
    shutil.move(tmp_path / "multirun", tmp_path / "second")
    other = outcome(train(*run, "seed=1"))
    assert other["metrics"] != first["metrics"], "the comparison sees no difference where there is one"


def test_rerun_keeps_the_old_result(train: Command, capsys: pytest.CaptureFixture[str]) -> None:
    folder = train(*RUN, "logger=csv")
    first = outcome(folder)
    for number in (1, 2):
        capsys.readouterr()
        (folder / "checkpoints").mkdir()  # a kill just after the result was written
        assert train(*RUN, "logger=csv", "rerun=true") == folder
        assert f"previous-{number}" in capsys.readouterr().out
        kept = folder / f"previous-{number}"
        expected = {
            "identity.json",
            "config.yaml",
            "examples.npz",
            "weights",
            "metrics.csv",
            "overrides.yaml",
            "result.json",
        }
        assert {path.name for path in kept.iterdir()} == expected
        assert_same(outcome(kept), first)
        assert_same(outcome(folder), first)


def test_the_result_says_all_that_a_table_needs(train: Command) -> None:
    folder = train(
        *RUN, "data.corruption=partial_labels", "data.corruption.probability=0.2", "regularizer=[flip]", "seed=3"
    )
    result = read_result(folder)
    keys = "run_id sweep choices overrides config metrics seed seconds device versions commit"
    assert set(keys.split()) <= result.keys()
    assert folder.name == f"digits-partial_labels_0.2-mlp_1x512-flip-seed3-{result['run_id']}"
    assert result["choices"] == {
        "data": "digits",
        "data.corruption": "partial_labels",
        "model": "mlp_1x512",
        "loss": "cross_entropy",
        "optimizer": "sgd",
        "schedule": "exponential",
        "regularizer": ["flip"],
    }
    assert (result["sweep"], result["seed"], result["config"]["data"]["corruption"]["probability"]) == ("runs", 3, 0.2)
    metrics = result["metrics"]
    names = "fit/loss fit/accuracy fit/accuracy_corrupted fit/accuracy_corrected fit/accuracy_clean test/loss "
    names += "test/accuracy test/accuracy_oracle generalization_gap noise/probability noise/realised num_parameters "
    names += "steps epochs"
    assert set(names.split()) <= metrics.keys()
    assert (metrics["steps"], metrics["steps_to_fit"], metrics["noise/probability"]) == (30, None, 0.2)
    assert {path.name for path in folder.iterdir()} == {
        *(
            ".lock",
            "config.yaml",
            "examples.npz",
            "identity.json",
            "weights",
            "metrics.csv",
            "overrides.yaml",
        ),
        *("result.json", "train.log"),
    }
    assert "NaN" not in (folder / "result.json").read_text()


def test_a_run_in_training_refuses_a_second_process(start: Start, tmp_path: Path) -> None:
    first = start(f"results_dir={tmp_path}/multirun", *LONG)
    wait_until_going(first, tmp_path / "multirun")
    (tmp_path / "second").mkdir()
    second = start(f"results_dir={tmp_path}/multirun", *LONG, folder=tmp_path / "second")
    second.join()
    output = (tmp_path / "second/output.txt").read_text()
    assert second.exitcode == 1
    assert f"is being trained by process {first.pid}" in output
    assert "Wait for it" in output
    assert "Traceback" not in output
    (status,) = tmp_path.glob("multirun/runs/*/status.json")
    assert json.loads(status.read_text())["state"] == "running", "the refused process wrote over the other's status"
    assert first.is_alive()
    first.kill()
    first.join()


def test_a_process_that_is_refused_leaves_the_folder_to_the_one_that_prepares(
    train: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = train(*RUN)
    for path in folder.iterdir():
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for wrong in ([], ["rerun=perhaps"]):
            with pytest.raises(SystemExit):
                train(*RUN, *wrong)
            assert (folder / ".lock").exists()
    assert "is being trained by another process" in capsys.readouterr().err
    train(*RUN)


def test_an_empty_folder_does_not_hide_the_run_under_another_name(
    train: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = train(*RUN)
    log = (folder / "train.log").read_text()
    empty = folder.with_name(f"another-name-{read_result(folder)['run_id']}")
    for run_dir in ([], [f"hydra.run.dir={empty}"]):
        empty.mkdir()
        capsys.readouterr()
        train(*RUN, *run_dir)
        assert "was finished" in capsys.readouterr().out
        assert len(list(tmp_path.glob("multirun/runs/*/result.json"))) == 1
        assert empty.exists() == (run_dir == [])
        empty.rmdir() if empty.exists() else None
    assert (folder / "train.log").read_text() == log


@pytest.mark.parametrize("is_begun", [True, False])
def test_refused_under_another_name_it_leaves_no_folder(
    is_begun: bool, train: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = train(*RUN)
    for path in folder.iterdir():
        if not (is_begun and path.name == "config.yaml"):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    other = folder.with_name(f"another-name-{folder.name[-14:]}")
    with (folder / ".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(SystemExit) as end:
            train(*RUN, f"hydra.run.dir={other}")
    assert end.value.code == 1
    assert f"right now: {folder}" in capsys.readouterr().err
    assert not other.exists()
    assert folder.exists()


def test_a_finished_run_keeps_no_checkpoint_of_a_kill(train: Command) -> None:
    folder = train(*RUN)
    for name in ("checkpoints", "status.json"):
        (folder / "checkpoints").mkdir()
        (folder / "status.json").write_text('{"state": "running", "pid": 1, "host": "elsewhere"}')
        if name == "checkpoints":
            (folder / "status.json").unlink()
        with (folder / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            train(*RUN)  # somebody trains it again
            assert (folder / "checkpoints").exists()
        train(*RUN)
        assert not (folder / "checkpoints").exists()
        assert not (folder / "status.json").exists()


def test_an_old_status_says_nothing_of_a_new_command(train: Command, capsys: pytest.CaptureFixture[str]) -> None:
    folder = train(*RUN)
    stale = '{"state": "running", "pid": 1, "host": "elsewhere"}'
    (folder / "status.json").write_text(stale)
    (folder / "result.json").unlink()
    with pytest.raises(SystemExit):
        train(*RUN, "threads=0")
    assert "Traceback" not in capsys.readouterr().err
    assert (folder / "status.json").read_text() == stale
    train(*RUN)
    assert not (folder / "status.json").exists()


def waiting_patiently(folder: Path, *overrides: str) -> None:
    checkpoint.GRACE_SECONDS = 1000.0
    in_own_process(folder, *overrides)


def test_asked_twice_to_stop_it_stops_at_once(start: Start, tmp_path: Path) -> None:
    # The first evaluation takes seconds, and comes right after the first step.
    # The first evaluation takes seconds, and comes right after the first step.
    slow = ["model.width=8192", "model.depth=2", "evaluate_every=0.01", "data.batch_size=2"]
    process = start(f"results_dir={tmp_path}/multirun", *LONG, *slow, body=waiting_patiently)
    wait_until_going(process, tmp_path / "multirun")
    assert process.pid is not None
    os.kill(process.pid, signal.SIGINT)
    time.sleep(0.5)
    assert process.is_alive()
    os.kill(process.pid, signal.SIGINT)
    process.join()
    assert not list(tmp_path.glob("multirun/runs/*/metrics.csv")), "the evaluation was waited for"
    output = (tmp_path / "output.txt").read_text()
    assert process.exitcode == 128 + signal.SIGINT, output
    assert "Stopped by SIGINT. The same command" in output
    assert "Traceback" not in output
    (status,) = tmp_path.glob("multirun/runs/*/status.json")
    assert json.loads(status.read_text())["state"] == "interrupted"


def test_a_signal_ends_a_sweep_of_hydras_own_launcher_and_not_only_its_run(start: Start, tmp_path: Path) -> None:
    process = start("-m", f"results_dir={tmp_path}/multirun", *LONG, "seed=0,1", "hydra/launcher=basic")
    wait_until_going(process, tmp_path / "multirun")
    assert process.pid is not None
    os.kill(process.pid, signal.SIGINT)
    process.join(PATIENCE_SECONDS)
    assert process.exitcode == 128 + signal.SIGINT, (tmp_path / "output.txt").read_text()
    assert len(list(tmp_path.glob("multirun/runs/*/"))) == 1


def wait_until_going(process: BaseProcess, results: Path) -> None:
    while "going" not in (text := status_text(results)):
        assert process.is_alive(), text
        time.sleep(0.02)


def test_the_literal_sweep_of_two_corruptions_makes_two_runs(train: Command, tmp_path: Path) -> None:
    quick = [override for override in TINY if not override.startswith("model=")]
    train("-m", "data.corruption=random_labels,shuffled_pixels", "model=mlp_1x512", *quick, "max_steps=5")
    results = [read_result(path.parent) for path in tmp_path.glob("multirun/runs/*/result.json")]
    assert sorted(result["choices"]["data.corruption"] for result in results) == ["random_labels", "shuffled_pixels"]


def test_an_experiment_overrides_the_dotted_group_and_names_the_sweep(train: Command, tmp_path: Path) -> None:
    folder = tmp_path / "configs" / "experiment" / "paper"
    folder.mkdir(parents=True)
    (folder / "figure_1.yaml").write_text(
        "# @package _global_\n"
        "defaults:\n"
        "  - override /data.corruption: partial_labels\n"
        "  - override /model: mlp_1x512\n"
        "  - override /regularizer: [flip]\n"
        "data:\n  corruption:\n    probability: 0.3\n"
        "max_steps: 5\n"
    )
    quick = [override for override in TINY if not override.startswith("model=")]
    result = read_result(train("--config-dir", str(tmp_path / "configs"), "+experiment=paper/figure_1", *quick))
    assert result["sweep"] == "paper-figure_1"
    assert result["choices"]["data.corruption"] == "partial_labels"
    assert result["choices"]["regularizer"] == ["flip"]
    assert result["config"]["data"]["corruption"]["probability"] == 0.3
    assert (tmp_path / "multirun" / "paper-figure_1").is_dir()


@pytest.mark.parametrize("logger", ["none", "csv"])
def test_each_logger_leaves_the_same_numbers(train: Command, logger: str) -> None:
    folder = train(*RUN, f"logger={logger}", "log_every=10")
    rows = (folder / "metrics.csv").read_text().splitlines()
    assert [row.split(",")[0] for row in rows] == ["step", "10", "12", "20", "24", "30"]


def test_the_next_command_it_proposes_works(train: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = [
        *TINY,
        "model.width=64",
        "until_fit=true",
        "regularizer=[]",
        "data.num_train=50",
        "data.batch_size=10",
        "max_steps=2000",
    ]
    assert read_result(train(*run))["fitted"]
    proposed = re.search(r"python \S*train\.py (.*)", capsys.readouterr().out)
    assert proposed is not None
    subprocess.run(["bash", "-nc", proposed.group()], check=True)
    overrides = subprocess.run(
        ["bash", "-c", f"printf '%s\\n' {proposed.group(1)}"], capture_output=True, text=True, check=True
    ).stdout.split("\n")
    again = train(*(override for override in overrides if override and not override.startswith("results_dir")))
    assert read_result(again)["choices"]["data.corruption"] == "random_labels"
    assert len(list(tmp_path.glob("multirun/runs/*/result.json"))) == 2


def test_a_machine_with_slurm_is_no_reason_for_a_warning(
    train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    srun = tmp_path / "bin" / "srun"
    srun.parent.mkdir()
    srun.write_text("#!/bin/sh\n")
    srun.chmod(0o755)
    monkeypatch.setenv("PATH", f"{srun.parent}:{os.environ['PATH']}")
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # pyproject.toml lets this one pass, for tests of plain Lightning
        warnings.filterwarnings("ignore", message=r".*isinstance.treespec, LeafSpec.*")
        train(*TINY, "max_steps=5")


@pytest.mark.parametrize("begun_in", [None, "second"])
def test_of_two_that_lock_one_run_under_two_names_at_once_one_has_it(
    begun_in: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = [RunFolder(tmp_path / name) for name in ("first", "second")]
    for folder in folders:
        folder.path.mkdir()
    if begun_in is not None:
        (tmp_path / begun_in / "config.yaml").touch()
    monkeypatch.setattr(entry, "folders_of", lambda description, sweep: [folder.path for folder in folders])
    both_have_locked = threading.Barrier(2, timeout=PATIENCE_SECONDS)
    trained, held = [], []

    def begin(folder: RunFolder) -> None:
        with folder.lock():
            both_have_locked.wait()
            try:
                entry.check_is_nowhere_else(folder, cast(Description, None))
            except RunIsHeldError as error:
                held.append(str(error))
            else:
                trained.append(folder.path.name)

    threads = [threading.Thread(target=begin, args=(folder,)) for folder in folders]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert trained == [begun_in or "first"]
    assert len(held) == 1


@pytest.mark.parametrize(
    ("exclude", "whole"),
    [
        ({"runs": "multirun/whole", "share": 0.2}, {"runs": "/start/multirun/whole", "share": 0.2}),
        ({"runs": ["one", "/two"], "share": 0.2}, {"runs": ["/start/one", "/two"], "share": 0.2}),
        ("list.csv", "/start/list.csv"),
        (None, None),
    ],
)
def test_paths_of_what_is_left_out_are_from_where_the_command_was_given(exclude: Any, whole: Any) -> None:
    config = OmegaConf.create({"data": {"root": "data", "exclude": exclude}})
    found = entry.with_whole_paths(config, Path("/start"))
    assert OmegaConf.to_container(found) == {"data": {"root": "/start/data", "exclude": whole}}
    assert config.data.exclude == exclude


def test_a_single_run_says_where_the_numbers_of_its_measures_are_and_what_makes_a_table_of_them(
    train: Command, measure: Measure, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = [*TINY, "max_steps=2", "data.num_train=200"]
    train(*short, "seed=1", "measure=[confusion]")
    run = train(*short, "measure=[fit,margins]")
    for _ in range(2):
        said = " ".join(capsys.readouterr().out.split())
        assert f"Every number of every measure: multirun/runs/{run.name}/measures" in said
        proposed = re.search(r"measures\.csv\): \S*python \S*measure\.py (multirun/runs/\S+) '?(measure=\S+\])'?", said)
        assert proposed is not None
        train(*short, "measure=[fit,margins]")
    assert measure(proposed[1], proposed[2]) == 0
    assert "1 of 1 rows were measured before." in capsys.readouterr().out
    table = (tmp_path / "multirun" / "runs" / "measures.csv").read_text()
    assert [name in table for name in ("confusion", "fit", "margins")] == [True] * 3
