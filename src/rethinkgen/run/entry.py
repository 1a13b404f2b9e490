"""The door of ``train.py``: find the run's folder, skip it if finished, train it otherwise, and end well in any case.

Light to import: torch and Lightning come only once something must be trained.
"""

from __future__ import annotations

import contextlib
import functools
import json
import logging
import os
import shlex
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.types import Sweep
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import InterpolationResolutionError, OmegaConfBaseException
from rich.markup import escape

from rethinkgen.console import note, say, say_command, say_error, shown, stderr, stdout, take_any_encoding
from rethinkgen.errors import (
    DamagedFileError,
    Interrupted,
    RunFolderError,
    RunIsHeldError,
    cause_of,
    exit_code_of,
    is_outside_trouble,
    is_users_mistake,
    reason_of,
    storage_trouble,
)
from rethinkgen.run import identity, own_code, precision, selection, trial
from rethinkgen.run.command import command_line as typed_command
from rethinkgen.run.command import (
    config_folder,
    first_cell_shown,
    is_sweep,
    noted_program,
    other_command,
    typed,
    wandb,
)
from rethinkgen.run.config_files import words_on_a_file
from rethinkgen.run.description import (
    Description,
    changed_code,
    describe,
    folders_of,
    run_before,
    typed_overrides,
    words_on_former_selection,
)
from rethinkgen.run.folder import RunFolder, now
from rethinkgen.run.former_identity import FORMER_NAME
from rethinkgen.run.identity import flatten
from rethinkgen.run.kept import lacks_states, last_step, missing_steps, unreached
from rethinkgen.run.known_keys import (
    better_words,
    check_regularizers_are_read,
    choice_meant,
    group_of,
    refused_by_hydra,
)
from rethinkgen.run.last_words import say_last
from rethinkgen.run.measured import FOLDER as MEASURES
from rethinkgen.run.ranks import Ranks, follow_slurm, is_follower, leading, num_slurm_tasks
from rethinkgen.run.run import read_run
from rethinkgen.run.screen import tell_failure, tell_result, tell_skipped, tell_trial
from rethinkgen.run.stint import measure_stint

if TYPE_CHECKING:
    from rethinkgen.data.module import CorruptedImages
    from rethinkgen.run.training import Training

log = logging.getLogger(__name__)

GIVING_WAY_SECONDS = 5.0
"""What a process takes, on a busy machine, between locking a folder and asking whether the run is trained elsewhere."""

_wants_tracebacks = False
"""Whether the user set ``HYDRA_FULL_ERROR``; ``command_line`` sets it for everybody."""


def command_line(main: Callable[[], Any], groups: Path, program: Sequence[str] | None = None) -> None:
    """Run Hydra's ``main`` on ``sys.argv``; where no run comes of a command, say briefly why.

    Args:
        main: what ``@hydra.main`` made of a function.
        groups: the folder of the config groups, whose choices are listed where Hydra does not.
        program: what was called, if it is no script: the console command and its verb.
    """
    take_any_encoding()
    # Hydra would print the traceback of all but its own errors. Whoever sets the variable wants them all.
    global _wants_tracebacks
    wants_tracebacks = _wants_tracebacks = "HYDRA_FULL_ERROR" in os.environ
    os.environ.setdefault("HYDRA_FULL_ERROR", "1")
    arguments = sys.argv
    with typed(program or arguments[:1], arguments[1:]):
        try:
            with trial.leaving_nothing(), own_code.opening(own_code.asked_for(arguments[1:])):
                shown, of_first = first_cell_shown(arguments[1:])
                if of_first:
                    say(f"# The config of the first run: {' '.join(of_first)}", to=stderr())
                sys.argv = [arguments[0], *shown]
                _run_hydra(main, groups)
        except KeyboardInterrupt as error:
            sys.exit(exit_code_of(error))
        except Exception as error:
            cause = origin(error)
            better = better_words(error, groups) or words_on_a_file(cause, config_folder())
            if str(cause).startswith("Config group override must") or not is_users_mistake(cause):
                better = better or _wrong_choice(arguments[1:], groups)
            if wants_tracebacks or (better is None and not is_users_mistake(cause)):
                raise
            if "hydra.mode changed" in str(error):
                better = f"This experiment is a sweep, and needs -m:\n  {typed_command(adding='-m')}"
            say_error(better or f"{cause}{_more(error, groups)}")
            sys.exit(exit_code_of(cause))
        finally:
            sys.argv = arguments
            if not wants_tracebacks:
                os.environ.pop("HYDRA_FULL_ERROR", None)


