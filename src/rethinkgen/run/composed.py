"""A run from a config that was composed in Python: in a notebook, a script, or a debugger.

It is the run that ``train.py`` makes of the same overrides: the same id, the same folder, the same files, resumed and
skipped as there. Light: torch and Lightning come only once something must be trained.
"""

from __future__ import annotations

import importlib
import json
import logging
import re
import signal
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from hydra import compose as hydra_compose
from hydra import initialize_config_dir
from hydra.core.global_hydra import GlobalHydra
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict

from rethinkgen import configs
from rethinkgen.console import ANY_ENCODING
from rethinkgen.errors import Interrupted, RunIsHeldError
from rethinkgen.run import own_code, trial
from rethinkgen.run.command import typed
from rethinkgen.run.description import describe, digest_of_code, look_again, typed_overrides
from rethinkgen.run.entry import how_it_ended, note_failure, take_up
from rethinkgen.run.folder import RunFolder
from rethinkgen.run.identity import flatten
from rethinkgen.run.known_keys import better_words, check_regularizers_are_read
from rethinkgen.run.process_state import leaving_process_as_it_is
from rethinkgen.run.ranks import leading
from rethinkgen.run.run import Run, read_run

LOG_LINE = "[%(asctime)s][%(name)s][%(levelname)s] - %(message)s"
"""As Hydra has it in ``train.log``."""

NO_WORDS = ("true", "false", "null", "nan", "inf")
"""What Hydra's grammar of overrides takes for a value of another type."""

_digests: dict[str, str | None] = {}
"""Package of the user's own -> digest of its source when it was imported last."""


def compose(*overrides: str, config_dir: str | Path | None = None) -> DictConfig:
    """Return the config that ``train.py`` has with these overrides: ``compose("model=mlp_1x512", "seed=1")``.

    ``config_dir`` is a folder of configs of one's own, as ``--config-dir`` names it.

    Raises:
        ValueError: there is no such key, group or choice.
    """
    folder = None if config_dir is None else Path(config_dir).expanduser().absolute()
    if folder is not None and not folder.is_dir():
        raise ValueError(f"config_dir={str(config_dir)!r}: there is no such folder.")
    own = [] if folder is None else [f"file://{folder}"]
    return _compose(configs.folder(), "train", [*_search_path(own), *overrides])


def run_config(config: DictConfig) -> Run:
    """Train the run of a composed config, go on with it, or, where it is finished, just read it.

    What the config says counts, also where it was changed after it was composed. The generators of torch, NumPy and
    Python are left as they were. Ctrl-C saves and interrupts; the same call goes on.

    Args:
        config: of ``compose``, or of Hydra's own with ``return_hydra_config=True``, which keeps the choices.

    Raises:
        ValueError: it is no such config, or what ``train.py`` refuses.
    """
    root = _with_changes_told(config)
    overrides = typed_overrides(root.hydra)
    with ExitStack() as until_the_end:
        enter = until_the_end.enter_context
        enter(typed(_program(), [*_config_dirs(root), *overrides]))
        enter(trial.leaving_nothing())
        enter(own_code.opening(own_code.asked_for(overrides)))
        own_code.check_opened(root.get("code"))
        _import_changed_code_again()
        description = describe(root, root.hydra.runtime.choices, overrides, str(root.sweep))
        ranks = enter(leading(description.config["trainer"]))
        check_regularizers_are_read(root)
        folder = RunFolder(Path(root.hydra.run.dir).absolute())
        with _noting_failures(folder), _logging_into(folder), leaving_process_as_it_is():
            # As a run of a sweep: a measure that fails ends nobody's script.
            take_up(folder, description, root, ranks, is_single=False)
        return read_run(folder.path)


def _compose(folder: Path, name: str, overrides: Sequence[str]) -> DictConfig:
    before = GlobalHydra.instance().hydra
    GlobalHydra.instance().clear()  # a notebook may have one open, in which Hydra allows no second
    try:
        with initialize_config_dir(str(folder), job_name="train"):
            return hydra_compose(name, overrides=list(overrides), return_hydra_config=True)
    except HydraException as error:
        raise ValueError(better_words(error, folder) or str(error)) from error
    finally:
        GlobalHydra.instance().hydra = before


def _program() -> list[str]:
    """Return what one types in a shell for such a run: in a clone the script, else the console command."""
    is_clone = (configs.folder().parent / "train.py").is_file()
    return ["train.py"] if is_clone else ["rethinkgen", "train"]


def _search_path(folders: Sequence[str]) -> list[str]:
    return [f"hydra.searchpath={_spelled(list(folders))}"] if folders else []


