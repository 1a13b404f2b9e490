"""Time, memory and residual of the exact solve of ``model=kernel_gaussian`` on MNIST, each in a process of its own.

uv run python benchmarks/kernel.py --root data --num-train 5000 10000 20000
uv run python benchmarks/kernel.py --root data --num-train 60000 --solver cholesky_float32    # the whole of it: 9 GB
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time

from rethinkgen.model.closed_form.kernel import SOLVERS


def measure(root: str, num_train: int, solver: str, bandwidth: float, device: str) -> dict[str, float]:
    """Solve once and evaluate on the test set."""
    import resource

    import torch

    from rethinkgen.data.corruption import TrueLabels
    from rethinkgen.data.source import MNIST
    from rethinkgen.model.closed_form.kernel import KernelGaussian

    datamodule = TrueLabels(MNIST(root), preprocessing="none", num_train=num_train)
    datamodule.setup()
    train, test = (datamodule.splits[name].to(device) for name in ("train", "test"))

    class Telling(KernelGaussian):
        """Says how far the solve is."""

        def report(self, what: str, share: float) -> None:
            """Show it on a terminal."""
            if sys.stderr.isatty():
                tell(what, share)

    model = Telling(bandwidth=bandwidth, solver=solver)
    with torch.no_grad():
        began = time.perf_counter()
        network, metrics = model.solve(train.inputs, train.labels, 10)
        if device == "cuda":
            torch.cuda.synchronize()
        seconds = time.perf_counter() - began
        classes = torch.cat([network(images).argmax(1) for images in torch.split(test.inputs, 500)])
    peak = torch.cuda.max_memory_allocated() if device == "cuda" else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "seconds": seconds,
        "gigabytes": peak / 1e9 if device == "cuda" else peak * 1024 / 1e9,
        "residual": metrics["solution/residual"] or 0.0,
        "refinements": metrics["solution/refinements"] or 0.0,
        "norm": metrics["solution/norm"] or 0.0,
        "test_error": float((classes != test.labels).double().mean()),
    }


def tell(what: str, share: float) -> None:
    """Show how far a solve is."""
    print(f"\r{what}: {share:.0%}   ", end="", file=sys.stderr, flush=True)


def main() -> None:
    """Measure each size and solver, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", default="data", help="folder that MNIST lies in")
    parser.add_argument("--num-train", type=int, nargs="+", default=[5000, 10000])
    parser.add_argument("--solver", nargs="+", choices=list(SOLVERS), default=list(SOLVERS))
    parser.add_argument("--bandwidth", type=float, default=0.02)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one:
        found = measure(
            arguments.root, arguments.num_train[0], arguments.solver[0], arguments.bandwidth, arguments.device
        )
        print(json.dumps(found))
        return
    print(f"{'examples':>8} {'solver':<17} {'s':>7} {'GB':>5} {'residual':>9} refinements {'norm':>6} test error")
    for num_train in arguments.num_train:
        for solver in arguments.solver:
            command = [sys.executable, __file__, "--one", "--root", arguments.root, "--num-train", str(num_train)]
            command += ["--solver", solver, "--bandwidth", str(arguments.bandwidth), "--device", arguments.device]
            output = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True).stdout
            row = json.loads(output.splitlines()[-1])
            print(
                f"{num_train:>8,} {solver:<17} {row['seconds']:>7.1f} {row['gigabytes']:>5.1f} {row['residual']:>9.1e} "
                f"{row['refinements']:>11.0f} {row['norm']:>6.1f} {row['test_error']:>10.2%}",
                flush=True,
            )


if __name__ == "__main__":
    main()
