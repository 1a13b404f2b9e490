"""Which tables there are: those that a paper's file declares, and the grid of all other runs."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal

import pandas as pd
from pydantic import AfterValidator, Field

from rethinkgen.grouping import collected
from rethinkgen.names import distinct, stem
from rethinkgen.numbers import DASH, shown, shown_with_interval
from rethinkgen.report.claim_files import Claim, load_claims, load_papers
from rethinkgen.report.declared import Checked, checked
from rethinkgen.report.style import any_sweep
from rethinkgen.report.table import SOLVED, Cell, Table
from rethinkgen.run.identity import takes_steps
from rethinkgen.run.overview import in_short
from rethinkgen.run.quantities import observe, property_of
from rethinkgen.run.run import Run
from rethinkgen.run.settings import apart, by_setting, corruption_name, tell_apart
from rethinkgen.run.spread import Summary, binomial_error, summarise
from rethinkgen.run.where import matches

__all__ = ["Table", "tables"]

OF_CLAIMS: dict[str, dict[str, Any]] = any_sweep()["columns_of_claims"]
"""Columns of a table of claims that declares none."""
OF_PUBLISHED = ("published", "certainty", "difference")
"""Columns of a CSV that only what bears on claims has."""
Group = Sequence[Run]
"""Runs that differ in their seeds alone."""
Spec = Mapping[str, Any]
"""What stands below a head: its kind first."""


def _have_a_kind(columns: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    for head, spec in columns.items():
        if next(iter(spec), None) not in CELLS:
            raise ValueError(f"{head}={spec!r}: one of {', '.join(CELLS)} is needed first.")
    return columns


class Declared(Checked):
    """A table as a paper's file declares it: a row for each claim and setting, or for each setting of some runs."""

    name: str = ""
    title: str
    note: str = ""
    items: list[str] = Field(default=[])
    """Whose claims make the rows."""
    claims: str = "*"
    """Ids of those that do."""
    where: dict[str, Any] = Field(default={})
    """Which runs, where no claims make the rows."""
    names: dict[str, str] = Field(default={})
    """What choices are called here."""
    columns: Annotated[dict[str, dict[str, Any]], AfterValidator(_have_a_kind)] = Field(
        default_factory=lambda: any_sweep()["columns_of_claims"]
    )
    """Head -> what stands below: ``told``, ``has``, ``published``, ``ours``, ``difference``, ``binomial``, ``runs``."""
    always: list[str] = Field(default=[])
    """Keys that a setting is called by, whether they differ or not."""
    rows_to_come: Literal["always", "on its data"] = "always"
    """Whether rows that were not run are shown."""
    across_data: bool = False
    has_spread: bool = True
    in_grids: bool = False
    """Whether its runs stand in the grid of their sweep, too."""

    def told(self) -> list[str]:
        """Return the choices and keys that tell its rows apart."""
        return [str(spec["told"]) for spec in self.columns.values() if "told" in spec]


def declared() -> tuple[Declared, ...]:
    """Return the tables of the papers.

    Raises:
        ValueError: a declaration has a key that no table has, or a column of no kind.
    """
    return tuple(
        checked(Declared, {"name": name, **node} if isinstance(node, dict) else node, f"{paper.name}, table {name}")
        for paper in load_papers()
        for name, node in paper.tables.items()
    )


