"""What makes two runs the same run: a hash of everything in the config that can change a result.

Only the standard library, Hydra and OmegaConf are imported here: a finished run is found and skipped without torch.
"""

from __future__ import annotations

import functools
import hashlib
import json
import os
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from rethinkgen.run.build import build

# Keys that cannot change a result: where things lie, on what they run, who watches.
VOLATILE = (
    "hydra",
    "sweep",
    "results_dir",
    "rerun",
    "threads",
    "checkpoint_seconds",
    "logger",
    "data.root",
    "data.source.root",
    "data.source.num_workers",
    "model.runs_alone",
    "trainer._target_",
    "trainer.accelerator",
    "trainer.devices",
    "trainer.num_nodes",
    "trainer.strategy",
)
# Keys that came when there were results already, with the value that leaves a run as it was before.
ADDED_LATER = {"regularizer.color_jitter": False, "data.color_jitter": False}
# Keys that cannot change the result of a model that is solved in closed form.
INERT_IN_CLOSED_FORM = (
    "max_steps",
    "max_epochs",
    "until_fit",
    "evaluate_every",
    "log_every",
    "optimizer",
    "schedule",
    "data.batch_size",
    "data.order_seed",
    "model.learning_rate",
    "trainer.precision",
    "trainer.sync_batchnorm",
)
HASH_LENGTH = 12
SEEDS = ("seed", "data.seed", "data.order_seed")
"""What differs between repetitions of a run."""
LEVELS = ("probability", "strength", "fraction")
"""The key of a corruption that says how much of it there is."""


def resolved_config(root: DictConfig) -> dict[str, Any]:
    """Return the run's whole config as plain types, without Hydra's own node.

    Resolved key by key: ``sweep`` is named by a resolver that is itself given the whole config.

    Raises:
        ValueError: a key was left ``???``.
    """
    config: dict[str, Any] = {}
    for key in map(str, root):
        if key in ("hydra", "sweep"):
            continue
        node = root._get_node(key)
        missing = OmegaConf.missing_keys(node) if OmegaConf.is_config(node) else set()
        if missing:
            names = ", ".join(f"{key}.{name}" for name in sorted(missing))
            raise ValueError(f"{names} must be given on the command line, for example {key}.{min(missing)}=...")
        config[key] = OmegaConf.to_container(node, resolve=True) if OmegaConf.is_config(node) else root[key]
    return config


def identifying(config: dict[str, Any], *, look_at_data: bool = True) -> dict[str, Any]:
    """Return the part of a resolved config that identifies a run; paths give way to the data's fingerprint.

    ``look_at_data=False`` leaves the fingerprint out, for who reads results where the data are not.
    """
    kept: dict[str, Any] = json.loads(json.dumps(config), parse_float=_plain_number)
    for key in (*VOLATILE, *(INERT_IN_CLOSED_FORM if is_closed_form(config) else ())):
        node, name = _place(kept, key)
        node.pop(name, None)
    for key, neutral in ADDED_LATER.items():
        node, name = _place(kept, key)
        if node.get(name) == neutral:
            node.pop(name, None)
    if config.get("max_epochs") is not None:
        kept.pop("max_steps", None)
    if kept.get("trainer", {}).get("sync_batchnorm") is True:
        # BatchNorm over the whole batch, however many devices share it: the run of a single device.
        del kept["trainer"]["sync_batchnorm"]
    if "data" in config and look_at_data:
        kept["data"]["fingerprint"] = fingerprint(json.dumps(config["data"]["source"], sort_keys=True))
    return kept


def _place(config: dict[str, Any], key: str) -> tuple[dict[str, Any], str]:
    """Return the node that holds a dotted key, and the key's last part."""
    *parents, name = key.split(".")
    return functools.reduce(lambda node, parent: node.get(parent) or {}, parents, config), name


def is_closed_form(config: Mapping[str, Any]) -> bool:
    """Whether the model of a config is solved for instead of trained step by step."""
    return bool(config.get("model", {}).get("closed_form"))


def _plain_number(text: str) -> float:
    # 1.0 and 1 mean the same on the command line.
    number = float(text)
    return int(number) if number.is_integer() else number


