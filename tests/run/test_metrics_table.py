from __future__ import annotations

import csv
from pathlib import Path

import pytest

from rethinkgen.run.curves import read_curves
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


@pytest.mark.parametrize(
    "line",
    [
        *(
            "2,0.2",
            "2,0.2,0.3,0.4",
            '2,"0.2,0.3',
            "2,0.2,0.\x003",
            "2,0.2,o.3",
            "2.5,0.2,0.3",
            "-2,0.2,0.3",
            ",0.2,0.3",
        ),
        "2,0.2,0.\xff",
    ],
)
def test_a_damaged_row_costs_itself_only(tmp_path: Path, line: str) -> None:
    path = tmp_path / "metrics.csv"
    path.write_bytes(f"step,a,b\n1,0.1,0.2\n{line}\n3,1e-05,nan\n4,inf,-7\n5,0.5,".encode("latin-1"))
    curves, damage = read_curves(path)
    assert curves["step"].tolist() == [1, 3, 4]
    assert curves["a"].dropna().tolist() == [0.1, 1e-5]
    assert damage == f"{path} is damaged: line 3 of 5 is left out."
    table = MetricsTable(path)
    table.cut_back(3)
    assert path.read_text() == "step,a,b\n1,0.1,0.2\n3,1e-05,nan\n"
    assert line.encode("latin-1") in (tmp_path / "metrics.damaged").read_bytes()
    table.log_metrics({"a": 1.0, "b": 2.0}, 6)
    assert path.read_text().endswith("\n6,1.0,2.0\n")


@pytest.mark.parametrize("head", ["stxp,a", "step,step", 'step,"a', "step,a\0", ""])
def test_a_table_without_its_head_is_none(tmp_path: Path, head: str) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text(f"{head}\n1,0.1\n")
    curves, damage = read_curves(path)
    assert curves.empty
    assert "first line" in damage
    MetricsTable(path).cut_back(3)
    assert not path.exists()
    assert (tmp_path / "metrics.damaged").exists()


def test_a_table_that_somebody_took_away_is_not_begun_anew(tmp_path: Path) -> None:
    table = MetricsTable(tmp_path / "metrics.csv")
    table.log_metrics({"a": 1.0}, 1)
    table.path.unlink()
    with pytest.raises(FileNotFoundError):
        table.log_metrics({"a": 2.0}, 2)


def test_text_columns_and_numbers_keep_their_kinds(tmp_path: Path) -> None:
    table = MetricsTable(tmp_path / "metrics.csv")
    table.log_metrics({"weights_digest": "12e4", "a": 1}, 1)
    table.log_metrics({"a": 2.5}, 2)
    table.log_metrics({"weights_digest": "0a", "a": 3.0}, 3)
    curves, damage = read_curves(table.path)
    assert not damage
    assert curves["weights_digest"].fillna("").tolist() == ["12e4", "", "0a"]
    assert curves["a"].tolist() == [1.0, 2.5, 3.0]
