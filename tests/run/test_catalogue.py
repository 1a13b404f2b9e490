"""What a sweep's folder remembers is read line by line: a damaged line costs itself alone, and no line leads away."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from rethinkgen.run.catalogue import COMMANDS, FILE_NAME, damage, each_line, latest_entries, read_commands


def line(key: str, folder: str, **more: Any) -> str:
    return json.dumps({"key": key, "folder": folder, "configs": "today", **more}) + "\n"


def write(folder: Path, *lines: str) -> Path:
    folder.mkdir(exist_ok=True)
    (folder / FILE_NAME).write_text("".join(lines))
    return folder


def names(folder: Path) -> list[str]:
    return sorted(entry["folder"] for entry in latest_entries(folder))


def test_a_later_line_of_a_cell_replaces_the_earlier(tmp_path: Path) -> None:
    sweep = write(tmp_path / "sweep", line("a", "before"), line("b", "other"), line("a", "after"))
    assert names(sweep) == ["after", "other"]
    assert [entry["folder"] for _, entry in each_line(sweep)] == ["before", "other", "after"]


def test_the_latest_are_those_of_todays_configs(tmp_path: Path) -> None:
    sweep = write(tmp_path / "sweep", line("a", "old", configs="yesterday"), line("b", "new"))
    assert {entry["folder"]: entry["is_latest"] for entry in latest_entries(sweep)} == {"old": False, "new": True}


def test_cells_in_the_folder_beside_are_found_from_there(tmp_path: Path) -> None:
    sweep = write(tmp_path / "sweep", line("a", "here"), line("b", "../sweep-mnist/there"))
    beside = tmp_path / "sweep-mnist"
    beside.mkdir()
    assert names(sweep) == ["here"]
    assert names(beside) == ["there"]
    assert latest_entries(tmp_path / "nowhere") == []


@pytest.mark.parametrize(
    "bad",
    [
        line("a", "whole")[:-9],
        "[]\n",
        "\0\0\0\n",
        line("b", "/etc/run"),
        line("b", "../../up/run"),
        line("b", ".."),
        line("b", "../alone"),
        line("b", "x/../y"),
        line("b", "x", config="no node"),
        json.dumps({"key": 5, "folder": "x"}) + "\n",
        json.dumps({"key": "b"}) + "\n",
    ],
)
def test_a_damaged_line_costs_itself(tmp_path: Path, bad: str) -> None:
    sweep = write(tmp_path / "sweep", line("a", "first"), bad, "\n", line("c", "last"))
    assert names(sweep) == ["first", "last"]
    assert damage(sweep).startswith(f"{sweep / FILE_NAME} is damaged (1 line):")
    write(sweep, line("a", "first"), "\n", line("c", "last"))
    assert damage(sweep) == ""


def test_what_is_no_file_is_damage_and_costs_no_report(tmp_path: Path) -> None:
    sweep = tmp_path / "sweep"
    (sweep / FILE_NAME).mkdir(parents=True)
    assert latest_entries(sweep) == list(each_line(sweep)) == []
    assert str(sweep / FILE_NAME) in damage(sweep)


def test_commands_come_without_their_times_and_without_what_is_damaged(tmp_path: Path) -> None:
    assert read_commands(tmp_path) == ([], "")
    (tmp_path / COMMANDS).write_bytes(
        b"2026-11-26T12:00:00 python train.py -m seed=1,2\n\n2026 \x1b[31mred\n2026 \xff\xfe\n2026 python train.py\n"
    )
    commands, said = read_commands(tmp_path)
    assert commands == ["python train.py -m seed=1,2", "python train.py"]
    assert said == f"{tmp_path / COMMANDS} is damaged: 2 of its 4 lines are left out."
