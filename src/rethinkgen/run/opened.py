"""A run opened in Python: its numbers as tables, its network at a step, and its data.

    run = rethinkgen.open_run("multirun/runs/digits-random_labels-...")
    network = run.network()

Opening reads small files; everything else is made when it is asked for. The caller's generators, threads, default dtype
and modes stay as they are. Of what the folder names only networks and data are built, from the places of
``rethinkgen.run.build``, and code of the user's own where the call opens it.
"""

from __future__ import annotations

import contextlib
import os
import pickle
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rethinkgen.console import first_line
from rethinkgen.data.augmentation import center_crop
from rethinkgen.data.decoding import decode_colour
from rethinkgen.data.draws import generator
from rethinkgen.data.module import CorruptedImages, Split, SplitName
from rethinkgen.data.preprocessing import reduced
from rethinkgen.data.source import Examples
from rethinkgen.data.streamed_source import ImageFiles
from rethinkgen.data.streaming import View
from rethinkgen.errors import DamagedFileError, ReplayDiffersError
from rethinkgen.measure.subject import At, Draw, Subject, TrainingStep
from rethinkgen.model.closed_form.closed_form import ClosedForm
from rethinkgen.received import opened_arrays
from rethinkgen.run import own_code
from rethinkgen.run.build import build, target_class
from rethinkgen.run.data_of_run import datamodule_of
from rethinkgen.run.declaration import acting
from rethinkgen.run.folder import RunFolder
from rethinkgen.run.identity import named_files
from rethinkgen.run.kept import step_of_run
from rethinkgen.run.measured import READ, SOLVED
from rethinkgen.run.process_state import leaving_process_as_it_is
from rethinkgen.run.replay import states, weights_along, weights_at
from rethinkgen.run.replay_checks import Checks
from rethinkgen.run.retrained import retrained
from rethinkgen.run.run import Run, open_one
from rethinkgen.train.checkpoint import damage_of, load_checkpoint
from rethinkgen.train.classifier import Classifier

if TYPE_CHECKING:
    import pandas as pd

AT_ONCE = 500
"""Images that are predicted at once."""
MOST_AT_HAND = 8
"""Steps whose weights an opened run holds, as they may have cost a training."""
Seen = dict[str, str | Checks]
"""A step, or steps of the training, ``"0 to 60"`` -> how the weights were had: a word, or what compared a replay."""
BEFORE_PREPROCESSING = {
    "preprocessing": "none",
    # They would keep a second copy of the images, and change none of the splits.
    **{"random_crop": False, "flip": False, "rotation": 0.0, "color_jitter": False, "mixup": 0.0},
}


def open_run(
    path: str | Path,
    *,
    data_root: str | Path | None = None,
    device: str | torch.device = "cpu",
    code: str | Sequence[str] = (),
    inexact: bool = False,
    tell: Callable[[str], None] = print,
) -> OpenedRun:
    """Open the run in a folder, however far it is: finished, running, stopped or failed, of any version.

    Args:
        path: of the run's folder.
        data_root: where its data lie today; by default it is looked for where they lay, then at ``RETHINKGEN_DATA``.
        device: of networks and data.
        code: packages of one's own that its config may name, as ``code=`` of ``train.py``.
        inexact: whether a replay goes on where the run's own rows tell other numbers.
        tell: is given what a replay will cost, before it begins, and what stands out on the way.

    Raises:
        ValueError: there is no run; the message says what is there instead.
    """
    names = [code] if isinstance(code, str) else list(code)
    return OpenedRun(
        open_one(Path(path).expanduser()),
        data_root=data_root,
        device=_device(device),
        code=names,
        inexact=inexact,
        tell=tell,
    )


