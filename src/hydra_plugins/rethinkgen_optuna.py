"""``hydra/sweeper=optuna``: Hydra's Optuna plugin, with a metric as its objective and a study that is run to its end.

What it does is in ``rethinkgen.sweep.tuning``, which is imported only where something is tuned, as Optuna is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from hydra.core.config_store import ConfigStore
from hydra_plugins.hydra_optuna_sweeper.config import OptunaSweeperConf
from hydra_plugins.hydra_optuna_sweeper.optuna_sweeper import OptunaSweeper


@dataclass
class TuningConf(OptunaSweeperConf):
    """The plugin's keys, some with other defaults, and two of ours."""

    _target_: str = "hydra_plugins.rethinkgen_optuna.TuningSweeper"
    objective: Any = "validation/accuracy_corrupted"
    direction: Any = None
    n_jobs: Any = "auto"
    max_failure_rate: float = 1.0
    retry_failed: bool = False
    grids: Any = None


# The import above has stored the plugin's own under this name, in whichever order Hydra finds the two.
ConfigStore.instance().store(group="hydra/sweeper", name="optuna", node=TuningConf, provider="rethinkgen", replace=True)


class TuningSweeper(OptunaSweeper):
    """Tunes what is given as an interval or as choices.

    Args:
        objective: the metric of ``result.json`` that is optimized; none that was measured on the test set.
        direction: ``minimize`` or ``maximize``; ``None``: as the metric says.
        storage: Optuna's address of a database; ``None``: ``study.db`` in the sweep's folder.
        study_name: ``None``: the sweep's name.
        n_trials: how many trials the study is to have, however many commands it takes.
        n_jobs: how many trials at a time; ``auto``: as many as the launcher has room for.
        max_failure_rate: share of the trials run at a time that may fail; above it the command stops.
        retry_failed: queue failed trials of earlier commands again.
        sampler, custom_search_space, params: as in Hydra's plugin.
    """

    def __init__(
        self, *, sampler: Any, objective: Any, retry_failed: bool, grids: Any = None, **plugin_keys: Any
    ) -> None:
        if grids:
            raise ValueError(
                "hydra/sweeper=optuna: this experiment lists its runs in hydra.sweeper.grids, which leaves nothing to "
                "look for. Add hydra.sweeper.grids=null and give the ranges to tune."
            )
        # Not the plugin's own, which makes the sampler before the study is known.
        from rethinkgen.sweep.tuning import Tuning

        self.sweeper = Tuning(sampler, objective, retry_failed=retry_failed, **plugin_keys)
