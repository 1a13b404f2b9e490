"""What ``import rethinkgen`` gives: all that a notebook needs, and nothing before it is asked for."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import rethinkgen
from rethinkgen.run.build import names_of_ours

PACKAGE = Path(rethinkgen.__file__).parent


@pytest.mark.parametrize("place", ["model", "data.corruption", "data.source"])
def test_every_class_that_a_config_may_name_is_there(place: str) -> None:
    for full_name in names_of_ours(place):
        name = full_name.rpartition(".")[2]
        assert f"{getattr(rethinkgen, name).__module__}.{name}" == full_name
        assert name in dir(rethinkgen)


def test_editors_are_told_the_same_names() -> None:
    (guarded,) = (node for node in ast.parse((PACKAGE / "__init__.py").read_text()).body if isinstance(node, ast.If))
    told = {
        alias.asname: f"{node.module}.{alias.name}"
        for node in guarded.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    assert told == {name: f"{module}.{name}" for name, module in rethinkgen._MODULE_OF.items()}


def test_no_name_is_that_of_a_part_of_the_package() -> None:
    parts = {path.stem for path in PACKAGE.iterdir()}
    assert not parts & set(dir(rethinkgen))
    assert rethinkgen.__version__.count(".") == 2
    with pytest.raises(AttributeError, match=r"has no attribute 'Mlp'\. It has .*MLP"):
        rethinkgen.Mlp  # noqa: B018


def test_nothing_is_imported_before_it_is_asked_for() -> None:
    heavy = "{'torch', 'hydra', 'numpy', 'pandas'}"
    code = f"import rethinkgen, sys; dir(rethinkgen); print(sorted({heavy} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
