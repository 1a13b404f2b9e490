"""Tables for other programs: their columns, their order, whoever named the files."""

from __future__ import annotations

import ast
import csv
import importlib.util
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from conftest import ROOT
from rethinkgen.label_errors.asked import Asked
from rethinkgen.label_errors.exports import export
from rethinkgen.label_errors.findings import Findings, Suspect

SUSPECTS = tuple(
    Suspect(index, f"=cat/{index}.png", given, 1 - given, score, rank, 0.5, decision)
    for rank, (index, given, score, decision) in enumerate(
        [(3, 0, 1.0, ""), (0, 1, 0.75, "keep"), (2, 0, 0.5, ""), (1, 1, 0.125, "drop")], 1
    )
)
FOUND = Findings(
    suspects=SUSPECTS,
    class_names=("cat", "=1+1"),
    confusion=(),
    num_doubted=2,
    control=None,
    network="mlp",
    held_out_accuracy=None,
    held_out="",
    left_out=(),
    command="",
    seconds=0.0,
    image=lambda index: np.zeros((1, 2, 2), np.uint8),
    root=Path("photos"),
)


def read(path: Path) -> list[dict[str, str]]:
    text = path.read_text(encoding="utf-8")
    assert not text.startswith("\ufeff"), "it would be taken into the name of the first column"
    return list(csv.DictReader(text.splitlines()))


def test_cleanlab_has_the_order_of_the_data_numbers_of_classes_and_what_was_decided(tmp_path: Path) -> None:
    (path,) = export(FOUND, ["cleanlab"], tmp_path)
    rows = read(path)
    assert path.name == "cleanlab.csv"
    assert [row["given_label"] for row in rows] == ["1", "1", "0", "0"], "cleanlab compares them with the labels"
    assert [row["predicted_label"] for row in rows] == ["0", "0", "1", "1"]
    assert [row["is_label_issue"] for row in rows] == ["False", "True", "False", "True"]
    assert [float(row["label_quality"]) for row in rows] == [0.25, 0.875, 0.5, 0]
    assert rows[0]["path"] == "'=cat/0.png"
    unnamed = replace(FOUND, suspects=tuple(replace(each, path=None) for each in SUSPECTS), root=None)
    assert [row["index"] for row in read(export(unnamed, ["cleanlab"], tmp_path)[0])] == ["0", "1", "2", "3"]


def test_cleanlab_knows_these_columns(tmp_path: Path) -> None:
    found = importlib.util.find_spec("cleanlab")  # importing it costs seconds
    if found is None or found.origin is None:
        pytest.skip("there is no cleanlab here")
    source = Path(found.origin).with_name("classification.py").read_text(encoding="utf-8")
    columns = [*read(export(FOUND, ["cleanlab"], tmp_path)[0])[0]][:-1]
    assert columns
    assert [name for name in columns if f'"{name}"' not in source] == []


def test_fiftyone_has_whole_paths_and_the_most_suspicious_first(tmp_path: Path) -> None:
    (path,) = export(FOUND, ["fiftyone"], tmp_path)
    rows = read(path)
    assert [row["filepath"] for row in rows][:2] == [
        str(Path("photos/=cat/3.png").absolute()),
        f"{Path.cwd()}/photos/=cat/0.png",
    ]
    assert [(row["ground_truth"], row["predictions"]) for row in rows[:2]] == [("cat", "'=1+1"), ("'=1+1", "cat")]
    assert [float(row["mistakenness"]) for row in rows] == [1, 0.75, 0.5, 0.125]
    assert [row["decision"] for row in rows] == ["", "keep", "", "drop"]
    # The docs read it by these names, and have one for each that it reads.
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs/noisy_labels.md").read_text(), flags=re.DOTALL)
    (fields,) = [node.value for node in ast.walk(ast.parse(block)) if getattr(node, "arg", "") == "fields"]
    keys = [key.value for key in fields.keys]
    assert set(keys) < set(rows[0])
    assert len(keys) == 5
    unnamed = replace(FOUND, suspects=tuple(replace(each, path=None) for each in SUSPECTS))
    with pytest.raises(ValueError, match="export=fiftyone: the images of this data are no files"):
        export(unnamed, ["fiftyone"], tmp_path)


def test_what_is_asked_for(tmp_path: Path) -> None:
    assert Asked.of(["data=digits", "export=[fiftyone,cleanlab,fiftyone]"]).exports == ("fiftyone", "cleanlab")
    assert Asked.of(["data=digits"]).exports == ()
    assert export(FOUND, Asked.of(["data=digits", "export=cleanlab,fiftyone"]).exports, tmp_path) == [
        tmp_path / "cleanlab.csv",
        tmp_path / "fiftyone.csv",
    ]
    with pytest.raises(
        ValueError, match="export=coco: cleanlab or fiftyone, or both with a comma, are needed, not 'coco'"
    ):
        Asked.of(["data=digits", "export=coco"])
