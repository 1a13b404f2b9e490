"""Images decoded on the way, by worker processes, in exactly the order and with exactly the draws of those in memory.

A worker is handed what it is to decode and, where the crop is random, a seed for each image. So the number of workers,
and which of them does what and when, changes nothing; and a run that goes on asks for its next batch by epoch and
position and gets what an undisturbed one would have got.
"""

from __future__ import annotations

import ctypes
import logging
import math
import mmap
import os
import signal
import sys
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.reduction import DupFd
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, get_worker_info
from torchvision.transforms import v2

from rethinkgen.data.decoding import decode_colour
from rethinkgen.data.draws import generator
from rethinkgen.data.streamed_source import Files
from rethinkgen.errors import UnreadableImageError, WorkersFailedError
from rethinkgen.machine import cores_of_run
from rethinkgen.signals import STOPPING

log = logging.getLogger(__name__)

Pattern = tuple[Tensor, ...]
CPU = torch.device("cpu")
BATCHES_AHEAD = 2
"""That each worker holds ready."""
_ALIGNMENT = 64
"""Bytes; of what lies in shared memory."""
_PR_SET_PDEATHSIG = 1
"""Of Linux's prctl.h: the signal that a process is sent when its parent is gone."""


class Request(NamedTuple):
    """What a worker is to decode."""

    positions: NDArray[np.int64]
    """``(n,)``: in the split"""
    seeds: NDArray[np.int64] | None
    """``(n,)``: of the random crops; ``None`` for the crop at the centre"""


class Decoded(NamedTuple):
    """What it makes of that."""

    images: Tensor
    """``(n, 3, H, W)`` uint8: resized and cropped"""
    pattern: Pattern
    """What the corruption drew for these examples."""

    def to(self, device: torch.device) -> Decoded:
        """Return the same on ``device``."""
        return Decoded(
            self.images.to(device, non_blocking=True),
            tuple(drawn.to(device, non_blocking=True) for drawn in self.pattern),
        )


class Handed(NamedTuple):
    """A ``Decoded`` on its way from a worker, in memory that both share and that has no name.

    PyTorch would hand tensors over in ``/dev/shm``, which in a container may hold 64 MB. Its worker then fails in a
    thread of its own, nothing arrives, and training waits for ever.
    """

    memory: Any
    """A descriptor of the memory, to be taken once."""
    layout: list[tuple[str, tuple[int, ...], int]]
    """Type, shape and place in memory of the images, and of each part of the pattern."""

    def taken(self) -> Decoded:
        """Return the tensors, which keep the memory as long as they are there."""
        try:
            descriptor = self.memory.detach()
        except (OSError, EOFError) as error:
            raise _failed(f"it was gone before it had handed over what it had: {error}") from error
        try:
            memory = mmap.mmap(descriptor, 0)
        finally:
            os.close(descriptor)
        images, *pattern = (
            torch.from_numpy(np.frombuffer(memory, dtype, math.prod(shape), place).reshape(shape))
            for dtype, shape, place in self.layout
        )
        return Decoded(images, tuple(pattern))

    def pin_memory(self) -> Decoded:
        """Return the same from where a GPU copies at once; PyTorch calls this in a thread of its own."""
        images, pattern = self.taken()
        return Decoded(images.pin_memory(), tuple(drawn.pin_memory() for drawn in pattern))


class View:
    """Cuts ``(size, size)`` out of an image of any size, by torchvision's transforms.

    At the centre: the shorter side is resized to ``resize`` and the middle cut out, the same every time. At random:
    ``RandomResizedCrop``, a window of 8 to 100 % of the area and an aspect of 3/4 to 4/3, resized. Bilinear,
    antialiased, rounded to whole numbers.
    """

    def __init__(self, resize: int, size: tuple[int, int]) -> None:
        self.centre = v2.Compose([v2.Resize(resize, antialias=True), v2.CenterCrop(list(size))])
        self.random = v2.RandomResizedCrop(list(size), antialias=True)

    def __call__(self, image: Tensor, seed: int | None) -> Tensor:
        """Turn ``(3, H, W)`` uint8 into the view; with a ``seed``, into a random one."""
        if seed is None:
            return self.centre(image)  # type: ignore[no-any-return]
        with torch.random.fork_rng(devices=[]):
            # torchvision's transforms draw from torch's own generator, dropout's where no worker is between.
            torch.default_generator.manual_seed(seed)
            return self.random(image)  # type: ignore[no-any-return]


