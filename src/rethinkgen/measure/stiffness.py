"""Whether a step that helps one example helps another: the angle between their gradients."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from rethinkgen.checks import check_groups, check_whole
from rethinkgen.data.streaming import Inputs, in_parts
from rethinkgen.measure.examples import examples
from rethinkgen.measure.fit import judged_by
from rethinkgen.measure.gradients import gram_matrix
from rethinkgen.measure.outputs import prediction_parts
from rethinkgen.measure.predict import predict
from rethinkgen.measure.subject import Findings, Number

if TYPE_CHECKING:
    from rethinkgen.data.module import Split, SplitName
    from rethinkgen.measure.subject import Subject

SMALL = 1e-8
"""Length of a gradient below which an example is counted as having nearly none."""
NUM_SHUFFLES = 9999
"""Assignments of the classes to groups that are drawn to tell a gap between groups from chance."""


class Pairs(NamedTuple):
    """Values ``(n, m)`` of pairs of examples, a pair of an example with itself left out (``nan``)."""

    sign: Tensor
    cosine: Tensor
    distance: Tensor
    """1 - cosine of the inputs"""
    classes: tuple[Tensor, Tensor]
    """``(n,)`` and ``(m,)``"""


def stiffness(
    subject: Subject,
    *,
    num_examples: int = 500,
    held_out: SplitName | None = None,
    num_bins: int = 20,
    groups: Mapping[str, Sequence[str]] | None = None,
) -> Findings:
    """Return the stiffness between examples (Fort, Nowak, Jastrzebski and Narayanan 2019, arXiv 1901.09491).

    Of two examples with gradients ``g_1, g_2`` of their losses with respect to all trained weights it is the sign of
    ``g_1 . g_2``, or their cosine: where it is positive, a small step against the one's gradient lessens the other's
    loss. Means are over pairs of different examples. ``num_examples`` are taken of the training set, and of the split
    ``held_out`` (``None``: the validation set, or the test set where there is none; without either, no other).

    The class of an example is its label: as given of training examples, true of others. *Within* is the mean over the
    classes of the stiffness in each, *between* the mean over ordered pairs of different classes. The *critical length*
    is where a line fitted to stiffness against distance, over pairs within classes, crosses zero; the distance is one
    less the cosine of the inputs, as the network sees them. ``None`` where the line does not fall, or crosses zero
    outside of the distances that occur; the *crossing* is the same line's wherever that is, also beyond them.

    Numbers, of ``train_train``, ``train_heldout`` and ``heldout_heldout``: ``<pairs>/sign_within``, ``sign_between``,
    ``sign_gap`` (within less between), ``sign_length``, ``sign_crossing``, and the same of ``cosine``; and
    ``num_small``, the examples whose gradient is shorter than 1e-8, whose angles are rounding's. An example whose
    gradient is zero has no stiffness.

    ``loss`` is the mean cross-entropy of the training examples: to compare runs where they have learnt equally much.

    Of ``groups``, name of a group -> names of its classes, which have no part in the training (the paper's
    super-classes): ``<pairs>/cosine_same_group``, the mean over ordered pairs of different classes of one group,
    ``cosine_other_group``, that over pairs of different groups, ``cosine_group_gap``, the first less the second, and
    ``cosine_group_chance``, the share of 10,000 assignments of the classes to groups of these sizes, this one and
    others drawn, whose gap is as large (a permutation test, which is ours); the same of ``sign``.

    Tables: ``classes`` with ``pairs, class_a, class_b, sign, cosine, num_pairs``; ``distances`` with ``pairs, distance,
    sign, cosine, num_pairs``, pairs within classes in ``num_bins`` equal intervals of distance, by their middle;
    ``summary`` with ``pairs``, the numbers of these pairs, and ``loss``.

    Raises:
        ValueError: a class is in no group or in two, or a group has a class that the data lack.
    """
    check_whole("num_examples", num_examples, 2)
    check_whole("num_bins", num_bins, 1)
    group_of = None if groups is None else _group_of(subject.class_names, groups)
    others = [held_out] if held_out else [name for name in ("validation", "test") if name in subject.splits][:1]
    parts = [
        (name, examples(subject.split(name), num_examples, "all", memory_mb=subject.memory_mb))
        for name in ("train", *others)
    ]
    images = torch.cat([_images(split.inputs) for _, split in parts])
    labels = torch.cat([judged_by(name, split) for name, split in parts])
    gram = gram_matrix(subject.network, images, labels, subject.memory_mb)
    pairs = _pairs(gram, images, labels.cpu())
    n = len(parts[0][1])
    of = {
        "train_train": _between(pairs, slice(0, n), slice(0, n)),
        **({"train_heldout": _between(pairs, slice(0, n), slice(n, None))} if others else {}),
        **({"heldout_heldout": _between(pairs, slice(n, None), slice(n, None))} if others else {}),
    }
    loss = _loss(subject, parts[0][1])
    numbers: dict[str, Number] = {"num_small": int((gram.diagonal() < SMALL**2).sum()), "loss": loss}
    classes: list[tuple[object, ...]] = []
    distances: list[tuple[object, ...]] = []
    summary: dict[str, list[object]] = {"pairs": [*of], "loss": [loss] * len(of)}
    for name, some in of.items():
        rows = _class_rows(some)
        found = _numbers(some, rows)
        if group_of is not None:
            found |= _group_numbers(rows, group_of, subject.generator(name))
        numbers |= {f"{name}/{number}": value for number, value in found.items()}
        for number, value in found.items():
            summary.setdefault(number, []).append(math.nan if value is None else value)
        classes += [(name, *row) for row in rows]
        distances += [(name, *row) for row in _distance_rows(some, num_bins)]
    return Findings(
        numbers,
        {
            "classes": _columns(("pairs", "class_a", "class_b", "sign", "cosine", "num_pairs"), classes),
            "distances": _columns(("pairs", "distance", "sign", "cosine", "num_pairs"), distances),
            "summary": summary,
        },
    )


def _loss(subject: Subject, split: Split) -> float:
    return float(predict(subject.network, split.inputs, split.labels).losses.double().mean())


def _images(inputs: Inputs) -> Tensor:
    return torch.cat([*in_parts(inputs, prediction_parts(inputs))])


def _columns(names: tuple[str, ...], rows: list[tuple[object, ...]]) -> dict[str, list[object]]:
    return {name: [row[i] for row in rows] for i, name in enumerate(names)}


def _pairs(gram: Tensor, images: Tensor, labels: Tensor) -> Pairs:
    flat = images.flatten(1).cpu().double()
    sign, cosine, distance = gram.sign(), _cosines(gram), 1 - _cosines(flat @ flat.T)
    nothing = gram.diagonal() == 0
    for values in (sign, cosine, distance):
        values.fill_diagonal_(torch.nan)
        values[nothing] = torch.nan
        values[:, nothing] = torch.nan
    return Pairs(sign, cosine, distance, (labels, labels))


def _cosines(products: Tensor) -> Tensor:
    lengths = products.diagonal().sqrt()
    return products / (lengths[:, None] * lengths)


def _between(pairs: Pairs, rows: slice, columns: slice) -> Pairs:
    first, second = pairs.classes
    sign, cosine, distance = (values[rows, columns] for values in (pairs.sign, pairs.cosine, pairs.distance))
    return Pairs(sign, cosine, distance, (first[rows], second[columns]))


ClassRow = tuple[int, int, float, float, int]


def _class_rows(pairs: Pairs) -> list[ClassRow]:
    """Return (class a, class b, mean sign, mean cosine, number of pairs) of all classes with a pair."""
    rows = []
    first, second = pairs.classes
    for a in sorted({*first.tolist()}):
        for b in sorted({*second.tolist()}):
            signs, cosines = (values[first == a][:, second == b] for values in (pairs.sign, pairs.cosine))
            num_pairs = int(signs.isfinite().sum())
            if num_pairs:
                rows.append((a, b, float(signs.nanmean()), float(cosines.nanmean()), num_pairs))
    return rows


def _numbers(pairs: Pairs, rows: list[ClassRow]) -> dict[str, Number]:
    numbers: dict[str, Number] = {}
    for i, name in ((2, "sign"), (3, "cosine")):
        within, between = ([row[i] for row in rows if (row[0] == row[1]) == is_within] for is_within in (True, False))
        numbers[f"{name}_within"] = sum(within) / len(within) if within else None
        numbers[f"{name}_between"] = sum(between) / len(between) if between else None
        gap = numbers[f"{name}_within"], numbers[f"{name}_between"]
        numbers[f"{name}_gap"] = None if gap[0] is None or gap[1] is None else gap[0] - gap[1]
        distance, value = _within(pairs, getattr(pairs, name))
        numbers[f"{name}_length"] = critical_length(distance, value)
        numbers[f"{name}_crossing"] = zero_crossing(distance, value)
    return numbers


def _group_of(class_names: Sequence[str], groups: Mapping[str, Sequence[str]]) -> list[int]:
    """Return the number of each class's group."""
    check_groups("groups", groups)
    listed = [(str(name), number) for number, names in enumerate(groups.values()) for name in names]
    names = [name for name, _ in listed]
    if sorted(names) != sorted(class_names):
        wrong = [name for name in class_names if names.count(name) != 1]
        wrong += [name for name in dict.fromkeys(names) if name not in class_names]
        raise ValueError(
            f"groups: {', '.join(wrong)}: each class must be in one group, and no other. The data have "
            f"{', '.join(class_names)}."
        )
    return [dict(listed)[name] for name in class_names]


