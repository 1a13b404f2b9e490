from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from conftest import ROOT
from rethinkgen.run import description
from rethinkgen.run.catalogue import FILE_NAME, latest_entries
from rethinkgen.run.description import Description, describe
from rethinkgen.sweep.index import Index

OVERRIDES = ["model=mlp_1x512", "seed=1"]


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    folder = tmp_path / "conf"
    folder.mkdir()
    (folder / "train.yaml").write_text("root: ${oc.env:WHERE_DATA_LIES,data}\n")
    return folder


def described(root: str = "data", *, rerun: bool = False, seed: int = 0, model: str = "mlp") -> Description:
    with initialize_config_dir(str(ROOT / "conf")):
        config = compose("train", overrides=["model=mlp", f"seed={seed}", f"rerun={rerun}"])
    config.data.source = {"_target_": "rethinkgen.data.source.ImageFolder", "root": root}
    config.trainer.accelerator = "cpu"
    return describe(config, {"model": model}, OVERRIDES, "sweep")


def index_of(folder: Path, conf: Path, *arguments: Any, root: str = "data") -> Index:
    """An index whose command has composed another cell on the same data."""
    with Index(folder, [conf], *arguments) as index:
        index.add(["of=another cell"], folder / "another", described(root))
    return index


def known(
    tmp_path: Path,
    conf: Path,
    overrides: list[str] = OVERRIDES,
    hydra: tuple[str, ...] = (),
    root: str = "data",
) -> Path | None:
    found = index_of(tmp_path / "sweep", conf, hydra, root=root).find(overrides)
    return None if found is None else found[0]


def add(tmp_path: Path, conf: Path, description: Description) -> Path:
    run = tmp_path / "sweep" / "run-0123"
    with Index(tmp_path / "sweep", [conf], ["hydra/launcher=pool"]) as index:
        index.add(OVERRIDES, run, description)
    return run


