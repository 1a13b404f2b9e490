"""Training speed of ``train.py`` beside what one would otherwise write, and beside what the machine can do.

    python benchmarks/throughput.py                                   # 13 minutes on a quiet machine
    python benchmarks/throughput.py --models inception --repeats 9
    python benchmarks/throughput.py --per-image --costs               # image by image; memory, start-up
    python benchmarks/throughput.py --device cuda

- bare: a hand-written PyTorch loop over tensors in memory;
- train.py: a process of its own each time, with its live bar on a pseudo-terminal and W&B offline, by the wall clock
  between two steps;
- Lightning: a ``DataLoader`` over tensors and ``self.log``, as its documentation has it;
- per image: the same with torchvision transforms of PIL images in one worker.

All train the same network with the same batch size, precision, memory format and threads, on as many images of random
pixels and labels, with SGD and momentum, and count loss and accuracy on the device. What each does besides:

| | bare | Lightning | train.py |
|---|---|---|---|
| batch | indexed from one tensor | collated from single examples | indexed from one tensor |
| memory format | batch to channels_last | batch to channels_last | batch to channels_last |
| autocast | forward and loss | forward and loss, weights cast at each use | forward to step, weights cast at each use |
| loss | mean | mean | sum, scaled for uneven ranks |
| SGD | torch's default | torch's default | fused; weights and biases are two groups |
| schedule | once an epoch | once an epoch | at every step |
| numbers | summed, printed once an epoch | ``self.log`` each step and epoch, bar | summed, read once a block |
| records | none | bar, CSV | bar, CSV, W&B offline, ``status.json`` once a second |
| checkpoints | none | none | one in 10 s, and a check that weights are finite |
| deterministic | no | no | ``use_deterministic_algorithms``, memory not filled |
| freed memory | goes back to the system | goes back to the system | is kept (``rethinkgen.machine``) |
| evaluation | none | none | none between the steps measured |

Machines drift, so they take turns, and each train.py is compared with the mean of bare before and after it. The ratios
are medians over the repeats with their quartiles. The peak is that of multiplying large matrices in the same process
and threads, in float32 or bfloat16; the share of it counts what matrix products and convolutions take forward and
backward (``torch.utils.flop_counter``), which is not all that a network does.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import pty
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from rethinkgen.run.entry import wait_politely

# torch, Lightning and NumPy are imported by the worker alone: a child's peak memory counts its parent's at the fork.

ROOT = Path(__file__).resolve().parents[1]
BATCH_SIZE = 128
NUM_CLASSES = 10
WARM_UP_SECONDS = 1.0
NUM_TRAIN = {"mlp_1x512": 50_000, "mlp_3x512": 50_000, "alexnet": 6_400, "inception": 640, "inception_no_bn": 640}
"""Fewer where train.py's last evaluation, which is not measured, would take most of the time on a CPU."""
USUAL = ["mlp_1x512", "alexnet", "inception"]
PEAK_TYPES = {"32-true": "float32", "bf16-mixed": "bfloat16"}
"""Precision -> type of the matrices whose product is the machine's peak."""
FOLDERS = {"tiny": (256, 100), "small": (6_400, 200), "cifar": (50_000, 10_000)}
"""Image folder -> training and test images; smaller ones first."""


def main() -> None:
    arguments = parse_arguments()
    with (
        tempfile.TemporaryDirectory(prefix="throughput-") as folder,
        Terminal() as terminal,
        Bench(arguments, Path(folder), terminal, images_of(arguments.device)) as bench,
    ):
        bench.prepare()
        rows = [bench.compare(model, precision) for precision in arguments.precisions for model in arguments.models]
        costs = bench.costs() if arguments.costs else []
        print(report(arguments, rows, costs, bench.about()))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", choices=NUM_TRAIN, default=USUAL, metavar="MODEL")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=6.0, help="measured time of each repeat")
    parser.add_argument("--device", choices=("cpu", "cuda"), default="cpu")
    parser.add_argument("--precisions", nargs="+", choices=PEAK_TYPES, default=list(PEAK_TYPES), metavar="PRECISION")
    parser.add_argument("--threads", type=int, help="CPU threads; default: as many as torch takes")
    parser.add_argument("--per-image", action="store_true", help="also Lightning with images transformed one by one")
    parser.add_argument("--costs", action="store_true", help="also memory and start-up times")
    return parser.parse_args()


