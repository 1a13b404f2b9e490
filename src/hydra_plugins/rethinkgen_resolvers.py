"""Registers the resolvers of ``conf/`` wherever Hydra composes: in ``train.py``, a notebook, or a launcher's worker.

Hydra imports every module of this namespace when it starts; workers of launchers do not run the script's top level.
"""

from rethinkgen.run import description  # noqa: F401
from rethinkgen.sweep import slurm_needs  # noqa: F401
