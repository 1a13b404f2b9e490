"""The door finds what is wrong with any key but the data, quickly, and agrees with the classes' own constructors."""

from __future__ import annotations

import inspect
import re
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from conftest import ROOT, TINY, Command, read_result
from rethinkgen.data.corruption import TrueLabels
from rethinkgen.data.source import Digits
from rethinkgen.model.mlp import MLP
from rethinkgen.run import check as door
from rethinkgen.run.build import build, names_of_ours
from rethinkgen.run.description import resolved_config
from rethinkgen.run.identity import normalised, place
from rethinkgen.run.probe import check_accelerator, check_optimizer
from rethinkgen.train.evaluation import Evaluation
from rethinkgen.train.loss import CrossEntropy

CONF = ROOT / "conf"
SAID_ELSEWHERE = {
    # By the resolver that names folders, by what opens packages, by build.
    *("results_dir", "sweep", "code"),
    *("measure", "at"),  # by rethinkgen.run.measures_asked
    *(f"data.{name}" for name in ("random_crop", "flip", "rotation", "color_jitter", "mixup")),
    *("model.dropout", "trainer._target_"),
    # By the rule of a list, or of a file.
    *("step.at", "AsymmetricLabels.matrix"),
}
WITH_ANOTHER = {"MLP.depth": 0, "MLP.width": None}
"""Option -> the value that its class takes with another value of another option: the two of a linear model."""
VALUES: list[Any] = [-1, 0, 0.5, 1, 1.5, 2, 3.0, True, False, "abc", "", None, [], {}, "auto", "all", "none", 10**20]


def config(*overrides: str) -> dict[str, Any]:
    with initialize_config_dir(str(CONF)):
        return resolved_config(compose("train", overrides=[*overrides]))


