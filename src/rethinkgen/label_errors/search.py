"""A search for wrong labels, from the command to its files: which trainings it needs, and what is found in them.

The trainings are ordinary runs of ``train.py`` in one sweep's folder, so that what is finished is skipped, what was
stopped goes on, and two commands never train the same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rethinkgen.console import Column, percent, say, say_table, shown
from rethinkgen.label_errors import control, ranking
from rethinkgen.label_errors.asked import Asked, key_of
from rethinkgen.label_errors.changes import changes_of, note_held_out, where_before
from rethinkgen.label_errors.changes import in_words as changes_in_words
from rethinkgen.label_errors.exports import NO_FILES, export
from rethinkgen.label_errors.findings import Control, Findings, Suspect
from rethinkgen.label_errors.network import Choice, choose
from rethinkgen.label_errors.page import CHANGES, INDEX, check_is_own, write_changes_page, write_page
from rethinkgen.label_errors.ranking import DOUBTED, Opinion
from rethinkgen.label_errors.table import FILE_NAME, with_decisions, write_suspects
from rethinkgen.label_errors.trainings import Ints, Judged, Train, Trainings, ask
from rethinkgen.run.command import noted_command
from rethinkgen.run.run import IMAGE_SHAPES, NUM_TEST, NUM_TRAIN, Run, each_once, read_runs
from rethinkgen.words import how_many

if TYPE_CHECKING:
    from omegaconf import DictConfig

    from rethinkgen.run.opened import OpenedRun

HELD_OUT = 0.1
"""Share of the images that the control is not trained on, where there is no test part: for the held-out accuracy."""
LARGEST_PICTURE = 128
"""Pixels a side of what the page shows of a file."""
NUM_SHOWN = 10
BESIDE = ("data.relabel", "sweep")
"""Keys by which the folder of a search on corrected labels differs from that of the first."""


class HeldOut(NamedTuple):
    """How often the network is right on images that it was not trained on."""

    accuracy: float
    words: str
    """Which images"""
    number: int | None
    """How many, where that is known"""


def search(asked: Asked, train: Train) -> Findings:
    """Find the suspects, write ``suspects.csv`` and the page, and say what was found.

    Raises:
        ValueError: the command cannot be met.
        SystemExit: a training failed, or was stopped; the same command goes on.
    """
    is_trained = asked.folder is not None and _holds_runs(asked.folder)
    folder = asked.folder if asked.folder is not None and is_trained else asked.sweep_folder
    check_is_own(folder / INDEX)
    check_is_own(folder / CHANGES)
    _refuse_export(asked)
    _refuse_to_overwrite(asked, folder / FILE_NAME)
    findings = of_runs(asked, folder) if is_trained else of_trainings(asked, train)
    path = folder / FILE_NAME
    decided = with_decisions(path, findings.suspects, findings.class_names)
    findings = replace(findings, suspects=tuple(decided))
    write_suspects(path, findings.suspects, findings.class_names)
    page = write_page(findings, folder)
    written = export(findings, asked.exports, folder)
    tell(findings, path)
    for name, table in zip(asked.exports, written, strict=True):
        say(f"For {name}: {shown(table)}")
    if findings.changes is not None:
        say(f"What changed: {shown(write_changes_page(findings, findings.changes, folder))}")
    say(f"Look at them: {shown(page)}")
    return findings


def _refuse_export(asked: Asked) -> None:
    """Refuse to train for a table that cannot be written."""
    if "fiftyone" not in asked.exports or asked.folder is not None:
        return
    from rethinkgen.run.build import target_class
    from rethinkgen.run.composed import compose

    config = compose(*[item for item in asked.overrides if key_of(item).partition(".")[0] == "data"])
    if not hasattr(target_class(config.data.source, "data.source"), "name_of"):
        raise ValueError(NO_FILES)


def _refuse_to_overwrite(asked: Asked, table: Path) -> None:
    relabel = asked.value("data.relabel")
    if relabel is None or not table.exists():
        return
    named = Path(relabel).expanduser()
    if named.exists() and table.samefile(named):
        raise ValueError(f"data.relabel={relabel}: this search would write over it. Name another folder: sweep=...")


def of_runs(asked: Asked, folder: Path) -> Findings:
    """Return what the finished runs of a folder say, which are not trained again.

    Raises:
        ValueError: there is none that noted what it said of each image, or they are about different labels.
    """
    if asked.overrides or asked.folds or asked.runs > 1:
        first = next(iter(asked.overrides), f"runs={asked.runs}" if asked.runs > 1 else f"folds={asked.folds}")
        raise ValueError(f"{first}: {folder} holds finished runs, which are not trained again. Leave it out.")
    runs = [run for run in read_runs([folder]) if run.state == "done"]
    if not runs:
        raise ValueError(f"{folder}: none of its runs is finished.")
    judged = Judged.of(runs)
    opened = _opened(runs[0])
    network = f"{', '.join(sorted({run.model for run in runs}))}, of {how_many(len(runs), 'finished run')}"
    seconds = sum(float((run.result or {}).get("seconds") or 0.0) for run in runs)
    return gather(asked, judged, judged.opinions, opened, network, None, _tested(runs), seconds)


def prepare(asked: Asked, train: Train) -> tuple[Trainings, Choice]:
    """Return how the search trains, and what it trains where the user names nothing else."""
    choice = _choice(asked)
    folder = asked.sweep_folder
    defaults = choice.overrides | {"logger": "none", "sweep": folder.name, "data.seed": str(asked.seed)}
    typed = {key_of(item) for item in asked.overrides}
    own = [f"{key}={value}" for key, value in defaults.items() if not _is_chosen(key, typed)]
    return Trainings(train, [*asked.data, *own, *asked.overrides], folder), choice


def of_trainings(asked: Asked, train: Train) -> Findings:
    """Return what networks say that are trained for it, as far as they are not yet."""
    trainings, choice = prepare(asked, train)
    say(f"Network: {choice.words}.")
    say(asked.cost())
    runs = trainings.run("seed", [str(asked.seed + number) for number in range(asked.runs)])
    judged, opened = Judged.of(runs), _opened(runs[0])
    opinions, held_out = [*judged.opinions], _tested(runs)
    if asked.folds:
        of_folds = ask_folds(trainings, judged, opened, asked)
        opinions.append(of_folds)
        words = f"the images themselves, each said by a network that was trained on the other {asked.folds - 1} folds"
        held_out = held_out or HeldOut(float((of_folds.suggested < 0).mean()), words, len(of_folds.suggested))
    told: Control | None = None
    if asked.control:
        told, of_control = controlled(trainings, judged, opinions, opened, asked, leaves_out=held_out is None)
        held_out = held_out or of_control
    findings = gather(asked, judged, opinions, opened, choice.words, told, held_out, trainings.seconds)
    if held_out:
        note_held_out(runs, trainings.folder, held_out.accuracy, held_out.number)
    return _what_changed(asked, findings, runs, opened)


def train_folds(trainings: Trainings, judged: Judged, opened: OpenedRun, asked: Asked) -> list[tuple[Run, Ints]]:
    """Return a run for each fold, and the places in ``judged`` that it was not trained on: its share of each class."""
    # The k-th of a class, in an order that the seed draws, is of fold k modulo their number.
    order = np.random.RandomState(asked.seed).permutation(len(judged.index))
    by_class = order[np.argsort(judged.labels[order], kind="stable")]
    fold = np.empty(len(order), np.int64)
    fold[by_class] = np.arange(len(order)) % asked.folds
    lists = [
        trainings.keep(f"not_fold_{number}_of_{asked.folds}", _all_but(judged.index[fold != number], opened))
        for number in range(asked.folds)
    ]
    instead = {"seed": str(asked.seed), "data.num_train": None, "data.validation": None}
    runs = trainings.run("data.exclude", lists, instead)
    return [(run, np.flatnonzero(fold == number)) for number, run in enumerate(runs)]


def ask_folds(trainings: Trainings, judged: Judged, opened: OpenedRun, asked: Asked) -> Opinion:
    """Return what networks say of the folds that they were not trained on."""
    trained = train_folds(trainings, judged, opened, asked)
    found = [ask(_opened(run), opened, judged.index[part], judged.labels[part]) for run, part in trained]
    return _put_together(found, [part for _, part in trained])


def _put_together(opinions: Sequence[Opinion], parts: Sequence[Ints]) -> Opinion:
    order = np.argsort(np.concatenate(parts))
    columns = ("score", "tie", "suggested", "confidence")
    return Opinion(*(np.concatenate([getattr(each, name) for each in opinions])[order] for name in columns))


def controlled(
    trainings: Trainings,
    judged: Judged,
    opinions: Sequence[Opinion],
    opened: OpenedRun,
    asked: Asked,
    *,
    leaves_out: bool,
) -> tuple[Control, HeldOut | None]:
    """Make labels wrong on purpose, train once more, and return what it says of the list.

    ``leaves_out``: a part is not trained on, and tells how often the network is right on such.
    """
    count = len(judged.labels)
    random = np.random.RandomState(asked.seed)
    is_left_out = np.zeros(count, bool)
    if leaves_out:
        is_left_out[random.permutation(count)[: int(HELD_OUT * count)]] = True
    kept, left = np.flatnonzero(~is_left_out), np.flatnonzero(is_left_out)
    number = control.how_many_to_plant(len(kept), asked.control)
    suggested, _ = ranking.suggestions(opinions, judged.labels)
    is_doubted = _mean_score(opinions) >= DOUBTED
    if number == 0 or number > (~is_doubted[kept]).sum():
        return control.judge(np.zeros(len(kept), bool), count), None
    planted = control.plant(
        judged.labels[kept], suggested[kept], is_doubted[kept], number, len(opened.class_names), asked.seed
    )
    labels = judged.labels[kept].copy()
    labels[planted.places] = planted.labels
    instead: dict[str, str | None] = {
        "seed": str(asked.seed),
        "data.num_train": None,
        "data.validation": None,
        "data.exclude": trainings.keep("not_in_control", _all_but(judged.index[kept], opened)),
    }
    if judged.is_changed:  # these labels are given, whatever changed them
        instead |= {"data.corruption": "none"}
    name = trainings.keep("planted", np.stack([judged.index[kept], labels], 1))
    (run,) = trainings.run("data.relabel", [name], instead)
    of_control = Judged.of([run])
    is_planted = np.isin(of_control.index, judged.index[kept][planted.places])
    told = control.judge(is_planted[ranking.order_of(of_control.opinions)], count)
    if not leaves_out:
        return told, None
    said = ask(_opened(run), opened, judged.index[left], judged.labels[left])
    words = f"the {len(left):,} images that the control was not trained on"
    return told, HeldOut(float((said.suggested < 0).mean()), words, len(left))


def gather(
    asked: Asked,
    judged: Judged,
    opinions: Sequence[Opinion],
    opened: OpenedRun,
    network: str,
    told: Control | None,
    held_out: HeldOut | None,
    seconds: float,
) -> Findings:
    """Return all that was found, as the table and the page tell it."""
    source: Any = opened.datamodule.source
    name_of: Callable[[str, int], str] | None = getattr(source, "name_of", None)
    suggested, confidence = ranking.suggestions(opinions, judged.labels)
    score = _mean_score(judged.opinions)
    suspects = tuple(
        Suspect(
            index=int(judged.index[place]),
            path=None if name_of is None else name_of("train", int(judged.index[place])),
            given=int(judged.labels[place]),
            suggested=int(suggested[place]),
            score=float(score[place]),
            rank=rank,
            confidence=float(confidence[place]),
        )
        for rank, place in enumerate(ranking.order_of(opinions), 1)
    )
    num_doubted = int((score >= DOUBTED).sum())
    doubted = suspects[:num_doubted]
    return Findings(
        suspects=suspects,
        class_names=tuple(opened.class_names),
        confusion=ranking.pairs([each.given for each in doubted], [each.suggested for each in doubted]),
        num_doubted=num_doubted,
        control=told,
        network=network,
        held_out_accuracy=held_out.accuracy if held_out else None,
        held_out=held_out.words if held_out else "",
        left_out=tuple(getattr(source, "left_out", ())),
        command=noted_command(),
        seconds=seconds,
        image=_pictures(opened, name_of),
        title=asked.title,
        root=_folder_of(source) if name_of is not None else None,
    )


def _what_changed(asked: Asked, findings: Findings, runs: Sequence[Run], opened: OpenedRun) -> Findings:
    """Return the findings with what the table that corrects the labels has changed, where there is one."""
    table = asked.value("data.relabel")
    if table is None:
        return findings
    as_they_were = replace(asked, overrides=[item for item in asked.overrides if key_of(item) not in BESIDE])
    folders = [each for each in where_before(table, as_they_were.sweep_folder) if _holds_runs(each)]
    others = [run for folder in folders for run in read_runs([folder]) if run.state == "done"]
    changes = changes_of(table, findings, runs, opened, each_once(others))
    return replace(findings, changes=changes, notes=(*findings.notes, *changes_in_words(changes)))


def _mean_score(opinions: Sequence[Opinion]) -> NDArray[np.float64]:
    mean: NDArray[np.float64] = np.mean([opinion.score for opinion in opinions], axis=0)
    return mean


def _pictures(opened: OpenedRun, name_of: Callable[[str, int], str] | None) -> Callable[[int], NDArray[np.uint8]]:
    """Return what gives the picture of an example ``(C, H, W)``: of a file its own shape, as far as it can be read."""
    root = _folder_of(opened.datamodule.source)

    def picture(index: int) -> NDArray[np.uint8]:
        if name_of is not None and root is not None:
            from rethinkgen.data.decoding import thumbnail

            try:
                pixels = thumbnail(str(root / name_of("train", index)), LARGEST_PICTURE)
            except Exception:  # Pillow's readers raise nearly everything on a file that has changed since
                pass
            else:
                return pixels[None] if pixels.ndim == 2 else pixels.transpose(2, 0, 1)
        found: NDArray[np.uint8] = opened.images(index)
        return found

    return picture


def tell(findings: Findings, path: Path) -> None:
    """Say which are the most suspicious, how far to believe it, and where all of it lies."""
    kinds: Any = ("number", "setting", "setting", "setting", "number")
    columns = [Column(*each) for each in zip(("rank", "image", "given", "suggested", "score"), kinds, strict=True)]
    names = [_plain(name) for name in findings.class_names]
    rows = [
        [
            str(each.rank),
            str(each.index) if each.path is None else _plain(each.path),
            names[each.given],
            names[each.suggested] if each.suggested != each.given else "-",
            f"{each.score:.2f}",
        ]
        for each in findings.suspects[:NUM_SHOWN]
    ]
    say_table(columns, rows)
    if findings.left_out:
        file, reason = findings.left_out[0]
        number = how_many(len(findings.left_out), "file")
        say(f"{number} left out, the first is {_plain(file)} ({reason}).", style="yellow")
    if findings.held_out_accuracy is not None:
        say(f"The network says the given label of {percent(findings.held_out_accuracy)} of {findings.held_out}.")
    for line in control.in_words(findings.control) if findings.control else ():
        say(line)
    for line in findings.notes:
        say(line)
    say(f"All {len(findings.suspects):,} images, the most suspicious first: {shown(path)}")


def _plain(text: str) -> str:
    """Return the name of a file or a class with nothing that moves a terminal's cursor."""
    return "".join(each if each.isprintable() else "?" for each in text)


