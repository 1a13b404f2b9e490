"""Tables: ours beside the published numbers, and the grid of a sweep of one's own, in HTML, LaTeX and Markdown."""

from __future__ import annotations

import html
import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import pandas as pd

from rethinkgen.report.claim_files import Claim, load_claims
from rethinkgen.report.names import distinct, stem
from rethinkgen.report.numbers import DASH, Summary, binomial_error, interval, shown, shown_with_interval, summarise
from rethinkgen.report.quantities import is_kindred, matches, num_test, observe, tell_apart
from rethinkgen.run.identity import SEEDS, takes_steps
from rethinkgen.run.run import Run

PAPER = "Zhang et al. 2017"
Cell = str | float | None
MISSING = ("missing", "waiting", "running", "interrupted", "failed")
"""What a cell says in place of a number that is not there yet."""
SOLVED = "solved"
"""In place of the steps of what was not trained."""
AUGMENTATIONS = ("random_crop", "flip", "rotation", "color_jitter")
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


def tables(runs: Sequence[Run]) -> list[Table]:
    """Return the tables of the paper that any run bears on, for each data set, then the grid of all other runs."""
    found: list[Table] = []
    used: set[str] = set()
    for make in (_table_1, _table_2, _table_3, _table_4, _theorem_1, _rademacher):
        # Table 3 is of two data sets.
        for part in _by_data(runs) if make is not _table_3 else [list(runs)]:
            table, of_it = make(part)
            if table is not None:
                found.append(table)
                used |= {run.run_id for run in of_it}
    gridded = {run.sweep for run in runs if run.run_id not in used}
    # What was asked for beside models of a grid is compared with them there.
    used -= {run.run_id for run in runs if run.model == "two_layer_relu" and run.sweep in gridded}
    rest = [run for run in runs if run.run_id not in used]
    elsewhere = [run for run in runs if run.run_id in used]
    grids = [table for part in _by_data(rest, sizes_apart=True) for table in _grids(part, elsewhere)]
    return _named_apart([*found, *grids])


Made = tuple[Table | None, list[Run]]


def _table_1(runs: Sequence[Run]) -> Made:
    """All 19 rows in the paper's order, those not run too; on other data or a subset, those that were asked for."""
    claims = {claim.id: claim for claim in load_claims() if claim.item == "Table 1"}
    rows: list[list[Cell]] = []
    raw: list[dict[str, Any]] = []
    used: list[Run] = []
    trains = [name for name in claims if name.endswith(".train")]
    is_whole = _is_of_its_data(claims[trains[0]], runs) and runs[0].key("data.num_train") is None
    for name in trains:
        train, test = claims[name], claims[name.removesuffix("train") + "test"]
        settings = _groups(runs, train) or ([[]] if is_whole else [])
        for number, group in enumerate(settings):
            used += group
            label = f" ({text})" if (text := _apart(settings)[number]) else ""
            fit, accuracy = _of(group, "fit/accuracy"), _of(group, "test/accuracy")
            crops = "random_crop" in _regularizers(train)
            running = _of(group, "train/accuracy_epoch") if crops else None
            count = claims.get(f"table_1.{train.runs['model']}.parameters")
            rows.append(
                [
                    f"{_MODELS[train.runs['model']]}{label}",
                    shown(count.value) if count else DASH,
                    "yes" if crops else "no",
                    "yes" if "weight_decay" in _regularizers(train) else "no",
                    "random" if train.runs["data.corruption"] == "random_labels" else "true",
                    f"{train.value:.2f}",
                    _bare(_cell(fit, group)),
                    _bare(_cell(running, group)) if crops else DASH,
                    f"{test.value:.2f}",
                    _bare(_cell(accuracy, group)),
                    _difference(accuracy, test, group),
                    _binomial(accuracy, group),
                    _repetitions(group),
                ]
            )
            shared = {"row": name.removesuffix(".train"), "setting": label.strip(" ()")}
            raw += [
                _raw(shared, "fit/accuracy", fit, train, group),
                _raw(shared, "test/accuracy", accuracy, test, group),
            ]
            if running:
                raw.append(_raw(shared, "train/accuracy_epoch", running, train, group))
    columns = ["model", "parameters", "random crop", "weight decay", "labels", "train, published"]
    columns += ["train, ours", "running", "test, published", "test, ours", "difference", "binomial error", "n"]
    note = (
        "Accuracies in percent; published ones are of CIFAR-10. Train, ours: the final network on the whole training "
        "set, without augmentation; running: on the crops that it saw, over the last epoch. Binomial error: of one "
        f"test accuracy, from the test set's size. {_spread_of(used)}"
    )
    if not _is_worth_a_table(runs, [claims[name] for name in trains]):
        return None, []
    return Table("table_1", f"{PAPER}, Table 1: {_what(used)}", note, columns, rows, pd.DataFrame(raw)), used