def keys_of(node: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in node.items():
        yield from keys_of(value, f"{prefix}{name}.") if isinstance(value, dict) and value else [f"{prefix}{name}"]


def test_every_key_of_the_config_has_a_rule() -> None:
    root: Any = OmegaConf.to_container(OmegaConf.load(CONF / "train.yaml"))
    known = {*door.KEYS, *SAID_ELSEWHERE, *(f"trainer.{name}" for name in door.TRAINER)}
    assert set(keys_of({name: node for name, node in root.items() if name not in ("hydra", "defaults")})) <= known


@pytest.mark.parametrize("place", ["model", "data.corruption", "loss", "schedule", "optimizer", "data"])
def test_every_option_in_a_file_of_a_group_has_a_rule(place: str) -> None:
    elsewhere = {"_target_", "_partial_", "protocol", "learning_rate", "name", "batch_size", "crop", "preprocessing"}
    for path in (CONF / place).glob("*.yaml"):
        node: Any = OmegaConf.to_container(OmegaConf.load(path))
        made = node["source"] if place == "data" else node
        name = made["_target_"].rpartition(".")[2]
        rules = door.OF_TORCH if place == "optimizer" else door.CLASSES.get(name, {})
        known = {*rules, *elsewhere} | {said.partition(".")[2] for said in SAID_ELSEWHERE if said.startswith(name)}
        assert {*node, *made} - {"source"} <= known, path.stem


def refusal(ask: Callable[[], object]) -> str | None:
    try:
        ask()
    except ValueError as error:
        return str(error)
    return None


def is_refused(ask: Callable[[], object]) -> bool:
    return refusal(ask) is not None


def options() -> Iterator[tuple[str, str, str]]:
    for key in ("model", "data.corruption", "loss"):
        for target in names_of_ours(key):
            for option in door.CLASSES.get(target.rpartition(".")[2], {}):
                if option != "runs_alone":  # which is no argument
                    yield key, target, option


@pytest.mark.parametrize(("place", "target", "option"), list(options()))
def test_the_door_refuses_what_the_constructor_refuses(place: str, target: str, option: str) -> None:
    rule = door.CLASSES[target.rpartition(".")[2]][option]
    given = {"source": Digits()} if place == "data.corruption" else {}
    is_one_of_two = target.endswith(".AsymmetricLabels")  # where the other is not given
    of_two = WITH_ANOTHER.get(f"{target.rpartition('.')[2]}.{option}", ...)
    for value in (value for value in VALUES if value is not None or not is_one_of_two):
        if value is of_two:
            continue
        by_class = is_refused(lambda value=value: build({"_target_": target, option: value}, place, **given))  # type: ignore[misc]
        if (by_door := is_refused(lambda value=value: rule(option, value))) != by_class:  # type: ignore[misc]
            # No network is as large.
            assert by_door, (option, value)
            assert value == 10**20, (option, value)


OF_CONSTRUCTORS: dict[str, Callable[[Any], object]] = {
    "evaluate_every": lambda value: Evaluation(every=value),
    "fit_threshold": lambda value: Evaluation(fit_threshold=value),
    "until_fit": lambda value: Evaluation(until_fit=value),
    "log_every": lambda value: Evaluation(log_every=value),
    "regularizer.early_stopping": lambda value: Evaluation(patience=value),
    "gradient_clip": lambda value: MLP(gradient_clip=value),
    "model.learning_rate": lambda value: MLP(learning_rate=value),
    "regularizer.dropout": lambda value: MLP(dropout=value),
    "regularizer.label_smoothing": lambda value: CrossEntropy(value),
    **{
        f"data.{name}": lambda value, name=name: TrueLabels(Digits(), **{name: value})  # type: ignore[misc]
        for name in ("batch_size", "micro_batch_size", "preprocessing", "crop", "num_train", "validation", "seed")
    },
    "data.order_seed": lambda value: TrueLabels(Digits(), order_seed=value),
    **{
        f"regularizer.{name}": lambda value, name=name: TrueLabels(Digits(), **{name: value})  # type: ignore[misc]
        for name in ("random_crop", "flip", "rotation", "color_jitter", "mixup")
    },
}


@pytest.mark.parametrize("key", OF_CONSTRUCTORS)
def test_the_keys_of_every_config_are_those_of_the_constructors(key: str) -> None:
    for value in VALUES:
        by_door = is_refused(lambda value=value: door.KEYS[key](key, value))  # type: ignore[misc]
        by_class = is_refused(lambda value=value: OF_CONSTRUCTORS[key](value))  # type: ignore[misc]
        assert by_door == by_class or (by_door and value == 10**20), value


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["model=mlp", "model.width=[8,6,4]"], r"model\.width=\[8, 6, 4\] model\.depth=2: as many hidden layers"),
        (["model=mlp_1x512", "model.depth=0"], r"model\.depth=0 model\.width=512: a linear model has no hidden"),
        (["model=mlp", "model.width=null"], r"model\.width=None: a whole number of at least 1"),
        (["model=mlp", "model.initialization=zeros"], r"model\.initialization=zeros model\.depth=2: "),
        (["model=linear", "+model.batch_norm=true"], r"model\.batch_norm=true model\.depth=0: "),
        (["model=wide_resnet", "model.depth=12"], r"model\.depth=12: 6n \+ 4 is needed"),
    ],
)
def test_options_that_are_no_network_together_are_refused_before_a_sweep_begins(
    overrides: list[str], said: str
) -> None:
    with pytest.raises(ValueError, match=f"^{said}"):
        door.check(config(*overrides))


def test_it_takes_next_to_no_time() -> None:
    told = normalised(config("model=mlp", "data.corruption=partial_labels"))
    door.check(told, ["model=mlp"])
    begun = time.process_time()  # of this process alone, however busy the machine
    for _ in range(20):
        door.check(told, ["model=mlp"])
    assert (time.process_time() - begun) / 20 < 0.05


CONFIG = normalised(config())


@pytest.mark.parametrize("node", [*door.CHOICES, *door.KEYS, *(f"{key}._target_" for key in door.OBJECTS)])
@pytest.mark.parametrize("value", [[], {}, {"a": {"b": 1}}, [{}], "x", None, object], ids=str)
def test_whatever_stands_where_the_answer_is_a_word_that_names_the_key(node: str, value: Any) -> None:
    told = deepcopy(CONFIG)
    parent, name = place(told, node)
    if value is object:
        del parent[name]
    else:
        parent[name] = value
    said = refusal(lambda: door.check(told))
    assert said is None or name in said or "taken away" in said


