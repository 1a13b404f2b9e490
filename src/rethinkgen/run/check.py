"""What the keys of a run's config may be, looked at at the door, before anything is begun: all but the data.

``check`` is asked where a run is described: by a single command before its folder is made, by ``-m`` before its first
run starts. It takes well under a millisecond and needs no torch.

The ranges of our classes' options stand beside the classes too, for whoever builds them without a config
(``tests/run/test_check.py`` holds the two together). What a class of the user's own takes, its constructor says, which
comes next (``rethinkgen.run.training.Training``).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from typing import Any

from rethinkgen.checks import (
    RESNET_DEPTHS,
    VGG_DEPTHS,
    check_between,
    check_depth_of_wide_resnet,
    check_groups,
    check_hidden_layers,
    check_is_one_number_of,
    check_one_of,
    check_positive,
    check_probability,
    check_switch,
    check_text,
    check_whole,
)
from rethinkgen.data.example_list import read_labels
from rethinkgen.data.parts import check_parts
from rethinkgen.run.build import PLACES, check_partial, target_of
from rethinkgen.run.command import install_command
from rethinkgen.run.declaration import check_declaration
from rethinkgen.run.identity import Declaration, class_name, declaration, place
from rethinkgen.run.kept import check_keep, check_within_budget
from rethinkgen.run.known_keys import ACTS_AT
from rethinkgen.run.measures_asked import asked_of_a_run
from rethinkgen.run.selection import check_exclude

LARGEST = 1e30
"""Of numbers that meet float32, which ends at 3e38."""
MOST_STEPS = 10**12
MOST_EPOCHS = 1e9
MOST_SEED = 2**32 - 1
"""numpy's generators take no larger one."""
MOST_DEVICES = 1024
"""Of one machine."""


@dataclass(frozen=True)
class Rule:
    """What a value must be: ``check(key, value, or_else=...)`` raises where it is not; ``words`` are allowed, too."""

    check: Callable[..., object]
    words: tuple[str | None, ...] = ()

    def __call__(self, key: str, value: Any) -> None:
        """Raise a ``ValueError`` where the value is not allowed."""
        if (value is None or isinstance(value, str)) and value in self.words:
            return
        self.check(key, value, or_else=" or ".join("null" if word is None else word for word in self.words))

    def or_else(self, *words: str | None) -> Rule:
        """Return the rule that allows these words, too."""
        return Rule(self.check, words)


def _whole(least: int, most: int | None = None) -> Rule:
    return Rule(partial(check_whole, least=least, most=most))


def _between(low: float, high: float, *, below: bool = False) -> Rule:
    return Rule(partial(check_between, low=low, high=high, below=below))


def _one_of(*allowed: str) -> Rule:
    return Rule(partial(check_one_of, allowed=allowed))


def _check_whole_numbers(key: str, value: Any, least: int, most: int, or_else: str = "") -> None:
    if not isinstance(value, list) or not value:
        besides = f", or {or_else}," if or_else else ""
        raise ValueError(f"{key}={value!r}: a list of whole numbers{besides} is needed, such as [3,4].")
    for number, each in enumerate(value):
        check_whole(f"{key}[{number}]", each, least, most=most)


def _check_widths(key: str, value: Any, or_else: str = "") -> None:
    if isinstance(value, list):
        _check_whole_numbers(key, value, 1, 10**6)
    else:
        check_whole(key, value, 1, most=10**6, or_else=f"a list of them or {or_else}")


def _check_parts(key: str, value: Any, or_else: str = "") -> None:
    check_parts(value)


def _check_transition(key: str, value: Any, or_else: str = "") -> None:
    from rethinkgen.train.loss_correction import read_transition  # with torch

    check_text(key, value, or_else=or_else)
    read_transition(key, value)


def _one_number_of(*allowed: int) -> Rule:
    return Rule(partial(check_is_one_number_of, allowed=allowed))


def _whole_numbers(least: int, most: int) -> Rule:
    return Rule(partial(_check_whole_numbers, least=least, most=most))


