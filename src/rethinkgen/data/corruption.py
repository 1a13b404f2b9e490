"""What is done to labels or pixels: the functions, and below them one LightningDataModule for each.

Function, YAML file and choice on the command line share one name. Labels are numpy arrays ``(N,)``. Pixels
are float tensors ``(N, C, H, W)`` in ``[0, 1]``, handed in with what was drawn for them; noise is float and
never clipped or rounded.

All draws are those of ``rethinkgen.data.draws``: fixed for the run, and nested. The examples that are
corrupted at probability 0.2 are among those corrupted at 0.4, with the same new label or noise.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from rethinkgen.checks import check_groups, check_probability
from rethinkgen.data import example_list
from rethinkgen.data.draws import generator, normals, permutations, uniforms
from rethinkgen.data.module import CorruptedImages, Labels, Pattern, SplitName
from rethinkgen.data.preprocessing import ChannelStatistics
from rethinkgen.data.source import Images, Source
from rethinkgen.data.streamed_source import ImageFiles

Keys = NDArray[np.uint64]
IntLabels = NDArray[np.int64]
Transition = NDArray[np.float64]
"""``(K, K)``: row ``k`` holds the probabilities of what class ``k`` becomes, and sums to 1"""


def partial_labels(labels: IntLabels, keys: Keys, num_classes: int, probability: float, seed: int) -> Labels:
    """Replace each label with ``probability`` by a class drawn uniformly from all: Zhang et al. 2017.

    The class drawn may be the true one, so a share ``probability * (K - 1) / K`` of labels becomes wrong.
    """
    drawn = uniforms("labels", seed, "train", keys, 2)
    is_drawn = drawn[:, 0] < probability
    classes = (drawn[:, 1] * num_classes).astype(np.int64)
    return Labels(np.where(is_drawn, classes, labels), is_drawn)


def random_labels(labels: IntLabels, keys: Keys, num_classes: int, seed: int) -> Labels:
    """Replace every label by a class drawn uniformly from all: ``partial_labels`` at probability 1."""
    return partial_labels(labels, keys, num_classes, 1.0, seed)


def symmetric_labels(labels: IntLabels, keys: Keys, num_classes: int, probability: float, seed: int) -> Labels:
    """Replace exactly the share ``probability`` of the labels by a class drawn uniformly from the others.

    The field's usual noise. Those with the lowest draws are replaced, so that all of them are wrong, and a part of the
    examples has its own share, near ``probability``.
    """
    drawn = uniforms("labels", seed, "train", keys, 2)
    is_drawn = np.zeros(len(labels), dtype=bool)
    is_drawn[np.argsort(drawn[:, 0], kind="stable")[: round(probability * len(labels))]] = True
    others = (drawn[:, 1] * (num_classes - 1)).astype(np.int64)
    return Labels(np.where(is_drawn, others + (others >= labels), labels), is_drawn)


def asymmetric_labels(labels: IntLabels, keys: Keys, transition: Transition, seed: int) -> Labels:
    """Replace each label ``k`` by class ``j`` with probability ``transition[k, j]``.

    One number decides whether an example keeps its label, another which class it gets if not. So draws are
    nested between matrices whose off-diagonal entries differ by a factor for each row.
    """
    drawn = uniforms("labels", seed, "train", keys, 2)
    limits = np.cumsum(np.where(np.eye(len(transition), dtype=bool), 0, transition), axis=1)
    is_drawn = drawn[:, 0] < limits[labels, -1]
    # Scaled to the row's own total, so that rounding cannot place a draw beyond the last possible class.
    places = drawn[:, 1] * limits[labels, -1]
    classes = (limits[labels] <= places[:, None]).sum(1)
    return Labels(np.where(is_drawn, classes, labels), is_drawn)


def random_signs(keys: Keys, split: str, seed: int) -> IntLabels:
    """Draw a fair sign for each of ``keys (N,)``: class 0 is -1, class 1 is +1, whatever the source's labels.

    These are the signs of the empirical Rademacher complexity (Zhang et al. 2017, Section 2.2).
    """
    return (uniforms("signs", seed, split, keys, 1)[:, 0] >= 0.5).astype(np.int64)


def unique_labels(count: int, positions: NDArray[np.intp]) -> IntLabels:
    """Give the examples at ``positions (n,)`` of ``count`` a class each, 0 to ``n - 1``: Arpit et al. 2017, Figure 3b.

    All others, which nothing is asked of, are of class 0.
    """
    labels = np.zeros(count, dtype=np.int64)
    labels[positions] = np.arange(len(positions))
    return labels


def class_groups(labels: IntLabels, group_of: Sequence[int]) -> IntLabels:
    """Replace each label ``k`` by the group of its class, ``group_of[k]``."""
    return np.asarray(group_of, dtype=np.int64)[labels]


def uniform_class(num_classes: int, probability: float) -> Transition:
    """Return the transition that keeps a class but for ``probability``, with which any is drawn, it too."""
    return (1 - probability) * np.eye(num_classes) + probability / num_classes


def other_class(num_classes: int, probability: float) -> Transition:
    """Return the transition to each of the other classes alike, with ``probability`` in all."""
    return uniform_class(num_classes, probability * num_classes / (num_classes - 1))


def next_class(num_classes: int, probability: float) -> Transition:
    """Return the transition of class ``k`` to ``k + 1``, and the last to the first, with ``probability``."""
    stay = np.eye(num_classes)
    return (1 - probability) * stay + probability * np.roll(stay, 1, axis=1)


def given_labels(labels: IntLabels, positions: NDArray[np.int64], given: IntLabels) -> Labels:
    """Replace the labels at ``positions (K,)`` by those ``given (K,)``; all of them count as drawn."""
    labels, is_drawn = labels.copy(), np.zeros(len(labels), dtype=bool)
    labels[positions], is_drawn[positions] = given, True
    return Labels(labels, is_drawn)


def shuffled_pixels(images: Tensor, permutation: Tensor) -> Tensor:
    """Rearrange the pixels of all images by one ``permutation (H * W,)``; channels stay together."""
    return images.flatten(2).index_select(2, permutation).view(images.shape)


def random_pixels(images: Tensor, permutations: Tensor) -> Tensor:
    """Rearrange each image's pixels by its own row of ``permutations (N, H * W)``; channels stay together."""
    places = permutations.long()[:, None, :].expand(-1, images.shape[1], -1)
    return images.flatten(2).gather(2, places).view(images.shape)


