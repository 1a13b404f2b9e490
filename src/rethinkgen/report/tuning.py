"""Which strength a claim is judged by: the one that did best on images held out, never on the test set."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence

from rethinkgen.grouping import collected
from rethinkgen.report.claim_files import Claim
from rethinkgen.run.identity import SEEDS
from rethinkgen.run.quantities import observe
from rethinkgen.run.run import Run
from rethinkgen.run.where import matches

ACTS = 0.01
"""Share by which a strength changes the solution at least, where it acts."""


def untuned(claim: Claim, runs: Sequence[Run]) -> str:
    """Say why there is no run with the strength that was chosen on held-out images; nothing where there is one."""
    assert claim.tuned is not None
    chosen = chosen_strengths(claim, runs)
    name = claim.tuned.key
    if not chosen:
        held_out = ", ".join(f"{key}={value:g}" for key, value in claim.tuned.held_out.items())
        return (
            f"no {name} was chosen by {claim.tuned.by} with {held_out}: runs without it, and with"
            f" {claim.tuned.at_least} strengths that act and leave {claim.tuned.fits:g} % fitted, are needed"
        )
    if not any(is_tuned(run, claim, chosen) for run in runs):
        told = ", ".join(f"{name}={strength:g}" for strength in chosen.values())
        return f"chosen on held-out images was {told}, which is not run on all of them"
    return ""


def chosen_strengths(claim: Claim, runs: Sequence[Run]) -> dict[str, float]:
    """Return setting but for strength and held-out images -> the strength that did best on these."""
    tuning = claim.tuned
    assert tuning is not None
    tried = [run for run in runs if run.state == "done" and run.key(tuning.key) is not None]
    held_out = [run for run in tried if matches(run, tuning.held_out)]
    chosen = {}
    for setting, of_it in collected((_tuned_setting(run, claim), run) for run in held_out).items():
        strengths = collected((float(run.key(tuning.key)), run) for run in of_it)
        without = _mean(strengths.get(0.0, []), tuning.acts_on)
        scores = {
            strength: score
            for strength, group in strengths.items()
            if strength and _mean(group, tuning.acts_on) <= (1 - ACTS) * without
            if 100 * _mean(group, "fit/accuracy") >= tuning.fits
            if not math.isnan(score := _mean(group, tuning.by))
        }
        if len(scores) >= tuning.at_least:
            chosen[setting] = max(scores, key=lambda strength: scores[strength])
    return chosen


def _tuned_setting(run: Run, claim: Claim) -> str:
    assert claim.tuned is not None
    return run.setting(*SEEDS, *claim.vary, *claim.tuned.held_out)


def is_tuned(run: Run, claim: Claim, chosen: Mapping[str, float]) -> bool:
    """Whether a run on all images has the strength that was chosen for its setting."""
    assert claim.tuned is not None
    is_chosen = run.key(claim.tuned.key) == chosen.get(_tuned_setting(run, claim))
    return is_chosen and not matches(run, claim.tuned.held_out)


def _mean(runs: Sequence[Run], metric: str) -> float:
    """Return the mean over those that have it; not a number where none has."""
    found = [value for run in runs if (value := observe(run, metric)) is not None]
    return statistics.fmean(found) if found else math.nan