def _config_dirs(root: DictConfig) -> list[str]:
    """Return what names to ``train.py`` the folders of configs of one's own: an option, or of several an override."""
    own = list(map(str, root.hydra.searchpath))
    if len(own) == 1 and ("://" not in own[0] or own[0].startswith("file://")):
        return ["--config-dir", own[0].removeprefix("file://")]
    return [f"hydra.searchpath={_spelled(own)}"] if own else []


def _with_changes_told(config: DictConfig) -> DictConfig:
    """Return a copy whose overrides tell what was changed since it was composed, so that they give this config again.

    Raises:
        ValueError: it does not know what it was composed of, or brings a sweep.
    """
    if not OmegaConf.is_dict(config) or "hydra" not in config:
        raise ValueError(
            "run_config: the config does not know its choices. Compose it by rethinkgen.compose(...), or by Hydra's "
            'compose("train", overrides=[...], return_hydra_config=True).'
        )
    root = config.copy()
    hydra = root.hydra
    if str(hydra.mode).endswith("MULTIRUN"):
        raise ValueError(
            'run_config: this experiment brings a sweep, and one config is one run: compose it with "hydra.mode=RUN", '
            "or run the sweep by train.py -m."
        )
    sources = [each.path for each in hydra.runtime.config_sources if each.provider == "main" and each.schema == "file"]
    if not sources:
        raise ValueError("run_config: the config was composed of no folder of configs.")
    of_hydra: Any = OmegaConf.to_container(hydra.overrides.hydra, resolve=False)
    kept = [override for override in of_hydra if not override.startswith("hydra.searchpath=")]
    own = list(map(str, hydra.searchpath))
    given = typed_overrides(hydra)
    as_composed = _compose(Path(sources[0]), hydra.job.config_name, [*_search_path(own), *kept, *given])
    with open_dict(hydra):
        OmegaConf.set_readonly(hydra, False)
        hydra.overrides.task = [*given, *_changes(_flat(as_composed), _flat(root))]
    return root


def _flat(config: DictConfig) -> dict[str, Any]:
    plain: Any = OmegaConf.to_container(config, resolve=False)
    return flatten({key: value for key, value in plain.items() if key != "hydra"})


def _changes(before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    for key in before.keys() - after.keys():
        yield f"~{key}"
    for key, value in after.items():
        if key not in before:
            yield f"+{key}={_spelled(value)}"
        elif before[key] != value or isinstance(before[key], bool) != isinstance(value, bool):
            yield f"{key}={_spelled(value)}"


def _spelled(value: Any) -> str:
    """Return a value as Hydra's grammar of overrides reads it."""
    if isinstance(value, list):
        return f"[{','.join(map(_spelled, value))}]"
    if not isinstance(value, str):
        return json.dumps(value)
    if re.fullmatch(r"[A-Za-z][\w.]*", value, re.ASCII) and value.lower() not in NO_WORDS:
        return value
    # Not as JSON has it: Hydra takes a backslash for itself, but before a quote.
    escaped = re.sub(r'(\\*)("|\Z)', lambda found: 2 * found[1] + ('\\"' if found[2] else ""), value)
    return f'"{escaped}"'


def _import_changed_code_again() -> None:
    """Forget modules of the user's own whose source has changed since they were imported: a notebook lives long."""
    look_again()
    for package in {name.partition(".")[0] for name in own_code.opened()}:
        digest = digest_of_code(package)
        if _digests.setdefault(package, digest) != digest:
            for name in [name for name in sys.modules if f"{name}.".startswith(f"{package}.")]:
                del sys.modules[name]
            importlib.invalidate_caches()
        _digests[package] = digest


@contextmanager
def _noting_failures(folder: RunFolder) -> Iterator[None]:
    """Write into a run's folder what ends it; a folder in which nothing has begun goes again."""
    try:
        yield
    except (Exception, KeyboardInterrupt, Interrupted) as error:
        if folder.has_begun and not isinstance(error, RunIsHeldError):
            note_failure(folder, *how_it_ended(error, folder), error)
        else:
            folder.remove_unused()
        if isinstance(error, Interrupted):
            raise (KeyboardInterrupt() if error.number == signal.SIGINT else SystemExit(error.exit_code)) from error
        raise


@contextmanager
def _logging_into(folder: RunFolder) -> Iterator[None]:
    """Have what is logged go into the run's ``train.log`` too."""
    folder.path.mkdir(parents=True, exist_ok=True)
    handler = logging.FileHandler(folder.path / "train.log", encoding="utf-8", errors=ANY_ENCODING)
    handler.setFormatter(logging.Formatter(LOG_LINE))
    logging.getLogger().addHandler(handler)
    try:
        yield
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()