def gaussian(noise: Tensor, statistics: ChannelStatistics) -> Tensor:
    """Give standard normal ``noise (N, C, H, W)`` the mean and deviation of each channel of the data set.

    Per-image whitening, if it follows, removes whatever mean and scale the channels have in common; only
    differences between channels remain.
    """
    return statistics.mean + statistics.std * noise


def gaussian_blend(images: Tensor, noise: Tensor, statistics: ChannelStatistics, strength: float) -> Tensor:
    """Degrade images: ``sqrt(1 - s)`` times the standardised image plus ``sqrt(s)`` times ``noise``.

    Standardised per channel by the data set's statistics, and turned back afterwards, so that the data set
    keeps them: at ``strength`` 0 an image is itself, at 1 it is that of ``gaussian``.
    """
    keep, add = math.sqrt(1 - strength), math.sqrt(strength)
    return keep * images + (1 - keep) * statistics.mean + add * statistics.std * noise


def noisy_inputs(images: Tensor, is_noise: Tensor, noise: Tensor, statistics: ChannelStatistics) -> Tensor:
    """Replace the images where ``is_noise (N,)`` by ``gaussian``: randX of Arpit et al. 2017."""
    noise = gaussian(noise, statistics)
    return torch.where(is_noise[:, None, None, None], noise, images)


class TrueLabels(CorruptedImages):
    """Nothing is corrupted; ``none`` on the command line."""


