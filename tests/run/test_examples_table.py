from __future__ import annotations

import csv
import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
from PIL import Image

import rethinkgen
from conftest import Command
from rethinkgen.run import description, examples_table
from rethinkgen.run.examples_table import COLUMNS, write_examples

EXAMPLES = {
    "index": np.array([0, 2, 3]),
    "original_labels": np.array([0, 1, 1]),
    "labels": np.array([0, 0, 1]),
    "first_step_fitted": np.array([12, -1, 3]),
    "times_forgotten": np.array([0, 1, 2]),
    "final_loss": np.array([0.5, 1.25, 1e-9], np.float32),
}
ODD = os.fsdecode(b"train/b/caf\xe9.png")
NAMES = ['train/=1+1/a, "b".png', "unused", ODD, "train/b/line\nbreak.png"]


def data(**more: Any) -> Any:
    source = SimpleNamespace(name_of=lambda split, position: {"train": NAMES}[split][position])
    return SimpleNamespace(source=source, class_names=("=1+1", "b"), **more)


def test_names_of_all_kinds_are_cells_of_their_own(tmp_path: Path) -> None:
    path = tmp_path / "examples.csv"
    write_examples(path, data(), EXAMPLES)
    assert path.read_bytes().startswith(b"\xef\xbb\xbfindex,path,"), "by this spreadsheets know UTF-8"
    with path.open(encoding="utf-8-sig", newline="") as file:
        rows = list(csv.reader(file))
    assert rows == [
        list(COLUMNS),
        ["0", 'train/=1+1/a, "b".png', "'=1+1", "'=1+1", "12", "0", "0.5"],
        ["2", r"train/b/caf\udce9.png", "b", "'=1+1", "", "1", "1.25"],
        ["3", "train/b/line\nbreak.png", "b", "b", "3", "2", "1e-09"],
    ]
    table = pd.read_csv(path)
    assert list(table.columns) == list(COLUMNS)
    assert table["first_step_fitted"].isna().tolist() == [False, True, False]


def test_what_was_presented_stands_beside_it_where_it_is_known(tmp_path: Path) -> None:
    path = tmp_path / "examples.csv"
    presented = {
        "presented_times": np.array([4, 4, 3], np.int32),
        "presented_margin_sum": np.array([-1.5, 1e-9, 12345678], np.float32),
        "presented_last_step_right": np.array([-1, 0, 30], np.int32),
    }
    write_examples(path, data(), EXAMPLES | presented)
    table = pd.read_csv(path)
    assert list(table.columns) == [*COLUMNS, *presented]
    assert table["presented_times"].tolist() == [4, 4, 3]
    assert table["presented_margin_sum"].tolist() == [-1.5, 1e-9, 12345700]
    assert table["presented_last_step_right"].isna().tolist() == [True, False, False]


def test_images_without_names_and_more_than_a_spreadsheet_opens_have_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_examples(tmp_path / "examples.csv", SimpleNamespace(source=object()), EXAMPLES)  # type: ignore[arg-type]
    monkeypatch.setattr(examples_table, "MOST_ROWS", 2)
    write_examples(tmp_path / "examples.csv", data(), EXAMPLES)
    assert list(tmp_path.iterdir()) == []


def image_folder(root: Path) -> Path:
    """Write 12 images of two classes; in one colour each, so that the first steps fit them."""
    for split in ("train", "test"):
        for name, shade in (("cat", 40), ("dog", 200)):
            (root / split / name).mkdir(parents=True)
            for number in range(6):
                pixels = np.random.default_rng(number).integers(0, 50, (8, 8), dtype=np.uint8) + shade
                Image.fromarray(pixels.astype(np.uint8)).save(root / split / name / f"{number}.png")
    return root


@pytest.mark.parametrize("data", ["image_folder", "imagenet"])
def test_a_small_folder_ends_when_fitted_and_says_so(
    data: str, train: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    root = image_folder(tmp_path / "images")
    own = ["data=image_folder"] if data == "image_folder" else ["data=imagenet", "data.crop=8", "data.source.resize=8"]
    budget = [] if data == "image_folder" else ["max_steps=2"]
    folder = train(
        *own, f"data.root={root}", "data.batch_size=4", "model=mlp", "data.preprocessing=none", "threads=1",
        "trainer=cpu", "logger=none", "data.source.num_workers=1", *budget,
    )  # fmt: skip
    said = capsys.readouterr().out
    table = pd.read_csv(folder / "examples.csv")
    assert table["path"].tolist() == [f"train/{name}/{number}.png" for name in ("cat", "dog") for number in range(6)]
    assert table["original_label"].tolist() == table["given_label"].tolist() == ["cat"] * 6 + ["dog"] * 6
    if data == "image_folder":
        assert "Trains until the whole training set is fitted, 300 steps (100 epochs) at most." in said
        assert "fitted in " in said
        assert f"{folder.name}/examples.csv" in said
    else:
        assert "Trains for 2 steps" in said


def test_a_run_of_before_is_named_to_who_means_it(
    train: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    own = ["data=image_folder", f"data.root={image_folder(tmp_path / 'images')}", "data.batch_size=4", "model=mlp"]
    own += ["threads=1", "trainer=cpu", "logger=none", "data.source.num_workers=1", "max_epochs=2"]
    before = train(*own, "until_fit=false")
    capsys.readouterr()
    today = train(*own)
    assert today != before
    assert (
        f"With until_fit=false, the default of before, this command is the run in {before}." in capsys.readouterr().out
    )
    train(*own)
    assert "default of before" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("lines", "meant"),
    [("", (25_000, None, False)), ("until_fit: true", (25_000, None, True)), ("max_epochs: 100", (None, 100, False))],
)
def test_what_an_experiment_says_is_no_default_that_has_changed(
    lines: str, meant: tuple[int | None, int | None, bool], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = tmp_path / "conf" / "experiment" / "own.yaml"
    experiment.parent.mkdir(parents=True)
    experiment.write_text(f"# @package _global_\n{lines}\n")
    root = f"data.root={image_folder(tmp_path / 'images')}"
    config = rethinkgen.compose("+experiment=own", "data=image_folder", root, config_dir=experiment.parents[1])
    asked: list[description.Description] = []
    monkeypatch.setattr(description, "folders_of", lambda described, folder: asked.append(described) or [])
    described = description.describe(config, {}, [], "own")
    assert description.run_before(described, config, tmp_path) is None
    assert tuple(asked[0].config[key] for key in ("max_steps", "max_epochs", "until_fit")) == meant


def test_the_budget_of_an_experiment_was_its_own_before(
    train: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    experiment = tmp_path / "conf" / "experiment" / "short.yaml"
    experiment.parent.mkdir(parents=True)
    experiment.write_text("# @package _global_\nmax_steps: 2\n")
    own = ["data=image_folder", f"data.root={image_folder(tmp_path / 'images')}", "data.batch_size=4", "model=mlp"]
    own += ["threads=1", "trainer=cpu", "logger=none", "data.source.num_workers=1", "sweep=short"]
    own += ["--config-dir", str(experiment.parents[1]), "+experiment=short"]
    before = train(*own, "until_fit=false")
    capsys.readouterr()
    train(*own)
    said = capsys.readouterr().out
    assert f"With until_fit=false, the default of before, this command is the run in {before}." in said
