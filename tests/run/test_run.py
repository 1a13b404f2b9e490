from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import TINY, Command
from rethinkgen.data.source import CIFAR10, CIFAR100, MNIST, SVHN, Digits, FashionMNIST
from rethinkgen.run.catalogue import FILE_NAME
from rethinkgen.run.identity import SEEDS
from rethinkgen.run.origin import command_of
from rethinkgen.run.quantities import property_of
from rethinkgen.run.run import NUM_TRAIN, Run, read_runs
from run_folders import write_run


def test_a_real_sweep_with_a_cell_that_nobody_began(train: Command, tmp_path: Path) -> None:
    grid = ["-m", *TINY, "data.corruption=none,partial_labels", "data.num_train=200", "max_steps=4", "sweep=tiny"]
    done = train(*grid)
    sweep = done.parent
    runs = read_runs([sweep])
    assert [(run.state, run.corruption, run.level) for run in runs] == [
        ("done", "none", 0.0),
        ("done", "partial_labels", 0.5),
    ]
    noisy = runs[1]
    assert noisy.key("data.num_train") == 200
    assert noisy.key("no.such.key") is None
    assert noisy.curves["step"].tolist() == [2, 4]
    assert noisy.metrics["steps"] == 4
    assert noisy.fitted is False
    assert noisy.num_classes == 10
    assert (property_of(noisy, "num_examples"), noisy.num_test) == (200, 360)
    assert noisy.result is not None
    assert noisy.result["num_test"] == 360
    assert noisy.data == "digits"
    assert runs[0].setting("data.corruption") == noisy.setting("data.corruption")
    assert runs[0].setting(*SEEDS) != noisy.setting(*SEEDS)
    assert command_of(runs) == f"python train.py {' '.join(grid)}"

    shutil.rmtree(noisy.path)
    before, after = read_runs([sweep])
    assert before.state == "done"
    assert (after.state, after.corruption, after.level, after.seed) == ("missing", "partial_labels", 0.5, 0)
    assert after.setting() == noisy.setting()
    assert after.metrics == {}
    assert after.fitted is None
    assert after.curves.empty


def index_line(configs: str | None, folder: str, key: str) -> str:
    entry: dict[str, object] = {"key": key, "folder": folder, "source": "{}", "fingerprint": None}
    if configs is not None:
        entry |= {"configs": configs, "overrides": [], "choices": {"model": "alexnet"}, "config": {"seed": 3}}
    return json.dumps(entry) + "\n"


def test_only_cells_of_the_latest_configs_are_missing(tmp_path: Path) -> None:
    begun = write_run(tmp_path)
    lines = [index_line(None, "of-an-old-index", "a"), index_line("old", "of-old-configs", "b")]
    lines += [
        index_line("old", begun.name, "c"),
        index_line("new", "wanted", "d"),
        index_line("new", "../x/other", "e"),
    ]
    (tmp_path / FILE_NAME).write_text("".join(lines))
    runs = {run.path.name: run for run in read_runs([tmp_path])}
    assert {name: run.state for name, run in runs.items()} == {begun.name: "done", "wanted": "missing"}
    assert (runs["wanted"].model, runs["wanted"].seed) == ("alexnet", 3)


def test_a_cell_may_stand_in_the_index_of_a_folder_beside(tmp_path: Path) -> None:
    (tmp_path / "asked").mkdir()
    line = index_line("new", "../other/wanted", "a") + index_line("new", "../further/not-here", "b")
    (tmp_path / "asked" / FILE_NAME).write_text(line)
    begun = write_run(tmp_path / "other")
    assert {run.path.name for run in read_runs([tmp_path / "other"])} == {begun.name, "wanted"}


def test_an_index_of_before_breaks_nothing(tmp_path: Path) -> None:
    begun = write_run(tmp_path)
    (tmp_path / FILE_NAME).write_text(index_line(None, "never-begun", "a") + '{"torn": ')
    assert [run.path.name for run in read_runs([tmp_path])] == [begun.name]


@pytest.mark.parametrize("content", ["{", "[]", '{"metrics": null}'])
def test_a_damaged_result_is_one_failed_run(tmp_path: Path, content: str) -> None:
    damaged, _ = write_run(tmp_path, seed=0), write_run(tmp_path, seed=1)
    (damaged / "result.json").write_text(content)
    states = {run.path: (run.state, run.reason) for run in read_runs([tmp_path])}
    assert [state for state, _ in states.values()].count("done") == 1
    assert states[damaged][0] == "failed"
    assert "result.json" in states[damaged][1]


def test_a_damaged_config_is_one_failed_run(tmp_path: Path) -> None:
    path = write_run(tmp_path, state="interrupted")
    (path / "config.yaml").write_text("a: [")
    (run,) = read_runs([tmp_path])
    assert run.state == "failed"
    assert "config.yaml" in run.reason
    assert run.model == "mlp_1x512"