class OpenedRun:
    """One run: what its files say, its networks, its data. Made by ``open_run``.

    Attributes:
        run: what the small files of its folder say.
    """

    def __init__(
        self,
        run: Run,
        *,
        data_root: str | Path | None,
        device: torch.device,
        code: Sequence[str],
        inexact: bool,
        tell: Callable[[str], None],
    ) -> None:
        self.run = run
        self.device = device
        self._data_root = data_root
        self._code = list(code)
        self._inexact = inexact
        self._tell = tell
        self._replayed: dict[int, dict[str, Tensor]] = {}
        """By step, what ``replay`` was asked for."""
        self._lost: dict[int, ReplayDiffersError] = {}
        """By step, why ``replay`` could not have it."""
        self._latest: dict[int, dict[str, Tensor]] = {}
        """Of the steps that were asked for last: several measures ask for the same."""
        self._had: dict[int, str | Checks] = {}
        """By step, how its weights were had."""

    def __repr__(self) -> str:
        told = {name: self.metrics.get(name) for name in ("fit/accuracy", "test/accuracy")}
        numbers = [f"{name}={value:.4g}" for name, value in told.items() if value is not None]
        return f"<{self.path.name}: {', '.join([self.state, *numbers, *filter(None, [self.run.reason])])}>"

    # What its files say.

    @property
    def path(self) -> Path:
        """Its folder."""
        return self.run.path

    @property
    def run_id(self) -> str:
        """The hash that names it."""
        return self.run.run_id

    @property
    def state(self) -> str:
        """``done``, ``failed``, ``interrupted``, ``waiting``, ``running`` or ``missing``."""
        return self.run.state

    @property
    def config(self) -> dict[str, Any]:
        """The whole resolved config."""
        return self.run.config

    @property
    def choices(self) -> dict[str, Any]:
        """Group -> choice, ``regularizer`` -> list."""
        return self.run.choices

    @property
    def result(self) -> dict[str, Any] | None:
        """The whole ``result.json``; nothing where it is not finished."""
        return self.run.result

    @property
    def metrics(self) -> dict[str, Any]:
        """Name -> number of a finished run, ``None`` where it was not reached; else empty."""
        return self.run.metrics

    @property
    def curves(self) -> pd.DataFrame:
        """The rows of ``metrics.csv``, one for each logged step; of a run at work those that there are."""
        return self.run.curves

    @cached_property
    def examples(self) -> pd.DataFrame:
        """A row for each training example: ``index`` in the source, labels and histories, and ``path`` of a file.

        Raises:
            ValueError: the run is not finished, or its folder came without them.
        """
        import pandas as pd

        columns = _arrays(RunFolder(self.path).examples)
        if columns is None:
            raise ValueError(f"{self.path}: there is no examples.npz, which {self._comes_at_the_end()}")
        table = pd.DataFrame(columns)
        by_name = RunFolder(self.path).examples_by_name
        if by_name.is_file():
            try:
                paths = pd.read_csv(by_name, encoding="utf-8-sig", usecols=["index", "path"], dtype={"path": str})
            except ValueError as error:
                raise DamagedFileError(f"{by_name} is damaged ({first_line(str(error))}).") from error
            table = table.merge(paths, on="index", how="left")
        return table

    # Its networks.

    def step(self, at: At = "end") -> int:
        """Return how many steps had been taken at ``"end"`` (the chosen step), ``"last"``, ``300`` or ``"10ep"``.

        Of a run without a result ``"last"`` is the step of its latest checkpoint, from which the same command goes on.

        Raises:
            ValueError: it is no step of this run.
        """
        if self.result is None and at == "last" and self._checkpoint is not None:
            return int(self._checkpoint["global_step"])
        return step_of_run(self.run, at)

    def network(self, step: At = "end") -> Classifier:
        """Return the network that the run had at a step, a new one each time: in evaluation mode, in float32.

        ``"end"`` is the one that the metrics are about: with early stopping the best. Weights that were not kept are
        had by training up to there once more, to the bit, from the nearest state that was. It needs no data, but for
        that, and for what is solved in closed form, which is solved again. What was trained in 64-true gives its own
        losses again to rounding.

        Raises:
            ValueError: it has no such step, or it cannot be had.
            ReplayDiffersError: the run's own rows tell other numbers than the replay.
            DamagedFileError: its weights are not of its network.
        """
        number = self.step(step)
        is_solution = self._is_closed_form and number == self.step()
        weights = self._weights(number) if not is_solution or self.run.end_weights.exists() else None
        self._had.setdefault(number, SOLVED)
        with self._building():
            model = self._solved() if self._is_closed_form else self._built()
        try:
            if weights is not None:
                model.load_state_dict(weights)
        except (RuntimeError, TypeError) as error:
            raise DamagedFileError(
                f"{self.path}: its weights are not of the network that its config describes "
                f"({first_line(' '.join(str(error).split()))})."
            ) from error
        if not self._is_closed_form:  # these may need their float64
            model = model.float()
        return model.eval().to(self.device)

    @property
    def provenance(self) -> dict[int, str]:
        """How the weights of each step that was asked for were had, a word of ``rethinkgen.run.measured.WORTH``.

        ``read``, as they were kept; ``replayed``, where the run's own rows told the same; ``replayed unchecked``, where
        the replay passed none of them; ``replayed inexactly``, where they told other numbers.
        """
        return {step: _word(had) for step, had in sorted(self._had.items())}

    def replay(self, steps: Sequence[At]) -> None:
        """Have ``network`` find the weights at these steps, all in one pass where they must be trained up to.

        Raises:
            ReplayDiffersError: the run's own rows tell other numbers; steps before the last row that did not are had,
                and ``network`` raises the same for the others.
        """
        numbers = sorted({self.step(step) for step in steps})
        had: dict[int, str | Checks] = dict.fromkeys(numbers, READ)
        found: dict[int, dict[str, Tensor]] = {}
        self._replayed, self._lost = found, {}
        try:
            with self._building():
                for step, weights in weights_along(
                    self, numbers, inexact=self._inexact, tell=self._tell, note=had.__setitem__
                ):
                    found[step] = weights
        except ReplayDiffersError as error:
            for step in numbers:
                checks = had[step]
                if step not in found or (isinstance(checks, Checks) and step > checks.last_right):
                    found.pop(step, None)
                    self._lost[step] = error
            raise
        finally:
            self._had |= {step: how for step, how in had.items() if step in found}

    @property
    def at_hand(self) -> set[int]:
        """Which steps that ``replay`` was asked for last it has the weights of."""
        return set(self._replayed)

    def _weights(self, step: int) -> dict[str, Tensor]:
        if (at_hand := self._replayed.get(step) or self._latest.get(step)) is not None:
            return at_hand
        if step in self._lost:
            raise self._lost[step]
        saved = self._checkpoint if self.result is None else None
        if saved is not None and step == int(saved["global_step"]):
            self._had[step] = READ
            return dict(saved["state_dict"])
        had: dict[int, str | Checks] = {step: READ}
        with self._building():
            weights = weights_at(self, step, inexact=self._inexact, tell=self._tell, note=had.__setitem__)
        self._had |= had  # nothing of what could not be had
        self._latest[step] = weights
        if len(self._latest) > MOST_AT_HAND:
            del self._latest[next(iter(self._latest))]
        return weights

    @cached_property
    def _checkpoint(self) -> dict[str, Any] | None:
        """The latest whole one of a run without a result, from which the same command would go on."""
        for name in ("last.ckpt", "previous.ckpt"):
            path = RunFolder(self.path).checkpoints / name
            if path.exists():
                found = _read_checkpoint(path, self.run_id)
                if not isinstance(found, str):
                    return found
                self._tell(f"{path} is passed over: {found}.")
        return None

    def fresh(self, draw: int) -> Classifier:
        """Return a network of the same architecture with initial weights of its own, the same for the same ``draw``."""
        self._refuse_closed_form("fresh")
        with self._building():
            own = generator("fresh", int(self.run.seed), "network", draw)
            torch.default_generator.manual_seed(int(own.integers(2**63)))
            return self._built().float().eval().to(self.device)

    def training(self, first: At, last: At) -> Iterator[TrainingStep]:
        """Take the optimizer steps ``first`` to ``last - 1`` of its training once more.

        Raises:
            ValueError: it has no such steps, or cannot be replayed.
            ReplayDiffersError: its own rows tell other numbers.
        """
        yield from self._training(first, last, {})

    def _training(self, first: At, last: At, seen: Seen) -> Iterator[TrainingStep]:
        start, end = self.step(first), self.step(last)

        def note(step: int, checks: Checks) -> None:
            seen[f"{start} to {step}"] = checks

        with own_code.opening(self._code):
            yield from states(self, start, end, inexact=self._inexact, tell=self._tell, note=note)

    def trainings(
        self,
        draws: Sequence[Draw],
        epochs: float,
        splits: Sequence[SplitName] = ("train",),
        memory_mb: float = 1024.0,
    ) -> Mapping[SplitName, Tensor]:
        """Train a network like its own for each draw: ``rethinkgen.measure.subject.Subject.trainings``.

        What is finished is kept in its folder. Up to ``memory_mb`` of networks and batches are held at once.

        Raises:
            ValueError: it was not trained by plain steps on cross-entropy, or is solved in closed form.
        """
        self._refuse_closed_form("trainings")
        with own_code.opening(self._code):
            return retrained(self, draws, epochs, splits, memory_mb)

    # Its data.

    @cached_property
    def datamodule(self) -> CorruptedImages:
        """Its data, set up on ``device``: shared by all opened runs that have the same, while one of them lives.

        Raises:
            ValueError: they are not found, or are not what the run was trained on.
        """
        with self._building():
            return datamodule_of(self.run, self._acting["data"], self._data_root, self.device)

    @property
    def made_data(self) -> CorruptedImages | None:
        """Its data, if they have been asked for."""
        made: CorruptedImages | None = self.__dict__.get("datamodule")
        return made

    @property
    def splits(self) -> Mapping[SplitName, Split]:
        """``train``; ``test``, ``validation`` where there are such; as the network sees them."""
        return self.datamodule.splits

    @property
    def class_names(self) -> tuple[str, ...]:
        """Of the labels, in their order."""
        return self.datamodule.class_names

    def images(self, index: int | Sequence[int] | NDArray[Any] | Tensor, split: str = "train") -> Any:
        """Return images as they are in the source, uint8 ``(n, C, H, W)``, or ``(C, H, W)`` of one index.

        Those of files that are read on the way may differ in size: of several a list. ``index`` counts in the source's
        ``train`` or ``test`` part, as the columns ``index`` of ``examples`` and of ``splits`` do.
        """
        if split not in ("train", "validation", "test"):
            raise ValueError(f"split={split!r}: train, validation or test is needed.")
        loaded = self.datamodule.source.load()
        part = loaded.test if split == "test" else loaded.train
        if part is None:
            raise ValueError(f"split={split!r}: nothing is left to test on of this run's data; train is needed.")
        which = np.asarray(index.cpu() if isinstance(index, Tensor) else index)
        count = len(part)
        if which.dtype.kind not in "iu" or which.ndim > 1 or not ((which >= 0) & (which < count)).all():
            raise ValueError(f"index={index!r}: whole numbers from 0 to {count - 1} are needed, of split={split!r}.")
        if isinstance(part, Examples):
            return part.images[which].copy()  # others look at them too
        assert isinstance(loaded, ImageFiles)
        names = part.names[np.atleast_1d(which)]
        decoded = [decode_colour(os.path.join(loaded.root, os.fsdecode(name))).transpose(2, 0, 1) for name in names]
        return decoded if which.ndim else decoded[0]

    def pixels(self, split: SplitName = "train") -> Any:
        """Return a split's images ``(N, C, H, W)`` in ``[0, 1]``: cropped and corrupted, before the preprocessing.

        Streamed ones as ``splits`` has them (``rethinkgen.data.streaming.StreamedInputs``).
        """
        return self._split(split, self._before_preprocessing).inputs

    @cached_property
    def _before_preprocessing(self) -> CorruptedImages:
        with self._building():
            return datamodule_of(self.run, self._acting["data"] | BEFORE_PREPROCESSING, self._data_root, self.device)

    def from_pixels(self, images: Tensor) -> Tensor:
        """Return what the network takes for images in ``[0, 1]`` of its size; differentiable."""
        return self.datamodule.preprocess(images)

    def predict(self, images: Any, step: At = "end", split: SplitName = "train") -> pd.DataFrame:
        """Return what the network says of images: columns ``label``, ``class_name`` and ``probability``.

        Args:
            images: uint8 ``(n, C, H, W)`` as in the source, or a list of such, which are cropped; or float
                ``(n, C, H, W)`` in ``[0, 1]`` of the network's size; or integers ``(n,)``: examples of ``split`` as the
                network sees them, by the ``index`` that they have in the source.
            step: of the network.
            split: in which integers count.
        """
        import pandas as pd

        inputs = self.inputs(images, split)
        model = self.network(step)
        with torch.no_grad(), torch.autocast(self.device.type, enabled=False):
            parts = [model(part).float().softmax(1).max(1) for part in torch.split(inputs, AT_ONCE)]
        labels = torch.cat([part.indices for part in parts]).cpu().numpy()
        return pd.DataFrame(
            {
                "label": labels,
                "class_name": np.array(self.class_names, dtype=object)[labels],
                "probability": torch.cat([part.values for part in parts]).cpu().numpy(),
            }
        )

    def inputs(self, images: Any, split: SplitName = "train") -> Tensor:
        """Return what the network takes for images, as ``predict`` is given them: ``(n, C, H, W)``."""
        shape = self.datamodule.image_shape
        given = _tensors(images)
        if isinstance(given, Tensor) and given.ndim == 1 and not given.is_floating_point():
            return self._inputs_at(given.tolist(), split)
        if isinstance(given, Tensor) and given.is_floating_point() and given.ndim == 4 and given.shape[1:] == shape:
            return self.from_pixels(given.to(self.device).float())
        if isinstance(given, Tensor | list) and (seen := self._seen(list(given))) is not None:
            return self.from_pixels(seen.to(self.device).float() / 255)
        told = (
            f"{given.dtype} {tuple(given.shape)}" if not isinstance(given, list) else f"a list of {len(given)} images"
        )
        raise ValueError(
            f"images: {told} was given. uint8 (n, {shape[0]}, H, W) as in the source, float (n, "
            f"{', '.join(map(str, shape))}) in [0, 1], or integers (n,), indices of examples, are needed."
        )

    def _seen(self, images: list[Tensor]) -> Tensor | None:
        """Return what the network sees of images uint8 ``(C, H, W)`` as in the source; nothing of what is none."""
        channels, height, width = self.datamodule.image_shape
        if not images or any(each.dtype != torch.uint8 or each.ndim != 3 or len(each) != channels for each in images):
            return None
        loaded = self.datamodule.source.load()
        if isinstance(loaded, ImageFiles):
            view = View(loaded.resize, (height, width))
            return torch.stack([view(each, None) for each in images])
        if (side := self.datamodule.resize) is not None:
            if any(min(each.shape[1:]) < side for each in images):
                return None
            images = [torch.from_numpy(reduced(each[None].numpy(), side))[0] for each in images]
        if any(each.shape[1] < height or each.shape[2] < width for each in images):
            return None
        return torch.stack([center_crop(each, (height, width)) for each in images])

    def _inputs_at(self, indices: list[int], split: SplitName) -> Tensor:
        part = self._split(split)
        places = {index: place for place, index in enumerate(part.index.tolist())}
        if absent := [index for index in indices if index not in places]:
            raise ValueError(f"index={absent[0]}: it is none of the {len(part):,} examples of split={split!r}.")
        rows = [places[index] for index in indices]
        if isinstance(part.inputs, Tensor):
            return part.inputs[rows]
        return torch.cat(list(part.inputs.in_parts([slice(row, row + 1) for row in rows])))

    def _split(self, name: SplitName, datamodule: CorruptedImages | None = None) -> Split:
        there = (datamodule or self.datamodule).splits
        if name not in there:
            raise ValueError(f"split={name!r}: this run has none; it has {', '.join(there)}.")
        return there[name]

    # What a measure is given.

    def subject(
        self,
        step: At = "end",
        *,
        name: str = "",
        memory_mb: float = 1024.0,
        other: Callable[[], Subject] | None = None,
        seen: Seen | None = None,
    ) -> Subject:
        """Return what a measure asks about: the network at a step, the data, and what can be made of them.

        ``seen`` is told how the weights that it looks at were had, these and others (``provenance_of``).
        """
        number = self.step(step)
        network = self.network(step)
        seen = {} if seen is None else seen
        seen[f"{number}"] = self._had[number]
        return Subject(
            network,
            _WhenAsked(lambda: self.splits),
            number,
            seed=int(self.run.seed),
            name=name,
            memory_mb=memory_mb,
            class_names=lambda: self.class_names,
            pixels=self.pixels,
            from_pixels=self.from_pixels,
            at=lambda at: self.subject(at, name=name, memory_mb=memory_mb, other=other, seen=seen),
            fresh=self.fresh,
            training=lambda first, last: self._training(first, last, seen),
            trainings=lambda draws, epochs, splits: self.trainings(draws, epochs, splits, memory_mb),
            other=other,
        )

    # How it is made.

    @contextlib.contextmanager
    def _building(self) -> Iterator[None]:
        with own_code.opening(self._code), leaving_all_as_it_is():
            yield

    @cached_property
    def _is_closed_form(self) -> bool:
        with self._building():
            kind = target_class(self._acting["model"], "model")
        return isinstance(kind, type) and issubclass(kind, ClosedForm)

    @cached_property
    def _acting(self) -> dict[str, Any]:
        return acting(self.run.config)

    def _built(self) -> Classifier:
        """Build its network with initial weights of its own: a file of others that it began with is not asked for."""
        shapes, node = self._shapes, dict(self._acting["model"])
        for key in named_files({"model": node}):
            del node[key.removeprefix("model.")]
        return build(  # type: ignore[no-any-return]
            node,
            "model",
            image_shape=tuple(shapes["image_shape"]),
            num_classes=shapes["num_classes"],
            num_outputs=shapes["num_outputs"],
        )

    def _solved(self) -> ClosedForm:
        """Solve once more: what the solution holds of the training set is not kept."""
        datamodule = self.datamodule
        torch.default_generator.manual_seed(int(self.run.seed))
        model: ClosedForm = build(self._acting["model"], "model")
        model.solve_for(datamodule)
        return model

    def _refuse_closed_form(self, what: str) -> None:
        if self._is_closed_form:
            raise ValueError(f"{self.path}: {self.run.model} is solved in closed form, of which there is no {what!r}.")

    @cached_property
    def _shapes(self) -> dict[str, Any]:
        """What the network is built for; folders of commit 785b5e0 do not say all of it, and then the data do."""
        told = {**self.run.facts, **(self.result or {})}
        names = ("image_shape", "num_classes", "num_outputs")
        if all(told.get(name) for name in names):
            return {name: told[name] for name in names}
        self._tell(f"{self.path.name} does not say what its network was built for: its data are asked.")
        return {name: getattr(self.datamodule, name) for name in names}

    def _comes_at_the_end(self) -> str:
        if self.result is None:
            return f"is written when a run ends; this one is {self.state}."
        return "every finished run has: the folder came without it."


