"""Tuning with Optuna: a study that lives in the sweep's folder and is run to its total of trials by the same command.

A trial is a run like any other, in a folder of its own. What came of it is read there, and so a trial whose launcher
was killed is taken up where its run stopped: its number and its parameters stay.
"""

from __future__ import annotations

import json
import math
import os
import signal
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import optuna
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.utils import JobReturn, JobStatus
from hydra.errors import HydraException
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext
from hydra_plugins.hydra_optuna_sweeper._impl import OptunaSweeperImpl, create_params_from_overrides
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from optuna.distributions import BaseDistribution, CategoricalDistribution, distribution_to_json
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState
from sqlalchemy.exc import SQLAlchemyError

from rethinkgen.checks import check_between, check_switch, check_whole
from rethinkgen.console import first_line, say, say_command
from rethinkgen.errors import LockIsHeldError, StoppedError
from rethinkgen.files import lock
from rethinkgen.run.build import build
from rethinkgen.run.command import command_here, command_line, install_command
from rethinkgen.run.description import Description
from rethinkgen.run.former_identity import former_identifying
from rethinkgen.run.identity import counted, flatten
from rethinkgen.run.ranks import wants_gpu
from rethinkgen.sweep.conclusion import tell_runs
from rethinkgen.sweep.grid import check_settings, launch, note_command, path_of_today
from rethinkgen.sweep.jobs import Job, brief
from rethinkgen.sweep.objective import KEY, check_objective
from rethinkgen.sweep.planning import Planner
from rethinkgen.sweep.resources import Resources, wanted_devices
from rethinkgen.words import how_many

SEED = 0
"""Of the sampler where none is given: the same command proposes the same trials."""
ROUNDS = 4
"""Where a launcher takes hundreds of jobs at a time (SLURM): how often a sampler sees results and proposes more."""
RETRY_OF = "retry of trial"
REASON = "reason"
OF_STORAGE = (SQLAlchemyError, StorageInternalError)
"""What Optuna raises where its database cannot be read or written."""
OF_CONTENT = (ValueError, KeyError, TypeError, AttributeError, RuntimeError)
"""And where it says what no study of Optuna's would."""