@dataclass(frozen=True, eq=False)
class Row:
    """What a row is about: repetitions of a run, or of one of each model, and the claim that they bear on."""

    table: Declared
    groups: Mapping[str, Group]
    """Model -> its runs; where the models are not side by side, all."""
    setting: str
    claim: Claim | None = None

    def group(self, spec: Spec | None = None) -> Group:
        """Return the runs that a cell is about."""
        return self.groups.get(spec["of"], ()) if spec and "of" in spec else next(iter(self.groups.values()))

    def told(self, quantity: str) -> Any:
        """Return a choice or key of its runs; where there are none yet, of its claim."""
        if self.claim is not None and quantity in self.claim.runs:
            return self.claim.runs[quantity]
        return property_of(self.group()[0], quantity) if self.group() else None

    def claim_of(self, spec: Spec) -> Claim | None:
        """Return the claim that a cell is about: the row's, one whose id ends otherwise, or one by its id."""
        name = spec.get("claim")
        if name is None or self.claim is None:
            return self.claim
        own = self.claim.id.rpartition(".")[0]
        wanted = own + name if name.startswith(".") else name.format(model=self.told("model"))
        return next((claim for claim in load_claims() if claim.id == wanted), None)

    def measured(self, spec: Spec) -> tuple[str, str]:
        """Return the metric and the unit of a cell."""
        claim, named = self.claim_of(spec), next(iter(spec.values()))
        metric = named if isinstance(named, str) else claim.metric if claim else ""
        is_share = "accuracy" in metric or "error" in metric
        return metric, str(spec.get("unit", claim.unit if claim else "%" if is_share else ""))

    def summary(self, spec: Spec) -> Summary | None:
        """Return mean and spread over the finished runs of a cell, in its unit; with ``worst`` the worst value."""
        metric, unit = self.measured(spec)
        found = [value for run in self.group(spec) if (value := observe(run, metric)) is not None]
        values = [100.0 * value if unit in ("%", "points") else value for value in found]
        if not values or not spec.get("worst"):
            return summarise(values) if values else None
        return Summary((min if "smallest" in metric else max)(values), None, len(values))

    def is_left_blank(self, spec: Spec) -> bool:
        """Whether a cell is about runs with a regularizer only, and these have it not; or about none."""
        is_of_others = "only_with" in spec and spec["only_with"] not in (self.told("regularizer") or ())
        return is_of_others or ("of" in spec and not self.group(spec))


def _told_cell(row: Row, spec: Spec) -> Cell:
    value = row.told(spec["told"])
    text = row.table.names.get(str(value), shown(value) if isinstance(value, int) else str(value))
    text = spec.get("none", DASH) if value is None else text
    return f"{text} ({row.setting})" if spec.get("setting") and row.setting else text


def _published_cell(row: Row, spec: Spec) -> Cell:
    claim = row.claim_of(spec)
    if claim is None:
        return DASH
    mark = f" ({claim.certainty})" if spec.get("certainty") and claim.certainty != "verified" else ""
    if claim.value is None:
        return claim.published + mark
    if claim.unit == "%":
        return f"{claim.value:.2f}{'' if spec.get('bare') else ' %'}{mark}"
    return (shown(claim.value) if spec.get("bare") else f"{claim.value:g}") + mark


def _ours_cell(row: Row, spec: Spec) -> Cell:
    """Return mean and spread; in place of a number that is not there, how far the runs are."""
    group, (metric, unit), summary = row.group(spec), row.measured(spec), row.summary(spec)
    if row.is_left_blank(spec):
        return DASH
    if summary is None:
        states = {run.state for run in group}
        absent = DASH if states == {"done"} else "missing"
        return next((state for state in ("running", "failed", "interrupted", "waiting") if state in states), absent)
    if math.isfinite(summary.mean) and metric == "steps_to_fit" and not takes_steps(group[0].config):
        return SOLVED
    text = shown(summary.mean, unit) if spec.get("plain") else shown_with_interval(summary, unit)
    text = text if math.isfinite(summary.mean) else "not fitted"
    return f"{text} ({summary.n})" if "of" in spec else text.removesuffix(" %") if spec.get("bare") else text


def _difference_cell(row: Row, spec: Spec) -> Cell:
    """Return ours less published, where ours is of the same data; on other data the difference means nothing."""
    claim, mean = row.claim_of(spec), _numbers(row, spec)["difference"]
    if claim is None or mean is None or not any(map(claim.is_on_its_data, row.group())):
        return DASH
    return _in_points(mean, "+") if claim.unit == "%" else f"{mean:+.4g}"


