from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from rethinkgen.measure.difficulty import (
    answers,
    area_under_margin,
    first_step_right,
    forgetting,
    last_step_right,
    mean_confidence,
    mean_loss,
    share_right,
)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("scale", [0.1, 3.0, 200.0])
def test_answers_are_those_of_a_loop_over_examples(dtype: torch.dtype, scale: float) -> None:
    torch.manual_seed(int(scale))
    logits, labels = (scale * torch.randn(60, 7)).to(dtype), torch.randint(7, (60,))
    logits[0] = 0  # a tie: the first class is taken
    before = logits.clone()
    said = answers(logits, labels)
    assert torch.equal(logits, before)
    assert [value.dtype for value in said] == [*3 * [torch.float32], torch.bool, torch.int64]
    for row, (logit, label) in enumerate(zip(logits.double(), labels.tolist(), strict=True)):
        loss = F.cross_entropy(logit[None], torch.tensor([label]))
        torch.testing.assert_close(said.losses[row].double(), loss, rtol=1e-5, atol=1e-12)
        torch.testing.assert_close(said.confidences[row].double(), logit.softmax(0)[label], rtol=1e-4, atol=1e-12)
        others = [float(value) for other, value in enumerate(logit) if other != label]
        assert float(said.margins[row]) == pytest.approx(float(logit[label]) - max(others), rel=1e-5)
        greatest = max(range(7), key=lambda k: float(logit[k]))
        assert int(said.classes[row]) == greatest
        assert bool(said.is_right[row]) == (greatest == label)


def test_a_loss_keeps_its_digits_where_it_is_small() -> None:
    said = answers(torch.tensor([[30.0, 0.0], [0.0, 30.0]]), torch.tensor([0, 0]))
    assert said.losses.tolist() == pytest.approx([np.exp(-30.0), 30 + np.exp(-30.0)], rel=1e-6)
    assert said.margins.tolist() == [30.0, -30.0]


COLUMNS: dict[str, NDArray[Any]] = {
    "presented_times": np.array([4, 4, 0, 2], np.int32),
    "presented_times_wrong": np.array([1, 4, 0, 0], np.int32),
    "presented_times_forgotten": np.array([1, 0, 0, 0], np.int32),
    "presented_loss_sum": np.array([2, 8, 0, 1], np.float32),
    "presented_margin_sum": np.array([6, -8, 0, 4], np.float32),
    "presented_confidence_sum": np.array([3, 1, 0, 1.5], np.float32),
    "presented_first_step_right": np.array([3, -1, -1, 1], np.int32),
    "presented_last_step_right": np.array([40, -1, -1, 9], np.int32),
}


def test_measures_are_functions_of_the_columns_and_nan_of_what_was_never_presented() -> None:
    nan, never = np.nan, np.inf
    found = {
        area_under_margin: [1.5, -2, nan, 2],
        mean_confidence: [0.75, 0.25, nan, 0.75],
        mean_loss: [0.5, 2, nan, 0.5],
        share_right: [0.75, 0, nan, 1],
        forgetting: [1, never, nan, 0],
        first_step_right: [3, never, nan, 1],
        last_step_right: [40, never, nan, 9],
    }
    columns = {name: column.copy() for name, column in COLUMNS.items()}
    for measure, expected in found.items():
        np.testing.assert_array_equal(measure(columns), expected)
    assert all(np.array_equal(columns[name], column) for name, column in COLUMNS.items()), "they are as they were"
