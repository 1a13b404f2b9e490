"""Runs opened in Python: the network of a run gives the run's numbers again, and the data are the run's."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
import random
import shutil
from pathlib import Path
from weakref import WeakValueDictionary

import numpy as np
import pytest
import torch

import rethinkgen
from conftest import ROOT, TINY, Command, command_line
from image_folder import make_image_folder
from rethinkgen.data.source import Digits
from rethinkgen.measure.fit import evaluate
from rethinkgen.run import data_of_run, opened
from rethinkgen.run.folder import checksum
from rethinkgen.run.opened import OpenedRun

FORMER = ROOT / "tests/fixtures/785b5e0"
EARLY_STOPPING = [
    *("regularizer=[early_stopping]", "regularizer.early_stopping=3", "data.validation=0.2", "evaluate_every=0.25"),
    *("data.corruption=partial_labels", "data.corruption.probability=0.6", "model.learning_rate=0.1"),
]
INCEPTION = ["model=inception", "trainer=cpu", "logger=none", "threads=1", "model.channels_last=true"]
CONFIGS = {
    "early stopping, a held-out part": [*TINY, *EARLY_STOPPING, "max_steps=300"],
    "BatchNorm, channels last": [*INCEPTION, "data.corruption=random_labels", "max_steps=4"],
    "one output": [*TINY, "data.corruption=random_signs", "max_steps=20"],
    "normalised corrupted pixels": [*TINY, "data.corruption=random_pixels", "data.preprocessing=normalization"],
    "solved": ["model=kernel_linear", "trainer=cpu", "logger=none", "data.corruption=partial_labels", "model.l2=0.1"],
}
SMALL = ["data.num_train=100", "data.batch_size=32"]


def assert_gives_its_numbers_again(run: OpenedRun) -> None:
    """``fit``, ``validation`` and ``test`` of the network are those of the result, to the bit."""
    found = evaluate(run.network(), run.splits).metrics
    assert found == {name: run.metrics[name] for name in found}
    assert {"fit/accuracy", "fit/loss", "test/accuracy", "test/loss"} <= found.keys()


@pytest.mark.parametrize("overrides", CONFIGS.values(), ids=CONFIGS)
def test_the_network_gives_the_runs_own_numbers_to_the_bit(
    train: Command, tmp_path: Path, overrides: list[str]
) -> None:
    steps = [] if any(key.startswith(("max_steps", "model=kernel")) for key in overrides) else ["max_steps=20"]
    folder = train(*overrides, *steps, *SMALL)
    (elsewhere := tmp_path / "elsewhere").mkdir()
    with contextlib.chdir(elsewhere):
        run = rethinkgen.open_run(folder)
        assert_gives_its_numbers_again(run)
        for split in run.splits.values():
            assert split.inputs.dtype == torch.float32
        assert torch.equal(run.from_pixels(run.pixels("train")), run.splits["train"].inputs)
        assert torch.equal(run.from_pixels(run.pixels("test")), run.splits["test"].inputs)
    if "regularizer=[early_stopping]" in overrides:
        assert run.step("end") < run.step("last") == run.metrics["steps"]
    assert not any(module.training for module in run.network().modules())


@pytest.mark.parametrize("folder", sorted(FORMER.glob("ended/*")) + sorted(FORMER.glob("runs/*mlp_1x512-seed0-*")))
def test_folders_of_before_are_opened_too(folder: Path) -> None:
    run = rethinkgen.open_run(folder)
    assert_gives_its_numbers_again(run)
    assert len(run.examples) == len(run.splits["train"])


def test_what_is_the_callers_stays_as_it_is(small_sweep: Path) -> None:
    folder = next(small_sweep.glob("*random_labels*seed1*"))
    torch.set_default_dtype(torch.float64)
    try:
        before = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate(), torch.get_num_threads()
        with torch.inference_mode():
            run = rethinkgen.open_run(folder)
            network = run.network()
            subject = run.subject(name="any")
            subject.fresh(0)
            run.predict([int(run.examples["index"][0])])
        after = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate(), torch.get_num_threads()
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(before[0], after[0])
    assert before[1:] == after[1:]
    assert next(network.parameters()).dtype == torch.float32
    assert not next(network.parameters()).is_inference()
    assert_gives_its_numbers_again(run)


@pytest.fixture(scope="module")
def on_own_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a folder of images, which its command named by a relative path. To be copied, not changed."""
    place = tmp_path_factory.mktemp("own")
    make_image_folder(place / "my_images", size=lambda _: (8, 8))
    data = ["data=image_folder", "data.root=my_images", "data.crop=null", "data.batch_size=8"]
    with contextlib.chdir(place):
        command_line(*TINY, *data, "data.corruption=random_labels", "max_steps=4", "results_dir=multirun")
    return next(place.glob("multirun/runs/*"))


