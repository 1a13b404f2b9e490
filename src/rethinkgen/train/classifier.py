"""The LightningModule that every architecture shares: loss, optimizer, schedule and the steps themselves."""

from __future__ import annotations

import functools
import inspect
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

import pytorch_lightning as pl
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from rethinkgen.checks import check_between, check_positive, check_switch
from rethinkgen.collective import sum_over_ranks
from rethinkgen.data.batches import Batch
from rethinkgen.data.timetable import Timetable
from rethinkgen.measure.predict import batch_norms
from rethinkgen.train.block_record import BlockRecord, block_totals, presented
from rethinkgen.train.evaluation import Evaluation
from rethinkgen.train.histories import Presented, Step
from rethinkgen.train.loss import BlockRows, CrossEntropy, Loss, RemembersExamples

MakeOptimizer = Callable[[list[dict[str, Any]]], torch.optim.Optimizer]
Schedule = Callable[[int, int, float], float] | Callable[[int, int], float]


class Mix(Protocol):
    """Changes a batch by means of the network."""

    def __call__(self, batch: Batch, network: nn.Module) -> Batch:
        """Return what is trained on instead; ``network``: images ``(n, C, H, W)`` to logits ``(n, C)``."""


class Penalty(Protocol):
    """Something that is added to the loss."""

    def __call__(self, network: nn.Module, logits: Tensor, labels: Tensor) -> Tensor:
        """Return a scalar: of a batch, or of a rank's share or a micro-batch of it, by whose size it is weighed."""


@runtime_checkable
class WatchesNetwork(Protocol):
    """A penalty on what is inside the network, which it sees by hooks."""

    def begin(self, network: nn.Module) -> Sequence[RemovableHandle]:
        """Register hooks, when training begins or goes on; they are removed at its end.

        Nothing of a penalty is in a checkpoint. What it draws here by torch it draws again when the run goes on.
        """


@runtime_checkable
class MustFit(Protocol):
    """A loss or a penalty that cannot be with every network and all data, or takes something from them."""

    def check_fits(self, network: nn.Module, datamodule: Any) -> None:
        """Look at the ``Classifier`` and at data that are set up, before anything is trained.

        Raises:
            ValueError: it cannot be with these; the message says what to do.
        """


def parameter_groups(parameters: Iterable[tuple[Tensor, int]]) -> list[dict[str, Any]]:
    """Return what an optimizer is made from: what is trained, of weights and of vectors, on which no decay acts.

    Each parameter comes with its number of dimensions: in a stack of networks it has one more.
    """
    trained = [(value, dimensions) for value, dimensions in parameters if value.requires_grad]
    return [
        {"params": [value for value, dimensions in trained if dimensions > 1]},
        {"params": [value for value, dimensions in trained if dimensions <= 1], "weight_decay": 0.0},
    ]


def num_call_arguments(kind: type) -> int | None:
    """Return how many arguments objects of a class are called with: a ``Mix`` with 2, a ``Penalty`` with 3."""
    call = next((vars(each)["__call__"] for each in kind.__mro__ if "__call__" in vars(each)), None)
    return None if call is None else len(inspect.signature(call).parameters) - 1


