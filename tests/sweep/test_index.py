from __future__ import annotations

import json
from pathlib import Path

import pytest
from omegaconf import DictConfig, OmegaConf

from rethinkgen.run import identity
from rethinkgen.sweep.index import FILE_NAME, Index, latest_entries

OVERRIDES = ["model=mlp_1x512", "seed=1"]


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    folder = tmp_path / "conf"
    folder.mkdir()
    (folder / "train.yaml").write_text("root: ${oc.env:WHERE_DATA_LIES,data}\n")
    return folder


def config(root: str = "data", *, rerun: bool = False) -> DictConfig:
    source = {"_target_": "rethinkgen.data.source.ImageFolder", "root": root}
    return OmegaConf.create({"data": {"source": source}, "rerun": rerun})


def known(tmp_path: Path, conf: Path, overrides: list[str] = OVERRIDES, hydra: tuple[str, ...] = ()) -> Path | None:
    return Index(tmp_path / "sweep", [conf], hydra).find(overrides)


def add(tmp_path: Path, conf: Path, composed: DictConfig) -> Path:
    run = tmp_path / "sweep" / "run-0123"
    Index(tmp_path / "sweep", [conf], ["hydra/launcher=pool"]).add(OVERRIDES, run, composed)
    return run


def test_it_knows_a_job_again_in_any_order_and_under_any_launcher(tmp_path: Path, conf: Path) -> None:
    run = add(tmp_path, conf, config())
    assert known(tmp_path, conf) == run
    assert known(tmp_path, conf, OVERRIDES[::-1], ("hydra/launcher=slurm", "hydra.launcher.n_jobs=1")) == run
    assert known(tmp_path, conf, [*OVERRIDES, "max_steps=3"]) is None


def test_it_forgets_when_a_config_or_a_variable_it_reads_changes(
    tmp_path: Path, conf: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = add(tmp_path, conf, config())
    monkeypatch.setenv("WHERE_DATA_LIES", "elsewhere")
    assert known(tmp_path, conf) is None
    monkeypatch.delenv("WHERE_DATA_LIES")
    assert known(tmp_path, conf) == run
    (conf / "train.yaml").write_text("max_steps: 5\n")
    assert known(tmp_path, conf) is None


def test_another_config_of_the_same_folder_is_another_beginning(tmp_path: Path, conf: Path) -> None:
    run = add(tmp_path, conf, config())
    assert Index(tmp_path / "sweep", [conf], [], "other").find(OVERRIDES) is None
    (conf / "train.yaml").rename(conf / "renamed.yaml")
    assert known(tmp_path, conf) is None
    (conf / "renamed.yaml").rename(conf / "train.yaml")
    assert known(tmp_path, conf) == run


def test_it_forgets_when_the_data_change(tmp_path: Path, conf: Path) -> None:
    images = tmp_path / "images"
    for split in ("train", "test"):
        (images / split / "cat").mkdir(parents=True)
        (images / split / "cat" / "1.png").write_bytes(b"one")
    identity.fingerprint.cache_clear()
    run = add(tmp_path, conf, config(str(images)))
    assert known(tmp_path, conf) == run
    (images / "train" / "cat" / "2.png").write_bytes(b"two")
    identity.fingerprint.cache_clear()  # as in a process of its own
    assert known(tmp_path, conf) is None


def test_what_is_to_be_trained_again_is_never_known(tmp_path: Path, conf: Path) -> None:
    add(tmp_path, conf, config(rerun=True))
    assert known(tmp_path, conf) is None
    add(tmp_path, conf, config())
    assert known(tmp_path, conf, [*OVERRIDES, "rerun=true"]) is None


def test_a_line_that_was_cut_short_costs_its_own_entry_only(tmp_path: Path, conf: Path) -> None:
    run = add(tmp_path, conf, config())
    with (tmp_path / "sweep" / FILE_NAME).open("a") as file:
        file.write('{"key": "0123", "fol\n[]\n')
    assert known(tmp_path, conf) == run


def test_it_tells_what_a_cell_is_and_which_configs_are_the_latest(tmp_path: Path, conf: Path) -> None:
    composed = OmegaConf.merge(config(), {"seed": 4, "hydra": {"runtime": {"choices": {"model": "alexnet"}}}})
    assert isinstance(composed, DictConfig)
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
    Index(tmp_path / "sweep", [conf], []).add(OVERRIDES, tmp_path / "sweep" / "run-4567", composed)
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


def test_an_index_of_before_is_read_on(tmp_path: Path, conf: Path) -> None:
    run = add(tmp_path, conf, config())
    file = tmp_path / "sweep" / FILE_NAME
    entry = json.loads(file.read_text())
    old = {key: entry[key] for key in ("key", "folder", "source", "fingerprint")}
    file.write_text(json.dumps(old) + "\n")
    assert known(tmp_path, conf) == run
    assert [found["is_latest"] for found in latest_entries(tmp_path / "sweep")] == [False]
    add(tmp_path, conf, config())
    assert [found["is_latest"] for found in latest_entries(tmp_path / "sweep")] == [True]


def test_a_sweep_may_move(tmp_path: Path, conf: Path) -> None:
    add(tmp_path, conf, config())
    (tmp_path / "sweep").rename(tmp_path / "moved")
    assert Index(tmp_path / "moved", [conf], []).find(OVERRIDES) == tmp_path / "moved" / "run-0123"
