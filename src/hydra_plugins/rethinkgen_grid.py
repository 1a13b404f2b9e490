"""``hydra/sweeper=grid``: every combination of comma-separated values, of which finished ones are skipped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser


@dataclass
class GridConf:
    """What can be set under ``hydra.sweeper``."""

    _target_: str = "hydra_plugins.rethinkgen_grid.GridSweeper"
    params: dict[str, Any] | None = None


ConfigStore.instance().store(group="hydra/sweeper", name="grid", node=GridConf, provider="rethinkgen")


class GridSweeper(BasicSweeper):
    """Expands as Hydra's own, skips what is finished, launches the rest, and tells what was seen across all of it.

    Args:
        params: overrides that an experiment brings; those of the command line go before.
    """

    def __init__(self, params: dict[str, str] | None = None) -> None:
        super().__init__(max_batch_size=None, params=params)

    def sweep(self, arguments: list[str]) -> Any:
        """Run the grid and exit with 1 if a run failed."""
        from rethinkgen.sweep.grid import run_grid

        assert self.config is not None
        assert self.launcher is not None
        assert self.hydra_context is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        overrides = parser.parse_overrides([*self._parse_config(), *arguments])
        for override in overrides:
            if override.is_interval_sweep():
                raise ValueError(
                    f"{override.input_line}: a grid needs values, for example {override.get_key_element()}=0.01,0.1. "
                    "To have the best of a range looked for: hydra/sweeper=optuna."
                )
        cells = self.split_arguments(overrides, None)[0]
        return run_grid(self.launcher, self.hydra_context, self.config, cells)
