"""What a run's trainer needs of SLURM: resolvers for ``conf/hydra/launcher/slurm.yaml``."""

from __future__ import annotations

from typing import Any

from omegaconf import DictConfig, ListConfig, OmegaConf

from rethinkgen.run.description import whole


def tasks_per_node(*, _root_: DictConfig) -> int:
    """Return how many processes of the run there are on a node: one for each device.

    Raises:
        ValueError: ``trainer.devices`` is no number.
    """
    devices: Any = whole(_root_).trainer.get("devices", 1)
    if isinstance(devices, ListConfig):
        return len(devices)
    if isinstance(devices, str) and devices.isdigit():
        devices = int(devices)
    if not isinstance(devices, int) or devices < 1:
        raise ValueError(f"trainer.devices={devices}: SLURM must be told how many, such as trainer.devices=2.")
    return devices


def gpus_per_node(*, _root_: DictConfig) -> int | None:
    """Return how many GPUs the run takes on a node; none where the trainer does not name them."""
    return tasks_per_node(_root_=_root_) if whole(_root_).trainer.get("accelerator") in ("gpu", "cuda") else None


OmegaConf.register_resolver("slurm_tasks_per_node", tasks_per_node, replace=True)
OmegaConf.register_resolver("slurm_gpus_per_node", gpus_per_node, replace=True)
