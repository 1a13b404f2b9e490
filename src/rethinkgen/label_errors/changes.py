"""What corrected labels have changed, of a search on such: which labels, and what is then said of held-out images."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from rethinkgen.console import percent
from rethinkgen.errors import DamagedFileError
from rethinkgen.files import write_atomically
from rethinkgen.label_errors.findings import Accuracies, Changed, Changes, Findings
from rethinkgen.label_errors.ranking import DOUBTED
from rethinkgen.label_errors.trainings import LISTS, Judged
from rethinkgen.received import read_json
from rethinkgen.run.run import Run
from rethinkgen.words import how_many

if TYPE_CHECKING:
    from rethinkgen.run.opened import OpenedRun

ASIDE = ("seed", "data.relabel")
"""In what runs before and after may differ, and still be compared."""
PARTS = ("test", "validation")
"""Which held-out images accuracies are of: the first that there are."""
HELD_OUT = "held-out"
"""Else those that the control was not trained on."""
NOTED = Path(LISTS) / "held_out.json"


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
    told = [
        _told(each, [run.number(f"{part}/accuracy") for run in each], each[0].num_test if part == "test" else None)
        if part and each
        else _noted(each)
        for each in (before, runs)
    ]
    return Changes(
        table=table,
        changed=tuple(sorted(changed, key=lambda each: (each.before, math.inf if each.after is None else each.after))),
        total=len(train),
        part=part or HELD_OUT,
        before=told[0],
        after=told[1],
        why_not=_why_not(*told),
    )


def note_held_out(runs: Sequence[Run], folder: Path, accuracy: float, count: int | None) -> None:
    """Write into a search's folder how often its network is right on images that it was not trained on.

    Where there is no test part, no run's own result tells it, and a search on corrected labels asks for it.
    """
    path = folder / NOTED
    path.parent.mkdir(parents=True, exist_ok=True)
    content = {"runs": [run.run_id for run in runs], "accuracy": accuracy, "count": count}
    write_atomically(path, json.dumps(content), durable=False)


def _noted(runs: Sequence[Run]) -> Accuracies | None:
    """Return what ``note_held_out`` wrote beside the first of these runs, if it is about some of them."""
    if not runs:
        return None
    try:
        told = read_json(runs[0].sweep / NOTED) or {}
    except DamagedFileError:
        return None
    accuracy, count, noted = (told.get(name) for name in ("accuracy", "count", "runs"))
    is_theirs = isinstance(noted, list) and bool({str(each) for each in noted} & {run.run_id for run in runs})
    if not is_theirs or not isinstance(accuracy, float) or not 0 <= accuracy <= 1:
        return None
    return _told(runs, [accuracy], count if isinstance(count, int) and count > 0 else None)


def _told(runs: Sequence[Run], accuracies: Sequence[float], count: int | None) -> Accuracies:
    judged = [Judged.of([run]) for run in runs]
    share = float(np.mean([np.mean(each.opinions[0].score >= DOUBTED) for each in judged]))
    num_trained = len(judged[0].labels)
    return Accuracies(tuple(accuracies), count, round(share * num_trained), num_trained)


def _why_not(before: Accuracies | None, after: Accuracies | None) -> str:
    if after is None:
        return (
            "Nothing is held out: there is no test part, and neither the control nor data.validation=0.1 keeps images "
            "back. How good the network is on other images is not compared."
        )
    if before is None:
        return (
            "No finished search with the same keys on the labels as they were was found, beside the table or where "
            "this search would lie without data.relabel: nothing compares."
        )
    return ""


def by_chance(before: Accuracies | None, after: Accuracies | None) -> float | None:
    """Return by how much two accuracies on so many images differ by chance, 95 %, were each's images drawn anew.

    The same images are asked twice, so that this is too much rather than too little; what another seed would change
    is not in it. ``None``: one is not known, or not on how many images.
    """
    if before is None or after is None or not before.count or not after.count:
        return None
    means = [float(np.mean(each.accuracies)) for each in (before, after)]
    variances = [mean * (1 - mean) / count for mean, count in zip(means, (before.count, after.count), strict=True)]
    return 1.96 * math.sqrt(sum(variances))


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
        chance_words = f"On {after.count:,} images each, two such accuracies differ by up to {100 * chance:.1f} points"
        lines.append(f"{chance_words} by chance alone.")
    return lines


def where_before(table: str, folder: Path) -> list[Path]:
    """Return where the search on the labels as they were may lie: beside the table, and in its own folder."""
    return list(dict.fromkeys([Path(table).expanduser().parent.absolute(), folder.absolute()]))