def _run_hydra(main: Callable[[], Any], groups: Path) -> None:
    """Run Hydra's ``main``, where need be once more with what each cell of a sweep must be given by itself.

    Of a sweep Hydra composes a config of its own first, with the default of each group that is swept. A value that is
    the same in all cells, but is of a key that this default does not have, is left to the cells: as a sweep over one.
    """
    while True:
        try:
            main()
            return
        except ConfigCompositionException as error:
            if (arguments := _left_to_cells(sys.argv, str(error), groups)) is None:
                raise
            sys.argv = arguments


def _left_to_cells(arguments: list[str], message: str, groups: Path) -> list[str] | None:
    refused = refused_by_hydra(message)
    if refused is None or group_of(refused[0], groups) is None or not is_sweep(arguments[1:]):
        return None
    given = "=".join(refused)
    of_each = f"{refused[0]}=choice({refused[1]})"
    return [of_each if each == given else each for each in arguments] if given in arguments else None


@contextmanager
def as_the_user_set_it() -> Iterator[None]:
    """For a while, the environment is without what ``command_line`` put there: for processes that are started."""
    names = [trial.VARIABLE] if _wants_tracebacks else [trial.VARIABLE, "HYDRA_FULL_ERROR"]
    ours = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(ours)


def origin(error: BaseException) -> BaseException:
    """Return what a resolver raised, which OmegaConf wraps twice, or the system, which ``logging`` hides."""
    while isinstance(error, InterpolationResolutionError) and error.__context__ is not None:
        error = error.__context__
    return cause_of(error)


def _wrong_choice(arguments: Sequence[str], groups: Path) -> str | None:
    """Return what to say of a group that is given a number or the like, where Hydra names no group or fails itself."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    for argument in arguments:
        group = argument.partition("=")[0].lstrip("+").replace("/", ".")
        folder = next((path for path in (groups / group, groups / group.replace(".", "/")) if path.is_dir()), None)
        if folder is None or "=" not in argument:
            continue
        try:
            value = OverridesParser.create().parse_override(argument).value()
        except HydraException:
            continue
        chosen = value if isinstance(value, list) else [value]
        if any(not isinstance(choice, str | Sweep) for choice in chosen):
            there = ", ".join(sorted(path.stem for path in folder.glob("*.yaml")))
            return f"{argument}: a choice of this group is needed. There are {there}."
    return None


def _more(error: Exception, groups: Path) -> str:
    """Return what Hydra's message leaves out: the reason behind it, what to do, or the choices of a group."""
    if isinstance(error, MissingConfigException):
        # Hydra lists what lies in a group's own folder alone, and nothing for a folder below it.
        group = str(error.missing_cfg_file).rpartition("/")[0]
        files = (groups / group).glob("**/*.yaml" if group == "experiment" else "*.yaml")
        choices = {path.relative_to(groups / group).with_suffix("").as_posix() for path in files}
        more = sorted(choices - set(error.options or ()))
        options = [f"\nAvailable options in '{group}':", *(f"\n\t{name}" for name in more)] if more else []
        return "".join([*options, choice_meant(str(error.missing_cfg_file).replace("/", "="))])
    return f"\n{error.__cause__}" if isinstance(error.__cause__, OmegaConfBaseException) else ""


def run(config: DictConfig) -> dict[str, Any]:
    """Return the metrics of the run that ``config`` describes, training only what is missing of it."""
    take_any_encoding()  # train.log has been opened since the command began
    if "stint" in config:  # the runs of a sweep are measured, by processes of its launcher
        return measure_stint(config)
    hydra = HydraConfig.get()
    folder = RunFolder(hydra.runtime.output_dir)
    with telling_failures(folder, is_single=hydra.mode == RunMode.RUN):
        is_following = is_follower(config.trainer)
    if is_following:
        return follow()
    with telling_failures(folder, is_single=hydra.mode == RunMode.RUN), ExitStack() as until_the_end:
        own_code.check_opened(config.get("code"))
        if hydra.job.chdir:
            config = with_whole_paths(config, Path(hydra.runtime.cwd))
        description = describe(config, hydra.runtime.choices, typed_overrides(hydra), str(config.sweep), folder.path)
        ranks = until_the_end.enter_context(leading(description.config["trainer"]))
        check_regularizers_are_read(config)
        return take_up(folder, description, config, ranks, is_single=hydra.mode == RunMode.RUN)


