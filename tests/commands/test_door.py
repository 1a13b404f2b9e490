"""``rethinkgen VERB ...``, in this process as in one of its own. From a built wheel: ``tests/test_wheel.py``."""

from __future__ import annotations

import contextlib
import os
import shlex
import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import entry_points, version
from pathlib import Path

import pytest

from conftest import ROOT, TINY, Command
from rethinkgen import configs
from rethinkgen.commands import door

CONSOLE = str(Path(sys.executable).with_name("rethinkgen"))

Call = Callable[..., tuple[int, str, str]]


@pytest.fixture
def call(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Call ``rethinkgen`` with arguments; return its exit code and what it printed."""
    monkeypatch.setenv("PATH", str(Path(CONSOLE).parent), prepend=os.pathsep)
    monkeypatch.delenv("UV_RUN_RECURSION_DEPTH", raising=False)

    def run(*arguments: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", [CONSOLE, *arguments])
        capsys.readouterr()
        code: int | str | None = 0
        try:
            code = door.main()
        except SystemExit as error:
            code = error.code
        printed = capsys.readouterr()
        return int(code or 0), printed.out, printed.err

    return run


@pytest.fixture
def in_a_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)


def test_it_is_what_pip_installs() -> None:
    (installed,) = entry_points(group="console_scripts", name="rethinkgen")
    assert installed.load() is door.main
    assert Path(CONSOLE).exists()


@pytest.mark.parametrize("arguments", [[], ["--help"], ["-h"], ["help"]])
def test_alone_it_names_its_verbs(arguments: list[str], call: Call) -> None:
    code, said, _ = call(*arguments)
    assert code == 0
    assert all(f"rethinkgen {verb} " in said for verb in door.VERBS)


def test_its_version(call: Call) -> None:
    assert call("--version") == (0, f"rethinkgen {version('rethinkgen')}\n", "")


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (
            ["trian"],
            ["rethinkgen trian: there is no such verb", "Did you mean rethinkgen train?", "train, measure, report"],
        ),
        (["figure"], ["there is no such verb. There are train, measure, report"]),
        (["model=mlp", "seed=1"], ["The verb comes first: rethinkgen train model=mlp."]),
        (["-m", "seed=1,2"], ["The verb comes first: rethinkgen train -m."]),
    ],
)
def test_another_word_is_told_what_there_is(arguments: list[str], said: list[str], call: Call) -> None:
    code, printed, error = call(*arguments)
    assert (code, printed) == (2, "")
    for part in said:
        assert part in error


def test_help_and_verbs_are_light(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom rethinkgen.commands import door\nsys.argv = ['rethinkgen', *sys.argv[1:]]\n"
        "try:\n    door.main()\nexcept SystemExit:\n    pass\n"
        "print([name for name in ('hydra', 'torch', 'matplotlib', 'pandas') if name in sys.modules])"
    )
    for words, imported in (([], "[]"), (["report", "--help"], "['hydra']"), (["train", "--help"], "['hydra']")):
        ended = subprocess.run([sys.executable, "-c", program, *words], cwd=tmp_path, capture_output=True, text=True)
        assert ended.stdout.splitlines()[-1] == imported, (words, ended.stderr)


def test_a_clone_has_its_own_configs() -> None:
    assert configs.folder() == ROOT / "conf"


def test_what_it_trains_is_what_train_py_does(call: Call, train: Command, tmp_path: Path) -> None:
    run = [*TINY, "max_steps=5", "data.corruption=random_labels"]
    with contextlib.chdir(tmp_path):
        code, _, error = call("train", *run, "results_dir=here")
    assert code == 0, error
    (folder,) = (tmp_path / "here" / "runs").iterdir()
    assert folder.name == train(*run).name
    assert sorted(path.name for path in folder.iterdir()) == sorted(path.name for path in train(*run).iterdir())
    assert "rethinkgen train model=mlp_1x512" in (folder / "train.log").read_text()
    assert "rethinkgen train" not in (train(*run) / "train.log").read_text()


@pytest.mark.usefixtures("in_a_folder")
def test_printed_commands_are_those_that_were_typed(call: Call) -> None:
    words = ["-m", "hydra/launcher=basic", *TINY, "max_steps=5", "results_dir=my runs"]
    _, said, _ = call("train", *words, "data.crop=100,8")
    *_, again = [line.strip() for line in said.splitlines() if line.startswith("  rethinkgen ")]
    assert again == shlex.join(["rethinkgen", "train", *words, "data.crop=100,8"])
    code, said, _ = call("train", *words, "data.crop=8")
    assert code == 0
    *_, report = [line.strip() for line in said.splitlines() if line.startswith("  rethinkgen ")]
    assert report == "rethinkgen report 'my runs/runs'"
    code, said, error = call(*shlex.split(report)[1:])
    assert (code, error) == (0, "")
    page = Path("my runs/runs/report/index.html").read_text()
    assert "rethinkgen report" in page
    assert "rethinkgen train -m hydra/launcher=basic" in page
    assert ".py " not in page.partition("<body")[2]
    _, _, error = call("train", "+experiment=zhang2017/figure_1b")
    assert "rethinkgen train -m +experiment=zhang2017/figure_1b" in error
    _, _, error = call("report")
    assert "rethinkgen report multirun/NAME" in error


@pytest.mark.usefixtures("in_a_folder")
@pytest.mark.parametrize("option", [["--config-path", "mine"], ["--config-path=mine"], ["-cp=mine"]])
def test_a_path_of_configs_is_looked_for_where_the_command_is_typed(option: list[str], call: Call) -> None:
    Path("mine").mkdir()
    Path("mine/own.yaml").write_text("colour: red\n")
    assert call("train", *option, "--config-name", "own", "--cfg", "job") == (0, "colour: red\n", "")


@pytest.mark.parametrize(
    ("line", "offered"),
    [
        ("rethinkgen ", {"train", "measure", "report", "find-label-errors"}),
        ("rethinkgen re", {"train", "measure", "report", "find-label-errors"}),  # bash takes some
        ("rethinkgen train data.corruption=random_l", {"data.corruption=random_labels"}),
        ("  rethinkgen  train -m model=mlp", {f"model=mlp{size}" for size in ("", "_1x512", "_2x4096", "_3x512")}),
        ("rethinkgen measure multirun/runs trainer=c", {"trainer=cpu"}),
        ("rethinkgen report multi", set()),
        ("rethinkgen trian model=", set()),
    ],
)
def test_a_shell_is_told_what_a_word_may_become(
    line: str, offered: set[str], call: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COMP_LINE", line)
    code, said, error = call("-sc", "query=bash")
    assert (code, error) == (0, "")
    assert set(said.split()) == offered


def test_bash_takes_what_installs_completion(call: Call, tmp_path: Path) -> None:
    _, script, _ = call("-sc", "install=bash")
    program = (
        f"{script}\n"
        'COMP_LINE="rethinkgen train model=alex" COMP_WORDS=(rethinkgen train model=alex) COMP_CWORD=2\n'
        'COMP_POINT=${#COMP_LINE}\nhydra_bash_completion\necho "${COMPREPLY[@]}"'
    )
    ended = subprocess.run(["bash", "-c", program], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert ended.stdout == "model=alexnet\n", ended.stderr
