"""Losses that know how labels go wrong: Patrini et al. 2017 (arXiv 1609.03683), forward and backward correction.

``T[i, j]`` is the probability that an example of class ``i`` is labelled ``j``. It is taken from the corruption, which
knows it (``label_transition``), or from a file: of numbers, or what ``measure=[transition]`` has left of a run.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from rethinkgen.checks import check_between
from rethinkgen.data.corruption import Transition, check_transition, read_matrix
from rethinkgen.train.loss import log_probabilities

KEY = "loss.transition"
TABLE = "transition"
"""The measure's table whose column ``probability`` holds a matrix, row after row."""
WORST_CONDITION = 1e6
"""Beyond it an inverse is noise."""


class _Correction:
    """A loss that is given a transition, or takes that of the data which it is trained on."""

    def __init__(self, transition: str | Transition | None = None) -> None:
        self.given = None if transition is None else read_transition(KEY, transition)
        self._used = torch.empty(0)
        if self.given is not None:
            self._used = self._made_of(self.given)

    def check_fits(self, network: nn.Module, datamodule: Any) -> None:
        """Take the transition of the data, unless one was given.

        Raises:
            ValueError: it is not known, or of another number of classes, or of no use.
        """
        num_classes = int(datamodule.num_classes)
        transition = datamodule.label_transition(num_classes) if self.given is None else self.given
        if transition is None:
            raise ValueError(
                f"loss={_name(self)}: how labels go wrong is not known of {type(datamodule).__name__}. Name a file, "
                f"{KEY}=FILE: a matrix as .csv or .npy, or what measure.py RUN 'measure=[transition]' writes of a run "
                "that was trained by cross-entropy."
            )
        if len(transition) != num_classes:
            raise ValueError(
                f"{KEY}: it has {len(transition)} rows, and the data {num_classes} classes: as many are needed."
            )
        self._used = self._made_of(transition).to(next(network.parameters()).device)

    def _made_of(self, transition: Transition) -> Tensor:
        raise NotImplementedError

    def _of(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
        """Return ``log p (n, C)``, and of each label what was made of the transition, ``(n, C)``."""
        logs = log_probabilities(logits)
        if not len(self._used):
            raise ValueError(f"loss={_name(self)}: the transition is that of the data, which training shows it first.")
        self._used = self._used.to(logs)
        return logs, self._used.index_select(0, labels)


class ForwardCorrection(_Correction):
    """``-log sum_i T[i, y] p_i``: cross-entropy of what the label would be.

    Args:
        transition: a file, or ``T``; ``None``: that of the corruption. The identity is cross-entropy.

    Raises:
        ValueError: a class would never be given, so that its label had probability 0.
    """

    def _made_of(self, transition: Transition) -> Tensor:
        never = np.flatnonzero(transition.sum(0) == 0)
        if len(never):
            raise ValueError(f"{KEY}: no class is ever labelled {never[0]} by it, and a label {never[0]} impossible.")
        with np.errstate(divide="ignore"):
            return torch.from_numpy(np.log(transition.T))

    def __call__(self, logits: Tensor, labels: Tensor, index: Tensor) -> Tensor:
        """Return the losses. In logarithms: a product of matrices would be of bfloat16 under mixed precision."""
        logs, of_label = self._of(logits, labels)
        return -torch.logsumexp(logs + of_label, 1)


class BackwardCorrection(_Correction):
    """``-sum_j inverse(T)[y, j] log p_j``: without bias for the loss on true labels, in the mean over given ones.

    Coefficients of the inverse off its diagonal are negative, so that this has no lower bound: a network that is sure
    of a wrong label drives it to minus infinity. Guard (ours): in terms with a negative coefficient a ``p_j`` below
    ``floor`` counts as ``floor``, without gradient; the loss is then at least ``log(floor)`` times the sum of these.

    Args:
        transition: a file, or ``T``; ``None``: that of the corruption. The identity is cross-entropy.
        floor: in ``[0, 1)``; 0 is no guard.

    Raises:
        ValueError: ``T`` has no inverse to speak of.
    """

    def __init__(self, transition: str | Transition | None = None, floor: float = 1e-4) -> None:
        self.floor = check_between("loss.floor", floor, 0, 1, below=True)
        super().__init__(transition)

    def _made_of(self, transition: Transition) -> Tensor:
        if not np.linalg.cond(transition) < WORST_CONDITION:
            raise ValueError(
                f"{KEY}: it has no inverse, since some rows say (nearly) the same. Where labels tell nothing of the "
                "class, nothing can be corrected; loss=forward_correction needs no inverse."
            )
        return torch.from_numpy(np.linalg.inv(transition))

    def __call__(self, logits: Tensor, labels: Tensor, index: Tensor) -> Tensor:
        """Return the losses, some of which may be negative."""
        logs, of_label = self._of(logits, labels)
        if self.floor:
            logs = torch.where(of_label < 0, logs.clamp(min=float(np.log(self.floor))), logs)
        return -(of_label * logs).sum(1)


def read_transition(key: str, transition: Any) -> Transition:
    """Return a transition, or read one from a ``.csv``, a ``.npy``, or the ``.npz`` of ``measure=[transition]``.

    Raises:
        ValueError: it is none, or cannot be read; the message names ``key``.
    """
    if isinstance(transition, str):
        is_of_measure = Path(transition).suffix == ".npz"
        transition = _read_measured(key, transition) if is_of_measure else read_matrix(key, transition)
    return check_transition(key, transition)


def _read_measured(key: str, path: str) -> NDArray[np.float64]:
    try:
        with Path(path).expanduser().open("rb") as stream, np.load(stream, allow_pickle=False) as file:
            column = np.asarray(file[f"{TABLE}/probability"], dtype=np.float64)
        side = round(len(column) ** 0.5)
        return column.reshape(side, side)
    except (OSError, ValueError, KeyError, EOFError, BadZipFile) as error:
        raise ValueError(
            f"{key}={path}: the .npz file that measure.py RUN 'measure=[transition]' leaves is needed ({error})."
        ) from error


def _name(loss: object) -> str:
    return "forward_correction" if isinstance(loss, ForwardCorrection) else "backward_correction"