def take_up(
    folder: RunFolder, description: Description, config: DictConfig, ranks: Ranks, *, is_single: bool
) -> dict[str, Any]:
    """Return the metrics of a run, training in ``folder``, or where it was begun, what is missing of it.

    ``config`` is the composed one, of which the description was made.
    """
    is_rerun = description.config["rerun"]
    if not folder.holds_run and (before := run_before(description, config, folder.path.parent)) is not None:
        say(f"With {before[0]}, the default of before, this command is the run in {before[1]}.")
    for line in take_up_former(description, folder):
        say(line)
    facts = description.facts()
    folder.describe(**{key: facts[key] for key in ("run_id", "choices", "overrides", "seed")}, **slurm_job())
    check_holds_this_run(folder, description)
    if not is_rerun and (finished := folder.read_result()) is not None:
        tell_finished(folder, finished, description)
        folder.tidy_up()
        keep_more(folder, description)
        measure_what_is_asked(folder, description, is_single=is_single)
        return dict(finished["metrics"])
    with folder.lock():
        # Another process may have finished it just before it let go of the lock.
        if not is_rerun and (finished := folder.read_result()) is not None:
            tell_finished(folder, finished, description)
            folder.remove_remains()
            keep_missing(folder, description)
            measure_what_is_asked(folder, description, is_single=is_single)
            return dict(finished["metrics"])
        check_is_nowhere_else(folder, description)
        return train(folder, description, ranks, is_single=is_single)


def with_whole_paths(config: DictConfig, start: Path) -> DictConfig:
    """Return the config with the paths of what is read as from ``start``: ``hydra.job.chdir`` has left that folder."""
    config = config.copy()
    for key in ("data.root", "data.source.root", *identity.rules()["files"], f"{selection.KEY}.runs"):
        path = OmegaConf.select(config, key)
        if OmegaConf.is_list(path):
            OmegaConf.update(config, key, [_whole(each, start) for each in path])
        elif isinstance(path, str):
            OmegaConf.update(config, key, _whole(path, start))
    return config


def _whole(path: Any, start: Path) -> Any:
    return str(start / Path(path).expanduser()) if isinstance(path, str) and path else path


def follow() -> dict[str, Any]:
    """Train one share of a run whose rank 0 is another of SLURM's tasks, which returns the metrics."""
    ranks, begin = follow_slurm()
    if begin is not None:
        wait_politely()
        from rethinkgen.run.follower import follow

        try:
            follow(ranks, begin)
        except Interrupted as interruption:
            sys.exit(interruption.exit_code)
    return {}


def tell_finished(folder: RunFolder, result: dict[str, Any], description: Description) -> None:
    """Show a run that was finished before, and name code of the user's own that has changed since."""
    tell_skipped(folder, result)
    if changed := changed_code(result.get("code", {}), description.code):
        line = f"{', '.join(changed)} is not the code that this result was made with."
        say(line, style="yellow")


def take_up_former(description: Description, folder: RunFolder) -> list[str]:
    """Give a folder that is named by a former id of the run its name of today; return what there is to say of it.

    Its W&B run keeps the id that it began under. Further folders of the same run stay as they are and are named.

    Raises:
        RunIsHeldError: another process trains the run.
    """
    go_where_it_was_begun(description, folder)
    former_id = folder.path.name.rpartition("-")[2]
    if not FORMER_NAME.search(folder.path.name) or former_id not in description.former_ids:
        return []
    old = folder.path
    with folder.lock():
        if folder.holds_run:
            new = free_name(description, old.parent, former_id)
            folder.add_to_identity(run_id=description.run_id, fingerprint=description.fingerprint, wandb_id=former_id)
            old.rename(new)
            folder.move_to(new)
    if folder.path == old:
        # Another process has just renamed it, and our lock has made a folder of that name anew.
        go_where_it_was_begun(description, folder)
        return []
    folder.tidy_up()
    lines = [f"{old.name} is now {folder.path.name}: the same run under the id that this version gives it."]
    for other in map(RunFolder, folders_of(description, old.parent)):
        if other.path == folder.path or not other.holds_run:
            continue
        with contextlib.suppress(RunFolderError), other.lock():
            other.add_to_identity(run_id=description.run_id, fingerprint=description.fingerprint, wandb_id=None)
        lines.append(f"{other.path} holds the same run once more: it is not counted, and may be removed.")
    return lines


