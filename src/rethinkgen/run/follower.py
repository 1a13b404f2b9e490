"""The body of every rank but 0: trains its share, and writes, shows and decides nothing.

``python -m rethinkgen.run.follower <file descriptor> <rank> <number of ranks>`` is started by rank 0, which sends the
run's resolved config over the descriptor: neither overrides nor config paths have to be found again.
"""

from __future__ import annotations

import signal
import socket
import sys
import traceback
from typing import Any

from omegaconf import OmegaConf
from rich.console import Console

from rethinkgen.console import take_any_encoding
from rethinkgen.errors import Interrupted
from rethinkgen.run import own_code
from rethinkgen.run.folder import RunFolder
from rethinkgen.run.ranks import Follower
from rethinkgen.signals import STOPPING


def follow(ranks: Follower, begin: dict[str, Any]) -> None:
    """Train this rank's share of the run that rank 0 tells of, and tell it how that ended."""
    from rethinkgen.errors import TrainingDivergedError
    from rethinkgen.run.training import Training

    folder, identity = RunFolder(begin["folder"]), begin["identity"]
    try:
        training = Training(OmegaConf.create(identity["config"]), folder, identity, Console(quiet=True), ranks)
        training.prepare()
        training.run()
    except (Interrupted, TrainingDivergedError):
        ranks.end()  # so do all ranks, at the same step
        raise
    except BaseException:
        ranks.end(f"failed:\n{traceback.format_exc()}")
        raise
    ranks.end()


def main(descriptor: int, rank: int, size: int) -> None:
    """Follow the rank 0 at the other end of ``descriptor``, on the same machine."""
    for number in STOPPING:
        # A terminal or SLURM sends it to all ranks. Rank 0 obeys; this one does while it trains, where all then agree.
        signal.signal(number, signal.SIG_IGN)
    take_any_encoding(into_files=True)
    ranks = Follower(rank=rank, size=size, local_rank=rank, local_size=size)
    begin = ranks.connect(socket.socket(fileno=descriptor))
    if begin is None:
        return
    try:
        with own_code.opening([]):  # what rank 0 has opened stands in the environment
            follow(ranks, begin)
    except Interrupted as interruption:
        sys.exit(interruption.exit_code)


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