class PartialLabels(CorruptedImages):
    """``partial_labels`` of the training examples. Test labels stay true."""

    def __init__(self, source: Source, *, probability: float, **data: Any) -> None:
        super().__init__(source, **data)
        self.noise_probability = self.probability = check_probability("data.corruption.probability", probability)

    def corrupt_labels(self, labels: IntLabels, keys: Keys, num_classes: int) -> Labels:
        """See ``partial_labels``."""
        return partial_labels(labels, keys, num_classes, self.probability, self.seed)

    def label_transition(self, num_classes: int) -> Transition:
        """See ``uniform_class``."""
        return uniform_class(num_classes, self.probability)


class RandomLabels(CorruptedImages):
    """``random_labels`` of the training examples. Test labels stay true."""

    noise_probability = 1.0

    def corrupt_labels(self, labels: IntLabels, keys: Keys, num_classes: int) -> Labels:
        """See ``random_labels``."""
        return random_labels(labels, keys, num_classes, self.seed)

    def label_transition(self, num_classes: int) -> Transition:
        """Any class, whatever the true one."""
        return uniform_class(num_classes, 1.0)


class SymmetricLabels(CorruptedImages):
    """``symmetric_labels`` of the source's training part: what is left out or held out of it has its own share.

    Test labels stay true.
    """

    def __init__(self, source: Source, *, probability: float, **data: Any) -> None:
        super().__init__(source, **data)
        self.noise_probability = self.probability = check_probability("data.corruption.probability", probability)

    def corrupt_labels(self, labels: IntLabels, keys: Keys, num_classes: int) -> Labels:
        """See ``symmetric_labels``."""
        return symmetric_labels(labels, keys, num_classes, self.probability, self.seed)

    def label_transition(self, num_classes: int) -> Transition:
        """See ``other_class``."""
        return other_class(num_classes, self.probability)


class RandomSigns(CorruptedImages):
    """``random_signs`` in place of the labels of all examples: two classes, for a network with one output.

    For functions ``h`` with values -1 and +1, the empirical Rademacher complexity of a sample of ``n`` inputs is the
    expectation over signs ``s`` of the supremum over ``h`` of ``(1/n) sum_i s_i h(x_i)``. Of the function that training
    found, this sum is ``2 * fit/accuracy - 1``: a lower bound on the supremum for these signs.

    ``seed`` draws signs and, with ``num_train``, the sample. So a mean over seeds is over samples too: it is a bound on
    the Rademacher complexity, of which the empirical one is the value for one sample. A smaller sample is part of a
    larger one, with the same signs. It is balanced by the source's classes, its signs are not.

    Test and validation examples have signs of their own, which nothing can predict: accuracy is 1/2 but for chance.
    A sign is all the label that an example has: it is its own original, and none is wrong.
    """

    noise_probability = 1.0
    num_outputs = 1
    """The logit of +1; ``Classifier`` puts 0 beside it, which makes of cross-entropy the logistic loss."""

    def replace_task(self, images: Images | ImageFiles) -> Images | ImageFiles:
        """See ``random_signs``."""
        train = replace(images.train, labels=random_signs(images.train.keys, "train", self.seed))
        test = images.test
        if test is not None:
            test = replace(test, labels=random_signs(test.keys, "test", self.seed))
        return replace(images, train=train, test=test, class_names=("-1", "+1"))  # type: ignore[arg-type]

    def corrupt_labels(self, labels: IntLabels, keys: Keys, num_classes: int) -> Labels:
        """Every one was drawn."""
        return Labels(labels, np.ones(len(labels), dtype=bool))

    @property
    def noise(self) -> dict[str, float | None]:
        """Every example was hit, though no sign is wrong."""
        return {"noise/probability": 1.0, "noise/realised": 1.0}


