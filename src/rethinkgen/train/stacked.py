"""Many trainings of one architecture, each with its own initial weights, order and subset of the examples.

Small networks on small batches spend their time between operations, so that R of them train several times as fast
stacked as one after the other (``Stack``): weights get a dimension more, ``torch.func`` maps the network over it, and
one optimizer moves them all, since what SGD or Adam does to a weight depends on no other. A larger network fills a core
by itself; of these one at a time is trained in each of several processes (``in_processes``). ``pays_to_stack`` says
which, by what ``benchmarks/stacked.py`` measures.

A network of a stack is, to rounding, the one that its seed makes by itself (``train_alone``): the one that a
run of this seed on these examples trains.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.func import functional_call, vmap

from rethinkgen.data.batches import epoch_order
from rethinkgen.data.timetable import BatchSize, Timetable
from rethinkgen.measure.outputs import BYTES, bytes_of_pass, leaves
from rethinkgen.measure.predict import PREDICTION_BATCH, slices
from rethinkgen.measure.subject import Draw
from rethinkgen.train.classifier import MakeOptimizer, parameter_groups

STACKABLE_OPTIMIZERS = (torch.optim.SGD, torch.optim.Adam, torch.optim.AdamW, torch.optim.RMSprop)
"""What these do to a weight depends on no other weight."""
STACKABLE_MODULES = (nn.Linear, nn.Flatten, nn.ReLU, nn.Tanh, nn.Sigmoid, nn.GELU, nn.Identity)
"""Modules that are mapped as fast as they run: a mapped convolution is a grouped one, far slower on a CPU."""
MOST_MULTIPLICATIONS = 3_000_000
"""Weights times examples in a batch up to which a stack is the faster on a CPU (``benchmarks/stacked.py``)."""
MOST_STACKED = 100
"""Networks in one stack: more gain nothing."""

Judged = TypeVar("Judged")


@dataclass(frozen=True)
class Problem:
    """What the trainings have in common."""

    build: Callable[[int], nn.Module]
    """Seed -> a network as a run of this seed begins with; may set torch's generator."""
    make_optimizer: MakeOptimizer
    """Makes it from two parameter groups: weights, then biases, for which weight decay is off."""
    rate_factor: Callable[[int, Timetable], float]
    """Step -> factor on the learning rate."""
    inputs: Tensor
    """``(N, C, H, W)``: as the network sees them"""
    labels: Tensor
    """``(N,)`` int64"""
    batch_size: BatchSize | None
    """``None``: all examples that a network is trained on"""
    epochs: float
    """Passes through the examples that each is trained on."""

    def orders(self, draws: Sequence[Draw]) -> Orders:
        """Return which examples make the batches of these trainings.

        Raises:
            ValueError: they are not trained on equally many.
        """
        return Orders(len(self.labels), self.batch_size, draws, self.labels.device)

    def num_steps(self, orders: Orders) -> int:
        """Return how many steps each takes: one at least."""
        return max(1, orders.timetable.step_at(self.epochs))


class Orders:
    """The batches of R trainings: of each the order that a run has by its seed, over the examples it is trained on."""

    def __init__(
        self, num_examples: int, batch_size: BatchSize | None, draws: Sequence[Draw], device: torch.device
    ) -> None:
        sizes = {num_examples if draw.positions is None else len(draw.positions) for draw in draws}
        if len(sizes) != 1:
            raise ValueError(f"trainings on {sorted(sizes)} examples cannot be stacked: equally many are needed.")
        size = sizes.pop()
        self.timetable = Timetable(size, batch_size or size)
        self._draws = draws
        self._device = device
        self._epoch = -1
        self._batches: tuple[Tensor, ...] = ()

    def batch(self, step: int) -> Tensor:
        """Return the positions ``(R, B)`` of the examples of each batch after ``step`` steps."""
        epoch, position = self.timetable.place(step)
        if epoch != self._epoch:
            rows = [self._order(draw, epoch) for draw in self._draws]
            self._batches = torch.split(torch.stack(rows).to(self._device), self.timetable.sizes(epoch), dim=1)
            self._epoch = epoch
        return self._batches[position]

    def _order(self, draw: Draw, epoch: int) -> Tensor:
        order = torch.cat(epoch_order(self.timetable, draw.seed, epoch))
        return order if draw.positions is None else draw.positions.cpu()[order]


