"""One run on several processes is the run of one process: the same weights and numbers, one folder, one end.

Real runs on gloo, whose second rank is a fresh interpreter (some 7 s each); what needs no run is tested between two
processes forked from a warm server.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import time
from collections.abc import Callable
from multiprocessing.process import BaseProcess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
import torch.distributed as dist
from torch import nn

from conftest import PATIENCE_SECONDS, TINY, Command, in_own_process, is_running, read_result, wait_until
from outcomes import assert_same, outcome
from rethinkgen.collective import gathered, take_buffers_of_rank_zero
from rethinkgen.errors import RankDiedError, TrainingDivergedError
from rethinkgen.measure.predict import PREDICTION_BATCH, predict
from rethinkgen.run.ranks import Leader, num_devices
from rethinkgen.train.batch_norm import SyncBatchNormOnCPU
from rethinkgen.train.checkpoint import ExactCheckpoint, check_finite

Start = Callable[..., BaseProcess]
DDP = [*(item for item in TINY if not item.startswith("trainer=")), "trainer=ddp_cpu"]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    state: dict[str, torch.Tensor] = torch.load(folder / "weights" / "end.pt", weights_only=True)
    return state


def assert_same_run(ours: Path, theirs: Path) -> None:
    """Weights to 1e-12, and every number, be it of the training set's examples or of the running loss."""
    for name, value in weights(theirs).items():
        torch.testing.assert_close(weights(ours)[name], value, rtol=1e-12, atol=1e-12)
    our_metrics, their_metrics = (read_result(folder)["metrics"] for folder in (ours, theirs))
    assert list(our_metrics) == list(their_metrics)
    for name, value in their_metrics.items():
        assert our_metrics[name] == (None if value is None else pytest.approx(value, rel=1e-6)), name
    # Weights that agree to 1e-12 have other bits, so another digest.
    our_rows, their_rows = (
        pd.read_csv(folder / "metrics.csv").drop(columns="weights_digest") for folder in (ours, theirs)
    )
    pd.testing.assert_frame_equal(our_rows, their_rows, rtol=1e-6, atol=1e-7)
    with np.load(ours / "examples.npz") as our_arrays, np.load(theirs / "examples.npz") as their_arrays:
        assert our_arrays.files == their_arrays.files
        for name in their_arrays.files:
            np.testing.assert_allclose(our_arrays[name], their_arrays[name], rtol=1e-5, atol=1e-6)


# Sizes that do not divide: 437 examples in batches of 33 and one of 8 (17 and 16, 4 and 4), 360 test images.
UNEVEN = ["trainer.precision=64-true", "data.num_train=437", "data.batch_size=33", "data.corruption=partial_labels"]


def test_two_ranks_are_one_run(train: Command, tmp_path: Path) -> None:
    """An epoch of 14 steps is a block of 1 and one of 13, later one of 14; all ranks stop at the first fit."""
    stops = ["until_fit=true", "fit_threshold=0.55", "log_every=5", "max_steps=2000", "model.learning_rate=0.05"]
    ours = train(*DDP, *UNEVEN, *stops)
    written = {path.name for path in ours.iterdir()}
    (tmp_path / "multirun").rename(tmp_path / "ours")
    ours = tmp_path / "ours" / ours.relative_to(tmp_path / "multirun")
    theirs = train(*TINY, *UNEVEN, *stops)

    assert ours.name == theirs.name, "another run by its hash"
    assert written - {"rank1.log"} == {path.name for path in theirs.iterdir()}
    assert (ours / "rank1.log").read_text() == ""
    assert read_result(ours)["world_size"] == 2
    assert read_result(theirs)["world_size"] == 1
    assert 14 < read_result(theirs)["metrics"]["steps"] < 2000, "never fitted, or at once: nothing to compare"
    assert_same_run(ours, theirs)
    assert not dist.is_initialized()
    assert "MASTER_PORT" not in os.environ
    # The same folder: a run is known whatever it was trained on.
    assert train(*DDP, *UNEVEN, *stops) == theirs


