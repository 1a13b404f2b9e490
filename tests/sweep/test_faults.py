"""Whatever is killed, and whenever: the same command, again, ends with the undisturbed sweep's results to the bit."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path

import pytest

from conftest import TINY, Command
from outcomes import assert_same, outcome
from sweep.faults import GRID, Witness, torment


@pytest.mark.timeout(900)  # a sweep of twelve runs, killed and resumed eight times
@pytest.mark.parametrize("seed", [0])
def test_a_sweep_under_a_killer_ends_as_if_undisturbed(
    train: Command, start: Callable[..., BaseProcess], tmp_path: Path, seed: int
) -> None:
    grid = [*GRID, "max_steps=2500"]
    train(*grid)
    results = tmp_path / "tormented"
    witness = Witness(results)
    witness.start()
    done = torment(lambda: start(*grid, f"results_dir={results}"), results, num_kills=8, seed=seed, mean_seconds=0.8)
    witness.leave()
    assert done["jobs killed"] >= 3
    assert done["launchers killed"] >= 1
    assert witness.num_read > 100
    assert not witness.torn
    assert not witness.replaced
    undisturbed = list((tmp_path / "multirun").glob("*/*/result.json"))
    assert len(undisturbed) == 12
    for result in undisturbed:
        assert_same(outcome(results / result.parent.relative_to(tmp_path / "multirun")), outcome(result.parent))
    assert not list(results.glob("*/*/status.json"))
    assert not list(results.glob("*/*/**/*.tmp*"))


def test_a_disk_that_fills_up_fails_runs_and_not_the_sweep(
    train: Command, small_disk: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    grid = ["-m", *TINY, "model.width=64", "seed=range(0,8)", "max_steps=300", f"results_dir={small_disk}"]
    with pytest.raises(SystemExit) as end:
        train(*grid)
    assert end.value.code == 1
    output = capsys.readouterr().out
    assert "no room left" in output
    assert "failed and nothing else" in output
    finished = len(list(small_disk.glob("runs/*/result.json")))
    assert 0 < finished < 8
    subprocess.run(["mount", "-o", "remount,size=20m", str(small_disk)], check=True)
    with contextlib.suppress(IndexError, ValueError):  # ``train`` looks for results elsewhere
        train(*grid)
    assert len(list(small_disk.glob("runs/*/result.json"))) == 8
    assert f"{finished} of 8 runs were finished before" in capsys.readouterr().out


def test_a_read_only_folder_is_named_before_anything_begins(
    train: Command, small_disk: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)
    with pytest.raises(SystemExit) as end:
        train("-m", *TINY, "seed=0,1", f"results_dir={small_disk}")
    assert end.value.code == 1
    error = capsys.readouterr().err
    assert f"results_dir='{small_disk}'" in error
    assert "cannot be written to" in error
