"""``hydra/sweeper=optuna``: a metric by name, a study that is run to its total, and nothing chosen on the test set."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from omegaconf import OmegaConf
from optuna.trial import FrozenTrial, TrialState

from conftest import ROOT, TINY, command_line, ctrl_c, read_result, wait_until
from rethinkgen.errors import StoppedError
from rethinkgen.run.description import look_again
from rethinkgen.sweep import tuning
from rethinkgen.sweep.objective import DIRECTIONS, check_objective

Start = Callable[..., BaseProcess]
Tune = Callable[..., int]

HELD_OUT = "data.validation=0.2"
RATE = "model.learning_rate=tag(log,interval(0.001,1))"
HERE = [*TINY, "hydra/launcher=basic", "max_steps=20", HELD_OUT]
"""Trials in this process, one after the other."""


@pytest.fixture
def tune(tmp_path: Path) -> Tune:
    """Run a study of the sweep ``study`` and return the exit code."""

    def run(*overrides: str) -> int:
        results = [] if any(item.startswith("results_dir=") for item in overrides) else [f"results_dir={tmp_path}/runs"]
        with contextlib.chdir(tmp_path):
            try:
                command_line("-m", "hydra/sweeper=optuna", "sweep=study", *results, *overrides)
            except SystemExit as end:
                return int(end.code or 0)
        return 0

    return run


def load(folder: Path, name: str = "study") -> optuna.Study:
    return optuna.load_study(study_name=name, storage=f"sqlite:///{folder}/runs/study/study.db")


def trials(folder: Path, name: str = "study") -> list[tuple[TrialState, dict[str, Any], float | None]]:
    return [(trial.state, trial.params, trial.value) for trial in load(folder, name).trials]


def by(found: list[FrozenTrial], param: str) -> list[FrozenTrial]:
    """Sort trials: the grid is tried in any order."""
    return sorted(found, key=lambda trial: trial.params[param])


def runs(folder: Path) -> dict[Path, int]:
    return {path.parent: path.stat().st_mtime_ns for path in folder.glob("runs/study/*/result.json")}


# What is refused, before anything is trained


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["hydra.sweeper.objective=test/accuracy"], "nothing is chosen on the test set.*validation/accuracy"),
        (["hydra.sweeper.objective=test/accuracy_oracle"], "nothing is chosen on the test set"),
        (["hydra.sweeper.objective=test/accuracy_at_fit"], "nothing is chosen on the test set"),
        (["hydra.sweeper.objective=generalization_gap"], "nothing is chosen on the test set"),
        (["hydra.sweeper.objective=measure/sharpness/test"], "nothing is chosen on the test set"),
        (["hydra.sweeper.objective=validation/acuracy"], "Did you mean validation/accuracy.*steps_to_fit"),
        (["hydra.sweeper.objective=[steps_to_fit,fit/loss]"], "the name of one metric is needed"),
        (["hydra.sweeper.objective=measure/sharpness"], "minimize or maximize is needed"),
        (["hydra.sweeper.direction=upwards"], "direction=upwards.*minimize or maximize is needed"),
        (["data.validation=0"], "objective=validation/accuracy_corrupted needs a held-out part.*data.validation=0.1"),
        (["model.learning_rate=0.1"], "there is nothing to tune"),
        (["hydra.sweeper.n_trials=0"], "n_trials=0: a whole number of at least 1"),
        (["hydra.sweeper.n_jobs=0"], "n_jobs=0: a whole number of at least 1"),
        (["hydra.sweeper.max_failure_rate=2"], "max_failure_rate=2.0: a number from 0 to 1"),
        (["hydra/sweeper/sampler=grid"], "GridSampler only supports discrete"),
        (["hydra/sweeper/sampler=cmaes"], "cmaes: it needs a package of that name"),
        (["model=mlp_1x521"], "mlp_1x521"),
        (["model.learning_rat=0.1"], "learning_rat"),
    ],
)
def test_refused(
    overrides: list[str], said: str, tune: Tune, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tune(*HERE, RATE, *overrides) == 1
    output = capsys.readouterr()
    assert re.search(said, output.err, flags=re.DOTALL), output.err
    assert "Traceback" not in output.err
    assert not list(tmp_path.glob("runs/*/*"))


def test_a_metric_that_no_run_has_ends_the_study_with_the_list_of_those_it_has(
    tune: Tune, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = [*HERE, RATE, "hydra.sweeper.n_trials=3", "hydra.sweeper.objective=fit/accuracy_corrupted"]
    assert tune(*wrong) == 1
    output = capsys.readouterr()
    assert re.search(r"has no fit/accuracy_corrupted; it has .*validation/accuracy", output.err)
    assert len(runs(tmp_path)) == 1, "it would be the same for all"
    # The right name is no other question to a study without an answer.
    assert tune(*wrong[:-1], "hydra.sweeper.objective=fit/accuracy") == 0
    assert [state for state, _, _ in trials(tmp_path)] == [TrialState.COMPLETE] * 3
    assert len(runs(tmp_path)) == 3


def test_the_metrics_that_can_be_tuned_are_those_of_a_run(tune: Tune, tmp_path: Path) -> None:
    noisy = [
        "data.corruption=partial_labels",
        "model=inception",
        "data.num_train=100",
        "data.batch_size=50",
        "max_steps=1",
    ]
    words = [word for word in TINY if not word.startswith("model")]
    with contextlib.chdir(tmp_path):
        command_line(f"results_dir={tmp_path}/runs", "sweep=study", *words, HELD_OUT, *noisy)
    ((run, _),) = runs(tmp_path).items()
    metrics = read_result(run)["metrics"]
    assert set(DIRECTIONS) <= set(metrics)
    neither = {"epoch", "epochs", "steps", "learning_rate", "num_parameters", "noise/probability", "noise/realised"}
    for name in set(metrics) - set(DIRECTIONS) - neither:
        assert name.endswith("_last_missed") or name == "generalization_gap" or name.startswith("test/"), name
    with pytest.raises(ValueError, match="test set"):
        check_objective("test/loss", "minimize")


def test_neither_help_nor_a_grid_imports_optuna(tmp_path: Path) -> None:
    program = f"""