def images_of(device: str) -> dict[str, int]:
    """Return on how many images each model is trained."""
    return NUM_TRAIN if device == "cpu" else dict.fromkeys(NUM_TRAIN, FOLDERS["cifar"][0])


# The side that only starts processes and looks at the clock.


class Terminal:
    """A pseudo-terminal that somebody reads, so that progress bars are live."""

    def __init__(self) -> None:
        self._master, self.slave = pty.openpty()
        self.path = os.ttyname(self.slave)
        self.tail = b""
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        while True:
            try:
                self.tail = (self.tail + os.read(self._master, 1 << 16))[-4000:]
            except OSError:
                return

    def __enter__(self) -> Terminal:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self.slave)


@dataclass
class Run:
    """What was seen of one ``train.py``."""

    images_per_second: float = math.nan
    first_step: float = math.nan
    """Seconds from the command to the end of the first optimizer step."""
    seconds: float = math.nan
    process_seconds: float = math.nan
    """User and system time, its threads' included."""
    peak_bytes: int = 0


@dataclass
class Row:
    """Images per second of one model, one number a repeat, and of ``bare`` one more."""

    model: str
    precision: str
    flops: float
    """Of matrix products and convolutions, forward and backward, of one image."""
    peak: float
    """Operations per second of large matrix products."""
    bare: list[float]
    entry: list[float]
    lightning: list[float]
    per_image: list[float]


