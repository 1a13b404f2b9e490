"""The LightningModule of models that are solved for instead of trained step by step.

They take part in every grid beside networks: the one "step" of such a run is the solve, after which everything goes on
as for any network (evaluation, ``metrics.csv``, ``examples.npz``, ``result.json``).
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from rethinkgen.data.batches import Batch
from rethinkgen.data.module import CorruptedImages
from rethinkgen.errors import UnsolvableError
from rethinkgen.machine import available_bytes
from rethinkgen.train.classifier import Classifier

Report = Callable[[str, float], None]
"""Told while a solve is under way: what is being computed, and the share of the whole that is done."""


@runtime_checkable
class WatchesSolve(Protocol):
    """A callback of the trainer that is told how far a solve is."""

    def show_solve(self, what: str, share: float) -> None:
        """Take note that ``what`` is being computed, and that ``share`` of the whole is done."""


class Solution(NamedTuple):
    """What a solve found."""

    network: nn.Module
    """Inputs ``(N, C, H, W)`` to outputs ``(N, num_classes)``, of which the largest names the class. Its parameters are
    what is counted and kept in ``weights/end.pt``; what the run's config brings back, such as the training inputs that
    a kernel needs, belongs into buffers with ``persistent=False``, which are not written."""
    metrics: dict[str, float | None]
    """``solution/...``: norms, residual, condition; ``None`` where one was not computed."""


class ClosedForm(Classifier):
    """A model whose weights are computed from the whole training set at once.

    A subclass says how (``solve``), and refuses beforehand what it cannot do (``check_problem``). No gradient is
    taken: optimizer, learning rate, schedule, budget and batch size have no meaning and do not enter the run's name.
    So says ``declares: closed_form`` in the model's YAML, see ``rethinkgen/run/neutral.yaml``, where classes of ours
    stand by name. There is no ``train/loss``, as nothing is seen on the way; the cross-entropies of ``fit/loss`` and
    ``test/loss`` take the outputs for logits, which a least-squares solution does not make them, so accuracies are what
    compares with networks. ``steps`` and, once fitted, ``steps_to_fit`` are 1.

    Nothing is saved before the end: a run that was stopped is solved again from the start.
    """

    own_steps = 1
    is_resumable = False
    advice = ""
    """What to try where a system cannot be solved."""

    def __init__(self, *, learning_rate: None = None, **keywords: Any) -> None:
        super().__init__(**keywords)
        self.solution_metrics: dict[str, float | None] = {}
        """Of the solution, once there is one."""
        self._is_checked = False

    def report(self, what: str, share: float) -> None:
        """Tell the trainer's callbacks that watch how far the solve is, if there are any."""
        for callback in self._trainer.callbacks if self._trainer is not None else ():  # type: ignore[attr-defined]
            if isinstance(callback, WatchesSolve):
                callback.show_solve(what, share)

    @abstractmethod
    def solve(self, inputs: Tensor, labels: Tensor, num_classes: int) -> Solution:
        """Find the model for inputs ``(N, C, H, W)`` float32 and labels ``(N,)`` int64, on the device they are on.

        Called without gradients and without autocast. Call ``self.report(what, share)`` now and then.
        """

    def check_problem(self, inputs: Tensor, labels: Tensor, num_classes: int) -> None:
        """Refuse, before any work, a training set that cannot be solved for.

        Raises:
            ValueError: it cannot; the message says what to do.
        """

    def build(self, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        """Refuse: there is no network before the solve."""
        raise RuntimeError(f"{type(self).__name__} is found by solve(), from examples.")

    def configure_model(self) -> None:
        """Look at the datamodule's training set, and refuse what cannot be solved for."""
        datamodule = getattr(self.trainer, "datamodule", None)
        if datamodule is None:
            raise ValueError(f"{type(self).__name__}: fit it with a datamodule, trainer.fit(model, datamodule=...).")
        if self.trainer.world_size > 1:
            raise ValueError(
                f"trainer.devices={self.trainer.world_size}: {type(self).__name__} is solved in closed form, on one "
                "device. Set trainer.devices=1."
            )
        self.image_shape = tuple(datamodule.image_shape)
        self.num_classes = datamodule.num_classes
        train = datamodule.splits["train"]
        if not isinstance(train.inputs, Tensor):
            raise ValueError(
                f"data.source={type(datamodule.source).__name__}: {type(self).__name__} is solved in closed form, from "
                "images in memory, and these are streamed. Choose data=image_folder, or a network."
            )
        if not self._is_checked:  # Lightning asks again
            self.check_problem(train.inputs, train.labels, self.num_classes)
            self._is_checked = True

    @torch.no_grad()
    def solve_for(self, datamodule: CorruptedImages) -> None:
        """Have ``network`` be the solution for a training set, without a trainer."""
        self.image_shape, self.num_classes = datamodule.image_shape, datamodule.num_classes
        train = datamodule.splits["train"]
        assert isinstance(train.inputs, Tensor)
        self.check_problem(train.inputs, train.labels, self.num_classes)
        self._take_solution(train.inputs, train.labels)

    def _take_solution(self, inputs: Tensor, labels: Tensor) -> None:
        with torch.autocast(inputs.device.type, enabled=False):
            self.network, self.solution_metrics = self.solve(inputs, labels, self.num_classes or 0)
        for name, parameter in self.network.named_parameters():
            if not bool(parameter.isfinite().all()):
                raise UnsolvableError(f"{name} of the solution is no finite number. {self.advice}")
            parameter.requires_grad_(False)

    def free_bytes(self) -> int:
        """Return the memory that is free where the solve will run."""
        device = self.device if self._trainer is None else self.trainer.strategy.root_device
        return int(torch.cuda.mem_get_info(device)[0]) if device.type == "cuda" else available_bytes()

    def configure_optimizers(self) -> list[torch.optim.Optimizer]:
        """Have none."""
        return []

    @torch.no_grad()
    def training_step(self, batches: Iterable[Batch], _block: int) -> None:
        """Solve for the whole training set, which is not taken from ``batches``, and have training end."""
        train = self.trainer.datamodule.splits["train"]  # type: ignore[attr-defined]
        self._take_solution(train.inputs, train.labels)
        self.count_steps(1)
        self.trainer.should_stop = True

    def forward(self, images: Tensor) -> Tensor:
        """Return the outputs ``(N, num_classes)`` of inputs ``(N, C, H, W)``."""
        outputs: Tensor = self.network(images)
        return outputs

    @property
    def num_parameters(self) -> int:
        """Numbers that the solve has chosen, or drawn as the theorem at hand counts them."""
        return sum(parameter.numel() for parameter in self.parameters())

    @property
    def own_metrics(self) -> dict[str, float | None]:
        """``solution/...``."""
        return self.solution_metrics


def check_memory(what: str, needed: int, free: int, advice: str) -> None:
    """Raise a ``ValueError`` that names both if more bytes are needed than are free, with what to do."""
    if needed > free:
        raise ValueError(f"model: {what} take {needed / 1e9:.1f} GB, and {free / 1e9:.1f} GB are free. {advice}.")
