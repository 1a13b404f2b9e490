"""Which examples have another class of the network's close by: the critical sample ratio."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from rethinkgen.checks import check_between, check_positive, check_whole
from rethinkgen.measure.examples import images_at, positions
from rethinkgen.measure.outputs import bytes_of_pass, differentiable, num_at_once, summed_loss
from rethinkgen.measure.predict import slices
from rethinkgen.measure.subject import Findings, Number

if TYPE_CHECKING:
    from rethinkgen.data.module import SplitName
    from rethinkgen.measure.subject import Subject

LEVELS = 255
"""The search is stated in units of a pixel's 256 levels."""
BLOCK = 100
"""Examples whose noise is drawn together: always as many, so that it does not depend on what may be held."""


def critical_samples(
    subject: Subject,
    *,
    radius: float = 0.3,
    step_size: float = 0.25,
    noise: float = 0.2,
    num_iterations: int = 20,
    num_examples: int | None = 1000,
    splits: Sequence[SplitName] | None = None,
) -> Findings:
    """Return the critical sample ratio, by Langevin adversarial sample search (Arpit et al. 2017, arXiv 1706.05394).

    An example is critical if within ``radius`` of it, in every pixel, there is an image to which the network gives
    another class than to the example itself; true and given labels play no part. The search begins at the example, and
    ``num_iterations`` times goes up the cross-entropy of the class given to the example, by ``step_size`` times the
    gradient's sign and ``noise`` times a standard normal draw, and back into the box. What it does not find may be
    there all the same: the ratio is a lower bound, and rises with the iterations (table ``iterations``).

    The three are in units of a pixel's 256 levels, whatever the preprocessing. They are the paper's ``r``, ``alpha``
    and ``beta``; their scale, and the ascent, are those of the code (``lass_tf.py`` in
    github.com/xingjunm/dimensionality-driven-learning, which names an author of the paper as its source). Unlike
    there, the number of iterations is fixed, as a stop at fewer than 20 new critical examples depends on how many are
    looked at. Pixels may leave their range.

    Of each of ``splits`` (``None``: all) ``num_examples`` are looked at. Numbers: ``<split>/ratio``; where some are
    wrongly labelled, ``<split>/ratio_clean`` and ``<split>/ratio_corrupted``. Tables: ``examples`` with ``split, index,
    is_critical, iteration`` (the first at which it was found; 0: not found), ``iterations`` with ``split, iteration,
    ratio``.

    Raises:
        ValueError: there is no memory for one example.
    """
    check_positive("radius", radius)
    check_positive("step_size", step_size)
    check_between("noise", noise, 0, LEVELS)
    check_whole("num_iterations", num_iterations, 1)
    search = _Search(subject, radius / LEVELS, step_size / LEVELS, noise / LEVELS, num_iterations)
    numbers: dict[str, Number] = {}
    names: list[str] = []
    index, found_at = [], []
    ratios: list[tuple[str, int, float]] = []
    for name in subject.splits if splits is None else splits:
        split = subject.split(name)
        chosen = positions(split, num_examples)
        pixels = images_at(subject.pixels(name), chosen, subject.memory_mb)
        parts = slices(len(pixels), BLOCK)
        first = torch.cat([search(pixels[part], f"{name} {part.start}") for part in parts]).cpu()
        wrong = split.is_corrupted[chosen].cpu()
        numbers[f"{name}/ratio"] = _share(first > 0)
        if bool(wrong.any()) and not bool(wrong.all()):
            numbers[f"{name}/ratio_clean"] = _share(first[~wrong] > 0)
            numbers[f"{name}/ratio_corrupted"] = _share(first[wrong] > 0)
        names += [name] * len(first)
        index.append(split.index[chosen].cpu())
        found_at.append(first)
        ratios += [(name, t, _share((first > 0) & (first <= t))) for t in range(1, num_iterations + 1)]
    iterations = torch.cat(found_at)
    return Findings(
        numbers,
        {
            "examples": {
                "split": names,
                "index": torch.cat(index),
                "is_critical": iterations > 0,
                "iteration": iterations,
            },
            "iterations": {key: [row[i] for row in ratios] for i, key in enumerate(("split", "iteration", "ratio"))},
        },
    )


class _Search:
    """Langevin adversarial sample search in pixels ``(n, C, H, W)``; ``radius``, ``step_size``, ``noise`` in theirs."""

    def __init__(self, subject: Subject, radius: float, step_size: float, noise: float, num_iterations: int) -> None:
        self.subject = subject
        self.radius, self.step_size, self.noise, self.num_iterations = radius, step_size, noise, num_iterations
        self._bytes: int | None = None

    def __call__(self, pixels: Tensor, purpose: str) -> Tensor:
        """Return the iteration ``(n,)`` int64 at which each example was first found critical; 0: it was not."""
        # Drawn of all examples at each iteration, so that none depends on what has been found of others.
        draws = self.subject.generator(purpose)
        noises = (torch.randn(pixels.shape, generator=draws, device=pixels.device) for _ in range(self.num_iterations))
        found = torch.zeros(len(pixels), dtype=torch.int64, device=pixels.device)
        classes, gradients = self._look(pixels, None)
        now = pixels
        for t, drawn in enumerate(noises, 1):
            now = langevin_step(now, pixels, gradients, drawn, self.step_size, self.noise, self.radius)
            left = (found == 0).nonzero()[:, 0]
            if not len(left):
                break
            # One pass tells both what the step before has reached, and where the next goes.
            given, gradients[left] = self._look(now[left], classes[left])
            found[left[given != classes[left]]] = t
        return found

    def _look(self, pixels: Tensor, classes: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the class given to each image, and the gradient of the loss at ``classes`` (``None``: that class)."""
        network, from_pixels = self.subject.network, self.subject.from_pixels
        if self._bytes is None:
            self._bytes = bytes_of_pass(network, from_pixels(pixels[:1]))
        given: list[Tensor] = []
        gradients: list[Tensor] = []
        with differentiable(network, pixels.device):
            for part in slices(len(pixels), num_at_once(self._bytes, self.subject.memory_mb)):
                images = pixels[part].detach().requires_grad_(True)
                logits = network(from_pixels(images)).float()
                given.append(logits.detach().argmax(1))
                labels = given[-1] if classes is None else classes[part]
                gradients += torch.autograd.grad(summed_loss(logits, labels), images)
        return torch.cat(given), torch.cat(gradients)


def langevin_step(
    now: Tensor, start: Tensor, gradients: Tensor, drawn: Tensor, step_size: float, noise: float, radius: float
) -> Tensor:
    """Return where the search goes from ``now``: up the gradient's sign, at random, and back into the box."""
    return (now + (step_size * gradients.sign() + noise * drawn)).clamp(start - radius, start + radius)


def _share(values: Tensor) -> float:
    return float(values.double().mean())
