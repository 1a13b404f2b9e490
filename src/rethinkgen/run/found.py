"""What was found, in a sentence made from the runs, and how far it is to be trusted."""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Sequence

from rethinkgen.grouping import collected
from rethinkgen.numbers import shown
from rethinkgen.run.run import Run
from rethinkgen.run.settings import by_setting, corruption_name
from rethinkgen.run.spread import binomial_error

MOST_GROUPS = 3
"""Of more, the best and the worst are told."""
TWO_SIDED = 1.96
"""Standard errors of a 95 % interval."""


AXES: tuple[tuple[str, Callable[[Run], str]], ...] = (
    ("with", lambda run: "no corruption" if run.corruption == "none" else corruption_name(run)),
    ("with", lambda run: run.model),
    ("with", lambda run: " + ".join(run.regularizers) or "no regularizer"),
    ("on", lambda run: run.data),
)
"""What runs may differ in, before what of it, and its name."""


def sentence(runs: Sequence[Run]) -> str:
    """Say how many runs fitted their labels, and what the test accuracy is under what it differs most by.

    Runs are never averaged over what was swept: a range is of all runs of its name.
    """
    fits = [run for run in runs if math.isfinite(run.number("fit/accuracy"))]
    told = [run for run in fits if math.isfinite(run.number("test/accuracy"))]
    if not told:
        done = sum(run.result is not None for run in runs)
        if done and len(fits) == done and all(run.result and run.result.get("num_test") == 0 for run in fits):
            return f"{_fits(fits)}; nothing was left to test on."
        return "No run has finished." if not done else f"{done:,} runs finished, none with a fit and a test accuracy."
    classes = {run.num_classes for run in told}
    number = classes.pop() if len(classes) == 1 else None
    chance = f" (chance {100 / number:.3g} %)" if number else ""
    of_those = "" if len(told) == len(fits) else f" (of the {len(told):,} with a test part)"
    return f"{_fits(fits)}; test accuracy is {_test_accuracies(told)}{chance}{of_those}."


def _fits(runs: Sequence[Run]) -> str:
    fitted = [run for run in runs if run.fitted]
    if len(runs) == 1:
        steps = runs[0].metrics.get("steps_to_fit")
        after = f" after {shown(steps, 'steps')}" if steps and steps > 1 else ""
        return f"The run fitted its training labels{after}" if fitted else "The run did not fit all its training labels"
    wrong = sum(run.metrics.get("fit/accuracy_corrupted") is not None for run in fitted)
    what = f"fitted their training labels{f', wrong ones in {wrong:,} of them' if wrong else ''}"
    if len(fitted) == len(runs):
        return f"All {len(runs):,} runs {what}"
    number = f"{len(fitted):,}" if fitted else "None"
    fits = _range([100 * run.number("fit/accuracy") for run in runs])
    return f"{number} of {len(runs):,} runs {what} (accuracy on them {fits})"


def _test_accuracies(runs: Sequence[Run]) -> str:
    _, text = max((_along(runs, *axis) for axis in AXES), key=lambda found: found[0])
    return text


def _along(runs: Sequence[Run], before: str, name_of: Callable[[Run], str]) -> tuple[float, str]:
    """Return how far apart the test accuracies of an axis' names are on the mean, and these accuracies in words."""
    groups = collected((name_of(run), 100 * run.number("test/accuracy")) for run in runs)
    ordered = sorted(groups, key=lambda name: -statistics.fmean(groups[name]))
    if len(ordered) == 1:
        return 0.0, _range(groups[ordered[0]])
    named = ordered if len(ordered) <= MOST_GROUPS else [ordered[0], ordered[-1]]
    *first, last = [f"{_range(groups[name])} {before} {name}" for name in named]
    apart = statistics.fmean(groups[ordered[0]]) - statistics.fmean(groups[ordered[-1]])
    return apart, f"{', '.join(first)} and {last}"


def _range(values: Sequence[float]) -> str:
    low, high = shown(min(values), "%"), shown(max(values), "%")
    return high if low == high else f"{low.removesuffix(' %')} to {high}"


def doubts(runs: Sequence[Run]) -> list[str]:
    """Say why runs failed, and what the numbers rest on: seeds, the size of the test set, versions of the code."""
    done = [run for run in runs if run.result is not None]
    told = [_seeds(done), _test_set(done), _commits(done)] if done else []
    return list(filter(None, [_failures(runs), *told]))


def _failures(runs: Sequence[Run]) -> str:
    reasons = Counter(run.reason.splitlines()[0] for run in runs if run.state == "failed" and run.reason)
    if not reasons:
        return ""
    ((reason, number),) = reasons.most_common(1)
    which = f"{number:,} failed" if len(reasons) > 1 else "Failed"
    return f"{which} with: {reason.rstrip('.')}."


def _seeds(runs: Sequence[Run]) -> str:
    counts = list(map(len, by_setting(runs)))
    fewest, most, single = min(counts), max(counts), counts.count(1)
    if most == 1:
        return "One run a setting: how far another seed would differ is not known."
    if fewest == most:
        return f"{most} runs of every setting, which differ in their seeds."
    several = f"; {single:,} of {len(counts):,} settings have one alone" if single else ""
    return f"{fewest} to {most} runs a setting, which differ in their seeds{several}."


def _test_set(runs: Sequence[Run]) -> str:
    sizes = {run.num_test for run in runs}
    accuracies = [run.number("test/accuracy") for run in runs]
    size = sizes.pop() if len(sizes) == 1 else None
    if size is None or not all(0 <= accuracy <= 1 for accuracy in accuracies):
        return ""
    error = 100 * TWO_SIDED * max(binomial_error(accuracy, size) for accuracy in accuracies)
    return f"The test set has {size:,} images: an accuracy is known to ± {error:.1f} points or better (95 %)."


def _commits(runs: Sequence[Run]) -> str:
    number = len({str((run.result or {}).get("commit")) for run in runs})
    return f"The runs were made by {number} versions of rethinkgen's code." if number > 1 else ""