class UniqueLabels(CorruptedImages):
    """``unique_labels`` in place of the labels of the training examples: as many classes as there are of these.

    A class is called by its example's position in the source. No other example can be of one, so that there is nothing
    to test on, and nothing may be held out. A class is all the label that an example has: it is its own original, and
    none is wrong.
    """

    noise_probability: float | None = 1.0

    def replace_task(self, images: Images | ImageFiles) -> Images | ImageFiles:
        """See ``unique_labels``.

        Raises:
            ValueError: examples are held out.
        """
        if self.validation:
            raise ValueError(
                f"data.validation={self.validation} data.corruption=unique_labels: no example that is held out can be "
                "of a class of those that are trained on. Set data.validation=0.0."
            )
        if len(self.trained_on) < 2:
            raise ValueError(f"data.num_train={self.num_train}: two examples are needed, for two classes.")
        if images.test is not None:
            self.notes.append(
                "data.corruption=unique_labels: no test image is of a class that is trained on: every number of the "
                "test set is null."
            )
        train = replace(images.train, labels=unique_labels(len(images.train), self.trained_on))
        return replace(images, train=train, test=None, class_names=tuple(map(str, self.trained_on.tolist())))  # type: ignore[arg-type]

    def corrupt_labels(self, labels: IntLabels, keys: Keys, num_classes: int) -> Labels:
        """Every one was given."""
        return Labels(labels, np.ones(len(labels), dtype=bool))

    @property
    def noise(self) -> dict[str, float | None]:
        """Every example was hit, though no label is wrong."""
        return {"noise/probability": 1.0, "noise/realised": 1.0}


CIFAR10_GROUPS = {
    "animal": ["bird", "cat", "deer", "dog", "frog", "horse"],
    "vehicle": ["airplane", "automobile", "ship", "truck"],
}


class ClassGroups(CorruptedImages):
    """``class_groups`` in place of the labels of all examples, test examples too: a coarser task on the same images.

    Nothing is corrupted: the groups are the original labels.

    Args:
        groups: name of a group -> names of its classes, each class of the source in one group; ``None``: the animals
            and the vehicles of CIFAR-10.
    """

    def __init__(self, source: Source, *, groups: Mapping[str, Sequence[str]] | None = None, **data: Any) -> None:
        super().__init__(source, **data)
        self.groups: Mapping[str, Sequence[str]] = CIFAR10_GROUPS if groups is None else groups
        check_groups("data.corruption.groups", self.groups)

    def replace_task(self, images: Images | ImageFiles) -> Images | ImageFiles:
        """See ``class_groups``.

        Raises:
            ValueError: a class of the source is in no group or in two, or a group has a class that the source lacks.
        """
        listed = [(str(name), number) for number, names in enumerate(self.groups.values()) for name in names]
        names = [name for name, _ in listed]
        if sorted(names) != sorted(images.class_names):
            wrong = [name for name in images.class_names if names.count(name) != 1]
            wrong += [name for name in dict.fromkeys(names) if name not in images.class_names]
            raise ValueError(
                f"data.corruption.groups: {', '.join(wrong)}: each class of the source must be in one group, and no "
                f"other. It has {', '.join(images.class_names)}."
            )
        group_of = [dict(listed)[name] for name in images.class_names]
        train = replace(images.train, labels=class_groups(images.train.labels, group_of))
        test = images.test
        if test is not None:
            test = replace(test, labels=class_groups(test.labels, group_of))
        return replace(images, train=train, test=test, class_names=tuple(map(str, self.groups)))  # type: ignore[arg-type]


