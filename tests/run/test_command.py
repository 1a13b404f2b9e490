"""Every command that is printed runs as it stands, from where it was printed."""

from __future__ import annotations

import contextlib
import os
import runpy
import shlex
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from conftest import ROOT, TINY, read_result
from rethinkgen.run import command
from rethinkgen.run.command import (
    command_here,
    command_line,
    first_cell_shown,
    is_sweep,
    noted_command,
    options_of_configs,
    other_command,
    program,
    train_command,
    typed,
)


def test_a_command_is_quoted_for_a_shell() -> None:
    command = train_command(["regularizer=[flip,rotation]", "model=mlp_1x512"])
    assert command == "python train.py 'regularizer=[flip,rotation]' model=mlp_1x512"


def test_a_run_of_an_experiment_needs_m() -> None:
    assert train_command(["+experiment=zhang2017/table_1"]) == "python train.py -m +experiment=zhang2017/table_1"


def test_what_says_where_configs_are_is_kept_and_how_a_sweep_is_run_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "python", lambda: ["python"])
    arguments = ["-m", "seed=1", "-cd=my configs", "hydra/launcher=slurm", "--config-n", "mine", "hydra.sweep.dir=x"]
    more = ["hydra.searchpath=[file://a]", "+hydra.launcher.x=1", "rerun=true"]
    with typed(["../train.py"], [*arguments, *more]):
        ours = ["--config-name", "mine", "--config-dir", "my configs"]
        assert (program(), options_of_configs()) == (["../train.py"], ours)
        assert command_here(["seed=1"]) == shlex.join(
            ["python", "../train.py", *ours, "hydra.searchpath=[file://a]", "seed=1"]
        )
        assert "hydra.mode=RUN" in command_here(["+experiment=mine"])
        assert "rerun" not in command_line(leaving_out="rerun")
        assert "'-cd=my configs'" in command_line()
        assert is_sweep(arguments)
    assert command_here(["seed=1"]) == "python train.py seed=1"
    assert command_line(adding="-m") == "python train.py -m"


def test_the_interpreter_is_the_one_that_runs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("UV_RUN_RECURSION_DEPTH", raising=False)
    monkeypatch.chdir(tmp_path)
    bin_folder = tmp_path / ".venv" / "bin"
    bin_folder.mkdir(parents=True)
    for name in ("python", "wandb", "rethinkgen", "uv"):
        (bin_folder / name).symlink_to(sys.executable)
    monkeypatch.setattr(sys, "executable", str(bin_folder / "python3"))
    (bin_folder / "python3").symlink_to("python")
    monkeypatch.setattr(sys, "prefix", str(tmp_path / ".venv"))
    monkeypatch.setenv("PATH", "/nowhere")
    assert (command.python(), command.wandb()) == ([".venv/bin/python3"], [".venv/bin/wandb"])
    assert command.install_command("cmaes") == ".venv/bin/python3 -m pip install cmaes"
    monkeypatch.setenv("PATH", str(bin_folder))
    assert (command.python(), command.wandb()) == (["python"], ["wandb"])
    assert command.install_command("cmaes") == "uv pip install --python .venv/bin/python3 cmaes"
    assert command.install_command(extra="slurm").endswith(f" -e '{ROOT}[slurm]'")
    monkeypatch.setenv("UV_RUN_RECURSION_DEPTH", "1")
    assert (command.python(), command.wandb()) == (["uv", "run"], ["uv", "run", "wandb"])
    monkeypatch.chdir(ROOT)
    assert command.python() == [str(bin_folder / "python3")], "uv would find no project, or another"


def test_the_console_command_is_called_by_its_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("UV_RUN_RECURSION_DEPTH", raising=False)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bin").mkdir()
    (tmp_path / "tool").mkdir()
    for name in ("python", "rethinkgen"):
        (tmp_path / "tool" / name).touch(mode=0o755)
    monkeypatch.setattr(sys, "executable", str(tmp_path / "tool" / "python"))
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with typed([str(tmp_path / "tool" / "rethinkgen"), "train"], ["-m", "seed=0,1"]):
        assert command_line(adding="debug=true") == "tool/rethinkgen train debug=true -m seed=0,1"
        # As uv tool install and pipx have it.
        (tmp_path / "bin" / "rethinkgen").symlink_to(tmp_path / "tool" / "rethinkgen")
        assert command_line() == "rethinkgen train -m seed=0,1"
        assert command_here(["seed=1"]) == "rethinkgen train seed=1"
        assert other_command("report", ["multirun/my runs"]) == "rethinkgen report 'multirun/my runs'"
        (tmp_path / "bin" / "rethinkgen").unlink()
        assert (noted_command(), train_command([])) == ("rethinkgen train -m seed=0,1", "rethinkgen train")
    with typed([str(ROOT / "train.py")], []):
        assert str(other_command("report", [])).endswith("/report.py")
        assert other_command("brew", []) is None


