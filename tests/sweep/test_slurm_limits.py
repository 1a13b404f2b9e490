"""What a cluster can never give, by what a ``sinfo`` and a ``squeue`` say that are not SLURM's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from rethinkgen.errors import SlurmError
from rethinkgen.sweep import slurm
from rethinkgen.sweep.jobs import Job
from rethinkgen.sweep.slurm_limits import Nodes, key_behind, read_nodes, refusal

LISTED = """\
main*|3|2|3900|(null)|idle
main*|1|16|64000+|(null)|drain
gpu|2|64+|512000|gpu:a100:4(S:0-1),nvme:1,gpu:v100:2|mix
old|5|8|16000|gpu:4|down*
"""
NODES = read_nodes(LISTED)


def test_what_sinfo_lists() -> None:
    assert [
        Nodes("main", 3, 2, 3900, 0, is_up=True),
        Nodes("main", 1, 16, 64000, 0, is_up=False),
        Nodes("gpu", 2, 64, 512000, 6, is_up=True),
        Nodes("old", 5, 8, 16000, 4, is_up=False),
    ] == NODES


@pytest.mark.parametrize("state", ["idle", "idle~", "mix", "alloc", "allocated+", "mix-", "resv", "plnd", "comp"])
def test_nodes_that_run_jobs(state: str) -> None:
    assert read_nodes(f"main|1|2|3900|(null)|{state}")[0].is_up


@pytest.mark.parametrize("state", ["down", "drain", "drng", "idle*", "maint", "fail", "boot", "unk", "futr"])
def test_nodes_that_do_not(state: str) -> None:
    assert not read_nodes(f"main|1|2|3900|(null)|{state}")[0].is_up


@pytest.mark.parametrize(
    "values",
    [
        {"partition": "main", "cpus_per_task": 16, "mem_gb": 62},
        {"partition": "main", "cpus_per_task": 2, "nodes": 4},
        {"partition": "old,gpu", "gpus_per_node": 6, "tasks_per_node": 6, "cpus_per_task": 10, "mem_gb": 500},
        {"cpus_per_task": 64},  # by its partition nobody can tell
        {"partition": "unheard of", "cpus_per_task": 10**6},
        {"partition": "main", "cpus_per_task": 99, "additional_parameters": {"overcommit": True}},
        {"partition": "main", "cpus_per_task": 99, "additional_parameters": {"clusters": "other"}},
        {"partition": "main", "cpus_per_task": 64, "additional_parameters": {"partition": "gpu"}},
    ],
)
def test_what_a_node_has_is_not_refused(values: dict[str, Any]) -> None:
    assert refusal(values, NODES) is None
    assert refusal(values, []) is None


@pytest.mark.parametrize(
    ("values", "said"),
    [
        (
            {"partition": "main", "cpus_per_task": 17, "tasks_per_node": 1},
            "hydra.launcher.cpus_per_task=17, for each of 1 task(s): no node of partition main has 17 CPUs. "
            "hydra.launcher.cpus_per_task=16 is possible.",
        ),
        ({"partition": "main", "cpus_per_task": 4, "tasks_per_node": 5}, "hydra.launcher.cpus_per_task=3 is possible"),
        ({"partition": "main", "cpus_per_task": 1, "tasks_per_node": 17}, "trainer.devices=16 is possible"),
        ({"nodes": 6}, "this cluster has 5 node(s)"),  # a job is run in one partition
        ({"cpus_per_task": 65}, "no node of this cluster has 65 CPUs"),
        (
            {"partition": "main", "mem_gb": 63},
            "hydra.launcher.mem_gb=63: no node of partition main has so much memory. 62 is possible.",
        ),
        ({"partition": "gpu", "gpus_per_node": 7}, "hydra.launcher.gpus_per_node=7 (trainer.devices)"),
        ({"partition": "old,main", "cpus_per_task": 16, "gpus_per_node": 1}, "0 node(s) with 16 CPUs, 0 GB and 1 GPUs"),
        (
            {"partition": "main", "cpus_per_task": 4, "nodes": 2},
            "hydra.launcher.nodes=2 (trainer.num_nodes): partition main has 1",
        ),
    ],
)
def test_what_no_node_has_is_refused_with_the_key(
    values: dict[str, Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert said in (refusal(values, NODES) or "")
    monkeypatch.setenv("SLURM_CLUSTERS", "another")
    assert refusal(values, NODES) is None


def test_the_partition_may_be_the_environments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SBATCH_PARTITION", "main")
    assert "no node of partition main has 17 CPUs" in (refusal({"cpus_per_task": 17}, NODES) or "")


@pytest.mark.parametrize(
    ("reason", "key"),
    [
        ("PartitionConfig", "hydra.launcher.cpus_per_task"),
        ("BadConstraints", "hydra.launcher.constraint"),
        ("PartitionNodeLimit", "hydra.launcher.nodes"),
        ("PartitionTimeLimit", "hydra.launcher.timeout_min"),
        ("InvalidAccount", "hydra.launcher.account"),
        ("QOSNotAllowed", "hydra.launcher.qos"),
        ("QOSMaxCpuPerJobLimit", "hydra.launcher.cpus_per_task"),
        ("QOSMaxCpuPerNode", "hydra.launcher.cpus_per_task"),
        ("QOSMaxMemoryPerJob", "hydra.launcher.mem_gb"),
        ("QOSMaxGRESPerJob", "hydra.launcher.gpus_per_node"),
        ("QOSMaxNodePerJobLimit", "hydra.launcher.nodes"),
        ("QOSMaxWallDurationPerJobLimit", "hydra.launcher.timeout_min"),
        ("QOSMinCpuNotSatisfied", "hydra.launcher.cpus_per_task"),
        ("QOSMinGRES", "hydra.launcher.gpus_per_node"),
        ("AssocMaxWallDurationPerJobLimit", "hydra.launcher.timeout_min"),
        ("AssocMaxCpuMinutesPerJobLimit", "hydra.launcher.timeout_min or hydra.launcher.cpus_per_task"),
        ("QOSMaxBillingPerJob", "hydra.launcher.qos"),
    ],
)
def test_what_cannot_pass_by_itself(reason: str, key: str) -> None:
    assert (key_behind(reason, "gpu", lambda: NODES) or "").startswith(key)


@pytest.mark.parametrize(
    "reason",
    [
        *("None", "Priority", "Resources", "Dependency", "BeginTime", "JobArrayTaskLimit", "JobHeldUser", "Licenses"),
        *("AssocMaxJobsLimit", "AssocGrpCpuLimit", "QOSGrpGRES", "QOSMaxJobsPerUserLimit", "QOSMaxCpuPerUserLimit"),
        *("MaxCpuPerAccount", "ReqNodeNotAvail", "PartitionDown", "Reservation", ""),
    ],
)
def test_what_others_end_is_waited_for(reason: str) -> None:
    assert key_behind(reason, "gpu", lambda: NODES) is None


def test_a_node_that_is_down_may_come_back() -> None:
    for reason in ("PartitionConfig", "PartitionNodeLimit", "BadConstraints"):
        assert key_behind(reason, "gpu,old", lambda: NODES) is None
        assert key_behind(reason, "gpu", lambda: []) is not None


class Cluster:
    """Answers in place of SLURM's commands."""

    def __init__(self) -> None:
        self.reasons: dict[str, str] = {}
        self.cancelled: list[str] = []

    def ask(self, command: str, *arguments: str) -> str:
        if command == "sinfo":
            return LISTED
        if command == "scancel":
            self.cancelled += arguments
            self.reasons = {job_id: why for job_id, why in self.reasons.items() if job_id not in arguments}
            return ""
        assert command == "squeue"
        return "".join(f"{job_id}|PENDING|{why}|gpu|name\n" for job_id, why in self.reasons.items())


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    cluster = Cluster()
    monkeypatch.setattr(slurm, "_ask", cluster.ask)
    monkeypatch.setattr(slurm, "TICK_SECONDS", 0.001)
    monkeypatch.setattr(slurm, "LOOK_SECONDS", (0.0, 0.0))
    return cluster