class Bench:
    """Measures in turn; the worker process holds what is not ``train.py``."""

    def __init__(
        self, arguments: argparse.Namespace, folder: Path, terminal: Terminal, num_train: dict[str, int]
    ) -> None:
        self.arguments = arguments
        self.folder = folder
        self.num_train = num_train
        self.terminal = terminal
        self.num_runs = 0
        context = multiprocessing.get_context("spawn")
        self._connection, theirs = context.Pipe()
        settings = Settings(arguments.device, arguments.threads, str(folder), num_train)
        self._worker = context.Process(target=work, args=(theirs, terminal.path, settings))
        self._worker.start()
        theirs.close()

    def __enter__(self) -> Bench:
        return self

    def prepare(self) -> None:
        """Write the images, where they are not there yet, and have train.py decode them, as it does once."""
        needed = {self.source_of(model) for model in self.arguments.models}
        if self.arguments.costs:
            needed.add("cifar")
        for name in sorted(needed):
            if not (self.folder / name).exists():
                tell(f"writing and decoding {sum(FOLDERS[name]):,} images")
                self.ask("write_images", str(self.folder / f"{name}-half"), *FOLDERS[name])
                (self.folder / f"{name}-half").rename(self.folder / name)
            self.train("mlp_1x512", "32-true", name, num_steps=1)

    def __exit__(self, *_: object) -> None:
        self._connection.close()
        self._worker.join()

    def ask(self, name: str, *arguments: Any) -> Any:
        """Have the worker call one of its functions."""
        self._connection.send((name, arguments))
        return self._connection.recv()

    def about(self) -> str:
        """Return a line on the machine."""
        return str(self.ask("about")) + f", load average {os.getloadavg()[0]:.1f} at the end"

    def source_of(self, model: str) -> str:
        """Return the smallest image folder that has enough for the model."""
        return next(name for name, (num_train, _) in FOLDERS.items() if num_train >= self.num_train[model])

    def images_per_step(self, model: str) -> float:
        """Return the mean size of an epoch's batches."""
        return self.num_train[model] / math.ceil(self.num_train[model] / BATCH_SIZE)

    def compare(self, model: str, precision: str, *, with_lightning: bool = True) -> Row:
        """Measure one model in all ways, in turn."""
        peak = self.ask("matrix_peak", PEAK_TYPES[precision])
        row = Row(model, precision, self.ask("flops_per_image", model), peak, [], [], [], [])
        seconds = self.arguments.seconds
        row.bare.append(self.ask("bare_loop", model, precision, seconds))
        for repeat in range(self.arguments.repeats):
            num_steps = math.ceil(row.bare[-1] / self.images_per_step(model) * (seconds + WARM_UP_SECONDS + 1)) + 2
            row.entry.append(self.train(model, precision, self.source_of(model), num_steps).images_per_second)
            row.bare.append(self.ask("bare_loop", model, precision, seconds))
            if with_lightning:
                row.lightning.append(self.ask("lightning_loop", model, precision, seconds, False))
            if self.arguments.per_image:
                row.per_image.append(self.ask("lightning_loop", model, precision, seconds / 2, True))
            row.peak = max(row.peak, self.ask("matrix_peak", PEAK_TYPES[precision]))
            rates = [rates[-1] for rates in (row.bare, row.entry, row.lightning, row.per_image) if rates]
            shown = " ".join(f"{rate:,.0f}" for rate in rates)
            tell(f"{model} {precision} {repeat + 1}/{self.arguments.repeats}: {shown}")
        return row

    def costs(self) -> list[tuple[str, str]]:
        """Measure memory and start-up, on 50,000 + 10,000 images."""
        tell("memory and start-up")
        runs = [self.train("mlp_1x512", "32-true", "cifar", num_steps=800) for _ in range(3)]
        # The last run once more: finished, so skipped.
        skips = [self.train("mlp_1x512", "32-true", "cifar", num_steps=800, again=True) for _ in range(5)]
        helps = [self._watch([sys.executable, "train.py", "--help"]) for _ in range(5)]
        return [
            ("peak memory, `mlp_1x512`", f"{max(run.peak_bytes for run in runs) / 1e9:.2f} GB"),
            ("from command to first step done", f"{statistics.median(run.first_step for run in runs):.1f} s"),
            (
                "skipping a finished run",
                f"{statistics.median(run.process_seconds for run in skips):.2f} s of process time, "
                f"{statistics.median(run.seconds for run in skips):.2f} s",
            ),
            ("`train.py --help`", f"{statistics.median(run.seconds for run in helps):.2f} s"),
        ]

    def train(self, model: str, precision: str, source: str, num_steps: int, again: bool = False) -> Run:
        """Run ``train.py``; with ``again``, the very command of the last time."""
        self.num_runs += not again
        results = self.folder / f"results-{os.getpid()}-{self.num_runs}"
        command = [sys.executable, "train.py", "data=image_folder", f"data.root={self.folder / source}"]
        command += [f"model={model}", f"model.learning_rate={learning_rate(model)}"]
        command += [f"data.num_train={min(self.num_train[model], FOLDERS[source][0])}"]
        command += [f"max_steps={num_steps}", "evaluate_every=1e9", f"results_dir={results}"]
        command += [f"trainer={'gpu' if self.arguments.device == 'cuda' else 'cpu'}"]
        command += [f"trainer.precision={precision}", f"data.batch_size={BATCH_SIZE}"]
        if self.arguments.threads is not None:
            command.append(f"threads={self.arguments.threads}")
        return self._watch(command, results, self.images_per_step(model))

    def _watch(self, command: list[str], results: Path | None = None, images_per_step: float = math.nan) -> Run:
        """Run a command on the terminal and follow its ``status.json``, written about once a second."""
        environment = os.environ | {"WANDB_MODE": "offline", "TERM": "xterm-256color", "COLUMNS": "160"}
        slave = self.terminal.slave
        began, began_at = time.monotonic(), time.time()
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdin=slave, stdout=slave, stderr=slave)
        seen: dict[int, float] = {}
        while True:
            pid, exit_status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                break
            for path in results.glob("*/*/status.json") if results else ():
                note_status(path, seen)
            time.sleep(0.02)
        run = Run(seconds=time.monotonic() - began, peak_bytes=usage.ru_maxrss * 1024)
        process.returncode = os.waitstatus_to_exitcode(exit_status)
        if process.returncode:
            raise SystemExit(f"{' '.join(command)} failed:\n{self.terminal.tail.decode(errors='replace')}")
        run.process_seconds = usage.ru_utime + usage.ru_stime
        if seen:
            run.first_step = min(seen.values()) - began_at
            run.images_per_second = rate(seen) * images_per_step
        return run


def note_status(path: Path, seen: dict[int, float]) -> None:
    """Add step -> time of writing to ``seen``."""
    try:
        with path.open() as file:
            written, status = os.fstat(file.fileno()).st_mtime, json.load(file)
    except (OSError, ValueError):
        return  # replaced or taken away at this moment
    if "step" in status:
        seen.setdefault(status["step"], written)


def rate(seen: dict[int, float]) -> float:
    """Return steps per second between the first status after the warm-up and the last."""
    steps = sorted(seen)
    warm = [step for step in steps[1:] if seen[step] - seen[steps[0]] >= WARM_UP_SECONDS]
    if len(warm) < 2:
        return math.nan
    return (warm[-1] - warm[0]) / (seen[warm[-1]] - seen[warm[0]])


