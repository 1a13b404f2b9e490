"""A config file of one's own that is none is named with the line, and no traceback hides it."""

from __future__ import annotations

from pathlib import Path

import pytest

from conftest import Command


@pytest.fixture
def own(tmp_path: Path) -> Path:
    path = tmp_path / "own" / "data" / "mine.yaml"
    path.parent.mkdir(parents=True)
    return path


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"a: b: c\n", "mine.yaml, line 1, column 5: this is no YAML: mapping values are not allowed"),
        (b"\nsource: {root: ???}\n", "mine.yaml, line 2, column 16: this is no YAML: did not find"),
        (b"source: {a: 1, a: 2}\n", "mine.yaml, line 1, column 16: this is no YAML: found duplicate key a."),
        (b'a: !!python/object/apply:os.system ["true"]\n', "mine.yaml, line 1, column 4: this is no YAML: could not"),
        (b"a: \0\n", "mine.yaml: this is no YAML: unacceptable character"),
        (b"a: b\xff\n", "mine.yaml: no UTF-8 from byte 4 on."),
        (b"- a\n", "mine.yaml: keys with values are needed, such as lr: 0.1. It holds a list."),
        (b"source: {}\n", "data.name must be given, in the chosen file or on the command line: data.name=..."),
        (b"defaults: [digits]\nsource:\n  x: ???\n", "data.source.x must be given on the command line, for example"),
    ],
)
@pytest.mark.parametrize("multirun", [[], ["-m"]])
def test_it_is_named(
    train: Command, own: Path, capsys: pytest.CaptureFixture[str], content: bytes, said: str, multirun: list[str]
) -> None:
    own.write_bytes(content)
    with pytest.raises(SystemExit) as end:
        train("--config-dir", str(own.parents[1]), *multirun, "data=mine")
    assert end.value.code == 1
    error = capsys.readouterr().err
    assert said in error
    assert "Traceback" not in error
