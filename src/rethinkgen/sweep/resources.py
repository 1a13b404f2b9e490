"""What a machine has to run jobs on, and each job's share of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from omegaconf import DictConfig, ListConfig

from rethinkgen.checks import check_whole
from rethinkgen.machine import available_bytes, num_cores, visible_gpus
from rethinkgen.run.ranks import wants_gpu

BYTES_A_JOB = 2 * 2**30
"""What a job on CIFAR-10 takes at its peak: no more at a time than fit.

1.7 GB in 32-true (``benchmarks/throughput.py``), 1.9 GB for Inception in bf16-mixed.
"""


@dataclass
class Share:
    """A job's part of the machine."""

    num_slots: int
    threads: int
    gpus: list[str] = field(default_factory=list)
    """As ``CUDA_VISIBLE_DEVICES`` names them; empty for a job on the CPU."""


class Resources:
    """Slots, threads and GPUs, handed out and taken back.

    Args:
        n_jobs: how many at a time; ``auto``: as many as GPUs have room for, or one a core where there is none.
        jobs_per_gpu: how many share a GPU.
        num_waiting: how many jobs there are: threads are not kept back for more.

    Raises:
        ValueError: a number is not allowed.
    """

    def __init__(self, n_jobs: int | str, jobs_per_gpu: int, num_waiting: int, *, uses_gpus: bool) -> None:
        self.jobs_per_gpu = check_whole("hydra.launcher.jobs_per_gpu", jobs_per_gpu, 1)
        self.gpus = dict.fromkeys(visible_gpus() if uses_gpus else [], 0)
        self.cores = num_cores()
        if n_jobs == "auto":
            on_cpu = max(1, min(self.cores, available_bytes() // BYTES_A_JOB))
            self.num_slots = len(self.gpus) * self.jobs_per_gpu or on_cpu
        else:
            self.num_slots = check_whole("hydra.launcher.n_jobs", n_jobs, 1, or_else="auto")
        self.free = self.num_slots
        self.threads = max(1, self.cores // max(1, min(self.num_slots, num_waiting)))

    def take(self, trainer: DictConfig, *, runs_alone: bool = False) -> Share | None:
        """Return a share for a job that wants this trainer, or nothing while there is no room.

        Without a GPU a job that ``runs_alone`` is given all cores, once nothing else runs.
        """
        num_devices = wanted_devices(trainer, len(self.gpus))
        on_gpu = bool(self.gpus) and wants_gpu(trainer)
        num_slots = self.num_slots if runs_alone and not on_gpu else min(num_devices, self.num_slots)
        if num_slots > self.free:
            return None
        gpus: list[str] = []
        if on_gpu:
            # The least busy first. Who wants more than there are gets all, and Lightning's word that they are too few.
            by_load = sorted(self.gpus, key=lambda gpu: self.gpus[gpu])
            gpus = [gpu for gpu in by_load if self.gpus[gpu] < self.jobs_per_gpu][:num_devices]
            if len(gpus) < min(num_devices, len(self.gpus)):
                return None
            for gpu in gpus:
                self.gpus[gpu] += 1
        self.free -= num_slots
        # However few jobs wait: the threads of all slots of one job are no more than there are cores.
        threads = min(self.threads, max(1, self.cores // num_slots))
        return Share(num_slots, threads, sorted(gpus))

    def give_back(self, share: Share) -> None:
        """Take back what a job had."""
        self.free += share.num_slots
        for gpu in share.gpus:
            self.gpus[gpu] -= 1


def wanted_devices(trainer: DictConfig, num_gpus: int) -> int:
    """Return how many devices a trainer takes.

    Raises:
        ValueError: it names devices by number, which the pool hands out.
    """
    devices: Any = trainer.get("devices", 1)
    if devices in ("auto", -1, "-1"):
        return max(1, num_gpus) if wants_gpu(trainer) else 1
    if isinstance(devices, ListConfig) or (isinstance(devices, str) and not devices.isdigit()):
        raise ValueError(
            f"trainer.devices={devices}: in a sweep each job is given its devices. Say how many (trainer.devices=2), "
            "and in CUDA_VISIBLE_DEVICES which ones there are to hand out."
        )
    return max(1, int(devices))
