"""The report as a W&B Report: the same text, tables and figures, and W&B's own plots of the runs. Asks no server."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd
import wandb_workspaces.reports.v2 as wr
from wandb_workspaces import expr

from rethinkgen.publish.upload import Place, wandb_id
from rethinkgen.report.claims import headline, published
from rethinkgen.report.contents import Report
from rethinkgen.report.figures import Picture
from rethinkgen.report.table import Cell, Table
from rethinkgen.run.identity import LEVELS
from rethinkgen.run.origin import without_machine_paths
from rethinkgen.run.run import Run
from rethinkgen.run.wandb_mirror import X_AXIS

CURVES = {"train/loss": "Training loss", "fit/accuracy": "Fit accuracy", "test/accuracy": "Test accuracy"}
PAGE = "page"
"""Key of the page in the run that has it and the figures."""
LONGEST_TITLE = 128
"""Characters, W&B's limit."""
MOST_LINES = 100
"""Of a plot; W&B shows ten unless it is told."""


@dataclass(frozen=True)
class RunSet:
    """The runs of one sweep in one project, by their ids: a group may hold others' runs too."""

    place: Place
    group: str
    ids: tuple[str, ...]


def figure_key(picture: Picture) -> str:
    """Return the key under which a figure is logged."""
    return f"figures/{picture.name}"


def build(report: Report, places: Mapping[Place, Sequence[Run]], report_run: str) -> wr.Report:
    """Return the W&B report, not saved; ``report_run`` is the id of the W&B run that has its figures and its page."""
    home = next(iter(places))
    return wr.Report(
        entity=home.entity,
        project=home.project,
        title=f"rethinkgen: {report.title}"[:LONGEST_TITLE],
        description=f"{report.progress}. {_counts(report)}".strip(),
        width="fluid",
        blocks=[
            _found(report),
            wr.TableOfContents(),
            *_pictures(report, home, report_run),
            *_text(report),
            *_plots(report.runs, run_sets(places)),
            *_origin(report),
        ],
    )


def _found(report: Report) -> Any:
    doubts = "\n".join(f"- {without_machine_paths(doubt)}" for doubt in report.doubts)
    return wr.MarkdownBlock(f"**{report.found}**\n\n{doubts}".strip())


