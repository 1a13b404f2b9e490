"""``keep=...`` from the command line: what is kept, of finished and resumed runs too, and what is refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from test_replay import assert_same_state, equal

from conftest import TINY, Command
from rethinkgen.data.timetable import Timetable, check_moment, step_of
from rethinkgen.run.run import read_run
from rethinkgen.train.kept import read_state
from rethinkgen.train.kept_files import is_whole, kept_steps
from unfinished import power_cut_at

RUN = [*TINY, "data.num_train=300", "data.batch_size=40", "max_steps=40", "regularizer=[dropout]"]


def contents(folder: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name not in ("train.log", ".lock", ".lock.owner")
    }


def test_a_moment_is_steps_epochs_or_a_word() -> None:
    timetable = Timetable(300, 40)
    moments = [check_moment("keep", each) for each in (0, "7", "1ep", "0.5ep", "2.25ep", "end", "last")]
    assert [step_of(each, timetable, end=3, last=9) for each in moments] == [0, 7, 8, 4, 18, 3, 9]


@pytest.mark.parametrize("value", [-1, 1.5, True, None, "1 ep", "-1ep", "1e3ep", "ende", "", [1], 10**13])
def test_all_else_is_none(value: object) -> None:
    with pytest.raises(ValueError, match=r"keep=.* is needed"):
        check_moment("keep", value)


@pytest.mark.parametrize(
    ("keep", "said"),
    [
        ("10ep", "keep='10ep': a list is needed, such as keep=[0,1ep,10ep,end]"),
        ("{a:1}", "keep: a list is needed, such as keep=[...]."),
        ("[0,-3]", "keep[1]=-3: a number of steps"),
        ("[41]", "keep=41: the budget is max_steps=40, which it is beyond"),
        ("[0,6ep]", "keep='6ep': that is step 48, beyond the budget of 40 steps (5 epochs)"),
    ],
)
def test_what_cannot_be_kept_is_refused_before_anything_begins(
    train: Command, tmp_path: Path, keep: str, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        train(*RUN, f"keep={keep}")
    assert said in " ".join("".join(capsys.readouterr()).split())
    assert not list(tmp_path.glob("multirun/runs/*/"))


def test_a_finished_run_keeps_more_by_a_replay_and_nothing_else_changes(
    train: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    first = train(*RUN, "keep=[5]")
    before = contents(first)
    assert kept_steps(first / "weights") == [5]
    capsys.readouterr()
    assert train(*RUN, "keep=[0,5,1ep,end]") == first
    told = capsys.readouterr().out
    assert told.count("Replaying") == 1
    assert "the states of step 0, step 8, step 40." in " ".join(told.split())
    after = contents(first)
    assert kept_steps(first / "weights") == [0, 5, 8, 40]
    assert {name: after[name] for name in before} == before
    train(*RUN, "keep=[end,5]")
    assert "Replaying" not in capsys.readouterr().out
    assert contents(first) == after
    shutil.move(first, first.with_name("replayed"))
    undisturbed = train(*RUN, "keep=[0,1ep,end]", "evaluate_every=1")
    for step in (0, 8, 40):
        assert_same_state(first.with_name("replayed"), undisturbed, step)


def test_a_damaged_state_that_is_asked_for_again_is_written_anew(
    train: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = train(*RUN, "keep=[3,5]")
    before = contents(folder)
    for name in ("5.pt", "3.state.pt"):
        path = folder / "weights" / name
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 255
        path.write_bytes(content)
    assert not is_whole(folder / "weights", 5)
    capsys.readouterr()
    train(*RUN, "keep=[3,5]")
    assert "the states of step 3, step 5." in " ".join(capsys.readouterr().out.split())
    assert is_whole(folder / "weights", 3)
    assert is_whole(folder / "weights", 5)
    assert contents(folder)["weights/5.pt"] == before["weights/5.pt"]


def test_a_sweep_does_so_too(train: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sweep = ["-m", "hydra/launcher=basic", *RUN, "seed=0,1", "sweep=two"]
    train(*sweep)
    train(*sweep, "keep=[1]")
    folders = sorted(tmp_path.glob("multirun/two/*/"))
    assert [kept_steps(folder / "weights") for folder in folders] == [[1], [1]]
    capsys.readouterr()
    train(*sweep, "keep=[1]")
    assert "2 of 2 runs were finished before" in capsys.readouterr().out


def test_a_finished_run_stays_finished_where_the_replay_is_not_the_run(
    train: Command, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = train(*RUN, "log_every=1")
    table = folder / "metrics.csv"
    table.write_text(table.read_text().replace("sha256-", "sha256-other"))
    with pytest.raises(SystemExit) as ended:
        train(*RUN, "log_every=1", "keep=[end]")
    assert ended.value.code == 1
    assert "is not the run: its weights at step 8" in " ".join("".join(capsys.readouterr()).split())
    assert read_run(folder).state == "done"
    assert not kept_steps(folder / "weights")
    train(*RUN, "log_every=1", "keep=[end]", "replay=inexact")
    assert kept_steps(folder / "weights") == [40]


def test_a_killed_run_keeps_what_an_undisturbed_one_does(
    train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = [*RUN, "keep=[0,3,13,4ep,end]", "checkpoint_seconds=0"]
    with power_cut_at(32, monkeypatch):
        train(*asked)
    (folder,) = tmp_path.glob("multirun/runs/*/")
    assert kept_steps(folder / "weights") == [0, 3, 13]
    (folder / "weights/3.pt").unlink()  # to be had again by a replay at the end
    (folder / "weights/.13.pt.1-ab.tmp").touch()
    assert train(*asked) == folder
    assert kept_steps(folder / "weights") == [0, 3, 13, 32, 40]
    assert not list(folder.rglob("*.tmp"))
    moved = folder.with_name("resumed")
    shutil.move(folder, moved)
    undisturbed = train(*asked)
    for step in (0, 3, 13, 32, 40):
        assert_same_state(moved, undisturbed, step)
    run_id = read_run(moved).run_id
    one, other = (read_state(path / "weights", 32, run_id).rest["evaluation"] for path in (moved, undisturbed))
    assert equal(one["histories"]["examples"], other["histories"]["examples"])


def test_states_do_not_depend_on_evaluations(train: Command) -> None:
    often = train(*RUN, "keep=[5,17,last]", "evaluate_every=0.3")
    seldom = train(*RUN, "keep=[5,17,last]", "evaluate_every=100")
    for step in (5, 17, 40):
        assert_same_state(often, seldom, step)


def test_a_run_that_ends_before_says_what_it_did_not_reach(train: Command, capsys: pytest.CaptureFixture[str]) -> None:
    folder = train(*RUN, "keep=[30,last]", "until_fit=true", "fit_threshold=0.1")
    steps = read_run(folder).metrics["steps"]
    assert steps < 30
    assert kept_steps(folder / "weights") == [steps]
    assert f"keep=30: the run ended before, at step {steps}." in " ".join(capsys.readouterr().out.split())