def _table_2(runs: Sequence[Run]) -> Made:
    note = (
        "Published: one run. Best along training: the highest test accuracy of any evaluation, a peek at the test set."
    )
    return _claim_table("table_2", "Table 2", "Table 2", runs, note)


def _table_3(runs: Sequence[Run]) -> Made:
    note = (
        "Kernel equation (3), solved exactly. Norm: of the solution in the kernel's space; that the paper means this "
        "one is our reading."
    )
    return _claim_table("table_3", "Table 3 and Section 5", ("Table 3", "Section 5"), runs, note)


def _table_4(runs: Sequence[Run]) -> Made:
    note = (
        "Training accuracy on random labels, CIFAR-10. With weight decay that of the final network; the coefficient is "
        "not published, so each that was run has its row. With crops, flips and rotations the running accuracy over "
        "the last epoch, in which every image is new."
    )
    return _claim_table("table_4", "Table 4", "Table 4", runs, note, always=("regularizer.weight_decay",))


def _claim_table(
    name: str, title: str, items: str | tuple[str, ...], runs: Sequence[Run], note: str, always: Sequence[str] = ()
) -> Made:
    """A row for each published number of an item, for each setting that was run."""
    items = (items,) if isinstance(items, str) else items
    claims = [claim for claim in load_claims() if claim.item in items and not claim.settings and not claim.across]
    rows: list[list[Cell]] = []
    raw: list[dict[str, Any]] = []
    used: list[Run] = []
    for claim in claims:
        settings = sorted(_groups(runs, claim), key=lambda group: [group[0].key(key) or 0 for key in always]) or [[]]
        for group, apart in zip(settings, _apart(settings), strict=True):
            used += group
            summary = _of(group, claim.metric, claim.unit)
            told = [
                apart,
                *(f"{key.rpartition('.')[2]}={group[0].key(key):g}" for key in always if group and group[0].key(key)),
            ]
            label = " ".join(dict.fromkeys(filter(None, told)))
            published = f"{claim.value:g}" if claim.value is not None else claim.published
            if claim.unit == "%" and claim.value is not None:
                published = f"{claim.value:.2f} %"
            mark = "" if claim.certainty == "verified" else f" ({claim.certainty})"
            rows.append(
                [
                    claim.statement,
                    label or DASH,
                    published + mark,
                    _cell(summary, group, claim.unit),
                    _difference(summary, claim, group),
                    _repetitions(group),
                ]
            )
            raw.append(_raw({"row": claim.id, "setting": label}, claim.metric, summary, claim, group))
    if not _is_worth_a_table(runs, claims):
        return None, []
    columns = ["what", "setting", "published", "ours", "difference", "n"]
    note = f"{note} {_spread_of(used)}"
    return Table(name, f"{PAPER}, {title}: {_what(used)}", note, columns, rows, pd.DataFrame(raw)), used


