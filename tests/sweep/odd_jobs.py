"""``train.py``, but for jobs of some seeds, which go wrong in ways of their own."""

from __future__ import annotations

import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig

from rethinkgen.run.entry import command_line, run

CONF = Path(__file__).parents[2] / "conf"


@hydra.main(config_path=str(CONF), config_name="train")
def main(config: DictConfig) -> dict[str, Any]:
    print(f"GPUs: {os.environ.get('CUDA_VISIBLE_DEVICES')}, threads: {os.environ.get('OMP_NUM_THREADS')}")
    if config.seed == 1:
        raise RuntimeError("one is odd")
    if config.seed == 2:
        sys.exit(3)
    if config.seed == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    if config.seed == 4:
        time.sleep(1000)
    if config.seed == 5:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    if config.seed == 7:
        sys.exit(75)  # what our own processes end with whose run another one trains
    return run(config)


if __name__ == "__main__":
    command_line(main, groups=CONF)