def report(arguments: argparse.Namespace, rows: list[Row], costs: list[tuple[str, str]], about: str) -> str:
    """Return the Markdown tables."""
    others = ["bare loop", "Lightning"] + ["per image"] * arguments.per_image
    names = ["bare loop", "`train.py`", *others[1:], *(f"`train.py` / {name}" for name in others), "of the peak"]
    lines = [
        f"Images per second, {about}. Medians of {arguments.repeats} repeats of {arguments.seconds:g} s, ratios with "
        "their quartiles.",
        "",
        f"| model | precision | {' | '.join(names)} |",
        "|---|---|" + "--:|" * len(names),
    ]
    for row in rows:
        loops = [rates for rates in (row.bare, row.entry, row.lightning, row.per_image) if rates]
        around = [(before + after) / 2 for before, after in zip(row.bare, row.bare[1:], strict=False)]
        ratios = [
            quartiles([ours / theirs for ours, theirs in zip(row.entry, rates, strict=True)])
            for rates in (around, *loops[2:])
        ]
        share = f"{statistics.median(row.entry) * row.flops / row.peak:.0%}"
        medians = [f"{statistics.median(rates):,.0f}" for rates in loops]
        lines.append(f"| `{row.model}` | {row.precision} | {' | '.join([*medians, *ratios, share])} |")
    lines.append("")
    for precision in arguments.precisions:
        peak = max(row.peak for row in rows if row.precision == precision)
        lines.append(f"Peak in {PEAK_TYPES[precision]}: {peak / 1e9:,.0f} GFLOP/s.")
    lines += gains(rows)
    if costs:
        lines += ["", "| `train.py` on 50,000 + 10,000 images of 32x32 | |", "|---|--:|"]
        lines += [f"| {name} | {value} |" for name, value in costs]
    return "\n".join(lines)


def gains(rows: list[Row]) -> list[str]:
    """Return a line for each model measured in both precisions: how much faster ``train.py`` is in the lower one."""
    rates = {(row.model, row.precision): statistics.median(row.entry) for row in rows}
    return [
        f"`{model}` in bf16-mixed: {rates[model, 'bf16-mixed'] / rates[model, '32-true']:.1f} times as fast as 32-true."
        for model in dict.fromkeys(row.model for row in rows)
        if {(model, precision) for precision in PEAK_TYPES} <= rates.keys()
    ]


def quartiles(ratios: list[float]) -> str:
    """Return the median, and the quartiles in brackets."""
    if len(ratios) < 2:
        return f"{ratios[0]:.2f}"
    low, median, high = statistics.quantiles(ratios, n=4, method="inclusive")
    return f"**{median:.2f}** ({low:.2f}–{high:.2f})"


def tell(text: str) -> None:
    """Say on stderr how far we are."""
    print(text, file=sys.stderr, flush=True)


# The side that trains without train.py: a process of its own.


@dataclass
class Settings:
    """What all loops share."""

    device: str
    threads: int | None
    folder: str
    num_train: dict[str, int]


def work(connection: Connection, terminal: str, settings: Settings) -> None:
    """Answer calls until there are no more; whatever is shown goes to ``terminal``."""
    slave = os.open(terminal, os.O_RDWR)
    os.dup2(slave, 1)
    errors = os.dup(2)
    wait_politely()  # as train.py does
    os.environ["TERM"] = "xterm-256color"
    import torch

    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    functions: dict[str, Callable[..., Any]] = {
        "about": about,
        "write_images": write_images,
        "matrix_peak": partial(matrix_peak, settings),
        "flops_per_image": partial(flops_per_image, settings),
        "bare_loop": partial(bare_loop, settings),
        "lightning_loop": partial(lightning_loop, settings),
    }
    while True:
        try:
            name, arguments = connection.recv()
        except EOFError:
            return
        os.dup2(slave, 2)
        try:
            result = functions[name](*arguments)
        finally:
            os.dup2(errors, 2)  # a traceback is for the user to see
        connection.send(result)


