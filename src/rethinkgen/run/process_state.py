"""What is one for the whole process, and of which a run has its own: generators, threads, what torch allows.

Light: of torch only where it is there already.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import numpy as np


def state_of_process() -> dict[str, Any]:
    """Return it, to be put back by ``set_state_of_process``."""
    told = {"python": random.getstate(), "numpy": np.random.get_state()}
    torch = sys.modules.get("torch")
    if torch is None:
        return told
    return told | {
        "torch": torch.get_rng_state(),
        # On a GPU that nothing has used yet, they will begin with the seed that torch was given.
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_initialized() else None,
        "seed": torch.initial_seed(),
        "threads": torch.get_num_threads(),
        "dtype": torch.get_default_dtype(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "only_warns": torch.is_deterministic_algorithms_warn_only_enabled(),
        "benchmark": torch.backends.cudnn.benchmark,
    }


def set_state_of_process(told: Mapping[str, Any]) -> None:
    """Put back what ``state_of_process`` returned; of torch only what it knew then."""
    random.setstate(told["python"])
    np.random.set_state(told["numpy"])
    torch = sys.modules.get("torch")
    if torch is None or "torch" not in told:
        return
    torch.set_rng_state(told["torch"])
    if told["cuda"] is not None:
        torch.cuda.set_rng_state_all(told["cuda"])
    elif torch.cuda.is_initialized():
        torch.cuda.manual_seed_all(told["seed"])
    if told["threads"] != torch.get_num_threads():
        torch.set_num_threads(told["threads"])
    torch.set_default_dtype(told["dtype"])
    torch.use_deterministic_algorithms(told["deterministic"], warn_only=told["only_warns"])
    torch.backends.cudnn.benchmark = told["benchmark"]


@contextmanager
def leaving_process_as_it_is() -> Iterator[None]:
    """Put back afterwards what is done to any of it within."""
    before = state_of_process()
    try:
        yield
    finally:
        set_state_of_process(before)
