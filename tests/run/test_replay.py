"""A run's training once more: to the bit, checked against its own rows, and nothing of the caller's is changed."""

from __future__ import annotations

import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from conftest import TINY, Command
from rethinkgen.errors import ReplayDiffersError
from rethinkgen.measure.fit import state_digest
from rethinkgen.run.data_of_run import datamodule_of
from rethinkgen.run.declaration import acting
from rethinkgen.run.kept import last_step, step_of_run
from rethinkgen.run.replay import Built, keep, states, weights_along, weights_at
from rethinkgen.run.run import read_run
from rethinkgen.train.kept import read_state, read_weights
from rethinkgen.train.kept_files import kept_steps
from unfinished import power_cut_at

RUN = [*TINY, "data.num_train=300", "data.batch_size=40", "max_steps=40", "log_every=10", "keep=[0,5,1ep,21,end,last]"]
KINDS = {
    "dropout": ["regularizer=[dropout,random_crop,weight_decay]", "schedule=cosine", "optimizer=adam"],
    "mixup": ["regularizer=[mixup,confidence_penalty]", "data.micro_batch_size=16", "gradient_clip=0.5"],
    "bf16": ["trainer.precision=bf16-mixed", "regularizer=[dropout,flip]"],
    "early": ["regularizer=[early_stopping]", "regularizer.early_stopping=2", "data.validation=0.2", "max_steps=200"],
}


def opened(folder: Path) -> Built:
    run = read_run(folder)
    return Built(run, datamodule_of(run, acting(run.config)["data"], None, torch.device("cpu")))


def without_states(folder: Path, *but: int) -> Path:
    """Copy a run's folder with no weights but the states of some steps."""
    copy = folder.with_name(f"copy-{'-'.join(map(str, but))}-{folder.name}")
    shutil.copytree(folder, copy, dirs_exist_ok=True)
    for path in (copy / "weights").iterdir():
        if path.name.split(".")[0] not in map(str, but):
            path.unlink()
    return copy


def equal(one: Any, other: Any) -> bool:
    if isinstance(one, Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(equal(value, other[key]) for key, value in one.items())
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(equal, one, other))
    return bool(one == other)


def assert_same_state(ours: Path, theirs: Path, step: int) -> None:
    one, other = (read_state(path / "weights", step, read_run(path).run_id) for path in (ours, theirs))
    assert equal(dict(one.weights), dict(other.weights))
    for part in ("optimizer", "scheduler", "generators"):
        assert equal(one.rest[part], other.rest[part]), part


def process() -> list[Any]:
    return [
        torch.get_rng_state(),
        list(np.random.get_state()[1]),
        random.getstate(),
        torch.get_num_threads(),
        torch.are_deterministic_algorithms_enabled(),
        torch.get_default_dtype(),
    ]


def heard() -> tuple[list[str], Callable[[str], None]]:
    lines: list[str] = []
    return lines, lines.append


@pytest.fixture
def run(train: Command) -> Path:
    return train(*RUN)


@pytest.mark.parametrize("kind", KINDS)
def test_every_state_is_had_again_from_the_start_and_from_any_other(train: Command, kind: str) -> None:
    folder = train(*RUN, *KINDS[kind])
    kept = kept_steps(folder / "weights")
    metrics = read_run(folder).metrics
    assert kept == sorted({0, 5, 8, 21, 40, last_step(read_run(folder))})
    if kind == "early":
        assert metrics["early_stopping_step"] == 40 < metrics["steps"]
    torch.use_deterministic_algorithms(False)
    before = process()
    lines, tell = heard()
    again = without_states(folder)
    keep(opened(again), kept, tell=tell)
    for step in kept:
        assert_same_state(again, folder, step)
    for step in kept[:-1]:
        there = without_states(folder, step)
        found = weights_at(opened(there), kept[-1], tell=tell)
        assert state_digest(found) == state_digest(read_weights(folder / "weights", kept[-1], read_run(folder).run_id))
    assert equal(process(), before)
    assert not [line for line in lines if not line.startswith("Replaying")]


def test_each_step_is_told_with_the_state_before_it(run: Path) -> None:
    built = opened(run)
    seen = {}
    lines, tell = heard()
    for step in states(built, 5, 12, tell=tell):
        torch.manual_seed(step.step)  # whatever a measure does to the generators
        seen[step.step] = state_digest(step.state), step.batch, step.learning_rate, step.momentum
    assert list(seen) == list(range(5, 12))
    run_id = built.run.run_id
    assert seen[5][0] == state_digest(read_weights(run / "weights", 5, run_id))
    assert seen[8][0] == state_digest(read_weights(run / "weights", 8, run_id))
    order = torch.cat([batch.indices for _, batch, _, _ in list(seen.values())[:3]])
    assert len(set(order.tolist())) == 40 + 40 + 20  # the epoch has 8 batches, the last of 20
    assert all(momentum == 0.9 and 0 < rate <= 0.05 for _, _, rate, momentum in seen.values())
    assert len(lines) == 1
    assert "from the state kept at step 5, up to step 12: at most about 0:0" in lines[0]


def test_several_steps_are_one_pass_and_what_lies_there_is_read(run: Path) -> None:
    lines, tell = heard()
    found = dict(weights_along(opened(run), [40, 9, 5, 11, 25], tell=tell))
    assert list(found) == [5, 9, 11, 25, 40]
    assert [line.split(" of ")[0] for line in lines] == ["Replaying 3 steps", "Replaying 4 steps"]
    assert "from the state kept at step 21, up to step 25" in lines[1]
    bare = without_states(run, -1)
    shutil.copy(run / "weights/end.pt", bare / "weights/end.pt")
    lines, tell = heard()
    assert equal(dict(weights_at(opened(bare), 40, tell=tell)), dict(found[40]))
    assert not lines


