"""What of a run a claim, figure or table looks at: choices and keys on one side, the number measured on the other."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import Any, NamedTuple

from rethinkgen.measure.thresholds import STEPS_TO_NEARLY_FIT
from rethinkgen.report.claim_files import DERIVED, Claim
from rethinkgen.report.numbers import NUM_TEST
from rethinkgen.run.identity import LEVELS, SEEDS, flatten, takes_steps
from rethinkgen.run.run import NUM_TRAIN, Run

CHOICES = ("data", "data.corruption", "model", "loss", "regularizer", "optimizer", "schedule")
NODE_OF = {"data": "data.source"} | {
    name: name for name in ("data.corruption", "model", "optimizer", "schedule", "loss")
}
"""Group of choices -> where the chosen file lies in a config."""
MEASURED = {"num_classes": "num_classes", "num_examples": "num_train"}
"""Properties of the data as they were loaded -> their name in ``result.json``; only a finished run has them."""
MEASURED_PREFIXES = ("steps_to", "num_parameters", "rademacher", "parameters_", "generalization")
STANDARD = ("fit/accuracy", "fit/loss", "test/accuracy", "test/loss", "train/loss", "train/accuracy", "steps_to_fit")
"""What every run has once it is finished."""
OF_RUN: dict[str, Callable[[Run], Any]] = {
    "data": lambda run: run.data,
    "data.corruption": lambda run: run.corruption,
    "model": lambda run: run.model,
    "regularizer": lambda run: list(run.regularizers),
    "level": lambda run: run.level,
    "steps": lambda run: run.metrics.get("steps", run.key("max_steps")),
    "step": lambda run: None,
    "num_examples": lambda run: (
        (run.result or {}).get("num_train") or run.key("data.num_train") or NUM_TRAIN.get(run.data)
    ),
    "num_classes": lambda run: (run.result or {}).get("num_classes"),
    "image_shape": lambda run: None if run.image_shape is None else "x".join(map(str, run.image_shape)),
    "sweep": lambda run: run.sweep.name,
    "takes_steps": lambda run: takes_steps(run.config),
    "graded": lambda run: any(run.key(f"data.corruption.{key}") is not None for key in LEVELS),
}
"""What is known of a run, besides the keys of its config."""
QUANTITY_KEYS = {
    **dict.fromkeys(("level", "noise/probability", "noise/realised"), ("data.corruption",)),
    "num_examples": ("data.num_train",),
    "steps": ("max_steps", "max_epochs"),
}
"""What follows from keys of other names."""
NAMED_WITH = QUANTITY_KEYS | {
    "data": ("data.source",),
    **{group: (f"{group}.class", f"{group}.protocol") for group in ("model", "optimizer", "schedule")},
}
"""What a claim names -> the keys of a config that are named with it; all others with all keys below them."""
NOT_NAMED = "named by the paper"
"""What a key that is not neutral is not, where neither claim nor protocol says anything of it."""
MOST_TOLD = 3
"""Keys that a name is made of, where these tell all apart."""
FALLEN = 0.9
"""Share of the loss of guessing, ln K, below which a training loss has begun to fall."""
MILESTONES = {
    "steps_to_fit": "the run's own threshold",
    STEPS_TO_NEARLY_FIT: "99 % fitted",
    "steps_to_loss_0.1": "a loss of 0.1",
    "steps_to_loss_0.01": "a loss of 0.01",
    "steps_to_fall": f"a loss of {FALLEN:g} ln K",
}
"""What each kind of steps is counted to."""


class Facts(NamedTuple):
    """How a quantity is shown."""

    label: str
    scale: float = 1.0
    limits: tuple[float | None, float | None] = (None, None)
    is_log: bool = False
    """Where values reach over more than a few times the smallest."""


FACTS = {
    "fit/accuracy": Facts("accuracy on training set (%)", 100.0, (None, 103)),
    "train/accuracy": Facts("running training accuracy (%)", 100.0, (None, 103)),
    "train/loss": Facts("training loss (nats)", limits=(0, None)),
    "steps_to_fit": Facts("steps to fit", is_log=True),
    STEPS_TO_NEARLY_FIT: Facts("steps to fit 99 %", is_log=True),
    "rademacher": Facts("lower bound on the complexity", limits=(0, 1.08)),
    "level": Facts("level of corruption", limits=(-0.04, 1.04)),
    "num_examples": Facts("training examples n", is_log=True),
    "solution/residual": Facts("largest residual", is_log=True),
    "noise/realised": Facts("wrong labels (%)", 100.0),
}


def facts(quantity: str) -> Facts:
    """Return how a quantity is shown; of shares in percent, of one that nothing is known of its name and no more."""
    if quantity in FACTS:
        return FACTS[quantity]
    what, _, kind = quantity.rpartition("/")
    if kind == "error":
        return Facts(f"{what} error (%)", 100.0, (0, 100))
    if kind.startswith("accuracy"):
        return Facts(f"{what} {kind.replace('_', ' ')} (%)".strip(), 100.0, (None, 103))
    if kind.startswith("loss"):
        return Facts(f"{what} loss (nats)", limits=(0, None))
    if quantity.startswith("steps_to"):
        return Facts(quantity.replace("_", " "), is_log=True)
    return Facts(quantity, is_log=quantity.startswith(("data.", "model.", "optimizer.", "num_")))


def observe(run: Run, metric: str) -> float | None:
    """Return a finished run's metric, or one of these that follow from it; infinite where a step was not reached.

    ``test/error``: 1 - test/accuracy. ``test/gain_from_stopping``: test/accuracy_oracle - test/accuracy.
    ``test/unsteadiness``: mean absolute change of test/accuracy from an evaluation to the next. ``rademacher``:
    2 * fit/accuracy - 1, the agreement with random signs on the scale of -1 to 1. ``steps_to_fall``: the first logged
    step whose train/loss is below 0.9 ln K. ``parameters_beyond_2n+d``: num_parameters - (2 n + d) for n training
    examples of d pixels. ``*`` stands for any text: of a measure's number, whatever its parameters are.
    Of what was logged or measured at several steps ``rise/...``, ``fall/...``, ``overfitting/...``: ``ALONG_TRAINING``.
    """
    if run.state != "done":
        return None
    kind, _, logged = metric.partition("/")
    if kind in ALONG_TRAINING:
        along = ALONG_TRAINING[kind](run, logged)
        return along if math.isfinite(along) else None
    if "*" in metric:
        metric = next(reversed([name for name in run.metrics if fnmatchcase(name, metric)]), metric)
    if metric.startswith("steps_to") and metric in run.metrics and run.metrics[metric] is None:
        return math.inf
    found = FOLLOWING[metric](run) if metric in FOLLOWING else run.number(metric)
    return float(found) if math.isfinite(found) else None


def _unsteadiness(run: Run) -> float:
    if "test/accuracy" not in run.curves:
        return math.nan
    return float(run.curves["test/accuracy"].dropna().diff().abs().mean())


def _steps_to_fall(run: Run) -> float:
    if "train/loss" not in run.curves or not run.num_classes:
        return math.nan
    fallen = run.curves[run.curves["train/loss"] < FALLEN * math.log(run.num_classes)]
    return float(fallen["step"].iloc[0]) if len(fallen) else math.nan


def _weights_of_theorem_1(run: Run) -> float:
    # Held-out examples are not built for; results from before it was noted have none.
    num_train = (run.result or {}).get("num_train") or run.key("data.num_train")
    if run.image_shape is None or num_train is None or run.metrics.get("num_parameters") is None:
        return math.nan
    return float(2 * num_train + math.prod(run.image_shape))


FOLLOWING: dict[str, Callable[[Run], float]] = {
    "test/error": lambda run: 1.0 - run.number("test/accuracy"),
    "test/gain_from_stopping": lambda run: run.number("test/accuracy_oracle") - run.number("test/accuracy"),
    "test/unsteadiness": _unsteadiness,
    "rademacher": lambda run: 2.0 * run.number("fit/accuracy") - 1.0,
    "steps_to_fall": _steps_to_fall,
    "parameters_beyond_2n+d": lambda run: run.number("num_parameters") - _weights_of_theorem_1(run),
    "2n+d": _weights_of_theorem_1,
}
"""What follows from the numbers of a run."""


def _rise(run: Run, quantity: str) -> float:
    values = _logged(run, quantity)[quantity]
    return float(values.max() - values.iloc[0]) if len(values) > 1 else math.nan


def _fall(run: Run, quantity: str) -> float:
    values = _logged(run, quantity)[quantity]
    return float(values.max() - values.iloc[-1]) if len(values) > 1 else math.nan


def _overfitting(run: Run, quantity: str) -> float:
    values, losses = _logged(run, quantity), _logged(run, "validation/loss")
    if len(values) < 2 or not len(losses):
        return math.nan
    turn = losses["step"].loc[losses["validation/loss"].idxmin()]
    nearest = values[quantity].loc[(values["step"] - turn).abs().idxmin()]
    return float(values[quantity].iloc[-1] - nearest)


def _logged(run: Run, quantity: str) -> Any:
    """Return the rows ``step, quantity`` of a run's curves that have it."""
    curves = run.curves
    return (curves if quantity in curves else curves.assign(step=0, **{quantity: 0.0})[:0])[["step", quantity]].dropna()


