"""The LightningModule that every architecture shares: loss, optimizer, schedule and the steps themselves."""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rethinkgen.checks import check_between, check_positive
from rethinkgen.collective import sum_over_ranks
from rethinkgen.data.batches import Batch
from rethinkgen.data.timetable import Timetable
from rethinkgen.train.evaluation import Evaluation
from rethinkgen.train.histories import Step

MakeOptimizer = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]
Schedule = Callable[[int, int, float], float] | Callable[[int, int], float]


class Classifier(pl.LightningModule, ABC):
    """A network trained with cross-entropy, many optimizer steps to one Lightning step.

    A subclass says only how its network is built (``build``). The shape of the images and the number of classes are
    taken from the datamodule at the start of ``fit``, or given here; until then ``network`` does not exist.

    Where the datamodule asks for one output (``random_signs``), the network's is the logit of class 1 and that of class
    0 is zero: cross-entropy on the two is the logistic loss on the one.

    Lightning's cost of about 0.3 ms a step is more than half of a small network's own, so a Lightning "batch" is a
    block of batches (``rethinkgen.data.batches.Blocks``) and each block's optimizer steps are taken here, by manual
    optimization. ``trainer.global_step`` still counts optimizer steps.

    Args:
        image_shape: ``(channels, height, width)``.
        num_outputs: of the network: one for each class, or one for two classes. ``None``: ``num_classes``.
        learning_rate: of the default optimizer, SGD with momentum 0.9. With ``optimizer`` given it is not used.
        dropout: probability of zeroing a unit, where the architecture has a place for it.
        label_smoothing: share of the target spread evenly over all classes, in ``[0, 1)``.
        optimizer: makes the optimizer from two parameter groups: weights, then biases and normalisation shifts, for
            which weight decay is off.
        schedule: ``(step, total_steps, epochs) -> factor`` on the learning rate, where ``epochs`` have passed after
            ``step`` steps; one that does not go by epochs may leave that argument out.
        channels_last: memory format of images and weights; convolutions are faster in it. Numbers differ by rounding.
    """

    own_steps: int | None = None
    """How many steps its training takes, whatever the budget; its YAML then declares the same (``max_steps``)."""
    is_resumable = True
    """Whether a checkpoint of it is worth having: false where it would have to begin anew all the same."""

    def __init__(
        self,
        *,
        image_shape: tuple[int, int, int] | None = None,
        num_classes: int | None = None,
        num_outputs: int | None = None,
        learning_rate: float = 0.01,
        dropout: float = 0.0,
        label_smoothing: float = 0.0,
        optimizer: MakeOptimizer | None = None,
        schedule: Schedule | None = None,
        channels_last: bool = False,
    ) -> None:
        super().__init__()
        self.automatic_optimization = False
        self.image_shape = image_shape
        self.num_classes = num_classes
        self.num_outputs = num_classes if num_outputs is None else num_outputs
        if self.num_outputs != num_classes and (self.num_outputs, num_classes) != (1, 2):
            raise ValueError(f"num_outputs={num_outputs}: {num_classes} are needed, one for each class; or 1 for 2.")
        self.learning_rate = check_positive("model.learning_rate", learning_rate)
        self.dropout = check_between("regularizer.dropout", dropout, 0, 1, below=True)
        self.label_smoothing = check_between("regularizer.label_smoothing", label_smoothing, 0, 1, below=True)
        self.make_optimizer = optimizer or self._default_optimizer
        self.schedule = schedule
        self.channels_last = channels_last
        self.steps: list[Step] = []
        """One entry for each optimizer step of the block trained last."""
        if image_shape is not None and num_classes is not None:
            self.network = self._build()

    @abstractmethod
    def build(self, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        """Build the network: images ``(N, C, H, W)`` to logits ``(N, num_classes)``, or one for two classes.

        Raises:
            ValueError: the images are too small for the architecture; the message names the least size.
        """

    def dropout_layers(self) -> list[nn.Module]:
        """Return a new dropout layer, or none where the rate is zero: put it in its place with ``*``."""
        return [nn.Dropout(self.dropout)] if self.dropout else []

    def _build(self) -> nn.Module:
        assert self.image_shape is not None
        assert self.num_outputs is not None
        network = self.build(self.image_shape, self.num_outputs)
        if self.channels_last:
            network = network.to(memory_format=torch.channels_last)
        return network

    def configure_model(self) -> None:
        """Build the network for the datamodule's images, unless it was built by the constructor."""
        if hasattr(self, "network"):
            return
        datamodule = getattr(self.trainer, "datamodule", None)
        if datamodule is None:
            raise ValueError(
                f"{type(self).__name__}: give image_shape and num_classes, or fit it with a datamodule that has them."
            )
        self.image_shape = tuple(datamodule.image_shape)
        self.num_classes, self.num_outputs = datamodule.num_classes, datamodule.num_outputs
        self.network = self._build()

    def configure_callbacks(self) -> list[pl.Callback]:
        """Evaluate once an epoch, unless the trainer was given an ``Evaluation`` of its own."""
        own = any(isinstance(callback, Evaluation) for callback in self.trainer.callbacks)  # type: ignore[attr-defined]
        return [] if own else [Evaluation()]

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits ``(N, num_classes)`` of images ``(N, C, H, W)``."""
        images = images.to(next(self.parameters()).dtype)
        if self.channels_last:
            images = images.contiguous(memory_format=torch.channels_last)
        logits: Tensor = self.network(images)
        return logits if self.num_outputs == self.num_classes else F.pad(logits, (1, 0))

    @property
    def num_parameters(self) -> int:
        """Trainable parameters, the published count."""
        return sum(parameter.numel() for parameter in self.parameters() if parameter.requires_grad)

    def training_step(self, batches: Iterable[Batch], _block: int) -> None:
        """Take one optimizer step for each batch of the block and note what each saw in ``self.steps``."""
        optimizer = self.optimizers(use_pl_optimizer=False)
        scheduler = self.lr_schedulers()
        assert isinstance(optimizer, torch.optim.Optimizer)
        assert isinstance(scheduler, torch.optim.lr_scheduler.LambdaLR)
        sums: list[Tensor] = []
        sizes: list[int] = []
        rates: list[float] = []
        for images, labels, global_size in batches:
            # Of the module itself: DDP's forward is once a block. Its gradients are reduced at each backward none the
            # less, which Lightning's manual_backward prepares (tests/run/test_ddp.py, blocks of 16 steps).
            logits = self.forward(images)
            loss_sum = F.cross_entropy(logits, labels, reduction="sum", label_smoothing=self.label_smoothing)
            optimizer.zero_grad()
            # DDP averages gradients over ranks, whose shares of a batch may differ in size: hence the sum, and
            # Lightning's backward, without which ranks drift apart silently.
            self.manual_backward(loss_sum * (self.trainer.world_size / global_size))
            rates.append(optimizer.param_groups[0]["lr"])
            optimizer.step()
            scheduler.step()
            with torch.no_grad():
                sums.append(torch.stack([loss_sum.detach().float(), (logits.argmax(1) == labels).sum().float()]))
            sizes.append(global_size)
        self.count_steps(len(sizes))
        totals = torch.stack(sums)
        if self.trainer.world_size > 1:
            # In which order ranks are added up depends on how many steps a block has, and that on the clock: in float64
            # it makes no difference.
            totals = sum_over_ranks(totals.double())
        initial_rate = float(optimizer.param_groups[0]["initial_lr"])
        self.steps = [
            Step(loss_sum, int(num_correct), size, rate, initial_rate)
            for (loss_sum, num_correct), size, rate in zip(totals.tolist(), sizes, rates, strict=True)
        ]

    def count_steps(self, number: int) -> None:
        """Tell Lightning that so many steps were taken; whoever overrides ``training_step`` does it there.

        The raw optimizer saves tens of microseconds a step but hides its steps from Lightning, whose checkpoints and
        ``max_steps`` go by this counter (tests/train/test_classifier.py holds it to the truth).
        """
        self.trainer.fit_loop.epoch_loop.manual_optimization.optim_step_progress.total.completed += number

    @property
    def own_metrics(self) -> Mapping[str, float | None]:
        """Numbers of its own for the rows of evaluations and for the result, ``None`` where one is not known.

        Told from its state alone, so that a run resumed after its last step has them too.
        """
        return {}

    def configure_optimizers(self) -> Any:
        """Weight decay acts on weights alone; the schedule is a pure function of the step."""
        trainable = [parameter for parameter in self.parameters() if parameter.requires_grad]
        optimizer = self.make_optimizer(
            [
                {"params": [parameter for parameter in trainable if parameter.ndim > 1]},
                {"params": [parameter for parameter in trainable if parameter.ndim <= 1], "weight_decay": 0.0},
            ]
        )
        scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, self._learning_rate_factor())
        return {"optimizer": optimizer, "lr_scheduler": scheduler}

    def _learning_rate_factor(self) -> Callable[[int], float]:
        """Return the schedule as a function of the step alone. Decided once: this is called at every step."""
        schedule: Any = self.schedule
        if schedule is None:
            return lambda step: 1.0
        if not goes_by_epochs(schedule):
            return lambda step: schedule(step, self.total_steps)
        timetable: Timetable = self.trainer.datamodule.timetable  # type: ignore[attr-defined]
        return lambda step: schedule(step, self.total_steps, timetable.epochs(step))

    @property
    def initial_learning_rate(self) -> float | None:
        """The rate before any schedule; ``None`` where no optimizer takes the steps."""
        optimizer = self.optimizers(use_pl_optimizer=False)
        if optimizer == []:
            return None
        assert isinstance(optimizer, torch.optim.Optimizer)
        return float(optimizer.param_groups[0]["initial_lr"])

    @property
    def total_steps(self) -> int:
        """Optimizer steps of the whole budget, for schedules that end with it."""
        if self.own_steps is not None:
            return self.own_steps
        if self.trainer.max_steps >= 0:
            return self.trainer.max_steps
        assert self.trainer.max_epochs is not None
        timetable: Timetable = self.trainer.datamodule.timetable  # type: ignore[attr-defined]
        return timetable.first(self.trainer.max_epochs)

    def _default_optimizer(self, parameters: list[dict[str, Any]]) -> torch.optim.Optimizer:
        return torch.optim.SGD(parameters, lr=self.learning_rate, momentum=0.9)


def goes_by_epochs(schedule: Callable[..., float]) -> bool:
    """Whether a schedule takes a third argument: one that is called ``epochs``, or that it must be given."""
    parameters = list(inspect.signature(schedule).parameters.values())
    if any(parameter.kind is parameter.VAR_POSITIONAL for parameter in parameters):
        return True
    by_position = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    return len(by_position) > 2 and (
        by_position[2].name == "epochs" or by_position[2].default is inspect.Parameter.empty
    )


def check_image_size(architecture: str, image_shape: tuple[int, int, int], least: int) -> None:
    """Raise a ``ValueError`` that names the least size if a side of ``(C, H, W)`` is below ``least`` pixels."""
    _, height, width = image_shape
    if min(height, width) < least:
        raise ValueError(
            f"model: {architecture} needs images of at least {least}x{least} pixels, these are {height}x{width}. "
            "Choose larger images, or an MLP (model=mlp_1x512), which takes any size."
        )
