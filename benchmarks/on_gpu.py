"""What is to be seen on the day that a GPU is at hand, in order of worth; at most 12 minutes on one H100.

    python benchmarks/on_gpu.py data=cifar10 data.root=path/to/cifar10
    python benchmarks/on_gpu.py data=cifar10_jpeg data.root=path/to/images --minutes 9   # issued again, it goes on
    python benchmarks/on_gpu.py --small                                                  # all of it in little, on a CPU

1. Speed: ``train.py`` beside a bare loop, for the five networks of Zhang et al. 2017 in both precisions, and the share
   of the card's peak in large matrix products (``throughput.py`` says what is counted).
2. The rows of their Table 1 for Inception and AlexNet, one seed, random labels first; several runs share the GPU.
3. Several devices (NCCL): the same run on 1, 2, 4, ... of them: how fast, and how far apart. On one card no more can be
   seen than that NCCL starts.

What is known stands in ``--out`` after each measurement: ``results.md`` to read, ``speed.jsonl``, ``devices.jsonl``,
and the folder of the sweep, for ``report.py``. The same command measures what is missing; a run that was cut off goes
on where it was. Without overrides (``data=...``) there is no Table 1.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from throughput import NUM_TRAIN, PEAK_TYPES, ROOT, Bench, Row, Terminal, images_of, tell

MODELS = ["inception", "alexnet", "inception_no_bn", "mlp_3x512", "mlp_1x512"]
TABLE_1 = ["-m", "+experiment=zhang2017/table_1", "model=inception,alexnet", "seed=0", "logger=none"]
LABELS = ["random_labels", "none"]
"""Corruptions of Table 1, the more telling first."""
DEVICES_SECONDS = 60.0
"""What is kept of the time for each number of devices."""
SPEED_SECONDS = 30.0
"""What one network in one precision takes on an H100, its start included."""
SAVING_SECONDS = 20.0
"""What a sweep takes to save and end."""


def main() -> None:
    plan = Plan(parse_arguments())
    tell(f"{plan.about()}: {plan.minutes_left():.1f} minutes from now")
    plan.speed()
    plan.table_1()
    plan.devices()
    print(plan.write_results())


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("overrides", nargs="*", metavar="data=...", help="where Table 1 has its images")
    parser.add_argument("--minutes", type=float, default=12.0, help="after which nothing is begun any more")
    parser.add_argument("--out", type=Path, help="by default multirun/on_gpu, with --small multirun/on_gpu-small")
    parser.add_argument("--at-once", type=int, default=5, help="runs of Table 1 that share a GPU")
    parser.add_argument("--precision", default="32-true", choices=PEAK_TYPES, help="of Table 1")
    parser.add_argument("--small", action="store_true", help="on the CPU, on a few images, to try this script")
    arguments = parser.parse_args()
    # What was measured in little on a CPU is no GPU's measurement that is there already.
    arguments.out = arguments.out or ROOT / "multirun" / ("on_gpu-small" if arguments.small else "on_gpu")
    return arguments


class Plan:
    """Measures what is missing, in order, for as long as there is time."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        import torch

        if not arguments.small and not torch.cuda.is_available():
            raise SystemExit("There is no GPU here. --small tries all of it on the CPU.")
        self.arguments = arguments
        self.small: bool = arguments.small
        self.out: Path = arguments.out
        self.out.mkdir(parents=True, exist_ok=True)
        self.deadline = time.monotonic() + 60 * arguments.minutes
        self.num_gpus = torch.cuda.device_count()
        most = 2 if self.small else self.num_gpus
        self.sizes = [size for size in (1, 2, 4, 8) if size <= most]
        self.overrides: list[str] = arguments.overrides or (["data=digits", "max_steps=20"] if self.small else [])

    def about(self) -> str:
        """Return the card, the versions and the commit."""
        import pytorch_lightning
        import torch

        from rethinkgen.run.training import commit

        card = torch.cuda.get_device_name() if self.num_gpus else "no GPU"
        count = f"{self.num_gpus} x " if self.num_gpus > 1 else ""
        versions = f"torch {torch.__version__}, Lightning {pytorch_lightning.__version__}"
        return f"{count}{card}, {os.cpu_count()} cores, {versions}, commit {commit()}"

    def minutes_left(self) -> float:
        """Return how long it is until nothing is begun any more."""
        return (self.deadline - time.monotonic()) / 60

    def _has(self, seconds: float) -> bool:
        return time.monotonic() + seconds < self.deadline

    def speed(self) -> None:
        """Measure each network in each precision once."""
        known = {(row.model, row.precision) for row in self._rows()}
        missing = [(model, kind) for model in MODELS for kind in PEAK_TYPES if (model, kind) not in known]
        if not missing:
            return
        measure = argparse.Namespace(
            models=MODELS, repeats=1, seconds=2.0 if self.small else 4.0, device="cpu" if self.small else "cuda",
            threads=None, per_image=False, costs=False,
        )  # fmt: skip
        num_train = dict.fromkeys(NUM_TRAIN, 256) if self.small else images_of("cuda")
        folder = Path(tempfile.gettempdir()) / "rethinkgen-on-gpu"
        folder.mkdir(exist_ok=True)
        with Terminal() as terminal, Bench(measure, folder, terminal, num_train) as bench:
            bench.prepare()
            for model, precision in missing:
                if not self._has(SPEED_SECONDS):
                    tell("no time is left for more speeds")
                    return
                try:
                    row = bench.compare(model, precision, with_lightning=False)
                except SystemExit as error:
                    tell(f"{model} {precision}: {error}")
                    continue
                if math.isnan(row.entry[0]):
                    tell(f"{model} {precision}: too short to tell the speed of train.py; it is measured the next time")
                    continue
                _append(self.out / "speed.jsonl", dataclasses.asdict(row) | {"about": self.about()})
                self.write_results()

    def table_1(self) -> None:
        """Train the rows of Table 1, or go on with them, until what is left is for the devices."""
        if not self.overrides:
            return
        for corruption in LABELS:
            seconds = self.deadline - time.monotonic() - DEVICES_SECONDS * len(self._missing_sizes()) - SAVING_SECONDS
            if seconds < SAVING_SECONDS:
                tell("no time is left for more of Table 1")
                return
            where = (
                ["trainer=cpu"]
                if self.small
                else ["trainer=gpu", f"hydra.launcher.jobs_per_gpu={self.arguments.at_once}"]
            )
            command = [*TABLE_1, f"data.corruption={corruption}", *where, f"results_dir={self.out / 'table_1'}"]
            self._train([*command, f"trainer.precision={self.arguments.precision}", *self.overrides], seconds)
            self.write_results()

    def devices(self) -> None:
        """Train one run on 1, 2, 4, ... devices; see that NCCL starts where there is but one."""
        if self.num_gpus == 1 and not self._lines("devices.jsonl"):
            _append(self.out / "devices.jsonl", {"size": 0, "said": _start_nccl()})
        for size in self._missing_sizes():
            if not self._has(DEVICES_SECONDS):
                tell("no time is left for several devices")
                return
            fast = self._on_devices(size, "32-true", 20 if self.small else 1000)
            exact = self._on_devices(size, "64-true", 4 if self.small else 20)
            line: dict[str, Any] = {"size": size, "said": "failed, as it printed above."}
            if fast and exact:
                result = json.loads((fast / "result.json").read_text())
                line = {"size": size, "folder": str(exact), "apart": self._apart(exact)}
                line |= {key: result[key] for key in ("images_per_second", "world_size")}
            _append(self.out / "devices.jsonl", line)
            self.write_results()

    def _on_devices(self, size: int, precision: str, steps: int) -> Path | None:
        """Train one run on so many devices, and return its folder if it ended well."""
        results = self.out / "devices" / f"{size}-{precision}"
        trainer = ("ddp_cpu" if size > 1 else "cpu") if self.small else ("ddp" if size > 1 else "gpu")
        run = ["data=digits", "model=inception", "until_fit=false", f"max_steps={steps}", "logger=none", "seed=0"]
        run += [f"trainer={trainer}", f"trainer.precision={precision}", f"results_dir={results}"]
        run += [f"trainer.devices={size}"] if size > 1 else []
        self._train([*run, *(["data.num_train=256"] if self.small else [])], 10 * DEVICES_SECONDS)
        return next((path.parent for path in results.glob("*/*/result.json")), None)

    def _apart(self, folder: Path) -> float | None:
        """Return the greatest difference of a weight from the same run on one device."""
        import torch

        alone = [line["folder"] for line in self._lines("devices.jsonl") if line["size"] == 1 and "folder" in line]
        if not alone:
            return None
        ours, theirs = (torch.load(Path(each) / "weights" / "end.pt", weights_only=True) for each in (folder, alone[0]))
        floating = [name for name in ours if ours[name].is_floating_point()]
        return max(float((ours[name].cpu() - theirs[name].cpu()).abs().max()) for name in floating)

    def _missing_sizes(self) -> list[int]:
        known = {line["size"] for line in self._lines("devices.jsonl") if "folder" in line}
        return [size for size in self.sizes if size not in known]

    def _train(self, overrides: Sequence[str], seconds: float) -> None:
        """Run ``train.py``, and have it save and end after so many seconds."""
        tell(f"python train.py {' '.join(overrides)}")
        process = subprocess.Popen([sys.executable, "train.py", *overrides], cwd=ROOT)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            tell("time is up: it saves, and goes on when this command is issued again")
            process.send_signal(signal.SIGINT)
            process.wait()

    def _lines(self, name: str) -> list[dict[str, Any]]:
        path = self.out / name
        return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []

    def _rows(self) -> list[Row]:
        fields = {field.name for field in dataclasses.fields(Row)}
        lines = self._lines("speed.jsonl")
        return [Row(**{key: value for key, value in line.items() if key in fields}) for line in lines]

    def write_results(self) -> str:
        """Write what is known as Markdown, and return it."""
        text = "\n".join([f"# On {self.about()}", "", *self._speeds(), *self._table(), *self._devices(), ""])
        (self.out / "results.md").write_text(text, encoding="utf-8")
        return text

    def _speeds(self) -> list[str]:
        lines = ["## Speed", "", "| model | precision | bare loop | `train.py` | ratio | of the peak | peak, TFLOP/s |"]
        lines.append("|---|---|--:|--:|--:|--:|--:|")
        for row in self._rows():
            bare, ours = (row.bare[0] + row.bare[1]) / 2, row.entry[0]
            numbers = f"{bare:,.0f} | {ours:,.0f} | {ours / bare:.2f} | {ours * row.flops / row.peak:.1%}"
            lines.append(f"| `{row.model}` | {row.precision} | {numbers} | {row.peak / 1e12:.3g} |")
        return [*lines, "", "Images per second, batches of 128.", ""]

    def _table(self) -> list[str]:
        lines = ["## Table 1", ""]
        if not self.overrides:
            return [*lines, "Not run: it was not said where its images lie (data=cifar10 data.root=...).", ""]
        lines += ["| model | labels | regularizers | fit, % | test, % | seconds | images/s | state |"]
        lines += ["|---|---|---|--:|--:|--:|--:|---|"]
        lines += [_row_of_table(path.parent) for path in sorted((self.out / "table_1").glob("*/*/config.yaml"))]
        command = f"python report.py {self.out / 'table_1'}/*"
        return [*lines, "", f"One seed, `{self.arguments.precision}`. Beside the published: `{command}`", ""]

    def _devices(self) -> list[str]:
        lines = ["## Several devices", "", "| devices | images/s | greatest difference of a weight |", "|--:|--:|--:|"]
        notes = []
        for line in self._lines("devices.jsonl"):
            if "said" in line:
                notes.append(f"{line['size'] or 'NCCL'}: {line['said']}")
                continue
            apart = "" if line["apart"] is None else f"{line['apart']:.1e}"
            lines.append(f"| {line['world_size']} | {line['images_per_second']:,.0f} | {apart} |")
        if self.num_gpus == 1:
            notes.append("One card: a run on several was NOT seen.")
        what = "Inception on the digits; weights in float64 after few steps, speed in float32."
        return [*lines, "", " ".join([what, *notes]), ""]


