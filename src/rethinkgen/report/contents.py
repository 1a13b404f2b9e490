"""What a report holds, whatever it is written as: what was run, what came of each claim, tables, figures."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

from rethinkgen.grouping import collected
from rethinkgen.report.claim_files import Paper
from rethinkgen.report.claims import Verdict, judge, main_table
from rethinkgen.report.figures import Picture, pictures
from rethinkgen.report.figures.declaration import Figure
from rethinkgen.report.tables import Table, tables
from rethinkgen.run.origin import without_machine_paths
from rethinkgen.run.overview import Overview
from rethinkgen.run.run import Run


@dataclass(frozen=True)
class Report(Overview):
    """Everything that is said of some runs."""

    verdicts: Sequence[Verdict]
    main_table: Table | None
    """What was published, ours and the verdict in short; none where the runs bear on nothing that was published."""
    tables: Sequence[Table]
    pictures: Sequence[Picture]
    command: str
    """That made the report."""
    not_drawn: Sequence[str] = ()
    """A line on each figure that was asked for and is not there."""

    @cached_property
    def sources(self) -> dict[Paper, list[str]]:
        """Of each paper whose claims were judged, the marks of the sources that these cite."""
        cited = collected((verdict.claim.paper, mark) for verdict in self.verdicts for mark in verdict.claim.cited)
        return {paper: [mark for mark in paper.sources if mark in marks] for paper, marks in cited.items()}

    @property
    def all_tables(self) -> list[Table]:
        """That of the claims last."""
        return [*self.tables, *([self.main_table] if self.main_table else [])]

    @cached_property
    def num_not_counted(self) -> int:
        """Number of claims whose published value nobody has checked."""
        return sum(not verdict.claim.is_counted for verdict in self.verdicts)


def gather(runs: Sequence[Run], command: str, figures: Sequence[Figure] = (), unfit: Sequence[str] = ()) -> Report:
    """Judge, tabulate and draw ``runs``; ``command`` is the one that asked for it, ``figures`` those of the user's.

    ``unfit``: a line on each figure of the user's that these runs cannot be drawn in.
    """
    verdicts = judge(runs)
    drawn = pictures(runs, figures)
    empty = [figure for figure in figures if not any(picture.declaration is figure for picture in drawn)]
    nothing = "nothing to draw: no two points are as it says."
    return Report(
        runs=runs,
        verdicts=verdicts,
        main_table=main_table(verdicts) if verdicts else None,
        tables=tables(runs),
        pictures=drawn,
        not_drawn=[*unfit, *(f"figure {figure.name} ({figure.title}): {nothing}" for figure in empty)],
        command=without_machine_paths(command),
    )
