"""``report``: which sweeps, where to, and what is said on the terminal. Light until all is clear."""

from __future__ import annotations

import difflib
import os
import shlex
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rethinkgen.console import say, say_error, stdout, take_any_encoding
from rethinkgen.errors import USERS_MISTAKE
from rethinkgen.received import MOST_BYTES_OF_TABLE, read_bytes
from rethinkgen.report.own_page import check_is_own
from rethinkgen.run.command import command_line, noted_program, typed
from rethinkgen.run.own_code import asked_for, opening
from rethinkgen.sweep.jobs import shown

if TYPE_CHECKING:
    from rethinkgen.report.contents import Report
    from rethinkgen.report.figures.declaration import Figure
    from rethinkgen.run.run import Run

HELP = """\
Set runs beside the published numbers: tables, figures and one page, from result files alone.

  PROGRAM SWEEP [SWEEP ...] [key=value ...]

A SWEEP is the folder of a sweep, such as multirun/zhang2017-table_1, or of a single run. It may still be running: what
is missing is shown as missing, and the same command later writes the report anew.

  out=FOLDER      where to (default: report/ in the first sweep's folder). FOLDER/index.html is the page, one file that
                  needs no network; tables/ has CSV, LaTeX and Markdown, figures/ PDF, SVG and the CSV of what is drawn
  claims=FILE     claims, tables and figures of a paper of your own, a YAML in the form of
                  rethinkgen/report/published/zhang2017.yaml: docs/own_code.md
  figure=FIGURE   a figure of one's own, first on the page: 'figure={x: model.width, y: test/accuracy}', or a YAML file
                  of several; what it does not say is guessed from what varies. May be given more than once
  code=PACKAGE    a package of one's own, of which a figure may name a function
  publish=wandb   send to W&B what it lacks of the runs, and the report as a draft; needs wandb-workspaces and a login
  share=true      with it: publish the draft, and make a link by which anybody can read it without an account
  entity=NAME, project=NAME   with it: where on W&B, if not where the runs were logged
"""
PUBLISHERS = ("wandb",)
MOST_DAMAGE = 12
"""Damaged files that are named on the terminal."""
KEYS = {
    "out": "a folder",
    "figure": "{x: ..., y: ...} or a YAML file",
    "claims": "a YAML file",
    "code": "a package of your own",
    "publish": " or ".join(PUBLISHERS),
    "share": "true or false",
    "entity": "a user or team on W&B",
    "project": "a project on W&B",
}
OF_PUBLISHING = ("share", "entity", "project")
"""Keys that say how, and need ``publish``."""


@dataclass(frozen=True)
class Request:
    """What the command line asks for."""

    sweeps: list[Path]
    out: Path
    publish: str | None
    figures: Sequence[Figure] = ()
    claims: Path | None = None
    share: bool = False
    entity: str | None = None
    project: str | None = None


def main(arguments: Sequence[str], program: Sequence[str] = ("report.py",)) -> int:
    """Write the report that ``arguments`` ask for; return the exit code, 2 where they cannot be met.

    ``program`` is what was called: a script, or the console command and its verb.
    """
    take_any_encoding()
    with typed(program, arguments):
        if {"-h", "--help"} & set(arguments):
            say(HELP.replace("PROGRAM", shlex.join(noted_program())), end="")
            return 0
        try:
            with opening(asked_for(arguments)):
                request = read_arguments(arguments)
                with _own_paper(request.claims) as declared:
                    return _report(request, declared, arguments)
        except ValueError as error:
            return tell_error(error, USERS_MISTAKE)


def _report(request: Request, declared: Sequence[Figure], arguments: Sequence[str]) -> int:
    begun = time.monotonic()
    try:
        if request.publish == "wandb":
            from rethinkgen.publish.door import Wish, check_can_publish, publisher

            check_can_publish()
        with stdout().status("reading the runs"):
            from rethinkgen.run.run import read_runs

            runs = read_runs(request.sweeps)
            figures = [_completed(figure, runs) for figure in request.figures]
        if request.publish == "wandb":
            names = [sweep.resolve().name for sweep in request.sweeps]
            publish = publisher(runs, Wish(request.entity, request.project, request.share), names)
    except ValueError as error:
        return tell_error(error, USERS_MISTAKE)
    except OSError as error:
        return tell_error(f"the runs cannot be read: {error}", 1)
    try:
        with stdout().status("judging, tabulating and drawing"):
            # matplotlib; not before it is clear that nothing is wrong with the command.
            from rethinkgen.report.contents import gather
            from rethinkgen.report.page import write

            fitting, unfit = _fitting(declared, runs)
            # Whether and where it is published is not part of what others type.
            kept = [item for item in arguments if item.partition("=")[0] not in ("publish", *OF_PUBLISHING)]
            command = shlex.join([*noted_program("report"), *map(_as_typed, kept)])
            report = gather(runs, command=command, figures=[*figures, *fitting], unfit=unfit)
            index = write(report, request.out)
    except OSError as error:
        return tell_error(f"out={request.out}: the report cannot be written: {error}. Name another folder: out=...", 1)
    tell_report(report, index, time.monotonic() - begun)
    for line in report.not_drawn:
        say(line, style="yellow")
    return publish(report, index) if request.publish == "wandb" else 0


