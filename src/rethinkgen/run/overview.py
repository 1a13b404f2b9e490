"""What a folder of runs holds, in words: what was run, how far it is, what is damaged, what one types to have it."""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from rethinkgen.run.found import doubts, sentence
from rethinkgen.run.identity import takes_steps
from rethinkgen.run.origin import command_of, shown_commands
from rethinkgen.run.run import Run, damage_of
from rethinkgen.run.settings import is_graded

MOST_NAMES = 3
"""Sweeps in the title."""
WHAT = ("Data", "Corruption", "Models", "Regularizers", "Seeds")
"""Of the facts, those that say what was run; the others say how."""
STATES = ("running", "waiting", "interrupted", "failed", "missing")
"""Of runs without a result, in the order in which they are counted."""


@dataclass(frozen=True)
class Overview:
    """Some runs, however far they are."""

    runs: Sequence[Run]

    @cached_property
    def title(self) -> str:
        """The names of the sweeps, the first part, where all have the same, said once; of a single run its own."""
        if len(self.runs) == 1:
            return self.runs[0].path.name.rpartition("-")[0] or self.runs[0].path.name
        names = list(dict.fromkeys(run.sweep.name for run in self.runs))
        common = names[0].partition("-")[0]
        if len(names) == 1 or not all(name.startswith(f"{common}-") for name in names):
            return _some(names)
        return f"{common}: {_some([name.removeprefix(f'{common}-') for name in names])}"

    @cached_property
    def progress(self) -> str:
        """How many runs are finished, and how many of the others are in which state."""
        counts: Counter[str] = Counter(run.state for run in self.runs)
        others = [f"{counts[state]:,} {state}" for state in STATES if counts[state]]
        return ", ".join([f"{counts['done']:,} of {len(self.runs):,} runs finished", *others])

    @cached_property
    def found(self) -> str:
        """What was found, in a sentence."""
        return sentence(self.runs)

    @cached_property
    def doubts(self) -> list[str]:
        """What the numbers rest on, a sentence each."""
        return doubts(self.runs)

    @cached_property
    def unfinished(self) -> list[Run]:
        """Runs without a result."""
        return [run for run in self.runs if run.state != "done"]

    @cached_property
    def damage(self) -> list[tuple[str, str]]:
        """What of the files is damaged, and left out: the run's or sweep's name, and a line."""
        of_runs = [(run.path.name, line) for run in self.runs for line in run.damage]
        sweeps = dict.fromkeys(run.sweep for run in self.runs)
        return [*((sweep.name, line) for sweep in sweeps for line in damage_of(sweep)), *of_runs]

    @cached_property
    def facts(self) -> list[tuple[str, str]]:
        """What was run: a name and a line of text each, of the finished runs where only these can tell."""
        return _facts(self.runs)

    @cached_property
    def train_commands(self) -> list[str]:
        """The commands that the sweeps came from."""
        return shown_commands(command_of(self.runs))


def _some(names: Sequence[str]) -> str:
    more = len(names) - MOST_NAMES
    return " + ".join(names if more <= 1 else [*names[:MOST_NAMES], f"{more} more"])


def _facts(runs: Sequence[Run]) -> list[tuple[str, str]]:
    done = [run for run in runs if run.result is not None]
    results = [run.result for run in runs if run.result is not None]
    facts = [
        ("Data", _listed(_data(runs))),
        ("Corruption", _listed(_corruptions(runs))),
        ("Models", _listed(_models(runs))),
        ("Regularizers", _listed(" + ".join(run.regularizers) or "none" for run in runs)),
        ("Seeds", _listed(str(seed) for seed in sorted({run.seed for run in runs}))),
    ]
    if done:
        steps = sorted({int(run.metrics["steps"]) for run in done if run.metrics.get("steps") is not None})
        dates = sorted(str(result["finished"])[:10] for result in results if result.get("finished"))
        versions = [
            ", ".join(f"{name} {version}" for name, version in (result.get("versions") or {}).items())
            for result in results
        ]
        seconds = sum(float(result.get("seconds") or 0) for result in results)
        facts += [
            ("Steps trained", _range([f"{number:,}" for number in steps])),
            ("Finished", _range(dates)),
            ("Training time, all runs", _spoken(seconds) if seconds else ""),
            ("Device", _counted(str(result.get("device") or "unknown") for result in results)),
            ("Versions", _counted(versions)),
            ("Sweeps", _listed(run.sweep.name for run in runs)),
            ("Commit of rethinkgen", _counted(str(result.get("commit") or "unknown")[:10] for result in results)),
        ]
    return [(name, text) for name, text in facts if text]


