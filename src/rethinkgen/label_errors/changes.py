"""What corrected labels have changed, of a search on such: which labels, and what is then said of held-out images."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rethinkgen.console import percent
from rethinkgen.label_errors.findings import Changed, Changes, Findings, Tested
from rethinkgen.label_errors.ranking import DOUBTED
from rethinkgen.label_errors.trainings import Judged
from rethinkgen.run.run import Run
from rethinkgen.words import how_many

if TYPE_CHECKING:
    from rethinkgen.run.opened import OpenedRun

ASIDE = ("seed", "data.relabel")
"""In what runs before and after may differ, and still be compared."""
PARTS = ("test", "validation")
"""Which held-out images accuracies are of: the first that there are."""


def changes_of(
    table: str, findings: Findings, runs: Sequence[Run], opened: OpenedRun, others: Sequence[Run]
) -> Changes:
    """Return what ``data.relabel=table`` has changed.

    Args:
        table: as the user calls it.
        findings: of the search on the corrected labels.
        runs: its trainings on all images.
        opened: one of these.
        others: finished runs among which those on the labels as they were may be.
    """
    datamodule: Any = opened.datamodule
    train = datamodule.source.load().train
    split = datamodule.as_listed(len(train), opened.class_names)
    doubted = {each.index for each in findings.suspects[: findings.num_doubted]}
    positions, labels = datamodule.relabel.relabelled(split)
    after: dict[int, int | None] = dict(zip(positions.tolist(), labels.tolist(), strict=True))
    after |= dict.fromkeys(datamodule.relabel.dropped(split).tolist())
    changed = [
        Changed(
            index=index,
            path=None if split.name_of is None else split.name_of(index),
            before=int(train.labels[index]),
            after=label,
            is_doubted=index in doubted,
        )
        for index, label in after.items()
        if label != int(train.labels[index])
    ]
    setting = runs[0].setting(*ASIDE)
    before = [run for run in others if run.key("data.relabel") is None and run.setting(*ASIDE) == setting]
    part = next((name for name in PARTS if not math.isnan(runs[0].number(f"{name}/accuracy"))), "")
    told = tested(before, part), tested(runs, part)
    return Changes(
        table=table,
        changed=tuple(sorted(changed, key=lambda each: (each.before, math.inf if each.after is None else each.after))),
        total=len(train),
        part=part,
        before=told[0],
        after=told[1],
        why_not=_why_not(part, told[0]),
    )


def tested(runs: Sequence[Run], part: str) -> Tested | None:
    """Return what runs say of a held-out part and of their training labels; ``None`` of no runs, or without a part."""
    if not runs or not part:
        return None
    judged = [Judged.of([run]) for run in runs]
    score = [np.mean(each.opinions[0].score >= DOUBTED) for each in judged]
    num_trained = len(judged[0].labels)
    return Tested(
        accuracies=tuple(run.number(f"{part}/accuracy") for run in runs),
        count=runs[0].num_test if part == "test" else None,
        num_doubted=round(float(np.mean(score)) * num_trained),
        num_trained=num_trained,
    )


def _why_not(part: str, before: Tested | None) -> str:
    if not part:
        return (
            "There is no test part and nothing is held out (data.validation=0.1 does, of both searches): how good the "
            "network is on other images is not compared."
        )
    if before is None:
        return (
            "No finished search with the same settings on the labels as they were was found, beside the table or where "
            "this search would lie without data.relabel: nothing compares. Run it with the same keys."
        )
    return ""


def by_chance(before: Tested, after: Tested) -> float | None:
    """Return by how much two accuracies on so many images differ by chance, 95 %, were each's images drawn anew.

    The same images are asked twice, so that this is too much rather than too little; what another seed would change
    is not in it. ``None``: it is not known how many images.
    """
    if not after.count:
        return None
    variances = [np.mean(each.accuracies) * (1 - np.mean(each.accuracies)) for each in (before, after)]
    return float(1.96 * math.sqrt(sum(variances) / after.count))


def in_words(changes: Changes) -> list[str]:
    """Return what changed, a sentence each."""
    told = f"{changes.table} has corrected {how_many(len(changes.corrected), 'label')}"
    lines = [f"{told} and left out {how_many(len(changes.left_out), 'image')} before this search."]
    if changes.corrected:
        still = sum(each.is_doubted for each in changes.corrected)
        lines.append(f"Of the corrected labels the network now doubts {still:,}.")
    before, after = changes.before, changes.after
    if before is None or after is None:
        return [*lines, changes.why_not]
    images = f"the {after.count:,} {changes.part} images" if after.count else f"the {changes.part} images"
    seeds = [how_many(len(each.accuracies), "run") for each in (before, after)]
    lines.append(
        f"Before, the network said the given label of {percent(float(np.mean(before.accuracies)))} of {images} "
        f"({seeds[0]}); now of {percent(float(np.mean(after.accuracies)))} ({seeds[1]})."
    )
    if (chance := by_chance(before, after)) is not None:
        lines.append(f"By chance alone two such accuracies differ by up to {100 * chance:.1f} points.")
    return lines


def where_before(table: str, folder: Path) -> list[Path]:
    """Return where the search on the labels as they were may lie: beside the table, and in its own folder."""
    return list(dict.fromkeys([Path(table).expanduser().parent.absolute(), folder.absolute()]))
