from __future__ import annotations

from pathlib import Path

from rethinkgen.report.contents import gather
from rethinkgen.run.run import read_runs
from run_folders import write_run


def test_what_all_sweeps_are_called_is_said_once(tmp_path: Path) -> None:
    sweeps = [tmp_path / name for name in ("zhang2017-table_1", "zhang2017-figure_1c-digits", "mine")]
    for seed, sweep in enumerate(sweeps):
        write_run(sweep, seed=seed)
    write_run(sweeps[0], seed=3)
    assert gather(read_runs(sweeps[:1]), "").title == "zhang2017-table_1"
    assert gather(read_runs(sweeps[:2]), "").title == "zhang2017: table_1 + figure_1c-digits"
    assert gather(read_runs(sweeps), "").title == "zhang2017-table_1 + zhang2017-figure_1c-digits + mine"


def test_a_data_set_is_named_once_with_its_subsets_in_order(tmp_path: Path) -> None:
    for seed, size in enumerate((2000, None, 500)):
        write_run(tmp_path, seed=seed, keys={"data.num_train": size})
    facts = dict(gather(read_runs([tmp_path]), "").facts)
    assert facts["Data"] == "cifar10 (500, 2,000, all training examples)"


def test_of_many_sweeps_three_are_in_the_title_and_a_single_run_has_its_own(tmp_path: Path) -> None:
    sweeps = [tmp_path / f"mine-{number}" for number in range(5)]
    for sweep in sweeps:
        write_run(sweep, seed=int(sweep.name[-1]))
    assert gather(read_runs(sweeps), "").title == "mine: 0 + 1 + 2 + 2 more"
    assert gather(read_runs(sweeps[:4]), "").title == "mine: 0 + 1 + 2 + 3"
    assert gather(read_runs(sweeps[:1]), "").title == "cifar10-none-mlp_1x512-seed0"