def _in_points(share: float | None, sign: str) -> str:
    return DASH if share is None else f"{100 * share:{sign}.2f}"


CELLS: dict[str, Callable[[Row, Spec], Cell]] = {
    "statement": lambda row, _: row.claim.statement if row.claim else DASH,
    "setting": lambda row, _: row.setting or DASH,
    "corruption": lambda row, _: _told(row.group()[0])[0],
    "regularizer": lambda row, _: _told(row.group()[0])[1],
    "told": _told_cell,
    "has": lambda row, spec: "yes" if spec["has"] in row.told("regularizer") else "no",
    "published": _published_cell,
    "ours": _ours_cell,
    "difference": _difference_cell,
    "binomial": lambda row, spec: _in_points(_numbers(row, spec)["binomial_error"], ""),
    "runs": lambda row, _: str(sum(run.state == "done" for run in row.group())),
}
"""Kind of column -> what stands in it."""


def _numbers(row: Row, spec: Spec) -> dict[str, Any]:
    """Return what is behind a cell, as a CSV has it: shares in [0, 1], and no number for what was not reached."""
    (metric, unit), claim, summary, group = row.measured(spec), row.claim_of(spec), row.summary(spec), row.group(spec)
    scale = 100.0 if unit == "%" else 1.0
    size = next((run.num_test for run in group if run.state == "done"), None) if metric == "test/accuracy" else None
    ends = (summary and summary.interval) or (None, None)
    values = (summary.mean, summary.deviation, *ends) if summary and math.isfinite(summary.mean) else 4 * (None,)
    mean, deviation, low, high = (None if value is None else value / scale for value in values)
    published = claim.value / scale if claim is not None and claim.value is not None else None
    counts = Counter(run.state for run in group)
    return {
        "quantity": f"worst {metric}" if spec.get("worst") else metric,
        "published": published,
        "certainty": claim and claim.certainty,
        **{"mean": mean, "deviation": deviation, "interval_low": low, "interval_high": high},
        "difference": None if mean is None or published is None else mean - published,
        "binomial_error": None if mean is None or size is None else binomial_error(mean, size),
        "n": summary.n if summary else 0,
        "states": " ".join(f"{number} {state}" for state, number in counts.items()),
    }


def _lines(row: Row, columns: Mapping[str, Spec]) -> list[dict[str, Any]]:
    """Return the numbers behind a row, a line for each, after what it is about, beside the published ones."""
    ours = [spec for spec in columns.values() if "ours" in spec and not row.is_left_blank(spec)]
    found = []
    for spec in sorted(ours, key=lambda spec: "only_with" in spec):
        numbers = _numbers(row, spec)
        if row.claim is not None:
            about: dict[str, Any] = {
                "row": row.claim.id.removesuffix(row.table.claims.rpartition("*")[2]),
                "setting": row.setting,
            }
        else:
            heads = {head: CELLS[head](row, {}) for head in columns if head in ("corruption", "regularizer")}
            heads |= {name: row.told(name) for name in row.table.told()}
            about = {"data": row.group()[0].data, **heads, "setting": row.setting, "model": row.group(spec)[0].model}
            numbers = {name: value for name, value in numbers.items() if name not in OF_PUBLISHED}
        if (row.claim is None or row.claim_of(spec)) and (numbers["n"] or "only_with" not in spec):
            found.append(about | numbers)
    return found