def _group_numbers(rows: list[ClassRow], group_of: list[int], generator: torch.Generator) -> dict[str, Number]:
    numbers: dict[str, Number] = {}
    groups = torch.tensor(group_of)
    keys = torch.rand(NUM_SHUFFLES, len(groups), generator=generator, device=generator.device).cpu()
    shuffled = torch.cat([groups[None], groups[keys.argsort(1)]])  # (1 + shuffles, classes): the given one first
    different = [row for row in rows if row[0] != row[1]]
    first, second = (torch.tensor([row[i] for row in different], dtype=torch.int64) for i in (0, 1))
    is_same = shuffled[:, first] == shuffled[:, second]
    for i, name in ((2, "sign"), (3, "cosine")):
        values = torch.tensor([row[i] for row in different], dtype=torch.float64)
        same, other = (where.double() @ values / where.sum(1) for where in (is_same, ~is_same))
        gaps = same - other
        has_gap = bool(gaps[0].isfinite())
        numbers[f"{name}_same_group"] = float(same[0]) if same[0].isfinite() else None
        numbers[f"{name}_other_group"] = float(other[0]) if other[0].isfinite() else None
        numbers[f"{name}_group_gap"] = float(gaps[0]) if has_gap else None
        # Equal up to rounding is as large: of two groups of one size, the same the other way round.
        as_large = gaps >= gaps[0] - 1e-12
        numbers[f"{name}_group_chance"] = float(as_large.double().mean()) if has_gap else None
    return numbers


