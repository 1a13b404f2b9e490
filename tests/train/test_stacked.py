"""A network of a stack against the one trained by itself, and that against the one a trainer makes."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
import pytorch_lightning as pl
import torch
from torch import Tensor, nn

from rethinkgen.data.corruption import RandomLabels
from rethinkgen.data.source import Digits
from rethinkgen.measure.subject import Draw
from rethinkgen.model.mlp import MLP
from rethinkgen.train.schedule import exponential
from rethinkgen.train.stacked import (
    MOST_MULTIPLICATIONS,
    Problem,
    Stack,
    in_processes,
    pays_to_stack,
    stack_size,
    train_alone,
    why_not_stackable,
)

N = 90
RATE = 0.1


def build(seed: int) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 8), nn.ReLU(inplace=True), nn.Linear(8, 3))


def sgd(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=RATE, momentum=0.9, weight_decay=0.01, fused=True)


def adam(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
    return torch.optim.Adam(groups, lr=0.01)


def problem(**changes: Any) -> Problem:
    draws = torch.Generator().manual_seed(0)
    labels = torch.arange(N) % 3
    inputs = torch.randn(N, 1, 4, 4, generator=draws) + labels.view(-1, 1, 1, 1)
    whole = Problem(build, sgd, lambda step, _: 0.9**step, inputs, labels, 20, 2.5)
    return dataclasses.replace(whole, **changes)


def subset(seed: int) -> Tensor:
    return torch.randperm(N, generator=torch.Generator().manual_seed(seed))[:63].sort().values


DRAWS = [Draw(seed, subset(seed)) for seed in (5, 9, 2)]


def trained(of: Problem, draws: list[Draw]) -> Stack:
    stack = Stack(of, draws)
    stack.train_to(of.num_steps(stack.orders))
    return stack


def differ(one: nn.Module, other: nn.Module) -> float:
    pairs = zip(one.parameters(), other.parameters(), strict=True)
    return max(float((a - b).detach().abs().max()) for a, b in pairs)


@pytest.mark.parametrize("optimizer", [sgd, adam])
@pytest.mark.parametrize("draws", [DRAWS, [Draw(1), Draw(4)]], ids=["subsets", "all"])
def test_a_network_of_a_stack_is_the_one_of_its_seed_by_itself(optimizer: Any, draws: list[Draw]) -> None:
    of = problem(make_optimizer=optimizer)
    stack = trained(of, draws)
    alone = [train_alone(of, draw) for draw in draws]
    for number, network in enumerate(alone):
        assert differ(stack.network(number), network) < 2e-6
        assert torch.equal(stack.classes(of.inputs)[number], network(of.inputs).argmax(1))
        # It has learnt something, and each something else.
        assert differ(network, build(draws[number].seed)) > 0.05
    assert differ(alone[0], alone[1]) > 0.05


def test_examples_outside_its_subset_play_no_part() -> None:
    of = problem()
    inputs = of.inputs.clone()
    left_out = torch.ones(N, dtype=torch.bool)
    left_out[DRAWS[0].positions] = False
    inputs[left_out] += 7
    assert differ(trained(of, DRAWS).network(0), trained(problem(inputs=inputs), DRAWS).network(0)) == 0


def test_it_is_what_a_trainer_makes_of_the_same_seed() -> None:
    seed, width = 3, 12
    data = RandomLabels(Digits(), seed=1, order_seed=seed, num_train=150, batch_size=32)
    parts: dict[str, Any] = {"width": width, "depth": 1, "learning_rate": 0.05}
    torch.manual_seed(seed)
    model = MLP(**parts, schedule=lambda step, total: exponential(step, total, factor=0.5, every=3))
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = pl.Trainer(accelerator="cpu", max_steps=8, enable_model_summary=False, **quiet)  # type: ignore[arg-type]
    trainer.fit(model, data)

    def build_mlp(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return MLP(**parts, image_shape=(1, 8, 8), num_classes=10).network

    split = data.splits["train"]
    assert isinstance(split.inputs, Tensor)
    factors = lambda step, _: 0.5 ** (step // 3)  # noqa: E731
    of = Problem(build_mlp, MLP(**parts).make_optimizer, factors, split.inputs, split.labels, 32, 8 / 5)
    assert differ(trained(of, [Draw(7), Draw(seed)]).network(1), model.network) < 2e-6
    assert differ(build_mlp(seed), model.network) > 0.05


@pytest.mark.parametrize("optimizer", [sgd, adam])
def test_a_stack_that_was_stopped_goes_on_to_the_same_bits(optimizer: Any) -> None:
    of = problem(make_optimizer=optimizer)
    stopped = Stack(of, DRAWS)
    stopped.train_to(4)
    kept = stopped.state_dict()
    again = Stack(of, DRAWS)
    again.load_state_dict(kept)
    assert again.step == 4
    whole = trained(of, DRAWS)
    again.train_to(whole.step)
    assert all(torch.equal(value, again.weights[name]) for name, value in whole.weights.items())


def test_what_is_done_after_each_step_sees_it_taken() -> None:
    seen: list[int] = []
    Stack(problem(), DRAWS).train_to(3, lambda stack: seen.append(stack.step))
    assert seen == [1, 2, 3]


def test_subsets_of_other_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match=r"trainings on \[63, 90\] examples cannot be stacked"):
        Stack(problem(), [DRAWS[0], Draw(0)])


def test_processes_train_the_same_and_say_which() -> None:
    of = problem(epochs=1)
    found = dict(in_processes(of, DRAWS, lambda network: next(network.parameters()).detach().numpy(), 2))
    assert sorted(found) == [0, 1, 2]
    for number, draw in enumerate(DRAWS):
        expected = next(train_alone(of, draw).parameters())
        torch.testing.assert_close(torch.from_numpy(found[number]), expected.detach(), rtol=0, atol=2e-6)


def test_what_cannot_be_stacked_is_told() -> None:
    network = build(0)
    assert why_not_stackable(network, sgd(list_of(network))) == ""
    assert "LBFGS" in why_not_stackable(network, torch.optim.LBFGS(network.parameters()))
    for module, why in ((nn.BatchNorm1d(8), "BatchNorm"), (nn.Dropout(0.5), "dropout")):
        assert why in why_not_stackable(nn.Sequential(network, module), sgd(list_of(network)))
    tied = nn.Sequential(nn.Linear(4, 4), nn.Linear(4, 4))
    tied[1].weight = tied[0].weight
    assert "share weights" in why_not_stackable(tied, sgd(list_of(tied)))
    frozen = build(0)
    frozen[1].bias.requires_grad_(False)
    assert "not trained" in why_not_stackable(frozen, sgd(list_of(network)))


def list_of(network: nn.Module) -> list[dict[str, Any]]:
    return [{"params": list(network.parameters())}]


def test_small_linear_layers_are_stacked_and_large_ones_or_convolutions_are_not() -> None:
    on_cpu, network = torch.device("cpu"), nn.Sequential(nn.Flatten(), nn.Linear(99, 10))
    most = MOST_MULTIPLICATIONS // 1000
    assert pays_to_stack(network, most, on_cpu)
    assert not pays_to_stack(network, most + 1, on_cpu)
    assert pays_to_stack(network, most + 1, torch.device("cuda"))
    assert not pays_to_stack(nn.Conv2d(1, 2, 3), 2, on_cpu)


def test_as_many_are_stacked_as_memory_allows_but_one_at_least() -> None:
    image = torch.zeros(1, 1, 4, 4)
    sizes = [stack_size(build(0), image, 20, memory_mb) for memory_mb in (0.001, 2, 4, 1000)]
    # 163 weights four times; of each of 500 images 16 pixels, and three times these and 16, 8, 8 and 3 outputs.
    each = 4 * 4 * 163 + 500 * 4 * (16 + 3 * (16 + 16 + 8 + 8 + 3))
    assert sizes == [1, 2**20 // each, 2**21 // each, 100]
