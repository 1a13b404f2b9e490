"""A picture of the report: the figure, what is drawn in it as numbers, and the same bytes each time it is written."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pandas as pd
from markupsafe import escape
from matplotlib.figure import Figure

from rethinkgen.report.style import drawing

if TYPE_CHECKING:
    from rethinkgen.report.figures.declaration import Figure as Declared


@dataclass(frozen=True, eq=False)
class Picture:
    """One figure of the report."""

    name: str
    """Stem of its files, and of the ids in its SVG."""
    title: str
    caption: str
    figure: Figure
    data: pd.DataFrame
    """What is drawn, a row a point, in the units of the axes."""
    command: str
    """What one types to have the runs."""
    leads: bool = False
    """Whether it is among the pictures that a page begins with."""
    declaration: Declared | None = None
    """What was asked for."""

    def __post_init__(self) -> None:
        # Each time it is computed, the layout goes on from the one before: once for all files, then.
        with drawing():
            self.figure.draw_without_rendering()
            self.figure.set_layout_engine("none")

    def to_svg(self) -> str:
        """Return the drawing as an ``<svg>`` element that can stand in a page beside others: no id occurs in two."""
        text = self._bytes("svg", {"Date": None}).decode()
        text = text[text.index("<svg") :]
        text = re.sub(r"\s*<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
        # Rules of a <style> inside an inline SVG hold for the whole page.
        text = text.replace("*{stroke-linejoin", f"#{self.name} *{{stroke-linejoin", 1)
        text = re.sub(r'\bid="([^"]+)"', rf'id="{self.name}-\1"', text)
        text = re.sub(r'(url\(|href=")#', rf"\1#{self.name}-", text)
        # What it is, for those who cannot see it.
        title, description = f"{self.name}-title", f"{self.name}-description"
        head, _, rest = text.removeprefix("<svg").partition(">")
        told = f'<title id="{title}">{escape(self.title)}</title><desc id="{description}">{escape(self.caption)}</desc>'
        return f'<svg role="img" aria-labelledby="{title} {description}" id="{self.name}"{head}>{told}{rest}'

    def to_pdf(self) -> bytes:
        """Return the drawing as a PDF with its fonts embedded."""
        return self._bytes("pdf", {"CreationDate": None, "Title": self.title})

    def to_png(self) -> bytes:
        """Return the drawing as pixels, for where neither SVG nor PDF is shown."""
        return self._bytes("png", {})

    def _bytes(self, kind: str, metadata: dict[str, str | None]) -> bytes:
        file = io.BytesIO()
        with drawing(salt=self.name):
            self.figure.savefig(file, format=kind, dpi=200, metadata=metadata)
        return file.getvalue()