def provenance_of(seen: Seen) -> dict[str, str]:
    """Return a word of ``rethinkgen.run.measured.WORTH`` for all that a measure has looked at, once it has ended."""
    return {what: _word(had) for what, had in seen.items()}


def _word(had: str | Checks) -> str:
    return had if isinstance(had, str) else had.worth


class _WhenAsked(Mapping[SplitName, Split]):
    """The splits, of which the data are loaded when one is asked for: some measures look at weights alone."""

    def __init__(self, make: Callable[[], Mapping[SplitName, Split]]) -> None:
        self._make = make

    def __getitem__(self, name: SplitName) -> Split:
        return self._make()[name]

    def __iter__(self) -> Iterator[SplitName]:
        return iter(self._make())

    def __len__(self) -> int:
        return len(self._make())


@contextlib.contextmanager
def leaving_all_as_it_is() -> Iterator[None]:
    """Build something under torch's defaults, and put back the caller's generators and settings afterwards."""
    on_cpu = contextlib.nullcontext() if torch.get_default_device().type == "cpu" else torch.device("cpu")
    with leaving_process_as_it_is(), on_cpu, torch.inference_mode(mode=False), torch.enable_grad():
        torch.set_default_dtype(torch.float32)
        yield


def _tensors(images: Any) -> Tensor | list[Tensor] | NDArray[Any]:
    """Return what was given as tensors, if it can be; a copy, as a column of a table may only be read."""
    if isinstance(images, Tensor):
        return images
    if isinstance(images, list) and images and all(np.ndim(each) == 3 for each in images):
        return [torch.from_numpy(np.array(each)) for each in images]
    array = np.array(images)
    return torch.from_numpy(array) if array.dtype.kind in "uif" else array


