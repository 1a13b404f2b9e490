"""Folders of commit 785b5e0 are found under the ids of today, renamed, and go on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from test_identity import FORMER, described  # noqa: F401

from conftest import Command, read_result
from rethinkgen.run.description import Description
from rethinkgen.run.folder import RunFolder
from rethinkgen.run.former_identity import former_ids
from rethinkgen.run.identity import ID_LENGTH, SEEDS
from rethinkgen.run.run import Run, in_one_spelling, read_runs
from rethinkgen.sweep.jobs import Job

FORMER_IDS = json.loads((FORMER / "former_ids.json").read_text())
COMMON = [
    *("model=mlp_1x512", "model.width=16", "trainer=cpu", "logger=none", "threads=1"),
    *("data.corruption=partial_labels", "data.corruption.probability=0.4"),
]
FINISHED = [*COMMON, "max_steps=40", "until_fit=false"]
INTERRUPTED = [
    *(*COMMON, "regularizer=[dropout,flip,early_stopping]", "data.validation=0.2", "max_steps=600", "until_fit=false"),
    *("evaluate_every=0.5", "checkpoint_seconds=0", "schedule=cosine", "regularizer.early_stopping=1000"),
]

MERGED = {
    **dict.fromkeys(("", "data.num_train=1437", "+model.batch_norm=true"), "as it comes"),
    **dict.fromkeys(("model.learning_rate=0.3", "optimizer.lr=0.3"), "a learning rate"),
    **dict.fromkeys(("data=cifar10_jpeg", "data=image_folder"), "one kind of source, whose files are not there"),
}
"""Overrides of runs that had ids of their own and were the same."""


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """The folder of single runs, as 785b5e0 left it."""
    folder = tmp_path / "multirun" / "runs"
    shutil.copytree(FORMER / "runs", folder)
    return folder


def renamed(runs: Path) -> Path:
    """The one folder under an id of today."""
    (folder,) = (path for path in runs.glob("*-*") if len(path.name.rpartition("-")[2]) == ID_LENGTH)
    return folder


def of_today(overrides: list[str]) -> list[str]:
    """Images of one's own had the budget of CIFAR-10 then."""
    return [*overrides, "max_steps=25000", "until_fit=false"] if "data=image_folder" in overrides else overrides


@pytest.mark.parametrize("every", [4, pytest.param(1, marks=pytest.mark.slow)])  # all in half a minute
def test_the_ids_of_then_are_told_and_no_two_runs_of_then_are_one_but_those_that_were_the_same(
    described: Callable[..., Description],  # noqa: F811
    every: int,
) -> None:
    assert len(FORMER_IDS) > 150
    rows = [row for i, row in enumerate(FORMER_IDS) if i % every == 0 or " ".join(row["overrides"]) in MERGED]
    then: dict[str, set[str]] = {}
    settings: dict[str, set[str]] = {}
    for row in rows:
        told = described(*of_today(row["overrides"]))
        assert row["id"] in told.former_ids, row["overrides"]
        then.setdefault(told.run_id, set()).add(row["id"])
        run = Run(Path("run"), "missing", "", {}, in_one_spelling(told.config), [], 0, None)
        settings.setdefault(told.run_id, set()).add(run.setting())
    assert all(len(each) == 1 for each in settings.values()), "a table would tell apart what is one run"
    assert len(set.union(*settings.values())) == len(settings), "a table would take two runs for repetitions of one"
    merged = sorted(map(sorted, (ids for ids in then.values() if len(ids) > 1)))
    ids = {" ".join(row["overrides"]): row["id"] for row in rows}
    same: dict[str, list[str]] = {}
    for overrides, group in MERGED.items():
        same.setdefault(group, []).append(ids[overrides])
    assert merged == sorted(map(sorted, same.values()))


def test_what_was_not_known_then_has_no_folder_of_then(described: Callable[..., Description]) -> None:  # noqa: F811
    config = described().config
    config["model"] = {**config["model"], "activation": "tanh"}
    assert not set(former_ids(config, "digits-1")) & {row["id"] for row in FORMER_IDS}


