from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hydra import compose, initialize_config_dir

from conftest import ROOT
from rethinkgen.run.data_of_run import _selected
from rethinkgen.run.description import Description, describe, look_again
from rethinkgen.run.folder import RunFolder
from rethinkgen.run.run import read_runs
from rethinkgen.run.selection import check_exclude, digest, excluded, read_excluded, selected, write_excluded
from run_folders import write_run

FORGOTTEN = "presented_times_forgotten"


def write_examples(run: Path, index: list[int], **columns: Any) -> Path:
    np.savez(run / "examples.npz", index=np.array(index), **{name: np.array(each) for name, each in columns.items()})
    return run


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Two seeds on digits, of which one was trained on some examples alone."""
    folder = tmp_path / "sweep"
    write_examples(
        write_run(folder, data="digits"), [0, 2, 4, 6, 8, 9], **{FORGOTTEN: [1, 0, 4, 2, 2, 0], "margin": [0.5] * 6}
    )
    write_examples(write_run(folder, data="digits", seed=1), [4, 9, 11], **{FORGOTTEN: [0, 9, 1], "margin": [-1, 0, 3]})
    return folder


def select(sweep: Path, share: float = 0.3, column: str = FORGOTTEN, **more: Any) -> list[int]:
    return selected({"runs": str(sweep), "column": column, "share": share, **more}).tolist()


def test_the_share_with_the_greatest_means_is_left_out_ascending(sweep: Path) -> None:
    # Means: 0: 1, 2: 0, 4: 2, 6: 2, 8: 2, 9: 4.5, 11: 1.
    assert select(sweep, 1 / 7) == [9]
    assert select(sweep, 3 / 7) == [4, 6, 9], "of equal ones the first"
    assert select(sweep, 0) == []
    assert select(sweep, 2 / 7, least=True) == [0, 2]
    assert select(sweep, 1 / 7, "margin", least=True) == [4]
    runs = sorted(map(str, sweep.iterdir()))
    assert selected({"runs": runs, "column": FORGOTTEN, "share": 3 / 7}).tolist() == [4, 6, 9]
    assert selected({"runs": runs[:1], "column": FORGOTTEN, "share": 1 / 3}).tolist() in ([4, 6], [9])


def test_a_step_that_never_came_is_later_than_any(tmp_path: Path) -> None:
    run = write_examples(write_run(tmp_path / "s"), [0, 1, 2], presented_first_step_right=[7, -1, 900])
    assert select(run, 1 / 3, "presented_first_step_right") == [1]


def test_runs_that_leave_out_examples_themselves_are_passed_over(sweep: Path) -> None:
    before = select(sweep)
    others = write_run(sweep, data="digits", seed=2, state="failed", keys={"data.exclude": "list.csv"})
    assert select(sweep) == before
    with pytest.raises(ValueError, match="there is no run but those that leave out examples themselves"):
        select(others)


def damaged(run: Path) -> None:
    (run / "examples.npz").write_bytes(b"PK\3\4 and no more")


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda run: write_run(run.parent, seed=5, state="running"), r"1 of 3 runs are not finished, the first is"),
        (lambda run: (run / "examples.npz").unlink(), r"examples\.npz is not there"),
        (damaged, r"examples\.npz is damaged"),
        (lambda run: write_examples(run, [1, 2], other=[1, 2]), rf"column='{FORGOTTEN}': .*examples\.npz has index, o"),
        (lambda run: write_examples(run, [1, 2], **{FORGOTTEN: [1]}), "is not one number for each example"),
        (lambda run: write_examples(run, [1, 1], **{FORGOTTEN: [1, 2]}), "is not one number for each example"),
        (lambda run: write_examples(run, [1, 2], **{FORGOTTEN: ["a", "b"]}), "is not one number for each example"),
        (lambda run: write_examples(run, [1, 2], **{FORGOTTEN: [1, np.nan]}), "has values that are no numbers"),
    ],
)
def test_what_cannot_be_gone_by_is_refused(change: Any, says: str, sweep: Path) -> None:
    change(min(sweep.iterdir()))
    with pytest.raises(ValueError, match=says) as error:
        select(sweep)
    assert "data.exclude" in str(error.value)


def test_runs_of_other_data_are_refused_where_it_can_be_told(sweep: Path) -> None:
    run = min(sweep.iterdir())
    result = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps(result | {"fingerprint": "mnist"}))
    node = {"runs": str(sweep), "column": FORGOTTEN, "share": 0.3}
    with pytest.raises(ValueError, match=rf"1 of 2 runs are of other data, the first is {run.name}"):
        selected(node, "digits-1")
    assert len(selected(node, "mnist")) == 2


@pytest.mark.parametrize(
    "value",
    [
        {"runs": "a", "column": "b"},
        {"run": "a", "column": "b", "share": 0.1},
        {"runs": "a", "column": "b", "share": 0.1, "more": 1},
        {"runs": "a", "column": "b", "share": 1},
        {"runs": "a", "column": "b", "share": -0.1},
        {"runs": "a", "column": 3, "share": 0.1},
        {"runs": 3, "column": "b", "share": 0.1},
        {"runs": ["a", None], "column": "b", "share": 0.1},
        {"runs": "a", "column": "b", "share": 0.1, "least": "yes"},
        7,
        "",
    ],
)
def test_what_is_no_selection_is_refused_at_the_door(value: Any) -> None:
    with pytest.raises(ValueError, match=r"^data\.exclude"):
        check_exclude("data.exclude", value)
    check_exclude("data.exclude", {"runs": ["a"], "column": "b", "share": 0.5, "least": True})


def described(*overrides: str) -> Description:
    look_again()
    with initialize_config_dir(str(ROOT / "conf")):
        root = compose("train", overrides=list(overrides))
    return describe(root, {"data": "digits", "data.corruption": "none", "model": "inception"}, overrides, "runs")


def test_a_run_counts_by_the_examples_that_are_left_out(sweep: Path) -> None:
    def asked(runs: Path, share: float) -> Description:
        return described(f"data.exclude={{runs:'{runs}',column:{FORGOTTEN},share:{share}}}")

    whole, moved = asked(sweep, 0.3), sweep.rename(sweep.with_name("moved"))
    assert asked(moved, 0.29).run_id == whole.run_id != described().run_id
    assert asked(moved, 0.5).run_id != whole.run_id
    assert whole.contents == {"data.exclude": digest(np.array(select(moved)))}
    write_examples(min(moved.iterdir()), [0, 2], **{FORGOTTEN: [50, 60]})
    assert asked(moved, 0.3).run_id != whole.run_id


def test_the_examples_are_those_that_are_left_out(sweep: Path) -> None:
    from rethinkgen.run.training import build_datamodule

    config = described(f"data.exclude={{runs:'{sweep}',column:{FORGOTTEN},share:0.3}}").config
    datamodule = build_datamodule(config["data"])
    datamodule.setup()
    index = datamodule.splits["train"].index.tolist()
    assert sorted(set(range(1437)) - set(index)) == select(sweep)


def begin(description: Description, path: Path) -> RunFolder:
    """Leave what a run has in its folder once its training has begun."""
    path.mkdir(parents=True)
    folder = RunFolder(path)
    folder.write_config(description.config, description.overrides)
    folder.add_to_identity(run_id=description.run_id, contents=description.contents, begun_in=str(Path.cwd()))
    write_excluded(folder, selected(description.config["data"]["exclude"]))
    return folder


def test_what_a_run_left_out_is_known_whatever_becomes_of_the_runs_that_said_so(sweep: Path, tmp_path: Path) -> None:
    description = described(f"data.exclude={{runs:'{sweep}',column:{FORGOTTEN},share:0.3}}")
    node, left_out = description.config["data"]["exclude"], select(sweep)
    folder = begin(description, tmp_path / "results/runs" / description.name)
    write_examples(write_run(sweep, data="digits", seed=2), [0, 2], **{FORGOTTEN: [90, 90]})
    assert select(sweep) != left_out
    (run,) = read_runs([folder.path])
    assert _selected(node, run) == left_out
    assert excluded(node, folder, description.contents).tolist() == left_out
    write_run(sweep, data="digits", seed=3, state="running")
    assert _selected(node, run) == left_out
    folder.excluded.unlink()
    with pytest.raises(ValueError, match="1 of 4 runs are not finished"):
        _selected(node, run)
    RunFolder(next(each.path for each in read_runs([sweep]) if each.seed == 3)).path.rename(tmp_path / "aside")
    with pytest.raises(ValueError, match=r"has no list of its own \(excluded\.npy\).*Put these runs back as they were"):
        _selected(node, run)
    next(each.path for each in read_runs([sweep]) if each.seed == 2).rename(tmp_path / "beside")
    assert _selected(node, run) == left_out


def test_the_same_command_goes_on_with_a_run_while_those_that_it_went_by_are_trained(
    sweep: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)

    def asked(share: float = 0.3, seed: int = 0, runs: str = "sweep") -> str:
        exclude = f"data.exclude={{runs:{runs},column:{FORGOTTEN},share:{share}}}"
        return described("results_dir=results", f"seed={seed}", exclude).run_id

    begun = described("results_dir=results", f"data.exclude={{runs:sweep,column:{FORGOTTEN},share:0.3}}")
    folder = begin(begun, tmp_path / "results/runs" / begun.name)
    write_run(sweep, data="digits", seed=2, state="running")
    assert asked() == asked(runs=str(sweep)) == begun.run_id
    for others in ({"share": 0.29}, {"seed": 1}, {"runs": "[sweep]", "share": 0.1}):
        with pytest.raises(ValueError, match="1 of 3 runs are not finished"):
            asked(**others)  # type: ignore[arg-type]
    folder.path.rename(tmp_path / "elsewhere")
    with pytest.raises(ValueError, match="1 of 3 runs are not finished"):
        asked()


def test_examples_other_than_those_that_name_the_run_are_never_left_out(sweep: Path, tmp_path: Path) -> None:
    description = described(f"data.exclude={{runs:'{sweep}',column:{FORGOTTEN},share:0.3}}")
    node, folder = description.config["data"]["exclude"], RunFolder(tmp_path / "run")
    assert excluded(node, folder, description.contents).tolist() == select(sweep)
    write_examples(min(sweep.iterdir()), [0, 2], **{FORGOTTEN: [50, 60]})
    with pytest.raises(ValueError, match=r"^data\.exclude\.runs=.*: these runs have changed since this command began"):
        excluded(node, folder, description.contents)


def test_a_damaged_list_of_examples_is_none(tmp_path: Path) -> None:
    folder, positions = RunFolder(tmp_path), np.array([3, 5, 8])
    contents = {"data.exclude": digest(positions)}
    assert read_excluded(folder, contents) is None
    write_excluded(folder, positions)
    whole = folder.excluded.read_bytes()
    known = read_excluded(folder, contents)
    assert known is not None
    assert known.tolist() == [3, 5, 8]
    assert read_excluded(folder, {}) is None
    assert read_excluded(folder, {"data.exclude": digest(positions[:2])}) is None
    huge = whole.replace(b"(3,)", b"(3000000000000,)").replace(b" " * 12 + b"\n", b"\n")
    for damaged in (b"", b"nothing", whole[:-1], whole[:-8], whole[:40], whole[:-1] + b"\1", huge):
        folder.excluded.write_bytes(damaged)
        assert read_excluded(folder, contents) is None
    folder.excluded.unlink()
    folder.excluded.symlink_to(tmp_path / "elsewhere")
    assert read_excluded(folder, contents) is None


def test_training_leaves_the_list_in_the_folder_and_goes_on_by_it(sweep: Path, tmp_path: Path) -> None:
    from omegaconf import OmegaConf
    from rich.console import Console

    from rethinkgen.run.training import Training

    exclude = f"data.exclude={{runs:'{sweep}',column:{FORGOTTEN},share:0.3}}"
    description = described(exclude, "model=mlp_1x512", "logger=none", "max_steps=2", "trainer.accelerator=cpu")
    left_out, folder = select(sweep), RunFolder(tmp_path / "run")
    folder.path.mkdir()

    def training() -> Training:
        config = OmegaConf.create(description.config)
        return Training(config, folder, description.facts(), Console(quiet=True))

    first = training()
    first.prepare()
    first._take_up(None)
    assert np.load(folder.excluded).tolist() == left_out
    write_run(sweep, data="digits", seed=2, state="running")
    again = training()
    again.datamodule.setup()
    index = again.datamodule.splits["train"].index.tolist()
    assert sorted(set(range(1437)) - set(index)) == left_out
