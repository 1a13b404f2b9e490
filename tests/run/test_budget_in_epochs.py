from __future__ import annotations

from pathlib import Path

from conftest import TINY, Command, read_result


def test_max_steps_of_a_file_beside_max_epochs_is_neither_in_force_nor_part_of_the_run(
    train: Command, tmp_path: Path
) -> None:
    experiments = tmp_path / "configs" / "experiment"
    experiments.mkdir(parents=True)
    for number in (7, 999):
        (experiments / f"budget_{number}.yaml").write_text(f"# @package _global_\nmax_steps: {number}\n")
    run = [*TINY, "data.num_train=83", "data.batch_size=20", "sweep=one", "--config-dir", str(tmp_path / "configs")]
    folder = train(*run, "max_epochs=2", "+experiment=budget_7")
    assert read_result(folder)["metrics"]["steps"] == 10, "five batches an epoch"
    written = (folder / "result.json").read_bytes()
    assert train(*run, "max_epochs=2", "+experiment=budget_999") == folder
    assert train(*run, "max_epochs=2") == folder
    assert (folder / "result.json").read_bytes() == written
    assert train(*run, "max_epochs=3", "+experiment=budget_7") != folder
    assert train(*run, "+experiment=budget_7") != folder
