"""The page in a browser: it asks for nothing, complains of nothing, fits a phone, and prints."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from chromium import Chromium, find_chromium
from conftest import wait_until
from rethinkgen.report.contents import gather
from rethinkgen.report.page import write
from rethinkgen.run.run import read_runs
from run_folders import write_run

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
    return write(gather(read_runs([small_sweep]), command="python report.py multirun/small"), folder)


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


def test_pictures_are_as_wide_as_they_may_be_and_what_is_wider_than_a_phone_is_scrolled(
    browser: Chromium, index: Path
) -> None:
    widths = "[...document.querySelectorAll('.drawing')].map(box => [box.clientWidth, box.scrollWidth, {drawn}])"
    drawn = "parseInt(getComputedStyle(box).getPropertyValue('--drawn'))"
    seen = widths.format(drawn=drawn)
    browser.look(width=1300)
    browser.visit(index)
    assert all(inside >= 580 and content <= inside for inside, content, _ in browser.evaluate(seen))
    browser.look(width=390)
    browser.visit(index)
    for inside, content, pixels in browser.evaluate(seen):
        # A figure that would shrink beyond reading keeps its size, in a box that scrolls.
        assert content >= max(inside, 0.8 * pixels - 1)
        assert inside < 390
    assert browser.evaluate("getComputedStyle(document.querySelector('.scroll')).overflowX") == "auto"


def test_a_picture_and_its_numbers_are_saved_from_the_page_alone(
    browser: Chromium, index: Path, tmp_path: Path
) -> None:
    mailed = tmp_path / "mailed.html"
    mailed.write_bytes(index.read_bytes())
    browser.send("Page.setDownloadBehavior", behavior="allow", downloadPath=str(tmp_path))
    visit = browser.visit(mailed)
    links = "document.querySelectorAll('.drawing')[0].closest('article').querySelectorAll('a[download]')"
    names = browser.evaluate(f"[...{links}].map(link => link.download)")
    assert [name.rpartition(".")[2] for name in names] == ["svg", "csv"]
    browser.evaluate(f"{links}.forEach(link => link.click())")
    for name in names:
        wait_until((tmp_path / name).exists)
        assert (tmp_path / name).read_bytes() == (index.parent / "figures" / name).read_bytes()
    assert visit.complaints == []


def test_a_mark_leads_to_its_claim_and_a_source_to_what_it_stands_for(browser: Chromium, tmp_path: Path) -> None:
    for seed in range(3):
        write_run(tmp_path / "sweep", seed=seed)
    browser.look(width=1300)
    browser.visit(write(gather(read_runs([tmp_path / "sweep"]), command=""), tmp_path / "report"))
    for link in ("a.mark", "td small a"):
        browser.evaluate(f"document.querySelector({link!r}).click()")
        top = browser.evaluate("document.querySelector(':target').getBoundingClientRect().top")
        assert 0 <= top < 900, link
    # Every word of it is told also where no colour is seen.
    assert browser.evaluate("document.querySelector('a.mark').textContent").strip().endswith("reproduced")


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
