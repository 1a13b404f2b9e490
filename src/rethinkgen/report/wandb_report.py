"""The report as a W&B Report: the same text and tables, and W&B's own plots of the runs that were logged there.

Built without a network; only ``check_can_publish`` and ``save_draft`` ask W&B. Figures stay in the page: a W&B report
shows pictures only from an address.
"""

from __future__ import annotations

import importlib.util
import os
import shlex
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rethinkgen.errors import PublishingError
from rethinkgen.report.claims import published
from rethinkgen.report.contents import Report, without_machine_paths
from rethinkgen.run import command
from rethinkgen.run.identity import LEVELS
from rethinkgen.run.run import Run
from rethinkgen.run.wandb_offline import in_brief, is_logged_in
from rethinkgen.sweep.jobs import shown

if TYPE_CHECKING:
    import wandb_workspaces.reports.v2 as wr

INSTALL = "uv sync --extra reports, or pip install 'rethinkgen[reports]'"
X_AXIS = "trainer/global_step"
CURVES = {"train/loss": "Training loss", "fit/accuracy": "Fit accuracy", "test/accuracy": "Test accuracy"}
LONGEST_TITLE = 128
"""Characters, W&B's limit."""


@dataclass(frozen=True)
class RunSet:
    """The runs of one sweep, where W&B has them."""

    entity: str | None
    project: str
    group: str


def check_can_publish() -> None:
    """See that a report could be saved, before anything is done.

    Raises:
        ValueError: wandb-workspaces is not installed, W&B is switched off, cannot be reached, or nobody is logged in.
    """
    if importlib.util.find_spec("wandb_workspaces") is None:
        raise ValueError(f"publish=wandb needs wandb-workspaces, which is not installed: {INSTALL}.")
    mode = os.environ.get("WANDB_MODE", "online")
    if mode not in ("online", "shared"):
        raise ValueError(f"publish=wandb: WANDB_MODE={mode} keeps W&B offline. WANDB_MODE=online lets it publish.")
    import wandb

    try:
        has_login = is_logged_in(wandb.setup().settings)
    except wandb.errors.Error as error:
        raise ValueError(f"publish=wandb: W&B does not accept the login here: {in_brief(error)}") from error
    if not has_login:
        raise ValueError(
            "publish=wandb: nobody is logged in to W&B here. wandb login (or WANDB_API_KEY), and the same command "
            "again; without publish= the report is written all the same."
        )


def save_draft(report: Report) -> str:
    """Save the report as a draft, which only its author sees until it is published there; return its address.

    Raises:
        PublishingError: W&B cannot be reached, does not know the project, or refuses.
    """
    import wandb

    try:
        draft = build(report, default_entity=str(wandb.Api().default_entity))
        draft.save(draft=True)
    except Exception as error:  # of any kind: the network's, W&B's, or a project that is not there
        hint = ""
        if "not found" in str(error):
            globs = [
                f"{shlex.quote(shown(sweep))}/*/wandb/offline-run-*"
                for sweep in dict.fromkeys(run.sweep for run in report.runs)
            ]
            hint = (
                f" Runs that were logged offline are uploaded by: {shlex.join(command.wandb())} sync {' '.join(globs)}."
            )
        raise PublishingError(f"W&B did not take the report ({type(error).__name__}: {error}).{hint}") from error
    return str(draft.url)


def build(report: Report, *, default_entity: str) -> wr.Report:
    """Return the W&B report, not saved; runs logged without an entity belong to ``default_entity``."""
    import wandb_workspaces.reports.v2 as wr

    places = run_sets(report.runs)
    home = places[0] if places else None
    return wr.Report(
        entity=(home.entity if home else None) or default_entity,
        project=home.project if home else "rethinkgen",
        title=f"rethinkgen: {report.title}"[:LONGEST_TITLE],
        description=f"{report.progress}. {_counts(report)}".strip(),
        width="fluid",
        blocks=[wr.TableOfContents(), *_text(report), *_plots(report.runs, places, default_entity)],
    )


def _counts(report: Report) -> str:
    return f"Published claims: {report.headline}." if report.verdicts else ""


