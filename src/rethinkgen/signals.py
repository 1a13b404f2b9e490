"""Who handles signals for a while. What one raises where training is: ``errors.Interrupted``."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

STOPPING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)
"""What asks a command to save and end: Ctrl-C, ``kill``, a terminal that is gone, and what schedulers send before they
preempt a job or its time is up (SLURM by submitit SIGUSR2, others SIGUSR1)."""


def stopping() -> tuple[signal.Signals, ...]:
    """Return those that this thread obeys: the main one all, but SIGHUP where it is ignored, as ``nohup`` has it."""
    if threading.current_thread() is not threading.main_thread():
        return ()  # Python hands it none
    is_deaf = signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    return tuple(number for number in STOPPING if number != signal.SIGHUP or not is_deaf)


@contextmanager
def handled_by(handler: Callable[[int, FrameType | None], None] | signal.Handlers, *numbers: int) -> Iterator[None]:
    """Have ``handler`` obey these signals for a while; the handlers before are put back."""
    before = {number: signal.signal(number, handler) for number in numbers}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)
