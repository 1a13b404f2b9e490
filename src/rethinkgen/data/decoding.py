"""Image files to one array, in worker processes.

The workers are plain interpreters (``python -m rethinkgen.data.decoding``), fed and read through pipes.
Threads are slower than no threads on small images (they wait for each other's interpreter lock), a forked
copy of a process in which torch has threads may hang, and ``multiprocessing``'s other ways to start need a
guarded main script and refuse to work inside a pool's own workers.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageFile

from rethinkgen.errors import WorkersFailedError
from rethinkgen.machine import num_cores

_CHUNK = 64
_GREY = frozenset({"1", "L", "LA"})
_BITS_PER_SAMPLE = 258
"""TIFF's tag."""
_COLOUR = frozenset({"RGB", "RGBA", "P", "PA", "CMYK", "YCbCr", "HSV", "LAB"})


class _Chunk(NamedTuple):
    """Some consecutive images.

    ``pixels`` is uint8 (n, height, width, 1 or 3), ``None`` where ``faults`` (position, reason) or more than
    one size prevent it; ``sizes`` maps (width, height) to (count, position of the first one).
    """

    start: int
    pixels: NDArray[np.uint8] | None
    faults: list[tuple[int, str]]
    sizes: dict[tuple[int, int], tuple[int, int]]


def _pixels(path: str) -> NDArray[np.uint8]:
    """Read one image: (height, width) if it is grey, else (height, width, 3); transparency is dropped.

    Of several frames the first; as the file has them, whatever orientation a camera noted.
    """
    with Image.open(path) as image:
        return np.asarray(_plain(image))