def tables(runs: Sequence[Run]) -> list[Table]:
    """Return the tables of the papers that any run bears on, for each data set, then the grid of all other runs."""
    found: list[Table] = []
    used: set[str] = set()
    compared: set[str] = set()
    for table in declared():
        for part in [list(runs)] if table.across_data else _by_data(runs):
            if rows := _rows_of_claims(table, part) if table.items else _rows_of_runs(table, part):
                found.append(_made(table, rows))
                ids = {run.run_id for row in rows for run in row.group()}
                used |= ids
                compared |= ids if table.in_grids else set()
    gridded = {run.sweep for run in runs if run.run_id not in used}
    # What was asked for beside models of a grid is compared with them there.
    used -= {run.run_id for run in runs if run.run_id in compared and run.sweep in gridded}
    rest = [run for run in runs if run.run_id not in used]
    elsewhere = [run for run in runs if run.run_id in used]
    found += [table for part in _by_data(rest, sizes_apart=True) for table in _grids(part, elsewhere)]
    # Those of one name, of several data sets, have names of their own; the first keeps it.
    names = distinct(stem(table.name) for table in found)
    return [replace(table, name=name) for table, name in zip(found, names, strict=True)]


def _rows_of_claims(table: Declared, runs: Sequence[Run]) -> list[Row]:
    """Return a row for each claim and each setting that was run; none where the runs are worth no table."""
    claims = [
        claim
        for claim in load_claims()
        if claim.item in table.items and fnmatchcase(claim.id, table.claims) and not claim.settings and not claim.across
    ]
    if not _is_worth_a_table(runs, claims):
        return []
    is_whole = any(map(claims[0].is_on_its_data, runs)) and runs[0].key("data.num_train") is None
    to_come: list[Group] = [()] if table.rows_to_come == "always" or is_whole else []
    found = []
    for claim in claims:
        groups = by_setting([run for run in runs if matches(run, claim.runs)])
        groups.sort(key=lambda group: [group[0].key(key) or 0 for key in table.always])
        for group, told in zip(groups or to_come, tell_apart([group[0] for group in groups]) or [""], strict=False):
            keys = [key for key in table.always if group and group[0].key(key)]
            named = [told, *(f"{key.rpartition('.')[2]}={group[0].key(key):g}" for key in keys)]
            found.append(Row(table, {"": group}, " ".join(dict.fromkeys(filter(None, named))), claim))
    return found


def _is_worth_a_table(runs: Sequence[Run], claims: Sequence[Claim]) -> bool:
    """Whether the paper's table is shown: with any run on its own data, on other data with runs for half of its rows.

    A first sweep on the digits shares two rows with Table 1 and is better read as a grid.
    """
    bearing = [[run for run in runs if matches(run, claim.runs)] for claim in claims]
    is_on_its_data = any(any(map(claim.is_on_its_data, found)) for claim, found in zip(claims, bearing, strict=True))
    return is_on_its_data or 2 * sum(map(bool, bearing)) >= len(claims)


def _rows_of_runs(table: Declared, runs: Sequence[Run]) -> list[Row]:
    """Return a row for each setting of the runs that a table is about, by the number of examples."""
    groups = by_setting([run for run in runs if matches(run, table.where)])
    groups.sort(key=lambda group: group[0].key("data.num_train") or math.inf)
    keys = [key for key in table.told() if key != "model"]
    named = apart([group[0] for group in groups], keys, by_model="model" in table.told())
    return [Row(table, {"": group}, named[group[0]]) for group in groups]


