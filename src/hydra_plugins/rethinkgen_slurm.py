"""``hydra/launcher=slurm``: jobs of a cluster, by submitit. What it does is in ``rethinkgen.sweep``."""

from __future__ import annotations

import copy
import os
import shlex
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, redirect_stderr
from io import StringIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.singleton import Singleton
from hydra.core.utils import JobReturn, run_job, setup_globals
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf

from rethinkgen.run import own_code, trial
from rethinkgen.run.command import install_command, options_of_configs, program, typed
from rethinkgen.sweep.jobs import Job

if TYPE_CHECKING:
    SubmititLauncher = Launcher
else:
    try:
        from hydra_plugins.hydra_submitit_launcher.submitit_launcher import SlurmLauncher as SubmititLauncher
    except ImportError:  # told in setup(), to those who ask for it
        SubmititLauncher = Launcher

PYTHON = f"{shlex.quote(sys.executable)} -P"
"""What lies in the folder that a sweep was submitted from takes the place of no module."""
SIGNAL_PROOF = """sh -c 'trap "" TERM {signal}; exec "$0" "$@"' {python}"""
"""Until submitit obeys them, the signals that SLURM sends before a preemption would end a job as failed."""
OF_ANY_EXECUTOR = ("name", "nodes", "tasks_per_node", "cpus_per_task", "gpus_per_node", "mem_gb", "timeout_min")
"""What submitit knows without ``slurm_`` before it; and ``stderr_to_stdout``."""


