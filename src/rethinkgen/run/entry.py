"""The door of ``train.py``: find the run's folder, skip it if finished, train it otherwise, and end well in any case.

Light to import: torch and Lightning come only once something must be trained.
"""

from __future__ import annotations

import functools
import logging
import os
import shlex
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.errors import MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException
from rich.markup import escape

from rethinkgen.checks import check_switch
from rethinkgen.console import say, say_error, stderr, stdout
from rethinkgen.errors import (
    Interrupted,
    RunFolderError,
    RunIsHeldError,
    exit_code_of,
    is_full_disk,
    is_outside_trouble,
    is_users_mistake,
    reason_of,
)
from rethinkgen.run import identity
from rethinkgen.run.folder import RunFolder, now
from rethinkgen.run.ranks import Ranks, follow_slurm, is_follower, leading
from rethinkgen.run.screen import tell_failure, tell_result, tell_skipped

if TYPE_CHECKING:
    from rethinkgen.run.training import Training

log = logging.getLogger(__name__)

_wants_tracebacks = False
"""Whether the user set ``HYDRA_FULL_ERROR``; ``command_line`` sets it for everybody."""


def command_line(main: Callable[[], Any], groups: Path) -> None:
    """Run Hydra's ``main``; where no run comes of a command, say briefly why.

    ``groups`` is the folder of the config groups, whose choices are listed where Hydra does not.
    """
    # Hydra would print the traceback of all but its own errors. Whoever sets the variable wants them all.
    global _wants_tracebacks
    wants_tracebacks = _wants_tracebacks = "HYDRA_FULL_ERROR" in os.environ
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    try:
        main()
    except KeyboardInterrupt as error:
        sys.exit(exit_code_of(error))
    except Exception as error:
        cause = _origin(error)
        if wants_tracebacks or not is_users_mistake(cause):
            raise
        say_error(f"{cause}{_more(error, groups)}")
        sys.exit(exit_code_of(cause))
    finally:
        if not wants_tracebacks:
            os.environ.pop("HYDRA_FULL_ERROR", None)


@contextmanager
def as_the_user_set_it() -> Iterator[None]:
    """For a while, the environment is without what ``command_line`` put there: for processes that are started."""
    ours = None if _wants_tracebacks else os.environ.pop("HYDRA_FULL_ERROR", None)
    try:
        yield
    finally:
        if ours is not None:
            os.environ["HYDRA_FULL_ERROR"] = ours


def _origin(error: BaseException) -> BaseException:
    """Return what a resolver raised, which OmegaConf wraps twice."""
    while isinstance(error, InterpolationResolutionError) and error.__context__ is not None:
        error = error.__context__
    return error


def _more(error: Exception, groups: Path) -> str:
    """Return what Hydra's message leaves out: the reason behind it, what to do, or the choices of a group."""
    if "hydra.mode changed" in str(error):
        return "\nThis experiment brings a sweep of its own: add -m, as in python train.py -m +experiment=..."
    if isinstance(error, MissingConfigException):
        # Hydra lists what lies in a group's own folder alone, and nothing for a folder below it.
        group = str(error.missing_cfg_file).rpartition("/")[0]
        files = (groups / group).glob("**/*.yaml" if group == "experiment" else "*.yaml")
        choices = {path.relative_to(groups / group).with_suffix("").as_posix() for path in files}
        more = sorted(choices - set(error.options or ()))
        return "".join([f"\nAvailable options in '{group}':", *(f"\n\t{name}" for name in more)]) if more else ""
    return f"\n{error.__cause__}" if isinstance(error.__cause__, OmegaConfBaseException) else ""


def run(config: DictConfig) -> dict[str, Any]:
    """Return the metrics of the run that ``config`` describes, training only what is missing of it."""
    hydra = HydraConfig.get()
    folder = RunFolder(hydra.runtime.output_dir)
    if is_follower(config.trainer):
        return follow(config, folder)
    with telling_failures(folder, is_single=hydra.mode == RunMode.RUN), leading(config.trainer) as ranks:
        resolved = identity.resolved_config(config)
        is_rerun = check_switch("rerun", config.rerun)
        run_identity = {
            "run_id": identity.run_id(resolved),
            "sweep": config.sweep,
            "choices": identity.choices(resolved, hydra.runtime.choices),
            "overrides": list(hydra.overrides.task),
            "config": resolved,
            "seed": config.seed,
        }
        folder.describe(**{key: run_identity[key] for key in ("run_id", "choices", "overrides", "seed")}, **slurm_job())
        check_holds_this_run(folder, resolved)
        if not is_rerun and (finished := folder.read_result()) is not None:
            tell_skipped(folder, finished)
            if not folder.is_held:
                # Left by who meant to train it again and did not, or was killed when the result was just written.
                folder.status.unlink(missing_ok=True)
            return dict(finished["metrics"])
        with folder.lock():
            # Another process may have finished it just before it let go of the lock.
            if not is_rerun and (finished := folder.read_result()) is not None:
                tell_skipped(folder, finished)
                folder.status.unlink(missing_ok=True)
                return dict(finished["metrics"])
            return train(config, folder, run_identity, ranks)


def follow(config: DictConfig, folder: RunFolder) -> dict[str, Any]:
    """Train one share of a run whose rank 0 is another of SLURM's tasks, which returns the metrics."""
    ranks, begin = follow_slurm()
    if begin is not None:
        wait_politely()
        from rethinkgen.run.follower import follow

        try:
            follow(ranks, config, folder.path, {"overrides": list(HydraConfig.get().overrides.task)})
        except Interrupted as interruption:
            sys.exit(interruption.exit_code)
    return {}


