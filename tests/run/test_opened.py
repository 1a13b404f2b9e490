"""Runs opened in Python: the network of a run gives the run's numbers again, and the data are the run's."""

from __future__ import annotations

import contextlib
import random
from pathlib import Path

import numpy as np
import pytest
import torch

import rethinkgen
from conftest import ROOT, TINY, Command
from rethinkgen.measure.fit import evaluate
from rethinkgen.run.opened import OpenedRun

FORMER = ROOT / "tests/fixtures/785b5e0"
EARLY_STOPPING = [
    *("regularizer=[early_stopping]", "regularizer.early_stopping=3", "data.validation=0.2", "evaluate_every=0.25"),
    *("data.corruption=partial_labels", "data.corruption.probability=0.6", "model.learning_rate=0.1"),
]
INCEPTION = ["model=inception", "trainer=cpu", "logger=none", "threads=1", "model.channels_last=true"]
CONFIGS = {
    "early stopping, a held-out part": [*TINY, *EARLY_STOPPING, "max_steps=300"],
    "BatchNorm, channels last": [*INCEPTION, "data.corruption=random_labels", "max_steps=4"],
    "one output": [*TINY, "data.corruption=random_signs", "max_steps=20"],
    "normalised corrupted pixels": [*TINY, "data.corruption=random_pixels", "data.preprocessing=normalization"],
    "solved": ["model=kernel_linear", "trainer=cpu", "logger=none", "data.corruption=partial_labels", "model.l2=0.1"],
}
SMALL = ["data.num_train=100", "data.batch_size=32"]


def assert_gives_its_numbers_again(run: OpenedRun) -> None:
    """``fit``, ``validation`` and ``test`` of the network are those of the result, to the bit."""
    found = evaluate(run.network(), run.splits).metrics
    assert found == {name: run.metrics[name] for name in found}
    assert {"fit/accuracy", "fit/loss", "test/accuracy", "test/loss"} <= found.keys()


@pytest.mark.parametrize("overrides", CONFIGS.values(), ids=CONFIGS)
def test_the_network_gives_the_runs_own_numbers_to_the_bit(
    train: Command, tmp_path: Path, overrides: list[str]
) -> None:
    steps = [] if any(key.startswith(("max_steps", "model=kernel")) for key in overrides) else ["max_steps=20"]
    folder = train(*overrides, *steps, *SMALL)
    (elsewhere := tmp_path / "elsewhere").mkdir()
    with contextlib.chdir(elsewhere):
        run = rethinkgen.open_run(folder)
        assert_gives_its_numbers_again(run)
        for split in run.splits.values():
            assert split.inputs.dtype == torch.float32
        assert torch.equal(run.from_pixels(run.pixels("train")), run.splits["train"].inputs)
        assert torch.equal(run.from_pixels(run.pixels("test")), run.splits["test"].inputs)
    if "regularizer=[early_stopping]" in overrides:
        assert run.step("end") < run.step("last") == run.metrics["steps"]
    assert not any(module.training for module in run.network().modules())


@pytest.mark.parametrize("folder", sorted(FORMER.glob("ended/*")) + sorted(FORMER.glob("runs/*mlp_1x512-seed0-*")))
def test_folders_of_before_are_opened_too(folder: Path) -> None:
    run = rethinkgen.open_run(folder)
    assert_gives_its_numbers_again(run)
    assert len(run.examples) == len(run.splits["train"])


def test_what_is_the_callers_stays_as_it_is(small_sweep: Path) -> None:
    folder = next(small_sweep.glob("*random_labels*seed1*"))
    torch.set_default_dtype(torch.float64)
    try:
        before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate(), torch.get_num_threads()
        with torch.inference_mode():
            run = rethinkgen.open_run(folder)
            network = run.network()
            subject = run.subject(name="any")
            subject.fresh(0)
            run.predict([int(run.examples["index"][0])])
        after = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate(), torch.get_num_threads()
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    assert next(network.parameters()).dtype == torch.float32
    assert not next(network.parameters()).is_inference()
    assert_gives_its_numbers_again(run)