def about() -> str:
    import torch

    name = torch.cuda.get_device_name() if torch.cuda.is_available() else "CPU"
    if name == "CPU" and Path("/proc/cpuinfo").exists():
        models = [line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")]
        name = models[0].split(":", 1)[1].strip() if models else name
    return f"{name}, {os.cpu_count()} cores, {torch.get_num_threads()} threads, torch {torch.__version__}"


def write_images(folder: str, num_train: int, num_test: int) -> None:
    """Write an image folder of random PNGs, 32x32 in colour, of as many of each class."""
    import numpy as np
    from PIL import Image

    generator = np.random.default_rng(0)
    for split, count in (("train", num_train), ("test", num_test)):
        for label in range(NUM_CLASSES):
            (Path(folder) / split / str(label)).mkdir(parents=True)
        for index in range(count):
            pixels = generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            path = Path(folder) / split / str(index % NUM_CLASSES) / f"{index}.png"
            Image.fromarray(pixels).save(path, compress_level=0)


def new_network(settings: Settings, model: str) -> Any:
    """Return our network alone, as a plain module."""
    import torch

    from rethinkgen.model.alexnet import AlexNet
    from rethinkgen.model.inception import Inception
    from rethinkgen.model.mlp import MLP

    classes: dict[str, Callable[..., Any]] = {
        "mlp_1x512": partial(MLP, width=512, depth=1),
        "mlp_3x512": partial(MLP, width=512, depth=3),
        "alexnet": AlexNet,
        "inception": Inception,
        "inception_no_bn": partial(Inception, batch_norm=False),
    }
    network = classes[model](image_shape=(3, 28, 28), num_classes=NUM_CLASSES).network
    if is_channels_last(model):
        network = network.to(memory_format=torch.channels_last)
    return network.to(settings.device)


def is_channels_last(model: str) -> bool:
    return not model.startswith("mlp")


def learning_rate(model: str) -> float:
    return 0.1 if model == "inception" else 0.01  # without BatchNorm 0.1 diverges on labels that say nothing


def new_optimizer(model: str, parameters: Any) -> Any:
    import torch

    return torch.optim.SGD(parameters, lr=learning_rate(model), momentum=0.9)


class Clock:
    """Counts images after the warm-up."""

    def __init__(self, seconds: float, device: str) -> None:
        self.seconds = seconds
        self.device = device
        self._first = time.perf_counter()
        self._start: float | None = None
        self._num_images = 0
        self.images_per_second = math.nan

    def is_over(self, num_images: int) -> bool:
        """Note a finished step; tell whether it was the last."""
        now = time.perf_counter()
        if self._start is None:
            if now - self._first >= WARM_UP_SECONDS:
                self._start = self._synchronized()
            return False
        self._num_images += num_images
        if now - self._start < self.seconds:
            return False
        self.images_per_second = self._num_images / (self._synchronized() - self._start)
        return True

    def _synchronized(self) -> float:
        import torch

        if self.device == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter()


def matrix_peak(settings: Settings, kind: str, seconds: float = 0.5) -> float:
    """Return operations per second of multiplying square matrices, at the best of several sizes."""
    import torch

    best = 0.0
    for size in (1024, 2048, 4096) if settings.device == "cpu" else (4096, 8192):
        a, b = (torch.randn(size, size, device=settings.device).to(getattr(torch, kind)) for _ in range(2))
        product = a @ b  # the first time, its kernel is prepared
        count, start = 0, time.perf_counter()
        while time.perf_counter() - start < seconds:
            torch.mm(a, b, out=product)
            if settings.device == "cuda":
                torch.cuda.synchronize()
            count += 1
        best = max(best, count * 2 * size**3 / (time.perf_counter() - start))
    return best


def flops_per_image(settings: Settings, model: str) -> float:
    """Return how many operations matrix products and convolutions take, forward and backward."""
    import torch
    import torch.nn.functional as F
    from torch.utils.flop_counter import FlopCounterMode

    images = torch.randn(BATCH_SIZE, 3, 28, 28, device=settings.device)
    labels = torch.zeros(BATCH_SIZE, dtype=torch.int64, device=settings.device)
    network = new_network(settings, model)
    with FlopCounterMode(display=False) as counter:
        F.cross_entropy(network(images), labels).backward()
    return float(counter.get_total_flops()) / BATCH_SIZE


def bare_loop(settings: Settings, model: str, precision: str, seconds: float) -> float:
    """Train in a plain loop and return images per second."""
    import torch
    import torch.nn.functional as F

    device = settings.device
    count = settings.num_train[model]
    all_images = torch.randn(count, 3, 28, 28, device=device)
    all_labels = torch.randint(NUM_CLASSES, (count,), device=device)
    network = new_network(settings, model)
    optimizer = new_optimizer(model, network.parameters())
    schedule = torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.95)
    is_mixed = precision == "bf16-mixed"
    memory_format = torch.channels_last if is_channels_last(model) else torch.contiguous_format
    clock = Clock(seconds, device)
    while True:
        order = torch.randperm(len(all_images), device=device)
        loss_sum = torch.zeros((), device=device)
        num_correct = torch.zeros((), dtype=torch.int64, device=device)
        for indices in order.split(BATCH_SIZE):
            images = all_images[indices].contiguous(memory_format=memory_format)
            labels = all_labels[indices]
            with torch.autocast(device, torch.bfloat16, enabled=is_mixed):
                logits = network(images)
                loss = F.cross_entropy(logits, labels)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            with torch.no_grad():
                loss_sum += loss * len(labels)
                num_correct += (logits.argmax(1) == labels).sum()
            if clock.is_over(len(labels)):
                return clock.images_per_second
        schedule.step()
        print(f"loss {loss_sum.item() / len(order):.3f}, accuracy {num_correct.item() / len(order):.3f}")


