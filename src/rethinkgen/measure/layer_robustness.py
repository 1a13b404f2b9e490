"""What is lost when one layer is put back to where it was, or drawn anew, and all others stay."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from rethinkgen.checks import check_whole
from rethinkgen.data.streaming import Inputs, in_parts
from rethinkgen.measure.distance import norms
from rethinkgen.measure.examples import examples
from rethinkgen.measure.fit import judged_by
from rethinkgen.measure.outputs import prediction_parts
from rethinkgen.measure.predict import evaluation_mode, has_batch_norm, predict, recalibrated_batch_norm
from rethinkgen.measure.prefix import Chain
from rethinkgen.measure.subject import At, Findings, Number, Table, asks
from rethinkgen.measure.weights import (
    State,
    block_layers,
    check_same_architecture,
    check_untied,
    layer_tensors,
    replaced,
    residual_stages,
    state_of,
)

if TYPE_CHECKING:
    from rethinkgen.data.module import SplitName
    from rethinkgen.measure.subject import Subject

KEPT, AGAIN = "kept", "re-estimated"
OF_A_DRAW = -1
"""Stands where a step stands, of layers that were drawn anew."""


class Unit(NamedTuple):
    """What is replaced at once."""

    name: str
    kind: str
    """``layer``, ``block`` or ``group``"""
    layers: list[str]
    tensors: list[str]
    """Their names in ``state_dict``: weights and buffers"""


class Score(NamedTuple):
    """Of a network on the examples."""

    error: float
    loss: float


class Cell(NamedTuple):
    """Which replacement, seen how."""

    unit: str
    step: int
    statistics: str


Scores = Mapping[Cell, Sequence[Score]]
"""One score of a step, one each of several draws."""


class Problem(NamedTuple):
    """On what the network and its replacements are judged."""

    network: nn.Module
    inputs: Inputs
    labels: Tensor
    for_statistics: Inputs | None
    """What BatchNorm's statistics are estimated on; ``None`` where they are not"""
    batch_size: int


@asks("steps", also=(0,))
def layer_robustness(
    subject: Subject,
    *,
    steps: Sequence[At] = (0, "1ep"),
    num_draws: int = 5,
    groups: Sequence[str] = (),
    split: SplitName = "test",
    num_examples: int | None = None,
    num_for_statistics: int = 1000,
    batch_size: int = 100,
) -> Findings:
    """Return error and loss with each layer put back to its value at each of ``steps``, and drawn anew.

    Re-initialisation and re-randomisation robustness of Zhang, Bengio and Singer 2019 (arXiv 1902.01996): one layer's
    weights are replaced, all others stay, and nothing is trained after it. A layer is a module with weights of its own,
    taken with its buffers, so that a BatchNorm is one too; a block, a module of several layers, is replaced whole. A
    draw takes the layer from the same architecture newly initialised, ``num_draws`` times.

    ``groups`` are replaced together: ``from_input`` (the first two layers, the first three, ...), ``from_output`` (the
    last two, ...), ``stages`` (of each residual stage all blocks but the first, and those of all stages), or patterns
    of layers, as ``conv*|fc1``.

    With BatchNorm everything is given twice: with its running statistics as they are (``kept``; those of a BatchNorm
    that is replaced are the replacement's), and as means over one pass through ``num_for_statistics`` training examples
    in batches of ``batch_size`` (``re-estimated``), a pass for each replacement; with 0 of them this is left out.

    A layer's *criticality* is the mean, over ``steps``, of how much the error rises.

    Numbers: ``error``, ``loss`` of the network itself; ``criticality`` and ``redrawn``, the means over the layers of
    the rise over ``steps`` and over draws; ``most_critical``, the largest criticality; with BatchNorm the same again,
    ``..._re-estimated``. Tables: ``cells`` with ``unit, kind, step, statistics, error, error_spread, loss, rise``,
    where ``step`` is -1 of the mean over draws, and the spread is their standard deviation; ``units`` with ``unit,
    kind, num_layers, num_parameters, statistics, criticality, redrawn``; ``distances`` with ``unit, step, norm_2,
    norm_max``: how far from step 0 each unit was at each of ``steps``, and is now, in the norms of ``distance``.

    Raises:
        ValueError: a pattern that matches no layer, tied weights, or weights of another architecture.
    """
    check_untied(subject.network)
    check_whole("num_draws", num_draws, 0)
    if not steps and not num_draws:
        raise ValueError("steps=[] num_draws=0: nothing would be replaced. Give steps, or a number of draws.")
    units = units_of(subject.network, groups)
    problem = _problem(subject, split, num_examples, num_for_statistics, batch_size)
    here = state_of(subject.network)
    origin = state_of(subject.at(0).network)
    whole = _scores(problem, here, [], {})
    found: dict[Cell, list[Score]] = defaultdict(list)
    distances: list[tuple[str, int, float, float]] = []
    for sources in _sources(subject, here, steps, num_draws):
        for cell, scores in _scores(problem, here, units, sources).items():
            found[cell] += scores
        at_steps = {step: state for (step, _), state in sources.items() if step != OF_A_DRAW}
        distances += _distances(subject.network, units, origin, at_steps)
    distances += _distances(subject.network, units, origin, {subject.step: here})
    columns = zip(*dict.fromkeys(distances), strict=True)
    tables = {
        "cells": _cell_table(units, whole, found),
        "units": _unit_table(subject.network, units, whole, found),
        "distances": dict(zip(("unit", "step", "norm_2", "norm_max"), map(list, columns), strict=True)),
    }
    return Findings(_numbers(units, whole, found), tables)


