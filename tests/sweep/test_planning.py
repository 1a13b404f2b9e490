"""What is planned for a cell is what Hydra composes for it, and takes a composition for each set of choices alone."""

from __future__ import annotations

import itertools
import json
import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from hydra.types import HydraContext, RunMode
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from conftest import ROOT
from hydra_plugins.rethinkgen_grid import GridSweeper
from rethinkgen.run import catalogue
from rethinkgen.run.description import Description, resolved_config
from rethinkgen.run.identity import normalised
from rethinkgen.sweep import grid, planning
from rethinkgen.sweep.jobs import Job
from rethinkgen.sweep.planning import Planner
from rethinkgen.sweep.references import References

EXPERIMENTS = sorted(
    path.relative_to(ROOT / "conf/experiment").with_suffix("").as_posix()
    for path in (ROOT / "conf/experiment/zhang2017").glob("*.yaml")
)
SEEDS = ("seed=", "data.seed=")


class Planned:
    """A planner of ``train.py -m`` with some overrides, and what Hydra itself makes of the same cells."""

    def __init__(self, *command: str) -> None:
        loader = GlobalHydra.instance().config_loader()
        self.master = loader.load_configuration("train", list(command), run_mode=RunMode.MULTIRUN)
        self.context = HydraContext(config_loader=loader, callbacks=None)  # type: ignore[arg-type]
        self.planner = Planner(self.context, self.master)
        self.num_composed = 0

        def counted(*arguments: Any) -> DictConfig:
            self.num_composed += 1
            return type(loader).load_sweep_config(loader, *arguments)

        loader.load_sweep_config = counted  # type: ignore[method-assign]

    def cells(self) -> list[list[str]]:
        own: Any = OmegaConf.to_container(self.master.hydra.sweeper, resolve=True)
        sweeper = GridSweeper(own["params"], own["grids"])
        sweeper.hydra_context, sweeper.config = self.context, self.master
        return sweeper.cells(list(self.master.hydra.overrides.task))

    def plan(self, *cells: Sequence[str]) -> list[tuple[Job, Description]]:
        return [self.planner.plan(cell, number) for number, cell in enumerate(cells)]

    def composed(self, cell: Sequence[str], number: int) -> DictConfig:
        config = self.context.config_loader.load_sweep_config(self.master, list(cell))
        with open_dict(config.hydra.job):
            config.hydra.job.id, config.hydra.job.num = str(number), number
        return config

    def place_of(self, cell: Sequence[str], number: int) -> Path:
        config = self.composed(cell, number)
        return Path(config.hydra.sweep.dir).absolute() / config.hydra.sweep.subdir

    def check(self, cell: Sequence[str], number: int, job: Job, description: Description) -> None:
        """The job must be what Hydra composes for a cell of a sweep."""
        composed = self.composed(cell, number)
        assert job.cell is not None
        assert job.overrides == list(cell)
        assert job.path == Path(composed.hydra.sweep.dir).absolute() / composed.hydra.sweep.subdir
        whole = job.cell.compose()
        assert repr(as_told(whole)) == repr(as_told(composed))
        launcher = OmegaConf.to_container(composed.hydra.launcher, resolve=True)
        assert repr(job.cell.launcher_values()) == repr(launcher)
        assert repr(description.config) == repr(normalised(resolved_config(composed)))
        assert description.overrides == composed.hydra.overrides.task
        assert job.trainer == composed.trainer


def as_told(config: DictConfig) -> Any:
    return OmegaConf.to_container(config, resolve=False)


def seeds(*overrides: str, of: str = "seed") -> list[list[str]]:
    return [[*overrides, f"{of}={seed}"] for seed in (1, 2, 3)]