SWITCH, TEXT, PROBABILITY = Rule(check_switch), Rule(check_text), Rule(check_probability)
PARTS = Rule(_check_parts)
POSITIVE = Rule(partial(check_positive, most=LARGEST))
NOT_NEGATIVE = _between(0, LARGEST)
SHARE = _between(0, 1, below=True)
"""Of which the whole is none."""

KEYS: dict[str, Rule] = {
    "seed": _whole(0, MOST_SEED),
    "max_steps": _whole(1, MOST_STEPS),
    "max_epochs": Rule(partial(check_positive, most=MOST_EPOCHS), (None,)),
    "until_fit": SWITCH,
    "fit_threshold": PROBABILITY,
    "evaluate_every": Rule(partial(check_positive, most=MOST_EPOCHS)),
    "gradient_clip": POSITIVE.or_else(None),
    "log_every": _whole(1, MOST_STEPS),
    "rerun": SWITCH,
    "debug": SWITCH,
    "keep": Rule(check_keep),
    "replay": _one_of("exact", "inexact"),
    "threads": _whole(1, 1024).or_else(None),
    "checkpoint_seconds": NOT_NEGATIVE,
    "data.name": TEXT,
    "data.root": TEXT,
    "data.batch_size": _whole(1).or_else("all"),
    "data.micro_batch_size": _whole(1).or_else(None),
    "data.preprocessing": _one_of("whitening", "normalization", "unit_sphere", "signed", "none"),
    "data.resize": _whole(1).or_else(None),
    "data.crop": _whole(1).or_else("auto", None),
    "data.num_train": _whole(1).or_else(None),
    "data.validation": SHARE,
    "data.exclude": Rule(check_exclude, (None,)),
    "data.relabel": Rule(read_labels, (None,)),
    "data.seed": _whole(0),
    "data.order_seed": _whole(0).or_else(None),
    "model.learning_rate": POSITIVE,
    "regularizer.weight_decay": NOT_NEGATIVE,
    "regularizer.dropout": SHARE,
    "regularizer.random_crop": SWITCH,
    "regularizer.flip": SWITCH,
    "regularizer.rotation": _between(0, 180),
    "regularizer.color_jitter": SWITCH,
    "regularizer.label_smoothing": SHARE,
    "regularizer.mixup": _between(0, 1000),
    "regularizer.early_stopping": _whole(1).or_else(None),
}
"""Keys that every config has."""

