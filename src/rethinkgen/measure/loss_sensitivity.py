"""How much the loss, some steps on, depends on each training example by way of the weights that it has moved."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rethinkgen.checks import check_switch, check_whole
from rethinkgen.measure.adjoint import Adjoint, Step
from rethinkgen.measure.outputs import BYTES
from rethinkgen.measure.predict import has_batch_norm
from rethinkgen.measure.subject import Findings, Number, Table, asks
from rethinkgen.measure.weights import State

if TYPE_CHECKING:
    from rethinkgen.data.module import Split
    from rethinkgen.measure.subject import Subject, TrainingStep

TOLERANCE = 1e-3
"""By which a step may differ from that of SGD with momentum, as a share of its length."""
ROUNDING = 1e-6
"""The same, as a share of the length of the weights: what float32 makes of a short step."""


@asks(trainings=4)
def loss_sensitivity(subject: Subject, *, num_times: int = 20, by_class: bool = True) -> Findings:
    """Return the loss sensitivity of each training example (Arpit et al. 2017, arXiv 1706.05394), and its Gini index.

    ``g_x^t`` is the 1-norm of the derivative of ``L_t``, the loss after ``t`` steps, with respect to example ``x``,
    through all the steps up to there; the sensitivity is its mean over ``t``. Here ``L_t`` is the mean cross-entropy of
    the whole training set, with labels as given; ``t`` takes ``num_times`` evenly spaced values up to this step; and
    ``x`` is what the network sees, after the preprocessing. The derivative is taken by way of the weights alone, since
    the paper speaks of examples seen before; ``..._with_direct`` has that with the weights held fixed added to it. Of
    what the paper leaves open these are our choices.

    The training is gone through once more, backwards (the adjoint of SGD with momentum), which costs three to four
    trainings, and one replay more for each part of it whose weights do not fit into half of what may be held. It is
    exact but at the kinks of a ReLU.

    Numbers: ``gini`` of the sensitivities (0: all equal, towards 1: all in one example), ``gini_with_direct``,
    ``mean``; of ``by_class``, ``within`` and ``between``: the means of the matrix on and off its diagonal, and
    ``between_over_within``, which does not depend on the scale of the inputs. Tables:
    ``examples`` with ``index, is_corrupted, sensitivity``; ``times`` with ``step, gini, gini_so_far, mean``, of
    ``g_x^t`` and of its mean over the times so far; ``classes`` with ``class_of_loss, class_of_example, sensitivity``:
    of the part of ``L_t`` that belongs to the examples of one class, the mean over those of another.

    At step 0 no example has had a part in anything: the mean is zero, and there is no Gini index.

    Raises:
        ValueError: the run was not trained by SGD with momentum on cross-entropy alone, or memory does not do.
    """
    check_whole("num_times", num_times, 1)
    check_switch("by_class", by_class)
    train = subject.split("train")
    inputs = _checked_inputs(subject)
    if not subject.step:
        return Findings({"gini": None, "gini_with_direct": None, "mean": 0.0})
    times = sorted({max(1, round(subject.step * k / num_times)) for k in range(1, num_times + 1)})
    parts = _parts_of_loss(train, by_class=by_class)
    adjoint = Adjoint(subject.network, inputs, train.labels, times, parts)
    adjoint.check_memory(subject.memory_mb, num_times)
    after = _trained(subject.network.state_dict(), adjoint.names)
    for steps in _backwards(subject, adjoint):
        for step in reversed(steps):
            adjoint.go_back(step, after)
            after = step.weights
    return _findings(adjoint, train, by_class=by_class)


def _checked_inputs(subject: Subject) -> Tensor:
    inputs = subject.split("train").inputs
    if has_batch_norm(subject.network):
        raise ValueError(
            "the network has BatchNorm, by whose batches examples depend on each other. Take a run without it."
        )
    if not isinstance(inputs, Tensor):
        raise ValueError("the images are streamed, and are needed in memory. Take fewer.")
    return inputs


def _parts_of_loss(train: Split, *, by_class: bool) -> Tensor:
    """Return the weight ``(parts, n)`` of each example in each part of the loss; together they are the mean."""
    if not by_class:
        return torch.full((1, len(train)), 1 / len(train), device=train.labels.device)
    classes = torch.tensor(sorted({*train.labels.tolist()}), device=train.labels.device)
    return (train.labels == classes[:, None]) / len(train)


def _trained(state: Mapping[str, Tensor], names: list[str]) -> State:
    return {name: state[name].detach().clone() for name in names}


def _backwards(subject: Subject, adjoint: Adjoint) -> Iterator[list[Step]]:
    """Yield the steps in parts that fit into half of what may be held, the last part first; all are checked."""
    size = BYTES * sum(value.numel() for value in adjoint.parameters)
    most = max(1, int(subject.memory_mb * 2**20 / 2 / size))
    starts = range(0, subject.step, most)
    last = list(_checked_steps(subject, adjoint, starts[-1]))
    yield last
    del last
    for start in reversed(starts[:-1]):
        steps = subject.training(start, start + most)
        yield [_step(step, adjoint.names, subject.device) for step in steps]


def _step(step: TrainingStep, names: list[str], device: torch.device) -> Step:
    weights = {name: value.to(device) for name, value in _trained(step.state, names).items()}
    return Step(step.step, weights, step.batch.indices.to(device), step.learning_rate, step.momentum)


def _checked_steps(subject: Subject, adjoint: Adjoint, first: int) -> Iterator[Step]:
    """Yield the steps from ``first`` on, of all of which it is checked that they are SGD's with momentum."""
    names, inputs = adjoint.names, adjoint.inputs
    momentum = {name: torch.zeros_like(value) for name, value in zip(names, adjoint.parameters, strict=True)}
    before: State = {}
    expected: State = {}
    for taken in subject.training(0, subject.step):
        step = _step(taken, names, subject.device)
        if taken.step:
            _check_step(before, expected, step.weights, taken.step)
        elif not torch.equal(taken.batch.images.to(subject.device), inputs[step.indices]):
            _refuse(1)
        gradients = adjoint.gradients(step)
        momentum = {name: step.momentum * momentum[name] + gradients[name] for name in names}
        expected = {name: step.weights[name] - step.learning_rate * momentum[name] for name in names}
        before = step.weights
        if taken.step >= first:
            yield step
    _check_step(before, expected, _trained(subject.network.state_dict(), names), subject.step)


