"""A key that nothing reads is refused with the one that was meant, and a regularizer that does not act is, too."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from hydra.errors import ConfigCompositionException
from omegaconf import DictConfig
from torch import Tensor, nn

from conftest import ROOT, TINY, Command, read_result
from rethinkgen.data.corruption import NoisyInputs, TrueLabels
from rethinkgen.data.module import CorruptedImages
from rethinkgen.data.source import Digits
from rethinkgen.model.mlp import MLP
from rethinkgen.run import known_keys
from rethinkgen.run.entry import _left_to_cells
from rethinkgen.run.known_keys import (
    better_words,
    check_keys_are_read,
    check_regularizers_are_read,
    keys_of_choices,
    keys_of_root,
)
from rethinkgen.train.classifier import Classifier

CONF = ROOT / "conf"


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(CONF)):
        return compose("train", list(overrides), return_hydra_config=True)


def check(*overrides: str) -> None:
    """Compose a config and check it; Hydra's refusals are told in our words."""
    try:
        config = composed(*overrides)
    except ConfigCompositionException as error:
        raise ValueError(better_words(error, CONF) or str(error)) from None
    check_keys_are_read(config, overrides)
    check_regularizers_are_read(config)


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("lr=0.1", "lr=0.1: there is no such key. Did you mean model.learning_rate=0.1 or optimizer.lr=0.1?"),
        ("+lr=0.1", "lr=0.1: nothing reads this key. Did you mean model.learning_rate=0.1 or optimizer.lr=0.1?"),
        ("++lr=0.1", "lr=0.1: nothing reads this key. Did you mean model.learning_rate=0.1 or"),
        ("+max_step=10", "max_step=10: nothing reads this key. Did you mean max_steps=10?"),
        ("+regularizer.dropuot=0.5", "nothing reads this key. Did you mean regularizer.dropout=0.5?"),
        ("+regularizer.foo=0.5", "regularizer.foo=0.5: nothing reads this key."),
        ("+tags=[a]", "tags=['a']: nothing reads this key. In W&B a run is tagged by its choices"),
        ("tags=[a]", "there is no such key. In W&B a run is tagged by its choices"),
        ("+logger.csv=1", "logger.csv=1: a logger with its _target_ is wanted here"),
        ("trainer.max_epochs=1", "trainer.max_epochs=1: there is no such key. Did you mean max_epochs=1?"),
        ("epochs=3", "Did you mean max_epochs=3?"),
        ("batch_size=3", "Did you mean data.batch_size=3?"),
        ("+batch_size=3", "Did you mean data.batch_size=3?"),
        ("gpus=2", "trainer=gpu takes one; trainer=ddp trainer.devices=2 several."),
        ("experiment=zhang2017/table_1", "An experiment is added: +experiment=zhang2017/table_1; with -m"),
        ("callbacks=default", "'regularizer=[early_stopping]' stops early"),
        ("ckpt_path=last.ckpt", "The same command goes on from the run's last checkpoint"),
        ("modle=mlp", "Did you mean model=mlp?"),
        ("corruption=random_labels", "Did you mean data.corruption=random_labels?"),
        ("data/corruption=random_labels", "Did you mean data.corruption=random_labels?"),
        ("data.batch_sise=3", "Did you mean data.batch_size=3?"),
        ("model.widht=3 model=mlp", "Did you mean model.width=3?"),
        ("model.width=3", "no such key, as model=mlp, model=linear, model=fcn_3x256 and 12 more would."),
        ("data.corruption.probability=1", "the chosen data.corruption has no such key, as"),
        ("optimizer.nesterov=true", "Where the class that is chosen takes it, add it: +optimizer.nesterov=true"),
        ("+model=mlp", "+model=...: one is chosen already. To choose another, leave out the +: model=..."),
        ("+optimizer=adam", "leave out the +: optimizer=..."),
        ("hydra.launcher.n_job=2 hydra/launcher=pool", "Did you mean hydra.launcher.n_jobs=2?"),
        ("nonsense=1", "nonsense=1: there is no such key. See --help."),
        ("+nonsense.a=1", "nonsense.a=1: nothing reads this key."),
        ("+my.a=3 +my.b=2 data.num_train=${my.a}", "my.b=2: nothing reads this key."),
    ],
)
def test_a_key_that_nothing_reads_is_refused_with_what_was_meant(override: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)) as refusal:
        check(*override.split(" "))
    assert "To append to your" not in str(refusal.value)