def free_name(description: Description, sweep_folder: Path, former_id: str) -> Path:
    """Return where a folder under a former id goes: not onto an unfinished one that has the run's name already."""
    path = sweep_folder / description.name
    RunFolder(path).remove_unused()
    return path.with_name(f"{description.slug}-{former_id}-{description.run_id}") if path.exists() else path


def go_where_it_was_begun(description: Description, folder: RunFolder) -> None:
    """Leave a folder that holds nothing for the one that holds the run.

    Since this process named the folder, another one may have begun the run under another name, or have renamed it.
    A folder that the user named stays the run's.
    """
    named_by = folder.path.name.rpartition("-")[2]
    if folder.holds_run or (named_by != description.run_id and named_by not in description.former_ids):
        return
    best = next(iter(folders_of(description, folder.path.parent)), folder.path)
    if best != folder.path and RunFolder(best).holds_run:
        log_into(best, instead_of=folder.path)
        folder.remove_unused()
        folder.move_to(best)


def log_into(folder: Path, *, instead_of: Path) -> None:
    """Have what Hydra's log writes into one folder be written into another."""
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.FileHandler) and Path(handler.baseFilename).parent == instead_of:
            handler.baseFilename = str(folder / Path(handler.baseFilename).name)
            if (before := handler.setStream(handler._open())) is not None:
                before.close()


def check_is_nowhere_else(folder: RunFolder, description: Description) -> None:
    """Refuse to train what another process trains in a folder of another name: only the id says which run it is.

    Of two that ask at the same moment, each of which has locked a folder of its own, one gives way and one waits for
    that: the run is where it was begun, else where its name comes first.

    Raises:
        RunIsHeldError: it does.
    """
    for other in map(RunFolder, folders_of(description, folder.path.parent)):
        if other.path == folder.path:
            continue
        goes_first = (not folder.holds_run, folder.path.name) < (not other.holds_run, other.path.name)
        give_up_at = time.monotonic() + (GIVING_WAY_SECONDS if goes_first else 0.0)
        while other.is_held and time.monotonic() < give_up_at:
            time.sleep(0.05)
        if other.is_held:
            raise RunIsHeldError(
                f"this run is being trained by another process right now: {other.path}\n"
                "Wait for it: the same command will then show its result."
            )


def train(folder: RunFolder, description: Description, ranks: Ranks, *, is_single: bool) -> dict[str, Any]:
    """Train the run in ``folder``, whose lock is held, and tell what was seen."""
    console = stdout()
    where = f"[bold]{escape(folder.path.name)}[/bold]  [dim]→ {escape(str(folder.path))}[/dim]"
    say(where, markup=True)
    command = " ".join([*noted_program(), *description.overrides])
    note(f"{command}  (process {os.getpid()} on {socket.gethostname()})")
    wait_politely()
    ranks.begin(folder.path, description.facts())
    with console.status("starting torch and Lightning"):
        from rethinkgen.run.measuring import check_measures, measure_own
        from rethinkgen.run.training import Training
    check_measures(description.config)
    if is_single:  # of a sweep its launcher says it
        for words in words_on_former_selection(description, folder.path.parent):
            say(words, style="yellow")
    training = Training(OmegaConf.create(description.config), folder, description.facts(), console, ranks)
    with console.status("preparing the data"):
        training.prepare()
    if (line := training.plan) is not None:
        say(line, style="dim")
        note(line)
    # Of a sweep its launcher says it, once.
    if is_single and training.is_on_cpu and (line := precision.advice(description.config)) is not None:
        say(line, style="dim")
    # Not before it is clear that nothing is wrong with the command.
    if folder.result.exists():
        aside = folder.set_aside_result()
        say(f"The earlier result is kept in {aside}.")
    folder.write_config(description.config, description.overrides)
    begun_with = folder.read_identity().get("code") if folder.checkpoints.is_dir() else None
    if begun_with is not None and (changed := changed_code(begun_with, description.code)):
        line = f"{', '.join(changed)} is not the code that this run was begun with. It goes on with the code of now."
        say(line, style="yellow")
    folder.add_to_identity(
        run_id=description.run_id,
        fingerprint=description.fingerprint,
        contents=description.contents,
        wandb_id=description.run_id,
        code=description.code,
        begun_in=os.getcwd(),
        **({selection.READ: training.excluded_by} if training.excluded_by else {}),
        **training.shapes,
    )
    folder.write_status("running", started=now())
    with closing(training):
        result = training.run(give_up=functools.partial(tell_given_up, folder))
        is_trial = description.config["debug"]
        tell_trial(result) if is_trial else tell_result(folder, result)
        if not is_trial:
            # What was asked for only when it was passed already, or has been damaged since.
            keep_missing(folder, description, training.datamodule if ranks.size == 1 else None)
        is_measured = measure_own(folder, description.config)
        if is_single and not is_trial:
            tell_where_measured(folder, description)
        for mirror in training.mirrors:
            mirror.show_measured(folder.path)
    for mirror in () if is_trial else training.mirrors:
        if mirror.unsent_folder is not None:
            say_command("Not sent to W&B yet:", shlex.join([*wandb(), "sync", str(mirror.unsent_folder)]))
    if not is_measured and is_single:
        sys.exit(1)
    return dict(result["metrics"])


