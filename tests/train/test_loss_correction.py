"""Corrections against their formulas in plain numbers, and where a transition comes from."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from rethinkgen.data.corruption import GivenLabels, PartialLabels, RandomLabels, SymmetricLabels, TrueLabels
from rethinkgen.data.source import Digits
from rethinkgen.model.mlp import MLP
from rethinkgen.train.loss_correction import BackwardCorrection, ForwardCorrection, read_transition

T = np.array([[0.7, 0.3, 0.0], [0.1, 0.8, 0.1], [0.25, 0.25, 0.5]])
LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.0, 3.0, 1.0], [-4.0, 0.1, 5.0]], dtype=torch.float64)
LABELS = torch.tensor([2, 1, 0])
INDEX = torch.arange(3)


def test_forward_is_the_cross_entropy_of_what_is_given() -> None:
    expected = [
        -math.log(sum(T[i, y] * p for i, p in enumerate(row)))
        for row, y in zip(LOGITS.softmax(1).tolist(), LABELS.tolist(), strict=True)
    ]
    assert ForwardCorrection(T)(LOGITS, LABELS, INDEX).tolist() == pytest.approx(expected, rel=1e-12)


@pytest.mark.parametrize("floor", [0.0, 1e-4, 0.05])
def test_backward_is_the_inverse_with_a_floor_under_what_makes_it_negative(floor: float) -> None:
    inverse = np.linalg.inv(T)
    expected = [
        -sum(inverse[y, j] * math.log(p if inverse[y, j] >= 0 else max(p, floor)) for j, p in enumerate(row))
        for row, y in zip(LOGITS.softmax(1).tolist(), LABELS.tolist(), strict=True)
    ]
    found = BackwardCorrection(T, floor)(LOGITS, LABELS, INDEX)
    assert found.tolist() == pytest.approx(expected, rel=1e-9)


def test_backward_is_without_bias_where_the_floor_is_not_met() -> None:
    """Over the labels that are given to class i, the mean is the cross-entropy of class i."""
    row = LOGITS[1:2].expand(3, 3)
    losses = BackwardCorrection(T)(row, torch.arange(3), INDEX)
    clean = F.cross_entropy(row, torch.arange(3), reduction="none")
    np.testing.assert_allclose(T @ losses.numpy(), clean.numpy(), rtol=1e-12)


def test_however_sure_of_a_wrong_label_the_loss_has_a_bound() -> None:
    sure = torch.tensor([[0.0, 1e4, 0.0]], dtype=torch.float64, requires_grad=True)
    loss = BackwardCorrection(T, 1e-4)(sure, torch.tensor([1]), INDEX[:1])
    least = sum(min(c, 0) for c in np.linalg.inv(T)[1]) * -math.log(1e-4)
    assert loss.tolist() == pytest.approx([least])
    loss.sum().backward()
    assert sure.grad is not None
    assert not sure.grad.any()
    assert BackwardCorrection(T, 0.0)(sure.detach(), torch.tensor([1]), INDEX[:1]).tolist()[0] < 100 * least


@pytest.mark.parametrize("kind", [ForwardCorrection, BackwardCorrection])
def test_the_identity_is_cross_entropy(kind: Any) -> None:
    ours, theirs = (LOGITS.clone().requires_grad_() for _ in range(2))
    losses, cross_entropy = kind(np.eye(3))(ours, LABELS, INDEX), F.cross_entropy(theirs, LABELS, reduction="none")
    torch.testing.assert_close(losses, cross_entropy, rtol=1e-14, atol=0)
    losses.sum().backward()
    cross_entropy.sum().backward()
    assert ours.grad is not None
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("kind", [ForwardCorrection, BackwardCorrection])
def test_under_mixed_precision_it_is_computed_in_float32(kind: Any) -> None:
    halved = LOGITS.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = kind(T)(halved, LABELS, INDEX)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, kind(T)(halved.double(), LABELS, INDEX).float())


def used_of(loss: Any, datamodule: Any) -> Tensor:
    datamodule.setup()
    loss.check_fits(MLP(image_shape=(1, 8, 8), num_classes=10, width=4), datamodule)
    used: Tensor = loss._used
    return used


def test_of_a_corruption_it_takes_what_this_says() -> None:
    off = 0.4 / 9
    expected = np.log(np.where(np.eye(10, dtype=bool), 0.6, off))
    used = used_of(ForwardCorrection(), SymmetricLabels(Digits(), probability=0.4))
    np.testing.assert_allclose(used.numpy(), expected)
    inverse = used_of(BackwardCorrection(), PartialLabels(Digits(), probability=0.5))
    np.testing.assert_allclose(inverse.numpy() @ (0.5 * np.eye(10) + 0.05), np.eye(10), atol=1e-12)
    assert torch.equal(used_of(BackwardCorrection(), TrueLabels(Digits())), torch.eye(10, dtype=torch.float64))


def test_what_is_not_known_or_of_no_use_is_refused(tmp_path: Path) -> None:
    np.save(tmp_path / "given.npy", np.array([[0, 1]]))
    given = GivenLabels(Digits(), labels=str(tmp_path / "given.npy"))
    with pytest.raises(ValueError, match=r"^loss=forward_correction: .* not known of GivenLabels\. .*transition="):
        used_of(ForwardCorrection(), given)
    with pytest.raises(ValueError, match=r"^loss\.transition: it has 3 rows, and the data 10 classes"):
        used_of(BackwardCorrection(T), TrueLabels(Digits()))
    with pytest.raises(ValueError, match=r"^loss\.transition: it has no inverse"):
        used_of(BackwardCorrection(), RandomLabels(Digits()))
    with pytest.raises(ValueError, match=r"^loss\.transition: no class is ever labelled 1 "):
        ForwardCorrection([[1.0, 0.0], [1.0, 0.0]])  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="training shows it first"):
        ForwardCorrection()(LOGITS, LABELS, INDEX)
    with pytest.raises(ValueError, match=r"^loss\.floor="):
        BackwardCorrection(floor=1.0)


def test_files_of_numbers_and_of_the_measure_are_read(tmp_path: Path) -> None:
    np.save(tmp_path / "t.npy", T)
    np.savetxt(tmp_path / "t.csv", T, delimiter=",")
    np.savez_compressed(tmp_path / "end.npz", **{"transition/probability": T.flatten(), "transition/true": np.zeros(9)})
    for name in ("t.npy", "t.csv", "end.npz"):
        np.testing.assert_allclose(read_transition("key", str(tmp_path / name)), T)


@pytest.mark.parametrize("name", ["none.npz", "other.npz", "torn.npz", "odd.npz", "text.csv", "sums.npy"])
def test_a_file_that_is_none_is_refused_by_key_and_path(tmp_path: Path, name: str) -> None:
    np.savez(tmp_path / "other.npz", a=T)
    np.savez(tmp_path / "odd.npz", **{"transition/probability": np.ones(5)})
    (tmp_path / "torn.npz").write_bytes((tmp_path / "other.npz").read_bytes()[:60])
    (tmp_path / "text.csv").write_text("one,two\n")
    np.save(tmp_path / "sums.npy", 2 * T)
    with pytest.raises(ValueError, match=r"^loss\.transition"):
        ForwardCorrection(str(tmp_path / name))