def test_rows_that_tell_other_numbers_stop_it_and_inexact_goes_on(run: Path) -> None:
    bare = without_states(run)
    table = bare / "metrics.csv"
    rows = table.read_text().splitlines()
    column = rows[0].split(",").index("train/loss")
    for spoilt in ("weights_digest", "train/loss"):
        cells = [row.split(",") for row in rows]
        place = rows[0].split(",").index(spoilt)
        wrong = next(row for row in cells[1:] if row[place])
        wrong[place] = "sha256-0000" if spoilt == "weights_digest" else repr(float(wrong[column]) * (1 + 1e-5) + 1e-5)
        table.write_text("".join(f"{','.join(row)}\n" for row in cells))
        with pytest.raises(ReplayDiffersError, match=r"is not the run: its .* replay=inexact goes on"):
            weights_at(opened(bare), 20, tell=heard()[1])
        lines, tell = heard()
        weights = weights_at(opened(bare), 21, inexact=True, tell=tell)
        assert state_digest(weights) == state_digest(read_weights(run / "weights", 21, read_run(run).run_id))
        assert [line for line in lines if line.startswith("Inexact: ")]
        assert not any(line.startswith("Unchecked") for line in lines)


def test_a_replay_that_passes_no_row_is_unchecked(train: Command) -> None:
    folder = train(*RUN[:-1], "keep=[]")
    lines, tell = heard()
    weights_at(opened(folder), 3, tell=tell)
    assert [line.split(":")[0] for line in lines if not line.startswith("Replaying")] == ["Unchecked"]


def test_where_bits_cannot_be_asked_for_the_running_loss_is_near(run: Path) -> None:
    built = opened(without_states(run))
    assert built.run.result is not None
    built.run.result.update(device="NVIDIA H100", world_size=2, code={"outcomes": "changed"})
    table = built.run.path / "metrics.csv"
    rows = [row.split(",") for row in table.read_text().splitlines()]
    place, digest = rows[0].index("train/loss"), rows[0].index("weights_digest")
    for share, is_near in ((1.009, True), (1.02, False)):
        told = [list(row) for row in rows]
        for row in told[1:]:
            row[place] = repr(float(row[place]) * share)
            row[digest] = row[digest] and "sha256-others"
        table.write_text("".join(f"{','.join(row)}\n" for row in told))
        lines, tell = heard()
        if is_near:
            weights_at(built, 21, tell=tell)
            assert "Checked to 1% of the running loss: the run was trained on 2 x NVIDIA H100" in lines[-1]
        else:
            with pytest.raises(
                ReplayDiffersError, match=r"running loss at step .* is cpu: .* was NVIDIA H100; outcomes is not"
            ):
                weights_at(built, 21, tell=tell)


def test_a_run_that_broke_off_is_replayed_as_far_as_its_files_tell(
    train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with power_cut_at(24, monkeypatch):
        train(*RUN)
    (folder,) = tmp_path.glob("multirun/runs/*/")
    assert kept_steps(folder / "weights") == [0, 5, 8, 21]
    built = opened(without_states(folder))
    lines, tell = heard()
    theirs = read_weights(folder / "weights", 21, built.run.run_id)
    assert last_step(built.run) == 20  # the latest row
    assert step_of_run(built.run, "last") == 20
    weights_at(built, 20, tell=tell)
    assert "how long it takes its files do not tell" in lines[0]
    shutil.copy(folder / "weights/21.pt", built.run.path / "weights/21.pt")
    shutil.copy(folder / "weights/21.state.pt", built.run.path / "weights/21.state.pt")
    assert equal(dict(weights_at(built, 21, tell=tell)), dict(theirs))
    with pytest.raises(ValueError, match="has trained 21 steps"):
        weights_at(built, 22, tell=tell)


def test_a_damaged_state_is_named_and_passed_over_and_a_foreign_one_refused(run: Path) -> None:
    weights = run / "weights"
    whole = read_weights(weights, 21, read_run(run).run_id)
    for name in ("21.pt", "5.state.pt"):
        content = bytearray((weights / name).read_bytes())
        content[len(content) // 2] ^= 1
        (weights / name).write_bytes(content)
    foreign = torch.load(weights / "8.state.pt", weights_only=True) | {"run_id": "another"}
    torch.save(foreign, weights / "8.state.pt")
    lines, tell = heard()
    assert equal(dict(weights_at(opened(run), 21, tell=tell)), dict(whole))
    told = "\n".join(lines)
    assert "21.pt is damaged" in told
    assert "5.state.pt is damaged" in told
    assert "8.state.pt is not this run's: it says that it is of the run another" in told
    assert "from the start" in told
    shutil.copy(weights / "0.pt", weights / "21.pt")
    lines, tell = heard()
    weights_at(opened(run), 21, tell=tell)
    assert "21.pt is not of the state in 21.state.pt" in "\n".join(lines)


def test_what_cannot_be_replayed_says_so(run: Path, train: Command) -> None:
    built = opened(run)
    for step in (41, -1):
        with pytest.raises(ValueError, match=rf"step={step}: .* has trained 40 steps"):
            weights_at(built, step)
    assert built.run.result is not None
    built.run.result["world_sizes"] = [2, 1]
    with pytest.raises(ValueError, match="was trained on 2, then 1 devices"):
        weights_at(built, 4)
    solved = train(
        "model=kernel_linear", "trainer=cpu", "logger=none", "threads=1", "data.num_train=100", "keep=[0,end]"
    )
    assert [path.name for path in (solved / "weights").iterdir()] == ["end.pt"]
    with pytest.raises(ValueError, match="was solved in closed form: it has no steps but its end"):
        weights_at(opened(solved), 0)
