"""``publish=wandb`` with a server on loopback: what is there afterwards, once, and what is refused before any work."""

from __future__ import annotations

import dataclasses
import importlib.util
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("wandb_workspaces", reason="the extra 'reports' is not installed")

import wandb

from rethinkgen.commands.report import main
from rethinkgen.errors import PublishingError
from rethinkgen.publish import door, upload
from rethinkgen.publish.door import Place, Published, Wish, check_can_publish, places_of
from rethinkgen.report.contents import Report, gather
from rethinkgen.run.run import Run, read_runs
from wandb_server import ReceivedRun, WandbServer, assert_mirrors, logged_in

PAGE = "<!doctype html><p>what was found</p><p>written 2026-11-26 20:00:00 UTC</p>"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[WandbServer]:
    with logged_in(monkeypatch, tmp_path) as server:
        yield server


@pytest.fixture(scope="module")
def report(small_sweep: Path) -> Report:
    """On one run, with one figure."""
    whole = gather(read_runs([small_sweep])[:1], command="python report.py multirun/small")
    return dataclasses.replace(whole, pictures=whole.pictures[:1])


def publish(report: Report, *, page: str = PAGE, share: bool = False) -> Published:
    check_can_publish()
    wish = Wish(share=share)
    return door.publish(report, page, places_of(report.runs, wish), wish, ["small"])


def report_run(server: WandbServer) -> ReceivedRun:
    (run,) = (run for run in server.runs.values() if run.about.get("jobType") == "report")
    return run


def test_the_command_brings_runs_figures_page_and_report_and_each_once(
    server: WandbServer, small_sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command = [str(small_sweep), f"out={tmp_path / 'report'}", "publish=wandb"]
    assert main(command) == 0
    said = capsys.readouterr()
    assert "W&B: of 4 runs 4 sent (" in said.out
    assert f"W&B draft, to look through and publish: {server.url}/somebody/rethinkgen/reports/" in said.out
    assert "wandb:" not in said.out + said.err
    for path in small_sweep.glob("*/result.json"):
        assert_mirrors(server, path.parent)
    run = report_run(server)
    page = (tmp_path / "report" / "index.html").read_bytes()
    assert b"publish=" not in page, "where it is published is nothing to type again"
    assert [content for name, content in run.files.items() if name.startswith("media/html/")] == [page]
    figures = [path.stem for path in (tmp_path / "report" / "figures").glob("*.svg")]
    images = {name: content for name, content in run.files.items() if name.startswith("media/images/figures/")}
    assert len(images) == len(figures) > 0
    assert all(content.startswith(b"\x89PNG") for content in images.values())
    (row,) = run.rows
    for name in figures:
        assert row[f"figures/{name}"]["path"] in images
    (view,) = server.views
    assert (view["entityName"], view["projectName"], view["type"]) == ("somebody", "rethinkgen", "runs/draft")
    assert run.values["report"]["view"] == view["id"]
    shown = {key for key in row if key.startswith("figures/")} | {"page"}
    assert all(json.dumps([key]) in view["spec"].replace(" ", "") for key in shown)
    assert f'["{run.id}"]' in view["spec"].replace(" ", "")
    assert server.unknown == []

    before = server.num_changes
    assert main(command) == 0
    assert server.num_changes == before
    said = capsys.readouterr()
    assert "W&B: of 4 runs 4 there already." in said.out
    assert "W&B draft, to look through and publish, unchanged: " in said.out


def test_what_is_new_goes_to_the_same_run_and_report(server: WandbServer, report: Report) -> None:
    first = publish(report)
    assert not publish(report, page=PAGE.replace("20:00:00", "21:30:00")).is_new, "a later hour is no news"
    second = publish(report, page=PAGE.replace("found", "found since"))
    assert (second.is_new, second.address) == (True, first.address)
    run = report_run(server)
    assert [row["_step"] for row in run.rows] == [0, 1]
    assert [view["id"] for view in server.views] == ["view0", "view0"]
    assert sum(b"found since" in content for content in run.files.values()) == 1


def test_a_link_for_everybody(server: WandbServer, report: Report) -> None:
    publish(report)
    shared = publish(report, share=True)
    assert shared.share_link == f"{shared.address}?accessToken=public-token"
    assert not shared.is_draft
    assert server.views[-1]["type"] == "runs"
    (token,) = server.share_tokens["view0"]
    assert token["projects"] == [{"entityName": "somebody", "name": "rethinkgen"}]
    assert publish(report, share=True).share_link == shared.share_link
    later = publish(report, page="another")
    assert (later.is_draft, later.share_link) == (False, None), "what was published is no draft again"
    assert len(server.share_tokens["view0"]) == 1
    assert len(report_run(server).rows) == 2, "to share it, figures need not be sent again"


def test_a_report_that_was_deleted_is_made_anew(server: WandbServer, report: Report) -> None:
    publish(report)
    server.views.clear()
    assert publish(report).is_new
    assert len(server.views) == 1
    assert len(report_run(server).rows) == 1


def test_what_failed_in_between_is_made_good(server: WandbServer, report: Report) -> None:
    def refuse(operation: str) -> None:
        server.fault = 403 if operation == "upsertView" else None

    server.before_answer = refuse
    with pytest.raises(PublishingError, match="the same command sends the rest"):
        publish(report)
    server.before_answer = lambda _: None
    server.fault = None
    assert publish(report).is_new
    run = report_run(server)
    assert (len(server.views), len(run.rows), run.state) == (1, 1, "finished")


def test_runs_that_were_not_sent_are_said_and_the_report_is_saved(
    server: WandbServer,
    small_sweep: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(upload, "_upload", lambda *_, **__: 1 / 0)
    (run, *_) = small_sweep.glob("*/result.json")
    assert main([str(run.parent), f"out={tmp_path / 'report'}", "publish=wandb"]) == 1
    said = capsys.readouterr()
    assert f"not sent to W&B: {run.parent.name}: ZeroDivisionError" in said.out
    assert "W&B draft" in said.out


# Before any work.


@pytest.mark.parametrize("fault", [401, 500])
def test_a_server_that_refuses(
    fault: int, server: WandbServer, small_sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    server.fault = fault
    assert main([str(small_sweep), f"out={tmp_path / 'report'}", "publish=wandb"]) == 2
    assert str(fault) in capsys.readouterr().err
    assert not (tmp_path / "report").exists()


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["entity=another"], "entity=another: somebody, who is logged in here, can publish to somebody or team."),
        (["project=a/b"], "Invalid project name 'a/b'"),
    ],
)
def test_a_place_where_nothing_can_be_published(
    arguments: list[str],
    said: str,
    server: WandbServer,
    small_sweep: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    server.teams = ["team"]
    assert main([str(small_sweep), f"out={tmp_path / 'report'}", "publish=wandb", *arguments]) == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "report").exists()
    assert server.num_changes == 0


