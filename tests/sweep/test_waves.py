"""A sweep of which some runs leave out examples by what others of it find."""

from __future__ import annotations

import json
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra._internal.core_plugins.basic_launcher import BasicLauncher

from conftest import TINY, Command
from rethinkgen.console import stderr, stdout
from rethinkgen.errors import StoppedError
from rethinkgen.run.folder import RunFolder
from rethinkgen.run.selection import COLUMNS, check_column, places_of, reads, words_on, words_on_change
from rethinkgen.sweep.grid import _replace
from rethinkgen.sweep.jobs import Job

COLUMN = "presented_times_forgotten"


def grid(*overrides: str, runs: str = "multirun/waves", column: str = COLUMN) -> list[str]:
    selection = f"{{runs: {runs}, column: {column}, share: 0.2}}"
    few = ["data.num_train=200", "max_steps=6", "data.batch_size=50", "hydra/launcher=basic", "sweep=waves"]
    return ["-m", *TINY, *few, f"data.exclude=null,{selection}", *overrides]


class Printed:
    """What a command said, in one line, however wide the screen."""

    def __init__(self, capsys: pytest.CaptureFixture[str]) -> None:
        self.capsys = capsys

    def __call__(self) -> str:
        found = self.capsys.readouterr()
        return " ".join((found.out + found.err).split())