@contextmanager
def _own_paper(claims: Path | None) -> Iterator[list[Figure]]:
    """Have the claims and tables of a paper of the user's own judged and made for a while; give its figures.

    Raises:
        ValueError: there is no such file, or it says something that cannot be.
    """
    if claims is None:
        yield []
        return
    from rethinkgen.report.claim_files import load_claims, read_paper, with_paper
    from rethinkgen.report.figures.declaration import read_figure
    from rethinkgen.report.tables import declared

    content = read_bytes(claims, MOST_BYTES_OF_TABLE)
    if content is None:
        raise ValueError(f"claims={claims}: there is no such file.")
    own = read_paper(f"claims={claims}", content.decode("utf-8", errors="replace"))
    # It may not take the place of ours.
    if taken := {claim.id for claim in own.claims} & {claim.id for claim in load_claims()}:
        raise ValueError(f"claims={claims}, claim {min(taken)}: there is one of this id already. Give it another.")
    with with_paper(own):
        try:
            declared()
            figures = [read_figure(name, node, f"{own.name}, figure {name}") for name, node in own.figures.items()]
        except ValueError as error:
            raise ValueError(f"claims={claims}: {error}") from error
        yield figures


def _fitting(figures: Sequence[Figure], runs: Sequence[Run]) -> tuple[list[Figure], list[str]]:
    """Return the figures of a paper that these runs have the quantities of, and a line on each other one.

    A paper may be about more runs than these: of a figure that is asked for by itself it is a mistake.
    """
    from rethinkgen.report.figures.declaration import check_quantities

    fitting, unfit = [], []
    for figure in figures:
        try:
            check_quantities(figure, runs, f"figure {figure.name}")
            fitting.append(figure)
        except ValueError as error:
            unfit.append(f"not drawn: {error}")
    return fitting, unfit


def read_arguments(arguments: Sequence[str]) -> Request:
    """Read a command line: paths, and ``key=value`` in any order.

    Raises:
        ValueError: an unknown key or value, a key given twice, no path, one where no folder is, or a folder for the
            report that has somebody else's page.
    """
    sweeps: list[Path] = []
    values: dict[str, str] = {}
    figures: list[Figure] = []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        # The name of a folder may hold a "=".
        # By os, as pathlib fails on a text that is too long for a name, such as a figure of many panels.
        if not equals or os.path.exists(argument) or "/" in key:
            sweeps.append(_folder(argument))
            continue
        _check_key(key, value)
        if key == "figure":
            figures += declared_in(value)
            continue
        if key in values:
            raise ValueError(f"{key}= is given twice ({values[key]} and {value}). Give it once.")
        values[key] = value
    if not sweeps:
        example = command_line(adding="multirun/NAME")
        raise ValueError(f"which runs? Give the folder of a sweep: {example}.{_sweeps_there()}")
    out = Path(values["out"]) if "out" in values else sweeps[0] / "report"
    if out.exists() and not out.is_dir():
        raise ValueError(f"out={out} is a file. Name a folder.")
    check_is_own(out, is_chosen="out" in values)
    for key in OF_PUBLISHING:
        if key in values and "publish" not in values:
            raise ValueError(f"{key}={values[key]} says how to publish: add publish=wandb, or leave it out.")
    return Request(
        list(dict.fromkeys(sweeps)),
        out,
        values.get("publish"),
        figures,
        Path(values["claims"]) if "claims" in values else None,
        share=values.get("share") == "true",
        entity=values.get("entity"),
        project=values.get("project"),
    )