@pytest.mark.slow  # tests/train/test_batch_norm.py has ranks as threads
def test_batch_norm_over_the_whole_batch(train: Command, tmp_path: Path) -> None:
    """One block of 1 step and one of 16."""
    small = ["model=inception", *UNEVEN[:1], "data.num_train=150", "data.batch_size=9", "max_steps=17"]
    ours = train(*(item for item in DDP if not item.startswith("model")), *small)
    (tmp_path / "multirun").rename(tmp_path / "ours")
    ours = tmp_path / "ours" / ours.relative_to(tmp_path / "multirun")
    theirs = train(*(item for item in TINY if not item.startswith("model")), *small)
    assert_same_run(ours, theirs)


REMEMBERS = """
import torch
import torch.nn.functional as F


class Remembers:
    def __init__(self, label_smoothing):
        pass

    def begin(self, num_examples, num_classes, device):
        self.memory = torch.zeros(num_examples, num_classes, dtype=torch.float64, device=device)

    def __call__(self, logits, labels, index):
        p = logits.softmax(1)
        with torch.no_grad():
            said = 0.5 * self.memory.index_select(0, index) + 0.5 * p.double()
            self.memory.index_copy_(0, index, said)
        return F.cross_entropy(logits, labels, reduction="none") + 3 * (1 - (said * p).sum(1).clamp(max=0.99)).log()

    def end_block(self, rows):
        rows.exchange(self.memory)

    def state_dict(self):
        return {"memory": self.memory}

    def load_state_dict(self, state):
        self.memory.copy_(state["memory"])
"""


@pytest.mark.slow  # tests/train/test_loss.py has ranks as threads
def test_a_loss_that_remembers_examples_is_that_of_one_rank(train: Command, tmp_path: Path) -> None:
    """In a later epoch an example comes to another rank than before, which must know what was said of it."""
    (tmp_path / "losses_of_mine.py").write_text(REMEMBERS)
    # What lies in the current folder takes the place of nothing, in no rank.
    (tmp_path / "random.py").write_text("raise SystemError")
    own = ["code=losses_of_mine", "loss._target_=losses_of_mine.Remembers", "max_steps=60", *UNEVEN]
    ours = train(*DDP, *own)
    (tmp_path / "multirun").rename(tmp_path / "ours")
    ours = tmp_path / "ours" / ours.relative_to(tmp_path / "multirun")
    theirs = train(*TINY, *own)
    assert read_result(ours)["world_size"] == 2
    assert read_result(theirs)["config"]["loss"]["_target_"] == "losses_of_mine.Remembers"
    assert_same_run(ours, theirs)


# Dropout, noise and the search for adversarial images are drawn by each rank for itself, the flip from the epoch.
EXACT = [
    *DDP,
    "data.corruption=partial_labels",
    "data.num_train=599",
    "regularizer=[dropout,flip,input_noise,hidden_noise,adversarial]",
    "regularizer.adversarial.num_iterations=1",
    "max_steps=350",
    "evaluate_every=20",
    "log_every=7",
    "checkpoint_seconds=0.1",
]


def until_trained(results: Path, process: BaseProcess, seconds: float) -> dict[str, Any]:
    """Wait until the run in ``results`` has trained for so long; return its status."""
    deadline = math.inf
    while time.monotonic() < deadline:
        assert process.is_alive(), (results.parent / "output.txt").read_text()
        status = [json.loads(path.read_text()) for path in results.glob("*/*/status.json")]
        if status and status[0]["state"] == "running" and "step" in status[0] and deadline == math.inf:
            deadline = time.monotonic() + seconds
        time.sleep(0.02)
    return status[0]


def children(pid: int) -> list[int]:
    tasks = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(child) for child in tasks.read_text().split()] if tasks.exists() else []


def test_stopped_and_killed_runs_end_as_undisturbed_ones(train: Command, start: Start, tmp_path: Path) -> None:
    undisturbed = train(*EXACT)
    results, command = tmp_path / "killed", [f"results_dir={tmp_path}/killed", *EXACT]

    process = start(*command)
    until_trained(results, process, 0.1)
    (follower,) = [child for child in children(process.pid) if is_running(child)]
    os.kill(follower, signal.SIGTERM)  # whichever rank a signal reaches
    process.join(PATIENCE_SECONDS)
    assert process.exitcode == 128 + signal.SIGTERM, (tmp_path / "output.txt").read_text()
    assert not is_running(follower)
    (status,) = results.glob("*/*/status.json")
    assert json.loads(status.read_text())["state"] == "interrupted"

    process = start(*command)
    until_trained(results, process, 0.4)
    (follower,) = children(process.pid)
    process.kill()
    process.join()
    wait_until(lambda: not is_running(follower), 10)  # else an orphan trains on

    process = start(*command)
    process.join()
    assert process.exitcode == 0
    assert (tmp_path / "output.txt").read_text().count("Going on from step") == 2
    (result,) = results.glob("*/*/result.json")
    assert_same(outcome(result.parent), outcome(undisturbed))


