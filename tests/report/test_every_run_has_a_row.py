"""Over random grids of settings: every finished run is in exactly one row of each table that it is in, and in one."""

from __future__ import annotations

import itertools
import re
import tempfile
from pathlib import Path
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from rethinkgen.report.tables import Table, tables
from rethinkgen.run.run import Run, read_runs
from run_folders import write_run

VALUES: dict[str, list[Any]] = {
    "max_steps": [40, 50],
    "data.batch_size": [64, 128],
    "data.num_train": [None, 200],
    "data.validation": [0.0, 0.1],
    "optimizer.lr": [0.05, 0.1],
    "optimizer.momentum": [0.8, 0.9],
    "regularizer.weight_decay": [1e-4, 5e-4],
    "model.width": [16, 32],
    "fit_threshold": [0.9, 1.0],
    "trainer.precision": ["32-true", "bf16-mixed"],
}
CHOICES: dict[str, list[Any]] = {
    "model": ["mlp_1x512", "alexnet", "kernel_gaussian", "two_layer_relu"],
    "corruption": ["none", "random_labels", "gaussian", "random_signs"],
    "data": ["digits", "cifar10"],
    "regularizers": [[], ["weight_decay"]],
    "seed": [0, 1],
}


NUMBERS = ("fit", "2n + d", "lower bound", *CHOICES["model"])
"""Columns that begin what a row says of its runs; those before say which they are."""


def counted(table: Table) -> int:
    """Add up n over a table: a column of it, or in brackets behind each number of several models."""
    place = next((place for place, name in enumerate(table.columns) if name in ("n", "draws")), None)
    if place is not None:
        return sum(int(str(row[place])) for row in table.rows)
    found = [re.search(r"\((\d+)\)$", str(cell)) for row in table.rows for cell in row]
    return sum(int(match[1]) for match in found if match)


def runs_of_grid(folder: Path, keys: dict[str, list[Any]], choices: dict[str, list[Any]]) -> list[Run]:
    for chosen in itertools.product(*choices.values()):
        for values in itertools.product(*keys.values()):
            what = dict(zip(choices, chosen, strict=True))
            write_run(folder, keys=dict(zip(keys, values, strict=True)), **what)
    return read_runs([folder])


@settings(max_examples=40)
@given(
    keys=st.lists(st.sampled_from(sorted(VALUES)), max_size=4, unique=True),
    several=st.lists(st.sampled_from(sorted(CHOICES)), max_size=2, unique=True),
    start=st.integers(0, 3),
)
def test_n_adds_up_to_the_runs(keys: list[str], several: list[str], start: int) -> None:
    choices = {name: values if name in several else [values[start % len(values)]] for name, values in CHOICES.items()}
    with tempfile.TemporaryDirectory() as folder:
        runs = runs_of_grid(Path(folder), {key: VALUES[key] for key in keys}, choices)
        found = tables(runs)
    assert len({table.name for table in found}) == len(found), "tables that overwrite each other's files"
    grids = [table for table in found if table.name.startswith("grid")]
    others = [table for table in found if not table.name.startswith("grid")]
    once = [table for table in grids if not re.search(r"_(test|steps_to_fit)(_\d+)?$", table.name)]
    # What Theorem 1 builds is compared with models of a grid, beside its own table.
    built = sum(run.model == "two_layer_relu" for run in runs)
    total = sum(map(counted, [*once, *others]))
    assert len(runs) <= total <= len(runs) + 2 * built
    assert total == len(runs) or built
    for table in found:
        naming = next((place for place, name in enumerate(table.columns) if name in NUMBERS), len(table.columns))
        names = [tuple(row[:naming]) for row in table.rows]
        assert len(set(names)) == len(names), f"rows of {table.name} that nothing tells apart"


def test_the_grid_that_lost_half_of_its_runs(tmp_path: Path) -> None:
    keys = {key: VALUES[key] for key in ("max_steps", "data.batch_size", "optimizer.lr", "optimizer.momentum")}
    runs = runs_of_grid(tmp_path, keys, {"data": ["digits"]})
    assert len(runs) == 16
    (table,) = tables(runs)
    assert (len(table.rows), counted(table)) == (16, 16)
    assert len({row[2] for row in table.rows}) == 16
    assert "momentum=0.8" in str(table.rows[0][2])