def _theorem_1(runs: Sequence[Run]) -> Made:
    """What the construction has and does, for each number of examples."""
    used = [run for run in runs if run.model == "two_layer_relu"]
    if not used:
        return None, []
    done = [run for run in used if run.state == "done"]
    extra = sorted({key for run in done for key in run.metrics if key.startswith("solution/")})
    rows: list[list[Cell]] = []
    raw: list[dict[str, Any]] = []
    groups = _by_setting(used, sorted_by=lambda run: run.key("data.num_train") or 0)
    for group, apart in zip(groups, _apart(groups, ("data.num_train", "data.corruption")), strict=True):
        run = group[0]
        beyond = _of(group, "parameters_beyond_2n+d", "")
        fit = _of(group, "fit/accuracy")
        parameters = _of(group, "num_parameters", "")
        expected = DASH if beyond is None or parameters is None else shown(parameters.mean - beyond.mean)
        worst = [_of(group, key, "", extreme=min if "smallest" in key else max) for key in extra]
        rows.append(
            [
                f"{run.corruption} ({apart})" if apart else run.corruption,
                shown(run.key("data.num_train")),
                expected,
                _cell(parameters, group, "", plain=True),
                _cell(fit, group, "%", plain=True),
                *(_cell(value, group, "", plain=True) for value in worst),
                _repetitions(group),
            ]
        )
        raw.append(
            {"data": run.data, "corruption": run.corruption, "setting": apart, "num_train": run.key("data.num_train")}
            | {"num_parameters": parameters and parameters.mean, "beyond_2n+d": beyond and beyond.mean}
            | {"fit/accuracy": fit and fit.mean / 100, "n": fit.n if fit else 0}
            | {key: value and value.mean for key, value in zip(extra, worst, strict=True)}
        )
    columns = ["labels", "examples", "2n + d", "weights", "fitted", *(key.partition("/")[2] for key in extra), "n"]
    note = (
        "A network of width n with 2n + d weights, built and not trained. Of several seeds the mean; of the "
        "solution's numbers the worst."
    )
    return Table("theorem_1", f"{PAPER}, Theorem 1: {_what(used)}", note, columns, rows, pd.DataFrame(raw)), used


def _rademacher(runs: Sequence[Run]) -> Made:
    """The lower bound on the empirical Rademacher complexity, for each number of examples."""
    used = [run for run in runs if run.corruption == "random_signs"]
    if not used:
        return None, []
    rows: list[list[Cell]] = []
    raw: list[dict[str, Any]] = []
    groups = _by_setting(used, sorted_by=lambda run: run.key("data.num_train") or 10**9)
    for group, apart in zip(groups, _apart_of_models(groups, ("data.num_train",)), strict=True):
        run, bound, accuracy = group[0], _of(group, "rademacher", ""), _of(group, "test/accuracy")
        name = f"{run.model} ({apart})" if apart else run.model
        size = shown(run.key("data.num_train")) if run.key("data.num_train") else "all"
        draws = _repetitions(group)
        rows.append([name, size, _cell(bound, group, ""), _cell(accuracy, group), draws])
        ends = bound and interval(bound)
        told = {"model": run.model, "setting": apart, "num_train": run.key("data.num_train")}
        told |= {
            "lower_bound": bound and bound.mean,
            "deviation": bound and bound.deviation,
            "interval_low": ends and ends[0],
            "interval_high": ends and ends[1],
            "draws": bound.n if bound else 0,
        }
        raw.append(told | {"test/accuracy": accuracy and accuracy.mean / 100})
    columns = ["model", "examples", "lower bound", "test (chance 50)", "draws"]
    note = (
        "Mean of 2 * fit/accuracy - 1 over draws of random signs: what training "
        "found, and so a lower bound on the supremum in the empirical Rademacher complexity, which is at most 1. "
        f"{_spread_of(used)}"
    )
    return Table("rademacher", f"Rademacher complexity: {_what(used)}", note, columns, rows, pd.DataFrame(raw)), used


_MODELS = {
    "inception": "Inception",
    "inception_no_bn": "Inception w/o BatchNorm",
    "alexnet": "AlexNet",
    "mlp_3x512": "MLP 3x512",
    "mlp_1x512": "MLP 1x512",
}
_QUANTITIES = {"fit": ("fit/accuracy", "%"), "test": ("test/accuracy", "%"), "steps to fit": ("steps_to_fit", "")}


