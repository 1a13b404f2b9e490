"""Trainings like a run's, many of them: how its config becomes their recipe, and what is kept of them.

What each trained network says of the data lies in ``<run>/retrained/<id>/``, some networks a file, whose id is of what
is trained. A stack at work leaves its state there as well, every so often.
"""

from __future__ import annotations

import hashlib
import json
import logging
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from omegaconf import OmegaConf
from torch import Tensor, nn

from rethinkgen.data.module import SplitName
from rethinkgen.data.timetable import Timetable
from rethinkgen.errors import DamagedFileError
from rethinkgen.files import atomic_writer, remove_leftovers
from rethinkgen.measure.predict import PREDICTION_BATCH, slices
from rethinkgen.measure.subject import Draw
from rethinkgen.received import opened_arrays
from rethinkgen.run.declaration import acting
from rethinkgen.run.identity import named_files
from rethinkgen.run.process_state import leaving_process_as_it_is
from rethinkgen.run.retraining import initial_model
from rethinkgen.run.training import total_budget
from rethinkgen.train.checkpoint import load_checkpoint
from rethinkgen.train.classifier import Classifier, goes_by_epochs, parameter_groups
from rethinkgen.train.loss import CrossEntropy
from rethinkgen.train.stacked import (
    Problem,
    Stack,
    in_processes,
    pays_to_stack,
    stack_size,
    why_not_stackable,
)

if TYPE_CHECKING:
    from rethinkgen.run.opened import OpenedRun

log = logging.getLogger(__name__)

FOLDER = "retrained"
PROTOCOL = 1
"""One more when the trainings become others: what was kept is then not taken for them."""
SECONDS = 10.0
"""Between two states of a stack that are kept: what a kill costs."""


def retrained(
    opened: OpenedRun,
    draws: Sequence[Draw],
    epochs: float,
    names: Sequence[SplitName],
    memory_mb: float,
    *,
    seconds: float = SECONDS,
) -> dict[SplitName, Tensor]:
    """Return the classes ``(R, N)`` int64 that networks trained like a run's give to the examples of some splits.

    See ``rethinkgen.measure.subject.Subject.trainings``. Those that were trained before are read.

    Raises:
        ValueError: the run was not trained by plain steps on cross-entropy; the message names the key.
    """
    model, problem = problem_of(opened, epochs)
    problem.orders(draws)  # of equally many examples
    folder = opened.path / FOLDER / known_by(opened.run_id, draws, epochs, names)
    folder.mkdir(parents=True, exist_ok=True)
    remove_leftovers(folder)
    inputs: list[Any] = [opened.splits[name].inputs for name in names]
    found = dict(_kept(folder, len(draws), sum(map(len, inputs))))
    missing = [number for number in range(len(draws)) if number not in found]
    with leaving_process_as_it_is():
        for numbers, classes in _trained(model, problem, draws, missing, _Keeping(folder, seconds), inputs, memory_mb):
            found |= dict(zip(numbers, classes, strict=True))
            name = f"{numbers[0]}-{numbers[-1]}.npz"
            with atomic_writer(folder / name, durable=False) as file:
                np.savez_compressed(file, number=np.array(numbers), classes=classes)
    for path in folder.glob("*.pt"):
        path.unlink(missing_ok=True)
    whole = torch.from_numpy(np.stack([found[number] for number in range(len(draws))])).long().to(opened.device)
    parts = torch.split(whole, [len(each) for each in inputs], dim=1)
    return dict(zip(names, parts, strict=True))


def known_by(run_id: str, draws: Sequence[Draw], epochs: float, names: Sequence[SplitName]) -> str:
    """Return the hash of what is trained and asked: like which run, by which draws, how long; of which splits."""
    told: list[Any] = [PROTOCOL, run_id, float(epochs), list(names)]
    for seed, positions in draws:
        which = None if positions is None else hashlib.sha256(positions.cpu().numpy().tobytes()).hexdigest()
        told.append([int(seed), which])
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()[:10]


def problem_of(opened: OpenedRun, epochs: float) -> tuple[Classifier, Problem]:
    """Return the model of a run, newly built, and what trainings like the run's have in common.

    Raises:
        ValueError: they are not plain steps on cross-entropy.
    """
    told = acting(opened.run.config)
    if path := named_files(told).get("model.weights"):
        raise ValueError(
            f"model.weights={path}: networks of other initial weights are asked for, and these would all begin with "
            "the file's. Take a run without this."
        )
    config = OmegaConf.create(told)
    datamodule = opened.datamodule
    train = datamodule.splits["train"]
    with leaving_process_as_it_is():
        model = initial_model(config, datamodule)
    if (what := _why_not(model, datamodule)) or not isinstance(train.inputs, Tensor):
        raise ValueError(
            f"{what or 'data: streamed images'}: many networks are trained by plain steps on cross-entropy, on images "
            "that are in memory and stay as they are. Take a run without this."
        )
    schedule: Any = model.schedule
    budget = {"max_steps": config.max_steps, "max_epochs": config.get("max_epochs")}
    total_steps = total_budget(budget, datamodule.timetable)

    def rate_factor(step: int, timetable: Timetable) -> float:
        if schedule is None:
            return 1.0
        if goes_by_epochs(schedule):
            return float(schedule(step, total_steps, timetable.epochs(step)))
        return float(schedule(step, total_steps))

    def build(seed: int) -> nn.Module:
        # As ``fit`` of a run of this seed finds it; torch's generator too, from which dropout draws.
        own: Any = OmegaConf.merge(config, {"seed": seed})
        network: nn.Module = initial_model(own, datamodule).network
        return network.float().to(train.labels.device)

    problem = Problem(
        build, model.make_optimizer, rate_factor, train.inputs, train.labels, datamodule.batch_size, epochs
    )
    return model, problem