class Reader(Dataset[Any]):
    """Decodes images of one split, wherever it is called.

    Args:
        root: of the image folder.
        draw_pattern: given the keys ``(n,)`` of examples, what the corruption draws for them.
    """

    def __init__(
        self, root: str, files: Files, view: View, draw_pattern: Callable[[NDArray[np.uint64]], Pattern]
    ) -> None:
        self.root = root
        self.names, self.keys = files.names, files.keys
        self.view = view
        self.draw_pattern = draw_pattern

    def __len__(self) -> int:
        return len(self.keys)

    def __getitem__(self, request: Request) -> Decoded | str:
        """Return the images, or, where one cannot be read, a message that says which and what to do."""
        seeds = [None] * len(request.positions) if request.seeds is None else request.seeds.tolist()
        images = []
        for position, seed in zip(request.positions.tolist(), seeds, strict=True):
            name = os.fsdecode(self.names[position])
            try:
                pixels = decode_colour(os.path.join(self.root, name))
            except MemoryError:  # no fault of the file's
                raise
            except Exception as error:  # Pillow's readers raise nearly everything on a damaged file
                return (
                    f"data.root={self.root!r}: {name} cannot be read ({error or type(error).__name__}). Put the right "
                    "file in its place: the same command then goes on. Without this file it is another data set, so "
                    "another run."
                )
            # Channels stay last in memory, which torchvision resizes fastest. A copy, as Pillow's pixels are read-only.
            images.append(self.view(torch.from_numpy(pixels.copy()).permute(2, 0, 1), seed))
        return Decoded(torch.stack(images), self.draw_pattern(self.keys[request.positions]))


@dataclass(frozen=True)
class StreamedInputs:
    """Stands where a tensor of inputs ``(N, C, H, W)`` stands in memory; its images are decoded when asked for."""

    reader: Reader
    finish: Callable[[Decoded], Tensor]
    """Turns decoded images into what the network sees."""
    shape: torch.Size
    num_workers: int
    device: torch.device = CPU

    def __len__(self) -> int:
        return len(self.reader)

    def to(self, device: torch.device | str) -> StreamedInputs:
        """Return the same with its images on ``device``."""
        return replace(self, device=torch.device(device))

    def in_parts(self, parts: Sequence[slice]) -> Iterator[Tensor]:
        """Yield the inputs ``(n, C, H, W)`` of each part."""
        places = np.arange(len(self))
        requests = (Request(places[part], None) for part in parts)
        # No more workers than parts, of which a small data set has few.
        for images in decoded(self.reader, requests, min(self.num_workers, len(parts)), self.device):
            yield self.finish(images)


Inputs = Tensor | StreamedInputs


def in_parts(inputs: Inputs, parts: Sequence[slice]) -> Iterator[Tensor]:
    """Yield the inputs ``(n, C, H, W)`` of each part of a split, from memory or from files."""
    return (inputs[part] for part in parts) if isinstance(inputs, Tensor) else inputs.in_parts(parts)


class TrainingStream:
    """The batches of training, decoded ahead of time across the ends of blocks and epochs.

    Args:
        order: given an epoch, the positions of each batch of it.
        seeds: given an epoch, the seed ``(N,)`` of each example's random crop; ``None`` for the centre crop.
    """

    def __init__(
        self,
        reader: Reader,
        order: Callable[[int], list[Tensor]],
        seeds: Callable[[int], NDArray[np.int64]] | None,
        num_workers: int,
        device: torch.device,
    ) -> None:
        self.reader = reader
        self.order = order
        self.seeds = seeds
        self.num_workers = num_workers
        self.device = device
        self._next: tuple[int, int] | None = None
        self._length = 0
        self._batches: Iterator[Decoded] = iter(())

    def take(self, epoch: int, position: int) -> Decoded:
        """Return the batch at ``position`` of ``epoch``; free of waiting if it follows the one taken before."""
        if self._next != (epoch, position):
            self.close()
            self._batches = decoded(self.reader, self._requests(epoch, position), self.num_workers, self.device)
            self._length = len(self.order(epoch))
        batch = next(self._batches)
        self._next = (epoch, position + 1) if position + 1 < self._length else (epoch + 1, 0)
        return batch

    def close(self) -> None:
        """End the workers."""
        self._batches, self._next = iter(()), None

    def _requests(self, epoch: int, position: int) -> Iterator[Request]:
        while True:
            seeds = None if self.seeds is None else self.seeds(epoch)
            for batch in self.order(epoch)[position:]:
                positions = batch.numpy()
                yield Request(positions, None if seeds is None else seeds[positions])
            epoch, position = epoch + 1, 0


def crop_seeds(seed: int, epoch: int, num_examples: int) -> NDArray[np.int64]:
    """Draw for each training example of an epoch the seed of its random crop: ``(num_examples,)``."""
    return generator("resized_crop", seed, "train", epoch).integers(2**63, size=num_examples, dtype=np.int64)