def train(config: DictConfig, folder: RunFolder, run_identity: dict[str, Any], ranks: Ranks) -> dict[str, Any]:
    """Train the run in ``folder``, whose lock is held, and tell what was seen."""
    console = stdout()
    where = f"[bold]{escape(folder.path.name)}[/bold]  [dim]→ {escape(str(folder.path))}[/dim]"
    say(where, markup=True)
    wait_politely()
    ranks.begin(folder.path, run_identity)
    with console.status("starting torch and Lightning"):
        from rethinkgen.run.training import Training
    training = Training(config, folder, run_identity, console, ranks)
    with console.status("preparing the data"):
        training.prepare()
    # Not before it is clear that nothing is wrong with the command.
    if folder.result.exists():
        aside = folder.set_aside_result()
        say(f"The earlier result is kept in {aside}.")
    folder.write_config(run_identity["config"], run_identity["overrides"])
    folder.write_status("running", started=now())
    with closing(training):
        result = training.run(give_up=functools.partial(tell_given_up, folder))
    tell_result(folder, result)
    for mirror in training.mirrors:
        if mirror.offline_folder is not None:
            say(f"W&B logged offline: wandb sync {shlex.quote(str(mirror.offline_folder))}", style="dim")
    return dict(result["metrics"])


def wait_politely() -> None:
    """Have OpenMP's threads sleep soon when they wait for each other; must come before torch is imported.

    By default they spin so long that two processes on the same cores stop each other: three runs of two threads each on
    two cores trained 3,500 images/s in all, and 19,300 with this; one alone is slower by 5 % (2352-512-10 perceptron).
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "10000")


def tell_given_up(folder: RunFolder, error: BaseException) -> None:
    """Tell what ends a run that hangs, since another rank died or does not answer."""
    state = "interrupted" if isinstance(error, Interrupted) else "failed"
    note_failure(folder, state, str(error), error)
    tell_failure(folder, state, str(error), None)


@contextmanager
def closing(training: Training) -> Iterator[None]:
    """Close loggers with the run's exit code."""
    exit_code = 1
    try:
        yield
        exit_code = 0
    finally:
        training.finish(exit_code)


def slurm_job() -> dict[str, str]:
    """Return the id that SLURM gave this process's job, as it spells it: ``17``, or ``17_3`` in an array."""
    array, index = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    job_id = f"{array}_{index}" if array and index else os.environ.get("SLURM_JOB_ID")
    return {"slurm_job": job_id} if job_id else {}


def check_holds_this_run(folder: RunFolder, config: dict[str, Any]) -> None:
    """Refuse a folder that holds a run of another config, naming the keys that differ.

    Raises:
        RunFolderError: the folder is another run's.
    """
    held = folder.read_config()
    if held is None or identity.run_id(held) == identity.run_id(config):
        return
    ours, theirs = flatten(identity.identifying(config)), flatten(identity.identifying(held))
    if folder.path.name.endswith(identity.run_id(config)):
        # The name vouches for the data that the run was begun on. They may have been moved since.
        theirs["data.fingerprint"] = ours["data.fingerprint"]
    differing = [
        f"  {key}: {theirs.get(key, '(none)')} there, {ours.get(key, '(none)')} here"
        for key in sorted(ours.keys() | theirs.keys())
        if ours.get(key, "(none)") != theirs.get(key, "(none)")
    ]
    if not differing:
        return
    raise RunFolderError(
        f"{folder.path} holds another run. What differs:\n" + "\n".join(differing) + "\n"
        "Leave hydra.run.dir to rethinkgen, which gives each run a folder of its own, or name an empty one."
    )


def flatten(node: Any, prefix: str = "") -> dict[str, Any]:
    """Return dotted key -> value."""
    if not isinstance(node, dict):
        return {prefix.removesuffix("."): node}
    return {key: value for name, child in node.items() for key, value in flatten(child, f"{prefix}{name}.").items()}


@contextmanager
def telling_failures(folder: RunFolder, *, is_single: bool) -> Iterator[None]:
    """Turn whatever ends a run into ``status.json``, a clear message, and an exit code other than 0.

    In a sweep the exception goes on to the launcher instead, so that the other runs go on; but a signal ends the sweep.
    """
    try:
        yield
    except (Exception, KeyboardInterrupt, Interrupted) as error:
        number = signal.SIGINT if isinstance(error, KeyboardInterrupt) else getattr(error, "number", None)
        state = "failed" if number is None else "interrupted"
        reason = reason_of(error) if number is None else signal.Signals(number).name
        if is_full_disk(error):
            reason = f"there is no room left to write the run's files ({error}). Make room; {GO_ON}"
        if isinstance(error, RunIsHeldError):
            # Nothing to note: the files are the other process's.
            if not is_single:
                raise
        elif folder.has_begun or not is_single:
            # What is there stays, with the reason beside it. In a sweep that is where the reason is looked for.
            note_failure(folder, state, reason, error)
        else:
            folder.remove_unused()
        if not is_single and number is None:
            raise
        log.debug("What ended the run:", exc_info=error)
        is_expected = is_users_mistake(error) if not folder.has_begun else is_outside_trouble(error)
        tell_failure(folder, state, reason, None if is_expected and not _wants_tracebacks else error)
        sys.exit(exit_code_of(error))


GO_ON = "the same command then goes on from the last checkpoint."


def note_failure(folder: RunFolder, state: str, reason: str, error: BaseException) -> None:
    """Write ``status.json``; where even that fails, say so and leave the first error in front."""
    details = {"reason": reason}
    if state == "failed":
        details["traceback"] = "".join(traceback.format_exception(error))
    try:
        folder.write_status(state, **details)
    except OSError as second:
        say(f"{folder.status} cannot be written: {second}", to=stderr())