def _tested(runs: Sequence[Run]) -> HeldOut | None:
    """Return the accuracy on the test part, where there is one."""
    found = [run.number("test/accuracy") for run in runs]
    if not found or any(map(math.isnan, found)):
        return None
    number = runs[0].num_test
    return HeldOut(float(np.mean(found)), f"the {number:,} test images" if number else "the test images", number)


def _all_but(index: Ints, opened: OpenedRun) -> Ints:
    """Return the positions in the source's training split that are not among ``index``."""
    count = len(opened.datamodule.source.load().train)
    return np.setdiff1d(np.arange(count), index)


def _folder_of(source: Any) -> Path | None:
    root = getattr(source, "root", None)
    return None if root is None else Path(root).expanduser()


def _holds_runs(folder: Path) -> bool:
    names = ("result.json", "config.yaml", ".index.jsonl")
    return any((folder / name).is_file() for name in names) or any(folder.glob("*/result.json"))


def _opened(run: Run) -> OpenedRun:
    from rethinkgen.run.opened import open_run

    return open_run(run.path, tell=say)


def _is_chosen(key: str, typed: set[str]) -> bool:
    """Whether the user has chosen a default's key: itself, or the model or optimizer that it is of."""
    groups = {"model": ("model", "optimizer"), "optimizer": ("optimizer",), "schedule": ("schedule",)}
    of_network = any(key.partition(".")[0] in groups[group] for group in groups if group in typed)
    of_budget = key in ("max_steps", "max_epochs") and bool({"max_steps", "max_epochs"} & typed)
    return key in typed or of_network or of_budget


