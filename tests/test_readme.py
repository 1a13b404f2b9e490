"""The commands of README and of docs/ are run, README's own network trains, tables name what is there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import numpy as np
import pytest
from hydra import compose, initialize_config_dir

from conftest import ROOT, Command, command_line

README = (ROOT / "README.md").read_text()
PAGES = {path.relative_to(ROOT).as_posix(): path.read_text() for path in [ROOT / "README.md", *ROOT.glob("docs/*.md")]}
OF_TRAIN = re.compile(r"^(?:(?:uv run|python) train\.py|rethinkgen train)(.*?)(?:\s+#.*)?$", flags=re.MULTILINE)
# What docs/own_code.md has its reader write and type, tests/docs/test_page_on_own_code.py does.
COMMANDS = sorted(
    {
        command.strip()
        for page, text in PAGES.items()
        if page != "docs/own_code.md"
        for command in OF_TRAIN.findall(text)
    }
)
OWN_FILES = dict(re.findall(r"```(?:python|yaml)\n# ([\w./]+)\n(.*?)```", README, flags=re.DOTALL))
"""Path -> content of what README has its reader write."""
# Everything that a reader would wait for is cut to a few steps of a small part of the data.
SHORT = ["max_steps=2", "threads=1", "logger=none", "data.num_train=256"]


@pytest.mark.parametrize("command", COMMANDS)
def test_command(
    command: str,
    train: Command,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = shlex.split(command)
    for name, content in OWN_FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    if words == ["--help"]:
        pytest.skip("tests/run/test_entry.py runs it")
    if any(word.startswith("+experiment=") for word in words):
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
    if "debug=true" in words:
        monkeypatch.chdir(tmp_path)
        command_line(*words, *SHORT, "trainer=cpu")
        assert "nothing is kept" in capsys.readouterr().out
        return
    if left_out := [word for word in words if word.startswith("data.exclude=")]:
        # What the lines above it on the page leave: a list of examples, and finished runs of the same data.
        monkeypatch.chdir(tmp_path)
        np.save("hard.npy", np.arange(20))
        train(*(word for word in words if word not in left_out), *SHORT, "trainer=cpu", "sweep=whole")
    has_trainer = any(word.startswith("trainer=") for word in words)
    folder = train(*words, *SHORT, *([] if has_trainer else ["trainer=cpu"]))
    assert (folder / "metrics.csv").exists()


def test_there_are_commands() -> None:
    assert len(COMMANDS) >= 35
    assert len(OF_TRAIN.findall(README)) >= 4
    assert set(OWN_FILES) == {"my_net.py", "my_conf/model/my_net.yaml"}


def test_readme_is_for_somebody_with_two_minutes() -> None:
    assert len(README.splitlines()) <= 170
    assert {page for page in PAGES if page.startswith("docs/") and page not in README} == set(), "each is linked"


@pytest.mark.parametrize(
    "group", ["data", "data.corruption", "model", "regularizer", "loss", "optimizer", "schedule", "trainer", "logger"]
)
def test_table_of_choices(group: str) -> None:
    (row,) = re.findall(rf"^\| `{re.escape(group)}` \| (.*) \|$", PAGES["docs/grid.md"], flags=re.MULTILINE)
    named = set(re.findall(r"`([\w]+)`", row))
    assert named == {path.stem for path in (ROOT / "conf" / group).glob("*.yaml")}


def test_links_and_files_exist() -> None:
    for page, text in {**PAGES, "CONTRIBUTING.md": (ROOT / "CONTRIBUTING.md").read_text()}.items():
        for target in re.findall(r"\]\(([^)h][^)#]*)", text):
            assert ((ROOT / page).parent / target).exists(), (page, target)


def test_no_placeholder_is_left() -> None:
    for page, text in PAGES.items():
        assert not re.findall(r"\b(RESULT_DEFAULT|SEEN|SPEED|TODO|FIXME)\b", text), page