class SlurmLauncher(SubmititLauncher):
    """Has SLURM run the jobs of a sweep: one array for those that ask for the same.

    It takes submitit's values as they stand in ``conf/hydra/launcher/slurm.yaml``. Submitting and requeueing are
    submitit's; how a job ended is read from its folder, where submitit would wait for its pickle and lose all others
    with the first that is cancelled.
    """

    def __init__(self, **params: Any) -> None:
        self.params = params

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what jobs need.

        Raises:
            ValueError: there is no submitit or no SLURM.
        """
        if SubmititLauncher is Launcher:
            raise ValueError(f"hydra/launcher=slurm needs submitit: {install_command(extra='slurm')}")
        if shutil.which("sbatch") is None:
            raise ValueError(
                "hydra/launcher=slurm: there is no sbatch on this machine. Start from one of the cluster's, or leave "
                "hydra/launcher out to use this machine."
            )
        self.hydra_context = hydra_context
        self.opened = own_code.opened()
        self.program, self.options_of_configs = program(), options_of_configs()
        self.task_function = task_function
        self.config = config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Run jobs for a sweeper that knows them by their overrides only."""
        from rethinkgen.sweep.grid import plan_all

        jobs = plan_all(self.hydra_context, self.config, job_overrides, initial_job_idx)
        return self.launch_jobs(jobs, jobs)

    def check_jobs(self, jobs: Sequence[Job]) -> None:
        """Refuse what no cluster could run.

        Raises:
            ValueError: a value is not allowed, or these are trial runs.
        """
        from rethinkgen.checks import check_whole

        if trial.is_on():
            raise ValueError(
                "debug=true: a trial run lies in a temporary folder of this machine, which no other can reach. Leave "
                "hydra/launcher out."
            )
        # SLURM takes 0 for no limit, submitit does not.
        check_whole("hydra.launcher.timeout_min", self.params["timeout_min"], 1)

    def launch_jobs(
        self, jobs: Sequence[Job], whole_sweep: Sequence[Job], watch: Callable[[Any], None] | None = None
    ) -> Sequence[JobReturn]:
        """Have planned ``jobs``, which are what is missing of ``whole_sweep``, run, and watch them.

        ``watch`` is called with the progress, in place of the view of a sweep.

        Raises:
            StoppedError: a signal ended the watch; the jobs go on.
            SlurmError: SLURM does not answer, or takes none of them.
        """
        from rethinkgen.console import say
        from rethinkgen.errors import StoppedError
        from rethinkgen.sweep.grid import job_returns
        from rethinkgen.sweep.slurm import SlurmSweep
        from rethinkgen.sweep.view import watching

        self.check_jobs(jobs)
        sweep = SlurmSweep(Path(self.config.hydra.sweep.dir).absolute(), self.send)
        lines = sweep.submit(jobs)
        if sweep.refusals and not sweep.alive and not sweep.progress.elsewhere:
            raise sweep.refusals[0]
        for line in [*lines, *map(str, sweep.refusals)]:
            say(line)
        with nullcontext(watch) if watch else watching(whole_sweep, len(jobs)) as shows:
            sweep.watch = shows
            progress = sweep.run()
        if sweep.stopped_by is not None:
            if sweep.alive:
                say(sweep.farewell())
            raise StoppedError(sweep.stopped_by)
        return job_returns(jobs, progress.ended)

    def send(self, jobs: Sequence[Job], name: str, values: Mapping[str, Any]) -> list[str]:
        """Submit ``jobs`` as one array with the launcher's ``values``, and return their ids.

        Raises:
            SlurmError: SLURM or submitit refuses.
        """
        import submitit
        from submitit.core.utils import FailedJobError, FailedSubmissionError

        from rethinkgen.errors import SlurmError
        from rethinkgen.run.entry import as_the_user_set_it

        params = {key: value for key, value in values.items() if not key.startswith("_")} | {"name": name}
        python = SIGNAL_PROOF.format(
            signal=submitit.JobEnvironment.USR_SIG, python=params.pop("python", None) or PYTHON
        )
        if params["cpus_per_task"] is not None:
            # srun no longer takes it from sbatch (SLURM 22.05 and later).
            params["srun_args"] = [*(params["srun_args"] or []), f"--cpus-per-task={params['cpus_per_task']}"]
        shared = (*OF_ANY_EXECUTOR, "stderr_to_stdout")
        states = [Singleton.get_state()] * len(jobs)
        try:
            executor = submitit.AutoExecutor(
                folder=params.pop("submitit_folder"),
                cluster="slurm",
                slurm_max_num_timeout=params.pop("max_num_timeout"),
                slurm_python=python,
            )
            executor.update_parameters(**{key if key in shared else f"slurm_{key}": params[key] for key in params})
            # submitit prints what sbatch says, and raises it too.
            with outside_of_jobs(), as_the_user_set_it(), redirect_stderr(StringIO()):
                sent = executor.map_array(self, list(map(_WhenPickled, jobs)), [str(job.path) for job in jobs], states)
        except (FailedJobError, FailedSubmissionError) as error:
            raise SlurmError(f"SLURM refuses the jobs: {_sbatchs_words(str(error))}") from error
        except (NameError, TypeError, ValueError) as error:
            raise SlurmError(f"hydra.launcher: {str(error).splitlines()[0]}") from error
        return [str(job.job_id) for job in sent]

    def __call__(self, config: DictConfig, path: str, singleton_state: dict[Any, Any]) -> None:
        """Run one job inside SLURM, as it was composed when it was submitted: ``conf/`` may have changed since."""
        from rethinkgen.run.folder import RunFolder
        from rethinkgen.sweep.slurm_task import run_in_task

        Singleton.set_state(singleton_state)
        setup_globals()
        # What is requeued is this call, with these very arguments: Hydra changes the config and makes it read-only.
        config = copy.deepcopy(config)
        OmegaConf.update(config, "hydra.sweep", {"dir": str(Path(path).parent), "subdir": Path(path).name})

        def run() -> JobReturn:
            return run_job(
                hydra_context=self.hydra_context,
                task_function=self.task_function,
                config=config,
                job_dir_key="hydra.sweep.dir",
                job_subdir_key="hydra.sweep.subdir",
            )

        # Not every cluster hands the environment on.
        with typed(self.program, self.options_of_configs), own_code.opening(self.opened):
            run_in_task(run, RunFolder(path))


class _WhenPickled:
    """The config of a job, made when it is written for SLURM: those of an array are not all in memory at a time."""

    def __init__(self, job: Job) -> None:
        self.job = job

    def __reduce__(self) -> tuple[Any, ...]:
        assert self.job.cell is not None
        return _as_it_was, (self.job.cell.compose(),)


def _as_it_was(config: DictConfig) -> DictConfig:
    return config


@contextmanager
def outside_of_jobs() -> Iterator[None]:
    """Hide from new jobs that this process itself may be one: they would take its CPUs and memory for theirs."""
    names = ("SLURM_", "SLURMD_", "SRUN_", "SUBMITIT_")
    inherited = {
        name: value for name, value in os.environ.items() if name.startswith(names) and name not in ("SLURM_CONF",)
    }
    is_job = "SLURM_JOB_ID" in inherited
    for name in inherited if is_job else ():
        del os.environ[name]
    try:
        yield
    finally:
        if is_job:
            os.environ.update(inherited)


def _sbatchs_words(text: str) -> str:
    """Return what sbatch said, without its own name and that of its errors."""
    lines = [line.removeprefix("sbatch: error:").strip() for line in text.splitlines() if "sbatch: error:" in line]
    return "; ".join(dict.fromkeys(lines)) or text.strip()