def _grids(runs: Sequence[Run], elsewhere: Sequence[Run]) -> list[Table]:
    """A row for each corruption and regularizer, the models side by side where there are several.

    What tells a setting from those in other tables is named, too.
    """
    models = list(dict.fromkeys(run.model for run in runs))
    settings = _by_setting(runs)
    others = _by_setting([run for run in elsewhere if run.data == runs[0].data])
    rests = {
        key: rest for model in models for key, rest in _rests([g for g in [*settings, *others] if g[0].model == model])
    }
    rows: dict[tuple[str, str, str], dict[str, list[Run]]] = defaultdict(dict)
    for group in settings:
        rows[(*_told(group), rests[id(group)])][group[0].model] = group
    has_rest = any(rest for _, _, rest in rows)
    names = ["corruption", "regularizer", *(["setting"] if has_rest else [])]
    heads = {key: [*key[:2], *([key[2] or DASH] if has_rest else [])] for key in rows}
    raw = [
        dict(zip(names, heads[key], strict=True)) | {"model": model} | _raw_numbers(group)
        for key, by_model in rows.items()
        for model, group in by_model.items()
    ]
    data, what = runs[0].data, _what(runs)
    milestone = _milestone(runs)
    note = (
        f"{_spread_of(runs)} Steps to fit count to the first evaluated step at which {milestone or 'fit_threshold'} of "
        "the training set was fitted; what was not reached is named so, and what was not asked for is a dash."
    )
    if len(models) == 1:
        body = [[*heads[key], *_grid_cells(by_model[models[0]])] for key, by_model in rows.items()]
        columns = [*names, "fit", "test", f"steps to fit {milestone}".rstrip(), "n"]
        return [Table(f"grid_{data}", f"{models[0]}: {what}", note, columns, body, pd.DataFrame(raw))]
    found = []
    for quantity, (metric, unit) in _QUANTITIES.items():
        body = [
            [*heads[key], *(_pivot_cell(by_model.get(model, []), metric, unit) for model in models)]
            for key, by_model in rows.items()
        ]
        numbers = pd.DataFrame([{**row, "quantity": metric} for row in raw])
        name = f"grid_{data}_{quantity.replace(' ', '_')}"
        counted = f" {milestone}".rstrip() if metric == "steps_to_fit" else ""
        title = f"{quantity.capitalize()}{counted}: {what}"
        found.append(Table(name, title, f"{note} In brackets n.", [*names, *models], body, numbers))
    return found


def _grid_cells(group: Sequence[Run]) -> list[Cell]:
    cells: list[Cell] = [
        _grid_cell(_of(group, metric, unit), metric, group, unit) for metric, unit in _QUANTITIES.values()
    ]
    return [*cells, _repetitions(group)]


def _pivot_cell(group: Sequence[Run], metric: str, unit: str) -> str:
    if not group:
        return DASH
    summary = _of(group, metric, unit)
    text = _grid_cell(summary, metric, group, unit)
    return text if summary is None or text == SOLVED else f"{text} ({summary.n})"


def _grid_cell(summary: Summary | None, metric: str, group: Sequence[Run], unit: str) -> str:
    if metric == "steps_to_fit" and summary and math.isfinite(summary.mean) and not takes_steps(group[0].config):
        return SOLVED
    return _cell(summary, group, unit)


def _raw_numbers(group: Sequence[Run]) -> dict[str, Any]:
    numbers: dict[str, Any] = {}
    for metric, _ in _QUANTITIES.values():
        summary = _of(group, metric, "")
        numbers[metric] = None if summary is None or summary.mean == float("inf") else summary.mean
        numbers[f"{metric} deviation"] = summary and summary.deviation
        ends = summary and interval(summary)
        numbers[f"{metric} interval low"], numbers[f"{metric} interval high"] = ends or (None, None)
    numbers["n"] = sum(run.state == "done" for run in group)
    return numbers | {"states": " ".join(run.state for run in group)}


def _milestone(runs: Sequence[Run]) -> str:
    """Return how much of the training set was to be fitted, where all runs count to the same."""
    thresholds = {float(run.identity.get("fit_threshold", 1)) for run in runs}
    return f"{100 * thresholds.pop():g} %" if len(thresholds) == 1 else ""


def _spread_of(runs: Sequence[Run]) -> str:
    """Say what stands behind a mean, and over what."""
    told = (
        "Mean ± sample standard deviation over n runs that differ in their seeds alone (the number "
        "itself where n is 1), in brackets the 95 % interval of the mean (Student's t)."
    )
    groups = [[run for run in group if run.state == "done"] for group in _by_setting(runs)]
    several = [group for group in groups if len(group) > 1]
    if any(len({run.seed for run in group}) < len(group) for group in several):
        told += " Some runs share their seed and differ in data.seed or data.order_seed alone: no repetitions."
    return told


