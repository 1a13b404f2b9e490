"""The report as a folder: one page that needs nothing else, and its tables and figures as files to take further.

``index.html`` holds style, pictures and what one downloads from it, no script, and a policy that forbids it to load
anything: it can be mailed alone.
"""

from __future__ import annotations

import contextlib
import re
from itertools import groupby
from pathlib import Path
from urllib.parse import quote

import pandas as pd
from markupsafe import Markup, escape

from rethinkgen.files import write_atomically
from rethinkgen.names import stem, to_csv
from rethinkgen.received import MOST_BYTES_OF_TABLE, read_bytes
from rethinkgen.report.claim_files import MARK, Claim
from rethinkgen.report.claims import certainty_marks, count, departures, published
from rethinkgen.report.contents import Report
from rethinkgen.report.own_page import FOLDERS, check_is_own
from rethinkgen.report.table import ENVIRONMENT
from rethinkgen.run.folder import now
from rethinkgen.run.origin import shown_commands, without_machine_paths
from rethinkgen.run.overview import WHAT

MOST_ROWS_SHOWN = 200
"""Rows of a figure's data that the page shows; what one downloads has all."""
MOST_CHARACTERS_EMBEDDED = 1_000_000
"""Of a file that one downloads from the page itself; a larger one lies beside it only."""
LEAST_LEADING, MOST_LEADING = 2, 3
"""Pictures before all else, so far as there are any."""
MEDIA = {"csv": "text/csv", "svg": "image/svg+xml", "tex": "text/x-tex", "md": "text/markdown"}


def write(report: Report, folder: Path) -> Path:
    """Write ``index.html``, ``tables/`` and ``figures/`` into ``folder`` and return the page's path.

    Each file is replaced in one go and the page last: who reads the report while it is written anew sees no half of it.

    Raises:
        ValueError: ``folder`` has an ``index.html`` that is no report of ours, or leads elsewhere by a link.
    """
    index = folder / "index.html"
    check_is_own(folder)
    drawings = {picture.name: picture.to_svg() for picture in report.pictures}
    page = render(report, drawings)
    old_files = _files_of((read_bytes(index, MOST_BYTES_OF_TABLE) or b"").decode(errors="replace"))
    for name in FOLDERS:
        (folder / name).mkdir(parents=True, exist_ok=True)
    files: dict[str, str | bytes] = {}
    for table in report.all_tables:
        texts = {"csv": to_csv(table.csv), "tex": table.to_latex(), "md": table.to_markdown()}
        files |= {f"tables/{table.name}.{kind}": text for kind, text in texts.items()}
    for picture in report.pictures:
        texts = {"svg": drawings[picture.name], "csv": to_csv(picture.data)}
        files |= {f"figures/{picture.name}.{kind}": text for kind, text in texts.items()}
        files[f"figures/{picture.name}.pdf"] = picture.to_pdf()
    for name, content in [*files.items(), ("index.html", page)]:
        write_atomically(folder / name, content, durable=False)
    # What an earlier report wrote and this one has no more: left there, it would be taken for a part of this one.
    for name in old_files - _files_of(page):
        with contextlib.suppress(OSError):  # left behind, it does no harm
            (folder / name).unlink()
    return index


def _files_of(page: str) -> set[str]:
    return set(re.findall(r'href="((?:tables|figures)/[A-Za-z0-9_-][A-Za-z0-9_.-]*)"', page))


def render(report: Report, drawings: dict[str, str]) -> str:
    """Return the page; ``drawings`` has the SVG file of each picture by its name."""
    shown = [(picture, drawings[picture.name]) for picture in sorted(report.pictures, key=lambda one: not one.leads)]
    num_leading = min(max(sum(picture.leads for picture in report.pictures), LEAST_LEADING), MOST_LEADING)
    return ENVIRONMENT.get_template("page.html").render(
        report=report,
        items=[(item, list(of_it)) for item, of_it in groupby(report.verdicts, key=lambda verdict: verdict.claim.item)],
        marks=certainty_marks(report.verdicts),
        counts=count(report.verdicts),
        departures=departures(report.verdicts),
        tables=[(table, Markup(table.to_html())) for table in report.tables],
        leading=shown[:num_leading],
        others=shown[num_leading:],
        written=now().replace("T", " ").replace("+00:00", " UTC"),
        published=published,
        cited=cited,
        download=download,
        to_csv=to_csv,
        data_text=data_text,
        what=WHAT,
        stem=stem,
        shown_commands=shown_commands,
        without_machine_paths=without_machine_paths,
    )


def download(folder: str, name: str, kind: str, content: str) -> Markup:
    """Return the attributes of a link that saves this file: from the page itself, or if it is large from beside it."""
    file = f"{name}.{kind}"
    if len(content) > MOST_CHARACTERS_EMBEDDED:
        return Markup(f'href="{folder}/{file}"')
    address = quote(content, safe=" !$'()*+,-./:;=?@[]_|~")
    return Markup(f'download="{file}" href="data:{MEDIA[kind]};charset=utf-8,{address}"')


def cited(claim: Claim) -> Markup:
    """Return a claim's source, each mark in it a link to what it stands for."""
    address = rf'<a href="#source-{stem(claim.paper.name)}-\g<0>">\g<0></a>'
    return Markup(MARK.sub(address, str(escape(claim.source))))


def data_text(data: pd.DataFrame) -> str:
    """Return as much of a figure's data as CSV as the page shows."""
    text = to_csv(data.head(MOST_ROWS_SHOWN))
    left_out = len(data) - MOST_ROWS_SHOWN
    return f"{text}... {left_out:,} more rows in the file" if left_out > 0 else text
