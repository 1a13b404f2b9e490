"""A run's training set up once more, at some step: what ``rethinkgen.run.replay`` goes on from.

Of Lightning there is what the model's ``training_step`` asks for: a trainer of the run's precision that never fits.
"""

from __future__ import annotations

import logging
import random
from collections.abc import Callable, Iterator, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytorch_lightning as pl
import torch
from omegaconf import DictConfig, OmegaConf
from pytorch_lightning.trainer.states import TrainerFn

from rethinkgen.data.batches import Batch, Block, Blocks
from rethinkgen.data.module import CorruptedImages
from rethinkgen.run.build import build
from rethinkgen.run.data_of_run import point_to_files
from rethinkgen.run.declaration import acting
from rethinkgen.run.identity import declaration
from rethinkgen.run.probe import check_parts_of_a_step
from rethinkgen.run.process_state import set_state_of_process, state_of_process
from rethinkgen.run.ranks import Ranks
from rethinkgen.run.replay_checks import Checks
from rethinkgen.run.run import Run
from rethinkgen.run.training import build_model, default_threads, device_name, total_budget
from rethinkgen.train.checkpoint import generator_states, set_generator_states
from rethinkgen.train.classifier import Classifier
from rethinkgen.train.distributed import StartedRanks
from rethinkgen.train.kept import State, state_of


class Retraining:
    """The training of a run at some step, from which it can be taken on."""

    def __init__(self, run: Run, datamodule: CorruptedImages, state: State | None, checks: Checks) -> None:
        self.datamodule = datamodule
        self.checks = checks
        self.step = 0 if state is None else state.step
        told = acting(run.config)
        point_to_files({"model": told["model"]}, run)
        config = OmegaConf.create(told)
        self.setting = Setting()
        with self.setting:
            torch.set_num_threads((run.result or {}).get("threads") or config.get("threads") or default_threads())
            self.model = initial_model(config, self.datamodule)
            self.trainer = trainer_like(config, self.datamodule)
            self._connect()
            if state is not None:
                self._load(state)
            self.model.on_train_start()
        checks.device = device_name(self.trainer)

    def _connect(self) -> None:
        """Do of ``Trainer.fit`` what makes optimizer and schedule, and puts all into its precision and place."""
        strategy, self.trainer.state.fn = self.trainer.strategy, TrainerFn.FITTING
        self.trainer.datamodule = self.datamodule  # type: ignore[attr-defined]
        self.model.trainer = self.trainer
        strategy.connect(self.model)
        strategy.setup_environment()
        strategy.setup(self.trainer)

    def _load(self, state: State) -> None:
        self.model.load_state_dict(state.weights)
        self.model.on_load_checkpoint(state.rest)
        optimizer: Any = self.model.optimizers(use_pl_optimizer=False)
        scheduler: Any = self.model.lr_schedulers()
        optimizer.load_state_dict(state.rest["optimizer"])
        scheduler.load_state_dict(state.rest["scheduler"])
        self.model.count_steps(state.step)
        set_generator_states(state.rest["generators"][0])

    def state(self) -> State:
        """Return all of it, with the weights as they are in the model."""
        with self.setting:
            rest = state_of(self.model, [generator_states()])
        return State(self.step, dict(self.model.state_dict()), rest)

    def train_to(self, last: int) -> None:
        """Train on until ``last`` steps have been taken."""
        for block in self.blocks(lambda step: min(last, self.checks.next_stop(step)), last):
            self.take(self.datamodule.batches(block), len(block.sizes))

    def blocks(self, next_stop: Callable[[int], float], last: int) -> Iterator[Block]:
        """Yield the blocks up to step ``last``; whoever asks for the next has taken the steps of the one before."""
        device = self.trainer.strategy.root_device
        while self.step < last:
            paired = self.datamodule.mixup > 0
            timetable, seed = self.datamodule.timetable, self.datamodule.order_seed
            for block in Blocks(timetable, seed, lambda: self.step, next_stop, paired=paired):
                partners = None if block.partners is None else block.partners.to(device)
                yield block._replace(indices=block.indices.to(device), partners=partners)
                if self.step >= last:
                    return

    def take(self, batches: Iterator[Batch] | Sequence[Batch], number: int) -> None:
        """Take ``number`` steps, one on each batch, and compare with the run's rows."""
        with self.setting:
            self.trainer.strategy.training_step(batches, 0)
        self.step += number
        self.checks.see(self.step, self.model)

    def precision(self) -> Any:
        """Within, numbers are of the precision that steps are taken in."""
        return self.trainer.precision_plugin.train_step_context()

    def rate_and_momentum(self) -> tuple[float, float]:
        """Return what the optimizer's next step will have: its momentum, or Adam's first beta; 0 where it has none."""
        optimizer: Any = self.model.optimizers(use_pl_optimizer=False)
        group = optimizer.param_groups[0]
        return float(group["lr"]), float(group.get("momentum", (group.get("betas") or (0.0,))[0]))

    def end(self) -> None:
        """Take away what the model has hooked on, and end the processes that decode."""
        self.model.on_train_end()
        self.datamodule.teardown("fit")


