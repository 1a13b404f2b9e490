"""The page and its files: whole in itself, honest about what is missing, the same for the same runs."""

from __future__ import annotations

import itertools
import re
import shutil
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import get_args
from urllib.parse import unquote

import pandas as pd
import pytest

from rethinkgen.report.claims import Answer
from rethinkgen.report.contents import gather
from rethinkgen.report.figures import Picture
from rethinkgen.report.page import (
    MEDIA,
    MOST_CHARACTERS_EMBEDDED,
    MOST_ROWS_SHOWN,
    data_text,
    download,
    write,
)
from rethinkgen.run.origin import without_machine_paths
from rethinkgen.run.run import read_runs
from run_folders import write_run
from unfinished import leave_unfinished

COMMAND = "python report.py multirun/small"
VOID = {"meta", "link", "br", "img", "hr", "input"}


class Elements(HTMLParser):
    """What the tests ask of a page: its elements with their attributes, the order of its headings."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []
        self.open: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attributes)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag, f"</{tag}> closes nothing"

    def values(self, attribute: str) -> list[str]:
        return [value for _, attributes in self.found if (value := attributes.get(attribute)) is not None]


@pytest.fixture(scope="module")
def index(small_sweep: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(gather(read_runs([small_sweep]), command=COMMAND), tmp_path_factory.mktemp("report"))


def test_the_page_is_whole_in_itself(index: Path) -> None:
    text = index.read_text()
    page = Elements(text)
    assert page.open == [], "elements that are never closed"
    tags = {tag for tag, _ in page.found}
    assert not tags & {"script", "link", "img", "iframe", "object", "embed", "base"}
    assert not re.search(r"@import|url\((?!#)", re.sub(r'href="data:[^"]*"', "", text))
    assert "default-src 'none'" in text
    assert page.values("src") == []
    ids = Counter(page.values("id"))
    assert max(ids.values()) == 1, [name for name, count in ids.items() if count > 1]
    links = page.values("href") + page.values("xlink:href")
    for link in links:
        if not link.startswith("data:"):
            assert link[1:] in ids if link.startswith("#") else (index.parent / link).is_file(), link
    for reference in re.findall(r"url\(#([^)]+)\)", text):
        assert reference in ids, reference
    for named in page.values("aria-labelledby"):
        assert set(named.split()) <= ids.keys(), named


def test_what_one_downloads_from_the_page_is_what_lies_beside_it(index: Path) -> None:
    links = [attributes for _, attributes in Elements(index.read_text()).found if "download" in attributes]
    assert {"csv", "svg", "tex", "md"} == {str(link["download"]).rpartition(".")[2] for link in links}
    for link in links:
        head, _, content = str(link["href"]).partition(",")
        assert head in {f"data:{media};charset=utf-8" for media in MEDIA.values()}
        (file,) = index.parent.glob(f"*/{link['download']}")
        assert unquote(content) == file.read_text()


def test_what_is_too_large_is_downloaded_from_beside_the_page() -> None:
    assert download("figures", "a", "csv", "x" * MOST_CHARACTERS_EMBEDDED).startswith('download="a.csv" href="data:')
    assert download("figures", "a", "csv", "x" * (MOST_CHARACTERS_EMBEDDED + 1)) == 'href="figures/a.csv"'


def test_the_page_can_be_read_without_seeing_it(index: Path) -> None:
    page = Elements(index.read_text())
    headings = [int(tag[1]) for tag, _ in page.found if re.fullmatch(r"h[1-6]", tag)]
    assert headings.count(1) == 1
    assert all(after <= before + 1 for before, after in itertools.pairwise(headings)), headings
    drawings = [attributes for tag, attributes in page.found if tag == "svg"]
    assert drawings
    assert all(drawing["role"] == "img" and drawing["aria-labelledby"] for drawing in drawings)
    assert ("html", {"lang": "en"}) in page.found


def test_the_files_beside_say_what_the_page_says(index: Path) -> None:
    text = index.read_text()
    for kind in ("svg", "pdf", "csv"):
        names = {path.stem for path in (index.parent / "figures").glob(f"*.{kind}")}
        assert names
        assert all(f"figures/{name}.{kind}" in text for name in names)
    for table in (index.parent / "tables").glob("*.csv"):
        assert len(pd.read_csv(table))
        assert "\\toprule" in table.with_suffix(".tex").read_text()
        num_lines = len(table.with_suffix(".md").read_text().splitlines())
        assert num_lines >= 3, "a head, a rule and rows"
    assert all(path.read_bytes().startswith(b"%PDF") for path in index.parent.glob("figures/*.pdf"))
    assert not list(index.parent.rglob("*.tmp"))


def test_the_page_says_what_was_run(index: Path, small_sweep: Path) -> None:
    text = index.read_text()
    (run, *_) = read_runs([small_sweep])
    assert run.result is not None
    assert "4 of 4 runs finished." in text
    for said in ("digits", "none, random_labels", "0, 1", "200 training examples", "python train.py -m"):
        assert said in text, said
    for said in (run.result["device"], f"torch {run.result['versions']['torch']}", COMMAND):
        assert said in text, said
    assert f"{run.metrics['num_parameters']:,} parameters" in text


def test_where_things_lie_on_this_machine_is_not_told(index: Path, small_sweep: Path, tmp_path: Path) -> None:
    assert str(tmp_path.parents[1]) in (small_sweep / "commands.txt").read_text()
    for path in index.parent.rglob("*"):
        if path.is_file():
            assert str(tmp_path.parents[1]).encode() not in path.read_bytes(), path


def test_what_all_claims_have_in_common_is_said_once_and_their_sources_are_named(tmp_path: Path) -> None:
    for seed in range(3):
        for corruption in ("none", "random_labels"):
            write_run(tmp_path / "sweep", data="cifar10_jpeg", corruption=corruption, seed=seed)
    text = write(gather(read_runs([tmp_path / "sweep"]), command=COMMAND), tmp_path / "report").read_text()
    num_claims = text.count('<tr id="claim-')
    assert num_claims > 5
    shown = re.sub(r'<details>.*?</details>|href="data:[^"]*"', "", text, flags=re.DOTALL)
    assert shown.count("outside the paper's protocol") == 1
    assert shown.count("cifar10_jpeg instead of cifar10") == 1
    page = Elements(text)
    # Each claim has its mark, which leads to it and says the verdict in words.
    marks = [attributes for tag, attributes in page.found if tag == "a" and "mark" in str(attributes.get("class"))]
    assert len({mark["href"] for mark in marks}) == len(marks) == num_claims
    assert all(str(mark["title"]).rpartition(": ")[2] in get_args(Answer) for mark in marks)
    assert '<div id="source-zhang2017-S3"><dt>S3</dt><dd>MIT OpenCourseWare' in text
    assert 'Table 1 [<a href="#source-zhang2017-S3">S3</a>]' in text
    assert "Understanding deep learning requires rethinking generalization" in text


def test_marks_of_certainty_are_explained(tmp_path: Path) -> None:
    write_run(tmp_path / "sweep", corruption="random_labels", regularizers=["weight_decay"])
    text = write(gather(read_runs([tmp_path / "sweep"]), command=COMMAND), tmp_path / "report").read_text()
    assert "99.21 % (second-hand)" in text
    assert "“second-hand”, read in somebody&#39;s notes about the paper only." in text
    assert "“memory”" not in text


def test_what_is_missing_is_shown_as_missing(small_sweep: Path, tmp_path: Path) -> None:
    copy = tmp_path / "small"
    shutil.copytree(small_sweep, copy)
    leave_unfinished(copy, "killed <script>alert(1)</script> in /home/somebody/data/images")
    text = write(gather(read_runs([copy]), command=COMMAND), tmp_path / "report").read_text()
    assert "2 of 4 runs finished, 1 failed, 1 missing." in text
    assert "killed &lt;script&gt;alert(1)&lt;/script&gt; in .../images" in text
    assert "<script>" not in text
    assert "/home/somebody" not in text


def test_a_sweep_of_which_nothing_is_finished_has_a_page(small_sweep: Path, tmp_path: Path) -> None:
    copy = tmp_path / "small"
    shutil.copytree(small_sweep, copy)
    for result in copy.glob("*/result.json"):
        result.with_name("status.json").write_text('{"state": "failed", "reason": "cut short"}')
        result.unlink()
    text = write(gather(read_runs([copy]), command=COMMAND), tmp_path / "report").read_text()
    assert "0 of 4 runs finished, 4 failed." in text
    Elements(text)


def test_the_same_runs_give_the_same_files(index: Path, small_sweep: Path, tmp_path: Path) -> None:
    again = write(gather(read_runs([small_sweep]), command=COMMAND), tmp_path)
    for path in index.parent.rglob("*"):
        if path.is_file():
            ours, theirs = path.read_bytes(), (tmp_path / path.relative_to(index.parent)).read_bytes()
            assert _undated(ours) == _undated(theirs), path
    assert again.read_bytes() != b""


def test_files_that_an_earlier_report_wrote_go_with_it(small_sweep: Path, tmp_path: Path) -> None:
    write(gather(read_runs([small_sweep]), command=COMMAND), tmp_path)
    (tmp_path / "figures" / "my_own.pdf").write_text("kept")
    before = {path.name for path in tmp_path.rglob("*.csv")}
    index = write(gather(read_runs([small_sweep])[:1], command=COMMAND), tmp_path)
    after = {path.name for path in tmp_path.rglob("*.csv")}
    assert after < before
    assert all(name in index.read_text() for name in after)
    assert (tmp_path / "figures" / "my_own.pdf").exists()


def _undated(content: bytes) -> bytes:
    return re.sub(rb"Written [-0-9: ]+ UTC", b"", content)


def test_a_report_that_cannot_be_finished_leaves_the_old_page(
    small_sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = write(gather(read_runs([small_sweep]), command=COMMAND), tmp_path).read_bytes()

    def full(_: Picture) -> bytes:
        raise OSError("no room left")

    monkeypatch.setattr(Picture, "to_pdf", full)
    with pytest.raises(OSError, match="no room left"):
        write(gather(read_runs([small_sweep]), command="python report.py again"), tmp_path)
    assert (tmp_path / "index.html").read_bytes() == old
    assert not list(tmp_path.rglob("*.tmp"))


def test_long_data_are_cut_in_the_page_and_say_so() -> None:
    long = pd.DataFrame({"step": range(MOST_ROWS_SHOWN + 5)})
    assert data_text(long).endswith(f"{MOST_ROWS_SHOWN - 1}\n... 5 more rows in the file")
    assert data_text(long.head(MOST_ROWS_SHOWN)) == long.head(MOST_ROWS_SHOWN).to_csv(index=False)


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        ("python /home/me/rethinkgen/train.py -m data.root=/data/my/images", "python train.py -m data.root=.../images"),
        ("'results_dir=/scratch/me/results' seed=0,1", "'results_dir=.../results' seed=0,1"),
        ("data.root=~/images/train", "data.root=.../train"),
        ("python train.py +experiment=zhang2017/table_1 a/b", "python train.py +experiment=zhang2017/table_1 a/b"),
        ("12 images/s, 1/3, and/or, ./here/now, ../shared/x", "12 images/s, 1/3, and/or, ./here/now, ../shared/x"),
    ],
)
def test_paths_are_shortened_and_nothing_else(told: str, shown: str) -> None:
    assert without_machine_paths(told) == shown
