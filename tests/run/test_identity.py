"""The same run is the same hash whatever it is called or lies, and another run is another hash."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from PIL import Image

from conftest import ROOT, TINY, Command, read_result
from rethinkgen.run import identity

RunId = Callable[..., str]


@pytest.fixture
def config(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Compose overrides to the resolved config that identifies a run."""
    monkeypatch.delenv("RETHINKGEN_DATA", raising=False)

    def resolved(*overrides: str) -> dict[str, Any]:
        with initialize_config_dir(str(ROOT / "conf")):
            root = compose("train", overrides=list(overrides), return_hydra_config=False)
            return identity.resolved_config(root)

    yield resolved
    GlobalHydra.instance().clear()


@pytest.fixture
def run_id(config: Callable[..., dict[str, Any]]) -> RunId:
    return lambda *overrides: identity.run_id(config(*overrides))


def test_the_bare_command_keeps_its_hash(run_id: RunId) -> None:
    """The hash of ``python train.py`` is pinned.

    If this fails, every result and every unfinished run of every user is orphaned: no command finds them again. Was a
    key added, renamed or given another default that changes results? Then this must be, and the new hash goes here. Was
    it a key that cannot change a result? Then it belongs into ``identity.VOLATILE`` and the hash stays.
    """
    assert run_id() == "913764b8f774"


def test_keys_that_came_later_leave_runs_without_them_as_they_were() -> None:
    config = {"regularizer": {"flip": True}, "data": {"source": {"_target_": "rethinkgen.data.source.Digits"}}}
    later = {"regularizer": {"flip": True, "color_jitter": False}, "data": {**config["data"], "color_jitter": False}}
    assert identity.run_id(config) == identity.run_id(later)
    assert identity.run_id(config) != identity.run_id({**later, "regularizer": {"flip": True, "color_jitter": True}})


@pytest.mark.parametrize(
    "same",
    [
        ["results_dir=/elsewhere"],
        ["threads=3"],
        ["checkpoint_seconds=99"],
        ["rerun=true"],
        ["logger=none"],
        ["logger.wandb.project=mine"],
        ["trainer=cpu"],
        ["trainer=gpu"],
        ["trainer.devices=4"],
        ["trainer=ddp"],
        ["trainer=ddp_cpu", "trainer.devices=4", "trainer.num_nodes=2"],
        ["+trainer.strategy=ddp"],
        ["trainer.sync_batchnorm=true"],
        ["data.root=/elsewhere"],
        ["data.seed=0"],
        ["max_epochs=null"],
        ["evaluate_every=1", "regularizer.dropout=0", "fit_threshold=1"],
        ["data=digits", "data.corruption=none", "model=inception", "regularizer=[]"],
    ],
)
def test_what_cannot_change_a_result_is_the_same_run(run_id: RunId, same: list[str]) -> None:
    assert run_id(*same) == run_id()


@pytest.mark.parametrize(
    "other",
    [
        "seed=1",
        "data.seed=1",
        "max_steps=10",
        "max_epochs=1",
        "until_fit=false",
        "fit_threshold=0.9",
        "evaluate_every=2",
        "data.batch_size=64",
        "data.preprocessing=none",
        "data.num_train=100",
        "data.validation=0.1",
        "data.corruption=random_labels",
        "data.corruption.protocol=2",
        "model=alexnet",
        "model.protocol=2",
        "model.learning_rate=0.02",
        "regularizer=[flip]",
        "regularizer.weight_decay=1e-3",
        "optimizer=adam",
        "optimizer.momentum=0.8",
        "schedule=cosine",
        "trainer.precision=bf16-mixed",
        "trainer.sync_batchnorm=false",
    ],
)
def test_what_changes_a_result_is_another_run(run_id: RunId, other: str) -> None:
    assert run_id(other) != run_id()


def test_the_probability_is_part_of_the_run(run_id: RunId) -> None:
    ids = {run_id("data.corruption=partial_labels", f"data.corruption.probability={p}") for p in (0.1, 0.2, 0.5)}
    assert len(ids) == 3
    assert run_id("data.corruption=partial_labels") in ids


def test_the_order_of_regularizers_is_of_no_account(config: Callable[..., dict[str, Any]]) -> None:
    one, other = config("regularizer=[flip,weight_decay,dropout]"), config("regularizer=[dropout,weight_decay,flip]")
    assert identity.run_id(one) == identity.run_id(other)
    assert identity.regularizers(one) == identity.regularizers(other) == ["dropout", "flip", "weight_decay"]


def images(root: Path, shade: int) -> str:
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            folder = root / split / name
            folder.mkdir(parents=True)
            Image.new("L", (8, 8), shade + len(name)).save(folder / "1.bmp")
    return f"data.root={root}"


def test_data_are_known_by_their_content_wherever_they_lie(run_id: RunId, tmp_path: Path) -> None:
    here, there = images(tmp_path / "here", 100), images(tmp_path / "there", 100)
    other = images(tmp_path / "other", 101)
    assert run_id("data=image_folder", here) == run_id("data=image_folder", there)
    assert run_id("data=image_folder", here) != run_id("data=image_folder", other)


def test_a_single_run_and_a_job_of_a_sweep_are_one(train: Command) -> None:
    single = train(*TINY, "max_steps=5", "regularizer=[flip,dropout]")
    written = (single / "result.json").read_bytes()
    assert train(*TINY, "max_steps=5", "regularizer=[flip,dropout]", "logger=csv") == single
    train("-m", *TINY, "max_steps=5", "regularizer=[dropout,flip]", "seed=0,1")
    results = sorted(single.parent.glob("*/result.json"))
    assert [read_result(path.parent)["seed"] for path in results] in ([0, 1], [1, 0])
    assert (single / "result.json").read_bytes() == written


def test_a_run_is_known_by_its_name_after_its_data_were_moved(train: Command, tmp_path: Path) -> None:
    quick = [*TINY, "max_steps=2", "data=image_folder", "data.batch_size=2", "data.source.num_workers=1"]
    folder = train(*quick, images(tmp_path / "here", 100))
    (tmp_path / "here").rename(tmp_path / "there")
    images(tmp_path / "here", 7)
    identity.fingerprint.cache_clear()  # as in a process of its own
    written = (folder / "result.json").read_bytes()
    assert train(*quick, f"data.root={tmp_path}/there") == folder
    assert (folder / "result.json").read_bytes() == written
    assert train(*quick, f"data.root={tmp_path}/here") != folder


def test_a_slug_is_short_and_safe(config: Callable[..., dict[str, Any]]) -> None:
    resolved = config("data.corruption=partial_labels", "data.corruption.probability=0.4", "regularizer=[flip]")
    chosen = identity.choices(resolved, {"data": "digits", "data.corruption": "partial_labels", "model": "../odd name"})
    assert identity.slug(resolved, chosen) == "digits-partial_labels_0.4-.._odd_name-flip-seed0"
    chosen["model"] = "long" * 100
    assert len(identity.slug(resolved, chosen)) == 80
