"""Plant faults in the layer of numbers, one after another, and count those that its tests find.

    uv run --group mutants python tests/mutants.py

With ``--resume`` it does what an interrupted command, or one before a new file, has left to do, and tries again what
survived: tests may have come since.

Which files, and by which tests: ``[tool.mutmut]`` in ``pyproject.toml``. What changes nothing that anybody could see is
in ``equivalent_mutants.yaml``, each with a reason, and is not counted. The share is noted in ``mutants_noted.json``,
beside digests of the files, and in ``CONTRIBUTING.md``; ``test_mutants.py`` asks for a new run when a file has changed.
"""

from __future__ import annotations

import ast
import datetime
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import time
import tomllib
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[1]
NOTED = ROOT / "tests" / "mutants_noted.json"
EQUIVALENT = ROOT / "tests" / "equivalent_mutants.yaml"
CONTRIBUTING = ROOT / "CONTRIBUTING.md"
LEAST_SHARE = 0.9
FOUND = ("killed", "timeout", "caught by type check")
SENTENCE = re.compile(r"Last run on [\d-]+: [\d,]+ of [\d,]+ planted faults found \([\d.]+ %\)")


def sentence(noted: dict[str, Any]) -> str:
    """What ``CONTRIBUTING.md`` says of a run."""
    found, planted = noted["found"], noted["planted"]
    return f"Last run on {noted['date']}: {found:,} of {planted:,} planted faults found ({100 * found / planted:.1f} %)"


def mutated_files() -> list[str]:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["mutmut"]
    return sorted(settings["only_mutate"])


def digest(path: Path) -> str:
    """Of a Python file's code: comments on lines of their own, docstrings and empty lines do not count."""
    text = path.read_text()
    lines = dict(enumerate(text.splitlines(), 1))
    for node in ast.walk(ast.parse(text)):
        # A string that stands alone is a docstring, or the text below a constant.
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            for number in range(node.lineno, (node.end_lineno or node.lineno) + 1):
                lines.pop(number, None)
    code = [line.rstrip() for line in lines.values() if line.strip() and not line.lstrip().startswith("#")]
    return hashlib.sha256("\n".join(code).encode()).hexdigest()[:16]


def mutmut(*arguments: str) -> str:
    command = [sys.executable, "-m", "mutmut", *arguments]
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


def outcomes() -> dict[str, str]:
    """Return mutant -> ``killed``, ``survived``, ..."""
    lines = [line.strip() for line in mutmut("results", "--all", "true").splitlines()]
    return dict(line.rsplit(": ", 1) for line in lines if "__mutmut_" in line)  # type: ignore[misc]


def change(mutant: str) -> tuple[str, str, str]:
    """Return the function that a fault is in, what stood there, and what stands there instead."""
    function = re.sub(r"__mutmut_\d+$", "", mutant)
    function = re.sub(r"(.*)\.xǁ(\w+)ǁ", r"\1.\2.", function)
    function = re.sub(r"(.*)\.x_", r"\1.", function)
    before, after = [], []
    for line in mutmut("show", mutant).splitlines():
        if line.startswith("-") and not line.startswith("---"):
            before.append(line[1:].strip())
        elif line.startswith("+") and not line.startswith("+++"):
            after.append(line[1:].strip())
    return function, " ".join(before), " ".join(after)


def main() -> int:
    if "--resume" not in sys.argv[1:]:
        shutil.rmtree(ROOT / "mutants", ignore_errors=True)
    began = time.monotonic()
    # One thread each, as there is a process on each core.
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-m", "mutmut", "run", "--max-children", "2"]
    subprocess.run(command, cwd=ROOT, check=True, env=environment)
    if "--resume" in sys.argv[1:] and (again := [name for name, outcome in outcomes().items() if outcome not in FOUND]):
        subprocess.run([*command, *again], cwd=ROOT, check=True, env=environment)
    minutes = (time.monotonic() - began) / 60

    found = outcomes()
    equivalent = {(one["in"], one["from"], one["to"]) for one in yaml.safe_load(EQUIVALENT.read_text()) or []}
    survived = {mutant: change(mutant) for mutant, outcome in found.items() if outcome not in FOUND}
    counted = {mutant: where for mutant, where in survived.items() if where not in equivalent}
    for mutant, (function, before, after) in counted.items():
        print(f"\n{found[mutant]}: {mutant}\n- in: {function}\n  from: {before!r}\n  to: {after!r}")
    for function, before, _ in sorted(equivalent - {*survived.values()}):
        print(f"\nno longer survives, or no longer planted: {function}: {before}")
    planted = len(found) - (len(survived) - len(counted))
    noted = {
        "date": datetime.date.today().isoformat(),
        "planted": planted,
        "found": planted - len(counted),
        "equivalent": len(survived) - len(counted),
        "files": {path: digest(ROOT / path) for path in mutated_files()},
    }
    NOTED.write_text(json.dumps(noted, indent=2) + "\n")
    CONTRIBUTING.write_text(SENTENCE.sub(sentence(noted), CONTRIBUTING.read_text()))
    print(f"\n{sentence(noted)}; {noted['equivalent']} more change nothing. {minutes:.0f} minutes.")
    return 0 if noted["found"] >= LEAST_SHARE * planted else 1


if __name__ == "__main__":
    sys.exit(main())