@pytest.mark.parametrize(
    "overrides",
    [
        "+optimizer.nesterov=true",
        "+model.channels_last=true model=mlp",
        "+data.source.x=1",
        "+my.a=3 data.num_train=${my.a}",
        "+my=[3,4] data.num_train=${my[1]}",
        "+mine=here results_dir=${mine}",
        "+mine=2 data.batch_size=${oc.select:mine,128}",
        "+mine=there hydra.job.name=${mine}",
        "+regularizer.mine=0.5 +model.strength=${regularizer.mine}",
        "+regularizer.mine={_target_:mine.Penalty,strength:1}",
        "+regularizer.mine._target_=mine.Penalty +regularizer.mine.strength=1",
        "+regularizer.mine=0.5 +data.x.deep=[1,${....regularizer.mine}]",
        "model=kernel_linear optimizer=adam regularizer=[weight_decay]",
        "regularizer=[weight_decay,dropout,random_crop,flip,rotation,color_jitter,label_smoothing,mixup,early_stopping]",
    ],
)
def test_a_key_that_is_read_is_not(overrides: str) -> None:
    check(*overrides.split(" "))


def test_where_a_key_is_read() -> None:
    config = {"a": {"b": ["${.c}", {"d": "${...e}"}], "f": "${oc.env:X,${g}}"}, "h": "${t.${i}.n} ${j[k].l}"}
    assert set(known_keys._references(config, "")) == {"a.b.c", "a.e", "g", "t", "i", "j.k.l"}


def test_all_of_our_keys_are_known_and_what_they_are_called_elsewhere_is_none_of_them() -> None:
    ours = {*keys_of_root(CONF), *(key for keys in keys_of_choices(CONF).values() for key in keys)}
    nodes = {key.rpartition(".")[0] for key in ours} | {key.partition(".")[0] for key in ours} | {"data.corruption"}
    check_keys_are_read(composed(), [])
    elsewhere = {key for keys in known_keys.CALLED_HERE.values() for key in keys.split()}
    meant = {key for keys in known_keys.CALLED_HERE for key in keys.split(" or ")}
    assert meant - {"hydra.launcher.n_jobs"} <= ours | nodes
    assert not (elsewhere | set(known_keys.TOLD)) & (ours | nodes)
    assert set(known_keys.ACTS_AT) | {"early_stopping"} == set(composed().regularizer)


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        ("regularizer=[flip,weight_decay] ~optimizer.weight_decay", "as there is no optimizer.weight_decay. Set regul"),
        ("regularizer=[label_smoothing] ~loss.label_smoothing", "regularizer.label_smoothing=0.1 does not act here"),
        ("regularizer=[dropout] ~model.dropout", "as there is no model.dropout"),
    ],
)
def test_a_regularizer_that_nothing_hands_on_is_refused(overrides: str, said: str) -> None:
    with pytest.raises(ValueError, match=re.escape(said)):
        check(*overrides.split(" "))


# On the command line.