def lightning_loop(settings: Settings, model: str, precision: str, seconds: float, is_per_image: bool) -> float:
    """Train with Lightning as its documentation shows it, and return images per second."""
    import pytorch_lightning as pl
    import torch
    import torch.nn.functional as F
    from torch.utils.data import DataLoader, Dataset, TensorDataset
    from torchvision import transforms

    count = settings.num_train[model]

    class Usual(pl.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.network = new_network(settings, model)

        def training_step(self, batch: Any, _: int) -> torch.Tensor:
            images, labels = batch
            if is_channels_last(model):
                images = images.contiguous(memory_format=torch.channels_last)
            logits = self.network(images)
            loss = F.cross_entropy(logits, labels)
            accuracy = (logits.argmax(1) == labels).float().mean()
            self.log("train/loss", loss, prog_bar=True, on_step=True, on_epoch=True)
            self.log("train/accuracy", accuracy, prog_bar=True, on_step=True, on_epoch=True)
            return loss

        def configure_optimizers(self) -> Any:
            optimizer = new_optimizer(model, self.parameters())
            return [optimizer], [torch.optim.lr_scheduler.ExponentialLR(optimizer, 0.95)]

    class Stop(pl.Callback):
        clock: Clock

        def on_train_start(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
            self.clock = Clock(seconds, settings.device)

        def on_train_batch_end(
            self, trainer: pl.Trainer, pl_module: pl.LightningModule, outputs: Any, batch: Any, batch_idx: int
        ) -> None:
            trainer.should_stop = trainer.should_stop or self.clock.is_over(len(batch[1]))

    if is_per_image:
        data: Dataset[Any] = PilImages(
            torch.randint(256, (count, 32, 32, 3), dtype=torch.uint8).numpy(),
            torch.randint(NUM_CLASSES, (count,)).tolist(),
            transforms.Compose([transforms.CenterCrop(28), transforms.ToTensor(), standardize]),
        )
    else:
        data = TensorDataset(torch.randn(count, 3, 28, 28), torch.randint(NUM_CLASSES, (count,)))
    loader = DataLoader(
        data, BATCH_SIZE, shuffle=True, num_workers=int(is_per_image), pin_memory=settings.device == "cuda"
    )
    stop = Stop()
    trainer = pl.Trainer(
        accelerator="gpu" if settings.device == "cuda" else "cpu",
        devices=1,
        precision=precision,  # type: ignore[arg-type]
        max_epochs=-1,
        callbacks=[stop],
        logger=pl.loggers.CSVLogger(settings.folder),
        enable_checkpointing=False,
        enable_model_summary=False,
    )
    trainer.fit(Usual(), loader)
    return stop.clock.images_per_second


@dataclass
class PilImages:
    """As torchvision's CIFAR-10: arrays that become PIL images one by one."""

    pixels: Any
    labels: list[int]
    transform: Callable[[Any], Any]

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> tuple[Any, int]:
        from PIL import Image

        return self.transform(Image.fromarray(self.pixels[index])), self.labels[index]


def standardize(image: Any) -> Any:
    """Whiten one image, as ``tf.image.per_image_standardization``."""
    return (image - image.mean()) / max(image.std(correction=0).item(), image.numel() ** -0.5)


if __name__ == "__main__":
    main()
