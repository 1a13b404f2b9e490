"""How Lightning is told of the processes that ``ranks`` has started: it finds them, and starts none itself."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from typing import Any, Protocol

import pytorch_lightning as pl
import torch
from lightning_fabric.plugins.environments.cluster_environment import ClusterEnvironment
from pytorch_lightning.plugins import LayerSync, TorchSyncBatchNorm
from pytorch_lightning.strategies import DDPStrategy

from rethinkgen.measure.predict import evaluation_mode
from rethinkgen.train.batch_norm import SyncBatchNormOnCPU

ADDRESS_VARIABLES = ("MASTER_ADDR", "MASTER_PORT")


class Ranks(Protocol):
    """The place of this process among those that train a run together (``rethinkgen.run.ranks``)."""

    @property
    def rank(self) -> int:
        """Where it stands among all."""

    @property
    def size(self) -> int:
        """How many they are."""

    @property
    def local_rank(self) -> int:
        """Where it stands among those on its machine."""

    @property
    def node(self) -> int:
        """Where its machine stands among all."""

    @property
    def address(self) -> str:
        """Where torch's process group meets."""

    @property
    def port(self) -> int:
        """Where torch's process group meets."""


class StartedRanks(ClusterEnvironment):
    """The ranks as they are, whatever variables of SLURM or of others are set around them.

    Lightning's own detection would take a single-device run in a job of several tasks for one of several ranks, warn on
    every cluster's login node, and requeue SLURM's jobs, which submitit does.
    """

    def __init__(self, ranks: Ranks) -> None:
        super().__init__()
        self.ranks = ranks

    @property
    def creates_processes_externally(self) -> bool:
        """They are there."""
        return True

    @property
    def main_address(self) -> str:
        """Where the process group meets."""
        return self.ranks.address

    @property
    def main_port(self) -> int:
        """Where the process group meets."""
        return self.ranks.port

    @staticmethod
    def detect() -> bool:
        """It is given, not found."""
        return False

    def world_size(self) -> int:
        """All ranks."""
        return self.ranks.size

    def set_world_size(self, size: int) -> None:
        """It is known already."""

    def global_rank(self) -> int:
        """Where this process stands among all."""
        return self.ranks.rank

    def set_global_rank(self, rank: int) -> None:
        """It is known already."""

    def local_rank(self) -> int:
        """Where it stands among those on its machine."""
        return self.ranks.local_rank

    def node_rank(self) -> int:
        """Where this machine stands among all."""
        return self.ranks.node


class DataParallel(DDPStrategy):
    """DDP among processes that are there.

    Lightning's launcher would set the number of threads anew, and send signals to processes it never started.
    """

    def _configure_launcher(self) -> None:
        self._launcher = None

    def configure_ddp(self) -> None:
        """Wrap the network, and have DDP lay out its gradients as they will stay.

        DDP lays them out anew after the first backward. With three ranks and more a gradient's place decides in which
        order it is added up, so that the first step of a resumed run would differ from the same step undisturbed.
        """
        super().configure_ddp()
        model = self.lightning_module
        assert model is not None
        with evaluation_mode(model), torch.enable_grad():  # in which no statistics and no random numbers are drawn
            outputs = model(torch.zeros(1, *model.image_shape, device=self.root_device))  # type: ignore[misc]
            self.pre_backward(outputs)
            outputs.sum().backward()
        model.zero_grad(set_to_none=True)


def sync_batch_norm(accelerator: str) -> LayerSync:
    """Return what makes BatchNorm normalise by the whole batch."""
    return SyncBatchNormOnCPU() if accelerator == "cpu" else TorchSyncBatchNorm()


@contextlib.contextmanager
def process_group(trainer: pl.Trainer) -> Iterator[None]:
    """Have all ranks meet; afterwards nothing is left of it to the next run in this process."""
    if trainer.world_size == 1:
        yield
        return
    before: dict[str, Any] = {name: os.environ.get(name) for name in ADDRESS_VARIABLES}
    try:
        trainer.strategy.setup_environment()
        yield
    finally:
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()
        for name, value in before.items():
            os.environ.pop(name, None)
            if value is not None:
                os.environ[name] = value
