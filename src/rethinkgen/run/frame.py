"""The runs of some folders as a table for pandas, and means over their seeds alone."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rethinkgen.run import run as runs_on_disk
from rethinkgen.run.identity import SEEDS
from rethinkgen.run.quantities import value_of
from rethinkgen.run.run import Run
from rethinkgen.run.settings import follows
from rethinkgen.run.spread import with_interval

if TYPE_CHECKING:
    import pandas as pd

ALWAYS = ("data", "data.corruption", "model", "regularizer")
"""Choices that every table is indexed by; others, and keys of the config, where they are not the same in all runs."""
SOMETIMES = ("loss", "optimizer", "schedule")
NONE = "none"


def open_sweep(*folders: str | Path) -> pd.DataFrame:
    """Return a row for each run of sweeps' folders, indexed by all in which they differ, seeds last.

    The index has the choices of data, corruption, model and regularizer, then whatever else of the config is not the
    same in all runs and does not follow from a choice. So ``runs["test/accuracy"].unstack("model")`` refuses to put two
    runs into one cell, and ``mean_over_seeds`` knows what repetitions are. Columns are every metric (not a number where
    it was not reached), ``state``, ``fitted``, ``seconds``, ``run_id``, ``folder``, and ``measure/<name>/<number>`` of
    what was measured at the end; what was at other steps is in the sweep's ``measures.csv``.

    Raises:
        ValueError: a folder holds no run.
    """
    import pandas as pd

    found = runs_on_disk.read_runs([Path(folder) for folder in folders])
    for line in [line for run in found for line in run.measured[1]]:
        warnings.warn(line, stacklevel=2)
    settings = _settings(found)
    metrics = dict.fromkeys(name for run in found for name in run.metrics)
    numbers = {name: [run.number(name) for run in found] for name in metrics}
    table = pd.concat([pd.DataFrame(map(_facts, found)), pd.DataFrame(numbers)], axis="columns")
    table.index = pd.MultiIndex.from_arrays(list(settings.values()), names=list(settings))
    return table.sort_index()


read_runs = open_sweep
"""Its former name."""


def mean_over_seeds(runs: pd.DataFrame, metric: str) -> pd.DataFrame:
    """Return ``mean``, ``std``, ``n`` of a metric for each setting of ``open_sweep``, over its finished runs.

    ``low`` and ``high`` are the ends of the mean's 95 % interval, by Student's t. ``std`` is the sample standard
    deviation; these three are not a number for a single run. Where a finished run did not reach what the
    metric counts to (``steps_to_fit``), neither is the mean: without that run it would be of the fast ones alone.

    Raises:
        ValueError: no run has the metric.
    """
    if metric not in runs:
        raise ValueError(f"metric={metric!r}: no run has it. There are {', '.join(map(str, runs.columns))}.")
    done = runs.loc[runs["state"] == "done", metric].astype(float)
    settings = [name for name in runs.index.names if name not in SEEDS]
    groups = done.groupby(level=settings, sort=False, dropna=False)
    told = groups.agg(["mean", "std", "size"]).rename(columns={"size": "n"})
    told.loc[groups.count() < told["n"], ["mean", "std"]] = float("nan")
    return with_interval(told)


def _facts(run: Run) -> dict[str, Any]:
    told = run.result or {}
    return {
        "state": run.state,
        "fitted": run.fitted,
        "seconds": told.get("seconds"),
        "run_id": run.run_id,
        "folder": str(run.path),
    }


def _settings(runs: Sequence[Run]) -> dict[str, list[Any]]:
    """Return name -> value of each run, of all that the index tells."""
    choices = {name: [str(value_of(run, name) or NONE) for run in runs] for name in (*ALWAYS, *SOMETIMES)}
    told = {name: values for name, values in choices.items() if name in ALWAYS or len(set(values)) > 1}
    keys = dict.fromkeys(key for run in runs for key in run.identity if key not in (*SEEDS, "run"))
    differing = {key: _comparable([run.identity.get(key) for run in runs]) for key in keys}
    # Under one name and path may lie other data today.
    differing["data.fingerprint"] = _comparable([run.facts.get("fingerprint") for run in runs])
    for key, values in differing.items():
        # From a choice, or in another key's words.
        if len(set(values)) > 1 and not any(follows(values, others) for others in told.values()):
            told[key] = values
    seeds = {key: [run.identity.get(key) for run in runs] for key in SEEDS}
    ours = [key for key in SEEDS if key == "seed" or seeds[key] != seeds["seed"]]
    return told | {key: seeds[key] for key in ours if key == "seed" or len(set(seeds[key])) > 1}


def _comparable(values: Sequence[Any]) -> list[Any]:
    """Return values that pandas can sort: as they are where all are numbers, or missing, else as text."""
    kinds = {type(value) for value in values if value is not None}
    if kinds <= {int, float} or kinds == {bool}:
        return list(values)
    return [value if value is None else _text(value) for value in values]


def _text(value: Any) -> str:
    return "+".join(map(str, value)) if isinstance(value, list) else str(value)
