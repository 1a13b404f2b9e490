"""Which tables there are: those that a paper's file declares, and the grid of all other runs."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from fnmatch import fnmatchcase
from functools import cache
from typing import Any

import pandas as pd

from rethinkgen.report.claim_files import Claim, Paper, load_claims, load_papers
from rethinkgen.report.declared import check_choice, check_keys
from rethinkgen.report.figures.settings import corruption_name
from rethinkgen.report.names import distinct, stem
from rethinkgen.report.numbers import DASH, Summary, binomial_error, interval, shown, shown_with_interval, summarise
from rethinkgen.report.quantities import is_kindred, matches, num_test, observe, property_of, tell_apart
from rethinkgen.report.table import SOLVED, Cell, Table
from rethinkgen.run.identity import SEEDS, takes_steps
from rethinkgen.run.run import Run

__all__ = ["Table", "tables"]

TYPES: dict[str, type[str] | type[list[Any]] | type[dict[str, Any]]] = {
    **dict.fromkeys(("title", "note", "claims"), str),
    **dict.fromkeys(("items", "always"), list),
    **dict.fromkeys(("where", "names", "columns"), dict),
}
TOLD_TYPES = {str: "a text is needed", list: "a list is needed", dict: "key: value pairs are needed"}
AUGMENTATIONS = ("random_crop", "flip", "rotation", "color_jitter")
OF_CLAIMS: dict[str, dict[str, Any]] = {
    "what": {"statement": True},
    "setting": {"setting": True},
    "published": {"published": True, "certainty": True},
    "ours": {"ours": True},
    "difference": {"difference": True},
    "n": {"runs": True},
}
"""Columns of a table of claims that declares none."""


@dataclass(frozen=True)
class Declared:
    """A table as a paper's file declares it: a row for each claim and setting, or for each setting of some runs."""

    name: str
    title: str
    note: str = ""
    items: Sequence[str] = ()
    """Whose claims make the rows."""
    claims: str = "*"
    """Ids of those that do."""
    where: Mapping[str, Any] = field(default_factory=dict)
    """Which runs, where no claims make the rows."""
    names: Mapping[str, str] = field(default_factory=dict)
    """What choices are called here."""
    columns: Mapping[str, Mapping[str, Any]] = field(default_factory=lambda: OF_CLAIMS)
    """Head -> what stands below: ``told``, ``has``, ``published``, ``ours``, ``difference``, ``binomial``, ``runs``."""
    always: Sequence[str] = ()
    """Keys that a setting is called by, whether they differ or not."""
    rows_to_come: str = "always"
    """Whether rows that were not run are shown: ``always``, or ``on its data``."""
    across_data: bool = False
    has_spread: bool = True
    in_grids: bool = False
    """Whether its runs stand in the grid of their sweep, too."""

    @property
    def varies_size(self) -> bool:
        """Whether the number of examples is what its rows differ in."""
        return any(spec.get("told") == "data.num_train" for spec in self.columns.values())


def declared() -> tuple[Declared, ...]:
    """Return the tables of the papers.

    Raises:
        ValueError: a declaration has a key that no table has, or a column of no kind.
    """
    return _tables_of(load_papers())


@cache
def _tables_of(papers: tuple[Paper, ...]) -> tuple[Declared, ...]:
    found = []
    for paper in papers:
        for name, node in paper.tables.items():
            where = f"{paper.name}, table {name}"
            check_keys(where, node, ("title",), [entry.name for entry in fields(Declared)[2:]])
            for key, value in node.items():
                if key in TYPES and not isinstance(value, TYPES[key]):
                    raise ValueError(f"{where}: {key}={value!r}: {TOLD_TYPES[TYPES[key]]}.")
            table = Declared(name=name, **node)
            for head, spec in table.columns.items():
                if not isinstance(spec, Mapping) or not spec:
                    raise ValueError(f"{where}: columns: {head}={spec!r}: what stands below, such as {{ours: true}}.")
                check_choice(where, f"columns: {head}", next(iter(spec)), CELLS)
            found.append(table)
    return tuple(found)


