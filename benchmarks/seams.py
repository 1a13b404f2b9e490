"""What the seams of training cost plain cross-entropy: CPU time a step of this code against another worktree's.

    uv run python benchmarks/seams.py ../other_worktree              # mlp_1x512 on noise as large as MNIST
    uv run python benchmarks/seams.py ../other_worktree --digits     # the digits, where a step is a few operations

Both packages are imported into one process under names of their own, and take turns block by block on equal batches: so
they have the same machine at the same time. What is printed is the median of paired ratios, ours over theirs, with its
quartiles; at most 1.01 is wanted. At the end the weights of both must be equal to the bit.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import statistics
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch

HERE = Path(__file__).parents[1]
BATCH_SIZE = 128


def imported(root: Path) -> dict[str, ModuleType]:
    """Import the package of a worktree, whatever was imported before, and return its modules by name."""
    for name in [name for name in sys.modules if name.split(".")[0] == "rethinkgen"]:
        del sys.modules[name]
    sys.path.insert(0, str(root / "src"))
    try:
        found = {}
        for name in ("data.batches", "data.source", "data.corruption", "model.mlp", "train.loss", "train.histories"):
            try:
                found[name] = importlib.import_module(f"rethinkgen.{name}")
            except ModuleNotFoundError:
                continue
        assert Path(found["model.mlp"].__file__ or "").is_relative_to(root)
        return found
    finally:
        sys.path.remove(str(root / "src"))


class Side:
    """One worktree's network in training, which can be asked for a block at a time."""

    def __init__(self, root: Path, arguments: argparse.Namespace) -> None:
        import pytorch_lightning as pl

        modules = imported(root)
        source = modules["data.source"].Digits() if arguments.digits else noise(modules)
        smoothing = {"label_smoothing": 0.1}
        if "train.loss" in modules:
            smoothing = {"loss": modules["train.loss"].CrossEntropy(**smoothing)}
        torch.manual_seed(0)
        self.model = modules["model.mlp"].MLP(
            width=512,
            optimizer=lambda groups: torch.optim.SGD(groups, lr=0.01, momentum=0.9, fused=True),
            dropout=0.5 if arguments.dropout else 0.0,
            **(smoothing if arguments.smoothing else {}),
        )
        self.data = modules["data.corruption"].TrueLabels(source, batch_size=BATCH_SIZE, flip=arguments.flip)
        self.block = modules["data.batches"].Block
        kept = getattr(modules.get("train.histories"), "PresentedExamples", None)
        self.history = kept() if kept else None
        """What ``Evaluation`` keeps of each block."""
        self.generator = torch.get_rng_state()
        """Each side has its own, for dropout, though both are in one process."""
        self.seconds: list[float] = []
        self.blocks = self._blocks(pl)

    def _blocks(self, pl: Any) -> Iterator[None]:
        """Train; yield before and after each block. A trainer cannot be stopped halfway, so its loop is ours here."""
        self.data.setup()
        trainer = pl.Trainer(
            accelerator="cpu", max_steps=10**9, logger=False, enable_checkpointing=False, enable_progress_bar=False
        )
        trainer.datamodule = self.data
        self.model.trainer = trainer
        self.data.trainer = trainer
        trainer.strategy.connect(self.model)
        trainer.strategy._lightning_module = self.model
        self.model.configure_model()
        trainer.strategy.setup_optimizers(trainer)
        self.model.train()
        if hasattr(self.model, "on_train_start"):
            self.model.on_train_start()
        step = 0
        while True:
            indices = torch.from_numpy(np.random.default_rng(step).permutation(len(self.data.splits["train"])))
            sizes = [BATCH_SIZE] * (min(16 * BATCH_SIZE, len(indices)) // BATCH_SIZE)
            block = self.block(indices[: sum(sizes)], sizes, sizes, step)
            yield
            with torch.enable_grad():
                self.model.training_step(self.data.batches(block), step)
            if self.history is not None:
                self.history.update(len(sizes) * (step + 1), self.model.presented)
            yield
            step += 1

    def train(self, *, is_timed: bool) -> None:
        """Take one block of steps."""
        torch.set_rng_state(self.generator)
        next(self.blocks)
        began = time.process_time()
        next(self.blocks)
        if is_timed:
            self.seconds.append(time.process_time() - began)
        self.generator = torch.get_rng_state()


def noise(modules: dict[str, ModuleType]) -> Any:
    """Return a source of as many numbers an image as MNIST has."""
    source = modules["data.source"]
    draw = np.random.default_rng(0)

    class Noise:
        def prepare(self) -> None:
            pass

        def fingerprint(self) -> str:
            return "noise"

        def load(self) -> Any:
            def examples(count: int, first: int) -> Any:
                return source.Examples(
                    draw.integers(256, size=(count, 1, 28, 28), dtype=np.uint8),
                    draw.integers(10, size=count),
                    np.arange(first, first + count, dtype=np.uint64),
                )

            return source.Images(examples(8192, 0), examples(512, 8192), tuple("0123456789"))

    return Noise()


def main() -> None:
    """Compare, and print a line for each number of threads."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("other", type=Path, help="a worktree of the code to compare with")
    parser.add_argument("--digits", action="store_true")
    parser.add_argument("--dropout", action="store_true")
    parser.add_argument("--flip", action="store_true")
    parser.add_argument("--smoothing", action="store_true")
    parser.add_argument("--blocks", type=int, default=150, help="of 16 steps each")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    arguments = parser.parse_args()
    logging.getLogger("pytorch_lightning.utilities.rank_zero").setLevel(logging.WARNING)
    for threads in arguments.threads:
        torch.set_num_threads(threads)
        theirs, ours = Side(arguments.other.resolve(), arguments), Side(HERE, arguments)
        for number in range(arguments.blocks + 10):
            for side in (theirs, ours) if number % 2 else (ours, theirs):
                side.train(is_timed=number >= 10)
        ratios = [own / other for own, other in zip(ours.seconds, theirs.seconds, strict=True)]
        low, median, high = statistics.quantiles(ratios, n=4)
        own, other = ours.model.state_dict().values(), theirs.model.state_dict().values()
        same = all(torch.equal(one, another) for one, another in zip(own, other, strict=True))
        each = 1e3 * statistics.median(theirs.seconds) / 16
        print(
            f"{threads} threads: {median:.3f} ({low:.3f} to {high:.3f}) of {each:.2f} ms a step; "
            f"weights {'equal to the bit' if same else 'DIFFER'}"
        )


if __name__ == "__main__":
    main()
