"""The page of what corrected labels changed, and what by chance differs."""

from __future__ import annotations

import json
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rethinkgen.label_errors import changes as changing
from rethinkgen.label_errors.changes import by_chance, in_words, note_held_out
from rethinkgen.label_errors.findings import Accuracies, Changed, Changes, Findings
from rethinkgen.label_errors.page import MOST_SHOWN, render_changes, write_changes_page

NASTY = "</style><script>alert(1)</script>\u202egnp.png"
FOUND = Findings(
    suspects=(),
    class_names=("cat", NASTY),
    confusion=(),
    num_doubted=0,
    control=None,
    network="mlp",
    held_out_accuracy=None,
    held_out="",
    left_out=(),
    command=f"python find_label_errors.py '{NASTY}'",
    seconds=0.0,
    image=lambda index: np.full((1, 8, 8), index % 256, np.uint8),
    title=NASTY,
)

BEFORE = Accuracies((0.9,), 1000, 50, 2000)


def changes(count: int = 3, before: Accuracies | None = BEFORE, part: str = "test") -> Changes:
    changed = tuple(
        Changed(index, f"{NASTY}/{index}", 0, 1 if index % 3 else None, index == 1) for index in range(count)
    )
    why_not = "" if before else "There is none."
    return Changes(NASTY, changed, 2000, part, before, Accuracies((0.9, 0.92), 1000, 9, 1999), why_not)


class Tags(HTMLParser):
    """What elements a page has, and its text."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: Any) -> None:
        self.tags.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_it_counts_by_class_and_names_are_text(tmp_path: Path) -> None:
    page = render_changes(FOUND, changes(4))
    seen = Tags(page)
    assert "script" not in seen.tags
    assert seen.tags.count("img") == 4
    assert seen.tags.count("details") == 2
    assert "\u202e" not in page
    assert "2 labels corrected and 2 images left out, of 2,000" in seen.text
    assert "cat → left out (2)" in seen.text
    assert "90 %, 92 %" in seen.text
    assert "9 of 1,999" in seen.text
    assert seen.text.count("doubted again") == 1
    assert "are judged by the labels that they have" in seen.text
    assert "kept other images back" in render_changes(FOUND, changes(4, part="held-out"))
    assert "Nothing changed" in render_changes(FOUND, changes(0))
    assert "There is none." in render_changes(FOUND, changes(before=None))
    assert Tags(render_changes(FOUND, changes(MOST_SHOWN + 50))).tags.count("img") == MOST_SHOWN
    (tmp_path / "changes.html").write_text("mine")
    with pytest.raises(ValueError, match="is no page of ours"):
        write_changes_page(FOUND, changes(), tmp_path)


def test_by_chance_as_drawn() -> None:
    first, second = Accuracies((0.9,), 400, 0, 1), Accuracies((0.8,), 400, 0, 1)
    random = np.random.default_rng(0)
    drawn = random.binomial(400, 0.9, 20_000) / 400 - random.binomial(400, 0.8, 20_000) / 400
    assert by_chance(first, second) == pytest.approx(1.96 * drawn.std(), rel=0.03)
    assert by_chance(first, Accuracies((0.8,), None, 0, 1)) is None


def test_in_words() -> None:
    told = in_words(changes(4))
    assert told[1:3] == [
        "Of the corrected labels the network now doubts 1.",
        "Before, the network said the given label of 90 % of the 1,000 test images (1 run); now of 91 % (2 runs).",
    ]
    assert in_words(changes(before=None))[-1] == "There is none."


def test_what_a_search_noted_is_read_of_its_own_runs_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(changing, "_told", lambda runs, accuracies, count: (len(runs), accuracies, count))
    run: Any = SimpleNamespace(run_id="a", sweep=tmp_path)
    other: Any = SimpleNamespace(run_id="b", sweep=tmp_path)
    assert changing._noted([run]) is None
    note_held_out([run], tmp_path, 0.875, 36)
    assert changing._noted([run, other]) == (2, [0.875], 36)
    assert changing._noted([other]) is None
    for damaged in ("nothing", json.dumps({"runs": ["a"], "accuracy": 7.5}), json.dumps({"runs": 3, "accuracy": 0.5})):
        (tmp_path / changing.NOTED).write_text(damaged)
        assert changing._noted([run]) is None