@dataclass(frozen=True, eq=False)
class Row:
    """What a row is about: runs that differ in their seeds alone, and the claim they bear on."""

    table: Declared
    group: Sequence[Run]
    setting: str
    claim: Claim | None = None

    def told(self, quantity: str) -> Any:
        """Return a choice or key of its runs; where there are none yet, of its claim."""
        if self.claim is not None and quantity in self.claim.runs:
            return self.claim.runs[quantity]
        return property_of(self.group[0], quantity) if self.group else None

    def claim_of(self, spec: Mapping[str, Any]) -> Claim | None:
        """Return the claim that a cell is about: the row's, one whose id ends otherwise, or one by its id."""
        name = spec.get("claim")
        if name is None or self.claim is None:
            return self.claim
        wanted = (
            self.claim.id.rpartition(".")[0] + name if name.startswith(".") else name.format(model=self.told("model"))
        )
        return next((claim for claim in load_claims() if claim.id == wanted), None)

    def measured(self, spec: Mapping[str, Any]) -> tuple[str, str]:
        """Return the metric and the unit of a cell."""
        claim = self.claim_of(spec)
        named = next(iter(spec.values()))
        metric = named if isinstance(named, str) else claim.metric if claim else ""
        is_share = "accuracy" in metric or "error" in metric
        return metric, claim.unit if claim and spec.get("unit") is None else str(
            spec.get("unit", "%" if is_share else "")
        )

    def is_left_blank(self, spec: Mapping[str, Any]) -> bool:
        """Whether a cell is about runs with a regularizer only, and these have it not."""
        return "only_with" in spec and spec["only_with"] not in (self.told("regularizer") or ())


def _told_cell(row: Row, spec: Mapping[str, Any]) -> Cell:
    value = row.told(spec["told"])
    text = row.table.names.get(str(value), shown(value) if isinstance(value, int) else str(value))
    text = spec.get("none", DASH) if value is None else text
    return f"{text} ({row.setting})" if spec.get("setting") and row.setting else text


def _has_cell(row: Row, spec: Mapping[str, Any]) -> Cell:
    return "yes" if spec["has"] in row.told("regularizer") else "no"


def _published_cell(row: Row, spec: Mapping[str, Any]) -> Cell:
    claim = row.claim_of(spec)
    if claim is None:
        return DASH
    mark = f" ({claim.certainty})" if spec.get("certainty") and claim.certainty != "verified" else ""
    if claim.value is None:
        return claim.published + mark
    if claim.unit == "%":
        return f"{claim.value:.2f}{'' if spec.get('bare') else ' %'}{mark}"
    return (shown(claim.value) if spec.get("bare") else f"{claim.value:g}") + mark


def _ours_cell(row: Row, spec: Mapping[str, Any]) -> Cell:
    if row.is_left_blank(spec):
        return DASH
    text = _cell(_summary(row, spec), row.group, row.measured(spec)[1], plain=bool(spec.get("plain")))
    return text.removesuffix(" %") if spec.get("bare") else text


def _summary(row: Row, spec: Mapping[str, Any]) -> Summary | None:
    metric, unit = row.measured(spec)
    worst = (min if "smallest" in metric else max) if spec.get("worst") else None
    return _of(row.group, metric, unit, extreme=worst)


def _difference_cell(row: Row, spec: Mapping[str, Any]) -> Cell:
    claim = row.claim_of(spec)
    return DASH if claim is None else _difference(_summary(row, spec), claim, row.group)


CELLS: dict[str, Callable[[Row, Mapping[str, Any]], Cell]] = {
    "statement": lambda row, _: row.claim.statement if row.claim else DASH,
    "setting": lambda row, _: row.setting or DASH,
    "told": _told_cell,
    "has": _has_cell,
    "published": _published_cell,
    "ours": _ours_cell,
    "difference": _difference_cell,
    "binomial": lambda row, spec: _binomial(_summary(row, spec), row.group),
    "runs": lambda row, _: _repetitions(row.group),
}
"""Kind of column -> what stands in it."""


def tables(runs: Sequence[Run]) -> list[Table]:
    """Return the tables of the papers that any run bears on, for each data set, then the grid of all other runs."""
    found: list[Table] = []
    used: set[str] = set()
    compared: set[str] = set()
    for table in declared():
        for part in [list(runs)] if table.across_data else _by_data(runs):
            rows = _rows_of_claims(table, part) if table.items else _rows_of_runs(table, part)
            if rows:
                found.append(_made(table, rows))
                ids = {run.run_id for row in rows for run in row.group}
                used |= ids
                compared |= ids if table.in_grids else set()
    gridded = {run.sweep for run in runs if run.run_id not in used}
    # What was asked for beside models of a grid is compared with them there.
    used -= {run.run_id for run in runs if run.run_id in compared and run.sweep in gridded}
    rest = [run for run in runs if run.run_id not in used]
    elsewhere = [run for run in runs if run.run_id in used]
    grids = [table for part in _by_data(rest, sizes_apart=True) for table in _grids(part, elsewhere)]
    return _named_apart([*found, *grids])