@functools.cache
def fingerprint(source: str) -> str | None:
    """Return what names the data of a source, given its config as JSON; looked at once a process."""
    found: str | None = build(OmegaConf.create(json.loads(source))).fingerprint()
    return found


def run_id(config: dict[str, Any]) -> str:
    """Return the hash that names a run with this resolved config."""
    text = json.dumps(identifying(config), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:HASH_LENGTH]


def regularizers(config: dict[str, Any]) -> list[str]:
    """Return the regularizers in force, sorted: a list group leaves no trace in Hydra's choices."""
    return sorted(name for name, value in config.get("regularizer", {}).items() if value not in (None, False, 0))


def choices(config: dict[str, Any], runtime_choices: dict[str, Any]) -> dict[str, Any]:
    """Return group -> choice for the groups that describe a run, regularizers as a list."""
    groups = ("data", "data.corruption", "model", "optimizer", "schedule")
    chosen: dict[str, Any] = {group: runtime_choices.get(group) for group in groups}
    if is_closed_form(config):
        chosen |= {"optimizer": None, "schedule": None}
    return chosen | {"regularizer": regularizers(config)}


def slug(config: dict[str, Any], chosen: dict[str, Any]) -> str:
    """Return a short readable name, such as ``digits-partial_labels_0.4-inception-weight_decay-seed0``."""
    corruption = str(chosen["data.corruption"])
    for key in LEVELS:
        if (value := config["data"]["corruption"].get(key)) is not None:
            corruption += f"_{value}"
    parts = [str(chosen["data"]), corruption, str(chosen["model"]), *chosen["regularizer"], f"seed{config['seed']}"]
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", "-".join(parts))[:80]


def _run_slug(*, _root_: DictConfig) -> str:
    config = resolved_config(_root_)
    return f"{slug(config, choices(config, _root_.hydra.runtime.choices))}-{run_id(config)}"


def _sweep_folder(*, _root_: DictConfig) -> str:
    """Return ``<results_dir>/<sweep>``, checked before Hydra makes folders there.

    Raises:
        ValueError: it cannot be such a folder.
    """
    results, sweep = _root_.results_dir, _root_.sweep
    if not isinstance(sweep, str) or not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", sweep):
        raise ValueError(
            f"sweep={sweep!r}: a name of letters, digits, '_', '-' and '.' is needed, such as sweep=my_sweep."
        )
    if not isinstance(results, str) or not results:
        raise ValueError(f"results_dir={results!r}: the path of a folder is needed.")
    folder = Path(results).expanduser().absolute() / sweep
    existing = next(path for path in (folder, *folder.parents) if path.exists())
    if not existing.is_dir() or not os.access(existing, os.W_OK | os.X_OK):
        what = "is not a folder" if not existing.is_dir() else "cannot be written to"
        raise ValueError(f"results_dir={results!r}: {existing} {what}. Choose another results_dir=...")
    return str(folder)


def _sweep_name(name: str | None = None, own_data: Sequence[str] = (), *, _root_: DictConfig) -> str:
    """Return ``name``, or else the experiment's, with the data's where these were chosen and are not ``own_data``."""
    # Inside the job Hydra's node is no longer part of the config.
    hydra = _root_.hydra if "hydra" in _root_ else HydraConfig.get()
    choices = hydra.runtime.choices
    if not choices.get("experiment"):
        return "runs"
    name = name or str(choices["experiment"]).replace("/", "-")
    has_own_data = any(override.startswith("data=") for override in hydra.overrides.task)
    return f"{name}-{choices['data']}" if has_own_data and choices["data"] not in own_data else name


def _for_data(default: Any, exceptions: dict[str, Any], *, _root_: DictConfig) -> Any:
    """``${for_data:0.1,{digits:0.05}}``: 0.05 on digits, 0.1 on any other data."""
    return exceptions.get(_root_.data.name, default)


# Never use_cache=True: the cache is copied into every job of a sweep, and all would share one folder.
OmegaConf.register_resolver("run_slug", _run_slug, replace=True)
OmegaConf.register_resolver("sweep_folder", _sweep_folder, replace=True)
OmegaConf.register_resolver("sweep_name", _sweep_name, replace=True)
OmegaConf.register_resolver("for_data", _for_data, replace=True)
