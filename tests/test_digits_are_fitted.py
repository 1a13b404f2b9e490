"""The claim that everything here starts from: each network fits random labels, which carry no information, to 100 %."""

from __future__ import annotations

import pytest

from conftest import Command, read_result
from rethinkgen.run.screen import sentence

# Without BatchNorm Inception needs thousands of steps for all 1,437 (2,160, seen by hand), which is too long for here.
NETWORKS = [
    ("inception", 300),
    pytest.param("inception", 1437, marks=pytest.mark.slow),  # two minutes on one core
    pytest.param("inception_no_bn", 500, marks=pytest.mark.slow),  # three minutes
    ("alexnet", 150),
    pytest.param("alexnet", 1437, marks=pytest.mark.slow),
    ("mlp_1x512", 1437),
    ("mlp_3x512", 500),
    pytest.param("mlp_3x512", 1437, marks=pytest.mark.slow),
]


@pytest.mark.parametrize(("model", "num_train"), NETWORKS)
def test_random_labels_are_memorised(train: Command, model: str, num_train: int) -> None:
    run = [f"model={model}", f"data.num_train={num_train}", "data.corruption=random_labels", "evaluate_every=5"]
    folder = train(*run, "logger=none", "trainer=cpu")
    result = read_result(folder)
    metrics = result["metrics"]
    assert result["fitted"]
    assert metrics["fit/accuracy"] == metrics["fit/accuracy_corrupted"] == 1
    assert metrics["fit/accuracy_corrected"] == 0
    # Chance is 10 %; 360 test images put its standard deviation at 1.6 %.
    assert 0.04 < metrics["test/accuracy"] < 0.16
    assert "memorised" in sentence(result)