@pytest.fixture
def sweep(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> slurm.SlurmSweep:
    """A sweep of two arrays: of two jobs that may run, and of one that asks for more than there is."""

    def arrays(jobs: Sequence[Job]) -> list[tuple[Sequence[Job], dict[str, Any]]]:
        possible, impossible = {"partition": "gpu", "cpus_per_task": 64}, {"partition": "gpu", "cpus_per_task": 65}
        return [(jobs[:2], possible), (jobs[2:], impossible)][: len(jobs)]

    monkeypatch.setattr(slurm, "_arrays", arrays)
    return slurm.SlurmSweep(tmp_path, lambda jobs, name, values: [f"7_{index}" for index in range(len(jobs))])


def jobs_in(folder: Path) -> list[Job]:
    return [Job([], folder / name) for name in "abc"]


def test_what_no_node_has_is_not_submitted(cluster: Cluster, sweep: slurm.SlurmSweep, tmp_path: Path) -> None:
    jobs = jobs_in(tmp_path)
    sweep.submit(jobs)
    assert [one.job for one in sweep.alive] == jobs[:2]
    (refused,) = sweep.refusals
    assert isinstance(refused, SlurmError)
    assert "hydra.launcher.cpus_per_task=64 is possible" in str(refused)
    outcome = jobs[2].outcome()
    assert (outcome.state, outcome.reason) == ("failed", str(refused))


def test_a_wait_without_hope_is_ended(
    cluster: Cluster, sweep: slurm.SlurmSweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Others go on; the hopeless one leaves the queue, where the next command would find it."""
    jobs = jobs_in(tmp_path)[:2]
    monkeypatch.setattr(slurm, "_arrays", lambda jobs: [(jobs, {})])
    sweep.submit(jobs)
    cluster.reasons = {"7_0": "QOSMaxWallDurationPerJobLimit", "7_1": "AssocMaxJobsLimit"}
    sweep._look()
    assert cluster.cancelled == []  # it may be for a moment only
    assert sweep.progress.note == "SLURM: AssocMaxJobsLimit, QOSMaxWallDurationPerJobLimit"
    monkeypatch.setattr(slurm, "HOPELESS_SECONDS", 0.0)
    sweep._look()
    assert cluster.cancelled == ["7_0"]
    assert [one.job for one in sweep.alive] == [jobs[1]]
    assert sweep.progress.ended == [(jobs[0], 1)]
    said = jobs[0].folder.read_status()
    assert said["state"] == "failed"
    assert "QOSMaxWallDurationPerJobLimit): change hydra.launcher.timeout_min or hydra.launcher.qos" in said["reason"]
    assert sweep.progress.note == "SLURM: AssocMaxJobsLimit"


def test_a_reason_that_passes_is_forgotten(
    cluster: Cluster, sweep: slurm.SlurmSweep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    jobs = jobs_in(tmp_path)[:1]
    sweep.submit(jobs)
    cluster.reasons = {"7_0": "PartitionConfig"}
    sweep._look()
    cluster.reasons = {"7_0": "Resources"}
    sweep._look()
    assert sweep.alive[0].hopeless_since is None


def test_what_squeue_says_of_a_name_in_no_encoding(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    squeue = tmp_path / "squeue"
    squeue.write_bytes(b"#!/bin/sh\nprintf '7|PENDING|None|main|caf\\351|x\\n'\n")
    squeue.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/bin:/usr/bin")
    assert slurm.queue() == {"7": slurm.Entry("7", "caf\udce9|x", "PENDING", "None", "main")}