class AsymmetricLabels(CorruptedImages):
    """``asymmetric_labels`` of the training examples. Test labels stay true.

    Args:
        probability: of class ``k`` becoming ``k + 1``, and the last the first.
        matrix: the ``Transition`` instead, or the path of a ``.csv`` (no header) or ``.npy`` file that holds one.
    """

    def __init__(
        self,
        source: Source,
        *,
        probability: float | None = None,
        matrix: Sequence[Sequence[float]] | Transition | str | None = None,
        **data: Any,
    ) -> None:
        super().__init__(source, **data)
        if (probability is None) == (matrix is None):
            raise ValueError(
                f"data.corruption.probability={probability!r} and data.corruption.matrix={matrix!r}: "
                "one of them is needed, and the other must be null."
            )
        if isinstance(matrix, str):
            matrix = read_matrix("data.corruption.matrix", matrix)
        self.matrix = None if matrix is None else check_transition("data.corruption.matrix", matrix)
        self.probability = self.noise_probability = None
        if probability is not None:
            self.noise_probability = check_probability("data.corruption.probability", probability)
            self.probability = self.noise_probability

    def corrupt_labels(self, labels: IntLabels, keys: Keys, num_classes: int) -> Labels:
        """See ``asymmetric_labels``."""
        return asymmetric_labels(labels, keys, self.label_transition(num_classes), self.seed)

    def label_transition(self, num_classes: int) -> Transition:
        """Return the matrix, or see ``next_class``.

        Raises:
            ValueError: the matrix is of another number of classes.
        """
        if self.matrix is None:
            assert self.probability is not None
            return next_class(num_classes, self.probability)
        if len(self.matrix) != num_classes:
            raise ValueError(
                f"data.corruption.matrix has {len(self.matrix)} rows: the source has {num_classes} classes, "
                f"so {num_classes} rows of {num_classes} probabilities are needed."
            )
        return self.matrix


class GivenLabels(CorruptedImages):
    """``given_labels`` of the training examples that a file lists. Test labels stay true.

    Args:
        labels: such a file, see ``rethinkgen.data.example_list``: CIFAR-N's, for example, or those of other annotators.
    """

    noise_probability = None

    def __init__(self, source: Source, *, labels: str, **data: Any) -> None:
        super().__init__(source, **data)
        self.given = example_list.read_labels("data.corruption.labels", labels)
        if num_dropped := self.given.count(example_list.DROP):
            raise ValueError(
                f"{self.given.where}: {num_dropped} rows say drop, and here nothing but labels is taken from the file. "
                f"Give these rows to data.exclude in a file of their own."
            )

    def corrupt_labels(self, labels: IntLabels, keys: Keys, num_classes: int) -> Labels:
        """See ``given_labels``."""
        return given_labels(labels, *self.given.relabelled(self.as_listed(len(labels), self.class_names)))


class _CorruptedPixels(CorruptedImages):
    """All images, those of the test split included, with their own keys."""

    noise_probability: float | None = 1.0

    def drawn_pixels(self, split: SplitName, keys: Keys) -> NDArray[np.bool_]:
        """Every one."""
        return np.ones(len(keys), dtype=bool)


class ShuffledPixels(_CorruptedPixels):
    """``shuffled_pixels`` of all images, by the same permutation in the test split (stated by the paper)."""

    def corrupt_pixels(self, images: Tensor, pattern: Pattern) -> Tensor:
        """See ``shuffled_pixels``."""
        return shuffled_pixels(images, self._permutation.to(images.device))

    @cached_property
    def _permutation(self) -> Tensor:
        _, height, width = self.image_shape
        return torch.from_numpy(generator("shuffled_pixels", self.seed, "", 0).permutation(height * width))


class RandomPixels(_CorruptedPixels):
    """``random_pixels`` of all images, those of the test split included (of which the paper says nothing)."""

    def pixel_pattern(self, split: SplitName, keys: Keys) -> Pattern:
        """Draw the permutations."""
        _, height, width = self.image_shape
        return (torch.from_numpy(permutations("pixels", self.seed, stream(split), keys, height * width)),)

    def corrupt_pixels(self, images: Tensor, pattern: Pattern) -> Tensor:
        """See ``random_pixels``."""
        (orders,) = pattern
        return random_pixels(images, orders)


class Gaussian(_CorruptedPixels):
    """``gaussian`` in place of all images, test split included (of which the paper says nothing)."""

    def pixel_pattern(self, split: SplitName, keys: Keys) -> Pattern:
        """Draw the noise."""
        return (torch.from_numpy(normals("noise", self.seed, stream(split), keys, self.image_shape)),)

    def corrupt_pixels(self, images: Tensor, pattern: Pattern) -> Tensor:
        """See ``gaussian``."""
        (noise,) = pattern
        return gaussian(noise, self.statistics)


