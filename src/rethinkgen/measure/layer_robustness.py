"""What is lost when one layer is put back to where it was, or drawn anew, and all others stay."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, NamedTuple

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
DRAWN, AS_TRAINED = "drawn anew", "as trained"
ROBUST = "robust layers"


class Unit(NamedTuple):
    """What is replaced at once."""

    name: str
    kind: str
    """``layer``, ``block``, ``group``, or ``robust``: all layers that are not critical"""
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


class Judged(NamedTuple):
    """What was found on one split, BatchNorm's statistics as ``statistics`` says."""

    split: str
    statistics: str
    units: Sequence[Unit]
    base: Score
    """Of the network itself"""
    found: Scores

    @property
    def layers(self) -> list[Unit]:
        """Return the single layers, from input to output."""
        return [unit for unit in self.units if unit.kind == "layer"]

    @property
    def steps(self) -> list[int]:
        """Return the steps that units were put back to."""
        return [step for step in dict.fromkeys(cell.step for cell in self.found) if step != OF_A_DRAW]

    def rise(self, unit: Unit, step: int) -> float | None:
        """Return how much the error rises, over draws on the mean; nothing of what was not replaced."""
        scores = self.found.get(Cell(unit.name, step, self.statistics))
        return sum(score.error for score in scores) / len(scores) - self.base.error if scores else None

    def criticality(self, unit: Unit) -> float | None:
        """Return the mean rise over the steps."""
        return _mean([self.rise(unit, step) for step in self.steps])

    def robust(self, critical_from: float) -> list[Unit]:
        """Return the layers whose error rises by no more, put back to the earliest step."""
        rises = {unit.name: self.rise(unit, min(self.steps)) for unit in self.layers} if self.steps else {}
        return [unit for unit in self.layers if (rise := rises.get(unit.name)) is not None and rise <= critical_from]


