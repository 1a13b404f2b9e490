"""Runs that Python starts from a composed config: those of the command line, whatever else the process does."""

from __future__ import annotations

import asyncio
import random
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf, open_dict

import rethinkgen
from conftest import ROOT, TINY, Command, read_result
from rethinkgen.errors import Interrupted
from rethinkgen.run import composed
from rethinkgen.run.description import typed_overrides
from rethinkgen.run.folder import RunFolder
from rethinkgen.run.process_state import leaving_process_as_it_is
from rethinkgen.run.run import Run

SHORT = [*TINY, "max_steps=5", "data.num_train=200"]


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def test_it_is_the_run_of_the_command_line_also_while_an_event_loop_runs(
    train: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    async def cell() -> Run:
        return rethinkgen.run_config(rethinkgen.compose(*SHORT, "data.corruption=partial_labels"))

    run = asyncio.run(cell())
    assert run.state == "done"
    assert run.metrics["steps"] == 5
    assert len(run.curves) > 0
    assert (run.path / "train.log").read_text().count("train.py model=mlp_1x512") == 1
    capsys.readouterr()
    assert train(*SHORT, "data.corruption=partial_labels") == run.path
    assert "was finished on" in capsys.readouterr().out
    assert list(run.path.parent.iterdir()) == [run.path]


def test_what_is_changed_after_composing_counts_and_is_told(train: Command) -> None:
    config = rethinkgen.compose(*SHORT)
    config.seed = 3
    config.data.crop = 6
    config.optimizer.momentum = 0.5
    run = rethinkgen.run_config(config)
    assert run.overrides == [*SHORT, "seed=3", "data.crop=6", "optimizer.momentum=0.5"]
    assert train(*run.overrides) == run.path
    assert config.seed == 3
    assert "seed=3" not in config.hydra.overrides.task


def test_a_changed_value_is_spelled_so_that_hydra_reads_it() -> None:
    values = [
        None,
        True,
        0.5,
        3,
        "plain",
        "with space",
        "a,b",
        "${seed}",
        'quo"te',
        [1, 2],
        ["a b", "c"],
        "true",
        "3",
        "",
        "Büro",
        "ähnlich",
        "C:\\images\\new",
        "ends\\",
        'back\\"quoted',
        "tab\there",
        ["ä", "a\\b"],
    ]
    config = rethinkgen.compose()
    config.data.name = "o'clock"
    with open_dict(config.data):
        del config.data["crop"]
        config.data.values_of_mine = {f"x{number}": value for number, value in enumerate(values)}
    again = rethinkgen.compose(*typed_overrides(composed._with_changes_told(config).hydra))
    assert OmegaConf.to_container(again.data, resolve=False) == OmegaConf.to_container(config.data, resolve=False)


def test_a_folder_of_ones_own_may_have_any_name(tmp_path: Path) -> None:
    own = tmp_path / "Büro, \\neu" / "model"
    own.mkdir(parents=True)
    (own / "tiny.yaml").write_text("_target_: rethinkgen.model.mlp.MLP\nwidth: 8\ndepth: 1\nlearning_rate: 0.1\n")
    config = rethinkgen.compose("logger=none", "max_steps=1", "model=tiny", config_dir=own.parent)
    assert config.model.width == 8
    assert rethinkgen.run_config(config).choices["model"] == "tiny"


def test_several_folders_of_ones_own_stand_in_the_command_that_is_proposed(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folders = [tmp_path / "first", tmp_path / "with, comma"]
    for folder, name in zip(folders, ("one", "two"), strict=True):
        (folder / "model").mkdir(parents=True)
        text = "_target_: rethinkgen.model.mlp.MLP\nwidth: 8\ndepth: 1\nlearning_rate: 0.1\n"
        (folder / "model" / f"{name}.yaml").write_text(text)
    searched = "hydra.searchpath=[" + ",".join(f'"file://{folder}"' for folder in folders) + "]"
    with initialize_config_dir(str(ROOT / "conf")):
        config = compose("train", overrides=[searched, *SHORT, "model=two"], return_hydra_config=True)
    config.fit_threshold = 0.0
    assert rethinkgen.run_config(config).choices["model"] == "two"
    proposed = capsys.readouterr().out
    assert all(str(folder) in "".join(proposed.splitlines()) for folder in folders)


def test_the_generators_of_gpus_are_left_as_they_were(monkeypatch: pytest.MonkeyPatch) -> None:
    torch.manual_seed(3)
    told: list[Any] = []
    monkeypatch.setattr(torch.cuda, "get_rng_state_all", lambda: ["as it was"])
    monkeypatch.setattr(torch.cuda, "set_rng_state_all", told.append)
    monkeypatch.setattr(torch.cuda, "manual_seed_all", told.append)
    for before in (True, False):
        monkeypatch.setattr(torch.cuda, "is_initialized", lambda before=before: before)
        with leaving_process_as_it_is():
            monkeypatch.setattr(torch.cuda, "is_initialized", lambda: True)
    assert told == [["as it was"], 3]


def test_hydras_own_compose_will_do_where_it_keeps_the_choices() -> None:
    with initialize_config_dir(str(ROOT / "conf")):
        bare = compose("train", overrides=SHORT)
        whole = compose("train", overrides=SHORT, return_hydra_config=True)
        run = rethinkgen.run_config(whole)
        assert OmegaConf.is_dict(compose("train")), "the one that is open stays open"
    assert run.choices["model"] == "mlp_1x512"
    with pytest.raises(ValueError, match="return_hydra_config=True"):
        rethinkgen.run_config(bare)


def test_generators_and_settings_of_the_process_are_left_as_they_were() -> None:
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)
    wanted = random.random(), np.random.rand(), torch.rand(1)
    random.seed(1)
    np.random.seed(2)
    torch.manual_seed(3)
    torch.use_deterministic_algorithms(False)
    threads = torch.get_num_threads()
    rethinkgen.run_config(rethinkgen.compose(*SHORT))
    assert (random.random(), np.random.rand(), torch.rand(1)) == wanted
    assert torch.get_num_threads() == threads
    assert not torch.are_deterministic_algorithms_enabled()


def test_a_run_of_another_thread(tmp_path: Path) -> None:
    found: list[Run] = []
    thread = threading.Thread(target=lambda: found.append(rethinkgen.run_config(rethinkgen.compose(*SHORT))))
    thread.start()
    thread.join()
    assert [run.state for run in found] == ["done"]


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["max_steps=abc"], "max_steps='abc'"),
        (["+experiment=zhang2017/table_1"], "this experiment brings a sweep"),
        (["data.batch_size=100000"], "data.batch_size=100000"),
        (["model._target_=my_net.MyNet"], r"opened by the command: code=my_"),
    ],
)
def test_what_is_refused_is_a_value_error_and_leaves_nothing(overrides: list[str], said: str, tmp_path: Path) -> None:
    config = rethinkgen.compose(*TINY, *overrides)
    with pytest.raises(ValueError, match=said):
        rethinkgen.run_config(config)
    assert not list(tmp_path.glob("multirun/*/*"))