@pytest.fixture(autouse=True)
def in_hydra(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    with initialize_config_dir(str(ROOT / "conf")):
        yield


@pytest.mark.parametrize("experiment", EXPERIMENTS)
def test_cells_of_experiments_are_what_hydra_composes(experiment: str) -> None:
    planned = Planned(f"+experiment={experiment}", "data=digits", "seed=3,0,8", "data.seed=1,3")
    groups: dict[tuple[str, ...], list[list[str]]] = {}
    for cell in planned.cells():
        groups.setdefault(tuple(item for item in cell if not item.startswith(SEEDS)), []).append(cell)
    # Two of the settings, all their seeds, of which the last are known without Hydra.
    draws = random.Random(experiment)
    group = [cell for key in draws.sample(sorted(groups), min(2, len(groups))) for cell in groups[key]]
    jobs = planned.plan(*group)
    assert planned.num_composed <= 2
    number = draws.randrange(len(group) - 4, len(group))
    job, description = jobs[number]
    planned.check(group[number], number, job, description)
    # Nor is it another run where it is no part of a sweep.
    alone = compose("train", [*planned.master.hydra.overrides.hydra, *group[number]], return_hydra_config=True)
    assert repr(description.config) == repr(resolved_config(alone))
    assert job.path == Path(alone.hydra.run.dir)


@pytest.mark.parametrize(
    ("cells", "num_composed"),
    [
        pytest.param(
            [["optimizer.lr=0.1", "seed=0"], ["optimizer.lr=1e-3", "seed=1"], ["optimizer.lr=1", "seed=2"]], 1
        ),
        pytest.param([[f"++data.corruption.strength={level}", "seed=1"] for level in (0.1, 0.2, 0.3)], 1),
        pytest.param([[f"+optimizer.nesterov={value}"] for value in ("true", "false", "true")], 1),
        pytest.param([["regularizer=[flip]", f"until_fit={value}"] for value in ("true", "false", "1")], 1),
        pytest.param([[f"schedule.at=[{at}]", "schedule=step"] for at in (0.1, 0.2, 0.3)], 3),
        pytest.param(seeds("data.seed=${seed}"), 1),
        pytest.param([[f"data.seed={seed}", "data.order_seed=${data.seed}"] for seed in (1, 2, 3)], 1),
        pytest.param([[f"data.order_seed={seed}"] for seed in (1, "null", 3)], 2),
        pytest.param([["trainer=ddp", f"trainer.devices={number}", "seed=1"] for number in (1, 2, 3)], 1),
        pytest.param([[f"model.width={width}", "model=mlp"] for width in (8, 16, 32)], 1),
        pytest.param(seeds("+hydra.job.env_set.NAME=1"), 1),
        # The order says which of two holds.
        pytest.param([["+data.own={a: 1}", f"data.own.a={value}"] for value in (1, 2, 3)], 3),
        pytest.param([[f"++data.own.a={value}", "++data.own={a: 7}"] for value in (1, 2, 3)], 3),
        pytest.param([[f"seed={value}", "++seed=7"] for value in (1, 2, 3)], 3),
        # Interpolations of one's own.
        pytest.param(seeds("+data.own={a: '${seed}', b: '${.a}', c: '${data.own.b}'}"), 1),
        pytest.param(seeds("+data.own={a: 'run-${seed}', b: ['${data.own.a}', 1]}"), 1),
        pytest.param(seeds("+data.own={a: '${data.${data.own.key}}', key: seed}", of="data.seed"), 1),
        pytest.param(seeds("+data.own='${oc.select:seed,5}'"), 1),
        pytest.param(seeds("+data.own=[1,{a: '${data.corruption}'}]"), 1),
        pytest.param(seeds("+data.own='${hydra.job.num}'"), 1),
        pytest.param(seeds("sweep='of_${seed}'"), 1),
        pytest.param(
            [["data.num_train='${for_data:5,{digits:100}}'", f"data.name={name}"] for name in ("a", "b", "digits")], 1
        ),
    ],
)
def test_values_of_every_kind_are_what_hydra_composes(cells: list[list[str]], num_composed: int) -> None:
    planned = Planned("hydra/launcher=slurm")
    jobs = planned.plan(*cells)
    assert planned.num_composed == num_composed
    planned.check(cells[-1], len(cells) - 1, *jobs[-1])


def test_a_grid_is_composed_once_for_each_set_of_choices() -> None:
    planned = Planned()
    axes = [["model=mlp", "model=mlp_1x512"], ["regularizer=[]", "regularizer=[flip]"]]
    axes += [[f"seed={seed}" for seed in range(30)], [f"model.learning_rate={rate}" for rate in (0.1, 0.01)]]
    cells = list(map(list, itertools.product(*axes)))
    jobs = planned.plan(*cells)
    assert planned.num_composed == 4
    assert len({job.path for job, _ in jobs}) == len(cells) == 240
    # What launchers look at is shared.
    assert len({id(job.trainer) for job, _ in jobs}) == 1


def test_what_follows_from_some_values_is_resolved_once_for_these(monkeypatch: pytest.MonkeyPatch) -> None:
    """``max_epochs`` follows from ``max_steps``; a cell of another seed is no reason to resolve it again."""
    resolved: list[DictConfig] = []

    def counted(config: DictConfig) -> dict[str, Any]:
        resolved.append(config)
        return resolved_config(config)

    monkeypatch.setattr(planning, "resolved_config", counted)
    planned = Planned()
    cells = [[f"max_steps={steps}", f"seed={seed}"] for seed in range(20) for steps in (5, 6, 7)]
    jobs = planned.plan(*cells)
    assert len(resolved) <= 6  # the first cell's, the second one's twice, and of the other numbers of steps
    for number in (3, 4, 5, 59):
        planned.check(cells[number], number, *jobs[number])


@pytest.mark.parametrize(
    "cell",
    [
        ["model=nothing"],
        ["mdoel=mlp"],
        ["max_step=3"],
        ["model=mlp", "model.widht=3"],
        ["data.seed=${sed}"],
        ["+seed=3"],
        ["seed=[1"],
        ["seed=1,2"],
        ["data.source=5", "data.source.root=here"],
        ["~data.nothing"],
        ["optimizer.lr=nan"],
        ["seed=???"],
        ["+lr=0.1"],
    ],
)
def test_a_bad_cell_is_refused_in_hydras_words(cell: list[str]) -> None:
    planned = Planned()
    planned.plan(["seed=1", "optimizer.lr=1"], ["seed=2", "optimizer.lr=2"], ["seed=3", "optimizer.lr=3"])
    errors = (HydraException, OmegaConfBaseException, ValueError)
    with pytest.raises(errors) as planning:
        planned.plan(["seed=5", "optimizer.lr=1"], cell)
    with pytest.raises(errors) as composing:
        planned.place_of(cell, 1)
    assert str(planning.value) == str(composing.value)
    assert type(planning.value) is type(composing.value)


TREE = {
    "seed": 0,
    "data": {"name": "digits", "seed": "${seed}", "order": "${.seed}", "root": "${oc.env:WHERE,here}"},
    "copy": "${data}",
    "both": ["${data.order}", "a ${copy.seed}"],
    "budget": "${for_data:1,{digits:2}}",
    "circle": "${other}",
    "other": "${circle}",
    "built": "${data.${key}}",
    "own": "${my_resolver:1}",
}


@pytest.mark.parametrize(
    ("place", "read"),
    [
        (("data", "order"), {"data.seed", "seed"}),
        (("data", "root"), set()),
        (("copy",), {"data", "data.seed", "seed"}),
        (("both", 0), {"data.order", "data.seed", "seed"}),
        (("both", 1), None),
        (("budget",), {"data.name"}),
        (("circle",), {"other", "circle"}),
        (("built",), None),
        (("own",), None),
    ],
)
def test_what_an_interpolation_reads(place: tuple[str | int, ...], read: set[str] | None) -> None:
    references = References(TREE)
    text = dict(references.below(TREE))[place]
    assert references.read_by(place, text) == read


def test_a_launcher_may_begin_to_warm_up_while_much_is_left_to_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = Planned()
    cells = [[f"seed={seed}", "model=mlp"] for seed in range(5)]
    times: list[int] = []

    def find() -> list[Job]:
        return grid.find_jobs(planned.context, planned.master, cells, tmp_path, warm_up=lambda: times.append(1))

    monkeypatch.setattr(grid, "WARM_UP_AFTER_SECONDS", float("inf"))
    assert len(find()) == 5
    assert not times
    monkeypatch.setattr(grid, "WARM_UP_AFTER_SECONDS", 0)
    find()
    assert len(times) == 1
    lines = (tmp_path / catalogue.FILE_NAME).read_text().splitlines()
    assert [json.loads(line)["overrides"] for line in lines] == cells
    # What is finished needs no launcher.
    choices = {"data": "digits", "data.corruption": "none", "model": "mlp", "regularizer": []}
    metrics = {"fit/accuracy": 0.5, "test/accuracy": 0.25, "steps": 40}
    finished = {"metrics": metrics, "choices": choices, "config": {}, "num_classes": 10, "fitted": False}
    for job in find():
        job.path.mkdir(parents=True)
        job.folder.write_result(finished)
    assert len(times) == 2
    assert all(job.was_done for job in find())
    assert len(times) == 2
