"""Imports go one way, wherever in a file they stand: DESIGN, section 8."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

import rethinkgen

ORDER = ("data", "measure", "train", "model", "run", "sweep", "report", "label_errors", "publish", "commands")
"""A package may import those before it, and the modules at the top; these import none of them."""
ROOT = Path(rethinkgen.__file__).parent
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in ROOT.rglob("*.py")}


def imports(module: str) -> Iterator[str]:
    """Yield which of our modules are imported in ``module``, in functions too, but for types alone."""
    tree = ast.parse(MODULES[module].read_text())
    only_types = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in only_types:
            continue
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            names = [node.module, *(f"{node.module}.{alias.name}" for alias in node.names)]
        for name in names:
            inside = name.removeprefix("rethinkgen.")
            if name != inside and (found := inside if inside in MODULES else f"{inside}.__init__") in MODULES:
                yield found


@pytest.mark.parametrize("module", sorted(MODULES))
def test_a_package_imports_only_what_lies_before_it(module: str) -> None:
    def place(name: str) -> int:
        return ORDER.index(name.split(".")[0]) if "." in name else -1

    assert {f"{module} -> {other}" for other in imports(module) if place(other) > place(module)} == set()


def test_no_module_imports_itself_by_way_of_others() -> None:
    graph = {module: {other for other in imports(module) if not other.endswith("__init__")} for module in MODULES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(reversed(error.args[1])))
