from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from conftest import TINY, Command
from rethinkgen.run import check
from rethinkgen.train import checkpoint

RUN = [*[word for word in TINY if not word.startswith("logger")], "logger=tensorboard"]


def assert_same_curve(folder: Path) -> None:
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    found = event_accumulator.EventAccumulator(str(folder / "tensorboard"), purge_orphaned_data=False)
    found.Reload()
    table = pd.read_csv(folder / "metrics.csv").dropna(subset=["fit/loss"])
    curve = [(event.step, event.value) for event in found.Scalars("fit/loss")]
    assert [step for step, _ in curve] == table["step"].tolist()
    assert [value for _, value in curve] == pytest.approx(table["fit/loss"].tolist())


def test_the_curves_of_metrics_csv_are_in_the_run_s_folder(train: Command) -> None:
    assert_same_curve(train(*RUN, "max_steps=5"))


def test_a_run_that_goes_on_repeats_no_row(train: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("tensorboard")
    run = [*RUN, "max_steps=60", "evaluate_every=1", "checkpoint_seconds=0"]
    rows: list[int] = []

    def fail_once(model: Any) -> None:
        table = model.trainer.loggers[0].path
        if not rows and table.exists() and len(pd.read_csv(table)) >= 3:  # the last of which no checkpoint holds
            rows.append(len(pd.read_csv(table)))
            raise RuntimeError("killed")

    monkeypatch.setattr(checkpoint, "check_finite", fail_once)
    with pytest.raises(SystemExit):
        train(*run)
    folder = train(*run)
    assert 3 <= rows[0] < len(pd.read_csv(folder / "metrics.csv"))
    assert_same_curve(folder)


def test_without_the_package_it_is_refused_before_anything_begins(
    train: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    found: Callable[[str], object | None] = lambda name: None  # noqa: E731
    monkeypatch.setattr(check, "find_spec", found)
    with pytest.raises(SystemExit):
        train("logger=tensorboard")
    said = capsys.readouterr().err
    assert "TensorBoardLogger needs the package tensorboard: " in said
    assert "install" in said
    assert not (tmp_path / "multirun").exists()
