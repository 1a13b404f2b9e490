"""What makes two runs the same run: a hash of everything in the config that is not neutral.

Each node of the config counts by the name of its class, its ``protocol`` and those values that differ from what
``neutral.yaml`` says; the data count by their fingerprint. So a class may move to another module, and a group or an
option with a neutral value may be added, and every run is found again.

Only the standard library, PyYAML and OmegaConf are imported here: a finished run is found and skipped without torch.
"""

from __future__ import annotations

import functools
import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

ID_LENGTH = 14
"""Hexadecimal digits. Ids of the former form (``rethinkgen.run.former_identity``) have 12, which tells them apart."""
SEEDS = ("seed", "data.seed", "data.order_seed")
"""What differs between repetitions of a run."""
LEVELS = ("probability", "strength", "fraction")
"""The key of a corruption that says how much of it there is."""
PRECISIONS = {"32": "32-true", "64": "64-true", "bf16": "bf16-mixed", "16": "16-mixed"}
"""What Lightning takes for the same."""
SWITCHES = (
    "until_fit",
    "rerun",
    "debug",
    "model.channels_last",
    *(f"model.{name}" for name in ("batch_norm", "bottleneck", "pre_activation")),
    "trainer.sync_batchnorm",
    *(f"{node}.{name}" for node in ("regularizer", "data") for name in ("random_crop", "flip", "color_jitter")),
)
"""Keys of which 1 and 0 mean true and false."""


@functools.cache
def rules() -> dict[str, Any]:
    """Return what ``neutral.yaml`` says."""
    told: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("neutral.yaml").read_text(encoding="utf-8"))
    return told


def normalised(config: dict[str, Any]) -> dict[str, Any]:
    """Return a resolved config with one spelling for values that mean the same; what no JSON file holds, as text."""
    told: dict[str, Any] = json.loads(json.dumps(config, default=str, skipkeys=True))
    for key in SWITCHES:
        node, name = place(told, key)
        if node.get(name) in (0, 1):
            node[name] = bool(node[name])
    trainer, name = place(told, "trainer.precision")
    if name in trainer:
        trainer[name] = PRECISIONS.get(str(trainer[name]), trainer[name])
    return told


def check_is_json(config: dict[str, Any]) -> None:
    """Refuse what no file of the run could hold: its result would be lost when all is trained.

    Raises:
        ValueError: a value is no finite number, or of no type that JSON has; the message names its key.
    """
    for key, value in flatten(config).items():
        _check_value_is_json(key, value)


def _check_value_is_json(key: str, value: Any) -> None:
    if isinstance(value, list):
        for item in value:
            _check_value_is_json(key, item)
    elif isinstance(value, dict):  # in a list
        for name, item in value.items():
            _check_value_is_json(f"{key}: {name}", item)
    elif isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{key}={value}: a finite number is needed.")
    elif not isinstance(value, str | int | float | bool | None):
        raise ValueError(f"{key}={value!r}: a text, a number, true, false, null or a list of them is needed.")


Contents = Mapping[str, str]
"""Key that names a file -> digest of the file."""


def identifying(
    config: dict[str, Any], fingerprint: str | None = None, contents: Contents | None = None
) -> dict[str, Any]:
    """Return the part of a resolved config that identifies a run, with the ``fingerprint`` of its data.

    Of a file that a key names its digest in ``contents`` counts, see ``contents_of_files``.

    Nothing that ``config`` names is built or read: it may come from a folder that somebody else wrote.
    """
    told = _without_neutral(_what_counts(config, contents), rules()["neutral"], config)
    if fingerprint is not None:
        told.setdefault("data", {})["fingerprint"] = fingerprint
    return told


def counted(config: dict[str, Any], contents: Contents | None = None) -> dict[str, Any]:
    """Return everything of a resolved config that can change a result, neutral values too: to be shown and compared.

    What an older config lacks has its neutral value, so that runs of any age compare.
    """
    told = _with_neutral(_what_counts(config, contents), rules()["neutral"], config)
    fixed = declaration(config).fixed
    return {key: value for key, value in told.items() if key not in fixed or not isinstance(value, dict)}


def contents_of_files(config: dict[str, Any]) -> dict[str, str]:
    """Return for each key that names a file the digest of its content.

    Raises:
        ValueError: a file cannot be read.
    """
    return {key: content_of_file(key, path) for key, path in named_files(config).items()}


def named_files(config: dict[str, Any]) -> dict[str, str]:
    """Return for each key that names a file its path: what such a config says by itself does not tell the run."""
    found = {key: place(config, key) for key in (*rules()["files"], *rules()["files_of_ours"])}
    for key in rules()["files_of_ours"]:
        if not str(found[key][0].get("_target_")).startswith("rethinkgen."):
            del found[key]
    return {key: node[name] for key, (node, name) in found.items() if isinstance(node.get(name), str)}