def test_a_row_that_is_being_written_is_left_out(tmp_path: Path) -> None:
    write_run(tmp_path, curves="step,epoch,train/loss\n100,0.25,2.2\n200,0.5,1.")
    assert read_runs([tmp_path])[0].curves["step"].tolist() == [100]
    (read_runs([tmp_path])[0].path / "metrics.csv").write_text("")
    assert read_runs([tmp_path])[0].curves.empty


def test_a_run_in_two_sweeps_counts_once_and_finished(tmp_path: Path) -> None:
    done = write_run(tmp_path / "one")
    unfinished = write_run(tmp_path / "two", state="interrupted")
    assert done.name == unfinished.name
    assert [run.state for run in read_runs([tmp_path / "two", tmp_path / "one"])] == ["done"]


def test_how_many_examples_all_are_is_known_of_each_data_set_by_its_name() -> None:
    classes = {"mnist": MNIST, "fashion_mnist": FashionMNIST, "cifar10": CIFAR10, "cifar100": CIFAR100, "svhn": SVHN}
    told = {name: source._num_train for name, source in classes.items()}
    assert told | {"digits": Digits().num_train(), "cifar10_jpeg": told["cifar10"]} == NUM_TRAIN


def test_a_single_run_is_a_sweep_of_one(tmp_path: Path) -> None:
    path = write_run(tmp_path)
    (run,) = read_runs([path])
    assert run.path == path
    assert command_of([run]) == "python train.py model=mlp_1x512 seed=0"


def test_a_run_of_an_experiment_is_asked_for_with_m(tmp_path: Path) -> None:
    path = write_run(tmp_path)
    (path / "overrides.yaml").write_text("- +experiment=zhang2017/table_1\n- seed=0\n")
    result = json.loads((path / "result.json").read_text())
    (path / "result.json").write_text(json.dumps(result | {"overrides": ["+experiment=zhang2017/table_1", "seed=0"]}))
    assert command_of(read_runs([path])) == "python train.py -m +experiment=zhang2017/table_1 seed=0"


def test_a_command_has_no_paths_of_its_machine(tmp_path: Path) -> None:
    write_run(tmp_path)
    given = "python /home/me/x/train.py -m results_dir=/scratch/me data.root=/home/me/mnist a=1,2"
    noted = f"2026-01-01T00:00:00+00:00  {given}\n"
    (tmp_path / "commands.txt").write_text(2 * noted)
    assert command_of(read_runs([tmp_path])) == "python train.py -m data.root=path/to/mnist a=1,2"


@pytest.mark.parametrize("source", ["source.ImageFolder", "streamed_source.StreamedFolder"])
def test_image_folders_of_two_paths_are_two_settings(source: str, tmp_path: Path) -> None:
    folders = [{"_target_": f"rethinkgen.data.{source}", "root": root} for root in ("a", "b")]
    for folder in folders:
        write_run(tmp_path / folder["root"], data="image_folder", keys={"data.source": folder})
    first, second = read_runs([tmp_path / "a", tmp_path / "b"])
    assert first.setting(*SEEDS) != second.setting(*SEEDS)


@pytest.mark.parametrize("has_identity", [True, False])
def test_a_file_that_a_key_names_is_one_setting_wherever_it_lies(has_identity: bool, tmp_path: Path) -> None:
    """Also where the result has come alone, as committed results do."""
    for seed, (file, content) in enumerate({"here.csv": "a1", "there.csv": "a1", "other.csv": "b2"}.items()):
        path = write_run(tmp_path, seed=seed, keys={"data.corruption.matrix": file})
        facts = {"contents": {"data.corruption.matrix": content}}
        result = json.loads((path / "result.json").read_text())
        (path / "result.json").write_text(json.dumps(result | facts))
        if has_identity:
            (path / "identity.json").write_text(json.dumps(facts | {"run_id": path.name.rpartition("-")[2]}))
    runs = sorted(read_runs([tmp_path]), key=lambda run: run.seed)
    here, there, other = (run.setting(*SEEDS) for run in runs)
    assert here == there != other


def test_what_is_no_sweep_is_refused(tmp_path: Path) -> None:
    write_run(tmp_path / "fine")
    with pytest.raises(ValueError, match=r"typo: there is no such folder.*There are: .*fine"):
        read_runs([tmp_path / "typo"])
    with pytest.raises(ValueError, match=r"no run was ever begun there.*There are: .*fine"):
        read_runs([tmp_path])


def test_nothing_of_the_report_imports_torch() -> None:
    code = "import sys, rethinkgen.report.claims, rethinkgen.report.tables; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_what_a_result_is_about_may_be_the_first_step_of_all(tmp_path: Path) -> None:
    def end_step(**metrics: int) -> int | None:
        return Run(tmp_path, "done", "", {}, {}, [], 0, {"metrics": metrics}).end_step

    assert end_step(steps=20) == 20
    assert end_step(steps=20, early_stopping_step=8) == 8
    assert end_step(steps=20, early_stopping_step=0) == 0
    assert Run(tmp_path, "running", "", {}, {}, [], 0, None).end_step is None