def _pictures(report: Report, home: Place, report_run: str) -> list[Any]:
    """Return the figures, two beside each other, and the whole page, as the run ``report_run`` has them."""
    figures = [
        wr.MediaBrowser(
            title=picture.title,
            media_keys=[figure_key(picture)],
            num_columns=1,
            layout=wr.Layout(x=12 * (number % 2), y=10 * (number // 2), w=12, h=10),
        )
        for number, picture in enumerate(sorted(report.pictures, key=lambda picture: not picture.leads))
    ]
    page = wr.MediaBrowser(media_keys=[PAGE], num_columns=1, layout=wr.Layout(x=0, y=0, w=24, h=24))
    only = RunSet(home, "figures and page", (report_run,))
    blocks: list[Any] = [wr.H2("Figures"), wr.PanelGrid(runsets=[_run_set(only)], panels=figures)] if figures else []
    return [*blocks, wr.H2("The page"), wr.PanelGrid(runsets=[_run_set(only)], panels=[page])]


def _counts(report: Report) -> str:
    return f"Published claims: {headline(report.verdicts)}." if report.verdicts else ""


def _text(report: Report) -> list[Any]:
    blocks: list[Any] = []
    if report.unfinished:
        rows: list[list[Cell]] = [
            [run.path.name, run.state, without_machine_paths(run.reason)] for run in report.unfinished
        ]
        blocks += [wr.H2("Not finished"), _as_table(["Run", "State", "Why"], rows)]
    if report.verdicts:
        columns = ["Item", "Claim", "Published", "Ours", "n", "Verdict", "Why"]
        verdicts: list[list[Cell]] = [
            [
                verdict.claim.item,
                verdict.claim.statement,
                f"{published(verdict.claim)} ({verdict.claim.source})",
                verdict.ours,
                str(verdict.n),
                verdict.verdict + ("" if verdict.claim.is_counted else " (known from memory, not counted)"),
                without_machine_paths(verdict.in_brief),
            ]
            for verdict in report.verdicts
        ]
        blocks += [wr.H2("Published claims"), _as_table(columns, verdicts)]
    if report.tables:
        blocks.append(wr.H2("Tables"))
    for table in report.tables:
        blocks += [wr.H3(table.title), wr.MarkdownBlock(table.to_markdown())]
        if table.note:
            blocks.append(wr.MarkdownBlock(table.note))
    return blocks


def _origin(report: Report) -> list[Any]:
    facts = "\n".join(f"- **{name}:** {text}" for name, text in report.facts)
    commands = "\n".join(["```bash", *report.train_commands, report.command, "```"])
    return [wr.H2("What was run"), wr.MarkdownBlock(f"{facts}\n\n{commands}")]


def _as_table(columns: list[str], rows: list[list[Cell]]) -> wr.MarkdownBlock:
    return wr.MarkdownBlock(Table("", "", "", columns, rows, pd.DataFrame()).to_markdown())


def run_sets(places: Mapping[Place, Sequence[Run]]) -> list[RunSet]:
    """Return the runs by project and sweep, the set with most runs first."""
    found: dict[tuple[Place, str], list[str]] = {}
    for place, runs in places.items():
        for run in runs:
            group = str((run.result or {}).get("sweep") or run.sweep.name)
            found.setdefault((place, group), []).append(wandb_id(run))
    sets = [RunSet(place, group, tuple(ids)) for (place, group), ids in found.items()]
    return sorted(sets, key=lambda run_set: -len(run_set.ids))


def _plots(runs: Sequence[Run], sets: Sequence[RunSet]) -> list[Any]:
    varying = varying_choices(runs)
    together = [f"config.{key}" for key in varying.values()]
    blocks: list[Any] = [wr.H2("Runs"), wr.H3("Every setting, mean over seeds"), _panel_grid(sets, grouping=together)]
    for name, key in varying.items():
        blocks += [wr.H3(f"By {name}"), _panel_grid(sets, by=key)]
    return blocks


def varying_choices(runs: Sequence[Run]) -> dict[str, str]:
    """Return group -> key of W&B's config, of the choices and corruption levels that are not the same in all runs."""
    groups = dict.fromkeys(group for run in runs for group in run.choices)
    varying = [group for group in groups if len({str(run.choices.get(group)) for run in runs}) > 1]
    keys = {group: f"choices.{group.replace('.', '_')}" for group in varying}
    for level in LEVELS:
        key = f"data.corruption.{level}"
        if len({run.key(key) for run in runs} - {None}) > 1:
            keys[key] = key
    return keys


def _panel_grid(sets: Sequence[RunSet], *, grouping: Sequence[str] = (), by: str | None = None) -> wr.PanelGrid:
    """Return curves of the sweeps' runs: a line, and its mean, for what ``grouping`` or ``by`` does not tell apart."""
    several = len({run_set.place for run_set in sets}) > 1
    aggregated = {"groupby": wr.Config(by), "groupby_aggfunc": "mean", "groupby_rangefunc": "stddev"} if by else {}
    panels = [
        wr.LinePlot(
            title=title,
            x=X_AXIS,
            y=[metric],
            title_x="optimizer steps",
            title_y=title.lower(),
            max_runs_to_show=MOST_LINES,
            layout=wr.Layout(x=8 * number, y=0, w=8, h=8),
            **aggregated,
        )
        for number, (metric, title) in enumerate(CURVES.items())
    ]
    return wr.PanelGrid(runsets=[_run_set(item, grouping, named=several) for item in sets], panels=panels)


def _run_set(run_set: RunSet, grouping: Sequence[str] = (), *, named: bool = False) -> wr.Runset:
    return wr.Runset(
        entity=run_set.place.entity,
        project=run_set.place.project,
        name=f"{run_set.place.project}: {run_set.group}" if named else run_set.group,
        filters=expr.And(expr.Metric("ID").isin(list(run_set.ids))),
        groupby=list(grouping),
    )