def _rests(settings: Sequence[Sequence[Run]]) -> list[tuple[int, str]]:
    """Name each setting of one model by what neither corruption nor regularizers tell of it, no two alike."""
    acting = ("optimizer.weight_decay", "model.dropout", "model.label_smoothing", "loss.label_smoothing")
    told = ("data.corruption", "regularizer", *acting, *(f"data.{name}" for name in AUGMENTATIONS))
    rests = _apart(settings, leaving_out=told)
    # Two strengths of a regularizer, say: what is told elsewhere is the same, and what is left as well.
    alike: dict[tuple[str, str, str], list[int]] = defaultdict(list)
    for place, (group, rest) in enumerate(zip(settings, rests, strict=True)):
        alike[(*_told(group), rest)].append(place)
    for places in alike.values():
        for place, more in zip(places, _apart([settings[place] for place in places]), strict=True):
            rests[place] = " ".join(filter(None, (rests[place], more)))
    return list(zip(map(id, settings), rests, strict=True))


def _told(group: Sequence[Run]) -> tuple[str, str]:
    """Return the first cells of a setting's row: its corruption and its regularizers."""
    return _corruption(group[0]), "+".join(group[0].regularizers) or "none"


def _corruption(run: Run) -> str:
    values = [f"{run.level:g}"] if run.level is not None and run.corruption not in ("none", "random_labels") else []
    return " ".join([run.corruption, *values])


def _by_data(runs: Sequence[Run], *, sizes_apart: bool = False) -> list[list[Run]]:
    """Part runs by data set and by how many examples are trained on, unless that is what the paper's runs vary."""
    parts: dict[tuple[str, Any], list[Run]] = defaultdict(list)
    for run in runs:
        varies_size = not sizes_apart and (run.corruption == "random_signs" or run.model == "two_layer_relu")
        parts[(run.data, None if varies_size else run.key("data.num_train"))].append(run)
    return list(parts.values())


def _by_setting(runs: Sequence[Run], sorted_by: Callable[[Run], Any] | None = None) -> list[list[Run]]:
    """Group repetitions of a run; what lay elsewhere under the same name of data is another setting."""
    groups: dict[tuple[str, Any], list[Run]] = defaultdict(list)
    for run in runs:
        groups[(run.setting(*SEEDS), run.facts.get("fingerprint"))].append(run)
    found = list(groups.values())
    return sorted(found, key=lambda group: sorted_by(group[0])) if sorted_by else found


def _groups(runs: Sequence[Run], claim: Claim) -> list[list[Run]]:
    return _by_setting([run for run in runs if matches(run, claim.runs)])


def _apart(settings: Sequence[Sequence[Run]], leaving_out: Sequence[str] = ()) -> list[str]:
    if not settings or not settings[0]:
        return [""] * len(settings)
    names = tell_apart([group[0] for group in settings], leaving_out)
    if leaving_out:
        return names
    # The same in every key, and yet not the same data.
    counts = Counter(names)
    prints = [str(group[0].facts.get("fingerprint"))[:6] for group in settings]
    return [
        " ".join(filter(None, (name, f"data={print_of_it}"))) if counts[name] > 1 else name
        for name, print_of_it in zip(names, prints, strict=True)
    ]


def _apart_of_models(settings: Sequence[Sequence[Run]], leaving_out: Sequence[str]) -> list[str]:
    """Name each setting among those of its model: what goes with a model is told by its name."""
    found: dict[int, str] = {}
    for model in {group[0].model for group in settings}:
        of_it = [group for group in settings if group[0].model == model]
        found |= zip(map(id, of_it), _apart(of_it, leaving_out), strict=True)
    return [found[id(group)] for group in settings]


def _of(
    group: Sequence[Run], metric: str, unit: str = "%", *, extreme: Callable[[list[float]], float] | None = None
) -> Summary | None:
    """Summarise a quantity over the finished runs of a setting."""
    scale = 100.0 if unit == "%" else 1.0
    values = [value for run in group if (value := observe(run, metric)) is not None]
    if not values:
        return None
    scaled = [scale * value for value in values]
    return summarise(scaled) if extreme is None else Summary(extreme(scaled), None, len(scaled))


def _repetitions(group: Sequence[Run]) -> str:
    """Return how many of a setting are finished: they may differ in any of the seeds."""
    return str(sum(run.state == "done" for run in group))