def _choice(asked: Asked) -> Choice:
    """Return the default network for these images, of which the size and number are looked up, or counted.

    Raises:
        ValueError: there is none, or what is asked for notes nothing of single images.
    """
    from rethinkgen.run.composed import compose

    # Other keys may be of a network that is not chosen yet.
    of_data = [item for item in asked.overrides if key_of(item).partition(".")[0] in ("data", "regularizer")]
    config = compose(*asked.data, *of_data)
    if config.regularizer.mixup:
        raise ValueError(
            f"regularizer.mixup={config.regularizer.mixup}: a mixture of two images has no label that may be wrong. "
            "Leave it out."
        )
    name, parts = str(config.data.name), list(config.data.source.get("parts") or ["train"])
    if name in IMAGE_SHAPES and name in NUM_TRAIN:
        counts = {"train": NUM_TRAIN[name], "test": NUM_TEST[name]}
        shape, count = IMAGE_SHAPES[name], sum(counts.get(part, 0) for part in parts)
    else:
        shape, count = _counted(config)
    if isinstance(config.data.resize, int):
        shape = (shape[0], config.data.resize, config.data.resize)
    if isinstance(config.data.num_train, int):
        count = min(count, config.data.num_train)
    if (model := asked.value("model")) is not None:
        return replace(choose((shape[0], 8, 8), count), words=f"{model}, as asked for")  # the budget alone counts
    return choose(shape, count)


def _counted(config: DictConfig) -> tuple[tuple[int, int, int], int]:
    """Load the images that a config names; return their shape and number."""
    from omegaconf import OmegaConf

    from rethinkgen.data.source import Images
    from rethinkgen.run.build import build

    node: Any = OmegaConf.to_container(config.data.source, resolve=True)
    images = build(node, "data.source").load()
    if not isinstance(images, Images):  # read on the way, cropped to squares
        return (3, int(config.data.crop), int(config.data.crop)), len(images.train)
    channels, height, width = images.train.images.shape[1:]
    return (channels, height, width), len(images.train)