ALONG_TRAINING: dict[str, Callable[[Run, str], float]] = {"rise": _rise, "fall": _fall, "overfitting": _overfitting}
"""What a quantity does along training: ``rise/Q``, its largest value less its first; ``fall/Q``, its largest value less
its last; ``overfitting/Q``, its last value less that at the step, of those that have it, nearest to the smallest
``validation/loss``."""


def is_measured(quantity: str) -> bool:
    """Whether it is a number of the results, not a part of the config."""
    return "/" in quantity or quantity.startswith(MEASURED_PREFIXES)


def keys_of(quantity: str) -> tuple[str, ...]:
    """Return the keys of the config, each with all below it, that a quantity follows from."""
    return QUANTITY_KEYS.get(quantity, (quantity,))


def known_quantities(runs: Iterable[Run]) -> list[str]:
    """Return the names of everything that any of the runs has: choices, properties, numbers, keys."""
    found: dict[str, None] = dict.fromkeys((*CHOICES, *OF_RUN, *DERIVED, *STANDARD))
    for run in runs:
        found |= dict.fromkeys([*run.metrics, *run.curves.columns, *flatten(run.config)])
    return [name for name in found if not name.endswith(("_target_", "protocol"))]


def property_of(run: Run, key: str) -> Any:
    """Return a choice, a key of the config, or what else is known of a run: see ``OF_RUN``."""
    if key in OF_RUN:
        return OF_RUN[key](run)
    if key in NODE_OF:
        return run.choices.get(key)
    # What an older config lacks is what was neutral then.
    return run.identity.get(key) if (value := run.key(key)) is None else value


