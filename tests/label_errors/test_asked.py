"""What a command asks for, and what it is refused for before anything begins."""

from __future__ import annotations

from pathlib import Path

import pytest

from rethinkgen.label_errors.asked import Asked, quoted, unquoted
from rethinkgen.label_errors.network import choose


def test_a_folder_a_table_or_data_of_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "my im=ages"
    folder.mkdir()
    asked = Asked.of([str(folder), "runs=3", "seed=4", "control=false"])
    assert (asked.runs, asked.seed, asked.control, asked.folds) == (3, 4, 0.0, 0)
    assert asked.data == ["data=any_images", f'data.root="{folder}"']
    assert asked.sweep_folder == Path("multirun/label_errors-my_im_ages")
    (folder / "labels.csv").touch()
    table = Asked.of([str(folder / "labels.csv"), "control=0.05", "sweep=mine", "results_dir=there"])
    assert table.data[1:] == [f'data.root="{folder}"', 'data.source.table="labels.csv"']
    assert table.sweep_folder == Path("there/mine")
    assert Asked.of(["data=mnist", "max_epochs=2", "seed=1", "max_epochs=1"]).overrides == [
        "data=mnist",
        "max_epochs=1",
        "seed=1",
    ]
    assert Asked.of(["data=mnist"]).data == []
    assert Asked.of(["data=mnist"]).sweep_folder.name == "label_errors-mnist"


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ([], "which images"),
        (["nowhere"], "nowhere: there is no such folder or file"),
        ([".", "data=mnist"], "data=mnist: . says already which images"),
        ([".", "/"], "/: one folder a command"),
        ([".", "seed=0,1"], "seed=0,1: one value is needed.* Several seeds: runs=3"),
        ([".", "runs=0"], "runs=0: a whole number of at least 1"),
        ([".", "folds=1"], "folds=1: at least 2"),
        ([".", "control=0.5"], "control=0.5: a share of the labels from 0 to 0.1"),
        ([".", "-m"], "-m: there is no such option"),
        ([".", "debug=true"], "debug=true: of a trial nothing is kept"),
        ([".", "rerun=true"], "rerun=true: a search reads what is trained"),
        (["notes.txt"], "notes.txt: a folder, or a CSV file"),
    ],
)
def test_what_cannot_be_meant_is_refused(
    arguments: list[str], said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").touch()
    with pytest.raises(ValueError, match=said):
        Asked.of(arguments)


def test_what_it_costs_is_said() -> None:
    said = Asked.of(["data=digits", "runs=3", "folds=5"]).cost()
    assert "3 trainings (runs=3), 5 on 4/5 of the images each (folds=5), one with labels" in said
    assert "in all 8 times" in said
    assert "in all 1 times" in Asked.of(["data=digits", "control=false"]).cost()


@pytest.mark.parametrize("text", ["a b", "it's", 'say "no"', "a,b=c", "back\\", "{x}", "$"])
def test_any_path_is_an_override(text: str) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    parsed = OverridesParser.create().parse_override(f"data.root={quoted(text)}")
    assert parsed.value() == text
    assert not parsed.is_sweep_override()
    assert unquoted("'a'") == "a"


def test_small_grey_images_have_a_perceptron_others_convolutions_and_large_ones_none() -> None:
    assert choose((1, 28, 28), 60_000).overrides["model"] == "mlp"
    colour = choose((3, 32, 32), 1000).overrides
    assert (colour["model"], colour["data.batch_size"]) == ("cnn_16_32_32", "32")
    with pytest.raises(ValueError, match="model: for 10 colour images of 200x100 there is no default"):
        choose((3, 100, 200), 10)
