"""What of a run one asks for by a name: choices and keys on one side, the numbers measured on the other.

Figures, tables and claims say so in YAML, ``runs=`` on a command line. Light: no torch.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable
from fnmatch import fnmatchcase
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from rethinkgen.run.identity import LEVELS, flatten, takes_steps
from rethinkgen.run.run import NUM_TRAIN, Run

if TYPE_CHECKING:
    import pandas as pd

CHOICES = ("data", "data.corruption", "model", "loss", "regularizer", "optimizer", "schedule")
NODE_OF = {"data": "data.source"} | {
    name: name for name in ("data.corruption", "model", "optimizer", "schedule", "loss")
}
"""Group of choices -> where the chosen file lies in a config."""
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
FALLEN = 0.9
"""Share of the loss of guessing, ln K, below which a training loss has begun to fall."""


def observe(run: Run, metric: str) -> float | None:
    """Return a finished run's metric, or one of these that follow from it; infinite where a step was not reached.

    ``test/error``: 1 - test/accuracy. ``test/gain_from_stopping``: test/accuracy_oracle - test/accuracy.
    ``test/unsteadiness``: mean absolute change of test/accuracy from an evaluation to the next. ``rademacher``:
    2 * fit/accuracy - 1, the agreement with random signs on the scale of -1 to 1. ``steps_to_fall``: the first logged
    step whose train/loss is below 0.9 ln K. ``parameters_beyond_2n+d``: num_parameters - (2 n + d) for n training
    examples of d pixels. ``*`` stands for any text: of a measure's number, whatever its parameters are.
    Of what was logged or measured at several steps ``rise/...``, ``fall/...``, ``change/...``, ``overfitting/...``,
    ``chosen/...``: ``ALONG_TRAINING``; and ``at_loss_0.3/measure/...``, of a measure that tells ``loss``, too:
    ``at_loss``.
    """
    if run.state != "done":
        return None
    kind, _, along = metric.partition("/")
    if kind in ALONG_TRAINING:
        change = ALONG_TRAINING[kind](run, along)
        return change if math.isfinite(change) else None
    if (matched := AT_LOSS.fullmatch(kind)) is not None:
        value = at_loss(run, along, float(matched[1]))
        return value if math.isfinite(value) else None
    if "*" in metric:
        metric = next(reversed([name for name in run.metrics if fnmatchcase(name, metric)]), metric)
    if metric.startswith("steps_to") and metric in run.metrics and run.metrics[metric] is None:
        return math.inf
    found = FOLLOWING[metric](run) if metric in FOLLOWING else run.number(metric)
    return float(found) if math.isfinite(found) else None


def may_have(run: Run, metric: str) -> bool:
    """Whether the measure that a number is of has looked at the run, is asked to, or the run has not finished."""
    _, is_of_one, rest = metric.rpartition("measure/")
    called = rest.partition("/")[0]
    return (
        not is_of_one
        or run.state != "done"
        or any(fnmatchcase(each.called, called) for each in run.measured[0])
        or run.key(f"measure.{re.split(r'[(*]', called)[0]}") is not None
    )


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


def logged(run: Run, quantity: str) -> pd.DataFrame:
    """Return ``step`` and ``value`` where a run has a quantity along training."""
    import numpy as np
    import pandas as pd

    if quantity not in run.curves:
        return pd.DataFrame({"step": [], "value": []})
    # By numpy, as there may be a thousand runs.
    steps, values = run.curves["step"].to_numpy(), run.curves[quantity].to_numpy(float)
    is_logged = ~np.isnan(values)
    return pd.DataFrame({"step": steps[is_logged], "value": values[is_logged]})


def _rise(run: Run, quantity: str) -> float:
    values = logged(run, quantity)["value"]
    return float(values.max() - values.iloc[0]) if len(values) > 1 else math.nan


def _fall(run: Run, quantity: str) -> float:
    values = logged(run, quantity)["value"]
    return float(values.max() - values.iloc[-1]) if len(values) > 1 else math.nan


def _overfitting(run: Run, quantity: str) -> float:
    values, losses = logged(run, quantity), logged(run, "validation/loss")
    if len(values) < 2 or not len(losses):
        return math.nan
    turn = losses["step"].iloc[losses["value"].argmin()]
    nearest = values["value"].iloc[(values["step"] - turn).abs().argmin()]
    return float(values["value"].iloc[-1] - nearest)


CHOSEN_BY = ("validation/accuracy_corrupted", "validation/accuracy")


def _chosen(run: Run, quantity: str) -> float:
    values = logged(run, quantity)
    scores = next((table for table in (logged(run, name) for name in CHOSEN_BY) if len(table)), values[:0])
    if not len(scores):
        return math.nan
    at = values["value"][values["step"] == scores["step"].iloc[scores["value"].argmax()]]
    return float(at.iloc[-1]) if len(at) else math.nan


def _change(run: Run, quantity: str) -> float:
    values = logged(run, quantity)["value"]
    return float(values.iloc[-1] - values.iloc[0]) if len(values) > 1 else math.nan


ALONG_TRAINING: dict[str, Callable[[Run, str], float]] = {
    "rise": _rise,
    "fall": _fall,
    "change": _change,
    "overfitting": _overfitting,
    "chosen": _chosen,
}
"""What a quantity does along training: ``rise/Q``, its largest value less its first; ``fall/Q``, its largest value less
its last; ``change/Q``, its last value less its first; ``overfitting/Q``, its last value less that at the step, of those
that have it, nearest to the smallest ``validation/loss``; ``chosen/Q``, its value at the first of the evaluations that
did best on held-out examples, by their labels as given."""


AT_LOSS = re.compile(r"at_loss_(\d+(?:\.\d+)?)")


def at_loss(run: Run, quantity: str, loss: float) -> float:
    """Return a measure's number where the run first came down to a training loss: to compare runs that learnt as much.

    It is interpolated, in the logarithm of the ``loss`` that the same measure tells, between the two steps looked at
    that enclose it. Not a number where none do, or the number is lacking at one of the two.
    """
    *measure, _ = quantity.split("/", 2)
    losses, values = logged(run, "/".join([*measure, "loss"])), logged(run, quantity)
    told = losses.merge(values, on="step", how="left", suffixes=("_loss", "")).sort_values("step")
    rows = list(zip(told["value_loss"], told["value"], strict=True))
    for (before, first), (after, second) in pairwise(rows):
        if before > loss >= after > 0:
            share = math.log(before / loss) / math.log(before / after)
            return float(first + share * (second - first))
    return math.nan


def is_measured(quantity: str) -> bool:
    """Whether it is a number of the results, not a part of the config."""
    return "/" in quantity or quantity.startswith(MEASURED_PREFIXES)


def keys_of(quantity: str) -> tuple[str, ...]:
    """Return the keys of the config, each with all below it, that a quantity follows from."""
    return QUANTITY_KEYS.get(quantity, (quantity,))


def known_quantities(runs: Iterable[Run]) -> list[str]:
    """Return the names of everything that any of the runs has: choices, properties, numbers, keys."""
    found: dict[str, None] = dict.fromkeys((*CHOICES, *OF_RUN, *FOLLOWING, *STANDARD))
    for run in runs:
        found |= dict.fromkeys([*run.metrics, *run.curves.columns, *flatten(run.config)])
    return [name for name in found if not name.endswith(("_target_", "protocol"))]


def property_of(run: Run, key: str) -> Any:
    """Return a choice, a key of the config, what a measure found, or what else is known of a run: see ``OF_RUN``."""
    if key in OF_RUN:
        return OF_RUN[key](run)
    if key in NODE_OF:
        return run.choices.get(key)
    if key.startswith("measure/"):
        return observe(run, key)
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


def chance(run: Run, metric: str) -> float | None:
    """Return what guessing gives of an accuracy or of the test error, in [0, 1]."""
    if not run.num_classes or not metric.startswith(("test/", "fit/", "train/")):
        return None
    if metric.endswith("_top5"):
        return min(1.0, 5 / run.num_classes)
    return 1 - 1 / run.num_classes if metric == "test/error" else 1 / run.num_classes


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


def wrong_share(run: Run) -> float:
    """Return the share of wrong labels; expected, where the run has not said what was drawn."""
    if (realised := run.metrics.get("noise/realised")) is not None:
        return float(realised)
    return float(run.level or 0.0) * (1 - 1 / (run.num_classes or 10))
