"""The report as a W&B report: built without a server, written as its own model and read back."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("wandb_workspaces", reason="the extra 'reports' is not installed")

import wandb_workspaces.reports.v2 as wr
from wandb_workspaces.reports.v2 import interface, internal

from rethinkgen.publish.document import build, figure_key, run_sets, varying_choices
from rethinkgen.publish.upload import Place
from rethinkgen.report.contents import Report, gather
from rethinkgen.run.run import Run, read_runs

PLACE = Place("somebody", "rethinkgen")


@pytest.fixture(autouse=True)
def projects(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where a run set is written, wandb-workspaces asks for the number of its project."""
    monkeypatch.setattr(interface, "execute_graphql", lambda *_: {"project": {"internalId": "7"}})
    monkeypatch.setattr(interface, "_get_api", lambda: None)


@pytest.fixture(scope="module")
def report(small_sweep: Path) -> Report:
    return gather(read_runs([small_sweep]), command="python report.py multirun/small")


def built(report: Report, runs: Sequence[Run] | None = None) -> wr.Report:
    return build(report, {PLACE: report.runs if runs is None else runs}, "report-1")


def spec_of(report: wr.Report) -> dict[str, Any]:
    spec: dict[str, Any] = json.loads(report._to_model().spec.model_dump_json(by_alias=True, exclude_none=True))
    return spec


def grids_of(report: wr.Report) -> list[wr.PanelGrid]:
    return [block for block in report.blocks if isinstance(block, wr.PanelGrid)]


def ids_of(run_set: wr.Runset) -> list[str]:
    (chosen,) = run_set._to_model().filters["filters"]
    assert (chosen["key"], chosen["op"]) == ({"section": "run", "name": "name"}, "IN")
    return list(chosen["value"])


def test_what_is_built_is_what_is_read_back(report: Report) -> None:
    model = built(report)._to_model()
    read = wr.Report._from_model(
        internal.ReportViewspec.model_validate_json(model.model_dump_json(by_alias=True, exclude_none=True))
    )
    # wandb-workspaces 0.4 forgets the width when it reads, and run sets get other ids.
    assert [block["type"] for block in spec_of(read)["blocks"]] == [b["type"] for b in spec_of(built(report))["blocks"]]
    assert not any(isinstance(block, interface.UnknownBlock) for block in read.blocks)
    assert read.title == "rethinkgen: small"
    assert "4 of 4 runs finished." in read.description


def test_it_holds_the_text_and_the_tables(report: Report) -> None:
    blocks = built(report).blocks
    text = "\n".join(block.text for block in blocks if isinstance(block, wr.MarkdownBlock))
    assert "python train.py -m" in text
    assert "digits" in text
    for table in report.tables:
        assert table.to_markdown().strip() in text
        assert any(isinstance(block, wr.H3) and block.text == table.title for block in blocks)


def test_it_begins_with_what_was_found(report: Report) -> None:
    first = built(report).blocks[0]
    assert isinstance(first, wr.MarkdownBlock)
    assert first.text.startswith(f"**{report.found}**")
    assert report.doubts
    assert all(doubt in first.text for doubt in report.doubts)


def test_then_come_the_figures_and_the_page_of_one_run(report: Report) -> None:
    figures, page, *_ = grids_of(built(report))
    for grid in (figures, page):
        (run_set,) = grid.runsets
        assert ids_of(run_set) == ["report-1"]
    assert report.pictures
    pictures = sorted(report.pictures, key=lambda picture: not picture.leads)
    assert [panel.media_keys for panel in figures.panels] == [[figure_key(picture)] for picture in pictures]
    assert [panel.title for panel in figures.panels] == [picture.title for picture in pictures]
    (panel,) = page.panels
    assert panel.media_keys == ["page"]


def test_without_figures_there_is_no_empty_panel(report: Report) -> None:
    grids = grids_of(built(dataclasses.replace(report, pictures=[])))
    assert all(grid.panels for grid in grids)
    assert grids[0].panels[0].media_keys == ["page"]


def test_its_run_sets_are_its_runs_and_its_lines_the_choices(report: Report) -> None:
    _, _, together, by_corruption = grids_of(built(report))
    for grid in (together, by_corruption):
        (run_set,) = grid.runsets
        assert (run_set.entity, run_set.project, run_set.name) == ("somebody", "rethinkgen", "small")
        assert ids_of(run_set) == [run.run_id for run in report.runs]
        assert [panel.y for panel in grid.panels] == [["train/loss"], ["fit/accuracy"], ["test/accuracy"]]
        assert {panel.x for panel in grid.panels} == {"trainer/global_step"}
    (grouping,) = together.runsets[0]._to_model().grouping
    assert (grouping.section, grouping.name) == ("config", "choices.value.data_corruption")
    lines = by_corruption.panels[0]._to_model().config
    assert (lines.group_by, lines.group_agg, lines.group_area) == ("choices.value.data_corruption", "mean", "stddev")


def test_a_report_on_one_run_shows_no_other_of_its_sweep(report: Report) -> None:
    *_, grid = grids_of(built(dataclasses.replace(report, runs=report.runs[:1]), report.runs[:1]))
    assert ids_of(grid.runsets[0]) == [report.runs[0].run_id]


def test_runs_in_two_projects_are_two_sets(report: Report) -> None:
    places = {PLACE: report.runs[:3], Place("team", "other"): report.runs[3:]}
    assert [(item.place.project, len(item.ids)) for item in run_sets(places)] == [("rethinkgen", 3), ("other", 1)]
    *_, grid = grids_of(build(report, places, "report-1"))
    assert [run_set.name for run_set in grid.runsets] == ["rethinkgen: small", "other: small"]


def test_levels_of_a_corruption_are_told_apart(report: Report) -> None:
    runs = []
    for run, probability in zip(report.runs, (0.2, 0.4, 0.2, 0.4), strict=True):
        data = run.config["data"] | {"corruption": {"probability": probability}}
        choices = run.choices | {"data.corruption": "partial_labels"}
        runs.append(dataclasses.replace(run, config=run.config | {"data": data}, choices=choices))
    assert varying_choices(runs) == {"data.corruption.probability": "data.corruption.probability"}