def test_a_finished_run_is_renamed_and_not_trained_again(
    train: Command, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (old,) = runs.glob("*-f08cc6ba211e")
    written = (old / "result.json").read_bytes()
    train(*FINISHED)
    folder = renamed(runs)
    said = capsys.readouterr().out
    assert (folder / "result.json").read_bytes() == written
    assert f"{old.name} is now {folder.name}: the same run" in said
    assert not old.exists()
    assert not (folder / "checkpoints").exists()
    assert said.count("is now") == 1
    # A trial of a study, say, knows it by its former name.
    job = Job([], old)
    job.find_folder()
    assert job.path == folder

    # The same run under a spelling of its own, which had an id of its own.
    (other,) = runs.glob("*-b45cfc97f211")
    assert f"{other} holds the same run once more: it is not counted" in said
    assert [run.path for run in read_runs([runs]) if run.key("max_steps") == 40] == [folder]
    train(*FINISHED)
    said = capsys.readouterr().out
    assert "is now" not in said
    assert "was finished" in said


def test_one_whose_config_is_spelt_otherwise_is_the_same_run(
    train: Command, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What 785b5e0 wrote for trainer.precision=32, which had an id of its own."""
    (old,) = runs.glob("*-f08cc6ba211e")
    result = read_result(old)
    result["config"]["trainer"]["precision"] = 32
    spelt = old.with_name(f"{old.name[:-12]}{former_ids(result['config'], 'digits-1')[0]}")
    old.rename(spelt)
    (spelt / "result.json").write_text(json.dumps(result))
    (spelt / "config.yaml").write_text(yaml.safe_dump(result["config"]))
    train(*FINISHED)
    assert f"{spelt.name} is now {renamed(runs).name}" in capsys.readouterr().out


def test_another_spelling_finds_it_too(train: Command, runs: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in runs.glob("*/weights.pt")}
    train(*[item for item in FINISHED if item != "model=mlp_1x512"], "model=mlp", "model.depth=1")
    assert (renamed(runs) / "weights.pt").stat().st_mtime_ns in before.values()
    assert len(list(runs.glob("*/result.json"))) == 3


def test_a_process_that_knew_the_former_name_finds_it_renamed_meanwhile(
    train: Command, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (old,) = runs.glob("*-f08cc6ba211e")
    train(*FINISHED)
    folder = renamed(runs)
    capsys.readouterr()
    for _ in range(2):
        train(*FINISHED, f"hydra.run.dir={old}")  # Hydra makes that folder anew
        assert "was finished" in capsys.readouterr().out
        assert renamed(runs) == folder
        assert not old.exists()
    train(*[item for item in FINISHED if item != "max_steps=40"], "max_steps=39", f"hydra.run.dir={old}")
    assert read_result(old)["config"]["max_steps"] == 39, "the folder that the user names is the run's"


def test_a_finished_one_goes_before_a_folder_of_today_that_is_not(
    train: Command, runs: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (old,) = runs.glob("*-f08cc6ba211e")
    kept = shutil.move(old, runs.parent)
    shutil.rmtree(next(runs.glob("*-b45cfc97f211")))
    today = train(*FINISHED)
    for path in today.iterdir():  # as a kill leaves it: made, and begun
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for is_begun in (False, True):
        shutil.copytree(kept, old)
        if is_begun:
            (today / "config.yaml").write_bytes((old / "config.yaml").read_bytes())
            (today / "result.json").unlink()
        capsys.readouterr()
        train(*FINISHED)
        said = capsys.readouterr().out
        assert "was finished" in said
        assert not old.exists()
        assert (f"{today} holds the same run once more" in said) == is_begun
    assert (today.with_name(f"{today.name[:-14]}f08cc6ba211e-{today.name[-14:]}") / "result.json").exists()


def test_a_report_reads_them_under_either_name(train: Command, runs: Path) -> None:
    before = {run.state for run in read_runs([runs])}
    assert before == {"done", "interrupted"}
    # Both spellings of the finished one are one run before anything is renamed, too.
    assert len(read_runs([runs])) == 3
    train(*FINISHED)
    assert len(read_runs([runs])) == 3


def unfinish(folder: Path) -> None:
    (folder / "result.json").unlink()
    (folder / "status.json").write_text('{"state": "interrupted"}')


@pytest.mark.parametrize("unfinished", ["f08cc6ba211e", "b45cfc97f211"])
def test_two_spellings_are_one_run_however_far_each_is(runs: Path, unfinished: str) -> None:
    """One asked for all examples, the other for 1437 of them, which is all."""
    unfinish(next(runs.glob(f"*-{unfinished}")))
    counted = [run.path.name[-12:] for run in read_runs([runs]) if run.key("max_steps") == 40]
    assert counted == [name for name in ("f08cc6ba211e", "b45cfc97f211") if name != unfinished]


def test_its_twin_of_today_in_another_sweep_is_the_same_run(train: Command, runs: Path, tmp_path: Path) -> None:
    twin = train(*FINISHED, "sweep=again")
    for former in runs.glob("*-*"):
        if not former.name.endswith(("f08cc6ba211e", "b45cfc97f211")):
            shutil.rmtree(former)
    assert [run.path for run in read_runs([runs, twin.parent])] == [twin]
    # Nor are two runs of today one, since a former one is there: on other data, as their ids say.
    other = twin.with_name(f"{twin.name[:-14]}00000000000000")
    shutil.copytree(twin, other)
    (other / "identity.json").write_text('{"run_id": "00000000000000", "fingerprint": "digits-2"}')
    assert {twin, other} <= {run.path for run in read_runs([runs, twin.parent])}


def test_half_former_and_half_of_today_a_sweep_is_one_setting(train: Command, runs: Path, tmp_path: Path) -> None:
    (former,) = runs.glob("*-b45cfc97f211")
    result = read_result(former)
    result["config"]["trainer"]["precision"] = "32"
    result["config"]["until_fit"] = 0
    (former / "result.json").write_text(json.dumps(result))
    train(*FINISHED, "seed=1", "sweep=again")
    first, second = (run for run in read_runs([runs, tmp_path / "multirun" / "again"]) if run.key("max_steps") == 40)
    assert (first.seed, second.seed) == (0, 1)
    assert first.setting(*SEEDS) == second.setting(*SEEDS)


def test_an_interrupted_run_goes_on_and_ends_with_the_bits_of_then(train: Command, runs: Path, tmp_path: Path) -> None:
    train(*INTERRUPTED)
    folder = renamed(runs)
    (ended,) = (FORMER / "ended").iterdir()
    then, now = read_result(ended), read_result(folder)
    assert json.loads((folder / "identity.json").read_text())["wandb_id"] == "0ba566f980c0"
    assert now["run_id"] == folder.name.rpartition("-")[2] != then["run_id"]
    weights = [torch.load(RunFolder(run).end_weights, weights_only=True) for run in (ended, folder)]
    columns = [dict(np.load(run / "examples.npz")) for run in (ended, folder)]
    same = then["device"] == now["device"]
    for name, value in weights[0].items():
        # To the bit on the kind of machine that the fixture was made on.
        assert torch.equal(value, weights[1][name]) if same else torch.allclose(value, weights[1][name], atol=1e-3)
    if same:
        assert all(np.array_equal(value, columns[1][name]) for name, value in columns[0].items())
        for name, value in then["metrics"].items():
            # The running loss is a sum of examples' losses now, which was one number: its last bits are others.
            expected = pytest.approx(value, rel=1e-6) if name.startswith("train/loss") else value
            assert now["metrics"][name] == expected, name


def test_a_sweep_takes_them_up(train: Command, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    train("-m", "hydra/launcher=basic", *FINISHED, "seed=0,1")
    said = capsys.readouterr().out
    assert "is now" in said
    assert "1 of 2 runs was finished before." in said
    assert not list(runs.glob("*-" + "?" * ID_LENGTH + "/checkpoints"))
    assert sorted(path.name[:-ID_LENGTH] for path in runs.glob("*-" + "?" * ID_LENGTH)) == [
        "digits-partial_labels_0.4-mlp_1x512-seed0-",
        "digits-partial_labels_0.4-mlp_1x512-seed1-",
    ]


def test_a_study_takes_them_up(train: Command, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.rmtree(next(runs.glob("*-b45cfc97f211")))
    unfinish(next(runs.glob("*-f08cc6ba211e")))
    tuned = ["-m", "hydra/sweeper=optuna", "hydra/launcher=basic", "hydra/sweeper/sampler=grid", *FINISHED, "seed=0,1"]
    train(*tuned, "hydra.sweeper.n_trials=2", "hydra.sweeper.objective=fit/accuracy")
    said = capsys.readouterr().out
    assert "f08cc6ba211e is now" in said
    assert "unfinished" not in said
    assert "Best of 2 trials: fit/accuracy" in said
    assert {read_result(path.parent)["seed"] for path in runs.glob("*mlp*" + "?" * ID_LENGTH + "/result.json")} == {
        0,
        1,
    }
