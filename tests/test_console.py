from __future__ import annotations

import pytest
from rich.console import Console

from rethinkgen.console import duration, percent, say, say_command, say_error


@pytest.mark.parametrize(
    ("share", "text"),
    [(1.0, "100 %"), (0.99999, "> 99.9 %"), (0.9975, "99.8 %"), (0.1, "10 %"), (0.0, "0 %"), (None, "-")],
)
def test_percent_says_100_only_where_all_of_it_is_meant(share: float | None, text: str) -> None:
    assert percent(share) == text


@pytest.mark.parametrize(("seconds", "text"), [(0.4, "0:00"), (59.6, "1:00"), (3599, "59:59"), (3661, "1:01:01")])
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_a_line_is_printed_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    line = "regularizer=[bold] " + "long " * 100 + "3.14"
    say(line)
    say("[bold]run[/bold]", markup=True)
    say("no end", end="")
    assert capsys.readouterr().out == f"{line}\nrun\nno end"
    say_command("With [dim] things:", "python train.py 'regularizer=[bold]'")
    assert capsys.readouterr().out == "With [dim] things:\n  python train.py 'regularizer=[bold]'\n"


def test_errors_go_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    say_error(ValueError("seed=[red]: no"))
    assert capsys.readouterr() == ("", "Error: seed=[red]: no\n")


def test_a_quiet_console_says_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    say("of another rank", to=Console(quiet=True))
    assert capsys.readouterr() == ("", "")