def _rows_of_claims(table: Declared, runs: Sequence[Run]) -> list[Row]:
    """Return a row for each claim and each setting that was run; none where the runs are worth no table."""
    claims = [
        claim
        for claim in load_claims()
        if claim.item in table.items and fnmatchcase(claim.id, table.claims) and not claim.settings and not claim.across
    ]
    if not _is_worth_a_table(runs, claims):
        return []
    is_whole = _is_of_its_data(claims[0], runs) and runs[0].key("data.num_train") is None
    to_come: list[list[Run]] = [[]] if table.rows_to_come == "always" or is_whole else []
    found = []
    for claim in claims:
        settings = sorted(_groups(runs, claim), key=lambda group: [group[0].key(key) or 0 for key in table.always])
        for group, apart in zip(settings or to_come, _apart(settings) or [""], strict=False):
            keys = [key for key in table.always if group and group[0].key(key)]
            named = [apart, *(f"{key.rpartition('.')[2]}={group[0].key(key):g}" for key in keys)]
            found.append(Row(table, group, " ".join(dict.fromkeys(filter(None, named))), claim))
    return found


def _rows_of_runs(table: Declared, runs: Sequence[Run]) -> list[Row]:
    """Return a row for each setting of the runs that a table is about, by the number of examples."""
    wanted = [run for run in runs if matches(run, table.where)]
    groups = _by_setting(wanted, sorted_by=lambda run: run.key("data.num_train") or math.inf)
    told = [str(spec["told"]) for spec in table.columns.values() if "told" in spec]
    keys = [key for key in told if key != "model"]
    apart = _apart_of_models(groups, keys) if "model" in told else _apart(groups, keys)
    return [Row(table, group, text) for group, text in zip(groups, apart, strict=True)]


def _made(table: Declared, rows: Sequence[Row]) -> Table:
    used = [run for row in rows for run in row.group]
    columns: dict[str, Mapping[str, Any]] = {}
    for head, spec in table.columns.items():
        pattern = str(spec.get("ours", ""))
        metrics = (
            sorted({name for run in used for name in run.metrics if fnmatchcase(name, pattern)})
            if "*" in pattern
            else []
        )
        columns |= (
            {name.partition("/")[2]: {**spec, "ours": name} for name in metrics} if "*" in pattern else {head: spec}
        )
    cells = [[CELLS[next(iter(spec))](row, spec) for spec in columns.values()] for row in rows]
    raw = [line for row in rows for line in (_long(row, columns) if row.claim else [_wide(row, columns)])]
    note = f"{table.note} {_spread_of(used)}" if table.has_spread else table.note
    return Table(table.name, f"{table.title}: {_what(used)}", note, list(columns), cells, pd.DataFrame(raw))


def _long(row: Row, columns: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the numbers behind a row, a line for each, beside the published ones."""
    assert row.claim is not None
    shared = {"row": row.claim.id.removesuffix(row.table.claims.rpartition("*")[2]), "setting": row.setting}
    found = []
    for spec in sorted(columns.values(), key=lambda spec: "only_with" in spec):
        claim = row.claim_of(spec)
        if "ours" not in spec or claim is None or row.is_left_blank(spec):
            continue
        if "only_with" not in spec or _summary(row, spec):
            found.append(_raw(shared, row.measured(spec)[0], _summary(row, spec), claim, row.group))
    return found


def _wide(row: Row, columns: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Return the numbers behind a row in one line: a column for each, with the interval of a mean."""
    told = {str(spec["told"]): row.told(spec["told"]) for spec in columns.values() if "told" in spec}
    line = {"data": row.group[0].data, **told, "setting": row.setting}
    for spec in columns.values():
        if "ours" in spec:
            metric, unit = row.measured(spec)
            summary, scale = _summary(row, spec), 100.0 if unit == "%" else 1.0
            line[metric] = summary and summary.mean / scale
            if not spec.get("plain"):
                ends = (summary and interval(summary)) or (None, None)
                line[f"{metric} deviation"] = summary and summary.deviation and summary.deviation / scale
                line |= {
                    f"{metric} interval {name}": end and end / scale
                    for name, end in zip(("low", "high"), ends, strict=True)
                }
    return line | {"n": sum(run.state == "done" for run in row.group)}


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
    return corruption_name(group[0]), "+".join(group[0].regularizers) or "none"


def _by_data(runs: Sequence[Run], *, sizes_apart: bool = False) -> list[list[Run]]:
    """Part runs by data set and by how many examples are trained on, unless that is what a table's rows differ in."""
    parts: dict[tuple[str, Any], list[Run]] = defaultdict(list)
    of_sizes = [] if sizes_apart else [table.where for table in declared() if table.varies_size]
    for run in runs:
        varies_size = any(matches(run, where) for where in of_sizes)
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