# The keys of Lightning's Trainer.


def test_every_key_of_the_trainer_acts_or_is_refused_with_what_to_use_instead() -> None:
    there_are = set(inspect.signature(pl.Trainer.__init__).parameters) - {"self"}
    assert there_are == door.TRAINER.keys() | door.INSTEAD.keys() | {"strategy"}
    assert not door.TRAINER.keys() & door.INSTEAD.keys()
    for name, instead in door.INSTEAD.items():
        told = CONFIG | {"trainer": CONFIG["trainer"] | {name: 2}}
        with pytest.raises(ValueError, match=rf"^trainer\.{name}=2: .*Instead: ") as refused:
            door.check(told)
        assert instead in str(refused.value)
    with pytest.raises(ValueError, match=r"^trainer\.overfit_batch=2: Lightning's Trainer has no such key"):
        door.check(CONFIG | {"trainer": CONFIG["trainer"] | {"overfit_batch": 2}})


def test_what_cannot_be_reproduced_must_say_so() -> None:
    with pytest.raises(ValueError, match=r"^trainer\.benchmark=True: .* trainer\.deterministic=false"):
        door.check(CONFIG | {"trainer": CONFIG["trainer"] | {"benchmark": True}})


def test_a_key_of_the_trainer_is_refused_before_anything_is_begun(
    train: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for command in ([], ["-m"]):
        with pytest.raises(SystemExit):
            train(*command, *TINY, "+trainer.max_time=00:00:01:00")
        assert "trainer.max_time='00:00:01:00': it is not set here. Instead: " in capsys.readouterr().err
        assert not (tmp_path / "multirun").exists()


def test_the_keys_of_the_trainer_that_act(train: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[pl.Trainer] = []
    monkeypatch.setattr("rethinkgen.run.training.check_trainer", lambda trainer, ranks: made.append(trainer))
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", False)
    switches = ["+trainer.detect_anomaly=true", "+trainer.benchmark=true", "trainer.deterministic=false"]
    folder = train(*TINY, "max_steps=2", *switches)
    assert torch.backends.cudnn.benchmark is True
    assert made[-1]._detect_anomaly is True
    assert read_result(folder)["metrics"]["steps"] == 2
    kinds = {"64-true": torch.float64, "bf16-true": torch.bfloat16, "bf16-mixed": torch.float32}
    for precision, kind in kinds.items():
        folder = train(*TINY, "max_steps=2", f"trainer.precision={precision}")
        weights = torch.load(folder / "weights/end.pt", weights_only=True)
        assert {tensor.dtype for tensor in weights.values()} == {kind}
    train(*TINY, "max_steps=2", "trainer.deterministic=true")
    assert torch.are_deterministic_algorithms_enabled()
    assert not torch.is_deterministic_algorithms_warn_only_enabled()
    train(*TINY, "max_steps=3", "trainer.deterministic=false")
    assert not torch.are_deterministic_algorithms_enabled()


# What torch refuses, before the data are read.


def test_gpus_that_are_not_there() -> None:
    check_accelerator(OmegaConf.create({"accelerator": "cpu"}))
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match=r"^trainer\.accelerator='gpu': torch finds no supported gpu"):
            check_accelerator(OmegaConf.create({"accelerator": "gpu"}))


@pytest.mark.parametrize(
    ("option", "value"), [("lr", 1e300), ("weight_decay", 1e300), ("differentiable", True), ("capturable", True)]
)
def test_what_an_optimizer_refuses_at_its_first_step_is_told_before_any(option: str, value: Any) -> None:
    node = {"_target_": "torch.optim.Adam", "_partial_": True, "lr": 0.1, option: value}
    with pytest.raises(ValueError, match=re.escape(f"optimizer.{option}={value!r}")):
        check_optimizer(build(node, "optimizer"), OmegaConf.create(node))
