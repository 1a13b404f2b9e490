"""Trainings like a run's: the run itself among them, what a kill leaves, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

import rethinkgen
from conftest import TINY, Command, Measure
from rethinkgen.measure.subject import Draw
from rethinkgen.run import retrained
from rethinkgen.run.opened import OpenedRun
from rethinkgen.run.run import read_runs
from rethinkgen.train.stacked import Stack

DRAWS = [Draw(11), Draw(1), Draw(12)]
SPLITS: list[Any] = ["train", "test"]
EPOCHS = 20
"""Of 2 steps: all 40 of a run of the small sweep."""


@pytest.fixture
def run(small_sweep: Path, tmp_path: Path) -> OpenedRun:
    """A run with seed 1."""
    folder = next(small_sweep.glob("*random_labels*seed1*"))
    return rethinkgen.open_run(shutil.copytree(folder, tmp_path / folder.name), tell=lambda _: None)


def classes_of(run: OpenedRun, split: Any) -> torch.Tensor:
    with torch.no_grad():
        return run.network()(run.splits[split].inputs).argmax(1)


def test_a_draw_with_the_runs_own_seed_is_the_run_itself(run: OpenedRun) -> None:
    before = torch.get_rng_state()
    found = run.trainings(DRAWS, EPOCHS, SPLITS)
    assert torch.equal(torch.get_rng_state(), before)
    assert list(found) == list(run.splits)
    for name, classes in found.items():
        assert classes.shape == (3, len(run.splits[name]))
        assert torch.equal(classes[1], classes_of(run, name))
        assert not torch.equal(classes[0], classes[1])


@pytest.mark.parametrize("is_stacked", [True, False])
def test_one_by_one_or_stacked_it_is_the_same(
    run: OpenedRun, monkeypatch: pytest.MonkeyPatch, is_stacked: bool
) -> None:
    monkeypatch.setattr(retrained, "pays_to_stack", lambda *_: is_stacked)
    subset = torch.arange(20, 180)
    found = run.trainings([Draw(seed, subset) for seed in (1, 2, 3)], 2, SPLITS)["test"]
    monkeypatch.setattr(retrained, "pays_to_stack", lambda *_: not is_stacked)
    shutil.rmtree(run.path / "retrained")
    assert torch.equal(run.trainings([Draw(seed, subset) for seed in (1, 2, 3)], 2, SPLITS)["test"], found)


class Killed(BaseException):
    pass


def test_what_was_killed_and_once_more_goes_on_where_it_was(run: OpenedRun, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrained, "stack_size", lambda *_: 2)
    whole = run.trainings(DRAWS, EPOCHS, SPLITS)
    shutil.rmtree(run.path / "retrained")
    steps: list[int] = []
    train_to = Stack.train_to

    def killed(stack: Stack, last: int, after_step: Any) -> None:
        def count(now: Stack) -> None:
            after_step(now)
            steps.append(now.step)
            if len(steps) in (55, 60):  # 15, then 20 of the second stack's 40
                raise Killed

        train_to(stack, last, count)

    monkeypatch.setattr(Stack, "train_to", killed)
    with pytest.raises(Killed):
        retrained.retrained(run, DRAWS, EPOCHS, SPLITS, 1024, seconds=0)
    with pytest.raises(Killed):
        retrained.retrained(run, DRAWS, EPOCHS, SPLITS, 1024, seconds=0)
    (folder,) = (run.path / "retrained").iterdir()
    assert sorted(path.name for path in folder.iterdir()) == ["0-1.npz", "0-1.pt", "2-2.pt"]
    again = retrained.retrained(run, DRAWS, EPOCHS, SPLITS, 1024)
    assert steps[55:] == list(range(16, 41))
    assert all(torch.equal(classes, whole[name]) for name, classes in again.items())
    assert sorted(path.name for path in folder.iterdir()) == ["0-1.npz", "2-2.npz"]
    run.trainings(DRAWS, EPOCHS, SPLITS)
    assert len(steps) == 80  # nothing is trained again


def test_a_damaged_file_is_made_again(run: OpenedRun) -> None:
    found = run.trainings(DRAWS, 1)
    (path,) = (run.path / "retrained").rglob("*.npz")
    path.write_bytes(path.read_bytes()[:100])
    assert torch.equal(run.trainings(DRAWS, 1)["train"], found["train"])
    path.with_suffix(".pt").write_bytes(b"nothing")
    path.unlink()
    assert torch.equal(run.trainings(DRAWS, 1)["train"], found["train"])


def test_other_trainings_are_kept_apart(run: OpenedRun) -> None:
    every = torch.arange(200)
    others = [(DRAWS, 1.0), (DRAWS, 2.0), (DRAWS[:2], 1.0), ([Draw(1, every)], 1.0), ([Draw(1, every[1:])], 1.0)]
    known = {retrained.known_by(run.run_id, *each, names) for each in others for names in (SPLITS, ["train"])}
    assert len(known) == 2 * len(others)


REFUSED = {
    "regularizer.mixup=1.0": ["regularizer=[mixup]"],
    "regularizer: what is added to the loss": ["regularizer=[confidence_penalty]"],
    "of which there is no 'trainings'": ["model=kernel_linear"],
}


@pytest.mark.parametrize("key", REFUSED)
def test_a_run_of_another_kind_is_refused(key: str, train: Command) -> None:
    of_network = TINY if "model=kernel_linear" not in REFUSED[key] else ["trainer=cpu", "logger=none", "threads=1"]
    folder = train(*of_network, "data.num_train=130", "max_steps=1", *REFUSED[key])
    with pytest.raises(ValueError, match=key.replace(".", r"\.")):
        rethinkgen.open_run(folder, tell=lambda _: None).trainings(DRAWS, 1)


def test_the_measure_by_its_command(run: OpenedRun, measure: Measure) -> None:
    given = ["measure=[easy_examples,filters]", "measure.easy_examples.num_draws=4", "measure.easy_examples.epochs=3"]
    assert measure(run.path.parent, *given) == 0
    (read,) = read_runs([run.path.parent])
    table = {each.measure: each for each in read.measured[0]}["easy_examples"].table("examples")
    assert sorted({*table["probability"].tolist()} | {0, 0.25, 0.5, 0.75, 1}) == [0, 0.25, 0.5, 0.75, 1]
    assert 0.05 < table["probability"].mean() < 0.9
