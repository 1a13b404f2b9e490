"""Every choice of every group composes, and builds the object that its file names."""

from __future__ import annotations

import functools
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch
from hydra import compose, initialize_config_dir
from lightning_fabric.utilities.exceptions import MisconfigurationException
from omegaconf import DictConfig, OmegaConf

from conftest import ROOT
from rethinkgen.data.module import CorruptedImages
from rethinkgen.data.source import Digits
from rethinkgen.model.closed_form.closed_form import ClosedForm
from rethinkgen.run.build import build
from rethinkgen.run.identity import takes_steps
from rethinkgen.run.training import build_datamodule
from rethinkgen.train.classifier import Classifier
from rethinkgen.train.optimizer import SAM

CONF = ROOT / "conf"


RATES = {
    **dict.fromkeys(("inception", "inception_no_bn", "inception_v3", "wide_resnet", "cifar_resnet56"), 0.1),
    **{f"{family}{depth}": 0.1 for family in ("resnet", "cifar_resnet") for depth in (18, 34, 50, 101, 152)},
    **dict.fromkeys(("fc_500_300_100", "cnn_16_32_32", "resnet20_no_bn"), 0.001),
}
"""Network -> its rate where it is not 0.01."""


def choices(group: str) -> list[str]:
    return sorted(path.stem for path in (CONF / group).glob("*.yaml"))


def composed(*overrides: str) -> DictConfig:
    # ``rethinkgen.run.entry`` would resolve Hydra's own nodes; here the run's folder is of no interest.
    with initialize_config_dir(str(CONF)):
        return compose("train", overrides=list(overrides))


def in_memory(name: str, overrides: list[str] | None = None) -> CorruptedImages:
    config = composed(f"data.corruption={name}", *(overrides or []))
    return build_datamodule(config.data)


@pytest.mark.parametrize("name", choices("data.corruption"))
def test_corruptions(name: str, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("index,label\n0,1\n")
    datamodule = in_memory(name, [f"data.corruption.labels={tmp_path}/labels.csv"] if name == "given_labels" else [])
    datamodule.setup()
    assert datamodule.splits["train"].inputs.shape == (1437, 1, 8, 8)
    assert isinstance(datamodule.source, Digits)
    # One function, one YAML, one name; `none` has no function, and `unique_labels_gaussian` has two.
    from rethinkgen.data import corruption

    assert name in ("none", "unique_labels_gaussian") or callable(getattr(corruption, name))


@pytest.mark.parametrize("name", choices("data"))
def test_sources(name: str) -> None:
    config = composed(f"data={name}", "data.root=/nowhere")
    assert config.data.name == name
    assert {"prepare", "load", "fingerprint"} <= set(dir(build(config.data.source, "data.source")))


@pytest.mark.parametrize("name", choices("model"))
def test_models(name: str) -> None:
    config = composed(f"model={name}", "data=cifar10")
    if not takes_steps({"model": OmegaConf.to_container(config.model)}):
        assert isinstance(build(config.model, "model"), ClosedForm)
        return
    side = 75 if name == "inception_v3" else 32 if name.startswith("vgg") else 28
    model = build(config.model, "model", image_shape=[3, side, side], num_classes=10)
    assert isinstance(model, Classifier)
    assert model.learning_rate == RATES.get(name, 0.01)


def test_regularizers_set_their_own_key_and_never_reset_each_other() -> None:
    names = choices("regularizer")
    neutral = composed().regularizer
    everything = composed(f"regularizer=[{','.join(names)}]").regularizer
    values = [name for name in names if not OmegaConf.is_dict(everything[name])]
    assert sorted(neutral) == values, "conf/train.yaml holds a neutral value for each; what is an object needs none"
    for name in names:
        alone = composed(f"regularizer=[{name}]").regularizer
        assert {key for key in names if alone.get(key) != neutral.get(key)} == {name}
        assert alone[name] == everything[name]


def test_each_regularizer_reaches_the_place_where_it_acts() -> None:
    config = composed("regularizer=[weight_decay,dropout,random_crop,flip,rotation,color_jitter,label_smoothing]")
    assert (config.optimizer.weight_decay, config.model.dropout, config.loss.label_smoothing) == (5e-4, 0.5, 0.1)
    datamodule = build_datamodule(config.data)
    assert (datamodule.random_crop, datamodule.flip, datamodule.rotation) == (True, True, 25.0)
    assert datamodule.color_jitter


@pytest.mark.parametrize(
    ("name", "kind"),
    [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam), ("rmsprop", torch.optim.RMSprop), ("sam", SAM)],
)
def test_optimizers(name: str, kind: type[torch.optim.Optimizer]) -> None:
    assert choices("optimizer") == ["adam", "rmsprop", "sam", "sgd"]
    config = composed(f"optimizer={name}", "regularizer=[weight_decay]", "model=alexnet", "data=cifar10")
    optimizer = build(config.optimizer, "optimizer")([{"params": [torch.nn.Parameter(torch.ones(1))]}])
    assert type(optimizer) is kind
    assert optimizer.param_groups[0]["weight_decay"] == 5e-4
    assert optimizer.param_groups[0]["lr"] == {"sgd": 0.01, "adam": 1e-3, "rmsprop": 0.01, "sam": 0.01}[name]


@pytest.mark.parametrize("name", choices("schedule"))
def test_schedules(name: str) -> None:
    schedule = build(composed(f"schedule={name}").schedule, "schedule")
    assert schedule(0, 1000) == 1
    assert type(schedule) is functools.partial, "Hydra's own costs 20 us a call"
    assert 0 <= schedule(999, 1000) <= 1


@pytest.mark.parametrize("name", choices("trainer"))
def test_trainers(name: str) -> None:
    if torch.cuda.device_count() < {"gpu": 1, "ddp": 2}.get(name, 0):
        with pytest.raises(MisconfigurationException, match=r"No supported gpu|You requested gpu"):
            build(composed(f"trainer={name}").trainer, "trainer", logger=False)
        return
    assert isinstance(build(composed(f"trainer={name}").trainer, "trainer", logger=False), pl.Trainer)


def test_imagenet_has_values_of_its_own() -> None:
    config = composed("data=imagenet", "model=inception_v3", "regularizer=[weight_decay,dropout]")
    assert (config.evaluate_every, config.checkpoint_seconds, config.data.batch_size) == (5, 300, 32)
    assert (config.data.crop, config.data.preprocessing, config.data.source.resize) == (299, "signed", 342)
    assert (config.regularizer.weight_decay, config.regularizer.dropout, config.optimizer.lr) == (4e-5, 0.2, 0.1)


def test_defaults_are_those_of_the_issue_and_the_paper() -> None:
    digits, cifar = composed(), composed("data=cifar10")
    assert (digits.data.name, digits.regularizer.weight_decay, digits.until_fit) == ("digits", 0, True)
    assert (cifar.until_fit, cifar.max_steps, cifar.data.batch_size) == (False, 25_000, 128)
    assert (cifar.optimizer.momentum, cifar.schedule.factor, cifar.schedule.every) == (0.9, 0.95, 391)
    assert (cifar.data.preprocessing, cifar.data.crop, cifar.trainer.precision) == ("whitening", "auto", "32-true")
