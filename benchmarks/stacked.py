"""Where it pays to train many networks as one: against one after the other, and one in each of several processes.

    uv run python benchmarks/stacked.py                    # all sizes, on as many threads as torch takes
    uv run python benchmarks/stacked.py --threads 1 --only digits

Each line is a network, a batch size and R, and says the milliseconds a step and network of a loop over networks in this
process, of processes of one thread each, and of a stack; how many times as fast as these the stack is; and what
``pays_to_stack`` chooses. What it chooses must be the fastest, or within a tenth of it: the line ends in ``wrong`` if
not. Loop, processes and stack take turns, and of each the fastest of ``--repeats`` counts, so that a busy machine slows
all alike. Building the networks counts for all three.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from rethinkgen.measure.subject import Draw
from rethinkgen.model.initialization import glorot_uniform
from rethinkgen.train.stacked import Problem, Stack, in_processes, pays_to_stack, train_alone

TOLERATED = 1.1


class Case(NamedTuple):
    """A size that is measured."""

    name: str
    shape: tuple[int, int, int]
    hidden: tuple[int, ...]
    num_networks: int
    channels: int = 0
    """Of a convolution before the hidden layers, if there is one"""


DIGITS, MNIST = (1, 8, 8), (1, 28, 28)
CASES = [
    Case("digits 64-64-10", DIGITS, (64,), 100),
    Case("digits 64-256-10", DIGITS, (256,), 100),
    Case("mnist 784-16-16-10", MNIST, (16, 16), 100),
    Case("mnist 784-64-10", MNIST, (64,), 60),
    Case("mnist 784-256-10", MNIST, (256,), 20),
    Case("mnist 784-512-512-10", MNIST, (512, 512), 8),
    Case("digits conv 8 3x3", DIGITS, (32,), 40, channels=8),
]


def build(case: Case, seed: int) -> nn.Module:
    """Return a network of a case."""
    torch.manual_seed(seed)
    channels, height, width = case.shape
    layers: list[nn.Module] = []
    if case.channels:
        layers += [nn.Conv2d(channels, case.channels, 3), nn.ReLU(inplace=True)]
        channels, height, width = case.channels, height - 2, width - 2
    layers.append(nn.Flatten())
    num_inputs = channels * height * width
    for size in case.hidden:
        layers += [nn.Linear(num_inputs, size), nn.ReLU(inplace=True)]
        num_inputs = size
    return glorot_uniform(nn.Sequential(*layers, nn.Linear(num_inputs, 10)))


def problem_of(case: Case, batch_size: int, num_steps: int) -> Problem:
    """Return trainings of so many steps on noise: what is learnt makes no difference to the time."""
    inputs, labels = torch.randn(1437, *case.shape), torch.randint(10, (1437,))

    def optimizer(groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return torch.optim.SGD(groups, lr=0.05, momentum=0.9, fused=True)

    steps_per_epoch = -(-1437 // batch_size)
    return Problem(
        lambda seed: build(case, seed),
        optimizer,
        lambda *_: 1.0,
        inputs,
        labels,
        batch_size,
        num_steps / steps_per_epoch,
    )


def seconds_of(what: Callable[[], object]) -> float:
    """Return how long something takes."""
    begun = time.perf_counter()
    what()
    return time.perf_counter() - begun


def loss_of(network: nn.Module) -> Any:
    """Return something small of a network, as a measure would."""
    return next(network.parameters()).detach().square().mean().item()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--only", default="")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"torch {torch.__version__}, {arguments.threads} threads, {arguments.steps} steps; ms a step and network")
    print(f"{'network':22}{'batch':>6}{'R':>5}{'loop':>8}{'procs':>8}{'stack':>8}{'x loop':>8}{'x procs':>8}  chosen")
    for case in [each for each in CASES if arguments.only in each.name]:
        for batch_size in (32, 128):
            problem = problem_of(case, batch_size, arguments.steps)
            draws = [Draw(seed) for seed in range(case.num_networks)]
            some = draws[: max(4, len(draws) // 5)]  # of the loop; it is the same for each

            def stack(problem: Problem = problem, draws: list[Draw] = draws) -> Tensor:
                of_all = Stack(problem, draws)
                of_all.train_to(problem.num_steps(of_all.orders))
                return next(iter(of_all.weights.values()))

            def loop(problem: Problem = problem, some: list[Draw] = some) -> list[Any]:
                return [loss_of(train_alone(problem, draw)) for draw in some]

            def processes(problem: Problem = problem, draws: list[Draw] = draws) -> list[Any]:
                return list(in_processes(problem, draws, loss_of, arguments.threads))

            turns = [[seconds_of(each) for each in (loop, processes, stack)] for _ in range(arguments.repeats)]
            by_loop, by_processes, by_stack = (min(each) for each in zip(*turns, strict=True))
            scale = 1e3 / arguments.steps
            ms = [scale * by_loop / len(some), scale * by_processes / len(draws), scale * by_stack / len(draws)]
            chosen = pays_to_stack(build(case, 0), batch_size, torch.device("cpu"))
            taken = ms[2] if chosen else ms[1]
            verdict = "" if taken <= TOLERATED * min(ms) else "  wrong"
            print(
                f"{case.name:22}{batch_size:6}{len(draws):5}{ms[0]:8.3f}{ms[1]:8.3f}{ms[2]:8.3f}{ms[0] / ms[2]:8.1f}"
                f"{ms[1] / ms[2]:8.1f}  {'stack' if chosen else 'processes'}{verdict}",
                flush=True,
            )


if __name__ == "__main__":
    main()
