"""``publish=wandb``: what W&B lacks of the runs is sent, then figures and page, then the report that shows them.

Nothing is sent twice: figures and page go to one run of ``job_type=report``, which is known by the names of what the
report is about, and which remembers what it shows and which W&B report shows it.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rethinkgen.console import say, say_error, stdout
from rethinkgen.errors import PublishingError
from rethinkgen.publish.upload import (
    Place,
    Sent,
    be_quiet,
    default_entity,
    logged_to,
    open_run,
    runs_there,
    send_missing,
)
from rethinkgen.run.run import Run
from rethinkgen.run.wandb_offline import in_brief, is_logged_in

if TYPE_CHECKING:
    import wandb

    from rethinkgen.report.contents import Report

INSTALL = "uv sync --extra reports, or pip install 'rethinkgen[reports]'"
DEFAULT_PROJECT = "rethinkgen"
"""Of runs that were logged nowhere, as in ``conf/logger/wandb.yaml``."""
DRAFT, FINAL = "runs/draft", "runs"
"""What W&B calls a report that only its author sees, and one that all see who see the project."""
VIEW = "query RethinkgenReport($reportId: ID!) { view(id: $reportId) { id type } }"
MOST_FAILURES = 12
"""Runs that were not sent, named on the terminal."""
TIME = re.compile(r"\d{4}-\d\d-\d\d \d\d:\d\d(:\d\d)? UTC")
"""When the page was written, which alone is no news."""


@dataclass(frozen=True)
class Wish:
    """What is asked for beside publishing: another place than the runs' own, a link for everybody."""

    entity: str | None = None
    project: str | None = None
    share: bool = False


@dataclass(frozen=True)
class Published:
    """What came of it."""

    sent: Sent
    address: str
    is_draft: bool
    is_new: bool
    """Whether anything of the report itself had to be sent."""
    share_link: str | None


def check_can_publish() -> None:
    """See that a report could be saved, before anything is done.

    Raises:
        ValueError: wandb-workspaces is not installed, W&B is switched off, cannot be reached, or nobody is logged in.
    """
    if importlib.util.find_spec("wandb_workspaces") is None:
        raise ValueError(f"publish=wandb needs wandb-workspaces, which is not installed: {INSTALL}.")
    mode = os.environ.get("WANDB_MODE", "online")
    if mode not in ("online", "shared"):
        raise ValueError(f"publish=wandb: WANDB_MODE={mode} keeps W&B offline. WANDB_MODE=online lets it publish.")
    import wandb

    be_quiet()
    try:
        has_login = is_logged_in(wandb.setup().settings)
    except wandb.errors.Error as error:
        raise ValueError(
            f"publish=wandb: W&B does not take the login here, or does not answer: {in_brief(error)}. Without publish= "
            "the report is written all the same."
        ) from error
    if not has_login:
        raise ValueError(
            "publish=wandb: nobody is logged in to W&B here. wandb login (or WANDB_API_KEY), and the same command "
            "again; without publish= the report is written all the same."
        )


def places_of(runs: Sequence[Run], wish: Wish) -> dict[Place, list[Run]]:
    """Return where on W&B the runs are or will be, that with most runs first; before anything is done.

    A run goes where its config says, one that was logged nowhere to most of the others.

    Raises:
        ValueError: whoever is logged in is in no such team, or there can be no such project.
    """
    import wandb

    try:
        api = wandb.Api()
        viewer = api.viewer
    except Exception as error:  # of any kind: the network's, or W&B's
        raise ValueError(f"publish=wandb: W&B does not answer: {in_brief(error)}") from error
    logged = [logged_to(run, api) for run in runs]
    known = Counter(place for place in logged if place is not None).most_common(1)
    usual = known[0][0] if known else Place(default_entity(api), DEFAULT_PROJECT)
    places: dict[Place, list[Run]] = {}
    for run, found in zip(runs, logged, strict=True):
        own = found or usual
        places.setdefault(Place(wish.entity or own.entity, wish.project or own.project), []).append(run)
    for place, theirs in places.items():
        _check_place(place, len(theirs), viewer, wish)
    return dict(sorted(places.items(), key=lambda item: -len(item[1])))


def _check_place(place: Place, number: int, viewer: Any, wish: Wish) -> None:
    import wandb

    own = list(dict.fromkeys(filter(None, [viewer.entity, viewer.username, *viewer.teams])))
    if place.entity.casefold() not in {name.casefold() for name in own}:
        whose = f"entity={wish.entity}: " if wish.entity else f"{number:,} of the runs were logged to {place}, but "
        raise ValueError(
            f"publish=wandb: {whose}{viewer.username}, who is logged in here, can publish to {' or '.join(own)}. Give "
            f"one of these, as entity={own[0]}, or log in as somebody of {place.entity}."
        )
    try:
        wandb.Settings(project=place.project)
    except (wandb.errors.UsageError, ValueError) as error:
        raise ValueError(f"publish=wandb: {in_brief(error)}. Give another: project=...") from error


