"""A table as one reads it, in HTML, LaTeX and Markdown, and the numbers behind it."""

from __future__ import annotations

import html
import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import pandas as pd

from rethinkgen.report.numbers import DASH, shown

Cell = str | float | None
MISSING = ("missing", "waiting", "running", "interrupted", "failed")
"""What a cell says in place of a number that is not there yet."""
SOLVED = "solved"
"""In place of the steps of what was not trained."""
MOST_CHARACTERS, LINE = 32, 78
"""On a printed page: longer texts are broken, and a table of longer lines is shrunk to the width of the text."""
MOST_ROWS_OF_A_PAGE = 40
MOST_CHARACTERS_ABREAST, SHARE_OF_TEXTS = 22, 0.88
"""On several pages: longer texts do not make a column wider; what is left of the width is the space between columns."""
WORDS = (DASH, *MISSING, SOLVED, "not fitted", "not reached", "all")
NUMBER = re.compile(
    r"[<>~]? ?[-+]?\d[\d,.]*(e[-+]?\d+)?( ± [\d,.e-]+)?( \[[-\d,. e+]+\])?x?( (%|points|parameters|steps))?"
    r"( \(\d+\))?"
)
LATEX = {
    "\\": r"\textbackslash{}",
    "&": r"\&",
    "%": r"\%",
    "$": r"\$",
    "#": r"\#",
    "_": r"\_",
    "{": r"\{",
    "}": r"\}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "±": r"$\pm$",
    "–": "--",
    "×": r"$\times$",
    "≥": r"$\geq$",
    "≤": r"$\leq$",
}