@pytest.mark.parametrize(
    ("what", "said"),
    [
        ("with a key that is none", "W&B does not take the login here, or does not answer: WANDB_API_KEY invalid"),
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


def logged_to(run: Run, *places: tuple[str | None, str] | None) -> list[Run]:
    """Copies of a run that say where they were logged, or nothing of it."""
    return [
        dataclasses.replace(
            run,
            config=run.config
            | {"logger": {} if place is None else {"wandb": dict(zip(("entity", "project"), place, strict=True))}},
        )
        for place in places
    ]


@pytest.mark.parametrize(
    ("logged", "wish", "expected"),
    [
        ([None, None], Wish(), {("me", "rethinkgen"): 2}),
        ([(None, "a"), (None, "a"), None], Wish(), {("me", "a"): 3}),
        ([("team", "b"), (None, "a"), (None, "a"), None], Wish(), {("me", "a"): 3, ("team", "b"): 1}),
        ([("strangers", "b"), (None, "a")], Wish(entity="Team", project="c"), {("Team", "c"): 2}),
    ],
)
def test_where_runs_go(
    logged: Sequence[Any],
    wish: Wish,
    expected: dict[tuple[str, str], int],
    small_sweep: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    viewer = SimpleNamespace(entity="me", username="me", teams=["team"])
    monkeypatch.setattr(wandb, "Api", lambda: SimpleNamespace(viewer=viewer, settings={"entity": None}))
    (run, *_) = read_runs([small_sweep])
    places = places_of(logged_to(run, *logged), wish)
    assert [(place, len(runs)) for place, runs in places.items()] == [
        (Place(*place), number) for place, number in expected.items()
    ]


def test_the_entity_of_the_environment_is_where_runs_are_logged(
    server: WandbServer, small_sweep: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    server.teams = ["team"]
    monkeypatch.setenv("WANDB_ENTITY", "team")
    assert list(places_of(read_runs([small_sweep]), Wish())) == [Place("team", "rethinkgen")]


def test_an_entity_that_is_no_text_is_nobodys(small_sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    viewer = SimpleNamespace(entity="me", username="me", teams=[])
    monkeypatch.setattr(wandb, "Api", lambda: SimpleNamespace(viewer=viewer, settings={"entity": None}))
    (run, *_) = read_runs([small_sweep])
    with pytest.raises(ValueError, match=r"logged to \['strangers'\]/b, but me"):
        places_of(logged_to(run, (["strangers"], "b")), Wish())


def test_runs_of_a_team_that_one_is_not_in(small_sweep: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    viewer = SimpleNamespace(entity="me", username="me", teams=[])
    monkeypatch.setattr(wandb, "Api", lambda: SimpleNamespace(viewer=viewer, settings={"entity": None}))
    (run, *_) = read_runs([small_sweep])
    with pytest.raises(
        ValueError, match=r"1 of the runs were logged to strangers/b, but me, .* can publish to me. .*entity=me"
    ):
        places_of(logged_to(run, ("strangers", "b"), (None, "a"), (None, "a")), Wish())
