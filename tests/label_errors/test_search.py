"""A search from the command to its table, in this process, on a small folder of images with planted errors."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rethinkgen.commands.find_label_errors import main
from rethinkgen.label_errors import search as searching
from rethinkgen.label_errors.findings import Findings

HERE = ["trainer=cpu", "threads=1", "hydra/launcher=basic"]
"""In this process: a pool's would take seconds each."""
PER_CLASS = 40
WRONG = ("bar/000_is_dot.png", "dot/001_is_bar.png", "bar/002_is_ring.png")


def picture(name: str, rng: np.random.Generator) -> Image.Image:
    pixels = rng.integers(0, 60, (8, 8))
    if name == "bar":
        pixels[:, 3:5] = 255
    elif name == "dot":
        pixels[3:5, 3:5] = 255
    else:
        pixels[[0, -1], :] = pixels[:, [0, -1]] = 255
    return Image.fromarray(pixels.astype(np.uint8))


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three shapes in three folders, three images in a wrong one, and two files that are none."""
    root, rng = tmp_path_factory.mktemp("place") / "=my shapes", np.random.default_rng(0)
    for name in ("bar", "dot", "ring"):
        (root / name).mkdir(parents=True)
        for number in range(10, PER_CLASS + 10):
            picture(name, rng).save(root / name / f"{number:03}.png")
    for path in WRONG:
        picture(path.rpartition("_")[2].removesuffix(".png"), rng).save(root / path)
    (root / "ring" / "broken.png").write_bytes(b"\x89PNG nothing more")
    (root / "ring" / "notes.txt").write_text("no image")
    return root


@pytest.fixture
def find(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., tuple[int, Findings | None]]:
    """Run the command here; return its exit code and what it found."""
    monkeypatch.chdir(tmp_path)
    seen: list[Findings] = []
    tell = searching.tell
    monkeypatch.setattr(searching, "tell", lambda findings, path: (seen.append(findings), tell(findings, path)))

    def run(*arguments: str) -> tuple[int, Findings | None]:
        seen.clear()
        return main(arguments, ["find_label_errors.py"]), next(iter(seen), None)

    return run


def rows(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines()))


def test_wrong_labels_of_a_folder_come_first_and_nothing_is_trained_twice(
    images: Path, find: Callable[..., tuple[int, Findings | None]], capsys: pytest.CaptureFixture[str]
) -> None:
    code, found = find(str(images), "max_epochs=12", "control=false", *HERE)
    assert code == 0
    assert found is not None
    assert {each.path for each in found.suspects[:3]} == set(WRONG)
    suggested = {each.path: found.class_names[each.suggested] for each in found.suspects[:3]}
    assert suggested == {WRONG[0]: "dot", WRONG[1]: "bar", WRONG[2]: "ring"}
    assert {file for file, _ in found.left_out} == {"ring/broken.png", "ring/notes.txt"}
    assert found.held_out_accuracy is None
    assert found.control is None
    assert found.image(found.suspects[0].index).shape == (1, 8, 8)
    folder = Path("multirun/label_errors-_my_shapes")
    table = rows(folder / "suspects.csv")
    assert len(table) == 3 * PER_CLASS + 3
    assert [row["rank"] for row in table[:3]] == ["1", "2", "3"]
    assert "2 files left out" in capsys.readouterr().out
    # What was found once is not trained again, and what was decided stays.
    text = (folder / "suspects.csv").read_text(encoding="utf-8-sig")
    first = text.splitlines()[1]
    (folder / "suspects.csv").write_text(text.replace(first, f"{first}drop"), encoding="utf-8")
    (result,) = folder.glob("*/result.json")
    before = result.read_bytes()
    assert find(str(images), "max_epochs=12", "control=false", *HERE)[0] == 0
    assert result.read_bytes() == before
    assert rows(folder / "suspects.csv")[0]["decision"] == "drop"
    # Corrected labels are searched beside, not over the table that corrects them.
    table = str(folder / "suspects.csv")
    code, corrected = find(str(images), "max_epochs=12", "control=false", f"data.relabel={table}", *HERE)
    assert code == 0
    assert corrected is not None
    assert len(corrected.suspects) == len(found.suspects) - 1
    assert corrected.notes[0] == f"{table} has corrected 0 labels and left out 1 image before this search."
    assert corrected.notes[1].startswith("Nothing is held out")
    assert Path("multirun/label_errors-_my_shapes-relabelled/suspects.csv").is_file()
    over = [f"data.relabel={table}", f"sweep={folder.name}"]
    assert find(str(images), "max_epochs=12", *over, *HERE)[0] == 2
    # The runs by themselves say the same.
    code, again = find(str(folder))
    assert code == 0
    assert again is not None
    assert [each.index for each in again.suspects] == [each.index for each in found.suspects]


def test_the_control_plants_leaves_out_a_tenth_and_folds_ask_all(
    find: Callable[..., tuple[int, Findings | None]], tmp_path: Path
) -> None:
    code, found = find(
        "data=digits",
        "data.source.parts=[test]",
        "max_epochs=8",
        "folds=2",
        "runs=2",
        "model.width=32",
        "seed=3",
        *HERE,
    )
    assert code == 0
    assert found is not None
    assert found.control is not None
    assert found.control.planted == 20
    assert found.control.found[-1] > 10
    assert found.held_out_accuracy is not None
    assert 0.7 < found.held_out_accuracy < 1
    assert "the other 1 folds" in found.held_out
    results = [json.loads(path.read_text()) for path in tmp_path.glob("multirun/*/*/result.json")]
    given = [{key: each["config"]["data"][key] is not None for key in ("exclude", "relabel")} for each in results]
    assert len(results) == 2 + 2 + 1
    assert sorted(sum(each.values()) for each in given) == [0, 0, 1, 1, 2]
    assert {each["seed"] for each in results} == {3, 4}
    assert {each["config"]["data"]["seed"] for each in results} == {3}, "the same corruption in all"


def test_a_mistake_ends_before_anything_is_trained(
    find: Callable[..., tuple[int, Findings | None]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "one" / "cat").mkdir(parents=True)
    picture("dot", np.random.default_rng(0)).save(tmp_path / "one" / "cat" / "1.png")
    for arguments, said in (
        (["empty"], "no folder in empty"),
        (["one"], "one class with images, cat; at least two"),
        (["data=digits", "modle=mlp"], "modle"),
        (["data=digits", "regularizer=[mixup]"], "a mixture of two images has no label"),
        (["multirun"], "there is no such folder or file"),
    ):
        code, found = find(*arguments, *HERE)
        assert (code != 0, found) == (True, None)
        assert said in capsys.readouterr().err
    assert not list(tmp_path.rglob("result.json"))
    assert find("--help")[0] == 0
    assert "runs=3" in capsys.readouterr().out


def test_a_search_on_corrected_labels_says_what_changed(
    find: Callable[..., tuple[int, Findings | None]], capsys: pytest.CaptureFixture[str]
) -> None:
    own = ["data=digits", "max_epochs=2", "model.width=16", "control=false", *HERE]
    code, first = find(*own, "export=cleanlab")
    assert (code, first is not None) == (0, True)
    # Whatever changed the labels: those that were given are the right ones of the control.
    corrupted = ["data.corruption=partial_labels", "data.corruption.probability=0.1", "sweep=corrupted", *HERE]
    code, found = find("data=digits", "max_epochs=6", *corrupted)
    assert code == 0
    assert found is not None
    assert found.control is not None
    assert found.control.planted == 29
    table = Path("multirun/label_errors-digits/suspects.csv")
    assert len(rows(table.with_name("cleanlab.csv"))) == 1437
    lines = table.read_text(encoding="utf-8-sig").splitlines()
    before = rows(table)
    lines[1], lines[2] = f"{lines[1]}relabel", f"{lines[2]}drop"
    Path("mine.csv").write_text("\n".join(lines), encoding="utf-8")
    code, found = find(*own, "data.relabel=mine.csv")
    assert code == 0
    assert found is not None
    changes = found.changes
    assert changes is not None
    labels = {str(each.index): each.after for each in changes.changed}
    assert labels == {before[0]["index"]: int(before[0]["suggested"]), before[1]["index"]: None}
    assert {str(each.before) for each in changes.changed} == {row["given"] for row in before[:2]}
    assert changes.total == 1437
    assert changes.before is not None
    assert changes.after is not None
    assert (changes.before.num_trained, changes.after.num_trained) == (1437, 1436)
    assert changes.before.count == 360
    results = {
        path.parent.parent.name: json.loads(path.read_text()) for path in Path().glob("multirun/*/*/result.json")
    }
    accuracies = [results[f"label_errors-digits{end}"]["metrics"]["test/accuracy"] for end in ("", "-relabelled")]
    assert [*changes.before.accuracies, *changes.after.accuracies] == accuracies
    assert found.notes[0] == "mine.csv has corrected 1 label and left out 1 image before this search."
    page = Path("multirun/label_errors-digits-relabelled/changes.html")
    assert "What changed: " in capsys.readouterr().out
    assert page.read_text(encoding="utf-8").count("<img") == 2
    # Where the first search is not found, nothing compares.
    table.parent.rename("elsewhere")
    _, other = find(*own, "data.relabel=mine.csv")
    assert other is not None
    assert other.changes is not None
    assert other.changes.before is None
    assert other.changes.changed == changes.changed
    assert other.notes[-1].startswith("No finished search with the same keys")
    # For FiftyOne files are needed, and this is known before anything is trained.
    assert find(*own, "export=fiftyone", "sweep=third") == (2, None)
    assert "are no files" in capsys.readouterr().err
    assert not Path("multirun/third").exists()