NETWORK = {"channels_last": SWITCH, "runs_alone": SWITCH}
OF_TORCHVISION = {**NETWORK, "weights": TEXT.or_else(None)}
CLOSED_FORM = {**NETWORK, "l2": NOT_NEGATIVE}
CLASSES: dict[str, dict[str, Rule]] = {
    "MLP": {
        **NETWORK,
        "width": Rule(_check_widths, (None,)),
        "depth": _whole(0, 10**4),
        "batch_norm": SWITCH,
        "initialization": _one_of("glorot_uniform", "zeros"),
    },
    "AlexNet": NETWORK,
    "Inception": {**NETWORK, "batch_norm": SWITCH},
    "InceptionV3": OF_TORCHVISION,
    "ResNet50": OF_TORCHVISION,
    "ImageNetResNet": {**OF_TORCHVISION, "depth": _one_number_of(*RESNET_DEPTHS)},
    "ImageNetVGG": {**OF_TORCHVISION, "depth": _one_number_of(*VGG_DEPTHS)},
    "CifarVGG": {**NETWORK, "depth": _one_number_of(*VGG_DEPTHS), "batch_norm": SWITCH},
    "CifarResNet": {
        **NETWORK,
        **dict.fromkeys(("bottleneck", "pre_activation", "batch_norm"), SWITCH),
        "blocks": _whole_numbers(1, 10**4),
        "width": _whole(1, 10**6),
        "stem_width": _whole(1, 10**6).or_else(None),
    },
    "WideResNet": {**NETWORK, "depth": Rule(check_depth_of_wide_resnet), "widening": _whole(1, 10**4)},
    "ConvNet": {**NETWORK, "channels": _whole_numbers(1, 10**6)},
    "ArpitCNN": NETWORK,
    "KernelLinear": CLOSED_FORM,
    "KernelGaussian": {
        **CLOSED_FORM,
        "bandwidth": POSITIVE.or_else("auto"),
        "solver": _one_of("auto", "cholesky_float64", "cholesky_float32"),
        "features": _one_of("none", "gabor"),
    },
    "RandomFeatures": {**CLOSED_FORM, "num_filters": _whole(1, 10**9), "patch_size": _whole(2, 10**4)},
    "TwoLayerReLU": {**NETWORK, "threshold_share": _between(1e-6, 1, below=True)},
    "PartialLabels": {"probability": PROBABILITY},
    "SymmetricLabels": {"probability": PROBABILITY},
    "AsymmetricLabels": {"probability": PROBABILITY.or_else(None)},
    "GaussianBlend": {"strength": PROBABILITY},
    "ClassGroups": {"groups": Rule(check_groups, (None,))},
    "GivenLabels": {"labels": Rule(read_labels)},
    "NoisyInputs": {"fraction": PROBABILITY},
    "Digits": {"parts": PARTS},
    "ImageFolder": {"root": TEXT, "parts": PARTS, "num_workers": _whole(0, 1024).or_else(None)},
    "StreamedFolder": {
        "root": TEXT,
        "parts": PARTS,
        "resize": _whole(1, 2**14),
        "num_workers": _whole(0, 1024).or_else(None),
    },
    "AnyImages": {
        "root": TEXT,
        "parts": PARTS,
        "table": TEXT.or_else(None),
        "size": _whole(1, 1024).or_else(None),
        "num_workers": _whole(1, 1024).or_else(None),
    },
    **{name: {"root": TEXT, "parts": PARTS} for name in ("MNIST", "FashionMNIST", "CIFAR10", "CIFAR100", "SVHN")},
    "CrossEntropy": {"label_smoothing": SHARE},
    "GeneralizedCrossEntropy": {"q": _between(0, 1)},
    "BootstrapSoft": {"beta": _between(0, 1)},
    "BootstrapHard": {"beta": _between(0, 1)},
    "SymmetricCrossEntropy": {
        "alpha": NOT_NEGATIVE,
        "beta": NOT_NEGATIVE,
        "log_zero": _between(-1000, 0),
    },
    "EarlyLearningRegularization": {"strength": NOT_NEGATIVE, "momentum": SHARE},
    "ForwardCorrection": {"transition": Rule(_check_transition, (None,))},
    "BackwardCorrection": {"transition": Rule(_check_transition, (None,)), "floor": SHARE},
    "exponential": {"factor": POSITIVE, "every": POSITIVE},
    "step": {"factor": POSITIVE},
    "WandbMirror": {"project": TEXT, "entity": TEXT.or_else(None)},
}
"""Class or function of ours -> its option -> what that must be."""

OF_TORCH: dict[str, Rule] = {
    "lr": POSITIVE,
    "momentum": SHARE,
    "dampening": _between(0, 1),
    "alpha": SHARE,
    "eps": POSITIVE,
    "weight_decay": NOT_NEGATIVE,
    "rho": NOT_NEGATIVE,  # SAM's, which is ours and takes SGD's options
    **dict.fromkeys(("nesterov", "maximize", "amsgrad", "centered", "decoupled_weight_decay"), SWITCH),
    **dict.fromkeys(("foreach", "fused", "capturable", "differentiable"), SWITCH.or_else(None)),
}
"""Option of torch's optimizers -> what it must be: torch itself refuses some of what makes no sense, and trains on
others. Options that are not here are tried on a parameter, see ``rethinkgen.run.probe.check_optimizer``."""


def _check_devices(key: str, value: Any, or_else: str = "") -> None:
    is_number = isinstance(value, int) and not isinstance(value, bool) and (value == -1 or 1 <= value <= MOST_DEVICES)
    is_list = isinstance(value, list) and value and all(type(item) is int and item >= 0 for item in value)
    is_text = isinstance(value, str) and re.fullmatch(r"auto|-1|[1-9]\d{0,2}|\d{1,3}(,\d{1,3})+", value)
    if not (is_number or is_list or is_text):
        raise ValueError(
            f"{key}={value!r}: a whole number from 1 to {MOST_DEVICES} is needed, or auto, or the numbers of GPUs, "
            "such as [0,1]."
        )


