"""``rethinkgen train``: what ``train.py`` is in a clone, with the configs that were installed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import hydra
from omegaconf import DictConfig

from rethinkgen import configs
from rethinkgen.run.entry import command_line, run


@hydra.main(config_path=str(configs.folder()), config_name="train")
def train(config: DictConfig) -> dict[str, Any] | None:
    """Train, resume or skip the run that ``config`` describes; return its metrics."""
    return run(config)


def main(_: Sequence[str], program: Sequence[str]) -> None:
    """Do what ``sys.argv`` asks for, with Hydra's own options."""
    command_line(train, configs.folder(), program)
