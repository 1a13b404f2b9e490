"""The report as a W&B report: built offline, written as its own model and read back, saved to a made-up server."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("wandb_workspaces", reason="the extra 'reports' is not installed")

import wandb
import wandb_workspaces.reports.v2 as wr
from wandb_workspaces.reports.v2 import interface, internal

from rethinkgen.errors import PublishingError
from rethinkgen.report.contents import Report, gather
from rethinkgen.report.entry import main
from rethinkgen.report.wandb_report import build, markdown_table, run_sets, save_draft, varying_choices
from rethinkgen.run.run import read_runs
from wandb_server import WandbServer, logged_in


class Server:
    """Answers what wandb-workspaces asks, and keeps what it is given."""

    default_entity = "somebody"

    def __init__(self, projects: list[str]) -> None:
        self.names = projects
        self.saved: list[dict[str, Any]] = []

    def projects(self, entity: str) -> list[Any]:
        assert entity == "somebody"
        return [dataclasses.make_dataclass("Project", ["name"])(name) for name in self.names]

    def answer(self, _: Any, query: str, variables: dict[str, Any]) -> dict[str, Any]:
        if "upsertView" not in query:
            known = variables["projectName"] in self.names
            return {"project": {"internalId": "7"} if known else None}
        self.saved.append(variables)
        project = {"name": variables["projectName"], "entityName": variables["entityName"]}
        view = {
            "id": "abc",
            "name": "n",
            "displayName": variables["displayName"],
            "description": "",
            "project": project,
        }
        return {"upsertView": {"view": view | {"spec": variables["spec"]}}}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    server = Server(["rethinkgen"])
    monkeypatch.setattr(interface, "execute_graphql", server.answer)
    monkeypatch.setattr(interface, "_get_api", lambda: server)
    monkeypatch.setattr(interface, "get_app_url", lambda _: "https://wandb.invalid")
    monkeypatch.setattr(wandb, "Api", lambda: server)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    return server


@pytest.fixture(scope="module")
def report(small_sweep: Path) -> Report:
    """Of runs that say they were logged to W&B."""
    logger = {"logger": {"wandb": {"project": "rethinkgen", "entity": None}}}
    runs = [dataclasses.replace(run, config=run.config | logger) for run in read_runs([small_sweep])]
    return gather(runs, command="python report.py multirun/small publish=wandb")


def spec_of(built: wr.Report) -> dict[str, Any]:
    spec: dict[str, Any] = json.loads(built._to_model().spec.model_dump_json(by_alias=True, exclude_none=True))
    return spec


def test_what_is_built_is_what_is_read_back(server: Server, report: Report) -> None:
    built = build(report, default_entity="somebody")
    model = built._to_model()
    read = wr.Report._from_model(
        internal.ReportViewspec.model_validate_json(model.model_dump_json(by_alias=True, exclude_none=True))
    )
    # wandb-workspaces 0.4 forgets the width when it reads.
    assert spec_of(read) | {"width": "fluid"} == spec_of(built)
    assert not any(isinstance(block, interface.UnknownBlock) for block in read.blocks)
    assert read.title == "rethinkgen: small"
    assert "4 of 4 runs finished." in read.description


def test_it_holds_the_text_and_the_tables(server: Server, report: Report) -> None:
    blocks = build(report, default_entity="somebody").blocks
    text = "\n".join(block.text for block in blocks if isinstance(block, wr.MarkdownBlock))
    assert "python train.py -m" in text
    assert "digits" in text
    for table in report.tables:
        assert markdown_table(table.columns, table.rows) in text
        assert any(isinstance(block, wr.H3) and block.text == table.title for block in blocks)


def test_its_run_sets_are_the_sweep_and_its_lines_the_choices(server: Server, report: Report) -> None:
    grids = [block for block in build(report, default_entity="somebody").blocks if isinstance(block, wr.PanelGrid)]
    together, by_corruption = grids
    for grid in grids:
        (run_set,) = grid.runsets
        assert (run_set.entity, run_set.project) == ("somebody", "rethinkgen")
        (chosen,) = run_set._to_model().filters["filters"]
        assert (chosen["key"], chosen["op"], chosen["value"]) == ({"section": "run", "name": "group"}, "=", "small")
        assert [panel.y for panel in grid.panels] == [["train/loss"], ["fit/accuracy"], ["test/accuracy"]]
        assert {panel.x for panel in grid.panels} == {"trainer/global_step"}
    (grouping,) = together.runsets[0]._to_model().grouping
    assert (grouping.section, grouping.name) == ("config", "choices.value.data_corruption")
    lines = by_corruption.panels[0]._to_model().config
    assert (lines.group_by, lines.group_agg, lines.group_area) == ("choices.value.data_corruption", "mean", "stddev")


def test_levels_of_a_corruption_are_told_apart(report: Report) -> None:
    runs = []
    for run, probability in zip(report.runs, (0.2, 0.4, 0.2, 0.4), strict=True):
        data = run.config["data"] | {"corruption": {"probability": probability}}
        choices = run.choices | {"data.corruption": "partial_labels"}
        runs.append(dataclasses.replace(run, config=run.config | {"data": data}, choices=choices))
    assert varying_choices(runs) == {"data.corruption.probability": "data.corruption.probability"}


def test_runs_that_were_not_logged_have_text_only(report: Report, small_sweep: Path) -> None:
    runs = read_runs([small_sweep])
    assert run_sets(runs) == []
    blocks = build(dataclasses.replace(report, runs=runs), default_entity="somebody").blocks
    assert not any(isinstance(block, wr.PanelGrid) for block in blocks)
    assert "None of these runs was logged to W&B" in blocks[-1].text


def test_a_bar_or_a_line_break_does_not_break_a_table() -> None:
    assert markdown_table(["a|b"], [["c\nd"], [None], [0.5]]) == "| a\\|b |\n| --- |\n| c d |\n|  |\n| 0.5 |"


def test_a_draft_is_saved_once(server: Server, report: Report) -> None:
    assert save_draft(report).startswith("https://wandb.invalid/somebody/rethinkgen/reports/")
    (saved,) = server.saved
    assert saved["type"] == "runs/draft"
    assert (saved["entityName"], saved["projectName"]) == ("somebody", "rethinkgen")
    assert json.loads(saved["spec"])["blocks"]


def test_runs_that_were_never_uploaded(server: Server, report: Report) -> None:
    server.names = ["another"]
    with pytest.raises(PublishingError, match=r"'somebody/rethinkgen' not found.*wandb sync .*/small/\*/wandb/offline"):
        save_draft(report)
    assert server.saved == []


def test_the_command_says_where_the_draft_is(
    server: Server,
    small_sweep: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(wandb, "login", lambda **_: True)
    assert main([str(small_sweep), f"out={tmp_path}", "publish=wandb"]) == 0
    assert "W&B draft, to look through and publish: https://wandb.invalid/" in capsys.readouterr().out
    monkeypatch.setattr(interface, "execute_graphql", lambda *_: 1 / 0)
    monkeypatch.setattr(server, "projects", lambda _: 1 / 0)
    assert main([str(small_sweep), f"out={tmp_path}", "publish=wandb"]) == 1
    said = capsys.readouterr().err
    assert "publish=wandb: W&B did not take the report (ZeroDivisionError" in said
    assert "The page above is written." in said


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[WandbServer]:
    with logged_in(monkeypatch, tmp_path) as server:
        yield server


def test_the_report_as_it_is_stored(online: WandbServer, report: Report) -> None:
    online.projects.add(("somebody", "rethinkgen"))
    address = save_draft(report)
    (view,) = online.views
    assert address == f"{online.url}/somebody/rethinkgen/reports/rethinkgen:-small--{view['id']}"
    assert (view["entityName"], view["projectName"], view["type"]) == ("somebody", "rethinkgen", "runs/draft")
    stored, built = (
        [block for block in spec["blocks"] if block["type"] != "panel-grid"]
        for spec in (json.loads(view["spec"]), spec_of(build(report, default_entity="somebody")))
    )
    assert stored == built
    grids = [block for block in json.loads(view["spec"])["blocks"] if block["type"] == "panel-grid"]
    (run_set,) = grids[0]["metadata"]["runSets"]
    assert run_set["project"] == {"id": "7", "name": "rethinkgen", "entityName": "somebody"}
    assert online.unknown == []


def test_the_command_publishes_to_a_server(
    online: WandbServer, small_sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Of runs that were logged nowhere, into a project that is made."""
    assert main([str(small_sweep), f"out={tmp_path / 'report'}", "publish=wandb"]) == 0
    (view,) = online.views
    assert f"{online.url}/somebody/rethinkgen/reports/" in capsys.readouterr().out
    assert ("somebody", "rethinkgen") in online.projects
    assert "None of these runs was logged to W&B" in view["spec"]


