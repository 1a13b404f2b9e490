"""``hydra/sweeper=grid``: every combination of comma-separated values, of which finished ones are skipped."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.config_store import ConfigStore
from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import OmegaConf


@dataclass
class GridConf:
    """What can be set under ``hydra.sweeper``."""

    _target_: str = "hydra_plugins.rethinkgen_grid.GridSweeper"
    params: dict[str, Any] | None = None
    grids: list[dict[str, Any]] | None = None


ConfigStore.instance().store(group="hydra/sweeper", name="grid", node=GridConf, provider="rethinkgen")


def _select(*asked: Any) -> Any:
    from rethinkgen.run.where import select  # of no use to most sweeps

    return select(*asked)


class GridSweeper(BasicSweeper):
    """Expands as Hydra's own, skips what is finished, launches the rest, and tells what was seen across all of it.

    Args:
        params: overrides that an experiment brings; those of the command line go before.
        grids: several grids, each crossed with ``params``, where the runs of an experiment are no single grid. Of these
            the command line chooses: ``model=alexnet`` leaves the runs with that model.
    """

    def __init__(self, params: dict[str, str] | None = None, grids: list[dict[str, str]] | None = None) -> None:
        super().__init__(max_batch_size=None, params=params)
        self.grids = grids or []

    def sweep(self, arguments: list[str]) -> Any:
        """Run the grid and exit with 1 if a run failed."""
        from rethinkgen.sweep.grid import check_settings, run_grid

        assert self.config is not None
        assert self.launcher is not None
        assert self.hydra_context is not None
        check_settings(self.config)
        return run_grid(self.launcher, self.hydra_context, self.config, self.cells(arguments), _select)

    def cells(self, arguments: list[str]) -> list[list[str]]:
        """Return the overrides of each run.

        Raises:
            ValueError: an argument is a range, or leaves no run of the experiment's.
        """
        from rethinkgen.sweep.grid import chosen_cells

        assert self.hydra_context is not None
        parser = OverridesParser.create(config_loader=self.hydra_context.config_loader)
        in_common = parser.parse_overrides([*self._parse_config(), *arguments])
        grids = [parser.parse_overrides([f"{key}={value}" for key, value in grid.items()]) for grid in self.grids]
        for override in itertools.chain(in_common, *grids):
            if override.is_interval_sweep():
                raise ValueError(
                    f"{override.input_line}: a grid needs values, for example {override.get_key_element()}=0.01,0.1. "
                    "To have the best of a range looked for: hydra/sweeper=optuna."
                )
        self._check_data_is_known(arguments)
        cells = self.split_arguments(in_common, None)[0]
        if grids:
            cells = chosen_cells(cells, [cell for grid in grids for cell in self.split_arguments(grid, None)[0]])
        return cells

    def _check_data_is_known(self, arguments: list[str]) -> None:
        """Refuse several data sets for an experiment whose runs depend on them: its values are resolved only once."""
        several = [argument for argument in arguments if argument.startswith("data=") and "," in argument]
        assert self.config is not None
        own = OmegaConf.to_container(self.config.hydra.sweeper, resolve=False)
        if several and "${for_data" in str(own):
            raise ValueError(
                f"{several[0]}: this experiment has other values for other data. Give one data set a command."
            )