def decoded(reader: Reader, requests: Iterable[Request], num_workers: int, device: torch.device) -> Iterator[Decoded]:
    """Yield what each request asks for, on ``device``, in their order; workers are ahead of it.

    Raises:
        UnreadableImageError: a file cannot be decoded.
        WorkersFailedError: workers cannot be started.
    """
    with warnings.catch_warnings():
        # Whoever asks for more workers than cores may wait for a disk.
        warnings.filterwarnings("ignore", "This DataLoader will create")
        loader = DataLoader(
            reader,
            batch_size=None,
            sampler=requests,
            num_workers=num_workers,
            collate_fn=_handed_over if hasattr(os, "memfd_create") else _as_it_is,
            pin_memory=device.type == "cuda",
            # PyTorch's default on Linux; other ways to start a process import torch in each, and the user's script.
            multiprocessing_context="fork" if num_workers else None,
            prefetch_factor=BATCHES_AHEAD if num_workers else None,
            worker_init_fn=_begin_worker,
            # Else every start of workers would draw from torch's generator, and dropout after it would differ.
            generator=torch.Generator(),
        )
        batches = _started(loader)
    try:
        for batch in batches:
            if isinstance(batch, str):
                raise UnreadableImageError(batch)
            yield (batch.taken() if isinstance(batch, Handed) else batch).to(device)
    finally:
        _end_workers(batches)


def num_workers_here(asked: int | None, num_processes: int = 1) -> int:
    """Return how many workers each of a run's ``num_processes`` here has: by default a core for each worker."""
    if asked is not None:
        return asked
    if sys.platform != "linux":  # where forking a process that uses the system's libraries is not safe
        return 0
    return max(1, cores_of_run() // num_processes)


@contextmanager
def telling_of_workers() -> Iterator[None]:
    """Say what to do where a worker dies, or cannot be started.

    PyTorch raises that in whatever the process does at the moment, as it hears of it by a signal.

    Raises:
        WorkersFailedError: one does.
    """
    try:
        yield
    except (RuntimeError, MemoryError, OSError) as error:
        if not _is_of_worker(error):
            raise
        raise _failed(str(error).strip().splitlines()[-1]) from error


def _failed(reason: str) -> WorkersFailedError:
    return WorkersFailedError(
        f"A process that decodes images failed ({reason}), perhaps for want of memory: try fewer of them, such as "
        "data.source.num_workers=1, or 0 to decode without. In a container, more memory (--memory) may help. The same "
        "command goes on from the last checkpoint."
    )


def _is_of_worker(error: BaseException) -> bool:
    # Of its death, or of what it could not do for want of memory; what it did wrong is told as it is.
    return f"DataLoader worker {'(pid' if isinstance(error, RuntimeError) else 'process'}" in str(error)


def _as_it_is(batch: Any) -> Any:
    return batch


def _handed_over(batch: Any) -> Any:
    """Put what a worker has decoded where the process that trains finds it; a message is left as it is."""
    if get_worker_info() is None or isinstance(batch, str):
        return batch
    # Here, not when it is sent: what goes wrong in the thread that sends is heard by nobody.
    layout = []
    with os.fdopen(os.memfd_create("rethinkgen"), "wb") as memory:
        for array in (tensor.numpy() for tensor in (batch.images, *batch.pattern)):
            memory.seek(-memory.tell() % _ALIGNMENT, os.SEEK_CUR)
            layout.append((array.dtype.str, array.shape, memory.tell()))
            memory.write(np.ascontiguousarray(array).data)
        memory.flush()
        return Handed(DupFd(memory.fileno()), layout)


def _started(loader: DataLoader[Any]) -> Iterator[Any]:
    """Start the workers."""
    try:
        return iter(loader)
    except OSError as error:
        raise WorkersFailedError(
            f"No process that decodes images can be started ({error}). data.source.num_workers=0 decodes without. In a "
            "container /dev/shm may be full, which --shm-size makes larger, or the number of processes limited "
            "(--pids-limit)."
        ) from error


def _end_workers(batches: Iterator[Any]) -> None:
    """End the workers now: PyTorch does when the last traceback that knows of them is gone.

    It would do so in ``__del__``, where what it raises in whatever this process does, because a worker was killed just
    then, is printed as an exception that is ignored, and hides the message that counts.
    """
    end = getattr(batches, "_shutdown_workers", None)  # not there where this process decodes itself
    if end is None:
        return
    try:
        end()
    except RuntimeError as error:
        if not _is_of_worker(error):
            raise
        # One of these has nothing more to do. One of another loader will be missed there, within five seconds.
        log.debug("while workers ended: %s", error)


def _begin_worker(worker: int) -> None:
    """Leave signals to the process that trains, which saves and ends its workers itself; but end with it at once.

    PyTorch's own workers notice within five seconds that it is gone. Until then they would hold what they have
    inherited: the lock on the run's folder, so that the same command could not go on.
    """
    os.setsid()
    for number in {*STOPPING, signal.SIGALRM} - {signal.SIGTERM}:
        signal.signal(number, signal.SIG_IGN)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
