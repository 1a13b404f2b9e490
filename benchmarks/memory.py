"""Peak memory of ``train.py data=image_folder`` beside what the images themselves take.

    python benchmarks/memory.py                                       # 8,000 made images of 64x64, a minute
    python benchmarks/memory.py --train path/to/another/train.py      # the same of another checkout

Each line is one run of a few steps in a process of its own, whose peak (``ru_maxrss``, with what its own children took
apart) is compared with that of a run on a fiftieth of the images. In units of the images as bytes: they themselves are
1, and what the network sees of them, in float32, is 4.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import tempfile
from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 64
ROOT = Path(__file__).parents[1]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=8000)
    parser.add_argument("--train", type=Path, default=ROOT / "train.py")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        few = make_folder(Path(made) / "few", arguments.images // 50)
        many = make_folder(Path(made) / "many", arguments.images)
        unit = SIDE * SIDE * 3 * (arguments.images - arguments.images // 50) / 2**20
        print(f"{arguments.images:,} images: {unit:,.0f} MB more than those they are compared with")
        for title, options in {
            "decoded": [],
            "read from the cache": [],
            "and augmented": ["regularizer=[flip,random_crop]"],
        }.items():
            peaks = [peak(arguments.train, root, Path(made), options) for root in (few, many)]
            print(f"{title:20}: {peaks[1]:6,.0f} MB, that is {(peaks[1] - peaks[0]) / unit:.2f} times the images more")


def make_folder(root: Path, num_images: int) -> Path:
    """Write PNGs, a tenth of them for the test."""
    rng = np.random.default_rng(0)
    for number in range(num_images):
        folder = root / ("test" if number % 10 == 0 else "train") / f"class_{number // 10 % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{number:06d}.png", compress_level=1)
    return root


def peak(script: Path, root: Path, made: Path, options: list[str]) -> float:
    """Return the largest memory, in MB, of a run of its own."""
    results = tempfile.mkdtemp(dir=made)
    command = [sys.executable, str(script), "data=image_folder", f"data.root={root}", f"results_dir={results}"]
    command += ["model=mlp_1x512", "model.width=8", "max_steps=20", "until_fit=false", "trainer=cpu", "logger=none"]
    environment = os.environ | {"PYTHONPATH": str(script.parent / "src")}
    process = subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL, env=environment)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"the run failed with exit code {process.returncode}")
    return peak_of(used)


def peak_of(used: resource.struct_rusage) -> float:
    return used.ru_maxrss / 2**10


if __name__ == "__main__":
    main()
