"""What a declaration can only name: a function each, of the settings or runs that it chooses from."""

from __future__ import annotations

from collections.abc import Sequence

from rethinkgen.run.quantities import wrong_share
from rethinkgen.run.run import Run

SHOWN_NOISE = 0.4
"""Share of wrong labels at which learning and memorising are both seen, or the nearest there is."""


def nearest_to_40_percent_wrong(groups: Sequence[list[Run]]) -> list[Run]:
    """Return the setting whose share of wrong labels is nearest to 0.4: without regularizers, finished, if there is."""
    # The groups come in the order of the networks: the first of equals is taken.
    return min(
        groups,
        key=lambda group: (
            bool(group[0].regularizers),
            all(run.state != "done" for run in group),
            round(abs(wrong_share(group[0]) - SHOWN_NOISE), 2),
            # What rises early is seen by who looks often.
            group[0].key("evaluate_every") or 0,
        ),
    )
