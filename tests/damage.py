"""What a disk, a copy that broke off, or somebody's malice makes of the files in a sweep's folder."""

from __future__ import annotations

import json
import os
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import yaml

from run_folders import write_run

Damage = Callable[[Path, random.Random], None]


def flip_bits(path: Path, chance: random.Random) -> None:
    content = bytearray(path.read_bytes())
    for _ in range(chance.choice((1, 1, 2, 8))):
        content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    path.write_bytes(content)


def cut(path: Path, chance: random.Random) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: chance.randrange(len(content))])


def make_ragged(path: Path, chance: random.Random) -> None:
    lines = path.read_text(errors="surrogateescape").splitlines(keepends=True)
    place = chance.randrange(len(lines))
    lines[place] = chance.choice((lines[place].rstrip("\n") + ",1,2,3\n", lines[place].partition(",")[0] + "\n", "\n"))
    path.write_text("".join(lines), errors="surrogateescape")


def put_a_quote(path: Path, chance: random.Random) -> None:
    content = path.read_bytes()
    place = chance.randrange(len(content))
    path.write_bytes(content[:place] + chance.choice((b'"', b"'", b'"""', b"\r", b"\0", b"\xff")) + content[place:])


def swap_a_value(path: Path, chance: random.Random) -> None:
    """Replace one value in JSON, or one cell or word elsewhere, by another that is as good a text."""
    values = [None, -1, 1e308, 10**400, "nan", "x" * 300, [], {}, [[]], True, "../../x", "a\nb", float("nan"), 0, "$a^"]
    try:
        content = json.loads(path.read_text())
    except ValueError:
        words = path.read_text(errors="replace").split(" ")
        words[chance.randrange(len(words))] = json.dumps(chance.choice(values))
        path.write_text(" ".join(words))
        return
    nodes, node = [content], content
    for node in nodes:
        nodes += [
            below for below in (node.values() if isinstance(node, dict) else node) if isinstance(below, dict | list)
        ]
    node = chance.choice([node for node in nodes if node])
    key = chance.choice(list(node)) if isinstance(node, dict) else chance.randrange(len(node))
    node[key] = chance.choice(values)
    path.write_text(json.dumps(content))


def fill_with_noise(path: Path, chance: random.Random) -> None:
    path.write_bytes(chance.randbytes(chance.choice((1, 100, 10_000))))


def empty(path: Path, chance: random.Random) -> None:
    path.write_bytes(b"")


def put_a_folder(path: Path, chance: random.Random) -> None:
    path.unlink()
    path.mkdir()


def put_a_fifo(path: Path, chance: random.Random) -> None:
    path.unlink()
    os.mkfifo(path)


def put_a_link(path: Path, chance: random.Random) -> None:
    path.unlink()
    path.symlink_to(chance.choice(("/dev/zero", "/etc/passwd", path.name, "/nowhere", "..")))


def nest(path: Path, chance: random.Random) -> None:
    depth = chance.choice((60, 900, 100_000))
    if path.suffix == ".yaml":
        path.write_text("[" * depth + "]" * depth)
    else:
        path.write_text('{"metrics": ' + '{"a": ' * depth + "1" + "}" * depth + "}\n")


def put_a_bomb(path: Path, chance: random.Random) -> None:
    """Nine lists of nine aliases each are 387 million values; the same as a merge of keys."""
    lists = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
    lists += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 9)]
    path.write_text("\n".join(lists) + "\n")


ANYWHERE: tuple[Damage, ...] = (
    flip_bits, cut, make_ragged, put_a_quote, swap_a_value, fill_with_noise, empty, put_a_folder, put_a_fifo,
    put_a_link, nest, put_a_bomb,
)  # fmt: skip
OF_A_RUN = ("result.json", "metrics.csv", "config.yaml", "status.json", "identity.json", "examples.npz")
NEVER_BEGUN = "never-begun-0123"
OF_A_SWEEP = (".index.jsonl", "commands.txt")


def write_sweep(folder: Path, seeds: int = 2) -> list[Path]:
    """Write a sweep of made-up runs, one unfinished, with all files that are read again; return the runs' folders."""
    runs = []
    for corruption, keys in (
        ("none", {}),
        ("partial_labels", {"data.corruption.probability": 0.4}),
        ("random_labels", {}),
        ("gaussian", {}),
    ):
        for seed in range(seeds):
            state = "interrupted" if corruption == "gaussian" and seed else "done"
            told = {"steps_to_fit": 5000 + seed, "fit/accuracy_corrected": 0.5}
            runs.append(
                write_run(folder, data="digits", corruption=corruption, seed=seed, state=state, keys=keys, **told)
            )
    entries = []
    for run in runs:
        run_id = run.name.rpartition("-")[2]
        (run / "identity.json").write_text(json.dumps({"run_id": run_id, "fingerprint": "0123"}))
        np.savez(run / "examples.npz", index=np.arange(5))
        config = yaml.safe_load((run / "config.yaml").read_text())
        entries.append({"key": run_id, "folder": run.name, "run_id": run_id, "configs": "now", "config": config})
    entries.append(entries[0] | {"key": "never begun", "folder": NEVER_BEGUN, "run_id": "0123"})
    (folder / ".index.jsonl").write_text("".join(f"{json.dumps(entry)}\n" for entry in entries))
    (folder / "commands.txt").write_text("2026-01-01T00:00:00+00:00  python train.py -m seed=0,1\n")
    return runs
