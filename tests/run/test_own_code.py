"""A package of the user's own: opened by the command alone, for every process that it starts."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from conftest import PATIENCE_SECONDS, TINY, Command, read_result
from rethinkgen.run import own_code
from rethinkgen.run.build import build

OWN = """
import os
from torch import nn
from torch.optim import SGD
from rethinkgen.model.mlp import MLP

class MyNet(MLP):
    def build(self, image_shape, num_classes):
        return nn.Sequential(nn.Flatten(), nn.Linear(image_shape[0] * image_shape[1] * image_shape[2], num_classes))

class Mistaken(MLP):
    def __init__(self, colour):
        super().__init__(within=colour)

class NoNet(nn.Module):
    pass

def falling(step, total_steps):
    return 1 - step / total_steps

def none_of_these(step):
    return 1.0
"""


@pytest.fixture
def own_package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A package in the current folder, whose name no other test's has: Python keeps what it has imported."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delenv(own_code.VARIABLE, raising=False)
    package = f"mine_{abs(hash(tmp_path)):x}"
    (tmp_path / package).mkdir()
    (tmp_path / package / "__init__.py").write_text("from .nets import MyNet\n")
    (tmp_path / package / "nets.py").write_text(OWN)
    return package


def test_own_code_is_built_where_its_package_is_opened(own_package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for target in (f"{own_package}.nets.MyNet", f"{own_package}.MyNet"):
        with pytest.raises(ValueError, match=rf"opened by the command: code={own_package}$"):
            build({"_target_": target}, "model")
    assert own_package not in sys.modules
    assert os.getcwd() not in sys.path
    # The variable may stand in a shell's profile beside others.
    monkeypatch.setenv(own_code.VARIABLE, f"another, {own_package}")
    assert type(build({"_target_": f"{own_package}.nets.MyNet"}, "model")).__name__ == "MyNet"
    assert type(build({"_target_": f"{own_package}.MyNet"}, "model")).__name__ == "MyNet"
    assert build({"_target_": f"{own_package}.nets.falling"}, "schedule")(1, 4) == 0.75
    assert sys.path[-1] == os.getcwd(), "nothing in it may take the place of what is installed"


@pytest.mark.parametrize(
    ("key", "name"),
    [
        ("model", "nets.NoNet"),
        ("model", "nets.nn.Module"),
        ("model", "nets.falling"),
        ("model", "nets.Missing"),
        ("schedule", "nets.none_of_these"),
        ("schedule", "nets.MyNet"),
        ("optimizer", "nets.SGD"),
        ("optimizer", "nets.MyNet"),
        ("data.source", "nets.MyNet"),
        ("data.corruption", "nets.MyNet"),
        ("trainer", "nets.MyNet"),
        ("logger", "nets.os.mkdir"),
    ],
)
def test_own_code_must_be_of_the_kind(own_package: str, monkeypatch: pytest.MonkeyPatch, key: str, name: str) -> None:
    monkeypatch.setenv(own_code.VARIABLE, own_package)
    with pytest.raises(ValueError, match=rf"{key}\._target_={own_package}\.{name}(:| is none:| does not exist:) "):
        build({"_target_": f"{own_package}.{name}"}, key)


def test_what_is_not_in_own_code_is_told_with_what_is(own_package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(own_code.VARIABLE, own_package)
    has = rf"is wanted here; {own_package}\.nets has Mistaken, MyNet\.$"
    with pytest.raises(ValueError, match=rf"nets\.MyNett does not exist: a network \(a subclass of Classifier\) {has}"):
        build({"_target_": f"{own_package}.nets.MyNett"}, "model")
    with pytest.raises(ValueError, match=rf"nets\.NoNet is none: a network .* {has}"):
        build({"_target_": f"{own_package}.nets.NoNet"}, "model")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import no_such_library\n", r"broken\.py, line 1: ModuleNotFoundError: No module named 'no_such_library'"),
        ("\nclass MyNet(:\n", r"broken\.py, line 2: SyntaxError: invalid syntax"),
        ("\n\n1 / 0\n", r"broken\.py, line 3: ZeroDivisionError: division by zero"),
        ("from .nets import Gone\n", r"broken\.py, line 1: ImportError: cannot import name 'Gone'"),
        (None, r"there is no mine_\w+\.broken, neither installed nor in /"),
    ],
)
def test_own_code_that_is_broken_is_told_with_file_and_line(
    own_package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, said: str
) -> None:
    monkeypatch.setenv(own_code.VARIABLE, own_package)
    if text is not None:
        (tmp_path / own_package / "broken.py").write_text(text)
    with pytest.raises(ValueError, match=rf"^model\._target_={own_package}\.broken\.MyNet: .*{said}"):
        build({"_target_": f"{own_package}.broken.MyNet"}, "model")


def test_a_file_of_ones_own_beside_nothing_else(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "lone_file.py").write_text(OWN)
    with own_code.opening(own_code.asked_for(["seed=1", "code=lone_file"])):
        assert build({"_target_": "lone_file.falling"}, "schedule")(1, 2) == 0.5
        assert own_code.opened() == ["lone_file"]
    assert own_code.opened() == []


@pytest.mark.parametrize("package", ["os", "subprocess", "rethinkgen", "my package", "../mine", "mine.py/x", "a..b"])
def test_what_cannot_be_ones_own_is_not_opened(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(own_code.VARIABLE, raising=False)
    with pytest.raises(ValueError, match="the name of a package or module of your own is needed"):
        own_code.asked_for([f"code='{package}'"])
    monkeypatch.setenv(own_code.VARIABLE, package)
    with pytest.raises(ValueError, match=own_code.VARIABLE):
        own_code.opened()


def test_what_is_typed_into_a_notebook_is_to_be_written_into_a_file() -> None:
    with pytest.raises(ValueError, match=r"code=__main__: .*%%writefile my_code\.py in a notebook: code=my_code"):
        own_code.asked_for(["code=__main__"])


def test_a_command_opens_several_by_a_list_and_a_sweep_chooses_none(monkeypatch: pytest.MonkeyPatch) -> None:
    assert own_code.asked_for(["-m", "code=[one,two.nets]", "+code=three"]) == ["three"]
    assert own_code.asked_for(["-m", "code=[one,two.nets]"]) == ["one", "two.nets"]
    assert own_code.asked_for(["code=null", "--help", "codes=x"]) == []
    with pytest.raises(ValueError, match=r"code=one,two: .*'code=\[a,b\]'"):
        own_code.asked_for(["-m", "code=one,two"])
    monkeypatch.setenv(own_code.VARIABLE, "before")
    with own_code.opening(["one", "before"]):
        assert own_code.opened() == ["before", "one"]
        assert sys.path[-1] == os.getcwd()
    assert own_code.opened() == ["before"]


def test_a_command_opens_a_package_and_a_config_file_does_not(
    train: Command, own_package: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    mine = [*TINY, "max_steps=5", f"model._target_={own_package}.MyNet"]
    with pytest.raises(SystemExit):
        train(*mine)
    assert f"code={own_package}" in capsys.readouterr().err
    (tmp_path / "configs" / "experiment").mkdir(parents=True)
    (tmp_path / "configs" / "experiment" / "found.yaml").write_text(f"# @package _global_\ncode: {own_package}\n")
    with pytest.raises(SystemExit):
        train(*mine, "--config-dir", str(tmp_path / "configs"), "+experiment=found")
    assert f"code='{own_package}' stands in a config file, which opens nothing" in capsys.readouterr().err
    assert own_package not in sys.modules
    opened = read_result(train(*mine, f"code={own_package}"))
    assert opened["metrics"]["num_parameters"] == 65 * 10
    assert opened["run_id"] == read_result(train(*mine, f"code={own_package}", "seed=0"))["run_id"]
    assert os.environ.get(own_code.VARIABLE) is None


def test_a_job_of_the_pool_and_its_rank_of_ddp_have_what_the_command_opened(
    own_package: str, start: Callable[..., BaseProcess], tmp_path: Path
) -> None:
    command = ["-m", *TINY, "trainer=ddp_cpu", "max_steps=5", "sweep=own", f"results_dir={tmp_path}/multirun"]
    ended = start(*command, f"model._target_={own_package}.nets.MyNet", f"code={own_package}")
    ended.join(PATIENCE_SECONDS)
    assert ended.exitcode == 0, (tmp_path / "output.txt").read_text()
    (found,) = tmp_path.glob("multirun/own/*/result.json")
    result = read_result(found.parent)
    assert result["world_size"] == 2
    assert set(result["code"]) == {own_package}, "a digest of its source"


def test_what_is_wrong_within_is_told_with_its_line(own_package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(own_code.VARIABLE, own_package)
    with pytest.raises(ValueError, match=r"nets\.py, line \d+: TypeError: .* unexpected keyword argument 'within'"):
        build({"_target_": f"{own_package}.nets.Mistaken", "colour": "red"}, "model")
