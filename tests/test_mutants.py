"""The faults that were planted in the layer of numbers, and the share that its tests found, are of these files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from mutants import CONTRIBUTING, EQUIVALENT, LEAST_SHARE, NOTED, ROOT, digest, mutated_files, sentence


def test_the_share_is_noted_of_the_files_as_they_are() -> None:
    noted = json.loads(NOTED.read_text())
    changed = {path for path in mutated_files() if noted["files"].get(path) != digest(ROOT / path)}
    assert not changed, (
        "run `uv run --group mutants python tests/mutants.py` (some 30 minutes) and commit the share that it notes"
    )
    assert noted["files"].keys() == {*mutated_files()}
    assert noted["found"] >= LEAST_SHARE * noted["planted"] > 0
    assert sentence(noted) in CONTRIBUTING.read_text()


def test_each_fault_that_changes_nothing_has_a_reason() -> None:
    equivalent = yaml.safe_load(EQUIVALENT.read_text())
    for one in equivalent:
        assert one.keys() == {"in", "from", "to", "why"}
        assert len(one["why"].split()) > 3, one
    places = [(one["in"], one["from"], one["to"]) for one in equivalent]
    assert len({*places}) == len(places)


@pytest.mark.parametrize(
    ("other", "is_same"),
    [
        ('"""Another title."""\nimport math\n\n\ndef f(x):\n    """Says less."""\n    return x + 1\n', True),
        ('"""A title."""\nimport math\n\ndef f(x):\n    # a comment\n    return x + 1\n', True),
        ('"""A title."""\nimport math\n\ndef f(x):\n    return x - 1\n', False),
        ('"""A title."""\nimport math\n\ndef f(x):\n    return "x + 1"\n', False),
    ],
)
def test_a_digest_is_of_code_alone(tmp_path: Path, other: str, is_same: bool) -> None:
    (tmp_path / "a.py").write_text('"""A title."""\nimport math\n\n\ndef f(x):\n    """Says."""\n    return x + 1\n')
    (tmp_path / "b.py").write_text(other)
    assert (digest(tmp_path / "a.py") == digest(tmp_path / "b.py")) == is_same
