"""A table as one reads it, in HTML, LaTeX and Markdown, and the numbers behind it."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import cached_property

import pandas as pd
from jinja2 import Environment, PackageLoader, StrictUndefined

from rethinkgen.numbers import DASH, shown

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
NAMED = {"\\": "backslash", "~": "asciitilde", "^": "asciicircum", "<": "less", ">": "greater"}
LATEX = str.maketrans(
    {character: rf"\{character}" for character in "&%$#_{}"}
    | {character: rf"\text{name}{{}}" for character, name in NAMED.items()}
    | {"±": r"$\pm$", "–": "--", "×": r"$\times$", "≥": r"$\geq$", "≤": r"$\leq$"}
)
ENVIRONMENT = Environment(
    loader=PackageLoader("rethinkgen.report", "."),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
"""Of the page, too."""


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

    @cached_property
    def texts(self) -> list[list[str]]:
        """The rows, each cell as a text."""
        return [[shown(cell) if isinstance(cell, float) else cell or DASH for cell in row] for row in self.rows]

    @cached_property
    def numeric(self) -> set[int]:
        """Places of the columns of numbers."""
        told = [[row[place] for row in self.texts if row[place] not in WORDS] for place in range(len(self.columns))]
        return {place for place, texts in enumerate(told) if texts and all(map(NUMBER.fullmatch, texts))}

    def kinds(self, place: int, text: str) -> str:
        """Return the classes of a cell: ``num`` (of a column of numbers), ``missing`` (no number yet), ``verdict-``."""
        is_verdict = self.columns[place] == "verdict"
        kind = f"verdict-{text.partition(' (')[0].replace(' ', '-')}" if is_verdict else "num" * (place in self.numeric)
        return " ".join(filter(None, (kind, "missing" * (text in WORDS))))

    def to_html(self) -> str:
        """Return ``<table>`` with a caption, and classes for a style sheet; the first cell of a row is its header."""
        return ENVIRONMENT.get_template("table.html").render(table=self)

    def to_latex(self) -> str:
        r"""Return a ``table`` environment with caption and label ``tab:<name>``; of many rows, a ``longtable``.

        It needs ``\usepackage{booktabs}``; where the table is as wide as the text ``\usepackage{graphicx}``, where it
        is longer than a page ``\usepackage{longtable,array}``.
        """
        is_long, places = len(self.rows) > MOST_ROWS_OF_A_PAGE, range(len(self.columns))
        longest = [max(len(row[place]) for row in (self.columns, *self.texts)) for place in places]
        heads = [_latex(head) if is_long else self._latex_head(place) for place, head in enumerate(self.columns)]
        cells = [[_breakable(_latex(text)) if is_long else _latex(text) for text in row] for row in self.texts]
        shares = [SHARE_OF_TEXTS * min(length, MOST_CHARACTERS_ABREAST) for length in longest]
        total = sum(shares) / SHARE_OF_TEXTS
        broken = [rf">{{\raggedright\arraybackslash}}p{{{share / total:.3f}\textwidth}}" for share in shares]
        whole = [r"p{0.35\textwidth}" if length > MOST_CHARACTERS else "l" for length in longest]
        texts = broken if is_long else whole
        text = (
            pd.DataFrame(cells, columns=heads)
            .style.hide(axis="index")
            .to_latex(
                column_format="".join("r" if place in self.numeric else texts[place] for place in places),
                caption=f"{_latex(self.title)}. {_latex(self.note)}".strip(),
                label=f"tab:{self.name}",
                environment="longtable" if is_long else None,
                position_float=None if is_long else "centering",
                hrules=True,
            )
        )
        if is_long:
            return f"{{\\scriptsize\n\\setlength{{\\tabcolsep}}{{3pt}}\n{text}}}\n"
        is_wide = sum(min(length, MOST_CHARACTERS) + 2 for length in longest) > LINE
        begin, end = (r"\resizebox{\textwidth}{!}{%" + "\n", "}") if is_wide else ("", "")
        text = text.replace(r"\begin{tabular}", "\\footnotesize\n" + begin + r"\begin{tabular}", 1)
        return text.replace(r"\end{tabular}", r"\end{tabular}" + end)

    def _latex_head(self, place: int) -> str:
        """Break a head that is longer than all that stands below it."""
        first, space, rest = self.columns[place].partition(" ")
        if space and all(len(row[place]) < len(self.columns[place]) for row in self.texts):
            return rf"\shortstack{{{_latex(first)}\\{_latex(rest)}}}"
        return _latex(self.columns[place])

    def to_markdown(self) -> str:
        """Return a table for a README or an issue."""
        rule = ["--:" if place in self.numeric else "---" for place in range(len(self.columns))]
        rows = [[text.replace("|", "\\|").replace("\n", " ") for text in row] for row in (self.columns, *self.texts)]
        return "".join(f"| {' | '.join(row)} |\n" for row in (rows[0], rule, *rows[1:]))


def _latex(text: str) -> str:
    # An empty line would end a paragraph, and with it the table.
    return " ".join(text.split()).translate(LATEX)


def _breakable(text: str) -> str:
    """Let LaTeX break commands and lists of choices where a reader would."""
    return re.sub(r"([/=+])", r"\1\\allowbreak{}", text)
