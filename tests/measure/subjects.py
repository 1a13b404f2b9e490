"""Small networks on small data, by hand, for tests of measures."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from rethinkgen.data.module import Split
from rethinkgen.measure.subject import At, Draw, Subject

SHAPE = (2, 6, 6)
NUM_CLASSES = 3


class Scaled(nn.Module):
    """A parameter that is in no layer torch knows."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor([1.5, 0.5, 2.0]))

    def forward(self, logits: Tensor) -> Tensor:
        return logits * self.scale


def mlp() -> nn.Module:
    return nn.Sequential(
        nn.Flatten(),
        nn.Linear(72, 8),
        nn.ReLU(inplace=True),
        nn.Dropout(0.5),
        nn.Linear(8, 5),
        nn.Tanh(),
        nn.Linear(5, 3),
    )


def convolutional() -> nn.Module:
    """Strides, groups, BatchNorm after 4-d and 2-d, a frozen scale, in-place ReLUs, and a module of its own."""
    norm = nn.BatchNorm2d(4)
    norm.weight.requires_grad_(False)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, stride=2, padding=1, bias=False),
        norm,
        nn.ReLU(inplace=True),
        nn.Conv2d(4, 6, (1, 2), groups=2),
        nn.BatchNorm2d(6),
        nn.ReLU(inplace=True),
        nn.Flatten(),
        nn.Linear(36, 4),
        nn.BatchNorm1d(4),
        nn.Linear(4, 3),
        Scaled(),
    )


NETWORKS: dict[str, Callable[[], nn.Module]] = {"mlp": mlp, "convolutional": convolutional}


def network_of(name: str, seed: int = 0) -> nn.Module:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        network = NETWORKS[name]()
        network.train()
        for _ in range(3):  # running statistics that are not those of no data
            network(torch.randn(16, *SHAPE))
        return network.eval()


def split_of(size: int, seed: int, *, share_wrong: float = 0.0) -> Split:
    draws = torch.Generator().manual_seed(seed)
    original = torch.arange(size) % NUM_CLASSES
    is_drawn = torch.rand(size, generator=draws) < share_wrong
    labels = torch.where(is_drawn, (original + 1) % NUM_CLASSES, original)
    # Unequal examples, whose order in the split is not that of their indices.
    inputs = torch.randn(size, *SHAPE, generator=draws) * torch.linspace(0.5, 2, size).view(-1, 1, 1, 1)
    index = torch.randperm(size, generator=draws)
    return Split(inputs, labels, original, is_drawn, labels != original, index)


def subject_of(
    network: nn.Module | str = "mlp", *, share_wrong: float = 0.4, step: int = 7, size: int = 23, **keywords: Any
) -> Subject:
    """A subject whose other steps are other draws of its initialisation."""
    if isinstance(network, str):
        name, network = network, network_of(network)
    else:
        name = ""

    def at(other: At) -> Subject:
        # An epoch has 10 steps.
        taken = other if isinstance(other, int) else 10 * int(other.removesuffix("ep"))
        another = network_of(name, seed=100 + taken) if name else copy.deepcopy(network)
        return Subject(another, splits, step=taken, **keywords)

    def fresh(draw: int) -> nn.Module:
        return network_of(name, seed=200 + draw)

    splits = {
        "train": split_of(size, 1, share_wrong=share_wrong),
        "validation": split_of(8, 2, share_wrong=share_wrong),
        "test": split_of(11, 3),
    }

    def pixels(name: str) -> Tensor:
        inputs: Tensor = splits[name].inputs  # type: ignore[assignment]
        return (inputs + 1) / 4

    def trainings(draws: Sequence[Draw], epochs: float, names: Sequence[str]) -> dict[str, Tensor]:
        sources = [torch.Generator().manual_seed(draw.seed + round(100 * epochs)) for draw in draws]
        sizes = {name: (len(splits[name]),) for name in names}
        said = {n: [torch.randint(NUM_CLASSES, size, generator=g) for g in sources] for n, size in sizes.items()}
        return {name: torch.stack(classes) for name, classes in said.items()}

    makers = {
        "at": at,
        "fresh": fresh,
        "pixels": pixels,
        "from_pixels": lambda images: 4 * images - 1,
        "trainings": trainings,
    }
    keywords = {**makers, **keywords}
    return Subject(network, splits, step, **keywords)  # type: ignore[arg-type]
