"""The page in a browser: it asks for nothing, complains of nothing, fits a phone, and prints."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from chromium import Chromium, find_chromium
from rethinkgen.report.page import write_report
from rethinkgen.run.run import read_runs

OUTSIDE = "https://example.org/picture.png"


@pytest.fixture(scope="module")
def browser() -> Iterator[Chromium]:
    executable = find_chromium()
    if executable is None and os.environ.get("RETHINKGEN_REQUIRE_CHROMIUM") == "1":
        pytest.fail("RETHINKGEN_REQUIRE_CHROMIUM=1, but there is no chromium here", pytrace=False)
    if executable is None:
        pytest.skip("there is no chromium here (Debian: apt-get install chromium)")
    with Chromium(executable) as chromium:
        yield chromium


@pytest.fixture(scope="module")
def index(small_sweep: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("report")
    return write_report(read_runs([small_sweep]), folder, command="python report.py multirun/small")


@pytest.mark.parametrize("is_dark", [False, True], ids=["light", "dark"])
@pytest.mark.parametrize("width", [1200, 390], ids=["desktop", "phone"])
def test_the_page_asks_for_nothing_and_fits(browser: Chromium, index: Path, width: int, is_dark: bool) -> None:
    browser.look(width=width, is_dark=is_dark)
    visit = browser.visit(index)
    assert visit.requests == []
    assert visit.complaints == []
    assert browser.evaluate("document.querySelectorAll('svg').length") > 0
    # What is wider scrolls in a box of its own.
    assert browser.evaluate("document.documentElement.scrollWidth") <= width
    picture = Image.open(io.BytesIO(browser.screenshot()))
    corner = picture.convert("L").getpixel((2, 2))
    assert isinstance(corner, int)
    assert (corner < 60) == is_dark


def test_what_reaches_outside_is_caught(browser: Chromium, index: Path, tmp_path: Path) -> None:
    """The test above can fail: by the request itself, and where the page's own policy forbids it, by the complaint."""
    text = index.read_text()
    reaching = text.replace("</main>", f'<img src="{OUTSIDE}" alt=""></main>')
    (tmp_path / "forbidden.html").write_text(reaching)
    visit = browser.visit(tmp_path / "forbidden.html")
    assert any(OUTSIDE in complaint and "Content Security Policy" in complaint for complaint in visit.complaints)
    (tmp_path / "allowed.html").write_text(reaching.replace("default-src 'none'", "default-src *"))
    assert browser.visit(tmp_path / "allowed.html").requests == [OUTSIDE]
    scripted = text.replace("default-src 'none'", "script-src 'unsafe-inline'")
    (tmp_path / "error.html").write_text(scripted.replace("</main>", "<script>nothing.there()</script></main>"))
    assert any("nothing is not defined" in complaint for complaint in browser.visit(tmp_path / "error.html").complaints)


def test_the_page_prints_what_it_shows(browser: Chromium, index: Path) -> None:
    browser.look(width=1200, is_dark=True)
    browser.visit(index)
    assert browser.print_pdf().startswith(b"%PDF")
    browser.send("Emulation.setEmulatedMedia", media="print")
    try:
        # Ink on white paper, whatever colours the reader prefers on the screen; nothing hidden but what one clicks on.
        style = "getComputedStyle(document.body)"
        assert browser.evaluate(f"{style}.backgroundColor") == "rgb(255, 255, 255)"
        assert browser.evaluate("getComputedStyle(document.querySelector('nav')).display") == "none"
        for drawn in ("svg", "table", "figcaption"):
            assert browser.evaluate(f"document.querySelector('{drawn}').getBoundingClientRect().height") > 0
        assert browser.evaluate("getComputedStyle(document.querySelector('svg')).filter") == "none"
    finally:
        browser.send("Emulation.setEmulatedMedia", media="")