class Stack:
    """R networks that are trained as one.

    Args:
        problem: what their trainings have in common.
        draws: of each its seed, and the examples it is trained on.
    """

    def __init__(self, problem: Problem, draws: Sequence[Draw]) -> None:
        self.problem = problem
        self.orders = problem.orders(draws)
        self.step = 0
        """So many steps each has taken."""
        networks = [problem.build(draw.seed) for draw in draws]
        self._network = copy.deepcopy(networks[0]).to("meta")
        named = [dict(network.named_parameters()) for network in networks]
        self.weights = {
            name: torch.stack([each[name].detach() for each in named]).requires_grad_() for name in named[0]
        }
        """Name -> ``(R, ...)``"""
        groups = parameter_groups((value, value.ndim - 1) for value in self.weights.values())
        self._optimizer = problem.make_optimizer(groups)
        self._initial_rates = [group["lr"] for group in self._optimizer.param_groups]

    def logits(self, images: Tensor, *, are_own: bool = False) -> Tensor:
        """Return ``(R, n, classes)`` of images ``(n, C, H, W)``, or of each network's own ``(R, n, C, H, W)``."""

        def of_one(weights: dict[str, Tensor], seen: Tensor) -> Tensor:
            found: Tensor = functional_call(self._network, weights, (seen,))
            return found

        mapped: Tensor = vmap(of_one, in_dims=(0, 0 if are_own else None))(self.weights, images)
        return mapped

    def train_to(self, last: int, after_step: Callable[[Stack], None] = lambda _: None) -> None:
        """Train on until each has taken ``last`` steps."""
        inputs, labels = self.problem.inputs, self.problem.labels
        weights = list(self.weights.values())
        while self.step < last:
            which = self.orders.batch(self.step)
            # Each network's loss depends on its own weights alone: the gradient of the sum is that of each.
            logits = self.logits(inputs[which], are_own=True).flatten(0, 1)
            loss = F.cross_entropy(logits, labels[which].flatten(), reduction="sum") / which.shape[1]
            for weight, gradient in zip(weights, torch.autograd.grad(loss, weights), strict=True):
                # Fused optimizers take it for laid out as the weight, and silently move the wrong weights if it is not.
                weight.grad = gradient.contiguous()
            factor = self.problem.rate_factor(self.step, self.orders.timetable)
            set_rates(self._optimizer, self._initial_rates, factor)
            self._optimizer.step()
            self.step += 1
            after_step(self)

    @torch.no_grad()
    def classes(self, inputs: Tensor) -> Tensor:
        """Return the classes ``(R, N)`` int64 that each network gives to inputs ``(N, C, H, W)``."""
        parts = slices(len(inputs), PREDICTION_BATCH)
        return torch.cat([self.logits(inputs[part]).argmax(2) for part in parts], dim=1)

    def network(self, number: int) -> nn.Module:
        """Return one of them by itself, in evaluation mode."""
        network = copy.deepcopy(self._network).to_empty(device=self.problem.labels.device)
        network.load_state_dict({name: value[number].detach() for name, value in self.weights.items()}, strict=False)
        return network.eval()

    def state_dict(self) -> dict[str, Any]:
        """Return all that it takes to go on, as plain types and tensors."""
        weights = {name: value.detach() for name, value in self.weights.items()}
        return {"step": self.step, "weights": weights, "optimizer": self._optimizer.state_dict()}

    @torch.no_grad()
    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from where ``state_dict`` was taken."""
        for name, value in self.weights.items():
            value.copy_(state["weights"][name])
        self._optimizer.load_state_dict(state["optimizer"])
        self.step = int(state["step"])


def train_alone(problem: Problem, draw: Draw) -> nn.Module:
    """Train one network by itself; return it in evaluation mode."""
    orders = problem.orders([draw])
    network = problem.build(draw.seed).train()
    optimizer = problem.make_optimizer(parameter_groups((value, value.ndim) for value in network.parameters()))
    initial_rates = [group["lr"] for group in optimizer.param_groups]
    for step in range(problem.num_steps(orders)):
        (which,) = orders.batch(step)
        loss = F.cross_entropy(network(problem.inputs[which]), problem.labels[which])
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        set_rates(optimizer, initial_rates, problem.rate_factor(step, orders.timetable))
        optimizer.step()
    return network.eval()


def set_rates(optimizer: torch.optim.Optimizer, initial: Sequence[float], factor: float) -> None:
    """Set the learning rate of each group to a multiple of its initial one."""
    for group, rate in zip(optimizer.param_groups, initial, strict=True):
        group["lr"] = factor * rate


def in_processes(
    problem: Problem, draws: Sequence[Draw], judge: Callable[[nn.Module], Judged], num_processes: int
) -> Iterator[tuple[int, Judged]]:
    """Train each network by itself, one at a time in each process; yield its place in ``draws`` and what is said of it.

    As one ends, not in their order. A process has one thread: copies of a process in which torch has threads hang where
    they use several.
    """
    if num_processes < 2 or len(draws) < 2:
        yield from ((number, judge(train_alone(problem, draw))) for number, draw in enumerate(draws))
        return
    with ProcessPoolExecutor(
        min(num_processes, len(draws)), get_context("fork"), _begin_process, (problem, draws, judge)
    ) as processes:
        waiting = [processes.submit(_train_numbered, number) for number in range(len(draws))]
        try:
            for done in as_completed(waiting):
                yield done.result()
        finally:
            processes.shutdown(wait=True, cancel_futures=True)


_TASK: list[Any] = []
"""Of a process that trains for another: set as it begins, since a problem holds functions that cannot be sent."""


def _begin_process(*task: Any) -> None:
    torch.set_num_threads(1)
    _TASK[:] = task


def _train_numbered(number: int) -> tuple[int, Any]:
    problem, draws, judge = _TASK
    return number, judge(train_alone(problem, draws[number]))


def why_not_stackable(network: nn.Module, optimizer: torch.optim.Optimizer) -> str:
    """Return why networks of this kind cannot be trained as one; empty if they can be."""
    if type(optimizer) not in STACKABLE_OPTIMIZERS:
        return f"{type(optimizer).__name__} may look at several weights at once"
    if next(network.buffers(), None) is not None:
        return "BatchNorm, or another layer, has buffers of its own"
    if any(isinstance(module, nn.modules.dropout._DropoutNd) for module in network.modules()):
        return "dropout draws as it goes"
    if any(not value.requires_grad for value in network.parameters()):
        return "some of its weights are not trained"
    names = [name for name, _ in network.named_parameters(remove_duplicate=False)]
    return "two of its layers share weights" if len(names) > len(list(network.parameters())) else ""


def pays_to_stack(network: nn.Module, batch_size: int, device: torch.device) -> bool:
    """Whether a stack is faster than one network at a time on every core: small layers, small batches, or a GPU."""
    if device.type != "cpu":
        return True
    are_fast = all(isinstance(module, STACKABLE_MODULES) for module in leaves(network))
    num_weights = sum(value.numel() for value in network.parameters())
    return are_fast and num_weights * batch_size <= MOST_MULTIPLICATIONS


def stack_size(network: nn.Module, image: Tensor, batch_size: int, memory_mb: float) -> int:
    """Return how many networks fit into one stack, in half of what may be held: at least one.

    Args:
        network: one of them.
        image: ``(1, C, H, W)``.
        batch_size: of its training.
        memory_mb: what may be held.
    """
    # Weights, gradients, and up to two momenta; the batch, which each has of its own, and what is computed of it.
    of_weights = 4 * BYTES * sum(value.numel() for value in network.parameters())
    of_batch = max(batch_size, PREDICTION_BATCH) * (bytes_of_pass(network, image) + BYTES * image.numel())
    return int(min(MOST_STACKED, max(1, memory_mb * 2**20 / 2 / (of_weights + of_batch))))
