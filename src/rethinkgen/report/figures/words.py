"""What a caption says of every figure: the data, the budget, how many runs, and what lines and bands are."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

from rethinkgen.report.figures.series import finished
from rethinkgen.run.run import Run

PIXELS = {"cifar10_jpeg": "CIFAR-10 stored as JPEG, whose pixels are not the originals"}


def setup_of(runs: Sequence[Run]) -> str:
    """Say on what and for how long: ``Data: cifar10. Budget: 25,000 steps of 128 examples.``"""
    data = ", ".join(f"{name} ({PIXELS[name]})" if name in PIXELS else name for name in _each(run.data for run in runs))
    subsets = sorted({int(run.key("data.num_train")) for run in runs if run.key("data.num_train")})
    if 0 < len(subsets) <= 3:
        data += f", {' or '.join(f'{size:,}' for size in subsets)} training examples"
    budgets = _each(_budget(run) for run in runs)
    until_fit = " or until fitted" if any(run.key("until_fit") for run in runs) else ""
    if len(budgets) > 3:
        return f"Data: {data}. Budgets differ."
    sizes = sorted({int(run.key("data.batch_size") or 0) for run in runs} - {0})
    of = f" of {' or '.join(map(str, sizes))} examples" if sizes else ""
    return f"Data: {data}. Budget: {' or '.join(budgets)}{of if 'steps' in budgets[0] else ''}{until_fit}."


def spread_of(table: pd.DataFrame, what: str = "bands") -> str:
    """Say what the spread is, given ``n`` of everything drawn."""
    counts = sorted({int(n) for n in table[~is_single(table)]["n"].dropna() if n})
    if not counts:
        return one_by_one(table)
    if counts == [1]:
        return sentences("One run each (n = 1), so no spread.", one_by_one(table))
    n = f"{counts[0]}" if len(counts) == 1 else f"{counts[0]} to {counts[-1]}"
    means = f"Means and {what} of one sample standard deviation over n = {n} seeds."
    return sentences(means, one_by_one(table))


def is_single(table: pd.DataFrame) -> pd.Series[bool]:
    """Tell which points are of a run that is drawn by itself."""
    return table.get("kind", pd.Series("mean", table.index)).astype(str).str.startswith("seed")


def one_by_one(table: pd.DataFrame) -> str:
    """Explain the curves that are no means."""
    kinds = table[is_single(table)].get("kind", pd.Series(dtype=str))
    said = "Thin lines are single runs, which ended at different steps." if kinds.str.endswith("done").any() else ""
    if kinds.str.endswith("done").all():
        return said
    return sentences(said, "A thin line that ends in an open circle is a run that is not finished.")


def unfinished(runs: Iterable[Run]) -> str:
    """Say how many runs are not in the figure, or not to their ends."""
    known = list(runs)
    missing = len(known) - len(finished(known))
    return f"Not finished: {missing} of {len(known)} runs." if missing else ""


def sentences(*parts: str) -> str:
    """Join what there is to say."""
    return " ".join(part for part in parts if part)


def _budget(run: Run) -> str:
    if (epochs := run.key("max_epochs")) is not None:
        return f"{epochs:g} epochs"
    steps = run.key("max_steps")
    return f"{steps:,} steps" if isinstance(steps, int) else "unknown"


def _each(values: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(values))


def left_out(what: Sequence[Any], called: str) -> str:
    """Say what there was no room for."""
    if not what:
        return ""
    listed = f": {'; '.join(map(str, what[:4]))}" if all(isinstance(item, str) for item in what) else ""
    more = f" and {len(what) - 4} more" if listed and len(what) > 4 else ""
    return f"Not drawn are {len(what)} {called}{listed}{more}."
