"""The config where no run is made as usual: in a notebook, shown by --cfg, in a working folder of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.core.singleton import Singleton
from omegaconf import OmegaConf
from PIL import Image

from conftest import ROOT, TINY, Command, command_line, read_result
from rethinkgen.run.training import build_datamodule


@pytest.fixture
def notebook(monkeypatch: pytest.MonkeyPatch) -> None:
    """A process in which no command of Hydra's has run."""
    monkeypatch.delitem(Singleton._instances, HydraConfig, raising=False)


@pytest.mark.usefixtures("notebook")
def test_a_notebook_composes_and_resolves_everything() -> None:
    with initialize_config_dir(str(ROOT / "conf")):
        config = compose("train", overrides=["data.corruption=random_labels", "model=mlp_1x512"])
        in_experiment = compose("train", overrides=["+experiment=zhang2017/table_1"])
        with_hydra = compose("train", overrides=["+experiment=zhang2017/table_1"], return_hydra_config=True)
    resolved: Any = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    assert (resolved["sweep"], resolved["max_steps"], resolved["optimizer"]["lr"]) == ("runs", 20_000, 0.05)
    # Without Hydra's node nobody knows that it is one.
    assert in_experiment.sweep == "runs"
    assert with_hydra.sweep == "zhang2017-table_1"
    datamodule = build_datamodule(config.data)
    datamodule.setup()
    assert datamodule.noise["noise/probability"] == 1


@pytest.mark.parametrize("more", [[], ["-p", "hydra.run"], ["hydra/launcher=slurm", "trainer.devices=2"]])
def test_hydras_own_node_is_shown_with_the_folder_that_the_run_would_have(
    more: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command_line(f"results_dir={tmp_path}/multirun", *TINY, *more, "--cfg", "hydra", "--resolve")
    assert f"dir: {tmp_path}/multirun/runs/digits-none-mlp_1x512-seed0-" in capsys.readouterr().out
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("command", [[], ["-m", "hydra/launcher=basic"]])
def test_in_a_working_folder_of_its_own_it_reads_what_it_reads_elsewhere(
    command: list[str], train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    shades = np.random.default_rng(0).integers(0, 256, (8, 8, 8), dtype=np.uint8)
    for number, pixels in enumerate(shades):
        path = tmp_path / "images" / ("train", "test")[number // 4] / ("cat", "dog")[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    (tmp_path / "matrix.csv").write_text("0.5,0.5\n0,1\n")
    run = [*TINY, "data=image_folder", "data.root=images", "data.batch_size=2", "max_steps=2"]
    run += ["data.source.num_workers=1", "data.corruption=asymmetric_labels", "data.corruption.probability=null"]
    run += ["data.corruption.matrix=matrix.csv"]
    usual = train(*run)
    train(*command, *run, f"results_dir={tmp_path}/elsewhere", "hydra.job.chdir=true")
    (elsewhere,) = (path.parent for path in tmp_path.glob("elsewhere/runs/*/result.json"))
    assert read_result(elsewhere)["run_id"] == read_result(usual)["run_id"]
    assert read_result(elsewhere)["metrics"] == read_result(usual)["metrics"]
