"""What ``docs/measures.md`` shows: the measure of one's own, done as it says from a folder outside, and the table."""

from __future__ import annotations

import re
import shlex
import shutil
import sys
from pathlib import Path

import pandas as pd

from conftest import ROOT, Measure
from rethinkgen.run.run import read_runs

TEXT = (ROOT / "docs/measures.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"```(?:python|yaml)\n# (\S+)\n(.*?)```", TEXT, flags=re.DOTALL))
(COMMAND,) = re.findall(r"^python measure.py (--config-dir .*)$", TEXT, flags=re.MULTILINE)
NOTEBOOK = re.findall(r"```python\n(import rethinkgen\n.*?)```", TEXT, flags=re.DOTALL)


def test_a_measure_of_ones_own(small_sweep: Path, tmp_path: Path, measure: Measure) -> None:
    shutil.copytree(small_sweep, tmp_path / "multirun" / "runs")
    for name, content in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    before = list(sys.path)
    try:
        assert measure(*shlex.split(COMMAND)) == 0
        found = pd.read_csv(tmp_path / "multirun" / "runs" / "measures.csv")
        assert len(found) == 4
        assert found["measure/confidence(above=0.5)/mean"].between(0.1, 1).all()
        (run, *_) = read_runs([tmp_path / "multirun" / "runs"])
        (told,) = run.measured[0]
        examples = told.table("examples")
        assert len(examples["index"]) == 200
        assert abs(examples["confidence"].mean() - told.numbers["mean"]) < 1e-6
        sys.path.append(str(tmp_path))
        for block in NOTEBOOK:
            exec(
                compile(block.replace("multirun/runs/digits-none-inception-seed0-...", str(run.path)), "page", "exec"),
                {},
            )
    finally:
        sys.path[:] = before
        sys.modules.pop("my_measures", None)


def test_the_table_lists_every_measure() -> None:
    files = sorted((ROOT / "conf" / "measure").glob("*.yaml"))
    rows = [f"| `{path.stem}` | {path.read_text().splitlines()[0].removeprefix('# ')} |" for path in files]
    assert rows == [line for line in TEXT.splitlines() if line.startswith("| `")]