def keep_more(folder: RunFolder, description: Description) -> None:
    """Replay a finished run for the states that it is asked to keep and has not; nothing else in its folder changes.

    Raises:
        ValueError: it cannot be replayed, or its data are gone.
        ReplayDiffersError: the replay is not the run.
        RunIsHeldError: another process is at it.
    """
    if lacks_states(folder.path, description.config.get("keep") or ()):
        with folder.lock():
            keep_missing(folder, description)


def keep_missing(folder: RunFolder, description: Description, datamodule: CorruptedImages | None = None) -> None:
    """Do so while the run's lock is held; ``datamodule`` is its data, where they are loaded already."""
    moments = description.config.get("keep") or ()
    run = read_run(folder.path)
    for each in unreached(run, moments):
        say(f"keep={each}: the run ended before, at step {last_step(run):,}.")
    missing = missing_steps(run, moments)
    if not missing:
        return
    wait_politely()
    from rethinkgen.run.data_of_run import datamodule_of
    from rethinkgen.run.declaration import acting
    from rethinkgen.run.replay import Built, device_of, keep

    if datamodule is None:
        root = description.config["data"]["source"].get("root")
        datamodule = datamodule_of(run, acting(run.config)["data"], root, device_of(run))
    keep(Built(run, datamodule), missing, inexact=description.config["replay"] == "inexact", tell=say)
    say(f"Kept in {folder.weights}: the states of {', '.join(f'step {step:,}' for step in missing)}.")


def measure_what_is_asked(folder: RunFolder, description: Description, *, is_single: bool) -> None:
    """Measure what the config asks for and the finished run lacks; of a single command, exit with 1 where that failed.

    Of a sweep, what failed is tried once more when all its runs have ended.
    """
    from rethinkgen.run.measuring import measure_own

    is_measured = measure_own(folder, description.config)
    if is_single:
        tell_where_measured(folder, description)
    if not is_measured and is_single:
        sys.exit(1)


def tell_where_measured(folder: RunFolder, description: Description) -> None:
    """Say where the numbers are that measures found, and what makes a table of them: nothing is measured again."""
    measures = folder.path / MEASURES
    if not description.config.get("measure") or not measures.is_dir():
        return
    say(f"Every number of every measure: {shown(measures)}")
    typed_here = {item.lstrip("+").partition("=")[0]: item.lstrip("+") for item in description.overrides}
    asked = [f"measure=[{','.join(description.config['measure'])}]"]
    asked += [item for key, item in typed_here.items() if key == "at" or key.startswith("measure.")]
    if "experiment" in typed_here:  # it says more of them than was typed
        said = flatten({key: description.config[key] for key in ("at", "measure")})
        asked += [
            f"{key}={value if key.endswith('.other') else json.dumps(value)}"
            for key, value in said.items()
            if key not in typed_here and value is not None and not key.endswith(("_target_", "_partial_", "protocol"))
        ]
    if (command := other_command("measure", [shown(folder.path), *asked])) is not None:
        table = shown(folder.path.with_name("measures.csv"))
        say_command(f"As a table, with those of the runs beside it ({table}):", command)


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
        # What is looked into after the end of a run does not make it a failed one.
        training.finish(0 if training.folder.result.exists() else exit_code)


