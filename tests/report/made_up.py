"""Runs that nobody trained: what the report is given, with the numbers that a test wants."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from rethinkgen.run.run import Run, State

LEVEL_KEYS = {"partial_labels": "probability", "gaussian_blend": "strength", "noisy_inputs": "fraction"}
LOGGED_STEPS = tuple(range(500, 25_001, 500))


def made_up_run(
    folder: Path,
    *,
    data: str = "cifar10",
    corruption: str = "none",
    level: float | None = None,
    model: str = "inception",
    regularizers: Sequence[str] = (),
    seed: int = 0,
    state: State = "done",
    steps: Sequence[int] = LOGGED_STEPS,
    max_steps: int = 25_000,
    config: dict[str, Any] | None = None,
    **metrics: Any,
) -> Run:
    """Return a run whose accuracies rise with the steps, and more slowly the more corrupted its labels are.

    ``metrics`` replace those of its end, ``config`` adds keys to its config, top-level or below ``data``.
    """
    noise = 1.0 if corruption == "random_labels" else level or 0.0
    name = "-".join([data, f"{corruption}{'' if level is None else f'_{level}'}", model, *regularizers, f"seed{seed}"])
    path = folder / name
    path.mkdir(parents=True, exist_ok=True)
    node = {"_target_": corruption, "protocol": 1} | ({} if level is None else {LEVEL_KEYS[corruption]: level})
    whole: dict[str, Any] = {
        "seed": seed,
        "max_steps": max_steps,
        "max_epochs": None,
        "until_fit": False,
        "log_every": 100,
        "data": {"name": data, "batch_size": 128, "num_train": None, "validation": 0.0, "seed": seed}
        | {"source": {"_target_": "made_up"}, "corruption": node},
        "model": {"_target_": model, "protocol": 1},
        "regularizer": dict.fromkeys(regularizers, 1.0),
    }
    for key, value in (config or {}).items():
        if key in whole["data"]:
            whole["data"][key] = value
        else:
            whole[key] = value
    curves = _curves(steps, noise, seed) if steps else pd.DataFrame()
    if len(curves):
        curves.to_csv(path / "metrics.csv", index=False)
    return Run(
        path=path,
        state=state,
        reason="" if state == "done" else state,
        choices={"data": data, "data.corruption": corruption, "model": model, "regularizer": list(regularizers)},
        config=whole,
        overrides=[f"model={model}", f"data.corruption={corruption}", f"seed={seed}"],
        seed=seed,
        result=_result(noise, seed, max_steps, metrics) if state == "done" else None,
    )


def _curves(steps: Sequence[int], noise: float, seed: int) -> pd.DataFrame:
    rows = []
    for step in steps:
        memorised = 1 / (1 + math.exp(-(step - 4000 * (1 + noise)) / (1000 + 50 * seed)))
        learnt = 1 - math.exp(-step / (800 + 50 * seed))
        row = {"step": step, "epoch": step / 391, "train/loss": 2.4 * (1 - max(memorised, learnt * (1 - noise)))}
        row["fit/accuracy"] = max(memorised, learnt * (1 - 0.9 * noise))
        row["train/accuracy"] = row["fit/accuracy"]
        row["fit/accuracy_corrected"] = learnt * (1 - memorised)
        row["fit/accuracy_corrupted"] = memorised
        row["test/accuracy"] = 0.85 * learnt * (1 - 0.8 * noise * memorised) - 0.01 * seed
        rows.append(row)
    return pd.DataFrame(rows)


def _result(noise: float, seed: int, max_steps: int, metrics: dict[str, Any]) -> dict[str, Any]:
    ends = {
        "fit/accuracy": 1.0,
        "test/accuracy": 0.86 - 0.76 * noise - 0.004 * seed,
        "steps_to_fit": round(5000 * (1 + 2 * noise)) + 100 * seed,
        "steps_to_fit_0.99": round(4500 * (1 + 2 * noise)) + 100 * seed,
        "steps": max_steps,
        "noise/realised": 0.9 * noise,
        "num_parameters": 1_649_402,
    } | metrics
    return {"metrics": ends, "fitted": ends["steps_to_fit"] is not None, "num_classes": 10, "finished": f"{seed}"}
