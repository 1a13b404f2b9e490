"""Keys that nothing reads: they would change the name of a run and nothing else, so they are refused.

A key is read by our own code, which ``neutral.yaml`` lists; by the class or function that its node names, of which
``rethinkgen.run.build`` tells when it is made; or by another key's ``${...}``. Light: no torch.
"""

from __future__ import annotations

import difflib
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml
from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from rethinkgen.run.build import PLACES
from rethinkgen.run.identity import declaration, flatten, rules

ACTS_AT = {
    "weight_decay": "optimizer.weight_decay",
    "dropout": "model.dropout",
    "label_smoothing": "loss.label_smoothing",
    "random_crop": "data.random_crop",
    "flip": "data.flip",
    "rotation": "data.rotation",
    "color_jitter": "data.color_jitter",
    "mixup": "data.mixup",
}
"""Regularizer of ours -> the key that hands it to what it acts on. ``early_stopping`` acts on the training itself."""
MOST_NAMED = 3
"""Choices that a message names of those that have a key."""

CALLED_HERE = {
    "model.learning_rate or optimizer.lr": "lr learning_rate base_lr model.lr optimizer.learning_rate trainer.lr",
    "data.batch_size": "batch_size bs train_batch_size datamodule.batch_size trainer.batch_size",
    "max_epochs": "epochs epoch num_epochs n_epochs max_epoch trainer.max_epochs trainer.epochs trainer.num_epochs",
    "max_steps": "steps num_steps n_steps iterations num_iterations max_iter trainer.max_steps trainer.steps",
    "regularizer.weight_decay": "weight_decay wd l2 optimizer.wd model.weight_decay",
    "regularizer.dropout": "dropout dropout_rate model.p",
    "regularizer.early_stopping": "patience early_stopping trainer.patience",
    "gradient_clip": "clip grad_clip clip_grad clip_grad_norm gradient_clip_val trainer.gradient_clip_val",
    "evaluate_every": "eval_every trainer.check_val_every_n_epoch trainer.val_check_interval",
    "log_every": "log_every_n_steps trainer.log_every_n_steps",
    "data.micro_batch_size": "micro_batch_size accumulate_grad_batches trainer.accumulate_grad_batches",
    "data.num_train": "num_train num_examples num_samples subset trainer.limit_train_batches",
    "data.validation": "val_split validation_split val_size val_fraction",
    "data.exclude": "exclude leave_out ignore exclude_indices",
    "data.relabel": "relabel label_file corrected_labels",
    "data.corruption.probability": "noise_rate noise_level label_noise noise_prob probability corruption_prob",
    "data.corruption": "corruption noise noise_type data/corruption",
    "data": "dataset datamodule dm",
    "data.root": "data_dir data_root data_path dataset_path root data.data_dir data.path paths.data_dir",
    "data.source.parts": "parts splits data.parts data.splits data.split data.source.splits",
    "data.source.num_workers": "num_workers workers data.num_workers datamodule.num_workers",
    "model": "net network arch architecture backbone",
    "loss": "criterion loss_fn",
    "schedule": "scheduler lr_scheduler",
    "optimizer": "optim opt",
    "regularizer": "reg regularization regularizers regularisers",
    "seed": "random_seed random_state trainer.seed",
    "results_dir": "output_dir out_dir save_dir log_dir paths.output_dir paths.log_dir trainer.default_root_dir",
    "sweep": "name run_name exp_name experiment_name task_name group",
    "logger.wandb.project": "project wandb_project wandb.project",
    "logger.wandb.entity": "entity wandb_entity wandb.entity",
    "trainer.devices": "devices num_gpus n_gpus n_gpu num_devices",
    "trainer.precision": "precision amp fp16 bf16 mixed_precision",
    "hydra.launcher.n_jobs": "n_jobs num_jobs jobs parallel",
    "rerun": "overwrite force restart",
    "keep": "keep_weights save_weights save_steps snapshots snapshot_steps checkpoint_steps",
}
"""Our key, or several -> what other templates and papers call it."""

