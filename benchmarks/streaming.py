"""Images per second of ``data=imagenet`` beside torchvision's ImageFolder and a DataLoader, with the same transforms.

    python benchmarks/streaming.py                                  # a made folder of 500x375 JPEGs, 299x299, all cores
    python benchmarks/streaming.py --root path/to/imagenet --workers 16 --device cuda

Nothing is trained: it is the loaders that are compared, in turn, each with its own workers, which start anew each time
and are not counted until they have handed over three batches each. ``folder`` transforms Pillow's images, as
torchvision's own training script does by default; ``tensors`` does so after turning them into tensors. Ratios are
medians (quartiles) over the repeats. Ours is the whole path of a run but for the network; on the CPU it shares
the cores with its workers.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from rethinkgen.run.entry import wait_politely

wait_politely()  # before torch is imported, as train.py does

import torch
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision.datasets import ImageFolder
from torchvision.transforms import v2

from rethinkgen.data.batches import Blocks
from rethinkgen.data.corruption import TrueLabels
from rethinkgen.data.streamed_source import StreamedFolder

SIZE, RESIZE = 299, 342


def main() -> None:
    arguments = parse_arguments()
    with tempfile.TemporaryDirectory() as made:
        root = arguments.root or make_folder(Path(made), arguments.images)
        for is_augmented in (False, True):
            loaders: dict[str, Callable[[], Iterator[Tensor]]] = {
                "ours": lambda: ours(root, arguments, is_augmented),  # noqa: B023
                "folder": lambda: plain(root, arguments, is_augmented, on_tensors=False),  # noqa: B023
                "tensors": lambda: plain(root, arguments, is_augmented, on_tensors=True),  # noqa: B023
            }
            rates: dict[str, list[float]] = {name: [] for name in loaders}
            for _ in range(arguments.repeats):
                for name, load in loaders.items():
                    rates[name].append(images_per_second(load(), arguments))
            report("random crop and flip" if is_augmented else "centre crop", rates)


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, help="folder with train/<class>/* and val/<class>/*; default: a made one")
    parser.add_argument("--images", type=int, default=512, help="in the made folder")
    parser.add_argument("--workers", type=int, default=torch.get_num_threads())
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=8.0, help="measured time of each loader in each repeat")
    return parser.parse_args()


def make_folder(root: Path, num_images: int) -> Path:
    """Write JPEGs of ImageNet's usual size, some 50 KB each."""
    rng = np.random.default_rng(0)
    for split, count in (("train", num_images), ("val", 2)):
        for number in range(count):
            folder = root / split / f"class_{number % 2}"
            folder.mkdir(parents=True, exist_ok=True)
            coarse = Image.fromarray(rng.integers(0, 256, (30, 40, 3), dtype=np.uint8))
            coarse.resize((500, 375), Image.Resampling.BICUBIC).save(folder / f"{number:05d}.jpg", quality=90)
    return root


def ours(root: Path, arguments: argparse.Namespace, is_augmented: bool) -> Iterator[Tensor]:
    """Yield batches as a run of ``data=imagenet`` sees them."""
    source = StreamedFolder(root, RESIZE, arguments.workers)
    data = TrueLabels(
        source,
        batch_size=arguments.batch_size,
        crop=SIZE,
        preprocessing="signed",
        random_crop=is_augmented,
        flip=is_augmented,
    )
    data.setup()
    data.move(torch.device(arguments.device))
    try:
        step = 0
        blocks = Blocks(data.timetable, 0, lambda: step, lambda step: float("inf"))
        while True:
            for block in blocks:
                moved = block._replace(indices=block.indices.to(arguments.device))
                yield from (batch.images for batch in data.batches(moved))
                step += len(block.sizes)
    finally:
        data.teardown("fit")


def plain(root: Path, arguments: argparse.Namespace, is_augmented: bool, *, on_tensors: bool) -> Iterator[Tensor]:
    """Yield batches as one would load them without us."""
    view: list[Any] = [v2.RandomResizedCrop(SIZE, antialias=True), v2.RandomHorizontalFlip()]
    if not is_augmented:
        view = [v2.Resize(RESIZE, antialias=True), v2.CenterCrop(SIZE)]
    to_tensor = [v2.PILToTensor()]
    scale = [v2.ToDtype(torch.float32, scale=True), v2.Normalize([0.5] * 3, [0.5] * 3)]
    transform = v2.Compose([*to_tensor, *view, *scale] if on_tensors else [*view, *to_tensor, *scale])
    loader = DataLoader(
        ImageFolder(root / "train", transform),
        batch_size=arguments.batch_size,
        shuffle=True,
        num_workers=arguments.workers,
        pin_memory=arguments.device != "cpu",
        persistent_workers=arguments.workers > 0,
    )
    while True:
        for images, _ in loader:
            yield images.to(arguments.device, non_blocking=True)


def images_per_second(batches: Iterator[Tensor], arguments: argparse.Namespace) -> float:
    """Count for a while, once every worker has handed over what it began with."""
    for _ in range(3 * max(1, arguments.workers)):
        next(batches)
    start, num_images = time.perf_counter(), 0
    while (seconds := time.perf_counter() - start) < arguments.seconds:
        num_images += len(next(batches))
    if arguments.device != "cpu":
        torch.cuda.synchronize()
        seconds = time.perf_counter() - start
    batches.close()  # type: ignore[attr-defined]
    return num_images / seconds


def report(title: str, rates: dict[str, list[float]]) -> None:
    medians = ", ".join(f"{name} {statistics.median(found):,.0f}" for name, found in rates.items())
    print(f"{title}: images/s: {medians}")
    for name in ("folder", "tensors"):
        ratios = [mine / theirs for mine, theirs in zip(rates["ours"], rates[name], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4) if len(ratios) > 1 else ratios * 3
        print(f"  ours / {name}: {middle:.2f} ({low:.2f}-{high:.2f})")


if __name__ == "__main__":
    main()