import atexit, runpy, sys
atexit.register(lambda: print("optuna" in sys.modules, file=sys.stderr))
sys.argv = ["train.py", *sys.argv[1:]]
runpy.run_path({str(ROOT / "train.py")!r}, run_name="__main__")
"""
    grid = ["-m", *TINY, "max_steps=1", "seed=0,1", f"results_dir={tmp_path}", "hydra/launcher=basic"]
    for words in (["--help"], grid):
        done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=True)
        assert done.stderr.splitlines()[-1] == "False"
    assert len(list(tmp_path.glob("*/*/result.json"))) == 2


# What comes of it


def test_the_best_trial_is_named_with_a_command_that_trains_on_the_held_out_part_too(
    tune: Tune, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert tune(*HERE, RATE, "hydra.sweeper.n_trials=3", "regularizer=[dropout]") == 0
    output = capsys.readouterr().out
    study = load(tmp_path)
    best = study.best_trial
    values = [
        next(
            read_result(run)["metrics"]["validation/accuracy_corrupted"]
            for run in runs(tmp_path)
            if read_result(run)["config"]["model"]["learning_rate"] == trial.params["model.learning_rate"]
        )
        for trial in study.trials
    ]
    assert [trial.value for trial in study.trials] == values
    assert best.value == max(values)
    assert f"Best of 3 trials: validation/accuracy_corrupted {best.value:g}, trial {best.number + 1}" in output
    assert (tmp_path / "runs" / "study" / "summary.csv").exists()

    *_, command = re.findall(r"^  (\S*python\S* \S*train\.py .*)$", output, flags=re.MULTILINE)
    words = shlex.split(command)[2:]
    assert words[-1] == "data.validation=0"
    before = set(runs(tmp_path))
    with contextlib.chdir(tmp_path):
        command_line(*words)
    (new,) = set(runs(tmp_path)) - before
    config = read_result(new)["config"]
    assert (config["model"]["learning_rate"], config["data"]["validation"]) == (best.params["model.learning_rate"], 0)
    assert config["regularizer"]["dropout"] > 0


def test_a_study_is_run_to_its_total_by_the_same_command(
    tune: Tune, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*HERE, RATE, "hydra/sweeper/sampler=random"]
    assert tune(*command, "hydra.sweeper.n_trials=2") == 0
    first = runs(tmp_path)
    assert tune(*command, "hydra.sweeper.n_trials=4") == 0
    rates = {params["model.learning_rate"] for _, params, _ in trials(tmp_path)}
    assert len(rates) == 4, "a sampler of the same seed does not begin anew"
    second = runs(tmp_path)
    assert len(second) == 4
    assert first.items() <= second.items()
    capsys.readouterr()
    assert tune(*command, "hydra.sweeper.n_trials=4") == 0
    output = capsys.readouterr().out
    assert "4 of 4 trials were finished before: nothing is left to train" in output
    assert "Best of 4 trials" in output
    assert runs(tmp_path) == second


def test_a_file_that_a_key_names_is_the_same_wherever_it_lies(
    tune: Tune, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    matrix = np.full((10, 10), 0.1)
    for name in ("a", "b"):
        np.savetxt(tmp_path / f"{name}.csv", matrix, delimiter=",")
    command = [*TINY, "hydra/launcher=basic", "max_steps=4", RATE, "hydra.sweeper.n_trials=1"]
    command += [
        "hydra.sweeper.objective=fit/loss",
        "data.corruption=asymmetric_labels",
        "data.corruption.probability=null",
    ]
    assert tune(*command, f"data.corruption.matrix={tmp_path}/a.csv") == 0
    assert tune(*command, f"data.corruption.matrix={tmp_path}/b.csv") == 0
    assert "1 of 1 trial was finished before" in capsys.readouterr().out
    np.savetxt(tmp_path / "b.csv", np.eye(10), delimiter=",")
    look_again()
    assert tune(*command, f"data.corruption.matrix={tmp_path}/b.csv") == 1
    assert re.search(r"another\s+question", capsys.readouterr().err)
    # A study of before, which knew the file by its path.
    question = load(tmp_path).user_attrs["question"]
    del question["data.corruption.matrix.content"]
    load(tmp_path).set_user_attr("question", question | {"data.corruption.matrix": f"{tmp_path}/a.csv"})
    assert tune(*command, f"data.corruption.matrix={tmp_path}/a.csv") == 0


def test_the_same_command_proposes_the_same_trials(tune: Tune, tmp_path: Path) -> None:
    for name in ("a", "b"):
        folder = tmp_path / name
        assert tune(*HERE, RATE, "hydra.sweeper.n_trials=3", f"results_dir={folder}/runs") == 0
    assert trials(tmp_path / "a") == trials(tmp_path / "b")
    assert (
        tune(*HERE, RATE, "hydra.sweeper.n_trials=1", f"results_dir={tmp_path}/c/runs", "hydra.sweeper.sampler.seed=7")
        == 0
    )
    assert trials(tmp_path / "a")[0] != trials(tmp_path / "c")[0]


def test_a_trial_that_never_reached_its_objective_fails_and_the_others_go_on(
    tune: Tune, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [
        *TINY,
        "hydra/launcher=basic",
        "hydra/sweeper/sampler=grid",
        "model.width=64",
        "data.num_train=100",
        "data.batch_size=50",
    ]
    command += ["max_steps=2,300", "hydra.sweeper.objective=steps_to_fit", "hydra.sweeper.n_jobs=2"]
    assert tune(*command) == 0
    short, long = by(load(tmp_path).trials, "max_steps")
    assert (short.state, long.state) == (TrialState.FAIL, TrialState.COMPLETE)
    assert short.user_attrs["reason"] == "steps_to_fit is null: the budget of 2 steps is used up"
    assert load(tmp_path).direction == optuna.study.StudyDirection.MINIMIZE
    output = capsys.readouterr().out
    assert "Best of 2 trials (1 failed): steps_to_fit" in output
    assert "It again:" in output
    assert tune(*command[:-3], "max_steps=1,2", *command[-2:], "sweep=hopeless") == 1
    assert "No trial has a value of steps_to_fit" in capsys.readouterr().out


def test_failed_trials_are_recorded_with_their_reason_and_can_be_run_again(
    tune: Tune, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*HERE, "hydra/sweeper/sampler=grid", "model.learning_rate=1e30,0.1", "max_steps=50"]
    assert tune(*command, "hydra.sweeper.max_failure_rate=0") == 1
    assert "max_failure_rate=0 allows" in capsys.readouterr().out
    assert trials(tmp_path)[-1][0] == TrialState.FAIL
    assert tune(*command) == 0
    good, diverged = by(load(tmp_path).trials, "model.learning_rate")
    assert (diverged.state, good.state) == (TrialState.FAIL, TrialState.COMPLETE)
    assert "became nan" in diverged.user_attrs["reason"]
    output = capsys.readouterr().out
    assert "Best of 2 trials (1 failed)" in output
    assert "hydra.sweeper.retry_failed=true" in output

    before = runs(tmp_path)
    assert tune(*command, "hydra.sweeper.retry_failed=true") == 0
    assert trials(tmp_path)[2:] == [(TrialState.FAIL, diverged.params, None)]
    assert "Best of 2 trials (1 failed)" in capsys.readouterr().out
    assert runs(tmp_path) == before


def test_a_trial_stopped_before_it_began_is_not_what_its_folder_says_of_an_earlier_command(
    tune: Tune, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command = [*HERE, "hydra/sweeper/sampler=grid", "model.learning_rate=1e30,0.1", "max_steps=50"]
    assert tune(*command) == 0

    def stop(*arguments: Any) -> None:
        raise StoppedError(signal.SIGTERM)

    with monkeypatch.context() as patch:
        patch.setattr(tuning, "launch", stop)
        assert tune(*command, "hydra.sweeper.retry_failed=true") == 128 + signal.SIGTERM
    assert trials(tmp_path)[2][0] == TrialState.RUNNING
    assert tune(*command) == 0
    assert [state for state, _, _ in trials(tmp_path)][2:] == [TrialState.FAIL]


def test_one_value_for_choices_that_are_tuned_is_nothing_to_tune() -> None:
    study = tuning.Tuning.__new__(tuning.Tuning)
    study.params, study.custom_search_space_extender, study.sampler_config = None, None, OmegaConf.create()
    study._read_search_space(["model=mlp,mlp_1x512", "model.width=choice(24)", "seed=1"])
    assert list(study.space) == ["model"]
    assert study.fixed == {"model.width": 24, "seed": "1"}


def test_a_grid_of_a_range_is_refused_and_told_who_can(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with contextlib.chdir(tmp_path), pytest.raises(SystemExit):
        command_line("-m", f"results_dir={tmp_path}/runs", *TINY, "hydra/launcher=basic", RATE)
    error = capsys.readouterr().err
    assert "model.learning_rate=0.01,0.1" in error
    assert "hydra/sweeper=optuna" in error


def test_another_question_is_another_study(tune: Tune, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert tune(*HERE, RATE, "hydra.sweeper.n_trials=2") == 0
    before = trials(tmp_path)
    for other, said in (
        (["hydra.sweeper.objective=fit/loss"], "objective: validation/accuracy_corrupted there, fit/loss here"),
        (["model.learning_rate=interval(0.01,0.1)"], "range of model.learning_rate: .*0.001.* there, .*0.01.* here"),
        (["max_steps=30"], "max_steps: 20 there, 30 here"),
    ):
        assert tune(*HERE, RATE, "hydra.sweeper.n_trials=3", *other) == 1
        error = capsys.readouterr().err
        assert re.search(said, error), error
        assert "hydra.sweeper.study_name=NAME" in error
        assert trials(tmp_path) == before
    trained = runs(tmp_path)
    same_draws = ["hydra.sweeper.objective=fit/loss", "hydra.sweeper.study_name=other", "hydra.sweeper.n_trials=2"]
    assert tune(*HERE, RATE, *same_draws) == 0
    assert [params for _, params, _ in trials(tmp_path, "other")] == [params for _, params, _ in before]
    assert runs(tmp_path) == trained, "both studies need the same runs"


def test_a_study_has_one_command_at_a_time(tune: Tune, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "runs" / "study"
    folder.mkdir(parents=True)
    with (folder / ".study.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert tune(*HERE, RATE) == 1
    assert "another command is running trials" in capsys.readouterr().err
    assert not runs(tmp_path)


def num_going(folder: Path) -> int:
    """Count the trials that have a checkpoint and no result."""
    checkpoints = folder.glob("runs/study/*/checkpoints/last.ckpt")
    return sum(not (path.parents[1] / "result.json").exists() for path in checkpoints)


def test_a_killed_study_goes_on_as_if_nothing_had_been(
    start: Start, tune: Tune, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*HERE, RATE, "hydra.sweeper.n_trials=3", "max_steps=700", "checkpoint_seconds=0.05"]
    assert tune(*command, f"results_dir={tmp_path}/undisturbed/runs") == 0
    results = f"results_dir={tmp_path}/runs"
    launcher = start("-m", "hydra/sweeper=optuna", "sweep=study", results, *command)
    # The second trial is being trained.
    wait_until(lambda: len(runs(tmp_path)) == 1 and num_going(tmp_path) == 1)
    launcher.kill()
    launcher.join()
    assert [state for state, _, _ in trials(tmp_path)] == [TrialState.COMPLETE, TrialState.RUNNING]
    assert tune(*command) == 0
    assert trials(tmp_path) == trials(tmp_path / "undisturbed")
    assert len(runs(tmp_path)) == 3
    output = capsys.readouterr().out
    assert "1 of 3 trials was finished before, 1 begun." in output
    assert "Going on from step" in output


@pytest.mark.slow  # half a minute, and a SIGKILL has a test beside it
def test_ctrl_c_in_the_pool_and_the_same_command_goes_on(start: Start, tmp_path: Path) -> None:
    # In a folder whose name has a space.
    results = tmp_path / "my results" / "runs"
    command = ["-m", "hydra/sweeper=optuna", "sweep=study", f"results_dir='{results}'", *TINY, RATE, HELD_OUT]
    command += ["hydra.launcher.n_jobs=2", "hydra.sweeper.n_trials=3", "max_steps=4000", "checkpoint_seconds=0.1"]
    launcher = start(*command)
    wait_until(lambda: len(list(results.glob("study/*/checkpoints/last.ckpt"))) == 2)
    output = ctrl_c(launcher, tmp_path)
    assert "The same command goes on with the 3 trials left" in output
    assert [state for state, _, _ in trials(results.parent)] == [TrialState.RUNNING] * 2
    begun = [params for _, params, _ in trials(results.parent)]

    again = start(*command)
    again.join()
    output = (tmp_path / "output.txt").read_text()
    assert again.exitcode == 0, output
    assert "0 of 3 trials were finished before, 2 begun." in output
    assert [state for state, _, _ in trials(results.parent)] == [TrialState.COMPLETE] * 3
    assert [params for _, params, _ in trials(results.parent)][:2] == begun
    assert len(runs(results.parent)) == 3
    resumed = [path.read_text() for path in results.glob("study/*/output.txt")]
    assert sum("Going on from step" in text for text in resumed) == 2


def test_a_job_killed_in_the_pool_is_a_failed_trial(start: Start, tmp_path: Path) -> None:
    command = ["-m", "hydra/sweeper=optuna", "sweep=study", f"results_dir={tmp_path}/runs", *TINY, HELD_OUT]
    command += ["hydra/sweeper/sampler=grid", "max_steps=1,300000", "hydra.launcher.n_jobs=2"]
    launcher = start(*command)
    wait_until(lambda: len(runs(tmp_path)) == 1 and len(list(tmp_path.glob("runs/study/*/status.json"))) == 1)
    (status,) = tmp_path.glob("runs/study/*/status.json")
    os.kill(json.loads(status.read_text())["pid"], signal.SIGKILL)
    launcher.join()
    assert launcher.exitcode == 0, (tmp_path / "output.txt").read_text()
    done, killed = by(load(tmp_path).trials, "max_steps")
    assert (done.state, killed.state) == (TrialState.COMPLETE, TrialState.FAIL)
    assert "SIGKILL" in killed.user_attrs["reason"]


def test_a_study_whose_file_is_damaged_costs_no_run(
    tune: Tune, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [*HERE, RATE, "hydra.sweeper.n_trials=1"]
    assert tune(*command) == 0
    trained, file = runs(tmp_path), tmp_path / "runs/study/study.db"
    whole = file.read_bytes()
    attribute = whole.index(b"data.fingerprint")
    for content in (b"no database", whole[:4096] + b"\xff" * (len(whole) - 4096), whole[: len(whole) // 2]):
        file.write_bytes(content)
        capsys.readouterr()
        assert tune(*command) == 1
        said = capsys.readouterr().err
        assert said.startswith("Error: hydra.sweeper.storage=")
        assert said.count("\n") == 1
        assert "Its trials' runs stay" in said
    # One bit, in what Optuna takes for JSON.
    file.write_bytes(whole[: attribute - 1] + b"x" + whole[attribute:])
    assert tune(*command) == 1
    assert "the study cannot be read or written (Expecting" in capsys.readouterr().err
    file.unlink()
    os.mkfifo(file)
    assert tune(*command) == 1
    assert "it is no regular file" in capsys.readouterr().err
    # As the message says.
    file.unlink()
    assert tune(*command) == 0
    assert runs(tmp_path) == trained
