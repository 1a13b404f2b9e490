"""The list of a search as other programs read it: a table for cleanlab, one for FiftyOne. ``export=`` asks for them.

Both are read by name, in plain UTF-8 without the mark that ``suspects.csv`` has: it would be taken into the name of the
first column.
"""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from rethinkgen.files import csv_cell, write_atomically
from rethinkgen.label_errors.findings import Findings

FILES = {"cleanlab": "cleanlab.csv", "fiftyone": "fiftyone.csv"}
"""What may be asked for -> the file that it leaves."""
NO_FILES = "export=fiftyone: the images of this data are no files, and FiftyOne shows files. Leave it out."


def export(findings: Findings, names: Sequence[str], folder: Path) -> list[Path]:
    """Write the tables that are asked for, some of ``FILES``, and return their paths.

    Raises:
        ValueError: the images are no files, which FiftyOne needs.
    """
    rows = {"cleanlab": for_cleanlab, "fiftyone": for_fiftyone}
    written = []
    for name in names:
        path = folder / FILES[name]
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows(rows[name](findings))
        write_atomically(path, text.getvalue().encode("utf-8", "backslashreplace"))
        written.append(path)
    return written


def for_cleanlab(findings: Findings) -> Iterable[Sequence[Any]]:
    """Return the rows that ``cleanlab.classification.CleanLearning.fit(images, labels, label_issues=table)`` takes.

    Its columns (cleanlab 2.9, ``CleanLearning.get_label_issues``): ``is_label_issue``; ``label_quality`` in [0, 1],
    small is suspicious; ``given_label`` and ``predicted_label``, numbers of classes from 0 on, in the order of
    ``Findings.class_names``. Which example it is stands last, as in ``suspects.csv``. A row for each example that was
    trained on, in the order of the data. What the user decided counts: who keeps a label has no issue, who corrects or
    drops it has one; of all others, those that the network doubts.
    """
    name = "index" if any(each.path is None for each in findings.suspects) else "path"
    yield ["is_label_issue", "label_quality", "given_label", "predicted_label", name]
    for each in sorted(findings.suspects, key=lambda suspect: suspect.index):
        is_issue = each.decision != "keep" if each.decision else each.rank <= findings.num_doubted
        which = each.index if name == "index" else csv_cell(each.path)
        yield [is_issue, f"{1 - each.score:.4f}", each.given, each.suggested, which]


def for_fiftyone(findings: Findings) -> Iterable[Sequence[Any]]:
    """Return the rows of a ``fiftyone.types.CSVDataset``, the most suspicious first.

    Its columns: ``filepath``, the whole path, so that no folder need be told; ``ground_truth``, ``predictions`` and
    ``mistakenness`` by the names that ``fiftyone.brain.compute_mistakenness`` has for them, the last in [0, 1], great
    is suspicious; ``confidence``, ``rank`` and ``decision`` as in ``suspects.csv``.

    Raises:
        ValueError: the images are no files.
    """
    if findings.root is None or any(each.path is None for each in findings.suspects):
        raise ValueError(NO_FILES)
    root = os.path.abspath(findings.root)
    names = list(map(csv_cell, findings.class_names))
    yield ["filepath", "ground_truth", "predictions", "mistakenness", "confidence", "rank", "decision"]
    for each in findings.suspects:
        path = os.path.join(root, str(each.path))
        numbers = [f"{each.score:.4f}", f"{each.confidence:.4f}", each.rank]
        yield [path, names[each.given], names[each.suggested], *numbers, each.decision]
