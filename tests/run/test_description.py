"""A run is described once, and its folder is found among those of a sweep by what it is."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf

from conftest import ROOT
from rethinkgen.run import description
from rethinkgen.run.description import (
    Description,
    changed_code,
    describe,
    digest_of_code,
    folders_of,
    folders_with_id,
    renamed_since,
    resolved_config,
)


def composed(*overrides: str) -> DictConfig:
    with initialize_config_dir(str(ROOT / "conf")):
        return compose("train", overrides=["model=mlp_1x512", "trainer=cpu", *overrides])


def described(*overrides: str) -> Description:
    return describe(composed(*overrides), {"model": "mlp_1x512"}, list(overrides), "sweep")


@pytest.fixture(scope="module")
def run() -> Description:
    return described()


def test_what_is_handed_on_is_plain(run: Description) -> None:
    facts = run.facts()
    assert json.loads(json.dumps(facts, allow_nan=False)) == facts
    assert run.name.endswith(f"-{run.run_id}")
    assert facts["config"]["model"]["width"] == 512, "resolved"
    assert "hydra" not in facts["config"]
    assert facts["code"] == {}, "nothing of one's own"
    with pytest.raises(dataclasses.FrozenInstanceError):
        run.seed = 1  # type: ignore[misc]


def test_all_examples_by_number_are_all_examples(run: Description) -> None:
    assert run.all_examples == 1437
    by_number = described("data.num_train=1437")
    assert by_number.run_id == run.run_id
    assert by_number.config["data"]["num_train"] == 1437, "kept as it was asked for"
    assert described("data.num_train=1436").run_id != run.run_id
    assert described("data.validation=0.1").all_examples == 1437 - 144


def test_missing_values_are_named_with_their_groups() -> None:
    config = OmegaConf.create({"data": {"source": {"root": "???"}, "batch_size": "???"}, "hydra": "???", "sweep": "x"})
    with pytest.raises(
        ValueError, match=r"data\.batch_size, data\.source\.root must be given .* data\.batch_size=\.\.\."
    ):
        resolved_config(config)
    config.data = {"batch_size": 3, "twice": "${seed}"}
    config.seed = 5
    assert resolved_config(config) == {"data": {"batch_size": 3, "twice": 5}, "seed": 5}


def folder(sweep: Path, name: str, *files: str) -> Path:
    path = sweep / name
    path.mkdir(parents=True)
    for file in files:
        (path / file).write_text("{}")
    return path


def test_the_best_of_several_folders_comes_first(tmp_path: Path, run: Description) -> None:
    folder(tmp_path, f"of-another-{'0' * 14}", "config.yaml", "result.json")
    assert folders_of(run, tmp_path / "nowhere") == folders_of(run, tmp_path) == []
    empty = folder(tmp_path, run.name)
    begun = folder(tmp_path, f"b-{run.run_id}", "config.yaml")
    former = folder(tmp_path, f"c-{run.former_ids[0]}", "config.yaml", "result.json")
    finished = folder(tmp_path, f"d-{run.run_id}", "config.yaml", "result.json")
    assert folders_of(run, tmp_path) == [finished, former, begun, empty]
    assert folders_with_id(run.run_id, tmp_path) == [finished, begun, empty]
    assert folders_with_id(run.former_ids[0], tmp_path) == folders_with_id("result", tmp_path) == []


def test_a_folder_of_a_former_name_is_known_by_what_wandb_calls_it(tmp_path: Path) -> None:
    assert renamed_since(tmp_path / "mlp-01234567") is None
    folder(tmp_path, "another")
    renamed = folder(tmp_path, f"mlp-{'a' * 14}")
    (renamed / "identity.json").write_text(json.dumps({"wandb_id": "01234567"}))
    assert renamed_since(tmp_path / "mlp-01234567") == renamed
    assert renamed_since(tmp_path / "mlp-89abcdef") is None


def test_code_is_known_by_its_text_without_being_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    package = tmp_path / "of_mine"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit('it was run')\n")
    (tmp_path / "one_file.py").write_text("raise SystemExit('it was run')\n")

    def digests() -> dict[str, str | None]:
        description.look_again()
        return {name: digest_of_code(name) for name in ("of_mine", "one_file")}

    before: dict[str, Any] = digests()
    assert all(before.values())
    (package / "part.py").write_text("x = 1\n")
    after: dict[str, Any] = digests()
    assert changed_code(before, after) == ["of_mine"]
    assert changed_code(after, after) == []
    assert changed_code({}, after) == ["of_mine", "one_file"], "of which nothing was known"
    assert digest_of_code("no_such_package") is None


def test_a_sweep_has_a_name() -> None:
    assert Path(description._sweep_folder(_root_=composed())).name == "runs"
    assert Path(description._sweep_folder(_root_=composed("sweep=mine"))).name == "mine"


@pytest.mark.parametrize("name", ["", "../up", "a/b", "two words", ".hidden"])
def test_a_sweep_is_no_path(name: str) -> None:
    config = composed()
    config.sweep = name
    with pytest.raises(ValueError, match="a name of letters, digits"):
        description._sweep_folder(_root_=config)


def test_results_lie_in_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    config = composed(f"results_dir={tmp_path}/file/below")
    with pytest.raises(ValueError, match=r"results_dir=.*file is not a folder\. Choose another"):
        description._sweep_folder(_root_=config)
