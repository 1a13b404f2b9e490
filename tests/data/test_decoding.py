from __future__ import annotations

import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from rethinkgen.data import decoding
from rethinkgen.data.decoding import decode
from rethinkgen.errors import WorkersFailedError


def write_images(folder: Path, count: int, *, channels: int = 3, size: tuple[int, int] = (5, 4)) -> list[str]:
    """Write random PNGs of (width, height); returns their paths."""
    random = np.random.default_rng(count)
    width, height = size
    paths = []
    for index in range(count):
        pixels = random.integers(0, 256, (height, width, channels), dtype=np.uint8)
        paths.append(str(folder / f"{channels}_{width}_{index:03}.png"))
        Image.fromarray(pixels.squeeze()).save(paths[-1])
    return paths


def slowly(paths: list[str]) -> np.ndarray:
    return np.stack([np.asarray(Image.open(path).convert("RGB")).transpose(2, 0, 1) for path in paths])


@pytest.mark.parametrize("num_workers", [1, 2, 3])
def test_decode_gives_every_image_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_workers: int) -> None:
    monkeypatch.setattr(decoding, "_CHUNK", 2)
    paths = write_images(tmp_path, 49)
    done: list[int] = []
    images = decode(paths, num_workers, advance=done.append)
    assert images.shape == (49, 3, 4, 5)
    assert np.array_equal(images, slowly(paths))
    assert sum(done) == 49


def test_one_channel_only_if_all_images_are_grey(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "_CHUNK", 2)
    grey, colour = write_images(tmp_path, 5, channels=1), write_images(tmp_path, 4)
    assert np.array_equal(decode(grey), slowly(grey)[:, :1])
    for mixed in ([*grey, *colour], [*colour, *grey]):
        assert np.array_equal(decode(mixed), slowly(mixed))


def test_palettes_and_transparency_become_colours(tmp_path: Path) -> None:
    colours = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3) // 8 * 8)
    palette = colours.convert("P", palette=Image.Palette.ADAPTIVE)
    paths = [str(tmp_path / name) for name in ("plain.png", "palette.png", "alpha.png")]
    colours.save(paths[0])
    palette.save(paths[1], transparency=bytes(range(16)))
    colours.convert("RGBA").save(paths[2])
    images = decode(paths)
    assert np.array_equal(images[0], images[2])
    assert np.array_equal(images[1], np.asarray(palette.convert("RGB")).transpose(2, 0, 1))


def test_more_than_eight_bits_are_refused(tmp_path: Path) -> None:
    path = str(tmp_path / "deep.png")
    Image.fromarray(np.full((4, 4), 40_000, np.uint16)).save(path)
    with pytest.raises(ValueError, match=r"deep\.png: mode I;16 has more than 8 bits"):
        decode([path])


def test_several_sizes_are_named_and_counted(tmp_path: Path) -> None:
    paths = write_images(tmp_path, 70) + write_images(tmp_path, 2, size=(3, 4))
    with pytest.raises(ValueError, match=r"2 sizes.*\n  5 x 4: 70 images.*\n  3 x 4: 2 images.*3_3_000\.png"):
        decode(paths)


def test_a_worker_that_dies_is_reported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decoding, "_CHUNK", 1)
    paths = write_images(tmp_path, 16)
    monkeypatch.setattr(sys, "executable", shutil.which("false"))
    with pytest.raises(WorkersFailedError, match=r"exit code 1.*num_workers=1"):
        decode(paths, 2)
