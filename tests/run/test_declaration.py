"""What a model declares not to act on it: of a class of one's own in its YAML, as a user writes it."""

from __future__ import annotations

import csv
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast

import pytest
import torch
import yaml
from omegaconf import OmegaConf

from conftest import Command, read_result
from rethinkgen.commands.report import main as report
from rethinkgen.data.source import Digits
from rethinkgen.run import identity
from rethinkgen.run.declaration import check_declaration, with_fixed
from rethinkgen.train.evaluation import diverged

NEAREST_MEAN = '''
"""The class whose mean is nearest: a linear network computed in one pass over the training set."""

import torch
from torch import nn

from rethinkgen.train.classifier import Classifier


class NearestMean(Classifier):
    def build(self, image_shape, num_classes):
        return nn.Sequential(nn.Flatten(), nn.Linear(image_shape[0] * image_shape[1] * image_shape[2], num_classes))

    def configure_optimizers(self):
        return []

    @torch.no_grad()
    def training_step(self, batches, _block):
        (batch,) = batches
        images, labels = batch.images, batch.labels
        layer = self.network[1]
        for label in range(self.num_classes):
            mean = images[labels == label].flatten(1).mean(0)
            layer.weight[label], layer.bias[label] = 2 * mean, -mean.square().sum()
        self.count_steps(1)

    @property
    def own_metrics(self):
        return {"means/norm": float(self.network[1].weight.detach().norm()) / 2, "means/unknown": None}
'''
RIDGE = """
from rethinkgen.model.closed_form.kernel import KernelLinear


class Ridge(KernelLinear):
    pass
"""
DECLARES = {
    "how": "computed in one pass",
    "fixed": {
        "max_steps": 1,
        "max_epochs": None,
        "until_fit": False,
        "evaluate_every": 1,
        "log_every": 1,
        "optimizer": None,
        "schedule": None,
        "data": {"batch_size": "all"},
    },
    "regularizers": ["flip"],
}
QUICK = ["trainer=cpu", "logger=none", "threads=1", "data.num_train=20", "data.batch_size=10"]


@pytest.fixture
def own_model(tmp_path: Path) -> Iterator[list[str]]:
    """Write a model of one's own and its YAML; return the options of a command that knows both."""
    (tmp_path / "one_pass.py").write_text(NEAREST_MEAN)
    (tmp_path / "configs" / "model").mkdir(parents=True)
    node = {"_target_": "one_pass.NearestMean", "protocol": 1, "learning_rate": 0.1, "declares": DECLARES}
    (tmp_path / "configs" / "model" / "nearest_mean.yaml").write_text(yaml.safe_dump(node))
    yield ["--config-dir", str(tmp_path / "configs"), "code=one_pass"]
    sys.modules.pop("one_pass", None)


