"""What a model declares not to act on it (``rethinkgen.run.identity.Declaration``), checked and put in force.

A declaration cannot lie: what it fixes is what the run is given, whatever its command says.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from omegaconf import DictConfig, OmegaConf

from rethinkgen.run.identity import Declaration, class_name, declaration, flatten, place, rules

FIXABLE = (
    *("max_steps", "max_epochs", "until_fit", "evaluate_every", "log_every", "gradient_clip"),
    *("loss", "optimizer", "schedule", "data.batch_size", "data.micro_batch_size", "data.order_seed"),
    *("model.learning_rate", "trainer.precision", "trainer.sync_batchnorm", "trainer.deterministic"),
)
"""Keys that may be declared not to act, or keys below them. By none of them a run is called."""


def check_declaration(config: Mapping[str, Any]) -> None:
    """Refuse a declaration in a model's YAML that cannot be kept.

    Raises:
        ValueError: it is of another form, fixes what the config does not have or what a run is called by; or the model
            is one of ours, whose class says what it declares.
    """
    model = config["model"]
    name = class_name(str(model["_target_"]))
    for key in ("closed_form", "declares"):
        told = model.get(key)
        meant = "closed_form" if told is True and key == "closed_form" else told
        if meant in (None, False):
            continue
        if "." not in name:
            if meant != (declared := rules()["declares"].get(name)):
                says = f"{name} declares {declared or 'nothing'} by its class"
                raise ValueError(f"model.{key}={told!r}: {says}. Leave the key out.")
        elif isinstance(meant, Mapping) and key == "declares":
            _check_form(meant, config)
        elif meant not in rules()["declarations"]:
            known = ", ".join(rules()["declarations"])
            raise ValueError(f"model.{key}={told!r}: {known}, or a mapping with how, fixed and regularizers is needed.")


def _check_form(told: Mapping[str, Any], config: Mapping[str, Any]) -> None:
    if not {"how", "fixed"} <= told.keys() <= {"how", "fixed", "regularizers"}:
        raise ValueError(
            f"model.declares: it has {', '.join(told)}, and needs how, fixed and, where not all act, regularizers."
        )
    how, fixed, acting = told["how"], told["fixed"], told.get("regularizers", [])
    if not isinstance(how, str) or not how:
        raise ValueError(f"model.declares.how={how!r}: words are needed, such as 'solved in closed form'.")
    if not isinstance(fixed, dict):
        raise ValueError(f"model.declares.fixed={fixed!r}: a mapping is needed, such as {{max_steps: 1}}.")
    if not isinstance(acting, list) or not set(acting) <= set(config["regularizer"]):
        known = ", ".join(config["regularizer"])
        raise ValueError(f"model.declares.regularizers={acting!r}: a list is needed, of some of {known}, or of none.")
    if ("max_steps" in fixed) != ("max_epochs" in fixed):
        raise ValueError(
            f"model.declares.fixed={fixed!r}: max_steps and max_epochs are one budget, of which one is null."
        )
    for key in flatten(fixed):
        node, name = place(dict(config), key)
        if name not in node or not any(f"{key}.".startswith(f"{allowed}.") for allowed in FIXABLE):
            raise ValueError(
                f"model.declares.fixed: {key} is no key of the config, or one that a run is known by. There may be "
                f"{', '.join(FIXABLE)}, or keys below one."
            )


def check_regularizers_act(declared: Declaration, identity: dict[str, Any]) -> None:
    """Refuse regularizers that would be taken for a part of the run and do not act on its model.

    Raises:
        ValueError: one of these is in force.
    """
    chosen = identity["choices"]
    acting = declared.regularizers
    if acting is None or not (inert := [name for name in chosen["regularizer"] if name not in acting]):
        return
    others = [name for name in chosen["regularizer"] if name in acting]
    instead = " model.l2=... is its regularizer." if "l2" in identity["config"]["model"] else ""
    raise ValueError(
        f"regularizer=[{', '.join(inert)}]: {chosen['model']} is {declared.how}, where these do not act: "
        f"set regularizer=[{','.join(others)}].{instead}"
    )


def acting(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return the config of a run that is over as it acted, in the words of today.

    With what its model declares in place of what was given; and what is an option of the loss today was one of the
    network in configs of commit 785b5e0.

    Raises:
        ValueError: it is the config of no run.
    """
    told = copy.deepcopy(dict(config))
    if absent := [node for node in ("data", "model") if not isinstance(told.get(node), dict)]:
        raise ValueError(f"{absent[0]}: nothing tells it of this run: neither config.yaml nor result.json has it.")
    for key, value in declaration(told).fixed.items():
        node, name = place(told, key)
        if name in node:
            node[name] = value
    smoothing = told["model"].pop("label_smoothing", None)
    if smoothing and "loss" not in told:
        told["loss"] = {"_target_": "rethinkgen.train.loss.CrossEntropy", "label_smoothing": smoothing}
    return told


def with_fixed(config: DictConfig, declared: Declaration) -> DictConfig:
    """Return the config as it acts on the model: with what it declares in place of what was given."""
    acting = config.copy()
    for key, value in declared.fixed.items():
        node, _, name = key.rpartition(".")
        # What came after a declaration was written, or before: a config that lacks the key needs nothing in its place.
        parent = OmegaConf.select(acting, node) if node else acting
        if OmegaConf.is_dict(parent) and name in parent:
            OmegaConf.update(acting, key, value, merge=False)
    return acting
