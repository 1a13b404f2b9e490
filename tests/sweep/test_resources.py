from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from omegaconf import DictConfig, OmegaConf

from rethinkgen.sweep import resources
from rethinkgen.sweep.resources import Resources, Share, visible_gpus, wanted_devices


def trainer(**keys: Any) -> DictConfig:
    return OmegaConf.create({"accelerator": "auto", "devices": 1, **keys})


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    monkeypatch.setattr(resources, "num_cores", lambda: 8)
    monkeypatch.setattr(resources, "available_bytes", lambda: 64 * 2**30)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    return monkeypatch


def test_on_cpus_a_job_a_core_but_no_more_than_memory_holds(machine: pytest.MonkeyPatch) -> None:
    assert Resources("auto", 1, 100, uses_gpus=True).take(trainer()) == Share(1, threads=1)
    assert Resources("auto", 1, 100, uses_gpus=True).num_slots == 8
    machine.setattr(resources, "available_bytes", lambda: 7 * 2**30)
    assert Resources("auto", 1, 100, uses_gpus=True).num_slots == 3
    machine.setattr(resources, "available_bytes", lambda: 0)
    assert Resources("auto", 1, 100, uses_gpus=True).num_slots == 1


def test_threads_are_not_kept_back_for_jobs_that_there_are_not(machine: pytest.MonkeyPatch) -> None:
    assert Resources("auto", 1, 2, uses_gpus=False).threads == 4
    assert Resources(3, 1, 100, uses_gpus=False).threads == 2


def test_gpus_are_shared_out_evenly_and_given_back(machine: pytest.MonkeyPatch) -> None:
    machine.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    machine_resources = Resources("auto", 2, 100, uses_gpus=True)
    shares = [machine_resources.take(trainer()) for _ in range(5)]
    assert [share and share.gpus for share in shares] == [["0"], ["1"], ["0"], ["1"], None]
    assert shares[1] is not None
    machine_resources.give_back(shares[1])
    assert machine_resources.take(trainer()) == Share(1, 2, ["1"])


def test_a_job_of_several_gpus_waits_for_as_many_and_a_smaller_one_may_pass(machine: pytest.MonkeyPatch) -> None:
    machine.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    machine_resources = Resources("auto", 1, 100, uses_gpus=True)
    first = machine_resources.take(trainer(devices=3))
    assert first is not None
    assert first.gpus == ["0", "1", "2"]
    assert machine_resources.take(trainer(devices=2)) is None
    assert machine_resources.take(trainer()) == Share(1, 2, ["3"])
    machine_resources.give_back(first)
    both = machine_resources.take(trainer(devices=2))
    assert both is not None
    assert both.gpus == ["0", "1"]


def test_who_wants_more_gpus_than_there_are_is_given_all(machine: pytest.MonkeyPatch) -> None:
    machine.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    share = Resources("auto", 1, 100, uses_gpus=True).take(trainer(devices=8))
    assert share is not None
    assert share.gpus == ["0", "1"]


def test_a_job_on_the_cpu_takes_no_gpu(machine: pytest.MonkeyPatch) -> None:
    machine.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    share = Resources("auto", 1, 100, uses_gpus=True).take(trainer(accelerator="cpu"))
    assert share is not None
    assert share.gpus == []


def test_a_job_that_runs_alone_waits_for_all_cores_and_is_given_them(machine: pytest.MonkeyPatch) -> None:
    machine_resources = Resources("auto", 1, 100, uses_gpus=False)
    small = machine_resources.take(trainer())
    assert small is not None
    assert machine_resources.take(trainer(), runs_alone=True) is None
    machine_resources.give_back(small)
    assert machine_resources.take(trainer(), runs_alone=True) == Share(8, threads=1)
    assert machine_resources.take(trainer()) is None


@pytest.mark.parametrize(("wanted", "alone"), [({}, True), ({"devices": 2, "accelerator": "cpu"}, False)])
def test_a_last_job_of_several_slots_is_given_each_core_once(
    machine: pytest.MonkeyPatch, wanted: dict[str, Any], alone: bool
) -> None:
    share = Resources("auto", 1, 1, uses_gpus=False).take(trainer(**wanted), runs_alone=alone)
    assert share is not None
    assert share.num_slots * share.threads == 8


def test_a_job_that_runs_alone_is_one_of_several_where_it_has_a_gpu(machine: pytest.MonkeyPatch) -> None:
    machine.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    machine_resources = Resources("auto", 1, 100, uses_gpus=True)
    assert machine_resources.take(trainer(), runs_alone=True) == Share(1, 4, ["0"])
    assert machine_resources.take(trainer(), runs_alone=True) == Share(1, 4, ["1"])


@pytest.mark.parametrize("devices", ["0,1", [0, 1]])
def test_naming_devices_by_number_is_refused(devices: Any) -> None:
    with pytest.raises(ValueError, match=r"trainer\.devices=.*Say how many"):
        wanted_devices(trainer(devices=devices), 4)


def test_all_devices_are_all_gpus() -> None:
    assert wanted_devices(trainer(devices="auto"), 4) == 4
    assert wanted_devices(trainer(devices=-1, accelerator="cpu"), 4) == 1


def test_gpus_are_counted_without_cuda(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    assert visible_gpus() == []
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho GPU-aa\necho GPU-bb\n")
    tool.chmod(0o755)
    assert visible_gpus() == ["GPU-aa", "GPU-bb"]
    tool.write_text("#!/bin/sh\necho no driver; exit 9\n")
    assert visible_gpus() == []
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert visible_gpus() == []
