"""The page: whoever named the files, with one suspect, none and many, in a browser."""

from __future__ import annotations

import csv
import json
import os
import re
from collections.abc import Iterator
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from chromium import Chromium, find_chromium
from conftest import wait_until
from rethinkgen.label_errors.control import judge
from rethinkgen.label_errors.findings import Accuracies, Changed, Changes, Findings, Suspect
from rethinkgen.label_errors.page import MOST_SHOWN, render, write_changes_page, write_page
from rethinkgen.label_errors.table import write_suspects

NASTY = "</script><script>alert(1)</script>\"'<img src=x onerror=alert(2)>&\u202egnp.png"


def findings(count: int = 60, names: tuple[str, ...] = ("cat", NASTY, "=1+1"), **changes: Any) -> Findings:
    suspects = tuple(
        Suspect(row, f"{NASTY}/{row}.png", row % 3, (row + 1) % 3, 1 - row / max(count, 1), row + 1, 0.5)
        for row in range(count)
    )
    whole = Findings(
        suspects=suspects,
        class_names=names,
        confusion=((0, 1, 3), (2, 0, 1)) if count > 3 else (),
        num_doubted=count // 2,
        control=judge(np.arange(1000) < 30, 970),
        network="mlp",
        held_out_accuracy=0.9,
        held_out="the 10 test images",
        left_out=((NASTY, "it is no image"),),
        command=f"python find_label_errors.py '{NASTY}'",
        seconds=3.0,
        image=lambda index: np.full((3, 8, 12), index % 256, np.uint8),
        title=NASTY,
    )
    return replace(whole, **changes)


class Seen(HTMLParser):
    """What elements a page has."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))


@pytest.mark.parametrize("count", [0, 1, 60])
def test_names_of_files_and_classes_are_text_alone(count: int) -> None:
    text = render(findings(count))
    seen = Seen()
    seen.feed(text)
    assert [tag for tag, _ in seen.tags].count("script") == 1 + (count > 0)
    assert not any(name.startswith("on") for _, attributes in seen.tags for name in attributes)
    pictures = [attributes["src"] for tag, attributes in seen.tags if tag == "img"]
    assert len(pictures) == min(count, 50)
    assert all(str(each).startswith("data:image/png;base64,") for each in pictures)
    assert "\u202e" not in text, "what turns the direction of writing"
    assert "default-src 'none'" in text
    data = json.loads(re.findall(r'id="data">(.*?)</script>', text, re.DOTALL)[0])
    assert len(data["rows"]) == min(count, 50)
    assert "How many" not in render(findings(count, control=None))


def test_pictures_and_classes_have_bounds() -> None:
    many = findings(2000, tuple(f"class {number}" for number in range(10_000)), num_doubted=2000)
    text = render(many)
    assert text.count("<img") == MOST_SHOWN
    assert len(text) < 2_000_000
    assert json.loads(re.findall(r'id="data">(.*?)</script>', text, re.DOTALL)[0])["classes"] == []


def test_what_was_decided_further_down_is_in_the_download() -> None:
    whole = findings(300, num_doubted=0)
    later = (*whole.suspects[:200], replace(whole.suspects[200], decision="drop"), *whole.suspects[201:])
    data = json.loads(re.findall(r'id="data">(.*?)</script>', render(replace(whole, suspects=later)), re.DOTALL)[0])
    assert [row[6] for row in data["rows"]] == [""] * 50 + ["drop"]


def test_a_page_that_is_not_ours_stays(tmp_path: Path) -> None:
    index = tmp_path / "index.html"
    index.write_text("mine")
    with pytest.raises(ValueError, match="is no page of ours"):
        write_page(findings(), tmp_path)
    assert index.read_text() == "mine"
    index.unlink()
    assert write_page(findings(1), write_page(findings(), tmp_path).parent) == index


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    executable = find_chromium()
    if executable is None and os.environ.get("RETHINKGEN_REQUIRE_CHROMIUM") == "1":
        pytest.fail("RETHINKGEN_REQUIRE_CHROMIUM=1, but there is no chromium here", pytrace=False)
    if executable is None:
        pytest.skip("there is no chromium here (Debian: apt-get install chromium)")
    with Chromium(executable) as chromium:
        yield chromium


def test_the_page_of_changes_fits_and_asks_for_nothing(browser: Chromium, tmp_path: Path) -> None:
    changed = tuple(Changed(row, f"{NASTY}/{row}.png", row % 3, None if row % 2 else 2, row == 0) for row in range(60))
    accuracies = Accuracies((0.9, 0.91, 0.92), 1000, 50, 2000)
    changes = Changes("mine.csv", changed, 2000, "test", accuracies, accuracies, "")
    page = write_changes_page(findings(60), changes, tmp_path)
    for width in (1300, 400):
        browser.look(width=width)
        visit = browser.visit(page)
        assert [each for each in visit.requests if not each.startswith("data:image/png")] == []
        assert visit.complaints == []
        assert browser.evaluate("document.documentElement.scrollWidth") <= width
    assert browser.evaluate("document.querySelectorAll('details[open]').length") == 1


def test_in_a_browser_one_pages_chooses_and_decides(browser: Chromium, tmp_path: Path) -> None:
    whole = findings(120, num_doubted=100)
    index = write_page(whole, tmp_path)
    for width in (1300, 400):
        browser.look(width=width)
        visit = browser.visit(index)
        assert [each for each in visit.requests if not each.startswith("data:image/png")] == []
        assert visit.complaints == []
        assert browser.evaluate("document.documentElement.scrollWidth") <= width
    shown = "[...document.querySelectorAll('.card')].filter(card => !card.hidden).length"
    assert browser.evaluate(shown) == 48
    browser.evaluate("document.querySelector('[data-turn=\"1\"]').click()")
    assert browser.evaluate("document.getElementById('where').textContent") == "49 to 96 of 100"
    browser.evaluate("pair.value = '1-2'; pair.dispatchEvent(new Event('change'))")
    assert browser.evaluate(shown) == 33
    browser.evaluate("document.querySelectorAll('.card')[1].querySelector('input[value=drop]').click()")
    # Another label than the suggested one is chosen, which is to relabel.
    browser.evaluate(
        "const other = document.querySelectorAll('.card')[2].querySelector('select'); other.dispatchEvent(new Event("
        "'focus')); other.value = '1'; other.dispatchEvent(new Event('change', {bubbles: true}))"
    )
    assert browser.evaluate("document.getElementById('decided').textContent") == "2 decided"
    browser.evaluate(
        "URL.createObjectURL = blob => { window.saved = blob; return '#'; }; document.getElementById('save').click()"
    )
    browser.evaluate("saved.text().then(text => { window.text = text; })")
    wait_until(lambda: browser.evaluate("window.text") is not None)
    text = browser.evaluate("window.text")
    rows = list(csv.DictReader(text.removeprefix("\ufeff").splitlines()))
    assert [row["decision"] for row in rows[:4]] == ["", "drop", "relabel", ""]
    assert rows[2]["suggested"] == NASTY
    write_suspects(tmp_path / "suspects.csv", whole.suspects[:1], whole.class_names)
    written = next(csv.DictReader((tmp_path / "suspects.csv").read_text(encoding="utf-8-sig").splitlines()))
    assert written == rows[0], "cells as those of the table beside it"
