"""``examples.csv``: the training images of a folder, their labels, and when they were learnt, for a spreadsheet."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rethinkgen.data.module import CorruptedImages
from rethinkgen.files import csv_cell, write_atomically

COLUMNS = ("index", "path", "original_label", "given_label", "first_step_fitted", "times_forgotten", "final_loss")
MOST_ROWS = 1_048_575
"""That a spreadsheet opens, below the names of the columns; of more examples there is ``examples.npz`` alone."""


def write_examples(path: Path, datamodule: CorruptedImages, examples: Mapping[str, NDArray[Any]]) -> None:
    """Write a row for each training example, if its images have names; ``examples`` are the columns of the ``.npz``.

    Labels are names of classes; ``first_step_fitted`` is the first evaluated step at which the network predicted the
    given label, empty where none did; so are steps of ``presented_...``, where these are known. UTF-8 with the mark by
    which spreadsheets know it.
    """
    name_of = getattr(datamodule.source, "name_of", None)
    if name_of is None or len(examples["index"]) > MOST_ROWS:
        return
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    presented = [name for name in examples if name.startswith("presented_")]
    writer.writerow([*COLUMNS, *presented])
    names = [name_of("train", position) for position in examples["index"].tolist()]
    writer.writerows(_rows(names, datamodule.class_names, examples, presented))
    write_atomically(path, f"\ufeff{text.getvalue()}")


def _rows(
    names: Sequence[str], class_names: Sequence[str], examples: Mapping[str, NDArray[Any]], presented: Sequence[str]
) -> Iterator[list[Any]]:
    classes = np.array([csv_cell(name) for name in class_names], dtype=object)
    columns = [
        examples["index"].tolist(),
        map(csv_cell, names),
        classes[examples["original_labels"]],
        classes[examples["labels"]],
        _steps(examples["first_step_fitted"]),
        examples["times_forgotten"].tolist(),
        _numbers(examples["final_loss"]),
    ]
    for name in presented:
        kind = _numbers if examples[name].dtype.kind == "f" else _steps
        columns.append(kind(examples[name]))
    for row in zip(*columns, strict=True):
        yield list(row)


def _steps(column: NDArray[Any]) -> list[Any]:
    """Return whole numbers, of which a negative one says that there is none."""
    return ["" if step < 0 else step for step in column.tolist()]


def _numbers(column: NDArray[Any]) -> list[str]:
    return [f"{number:.6g}" for number in column.tolist()]
