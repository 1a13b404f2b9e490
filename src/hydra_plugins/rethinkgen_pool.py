"""``hydra/launcher=pool``: many jobs on this machine, a process each. What it does is in ``rethinkgen.sweep``."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hydra.core.config_store import ConfigStore
from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig

from rethinkgen.sweep.jobs import Job

if TYPE_CHECKING:
    from rethinkgen.sweep.resources import Resources

Watch = Callable[[Any], None]


@dataclass
class PoolConf:
    """What can be set under ``hydra.launcher``."""

    _target_: str = "hydra_plugins.rethinkgen_pool.PoolLauncher"
    n_jobs: Any = "auto"
    jobs_per_gpu: int = 1
    timeout_min: float | None = None


ConfigStore.instance().store(group="hydra/launcher", name="pool", node=PoolConf, provider="rethinkgen")


class PoolLauncher(Launcher):
    """Runs the jobs of a sweep side by side; none can take another down.

    Args:
        n_jobs: how many at a time; ``auto``: as many as GPUs have room for, or on CPUs one a core.
        jobs_per_gpu: how many share a GPU.
        timeout_min: minutes that a job may take, else it is stopped and failed; ``None``: any.
    """

    def __init__(self, n_jobs: int | str, jobs_per_gpu: int, timeout_min: float | None) -> None:
        self.n_jobs = n_jobs
        self.jobs_per_gpu = jobs_per_gpu
        self.timeout_min = timeout_min
        self.has_advised = False

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what jobs need."""
        self.hydra_context = hydra_context
        self.task_function = task_function
        self.config = config

    def warm_up(self) -> None:
        """Begin to import torch and Lightning, while the sweep is still being planned."""
        from rethinkgen.sweep.pool import ForkServer

        ForkServer()

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run jobs for a sweeper that knows them by their overrides only."""
        from rethinkgen.sweep.grid import plan_all

        jobs = plan_all(self.hydra_context, self.config, job_overrides, initial_job_idx)
        return self.launch_jobs(jobs, jobs)

    def check_jobs(self, jobs: Sequence[Job]) -> None:
        """Refuse what is no setting of this launcher.

        Raises:
            ValueError: a value is not allowed.
        """
        self._resources(jobs)

    def _resources(self, jobs: Sequence[Job]) -> Resources:
        from rethinkgen.checks import check_positive
        from rethinkgen.run.ranks import wants_gpu
        from rethinkgen.sweep.resources import Resources

        if self.timeout_min is not None:
            check_positive("hydra.launcher.timeout_min", self.timeout_min)
        uses_gpus = any(wants_gpu(job.trainer) for job in jobs)
        return Resources(self.n_jobs, self.jobs_per_gpu, len(jobs), uses_gpus=uses_gpus)

    def launch_jobs(
        self, jobs: Sequence[Job], whole_sweep: Sequence[Job], watch: Watch | None = None
    ) -> Sequence[JobReturn]:
        """Run planned ``jobs``, which are what is missing of ``whole_sweep``.

        ``watch`` is called several times a second with the progress, in place of the view of a sweep.

        Raises:
            StoppedError: a signal stopped the sweep; each job has saved.
        """
        from rethinkgen.console import say
        from rethinkgen.errors import StoppedError
        from rethinkgen.machine import SAFE_PATH
        from rethinkgen.run import own_code, precision, trial
        from rethinkgen.run.command import options_of_configs, program
        from rethinkgen.run.ranks import wants_gpu
        from rethinkgen.sweep.child import Command, run_in_child
        from rethinkgen.sweep.grid import job_returns
        from rethinkgen.sweep.pool import Pool, make_process
        from rethinkgen.sweep.resources import Share
        from rethinkgen.sweep.view import watching

        resources = self._resources(jobs)
        needs = {id(job.cell.needs): job.cell.needs for job in jobs if job.cell}.values()
        on_cpu = [each for each in needs if not (resources.gpus and wants_gpu(each.trainer))]
        if not self.has_advised and (line := next(filter(None, map(precision.advice, on_cpu)), None)) is not None:
            self.has_advised = True  # a study launches many times
            say(line, style="dim")
        hydra_overrides = [item for item in self.config.hydra.overrides.hydra if not item.startswith("hydra.mode=")]

        def start(job: Job, share: Share, words: Any) -> Any:
            assert job.cell is not None
            command = Command(
                config=job.cell.compose(),
                hydra_context=self.hydra_context,
                singletons=Singleton.get_state()["instances"],
                task_module=self.task_function.__module__,
                task_name=self.task_function.__name__,
                program=program(),
                arguments=[*options_of_configs(), *hydra_overrides, *job.overrides],
                folder=str(job.path),
                share=share,
                opened=own_code.opened(),
                has_safe_path=SAFE_PATH in os.environ,
                trial=os.environ.get(trial.VARIABLE),
            )
            return make_process(run_in_child, command, words)

        with nullcontext(watch) if watch else watching(whole_sweep, len(jobs)) as shows:
            pool = Pool(resources, start, timeout_min=self.timeout_min, watch=shows)
            progress = pool.run(jobs)
        if pool.stopped_by is not None:
            raise StoppedError(pool.stopped_by)
        return job_returns(jobs, progress.ended)