def value_of(run: Run, quantity: str) -> Any:
    """Return a choice, a key or a property of a run, or what was measured; regularizers as one text."""
    if is_measured(quantity):
        return observe(run, quantity)
    if quantity == "num_examples":
        return run.num_examples
    value = property_of(run, quantity)
    if quantity == "regularizer":
        return "+".join(value)
    # As of layers' sizes: what runs are grouped by.
    return str(value) if isinstance(value, list | dict) else value


def num_test(run: Run) -> int | None:
    """Return how many examples the run's test accuracy is measured on, where that is known."""
    found = (run.result or {}).get("num_test", NUM_TEST.get(run.data))
    return int(found) if found else None


def is_kindred(data: str, wanted: str) -> bool:
    """Whether this is the data set that is wanted, or its images as JPEG."""
    return data in (wanted, f"{wanted}_jpeg")


def chance(run: Run, metric: str) -> float | None:
    """Return what guessing gives of an accuracy or of the test error, in [0, 1]."""
    if not run.num_classes or not metric.startswith(("test/", "fit/", "train/")):
        return None
    if metric.endswith("_top5"):
        return min(1.0, 5 / run.num_classes)
    return 1 - 1 / run.num_classes if metric == "test/error" else 1 / run.num_classes


def matches(run: Run, selector: Mapping[str, Any]) -> bool:
    """Whether the run has the value, one of the values, or a value within the bound, of every key."""
    return all(_is_allowed(property_of(run, key), wanted, key) for key, wanted in selector.items())


def _is_allowed(value: Any, allowed: Any, key: str) -> bool:
    if isinstance(allowed, dict):
        ((kind, bound),) = allowed.items()
        return value is not None and (value >= bound if kind == "at_least" else value <= bound)
    if key == "regularizer":
        options = allowed if allowed and isinstance(allowed[0], list) else [allowed]
        return any(sorted(option) == sorted(value) for option in options)
    # True is no 1 here.
    return any(
        (value == option and isinstance(value, bool) == isinstance(option, bool))
        or (isinstance(option, str) and "*" in option and fnmatchcase(str(value), option))
        for option in (allowed if isinstance(allowed, list) else [allowed])
    )