@pytest.fixture
def own_configs(tmp_path: Path) -> Iterator[list[str]]:
    """Networks, a regularizer and an optimizer of one's own; return the options of a command that knows them."""
    files = {
        "model/bare.yaml": "_target_: bare_networks.Bare\nprotocol: 1\nlearning_rate: 0.1\n",
        "model/shrunk.yaml": "_target_: bare_networks.Shrunk\nlearning_rate: 0.1\nfactor: ${regularizer.shrink}\n",
        "regularizer/shrink.yaml": "shrink: ${half}\n",
        "optimizer/rprop.yaml": "_target_: torch.optim.Rprop\n_partial_: true\nlr: 0.01\n",
        "own.yaml": "defaults: [_self_, train]\nregularizer: {shrink: 0.0}\nhalf: 0.5\n",
    }
    for name, text in files.items():
        (tmp_path / "configs" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "configs" / name).write_text(text)
    (tmp_path / "bare_networks.py").write_text(
        "from torch import nn\n"
        "from rethinkgen.train.classifier import Classifier\n\n\n"
        "class Bare(Classifier):\n"
        "    def build(self, image_shape, num_classes):\n"
        "        return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))\n\n\n"
        "class Shrunk(Bare):\n"
        "    def __init__(self, *, factor, **keywords):\n"
        "        super().__init__(**keywords)\n"
    )
    yield ["--config-dir", str(tmp_path / "configs"), "--config-name", "own", "code=bare_networks"]
    sys.modules.pop("bare_networks", None)


NO_MODEL = [item for item in TINY if not item.startswith("model")]


def test_in_a_grid_a_regularizer_that_does_not_act_is_a_row_that_says_so(
    own_configs: list[str], train: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = ["model=bare,shrunk", "regularizer=[],[dropout],[shrink]", "max_steps=2", "hydra/launcher=basic"]
    with pytest.raises(SystemExit):
        train("-m", *own_configs, *NO_MODEL, *grid)
    results = [read_result(path.parent) for path in tmp_path.glob("multirun/runs/*/result.json")]
    trained = {(result["choices"]["model"], *result["choices"]["regularizer"]) for result in results}
    assert trained == {("bare",), ("shrunk",), ("shrunk", "shrink")}
    told = " ".join(capsys.readouterr().out.split())
    assert "regularizer=[dropout]: bare has no dropout layer, so that it does not act: set regularizer=[]" in told
    assert "regularizer=[dropout]: shrunk has no dropout layer" in told
    assert "regularizer.shrink=0.5 does not act here: nothing in this config reads it. Set regularizer=[]" in told


def test_weight_decay_with_an_optimizer_that_has_none_is_refused_without_torch(
    own_configs: list[str],
    train: Command,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "rethinkgen.run.training", None)
    with pytest.raises(SystemExit):
        train(*own_configs, *TINY, "optimizer=rprop", "regularizer=[weight_decay]")
    assert "regularizer.weight_decay=0.0005 does not act here" in capsys.readouterr().err
    assert list(tmp_path.glob("multirun/*/*")) == []


class _Within(MLP):
    """Draws dropout in ``forward``."""

    def build(self, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        return nn.Sequential(nn.Flatten(), nn.Linear(64, num_classes))

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(nn.functional.dropout(images, self.dropout, self.training))
        return logits


class _Bare(_Within):
    """Draws none."""

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.network(images)
        return logits


@pytest.mark.parametrize(("kind", "has"), [(MLP, True), (_Within, True), (_Bare, False)])
def test_a_network_tells_whether_it_has_a_place_for_dropout(kind: type[Classifier], has: bool) -> None:
    assert kind(image_shape=(1, 8, 8), num_classes=10, dropout=0.5).has_dropout == has


def prepared(datamodule: CorruptedImages) -> CorruptedImages:
    datamodule.setup()
    return datamodule


def test_augmentation_of_images_that_are_all_replaced_is_refused() -> None:
    some, none = (
        prepared(NoisyInputs(Digits(), fraction=fraction, flip=True, rotation=5, num_train=200))
        for fraction in (0.5, 1)
    )
    before = torch.random.get_rng_state()
    some.check_regularizers_act()
    assert torch.equal(torch.random.get_rng_state(), before)
    with pytest.raises(ValueError, match=r"regularizer=\[flip, rotation\]: NoisyInputs leaves nothing of the images"):
        none.check_regularizers_act()
    prepared(NoisyInputs(Digits(), fraction=1, mixup=1.0, num_train=200)).check_regularizers_act()


def test_a_batch_of_one_has_nothing_to_mix_with() -> None:
    alone, in_pairs = (prepared(TrueLabels(Digits(), batch_size=size, num_train=20, mixup=1.0)) for size in (1, 2))
    with pytest.raises(ValueError, match=r"regularizer\.mixup=1\.0: batches of one image"):
        alone.check_regularizers_act()
    in_pairs.check_regularizers_act()


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["data.corruption=gaussian", "regularizer=[flip]"], "regularizer=[flip]: Gaussian leaves nothing"),
        (["data.batch_size=1", "regularizer=[mixup]"], "regularizer.mixup=1.0: batches of one"),
    ],
)
def test_what_only_the_data_tell_is_refused_before_training(
    train: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str], overrides: list[str], said: str
) -> None:
    with pytest.raises(SystemExit):
        train(*TINY, *overrides)
    assert said in capsys.readouterr().err
    assert list(tmp_path.glob("multirun/*/*")) == []