def _grids(runs: Sequence[Run], elsewhere: Sequence[Run]) -> list[Table]:
    """A row for each corruption and regularizer, the models side by side where there are several.

    What tells a setting from those in other tables is named, too.
    """
    models = list(dict.fromkeys(run.model for run in runs))
    groups = by_setting(runs)
    others = by_setting([run for run in elsewhere if run.data == runs[0].data])
    rests = _rests([group[0] for group in (*groups, *others)])
    rows: dict[tuple[str, ...], dict[str, Group]] = defaultdict(dict)
    for group in groups:
        rows[(*_told(group[0]), rests[group[0]])][group[0].model] = group
    thresholds = {float(run.identity.get("fit_threshold", 1)) for run in runs}
    milestone = f"{100 * thresholds.pop():g} %" if len(thresholds) == 1 else ""
    grids = any_sweep()["grids"]
    note = grids["note"].format(milestone=milestone or "fit_threshold")
    names = ["corruption", "regularizer", *(["setting"] if any(rest for _, _, rest in rows) else [])]
    heads: dict[str, dict[str, Any]] = {name: {name: True} for name in names}
    counted = {"steps to fit": f"steps to fit {milestone}".rstrip()}
    ours = {counted.get(quantity, quantity): {"ours": metric} for quantity, metric in grids["columns"].items()}
    name = f"grid_{runs[0].data}"
    if len(models) == 1:
        tables = [Declared(name=name, title=models[0], note=note, columns={**heads, **ours, "n": {"runs": True}})]
    else:
        tables = [
            Declared(
                name=f"{name}_{quantity.replace(' ', '_')}",
                title=head.capitalize(),
                note=f"{note} In brackets n.",
                columns={**heads, **{model: {"ours": spec["ours"], "of": model} for model in models}},
            )
            for quantity, (head, spec) in zip(grids["columns"], ours.items(), strict=True)
        ]
    return [_made(table, [Row(table, of_row, rest) for (_, _, rest), of_row in rows.items()]) for table in tables]


def _made(table: Declared, rows: Sequence[Row]) -> Table:
    used = [run for row in rows for group in row.groups.values() for run in group]
    columns: dict[str, Spec] = {}
    for head, spec in table.columns.items():
        pattern = str(spec.get("ours", ""))
        metrics = sorted({name for run in used for name in run.metrics if fnmatchcase(name, pattern)})
        several = {name.partition("/")[2]: {**spec, "ours": name} for name in metrics}
        # A star at the end is of all numbers below; elsewhere, of whatever parameters a measure had.
        columns |= several if pattern.endswith("*") else {head: spec}
    cells = [[CELLS[next(iter(spec))](row, spec) for spec in columns.values()] for row in rows]
    raw = [line for row in rows for line in _lines(row, columns)]
    note = f"{table.note} {_spread_of(used)}" if table.has_spread else table.note
    return Table(table.name, f"{table.title}: {in_short(used)}", note, list(columns), cells, pd.DataFrame(raw))


def _spread_of(runs: Sequence[Run]) -> str:
    """Say what stands behind a mean, and over what."""
    told = (
        "Mean ± sample standard deviation over n runs that differ in their seeds alone (the number "
        "itself where n is 1), in brackets the 95 % interval of the mean (Student's t)."
    )
    groups = by_setting([run for run in runs if run.state == "done"])
    if any(len({run.seed for run in group}) < len(group) for group in groups):
        told += " Some runs share their seed and differ in data.seed or data.order_seed alone: no repetitions."
    return told


def _told(run: Run) -> tuple[str, str]:
    """Return the first cells of a setting's row: its corruption and its regularizers."""
    return corruption_name(run), "+".join(run.regularizers) or "none"


def _rests(firsts: Sequence[Run]) -> dict[Run, str]:
    """Name each setting by what neither corruption nor regularizers tell of it, no two of one model alike."""
    rests = apart(firsts, any_sweep()["grids"]["told_by_rows"])
    # Two strengths of a regularizer, say: what is told elsewhere is the same, and what is left as well.
    for same in collected(((run.model, *_told(run), rests[run]), run) for run in firsts).values():
        rests |= {run: " ".join(filter(None, (rests[run], more))) for run, more in apart(same).items()}
    return rests


def _by_data(runs: Sequence[Run], *, sizes_apart: bool = False) -> list[list[Run]]:
    """Part runs by data set and by how many examples are trained on, unless that is what a table's rows differ in."""
    of_sizes = [] if sizes_apart else [table.where for table in declared() if "data.num_train" in table.told()]

    def size(run: Run) -> Any:
        return None if any(matches(run, where) for where in of_sizes) else run.key("data.num_train")

    return list(collected(((run.data, size(run)), run) for run in runs).values())