@pytest.fixture
def moved(on_own_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of that run beside a copy of its images, and the original gone: as on another machine."""
    project = shutil.copytree(on_own_images.parents[2], tmp_path / "project")
    folder = project / on_own_images.relative_to(on_own_images.parents[2])
    identity = json.loads((folder / "identity.json").read_text())
    (folder / "identity.json").write_text(json.dumps(identity | {"begun_in": str(tmp_path / "gone")}))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return folder


def test_data_are_found_from_any_folder(on_own_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Other images under the same name where one happens to be are not taken for them.
    make_image_folder(tmp_path / "my_images", num_train=9, size=lambda _: (8, 8))
    monkeypatch.chdir(tmp_path)
    run = rethinkgen.open_run(on_own_images)
    assert json.loads((on_own_images / "identity.json").read_text())["begun_in"] == str(on_own_images.parents[2])
    assert_gives_its_numbers_again(run)
    assert run.examples["path"][0] == "train/class_0/0.png"
    assert run.images(0).shape == (3, 8, 8)
    assert run.images([0, 5]).dtype == np.uint8
    np.testing.assert_allclose(run.images([5]) / 255, run.pixels("train")[5:6], rtol=1e-6)


def test_a_file_that_the_config_names_is_known_by_its_content(
    small_sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = next(small_sweep.glob("*-none-*seed0*"))
    matrix = np.eye(10)[::-1]
    content = "\n".join(",".join(map(str, row)) for row in matrix)
    corruption = {"_target_": "rethinkgen.data.corruption.AsymmetricLabels", "probability": None, "matrix": "m.csv"}
    run = rethinkgen.open_run(folder).run
    config = run.config | {"data": run.config["data"] | {"corruption": corruption}}
    contents = {"data.corruption.matrix": hashlib.sha256(content.encode()).hexdigest()}
    begun_in = tmp_path / "there"
    begun_in.mkdir()
    (begun_in / "m.csv").write_text(content)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "m.csv").write_text(content.replace("1.0", "1"))  # another file, nearer
    known = dataclasses.replace(run, config=config, facts=run.facts | {"contents": contents, "begun_in": str(begun_in)})
    monkeypatch.setattr(opened, "open_one", lambda _: known)
    train = rethinkgen.open_run(folder).splits["train"]
    assert torch.equal(train.labels, 9 - train.original_labels)
    (begun_in / "m.csv").write_text(content + "\n")
    with pytest.raises(ValueError, match=r"data.corruption.matrix='m.csv': the file .* is gone, or is not what it was"):
        rethinkgen.open_run(folder).splits  # noqa: B018


def test_data_that_were_moved_are_found_beside_the_run_or_where_one_says(moved: Path) -> None:
    assert_gives_its_numbers_again(rethinkgen.open_run(moved))
    images = moved.parents[2] / "my_images"
    images.rename(images.with_name("elsewhere"))
    run = rethinkgen.open_run(moved)
    assert run.network().num_classes == 4  # needs none
    with pytest.raises(
        ValueError, match=r"are not found. Looked at:\n.*my_images: there is no such folder(?s:.*)data_root="
    ):
        run.splits  # noqa: B018
    assert_gives_its_numbers_again(rethinkgen.open_run(moved, data_root=images.with_name("elsewhere")))


def test_data_that_have_changed_are_refused(moved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = moved.parents[2] / "my_images"
    (images / "train" / "class_0" / "new.png").write_bytes((images / "train" / "class_1" / "0.png").read_bytes())
    run = rethinkgen.open_run(moved, data_root=images)
    with pytest.raises(
        ValueError, match=r"my_images: other data \(image_folder-\w+, and the run was trained on image_folder-"
    ):
        run.splits  # noqa: B018
    monkeypatch.setenv("RETHINKGEN_DATA", str(images))
    with pytest.raises(ValueError, match="other data"):
        rethinkgen.open_run(moved).splits  # noqa: B018


def test_runs_with_the_same_data_share_them_while_one_lives(small_sweep: Path) -> None:
    first, second = (rethinkgen.open_run(path) for path in sorted(small_sweep.glob("digits-none-*")))
    assert first.datamodule.source is second.datamodule.source
    assert first.datamodule is not second.datamodule  # of another seed
    again = rethinkgen.open_run(first.path)
    assert again.datamodule is first.datamodule


def test_data_are_loaded_once_for_runs_that_are_opened_one_after_another(
    small_sweep: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, loads = Digits.load, []
    monkeypatch.setattr(Digits, "load", lambda source: loads.append(source) or load(source))
    monkeypatch.setattr(data_of_run, "_sources", WeakValueDictionary())
    monkeypatch.setattr(data_of_run, "_latest", [])
    for path in sorted(small_sweep.glob("digits-*")):
        assert len(rethinkgen.open_run(path).splits["train"]) == 200
    assert len(loads) == 1


def test_predictions_of_images_and_of_indices_agree(small_sweep: Path) -> None:
    run = rethinkgen.open_run(next(small_sweep.glob("*-none-*seed0*")))
    index = run.splits["train"].index[:7].numpy()
    of_index = run.predict(index)
    assert list(of_index.columns) == ["label", "class_name", "probability"]
    for images in (run.images(index), list(run.images(index)), run.pixels("train")[:7]):
        of_images = run.predict(images)
        assert (of_images["label"] == of_index["label"]).all()
        np.testing.assert_allclose(of_images["probability"], of_index["probability"], rtol=1e-5)
    logits = run.network()(run.splits["train"].inputs[:7])
    np.testing.assert_allclose(of_index["probability"], logits.softmax(1).amax(1).detach(), rtol=1e-5)
    absent = (set(range(1437)) - set(run.splits["train"].index.tolist())).pop()
    with pytest.raises(ValueError, match=rf"index={absent}: it is none of the 200 examples of split='train'"):
        run.predict([absent])
    with pytest.raises(ValueError, match=r"images: torch.float32 \(2, 3, 8, 8\) was given\. uint8 \(n, 1, H, W\)"):
        run.predict(torch.zeros(2, 3, 8, 8))
    with pytest.raises(ValueError, match=r"index=1437: whole numbers from 0 to 1436"):
        run.images(1437)


def test_a_run_without_a_result_is_opened_as_far_as_it_is(tmp_path: Path) -> None:
    interrupted = next(FORMER.glob("runs/*early_stopping*"))
    run = rethinkgen.open_run(interrupted)
    assert run.state == "interrupted"
    assert run.result is None
    assert run.curves["step"].is_monotonic_increasing
    saved = torch.load(interrupted / "checkpoints" / "last.ckpt", weights_only=True)
    network = run.network("last")
    assert all(torch.equal(value, saved["state_dict"][name]) for name, value in network.state_dict().items())
    with pytest.raises(ValueError, match=r"step='end': .* is not finished; .* step='last'"):
        run.network()
    with pytest.raises(ValueError, match=r"no examples.npz, which is written when a run ends; this one is interrupted"):
        run.examples  # noqa: B018
    copy = shutil.copytree(interrupted, tmp_path / interrupted.name)
    (copy / "checkpoints" / "last.ckpt").write_bytes(b"cut short")
    told: list[str] = []
    run = rethinkgen.open_run(copy, tell=told.append)
    previous = torch.load(copy / "checkpoints" / "previous.ckpt", weights_only=True)
    assert run.step("last") == previous["global_step"] < 308
    assert "last.ckpt is passed over: it is damaged" in told[0]
    failed = tmp_path / "failed-0123456789abcd"
    failed.mkdir()
    (failed / "config.yaml").write_text((interrupted / "config.yaml").read_text())
    (failed / "status.json").write_text('{"state": "failed", "reason": "it diverged"}')
    run = rethinkgen.open_run(failed)
    assert "failed, it diverged" in repr(run)
    assert run.curves.empty
    assert run.step("last") == 0
    with pytest.raises(ValueError, match="step=1: failed-0123456789abcd has trained 0 steps"):
        run.network(1)


@pytest.mark.parametrize("damage", ["flipped bit", "another network", "gone"])
def test_weights_that_are_no_good_are_had_again_by_a_replay(small_sweep: Path, tmp_path: Path, damage: str) -> None:
    folder = shutil.copytree(next(small_sweep.glob("*-none-*seed0*")), tmp_path / "copy")
    weights = folder / "weights" / "end.pt"
    content = bytearray(weights.read_bytes())
    content[len(content) // 2] ^= 1
    weights.write_bytes(content)
    if damage == "another network":
        torch.save({"weight": torch.zeros(3)}, weights)
    elif damage == "gone":
        weights.unlink()
    told: list[str] = []
    run = rethinkgen.open_run(folder, tell=told.append)
    assert_gives_its_numbers_again(run)
    run.network("last")
    passed_over = [line for line in told if line.endswith("It is passed over.")]
    assert len(passed_over) == (damage != "gone")
    assert [line for line in told if line.startswith("Replaying 40 steps")] == told[len(passed_over) :]
    assert len(told) == len(passed_over) + 1  # once, whatever is asked of that step


def test_any_step_can_be_looked_at(small_sweep: Path) -> None:
    told: list[str] = []
    run = rethinkgen.open_run(next(small_sweep.glob("*random_labels*seed1*")), tell=told.append)
    torch.manual_seed(5)
    state = torch.get_rng_state()
    run.replay([14, "1ep", "end"])
    assert len([line for line in told if line.startswith("Replaying")]) == 1
    rows = run.curves.dropna(subset=["fit/loss"]).set_index("step")
    for step in ("1ep", 14, 40):
        network = run.network(step)
        if run.step(step) in rows.index:
            assert evaluate(network, run.splits).metrics["fit/loss"] == rows.loc[run.step(step), "fit/loss"]
    assert len([line for line in told if line.startswith("Replaying")]) == 1
    assert run.subject(14).at("1ep").step == run.step("1ep") == 2
    before = {name: value.clone() for name, value in run.network(2).state_dict().items()}
    for step in run.subject("1ep").training(2, 3):
        assert all(torch.equal(before[name], value) for name, value in step.state.items())
        assert (step.step, len(step.batch.labels), step.momentum) == (2, 128, 0.9)
    assert torch.equal(state, torch.get_rng_state())
    with pytest.raises(ValueError, match="has trained 40 steps; that is step 41"):
        run.network(41)


def test_nothing_but_what_a_place_allows_is_built_and_own_code_is_opened_by_the_call(
    small_sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net_opened_here.py").write_text("from rethinkgen import MLP\n\nclass Mine(MLP):\n    pass\n")
    folder = shutil.copytree(next(small_sweep.glob("*-none-*seed0*")), tmp_path / "copy")
    result = json.loads((folder / "result.json").read_text())
    for target, message in (
        ("os.system", "a network .* is wanted here"),
        ("net_opened_here.Mine", "code=net_opened_here"),
    ):
        result["config"]["model"]["_target_"] = target
        result.pop("checksum", None)
        (folder / "result.json").write_text(json.dumps(result | {"checksum": checksum(result)}))
        with pytest.raises(ValueError, match=message):
            rethinkgen.open_run(folder).network()
    assert type(rethinkgen.open_run(folder, code="net_opened_here").network()).__name__ == "Mine"


def test_a_wrong_path_says_what_is_there_instead(small_sweep: Path) -> None:
    run = next(small_sweep.glob("*-none-*seed0*"))
    with pytest.raises(ValueError, match=rf"seed0: no run\. Runs in .*: {run.name}, .* and 1 more"):
        rethinkgen.open_run(str(run).rpartition("-")[0])
    with pytest.raises(
        ValueError, match=r"it is the folder of a sweep, which open_sweep\('.*small'\) reads whole\. Runs"
    ):
        rethinkgen.open_run(small_sweep)
    with pytest.raises(ValueError, match=r"result.json: it is a file of a run\. Give the run's folder"):
        rethinkgen.open_run(run / "result.json")
    with pytest.raises(ValueError, match=r"there is no such folder.*There are: .*small"):
        rethinkgen.open_run(small_sweep.with_name("smal"))


def test_pixels_have_a_finite_gradient_even_where_an_image_is_constant(small_sweep: Path) -> None:
    run = rethinkgen.open_run(next(small_sweep.glob("*-none-*seed0*")))
    pixels = run.pixels("test")[:3].clone()
    pixels[0] = 0.5
    pixels.requires_grad_()
    run.from_pixels(pixels).square().sum().backward()
    assert pixels.grad is not None
    assert pixels.grad.isfinite().all()


def test_a_measure_of_weights_alone_needs_no_data(moved: Path) -> None:
    shutil.rmtree(moved.parents[2] / "my_images")
    subject = rethinkgen.open_run(moved).subject()
    assert sum(value.numel() for value in subject.network.parameters()) > 0
    assert subject.fresh(0).num_classes == 4
    with pytest.raises(ValueError, match="are not found"):
        subject.split("train")
    with pytest.raises(ValueError, match="are not found"):
        subject.class_names  # noqa: B018


def test_fresh_networks_are_the_same_for_the_same_draw(small_sweep: Path) -> None:
    run = rethinkgen.open_run(next(small_sweep.glob("*-none-*seed0*")))
    first, again, other = (list(run.fresh(draw).parameters()) for draw in (0, 0, 1))
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not all(torch.equal(a, b) for a, b in zip(first, other, strict=True))


def test_a_device_that_is_not_there_is_refused(small_sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = next(small_sweep.glob("*-none-*seed0*"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for device, message in (("cuda", "there is no GPU here"), ("cpuu", "cpu or cuda is needed")):
        with pytest.raises(ValueError, match=f"device='{device}': {message}"):
            rethinkgen.open_run(run, device=device)