def declared_in(argument: str) -> list[Figure]:
    """Return the figures that ``figure=...`` says: ``{x: ..., y: ...}``, or a YAML file that has ``figures``.

    Raises:
        ValueError: it is neither, or says what no figure has.
    """
    import yaml

    where = f"figure={argument}"
    is_file = argument.endswith((".yaml", ".yml"))
    content = read_bytes(Path(argument), MOST_BYTES_OF_TABLE) if is_file else argument.encode()
    if content is None:
        raise ValueError(f"{where}: there is no such file.")
    try:
        told = yaml.safe_load(content.decode("utf-8", errors="replace"))
    except yaml.YAMLError as error:
        raise ValueError(f"{where}: not YAML ({' '.join(str(error).split())}).") from error
    if not is_file:
        return [_figure("own_figure", told, where)]
    if not isinstance(told, dict) or not isinstance(told.get("figures"), dict):
        raise ValueError(f"{where}: figures: is missing: a name for each figure, and what it shows.")
    return [_figure(str(name), node, f"{where}, {name}") for name, node in told["figures"].items()]


def _figure(name: str, node: Any, where: str) -> Figure:
    from rethinkgen.report.figures.declaration import read_figure

    figure = read_figure(name, node, where, may_guess=True)
    return figure if "leads" in node else figure.but(leads=True)


def _completed(figure: Figure, runs: Sequence[Run]) -> Figure:
    from rethinkgen.report.figures.declaration import check_quantities
    from rethinkgen.report.figures.guess import completed

    check_quantities(figure, runs, f"figure {figure.name}")
    return completed(figure, runs)


def _check_key(key: str, value: str) -> None:
    if key not in KEYS:
        close = difflib.get_close_matches(key, KEYS, n=1)
        meant = f" Did you mean {close[0]}={value}?" if close else ""
        allowed = ", ".join(f"{name}= ({what})" for name, what in KEYS.items())
        raise ValueError(f"{key}={value}: there is no such key.{meant} Keys are {allowed}; all else names a sweep.")
    if not value:
        raise ValueError(f"{key}= has no value: {KEYS[key]} is needed.")
    if key == "publish" and value not in PUBLISHERS:
        raise ValueError(f"publish={value}: only {KEYS['publish']} is possible.")
    if key == "share" and value not in ("true", "false"):
        raise ValueError(f"share={value}: {KEYS['share']} is possible.")


def _folder(argument: str) -> Path:
    if argument.startswith("-"):
        raise ValueError(f"{argument}: there is no such option. --help shows what there is.")
    path = Path(argument)
    if not path.is_dir():
        what = "is a file" if path.exists() else "does not exist"
        around = path.parent if path.parent.is_dir() else Path("multirun")
        raise ValueError(f"{argument} {what}. Give the folder of a sweep.{_sweeps_there(around)}")
    return path


def _sweeps_there(around: Path = Path("multirun")) -> str:
    """Return a sentence that names the sweeps in ``around``."""
    folders = {path.parent.parent for name in ("result", "status") for path in around.glob(f"*/*/{name}.json")}
    return f" There are: {', '.join(sorted(map(shown, folders)))}." if folders else f" There is none in {around}/."


def _as_typed(argument: str) -> str:
    return shown(Path(argument)) if "=" not in argument and Path(argument).exists() else argument


def tell_report(report: Report, index: Path, seconds: float) -> None:
    """Say how far the runs are, what was found, what came of the claims, and where the page is."""
    say(f"{report.progress}.")
    if len(report.unfinished) < len(report.runs):
        say(report.found)
    damage = [run.reason for run in report.unfinished if "is damaged" in run.reason or "cannot be read" in run.reason]
    damage += [line for _, line in report.damage]
    for line in damage[:MOST_DAMAGE]:
        say(line, style="yellow")
    if len(damage) > MOST_DAMAGE:
        say(f"... and {len(damage) - MOST_DAMAGE:,} more, which the page names.", style="yellow")
    if report.verdicts:
        from rethinkgen.report.claims import headline

        beside = f"; {report.num_not_counted} known from memory only, not counted" if report.num_not_counted else ""
        say(f"Published claims: {headline(report.verdicts)}{beside}.")
    else:
        say("No published claim is about these runs.")
    numbers = {"table": len(report.tables), "figure": len(report.pictures)}
    what = ", ".join(f"{number} {name}{'' if number == 1 else 's'}" for name, number in numbers.items())
    say(f"{shown(index)}  ({what}, {seconds:.1f} s)")


def tell_error(error: Exception | str, exit_code: int) -> int:
    """Print what is wrong; return ``exit_code``."""
    say_error(error)
    return exit_code
