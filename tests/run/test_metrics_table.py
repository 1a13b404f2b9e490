from __future__ import annotations

import csv
from pathlib import Path

from rethinkgen.run.metrics_table import MetricsTable


def test_rows_come_back_to_the_bit_with_columns_that_appear_later(tmp_path: Path) -> None:
    table = MetricsTable(tmp_path / "metrics.csv")
    table.log_metrics({"train/loss": 1 / 3}, 100)
    table.log_metrics({"train/loss": 0.1, "fit/accuracy": 2 / 3}, 200)
    with table.path.open(newline="") as file:
        first, second = csv.DictReader(file)
    assert list(first) == ["step", "train/loss", "fit/accuracy"]
    assert [float(row["train/loss"]) for row in (first, second)] == [1 / 3, 0.1]
    assert (first["fit/accuracy"], float(second["fit/accuracy"])) == ("", 2 / 3)


def test_a_resumed_run_drops_what_came_after_its_checkpoint_and_a_torn_last_line(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    first = MetricsTable(path)
    for step in (1, 2, 3):
        first.log_metrics({"a": float(step)}, step)
    undisturbed = path.read_text()
    first.log_metrics({"a": 4.0, "b": 5.0}, 4)
    with path.open("a") as file:
        file.write("5,0.12")
    resumed = MetricsTable(path)
    resumed.cut_back(3)
    assert [line.split(",")[0] for line in path.read_text().splitlines()] == ["step", "1", "2", "3"]
    assert undisturbed.splitlines()[1] == "1,1.0"
    resumed.log_metrics({"a": 4.0, "b": 5.0}, 4)
    assert path.read_text().splitlines()[-1] == "4,4.0,5.0"


def test_a_run_begun_anew_starts_an_empty_table(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    MetricsTable(path).log_metrics({"a": 1.0}, 1)
    MetricsTable(path).cut_back(-1)
    assert not path.exists()