TRAINER: dict[str, Rule] = {
    "accelerator": _one_of("auto", "cpu", "gpu", "cuda", "mps"),
    "devices": Rule(_check_devices),
    "num_nodes": _whole(1, 10**4),
    "strategy": _one_of("auto", "ddp"),
    "precision": _one_of("32-true", "bf16-mixed", "bf16-true", "64-true"),
    "sync_batchnorm": SWITCH,
    "deterministic": SWITCH.or_else("warn"),
    "benchmark": SWITCH.or_else(None),
    "detect_anomaly": SWITCH,
}
"""Keys of Lightning's Trainer that act here."""

_NO_LOADERS = "there are no loaders of Lightning's to evaluate with: evaluate_every and data.validation are the keys"
INSTEAD: dict[str, str] = {
    "fast_dev_run": "debug=true is the quick trial run",
    "overfit_batches": "data.num_train=... trains on a part of the data, max_steps=... for so many steps",
    "limit_train_batches": "max_steps=... is the budget, data.num_train=... the number of training examples",
    "limit_val_batches": _NO_LOADERS,
    "limit_test_batches": _NO_LOADERS,
    "limit_predict_batches": _NO_LOADERS,
    "val_check_interval": "evaluate_every=... in epochs, fractions allowed",
    "check_val_every_n_epoch": "evaluate_every=... in epochs, fractions allowed",
    "num_sanity_val_steps": "debug=true tries everything on a few examples",
    "max_steps": "max_steps=... is the budget",
    "max_epochs": "max_epochs=... is the budget in epochs",
    "min_steps": "until_fit=false trains for the whole budget, max_steps=...",
    "min_epochs": "until_fit=false trains for the whole budget, max_epochs=...",
    "max_time": "a result must not depend on the clock: max_steps=... or max_epochs=... is the budget, and "
    "hydra.launcher.timeout_min=... ends a job of a sweep",
    "accumulate_grad_batches": "data.batch_size=... is the whole batch of a step, of which data.micro_batch_size=... "
    "examples go through the network at once",
    "gradient_clip_val": "gradient_clip=... scales a longer gradient down to this norm",
    "gradient_clip_algorithm": "gradient_clip=... scales by the norm; there is no other way",
    "log_every_n_steps": "log_every=...",
    "logger": "logger=wandb, tensorboard, csv or none, or +logger.<name>._target_=... for another one",
    "callbacks": "what a run keeps and when it stops are keys of its own (until_fit, evaluate_every, "
    "checkpoint_seconds); callbacks of your own go with a Trainer of your own, as in docs/python.md",
    "plugins": "trainer.precision, trainer.strategy and trainer.sync_batchnorm choose them",
    "default_root_dir": "results_dir=... is the folder of all results, and each run has one in it",
    "enable_checkpointing": "checkpoint_seconds=... says how often; without checkpoints nothing could be resumed",
    "enable_progress_bar": "a terminal shows a bar, a file now and then a line",
    "enable_model_summary": "the number of parameters stands in result.json",
    "profiler": "profile the command itself, for example with py-spy record -- before it",
    "barebones": "nothing of what it switches off is in use here",
    "inference_mode": _NO_LOADERS,
    "use_distributed_sampler": "each rank has its share of every batch already",
    "reload_dataloaders_every_n_epochs": "the order of the examples is a function of data.order_seed and the epoch",
    "enable_autolog_hparams": "config.yaml and result.json hold the whole config",
    "model_registry": "the weights of a finished run are in its weights/end.pt",
}
"""Keys of Lightning's Trainer that are refused, since we do what they are for in another way -> which way."""

CHOICES = {
    "data": "data=digits",
    "data.source": "data=digits",
    "data.corruption": "data.corruption=none",
    "model": "model=inception",
    "loss": "loss=cross_entropy",
    "regularizer": "'regularizer=[]'",
    "optimizer": "optimizer=sgd",
    "schedule": "schedule=constant",
    "trainer": "trainer=auto",
    "logger": "logger=none",
}
"""Node that every config has -> how one chooses it."""
OBJECTS = ("data.source", "data.corruption", "model", "loss", "optimizer", "schedule", "trainer")
"""Nodes that an object is made of."""