def publish(
    report: Report,
    page: str,
    places: dict[Place, list[Run]],
    wish: Wish,
    names: Sequence[str],
    tell: Callable[[str], None] = lambda _: None,
) -> Published:
    """Bring runs, figures, page and report to W&B; ``names`` are those of the folders that the report is about.

    Raises:
        PublishingError: W&B cannot be reached, or refuses.
    """
    import wandb

    try:
        api = wandb.Api()
        sent = send_missing(places, tell)
        tell("figures, page and report")
        run_id = f"report-{_digest([api.viewer.username, *sorted(names)])[:12]}"
        showing = Showing(api, report, page, places, run_id)
        is_new = showing.bring(share=wish.share)
        link = showing.built.enable_share_link() if wish.share else None
        return Published(sent, str(showing.built.url), showing.is_draft, is_new, link)
    except Exception as error:  # of any kind: the network's, or W&B's
        raise PublishingError(
            f"W&B did not take the report ({type(error).__name__}: {in_brief(error)}). What it has stays there, and "
            "the same command sends the rest."
        ) from error


def publisher(runs: Sequence[Run], wish: Wish, names: Sequence[str]) -> Callable[[Report, Path], int]:
    """Return what brings a report and its page to W&B, says so and gives the exit code; it is clear that it can.

    Raises:
        ValueError: see ``places_of``.
    """
    places = places_of(runs, wish)

    def bring(report: Report, index: Path) -> int:
        try:
            with stdout().status("publishing") as status:
                page = index.read_text(encoding="utf-8")
                return tell(publish(report, page, places, wish, names, tell=status.update))
        except PublishingError as error:
            say_error(f"publish=wandb: {error} The page above is written.")
            return 1

    return bring


def tell(done: Published) -> int:
    """Say what W&B has got and where it is; return the exit code."""
    sent = done.sent
    numbers = {
        f"sent ({sent.rows:,} rows)": sent.runs,
        "there already": sent.were_there,
        "at work, which send their own rows": sent.at_work,
        "without anything to send yet": sent.empty,
        "not sent": len(sent.failures),
    }
    told = [f"{number:,} {text}" for text, number in numbers.items() if number]
    say(f"W&B: of {sum(numbers.values()):,} runs {', '.join(told)}.")
    for line in sent.failures[:MOST_FAILURES]:
        say(f"not sent to W&B: {line}", style="yellow")
    if len(sent.failures) > MOST_FAILURES:
        say(f"... and {len(sent.failures) - MOST_FAILURES:,} more. The same command tries again.", style="yellow")
    unchanged = "" if done.is_new else ", unchanged"
    what = "W&B draft, to look through and publish" if done.is_draft else "W&B report"
    say(f"{what}{unchanged}: {done.address}")
    if done.share_link is not None:
        say(f"Whoever has this link can read it without an account: {done.share_link}")
    return 1 if sent.failures else 0


class Showing:
    """The W&B report and the run with its figures and page, as they are there and as they should be."""

    def __init__(self, api: wandb.Api, report: Report, page: str, places: dict[Place, list[Run]], run_id: str) -> None:
        from rethinkgen.publish.document import build, run_sets

        self.api, self.report, self.page, self.run_id = api, report, page, run_id
        self.home = next(iter(places))
        self.built = build(report, places, run_id)
        self.is_draft = True
        self._contents = _digest([TIME.sub("", page), *map(repr, run_sets(places))])
        there = runs_there(api, self.home, [run_id]).get(run_id)
        self._known: dict[str, Any] = dict((there and there.config.get("report")) or {})

    def bring(self, *, share: bool) -> bool:
        """Send what is new, and return whether anything was; what its author has published is no draft again."""
        view = self._view()
        self.built.id = view.get("id", "")
        self.is_draft = not share and view.get("type", DRAFT) == DRAFT
        wanted = {"contents": self._contents, "saved": self._contents}
        if view.get("type") == (DRAFT if self.is_draft else FINAL) and wanted.items() <= self._known.items():
            return False
        with tempfile.TemporaryDirectory(prefix="rethinkgen-wandb-") as scratch:
            self._log_and_save(Path(scratch))
        return True

    def _view(self) -> dict[str, Any]:
        """Return the W&B report that was saved before, nothing where somebody has deleted it."""
        from wandb_workspaces._graphql import execute_graphql

        view_id = self._known.get("view")
        return (view_id and execute_graphql(self.api, VIEW, {"reportId": view_id}).get("view")) or {}

    def _log_and_save(self, scratch: Path) -> None:
        """Log figures and page where they are new, and save the report; note what was done as soon as it is."""
        described = {"id": self.run_id, "resume": "allow", "job_type": "report", "name": f"report: {self.report.title}"}
        opened = open_run(self.home, scratch, described)
        exit_code = 1
        try:
            if self._known.get("contents") != self._contents:
                opened.log(_media(self.report, self.page, scratch))
                self._note(opened, contents=self._contents)
            self.built.save(draft=self.is_draft)
            self._note(opened, saved=self._contents, view=self.built.id)
            exit_code = 0
        finally:
            opened.finish(exit_code=exit_code)

    def _note(self, opened: wandb.Run, **done: str) -> None:
        self._known |= done
        config: Any = opened.config
        config.update({"report": self._known}, allow_val_change=True)


def _media(report: Report, page: str, scratch: Path) -> dict[str, Any]:
    import wandb

    from rethinkgen.publish.document import PAGE, figure_key

    media: dict[str, Any] = {PAGE: wandb.Html(page, inject=False)}
    for picture in report.pictures:
        path = scratch / f"{picture.name}.png"
        path.write_bytes(picture.to_png())
        media[figure_key(picture)] = wandb.Image(str(path), caption=picture.caption)
    return media


def _digest(texts: Sequence[str]) -> str:
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()
