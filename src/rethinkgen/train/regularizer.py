"""Regularizers that are a piece of code: objects called with ``(network, logits, labels)``, which return a penalty.

Or with ``(batch, network)``, and return the batch that is trained on instead (``rethinkgen.train.classifier``). Each is
one class here and one YAML in ``conf/regularizer/``, and needs no other place.

Those that draw do so by torch's own generator, as dropout does: its state is in every checkpoint, so that a run that
goes on draws what it would have drawn, and each rank draws for its own share of a batch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from rethinkgen.checks import check_between, check_positive, check_probability, check_whole
from rethinkgen.data.batches import Batch
from rethinkgen.measure.critical_samples import LEVELS, langevin_step
from rethinkgen.measure.outputs import differentiable, summed_loss
from rethinkgen.measure.predict import batch_norms
from rethinkgen.train.loss import CrossEntropy


class ConfidencePenalty:
    """Reward predictions of high entropy: Pereyra et al. 2017, "Regularizing neural networks by penalizing confident
    output distributions".

    Added to the mean loss is ``-strength`` times the mean over examples of ``H(p) = -sum_k p_k ln p_k`` in nats.
    """

    def __init__(self, strength: float) -> None:
        self.strength = check_positive("regularizer.confidence_penalty.strength", strength)

    def __call__(self, network: nn.Module, logits: Tensor, labels: Tensor) -> Tensor:
        """Return the penalty of logits ``(n, K)``."""
        told = logits.float().log_softmax(1)
        return self.strength * (told.exp() * told).sum(1).mean()


class InputDropout:
    """Set each value of a training image to zero with probability ``rate``, and divide the others by ``1 - rate``.

    One of the regularizers of Arpit et al. 2017 (arXiv 1706.05394, Section 5), with rates of 0 to 0.9. It acts on what
    the network sees, after the preprocessing: a zero is the mean of a whitened image, and black of one in ``[0, 1]``.
    """

    def __init__(self, rate: float) -> None:
        self.rate = check_between("regularizer.input_dropout.rate", rate, 0, 1, below=True)

    def __call__(self, batch: Batch, network: nn.Module) -> Batch:
        """Return the batch with other images."""
        return batch._replace(images=F.dropout(batch.images, self.rate)) if self.rate else batch


class InputNoise:
    """Add Gaussian noise of standard deviation ``std`` to each value of a training image.

    One of the regularizers of Arpit et al. 2017 (arXiv 1706.05394, Section 5), with deviations of 0 to 5. The paper
    states no unit: here it is that of what the network sees, after the preprocessing. A whitened image has deviation 1.
    """

    def __init__(self, std: float) -> None:
        self.std = check_between("regularizer.input_noise.std", std, 0, math.inf, below=True)

    def __call__(self, batch: Batch, network: nn.Module) -> Batch:
        """Return the batch with other images."""
        return batch._replace(images=_noisy(batch.images, self.std)) if self.std else batch


class HiddenDropout:
    """Set each output of each ReLU to zero with probability ``rate`` in training; divide the others by ``1 - rate``.

    Unlike ``dropout``, which stands where an architecture has a place for it (behind dense layers), it follows every
    ReLU of any network, those of convolutions too. Where it stood in Arpit et al. 2017 the paper does not say.
    """

    def __init__(self, rate: float) -> None:
        self.rate = check_between("regularizer.hidden_dropout.rate", rate, 0, 1, below=True)

    def check_fits(self, network: nn.Module, datamodule: Any) -> None:
        """Raise a ``ValueError`` where the network has no ReLU."""
        _relus(network, "hidden_dropout")

    def begin(self, network: nn.Module) -> Sequence[RemovableHandle]:
        """Have each ReLU's output changed in training."""
        return _after_each(_relus(network, "hidden_dropout"), lambda units: F.dropout(units, self.rate), self.rate)

    def __call__(self, network: nn.Module, logits: Tensor, labels: Tensor) -> Tensor:
        """Return zero: it acts on the units."""
        return logits.new_zeros(())


class HiddenNoise:
    """Add Gaussian noise of standard deviation ``std`` to each output of each ReLU in training.

    One of the regularizers of Arpit et al. 2017 (arXiv 1706.05394, Section 5), with deviations of 0 to 0.3. Where it
    stood the paper does not say: here behind every ReLU, those of convolutions too.
    """

    def __init__(self, std: float) -> None:
        self.std = check_between("regularizer.hidden_noise.std", std, 0, math.inf, below=True)

    def check_fits(self, network: nn.Module, datamodule: Any) -> None:
        """Raise a ``ValueError`` where the network has no ReLU."""
        _relus(network, "hidden_noise")

    def begin(self, network: nn.Module) -> Sequence[RemovableHandle]:
        """Have each ReLU's output changed in training."""
        return _after_each(_relus(network, "hidden_noise"), lambda units: _noisy(units, self.std), self.std)

    def __call__(self, network: nn.Module, logits: Tensor, labels: Tensor) -> Tensor:
        """Return zero: it acts on the units."""
        return logits.new_zeros(())


