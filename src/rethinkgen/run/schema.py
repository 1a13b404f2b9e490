"""What the files of a run's folder hold, so far as they are read again: the key, and the kind of its value.

Somebody else may have written a file, and a disk may have flipped a bit of it. Whoever reads one goes by what stands
here, and need not ask again whether a number is one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

LONGEST_NAME = 200
LARGEST = 2**64
"""No seed is larger, and no count."""


@dataclass(frozen=True)
class Kind:
    """What a value may be, besides ``None``."""

    words: str
    holds: Callable[[Any], bool]


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_count(value: Any) -> bool:
    return _is_number(value) and 0 <= value <= LARGEST


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and value.isprintable() and len(value) <= LONGEST_NAME


def _is_choice(value: Any) -> bool:
    return value is None or _is_name(value) or (isinstance(value, list) and all(map(_is_name, value)))


def _is_metric(value: Any) -> bool:
    # A number that is none was not reached; an integer of a thousand digits is none of ours.
    return value is None or (_is_number(value) and (isinstance(value, float) or abs(value) <= LARGEST))


def _all_are(holds: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, dict) and all(map(_is_name, value)) and all(map(holds, value.values()))


TEXT = Kind("a text", lambda value: isinstance(value, str))
NAME = Kind("a name", _is_name)
NUMBER = Kind("a number", _is_metric)
COUNT = Kind("a number of at least 0", _is_count)
POSITIVE = Kind("a number above 0", lambda value: _is_count(value) and value > 0)
SWITCH = Kind("true or false", lambda value: isinstance(value, bool))
TEXTS = Kind("a list of texts", lambda value: isinstance(value, list) and all(isinstance(item, str) for item in value))
CHOICES = Kind("a choice for each group", _all_are(_is_choice))
METRICS = Kind("a number for each metric", _all_are(_is_metric))
NAMES = Kind("a name for each key", _all_are(lambda value: value is None or _is_name(value)))
NODE = Kind("keys and values", lambda value: isinstance(value, dict))
COUNTS = Kind("a list of counts", lambda value: isinstance(value, list) and all(map(_is_count, value)))
SHAPE = Kind("three sizes", lambda value: isinstance(value, list) and len(value) == 3 and all(map(_is_count, value)))

Schema = dict[str, Kind]

NEEDED = ("metrics", "choices", "config", "num_classes", "fitted")
"""What every ``result.json`` has; of single metrics and choices the names, as they may be ``None``."""
NEEDED_IN = {
    "metrics": ("fit/accuracy", "test/accuracy", "steps"),
    "choices": ("data", "data.corruption", "model", "regularizer"),
}

OF_A_RUN: Schema = {"run_id": NAME, "choices": CHOICES, "choices.regularizer": TEXTS, "overrides": TEXTS}
RESULT: Schema = OF_A_RUN | {
    "sweep": NAME, "config": NODE, "metrics": METRICS, "fitted": SWITCH, "reason": TEXT, "image_shape": SHAPE,
    "num_classes": POSITIVE, "num_outputs": POSITIVE, "num_train": COUNT, "num_test": COUNT, "seconds": COUNT,
    "images_per_second": COUNT, "seed": COUNT, "finished": NAME, "device": NAME, "versions": NAMES, "commit": NAME,
    "code": NAMES, "fingerprint": NAME, "contents": NAMES, "world_sizes": COUNTS,
}  # fmt: skip
STATUS: Schema = OF_A_RUN | {
    "state": NAME, "reason": TEXT, "traceback": TEXT, "pid": COUNT, "host": NAME, "started": NAME, "updated": NAME,
    "slurm_job": NAME, "step": NUMBER, "epoch": NUMBER, "accuracy": NUMBER, "images_per_second": NUMBER,
}  # fmt: skip
"""Not the seed: a run may have failed by what was asked for in its place."""
IDENTITY: Schema = {
    "run_id": NAME, "fingerprint": NAME, "contents": NAMES, "wandb_id": NAME, "code": NAMES, "begun_in": TEXT,
    "image_shape": SHAPE, "num_classes": POSITIVE, "num_outputs": POSITIVE, "world_sizes": COUNTS, "excluded_by": TEXTS,
}  # fmt: skip
CONFIG: Schema = {
    "seed": COUNT, "max_steps": COUNT, "max_epochs": COUNT, "evaluate_every": COUNT, "fit_threshold": COUNT,
    "data": NODE, "data.source": NODE, "data.corruption": NODE, "data.num_train": COUNT, "data.batch_size": COUNT,
    "data.validation": COUNT, "model": NODE, "regularizer": NODE, "regularizer.weight_decay": COUNT,
}  # fmt: skip
"""Of a run's config what is read from its folder as more than a text: all values are checked before it is trained."""
CELL: Schema = OF_A_RUN | {
    "key": NAME, "folder": TEXT, "source": TEXT, "fingerprint": NAME, "configs": NAME, "config": NODE,
}  # fmt: skip
"""A line of a sweep's index."""
MEASURED: Schema = {
    "measure": NAME, "called": NAME, "function": NAME, "protocol": POSITIVE, "parameters": NODE, "other": NAME,
    "step": COUNT, "epoch": COUNT, "numbers": METRICS, "tables": TEXTS, "seconds": COUNT, "finished": NAME,
    "code": NAMES, "checksum": NAME, "weights": NAMES,
}  # fmt: skip
"""What a measure found of a run at a step."""


def fault(content: Mapping[str, Any], schema: Schema) -> str:
    """Return which value is not what the schema says, in words; nothing where all are, or are not there."""
    for dotted, kind in schema.items():
        node: Any = content
        for name in dotted.split("."):
            node = node.get(name) if isinstance(node, Mapping) else None
        if node is not None and not kind.holds(node):
            return f"{dotted} is {_brief(node)}, not {kind.words}"
    return ""


def fault_of_result(result: Mapping[str, Any]) -> str:
    """Return what is wrong with a ``result.json``, in words; nothing where it can be taken for one."""
    if wrong := fault(result, RESULT):
        return wrong
    absent = [key for key in NEEDED if result.get(key) is None]
    if not absent:
        absent = [key for node, keys in NEEDED_IN.items() for key in keys if key not in result[node]]
    if absent:
        return f"no {absent[0]} in it"
    if wrong := fault(result["config"], CONFIG):
        return f"config: {wrong}"
    if result["fitted"] and result["metrics"].get("steps_to_fit") is None:
        return "it was fitted, and yet there is no steps_to_fit"
    return ""


def _brief(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