TOLD = {
    "experiment": "An experiment is added: +experiment={value}; with -m, where its file carries a sweep.",
    "callbacks": "There are none to choose: a run keeps its checkpoints, its history and its best weights by itself; "
    "'regularizer=[early_stopping]' stops early.",
    "tags": "In W&B a run is tagged by its choices, and grouped by sweep=NAME.",
    "ckpt_path": "The same command goes on from the run's last checkpoint; nothing need be named.",
    "gpus": "trainer=gpu takes one; trainer=ddp trainer.devices={value} several.",
    "device": "trainer=cpu or trainer=gpu.",
    "train": "Every run trains, and is tested at its end.",
    "hparams_search": "-m hydra/sweeper=optuna looks for the best of a range.",
    "paths": "results_dir=... says where results go, data.root=... where the data lie.",
}
"""Key of other templates -> what to do here."""
TOLD |= dict.fromkeys(
    ("resume", "checkpoint", "resume_from_checkpoint", "trainer.resume_from_checkpoint"), TOLD["ckpt_path"]
)
TOLD |= {
    "trainer.callbacks": TOLD["callbacks"],
    "test": TOLD["train"],
    "gpu": TOLD["gpus"],
    "trainer.gpus": TOLD["gpus"],
}

CHOICES = {
    "trainer=mps": "Apple's GPUs are not used, as on them nothing is reproducible to the bit: trainer=cpu.",
    "trainer=default": "trainer=auto takes a GPU where there is one.",
    "trainer=ddp_sim": "trainer=ddp_cpu tries on this machine's CPU what trainer=ddp does.",
    "optimizer=adamw": "it is optimizer=adam +optimizer.decoupled_weight_decay=true",
    "logger=tensorboard": "any of Lightning's loggers: "
    "+logger.board._target_=pytorch_lightning.loggers.TensorBoardLogger +logger.board.save_dir=logs",
    "logger=many_loggers": "logger=wandb; the run's own metrics.csv is always written.",
}
"""Choice of other templates -> what to do here."""


def check_keys_are_read(root: DictConfig, overrides: Sequence[str]) -> None:
    """Refuse a composed config that has a key of its own, or a regularizer added by an override, which nothing reads.

    Raises:
        ValueError: it has; the message names the key, and the one that was probably meant.
    """
    for name, node in (root.get("logger") or {}).items():
        if not OmegaConf.is_dict(node):
            raise ValueError(f"logger.{name}={node}: a logger with its _target_ is wanted here, such as logger=csv.")
    known = _known_at_the_root()
    unknown = [key for key in map(str, root) if key not in known]
    added = [item.lstrip("+").partition("=")[0] for item in overrides if re.match(r"\+\+?regularizer\.", item)]
    unknown += [
        key for key in added if not _acts_by_itself(root, key.split(".")[1]) and key.split(".")[1] not in ACTS_AT
    ]
    if not unknown:
        return
    plain = _plain(root)
    read = _read_by_others(plain) | _read_by_files(plain)
    for key, value in flatten(plain).items():
        if any(f"{key}.".startswith(f"{prefix}.") for prefix in unknown) and not _is_read(key, read):
            others = [other for other in flatten(plain) if other != key and not other.startswith("hydra.")]
            raise ValueError(f"{key}={value}: nothing reads this key.{meant(key, value, others)}")


def check_regularizers_are_read(root: DictConfig) -> None:
    """Refuse a regularizer in force that nothing in this config hands on: the run would be called by it, and no other.

    Raises:
        ValueError: there is one.
    """
    if declaration(root).regularizers is not None:
        return  # which says what acts on its model, and is held to it
    in_force = [str(name) for name, value in root.regularizer.items() if value not in (None, False, 0)]
    for name in in_force:
        key = ACTS_AT.get(name)
        # What is set there by itself is refused by rethinkgen.run.training, which names it.
        if _acts_by_itself(root, name) or (key is not None and _holds(root, key)):
            continue
        if not _is_read(f"regularizer.{name}", _read_by_others(_plain(root))):
            others = ",".join(other for other in in_force if other != name)
            lacking = f", as there is no {key}" if key is not None else ""
            raise ValueError(
                f"regularizer.{name}={root.regularizer[name]!r} does not act here: nothing in this config reads it"
                f"{lacking}. Set regularizer=[{others}], or have what it is to act on read ${{regularizer.{name}}}."
            )


def _acts_by_itself(root: DictConfig, name: str) -> bool:
    """Whether training takes a regularizer from where it stands: an object, such as a penalty, or early stopping."""
    return name == "early_stopping" or OmegaConf.is_dict(root.regularizer.get(name))


def _holds(root: DictConfig, key: str) -> bool:
    node, name = key.split(".")
    found = root.get(node)
    return OmegaConf.is_dict(found) and name in found


def _known_at_the_root() -> set[str]:
    told = rules()
    listed = (*told["never"], *told["neutral"], "max_steps", *PLACES)
    return {key.split(".")[0] for key in listed}


# What reads what.


