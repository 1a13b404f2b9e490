"""A regularizer of one's own, outside the package: a class and a YAML with ``--config-dir``."""

from __future__ import annotations

import json
from pathlib import Path

import pandas as pd
import pytest
import torch

from conftest import TINY, Command, read_result
from rethinkgen.run import own_code
from rethinkgen.run.build import build

CODE = """
class SmallLogits:
    def __init__(self, strength):
        self.strength = strength

    def __call__(self, network, logits, labels):
        return self.strength * logits.square().mean()


class Darker:
    def __init__(self, factor):
        self.factor = factor

    def __call__(self, batch, network):
        return batch._replace(images=batch.images * self.factor)


class Neither:
    def __call__(self, network):
        return 0
"""


@pytest.fixture
def own(tmp_path: Path) -> list[str]:
    """Options of the command: regularizers ``small_logits`` and ``darker`` in a folder and a module of one's own."""
    (tmp_path / "my_regularizers.py").write_text(CODE)
    group = tmp_path / "my_conf" / "regularizer"
    group.mkdir(parents=True)
    for name, kind, key in (("small_logits", "SmallLogits", "strength"), ("darker", "Darker", "factor")):
        (group / f"{name}.yaml").write_text(f"{name}: {{_target_: my_regularizers.{kind}, {key}: 0.5}}\n")
    return ["--config-dir", "my_conf", "code=my_regularizers", *TINY, "max_steps=40"]


def test_a_class_and_a_yaml_are_a_regularizer(train: Command, own: list[str]) -> None:
    plain = train(*own)
    small = train(*own, "regularizer=[small_logits]")
    both = train(*own, "regularizer=[darker,small_logits]")
    assert read_result(small)["choices"]["regularizer"] == ["small_logits"]
    assert read_result(both)["choices"]["regularizer"] == ["darker", "small_logits"]
    assert "-small_logits-" in small.name
    assert len({plain.name, small.name, both.name}) == 3
    weights = [
        torch.load(folder / "weights" / "end.pt", weights_only=True)["network.1.weight"]
        for folder in (plain, small, both)
    ]
    assert weights[1].norm() < weights[0].norm()
    assert not torch.equal(weights[1], weights[2])
    # Its parameter is a part of the run; what it is called with is in the result.
    stronger = train(*own, "regularizer=[small_logits]", "regularizer.small_logits.strength=2")
    assert stronger.name != small.name
    assert "my_regularizers" in read_result(small)["code"]


def test_a_grid_over_it_is_a_table_of_runs(train: Command, own: list[str], tmp_path: Path) -> None:
    train("-m", "hydra/launcher=basic", *own, "regularizer=[],[small_logits]")
    summary = pd.read_csv(tmp_path / "multirun" / "runs" / "summary.csv")
    assert sorted(summary["regularizer"].fillna("none")) == ["none", "small_logits"]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("+regularizer.x={_target_: my_regularizers.Neither}", "regularizer (a class whose objects take"),
        ("+regularizer.x={_target_: torch.nn.Dropout}", "regularizer (a class whose objects take"),
        ("+regularizer.x={_target_: my_regularizers.Darker, factor: 2}", "only one can act"),
        ("+regularizer.x={_target_: my_regularizers.SmallLogits}", "strength"),
    ],
)
def test_what_is_none_is_refused_before_training(
    train: Command, own: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str], given: str, said: str
) -> None:
    with pytest.raises(SystemExit):
        train(*own, "regularizer=[darker]", given)
    assert said in capsys.readouterr().err
    assert not [json.loads(path.read_text()) for path in tmp_path.glob("multirun/*/*/status.json")]


def test_nothing_but_a_regularizer_is_built_within_one(
    own: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with own_code.opening(["my_regularizers"]):
        for attack in ({"_target_": "os.mkdir", "path": "canary"}, {"_target_": "torch.nn.Linear", "in_features": 1}):
            for inside in (attack, [attack], {"deep": [{"er": attack}]}):
                with pytest.raises(ValueError, match=r"^regularizer\.strength"):
                    build({"_target_": "my_regularizers.SmallLogits", "strength": inside}, "regularizer")
        for trick in ({"_args_": [1]}, {"_partial_": True}, {"_execution_whitelist_": ["*"]}):
            with pytest.raises(ValueError, match=rf"^regularizer\.{next(iter(trick))}"):
                build({"_target_": "my_regularizers.SmallLogits", "strength": 1, **trick}, "regularizer")
    assert not (tmp_path / "canary").exists()
