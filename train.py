"""Train one network on one data set, corrupted as asked for; with ``-m``, every combination of comma-separated values.

python train.py
python train.py data.corruption=random_labels model=mlp_1x512 seed=1
python train.py -m data.corruption=none,random_labels model=mlp_1x512,inception
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig

from rethinkgen.run.entry import command_line, run


@hydra.main(config_path="conf", config_name="train")
def main(config: DictConfig) -> dict[str, Any] | None:
    """Train, resume or skip the run that ``config`` describes; return its metrics."""
    return run(config)


if __name__ == "__main__":
    command_line(main, groups=Path(__file__).parent / "conf")
