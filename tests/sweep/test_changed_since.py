"""What a run depends on besides its overrides, changed between two commands: files that keys name, and own code."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest

from conftest import TINY, Command
from rethinkgen.run import description
from unfinished import power_cut_at

NETWORK = """
from rethinkgen.model.mlp import MLP


class Net(MLP):
    pass
"""
SWEEP = ["-m", "hydra/launcher=basic", *TINY, "max_steps=10", "seed=0,1"]


def test_a_file_that_a_key_names_makes_other_runs_of_all_cells(
    train: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    matrix = tmp_path / "matrix.csv"
    asked = ["data.corruption=asymmetric_labels", "data.corruption.probability=null"]
    sweep = [*SWEEP, *asked, f"data.corruption.matrix={matrix}"]
    np.savetxt(matrix, np.eye(10), delimiter=",")
    train(*sweep)
    train(*sweep)
    assert "2 of 2 runs were finished before." in capsys.readouterr().out
    np.savetxt(matrix, np.full((10, 10), 0.1), delimiter=",")
    train(*sweep)
    assert "finished before" not in capsys.readouterr().out
    assert len(list(tmp_path.glob("multirun/runs/*/result.json"))) == 4


@pytest.fixture
def network(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    file = tmp_path / "net_of_mine.py"
    file.write_text(NETWORK)
    # Nothing of another test's.
    monkeypatch.delitem(sys.modules, "net_of_mine", raising=False)
    description.look_again()
    return file


OWN = ["code=net_of_mine", "model._target_=net_of_mine.Net"]


def test_finished_runs_of_other_code_are_named_once_a_sweep(
    train: Command, network: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    train(*SWEEP, *OWN)
    description.look_again()
    train(*SWEEP, *OWN)
    assert "is not the code" not in capsys.readouterr().out
    network.write_text(NETWORK + "\n# another\n")
    description.look_again()
    train(*SWEEP, *OWN)
    told = " ".join(capsys.readouterr().out.split())
    assert told.count("net_of_mine is not the code that 2 of these runs were trained with before.") == 1


def test_a_run_that_goes_on_with_other_code_says_so(
    train: Command, network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = [*TINY, "max_steps=40", "checkpoint_seconds=0", "evaluate_every=1", *OWN]
    with power_cut_at(40, monkeypatch):
        train(*run)
    network.write_text(NETWORK + "\n# another\n")
    description.look_again()
    capsys.readouterr()
    train(*run)
    told = " ".join(capsys.readouterr().out.split())
    assert "Going on from step" in told
    assert "net_of_mine is not the code that this run was begun with. It goes on with the code of now." in told