def deviations(run: Run, claim: Claim) -> list[str]:
    """Return what of a run is not the paper's, a text each; of an unfinished one, as far as its config tells.

    That is what the claim's protocol says otherwise, and what no part of the claim names and is not neutral.
    """
    found = []
    for key, allowed in claim.protocol.items():
        if key in MEASURED and run.state != "done":
            continue
        if isinstance(allowed, dict) and "by_model" in allowed:
            if run.model not in allowed["by_model"]:
                continue
            allowed = allowed["by_model"][run.model]
        value = property_of(run, key)
        if not _is_allowed(value, allowed, key):
            found.append(f"{key}={as_text(value)}, not {as_text(allowed)}")
    named = {key for name in claim.names for key in NAMED_WITH.get(name, (name,))}
    named |= {*SEEDS, *claim.vary, *claim.leaves_open}
    return found + [
        f"{key}={as_text(value)}, not {NOT_NAMED}"
        for key, value in run.not_neutral.items()
        if not is_below(key, named) and (claim.depends_on is None or is_below(key, claim.depends_on))
    ]


def is_below(key: str, prefixes: Iterable[str]) -> bool:
    """Whether a dotted key is one of these, or lies below one."""
    return f"{key}.".startswith(tuple(f"{prefix}." for prefix in prefixes))


def differences(runs: Sequence[Run], leaving_out: Sequence[str] = ()) -> list[list[str]]:
    """Name each run by what of its config is not the same in all, seeds aside; a single one needs no name.

    A choice goes by its name, with all that follows from it. As many of these and of other keys are told as it takes to
    tell all runs apart that differ in any, and no fewer than ``MOST_TOLD`` where there are so many; and the data, where
    only these differ. ``leaving_out`` are keys, with all below them, that are told elsewhere.
    """
    told_elsewhere = (*SEEDS, *leaving_out)
    telling: dict[tuple[str, ...], str] = {}
    chosen = {}
    for group, node in NODE_OF.items():
        names = tuple(str(property_of(run, group) or "") for run in runs)
        if len(set(names)) > 1 and not is_below(group, told_elsewhere):
            telling.setdefault(names, group)
            chosen[node] = names
    for key in dict.fromkeys(key for run in runs for key in run.identity if not is_below(key, told_elsewhere)):
        values = tuple(str(run.identity.get(key)) for run in runs)
        choice = next((names for node, names in chosen.items() if is_below(key, (node,))), ())
        follows = bool(choice) and len(set(zip(choice, values, strict=True))) == len(set(choice))
        # The same value under two keys, as a regularizer's and its user's, is told once.
        if len(set(values)) > 1 and not follows:
            telling.setdefault(values, key)
    columns = list(telling)
    told = columns[:MOST_TOLD]
    for column in columns[MOST_TOLD:]:
        if len(set(zip(*told, column, strict=True))) > len(set(zip(*told, strict=True))):
            told.append(column)
    found = [list(filter(None, (_named(run, telling[column]) for column in told))) for run in runs]
    data = [f"data={str(run.facts.get('fingerprint'))[:6]}" for run in runs]
    alike = [{other for name, other in zip(found, data, strict=True) if name == own} for own in found]
    return [
        [*name, own] if len(all_of_it) > 1 else name for name, own, all_of_it in zip(found, data, alike, strict=True)
    ]


def tell_apart(runs: Sequence[Run], leaving_out: Sequence[str] = ()) -> list[str]:
    """Return ``differences``, each as one text."""
    return list(map(" ".join, differences(runs, leaving_out)))


def _named(run: Run, key: str) -> str:
    """Return ``adamw`` for a choice, ``lr=0.1`` for a key, ``optimizer=AdamW`` for a class that no choice tells."""
    if key in NODE_OF:
        return str(property_of(run, key) or "")
    value, (node, _, name) = run.identity.get(key), key.rpartition(".")
    if name == "class":
        return f"{node.rpartition('.')[2]}={str(value).rpartition('.')[2]}"
    return f"{name}={as_text(value)}"


def as_text(value: Any) -> str:
    """Return a value of a config as one writes it; of several, or of a bound, in words."""
    if isinstance(value, dict):
        ((kind, bound),) = value.items()
        return f"{kind.replace('_', ' ')} {as_text(bound)}"
    if isinstance(value, list):
        return " or ".join(map(as_text, value))
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    return f"{value:,}" if isinstance(value, int) else f"{value:g}" if isinstance(value, float) else str(value)