class Classifier(pl.LightningModule, ABC):
    """A network and how it is trained: many optimizer steps to one Lightning step.

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
        loss: one value an example (``rethinkgen.train.loss``); cross-entropy by default.
        mix: ``(batch, self) -> batch``, before each step: what needs the network, as adversarial images do. Pairs of
            images are mixed by the datamodule.
        penalties: each ``(self, logits, labels) -> scalar`` is added to the mean loss of what it is given.
        gradient_clip: the gradient of a step is scaled down to this norm where it is longer.
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
        loss: Loss | None = None,
        mix: Mix | None = None,
        penalties: Sequence[Penalty] = (),
        gradient_clip: float | None = None,
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
        self._dropout = check_between("regularizer.dropout", dropout, 0, 1, below=True)
        self._asked_for_dropout = False
        self.loss = loss or CrossEntropy()
        self.mix = mix
        self.penalties = tuple(penalties)
        self.gradient_clip = None if gradient_clip is None else check_positive("gradient_clip", gradient_clip)
        self.make_optimizer = optimizer or self._default_optimizer
        self.schedule = schedule
        self.channels_last = check_switch("model.channels_last", channels_last)
        self.steps: list[Step] = []
        """One entry for each optimizer step of the block trained last."""
        self.presented: Presented | None = None
        """What the network said of that block's examples; ``None`` where images were mixed, and none stood there."""
        self._loss_state: dict[str, Any] | None = None
        self._hooks: list[RemovableHandle] = []
        if image_shape is not None and num_classes is not None:
            self.network = self._build()

    @abstractmethod
    def build(self, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        """Build the network: images ``(N, C, H, W)`` to logits ``(N, num_classes)``, or one for two classes.

        Raises:
            ValueError: the images are too small for the architecture; the message names the least size.
        """

    @property
    def dropout(self) -> float:
        """The probability of zeroing a unit."""
        self._asked_for_dropout = True
        return self._dropout

    @property
    def has_dropout(self) -> bool:
        """Whether the network, once built, has a place for dropout: it asked for the rate, or ``forward`` will."""
        return self._asked_for_dropout or "dropout" in inspect.unwrap(type(self).forward).__code__.co_names

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

    def on_train_start(self) -> None:
        """Tell what takes part in training that it begins or goes on."""
        datamodule = self.trainer.datamodule  # type: ignore[attr-defined]
        self.check_parts(datamodule, self.optimizers(use_pl_optimizer=False))
        # What is drawn here is drawn again by a run that goes on, and leaves the draws of training as they are.
        with torch.random.fork_rng([self.device] if self.device.type == "cuda" else []):
            torch.manual_seed(torch.initial_seed() ^ 1)  # other draws than those of the initial weights
            if isinstance(self.loss, RemembersExamples):
                self.loss.begin(len(datamodule.splits["train"]), self.num_classes or 0, self.device)
                if self._loss_state is not None:
                    self.loss.load_state_dict(self._loss_state)
            for penalty in self.penalties:
                if isinstance(penalty, WatchesNetwork):
                    self._hooks += penalty.begin(self)

    def check_parts(self, datamodule: Any, optimizer: Any) -> None:
        """Refuse what does not fit, and a loss that remembers examples where it would not see each once.

        Raises:
            ValueError: the loss or a penalty says so; or images are mixed, or the optimizer passes twice over a batch.
        """
        for part in (self.loss, *self.penalties):
            if isinstance(part, MustFit):
                part.check_fits(self, datamodule)
        if not isinstance(self.loss, RemembersExamples):
            return
        name = type(self.loss).__name__
        if self.mix is not None or datamodule.mixup:
            raise ValueError(
                f"loss={name}: it remembers each example by its image, and here these are mixed. Train without "
                "regularizer.mixup, or with another loss."
            )
        if getattr(optimizer, "needs_second_pass", False):
            raise ValueError(
                f"loss={name} optimizer={type(optimizer).__name__}: the loss remembers what it saw of each example, "
                "and the optimizer shows it each twice, the second time elsewhere. Choose another loss or optimizer."
            )

    def on_train_end(self) -> None:
        """Take away what penalties have hooked on."""
        while self._hooks:
            self._hooks.pop().remove()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what the loss remembers."""
        if isinstance(self.loss, RemembersExamples):
            checkpoint["loss"] = self.loss.state_dict()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what the loss remembers until training begins."""
        self._loss_state = checkpoint.get("loss")

    def training_step(self, batches: Iterable[Batch], _block: int) -> None:
        """Take one optimizer step for each batch of the block and note what each saw in ``self.steps``."""
        optimizer = self.optimizers(use_pl_optimizer=False)
        scheduler = self.lr_schedulers()
        assert isinstance(optimizer, torch.optim.Optimizer)
        assert isinstance(scheduler, torch.optim.lr_scheduler.LambdaLR)
        needs_second_pass = getattr(optimizer, "needs_second_pass", False)
        record = BlockRecord()
        for batch in batches:
            batch = batch if self.mix is None else self.mix(batch, self)
            loss_sum, logits = self._backward(batch, optimizer)
            rate = optimizer.param_groups[0]["lr"]
            if needs_second_pass:
                optimizer.step(functools.partial(self._backward_again, batch, optimizer))
            else:
                optimizer.step()
            scheduler.step()
            record.add(batch, logits, loss_sum, rate)
        self.count_steps(len(record.sizes))
        rows = BlockRows(torch.cat(record.indices), record.sizes)
        if isinstance(self.loss, RemembersExamples):
            self.loss.end_block(rows)
        said = record.answers()
        totals = block_totals(record.loss_sums, said.is_right, [len(part) for part in record.indices])
        if self.trainer.world_size > 1:
            # In which order ranks are added up depends on how many steps a block has, and that on the clock: in float64
            # it makes no difference.
            totals = sum_over_ranks(totals.double())
        initial_rate = float(optimizer.param_groups[0]["initial_lr"])
        self.steps = [
            Step(loss_sum, int(num_correct), size, rate, initial_rate)
            for (loss_sum, num_correct), size, rate in zip(totals.tolist(), record.sizes, record.rates, strict=True)
        ]
        num_examples = self.trainer.datamodule.timetable.num_examples  # type: ignore[attr-defined]
        self.presented = None if record.is_mixed else presented(rows, record.sizes, said, num_examples)

    def _backward(self, batch: Batch, optimizer: torch.optim.Optimizer) -> tuple[Tensor, Tensor]:
        """Compute the gradient of the batch; return its summed loss, and the logits ``(n, C)``."""
        loss_sums: list[Tensor] = []
        all_logits: list[Tensor] = []
        optimizer.zero_grad()
        # DDP averages gradients over ranks, whose shares of a batch may differ in size: hence the sum, and
        # Lightning's backward, without which ranks drift apart silently.
        scale = self.trainer.world_size / batch.global_size
        for part in batch.parts():
            # Of the module itself: DDP's forward is once a block. Its gradients are reduced at each backward none the
            # less, which Lightning's manual_backward prepares (tests/run/test_ddp.py, blocks of 16 steps).
            logits = self.forward(part.images)
            loss_sum = self._losses(logits, part).sum()
            objective = loss_sum * scale
            for penalty in self.penalties:
                objective = objective + penalty(self, logits, part.labels) * (scale * len(part.labels))
            self.manual_backward(objective)
            loss_sums.append(loss_sum.detach())
            all_logits.append(logits.detach())
        if self.gradient_clip is not None:
            torch.nn.utils.clip_grad_norm_(self.parameters(), self.gradient_clip)
        if len(loss_sums) == 1:
            return loss_sums[0], all_logits[0]
        return torch.stack(loss_sums).sum(), torch.cat(all_logits)

    def _losses(self, logits: Tensor, batch: Batch) -> Tensor:
        losses = self.loss(logits, batch.labels, batch.indices)
        if batch.other_labels is None:
            return losses
        return torch.lerp(self.loss(logits, batch.other_labels, batch.indices), losses, batch.share)

    @torch.enable_grad()
    def _backward_again(self, batch: Batch, optimizer: torch.optim.Optimizer) -> Any:
        """Compute the gradient where the optimizer has moved the weights to, for now: BatchNorm takes no note of it."""
        norms = [norm for norm in batch_norms(self) if norm.track_running_stats]
        for norm in norms:
            norm.track_running_stats = False
        try:
            return self._backward(batch, optimizer)[0]
        finally:
            for norm in norms:
                norm.track_running_stats = True

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
        optimizer = self.make_optimizer(parameter_groups((value, value.ndim) for value in self.parameters()))
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