def _check_step(before: State, expected: State, found: State, step: int) -> None:
    wrong, length, size = (
        float(torch.stack([value.double().square().sum() for value in values]).sum().sqrt())
        for values in (
            [found[name] - expected[name] for name in found],
            [found[name] - before[name] for name in found],
            list(found.values()),
        )
    )
    if not wrong <= TOLERANCE * length + ROUNDING * size:
        _refuse(step)


def _refuse(step: int) -> None:
    raise ValueError(
        f"step {step} of this run is not that of SGD with momentum on the cross-entropy of "
        "unchanged images. Take a run without dropout, augmentation, mixup, weight decay, penalties, clipping and "
        "label smoothing, with optimizer=sgd and loss=cross_entropy."
    )


def _findings(found: Adjoint, train: Split, *, by_class: bool) -> Findings:
    assert found.of_images is not None
    # (times, parts, n, C, H, W), the first time first
    of_images = found.of_images.reshape(len(found.times), -1, *found.inputs.shape).flip(0).cpu().double()
    direct = torch.stack(found.direct[::-1]).cpu().double()
    of_times = of_images.sum(1).abs().flatten(2).sum(2)
    with_direct = (of_images.sum(1) + direct).abs().flatten(2).sum(2).mean(0)
    so_far = of_times.cumsum(0) / torch.arange(1, len(of_times) + 1)[:, None]
    sensitivity = so_far[-1]
    numbers: dict[str, Number] = {
        "gini": gini(sensitivity),
        "gini_with_direct": gini(with_direct),
        "mean": float(sensitivity.mean()),
    }
    tables: dict[str, Table] = {
        "examples": {
            "index": train.index.cpu(),
            "is_corrupted": train.is_corrupted.cpu(),
            "sensitivity": sensitivity,
        },
        "times": {
            "step": found.times,
            "gini": [_or_nan(gini(values)) for values in of_times],
            "gini_so_far": [_or_nan(gini(values)) for values in so_far],
            "mean": of_times.mean(1),
        },
    }
    if by_class:
        labels = train.labels.cpu()
        classes = sorted({*labels.tolist()})
        of_parts = of_images.abs().flatten(3).sum(3).mean(0)  # (classes, n)
        matrix = torch.stack([of_parts[:, labels == one].mean(1) for one in classes], 1)
        is_within = torch.eye(len(classes), dtype=torch.bool)
        numbers["within"] = float(matrix[is_within].mean())
        numbers["between"] = float(matrix[~is_within].mean()) if len(classes) > 1 else None
        numbers["between_over_within"] = (
            float(matrix[~is_within].mean() / matrix[is_within].mean()) if len(classes) > 1 else None
        )
        tables["classes"] = {
            "class_of_loss": [a for a in classes for _ in classes],
            "class_of_example": [b for _ in classes for b in classes],
            "sensitivity": matrix.flatten(),
        }
    return Findings(numbers, tables)


def gini(values: Tensor) -> float | None:
    """Return the Gini index of values ``(n,)`` of at least 0: 0 if all are equal, ``1 - 1/n`` if all but one are 0."""
    ascending, n = values.sort().values, len(values)
    total = float(ascending.sum())
    rank = torch.arange(1, n + 1, dtype=values.dtype)
    return 2 * float((rank * ascending).sum()) / (n * total) - (n + 1) / n if total else None


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value
