"""The claim that everything here starts from: each network fits random labels, which carry no information, to 100 %."""

from __future__ import annotations

import pytest

from conftest import Command, read_result
from rethinkgen.run.screen import sentence


@pytest.mark.parametrize("model", ["inception", "inception_no_bn", "alexnet", "mlp_1x512", "mlp_3x512"])
def test_random_labels_are_memorised(train: Command, model: str) -> None:
    folder = train(f"model={model}", "data.corruption=random_labels", "evaluate_every=5", "logger=none", "trainer=cpu")
    result = read_result(folder)
    metrics = result["metrics"]
    assert result["fitted"]
    assert metrics["fit/accuracy"] == metrics["fit/accuracy_corrupted"] == 1
    assert metrics["fit/accuracy_corrected"] == 0
    # Chance is 10 %; 360 test images put its standard deviation at 1.6 %.
    assert 0.04 < metrics["test/accuracy"] < 0.16
    assert "memorised" in sentence(result)