def _cell(summary: Summary | None, group: Sequence[Run], unit: str = "%", *, plain: bool = False) -> str:
    """Return mean and spread; in place of a number that is not there, how far the runs are."""
    if summary is None:
        return _state(group)
    if summary.mean == float("inf"):
        return "not fitted"
    return shown(summary.mean, unit) if plain else shown_with_interval(summary, unit)


def _state(group: Sequence[Run]) -> str:
    states = {run.state for run in group}
    return next((state for state in ("running", "failed", "interrupted", "waiting") if state in states), "missing")


def _bare(text: str) -> str:
    return text.removesuffix(" %")


def _difference(summary: Summary | None, claim: Claim, group: Sequence[Run]) -> str:
    """Return ours less published, where ours is of the same data; on other data the difference means nothing."""
    if summary is None or claim.value is None or summary.mean == float("inf") or not _is_of_its_data(claim, group):
        return DASH
    difference = summary.mean - claim.value
    return f"{difference:+.2f}" if claim.unit == "%" else f"{difference:+.4g}"


def _binomial(summary: Summary | None, group: Sequence[Run]) -> str:
    size = next((num_test(run) for run in group if run.state == "done"), None)
    return DASH if summary is None or size is None else f"{100 * binomial_error(summary.mean / 100, size):.2f}"


def _raw(
    shared: dict[str, Any], metric: str, summary: Summary | None, claim: Claim, group: Sequence[Run]
) -> dict[str, Any]:
    scale = 100.0 if claim.unit == "%" else 1.0
    size = next((num_test(run) for run in group if run.state == "done"), None) if metric == "test/accuracy" else None
    mean = None if summary is None else summary.mean / scale
    ends = None if summary is None else interval(summary)
    published = None if claim.value is None else claim.value / scale
    return shared | {
        "quantity": metric,
        "published": published,
        "certainty": claim.certainty,
        "mean": mean,
        "deviation": None if summary is None or summary.deviation is None else summary.deviation / scale,
        "interval_low": None if ends is None else ends[0] / scale,
        "interval_high": None if ends is None else ends[1] / scale,
        "difference": None if mean is None or published is None else mean - published,
        "binomial_error": None if mean is None or size is None else binomial_error(mean, size),
        "n": 0 if summary is None else summary.n,
        "states": " ".join(f"{number} {state}" for state, number in Counter(run.state for run in group).items()),
    }


def _is_of_its_data(claim: Claim, group: Sequence[Run]) -> bool:
    wanted = claim.protocol.get("data")
    return wanted is None or any(is_kindred(run.data, str(wanted)) for run in group)


def _is_worth_a_table(runs: Sequence[Run], claims: Sequence[Claim]) -> bool:
    """Whether the paper's table is shown: with any run on its own data, on other data with runs for half of its rows.

    A first sweep on the digits shares two rows with Table 1 and is better read as a grid.
    """
    bearing = [[run for run in runs if matches(run, claim.runs)] for claim in claims]
    is_on_its_data = any(found and _is_of_its_data(claim, found) for claim, found in zip(claims, bearing, strict=True))
    return is_on_its_data or 2 * sum(map(bool, bearing)) >= len(claims)


def _regularizers(claim: Claim) -> list[str]:
    return list(claim.runs["regularizer"])


def _what(runs: Sequence[Run]) -> str:
    """Say what the runs were trained on and for how long."""
    data = ", ".join(dict.fromkeys(run.data for run in runs))
    sizes = {run.key("data.num_train") for run in runs}
    size = f", {next(iter(sizes)):,} examples" if len(sizes) == 1 and None not in sizes else ""
    budgets = sorted({int(run.metrics["steps"]) for run in runs if run.metrics.get("steps")})
    if not budgets or budgets == [1]:
        return f"{data}{size}"
    steps = f"{budgets[0]:,}" if len(budgets) == 1 else f"{budgets[0]:,} to {budgets[-1]:,}"
    return f"{data}{size}, {steps} steps"


def _named_apart(found: Sequence[Table]) -> list[Table]:
    """Give tables of one name, of several data sets, names of their own; the first keeps it."""
    names = distinct(stem(table.name) for table in found)
    return [replace(table, name=name) for table, name in zip(found, names, strict=True)]


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