def _text(report: Report) -> list[Any]:
    import wandb_workspaces.reports.v2 as wr

    facts = "\n".join(f"- **{name}:** {text}" for name, text in report.facts)
    commands = "\n".join(["```bash", *report.train_commands, report.command, "```"])
    blocks: list[Any] = [wr.H2("What was run"), wr.MarkdownBlock(f"{report.progress}.\n\n{facts}\n\n{commands}")]
    if report.unfinished:
        rows = [[run.path.name, run.state, without_machine_paths(run.reason)] for run in report.unfinished]
        blocks += [wr.H2("Not finished"), wr.MarkdownBlock(markdown_table(["Run", "State", "Why"], rows))]
    if report.verdicts:
        columns = ["Item", "Claim", "Published", "Ours", "n", "Verdict", "Why"]
        verdicts = [
            [
                verdict.claim.item,
                verdict.claim.statement,
                f"{published(verdict.claim)} ({verdict.claim.source})",
                verdict.ours,
                verdict.n,
                verdict.verdict + ("" if verdict.is_counted else " (known from memory, not counted)"),
                without_machine_paths(verdict.why),
            ]
            for verdict in report.verdicts
        ]
        blocks += [wr.H2("Published claims"), wr.MarkdownBlock(markdown_table(columns, verdicts))]
    if report.tables:
        blocks.append(wr.H2("Tables"))
    for table in report.tables:
        blocks += [wr.H3(table.title), wr.MarkdownBlock(markdown_table(table.columns, table.rows))]
        if table.note:
            blocks.append(wr.MarkdownBlock(table.note))
    return blocks


def markdown_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> str:
    """Return a table as GitHub's Markdown."""
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(_cell(value) for value in line)} |" for line in lines)


def _cell(value: object) -> str:
    return "" if value is None else str(value).replace("|", "\\|").replace("\n", " ")


def run_sets(runs: Sequence[Run]) -> list[RunSet]:
    """Return where on W&B the runs are, by place and sweep, that with most runs first; nothing of runs not logged."""
    places: Counter[RunSet] = Counter()
    for run in runs:
        project = run.key("logger.wandb.project")
        if project is not None:
            group = str((run.result or {}).get("sweep") or run.sweep.name)
            places[RunSet(run.key("logger.wandb.entity"), str(project), group)] += 1
    return [place for place, _ in places.most_common()]


def _plots(runs: Sequence[Run], places: Sequence[RunSet], default_entity: str) -> list[Any]:
    import wandb_workspaces.reports.v2 as wr

    blocks: list[Any] = [wr.H2("Runs")]
    if not places:
        return [*blocks, wr.MarkdownBlock("None of these runs was logged to W&B (`logger=wandb` does that).")]
    varying = varying_choices(runs)
    together = [f"config.{key}" for key in varying.values()]
    blocks += [wr.H3("Every setting, mean over seeds"), _panel_grid(places, default_entity, grouping=together)]
    for name, key in varying.items():
        blocks += [wr.H3(f"By {name}"), _panel_grid(places, default_entity, by=key)]
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


def _panel_grid(
    places: Sequence[RunSet], default_entity: str, *, grouping: Sequence[str] = (), by: str | None = None
) -> wr.PanelGrid:
    """Return curves of the sweeps' runs: a line, and its mean, for what ``grouping`` or ``by`` does not tell apart."""
    import wandb_workspaces.reports.v2 as wr
    from wandb_workspaces import expr

    several = len({(place.entity, place.project) for place in places}) > 1
    run_sets = [
        wr.Runset(
            entity=place.entity or default_entity,
            project=place.project,
            name=f"{place.project}: {place.group}" if several else place.group,
            filters=expr.And(expr.Metric("Group") == place.group),
            groupby=list(grouping),
        )
        for place in places
    ]
    aggregated = {"groupby": wr.Config(by), "groupby_aggfunc": "mean", "groupby_rangefunc": "stddev"} if by else {}
    panels = [
        wr.LinePlot(
            title=title,
            x=X_AXIS,
            y=[metric],
            title_x="optimizer steps",
            title_y=title.lower(),
            layout=wr.Layout(x=8 * number, y=0, w=8, h=8),
            **aggregated,
        )
        for number, (metric, title) in enumerate(CURVES.items())
    ]
    return wr.PanelGrid(runsets=run_sets, panels=panels)