# Typed.

Type = Callable[[str], list[str]]
"""Types a command where the first was typed, and returns the commands that it prints."""


@pytest.fixture
def type_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Type]:
    """Stand in a folder beside one of configs, far from ``train.py``, with a network of one's own."""
    (tmp_path / "my configs" / "model").mkdir(parents=True)
    (tmp_path / "my configs" / "mine.yaml").write_text("defaults: [train, _self_]\nmax_steps: 3000\nuntil_fit: true\n")
    (tmp_path / "my configs" / "model" / "own.yaml").write_text("_target_: own_network.Own\nlearning_rate: 0.1\n")
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "own_network.py").write_text(
        "from rethinkgen.model.mlp import MLP\n\n\nclass Own(MLP):\n    pass\n"
    )
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setattr(sys, "path", list(sys.path))

    def run(line: str) -> list[str]:
        interpreter, *arguments = shlex.split(line)
        assert Path(interpreter).name.startswith("python")
        monkeypatch.setattr(sys, "argv", arguments)
        capsys.readouterr()
        with contextlib.suppress(SystemExit):
            runpy.run_path(arguments[0], run_name="__main__")
        printed = capsys.readouterr()
        lines = (printed.out + printed.err).splitlines()
        return [line.strip() for line in lines if line.startswith("  ") and ".py" in line]

    yield run
    sys.modules.pop("own_network", None)


def test_printed_commands_are_typed_where_they_were_printed(type_it: Type, tmp_path: Path) -> None:
    script = os.path.relpath(ROOT / "train.py")
    options = ["--config-dir", "../my configs", "--config-name=mine", "code=own_network", "model=own"]
    quick = ["data.num_train=20", "data.batch_size=10", "results_dir=my results", "regularizer=[flip]", *TINY[2:5]]
    (following,) = type_it(shlex.join(["python", script, *options, *quick]))
    assert "random_labels" in following
    (following,) = type_it(following)
    assert following.endswith("report.py 'my results/runs'")

    grid = ["-m", "data.crop=100,8", "hydra/launcher=basic", "sweep=two"]
    *_, same = type_it(shlex.join(["python", script, *grid, *options, *quick, "rerun=true"]))
    assert "rerun" not in same
    assert type_it(same) == [same]
    results = [read_result(path.parent) for path in Path("my results").glob("*/*/result.json")]
    assert {result["config"]["model"]["_target_"] for result in results} == {"own_network.Own"}
    assert {result["config"]["max_steps"] for result in results} == {3000}
    chosen = [(result["sweep"], result["choices"]["data.corruption"]) for result in results]
    assert sorted(chosen) == [("runs", "none"), ("runs", "random_labels"), ("two", "none")]


@pytest.mark.parametrize(
    ("typed", "shown", "of_first"),
    [
        ("-m model=mlp,alexnet seed=range(2,5) max_steps=3 --cfg job", "model=mlp seed=2 max_steps=3 --cfg job",
         "model=mlp seed=2"),
        ("--multirun -c all 'data.root=a,b'", "-c all 'data.root=a'", "data.root=a"),
        ("-m seed=0,1", "-m seed=0,1", ""),
        ("seed=0 --cfg job", "seed=0 --cfg job", ""),
        ("-m --cfg job seed=(", "--cfg job seed=(", ""),
    ],
)  # fmt: skip
def test_a_sweep_whose_config_is_asked_for_shows_that_of_its_first_run(typed: str, shown: str, of_first: str) -> None:
    typed_words = [word.strip("'") for word in typed.split()]
    assert first_cell_shown(typed_words) == ([word.strip("'") for word in shown.split()], of_first.split())