class UniqueLabelsGaussian(UniqueLabels, Gaussian):
    """``gaussian`` in place of all images, each training example a class of its own: Arpit et al. 2017, Figure 3b."""


class GaussianBlend(Gaussian):
    """``gaussian_blend`` of all images, test split included. ``noise/probability`` is the strength."""

    def __init__(self, source: Source, *, strength: float, **data: Any) -> None:
        super().__init__(source, **data)
        self.noise_probability = self.strength = check_probability("data.corruption.strength", strength)

    def corrupt_pixels(self, images: Tensor, pattern: Pattern) -> Tensor:
        """See ``gaussian_blend``."""
        (noise,) = pattern
        return gaussian_blend(images, noise, self.statistics, self.strength)


class NoisyInputs(CorruptedImages):
    """``noisy_inputs``: noise in place of each training image with probability ``fraction``.

    Test and validation images stay clean, as in Arpit et al. 2017.
    """

    def __init__(self, source: Source, *, fraction: float, **data: Any) -> None:
        super().__init__(source, **data)
        self.noise_probability = self.fraction = check_probability("data.corruption.fraction", fraction)

    def drawn_pixels(self, split: SplitName, keys: Keys) -> NDArray[np.bool_]:
        """Tell which images become noise."""
        if split != "train":
            return np.zeros(len(keys), dtype=bool)
        return uniforms("noisy_inputs", self.seed, "train", keys, 1)[:, 0] < self.fraction

    def pixel_pattern(self, split: SplitName, keys: Keys) -> Pattern:
        """Draw which images become noise, and the noise of those."""
        is_noise = self.drawn_pixels(split, keys)
        noise = np.zeros((len(keys), *self.image_shape), dtype=np.float32)
        noise[is_noise] = normals("noise", self.seed, stream(split), keys[is_noise], self.image_shape)
        return torch.from_numpy(is_noise), torch.from_numpy(noise)

    def corrupt_pixels(self, images: Tensor, pattern: Pattern) -> Tensor:
        """See ``noisy_inputs``."""
        is_noise, noise = pattern
        return noisy_inputs(images, is_noise, noise, self.statistics)


def stream(split: SplitName) -> str:
    """Name the split of the source that the keys are of: validation is a part of its training examples."""
    return "test" if split == "test" else "train"


def read_matrix(key: str, path: str) -> Transition:
    """Read a matrix from a ``.csv`` without a header, or a ``.npy`` file.

    Raises:
        ValueError: it cannot be read as one; the message names ``key``.
    """
    file = Path(path).expanduser()
    try:
        read: Any = np.load(file, allow_pickle=False) if file.suffix == ".npy" else np.loadtxt(file, delimiter=",")
        return np.atleast_2d(np.asarray(read, dtype=np.float64))
    except (OSError, ValueError, EOFError) as error:
        raise ValueError(f"{key}={path}: a .csv or .npy file of numbers is needed ({error}).") from error


def check_transition(key: str, matrix: Sequence[Sequence[float]] | Transition) -> Transition:
    """Return ``matrix`` as an array if it is square and each row is a distribution.

    Raises:
        ValueError: it is not; the message names ``key`` and the row.
    """
    try:
        rows = [[check_probability(f"{key}[{k}][{j}]", p) for j, p in enumerate(row)] for k, row in enumerate(matrix)]
    except TypeError:
        rows = []
    if not rows or any(len(row) != len(rows) for row in rows):
        raise ValueError(f"{key}={matrix!r}: as many rows as columns are needed, each a list of probabilities.")
    for k, row in enumerate(rows):
        if abs(sum(row) - 1) > 1e-6:
            raise ValueError(f"{key}[{k}]={row} sums to {sum(row):g}: probabilities that sum to 1 are needed.")
    return np.array(rows)
