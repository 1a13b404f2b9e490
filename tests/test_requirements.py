"""The committed lock of what a user or CI installs."""

from __future__ import annotations

import re
import tomllib

from conftest import ROOT


def test_the_lock_has_all_that_is_asked_for_and_no_address() -> None:
    """Made by the command that ``pyproject.toml`` names."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    asked = [*project["project"]["dependencies"], *project["dependency-groups"]["dev"]]
    asked += [each for extra in project["project"]["optional-dependencies"].values() for each in extra]
    lock = (ROOT / "requirements.lock").read_text()
    locked = set(re.findall(r"(?m)^([a-z0-9-]+)==", lock))
    assert {re.split("[<>=!]", each)[0] for each in asked} <= locked
    assert "://" not in lock