def test_no_source_is_built_that_only_the_file_names(
    tmp_path: Path, conf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add(tmp_path, conf, described())
    file = tmp_path / "sweep" / FILE_NAME
    entry = json.loads(file.read_text())
    attack = {"_target_": "torch.utils.collect_env.run", "command": f"touch {tmp_path}/canary"}
    file.write_text(json.dumps(entry | {"source": json.dumps(attack, sort_keys=True)}) + "\n")
    assert known(tmp_path, conf) is None
    assert not (tmp_path / "canary").exists()
    # Known once it was composed here, and not before.
    file.write_text(json.dumps(entry) + "\n")
    index = Index(tmp_path / "sweep", [conf], ["hydra/launcher=pool"])
    assert index.find(OVERRIDES) is None
    index.add(["of=another cell"], tmp_path / "sweep" / "another", described())
    assert index.find(OVERRIDES) == (tmp_path / "sweep" / "run-0123", described().run_id)


def test_it_knows_a_job_again_in_any_order_and_under_any_launcher(tmp_path: Path, conf: Path) -> None:
    run = add(tmp_path, conf, described())
    assert known(tmp_path, conf) == run
    assert known(tmp_path, conf, OVERRIDES[::-1], ("hydra/launcher=slurm", "hydra.launcher.n_jobs=1")) == run
    assert known(tmp_path, conf, [*OVERRIDES, "max_steps=3"]) is None


def test_it_forgets_when_a_config_or_a_variable_it_reads_changes(
    tmp_path: Path, conf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = add(tmp_path, conf, described())
    monkeypatch.setenv("WHERE_DATA_LIES", "elsewhere")
    assert known(tmp_path, conf) is None
    monkeypatch.delenv("WHERE_DATA_LIES")
    assert known(tmp_path, conf) == run
    (conf / "train.yaml").write_text("max_steps: 5\n")
    assert known(tmp_path, conf) is None


def test_another_config_of_the_same_folder_is_another_beginning(tmp_path: Path, conf: Path) -> None:
    run = add(tmp_path, conf, described())
    assert index_of(tmp_path / "sweep", conf, [], "other").find(OVERRIDES) is None
    (conf / "train.yaml").rename(conf / "renamed.yaml")
    assert known(tmp_path, conf) is None
    (conf / "renamed.yaml").rename(conf / "train.yaml")
    assert known(tmp_path, conf) == run


def test_it_forgets_when_the_data_change(tmp_path: Path, conf: Path) -> None:
    images = tmp_path / "images"
    for split in ("train", "test"):
        (images / split / "cat").mkdir(parents=True)
        (images / split / "cat" / "1.png").write_bytes(b"one")
    description.look_again()
    run = add(tmp_path, conf, described(str(images)))
    assert known(tmp_path, conf, root=str(images)) == run
    (images / "train" / "cat" / "2.png").write_bytes(b"two")
    description.look_again()  # as in a process of its own
    assert known(tmp_path, conf, root=str(images)) is None


def test_what_is_to_be_trained_again_is_never_known(tmp_path: Path, conf: Path) -> None:
    add(tmp_path, conf, described(rerun=True))
    assert known(tmp_path, conf) is None
    add(tmp_path, conf, described())
    assert known(tmp_path, conf, [*OVERRIDES, "rerun=true"]) is None


def test_a_line_that_was_cut_short_costs_its_own_entry_only(tmp_path: Path, conf: Path) -> None:
    run = add(tmp_path, conf, described())
    with (tmp_path / "sweep" / FILE_NAME).open("a") as file:
        file.write('{"key": "0123", "fol\n[]\n')
    assert known(tmp_path, conf) == run


def test_it_tells_what_a_cell_is_and_which_configs_are_the_latest(tmp_path: Path, conf: Path) -> None:
    composed = described(seed=4, model="alexnet")
    before = add(tmp_path, conf, composed)
    (entry,) = latest_entries(tmp_path / "sweep")
    assert entry["folder"] == before.name
    assert entry["overrides"] == OVERRIDES
    assert entry["choices"]["model"] == "alexnet"
    assert entry["config"]["seed"] == 4
    assert "hydra" not in entry["config"]
    assert entry["is_latest"]

    text = (conf / "train.yaml").read_text()
    (conf / "train.yaml").write_text("max_steps: 5\n")
    with Index(tmp_path / "sweep", [conf], []) as index:
        index.add(OVERRIDES, tmp_path / "sweep" / "run-4567", composed)
    assert {e["folder"]: e["is_latest"] for e in latest_entries(tmp_path / "sweep")} == {
        "run-0123": False,
        "run-4567": True,
    }
    # Changed back: asked for again, the first is the latest once more.
    (conf / "train.yaml").write_text(text)
    add(tmp_path, conf, composed)
    assert {e["folder"]: e["is_latest"] for e in latest_entries(tmp_path / "sweep")} == {
        "run-0123": True,
        "run-4567": False,
    }
    size = (tmp_path / "sweep" / FILE_NAME).stat().st_size
    add(tmp_path, conf, composed)
    assert (tmp_path / "sweep" / FILE_NAME).stat().st_size == size


def test_an_index_of_before_is_composed_anew(tmp_path: Path, conf: Path) -> None:
    run = add(tmp_path, conf, described())
    file = tmp_path / "sweep" / FILE_NAME
    entry = json.loads(file.read_text())
    old = {key: entry[key] for key in ("key", "folder", "source", "fingerprint")}
    file.write_text(json.dumps(old) + "\n")
    assert [found["is_latest"] for found in latest_entries(tmp_path / "sweep")] == [False]
    assert known(tmp_path, conf) is None
    add(tmp_path, conf, described())
    assert known(tmp_path, conf) == run


def test_a_sweep_may_move(tmp_path: Path, conf: Path) -> None:
    add(tmp_path, conf, described())
    (tmp_path / "sweep").rename(tmp_path / "moved")
    found = index_of(tmp_path / "moved", conf, []).find(OVERRIDES)
    assert found == (tmp_path / "moved" / "run-0123", described().run_id)


def test_a_cell_that_goes_by_other_runs_is_looked_for_anew_each_time(tmp_path: Path, conf: Path) -> None:
    description = described()
    exclude = {"runs": "multirun/whole", "column": "presented_times_forgotten", "share": 0.2}
    data = description.config["data"] | {"exclude": exclude}
    add(tmp_path, conf, dataclasses.replace(description, config=description.config | {"data": data}))
    assert known(tmp_path, conf) is None
