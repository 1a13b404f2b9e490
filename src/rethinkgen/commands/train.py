"""``rethinkgen train``: what ``train.py`` is in a clone, with the configs that were installed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import hydra
from omegaconf import DictConfig

from rethinkgen import configs
from rethinkgen.run.command import with_whole_config_path
from rethinkgen.run.entry import command_line, run


@hydra.main(config_path=str(configs.folder()), config_name="train")
def train(config: DictConfig) -> dict[str, Any] | None:
    """Train, resume or skip the run that ``config`` describes; return its metrics."""
    return run(config)


def main(arguments: Sequence[str], program: Sequence[str]) -> None:
    """Train what is asked for; Hydra's own options may stand among ``arguments``."""
    sys.argv[1:] = with_whole_config_path(arguments)
    command_line(train, configs.folder(), program)
