"""Folders of runs that nobody trained, as a run would leave them, with the numbers that a test wants."""

from __future__ import annotations

import copy
import json
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

TARGETS = {
    "none": "TrueLabels",
    "random_labels": "RandomLabels",
    "partial_labels": "PartialLabels",
    "shuffled_pixels": "ShuffledPixels",
    "random_pixels": "RandomPixels",
    "gaussian": "Gaussian",
    "random_signs": "RandomSigns",
}
LEARNING_RATES = {"inception": 0.1, "inception_no_bn": 0.1}
MLP = {"mlp_1x512": {"width": 512, "depth": 1}, "mlp_3x512": {"width": 512, "depth": 3}}
REGULARIZERS: dict[str, Any] = {
    "weight_decay": 5e-4,
    "random_crop": True,
    "flip": True,
    "rotation": 25.0,
    "dropout": 0.5,
}
CURVES = "step,epoch,train/loss,fit/accuracy,test/accuracy\n100,0.25,2.2,0.2,0.1\n200,0.5,1.0,0.7,0.3\n"


def config_of(
    data: str, corruption: str, model: str, regularizers: Sequence[str], seed: int, keys: dict[str, Any]
) -> dict[str, Any]:
    """Return a config of the paper's protocol, ``keys`` replaced."""
    rate = LEARNING_RATES.get(model, 0.01)
    on = {name: REGULARIZERS[name] for name in regularizers}
    off = {"weight_decay": 0.0, "dropout": 0.0, "random_crop": False, "flip": False, "rotation": 0.0}
    regularizer = off | on
    config: dict[str, Any] = {
        "seed": seed,
        "max_steps": 25_000,
        "max_epochs": None,
        "until_fit": False,
        "evaluate_every": 0.25,
        "results_dir": "multirun",
        "data": {
            "name": data,
            "root": "data",
            "batch_size": 128,
            "preprocessing": "whitening",
            "crop": "auto",
            "num_train": None,
            "validation": 0.0,
            "seed": seed,
            "order_seed": seed,
            "random_crop": regularizer["random_crop"],
            "source": {"_target_": f"rethinkgen.data.source.{data}", "root": "data"},
            "corruption": {"_target_": f"rethinkgen.data.corruption.{TARGETS[corruption]}", "protocol": 1},
        },
        "model": {"_target_": f"rethinkgen.model.{model}", "protocol": 1, "learning_rate": rate, **MLP.get(model, {})},
        "regularizer": regularizer,
        "trainer": {"_target_": "pytorch_lightning.Trainer", "precision": "32-true", "sync_batchnorm": True},
        "optimizer": {"lr": rate, "momentum": 0.9, "weight_decay": regularizer["weight_decay"]},
        "schedule": {"factor": 0.95, "every": 391},
        "logger": {},
    }
    if model == "inception_no_bn":
        config["model"]["batch_norm"] = False
    for dotted, value in keys.items():
        node = config
        *parents, name = dotted.split(".")
        for parent in parents:
            node = node[parent]
        node[name] = value
    return config


def write_run(
    sweep: Path,
    *,
    data: str = "cifar10",
    corruption: str = "none",
    model: str = "mlp_1x512",
    regularizers: Sequence[str] = (),
    seed: int = 0,
    state: str = "done",
    keys: dict[str, Any] | None = None,
    curves: str = CURVES,
    sizes: dict[str, int] | None = None,
    **metrics: Any,
) -> Path:
    """Write a run's folder into ``sweep``; ``keys`` replace values of its config, ``metrics`` those of its end.

    ``sizes``: what is known of the data as they were loaded (``num_classes``, ``num_train``, ``num_test``).
    """
    keys = copy.deepcopy(keys or {})
    config = config_of(data, corruption, model, regularizers, seed, keys)
    what = "_".join(f"{key}-{value}" for key, value in keys.items())
    name = "-".join(filter(None, [data, corruption, model, *regularizers, what, f"seed{seed}"]))
    path = sweep / f"{name}-{zlib.crc32(name.encode()):012x}"
    path.mkdir(parents=True)
    choices = {
        "data": data,
        "data.corruption": corruption,
        "model": model,
        "optimizer": "sgd",
        "schedule": "exponential",
    }
    told = {
        "run_id": path.name.rpartition("-")[2],
        "choices": choices | {"regularizer": sorted(regularizers)},
        "overrides": [f"model={model}", f"seed={seed}"],
        "seed": seed,
    }
    (path / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    (path / "metrics.csv").write_text(curves)
    if state != "done":
        (path / "status.json").write_text(json.dumps(told | {"state": state, "reason": f"made up to be {state}"}))
        return path
    ends = {"fit/accuracy": 1.0, "test/accuracy": 0.5, "steps_to_fit": 5000, "steps": config["max_steps"]}
    ends |= {"train/loss": 0.001, "num_parameters": 1_209_866, "test/accuracy_oracle": 0.5}
    names = {name.replace("__", "/"): value for name, value in metrics.items()}
    fitted = (ends | names)["steps_to_fit"] is not None
    classes = 2 if corruption == "random_signs" else 10
    result = told | {"sweep": sweep.name, "config": config, "metrics": ends | names, "fitted": fitted}
    result |= {
        "num_classes": classes,
        "finished": "2026-01-01T00:00:00+00:00",
        "commit": "0123456",
        "device": "made up",
    }
    (path / "result.json").write_text(json.dumps(result | (sizes or {})))
    return path
