"""Which examples a measure looks at: the same of every run of one data set."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from rethinkgen.checks import check_one_of, check_whole
from rethinkgen.data.draws import balanced_subset
from rethinkgen.data.streaming import Inputs, Request, decoded
from rethinkgen.measure.predict import PREDICTION_BATCH, slices

if TYPE_CHECKING:
    from rethinkgen.data.module import Split

OF = ("all", "clean", "corrupted")


def examples(split: Split, num_examples: int | None, of: str, *, memory_mb: float) -> Split:
    """Return the examples of a split at ``positions``, in its order, in memory also where the split is streamed.

    Raises:
        ValueError: there are none, or the images of a streamed split take more than ``memory_mb``.
    """
    chosen = positions(split, num_examples, of)
    if len(chosen) == len(split):
        return split
    parts = {
        name: getattr(split, name)[chosen]
        for name in ("labels", "original_labels", "is_drawn", "is_corrupted", "index")
    }
    return replace(split, inputs=images_at(split.inputs, chosen, memory_mb), **parts)


def positions(split: Split, num_examples: int | None, of: str = "all") -> Tensor:
    """Return where in a split examples are, ascending, in which each original class has its share.

    Which: a draw by the examples' positions in the source alone, so that runs of one data set, whatever their seed,
    labels, network or step, look at the same, and fewer are a part of more. With ``num_examples`` of ``None``, or more
    than there are, all are taken. ``of``: ``all``, or of those whose label is as it was (``clean``) or was changed
    (``corrupted``), which differ between runs.

    Raises:
        ValueError: there are none.
    """
    check_one_of("of", of, OF)
    if num_examples is not None:
        check_whole("num_examples", num_examples, 1)
    found = torch.arange(len(split), device=split.labels.device)
    if of != "all":
        found = found[split.is_corrupted == (of == "corrupted")]
        if not len(found):
            raise ValueError(
                f"of={of}: no label of these examples {'was changed' if of == 'corrupted' else 'is as it was'}. "
                "Take of=all, or leave this run out."
            )
    if num_examples is not None and num_examples < len(found):
        labels, keys = (part[found].cpu().numpy() for part in (split.original_labels, split.index))
        chosen = balanced_subset("measure", 0, labels, keys.astype(np.uint64), num_examples)
        found = found[torch.from_numpy(chosen).to(found.device)]
    return found


def images_at(inputs: Inputs, positions: Tensor, memory_mb: float) -> Tensor:
    """Return inputs at positions, ``(n, C, H, W)``; of streamed ones they are decoded.

    Raises:
        ValueError: they take more than ``memory_mb``.
    """
    if isinstance(inputs, Tensor):
        return inputs[positions]
    needed = 4 * len(positions) * math.prod(inputs.shape[1:]) / 2**20
    if needed > memory_mb:
        raise ValueError(
            f"num_examples={len(positions)}: their images take {needed:,.0f} MB, and memory_mb={memory_mb:g}. "
            "Ask for fewer, or allow more."
        )
    places = positions.cpu().numpy()
    requests = [Request(places[part], None) for part in slices(len(places), PREDICTION_BATCH)]
    images = decoded(inputs.reader, iter(requests), min(inputs.num_workers, len(requests)), inputs.device)
    return torch.cat([inputs.finish(part) for part in images])