class Tuning(OptunaSweeperImpl):
    """Runs a study through the launcher, so many trials at a time, until it has its total; see ``TuningSweeper``."""

    config: DictConfig
    hydra_context: HydraContext
    launcher: Launcher
    storage: Any
    study_name: str
    n_jobs: Any

    def __init__(
        self, sampler: DictConfig, objective: Any, *, max_failure_rate: float, retry_failed: bool, **plugin_keys: Any
    ) -> None:
        # The plugin would assert what ``sweep`` says in words.
        super().__init__(sampler=None, max_failure_rate=1.0, **plugin_keys)
        self.max_failure_rate = max_failure_rate
        self.sampler_config = sampler
        self.objective_name = objective
        self.retry_failed = retry_failed

    def sweep(self, arguments: list[str]) -> None:
        """Run what is left of the study and tell its best; exit with 1 if no trial has a value.

        Raises:
            ValueError, hydra.errors.HydraException: something of the command is wrong; nothing was trained.
        """
        check_settings(self.config)
        self.objective = check_objective(self.objective_name, self.direction)
        check_whole("hydra.sweeper.n_trials", self.n_trials, 1)
        check_between("hydra.sweeper.max_failure_rate", self.max_failure_rate, 0, 1)
        self._read_search_space(arguments)
        self.planner = Planner(self.hydra_context, self.config)
        example, description = self._plan_example()
        self.batch_size = self._find_batch_size(example)
        self.folder = Path(self.config.hydra.sweep.dir)
        self.study_name = self.study_name or self.folder.name
        self.storage = self.storage or f"sqlite:///{self.folder.absolute()}/study.db"
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        self.folder.mkdir(parents=True, exist_ok=True)
        with held(self.folder / ".study.lock", self.study_name), readable(self.storage):
            self.study = self._open_study(self._question(description))
            note_command(self.folder)
            self._run()

    # Before anything is trained.

    def _read_search_space(self, arguments: list[str]) -> None:
        """Tell what is tuned from what is fixed; the command line goes before ``hydra.sweeper.params``."""
        given = {override.get_key_element() for override in OverridesParser.create().parse_overrides(arguments)}
        params = [f"{key!s}={value}" for key, value in (self.params or {}).items() if key not in given]
        self.space: dict[str, BaseDistribution]
        self.space, self.fixed, self.deletions = create_params_from_overrides([*params, *arguments])
        for name, values in self.space.items():
            # What all trials have, of a key that only the choices they tune have (rethinkgen.run.entry).
            if isinstance(values, CategoricalDistribution) and len(values.choices) == 1:
                self.fixed[name] = values.choices[0]
        for name in self.fixed:
            self.space.pop(name, None)
        if not self.space and not self.custom_search_space_extender:
            raise ValueError(
                "hydra/sweeper=optuna: there is nothing to tune. Give a range, for example "
                "'model.learning_rate=tag(log,interval(0.001,1))', or choices, for example optimizer=sgd,adam."
            )
        if str(self.sampler_config.get("_target_")).endswith(".CmaEsSampler") and find_spec("cmaes") is None:
            raise ValueError(
                f"hydra/sweeper/sampler=cmaes: it needs a package of that name: {install_command('cmaes')}"
            )
        if self._is_grid:
            self.grid = {name: self._to_grid_sampler_choices(values) for name, values in self.space.items()}
            self.n_trials = min(self.n_trials, math.prod(map(len, self.grid.values())))

    @property
    def _is_grid(self) -> bool:
        return str(self.sampler_config.get("_target_")).endswith(".GridSampler")

    def _plan_example(self) -> tuple[Job, Description]:
        """Plan one point of the search space and refuse what no trial could do."""
        values: dict[str, Any] = {name: _example(distribution) for name, distribution in self.space.items()}
        overrides = [f"{name}={value}" for name, value in (values | self.fixed).items()]
        job, description = self.planner.plan([*overrides, *self.deletions], 0)
        if self.objective.needs_validation and not description.config["data"]["validation"]:
            raise ValueError(
                f"{KEY}={self.objective.name} needs a held-out part of the training set: add data.validation=0.1. "
                "Nothing is ever chosen on the test set."
            )
        return job, description

    def _find_batch_size(self, example: Job) -> int:
        """Return how many trials are run at a time: a sampler learns from all of them together."""
        if self.n_jobs != "auto":
            return check_whole("hydra.sweeper.n_jobs", self.n_jobs, 1)
        launcher = self.config.hydra.launcher
        if "jobs_per_gpu" in launcher:
            uses_gpus = wants_gpu(example.trainer)
            resources = Resources(launcher.n_jobs, launcher.jobs_per_gpu, self.n_trials, uses_gpus=uses_gpus)
            return max(1, resources.num_slots // wanted_devices(example.trainer, len(resources.gpus)))
        if "array_parallelism" in launcher:
            return max(1, min(int(launcher.array_parallelism), self.n_trials // ROUNDS))
        return 1

    def _question(self, description: Description) -> dict[str, Any]:
        """Return all that must be the same for the values of two trials to be comparable."""
        data = {"data.fingerprint": description.fingerprint}
        self._former_questions = [
            self._about(flatten(former_identifying(description.config, description.fingerprint))),
            self._about(flatten(counted(description.config)) | data),  # when files counted by their paths
        ]
        return self._about(flatten(counted(description.config, description.contents)) | data)

    def _about(self, config: dict[str, Any]) -> dict[str, Any]:
        tuned = {name.lstrip("+") for name in self.space}
        question = {
            "objective": self.objective.name,
            "direction": self.objective.direction,
            **{f"range of {name}": distribution_to_json(values) for name, values in self.space.items()},
            **{key: value for key, value in config.items() if key not in tuned},
        }
        plain: dict[str, Any] = json.loads(json.dumps(question))
        return plain

    def _open_study(self, question: dict[str, Any]) -> Study:
        """Return the study that asks this question, made where there is none.

        Raises:
            ValueError: the study of that name asks another one, and has answers.
        """
        study = self._load_study()
        asked = study.user_attrs.get("question")
        if (asked is None and not study.trials) or asked in self._former_questions:
            study.set_user_attr("question", question)
        elif asked != question and any(trial.state == TrialState.COMPLETE for trial in study.trials):
            raise ValueError(self._what_differs(study, asked or {}, question))
        elif asked != question:
            # Nothing is lost: no trial has a value, and their runs stay.
            optuna.delete_study(study_name=self.study_name, storage=self.storage)
            study = self._load_study()
            study.set_user_attr("question", question)
        return study

    def _load_study(self) -> Study:
        sampler = self._make_sampler(0)
        with readable(self.storage, *OF_CONTENT):
            study = optuna.create_study(
                study_name=self.study_name,
                storage=self.storage,
                sampler=sampler,
                direction=self.objective.direction,
                load_if_exists=True,
            )
            _ = study.user_attrs, study.get_trials(deepcopy=False)  # all that is read later
        return study

    def _what_differs(self, study: Study, theirs: dict[str, Any], ours: dict[str, Any]) -> str:
        differing = [
            f"  {key}: {theirs.get(key, '(none)')} there, {ours.get(key, '(none)')} here"
            for key in ours.keys() | theirs.keys()
            if ours.get(key, "(none)") != theirs.get(key, "(none)")
        ]
        # What is asked first says most; a choice among groups changes many keys of the config.
        ranges = [line for line in differing if line.startswith(("  range of", "  objective", "  direction"))]
        return "\n".join(
            [
                f"hydra.sweeper.study_name={self.study_name}: the {len(study.trials)} trials of this study answer "
                "another question, and theirs and new ones cannot be compared. What differs:",
                *sorted(ranges or differing),
                "Give this one a name: hydra.sweeper.study_name=NAME (runs that both need are trained once) or "
                "sweep=NAME (a folder of its own).",
            ]
        )

    def _make_sampler(self, num_trials: int) -> Any:
        """Return a sampler whose draws depend on its seed and on how many trials there are.

        With the seed alone, the second command of a study would propose the first one's trials again.
        """
        config: Any = OmegaConf.to_container(self.sampler_config, resolve=True)
        if "seed" in config:
            seed = SEED if config["seed"] is None else config["seed"]
            # These two tell from their seed what was proposed before.
            keeps_seed = self._is_grid or config["_target_"].endswith(".QMCSampler")
            config["seed"] = seed if keeps_seed else seed + num_trials
        with warnings.catch_warnings():
            # That its interface may change is nothing a user could do anything about, at each round.
            warnings.simplefilter("ignore", ExperimentalWarning)
            sampler = build(config, "hydra.sweeper.sampler")
        return sampler(self.grid) if self._is_grid else sampler

    # Running.

    def _run(self) -> None:
        self.jobs: dict[int, Job] = {
            trial.number: self._known_job(trial) for trial in self._trials() if "folder" in trial.user_attrs
        }
        if self.retry_failed and check_switch("hydra.sweeper.retry_failed", self.retry_failed):
            self._queue_failed()
        # Left by a command that was stopped. Nobody else is at them: we hold the study's lock.
        unfinished = [trial for trial in self._trials() if trial.state == TrialState.RUNNING]
        self._tell_beginning(len(unfinished))
        self.lacks_objective: str | None = None
        stopped_by: int | None = None
        while stopped_by is None and (trials := self._next_trials(unfinished)):
            unfinished = unfinished[len(trials) :]
            stopped_by, num_failed = self._run_batch(trials)
            if self.lacks_objective is not None and self._best() is None:
                raise ValueError(f"{KEY}={self.objective.name}: {self.lacks_objective}")
            if num_failed / len(trials) > self.max_failure_rate:
                say(
                    f"{num_failed} of {len(trials)} trials at a time failed, which is more than "
                    f"hydra.sweeper.max_failure_rate={self.max_failure_rate:g} allows.",
                    style="red",
                )
                self._conclude(stopped_by)
                sys.exit(1)
        self._conclude(stopped_by)
        if stopped_by is not None:
            sys.exit(128 + stopped_by)
        if self._best() is None:
            sys.exit(1)

    def _trials(self) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False)

    def _counted(self) -> list[FrozenTrial]:
        """Return the trials that count towards the total: those begun, but for failed ones that were queued again."""
        trials = self._trials()
        retried = {trial.user_attrs.get(RETRY_OF) for trial in trials}
        return [trial for trial in trials if trial.state != TrialState.WAITING and trial.number not in retried]

    def _next_trials(self, unfinished: Sequence[FrozenTrial]) -> list[Trial]:
        """Return the trials to run next: those left unfinished before any new one, so that these know their values."""
        left = self.n_trials - len(self._counted())
        self.study.sampler = self._make_sampler(len(self._trials()))
        if unfinished:
            num_taken = min(self.batch_size, len(unfinished), left + len(unfinished))
            return [Trial(self.study, trial._trial_id) for trial in unfinished[: max(0, num_taken)]]
        return [self.study.ask() for _ in range(min(self.batch_size, left))]

    def _run_batch(self, trials: Sequence[Trial]) -> tuple[int | None, int]:
        """Run trials and record what came of them; return the signal that stopped them, and how many failed."""
        every_overrides = self._configure_trials(list(trials), self.space, self.fixed, self.deletions)
        num_failed = 0
        batch: list[tuple[Trial, Job]] = []
        for trial, overrides in zip(trials, every_overrides, strict=True):
            try:
                job, description = self.planner.plan(overrides, trial.number)
                job.path = path_of_today(description, job.path)
            except (ValueError, HydraException, OmegaConfBaseException) as error:
                self._tell_failed(trial, " ".join(str(error).split()))
                num_failed += 1
                continue
            trial.set_user_attr("overrides", job.overrides)
            trial.set_user_attr("folder", os.path.relpath(job.path, self.folder))
            job.was_done = job.is_finished()
            self.jobs[trial.number] = job
            batch.append((trial, job))
        # Two trials of the same parameters are one run.
        missing = list({job.path: job for _, job in batch if not job.was_done}.values())
        before = {job.path: job.folder.read_status() for job in missing}
        paths = [job.path for _, job in batch]
        returns: dict[Path, JobReturn] = {}
        stopped_by: int | None = None
        try:
            if missing:
                in_order = launch(self.launcher, missing, list(self.jobs.values()))
                returns = dict(zip(before, in_order, strict=True))
        except (StoppedError, KeyboardInterrupt) as stop:
            stopped_by = getattr(stop, "number", int(signal.SIGINT))
        for path, (trial, job) in zip(paths, batch, strict=True):
            if path not in returns and path in before and job.folder.read_status() == before[path]:
                continue  # stopped before it began: what its folder says is of an earlier command
            job.find_folder()
            trial.set_user_attr("folder", os.path.relpath(job.path, self.folder))
            num_failed += not self._tell(trial, job, returns.get(path))
        return stopped_by, num_failed

    def _tell(self, trial: Trial, job: Job, returned: JobReturn | None) -> bool:
        """Tell the study what came of a trial; return whether it has not failed.

        Its run's folder says it, whichever launcher ran it; a job that never got there is known by what it returned.
        """
        outcome = job.outcome()
        if outcome.state == "done" and outcome.result is not None:
            value = outcome.result["metrics"].get(self.objective.name)
            if value is None:
                reason = self.objective.why_none(outcome.result)
                if self.objective.name not in outcome.result["metrics"]:
                    self.lacks_objective = reason
                self._tell_failed(trial, reason)
                return False
            self._tell_state(trial, TrialState.COMPLETE, float(value))
            self._show(trial, f"{self.objective.name} {value:g}")
            return True
        if outcome.state == "failed":
            self._tell_failed(trial, outcome.reason)
            return False
        if outcome.state == "missing" and returned is not None and returned.status == JobStatus.FAILED:
            self._tell_failed(trial, " ".join(str(returned._return_value).split()))
            return False
        self._show(trial, f"unfinished ({outcome.reason or outcome.state})")
        return True

    def _tell_failed(self, trial: Trial, reason: str) -> None:
        trial.set_user_attr(REASON, reason)
        self._tell_state(trial, TrialState.FAIL, None)
        self._show(trial, f"failed: {reason}")

    def _tell_state(self, trial: Trial, state: TrialState, value: float | None) -> None:
        try:
            self.study.tell(trial, value, state)
        except (RuntimeError, KeyError) as error:
            # The grid's sampler asks to stop, which is meant for another way to run a study, and does not expect
            # queued trials. What is told was stored before.
            if not self._is_grid or not ("Study.stop" in str(error) or "grid_id" in str(error)):
                raise

    def _queue_failed(self) -> None:
        """Have failed trials run once more; those whose run has ended well would fail for the same reason."""
        for trial in self._counted():
            job = self.jobs.get(trial.number)
            if trial.state == TrialState.FAIL and (job is None or job.outcome().state != "done"):
                self.study.enqueue_trial(trial.params, user_attrs={RETRY_OF: trial.number})

    def _known_job(self, trial: FrozenTrial) -> Job:
        path = Path(os.path.normpath(self.folder.absolute() / trial.user_attrs["folder"]))
        job = Job(list(trial.user_attrs["overrides"]), path, was_done=trial.state.is_finished())
        job.find_folder()
        return job

    # Telling.

    def _tell_beginning(self, num_unfinished: int) -> None:
        num_finished = len(self._counted()) - num_unfinished
        if num_finished == 0 and num_unfinished == 0:
            return
        verb = "was" if num_finished == 1 else "were"
        line = f"{num_finished} of {how_many(self.n_trials, 'trial')} {verb} finished before"
        if num_finished >= self.n_trials:
            line += ": nothing is left to train. hydra.sweeper.n_trials=N with a larger number goes on"
        elif num_unfinished:
            line += f", {num_unfinished} begun"
        say(f"{line}.")

    def _show(self, trial: Trial, what: str) -> None:
        params = " ".join(f"{name.lstrip('+')}={brief(str(value))}" for name, value in trial.params.items())
        line = f"trial {trial.number + 1}: {params}: {what}"
        say(line)

    def _best(self) -> FrozenTrial | None:
        finished = [trial for trial in self._trials() if trial.state == TrialState.COMPLETE]
        return self.study.best_trial if finished else None

    def _conclude(self, stopped_by: int | None) -> None:
        """Show all trials and the best one, and say what to do next."""
        trials = self._counted()
        shown = [trial for trial in trials if trial.number in self.jobs]
        values = [_value_or_why(trial) for trial in shown]
        tell_runs([self.folder], [self.jobs[trial.number] for trial in shown], columns={"objective": values})
        num_failed = sum(trial.state == TrialState.FAIL for trial in trials)
        num_left = max(0, self.n_trials - sum(trial.state.is_finished() for trial in trials))
        best = self._best()
        if best is not None:
            self._tell_best(best, len(trials), num_failed)
        else:
            say(f"No trial has a value of {self.objective.name}.", style="red")
        if num_failed:
            say(
                f"{num_failed} failed {'trials count' if num_failed > 1 else 'trial counts'} towards the "
                f"{self.n_trials}; hydra.sweeper.retry_failed=true runs again those that were ended by something else "
                "than their parameters."
            )
        if num_left or stopped_by is not None:
            say_command(f"The same command goes on with the {how_many(num_left, 'trial')} left:", command_line())

    def _tell_best(self, best: FrozenTrial, num_trials: int, num_failed: int) -> None:
        failed = f" ({num_failed} failed)" if num_failed else ""
        trials = how_many(num_trials, "trial")
        say(f"Best of {trials}{failed}: {self.objective.name} {best.value:g}, trial {best.number + 1}:")
        for name, value in best.params.items():
            say(f"  {name.lstrip('+')}={value}")
        why, command = self._next_command(self.jobs[best.number])
        say_command(why, command)
        results = {"name": "optuna", "best_params": best.params, "best_value": best.value}
        OmegaConf.save(OmegaConf.create(results), self.folder / "optimization_results.yaml")

    def _next_command(self, job: Job) -> tuple[str, str]:
        """Return the command of a trial; where examples were held out to choose it, with them to train on."""
        overrides, why = job.overrides, "It again:"
        config = self.planner.plan(job.overrides, 0)[1].config
        if self.objective.needs_validation and config["regularizer"]["early_stopping"] is None:
            overrides = [item for item in overrides if not item.lstrip("+").startswith("data.validation=")]
            overrides, why = [*overrides, "data.validation=0"], "The same, trained on the whole training set:"
        return why, command_here(overrides)


@contextmanager
def held(path: Path, study_name: str) -> Iterator[None]:
    """Hold a study against any other command; the system lets go when this process dies.

    Raises:
        ValueError: another command is at it.
    """
    with ExitStack() as stack:
        try:
            stack.enter_context(lock(path, patience=0))
        except LockIsHeldError:
            raise ValueError(
                f"sweep={study_name}: another command is running trials of a study in {path.parent}. Wait for it; the "
                "same command then goes on. Or name another folder: sweep=NAME."
            ) from None
        yield


@contextmanager
def readable(storage: Any, *kinds: type[Exception]) -> Iterator[None]:
    """Say of a study's file that is damaged, or can no longer be written, what to do; ``kinds`` say so too.

    Raises:
        ValueError: the file is no study, or the system refuses to read or write it.
    """
    advice = (
        f"hydra.sweeper.storage={storage}: the study cannot be read or written ({{}}). Its trials' runs stay: where "
        "the file is damaged, move it away: the same command begins the study anew and trains no finished run again."
    )
    file = Path(str(storage).removeprefix("sqlite:///"))
    if str(storage).startswith("sqlite:///") and file.exists() and not file.is_file():
        raise ValueError(advice.format("it is no regular file"))
    try:
        yield
    except Exception as error:
        if not isinstance(error, (*OF_STORAGE, *kinds)):
            raise
        cause = error.__cause__ if isinstance(error, StorageInternalError) and error.__cause__ else error
        raise ValueError(advice.format(first_line(str(getattr(cause, "orig", None) or cause)))) from error


def _example(distribution: BaseDistribution) -> Any:
    return distribution.choices[0] if isinstance(distribution, CategoricalDistribution) else distribution.low  # type: ignore[attr-defined]


def _value_or_why(trial: FrozenTrial) -> str:
    if trial.state == TrialState.COMPLETE:
        return f"{trial.value:g}"
    if trial.state == TrialState.FAIL:
        return "failed"
    return "unfinished"