def check(config: Mapping[str, Any], overrides: Sequence[str] = ()) -> None:
    """Look at everything but the data in a resolved config of plain types; ``overrides`` are those of the command.

    Raises:
        ValueError: something is wrong; the message names key and value, and says what is allowed or to be done.
    """
    root = dict(config)
    for key in CHOICES:
        _check_node(root, key)
    for key in OBJECTS:
        _check_target(key, _at(root, key))
    check_declaration(config)
    declared = declaration(config)
    check_keys_that_act(config, [key for key in map(key_of, overrides) if not declared.fixes(key)])
    _check_keys(root, declared)
    if not declared.fixes("max_steps"):
        check_within_budget(root)
    for key in OBJECTS:
        if not declared.fixes(key):
            _check_object(key, _at(root, key), declared, has_no_rate=root["model"].get("learning_rate") is None)
    for name, node in root["logger"].items():
        if not isinstance(node, dict):
            raise ValueError(f"logger.{name}={node!r}: a logger is needed, such as +logger.{name}._target_=...")
        _check_target(f"logger.{name}", node)
        _check_is_installed(node["_target_"])
        _check_object(f"logger.{name}", node, declared)
    _check_trainer(root["trainer"], declared)
    asked_of_a_run(root)


def key_of(override: str) -> str:
    """Return the dotted key of an override."""
    return override.lstrip("+~").split("=")[0]


_MISSING = object()


def _at(config: dict[str, Any], key: str) -> Any:
    node, name = place(config, key)
    return node.get(name, _MISSING)


def _check_node(config: dict[str, Any], key: str) -> None:
    found = _at(config, key)
    if not isinstance(found, dict):
        what = f"{key}: it was taken away" if found is _MISSING else f"{key}={found!r}"
        raise ValueError(f"{what}. A choice of its group is needed here, for example {CHOICES[key]}.")


def _check_keys(config: dict[str, Any], declared: Declaration) -> None:
    if not declared.fixes("max_steps") and _at(config, "max_steps") is _at(config, "max_epochs") is None:
        raise ValueError(
            "max_steps=None max_epochs=None: one of them is needed, the budget in steps (a whole number of at least 1) "
            "or in epochs."
        )
    for key, rule in KEYS.items():
        if declared.fixes(key):
            continue
        value = _at(config, key)
        if value is _MISSING:
            raise ValueError(f"{key}: it was taken away, and is needed. {_said_by(rule, key)}")
        if value is None and _may_be_null(key, config):
            continue
        rule(key, value)


def _may_be_null(key: str, config: dict[str, Any]) -> bool:
    if key == "max_steps":
        return config["max_epochs"] is not None
    # A network of the user's own may take its steps in another way.
    return key == "model.learning_rate" and not config["model"]["_target_"].startswith("rethinkgen.")


def _said_by(rule: Rule, key: str) -> str:
    try:
        rule(key, object())
    except ValueError as error:
        return str(error).partition(">: ")[2].capitalize()
    return ""


def _check_target(key: str, node: dict[str, Any]) -> None:
    place = PLACES["logger" if key.startswith("logger.") else key]
    target_of(node, key, place)
    check_partial(node, key, place)


def _check_object(key: str, node: dict[str, Any], declared: Declaration, *, has_no_rate: bool = False) -> None:
    target = node["_target_"]
    is_known = target.startswith(("torch.optim.", "rethinkgen.train.optimizer."))
    rules = OF_TORCH if is_known else _of_ours(target)
    for name, value in node.items():
        is_rate_of_none = (key, name, value) == ("optimizer", "lr", None) and has_no_rate
        if name in rules and not declared.fixes(f"{key}.{name}") and not is_rate_of_none:
            rules[name](f"{key}.{name}", value)
    _whole(1)(f"{key}.protocol", node.get("protocol", 1))
    if class_name(target) == "MLP" and rules:
        given = ("width", 512), ("depth", 1), ("batch_norm", False), ("initialization", "")
        check_hidden_layers(*(node.get(name, default) for name, default in given))
    if class_name(target) == "step":
        _check_shares(f"{key}.at", node.get("at"))
    if key == "optimizer" and "betas" in node:
        _check_betas(f"{key}.betas", node["betas"])