@pytest.mark.parametrize("fault", [401, 500])
def test_a_server_that_refuses_is_named_before_any_work(
    fault: int, online: WandbServer, small_sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    online.fault = fault
    assert main([str(small_sweep), f"out={tmp_path / 'report'}", "publish=wandb"]) == 2
    assert str(fault) in capsys.readouterr().err
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("with a key that is none", "W&B does not accept the login here: WANDB_API_KEY invalid"),
        ("not logged in", "nobody is logged in to W&B here. wandb login"),
        ("offline", "WANDB_MODE=offline keeps W&B offline"),
        ("not installed", "wandb-workspaces, which is not installed: uv sync --extra reports"),
    ],
)
def test_where_nothing_can_be_published_nothing_is_done(
    what: str,
    said: str,
    small_sweep: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path / "wandb-home"))
    monkeypatch.delenv("WANDB_MODE", raising=False)
    if what == "with a key that is none":
        monkeypatch.setenv("WANDB_API_KEY", "short")
    if what == "offline":
        monkeypatch.setenv("WANDB_MODE", "offline")
    if what == "not installed":
        monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    # It remembers whom it found logged in.
    wandb.teardown()
    out = tmp_path / "report"
    assert main([str(small_sweep), f"out={out}", "publish=wandb"]) == 2
    assert said in capsys.readouterr().err
    assert not out.exists()
    wandb.teardown()
