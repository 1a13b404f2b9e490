"""What the claims look for is what the experiments run, key by key."""

from __future__ import annotations

import contextlib
from pathlib import Path

import pytest
import yaml

from conftest import ROOT, command_line
from rethinkgen.report.claim_files import load_claims
from rethinkgen.report.claims import judge
from rethinkgen.report.comparisons import deviations
from rethinkgen.run.catalogue import latest_entries
from rethinkgen.run.quantities import property_of
from rethinkgen.run.run import Run, read_runs
from rethinkgen.run.where import matches
from rethinkgen.sweep import grid

CLAIMED = sorted({claim.command.rpartition("=")[2] for claim in load_claims()})
SAME_RUNS = {
    "zhang2017/figure_1c": "zhang2017/figure_1b",
    "zhang2017/figure_2a": "zhang2017/table_2",
    "zhang2019/joint_fcn": "zhang2019/fcn_5x256",
}
"""Figures that another experiment's runs are drawn from."""
EXPERIMENTS = [name for name in CLAIMED if name not in SAME_RUNS]
SMALLER = {
    "arpit2017": {
        "data.num_train",
        "data",
        "data.source",
        "model",
        "model.width",
        "model.depth",
        "image_shape",
        "optimizer.lr",
    },
    "fort2019": {"data.num_train", "data", "data.source"},
}
"""Paper -> the keys by which its experiments, which two cores can run, are not the paper's own: its stand-ins."""
SEVERAL = ("table_1.", "table_4.", "theorem_1.", "table_2.random_labels.regularized")
"""Claims about all of several settings: what the paper leaves open, or says of any."""


def cells_of(experiment: str, folder: Path, monkeypatch: pytest.MonkeyPatch) -> list[Run]:
    """Return the runs that an experiment would make, none of which is begun: the index names them."""
    monkeypatch.setattr(grid, "launch", lambda *_: [])
    arguments = [f"results_dir={folder}", "seed=0", f"data.root={folder}", "trainer=cpu", "hydra/launcher=basic"]
    with contextlib.suppress(SystemExit):
        command_line("-m", f"+experiment={experiment}", *arguments)
    return read_runs([sweep for sweep in sorted(folder.glob("*-*")) if latest_entries(sweep)])


def seeds_of(experiment: str) -> list[str]:
    config = yaml.safe_load((ROOT / "conf/experiment" / f"{experiment}.yaml").read_text())
    sweeper = config["hydra"]["sweeper"]
    given = [grid["seed"] for grid in [sweeper.get("params", {}), *sweeper.get("grids", ())] if "seed" in grid]
    return sorted({seed for seeds in given for seed in str(seeds).split(",")})


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_every_claim_finds_its_runs_and_they_are_of_its_protocol(
    experiment: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = cells_of(experiment, tmp_path, monkeypatch)
    assert {run.state for run in runs} == {"missing"}
    drawn = [experiment, *(figure for figure, drawn_from in SAME_RUNS.items() if drawn_from == experiment)]
    claims = [claim for claim in load_claims() if claim.command.rpartition("=")[2] in drawn]
    assert claims
    num_seeds = len(seeds_of(experiment))
    for claim in claims:
        choosing = {"data.validation": 0.1}
        # Papers whose claims are about held-out images hold some out in every run.
        is_choosing = claim.tuned is not None or claim.paper.name not in SMALLER
        bearing = [run for run in runs if matches(run, claim.runs) and not (is_choosing and matches(run, choosing))]
        if claim.tuned:
            assert claim.tuned.held_out == choosing
            strengths = {run.key(claim.tuned.key) for run in runs if matches(run, claim.runs | choosing)}
            assert 0 in strengths
            assert len(strengths) > claim.tuned.at_least
        assert bearing, claim.id
        departing = {found.key for run in bearing for found in deviations(run, claim)}
        assert departing <= SMALLER.get(experiment.partition("/")[0], set()), claim.id
        assert not departing or claim.trend, claim.id
        for name, setting in claim.settings.items():
            assert any(matches(run, setting) for run in bearing), (claim.id, name)
        if claim.across:
            levels = {property_of(run, claim.across.key) for run in bearing}
            assert levels >= set(claim.across.including), claim.id
            assert len(levels) >= claim.across.at_least, claim.id
        assert claim.seeds <= num_seeds, claim.id
        groups = {run.setting("seed", "data.seed", "data.order_seed", *claim.vary) for run in bearing}
        assert len(groups) == 1 or claim.id.startswith(SEVERAL), claim.id
    assert {verdict.verdict for verdict in judge(runs)} == {"not enough runs"}
