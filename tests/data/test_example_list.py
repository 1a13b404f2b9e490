from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from in_memory import InMemory

from rethinkgen.data.corruption import GivenLabels, PartialLabels, TrueLabels
from rethinkgen.data.example_list import Split, read_exclude, read_labels
from rethinkgen.data.module import CorruptedImages
from rethinkgen.data.source import ImageFolder, Images

Write = Callable[..., str]
SPLIT = Split(6, ("cat", "=1+1", "2"), lambda position: f"train/{'=c' if position == 5 else 'c'}/{position}.png")
UNNAMED = Split(6, SPLIT.class_names, None)


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Write a file of what is given, text or array, and return its path."""

    def written(content: Any) -> str:
        path = tmp_path / f"list{len(list(tmp_path.iterdir()))}.{'csv' if isinstance(content, str | bytes) else 'npy'}"
        if isinstance(content, str):
            path.write_text(content, encoding="utf-8")
        elif isinstance(content, bytes):
            path.write_bytes(content)
        else:
            np.save(path, content, allow_pickle=True)
        return str(path)

    return written


@pytest.mark.parametrize(
    ("content", "dropped"),
    [
        ("index\n4\n0\n4\n", [0, 4]),
        ("\ufeffPath,Index\ntrain/c/3.png,3\n./train/c/1.png,1\n", [1, 3]),
        ("path\ntrain/=c/5.png\n", [5]),
        ("index,decision,label\n4,Keep,\n3, drop ,\n2,relabel,0\n1,,\n", [3]),
        ("index;note\n2;a, b\n\n", [2]),
        ("index\n", []),
        (np.array([5, 1], np.uint8), [1, 5]),
        (np.array([False, True, False, False, True, False]), [1, 4]),
    ],
)
def test_what_is_left_out(content: Any, dropped: list[int], write: Write) -> None:
    assert read_exclude("data.exclude", write(content)).dropped(SPLIT).tolist() == dropped


@pytest.mark.parametrize(
    ("content", "positions", "labels"),
    [
        ("index,label\n4,cat\n0,2\n", [0, 4], [2, 0]),
        ("index,label\n4,0\n4,cat\n", [4], [0]),
        ("path,label\ntrain/c/2.png,=1+1\ntrain/c/1.png,'=1+1\n", [1, 2], [1, 1]),
        ("index,label,decision\n4,,keep\n3,,drop\n2,0,relabel\n", [2], [0]),
        ("path,given,suggested,decision\ntrain/c/4.png,2,cat,\ntrain/c/1.png,2,'=1+1,relabel\n", [1], [1]),
        ("index,suggested,label,decision\n4,2,cat,relabel\n", [4], [0]),
        (np.array([[3, 1], [0, 2]]), [0, 3], [2, 1]),
        (np.array([0, 1, 2, 2, 1, 0]), [0, 1, 2, 3, 4, 5], [0, 1, 2, 2, 1, 0]),
    ],
)
def test_which_labels_are_given(content: Any, positions: list[int], labels: list[int], write: Write) -> None:
    found = read_labels("data.relabel", write(content)).relabelled(SPLIT)
    assert [each.tolist() for each in found] == [positions, labels]


def test_a_number_is_a_name_first_and_in_an_array_no_name(write: Write) -> None:
    from_one = Split(3, ("1", "2", "3"), None)
    assert read_labels("k", write("index,label\n0,1\n1,0\n")).relabelled(from_one)[1].tolist() == [0, 0]
    assert read_labels("k", write(np.array([1, 2, 0]))).relabelled(from_one)[1].tolist() == [1, 2, 0]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("a,label\n1,2\n", "its columns are a, label. One called index or path is needed"),
        ("", "it has no line with the names of its columns"),
        ("index\n1\n", "its columns are index. One called label is needed"),
        ("index,label,index\n1,2,3\n", "One alone may be called index"),
        ("index,label\n1\n", r"line 2: 1 cells, under 2 columns"),
        ("index,label,decision\n1,2,keep\n1,2,throw\n", "line 3, column decision='throw': one of keep, relabel, drop"),
        ('index,label\n1,"a\n', r"it is no CSV file"),
        (b"index,label\n1,\xff\n", "cannot be read as UTF-8 text"),
        (np.ones(3), r"it is float64 \(3,\): integers \(K, 2\) of positions and labels, or \(N,\)"),
        (np.ones((3, 3), int), r"it is int64 \(3, 3\)"),
        (np.array([{}], dtype=object), "cannot be read as an array"),
    ],
)
def test_what_is_wrong_by_itself_is_said_when_it_is_read(content: Any, says: str, write: Write) -> None:
    path = write(content)
    with pytest.raises(ValueError, match=says) as error:
        read_labels("data.relabel", path)
    assert f"data.relabel={path}" in str(error.value)


@pytest.mark.parametrize(
    ("content", "split", "says"),
    [
        ("index,label\n6,0\n", SPLIT, "line 2, column index='6': a whole number from 0 to 5"),
        ("index,label\n-1,0\n", SPLIT, "line 2, column index='-1'"),
        ("index,label\n1.0,0\n", SPLIT, "line 2, column index='1.0'"),
        ("path,label\ntest/c/1.png,0\n", SPLIT, "column path='test/c/1.png': no training image.* train/c/0.png"),
        ("path,label\ntrain/c/1.png,0\n", UNNAMED, "the images of this source have no paths. A column index"),
        ("path,index,label\ntrain/c/1.png,2,0\n", SPLIT, "column index='2': train/c/1.png is number 1"),
        ("index,label\n1,dog\n", SPLIT, "line 2, column label='dog': a class .* 0 to 2, or by name: cat, =1"),
        ("index,label\n1,\n", SPLIT, "line 2, column label='': a class"),
        ("index,label\n1,cat\n2,0\n1,2\n", SPLIT, "line 4, column label='2': .* another label at line 2"),
        (
            "index,label,decision\n1,cat,relabel\n2,,drop\n1,,drop\n",
            SPLIT,
            "line 4, column decision='drop': another line",
        ),
        (np.array([[1, 3]]), SPLIT, "line 0, column label='3': a class is needed, by number from 0 to 2."),
        (np.array([1, 2]), SPLIT, "it has 2 values, and the source 6 training examples"),
    ],
)
def test_what_is_wrong_with_the_data_at_hand_names_its_line(
    content: Any, split: Split, says: str, write: Write
) -> None:
    read = read_labels("data.relabel", write(content))
    with pytest.raises(ValueError, match=says):
        read.relabelled(split)


def test_a_file_of_another_kind_or_none_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.txt").write_text("index\n1\n")
    with pytest.raises(ValueError, match=r"data\.exclude=.*list\.txt: a \.csv or \.npy file is needed"):
        read_exclude("data.exclude", str(tmp_path / "list.txt"))
    with pytest.raises(ValueError, match=r"data\.exclude=nowhere\.csv: the file cannot be read"):
        read_exclude("data.exclude", "nowhere.csv")
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(ValueError, match=r"pipe\.csv: it is no regular file"):
        read_exclude("data.exclude", str(tmp_path / "pipe.csv"))


def test_a_changed_file_is_read_again(write: Write) -> None:
    path = write("index\n1\n")
    assert read_exclude("data.exclude", path).dropped(SPLIT).tolist() == [1]
    Path(path).write_text("index\n1\n2\n")
    assert read_exclude("data.exclude", path).dropped(SPLIT).tolist() == [1, 2]


def ready(datamodule: CorruptedImages) -> CorruptedImages:
    datamodule.setup()
    return datamodule


def test_left_out_examples_are_in_no_part_and_the_others_as_they_were(write: Write) -> None:
    path = write("index\n3\n77\n78\n150\n")
    data: dict[str, Any] = {"probability": 0.5, "validation": 0.2}
    whole = ready(PartialLabels(InMemory(), **data)).splits
    less = ready(PartialLabels(InMemory(), exclude=path, **data))
    for part in ("train", "validation"):
        before, after = whole[part], less.splits[part]  # type: ignore[index]
        stays = ~torch.isin(before.index, torch.tensor([3, 77, 78, 150]))
        assert torch.equal(after.index, before.index[stays])
        assert torch.equal(after.inputs, before.inputs[stays])  # type: ignore[index, arg-type]
        assert torch.equal(after.labels, before.labels[stays])
    assert len(less.splits["train"]) + len(less.splits["validation"]) == 196
    assert torch.equal(less.splits["test"].inputs, whole["test"].inputs)  # type: ignore[arg-type]
    assert f"data.exclude={path}: 4 of 200 training examples are left out." in less.notes


def test_corrected_labels_are_the_original_ones_from_then_on(write: Write) -> None:
    source = InMemory()
    labels = source.load().train.labels
    path = write(f"index,label,decision\n0,{(labels[0] + 1) % 5},relabel\n1,{labels[1]},relabel\n2,,drop\n")
    found = ready(TrueLabels(source, relabel=path))
    train = found.splits["train"]
    assert train.index.tolist() == [0, 1, *range(3, 200)]
    assert train.labels.tolist() == train.original_labels.tolist() == [(labels[0] + 1) % 5, labels[1], *labels[3:]]
    assert not train.is_corrupted.any()
    assert f"data.relabel={path}: 1 of 200 training labels are corrected." in found.notes
    assert f"data.relabel={path}: 1 of 200 training examples are left out." in found.notes


def test_a_file_of_decisions_that_only_leaves_out_says_what_it_does_not_do(write: Write) -> None:
    path = write("index,label,decision\n0,1,relabel\n2,,drop\n")
    found = ready(TrueLabels(InMemory(), exclude=path))
    assert len(found.splits["train"]) == 199
    assert any("1 rows say relabel, and their labels are as they were: data.relabel" in note for note in found.notes)


def test_given_labels_stand_beside_the_original_ones(write: Write) -> None:
    source = InMemory()
    labels = source.load().train.labels
    path = write(f"index,label\n7,{(labels[7] + 1) % 5}\n9,{labels[9]}\n")
    found = ready(GivenLabels(source, labels=path))
    train = found.splits["train"]
    assert train.original_labels.tolist() == labels.tolist()
    assert train.is_corrupted.nonzero().flatten().tolist() == [7]
    assert train.is_drawn.nonzero().flatten().tolist() == [7, 9]
    assert int(train.labels[7]) == (labels[7] + 1) % 5
    assert found.noise == {"noise/probability": None, "noise/realised": 1 / 200}
    part = ready(GivenLabels(InMemory(), labels=path, num_train=50, batch_size=10)).splits["train"]
    assert torch.equal(part.labels, train.labels[part.index])


def test_given_labels_drop_nothing(write: Write) -> None:
    with pytest.raises(ValueError, match=r"data\.corruption\.labels=.*: 1 rows say drop"):
        GivenLabels(InMemory(), labels=write("index,label,decision\n7,,drop\n"))


def test_who_leaves_out_too_much_is_told(write: Write) -> None:
    everything = write(np.ones(200, bool))
    with pytest.raises(ValueError, match=r"data\.exclude: 200 of 200 training examples are left out.*Leave out fewer"):
        ready(TrueLabels(InMemory(), exclude=everything))
    with pytest.raises(ValueError, match=r"data\.num_train=198: at most 197 .* data\.relabel leaves out 3"):
        ready(TrueLabels(InMemory(), exclude=write("index\n1\n2\n3\n"), num_train=198))


@pytest.mark.parametrize("streamed", [False, True])
def test_images_of_a_folder_are_named_by_their_paths(streamed: bool, write: Write, tmp_path: Path) -> None:
    from PIL import Image

    from rethinkgen.data.streamed_source import StreamedFolder

    root = tmp_path / "images"
    for split in ("train", "test"):
        for name in ("cat", "dog"):
            (root / split / name).mkdir(parents=True)
            for number in range(3):
                Image.new("L", (8, 8), 40 * number).save(root / split / name / f"{number}.png")
    path = write("path,label,decision\ntrain/cat/1.png,dog,relabel\ntrain/dog/2.png,,drop\n")
    source: Any = StreamedFolder(root, resize=8, num_workers=0) if streamed else ImageFolder(root, num_workers=1)
    found = ready(TrueLabels(source, relabel=path, crop=8, preprocessing="none", batch_size=2))
    assert found.splits["train"].index.tolist() == [0, 1, 2, 3, 4]
    assert found.splits["train"].labels.tolist() == [0, 1, 0, 1, 1]
    assert isinstance(source.load(), Images) is not streamed


def test_who_relabels_by_the_same_file_is_not_told_to(write: Write) -> None:
    path = write("index,label,decision\n0,1,relabel\n2,,drop\n")
    advice = f"data.exclude={path}: 1 rows say relabel"
    assert any(note.startswith(advice) for note in ready(TrueLabels(InMemory(), exclude=path)).notes)
    does_so = ready(TrueLabels(InMemory(), exclude=path, relabel=path))
    assert not any("rows say relabel" in note for note in does_so.notes)
    assert does_so.splits["train"].labels[0] == 1
