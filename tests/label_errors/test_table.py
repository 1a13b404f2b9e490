"""``suspects.csv``: whoever named the files, no spreadsheet runs a cell, and what the user decided stays."""

from __future__ import annotations

import csv
from pathlib import Path

from rethinkgen.label_errors.findings import Suspect
from rethinkgen.label_errors.table import with_decisions, write_suspects

NAMES = ("cat", "=cmd|'/C calc'!A0", 'do,g"')


def suspects(*paths: str | None) -> list[Suspect]:
    return [
        Suspect(10 + row, path, row % 3, (row + 1) % 3, 1 - row / 10, row + 1, 0.5) for row, path in enumerate(paths)
    ]


def read(path: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(path.read_text(encoding="utf-8-sig").splitlines()))


def test_a_row_for_each_by_path_or_by_index(tmp_path: Path) -> None:
    path = tmp_path / "suspects.csv"
    write_suspects(path, suspects("cat/1.png", "-2.png", "a\nb.png", "\udce9.png"), NAMES)
    text = path.read_bytes()
    assert text.startswith(b"\xef\xbb\xbfpath,given,suggested,score,rank,confidence,decision\n")
    rows = list(csv.DictReader(text.decode("utf-8-sig").splitlines(keepends=True)))
    assert [row["path"] for row in rows] == ["cat/1.png", "'-2.png", "a\nb.png", "\\udce9.png"]
    assert [row["given"] for row in rows] == ["cat", f"'{NAMES[1]}", 'do,g"', "cat"]
    assert [row["score"] for row in rows] == ["1.0000", "0.9000", "0.8000", "0.7000"]
    write_suspects(path, suspects(None, None), NAMES)
    assert [row["index"] for row in read(path)] == ["10", "11"]
    assert "path" not in read(path)[0]


def test_what_was_decided_stays_though_the_order_changes(tmp_path: Path) -> None:
    path = tmp_path / "suspects.csv"
    listed = suspects("cat/1.png", "+2.png", "3.png")
    assert with_decisions(path, listed, NAMES) == listed, "there is no file yet"
    write_suspects(path, listed, NAMES)
    edited = read(path)
    edited[0]["decision"] = "drop"
    edited[1] |= {"decision": " Relabel", "suggested": "cat"}
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, edited[0])
        writer.writeheader()
        writer.writerows(edited)
    found = with_decisions(path, listed[::-1], NAMES)
    assert [each.decision for each in found] == ["", "relabel", "drop"]
    assert found[1].suggested == 0
    given_anew = [Suspect(10, "cat/1.png", 2, 0, 0.5, 1, 0.5)]
    assert with_decisions(path, given_anew, NAMES) == given_anew, "what was decided of another label"
    path.write_bytes(b"\xff\xfe no table")
    assert with_decisions(path, listed, NAMES) == listed
