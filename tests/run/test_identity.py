"""The same run is the same hash whatever it is called or lies, and another run is another hash."""

from __future__ import annotations

import inspect
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.utils import get_object
from PIL import Image

from conftest import ROOT, TINY, Command, read_result
from rethinkgen.run import description, identity
from rethinkgen.run.description import Description
from rethinkgen.run.folder import RunFolder
from rethinkgen.run.identity import ID_LENGTH

RunId = Callable[..., str]
SET_ELSEWHERE = {
    # By keys of their own, or by what the data are.
    *("image_shape", "num_classes", "num_outputs", "optimizer", "schedule", "loss", "learning_rate", "lr"),
    *("weight_decay", "dropout", "label_smoothing"),
    *("source", "batch_size", "micro_batch_size", "preprocessing", "crop", "num_train", "validation", "seed"),
    *("exclude", "relabel", "resize"),
    *("order_seed", "random_crop", "flip", "rotation", "color_jitter", "mixup", "gradient_clip"),
    # Objects, which no config has yet.
    *("mix", "penalties"),
}
FORMER = ROOT / "tests" / "fixtures" / "785b5e0"


@pytest.fixture
def described(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Compose overrides to the description of a run."""
    monkeypatch.delenv("RETHINKGEN_DATA", raising=False)
    # Nobody's data: a source whose files are not there is known by its name.
    monkeypatch.chdir(FORMER)

    def describe(*overrides: str) -> Description:
        with initialize_config_dir(str(ROOT / "conf")):
            root = compose("train", overrides=list(overrides), return_hydra_config=False)
            names = {"data": "digits", "data.corruption": "none", "model": "inception"}
            return description.describe(root, names, [], "runs")

    yield describe
    GlobalHydra.instance().clear()


@pytest.fixture
def config(described: Callable[..., Description]) -> Callable[..., dict[str, Any]]:
    return lambda *overrides: described(*overrides).config


@pytest.fixture
def run_id(described: Callable[..., Description]) -> RunId:
    return lambda *overrides: described(*overrides).run_id


PINNED = yaml.safe_load((Path(__file__).with_name("pinned_ids.yaml")).read_text())


@pytest.mark.parametrize("overrides", PINNED)
def test_ids_are_pinned(run_id: RunId, overrides: str) -> None:
    """The ids of some thirty commands.

    If this fails, every result and every unfinished run of every user is orphaned: no command finds them again. Was a
    key added? Then ``neutral.yaml`` must say which value leaves runs as they were. Was a default changed that changes
    results? Then write the new id here, and nowhere change a neutral value.
    """
    assert run_id(*overrides.split()) == PINNED[overrides]


def test_every_run_has_its_own_id(run_id: RunId) -> None:
    assert len(set(PINNED.values())) == len(PINNED) > 30


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
        ["data.num_train=1437"],
        ["trainer.precision=32"],
        ["regularizer.flip=0", "until_fit=1"],
        ["model.protocol=1", "data.corruption.protocol=1"],
        ["+model.batch_norm=true"],
        ["+optimizer.nesterov=false", "+optimizer.dampening=0.0"],
        ["model.learning_rate=0.3", "optimizer.lr=0.1"],
        ["optimizer.lr=1e-1"],
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


def test_the_same_said_in_another_way_is_the_same_run(run_id: RunId) -> None:
    assert run_id("model=mlp", "model.depth=1") == run_id("model=mlp_1x512")
    assert run_id("optimizer.lr=0.3") == run_id("model.learning_rate=0.3")
    assert run_id("seed=3") == run_id("seed=3", "data.seed=3")
    assert run_id("data.validation=0.2", "data.num_train=1150") == run_id("data.validation=0.2")
    assert run_id("max_epochs=3") == run_id("max_epochs=3", "max_steps=7")
    assert run_id("regularizer.flip=1") == run_id("regularizer=[flip]") != run_id()
    assert run_id("trainer.precision=64") == run_id("trainer.precision=64-true") != run_id()


def test_max_steps_counts_where_there_are_no_epochs(run_id: RunId) -> None:
    assert len({run_id(), run_id("max_steps=7"), run_id("max_epochs=7"), run_id("max_epochs=8")}) == 4


def test_a_file_counts_by_its_content(run_id: RunId, tmp_path: Path) -> None:
    matrix = np.full((10, 10), 0.1)
    np.savetxt(tmp_path / "a.csv", matrix, delimiter=",")
    np.savetxt(tmp_path / "b.csv", matrix, delimiter=",")
    np.savetxt(tmp_path / "c.csv", np.eye(10), delimiter=",")
    asked = ["data.corruption=asymmetric_labels", "data.corruption.probability=null"]
    a, b, c = (run_id(*asked, f"data.corruption.matrix={tmp_path}/{name}.csv") for name in "abc")
    assert a == b != c
    with pytest.raises(ValueError, match=r"data.corruption.matrix=.*d.csv: the file cannot be read"):
        run_id(*asked, f"data.corruption.matrix={tmp_path}/d.csv")


@pytest.mark.parametrize(
    "asked",
    [["data.exclude"], ["data.relabel"], ["data.corruption.labels", "data.corruption=given_labels"]],
    ids=lambda asked: asked[0],
)
def test_a_list_of_examples_counts_by_its_content(asked: list[str], run_id: RunId, tmp_path: Path) -> None:
    for name, content in {"a": "1,2", "b": "1,2", "c": "1,3"}.items():
        (tmp_path / f"{name}.csv").write_text(f"index,label\n{content}\n")
    key, *others = asked
    a, b, c = (run_id(*others, f"{key}={tmp_path}/{name}.csv") for name in "abc")
    assert len({a, c, run_id()}) == 3
    assert a == b


def test_a_found_config_opens_no_file(config: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    found = config("data.corruption=asymmetric_labels", "data.corruption.probability=null")
    found["data"]["corruption"]["matrix"] = str(tmp_path / "fifo")
    os.mkfifo(tmp_path / "fifo")  # who opens it waits for ever
    assert identity.identifying(found)["data"]["corruption"]["matrix"] == str(tmp_path / "fifo")
    told = identity.counted(found, {"data.corruption.matrix": "abc"})
    assert told["data"]["corruption"]["matrix"] == {"content": "abc"}


def test_somebody_elses_class_is_not_ours_of_the_same_name(config: Callable[..., dict[str, Any]]) -> None:
    ours = config("model=mlp")
    theirs, moved = json.loads(json.dumps(ours)), json.loads(json.dumps(ours))
    theirs["model"]["_target_"] = "my_net.MLP"
    moved["model"]["_target_"] = "rethinkgen.somewhere.else.MLP"
    assert identity.run_id(theirs, "x") != identity.run_id(ours, "x") == identity.run_id(moved, "x")


def test_what_comes_later_with_a_neutral_value_changes_no_id(
    config: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    before = config()
    rules = json.loads(json.dumps(identity.rules()))
    rules["neutral"]["colour"] = {"class": "Grey", "depth": 3}
    rules["classes"]["Inception"]["activation"] = "relu"
    later = {**before, "colour": {"_target_": "rethinkgen.colour.Grey", "depth": 3}}
    later["model"] = {**before["model"], "activation": "relu"}
    other = {**later, "colour": {"_target_": "rethinkgen.colour.Grey", "depth": 4}}
    known = identity.run_id(before, "x")
    monkeypatch.setattr(identity, "rules", lambda: rules)
    assert identity.run_id(later, "x") == identity.run_id(before, "x") == known != identity.run_id(other, "x")


@pytest.mark.parametrize(
    "said",
    ["checkpoint_seconds=inf", "optimizer.momentum=nan", "schedule=step schedule.at=[0.5,nan]", "max_steps=-inf"],
)
def test_what_no_result_could_hold_is_refused(run_id: RunId, said: str) -> None:
    key = said.split()[-1].partition("=")[0]
    with pytest.raises(ValueError, match=f"^{re.escape(key)}=.*: a finite number is needed"):
        run_id(*said.split())


def test_it_is_looked_for_however_deep_it_lies() -> None:
    with pytest.raises(ValueError, match=r"^schedule\.factors=inf: a finite number"):
        identity.check_is_json({"schedule": {"factors": [[0.5, float("inf")]]}})
    with pytest.raises(ValueError, match=r"^schedule\.at: rate=nan: a finite number"):
        identity.check_is_json({"schedule": {"at": [{"rate": float("nan")}]}})
    identity.check_is_json({"schedule": {"at": [{"rate": 1.0, "steps": [1, None, "x", True]}]}})


def test_batch_norm_over_shares_is_another_run_for_each_number_of_them(run_id: RunId) -> None:
    shares = ["trainer.sync_batchnorm=false"]
    alone, two, four = (run_id(*shares, f"trainer.devices={number}") for number in (1, 2, 4))
    assert len({alone, two, four}) == 3
    assert two != run_id(*shares, "trainer.devices=2", "+trainer.num_nodes=2")
    assert run_id("trainer.devices=2") == run_id("trainer.devices=4")


def test_a_model_that_takes_its_own_steps_counts_its_own_rate(config: Callable[..., dict[str, Any]]) -> None:
    """No optimizer of the config says it."""
    own = config("model=mlp")
    own["model"] |= {"_target_": "my_net.Own", "declares": {"how": "its way", "fixed": {"optimizer": None}}}
    slow, fast = json.loads(json.dumps(own)), json.loads(json.dumps(own))
    slow["model"]["learning_rate"], fast["model"]["learning_rate"] = 0.1, 5.0
    assert identity.run_id(slow, "x") != identity.run_id(fast, "x")


def test_code_is_read_past_what_editors_leave_beside_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    package = tmp_path / "nets_of_somebody"
    package.mkdir()
    (package / "__init__.py").write_text("one = 1")
    digest = description.digest_of_code.__wrapped__
    before = digest("nets_of_somebody")
    (package / ".#nets.py").symlink_to("somebody@host.1234")
    (package / ".ipynb_checkpoints").mkdir()
    (package / ".ipynb_checkpoints" / "nets.py").write_text("old")
    assert digest("nets_of_somebody") == before
    (package / "nets.py").write_text("new")
    assert digest("nets_of_somebody") != before


def test_every_option_of_a_class_has_a_default_that_an_id_knows() -> None:
    """An option that a config need not name must leave the id as it is where it is named with its default."""
    rules = identity.rules()
    for path, node in nodes_of_conf():
        defaults = rules["classes"].get(identity.class_name(node["_target_"]), {})
        for name, default in options_of(get_object(node["_target_"])).items():
            if name not in node and name not in SET_ELSEWHERE:
                assert name in defaults, f"{path.name}: {name}={default!r}: say so under `classes` in neutral.yaml"
                assert defaults[name] == (list(default) if isinstance(default, tuple) else default), (path, name)


def nodes_of_conf() -> Iterator[tuple[Path, dict[str, Any]]]:
    for group in ("model", "optimizer", "schedule", "data.corruption", "data", "loss"):
        for path in sorted((ROOT / "conf" / group).glob("*.yaml")):
            node = yaml.safe_load(path.read_text())
            yield path, node.get("source", node)


def options_of(made: Any) -> dict[str, Any]:
    """Name and default of every option of a function, or of a class and those that it derives from."""
    makers = [made]
    if isinstance(made, type):
        makers = [parent.__init__ for parent in made.__mro__ if "__init__" in vars(parent)]
    return {
        name: parameter.default
        for maker in makers
        if str(getattr(maker, "__module__", "")).startswith(("rethinkgen", "torch.optim"))
        for name, parameter in inspect.signature(maker).parameters.items()
        if parameter.default is not parameter.empty
    }


def test_the_probability_is_part_of_the_run(run_id: RunId) -> None:
    ids = {run_id("data.corruption=partial_labels", f"data.corruption.probability={p}") for p in (0.1, 0.2, 0.5)}
    assert len(ids) == 3
    assert run_id("data.corruption=partial_labels") in ids


def test_the_order_of_regularizers_is_of_no_account(config: Callable[..., dict[str, Any]]) -> None:
    one, other = config("regularizer=[flip,weight_decay,dropout]"), config("regularizer=[dropout,weight_decay,flip]")
    assert identity.run_id(one, None) == identity.run_id(other, None)
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


def test_a_run_is_found_by_its_id_whatever_it_is_called(train: Command, capsys: pytest.CaptureFixture[str]) -> None:
    quick = [item for item in TINY if not item.startswith("model")] + ["max_steps=5", "++model.width=16"]
    folder = train("model=mlp_1x512", *quick)
    written = (folder / "result.json").stat().st_mtime_ns
    train("model=mlp", "model.depth=1", *quick)
    favourite = folder.with_name(f"my favourite-{folder.name.rpartition('-')[2]}")
    folder.rename(favourite)
    train("model=mlp_1x512", *quick)
    train("-m", "hydra/launcher=basic", "model=mlp_1x512", *quick, "seed=0,1")
    assert [path.stat().st_mtime_ns for path in folder.parent.glob(f"*{favourite.name[-ID_LENGTH:]}/result.json")] == [
        written
    ]
    assert len(list(folder.parent.glob("*/result.json"))) == 2
    # Two names of one run in one command are one cell.
    capsys.readouterr()
    train("-m", "hydra/launcher=basic", "model=mlp,mlp_1x512", "++model.depth=1", "seed=5", *quick)
    assert len(list(folder.parent.glob("*/result.json"))) == 3


def test_what_another_process_trains_under_another_name_is_not_trained_too(
    train: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    quick = [*TINY, "max_steps=5", "seed=3"]
    folder = train(*quick)
    other = RunFolder(folder.with_name(f"another name-{folder.name.rpartition('-')[2]}"))
    shutil.rmtree(folder)
    elsewhere = f"hydra.run.dir={folder.parent}/mine"
    with other.lock(), pytest.raises(SystemExit):
        train(*quick, elsewhere)
    assert f"is being trained by another process right now: {other.path}" in capsys.readouterr().err
    assert not (folder.parent / "mine" / "result.json").exists()


def test_code_of_ones_own_that_has_changed_is_named(
    train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    (tmp_path / "conf" / "schedule").mkdir(parents=True)
    (tmp_path / "conf" / "schedule" / "mine.yaml").write_text("_target_: my_schedules.half\n_partial_: true\n")
    code = tmp_path / "my_schedules.py"
    code.write_text("def half(step, total_steps):\n    return 0.5\n")
    asked = [*TINY, "max_steps=5", "--config-dir=conf", "schedule=mine", "code=my_schedules"]
    folder = train(*asked)
    assert set(read_result(folder)["code"]) == {"my_schedules"}
    train(*asked)
    assert "is not the code" not in capsys.readouterr().out
    code.write_text("def half(step, total_steps):\n    return 0.25\n")
    description.look_again()  # as in a process of its own
    train(*asked)
    assert "my_schedules is not the code that this result was made with." in capsys.readouterr().out


def test_a_run_is_known_by_its_name_after_its_data_were_moved(train: Command, tmp_path: Path) -> None:
    quick = [*TINY, "max_steps=2", "data=image_folder", "data.batch_size=2", "data.source.num_workers=1"]
    folder = train(*quick, images(tmp_path / "here", 100))
    (tmp_path / "here").rename(tmp_path / "there")
    images(tmp_path / "here", 7)
    description.look_again()  # as in a process of its own
    written = (folder / "result.json").read_bytes()
    assert train(*quick, f"data.root={tmp_path}/there") == folder
    assert (folder / "result.json").read_bytes() == written
    assert train(*quick, f"data.root={tmp_path}/here") != folder


def test_a_slug_is_short_and_safe(config: Callable[..., dict[str, Any]]) -> None:
    resolved = config("data.corruption=partial_labels", "data.corruption.probability=0.4", "regularizer=[flip]")
    chosen = identity.choices(resolved, {"data": "digits", "data.corruption": "partial_labels", "model": "../odd name"})
    told = identity.identifying(resolved)
    assert identity.slug(resolved, chosen, told) == "digits-partial_labels_0.4-.._odd_name-flip-seed0"
    chosen["model"] = "long" * 100
    assert len(identity.slug(resolved, chosen, told)) == 80