@asks("steps", also=(0,))
def layer_robustness(
    subject: Subject,
    *,
    steps: Sequence[At] = (0, "1ep"),
    num_draws: int = 5,
    groups: Sequence[str] = (),
    critical_from: float = 0.05,
    splits: Sequence[SplitName] = ("test",),
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

    On ``train`` the error is against the labels as given, wrong ones too; on the other splits against the true ones. Of
    each split ``num_examples`` are taken.

    A layer's *criticality* is the mean, over ``steps``, of how much the error rises. It *is critical* if the error
    rises by more than ``critical_from`` with it put back to the earliest of ``steps``, else *robust*: the paper says
    "negligible"; a number of its own we have not seen.

    Numbers, for each of ``splits``, with BatchNorm once more as ``..._re-estimated``: ``<split>/error``, ``loss`` of
    the network itself; ``criticality`` and ``redrawn``, the means over the layers of the rise over ``steps`` and over
    draws; ``most_critical``, the largest criticality; ``first_layer``, the rise with the first layer put back to the
    earliest step, and ``other_layers``, the largest with any other; ``critical_share`` of the layers;
    ``robust_together``, the rise with all robust layers put back there at once, and ``robust_excess``, by how much that
    is more than the largest with one of them (``None`` of fewer than two); ``least_redrawn``, the smallest error with a
    layer drawn anew; ``norm_2_correlation``, ``norm_max_correlation``, Spearman's, over the layers, of criticality with
    how far they are from step 0 (``None`` of fewer than three).

    Tables: ``cells`` with ``split, unit, layer, kind, source, source_step, statistics, error, error_spread, loss,
    rise``, where ``layer`` is the unit's name with its shape if it is but a number; ``source`` is ``drawn anew``, a
    step as it was asked for, or ``as trained``; ``source_step`` is -1 of the mean over draws, whose standard deviation
    is the spread. ``units`` with ``split, unit, layer, kind, num_layers, num_parameters, statistics, criticality,
    redrawn, norm_2, norm_max``. ``distances`` with ``unit, layer, kind, source, source_step, norm_2, norm_max``: how
    far from step 0 each unit was at each of ``steps``, and is now, in the norms of ``distance``.

    Raises:
        ValueError: a pattern that matches no layer, tied weights, or weights of another architecture.
    """
    check_untied(subject.network)
    check_whole("num_draws", num_draws, 0)
    if not steps and not num_draws:
        raise ValueError("steps=[] num_draws=0: nothing would be replaced. Give steps, or a number of draws.")
    if not splits:
        raise ValueError("splits=[]: what are the networks to be judged on? Give [test], [train] or [test,train].")
    units = units_of(subject.network, groups)
    problems = {name: _problem(subject, name, num_examples, num_for_statistics, batch_size) for name in splits}
    here = state_of(subject.network)
    origin = state_of(subject.at(0).network)
    whole = {name: _scores(problem, here, [], {}) for name, problem in problems.items()}
    found: dict[str, dict[Cell, list[Score]]] = {name: defaultdict(list) for name in splits}
    asked: dict[int, str] = {}
    earliest: dict[tuple[int, int], State] = {}
    distances: dict[tuple[str, int], tuple[float, float]] = {}
    for sources in _sources(subject, here, steps, num_draws, asked):
        for name, problem in problems.items():
            for cell, scores in _scores(problem, here, units, sources).items():
                found[name][cell] += scores
        distances |= _distances(subject.network, units, origin, {step: state for (step, _), state in sources.items()})
        first = min((key for key in [*earliest, *sources] if key[0] != OF_A_DRAW), default=None)
        earliest = {key: state for key, state in {**earliest, **sources}.items() if key == first}
    now = _distances(subject.network, units, origin, {subject.step: here})
    judged = []
    for name, problem in problems.items():
        bases = {cell.statistics: score for cell, (score,) in whole[name].items()}
        robust = Judged(name, KEPT, units, bases[KEPT], found[name]).robust(critical_from)
        together = _together(robust)
        if together:
            found[name] |= _scores(problem, here, together, earliest)
        judged += [Judged(name, kind, [*units, *together], base, found[name]) for kind, base in bases.items()]
    labels = {unit.name: _label(unit, here) for unit in judged[0].units} | {ROBUST: ROBUST}
    of_unit = {unit: norms_ for (unit, _), norms_ in now.items()}
    tables = {
        "cells": _cell_table(judged, labels, asked, subject.step),
        "units": _unit_table(subject.network, judged, labels, of_unit),
        "distances": _distance_table(units, labels, asked, distances, of_unit, subject.step),
    }
    numbers: dict[str, Number] = {}
    for each in judged:
        numbers |= _numbers(each, critical_from, of_unit)
    return Findings(numbers, tables)


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
    subject: Subject, here: State, steps: Sequence[At], num_draws: int, asked: dict[int, str]
) -> Iterator[dict[tuple[int, int], State]]:
    """Yield as many states at once as half of what may be held: (step, 0) or (-1, draw) -> state.

    ``asked`` is told which step each of ``steps`` is.
    """
    size = sum(value.numel() * value.element_size() for value in here.values())
    at_once = max(1, int(subject.memory_mb * 2**20 / 2 / max(1, size)))
    sources: dict[tuple[int, int], State] = {}
    for step in steps:
        there = subject.at(step)
        asked.setdefault(there.step, str(step))
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


def _together(robust: Sequence[Unit]) -> list[Unit]:
    """Return the robust layers as one unit; nothing of fewer than two."""
    layers = [layer for unit in robust for layer in unit.layers]
    tensors = [tensor for unit in robust for tensor in unit.tensors]
    return [Unit(ROBUST, "robust", layers, tensors)] if len(robust) > 1 else []


def _distances(
    network: nn.Module, units: Sequence[Unit], origin: State, states: Mapping[int, State]
) -> dict[tuple[str, int], tuple[float, float]]:
    weights = {name for name, _ in network.named_parameters()}
    return {
        (unit.name, step): norms([state[name] - origin[name] for name in unit.tensors if name in weights])
        for step, state in states.items()
        if step != OF_A_DRAW
        for unit in units
    }


def _label(unit: Unit, here: State) -> str:
    """Return the name, with the shape of the weights where it is but a place: ``4 (256x784)``."""
    if unit.kind != "layer" or any(letter.isalpha() for letter in unit.name):
        return unit.name
    return f"{unit.name} ({'x'.join(map(str, here[unit.tensors[0]].shape))})"


def _numbers(judged: Judged, critical_from: float, now: Mapping[str, tuple[float, float]]) -> dict[str, Number]:
    layers, base = judged.layers, judged.base
    criticalities = {unit.name: judged.criticality(unit) for unit in layers}
    drawn = [judged.rise(unit, OF_A_DRAW) for unit in layers]
    earliest = min(judged.steps, default=OF_A_DRAW)
    first, *others = [judged.rise(unit, earliest) for unit in layers] if judged.steps else [None]
    robust, together = judged.robust(critical_from), [unit for unit in judged.units if unit.kind == "robust"]
    rise = judged.rise(together[0], earliest) if together else None
    # The layers that were put back together: those robust with the statistics kept, whatever they are estimated again.
    inside = {layer for unit in together for layer in unit.layers}
    alone = _largest(judged.rise(unit, earliest) for unit in layers if inside.issuperset(unit.layers))
    known = [name for name, value in criticalities.items() if value is not None]
    ranked = [[criticalities[name] for name in known], *zip(*(now[name] for name in known), strict=True)]
    numbers: dict[str, Number] = {
        "error": base.error,
        "loss": base.loss,
        "criticality": _mean(list(criticalities.values())),
        "redrawn": _mean(drawn),
        "most_critical": _largest(criticalities.values()),
        "first_layer": first,
        "other_layers": _largest(others),
        "critical_share": 1 - len(robust) / len(layers) if judged.steps else None,
        "robust_together": rise,
        "robust_excess": None if rise is None or alone is None else rise - alone,
        "least_redrawn": min((base.error + rise for rise in drawn if rise is not None), default=None),
        "norm_2_correlation": rank_correlation(ranked[0], ranked[1]) if known else None,
        "norm_max_correlation": rank_correlation(ranked[0], ranked[2]) if known else None,
    }
    ending = "" if judged.statistics == KEPT else f"_{judged.statistics}"
    return {f"{judged.split}/{name}{ending}": value for name, value in numbers.items()}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def _largest(values: Iterable[float | None]) -> float | None:
    return max((value for value in values if value is not None), default=None)


def rank_correlation(one: Sequence[float], other: Sequence[float]) -> float | None:
    """Return Spearman's correlation: Pearson's of the ranks, equal values sharing the mean of theirs.

    Nothing of fewer than three pairs, or where all values are equal.
    """
    a, b = (_ranks(torch.tensor(values, dtype=torch.float64)) for values in (one, other))
    a, b = a - a.mean(), b - b.mean()
    size = float(a.norm() * b.norm())
    return float(a @ b) / size if len(a) > 2 and size else None


def _ranks(values: Tensor) -> Tensor:
    below, equal = ((values[:, None] > values).sum(1), (values[:, None] == values).sum(1))
    return below.double() + (equal.double() - 1) / 2


def _cell_table(all_judged: Sequence[Judged], labels: Mapping[str, str], asked: Mapping[int, str], here: int) -> Table:
    rows: list[tuple[Any, ...]] = []
    for judged in all_judged:
        base, sources = judged.base, {OF_A_DRAW: DRAWN, **asked}
        for unit in judged.units:
            told = (judged.split, unit.name, labels[unit.name], unit.kind)
            for step, source in sources.items():
                if scores := judged.found.get(Cell(unit.name, step, judged.statistics)):
                    errors = torch.tensor([score.error for score in scores], dtype=torch.float64)
                    spread = float(errors.std()) if len(scores) > 1 else math.nan
                    loss, error = sum(score.loss for score in scores) / len(scores), float(errors.mean())
                    rows.append((*told, source, step, judged.statistics, error, spread, loss, error - base.error))
            rows.append((*told, AS_TRAINED, here, judged.statistics, base.error, math.nan, base.loss, 0.0))
    names = "split", "unit", "layer", "kind", "source", "source_step", "statistics"
    return _table((*names, "error", "error_spread", "loss", "rise"), rows)


def _unit_table(
    network: nn.Module, all_judged: Sequence[Judged], labels: Mapping[str, str], now: Mapping[str, tuple[float, float]]
) -> Table:
    sizes = {name: value.numel() for name, value in network.named_parameters()}
    rows = [
        (
            judged.split,
            unit.name,
            labels[unit.name],
            unit.kind,
            len(unit.layers),
            sum(sizes.get(name, 0) for name in unit.tensors),
            judged.statistics,
            *(math.nan if rise is None else rise for rise in (judged.criticality(unit), judged.rise(unit, OF_A_DRAW))),
            *now.get(unit.name, (math.nan, math.nan)),
        )
        for judged in all_judged
        for unit in judged.units
    ]
    names = "split", "unit", "layer", "kind", "num_layers", "num_parameters", "statistics"
    return _table((*names, "criticality", "redrawn", "norm_2", "norm_max"), rows)


def _distance_table(
    units: Sequence[Unit],
    labels: Mapping[str, str],
    asked: Mapping[int, str],
    distances: Mapping[tuple[str, int], tuple[float, float]],
    now: Mapping[str, tuple[float, float]],
    here: int,
) -> Table:
    rows: list[tuple[Any, ...]] = []
    for unit in units:
        told = (unit.name, labels[unit.name], unit.kind)
        rows += [(*told, source, step, *distances[unit.name, step]) for step, source in asked.items()]
        rows.append((*told, AS_TRAINED, here, *now[unit.name]))
    return _table(("unit", "layer", "kind", "source", "source_step", "norm_2", "norm_max"), rows)


def _table(names: Sequence[str], rows: Sequence[tuple[Any, ...]]) -> Table:
    return dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
