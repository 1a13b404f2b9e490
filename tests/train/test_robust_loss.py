"""Each loss against its formula, example by example, in plain numbers; and at the strength that is cross-entropy."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from threaded_ranks import on_ranks
from torch import Tensor

from rethinkgen.train import loss as seam
from rethinkgen.train.loss import BlockRows, Squared
from rethinkgen.train.robust_loss import (
    BootstrapHard,
    BootstrapSoft,
    EarlyLearningRegularization,
    GeneralizedCrossEntropy,
    SymmetricCrossEntropy,
)

LOGITS = torch.tensor([[2.0, -1.0, 0.5], [0.0, 3.0, 1.0], [-4.0, 0.1, 5.0], [0.3, 0.2, 0.1]], dtype=torch.float64)
LABELS = torch.tensor([2, 1, 0, 0])
INDEX = torch.tensor([7, 4, 0, 2])
Formula = Callable[[list[float], list[float], int], float]


def softmax(row: list[float]) -> list[float]:
    total = sum(map(math.exp, row))
    return [math.exp(value) / total for value in row]


CASES: list[tuple[Any, Formula]] = [
    (GeneralizedCrossEntropy(), lambda z, p, y: (1 - p[y] ** 0.7) / 0.7),
    (GeneralizedCrossEntropy(1.0), lambda z, p, y: 1 - p[y]),
    (GeneralizedCrossEntropy(0.0), lambda z, p, y: -math.log(p[y])),
    (BootstrapSoft(0.9), lambda z, p, y: -sum((0.9 * (k == y) + 0.1 * p[k]) * math.log(p[k]) for k in range(3))),
    (BootstrapHard(0.6), lambda z, p, y: -0.6 * math.log(p[y]) - 0.4 * math.log(max(p))),
    (
        SymmetricCrossEntropy(0.1, 2.0, -3.0),
        lambda z, p, y: -0.1 * math.log(p[y]) - 2.0 * sum(p[k] * (0 if k == y else -3.0) for k in range(3)),
    ),
    (Squared(), lambda z, p, y: sum((z[k] - (k == y)) ** 2 for k in range(3))),
]


@pytest.mark.parametrize(("loss", "formula"), CASES)
def test_it_is_its_formula_example_by_example(loss: Any, formula: Formula) -> None:
    found = loss(LOGITS, LABELS, INDEX)
    expected = [formula(z, softmax(z), y) for z, y in zip(LOGITS.tolist(), LABELS.tolist(), strict=True)]
    assert found.tolist() == pytest.approx(expected, rel=1e-12)


def test_soft_bootstrapping_moves_the_entropy_too() -> None:
    logits = LOGITS.clone().requires_grad_()
    BootstrapSoft(0.0)(logits, LABELS, INDEX).sum().backward()
    p = logits.softmax(1)
    entropy = -(p * p.log()).sum(1, keepdim=True)
    assert logits.grad is not None
    torch.testing.assert_close(logits.grad, (-p * (p.log() + entropy)).detach())


NEUTRAL = [
    GeneralizedCrossEntropy(0.0),
    BootstrapSoft(1.0),
    BootstrapHard(1.0),
    SymmetricCrossEntropy(1.0, 0.0),
    EarlyLearningRegularization(0.0),
]


@pytest.mark.parametrize("loss", NEUTRAL, ids=lambda loss: type(loss).__name__)
def test_at_its_neutral_strength_it_is_cross_entropy_to_the_bit_and_its_gradient_to_rounding(loss: Any) -> None:
    if isinstance(loss, EarlyLearningRegularization):
        loss.begin(8, 3, torch.device("cpu"))
    ours, theirs = (LOGITS.float().requires_grad_() for _ in range(2))
    losses, cross_entropy = loss(ours, LABELS, INDEX), F.cross_entropy(theirs, LABELS, reduction="none")
    assert torch.equal(losses, cross_entropy)
    losses.sum().backward()
    cross_entropy.sum().backward()
    assert ours.grad is not None
    assert theirs.grad is not None
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=1e-7)


def test_generalised_cross_entropy_tends_to_cross_entropy() -> None:
    cross_entropy = F.cross_entropy(LOGITS, LABELS, reduction="none")
    torch.testing.assert_close(GeneralizedCrossEntropy(1e-9)(LOGITS, LABELS, INDEX), cross_entropy)


ALL = [loss for loss, _ in CASES] + NEUTRAL


@pytest.mark.parametrize("loss", ALL, ids=lambda loss: type(loss).__name__)
def test_under_mixed_precision_it_is_computed_in_float32(loss: Any) -> None:
    if isinstance(loss, EarlyLearningRegularization):
        loss.begin(8, 3, torch.device("cpu"))
    halved = LOGITS.bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        found = loss(halved, LABELS, INDEX)
    assert found.dtype == torch.float32
    if isinstance(loss, EarlyLearningRegularization):
        loss.begin(8, 3, torch.device("cpu"))
    torch.testing.assert_close(found, loss(halved.double(), LABELS, INDEX).float(), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(
    ("make", "key"),
    [
        (lambda: GeneralizedCrossEntropy(1.1), "loss.q"),
        (lambda: BootstrapSoft(-0.1), "loss.beta"),
        (lambda: BootstrapHard(math.nan), "loss.beta"),
        (lambda: SymmetricCrossEntropy(alpha=-1), "loss.alpha"),
        (lambda: SymmetricCrossEntropy(log_zero=1), "loss.log_zero"),
        (lambda: EarlyLearningRegularization(momentum=1), "loss.momentum"),
        (lambda: EarlyLearningRegularization(strength=-1), "loss.strength"),
    ],
)
def test_a_strength_that_is_none_is_refused(make: Callable[[], Any], key: str) -> None:
    with pytest.raises(ValueError, match=f"^{key}="):
        make()


def test_what_is_too_large_to_be_remembered_is_refused_with_its_size() -> None:
    with pytest.raises(ValueError, match=r"loss=elr: .* 1,281,167 examples and 1,000 classes, 4\.8 GB; 2 GB"):
        EarlyLearningRegularization().begin(1_281_167, 1000, torch.device("cpu"))


def test_elr_moves_its_target_before_it_takes_the_loss_and_holds_it_constant() -> None:
    loss, memory = EarlyLearningRegularization(5.0, 0.6), {}
    loss.begin(9, 3, torch.device("cpu"))
    for logits in (LOGITS, LOGITS.flip(0), 30 * LOGITS):
        ours = logits.clone().requires_grad_()
        losses = loss(ours, LABELS, INDEX)
        theirs = logits.clone().requires_grad_()
        expected = []
        for row, (y, i) in enumerate(zip(LABELS.tolist(), INDEX.tolist(), strict=True)):
            p = theirs[row].softmax(0).clamp(1e-4, 1 - 1e-4)
            memory[i] = 0.6 * memory.get(i, torch.zeros(3)) + 0.4 * (p / p.sum()).detach()
            expected.append(F.cross_entropy(theirs[row], torch.tensor(y)) + 5.0 * torch.log(1 - memory[i] @ p))
        torch.testing.assert_close(losses, torch.stack(expected))
        losses.sum().backward()
        torch.stack(expected).sum().backward()
        assert ours.grad is not None
        torch.testing.assert_close(ours.grad, theirs.grad)
    state = loss.state_dict()["targets"]
    assert sorted(memory) == torch.nonzero(state.sum(1)).flatten().tolist()
    other = EarlyLearningRegularization(5.0, 0.6)
    other.begin(9, 3, torch.device("cpu"))
    other.load_state_dict(loss.state_dict())
    assert torch.equal(other(LOGITS, LABELS, INDEX), loss(LOGITS, LABELS, INDEX))


def test_elr_on_two_ranks_is_that_of_one() -> None:
    """An example comes to another rank in the next block, which must know what was said of it."""
    generator = torch.Generator().manual_seed(0)
    blocks = [torch.randperm(7, generator=generator) for _ in range(3)]
    logits = torch.randn(7, 3, generator=generator, dtype=torch.float64)

    def work(rank: int, size: int) -> list[Tensor]:
        loss, found = EarlyLearningRegularization(), []
        loss.begin(7, 3, torch.device("cpu"))
        for block in blocks:
            own = block[rank::size]
            values = loss(logits[own], own % 3, own)
            loss.end_block(BlockRows(own, [len(block)]))
            found.append(torch.zeros(7, dtype=torch.float64).index_copy_(0, own, values))
        return [*found, loss.state_dict()["targets"]]

    alone = work(0, 1)
    ranks = on_ranks(seam, 2, lambda rank: work(rank, 2))
    for block in range(3):
        torch.testing.assert_close(ranks[0][block] + ranks[1][block], alone[block], rtol=1e-14, atol=0)
    assert torch.equal(ranks[0][-1], ranks[1][-1])
    torch.testing.assert_close(ranks[0][-1], alone[-1], rtol=1e-14, atol=0)