def _device(asked: str | torch.device) -> torch.device:
    try:
        device = torch.device(asked)
    except RuntimeError as error:
        raise ValueError(f"device={asked!r}: cpu or cuda is needed, or one of several, as cuda:1.") from error
    if device.type == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"device={asked!r}: there is no GPU here that torch can use. Leave it out.")
    return device


def _read_checkpoint(path: Path, run_id: str) -> dict[str, Any] | str:
    """Return a checkpoint of a run, or what is wrong with it."""
    if (fault := damage_of(path)) is not None:
        return f"it is damaged ({fault})"
    try:
        saved = load_checkpoint(path)
        whose, step, weights = saved.get("run_id", run_id), saved["global_step"], saved["state_dict"]
    except (RuntimeError, pickle.UnpicklingError, AttributeError, KeyError, EOFError, OSError) as error:
        return f"it is no checkpoint ({first_line(str(error))})"
    if not isinstance(step, int) or not isinstance(weights, dict):
        return "it is no checkpoint"
    return saved if whose == run_id else f"it is of the run {whose}"


def _arrays(path: Path) -> dict[str, NDArray[Any]] | None:
    """Return the columns of an ``examples.npz``; nothing where there is no file."""
    with opened_arrays(path) as stored:
        if stored is None:
            return None
        columns = {name: stored[name] for name in stored.files}
    count = len(columns["index"]) if "index" in columns else -1
    if unfit := [name for name, values in columns.items() if values.shape != (count,)]:
        raise DamagedFileError(f"{path} is damaged ({unfit[0]} is not one value for each example).")
    return columns