def _what_counts(config: dict[str, Any], contents: Contents | None) -> dict[str, Any]:
    kept: dict[str, Any] = json.loads(json.dumps(config), parse_float=plain_number)
    declared = declaration(config)
    trainer = kept.get("trainer")
    shares = _batch_norm_shares(trainer) if isinstance(trainer, dict) else None
    for key in (*rules()["never"], *declared.fixed):
        if key == "model.learning_rate" and declared.fixes("optimizer") and not declared.fixes(key):
            continue  # no optimizer says it: the model takes its own steps at this rate
        node, name = place(kept, key)
        node.pop(name, None)
    if shares is not None:
        trainer["batch_norm_over"] = shares  # type: ignore[index]
    if isinstance(kept.get("model"), dict) and isinstance(kept["model"].get("declares"), str):
        del kept["model"]["declares"]  # the class is of that kind
    if config.get("max_epochs") is not None:
        kept.pop("max_steps", None)
    for key, content in (contents or {}).items():
        node, name = place(kept, key)
        if name in node:
            node[name] = {"content": content}
    by_class: dict[str, Any] = _by_class(kept)
    return by_class


def _batch_norm_shares(trainer: dict[str, Any]) -> str | None:
    """Return over which shares of a batch BatchNorm goes, where not over the whole: each number is a run of its own."""
    devices = f"{trainer.get('devices', 1)} x {trainer.get('num_nodes', 1)}"
    return devices if trainer.get("sync_batchnorm") is False and devices != "1 x 1" else None


def run_id(config: dict[str, Any], fingerprint: str | None, contents: Contents | None = None) -> str:
    """Return the hash that names a run with this resolved config on these data."""
    return id_of(identifying(config, fingerprint, contents))


def id_of(told: dict[str, Any]) -> str:
    """Return the hash of what identifies a run."""
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()[:ID_LENGTH]


def class_name(target: str) -> str:
    """Return what a ``_target_`` counts as: ours by its own name, wherever it lies, all others by their full path."""
    return target.rpartition(".")[2] if target.startswith("rethinkgen.") else target


def _by_class(node: Any) -> Any:
    """Replace each ``_target_`` by ``class``, and leave out the options of that class which are at their defaults."""
    if isinstance(node, list):
        return [_by_class(item) for item in node]
    if not isinstance(node, dict):
        return node
    told = {key: _by_class(value) for key, value in node.items() if key not in ("_target_", "_partial_")}
    if "_target_" in node:
        name = class_name(str(node["_target_"]))
        defaults = rules()["classes"].get(name, {}) | {"protocol": 1}
        told = {key: value for key, value in told.items() if key not in defaults or not _same(value, defaults[key])}
        told["class"] = name
    return told