@pytest.mark.parametrize("override", ["modle=mlp", "model=mpl", "model.widht=3", "data.corruption=random_label"])
def test_a_typo_is_a_value_error_when_it_is_composed(override: str) -> None:
    with pytest.raises(ValueError, match=r"(?s)mlp|model\.width|random_labels|There are"):
        rethinkgen.compose("model=mlp", override)
    with pytest.raises(ValueError, match="config_dir='nowhere'"):
        rethinkgen.compose(config_dir="nowhere")


def test_what_ends_it_is_noted_and_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ends = iter([Interrupted(2), Interrupted(15), RuntimeError("a bug")])

    def begun(folder: RunFolder, *_: object, **__: object) -> None:
        folder.write_status("running")
        raise next(ends)

    monkeypatch.setattr(composed, "take_up", begun)
    config: DictConfig = rethinkgen.compose(*SHORT)
    for kind, state in ((KeyboardInterrupt, "interrupted"), (SystemExit, "interrupted"), (RuntimeError, "failed")):
        with pytest.raises(kind):
            rethinkgen.run_config(config)
        (status,) = (RunFolder(path.parent).read_status() for path in tmp_path.glob("multirun/*/*/status.json"))
        assert status["state"] == state
    assert status["reason"] == "RuntimeError: a bug"


def test_own_code_that_was_changed_is_imported_again(tmp_path: Path) -> None:
    source = "from rethinkgen import MLP\nclass Mine(MLP):\n    def build(self, shape, num_classes):\n"
    source += "        self.told = {}\n        return super().build(shape, num_classes)\n"
    for name in ("configs/model", "multirun"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "configs/model/mine.yaml").write_text(
        "_target_: my_notebook.Mine\nlearning_rate: 0.05\nwidth: 8\ndepth: 1\n"
    )
    digests = []
    for number in (1, 20):
        (tmp_path / "my_notebook.py").write_text(source.format(number).replace("{}", str(number)))
        run = rethinkgen.run_config(
            rethinkgen.compose(*SHORT[2:], "model=mine", "code=my_notebook", f"seed={number}", config_dir="configs")
        )
        digests.append(read_result(run.path)["code"])
        assert f"told = {number}" in Path(sys.modules["my_notebook"].__file__ or "").read_text()
    assert run.choices["model"] == "mine"
    assert digests[0] != digests[1]
