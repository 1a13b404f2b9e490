"""Two hundred damaged files of runs and sweeps: each costs its own row at most, is named, and keeps nobody waiting."""

from __future__ import annotations

import csv
import random
import shutil
from pathlib import Path

import pytest

from damage import ANYWHERE, NEVER_BEGUN, OF_A_RUN, OF_A_SWEEP, write_sweep
from rethinkgen.commands.report import main
from rethinkgen.report.tables import tables
from rethinkgen.run.run import Run, damage_of, read_runs
from rethinkgen.sweep.summary import Summary

NUM_SWEEPS = 34
"""Of six to eight files each."""


def told(run: Run) -> tuple[object, ...]:
    """Return what a report is given of a run."""
    return run.state, run.reason, run.choices, run.config, run.metrics, run.setting(), run.curves.to_csv(), run.damage


def damaged(sweep: Path, chance: random.Random, num_files: int) -> tuple[set[str], set[Path]]:
    """Damage files of a sweep, of each run at most one; return the names of the runs, and all damaged files."""
    runs = [path for path in sorted(sweep.iterdir()) if path.is_dir()]
    files = [run / chance.choice([name for name in OF_A_RUN if (run / name).exists()]) for run in runs]
    files = [*chance.sample(files, num_files), sweep / chance.choice(OF_A_SWEEP)]
    for file in files:
        chance.choice(ANYWHERE)(file, chance)
    # Of a run that nobody has begun only the sweep's own file tells.
    return {file.parent.name if file.parent != sweep else NEVER_BEGUN for file in files}, set(files)


def test_a_damaged_file_costs_its_own_row_only(tmp_path: Path) -> None:
    chance = random.Random(0)
    write_sweep(tmp_path / "whole")
    whole = {run.path.name: told(run) for run in read_runs([tmp_path / "whole"])}
    num_damaged = num_noticed = 0
    for number in range(NUM_SWEEPS):
        sweep = tmp_path / f"{number}"
        shutil.copytree(tmp_path / "whole", sweep)
        hit, files = damaged(sweep, chance, num_files=5)
        num_damaged += len(files)
        runs = {run.path.name: run for run in read_runs([sweep])}
        assert whole.keys() - runs.keys() <= hit
        for name, run in runs.items():
            if name in hit:
                num_noticed += told(run) != whole[name]
                if run.state == "failed" and name != NEVER_BEGUN:
                    # Named, with what to do and nothing that could be lost by it.
                    assert str(run.path) in run.reason
                    assert "emove" not in run.reason
            elif name in whole:
                assert told(run) == whole[name], name
        assert all(str(sweep) in line for line in damage_of(sweep))
        with Summary(sweep.resolve()).write().open(newline="") as file:
            rows = {row["run"]: row for row in csv.DictReader(file)}
        unhurt = whole.keys() - hit - {NEVER_BEGUN}
        assert {name: rows[name]["state"] for name in unhurt} == {name: whole[name][0] for name in unhurt}
        assert tables(list(runs.values()))
    assert num_damaged >= 200
    assert num_noticed > 90


@pytest.mark.parametrize("seed", [1])
def test_the_page_is_made_and_names_what_is_damaged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], seed: int
) -> None:
    sweep = tmp_path / "sweep"
    runs = write_sweep(sweep)
    chance = random.Random(seed)
    names = ["metrics.csv", "result.json", "config.yaml", "identity.json", "status.json", "metrics.csv"]
    for run, name in zip(runs, names, strict=False):
        if (run / name).exists():
            (run / name).write_bytes((run / name).read_bytes().replace(b"0", b"\xb0", 1))
    put = ANYWHERE[chance.randrange(len(ANYWHERE))]
    put(sweep / "commands.txt", chance)
    assert main([str(sweep)]) == 0
    printed = capsys.readouterr().out
    page = (sweep / "report" / "index.html").read_text()
    assert "Damaged files" in page
    for run, name in ((runs[0], "metrics.csv"), (runs[1], "result.json"), (runs[3], "identity.json")):
        assert f"{run.name}/{name}" in printed
        assert f">{run.name}<" in page
    # Two finished runs of the same setting, one of them damaged: one row with the other.
    assert "6 of 9 runs finished, 1 interrupted, 1 failed, 1 missing." in printed
