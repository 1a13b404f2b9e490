"""What W&B lacks of some runs, sent from their files to a server on loopback, which must then have all of them once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rethinkgen.publish import upload
from rethinkgen.publish.upload import Place, Sent, be_quiet, send_missing
from rethinkgen.run.folder import RunFolder
from rethinkgen.run.run import read_runs
from rethinkgen.run.wandb_mirror import without_places
from rethinkgen.run.wandb_offline import unsent
from wandb_server import HISTORY, ReceivedRun, WandbServer, assert_has_curves, assert_mirrors, logged_in

PLACE = Place("somebody", "rethinkgen")


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[WandbServer]:
    with logged_in(monkeypatch, tmp_path) as server:
        be_quiet()
        yield server


@pytest.fixture
def folder(small_sweep: Path, tmp_path: Path) -> Path:
    """Of one finished run, which was logged nowhere."""
    copy = tmp_path / "small"
    shutil.copytree(small_sweep, copy)
    first, *others = sorted(path.parent for path in copy.glob("*/result.json"))
    for other in others:
        shutil.rmtree(other)
    return first


def send(folder: Path) -> Sent:
    return send_missing({PLACE: read_runs([folder])})


def test_runs_that_were_logged_nowhere_arrive_whole_and_once(server: WandbServer, small_sweep: Path) -> None:
    sent = send(small_sweep)
    folders = [path.parent for path in small_sweep.glob("*/result.json")]
    assert (sent.runs, sent.failures, len(server.runs)) == (4, [], 4)
    for folder in folders:
        assert_mirrors(server, folder)
        result = json.loads((folder / "result.json").read_text())
        run = server.runs[result["run_id"]]
        assert sent.rows == 4 * len(run.rows)
        assert (run.about["displayName"], run.about["groupName"]) == (folder.name, "small")
        assert f"data.corruption={result['choices']['data.corruption']}" in run.about["tags"]
        # W&B drops what is empty.
        config = {key: value for key, value in without_places(result["config"]).items() if value != {}}
        assert {key: run.values[key] for key in config} == config
        assert run.values["made_with"]["commit"] == result["commit"]
        assert str(folder) not in str(run.config)
    before = server.num_changes
    again = send(small_sweep)
    assert (again.runs, again.rows, again.were_there) == (0, 0, 4)
    assert server.num_changes == before
    assert server.unknown == []


def loses_rows(run: ReceivedRun) -> None:
    """As where a killed run did not get to send its last lines, and W&B never heard of its end."""
    del run.lines[HISTORY][max(run.lines[HISTORY])]
    run.summary.clear()
    run.exit_code = None


def loses_the_first_part(run: ReceivedRun) -> None:
    """As where the second part of an offline run took the place of the first."""
    kept = run.lines[HISTORY][max(run.lines[HISTORY])]
    run.lines[HISTORY] = {0: json.dumps({**json.loads(kept), "_step": 0})}


def has_other_numbers(run: ReceivedRun) -> None:
    """As where a run went on from its checkpoint with other draws: the later number counts, and is drawn last."""
    row = json.loads(run.lines[HISTORY][0])
    run.lines[HISTORY][0] = json.dumps(row | {"train/loss": 17.0, "train/accuracy": 0.5})


def does_not_know_the_end(run: ReceivedRun) -> None:
    run.exit_code = 1


@pytest.mark.parametrize("damage", [loses_rows, loses_the_first_part, has_other_numbers, does_not_know_the_end])
def test_what_is_missing_is_added(damage: Callable[[ReceivedRun], None], server: WandbServer, folder: Path) -> None:
    send(folder)
    (run,) = server.runs.values()
    damage(run)
    run.about |= {"displayName": "my best run", "tags": ["for the talk"]}
    lines = dict(run.lines[HISTORY])
    assert send(folder).runs == 1
    assert_mirrors(server, folder)
    assert run.lines[HISTORY].items() >= lines.items(), "lines that are there are not replaced"
    assert (run.about["displayName"], run.about["tags"]) == ("my best run", ["for the talk"])
    before = server.num_changes
    assert send(folder).were_there == 1
    assert server.num_changes == before


def stop_after_first_rows(folder: Path) -> Callable[[], None]:
    """Make the run one that was killed early; return what has it finished."""
    finished = {name: (folder / name).read_text() for name in ("result.json", "metrics.csv")}
    (folder / "result.json").unlink()
    lines = finished["metrics.csv"].splitlines(keepends=True)
    (folder / "metrics.csv").write_text("".join(lines[:2]) + lines[2][:5])
    RunFolder(folder).write_status("interrupted", reason="killed")

    def finish() -> None:
        (folder / "status.json").unlink()
        for name, text in finished.items():
            (folder / name).write_text(text)

    return finish


def test_of_a_killed_run_what_there_is_and_later_the_rest(server: WandbServer, folder: Path) -> None:
    finish = stop_after_first_rows(folder)
    assert send(folder).rows == 1
    (run,) = server.runs.values()
    assert (run.state, len(run.rows)) == ("failed", 1)
    assert send(folder).were_there == 1
    finish()
    assert send(folder).runs == 1
    assert_mirrors(server, folder)


def test_a_run_at_work_and_one_that_has_nothing_are_left_alone(server: WandbServer, folder: Path) -> None:
    stop_after_first_rows(folder)
    with RunFolder(folder).lock():
        RunFolder(folder).write_status("running")
        assert send(folder).at_work == 1
    (folder / "metrics.csv").unlink()
    assert send(folder).empty == 1
    assert server.runs == {}


def test_numbers_that_are_none_arrive_and_are_not_sent_again(server: WandbServer, folder: Path) -> None:
    lines = (folder / "metrics.csv").read_text().splitlines()
    columns = lines[0].split(",")
    cells = dict(zip(columns, lines[1].split(","), strict=True)) | {"train/loss": "nan", "fit/loss": "inf"}
    (folder / "metrics.csv").write_text("\n".join([lines[0], ",".join(cells.values()), *lines[2:]]) + "\n")
    assert send(folder).failures == []
    (run,) = server.runs.values()
    assert run.curve("fit/loss")[int(cells["step"])] == float("inf")
    assert send(folder).were_there == 1


def test_what_was_logged_offline_is_not_synced_over_it(server: WandbServer, folder: Path, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    for log_folder in (folder / "wandb" / "offline-run-1-x", elsewhere):
        log_folder.mkdir(parents=True)
        (log_folder / "run-x.wandb").write_text("log")
    (folder / "wandb" / "offline-run-2-x").symlink_to(elsewhere)
    assert len(list(unsent(folder.parent))) == 2
    send(folder)
    assert [path.name for path in unsent(folder.parent)] == ["offline-run-2-x"]
    assert [path.name for path in elsewhere.iterdir()] == ["run-x.wandb"], "nothing is written through a link"


@pytest.mark.parametrize(("logged", "is_left"), [("rethinkgen", False), ("my_own", True)])
def test_what_was_sent_elsewhere_is_left_to_sync_to_its_own_project(
    logged: str, is_left: bool, server: WandbServer, folder: Path
) -> None:
    result = json.loads((folder / "result.json").read_text())
    result["config"] = result["config"] | {"logger": {"wandb": {"project": logged, "entity": None}}}
    (folder / "result.json").write_text(json.dumps(result))
    (folder / "config.yaml").write_text(json.dumps(result["config"]))
    log_folder = folder / "wandb" / "offline-run-1-x"
    log_folder.mkdir(parents=True)
    (log_folder / "run-x.wandb").write_text("log")
    assert send(folder).runs == 1
    assert bool(list(unsent(folder.parent))) == is_left


def test_a_run_that_cannot_be_sent_is_a_line_and_the_others_are(
    server: WandbServer, small_sweep: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    send_one = upload._upload

    def refusing(place: Place, run: Any, *arguments: Any, **keywords: Any) -> None:
        if run.seed == 1:
            raise ConnectionError("no route")
        send_one(place, run, *arguments, **keywords)

    monkeypatch.setattr(upload, "_upload", refusing)
    sent = send(small_sweep)
    assert (sent.runs, len(server.runs)) == (2, 2)
    assert [line.partition(": ")[2] for line in sent.failures] == ["ConnectionError: no route"] * 2


def test_what_does_not_arrive_is_said(server: WandbServer, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upload, "ARRIVAL_SECONDS", 0.3)
    monkeypatch.setattr(ReceivedRun, "rows", property(lambda _: []))
    (line,) = send(folder).failures
    assert "W&B does not show all of it" in line
    monkeypatch.undo()
    assert_has_curves(next(iter(server.runs.values())), folder)
