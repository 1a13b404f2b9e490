"""Patrini's estimate against loops, and what it leaves is what the loss reads."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from subjects import subject_of

from rethinkgen.measure.transition import estimated_transition, transition


@pytest.mark.parametrize("percentile", [None, 50.0, 97.0])
def test_each_row_is_what_is_said_of_the_surest_example_below_the_percentile(percentile: float | None) -> None:
    said = torch.rand(60, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) ** 3
    said /= said.sum(1, keepdim=True)
    found = estimated_transition(said, percentile)
    for i in range(4):
        column = said[:, i].tolist()
        limit = np.inf if percentile is None else np.percentile(column, percentile)
        surest = max((k for k in range(60) if column[k] < limit), key=lambda k: column[k])
        torch.testing.assert_close(found[i], said[surest] / said[surest].sum())
    if percentile != 50.0:
        assert not torch.equal(found, estimated_transition(said, 50.0)), "nothing was left out"


def test_one_class_that_is_left_out_leaves_the_others_as_they_are() -> None:
    """The authors' code puts zeros into the matrix that it goes on to read."""
    said = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.15, 0.85], [0.3, 0.7]], dtype=torch.float64)
    found = estimated_transition(said, 90.0)
    torch.testing.assert_close(found, torch.tensor([[0.8, 0.2], [0.3, 0.7]], dtype=torch.float64))


def test_a_network_that_says_the_same_of_all_is_taken_at_its_word() -> None:
    said = torch.full((5, 2), 0.5, dtype=torch.float64)
    assert torch.equal(estimated_transition(said, 97.0), torch.full((2, 2), 0.5, dtype=torch.float64))


def test_the_table_is_the_matrix_row_after_row_and_numbers_compare_it_with_the_labels() -> None:
    subject = subject_of("mlp", size=60)
    findings = transition(subject)
    table, train = findings.tables["transition"], subject.splits["train"]
    matrix = np.asarray(table["probability"]).reshape(3, 3)
    assert np.asarray(table["true"]).tolist() == [0, 0, 0, 1, 1, 1, 2, 2, 2]
    assert np.asarray(table["given"]).tolist() == [0, 1, 2] * 3
    np.testing.assert_allclose(matrix.sum(1), 1)
    realised = np.zeros((3, 3))
    for true, given in zip(train.original_labels.tolist(), train.labels.tolist(), strict=True):
        realised[true, given] += 1
    realised /= realised.sum(1, keepdims=True)
    assert findings.numbers["kept"] == pytest.approx(np.trace(matrix) / 3)
    assert findings.numbers["kept_realised"] == pytest.approx(np.trace(realised) / 3)
    assert findings.numbers["error"] == pytest.approx(np.abs(matrix - realised).mean())
    assert set(transition(subject_of("mlp", share_wrong=0.0)).numbers) == {"kept"}
    with pytest.raises(ValueError, match="percentile"):
        transition(subject, percentile=101)