def _why_not(model: Classifier, datamodule: Any) -> str:
    """Return the key by which a run is not trained by plain steps; empty if it is."""
    is_plain = type(model.loss) is CrossEntropy and not model.loss.label_smoothing
    of_images = ("random_crop", "flip", "rotation", "color_jitter", "mixup")
    names = [f"regularizer.{name}={getattr(datamodule, name)}" for name in of_images if getattr(datamodule, name)]
    checks = {
        f"loss={type(model.loss).__name__}": not is_plain,
        "regularizer: what changes the batch": model.mix is not None,
        "regularizer: what is added to the loss": bool(model.penalties),
        f"gradient_clip={model.gradient_clip}": model.gradient_clip is not None,
        f"model={type(model).__name__}, which takes steps of its own": type(model).training_step
        is not Classifier.training_step,
        "data.corruption=random_signs": model.num_outputs != model.num_classes,
    }
    return next(iter([*names, *(name for name, is_so in checks.items() if is_so)]), "")


def _trained(
    model: Classifier,
    problem: Problem,
    draws: Sequence[Draw],
    missing: list[int],
    keeping: _Keeping,
    inputs: Sequence[Any],
    memory_mb: float,
) -> Iterator[tuple[list[int], Any]]:
    """Yield some of the draws by their numbers, and what their networks say of ``inputs``: ``(r, N)`` int16."""
    if not missing:
        return
    some = [draws[number] for number in missing]
    size = problem.orders(some).batch(0).shape[1]
    optimizer = problem.make_optimizer(parameter_groups((value, value.ndim) for value in model.network.parameters()))
    device = problem.labels.device
    if pays_to_stack(model.network, size, device) and not why_not_stackable(model.network, optimizer):
        image = problem.inputs[:1]
        for part in slices(len(missing), stack_size(model.network, image, size, memory_mb)):
            stack = Stack(problem, some[part])
            keeping.go_on(stack, missing[part])
            stack.train_to(problem.num_steps(stack.orders), keeping.keep)
            yield missing[part], torch.cat([stack.classes(each) for each in inputs], dim=1).short().cpu().numpy()
        return

    @torch.no_grad()
    def judge(network: nn.Module) -> Any:
        parts = [each[part] for each in inputs for part in slices(len(each), PREDICTION_BATCH)]
        return torch.cat([network(images).argmax(1) for images in parts]).short().cpu().numpy()

    num_processes = torch.get_num_threads() if device.type == "cpu" else 1
    for place, classes in in_processes(problem, some, judge, num_processes):
        yield [missing[place]], classes[None]


class _Keeping:
    """States of stacks at work, one file at a time."""

    def __init__(self, folder: Path, seconds: float) -> None:
        self._folder = folder
        self._seconds = seconds
        self._numbers: list[int] = []
        self._latest = time.monotonic()

    def go_on(self, stack: Stack, numbers: Sequence[int]) -> None:
        """Put a stack, of these draws, to where it was when it was kept last."""
        self._numbers, self._latest = list(numbers), time.monotonic()
        if not self._path.is_file():
            return
        try:
            kept = load_checkpoint(self._path)
            if kept["numbers"] == self._numbers:
                stack.load_state_dict(kept)
        except Exception as error:  # of any damage: it is trained from its beginning
            log.warning("%s is passed over: %s", self._path, error)

    def keep(self, stack: Stack) -> None:
        """Write its state, if the latest is some seconds old."""
        if time.monotonic() - self._latest < self._seconds:
            return
        with atomic_writer(self._path, durable=False) as file:
            torch.save({"numbers": self._numbers, **stack.state_dict()}, file)
        self._latest = time.monotonic()

    @property
    def _path(self) -> Path:
        return self._folder / f"{self._numbers[0]}-{self._numbers[-1]}.pt"


def _kept(folder: Path, num_draws: int, num_examples: int) -> Iterator[tuple[int, Any]]:
    """Yield what is there already: the number of a draw, and the classes ``(N,)`` that its network gave."""
    for path in sorted(folder.glob("*.npz")):
        try:
            with opened_arrays(path) as stored:
                numbers, classes = stored["number"], stored["classes"]
        except DamagedFileError as error:
            log.warning("%s It is made again.", error)
            continue
        if classes.shape == (len(numbers), num_examples) and all(0 <= number < num_draws for number in numbers):
            yield from zip(map(int, numbers), classes, strict=True)