def fitted(path: str, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Read one image as ``_pixels`` does and stretch or reduce the whole of it to ``size`` (width, height).

    A JPEG file is decoded no larger than needed, which is several times as fast of a photograph.
    """
    with Image.open(path) as image:
        image.draft(None, (2 * size[0], 2 * size[1]))
        plain = _plain(image)
        return np.asarray(plain if plain.size == size else plain.resize(size, Image.Resampling.BICUBIC))


def thumbnail(path: str, most: int) -> NDArray[np.uint8]:
    """Read one image as ``_pixels`` does, in its own shape but of at most ``most`` pixels a side."""
    with Image.open(path) as image:
        image.draft(None, (2 * most, 2 * most))
        plain = _plain(image)
        plain.thumbnail((most, most))
        return np.asarray(plain)


def _plain(image: ImageFile.ImageFile) -> Image.Image:
    """Return the image of an opened file, grey or of red, green and blue."""
    if image.mode not in _GREY | _COLOUR:
        raise ValueError(f"mode {image.mode} has more than 8 bits a channel, 8 are needed")
    if (bits := _stored_bits(image)) > 8:
        raise ValueError(f"it has {bits} bits a channel, 8 are needed")
    if image.mode in _GREY:
        return image.convert("L")
    if "transparency" in image.info:
        return image.convert("RGBA").convert("RGB")
    return image.convert("RGB")


def _stored_bits(image: ImageFile.ImageFile) -> int:
    """Return how many bits a channel has in the file, of which Pillow keeps 8 in its colour modes without a word."""
    if image.format == "TIFF":
        return int(max(image.tag_v2.get(_BITS_PER_SAMPLE, (8,))))  # type: ignore[attr-defined]
    if image.format == "JPEG2000":
        return _bits_of_jpeg2000(image)
    for codec, _, _, arguments in image.tile:
        rawmode, *more = arguments if isinstance(arguments, tuple) else (arguments,)
        if codec == "sgi16" or str(rawmode).endswith((";16B", ";16L")):
            return 16
        if codec.startswith("ppm"):
            return int(more[0]).bit_length()
    return 8


def _bits_of_jpeg2000(image: ImageFile.ImageFile) -> int:
    """Read the SIZ marker, which holds a byte for each component: its sign, and its bits less one."""
    assert image.fp is not None
    image.fp.seek(0)
    beginning = image.fp.read(1 << 16)
    at = beginning.find(b"\xff\x4f\xff\x51")
    if at < 0:
        return 8
    count = int.from_bytes(beginning[at + 40 : at + 42], "big")
    return max((size & 0x7F) + 1 for size in beginning[at + 42 : at + 42 + 3 * count : 3])


def decode_colour(path: str) -> NDArray[np.uint8]:
    """Read one image, grey or not, into ``(height, width, 3)``."""
    pixels = _pixels(path)
    return pixels if pixels.ndim == 3 else np.repeat(pixels[..., None], 3, axis=2)


def _decode_chunk(paths: Sequence[str], start: int) -> _Chunk:
    """Read ``paths``, which stand at positions ``start``, ``start + 1``, ... of the whole list."""
    images: list[NDArray[np.uint8]] = []
    faults: list[tuple[int, str]] = []
    sizes: dict[tuple[int, int], tuple[int, int]] = {}
    for position, path in enumerate(paths, start):
        try:
            image = _pixels(path)
        except Exception as error:  # Pillow's readers raise nearly everything on a damaged file
            faults.append((position, str(error).replace(path, "the file") or type(error).__name__))
            continue
        size = (image.shape[1], image.shape[0])
        count, first = sizes.get(size, (0, position))
        sizes[size] = (count + 1, first)
        images.append(image)
    if faults or len(sizes) != 1:
        return _Chunk(start, None, faults, sizes)
    if all(image.ndim == 2 for image in images):
        return _Chunk(start, np.stack(images)[..., None], faults, sizes)
    coloured = [image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2) for image in images]
    return _Chunk(start, np.stack(coloured), faults, sizes)


def _decode_elsewhere(paths: Sequence[str], starts: Sequence[int]) -> Iterator[_Chunk]:
    """Read the chunks that begin at ``starts`` in one worker process, which ends with this iterator."""
    package_root = str(Path(__file__).resolve().parents[2])
    search_path = os.pathsep.join(filter(None, [package_root, os.environ.get("PYTHONPATH")]))
    worker = subprocess.Popen(
        [sys.executable, "-P", "-m", "rethinkgen.data.decoding"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=os.environ | {"PYTHONPATH": search_path},
    )
    assert worker.stdin is not None
    assert worker.stdout is not None
    try:
        with worker.stdin as request:
            pickle.dump([(start, list(paths[start : start + _CHUNK])) for start in starts], request)
        for _ in starts:
            yield _Chunk(*pickle.load(worker.stdout))
    except (EOFError, BrokenPipeError, pickle.UnpicklingError) as error:
        raise WorkersFailedError(
            f"A process that decodes images ended early (exit code {worker.wait()}): it may have been killed "
            "for want of memory. data.source.num_workers=1 decodes without such processes."
        ) from error
    finally:
        worker.kill()
        worker.stdout.close()
        worker.wait()


def _serve(request: IO[bytes], answer: IO[bytes]) -> None:
    """Be a worker: read one list of chunks, answer each with the fields of a ``_Chunk``."""
    for start, paths in pickle.load(request):
        # Builtins and arrays only: ``_Chunk`` itself has another name in a module run by ``-m``.
        pickle.dump(tuple(_decode_chunk(paths, start)), answer, protocol=pickle.HIGHEST_PROTOCOL)
        answer.flush()


class _Collector:
    """Puts chunks, which come in any order and from several threads, into one array."""

    def __init__(self, num_images: int, advance: Callable[[int], None]) -> None:
        self.images: NDArray[np.uint8] | None = None
        self.faults: list[tuple[int, str]] = []
        self.sizes: dict[tuple[int, int], tuple[int, int]] = {}
        self._num_images = num_images
        self._advance = advance
        self._lock = threading.Lock()

    def add(self, chunk: _Chunk) -> None:
        with self._lock:
            self.faults += chunk.faults
            for size, (count, first) in chunk.sizes.items():
                known, earliest = self.sizes.get(size, (0, first))
                self.sizes[size] = (known + count, min(earliest, first))
            if chunk.pixels is not None and len(self.sizes) == 1:
                self._put(chunk.start, chunk.pixels)
            self._advance(len(chunk.faults) + sum(count for count, _ in chunk.sizes.values()))

    def _put(self, start: int, pixels: NDArray[np.uint8]) -> None:
        num_images, height, width, channels = pixels.shape
        if self.images is None:
            self.images = np.empty((self._num_images, channels, height, width), np.uint8)
        elif channels > self.images.shape[1]:  # grey until now
            self.images = np.repeat(self.images, channels, axis=1)
        self.images[start : start + num_images] = pixels.transpose(0, 3, 1, 2)


def decode(
    paths: Sequence[str],
    num_workers: int | None = None,
    *,
    advance: Callable[[int], None] = lambda count: None,
    where: str = "data.root",
    names: Sequence[str] | None = None,
) -> NDArray[np.uint8]:
    """Read image files into uint8 (N, C, H, W), in the order of ``paths``.

    One channel only if every image is grey, else three (red, green, blue). ``advance`` is told how many more
    images are done. Errors call the files by ``names`` and begin with ``where``. ``num_workers`` processes
    work at once, by default one for each core that this process may use; few images are read right here.

    Raises ``ValueError`` for unreadable files (the first five named, with a count) and for images of several
    sizes, ``WorkersFailedError`` if a worker process dies.
    """
    assert paths, "no images to decode"
    names = paths if names is None else names
    starts = range(0, len(paths), _CHUNK)
    num_workers = min(num_cores() if num_workers is None else num_workers, len(starts) // 8)
    collector = _Collector(len(paths), advance)
    if num_workers <= 1:
        for start in starts:
            collector.add(_decode_chunk(paths[start : start + _CHUNK], start))
    else:

        def collect(worker: int) -> None:
            for chunk in _decode_elsewhere(paths, starts[worker::num_workers]):
                collector.add(chunk)

        with ThreadPoolExecutor(num_workers) as pool:
            list(pool.map(collect, range(num_workers)))
    _refuse_faults(collector.faults, where, names)
    _refuse_mixed_sizes(collector.sizes, where, names)
    assert collector.images is not None
    return collector.images


def _refuse_faults(faults: list[tuple[int, str]], where: str, names: Sequence[str]) -> None:
    if not faults:
        return
    lines = [f"  {names[position]}: {reason}" for position, reason in sorted(faults)[:5]]
    more = [f"  and {len(faults) - 5} more"] if len(faults) > 5 else []
    raise ValueError(
        "\n".join([f"{where}: {len(faults)} of {len(names)} images cannot be read:", *lines, *more])
        + "\nReplace them, or remove every file that is not an image."
    )


def _refuse_mixed_sizes(sizes: dict[tuple[int, int], tuple[int, int]], where: str, names: Sequence[str]) -> None:
    if len(sizes) == 1:
        return
    ordered = sorted(sizes.items(), key=lambda item: (-item[1][0], item[1][1]))
    lines = [
        f"  {width} x {height}: {count} images, the first is {names[first]}"
        for (width, height), (count, first) in ordered[:5]
    ]
    more = [f"  and {len(sizes) - 5} more sizes"] if len(sizes) > 5 else []
    raise ValueError(
        "\n".join([f"{where}: images of {len(sizes)} sizes (width x height):", *lines, *more])
        + "\nOne size is needed: crop or resize them all to it first."
    )


if __name__ == "__main__":
    # Whoever asked is gone or has stopped us: they say why, not we.
    with contextlib.suppress(BrokenPipeError, KeyboardInterrupt):
        _serve(sys.stdin.buffer, sys.stdout.buffer)