def test_a_model_of_ones_own_declares_and_stands_beside_networks(
    own_model: list[str], train: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    budget = ["max_steps=30", "optimizer.lr=0.05"]
    train("-m", *own_model, "model=nearest_mean,mlp_1x512", *QUICK, *budget, "hydra/launcher=basic", "sweep=both")
    told = " ".join(capsys.readouterr().out.split())
    assert "No effect on nearest_mean, which is computed in one pass: data.batch_size=10 max_steps=30" in told
    assert "No effect on mlp_1x512" not in told
    assert "nearest_mean: fit 100 %" in told
    assert "fitted, computed in one pass" in told

    folders = {read_result(path.parent)["choices"]["model"]: path.parent for path in tmp_path.rglob("result.json")}
    folder, result = folders["nearest_mean"], read_result(folders["nearest_mean"])
    metrics = result["metrics"]
    assert (result["reason"], metrics["steps"], metrics["epochs"]) == ("computed in one pass", 1, 1)
    assert (result["choices"]["optimizer"], result["choices"]["schedule"]) == (None, None)
    assert metrics["fit/accuracy"] == metrics["steps_to_fit"] == 1
    with (folder / "metrics.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert float(row["means/norm"]) == metrics["means/norm"] > 0
    assert metrics["means/unknown"] is None
    assert not {"means/unknown", "train/loss", "learning_rate"} & set(row)
    images, labels = (torch.from_numpy(part) for part in _shown(folder))
    weights = torch.load(folder / "weights" / "end.pt", weights_only=True)
    means = weights["network.1.weight"] / 2
    assert torch.cdist(images, means).argmin(1).tolist() == labels.tolist()
    assert read_result(folders["mlp_1x512"])["metrics"]["steps"] > 1

    report([str(tmp_path / "multirun" / "both")])
    table = (tmp_path / "multirun" / "both" / "report" / "index.html").read_text()
    assert "solved" in table


def _shown(folder: Path) -> Any:
    """Return the training images as the network saw them, and their labels."""
    from rethinkgen.data.corruption import TrueLabels

    datamodule = TrueLabels(Digits(), num_train=20, batch_size="all")
    datamodule.setup()
    train = datamodule.splits["train"]
    return train.inputs.flatten(1).numpy(), train.labels.numpy()


def test_regularizers_that_are_declared_act_and_others_are_refused(
    own_model: list[str], train: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    flipped = read_result(train(*own_model, "model=nearest_mean", *QUICK, "regularizer=[flip]"))
    assert flipped["choices"]["regularizer"] == ["flip"]
    with pytest.raises(SystemExit):
        train(*own_model, "model=nearest_mean", *QUICK, "regularizer=[flip,dropout]")
    said = "regularizer=[dropout]: nearest_mean is computed in one pass, where these do not act: set regularizer=[flip]"
    assert said in capsys.readouterr().err


def test_a_closed_form_of_ones_own_declares_so_by_name(
    train: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "own_ridge.py").write_text(RIDGE)
    mine = ["model=kernel_linear", "model._target_=own_ridge.Ridge", "model.l2=0.1", "code=own_ridge", *QUICK]
    with pytest.raises(SystemExit):
        train(*mine)
    assert (
        "model.declares: Ridge takes 1 step(s) whatever the budget, and its file declares max_steps: None"
        in capsys.readouterr().err
    )
    result = read_result(train(*mine, "+model.declares=closed_form"))
    assert (result["reason"], result["metrics"]["steps"]) == ("solved in closed form", 1)
    formerly = read_result(train(*mine, "+model.closed_form=true", "max_steps=3"))
    assert formerly["run_id"] == result["run_id"]
    sys.modules.pop("own_ridge", None)


def test_without_an_optimizer_no_learning_rate_is_advised() -> None:
    class Trained:
        initial_learning_rate = None

    error = diverged("loss on the training set", math.nan, 1, cast(Any, Trained()))
    assert str(error) == "the loss on the training set became nan at step 1."


def config(**model: Any) -> dict[str, Any]:
    return {
        "seed": 0,
        "max_steps": 500,
        "max_epochs": None,
        "data": {"batch_size": 128, "source": {"_target_": "rethinkgen.data.source.Digits"}},
        "model": {"_target_": "one_pass.NearestMean", "learning_rate": 0.1, **model},
        "optimizer": {"_target_": "torch.optim.SGD", "lr": 0.1},
        "regularizer": {"flip": False, "dropout": 0.0},
    }


def test_what_is_fixed_counts_and_what_it_stands_for_does_not() -> None:
    def run_id(max_steps: int = 500, **model: Any) -> str:
        return identity.run_id(config(**model) | {"max_steps": max_steps}, None)

    once = {"how": "computed in one pass", "fixed": {"max_steps": 1, "optimizer": None}}
    twice = {"how": "computed in two passes", "fixed": {"max_steps": 2, "optimizer": None}}
    assert run_id(declares=once) == run_id(7, declares=once) == run_id(declares=once | {"how": "in one look"})
    assert run_id(declares=once) != run_id(declares=twice)
    assert run_id() != run_id(7)
    # By name: former configs say so by another key.
    assert run_id(declares="closed_form") == run_id(7, closed_form=True) != run_id(7)


def test_nodes_that_do_not_act_compare_as_if_they_were_not_there() -> None:
    before = config(declares="closed_form")
    now = before | {"loss": {"_target_": "rethinkgen.train.loss.CrossEntropy"}}
    del before["optimizer"]
    assert identity.counted(before) == identity.counted(now)
    assert not {"loss", "optimizer"} & identity.counted(now).keys()


def test_what_is_fixed_stands_in_the_place_of_what_is_given() -> None:
    given = config(declares={"how": "x", "fixed": {"max_steps": 1, "optimizer": None, "data": {"batch_size": "all"}}})
    acting = with_fixed(OmegaConf.create(given), identity.declaration(given))
    assert (acting.max_steps, acting.optimizer, acting.data.batch_size) == (1, None, "all")
    assert acting.data.source == given["data"]["source"]
    # Keys of closed forms that this config has not are not put into it.
    of_ours = given | {"model": {"_target_": "rethinkgen.model.closed_form.kernel.KernelLinear"}}
    assert set(with_fixed(OmegaConf.create(of_ours), identity.declaration(of_ours))) == set(given)


def test_ours_declare_by_their_class_wherever_it_lies() -> None:
    for target in ("rethinkgen.model.kernel.KernelLinear", "rethinkgen.model.closed_form.kernel.KernelLinear"):
        assert not identity.takes_steps({"model": {"_target_": target}})
    assert identity.takes_steps({"model": {"_target_": "somebody.else.KernelLinear"}})
    assert identity.takes_steps({"model": {"_target_": "rethinkgen.model.mlp.MLP"}})


@pytest.mark.parametrize("malformed", [3, ["max_steps"], {"fixed": "all"}, {"fixed": {}, "regularizers": "flip"}])
def test_a_found_file_with_a_malformed_declaration_is_read(malformed: Any) -> None:
    assert identity.takes_steps(config(declares=malformed))
    assert len(identity.run_id(config(declares=malformed), None)) == identity.ID_LENGTH


@pytest.mark.parametrize(
    ("model", "said"),
    [
        ({"declares": "open_form"}, r"model\.declares='open_form': closed_form, or a mapping with how, fixed"),
        ({"closed_form": "perhaps"}, r"model\.closed_form='perhaps': closed_form, or a mapping"),
        ({"declares": {"fixed": {}}}, r"model\.declares: it has fixed, and needs how, fixed"),
        ({"declares": {"how": "x", "fixed": {}, "keys": 1}}, r"model\.declares: it has how, fixed, keys, and needs"),
        ({"declares": {"how": 3, "fixed": {}}}, r"model\.declares\.how=3: words are needed"),
        ({"declares": {"how": "x", "fixed": ["max_steps"]}}, r"model\.declares\.fixed=\['max_steps'\]: a mapping"),
        ({"declares": {"how": "x", "fixed": {"max_step": 1}}}, "fixed: max_step is no key of the config"),
        ({"declares": {"how": "x", "fixed": {"max_steps": 1}}}, "max_steps and max_epochs are one budget"),
        ({"declares": {"how": "x", "fixed": {"seed": 1}}}, "fixed: seed is no key of the config, or one that a run is"),
        ({"declares": {"how": "x", "fixed": {"data": {"source": None}}}}, r"fixed: data\.source is no key"),
        (
            {"declares": {"how": "x", "fixed": {}, "regularizers": ["flop"]}},
            r"regularizers=\['flop'\]: a list is needed, of some of flip, dropout",
        ),
        (
            {"_target_": "rethinkgen.model.mlp.MLP", "declares": {"how": "x", "fixed": {"max_steps": 1}}},
            r"MLP declares nothing by its class\. Leave the key out",
        ),
        (
            {"_target_": "rethinkgen.model.closed_form.kernel.KernelLinear", "declares": "x"},
            "KernelLinear declares closed_form by its class",
        ),
    ],
)
def test_a_declaration_that_cannot_be_kept_is_refused(model: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        check_declaration(config(**model))


def test_one_that_can_be_kept_is_not() -> None:
    check_declaration(config())
    check_declaration(config(declares="closed_form"))
    check_declaration(config(closed_form=True))
    check_declaration(config(_target_="rethinkgen.model.closed_form.kernel.KernelLinear", closed_form=True))
    check_declaration(config(declares={"how": "x", "fixed": {"optimizer": {"lr": 1}}, "regularizers": []}))
