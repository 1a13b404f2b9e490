from __future__ import annotations

import io
import shutil
import struct
import sys
import zlib
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


def png(bits: int, colour_type: int, row: bytes) -> bytes:
    """Return a PNG of two equal rows, by hand: Pillow writes no colours of 16 bits."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    header = struct.pack(">IIBBBBB", 2, 2, bits, colour_type, 0, 0, 0)
    pixels = zlib.compress(2 * (b"\0" + row))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def tiff(bits: int) -> bytes:
    """Return a TIFF of 2x2 red, green and blue."""
    size = 2 * 2 * 3 * bits // 8
    tags = [(256, 1, 2), (257, 1, 2), (258, 3, 200), (259, 1, 1), (262, 1, 2), (273, 1, 300), (277, 1, 3), (278, 1, 2)]
    entries = b"".join(struct.pack("<HHIHxx", tag, 3, count, value) for tag, count, value in [*tags, (279, 1, size)])
    content = b"II*\0" + struct.pack("<IH", 8, len(tags) + 1) + entries + bytes(4)
    return (content.ljust(200, b"\0") + struct.pack("<HHH", bits, bits, bits)).ljust(300, b"\0") + bytes(size)


def jpeg2000(bits: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (2, 2)).save(file, "JPEG2000")
    content = bytearray(file.getvalue())
    at = content.find(b"\xff\x4f\xff\x51") + 42  # how many bits each component has, less one
    content[at : at + 9 : 3] = bytes([bits - 1] * 3)
    return bytes(content)


@pytest.mark.parametrize(
    ("name", "bits", "content"),
    [
        ("colours.png", 16, png(16, 2, bytes(12))),
        ("grey_and_alpha.png", 16, png(16, 4, bytes(8))),
        ("alpha.png", 16, png(16, 6, bytes(16))),
        ("colours.tiff", 16, tiff(16)),
        ("colours.jp2", 12, jpeg2000(12)),
        ("colours.ppm", 10, b"P6\n2 2\n1023\n" + bytes(24)),
        ("words.ppm", 16, b"P3\n1 1\n65535\n1 2 3\n"),
        ("grey.png", 8, png(8, 0, bytes(2))),
        ("two_bits.png", 8, png(2, 0, bytes(1))),
        ("alpha8.png", 8, png(8, 6, bytes(8))),
        ("colours8.tiff", 8, tiff(8)),
        ("colours8.jp2", 8, jpeg2000(8)),
        ("seven.ppm", 7, b"P6\n2 2\n100\n" + bytes(12)),
    ],
)
def test_colours_that_pillow_would_cut_to_eight_bits_are_refused(
    tmp_path: Path, name: str, bits: int, content: bytes
) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    if bits <= 8:
        assert decode([str(path)]).shape[2:] == (2, 2)
        return
    with pytest.raises(ValueError, match=rf"{name}: it has {bits} bits a channel, 8 are needed"):
        decode([str(path)])


def test_of_an_animation_the_first_frame_and_no_orientation_is_applied(tmp_path: Path) -> None:
    frames = [Image.new("RGB", (3, 2), colour) for colour in ("red", "blue")]
    frames[0].save(tmp_path / "moves.gif", save_all=True, append_images=frames[1:])
    turned = Image.Exif()
    turned[0x0112] = 6  # a camera held upright
    frames[1].save(tmp_path / "turned.png", exif=turned)
    images = decode([str(tmp_path / "moves.gif"), str(tmp_path / "turned.png")])
    assert images.shape == (2, 3, 2, 3)
    assert images[:, :, 0, 0].tolist() == [[255, 0, 0], [0, 0, 255]]


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