def units_of(network: nn.Module, groups: Sequence[str]) -> list[Unit]:
    """Return all layers, all blocks, and the groups asked for.

    Raises:
        ValueError: a group matches no layer.
    """
    tensors = layer_tensors(network)
    if not tensors:
        raise ValueError("the network has no layers with weights. Leave this run out.")
    named = {layer: ("layer", [layer]) for layer in tensors}
    named |= {block: ("block", layers) for block, layers in block_layers(network).items()}
    for group in groups:
        named |= {name: ("group", layers) for name, layers in _grouped(network, list(tensors), group).items()}
    return [
        Unit(name, kind, layers, [tensor for layer in layers for tensor in tensors[layer]])
        for name, (kind, layers) in named.items()
    ]


def _grouped(network: nn.Module, layers: list[str], group: str) -> dict[str, list[str]]:
    if group == "from_input":
        return {f"up to {layers[k - 1]}": layers[:k] for k in range(2, len(layers) + 1)}
    if group == "from_output":
        return {f"from {layers[k]}": layers[k:] for k in range(len(layers) - 1)}
    if group == "stages":
        stages = residual_stages(network)
        together = {"all stages but their first blocks": [layer for inside in stages.values() for layer in inside]}
        if stages:
            return {f"{stage} but its first block": inside for stage, inside in stages.items()} | together
    patterns = group.split("|")
    matched = [layer for layer in layers if any(fnmatchcase(layer, pattern) for pattern in patterns)]
    if not matched:
        raise ValueError(
            f"groups={group!r}: no layer of this network goes by it. Its layers are {', '.join(layers)}; from_input, "
            "from_output, and stages, where there are residual stages, are allowed, too."
        )
    return {group: matched}


def _problem(
    subject: Subject, split: SplitName, num_examples: int | None, num_for_statistics: int, batch_size: int
) -> Problem:
    check_whole("batch_size", batch_size, 2)
    check_whole("num_for_statistics", num_for_statistics, 0)
    chosen = examples(subject.split(split), num_examples, "all", memory_mb=subject.memory_mb)
    for_statistics = None
    if num_for_statistics and has_batch_norm(subject.network):
        train = subject.split("train")
        for_statistics = examples(train, num_for_statistics, "all", memory_mb=subject.memory_mb).inputs
    return Problem(subject.network, chosen.inputs, judged_by(split, chosen), for_statistics, batch_size)


def _sources(
    subject: Subject, here: State, steps: Sequence[At], num_draws: int
) -> Iterator[dict[tuple[int, int], State]]:
    """Yield as many states at once as half of what may be held: (step, 0) or (-1, draw) -> state."""
    size = sum(value.numel() * value.element_size() for value in here.values())
    at_once = max(1, int(subject.memory_mb * 2**20 / 2 / max(1, size)))
    sources: dict[tuple[int, int], State] = {}
    for step in steps:
        there = subject.at(step)
        sources[there.step, 0] = state_of(there.network)
        check_same_architecture(here, sources[there.step, 0], f"steps={step}")
        if len(sources) == at_once:
            yield sources
            sources = {}
    for draw in range(num_draws):
        sources[OF_A_DRAW, draw] = state_of(subject.fresh(draw))
        if len(sources) == at_once:
            yield sources
            sources = {}
    if sources:
        yield sources


@torch.no_grad()
def _scores(
    problem: Problem, here: State, units: Sequence[Unit], sources: Mapping[tuple[int, int], State]
) -> dict[Cell, list[Score]]:
    """Return the scores of each unit replaced from each source; without units those of the network itself."""
    trials = [
        (Cell(unit.name, step, ""), {name: state[name] for name in unit.tensors})
        for unit in units
        for (step, _), state in sources.items()
    ] or [(Cell("", 0, ""), {})]
    found: dict[Cell, list[Score]] = defaultdict(list)
    # As it was at first: the subject at another step may be the same module with other weights.
    with replaced(problem.network, here), evaluation_mode(problem.network):
        scores = _with_kept_statistics(problem, [values for _, values in trials])
        for (cell, _), score in zip(trials, scores, strict=True):
            found[cell._replace(statistics=KEPT)].append(score)
        if problem.for_statistics is not None:
            for cell, values in trials:
                with (
                    replaced(problem.network, values),
                    recalibrated_batch_norm(problem.network, problem.for_statistics, problem.batch_size),
                ):
                    predictions = predict(problem.network, problem.inputs, problem.labels)
                error = float((predictions.classes != problem.labels).cpu().double().mean())
                loss = float(predictions.losses.cpu().double().mean())
                found[cell._replace(statistics=AGAIN)].append(Score(error, loss))
    return found


