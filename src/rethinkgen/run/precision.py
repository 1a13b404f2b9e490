"""What a run on a CPU would gain by bfloat16, told before it begins. Imported by what launches: no torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rethinkgen.machine import multiplies_in_bf16


def advice(config: Mapping[str, Any]) -> str | None:
    """Return what to say of a run that is trained on the CPU; nothing where it would gain little or has no choice.

    Convolutions gain: 1.8 times for Inception, 1.5 times for AlexNet on 2 cores of an AMD EPYC with ``avx512_bf16``
    (``benchmarks/throughput.py``). Perceptrons are bound by memory.
    """
    is_convolutional = bool(config["model"].get("channels_last"))
    if not is_convolutional or str(config["trainer"]["precision"]) not in ("32-true", "32") or not multiplies_in_bf16():
        return None
    return (
        "This processor multiplies in bfloat16: trainer.precision=bf16-mixed would train nearly twice as fast. It is "
        "another run, and the report names it as a deviation from the paper's protocol."
    )