def test_a_rank_that_is_killed_fails_the_run(start: Start, tmp_path: Path) -> None:
    results = tmp_path / "results"
    process = start(f"results_dir={results}", *DDP, "max_steps=10000000", "evaluate_every=100000")
    until_trained(results, process, 0.2)
    (follower,) = children(process.pid)
    os.kill(follower, signal.SIGKILL)
    process.join(PATIENCE_SECONDS)
    assert process.exitcode == 1
    (status,) = [json.loads(path.read_text()) for path in results.glob("*/*/status.json")]
    assert (status["state"], status["reason"]) == ("failed", "rank 1 was killed by SIGKILL")
    assert "Error: rank 1 was killed by SIGKILL" in (tmp_path / "output.txt").read_text()


@pytest.mark.parametrize(
    ("bad", "message"),
    [
        (["data.batch_size=0"], "data.batch_size=0: "),
        (["data.num_train=68", "data.batch_size=33", "trainer.devices=3"], "a batch of 2, fewer than the 3 devices"),
        (["+trainer.strategy=fsdp", "trainer=cpu"], "trainer.strategy='fsdp': one of auto, ddp"),
        (["trainer.num_nodes=2"], "trainer.num_nodes=2: several machines only through SLURM"),
        (["trainer=ddp", "trainer.accelerator=tpu"], "trainer.accelerator='tpu'"),
    ],
)
def test_what_is_wrong_is_said_briefly_and_leaves_nothing(
    train: Command, tmp_path: Path, capsys: pytest.CaptureFixture[str], bad: list[str], message: str
) -> None:
    before = set(children(os.getpid()))
    with pytest.raises(SystemExit) as end:
        train(*DDP, *bad)
    assert end.value.code == 1
    said = capsys.readouterr().err
    assert message in said
    assert "Traceback" not in said
    assert list(tmp_path.glob("multirun/*/*")) == []
    assert not any(is_running(child) for child in set(children(os.getpid())) - before)


# Between two processes, without a run.


def as_rank(folder: Path, name: str, rank: str) -> None:
    torch.set_num_threads(1)
    store = dist.FileStore(str(folder / f"store-{name}"), 2)
    dist.init_process_group("gloo", store=store, rank=int(rank), world_size=2)
    try:
        globals()[name](int(rank))
    finally:
        dist.destroy_process_group()


def on_two_ranks(start: Start, tmp_path: Path, body: Callable[[int], None]) -> None:
    ranks = [start(str(rank), folder=tmp_path, body=as_rank, arguments=(body.__name__,)) for rank in (0, 1)]
    for process in ranks:
        process.join(PATIENCE_SECONDS)
    assert [process.exitcode for process in ranks] == [0, 0]


def normalises_by_the_whole_batch(rank: int) -> None:
    torch.manual_seed(0)
    images, towards = torch.randn(2, 7, 5, 4, 4, dtype=torch.float64)
    images += 1000  # where a variance in one pass would have lost its digits
    share = slice(0, 3) if rank == 0 else slice(3, 7)
    whole, shared = (nn.BatchNorm2d(5, eps=1e-3, dtype=torch.float64) for _ in range(2))
    plugin = SyncBatchNormOnCPU()
    shared = plugin.apply(shared)
    expected_in, ours_in = images.clone().requires_grad_(), images[share].clone().requires_grad_()
    for _ in range(2):
        expected, ours = whole(expected_in), shared(ours_in)
        torch.testing.assert_close(ours, expected[share], rtol=0, atol=1e-10)
        (expected * towards).sum().backward()
        (ours * towards[share]).sum().backward()
    torch.testing.assert_close(ours_in.grad, expected_in.grad[share], rtol=0, atol=1e-9)
    dist.all_reduce(shared.bias.grad)
    torch.testing.assert_close(shared.bias.grad, whole.bias.grad)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(shared.state_dict()[name], value, rtol=1e-12, atol=1e-12)
    assert list(shared.state_dict()) == list(whole.state_dict())
    shared = plugin.revert(shared)
    torch.testing.assert_close(shared(images), whole(images))


