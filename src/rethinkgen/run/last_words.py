"""What a run says of its end where none of its files can be written: to whoever started its process."""

from __future__ import annotations

from collections.abc import Callable

_hear: Callable[[str, str], object] | None = None


def heard_by(hear: Callable[[str, str], object] | None) -> None:
    """From now on, have ``hear(state, reason)`` called with how this process's run ended, where no file says so."""
    global _hear
    _hear = hear


def say_last(state: str, reason: str) -> None:
    """Tell how the run ended; nobody listens to a run that was started alone, which says it on the screen."""
    if _hear is not None:
        _hear(state, reason)