def initial_model(config: DictConfig, datamodule: CorruptedImages) -> Classifier:
    """Build the network of a run as its training did; the generators are left as training's first step finds them.

    Whose own must stay as they are calls it within ``leaving_process_as_it_is``. The config may be of plain types.
    """
    config = config if isinstance(config, DictConfig) else OmegaConf.create(config)
    plain: Any = OmegaConf.to_container(config, resolve=True)
    seed_all(config.seed)
    model = build_model(config, declaration(plain))
    # What asks the trainer for the shape of images is given no more than that.
    model.trainer = SimpleNamespace(datamodule=datamodule, world_size=1, callbacks=[])  # type: ignore[assignment]
    model.configure_model()
    model.trainer = None
    check_parts_of_a_step(model)  # its own code may draw
    return model


def seed_all(seed: int) -> None:
    """Do as Lightning's ``seed_everything``, but leave environment variables alone."""
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def trainer_like(config: DictConfig, datamodule: CorruptedImages) -> pl.Trainer:
    """Return a trainer of the run's precision, on the device of the data, which never fits."""
    for name in ("pytorch_lightning", "lightning_fabric"):
        logging.getLogger(name).setLevel(logging.WARNING)
    node = config.trainer.copy()
    OmegaConf.set_struct(node, False)
    for name in ("accelerator", "devices", "num_nodes", "strategy", "sync_batchnorm"):
        node.pop(name, None)
    device = datamodule.splits["train"].labels.device
    budget = {"max_steps": config.max_steps, "max_epochs": config.get("max_epochs")}
    trainer: pl.Trainer = build(
        node,
        "trainer",
        accelerator="cpu" if device.type == "cpu" else "gpu",
        devices=1 if device.index is None else [device.index],
        max_steps=total_budget(budget, datamodule.timetable),
        max_epochs=-1,
        logger=False,
        plugins=[StartedRanks(Ranks())],
        enable_checkpointing=False,
        enable_model_summary=False,
        enable_progress_bar=False,
    )
    return trainer


class Setting:
    """What a training sets for the whole process: in force within ``with``, and outside the caller's own.

    It is generators, threads, the default dtype, which algorithms are allowed, and that gradients are computed.
    """

    def __init__(self) -> None:
        self._other = state_of_process() | {"dtype": torch.float32}

    def __enter__(self) -> None:
        self._change_places()
        self._gradients = torch.inference_mode(False), torch.enable_grad()
        for each in self._gradients:
            each.__enter__()

    def __exit__(self, *error: Any) -> None:
        for each in reversed(self._gradients):
            each.__exit__(*error)
        self._change_places()

    def _change_places(self) -> None:
        ours = state_of_process()
        set_state_of_process(self._other)
        self._other = ours
