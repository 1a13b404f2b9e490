"""Every experiment says what it is, and runs on the digits by the command that it names."""

from __future__ import annotations

import shlex
from pathlib import Path

import pytest

from conftest import ROOT, Command

EXPERIMENTS = sorted(
    str(path.relative_to(ROOT / "conf/experiment").with_suffix("")) for path in ROOT.glob("conf/experiment/**/*.yaml")
)
TINY = ["trainer=cpu", "threads=1", "logger=none", "hydra/launcher=basic", "seed=0", "max_steps=1"]
TINY += ["data.num_train=128"]
AT_ONCE = ["keep=[0]", "measure.layer_robustness.steps=[0]", "measure.layer_robustness.num_draws=1"]
"""Of a step there is no epoch to put layers back to."""
RUNS_ON_DIGITS = {
    "arpit2017/capacity": (3, ["model.width=16"]),
    "arpit2017/easy_examples": (3, ["model.width=16", "measure.easy_examples.num_draws=2"]),
    "arpit2017/loss_sensitivity": (2, ["measure.loss_sensitivity.num_times=2"]),
    "arpit2017/noise_levels": (1, ["data.corruption=noisy_inputs", "data.corruption.fraction=0.2", "model.width=16"]),
    "arpit2017/over_epochs": (1, ["data.corruption=gaussian", "model.width=16"]),
    "arpit2017/regularizers": (2, ["regularizer=[]", "model.width=16"]),
    "arpit2017/removed_or_corrupted": (2, ["model.width=16"]),
    "arpit2017/time_to_fit": (3, ["model.width=32"]),
    "arpit2017/unique_labels": (2, ["measure.loss_sensitivity.num_times=2"]),
    "fort2019/by_super_class": (
        1,
        [
            "measure.stiffness.num_examples=20",
            "measure.stiffness.groups={few:['0','1','2'],many:['3','4','5','6','7','8','9']}",
        ],
    ),
    "dial/digits": (3, ["loss=elr"]),
    "fort2019/learning_rate": (1, ["optimizer.lr=0.001", "measure.stiffness.num_examples=20", "data.batch_size=2"]),
    "fort2019/over_training": (1, ["measure.stiffness.num_examples=20", "data.batch_size=8"]),
    "fort2019/small_set": (1, ["measure.stiffness.num_examples=20"]),
    "zhang2017/figure_1a": (5, []),
    "zhang2017/figure_1b": (4, ["data.corruption.probability=0,1", "model=inception,mlp_1x512"]),
    "zhang2017/figure_1c": (1, ["data.corruption.probability=0.5", "model=mlp_1x512"]),
    "zhang2017/figure_2a": (4, ["model=mlp_1x512"]),
    "zhang2017/figure_2b": (2, []),
    "zhang2017/figure_input_noise": (
        2,
        ["model=mlp_1x512", "data.corruption=noisy_inputs", "data.corruption.fraction=0,1"],
    ),
    "zhang2017/rademacher": (1, []),
    "zhang2017/table_1": (10, ["regularizer=[]"]),
    "zhang2017/table_2": (7, ["model=mlp_1x512"]),
    "zhang2017/table_3": (16, []),
    "zhang2017/table_4": (3, ["model=mlp_1x512"]),
    "zhang2017/theorem_1": (1, []),
    "zhang2019/corruption": (4, AT_ONCE),
    "zhang2019/fcn_3x256": (1, AT_ONCE),
    "zhang2019/resnet": (1, [*AT_ONCE, "model=cifar_resnet18", "model.width=4", "model.channels_last=false"]),
    "zhang2019/stages": (1, [*AT_ONCE, "at=end"]),
    "zhang2019/task": (1, AT_ONCE),
    "zhang2019/vgg": (2, [*AT_ONCE, "model=fcn_3x256,mlp_1x512"]),
    "zhang2019/width": (2, [*AT_ONCE, "model.width=16,32"]),
}
"""Experiment: how many runs a seed, and what shortens it."""


SLOW = {"arpit2017/noise_levels", "arpit2017/regularizers", "fort2019/learning_rate", "fort2019/over_training"}
"""What is like another, and takes its time."""


def comments(experiment: str) -> list[str]:
    lines = (ROOT / "conf/experiment" / f"{experiment}.yaml").read_text().splitlines()
    return [line for line in lines if line.startswith("# ") and not line.startswith("# @package")]


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_it_opens_with_source_command_outcome_and_cost(experiment: str) -> None:
    opening = comments(experiment)[:4]
    assert [line.split(":")[0] for line in opening] == ["# Source", "# Command", "# Expected", "# Cost"]
    words = shlex.split(opening[1])
    assert f"+experiment={experiment}" in words
    assert words[2:4] == ["python", "train.py"]


@pytest.mark.parametrize(
    "experiment", [pytest.param(name, marks=pytest.mark.slow if name in SLOW else ()) for name in RUNS_ON_DIGITS]
)
def test_it_runs_on_the_digits(experiment: str, train: Command, tmp_path: Path) -> None:
    num_runs, shortened = RUNS_ON_DIGITS[experiment]
    train("-m", f"+experiment={experiment}", "data=digits", *TINY, *shortened)
    assert len(list((tmp_path / "multirun").glob("*-digits/*/result.json"))) == num_runs
