"""Look into finished runs: measure their networks at any step, several runs side by side.

python measure.py multirun/runs 'measure=[fit]' 'at=[0,1ep,end]'
python measure.py multirun/runs 'measure=[margins]' where=data.corruption=random_labels measure.margins.num_examples=500
python measure.py multirun/zhang2017-label_corruption 'measure=[fit]' hydra/launcher=slurm
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import hydra
from omegaconf import DictConfig

from rethinkgen.run.stint import measure_stint
from rethinkgen.sweep.measuring import command_line


@hydra.main(config_path="conf", config_name="measure")
def main(config: DictConfig) -> dict[str, Any]:
    """Measure the share of one process in the runs that the command chose."""
    return measure_stint(config)


if __name__ == "__main__":
    command_line(main, groups=Path(__file__).parent / "conf")
