"""W&B's client online, with a server on loopback: what arrives there, and what a run does when the server fails."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

import pytest
from test_former_identity import INTERRUPTED
from test_identity import FORMER

from conftest import TINY, Command, read_result, wait_until
from rethinkgen.run import wandb_mirror
from rethinkgen.run.wandb_mirror import WandbMirror, without_places
from rethinkgen.run.wandb_offline import ANSWER_SECONDS, REMEMBERED_SECONDS, Sweep, unsent
from wandb_server import KEY, Fault, WandbServer, assert_mirrors, directories, logged_in

RUN = [*(override for override in TINY if override != "logger=none"), "max_steps=30", "evaluate_every=0.5"]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[WandbServer]:
    with logged_in(monkeypatch, tmp_path) as server:
        yield server


def overrides_for(server: WandbServer, home: Path) -> list[str]:
    """The environment of jobs that are forked from a process which may be older than this test."""
    variables = server.environment | directories(home)
    return [f"+hydra.job.env_set.{name}={value}" for name, value in variables.items()]


def test_what_a_run_logs_arrives(train: Command, server: WandbServer, tmp_path: Path) -> None:
    folder = train(*RUN, "sweep=mine", "regularizer=[flip,dropout]", f"data.root={tmp_path}/images")
    assert_mirrors(server, folder)
    (run,) = server.runs.values()
    assert (run.entity, run.project, run.times_opened) == ("somebody", "rethinkgen", 1)
    assert run.about["displayName"] == folder.name
    assert (run.about["groupName"], run.about["jobType"]) == ("mine", "train")
    assert {"data=digits", "model=mlp_1x512", "flip", "dropout"} <= set(run.about["tags"])
    assert run.values["choices"]["regularizer"] == "dropout+flip"
    assert run.values["model"]["width"] == 16
    assert run.values["folder"] == f"mine/{folder.name}"
    result = read_result(folder)
    assert run.values["made_with"].items() >= {key: result[key] for key in ("device", "versions", "commit")}.items()
    assert {"config.yaml", "wandb-summary.json"} <= set(run.files)
    assert server.unknown == []
    assert list(unsent(folder.parent)) == []


def test_nothing_of_this_machine_stands_in_the_config(train: Command, server: WandbServer, tmp_path: Path) -> None:
    train(*RUN, f"data.root={tmp_path}/images")
    (run,) = server.runs.values()
    assert "results_dir" not in run.values
    assert "root" not in run.values["data"]
    assert str(tmp_path) not in str(run.values)
    sent = b"".join(run.files.values())
    assert KEY.encode() not in sent
    assert str(tmp_path).encode() not in run.files["config.yaml"]


PATIENCE = 30
"""Seconds on a busy machine for what takes one; W&B's own client takes some 40, or never ends."""
LONGER = [*RUN[:-2], "max_steps=1000", "evaluate_every=50", "log_every=20"]
"""Some seconds where checkpoints are many."""


def test_a_killed_run_continues_its_curve(
    train: Command, start: Callable[..., BaseProcess], server: WandbServer, tmp_path: Path
) -> None:
    begun = overrides_for(server, tmp_path)
    process = start(f"results_dir={tmp_path}/multirun", *LONGER, "checkpoint_seconds=0", *begun)
    pid = process.pid or 0
    wait_until(lambda: any(path.read_text().count("\n") > 3 for path in tmp_path.glob("multirun/*/*/metrics.csv")))
    # W&B's client, another process, sends only every 15 s; until then no step is trained for nothing.
    os.kill(pid, signal.SIGSTOP)
    wait_until(lambda: any(run.rows for run in server.runs.values()))
    os.kill(pid, signal.SIGKILL)
    process.join()
    (run,) = server.runs.values()
    assert 0 < max(run.curve("train/loss")) < 1000
    folder = train(*LONGER)
    assert_mirrors(server, folder)
    assert list(server.runs) == [run.id]
    assert run.times_opened == 2
    steps = [row["_step"] for row in run.rows]
    assert steps == sorted(set(steps)), "the second part goes on where the first ended"


def test_each_run_of_a_sweep_is_one_there(train: Command, server: WandbServer, tmp_path: Path) -> None:
    grid = ["-m", *RUN, *overrides_for(server, tmp_path), "model.learning_rate=0.01,1e30", "sweep=mine"]
    with pytest.raises(SystemExit):
        train(*grid)
    (done,) = tmp_path.glob("multirun/mine/*/result.json")
    assert_mirrors(server, done.parent)
    assert len(server.runs) == 2
    assert {run.about["groupName"] for run in server.runs.values()} == {"mine"}
    assert {run.exit_code for run in server.runs.values()} == {0, 1}


