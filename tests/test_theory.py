"""What the paper's theory says, on the digits, by the commands that its experiments name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hydra import compose, initialize_config_dir

from conftest import ROOT, Command, read_result

ON_DIGITS = ["data=digits", "trainer=cpu", "threads=1", "logger=none", "hydra/launcher=basic", "seed=0"]


def results(tmp_path: Path) -> dict[int, dict[str, Any]]:
    """Results by number of training examples."""
    found = [read_result(path.parent) for path in (tmp_path / "multirun").glob("*/*/result.json")]
    return {result["config"]["data"]["num_train"]: result for result in found}


@pytest.mark.parametrize(
    ("experiment", "data", "most"),
    [
        ("theorem_1", "digits", 1437),
        ("theorem_1", "mnist", 5000),
        ("rademacher", "digits", 1437),
        ("rademacher", "cifar10_jpeg", 50000),
    ],
)
def test_sizes_go_up_to_what_data_and_model_allow(experiment: str, data: str, most: int) -> None:
    with initialize_config_dir(str(ROOT / "conf")):
        overrides = [f"+experiment=zhang2017/{experiment}", f"data={data}"]
        params = compose("train", overrides=overrides, return_hydra_config=True).hydra.sweeper.params
    sizes = [int(size) for size in params["data.num_train"].split(",")]
    assert (sizes[0], sizes[-1]) == (100, most)
    assert sizes == sorted(sizes)
    assert params["seed"] == "0,1,2,3,4"


def test_theorem_1_holds_on_random_labels(train: Command, tmp_path: Path) -> None:
    train("-m", "+experiment=zhang2017/theorem_1", *ON_DIGITS, "data.num_train=100,1437")
    found = results(tmp_path)
    assert sorted(found) == [100, 1437]
    for n, result in found.items():
        metrics = result["metrics"]
        assert metrics["num_parameters"] == 2 * n + 64
        assert metrics["fit/accuracy"] == 1
        assert metrics["solution/residual"] < 1e-6
        assert 0 < metrics["test/accuracy"] < 0.25


def test_random_signs_are_fitted_and_say_nothing_of_other_signs(train: Command, tmp_path: Path) -> None:
    train("-m", "+experiment=zhang2017/rademacher", *ON_DIGITS, "data.num_train=100,200")
    found = results(tmp_path)
    assert sorted(found) == [100, 200]
    for result in found.values():
        metrics = result["metrics"]
        assert 2 * metrics["fit/accuracy"] - 1 == 1
        assert 0.35 < metrics["test/accuracy"] < 0.65
        assert "fit/accuracy_corrupted" not in metrics
        assert metrics["num_parameters"] == 64 * 512 + 512 + 512 + 1
        assert result["num_classes"] == 2


def test_a_sample_larger_than_the_data_is_a_line(train: Command, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        train("data.corruption=random_signs", "model=mlp_1x512", *ON_DIGITS[1:4], "data.num_train=1438")
    assert "data.num_train=1438: at most 1437 is allowed" in capsys.readouterr().err
