from __future__ import annotations

import os
import time
from pathlib import Path
from random import Random

import numpy as np
import pytest

from damage import nest, put_a_bomb
from rethinkgen.errors import DamagedFileError
from rethinkgen.files import append_line, csv_cell, is_locked, lock
from rethinkgen.received import opened_arrays, parse_json, read_bytes, read_json, read_lines, read_text, read_yaml


@pytest.fixture(params=["a folder", "a FIFO", "a link to a device", "a link to itself", "a link to a file"])
def odd(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    """What is no regular file, and would be waited for, read without end, or lead out of the folder."""
    path = tmp_path / "result.json"
    (tmp_path / "elsewhere").write_text("{}")
    make = {
        "a folder": path.mkdir,
        "a FIFO": lambda: os.mkfifo(path),
        "a link to a device": lambda: path.symlink_to("/dev/zero"),
        "a link to itself": lambda: path.symlink_to(path.name),
        "a link to a file": lambda: path.symlink_to("elsewhere"),
    }
    make[request.param]()
    return path


def test_only_a_regular_file_is_read_locked_and_added_to(odd: Path) -> None:
    for read in (read_bytes, read_text, read_lines, read_json, read_yaml):
        with pytest.raises(DamagedFileError, match=r"result\.json cannot be read \(it is "):
            read(odd)
    with pytest.raises(DamagedFileError, match="no regular file"):
        append_line(odd, "more")
    with pytest.raises(DamagedFileError, match="no regular file"), lock(odd, patience=0):
        pass
    assert not is_locked(odd)
    assert (odd.parent / "elsewhere").read_text() == "{}"


def test_what_is_not_there_is_nothing(tmp_path: Path) -> None:
    for path in (tmp_path / "a", tmp_path / "file" / "a"):
        (tmp_path / "file").touch()
        assert (read_bytes(path), read_text(path), read_json(path), read_yaml(path)) == (None, None, None, None)
        assert read_lines(path) == []


def test_size_is_bounded(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(b"12345")
    assert read_bytes(path, 5) == b"12345"
    with pytest.raises(DamagedFileError, match="its 5 bytes are more than 4"):
        read_bytes(path, 4)
    # A hole takes no room on a disk.
    with path.open("r+b") as file:
        file.truncate(2**40)
    with pytest.raises(DamagedFileError, match="are more than"):
        read_json(path)


@pytest.mark.parametrize("suffix", ["json", "yaml"])
def test_depth_is_bounded(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    read = {"json": read_json, "yaml": read_yaml}[suffix]
    for seed in range(6):
        nest(path, Random(seed))
        with pytest.raises(DamagedFileError, match="nest"):
            read(path)
    path.write_text('{"a": ' * 40 + "1" + "}" * 40)
    assert read(path) is not None


def test_a_yaml_bomb_is_refused_at_once(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    put_a_bomb(path, Random(0))
    began = time.process_time()
    with pytest.raises(DamagedFileError, match=r"config\.yaml is damaged \(it has an alias, \*a0\)"):
        read_yaml(path)
    path.write_text("a: [" + "1, " * 200_000 + "1]")
    with pytest.raises(DamagedFileError, match="more than 100,000 values"):
        read_yaml(path)
    assert time.process_time() - began < 3


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[1]",
        "a: [",
        "a: !!python/object/apply:os.system [ls]",
        "a: 2020-01-01",
        "a: !!binary AA==",
        "\0",
        "? [a]\n: b",
    ],
)
def test_yaml_that_json_does_not_have_is_damage(tmp_path: Path, text: str) -> None:
    (tmp_path / "a").write_text(text)
    with pytest.raises(DamagedFileError, match="is damaged"):
        read_yaml(tmp_path / "a")


@pytest.mark.parametrize("text", [b"", b"[1]", b'{"a": "\\ud800"}', b"\xff", b"{"])
def test_what_is_no_object_is_damage(text: bytes) -> None:
    with pytest.raises(ValueError):
        parse_json(text)


def test_a_line_stands_on_its_own_after_a_torn_one(tmp_path: Path) -> None:
    path = tmp_path / "a"
    append_line(path, "one")
    with path.open("a") as file:
        file.write("to")
    append_line(path, "two")
    assert path.read_text() == "one\nto\ntwo\n"
    with pytest.raises(FileNotFoundError):
        append_line(tmp_path / "b", "one", create=False)


@pytest.mark.parametrize(
    ("value", "written"),
    [
        ("=HYPERLINK(1)", "'=HYPERLINK(1)"), ("+a", "'+a"), ("-a", "'-a"), ("@a", "'@a"), ("\t=1", "'\t=1"),
        ("-1.5", "-1.5"), ("+3", "+3"), ("-inf", "-inf"), ("a=b", "a=b"), (-2, -2), (None, None), ("", ""),
    ],
)  # fmt: skip
def test_a_text_that_a_spreadsheet_would_run_is_neutralised(value: object, written: object) -> None:
    assert csv_cell(value) == written


def test_whatever_bit_of_an_archive_is_flipped_is_damage_or_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "examples.npz"
    column = np.arange(400) % 7
    np.savez_compressed(path, index=column)
    whole = path.read_bytes()
    told = []
    for place in range(0, len(whole), 3):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        try:
            with opened_arrays(path) as stored:
                assert np.array_equal(stored["index"], column)
        except DamagedFileError as error:
            told.append(str(error))
    assert len(told) > len(whole) // 6
    assert all(line.startswith(f"{path} is damaged (") for line in told)
    path.unlink()
    with opened_arrays(path) as stored:
        assert stored is None
