from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest

from conftest import TINY, Command
from rethinkgen.run import check


def test_the_curves_of_metrics_csv_are_in_the_run_s_folder(train: Command) -> None:
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    folder = train(*[word for word in TINY if not word.startswith("logger")], "logger=tensorboard", "max_steps=5")
    found = event_accumulator.EventAccumulator(str(folder / "tensorboard"))
    found.Reload()
    table = pd.read_csv(folder / "metrics.csv").dropna(subset=["fit/loss"])
    curve = [(event.step, event.value) for event in found.Scalars("fit/loss")]
    assert [step for step, _ in curve] == table["step"].tolist()
    assert [value for _, value in curve] == pytest.approx(table["fit/loss"].tolist())


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
