"""``rethinkgen measure``: what ``measure.py`` is in a clone, with the configs that were installed."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

import hydra
from omegaconf import DictConfig

from rethinkgen import configs
from rethinkgen.run.command import with_whole_config_path
from rethinkgen.run.stint import measure_stint
from rethinkgen.sweep.measuring import command_line


@hydra.main(config_path=str(configs.folder()), config_name="measure")
def measure(config: DictConfig) -> dict[str, Any]:
    """Measure the share of one process in the runs that the command chose."""
    return measure_stint(config)


def main(arguments: Sequence[str], program: Sequence[str]) -> None:
    """Measure what is asked for; Hydra's own options may stand among ``arguments``."""
    sys.argv[1:] = with_whole_config_path(arguments)
    command_line(measure, configs.folder(), program)