def test_ranks_are_one_run(train: Command, server: WandbServer) -> None:
    folder = train(*(item for item in RUN if not item.startswith("trainer=")), "trainer=ddp_cpu")
    assert read_result(folder)["world_size"] == 2
    assert_mirrors(server, folder)
    (run,) = server.runs.values()
    assert run.times_opened == 1


def sync(server: WandbServer, *folders: Path) -> str:
    """Run ``wandb sync``, as the summary of a run or sweep says it."""
    command = [sys.executable, "-m", "wandb", "sync", *map(str, folders)]
    environment = os.environ | server.environment
    environment.pop("WANDB_MODE", None)
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True, timeout=60)
    return done.stdout + done.stderr


def test_a_run_logged_offline_is_sent_later(
    train: Command,
    start: Callable[..., BaseProcess],
    server: WandbServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also one in two parts, as it was killed."""
    import wandb

    offline = [*overrides_for(server, tmp_path), "+hydra.job.env_set.WANDB_MODE=offline"]
    process = start(f"results_dir={tmp_path}/multirun", *LONGER, "checkpoint_seconds=0", *offline)
    logs = "multirun/runs/*/wandb/offline-run-*/*.wandb"
    wait_until(lambda: any(b"train/loss" in path.read_bytes() for path in tmp_path.glob(logs)))
    os.kill(process.pid or 0, signal.SIGKILL)
    process.join()
    monkeypatch.setenv("WANDB_MODE", "offline")
    folder = train(*LONGER)
    wandb.teardown()
    assert server.asked.total() == 0
    parts = list(unsent(folder.parent))
    assert len(parts) == 2
    sync(server, *parts)
    assert_mirrors(server, folder)
    assert list(unsent(folder.parent)) == []


# What follows needs no training: the mirror alone, as a run uses it.


def mirrored(folder: Path, run_id: str = "0123456789ab", **identity: Any) -> WandbMirror:
    """Log three rows of a run, whose folder is made."""
    folder.mkdir(parents=True)
    mirror = WandbMirror("rethinkgen")
    choices = {"data": "digits", "regularizer": []}
    mirror.start(folder, {"run_id": run_id, "sweep": "mine", "choices": choices, "config": {}} | identity)
    for step in (1, 2, 3):
        mirror.log_metrics({"train/loss": 1 / step}, step)
    mirror.finish(0)
    return mirror


def assert_logged_on_disk(mirror: WandbMirror, server: WandbServer) -> None:
    """The three rows are in a log that ``wandb sync`` takes to a server that works."""
    import wandb

    server.fault = "down"
    wandb.teardown()
    assert mirror.unsent_folder is not None
    assert list(unsent(mirror.unsent_folder.parents[2])) == [mirror.unsent_folder]
    with WandbServer() as another:
        sync(another, mirror.unsent_folder)
        (run,) = another.runs.values()
        assert run.id == mirror.version
        assert run.curve("train/loss") == pytest.approx({1: 1, 2: 1 / 2, 3: 1 / 3})


@pytest.mark.parametrize("fault", ["down", "silent", 401, 403, 429, 500])
def test_a_server_that_fails_from_the_start_costs_seconds_once_a_sweep(
    fault: Fault, server: WandbServer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server.fault = fault
    begun = time.monotonic()
    first = mirrored(tmp_path / "mine" / "first")
    assert time.monotonic() - begun < ANSWER_SECONDS + PATIENCE
    assert "This run is logged to W&B offline" in caplog.text
    assert {"down": "refused", "silent": "gave no answer within 5 s"}.get(str(fault), str(fault)) in caplog.text

    asked = server.asked.total()
    begun = time.monotonic()
    mirrored(tmp_path / "mine" / "second", "ba9876543210")
    assert time.monotonic() - begun < PATIENCE
    assert server.asked.total() == asked
    left = list(unsent(tmp_path / "mine"))
    assert len(left) == 2
    assert first.unsent_folder in left
    assert KEY not in caplog.text


def test_what_is_remembered_of_a_server_is_one_command_s_and_not_for_ever(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = Sweep(tmp_path, "https://a")
    assert here.remembered() is None
    here.remember("no answer")
    assert Sweep(tmp_path, "https://a").remembered() == "no answer"
    assert Sweep(tmp_path, "https://b").remembered() is None
    with monkeypatch.context() as patch:
        patch.setenv("SLURM_ARRAY_JOB_ID", "17")
        assert Sweep(tmp_path, "https://a").remembered() is None
    with monkeypatch.context() as patch:
        later = time.time() + REMEMBERED_SECONDS + 1
        patch.setattr(time, "time", lambda: later)
        assert here.remembered() is None
    for damaged in ("", "[]", '{"command": 1}', here.path.read_text()[:-9]):
        here.path.write_text(damaged)
        assert here.remembered() is None


def rarely(fault: Fault) -> Any:
    """Leave a fault that takes its seconds to ``-m slow``."""
    return pytest.param(fault, marks=pytest.mark.slow)


def failing_at(server: WandbServer, operation: str, fault: Fault) -> None:
    def fail(asked: str) -> None:
        if asked == operation:
            server.fault = fault

    server.before_answer = fail


@pytest.mark.parametrize("fault", [*map(rarely, ["down", 500]), "silent", 403])
def test_a_server_that_knows_the_login_but_takes_no_run(
    fault: Fault, server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The client then holds the run's id, under which an offline run could not be opened."""
    monkeypatch.setattr(wandb_mirror, "INIT_SECONDS", 2)
    failing_at(server, "UpsertBucket", fault)
    begun = time.monotonic()
    mirror = mirrored(tmp_path / "mine" / "run")
    assert time.monotonic() - begun < 2 + PATIENCE
    assert "This run is logged to W&B offline" in caplog.text
    assert mirror.unsent_folder is not None
    assert mirror.unsent_folder.name.startswith("offline-run-")
    assert_logged_on_disk(mirror, server)


@pytest.mark.parametrize("fault", [*map(rarely, ["silent", 500]), "down", 403])
def test_a_server_that_fails_in_mid_run(
    fault: Fault, server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(wandb_mirror, "FINISH_SECONDS", 2)
    failing_at(server, "file_stream", fault)
    begun = time.monotonic()
    mirror = mirrored(tmp_path / "mine" / "run")
    assert time.monotonic() - begun < 2 + PATIENCE
    assert "Not all that was logged reached W&B" in caplog.text
    assert_logged_on_disk(mirror, server)


def test_the_id_is_the_run_s_whatever_the_environment_says(
    server: WandbServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As ``wandb agent`` sets it: two runs would be one."""
    monkeypatch.setenv("WANDB_SWEEP_ID", "sweep1")
    monkeypatch.setenv("WANDB_RUN_ID", "theirs")
    monkeypatch.setenv("WANDB_PROJECT", "rethinkgen")
    mirrored(tmp_path / "mine" / "a", "0123456789ab")
    mirrored(tmp_path / "mine" / "b", "ba9876543210")
    assert set(server.runs) == {"0123456789ab", "ba9876543210"}
    assert {run.about["sweep"] for run in server.runs.values()} == {"sweep1"}


def test_long_tags_are_cut(server: WandbServer, tmp_path: Path) -> None:
    choices = {"model": "m" * 80, "regularizer": ["r" * 80]}
    mirrored(tmp_path / "mine" / "run", choices=choices)
    (run,) = server.runs.values()
    assert run.about["tags"] == [f"model={'m' * 58}", "r" * 64]


def test_a_renamed_run_keeps_the_id_that_it_began_under(train: Command, server: WandbServer, tmp_path: Path) -> None:
    """A folder of commit 785b5e0, whose run is in W&B under the id of then."""
    (former,) = (FORMER / "runs").glob("*-0ba566f980c0")
    shutil.copytree(former, tmp_path / "multirun" / "runs" / former.name)
    folder = train(*(override for override in INTERRUPTED if override not in ("logger=none", "checkpoint_seconds=0")))
    assert read_result(folder)["run_id"] not in (None, "0ba566f980c0")
    assert set(server.runs) == {"0ba566f980c0"}


def test_places_are_left_out_and_other_paths_shortened() -> None:
    config = {
        "results_dir": "/home/me/multirun",
        "data": {"root": "/data", "source": {"root": "/data", "flat": True}, "batch_size": 128},
        "model": {"weights": "/home/me/nets/pretrained.pt", "also": ["~/nets/a.pt", "relative/path", "a / b"]},
        "seed": 0,
    }
    assert without_places(config) == {
        "data": {"source": {"flat": True}, "batch_size": 128},
        "model": {"weights": ".../pretrained.pt", "also": [".../a.pt", "relative/path", "a / b"]},
        "seed": 0,
    }
    assert config["results_dir"], "the run's own config stays as it is"