def _without_neutral(node: dict[str, Any], neutral: Mapping[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    told = {}
    for key, value in node.items():
        if isinstance(value, dict):
            below = neutral.get(key)
            if left := _without_neutral(value, below if isinstance(below, Mapping) else {}, config):
                told[key] = left
        elif key not in neutral or not _same(value, _meant(neutral[key], config)):
            told[key] = value
    return told


def _with_neutral(node: dict[str, Any], neutral: Mapping[str, Any], config: dict[str, Any]) -> dict[str, Any]:
    told = dict(node)
    for key, value in neutral.items():
        if isinstance(value, Mapping):
            below = told.get(key)
            # A node that counts for nothing, as the optimizer of what takes no gradient steps, stays away.
            if isinstance(below, dict) or (key not in config and key not in told):
                told[key] = _with_neutral(below or {}, value, config)
        else:
            told.setdefault(key, _meant(value, config))
    return told


def _meant(value: Any, config: dict[str, Any]) -> Any:
    """Return a neutral value; of ``${key}`` what the run has there, or would have, where it is of before the key."""
    if not isinstance(value, str) or not value.startswith("${"):
        return value
    node, name = place(config, value[2:-1])
    if name in node:
        given = node[name]
        return int(given) if isinstance(given, float) and given.is_integer() else given
    node, name = place(rules()["neutral"], value[2:-1])
    return _meant(node.get(name), config)


def _same(one: Any, other: Any) -> bool:
    # True is no 1 here.
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


def place(config: dict[str, Any], key: str) -> tuple[dict[str, Any], str]:
    """Return the node that holds a dotted key, and the key's last part."""
    *parents, name = key.split(".")
    node: Any = config
    for parent in parents:
        node = node.get(parent) if isinstance(node, dict) else None
    return node if isinstance(node, dict) else {}, name


def content_of_file(key: str, path: str) -> str:
    """Return the digest of the file that a key names.

    Raises:
        ValueError: it cannot be read.
    """
    try:
        return hashlib.sha256(Path(path).expanduser().read_bytes()).hexdigest()
    except OSError as error:
        raise ValueError(f"{key}={path}: the file cannot be read ({error.strerror}).") from error


def plain_number(text: str) -> float:
    """Return a number as JSON reads it; a whole one as an integer: 1.0 and 1 mean the same on the command line."""
    number = float(text)
    return int(number) if number.is_integer() else number


def flatten(node: Any, prefix: str = "") -> dict[str, Any]:
    """Return dotted key -> value."""
    if not isinstance(node, dict):
        return {prefix.removesuffix("."): node}
    return {key: value for name, child in node.items() for key, value in flatten(child, f"{prefix}{name}.").items()}


def targets(node: Any) -> Iterator[str]:
    """Yield every ``_target_`` in a config."""
    if isinstance(node, Mapping):
        if "_target_" in node:
            yield str(node["_target_"])
        for value in node.values():
            yield from targets(value)
    elif isinstance(node, list):
        for value in node:
            yield from targets(value)


@dataclass(frozen=True)
class Declaration:
    """What a model says of itself: by the name of its class or in its YAML, both read without torch."""

    how: str = ""
    """How it comes by its weights, in words, where not by the steps that the config asks for."""
    fixed: Mapping[str, Any] = field(default_factory=dict)
    """Dotted keys that do not act on it, with all below them -> what stands in their place, whatever is given."""
    regularizers: Sequence[str] | None = None
    """Those that act on it; ``None``: all."""

    def fixes(self, key: str) -> bool:
        """Whether a dotted key, or a node above it, does not act on the model."""
        return any(f"{key}.".startswith(f"{inert}.") for inert in self.fixed)


def declaration(config: Mapping[str, Any]) -> Declaration:
    """Return what the model of a config declares. What is none counts for nothing: it may stand in a file.

    ``rethinkgen.run.declaration`` checks it. Configs of commit 785b5e0 say ``closed_form: true``.
    """
    model = config.get("model")
    if not isinstance(model, Mapping):
        return Declaration()
    own = "closed_form" if model.get("closed_form") is True else model.get("declares")
    said = rules()["declares"].get(class_name(str(model.get("_target_"))), own)
    told = rules()["declarations"].get(said) if isinstance(said, str) else said
    if not isinstance(told, Mapping):
        return Declaration()
    fixed = flatten(told["fixed"]) if isinstance(told.get("fixed"), dict) else {}
    acting = told.get("regularizers")
    return Declaration(str(told.get("how", "")), fixed, acting if isinstance(acting, list) else None)


def takes_steps(config: Mapping[str, Any]) -> bool:
    """Whether the budget acts on the model of a config: the number of another's steps measures nothing."""
    return not declaration(config).fixes("max_steps")


def regularizers(config: dict[str, Any]) -> list[str]:
    """Return the regularizers in force, sorted: a list group leaves no trace in Hydra's choices."""
    return sorted(name for name, value in config.get("regularizer", {}).items() if value not in (None, False, 0))


def choices(config: dict[str, Any], runtime_choices: Mapping[str, Any]) -> dict[str, Any]:
    """Return group -> choice for the groups that describe a run, regularizers as a list."""
    groups = ("data", "data.corruption", "model", "loss", "optimizer", "schedule")
    chosen: dict[str, Any] = {group: runtime_choices.get(group) for group in groups}
    declared = declaration(config)
    chosen |= {group: None for group in groups if declared.fixes(group)}
    return chosen | {"regularizer": regularizers(config)}


def slug(config: dict[str, Any], chosen: dict[str, Any], told: Mapping[str, Any]) -> str:
    """Return a short readable name, such as ``digits-partial_labels_0.4-inception-weight_decay-seed0``.

    ``told`` is what identifies the run: a loss that is none of it is not named.
    """
    corruption = str(chosen["data.corruption"])
    for key in LEVELS:
        if (value := config["data"]["corruption"].get(key)) is not None:
            corruption += f"_{value}"
    loss = [str(chosen["loss"])] if chosen.get("loss") and "loss" in told else []
    regularizers = chosen["regularizer"]
    parts = [str(chosen["data"]), corruption, str(chosen["model"]), *loss, *regularizers, f"seed{config['seed']}"]
    return re.sub(r"[^A-Za-z0-9_.-]+", "_", "-".join(parts))[:80]