def test_a_grid_over_choices_that_all_have_a_key_takes_one_value_of_it(
    train: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = ["data.corruption=asymmetric_labels,partial_labels", "data.corruption.probability=0.3"]
    train("-m", *TINY, *grid, "max_steps=1", "data.num_train=50", "data.batch_size=50", "hydra/launcher=basic")
    configs = [read_result(path.parent)["config"] for path in tmp_path.glob("multirun/runs/*/result.json")]
    assert [config["data"]["corruption"]["probability"] for config in configs] == [0.3, 0.3]
    assert len({config["data"]["corruption"]["_target_"] for config in configs}) == 2
    (noted,) = (tmp_path / "multirun/runs/commands.txt").read_text().splitlines()
    assert "choice(0.3)" not in noted + capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "left"),
    [
        ("train.py -m model=a,b model.width=64 seed=1", "train.py -m model=a,b model.width=choice(64) seed=1"),
        (
            "train.py --multirun model.width=64 --config-dir x",
            "train.py --multirun model.width=choice(64) --config-dir x",
        ),
        ("train.py model.width=64 hydra.mode=MULTIRUN", "train.py model.width=choice(64) hydra.mode=MULTIRUN"),
        ("train.py model.width=64", None),
        ("train.py -m model.width=choice(64)", None),
    ],
)
def test_only_of_a_sweep_is_a_value_left_to_the_cells(arguments: str, left: str | None) -> None:
    message = "Could not override 'model.width'.\nTo append to your config use +model.width=64"
    found = _left_to_cells(arguments.split(" "), message, CONF)
    assert (None if found is None else " ".join(found)) == left
    assert _left_to_cells(["train.py", "-m", "lr=1"], message.replace("model.width=64", "lr=1"), CONF) is None


def test_a_grid_over_choices_of_which_one_lacks_the_key_is_refused_whole(
    train: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        train("-m", *TINY, "data.corruption=partial_labels,none", "data.corruption.probability=0.3")
    assert (
        "Error: data.corruption.probability=0.3: the chosen data.corruption has no such key" in capsys.readouterr().err
    )
    assert list(tmp_path.glob("multirun/*/*/result.json")) == []


def test_what_is_refused_leaves_the_command_line_as_it_was(train: Command, capsys: pytest.CaptureFixture[str]) -> None:
    for refused in (["lr=0.1"], ["+lr=0.1"], ["-m", "+lr=0.1,0.2"], ["trainer=mps"], ["-m", "+hydra.launcher.n_job=2"]):
        with pytest.raises(SystemExit) as end:
            train(*TINY, *refused)
        assert end.value.code == 1
        told = capsys.readouterr().err
        assert "Traceback" not in told
        assert (
            "Did you mean model.learning_rate=0.1" in told or "trainer=mps: Apple's" in told or "n_job: there" in told
        )