class Adversarial:
    """Train on adversarial images beside the training images: ``(1 - weight) CE(x) + weight CE(x')``, a mean each.

    One of the regularizers of Arpit et al. 2017 (arXiv 1706.05394, Section 5), there together with dropout and with
    weights of 0.2 to 0.7. ``x'`` comes from the search that ``rethinkgen.measure.critical_samples`` makes (LASS), at
    the network as it is, in evaluation mode: the first image found to which it gives another class than to ``x``;
    where none is found, the last one looked at. ``x'`` keeps the label of ``x``. It goes through the network as ``x``
    does, with dropout and with BatchNorm by its own batch, of whose running statistics it is no part.

    The form of the loss, the number of iterations (the paper's code has 100 at most) and what is done with examples
    of which none is found are ours: the paper states none of them. ``radius``, ``step_size`` and ``noise`` are its
    ``r``, ``alpha`` and ``beta``, in 256ths of the range of what the network sees of the training images, as in its
    code (``lass_tf.py``, github.com/xingjunm/dimensionality-driven-learning). For ``normalization`` and ``whitening``,
    which scale channels or images each by their own, this is not a pixel's level but near it.
    """

    def __init__(
        self,
        weight: float,
        radius: float = 0.3,
        step_size: float = 0.25,
        noise: float = 0.2,
        num_iterations: int = 5,
    ) -> None:
        key = "regularizer.adversarial"
        self.weight = check_probability(f"{key}.weight", weight)
        self.radius = check_positive(f"{key}.radius", radius)
        self.step_size = check_positive(f"{key}.step_size", step_size)
        self.noise = check_between(f"{key}.noise", noise, 0, LEVELS)
        self.num_iterations = check_whole(f"{key}.num_iterations", num_iterations, 1)
        self._images: Tensor | None = None
        self._level = 0.0

    def check_fits(self, network: nn.Module, datamodule: Any) -> None:
        """Raise a ``ValueError`` where the images are streamed or mixed, or the loss is no cross-entropy."""
        key = f"regularizer.adversarial.weight={self.weight:g}"
        if not isinstance(datamodule.splits["train"].inputs, Tensor):
            raise ValueError(f"{key}: the range of streamed images is not known. Train on images in memory.")
        if datamodule.mixup:
            raise ValueError(f"{key}: a mixed image has two labels. Train without regularizer.mixup.")
        loss: Any = network.loss
        if type(loss) is not CrossEntropy:
            raise ValueError(f"{key} loss={type(loss).__name__}: here loss=cross_entropy is needed.")

    def begin(self, network: nn.Module) -> Sequence[RemovableHandle]:
        """Have the images of each pass in training noted, and find the range of all."""
        if not self.weight:
            return []
        model: Any = network
        inputs = model.trainer.datamodule.splits["train"].inputs
        self._level = float(inputs.max() - inputs.min()) / LEVELS

        def note(inside: nn.Module, given: tuple[Tensor, ...]) -> None:
            if inside.training:
                self._images = given[0].detach()

        return [model.network.register_forward_pre_hook(note)]

    def __call__(self, network: nn.Module, logits: Tensor, labels: Tensor) -> Tensor:
        """Return ``weight`` times the mean loss of the adversarial images less that of the images."""
        if not self.weight:
            return logits.new_zeros(())
        assert self._images is not None
        found = self.search(network, self._images)
        with _statistics_kept(network):
            others = network(found)
        self._images = None
        loss: Any = network.loss
        more: Tensor = loss(others, labels, labels).mean() - loss(logits, labels, labels).mean()
        return self.weight * more

    def search(self, network: nn.Module, images: Tensor) -> Tensor:
        """Return for images ``(n, C, H, W)`` those that are trained on beside them."""
        step_size, noise, radius = (self._level * each for each in (self.step_size, self.noise, self.radius))
        found, is_found = images.clone(), torch.zeros(len(images), dtype=torch.bool, device=images.device)
        with differentiable(network, images.device):
            classes, gradients = _look(network, images, None)
            now = images
            for _ in range(self.num_iterations):
                now = langevin_step(now, images, gradients, torch.randn_like(images), step_size, noise, radius)
                given, gradients = _look(network, now, classes)
                found = torch.where(is_found[:, None, None, None], found, now)
                is_found = is_found | (given != classes)
        return found


def _look(network: nn.Module, images: Tensor, classes: Tensor | None) -> tuple[Tensor, Tensor]:
    """Return the class given to each image, and the gradient of the loss at ``classes`` (``None``: that class)."""
    images = images.detach().requires_grad_(True)
    logits = network(images).float()
    given = logits.detach().argmax(1)
    (gradients,) = torch.autograd.grad(summed_loss(logits, given if classes is None else classes), images)
    return given, gradients


def _noisy(values: Tensor, std: float) -> Tensor:
    return values + std * torch.randn_like(values)


def _relus(network: nn.Module, name: str) -> list[nn.ReLU]:
    """Return the network's ReLUs; ``name`` is the regularizer that acts on them."""
    units = [module for module in network.modules() if isinstance(module, nn.ReLU)]
    if not units:
        raise ValueError(
            f"regularizer=[{name}]: {type(network).__name__} has no torch.nn.ReLU, behind which it would act. Leave it "
            "out, or choose another model."
        )
    return units


def _after_each(
    units: Sequence[nn.Module], change: Callable[[Tensor], Tensor], strength: float
) -> list[RemovableHandle]:
    """Have ``change`` applied to what each of the units returns in training; not at all at strength 0."""

    def after(unit: nn.Module, _: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        return change(output) if unit.training else None

    return [unit.register_forward_hook(after) for unit in units] if strength else []


@contextmanager
def _statistics_kept(network: nn.Module) -> Iterator[None]:
    """Have BatchNorm go by the batch, and take no note of it."""
    norms = [norm for norm in batch_norms(network) if norm.track_running_stats]
    for norm in norms:
        norm.track_running_stats = False
    try:
        yield
    finally:
        for norm in norms:
            norm.track_running_stats = True
