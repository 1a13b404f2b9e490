"""README's commands are run, its Python is executed, its tables name what is there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from hydra import compose, initialize_config_dir

from conftest import ROOT, Command, command_line

README = (ROOT / "README.md").read_text()
COMMANDS = re.findall(r"^(?:uv run|python) train\.py(.*?)(?:\s+#.*)?$", README, flags=re.MULTILINE)
# Everything that a reader would wait for is cut to a few steps of a small part of the data.
SHORT = ["max_steps=2", "threads=1", "logger=none", "data.num_train=256"]


@pytest.mark.parametrize("command", COMMANDS)
def test_command(command: str, train: Command, capsys: pytest.CaptureFixture[str]) -> None:
    words = shlex.split(command)
    if words == ["--help"]:
        pytest.skip("tests/run/test_entry.py runs it")
    if any(word.startswith("+experiment=zhang2017") for word in words):
        # tests/test_experiments.py runs them: here the first cell of what the command adds is composed.
        own = [word.split(",")[0] for word in words if word != "-m" and not word.startswith("hydra")]
        with initialize_config_dir(str(ROOT / "conf")):
            assert compose("train", overrides=own).model
        return
    if any(word.startswith(("data=", "hydra/launcher=slurm")) or word == "trainer=ddp" for word in words):
        # Other data than the embedded, GPUs, or a cluster: composed, not run, and of a grid the first cell.
        command_line(*(word.split(",")[0] for word in words if word != "-m"), "--cfg", "job")
        assert "_target_" in capsys.readouterr().out
        return
    has_trainer = any(word.startswith("trainer=") for word in words)
    folder = train(*words, *SHORT, *([] if has_trainer else ["trainer=cpu"]))
    assert (folder / "metrics.csv").exists()


def test_there_are_commands() -> None:
    assert len(COMMANDS) >= 8


def test_python(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (program,) = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)
    exec(compile(program, "README.md", "exec"), {})
    fit, test = map(float, re.findall(r"tensor\(([\d.]+)", capsys.readouterr().out))
    assert 0 < fit <= 1
    assert 0 < test <= 1


@pytest.mark.parametrize(
    "group", ["data", "data.corruption", "model", "regularizer", "optimizer", "schedule", "trainer"]
)
def test_table_of_choices(group: str) -> None:
    (row,) = re.findall(rf"^\| `{re.escape(group)}` \| (.*) \|$", README, flags=re.MULTILINE)
    named = set(re.findall(r"`([\w]+)`", row))
    assert named == {path.stem for path in (ROOT / "conf" / group).glob("*.yaml")}


def test_links_and_files_exist() -> None:
    for text in (README, (ROOT / "CONTRIBUTING.md").read_text()):
        for target in re.findall(r"\]\(([^)h][^)]*)\)", text):
            assert (ROOT / target).exists(), target


def test_no_placeholder_is_left() -> None:
    assert not re.findall(r"\b(RESULT_DEFAULT|SEEN|SPEED|TODO|FIXME)\b", README)
