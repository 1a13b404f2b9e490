"""The adjoint against finite differences of whole trainings."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from subjects import network_of, subject_of
from torch import Tensor, nn

from rethinkgen.data.batches import Batch
from rethinkgen.data.module import Split
from rethinkgen.measure.loss_sensitivity import gini, loss_sensitivity
from rethinkgen.measure.subject import Findings, Subject, TrainingStep

N, STEPS, BATCH = 7, 7, 3
RATE, MOMENTUM = 0.4, 0.8
LABELS = torch.tensor([0, 1, 1, 0, 1, 0, 0])


def network() -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(3)
        return nn.Sequential(nn.Flatten(), nn.Linear(2, 3), nn.Tanh(), nn.Linear(3, 2)).double()


def of_label(label: int) -> Tensor:
    return torch.eq(LABELS, label)


def images() -> Tensor:
    return torch.randn(N, 1, 1, 2, generator=torch.Generator().manual_seed(4), dtype=torch.float64)


def batch_of(step: int) -> Tensor:
    return torch.tensor([(step * BATCH + i) * 3 % N for i in range(BATCH)])


def training(
    inputs: Tensor, change: Callable[[nn.Module], None] | None = None
) -> Iterator[tuple[int, nn.Module, Tensor]]:
    """Yield step, network before it, and its batch; and at last what all steps have made of the network."""
    now = network()
    velocity = [torch.zeros_like(value) for value in now.parameters()]
    for step in range(STEPS):
        which = batch_of(step)
        yield step, now, which
        gradients = torch.autograd.grad(F.cross_entropy(now(inputs[which]), LABELS[which]), list(now.parameters()))
        for value, one, gradient in zip(now.parameters(), velocity, gradients, strict=True):
            one.mul_(MOMENTUM).add_(gradient)
            value.data -= (RATE / (step + 1)) * one
        if change is not None:
            change(now)
    yield STEPS, now, batch_of(STEPS)


def run(change: Callable[[nn.Module], None] | None = None, **keywords: Any) -> Subject:
    inputs = images()

    def steps(first: int, last: int) -> Iterator[TrainingStep]:
        for step, now, which in training(inputs, change):
            if first <= step < last:
                batch = Batch(inputs[which], LABELS[which], BATCH, which)
                yield TrainingStep(step, now.state_dict(), batch, RATE / (step + 1), MOMENTUM)

    *_, (_, final, _) = training(inputs, change)
    split = Split(inputs, LABELS, LABELS, LABELS < 0, LABELS < 0, torch.arange(N) + 10)
    return Subject(final, {"train": split}, STEPS, training=steps, **keywords)


def losses_at(inputs: Tensor, places: list[Tensor]) -> Tensor:
    """Return the cross-entropies ``(places, STEPS, N)`` after each step of a training on ``inputs``."""
    found = [
        torch.stack([F.cross_entropy(now(at), LABELS, reduction="none").detach() for at in places])
        for step, now, _ in training(inputs)
        if step
    ]
    return torch.stack(found, 1)


@pytest.fixture(scope="module")
def differences() -> tuple[Tensor, Tensor]:
    """Derivatives ``(STEPS, N of losses, N, pixels)`` of each loss by each pixel: by the weights, and altogether."""
    base, small = images(), 1e-5
    found = torch.zeros(2, STEPS, N, N, 2, dtype=torch.float64)
    for example in range(N):
        for pixel in range(2):
            one, other = base.clone(), base.clone()
            one[example, 0, 0, pixel] += small
            other[example, 0, 0, pixel] -= small
            found[..., example, pixel] = (losses_at(one, [base, one]) - losses_at(other, [base, other])) / (2 * small)
    return found[0], found[1]


def column(findings: Findings, table: str, name: str) -> Tensor:
    return torch.as_tensor(findings.tables[table][name]).double()


def test_sensitivities_are_those_of_trainings_on_other_images(differences: tuple[Tensor, Tensor]) -> None:
    by_weights, altogether = differences
    findings = loss_sensitivity(run(), num_times=STEPS)
    of_times = by_weights.mean(1).abs().sum(2)  # of the mean loss: (STEPS, N)
    expected = of_times.mean(0)
    assert float(expected.max()) > 0.01
    torch.testing.assert_close(column(findings, "examples", "sensitivity"), expected, rtol=1e-5, atol=1e-9)
    assert findings.numbers["mean"] == pytest.approx(float(expected.mean()), rel=1e-5)
    assert findings.numbers["gini"] == pytest.approx(gini(expected), rel=1e-5)
    with_direct = altogether.mean(1).abs().sum(2).mean(0)
    assert findings.numbers["gini_with_direct"] == pytest.approx(gini(with_direct), rel=1e-5)
    assert column(findings, "examples", "index").tolist() == list(range(10, 10 + N))
    table = findings.tables["times"]
    assert list(table["step"]) == [1, 2, 3, 4, 5, 6, 7]
    for t in range(STEPS):
        assert table["gini"][t] == pytest.approx(gini(of_times[t]), rel=1e-5)
        assert table["gini_so_far"][t] == pytest.approx(gini(of_times[: t + 1].mean(0)), rel=1e-5)
        assert float(table["mean"][t]) == pytest.approx(float(of_times[t].mean()), rel=1e-5)


def test_the_matrix_is_of_the_loss_of_one_class_by_examples_of_another(differences: tuple[Tensor, Tensor]) -> None:
    findings = loss_sensitivity(run(), num_times=STEPS)
    matrix = {}
    for i in range(2):
        of_class = differences[0][:, of_label(i)].sum(1) / N  # the part of the mean loss
        for j in range(2):
            matrix[i, j] = float(of_class[:, of_label(j)].abs().sum(2).mean())
    table = findings.tables["classes"]
    rows = zip(table["class_of_loss"], table["class_of_example"], map(float, table["sensitivity"]), strict=True)
    assert {(i, j): value for i, j, value in rows} == {key: pytest.approx(v, rel=1e-5) for key, v in matrix.items()}
    assert findings.numbers["within"] == pytest.approx((matrix[0, 0] + matrix[1, 1]) / 2, rel=1e-5)
    assert findings.numbers["between"] == pytest.approx((matrix[0, 1] + matrix[1, 0]) / 2, rel=1e-5)
    ratio = (matrix[0, 1] + matrix[1, 0]) / (matrix[0, 0] + matrix[1, 1])
    assert findings.numbers["between_over_within"] == pytest.approx(ratio, rel=1e-5)


def test_fewer_times_are_spread_evenly_and_the_matrix_may_be_left_out(differences: tuple[Tensor, Tensor]) -> None:
    findings = loss_sensitivity(run(), num_times=2, by_class=False)
    assert list(findings.tables["times"]["step"]) == [4, 7]
    expected = differences[0].mean(1).abs().sum(2)[[3, 6]].mean(0)
    torch.testing.assert_close(column(findings, "examples", "sensitivity"), expected, rtol=1e-5, atol=1e-9)
    assert "classes" not in findings.tables
    assert "within" not in findings.numbers
    assert list(loss_sensitivity(run(), num_times=50).tables["times"]["step"]) == list(range(1, STEPS + 1))


def test_parts_of_the_training_make_no_difference_and_too_little_memory_is_named() -> None:
    whole = loss_sensitivity(run(), num_times=3)
    # A state of 17 weights takes 68 bytes: two of them fit into half of this.
    in_parts = loss_sensitivity(run(memory_mb=2 * 1500 / 2**20), num_times=3, by_class=False)
    torch.testing.assert_close(
        column(in_parts, "examples", "sensitivity"), column(whole, "examples", "sensitivity"), rtol=1e-9, atol=0
    )
    with pytest.raises(ValueError, match=r"num_times=3: 3 times, with 2 losses at each, take about .* by_class=false"):
        loss_sensitivity(run(memory_mb=2 * 1000 / 2**20), num_times=3)


def test_the_network_is_left_as_it_was() -> None:
    subject = run()
    before = copy.deepcopy(subject.network.state_dict())
    loss_sensitivity(subject, num_times=2)
    assert all(torch.equal(value, before[name]) for name, value in subject.network.state_dict().items())
    assert all(value.grad is None for value in subject.network.parameters())


def test_a_training_of_another_kind_is_refused() -> None:
    def decay(now: nn.Module) -> None:
        for value in now.parameters():
            value.data *= 0.99

    with pytest.raises(ValueError, match=r"step 1 of this run is not that of SGD with momentum on the cross-entropy"):
        loss_sensitivity(run(decay))

    def late(now: nn.Module) -> None:
        late.calls += 1  # type: ignore[attr-defined]
        if late.calls % STEPS == 0:  # type: ignore[attr-defined]
            decay(now)

    late.calls = 0  # type: ignore[attr-defined]
    with pytest.raises(ValueError, match=rf"step {STEPS} of this run is not that of SGD"):
        loss_sensitivity(run(late))


def test_images_that_are_changed_while_training_are_refused() -> None:
    subject = run()
    split = subject.split("train")
    other = Split(split.inputs + 1, LABELS, LABELS, LABELS < 0, LABELS < 0, split.index)
    changed = Subject(subject.network, {"train": other}, STEPS, training=subject.training)
    with pytest.raises(ValueError, match=r"step 1 of this run is not that of SGD with momentum"):
        loss_sensitivity(changed)


def test_what_has_no_sensitivity_is_refused() -> None:
    assert loss_sensitivity(subject_of("mlp", step=0)).numbers == {"gini": None, "gini_with_direct": None, "mean": 0.0}
    with pytest.raises(ValueError, match=r"the network has BatchNorm, by whose batches"):
        loss_sensitivity(subject_of("convolutional"))
    with pytest.raises(ValueError, match=r"no weights that are trained by gradients"):
        loss_sensitivity(subject_of(network_of("mlp").requires_grad_(False)))


def test_gini_of_known_values() -> None:
    assert gini(torch.tensor([2.0, 2, 2, 2])) == pytest.approx(0)
    assert gini(torch.tensor([0.0, 5, 0, 0])) == pytest.approx(3 / 4)
    assert gini(torch.tensor([3.0, 1])) == pytest.approx(1 / 4)
    assert gini(torch.zeros(3)) is None