def _plain(root: DictConfig) -> dict[str, Any]:
    """Return a config as it was written, with Hydra's node, which a task is not given."""
    plain: Any = OmegaConf.to_container(root, resolve=False)
    if "hydra" not in plain and HydraConfig.initialized():
        plain["hydra"] = OmegaConf.to_container(HydraConfig.get(), resolve=False)
    return dict(plain)


def _read_by_others(plain: dict[str, Any]) -> set[str]:
    """Return the keys, and nodes with all below them, that some ``${...}`` of the config takes its value from."""
    return set(_references(plain, ""))


def _read_by_files(plain: dict[str, Any]) -> set[str]:
    """Return what any config file that Hydra looks among takes its value from, whether or not it was chosen.

    So what a file sets for the choices of a grid is no mistake where a cell makes none of them.
    """
    sources = plain.get("hydra", {}).get("runtime", {}).get("config_sources", [])
    folders = [Path(source["path"]) for source in sources if source["schema"] == "file"]
    return {
        key
        for folder in folders
        for file in folder.rglob("*.yaml")
        for key in _references(file.read_text(encoding="utf-8"), "")
    }


REFERENCE = re.compile(r"\$\{([^${}:]*)(?=([${}:]))")
SELECT = re.compile(r"\$\{oc\.(?:select|dict\.keys|dict\.values):\s*([^,${}]+)")


def _references(node: Any, place: str) -> Iterator[str]:
    if isinstance(node, dict):
        for key, value in node.items():
            yield from _references(value, f"{place}.{key}" if place else str(key))
    elif isinstance(node, list):
        for number, value in enumerate(node):
            yield from _references(value, f"{place}.{number}")
    elif isinstance(node, str) and "${" in node:
        for found in REFERENCE.finditer(node):
            # What a resolver is called is no key; and of ${table.${name}} the whole table is read.
            if found[2] != ":":
                yield _absolute(found[1].rstrip(".") if found[2] == "$" else found[1], place)
        for found in SELECT.finditer(node):
            yield _absolute(found[1], place)


def _absolute(reference: str, place: str) -> str:
    """``.x`` at ``a.b`` -> ``a.x``; ``..x`` -> ``x``."""
    reference = re.sub(r"\[([^\[\]]*)\]", r".\1", reference.strip())
    dots = len(reference) - len(reference.lstrip("."))
    above = place.split(".")[:-dots] if dots else []
    return ".".join([*above, reference.lstrip(".")])


def _is_read(key: str, read: Iterable[str]) -> bool:
    """Whether something reads a value, a node above it, or a part of it."""
    return any(f"{key}.".startswith(f"{other}.") or other.startswith(f"{key}.") for other in read)


# What was meant.


def meant(key: str, value: Any, known: Sequence[str]) -> str:
    """Return a sentence on what was probably meant by a key that there is not, or nothing."""
    if key in TOLD:
        return f" {TOLD[key].format(value=value)}".rstrip()
    close = _called_here(key) or _close(key, known)
    return f" Did you mean {_joined([f'{name}={value}' for name in close], 'or')}?" if close else ""


def _called_here(key: str) -> list[str]:
    return next((ours.split(" or ") for ours, theirs in CALLED_HERE.items() if key in theirs.split()), [])


def _close(key: str, known: Iterable[str]) -> list[str]:
    """Return the known keys that end as ``key`` does, or else one that is written like it."""
    known = sorted(
        {*known, *(other.rpartition(".")[0] for other in known)} - {"", key}, key=lambda other: (len(other), other)
    )
    node, _, name = key.replace("/", ".").rpartition(".")
    if alike := [other for other in known if other.rpartition(".")[2] == name]:
        return [other for other in alike if other.startswith("regularizer.")] or alike[:2]
    beside = {other.rpartition(".")[2]: other for other in known if other.rpartition(".")[0] == node}
    ends = {other.rpartition(".")[2]: other for other in reversed(known)}
    for written, names, cutoff in (
        (name, beside, 0.7),
        (key, {other: other for other in known}, 0.85),
        (name, ends, 0.8),
    ):
        if found := difflib.get_close_matches(written, names, n=1, cutoff=cutoff):
            return [names[found[0]]]
    return []


# Hydra's own refusals.

CHOSEN_TWICE = re.compile(r"(?:Multiple values for )?(\S+?)(?:\. To override a value| appears more than once in)")
NOT_TAKEN = re.compile(r"unexpected keyword argument '(\w+)'\nfull_key: (hydra\.\w+)$")
OTHER_KIND = re.compile(r"incompatible container types.*full_key: ([\w.]+)\s+object_type=(list|dict)", re.DOTALL)
COULD_NOT = re.compile(
    r"Could not override '(?P<key>[^']+)'.*?\nTo append to your (?:config|default list) use \+(?P<override>[^\n]*)",
    re.DOTALL,
)


