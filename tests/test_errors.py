from __future__ import annotations

import errno
import pickle
import signal
import subprocess
import sys

import pytest

from rethinkgen import errors
from rethinkgen.errors import (
    Interrupted,
    RethinkgenError,
    RunIsHeldError,
    StoppedError,
    TrainingDivergedError,
    UnreadableImageError,
    exit_code_of,
    is_full_disk,
    is_of,
    is_outside_trouble,
    is_users_mistake,
    reason_of,
)

CLASSES = [
    kind
    for kind in vars(errors).values()
    if isinstance(kind, type) and issubclass(kind, (RethinkgenError, Interrupted))
]


@pytest.mark.parametrize("kind", CLASSES)
def test_each_error_comes_whole_from_another_process(kind: type[BaseException]) -> None:
    error = kind(signal.SIGTERM) if issubclass(kind, (StoppedError, Interrupted)) else kind("what happened")
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy), exit_code_of(copy)) == (kind, str(error), exit_code_of(error))


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (Interrupted(signal.SIGUSR2), 128 + signal.SIGUSR2),
        (StoppedError(signal.SIGTERM), 143),
        (KeyboardInterrupt(), 130),
        (RunIsHeldError("elsewhere"), 1),
        (TrainingDivergedError("inf"), 1),
        (ZeroDivisionError(), 1),
    ],
)
def test_exit_codes(error: BaseException, code: int) -> None:
    assert exit_code_of(error) == code


def test_whose_message_says_all() -> None:
    full, missing = OSError(errno.ENOSPC, "full"), OSError(errno.ENOENT, "missing")
    assert is_full_disk(full)
    assert not is_full_disk(missing)
    for error in (
        full,
        TrainingDivergedError("inf"),
        UnreadableImageError("a.png"),
        Interrupted(2),
        KeyboardInterrupt(),
    ):
        assert is_outside_trouble(error)
        assert is_users_mistake(error)
    for error in (missing, ValueError("seed=x")):
        assert not is_outside_trouble(error)
        assert is_users_mistake(error)
    assert not is_users_mistake(RuntimeError("a bug"))


def test_a_class_of_the_same_name_is_not_taken_for_ours() -> None:
    foreign = type("TrainingDivergedError", (Exception,), {})
    assert not is_outside_trouble(foreign("of a library"))


def test_the_type_is_said_where_the_message_was_not_written_for_a_user() -> None:
    assert reason_of(KeyError("images")) == "KeyError: 'images'"
    assert reason_of(ZeroDivisionError()) == "ZeroDivisionError"
    assert reason_of(ValueError("seed=x: a whole number is needed")) == "seed=x: a whole number is needed"


def test_errors_of_configuration_are_the_users() -> None:
    from hydra.errors import ConfigCompositionException
    from omegaconf.errors import ConfigKeyError

    assert is_users_mistake(ConfigCompositionException("no such group"))
    assert is_users_mistake(ConfigKeyError("no such key"))
    assert not is_of(ValueError(), "a_package_that_is_not_there", "Error")


def test_files_errors_and_signals_need_the_standard_library_alone() -> None:
    code = """
import sys
import rethinkgen.errors, rethinkgen.files, rethinkgen.signals
heavy = {"torch", "numpy", "hydra", "omegaconf", "rich", "pytorch_lightning"} & sys.modules.keys()
assert not heavy, heavy
"""
    ended = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr
