"""The report as a folder: one page that needs nothing else, and its tables and figures as files to take further.

``index.html`` holds style and pictures inline, no script, and a policy that forbids it to load anything.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from functools import partial
from itertools import groupby
from pathlib import Path

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup, escape

from rethinkgen.files import write_atomically
from rethinkgen.received import MOST_BYTES_OF_TABLE, read_bytes
from rethinkgen.report.claims import Verdict, certainty_marks, published
from rethinkgen.report.contents import MOST_COMMANDS_OF_A_FIGURE, Report, gather, shown_commands, without_machine_paths
from rethinkgen.report.figures import Picture
from rethinkgen.report.names import to_csv
from rethinkgen.report.own_page import check_is_own, is_foreign
from rethinkgen.run.folder import now
from rethinkgen.run.run import Run

MOST_ROWS_SHOWN = 5000
"""Rows of a figure's data inside the page; its CSV file beside the page has all."""
SYMBOLS = {
    "reproduced": "✓",
    "same trend": "≈",
    "not reproduced": "✗",
    "cannot tell": "?",
    "not enough steps": "…",
    "not enough runs": "…",
    "not comparable": "–",
}


def write_report(runs: Sequence[Run], folder: Path, *, command: str) -> Path:
    """Write the report on ``runs`` into ``folder`` and return the path of its page; ``command`` asked for it."""
    return write(gather(runs, command), folder)


def write(report: Report, folder: Path) -> Path:
    """Write ``index.html``, ``tables/`` and ``figures/`` into ``folder`` and return the page's path.

    Each file is replaced in one go and the page last: who reads the report while it is written anew sees no half of it.

    Raises:
        ValueError: ``folder`` has an ``index.html`` that is no report of ours, or leads elsewhere by a link.
    """
    index = folder / "index.html"
    if is_foreign(index):
        raise ValueError(f"{index} is no report of ours. Name another folder, or take the file away.")
    drawings = {picture.name: picture.to_svg() for picture in report.pictures}
    page = render(report, drawings)
    old_files = _files_of((read_bytes(index, MOST_BYTES_OF_TABLE) or b"").decode(errors="replace"))
    for name in ("tables", "figures"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    check_is_own(folder)
    all_tables = [*report.tables, *([report.main_table] if report.main_table else [])]
    for table in all_tables:
        _replace(folder / "tables" / f"{table.name}.csv", to_csv(table.csv))
        _replace(folder / "tables" / f"{table.name}.tex", table.to_latex())
        _replace(folder / "tables" / f"{table.name}.md", table.to_markdown())
    for picture in report.pictures:
        _replace(folder / "figures" / f"{picture.name}.svg", drawings[picture.name])
        _replace(folder / "figures" / f"{picture.name}.pdf", picture.to_pdf())
        _replace(folder / "figures" / f"{picture.name}.csv", to_csv(picture.data))
    _replace(index, page)
    # What an earlier report wrote and this one has no more: left there, it would be taken for a part of this one.
    for name in old_files - _files_of(page):
        with contextlib.suppress(OSError):  # left behind, it does no harm
            (folder / name).unlink()
    return index


def _files_of(page: str) -> set[str]:
    return set(re.findall(r'href="((?:tables|figures)/[A-Za-z0-9_-][A-Za-z0-9_.-]*)"', page))


def _replace(path: Path, content: str | bytes) -> None:
    write_atomically(path, content, durable=False)


def render(report: Report, drawings: dict[str, str]) -> str:
    """Return the page; ``drawings`` has the SVG file of each picture by its name."""
    environment = Environment(
        loader=PackageLoader("rethinkgen.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {
        "symbols": SYMBOLS,
        "published": published,
        "shown_commands": partial(shown_commands, most=MOST_COMMANDS_OF_A_FIGURE),
        "without_machine_paths": without_machine_paths,
    }
    style = environment.get_template("page.css").render()
    return environment.get_template("page.html").render(
        report=report,
        style=Markup(style),
        items=list(_by_item(report.verdicts)),
        marks=certainty_marks(report.verdicts),
        tables=[(table, Markup(table.to_html())) for table in report.tables],
        pictures=[
            (picture, Markup(named(drawings[picture.name], picture)), data_text(picture.data))
            for picture in report.pictures
        ],
        written=now().replace("T", " ").replace("+00:00", " UTC"),
    )


def _by_item(verdicts: Sequence[Verdict]) -> Iterator[tuple[str, list[Verdict]]]:
    for item, group in groupby(verdicts, key=lambda verdict: str(verdict.claim.item)):
        yield item, list(group)


def named(svg: str, picture: Picture) -> str:
    """Return an ``<svg>`` element that tells those who cannot see it what it is."""
    title, description = f"{picture.name}-title", f"{picture.name}-description"
    texts = f'<title id="{title}">{escape(picture.title)}</title>'
    texts += f'<desc id="{description}">{escape(picture.caption)}</desc>'
    head, _, rest = svg.removeprefix("<svg").partition(">")
    return f'<svg role="img" aria-labelledby="{title} {description}"{head}>{texts}{rest}'


def data_text(data: pd.DataFrame) -> str:
    """Return as much of a figure's data as CSV as the page shows."""
    text = to_csv(data.head(MOST_ROWS_SHOWN))
    left_out = len(data) - MOST_ROWS_SHOWN
    return f"{text}... {left_out:,} more rows in the file" if left_out > 0 else text
