"""What a declaration can only name: a function each, of the settings or runs that it chooses from."""

from __future__ import annotations

from collections.abc import Sequence

from rethinkgen.run.quantities import wrong_share
from rethinkgen.run.run import Run


def nearest_to_40_percent_wrong(groups: Sequence[list[Run]]) -> list[Run]:
    """Return the setting whose share of wrong labels is nearest to 0.4: without regularizers, finished, if there is."""
    # There both learning and memorising are seen. The groups come in the order of the networks: of equals the first.
    return min(
        groups,
        key=lambda group: (
            bool(group[0].regularizers),
            all(run.state != "done" for run in group),
            round(abs(wrong_share(group[0]) - 0.4), 2),
            # What rises early is seen by who looks often.
            group[0].key("evaluate_every") or 0,
        ),
    )