def _check_is_installed(target: str) -> None:
    """Refuse a logger of Lightning's whose own package is not there: it says so when all data are loaded."""
    packages = NEEDS.get(target.rpartition(".")[2], ()) if target.startswith("pytorch_lightning.") else ()
    if packages and not any(map(find_spec, packages)):
        raise ValueError(f"logger: {target} needs the package {packages[0]}: {install_command(packages[0])}")


NEEDS = {
    "TensorBoardLogger": ("tensorboard", "tensorboardX"),
    "CometLogger": ("comet_ml",),
    "MLFlowLogger": ("mlflow", "mlflow_skinny"),
    "NeptuneLogger": ("neptune",),
}
"""Logger of Lightning's -> the packages of which it needs one."""


def _of_ours(target: str) -> Mapping[str, Rule]:
    return CLASSES.get(class_name(target), {}) if target.startswith("rethinkgen.") else {}


def _check_shares(key: str, value: Any) -> None:
    if not isinstance(value, list) or not all(isinstance(each, float | int) and 0 < each < 1 for each in value):
        raise ValueError(f"{key}={value!r}: a list of shares of the budget is needed, between 0 and 1, such as [0.5].")


def _check_betas(key: str, value: Any) -> None:
    if not isinstance(value, list) or len(value) < 2:
        raise ValueError(f"{key}={value!r}: a list of numbers from 0 to below 1 is needed, such as [0.9,0.999].")
    for number, each in enumerate(value):
        SHARE(f"{key}[{number}]", each)


def _check_trainer(trainer: dict[str, Any], declared: Declaration) -> None:
    for name, value in trainer.items():
        if name in INSTEAD:
            raise ValueError(f"trainer.{name}={value!r}: it is not set here. Instead: {INSTEAD[name]}.")
        if name in TRAINER and not declared.fixes(f"trainer.{name}"):
            TRAINER[name](f"trainer.{name}", value)
        elif name not in (*TRAINER, "_target_", "_partial_"):
            known = ", ".join(TRAINER)
            raise ValueError(f"trainer.{name}={value!r}: Lightning's Trainer has no such key. There are {known}.")
    if trainer.get("benchmark") and trainer.get("deterministic", "warn"):
        raise ValueError(
            "trainer.benchmark=True: cuDNN then chooses its algorithms by the clock, and nothing is reproducible to "
            "the bit. Set trainer.deterministic=false with it."
        )


def check_keys_that_act(config: Mapping[str, Any], given: Sequence[str]) -> None:
    """Refuse a value that would act unseen by the run's name and choices, or be seen and not act.

    ``given`` are the keys on the command line that act on the model at all.

    Raises:
        ValueError: a regularizer was set where it acts instead of under ``regularizer``, a learning rate where the
            optimizer does not read it, or the budget twice or not at all.
    """
    root = dict(config)
    regularizers, optimizer, model = root["regularizer"], root["optimizer"], root["model"]
    for name, key in ACTS_AT.items():
        node, option = place(root, key)
        # What the node lacks, as an optimizer without weight decay, is told as what does not act.
        value = node.get(option, regularizers.get(name))
        if value != regularizers.get(name):
            raise ValueError(
                f"{key}={value!r}: set regularizer.{name}={value!r} instead, which is seen and acts there."
            )
    rate = model.get("learning_rate")
    if "model.learning_rate" in given and optimizer.get("lr") != rate:
        raise ValueError(
            f"model.learning_rate={rate!r} is not what this optimizer takes: set optimizer.lr "
            f"(now {optimizer.get('lr')!r})."
        )
    steps, epochs = root.get("max_steps"), root.get("max_epochs")
    if {"max_steps", "max_epochs"} <= set(given) and None not in (epochs, steps):
        raise ValueError(f"max_steps={steps!r} max_epochs={epochs!r}: give one of them.")
    # Who takes the steps away has not asked for the epochs that some data have by default.
    if "max_steps" in given and steps is None and (epochs is None or "max_epochs" not in given):
        raise ValueError(
            "max_steps=None: a whole number of at least 1 is needed, or max_epochs=..., the same in epochs."
        )
