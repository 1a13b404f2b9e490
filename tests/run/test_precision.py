"""A convolutional run on a CPU that multiplies in bfloat16 says so, once, a sweep too."""

from __future__ import annotations

from pathlib import Path

import pytest

from conftest import TINY, Command
from rethinkgen.run import precision

SAID = "trainer.precision=bf16-mixed would train nearly twice as fast"
ALEXNET = ["model=alexnet", "trainer=cpu", "logger=none", "threads=1", "max_steps=1", "data.num_train=20"]
ALEXNET += ["data.batch_size=20"]


def on_a_machine(monkeypatch: pytest.MonkeyPatch, *, multiplies: bool) -> None:
    monkeypatch.setattr(precision, "multiplies_in_bf16", lambda: multiplies)


@pytest.mark.parametrize(
    ("model", "asked", "multiplies", "is_said"),
    [
        ({"channels_last": True}, "32-true", True, True),
        ({"channels_last": True}, 32, True, True),
        ({"channels_last": True}, "bf16-mixed", True, False),
        ({"channels_last": True}, "64-true", True, False),
        ({"channels_last": True}, "32-true", False, False),
        ({"width": 512}, "32-true", True, False),
        ({"closed_form": True}, "32-true", True, False),
    ],
)
def test_what_is_said_of_which_run(
    monkeypatch: pytest.MonkeyPatch, model: dict[str, object], asked: object, multiplies: bool, is_said: bool
) -> None:
    on_a_machine(monkeypatch, multiplies=multiplies)
    line = precision.advice({"model": model, "trainer": {"precision": asked}})
    assert (line is not None and SAID in line) is is_said


def test_a_single_run_says_it_before_it_trains(
    train: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    on_a_machine(monkeypatch, multiplies=True)
    train(*ALEXNET)
    said = capsys.readouterr().out
    assert said.count(SAID) == 1
    assert said.index(SAID) < said.index("steps to fit")
    train(*ALEXNET)
    train(*TINY, "max_steps=1")
    assert SAID not in capsys.readouterr().out


def test_a_sweep_says_it_once(
    train: Command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    on_a_machine(monkeypatch, multiplies=True)
    train("-m", *ALEXNET, "seed=0,1")
    assert capsys.readouterr().out.count(SAID) == 1
    outputs = [path.read_text() for path in tmp_path.glob("multirun/runs/*/output.txt")]
    assert len(outputs) == 2
    assert not any(SAID in output for output in outputs)