def evaluates_every_example_once(rank: int) -> None:
    torch.manual_seed(0)
    network = nn.Sequential(nn.Flatten(), nn.Linear(16, 13))
    for size in (1, PREDICTION_BATCH, 2 * PREDICTION_BATCH + 37):  # the second rank has no share of the first two
        images, labels = torch.randn(size, 1, 4, 4), torch.arange(size) % 13
        ours, whole = predict(network, images, labels, is_shared=True), predict(network, images, labels)
        assert torch.equal(ours.losses, whole.losses)
        assert torch.equal(ours.classes, whole.classes)
        assert ours.is_in_top is not None
        assert whole.is_in_top is not None
        assert torch.equal(ours.is_in_top, whole.is_in_top)
    assert 0.2 < ours.is_in_top[PREDICTION_BATCH : 2 * PREDICTION_BATCH].double().mean() < 0.6, "5 of 13 by chance"
    assert predict(nn.Sequential(network, nn.Linear(13, 10)), images, labels % 10, is_shared=True).is_in_top is None


def agrees(rank: int) -> None:
    # A weight that is no number on one rank alone ends the run on both.
    model = nn.Linear(2, 2)
    model.device = torch.device("cpu")  # type: ignore[assignment]
    check_finite(model)  # type: ignore[arg-type]
    if rank == 1:
        model.weight.data[0, 0] = math.nan
    with pytest.raises(TrainingDivergedError):
        check_finite(model)  # type: ignore[arg-type]

    # A signal that came to one rank alone stops both; the clock of one is the clock of both.
    checkpoint = ExactCheckpoint(Path(), every_seconds=1000, is_leading=rank == 0)
    assert not checkpoint.should_pause()
    if rank == 1:
        checkpoint._stop(signal.SIGUSR2, None)
    assert checkpoint._agree() == (True, signal.SIGUSR2)
    checkpoint.signal = None
    checkpoint.every_seconds = 1000 * rank
    assert checkpoint.should_pause()

    # Dropout differs between ranks, and each goes on with its own.
    model.steps = []  # type: ignore[assignment]
    trainer = SimpleNamespace(global_step=5, datamodule=SimpleNamespace())
    checkpoint.on_train_start(trainer, model)  # type: ignore[arg-type]
    saved: dict[str, Any] = {}
    checkpoint.on_save_checkpoint(trainer, model, saved)  # type: ignore[arg-type]
    drawn = torch.rand(3)
    zero, one = gathered(drawn)
    assert not torch.equal(zero, one)
    checkpoint.on_load_checkpoint(trainer, model, saved)  # type: ignore[arg-type]
    checkpoint.on_train_start(trainer, model)  # type: ignore[arg-type]
    assert torch.equal(torch.rand(3), drawn)

    norm = nn.BatchNorm1d(2)
    norm.running_mean.fill_(rank + 1)  # type: ignore[union-attr]
    take_buffers_of_rank_zero(norm)
    assert norm.running_mean.tolist() == [1, 1]  # type: ignore[union-attr]


@pytest.mark.parametrize("body", [normalises_by_the_whole_batch, evaluates_every_example_once, agrees])
def test_between_two_ranks(start: Start, tmp_path: Path, body: Callable[[int], None]) -> None:
    on_two_ranks(start, tmp_path, body)


# Under SLURM, by its variables.


def as_task(folder: Path, rank: str, size: str, *overrides: str) -> None:
    os.environ |= {
        "SLURM_JOB_ID": str(os.getppid()),
        "SLURM_STEP_NUM_TASKS": size,
        "SLURM_PROCID": rank,
        "SLURM_LOCALID": rank,
        "SLURM_NODEID": "0",
    }
    task = folder / f"task{rank}"
    task.mkdir(exist_ok=True)
    in_own_process(task, *overrides)


def start_tasks(start: Start, size: int, *overrides: str) -> list[BaseProcess]:
    return [start(*overrides, body=as_task, arguments=(str(rank), str(size))) for rank in range(size)]