def _within(pairs: Pairs, values: Tensor) -> tuple[Tensor, Tensor]:
    """Return distance and value of the pairs within classes."""
    first, second = pairs.classes
    chosen = (first[:, None] == second) & values.isfinite() & pairs.distance.isfinite()
    return pairs.distance[chosen], values[chosen]


def critical_length(distance: Tensor, value: Tensor) -> float | None:
    """Return ``zero_crossing`` where it lies among the distances that occur."""
    length = zero_crossing(distance, value)
    is_seen = length is not None and float(distance.min()) <= length <= float(distance.max())
    return length if is_seen else None


def zero_crossing(distance: Tensor, value: Tensor) -> float | None:
    """Return where the line of least squares through ``value (n,)`` over ``distance (n,)`` is zero, if it falls."""
    if len(distance) < 2 or float(distance.min()) == float(distance.max()):
        return None
    centred = distance - distance.mean()
    slope = float((centred * value).sum() / centred.square().sum())
    # Of equal values what rounding leaves is no slope.
    fall = -slope * float(distance.max() - distance.min())
    return float(distance.mean()) - float(value.mean()) / slope if fall > 1e-9 * float(value.abs().max()) else None


def _distance_rows(pairs: Pairs, num_bins: int) -> list[tuple[float, float, float, int]]:
    distance, sign = _within(pairs, pairs.sign)
    _, cosine = _within(pairs, pairs.cosine)
    if not len(distance):
        return []
    low, high = float(distance.min()), float(distance.max())
    width = (high - low) / num_bins or 1.0
    places = ((distance - low) / width).long().clamp(max=num_bins - 1)
    rows = []
    for i in sorted({*places.tolist()}):
        inside = places == i
        middle = low + (i + 0.5) * width if high > low else low
        rows.append((middle, float(sign[inside].mean()), float(cosine[inside].mean()), int(inside.sum())))
    return rows
