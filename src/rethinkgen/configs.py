"""Where the config groups lie."""

from __future__ import annotations

from pathlib import Path


def folder() -> Path:
    """Return ``conf/``: beside this code where a wheel was installed, else of the clone that it lies in."""
    package = Path(__file__).parent
    installed = package / "conf"
    return installed if installed.is_dir() else package.parents[1] / "conf"