def on_two_tasks(start: Start, tmp_path: Path, *overrides: str) -> tuple[list[int | None], list[str]]:
    tasks = start_tasks(start, 2, f"results_dir={tmp_path}/results", *DDP, "max_steps=30", *overrides)
    for process in tasks:
        process.join(PATIENCE_SECONDS)
    texts = [(tmp_path / f"task{rank}" / "output.txt").read_text() for rank in (0, 1)]
    return [process.exitcode for process in tasks], texts


def test_ranks_that_slurm_started(start: Start, tmp_path: Path) -> None:
    codes, texts = on_two_tasks(start, tmp_path)
    assert codes == [0, 0], texts
    (result,) = (tmp_path / "results").glob("*/*/result.json")
    assert read_result(result.parent)["world_size"] == 2
    assert texts[1] == ""
    written = result.read_bytes()
    codes, texts = on_two_tasks(start, tmp_path)
    assert codes == [0, 0]
    assert "was finished on" in texts[0]
    assert texts[1] == ""
    assert result.read_bytes() == written


def test_where_slurms_rank_zero_cannot_train_the_others_end(start: Start, tmp_path: Path) -> None:
    codes, texts = on_two_tasks(start, tmp_path, "data.batch_size=0")
    assert "data.batch_size=0" in texts[0]
    assert codes[0] == 1
    assert "Traceback" not in texts[0]
    codes, texts = on_two_tasks(start, tmp_path, "trainer.devices=3")
    assert codes == [1, 1]
    assert all("SLURM started 2 tasks" in text for text in texts)


@pytest.mark.slow  # two are killed above
def test_three_ranks_go_on_to_the_bit_after_a_kill(start: Start, tmp_path: Path) -> None:
    """With more than two, the order in which gradients are added up must not depend on when training started."""
    run = [*DDP, "trainer.devices=3", "model.width=256", "max_steps=200", "evaluate_every=5", "checkpoint_seconds=0.1"]

    def results(name: str, *, kill: bool) -> Path:
        tasks = start_tasks(start, 3, f"results_dir={tmp_path / name}", *run)
        if kill:
            (tmp_path / "task0").mkdir(exist_ok=True)
            until_trained(tmp_path / name, tasks[0], 0.3)
            tasks[1].kill()
        for process in tasks:
            process.join(PATIENCE_SECONDS)
        assert [process.exitcode for process in tasks] == ([1, -signal.SIGKILL, 1] if kill else [0, 0, 0])
        return tmp_path / name

    results("killed", kill=True)
    results("killed", kill=False)
    assert "Going on from step" in (tmp_path / "task0" / "output.txt").read_text()
    results("undisturbed", kill=False)
    killed, undisturbed = (next((tmp_path / name).glob("*/*/result.json")).parent for name in ("killed", "undisturbed"))
    assert_same(outcome(killed), outcome(undisturbed))


# Without any process.


@pytest.mark.parametrize(
    ("devices", "number"), [(1, 1), (3, 3), ("2", 2), ("0,2", 2), ([1, 5], 2), ("auto", 1), (-1, 1), ("many", 1)]
)
def test_number_of_devices(devices: Any, number: int) -> None:
    assert num_devices({"devices": devices, "accelerator": "cpu"}) == number


def test_a_rank_that_dies_while_this_one_hangs(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """NCCL may wait for a rank that is gone; then another thread gives up."""
    import socket

    from rethinkgen.run import ranks

    left: list[tuple[BaseException, int]] = []
    monkeypatch.setattr(ranks, "PARTING_SECONDS", 0.2)
    monkeypatch.setattr(Leader, "_leave", lambda self, error, code: left.append((error, code)))
    leader = Leader(size=2)
    ours, theirs = socket.socketpair()
    leader._connections[1] = ours
    leader.begin(tmp_path, {})
    with leader.together(lambda error: None):
        theirs.close()
        wait_until(lambda: bool(left))
    assert [(str(error), code) for error, code in left] == [
        ("rank 1 died without a word: it was killed, or its machine failed", 1)
    ]
    with contextlib.suppress(OSError):
        leader.close(is_finished=False)
    assert isinstance(left[0][0], RankDiedError)