def _row_of_table(folder: Path) -> str:
    from rethinkgen.run.run import read_run

    run = read_run(folder)
    result = run.result or {}
    choices, metrics = result.get("choices", {}), result.get("metrics", {})
    if not result:
        status = folder / "status.json"
        step = json.loads(status.read_text()).get("step") if status.exists() else None
        return f"| `{folder.name}` | | | | | | | {run.state}{f', step {step:,}' if step else ''} |"
    names = f"`{choices['model']}` | {choices['data.corruption']} | {', '.join(choices['regularizer']) or 'none'}"
    accuracies = " | ".join(f"{100 * metrics[f'{split}/accuracy']:.2f}" for split in ("fit", "test"))
    return f"| {names} | {accuracies} | {result['seconds']:,.0f} | {result['images_per_second']:,.0f} | done |"


def _start_nccl() -> str:
    """Have NCCL add up a number among one rank, in this process."""
    import torch
    import torch.distributed as dist

    try:
        dist.init_process_group("nccl", store=dist.HashStore(), rank=0, world_size=1)
        number = torch.ones(1, device="cuda")
        dist.all_reduce(number)
        torch.cuda.synchronize()
        dist.destroy_process_group()
    except (RuntimeError, ValueError) as error:
        return f"does not start: {error}"
    return f"{'.'.join(map(str, torch.cuda.nccl.version()))} starts with one rank."


def _append(path: Path, line: dict[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()