def refused_by_hydra(message: str) -> tuple[str, str] | None:
    """Return the key and the value of the override that Hydra's message says to be of no key in the config."""
    found = COULD_NOT.match(message)
    return None if found is None else (found["key"], found["override"].partition("=")[2])


UNQUOTED = re.compile(
    r"""Error when parsing index: \d+, string: ([^\s='"]+)=([^'"]+) out of \[.*LexerNoViable""", re.DOTALL
)
"""Hydra's word on a letter that its grammar does not know, as all beyond ASCII."""


def better_words(error: BaseException, conf: Path) -> str | None:
    """Return what to say in place of Hydra's words on a key that the config does not have; ``None``: they are right.

    Hydra advises to add the key with ``+``, where nothing might read it. ``conf`` is the folder of the config groups.
    """
    if found := CHOSEN_TWICE.match(str(error)):
        return f"+{found[1]}=...: one is chosen already. To choose another, leave out the +: {found[1]}=..."
    if found := NOT_TAKEN.search("\n".join([str(error), *getattr(error, "__notes__", [])])):
        return f"{found[2]}.{found[1]}: there is no such key."
    if found := OTHER_KIND.search(str(error.__cause__)):
        key, is_list = found[1], found[2] == "list"
        return f"{key}: {f'a list is needed, such as {key}=[...]' if is_list else 'keys with values are needed'}."
    if found := UNQUOTED.match(str(error)):
        key, value = found.groups()
        return f"{key}={value}: Hydra reads it in quotes only, which the shell must leave: \"{key}='{value}'\""
    if (refused := refused_by_hydra(str(error))) is None:
        return None
    key, value = refused
    said = f"{key}={value}: there is no such key."
    if key.startswith("hydra"):
        close = re.search(r"Did you mean: '(\w+)'", str(error.__cause__))
        return said + (f" Did you mean {key.rpartition('.')[0]}.{close[1]}={value}?" if close else "")
    owners = keys_of_choices(conf)
    group = group_of(key, conf)
    added = f" Where the class that is chosen takes it, add it: +{key}={value}"
    if with_key := sorted((f"{of}={choice}" for (of, choice), keys in owners.items() if key in keys), key=_plainest):
        with_key = [*with_key[:MOST_NAMED], *([f"{more} more"] if (more := len(with_key) - MOST_NAMED) > 0 else [])]
        return f"{key}={value}: the chosen {group} has no such key, as {_joined(with_key, 'and')} would.{added}"
    hint = meant(key, value, [*keys_of_root(conf), *(name for keys in owners.values() for name in keys)])
    is_sure = key in TOLD or _called_here(key) or f" {key.rpartition('.')[0]}." in hint
    return (
        f"{said}{hint}{added if group is not None and not is_sure else ''}" if hint or group else f"{said} See --help."
    )


def _plainest(choice: str) -> tuple[int, str]:
    return len(choice), choice


def _joined(names: Sequence[str], word: str) -> str:
    return f" {word} ".join(part for part in (", ".join(names[:-1]), names[-1]) if part)


def group_of(key: str, conf: Path) -> str | None:
    """Return the config group below whose name a key lies, of several the innermost."""
    groups = sorted((folder.name for folder in _group_folders(conf)), key=len)
    return next((group for group in reversed(groups) if key.startswith(f"{group}.")), None)


def choice_meant(override: str) -> str:
    """Return what to say, beside the options there are, of a choice that there is not."""
    told = CHOICES.get(override)
    return f"\n{override}: {told}" if told else ""


def keys_of_root(conf: Path) -> list[str]:
    """Return the dotted keys of the primary config."""
    return list(flatten(_loaded(conf / "train.yaml"), ""))


def keys_of_choices(conf: Path) -> dict[tuple[str, str], set[str]]:
    """Return (group, choice) -> the dotted keys that its file sets, which lie below the group's name."""
    return {
        (folder.name, file.stem): {f"{folder.name}.{key}" for key in flatten(_loaded(file)) if key}
        for folder in _group_folders(conf)
        for file in sorted(folder.glob("*.yaml"))
    }


def _group_folders(conf: Path) -> list[Path]:
    return [path for path in sorted(conf.iterdir()) if path.is_dir() and path.name not in ("experiment", "hydra")]


def _loaded(file: Path) -> dict[str, Any]:
    told = yaml.safe_load(file.read_text(encoding="utf-8")) if file.exists() else None
    return {str(key): value for key, value in told.items() if key not in ("defaults", "hydra")} if told else {}