@pytest.fixture
def printed(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Printed:
    for console in (stdout(), stderr()):  # those of the process, as wide as they were found
        monkeypatch.setattr(console, "width", 400)  # no cell of a table is wrapped
    return Printed(capsys)


def results(folder: Path) -> dict[str, Any]:
    found = [json.loads(path.read_text()) for path in folder.glob("*/result.json")]
    return {result["run_id"]: result for result in found}


def leaving_out(folder: Path) -> list[RunFolder]:
    return [RunFolder(path.parent) for path in sorted(folder.glob("*/excluded.npy"))]


def test_runs_wait_for_those_that_they_go_by_and_a_wider_sweep_says_why_they_are_others(
    train: Command, tmp_path: Path, printed: Printed
) -> None:
    folder = tmp_path / "multirun" / "waves"
    train(*grid("seed=0,1"))
    said = printed()
    assert "2 runs leave out examples by what others of this sweep find, and begin when these have finished: " in said
    assert len(results(folder)) == 4
    first = leaving_out(folder)
    assert len(first) == 2
    whole = [path.name for path in folder.iterdir() if path.is_dir() and not (path / "excluded.npy").exists()]
    for run in first:
        assert sorted(run.read_identity()["excluded_by"]) == sorted(f"waves/{name}" for name in whole)
        left_out, trained_on = np.load(run.excluded), np.load(run.examples)["index"]
        assert len(left_out) > 0
        assert not set(left_out) & set(trained_on)
    assert f"data.exclude: by {COLUMN} of 2 runs: waves/" in said

    train(*grid("seed=0,1"))
    said = printed()
    assert "4 of 4 runs were finished before" in said
    assert "begin when these" not in said

    train(*grid("seed=0,1,2"))
    said = printed()
    assert "2 of 6 runs were finished before. 3 runs leave out examples" in said
    for run in first:
        assert f"the same command was {run.path.name}, which leaves out other examples, by 2 runs: waves/" in said
    assert said.count("came since. This is another run.") == 2
    assert len(results(folder)) == 8


def test_what_goes_by_a_run_that_failed_is_a_row_that_says_so_and_the_same_command_goes_on(
    train: Command, tmp_path: Path, printed: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rethinkgen.run.training import Training

    folder, run = tmp_path / "multirun" / "waves", Training.run

    def fail(self: Training, *rest: Any, **more: Any) -> Any:
        if self.identity["seed"] == 1:
            raise ValueError("no luck")
        return run(self, *rest, **more)

    monkeypatch.setattr(Training, "run", fail)
    with pytest.raises(SystemExit) as end:
        train(*grid("seed=0,1"))
    assert end.value.code == 1
    said = printed()
    assert "1 of 2 runs are not finished, the first is digits-none-mlp_1x512-seed1" in said
    assert "raised while resolving" not in said
    assert "The same command runs the 3 failed and nothing else" in said
    assert len(results(folder)) == 1

    monkeypatch.setattr(Training, "run", run)
    train(*grid("seed=0,1"))
    assert "1 of 4 runs was finished before. 2 runs leave out" in printed()
    assert len(results(folder)) == 4


@pytest.mark.parametrize("stop", [KeyboardInterrupt(), StoppedError(signal.SIGTERM)])
def test_a_sweep_that_is_stopped_begins_none_of_those_that_wait(
    stop: BaseException, train: Command, tmp_path: Path, printed: Printed, monkeypatch: pytest.MonkeyPatch
) -> None:
    launched: list[Sequence[Sequence[str]]] = []

    def launch(self: BasicLauncher, jobs: Sequence[Sequence[str]], initial_job_idx: int) -> None:
        launched.append(jobs)
        raise stop

    monkeypatch.setattr(BasicLauncher, "launch", launch)
    with pytest.raises(SystemExit) as end:
        train(*grid("seed=0,1"))
    assert end.value.code == 128 + getattr(stop, "number", signal.SIGINT)
    assert [len(jobs) for jobs in launched] == [2]
    assert not any("runs:" in override for jobs in launched for job in jobs for override in job)
    said = printed()
    assert said.count("not started") == 4
    assert "The same command runs the 4 unfinished and nothing else" in said


def test_what_can_never_be_gone_by_is_refused_before_anything_begins(
    train: Command, tmp_path: Path, printed: Printed
) -> None:
    selection = f"{{runs: multirun/waves, column: {COLUMN}, share: 0.2}}"
    for overrides, said in (
        (
            [f"data.exclude={selection}", "seed=0,1"],
            "no run is there to go by, and all of this sweep would go by others",
        ),
        (
            ["data.exclude=null,{runs: multirun/waves, column: forgoten, share: 0.2}"],
            "these runs will have index, labels",
        ),
        (
            ["data.exclude=null,{runs: multirun/other, column: forgoten, share: 0.2}"],
            "multirun/other: there is no such fold",
        ),
        (["data.exclude=null,{runs: multirun/waves, column: forgoten, share: 2}"], "data.exclude.share=2"),
        ([f"data.exclude=null,{selection}", "data.validation=3"], "data.validation=3"),
    ):
        with pytest.raises(SystemExit):
            train("-m", *TINY, "hydra/launcher=basic", "sweep=waves", *overrides)
        assert said in printed()
    assert not (tmp_path / "multirun").exists()


def test_a_trial_tries_what_waits_for_nothing(train: Command, tmp_path: Path, printed: Printed) -> None:
    with pytest.raises(ValueError, match="empty"):  # ``train`` looks for results, and a trial leaves none
        train(*grid("debug=true"))
    said = printed()
    assert "1 run leaves out examples by what others of this sweep find, of which a trial keeps nothing" in said
    assert "These were trial runs" in said
    assert not (tmp_path / "multirun").exists()


def test_the_columns_are_those_that_a_run_leaves(small_sweep: Path) -> None:
    run = next(small_sweep.glob("*/examples.npz"))
    with np.load(run) as columns:
        assert set(columns.files) == set(COLUMNS)
    check_column({"column": COLUMN})
    with pytest.raises(ValueError, match=r"^data.exclude.column='margin': these runs will have index,"):
        check_column({"column": "margin"})


def test_a_selection_may_name_a_sweep_or_a_run_by_any_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "sweep").mkdir()
    (tmp_path / "link").symlink_to("sweep")
    places = places_of([tmp_path / "sweep" / "run"])
    for runs in ("sweep", "./sweep/", "link", str(tmp_path / "sweep"), "sweep/run", "link/run", ["other", "sweep"]):
        assert reads({"runs": runs}, places)
    for runs in ("other", "sweep/another", ".", ["other", "sweep/another"]):
        assert not reads({"runs": runs}, places)


def test_words_name_three_runs_at_most() -> None:
    assert words_on({"column": "c"}, ["s/a"]) == "data.exclude: by c of 1 run: s/a."
    named = words_on({"column": "c"}, ["s/a", "s/b", "s/c", "s/d", "s/e"])
    assert named == "data.exclude: by c of 5 runs: s/a, s/b, s/c and 2 more (excluded_by in identity.json)."
    changed = words_on_change("r", ["s/a", "s/b"], ["s/b", "s/c"])
    assert "which leaves out other examples, by 2 runs: s/c came since and s/a went since. This" in changed
    for then in ([], ["s/a"]):
        assert "they are others now, or were trained again" in words_on_change("r", then, ["s/a"])


def test_cells_that_leave_out_the_same_are_one_run_where_the_first_of_them_stands() -> None:
    whole, waits, other = ((Path("sweep"), name) for name in ("whole", "3", "other"))
    jobs = {key: Job([], Path(key[1])) for key in (whole, waits, other)}
    planned, same = Job([], Path("planned")), jobs[other]
    _replace(jobs, waits, other, planned)
    assert list(jobs.values()) == [jobs[whole], same]
    jobs = {whole: same, waits: Job([], Path("waits")), other: Job([], Path("last"))}
    _replace(jobs, waits, (Path("sweep"), "new"), planned)
    assert [job.path.name for job in jobs.values()] == ["other", "planned", "last"]
