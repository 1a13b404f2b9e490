"""The ids that commit 785b5e0 gave, so that folders named by them are found and go on.

Frozen: a hash of the whole config as it was then, ``_target_`` paths included. What came later is left out where it is
neutral; where it is not, no folder of that time can be meant, and none has the id.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import re
from collections.abc import Iterator
from typing import Any

from rethinkgen.run.identity import class_name, declaration, flatten, identifying, place, plain_number

FORMER_NAME = re.compile(r"-([0-9a-f]{12})$")
"""Ends the name of a folder of that time."""
MODULES = {
    "data.source": ("Digits", "MNIST", "FashionMNIST", "CIFAR10", "CIFAR100", "SVHN", "ImageFolder"),
    "data.streamed_source": ("StreamedFolder",),
    "data.corruption": (
        *("TrueLabels", "PartialLabels", "RandomLabels", "RandomSigns", "AsymmetricLabels", "ShuffledPixels"),
        *("RandomPixels", "Gaussian", "GaussianBlend", "NoisyInputs"),
    ),
    "model.mlp": ("MLP",),
    "model.alexnet": ("AlexNet",),
    "model.inception": ("Inception",),
    "model.torchvision_networks": ("InceptionV3", "ResNet50"),
    "model.kernel": ("KernelLinear", "KernelGaussian"),
    "model.random_features": ("RandomFeatures",),
    "model.two_layer_relu": ("TwoLayerReLU",),
    "model.schedule": ("constant", "exponential", "step", "cosine"),
}
TARGETS = {name: f"rethinkgen.{module}.{name}" for module, names in MODULES.items() for name in names}
KNOWN = {
    "": "seed max_steps max_epochs until_fit fit_threshold evaluate_every log_every",
    "data": "batch_size preprocessing crop num_train validation seed order_seed random_crop flip rotation color_jitter "
    "name",
    "data.source": "_target_ resize",
    "data.corruption": "_target_ protocol probability matrix strength fraction",
    "model": "_target_ protocol learning_rate dropout label_smoothing closed_form channels_last width depth batch_norm "
    "l2 bandwidth solver features num_filters patch_size threshold_share",
    "regularizer": "weight_decay dropout random_crop flip rotation color_jitter label_smoothing early_stopping",
    "optimizer": "_target_ _partial_ lr momentum weight_decay fused alpha eps",
    "schedule": "_target_ _partial_ factor every at",
    "trainer": "precision sync_batchnorm deterministic",
}
"""Node -> the keys that it had, whose values counted even where they were neutral."""
COUNTED = {f"{node}.{name}".lstrip(".") for node, names in KNOWN.items() for name in names.split()}
VOLATILE = (
    *("hydra", "sweep", "results_dir", "rerun", "threads", "checkpoint_seconds", "logger"),
    *("data.root", "data.source.root", "data.source.num_workers", "model.runs_alone"),
    *("trainer._target_", "trainer.accelerator", "trainer.devices", "trainer.num_nodes", "trainer.strategy"),
)
INERT_IN_CLOSED_FORM = (
    *("max_steps", "max_epochs", "until_fit", "evaluate_every", "log_every", "optimizer", "schedule"),
    *("data.batch_size", "data.order_seed", "model.learning_rate", "trainer.precision", "trainer.sync_batchnorm"),
)
LATER_OF_A_CLASS = {"MLP": {"batch_norm": False}}
"""Class -> options that others had then and it has since, with the value at which it is what it was."""
ADDED_LATER = ("regularizer.color_jitter", "data.color_jitter")


def former_ids(config: dict[str, Any], fingerprint: str | None, num_train: int | None = None) -> list[str]:
    """Return the ids that a run had, the likeliest first: some runs that are one now had an id for each spelling.

    ``num_train`` is how many examples there are to train on, where that is known.
    """
    former = _former(config)
    return list(dict.fromkeys(_hash(spelt, fingerprint) for spelt in _spellings(former, num_train)))


def _former(config: dict[str, Any]) -> dict[str, Any]:
    """Return the config as it would have been then."""
    told: dict[str, Any] = json.loads(json.dumps(config))
    counts_now = flatten(identifying(config)).keys()
    for key in flatten(told):
        if key not in COUNTED and key not in counts_now and key not in VOLATILE:
            node, name = place(told, key)
            node.pop(name, None)
    model = told.get("model", {})
    for name, value in LATER_OF_A_CLASS.get(class_name(model.get("_target_", "")), {}).items():
        if model.get(name) == value:
            del model[name]
    told = {key: value for key, value in told.items() if value != {} or key in ("model", "data")}
    if isinstance(told.get("loss"), dict):
        del told["loss"]  # neutral: what is left of it is its class and what the regularizer says
    if declaration(config) == declaration({"model": {"closed_form": True}}):
        told["model"]["closed_form"] = True
    smoothing = told.get("regularizer", {}).get("label_smoothing")
    if smoothing is not None and "model" in told:
        told["model"].setdefault("label_smoothing", smoothing)
    for path in ("data.source", "data.corruption", "model", "schedule"):
        node, name = place(told, f"{path}._target_")
        if node.get(name, "").startswith("rethinkgen."):
            node[name] = TARGETS.get(class_name(node[name]), node[name])
    return told


def _spellings(config: dict[str, Any], num_train: int | None) -> Iterator[dict[str, Any]]:
    """Yield the config, then as it might have been spelt for the same result."""
    precision = config.get("trainer", {}).get("precision")
    precisions = [precision, *([32, "32"] if precision == "32-true" else [64, "64"] if precision == "64-true" else [])]
    size = config.get("data", {}).get("num_train")
    sizes = [size, None, num_train] if num_train is not None and size in (None, num_train) else [size]
    rates = [config.get("model", {}).get("learning_rate"), config.get("optimizer", {}).get("lr")]
    for chosen in itertools.product(dict.fromkeys(sizes), precisions, dict.fromkeys(rates)):
        spelt = json.loads(json.dumps(config))
        for key, value in zip(("data.num_train", "trainer.precision", "model.learning_rate"), chosen, strict=True):
            node, name = place(spelt, key)
            if name in node:
                node[name] = value
        yield spelt


def former_identifying(config: dict[str, Any], fingerprint: str | None) -> dict[str, Any]:
    """Return what of a config identified its run then."""
    return _kept(_former(config), fingerprint)


def _hash(config: dict[str, Any], fingerprint: str | None) -> str:
    return hashlib.sha256(json.dumps(_kept(config, fingerprint), sort_keys=True).encode()).hexdigest()[:12]


def _kept(config: dict[str, Any], fingerprint: str | None) -> dict[str, Any]:
    kept: dict[str, Any] = json.loads(json.dumps(config), parse_float=plain_number)
    for key in (*VOLATILE, *(INERT_IN_CLOSED_FORM if config.get("model", {}).get("closed_form") else ())):
        node, name = place(kept, key)
        node.pop(name, None)
    for key in ADDED_LATER:
        node, name = place(kept, key)
        if node.get(name) is False:
            del node[name]
    if config.get("max_epochs") is not None:
        kept.pop("max_steps", None)
    if kept.get("trainer", {}).get("sync_batchnorm") is True:
        del kept["trainer"]["sync_batchnorm"]
    kept.setdefault("data", {})["fingerprint"] = fingerprint
    return kept