def slurm_job() -> dict[str, str]:
    """Return the id that SLURM gave this process's job, as it spells it: ``17``, or ``17_3`` in an array."""
    array, index = os.environ.get("SLURM_ARRAY_JOB_ID"), os.environ.get("SLURM_ARRAY_TASK_ID")
    job_id = f"{array}_{index}" if array and index else os.environ.get("SLURM_JOB_ID")
    return {"slurm_job": job_id} if job_id else {}


def check_holds_this_run(folder: RunFolder, description: Description) -> None:
    """Refuse a folder that holds a run of another config, naming the keys that differ.

    Raises:
        RunFolderError: the folder is another run's.
    """
    facts = folder.read_identity()
    try:
        held = folder.read_config()
    except DamagedFileError as error:
        if facts.get("run_id", folder.path.name.rpartition("-")[2]) != description.run_id:
            raise DamagedFileError(
                f"{error} So nobody can tell which run the folder holds. If it is this one, move the file away: all "
                "else stays, and the run goes on. If not, leave hydra.run.dir to rethinkgen."
            ) from error
        say(f"{error} The run goes by its command.", style="yellow")
        return
    if held is None:
        return
    if not facts and (result := folder.read_result()) is not None:
        facts = {key: result[key] for key in ("fingerprint", "contents") if key in result}  # it may have come alone
    # Folders of before do not say on which data they were begun, but by their names.
    on_data = facts.get("fingerprint") if facts else description.fingerprint
    ours = flatten(identity.counted(description.config, description.contents))
    theirs = flatten(identity.counted(identity.normalised(held), facts.get("contents")))
    ours["data.fingerprint"], theirs["data.fingerprint"] = description.fingerprint, on_data
    for told in (ours, theirs):
        # All examples may be asked for by their number, or by none.
        if told.get("data.num_train") == description.all_examples:
            told["data.num_train"] = None
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


def _signal_of(error: BaseException) -> int | None:
    number: int | None = signal.SIGINT if isinstance(error, KeyboardInterrupt) else getattr(error, "number", None)
    return number


def how_it_ended(error: BaseException, folder: RunFolder) -> tuple[str, str]:
    """Return the state in which ``error`` leaves a run, and why, as ``status.json`` says it."""
    number = _signal_of(error)
    reason = reason_of(cause_of(error)) if number is None else signal.Signals(number).name
    return "failed" if number is None else "interrupted", storage_trouble(error, folder.path) or reason


@contextmanager
def telling_failures(folder: RunFolder, *, is_single: bool) -> Iterator[None]:
    """Turn whatever ends a run into ``status.json``, a clear message, and an exit code other than 0.

    In a sweep the exception goes on to the launcher instead, so that the other runs go on; but a signal ends the sweep.
    """
    try:
        yield
    except (Exception, KeyboardInterrupt, Interrupted) as error:
        number, trouble = _signal_of(error), storage_trouble(error, folder.path)
        state, reason = how_it_ended(error, folder)
        if isinstance(error, RunIsHeldError):
            # Nothing to note: the files are the other process's.
            folder.remove_unused()
            if not is_single:
                raise
        elif folder.has_begun or not is_single:
            # What is there stays, with the reason beside it. In a sweep that is where the reason is looked for.
            note_failure(folder, state, reason, error)
        elif num_slurm_tasks() == 1:  # of several each is refused, and one may only be opening its log there
            folder.remove_unused()
        if not is_single and number is None:
            raise
        log.debug("What ended the run:", exc_info=error)
        is_expected = is_users_mistake(error) if not folder.has_begun else is_outside_trouble(error) or bool(trouble)
        tell_failure(folder, state, reason, None if is_expected and not _wants_tracebacks else error)
        sys.exit(exit_code_of(error))


def note_failure(folder: RunFolder, state: str, reason: str, error: BaseException) -> None:
    """Write ``status.json``; where even that fails, tell whoever started this process, and the screen."""
    details = {"reason": reason}
    note(f"{state}: {reason}")
    if not folder.path.is_dir() or folder.result.exists():
        say_last(state, reason)
        return  # somebody has removed it, which the reason says; or it is finished, and stays so
    if state == "failed":
        details["traceback"] = "".join(traceback.format_exception(error))
    try:
        folder.write_status(state, **details)
    except OSError as second:
        say_last(state, reason)
        say(f"{folder.status} cannot be written: {second}", to=stderr())
