"""``hydra/sweeper=measures``: what ``measure.py`` does with runs that are there, one after another."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser


@dataclass
class MeasuresConf:
    """There is nothing to set under ``hydra.sweeper``."""

    _target_: str = "hydra_plugins.rethinkgen_measures.MeasuresSweeper"
    params: dict[str, Any] | None = None


ConfigStore.instance().store(group="hydra/sweeper", name="measures", node=MeasuresConf, provider="rethinkgen")


class MeasuresSweeper(BasicSweeper):
    """Looks at what is missing of the runs that the command names, and has the launcher's processes measure it."""

    def __init__(self, params: dict[str, str] | None = None) -> None:
        super().__init__(max_batch_size=None, params=params)

    def sweep(self, arguments: list[str]) -> Any:
        """Measure, and exit with 1 if a run has no result then."""
        from rethinkgen.run.where import select
        from rethinkgen.sweep.grid import check_settings
        from rethinkgen.sweep.measuring import run_measures

        assert self.config is not None
        assert self.launcher is not None
        check_settings(self.config)
        for override in OverridesParser.create().parse_overrides(arguments):
            if override.is_sweep_override():
                raise ValueError(
                    f"{override.input_line}: one value is needed; there is no grid here. Several steps are a "
                    "list, as in 'at=[0,end]'; for another value of a measure give the command again."
                )
        return run_measures(self.launcher, self.config, arguments, select)
