"""The page of a search: pictures of the most suspicious, what to decide of each, and how far to believe the list.

One file that needs nothing else: pictures are embedded, and a policy forbids it to load anything and to run any script
but its own. Names of files and classes are somebody else's text: they stand in elements and in JSON, never in a script.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from numpy.typing import NDArray
from PIL import Image

from rethinkgen.console import duration, percent
from rethinkgen.errors import DamagedFileError
from rethinkgen.files import csv_cell, write_atomically
from rethinkgen.label_errors.changes import by_chance
from rethinkgen.label_errors.control import in_words
from rethinkgen.label_errors.findings import Changed, Changes, Control, Findings, Suspect
from rethinkgen.label_errors.table import COLUMNS, FILE_NAME
from rethinkgen.received import MOST_BYTES_OF_TABLE, read_bytes

INDEX = "index.html"
CHANGES = "changes.html"
LEFT_OUT = "left out"
GENERATOR = '<meta name="generator" content="rethinkgen label errors">'
"""What a page of ours has in its head."""
LEAST_SHOWN, MOST_SHOWN = 50, 600
"""Pictures: all that the network doubts, within these."""
LARGEST = 96
"""Pixels a side of an embedded picture."""
SMALLEST = 64
"""Smaller ones are enlarged by whole factors, so that each pixel is seen."""
MOST_CLASSES = 300
"""From which one chooses another label; of more, the suggested one alone can be taken on the page."""
MOST_PAIRS = 30
MOST_LEFT_OUT = 100
ENVIRONMENT = Environment(
    loader=ChoiceLoader([PackageLoader("rethinkgen.label_errors", "."), PackageLoader("rethinkgen.report", ".")]),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def write_page(findings: Findings, folder: Path) -> Path:
    """Write ``index.html`` into a folder and return its path.

    Raises:
        ValueError: there is an ``index.html`` that is no page of ours.
        OSError: the folder cannot be written.
    """
    index = folder / INDEX
    check_is_own(index)
    write_atomically(index, render(findings), durable=False)
    return index


def write_changes_page(findings: Findings, changes: Changes, folder: Path) -> Path:
    """Write ``changes.html``, what corrected labels have changed, into a folder and return its path.

    ``findings`` are those of the search on the corrected labels.

    Raises:
        ValueError: there is a ``changes.html`` that is no page of ours.
        OSError: the folder cannot be written.
    """
    path = folder / CHANGES
    check_is_own(path)
    write_atomically(path, render_changes(findings, changes), durable=False)
    return path


def render_changes(findings: Findings, changes: Changes) -> str:
    """Return the page of what changed."""
    names = [_visible(name) for name in findings.class_names]
    by_pair: dict[tuple[int, int | None], list[Changed]] = {}
    for each in changes.changed:
        by_pair.setdefault((each.before, each.after), []).append(each)
    largest_first = sorted(by_pair.items(), key=lambda item: -len(item[1]))
    words = [
        (names[before], LEFT_OUT if after is None else names[after], changed)
        for (before, after), changed in largest_first
    ]
    groups, num_shown = [], 0
    for before, after, changed in words[:MOST_PAIRS]:
        shown = changed[: MOST_SHOWN - num_shown]
        num_shown += len(shown)
        if shown:
            cards = [(_visible(_name(each)), picture(findings.image(each.index)), each.is_doubted) for each in shown]
            groups.append((before, after, changed[0].after is None, cards))
    return ENVIRONMENT.get_template("changes.html").render(
        changes=changes,
        generator=GENERATOR,
        index=INDEX,
        title=_visible(findings.title),
        table=_visible(changes.table),
        command=_visible(findings.command),
        network=findings.network,
        percent=percent,
        is_own_part=changes.part != "test",
        chance=by_chance(changes.before, changes.after),
        still=sum(each.is_doubted for each in changes.corrected),
        pairs=[(before, after, len(changed)) for before, after, changed in words[:MOST_PAIRS]],
        num_pairs=len(words),
        largest=max((len(changed) for changed in by_pair.values()), default=0),
        groups=groups,
        num_shown=num_shown,
        num_changed=len(changes.changed),
    )


def check_is_own(index: Path) -> None:
    """Refuse to write over a page that is not of a search.

    Raises:
        ValueError: there is one, or something else of this name.
    """
    try:
        before = read_bytes(index, MOST_BYTES_OF_TABLE)
        is_foreign = before is not None and GENERATOR.encode() not in before
    except DamagedFileError:
        is_foreign = True
    if is_foreign:
        raise ValueError(f"{index} is no page of ours, and would be replaced. Take it away, or name another sweep=...")


def render(findings: Findings) -> str:
    """Return the page."""
    suspects = findings.suspects
    shown = suspects[: min(max(findings.num_doubted, LEAST_SHOWN), MOST_SHOWN)]
    decided = [each for each in suspects[len(shown) :] if each.decision]
    script = ENVIRONMENT.get_template("page.js").render()
    has_paths = all(each.path is not None for each in suspects)
    data = {
        "header": ["path" if has_paths else "index", *COLUMNS],
        "rows": [_row(each, findings.class_names, has_paths=has_paths) for each in [*shown, *decided]],
        "classes": list(map(csv_cell, findings.class_names)) if len(findings.class_names) <= MOST_CLASSES else [],
        "file": FILE_NAME,
    }
    return ENVIRONMENT.get_template("suspects.html").render(
        findings=findings,
        generator=GENERATOR,
        title=_visible(findings.title),
        command=_visible(findings.command),
        names=[_visible(name) for name in findings.class_names],
        cards=[(each, picture(findings.image(each.index)), _visible(_name(each))) for each in shown],
        num_decided=len(decided),
        pairs=_pairs(shown),
        confusion=findings.confusion[:MOST_PAIRS],
        left_out=[(_visible(file), reason) for file, reason in findings.left_out[:MOST_LEFT_OUT]],
        control_lines=in_words(findings.control) if findings.control else [],
        curve=_curve(findings.control) if findings.control else "",
        held_out=percent(findings.held_out_accuracy),
        notes=list(map(_visible, findings.notes)),
        changes=CHANGES,
        has_classes=len(findings.class_names) <= MOST_CLASSES,
        seconds=duration(findings.seconds),
        data=_as_json(data),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def picture(pixels: NDArray[np.uint8]) -> str:
    """Return a picture ``(C, H, W)`` as an address that holds the whole of it."""
    image = Image.fromarray(pixels[0] if len(pixels) == 1 else np.ascontiguousarray(pixels.transpose(1, 2, 0)))
    if max(image.size) > LARGEST:
        image.thumbnail((LARGEST, LARGEST))
    elif (factor := SMALLEST // max(image.size)) > 1:
        image = image.resize((factor * image.width, factor * image.height), Image.Resampling.NEAREST)
    is_photograph = image.mode == "RGB" and max(image.size) == LARGEST
    kind = "JPEG" if is_photograph else "PNG"  # of hundreds of photographs PNG would be several times as large
    content = io.BytesIO()
    image.save(content, kind, quality=85)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(content.getvalue()).decode()}"


def _row(each: Suspect, class_names: Sequence[str], *, has_paths: bool) -> list[Any]:
    """Return the cells of ``suspects.csv``, as ``write_suspects`` has them."""
    return [
        csv_cell(_utf8(str(each.path))) if has_paths else str(each.index),
        csv_cell(_utf8(class_names[each.given])),
        csv_cell(_utf8(class_names[each.suggested])),
        f"{each.score:.4f}",
        str(each.rank),
        f"{each.confidence:.4f}",
        each.decision,
    ]


def _name(each: Suspect | Changed) -> str:
    return f"index {each.index}" if each.path is None else each.path


def _utf8(text: str) -> str:
    return text.encode("utf-8", "backslashreplace").decode()


def _visible(text: str) -> str:
    """Return a text without characters that turn the direction of writing or are not seen."""
    return "".join(each if each.isprintable() else "\N{REPLACEMENT CHARACTER}" for each in _utf8(text))


def _as_json(value: Any) -> str:
    """Return JSON that ends no element and begins no comment, wherever in HTML it stands."""
    text = json.dumps(value, ensure_ascii=True)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _pairs(shown: Sequence[Suspect]) -> list[tuple[int, int, int]]:
    counts: dict[tuple[int, int], int] = {}
    for each in shown:
        counts[each.given, each.suggested] = counts.get((each.given, each.suggested), 0) + 1
    return sorted(((*pair, count) for pair, count in counts.items()), key=lambda row: (-row[2], row[0], row[1]))


def _curve(control: Control) -> str:
    """Return the points of a line, in a box of 300 x 100: length of the list, by its logarithm, and share found."""
    if len(control.lengths) < 2 or not control.planted:
        return ""
    positions = np.log(control.lengths)
    across = 300 * (positions - positions[0]) / (positions[-1] - positions[0])
    down = 100 - 100 * np.array(control.found) / control.planted
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in zip(across, down, strict=True))
