from __future__ import annotations

from pathlib import Path

import pytest

from conftest import TINY, Command
from rethinkgen.sweep.grid import chosen_cells

ROWS = [
    ["model=inception", "regularizer=[]"],
    ["model=inception", "regularizer=[random_crop]"],
    ["model=mlp_1x512", "regularizer=[]"],
]


def test_rows_are_crossed_with_what_the_command_line_gives() -> None:
    cells = chosen_cells([["seed=0"], ["seed=1"]], ROWS)
    assert cells == [[*row, seed] for seed in ("seed=0", "seed=1") for row in ROWS]


def test_a_value_that_rows_have_chooses_them() -> None:
    assert chosen_cells([["model=inception", "seed=0"]], ROWS) == [[*row, "seed=0"] for row in ROWS[:2]]


def test_any_other_value_replaces_those_of_the_rows_once_each() -> None:
    cells = chosen_cells([["model=alexnet"]], ROWS)
    assert cells == [["model=alexnet", "regularizer=[]"], ["model=alexnet", "regularizer=[random_crop]"]]


def test_values_that_no_row_joins_are_refused() -> None:
    with pytest.raises(ValueError, match=r"has model=mlp_1x512 and regularizer=\[random_crop\]"):
        chosen_cells([["model=mlp_1x512", "regularizer=[random_crop]"]], ROWS)


def test_an_experiment_brings_its_sweep_and_other_data_have_a_folder_of_their_own(
    train: Command, tmp_path: Path
) -> None:
    tiny = [*TINY, "max_steps=2", "hydra/launcher=basic", "data=digits", "model=mlp_1x512", "seed=0"]
    train("-m", *tiny, "+experiment=zhang2017/table_1")
    runs = sorted(
        path.parent.name for path in (tmp_path / "multirun" / "zhang2017-table_1-digits").glob("*/result.json")
    )
    assert len(runs) == 3
    assert sum("random_labels" in run for run in runs) == 1
    assert sum("weight_decay" in run for run in runs) == 1


def test_a_value_means_the_same_in_any_spelling() -> None:
    rows = [["regularizer=[random_crop,weight_decay]", "model.l2=0.0"], ["regularizer=[]", "model.l2=10"]]
    assert len(chosen_cells([["regularizer=[weight_decay,random_crop]"]], rows)) == 1
    assert len(chosen_cells([["model.l2=0"]], rows)) == 1


def test_a_key_of_a_choice_leaves_the_rows_that_have_it() -> None:
    rows = [["model=kernel_gaussian", "max_steps=1"], ["model=random_features", "model.num_filters=512"]]
    cells = chosen_cells([["model.num_filters=4096"]], rows)
    assert cells == [["model=random_features", "model.num_filters=4096"]]
    # Any other key holds for all.
    assert len(chosen_cells([["max_steps=2"]], rows)) == 2
