"""Files are UTF-8 whatever the locale; what is printed is told in ``test_console.py``."""

from __future__ import annotations

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT, TINY
from rethinkgen.files import append_line, write_atomically
from rethinkgen.run.folder import RunFolder, checksum
from rethinkgen.sweep.index import Index

SOURCES = sorted((ROOT / "src").rglob("*.py"))


def opens_in_the_locales_encoding(call: ast.Call) -> bool:
    """Whether a call opens what may be a text file without a word on its encoding; ruff's PLW1514 overlooks some."""
    name = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    if name not in ("open", "fdopen", "read_text", "write_text", "TextIOWrapper", "NamedTemporaryFile"):
        return False
    if name == "open" and isinstance(call.func, ast.Attribute) and ast.unparse(call.func.value) in NO_TEXT:
        return False
    texts = [each.value for each in ast.walk(call) if isinstance(each, ast.Constant) and isinstance(each.value, str)]
    is_binary = any("b" in text and set(text) <= set("rwaxb+") for text in texts)
    return not is_binary and all(keyword.arg != "encoding" for keyword in call.keywords)


NO_TEXT = ("os", "Image", "archive")
"""Whose ``open`` gives a descriptor, pixels or bytes."""


@pytest.mark.parametrize(
    ("text", "is_found"),
    [
        ("path.open()", True),
        ("open(path, 'a', newline='')", True),
        ("os.fdopen(1, 'w', buffering=1)", True),
        ("path.read_text(errors='replace')", True),
        ("path.write_text(b)", True),
        ("path.open('rb')", False),
        ("open(path, mode='xb')", False),
        ("path.read_text(encoding='utf-8')", False),
        ("os.open(path, os.O_RDONLY)", False),
    ],
)
def test_what_is_found(text: str, is_found: bool) -> None:
    call = ast.parse(text, mode="eval").body
    assert isinstance(call, ast.Call)
    assert opens_in_the_locales_encoding(call) == is_found


def test_no_file_is_opened_in_the_locales_encoding() -> None:
    found = [
        f"{path.relative_to(ROOT)}:{node.lineno}"
        for path in SOURCES
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Call) and opens_in_the_locales_encoding(node)
    ]
    assert found == []


def test_a_name_in_no_encoding_costs_no_file(tmp_path: Path) -> None:
    write_atomically(tmp_path / "whole", "caf\udce9 →")
    append_line(tmp_path / "whole", "caf\udce9")
    assert (tmp_path / "whole").read_text(encoding="utf-8") == "caf\\udce9 →\ncaf\\udce9\n"


def test_facts_with_a_name_in_no_encoding_are_read_again(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path)
    name = os.fsdecode(b"caf\xe9")
    folder.write_status("failed", reason=name, overrides=[f"data.root={name}"])
    folder.write_config({"data": {"root": name}}, [f"data.root={name}"])
    folder.add_to_identity(run_id="0" * 14, contents={"file": name})
    told = "caf\\udce9"
    assert folder.read_status()["overrides"] == [f"data.root={told}"]
    assert (folder.read_config() or {})["data"]["root"] == told
    assert folder.read_identity()["contents"]["file"] == told
    folder.write_result({"overrides": [name]})
    written = json.loads(folder.result.read_text())
    assert written["checksum"] == checksum(written)
    assert written["overrides"] == [told]


def test_a_sweep_knows_cells_with_names_in_no_encoding(tmp_path: Path) -> None:
    """As where the locale is C, and Python takes a name in UTF-8 for bytes."""
    assert Index(tmp_path, [], []).find([os.fsdecode(b"data.root=caf\xe9")]) is None


def test_a_run_where_all_is_ascii(tmp_path: Path) -> None:
    """The strictest locale there is, on every system; Python would take C for UTF-8 by itself."""
    command = [sys.executable, str(ROOT / "train.py"), *TINY, "max_steps=20", f"results_dir='{tmp_path}/é'"]
    environment = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    ran = subprocess.run(command, env=environment, capture_output=True, check=False, timeout=120)
    assert ran.returncode == 0, ran.stderr
    (log,) = tmp_path.glob("é/*/*/train.log")
    assert ran.stdout.startswith(f"{log.parent.name}  -> {log.parent}\n".encode())
    assert f"results_dir='{tmp_path}/é'" in log.read_text(encoding="utf-8")
    assert log.read_text(encoding="utf-8").splitlines()[-1].endswith("the budget of 20 steps is used up.")