@dataclass(frozen=True, eq=False)
class Table:
    """A table as one reads it, and the numbers behind it."""

    name: str
    """Stem of its files."""
    title: str
    note: str
    """How to read it."""
    columns: list[str]
    rows: list[list[Cell]]
    """Texts, ready to be printed; a dash where there is nothing."""
    csv: pd.DataFrame = field(repr=False)
    """The numbers, unrounded, a row for each row of the table or for each number in it."""

    def to_html(self) -> str:
        """Return ``<table>`` with a caption; the first cell of a row is its header.

        Classes for a style sheet: ``num`` (of a column of numbers, its head too), ``missing`` (no number yet: a dash or
        a state) and ``verdict-`` with the verdict (``verdict-same-trend``). The note is ``p.note`` in the caption.
        """
        kinds = ["num" if self._is_numeric(place) else "" for place in range(len(self.columns))]
        heads = zip(self.columns, kinds, strict=True)
        head = "".join(f'<th scope="col"{_classes(kind)}>{html.escape(column)}</th>' for column, kind in heads)
        body = "\n".join(f"<tr>{self._html_row(row, kinds)}</tr>" for row in self.rows)
        note = f'<p class="note">{html.escape(self.note)}</p>' if self.note else ""
        caption = f"<caption><strong>{html.escape(self.title)}</strong>{note}</caption>"
        return (
            f'<table id="table-{html.escape(self.name)}">\n{caption}\n<thead><tr>{head}</tr></thead>\n'
            f"<tbody>\n{body}\n</tbody>\n</table>"
        )

    def _html_row(self, row: Sequence[Cell], kinds: Sequence[str]) -> str:
        texts = [_text(cell) for cell in row]
        cells = [f'<th scope="row">{html.escape(texts[0])}</th>']
        for column, kind, text in zip(self.columns[1:], kinds[1:], texts[1:], strict=True):
            if column == "verdict":
                kind = f"verdict-{text.partition(' (')[0].replace(' ', '-')}"
            cells.append(f"<td{_classes(kind, 'missing' if text in WORDS else '')}>{html.escape(text)}</td>")
        return "".join(cells)

    def to_latex(self) -> str:
        r"""Return a ``table`` environment with caption and label ``tab:<name>``; of many rows, a ``longtable``.

        It needs ``\usepackage{booktabs}``; where the table is as wide as the text ``\usepackage{graphicx}``, where it
        is longer than a page ``\usepackage{longtable,array}``.
        """
        if len(self.rows) > MOST_ROWS_OF_A_PAGE:
            return self._to_longtable()
        alignment = "".join(map(self._latex_alignment, range(len(self.columns))))
        head = " & ".join(map(self._latex_head, range(len(self.columns)))) + r" \\"
        rows = [" & ".join(_latex(_text(cell)) for cell in row) + r" \\" for row in self.rows]
        is_wide = sum(min(self._longest(place), MOST_CHARACTERS) + 2 for place in range(len(self.columns))) > LINE
        tabular = [
            rf"\begin{{tabular}}{{{alignment}}}",
            r"\toprule",
            head,
            r"\midrule",
            *rows,
            r"\bottomrule",
            r"\end{tabular}",
        ]
        body = [r"\resizebox{\textwidth}{!}{%", *tabular[:-1], tabular[-1] + "}"] if is_wide else tabular
        start = [
            r"\begin{table}",
            r"\centering",
            rf"\caption{{{self._latex_caption()}}}",
            rf"\label{{tab:{self.name}}}",
            r"\footnotesize",
        ]
        return "\n".join([*start, *body, r"\end{table}", ""])

    def _to_longtable(self) -> str:
        """Return a table over several pages, whose columns of texts share the width by how long these are."""
        places = range(len(self.columns))
        lengths = [min(self._longest(place), MOST_CHARACTERS_ABREAST) for place in places]
        kinds = [
            "r"
            if self._is_numeric(place)
            else rf">{{\raggedright\arraybackslash}}p{{{SHARE_OF_TEXTS * lengths[place] / sum(lengths):.3f}\textwidth}}"
            for place in places
        ]
        head = " & ".join(map(_latex, self.columns)) + r" \\"
        rows = [" & ".join(_breakable(_latex(_text(cell))) for cell in row) + r" \\[2pt]" for row in self.rows]
        return "\n".join(
            [
                r"{\scriptsize",
                r"\setlength{\tabcolsep}{3pt}",
                rf"\begin{{longtable}}{{{''.join(kinds)}}}",
                rf"\caption{{{self._latex_caption()}}}\label{{tab:{self.name}}}\\",
                *(r"\toprule", head, r"\midrule", r"\endhead"),
                *(r"\bottomrule", r"\endfoot"),
                *rows,
                r"\end{longtable}",
                "}",
                "",
            ]
        )

    def _latex_caption(self) -> str:
        return f"{_latex(self.title)}. {_latex(self.note)}".strip()

    def _latex_head(self, place: int) -> str:
        """Break a head that is longer than all that stands below it."""
        first, space, rest = self.columns[place].partition(" ")
        if space and all(len(_text(row[place])) < len(self.columns[place]) for row in self.rows):
            return rf"\shortstack{{{_latex(first)}\\{_latex(rest)}}}"
        return _latex(self.columns[place])

    def _latex_alignment(self, place: int) -> str:
        if self._is_numeric(place):
            return "r"
        return r"p{0.35\textwidth}" if self._longest(place) > MOST_CHARACTERS else "l"

    def _longest(self, place: int) -> int:
        return max(len(text) for text in (self.columns[place], *(_text(row[place]) for row in self.rows)))

    def to_markdown(self) -> str:
        """Return a table for a README or an issue."""
        lines = [" | ".join(_markdown(column) for column in self.columns)]
        lines.append(" | ".join("--:" if self._is_numeric(place) else "---" for place in range(len(self.columns))))
        lines += [" | ".join(_markdown(_text(cell)) for cell in row) for row in self.rows]
        return "".join(f"| {line} |\n" for line in lines)

    def _is_numeric(self, place: int) -> bool:
        texts = [_text(row[place]) for row in self.rows]
        told = [text for text in texts if text not in WORDS]
        return bool(told) and all(NUMBER.fullmatch(text) for text in told)


def _classes(*names: str) -> str:
    told = " ".join(filter(None, names))
    return f' class="{told}"' if told else ""


def _text(cell: Cell) -> str:
    return DASH if cell is None else shown(cell) if isinstance(cell, float) else cell


def _latex(text: str) -> str:
    # An empty line would end a paragraph, and with it the table.
    return "".join(LATEX.get(character, character) for character in " ".join(text.split()))


def _breakable(text: str) -> str:
    """Let LaTeX break commands and lists of choices where a reader would."""
    return re.sub(r"([/=+])", r"\1\\allowbreak{}", text)


def _markdown(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
