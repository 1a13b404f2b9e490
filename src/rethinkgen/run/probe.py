"""What a run was built of, tried on next to nothing before anything is trained: what else would fail in the first step.

Our own networks and losses are known to do what they must; of the user's own, what they return is looked at.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor

from rethinkgen.blame import blamed, is_own, source_of
from rethinkgen.machine import available_bytes
from rethinkgen.measure.predict import evaluation_mode
from rethinkgen.run.build import PLACES
from rethinkgen.train.classifier import Classifier, MakeOptimizer, WatchesNetwork
from rethinkgen.train.loss import RemembersExamples


def check_accelerator(config: DictConfig) -> None:
    """Refuse GPUs where there are none.

    Raises:
        ValueError: they are asked for by name.
    """
    if config.get("accelerator") in ("gpu", "cuda") and not torch.cuda.is_available():
        raise ValueError(
            f"trainer.accelerator={config.accelerator!r}: torch finds no supported gpu on this machine. Choose "
            "trainer=auto, which takes the CPU then, or trainer=cpu."
        )


def check_optimizer(make: MakeOptimizer, config: DictConfig) -> None:
    """Try an optimizer's values on a parameter of its own, with a step where that is torch's.

    Raises:
        ValueError: some of its values are refused.
    """
    parameter = torch.nn.Parameter(torch.zeros(2, 2))
    parameter.grad = torch.ones(2, 2)
    try:
        with blamed(make, "optimizer", PLACES["optimizer"].asks):
            optimizer = make([{"params": [parameter]}])
        if type(optimizer).__module__.startswith("torch."):
            optimizer.step()
    except (TypeError, ValueError, RuntimeError, AssertionError, OverflowError) as error:
        raise ValueError(f"{spelled('optimizer', config)}: {error}") from error


@contextlib.contextmanager
def telling_lack_of_memory() -> Iterator[None]:
    """Say of a network that cannot be made for want of memory just that.

    Raises:
        ValueError: it cannot.
    """
    try:
        yield
    except (MemoryError, RuntimeError) as error:
        if not isinstance(error, MemoryError) and "allocate" not in str(error) and "out of memory" not in str(error):
            raise
        free = available_bytes() / 1e9
        raise ValueError(f"model: it does not fit into memory, of which {free:.1f} GB are free ({error}).") from error


def check_parts_of_a_step(model: Classifier) -> None:
    """Try a network, a loss and penalties of the user's own on two images of zeros.

    Raises:
        ValueError: one fails, or returns something else than what its place wants.
    """
    penalties = [each for each in model.penalties if is_own(each) and not isinstance(each, WatchesNetwork)]
    if not hasattr(model, "network") or not (penalties or is_own(model) or is_own(model.loss)):
        return
    if next(model.parameters(), None) is None:
        raise ValueError(f"model: {source_of(model)} builds a network without a parameter: nothing can be trained.")
    # Of no consequence to what is drawn afterwards.
    with evaluation_mode(model), torch.random.fork_rng(devices=[]), torch.enable_grad():
        logits = _logits(model)
        labels = torch.zeros(2, dtype=torch.long)
        if is_own(model.loss) and not isinstance(model.loss, RemembersExamples):
            with blamed(model.loss, "loss", PLACES["loss"].asks):
                losses: Any = model.loss(logits, labels, torch.arange(2))
            if not _is_float(losses, (2,)):
                wants = "a float an example, (2,), is wanted"
                raise ValueError(f"loss: {source_of(model.loss)} makes {_told(losses)} of 2 examples; {wants}.")
        for penalty in penalties:
            with blamed(penalty, "regularizer", PLACES["regularizer"].asks):
                value: Any = penalty(model, logits, labels)
            if not isinstance(value, float | int) and not _is_float(value, ()):
                raise ValueError(f"regularizer: {source_of(penalty)} makes {_told(value)}; a scalar is wanted.")


def _logits(model: Classifier) -> Tensor:
    assert model.image_shape is not None
    with blamed(model, "model", PLACES["model"].asks):
        logits: Any = model(torch.zeros(2, *model.image_shape))
    wanted = (2, model.num_classes)
    if not _is_float(logits, wanted):
        raise ValueError(f"model: {source_of(model)} makes {_told(logits)} of 2 images; logits {wanted} are wanted.")
    return logits  # type: ignore[no-any-return]


def _is_float(value: Any, shape: tuple[int | None, ...]) -> bool:
    return isinstance(value, Tensor) and value.shape == shape and value.is_floating_point()


def _told(value: Any) -> str:
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__


def check_schedule(model: Classifier, total_steps: int, config: DictConfig | None) -> None:
    """Ask the schedule for the first and the last step of the budget.

    Raises:
        ValueError: it has no finite number of at least 0 for one.
    """
    if config is None or model.schedule is None:
        return
    factor = model._learning_rate_factor()
    for step in (0, total_steps - 1, total_steps):
        found: Any = None
        try:
            with blamed(model.schedule, "schedule", PLACES["schedule"].asks):
                found = factor(step)
            is_fine = 0 <= float(found) < math.inf
        except (TypeError, OverflowError, ZeroDivisionError) as error:
            is_fine, found = False, error
        if not is_fine:
            raise ValueError(
                f"{spelled('schedule', config)}: the factor on the learning rate at step {step:,} of {total_steps:,} "
                f"is {found}; a finite number of at least 0 is needed."
            )


def spelled(group: str, config: DictConfig) -> str:
    """Return a group's keys and values as one would override them."""
    return " ".join(f"{group}.{key!s}={value!r}" for key, value in config.items() if not str(key).startswith("_"))
