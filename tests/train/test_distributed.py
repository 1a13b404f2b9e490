"""What Lightning is told of ranks that are there, and that nothing of them is left to the next run."""

from __future__ import annotations

import os
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import torch.distributed as dist
from pytorch_lightning.plugins import TorchSyncBatchNorm

from rethinkgen.train.batch_norm import SyncBatchNormOnCPU
from rethinkgen.train.distributed import ADDRESS_VARIABLES, DataParallel, StartedRanks, process_group, sync_batch_norm


@dataclass(frozen=True)
class Place:
    rank: int = 5
    size: int = 8
    local_rank: int = 1
    node: int = 2
    address: str = "127.0.0.1"
    port: int = 29123


def test_the_ranks_are_as_they_are_whatever_slurm_says(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in {"SLURM_NTASKS": "99", "SLURM_PROCID": "7", "SLURM_JOB_NAME": "x", "RANK": "3"}.items():
        monkeypatch.setenv(name, value)
    told = StartedRanks(Place())
    assert (told.global_rank(), told.world_size(), told.local_rank(), told.node_rank()) == (5, 8, 1, 2)
    assert (told.main_address, told.main_port) == ("127.0.0.1", 29123)
    assert told.creates_processes_externally
    assert not StartedRanks.detect(), "found by nobody who does not give it"
    # Lightning says what it has made of them; it changes nothing.
    told.set_world_size(1)
    told.set_global_rank(0)
    assert (told.global_rank(), told.world_size()) == (5, 8)


def test_lightning_starts_no_processes() -> None:
    strategy = DataParallel(cluster_environment=StartedRanks(Place()))
    strategy._configure_launcher()
    assert strategy.launcher is None


def test_batch_norm_over_ranks_is_ours_on_the_cpu_alone() -> None:
    assert isinstance(sync_batch_norm("cpu"), SyncBatchNormOnCPU)
    assert isinstance(sync_batch_norm("cuda"), TorchSyncBatchNorm)


def trainer_of(size: int) -> Any:
    def setup_environment() -> None:
        os.environ["MASTER_ADDR"], os.environ["MASTER_PORT"] = "127.0.0.1", "1"
        dist.init_process_group("gloo", store=dist.HashStore(), rank=0, world_size=1)

    return SimpleNamespace(world_size=size, strategy=SimpleNamespace(setup_environment=setup_environment))


@pytest.mark.parametrize("is_interrupted", [False, True])
def test_nothing_is_left_of_a_process_group(is_interrupted: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MASTER_ADDR", "of.somebody.else")
    monkeypatch.delenv("MASTER_PORT", raising=False)
    try:
        with process_group(trainer_of(2)):
            assert dist.is_initialized()
            assert os.environ["MASTER_PORT"] == "1"
            if is_interrupted:
                raise KeyboardInterrupt
    except KeyboardInterrupt:
        assert is_interrupted
    assert not dist.is_initialized()
    assert [os.environ.get(name) for name in ADDRESS_VARIABLES] == ["of.somebody.else", None]


def test_one_process_meets_nobody() -> None:
    with process_group(trainer_of(1)):
        assert not torch.distributed.is_initialized()