def _with_kept_statistics(problem: Problem, trials: Sequence[Mapping[str, Tensor]]) -> list[Score]:
    network, inputs, labels = problem.network, problem.inputs, problem.labels
    chain = Chain(network, next(iter(in_parts(inputs, [slice(0, 1)]))))
    places: dict[int, list[int]] = defaultdict(list)
    for i, values in enumerate(trials):
        places[min((chain.place(name) for name in values), default=0)].append(i)
    wrong, losses = ([0.0] * len(trials) for _ in range(2))
    parts = prediction_parts(inputs)
    for place, members in places.items():
        for part, images in zip(parts, in_parts(inputs, parts), strict=True):
            with (
                torch.autocast(images.device.type, enabled=False),
                chain.from_member(place, chain.inputs(place, images)),
            ):
                for i in members:
                    with replaced(network, trials[i]):
                        logits = network(images).float()
                    wrong[i] += float((logits.argmax(1) != labels[part]).sum())
                    losses[i] += float(F.cross_entropy(logits, labels[part], reduction="none").cpu().double().sum())
    return [Score(w / len(labels), loss / len(labels)) for w, loss in zip(wrong, losses, strict=True)]


def _distances(
    network: nn.Module, units: Sequence[Unit], origin: State, states: Mapping[int, State]
) -> list[tuple[str, int, float, float]]:
    weights = {name for name, _ in network.named_parameters()}
    return [
        (unit.name, step, *norms([state[name] - origin[name] for name in unit.tensors if name in weights]))
        for step, state in states.items()
        for unit in units
    ]


def _rises(unit: Unit, statistics: str, whole: Scores, found: Scores) -> tuple[Number, Number]:
    """Return the mean rises of the error, over the steps and over the draws."""
    (base,) = whole[Cell("", 0, statistics)]
    means: dict[bool, list[float]] = {True: [], False: []}
    for cell, scores in found.items():
        if (cell.unit, cell.statistics) == (unit.name, statistics):
            means[cell.step == OF_A_DRAW].append(sum(score.error for score in scores) / len(scores) - base.error)
    at_steps, drawn = (sum(values) / len(values) if values else None for values in (means[False], means[True]))
    return at_steps, drawn


def _numbers(units: Sequence[Unit], whole: Scores, found: Scores) -> dict[str, Number]:
    numbers: dict[str, Number] = {}
    for (_, _, statistics), (base,) in whole.items():
        rises = [_rises(unit, statistics, whole, found) for unit in units if unit.kind == "layer"]
        at_steps, drawn = ([rise for rise in column if rise is not None] for column in zip(*rises, strict=True))
        ending = "" if statistics == KEPT else f"_{statistics}"
        numbers |= {
            f"error{ending}": base.error,
            f"loss{ending}": base.loss,
            f"criticality{ending}": sum(at_steps) / len(at_steps) if at_steps else None,
            f"most_critical{ending}": max(at_steps) if at_steps else None,
            f"redrawn{ending}": sum(drawn) / len(drawn) if drawn else None,
        }
    return numbers


def _cell_table(units: Sequence[Unit], whole: Scores, found: Scores) -> Table:
    kinds = {unit.name: unit.kind for unit in units}
    rows = []
    for cell, scores in found.items():
        (base,) = whole[Cell("", 0, cell.statistics)]
        errors = torch.tensor([score.error for score in scores], dtype=torch.float64)
        error, loss = float(errors.mean()), sum(score.loss for score in scores) / len(scores)
        spread = float(errors.std()) if len(scores) > 1 else math.nan
        rows.append((cell.unit, kinds[cell.unit], cell.step, cell.statistics, error, spread, loss, error - base.error))
    names = ("unit", "kind", "step", "statistics", "error", "error_spread", "loss", "rise")
    return dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))


def _unit_table(network: nn.Module, units: Sequence[Unit], whole: Scores, found: Scores) -> Table:
    sizes = {name: value.numel() for name, value in network.named_parameters()}
    rows = [
        (
            unit.name,
            unit.kind,
            len(unit.layers),
            sum(sizes.get(name, 0) for name in unit.tensors),
            cell.statistics,
            *(math.nan if rise is None else rise for rise in _rises(unit, cell.statistics, whole, found)),
        )
        for cell in whole
        for unit in units
    ]
    names = ("unit", "kind", "num_layers", "num_parameters", "statistics", "criticality", "redrawn")
    return dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
