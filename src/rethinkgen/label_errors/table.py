"""``suspects.csv``: a row for each example, the most suspicious first, for a spreadsheet and for ``data.relabel``."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rethinkgen.errors import DamagedFileError
from rethinkgen.files import csv_cell, write_atomically
from rethinkgen.label_errors.findings import Suspect
from rethinkgen.received import MOST_BYTES_OF_TABLE, read_bytes

FILE_NAME = "suspects.csv"
COLUMNS = ("given", "suggested", "score", "rank", "confidence", "decision")


def write_suspects(path: Path, suspects: Sequence[Suspect], class_names: Sequence[str]) -> None:
    """Write them: ``path``, or ``index`` where images have no names, then ``COLUMNS``. Classes by name.

    UTF-8 with the mark by which spreadsheets know it. What a spreadsheet would run as a formula gets a quote before.
    """
    has_names = all(suspect.path is not None for suspect in suspects)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["path" if has_names else "index", *COLUMNS])
    names = list(map(csv_cell, class_names))
    writer.writerows(
        [
            csv_cell(each.path) if has_names else each.index,
            names[each.given],
            names[each.suggested],
            f"{each.score:.4f}",
            each.rank,
            f"{each.confidence:.4f}",
            each.decision,
        ]
        for each in suspects
    )
    write_atomically(path, f"\ufeff{text.getvalue()}")


def with_decisions(path: Path, suspects: Sequence[Suspect], class_names: Sequence[str]) -> list[Suspect]:
    """Return the suspects with what the user decided in an earlier ``suspects.csv``, by example and given label.

    Also a label that she suggests herself is kept. Of a file that is no such table nothing is.
    """
    try:
        content = read_bytes(path, MOST_BYTES_OF_TABLE)
        rows = csv.DictReader((content or b"").decode("utf-8-sig").splitlines())
        decided = {
            (row.get("path") or row.get("index"), row["given"]): (row["decision"].strip().lower(), row["suggested"])
            for row in rows
            if (row.get("decision") or "").strip()
        }
    except (DamagedFileError, UnicodeDecodeError, csv.Error, KeyError):
        return list(suspects)
    classes = {csv_cell(name): place for place, name in enumerate(class_names)}
    found = []
    for each in suspects:
        key = str(each.index) if each.path is None else csv_cell(each.path)
        decision, label = decided.get((key, csv_cell(class_names[each.given])), ("", ""))
        kept = replace(each, decision=decision) if decision else each
        found.append(replace(kept, suggested=classes.get(label, each.suggested)) if decision else kept)
    return found