def _data(runs: Sequence[Run]) -> list[str]:
    """Name each data set with the sizes that were taken of it, all of it last, and what was done to its images."""
    sizes = _values(
        ((run.data, run.key("data.preprocessing") or "whitening"), float(run.key("data.num_train") or math.inf))
        for run in runs
    )
    texts = []
    for (data, preprocessing), found in sizes.items():
        numbers = ["all" if size == math.inf else f"{size:,.0f}" for size in found]
        details = [f"{', '.join(numbers)} training examples"] if numbers != ["all"] else []
        details += [f"preprocessing {preprocessing}"] if preprocessing != "whitening" else []
        texts.append(f"{data} ({'; '.join(details)})" if details else data)
    return texts


def _corruptions(runs: Sequence[Run]) -> list[str]:
    levels = _values((run.corruption, run.level if is_graded(run) else None) for run in runs)
    told = {name: ", ".join(f"{level:g}" for level in found) for name, found in levels.items()}
    return [f"{name} ({text})" if text else name for name, text in told.items()]


def _models(runs: Sequence[Run]) -> list[str]:
    sizes = _values((run.model, run.metrics.get("num_parameters")) for run in runs)
    return [
        f"{model} ({_range([f'{int(size):,}' for size in found])} parameters)" if found else model
        for model, found in sizes.items()
    ]


def _values(pairs: Iterable[tuple[Any, float | None]]) -> dict[Any, list[float]]:
    """Return name -> its values, from low to high, each once."""
    found: dict[Any, set[float]] = defaultdict(set)
    for name, value in pairs:
        found[name] |= set() if value is None else {value}
    return {name: sorted(values) for name, values in found.items()}


def _spoken(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    return f"{minutes // 60:,} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


def _listed(texts: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(texts))


def _range(texts: Sequence[str]) -> str:
    return " to ".join(dict.fromkeys((texts[0], texts[-1]))) if texts else ""


def _counted(texts: Iterable[str]) -> str:
    """List what there is; where it is not the same in all runs, with the number of runs."""
    counts = Counter(texts)
    return "; ".join(f"{text} ({count} runs)" if len(counts) > 1 else text for text, count in counts.items())


def in_short(runs: Sequence[Run]) -> str:
    """Say what the runs were trained on and for how long."""
    data = ", ".join(dict.fromkeys(run.data for run in runs))
    sizes = {run.key("data.num_train") for run in runs}
    size = f", {next(iter(sizes)):,} examples" if len(sizes) == 1 and None not in sizes else ""
    budgets = sorted({int(run.metrics["steps"]) for run in runs if run.metrics.get("steps")})
    if not budgets or budgets == [1]:
        return f"{data}{size}"
    steps = " to ".join(f"{number:,}" for number in dict.fromkeys((budgets[0], budgets[-1])))
    return f"{data}{size}, {steps} steps"


def setup_of(runs: Sequence[Run], known_as: Mapping[str, str]) -> str:
    """Say on what and for how long: ``Data: cifar10. Budget: 25,000 steps of 128 examples.``

    ``known_as``: what is told of a data set besides its name.
    """
    if not runs:
        return ""
    names = dict.fromkeys(run.data for run in runs)
    data = ", ".join(f"{name} ({known_as[name]})" if name in known_as else name for name in names)
    subsets = sorted({int(run.key("data.num_train")) for run in runs if run.key("data.num_train")})
    if 0 < len(subsets) <= 3:
        data += f", {' or '.join(f'{size:,}' for size in subsets)} training examples"
    if not any(takes_steps(run.config) for run in runs):
        return f"Data: {data}."
    budgets = list(dict.fromkeys(_budget(run) for run in runs))
    if len(budgets) > 3:
        return f"Data: {data}. Budgets differ."
    until_fit = " or until fitted" if any(run.key("until_fit") for run in runs) else ""
    sizes = sorted({int(run.key("data.batch_size") or 0) for run in runs} - {0})
    of = f" of {' or '.join(map(str, sizes))} examples" if sizes and "steps" in budgets[0] else ""
    return f"Data: {data}. Budget: {' or '.join(budgets)}{of}{until_fit}."


def _budget(run: Run) -> str:
    if (epochs := run.key("max_epochs")) is not None:
        return f"{epochs:g} epochs"
    steps = run.key("max_steps")
    return f"{steps:,} steps" if isinstance(steps, int) else "unknown"
