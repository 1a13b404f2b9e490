"""What a cluster can never give: seen before a job is submitted, or by why SLURM lets it wait.

A partition may take jobs that none of its nodes is large enough for, and then lets them wait for ever.
"""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

NODES = "%P|%D|%c|%m|%G|%t"
"""What ``read_nodes`` reads, as ``sinfo --exact --all --noheader --format`` takes it."""
UP = ("alloc", "comp", "idle", "mix", "plnd", "resv")
"""States of nodes that run jobs, or soon will."""
DEPENDS_ON_NODES = {
    "BadConstraints": "hydra.launcher.constraint or partition",
    "PartitionConfig": "hydra.launcher.cpus_per_task, mem_gb, nodes or partition, or trainer.devices",
    "PartitionNodeLimit": "hydra.launcher.nodes or partition, or trainer.num_nodes",
}
"""Reasons to wait that nothing but a node that is down now could end, and what to change."""
NEVER_ENDS = {
    "AccountNotAllowed": "hydra.launcher.account or partition",
    "DependencyNeverSatisfied": "hydra.launcher.additional_parameters.dependency",
    "InvalidAccount": "hydra.launcher.account",
    "InvalidQOS": "hydra.launcher.qos",
    "MaxMemPerLimit": "hydra.launcher.mem_gb",
    "PartitionTimeLimit": "hydra.launcher.timeout_min or partition",
    "QOSNotAllowed": "hydra.launcher.qos or partition",
    "ReservationDeleted": "hydra.launcher.additional_parameters.reservation",
    "ReservationInvalid": "hydra.launcher.additional_parameters.reservation",
}
"""Reasons to wait that only another submission ends (https://slurm.schedmd.com/job_reason_codes.html), and the key."""
LIMIT_OF_A_JOB = re.compile(r"(?:QOS|Assoc)(?:Max(\w+)Per(?:Job|Node)(?:Limit)?|Min(\w+))")
"""Limits that the job by itself breaks. Those of a user, an account or a group end with other jobs."""
LIMITED = {
    "Wall|Minutes": "hydra.launcher.timeout_min",
    "Cpu": "hydra.launcher.cpus_per_task or trainer.devices",
    "Mem": "hydra.launcher.mem_gb",
    "GRES": "hydra.launcher.gpus_per_node or trainer.devices",
    "Node": "hydra.launcher.nodes or trainer.num_nodes",
}
"""What such a limit is on, and the key behind it."""


@dataclass(frozen=True)
class Nodes:
    """Some nodes of a partition that are alike."""

    partition: str
    number: int
    cpus: int
    megabytes: int
    gpus: int
    is_up: bool


def read_nodes(listed: str) -> list[Nodes]:
    """Read lines of ``NODES``; ``main*|2|64|256000|gpu:a100:4(S:0-1)|idle~`` is one."""
    return [
        Nodes(
            partition=partition.rstrip("*"),
            number=int(number),
            cpus=int(cpus),
            megabytes=int(megabytes),
            gpus=sum(map(int, re.findall(r"(?:^|,)gpu(?::[^:,(]+)?:(\d+)", resources))),
            is_up=state.startswith(UP) and not state.endswith("*"),  # *: it does not respond
        )
        for partition, number, cpus, megabytes, resources, state in re.findall(
            r"^\s*([^|\s]+)\|(\d+)\|(\d+)\+?\|(\d+)\+?\|([^|\n]*)\|(\S*)", listed, re.MULTILINE
        )
    ]


def refusal(values: Mapping[str, Any], nodes: Sequence[Nodes]) -> str | None:
    """Return which of the launcher's ``values`` no node could ever meet, and what could; nothing where all may be.

    Where no partition is named, all of them count: a cluster may choose one by what a job asks for.
    """
    more = values.get("additional_parameters") or {}
    if {"overcommit", "O", "clusters", "M"} & more.keys() or {"SBATCH_CLUSTERS", "SLURM_CLUSTERS"} & os.environ.keys():
        return None
    named = more.get("partition") or values.get("partition") or os.environ.get("SBATCH_PARTITION")
    there = [each for each in nodes if named is None or each.partition in str(named).split(",")]
    if not there:
        return None  # what that partition is, sbatch knows better
    where = f"partition {named}" if named else "this cluster"
    tasks, cpus_per_task = values.get("tasks_per_node") or 1, values.get("cpus_per_task") or 1
    cpus, gpus, mem_gb = tasks * cpus_per_task, values.get("gpus_per_node") or 0, values.get("mem_gb") or 0
    if cpus > (most := max(each.cpus for each in there)):
        change = f"hydra.launcher.cpus_per_task={most // tasks}" if most >= tasks else f"trainer.devices={most}"
        return (
            f"hydra.launcher.cpus_per_task={cpus_per_task}, for each of {tasks} task(s): no node of {where} has {cpus} "
            f"CPUs. {change} is possible."
        )
    if mem_gb * 1024 > (most := max(each.megabytes for each in there)):
        return f"hydra.launcher.mem_gb={mem_gb}: no node of {where} has so much memory. {most // 1024} is possible."
    if gpus > (most := max(each.gpus for each in there)):
        return f"hydra.launcher.gpus_per_node={gpus} (trainer.devices): no node of {where} has more than {most} GPUs."
    large: Counter[str] = Counter()  # by partition: a job is run in one
    for each in there:
        if each.cpus >= cpus and each.megabytes >= mem_gb * 1024 and each.gpus >= gpus:
            large[each.partition] += each.number
    if (num_nodes := values.get("nodes") or 1) > (number := max(large.values(), default=0)):
        return (
            f"hydra.launcher.nodes={num_nodes} (trainer.num_nodes): {where} has {number} node(s) with {cpus} CPUs, "
            f"{mem_gb} GB and {gpus} GPUs at once, which cpus_per_task, mem_gb and trainer.devices ask for."
        )
    return None


def key_behind(reason: str, partition: str, nodes: Callable[[], Sequence[Nodes]]) -> str | None:
    """Return what to change where a job waits for a ``reason`` that cannot pass by itself, else nothing.

    ``nodes`` lists the cluster's; it is asked where a node of the job's partition that is down now may be waited for.
    """
    if (key := DEPENDS_ON_NODES.get(reason)) is not None:
        may_come = any(not each.is_up for each in nodes() if each.partition in partition.split(","))
        return None if may_come else key
    if (limit := LIMIT_OF_A_JOB.fullmatch(reason)) is not None:
        quantity = limit[1] or limit[2]
        keys = [key for pattern, key in LIMITED.items() if re.search(pattern, quantity)]
        return " or ".join([*keys, "hydra.launcher.qos"])
    return NEVER_ENDS.get(reason)
