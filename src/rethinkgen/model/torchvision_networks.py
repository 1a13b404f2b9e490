"""ImageNet's networks from torchvision, untrained or from weights in a file: Inception V3, ResNets and VGGs."""

from __future__ import annotations

import pickle
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn
from torchvision import models

from rethinkgen.checks import RESNET_DEPTHS, VGG_DEPTHS, check_is_one_number_of, check_text
from rethinkgen.console import first_line
from rethinkgen.train.checkpoint import load_checkpoint
from rethinkgen.train.classifier import Classifier, check_image_size

WRAPPERS = ("network.", "module.")
"""What names of weights begin with when a network is a part of something: of one of our runs, of DataParallel."""


class TorchvisionNetwork(Classifier):
    """One of torchvision's networks, for images of three channels, or grey ones.

    ``weights`` names a file that training begins with: a ``state_dict`` of torchvision's own network, as the files
    that torchvision publishes are, of one that was trained by its scripts, or ``weights/end.pt`` of a run of ours
    without dropout. It is read as tensors alone, and counts by its content. Published ones expect the pixels that they
    were trained on: ``data.preprocessing=signed`` for Inception V3, ``normalization`` for the others, whose statistics
    are here those of the training set.
    """

    not_used: tuple[str, ...] = ()
    """Beginnings of names of a published file's weights that the network has no place for."""

    def __init__(self, *, weights: str | None = None, channels_last: bool = True, **keywords: Any) -> None:
        self.weights = None if weights is None else check_text("model.weights", weights, or_else="null")
        super().__init__(channels_last=channels_last, **keywords)

    def build(self, image_shape: tuple[int, int, int], num_classes: int) -> nn.Module:
        """Build the network, and load its weights where a file of them is named."""
        self.check_images(image_shape)
        network = self.untrained(num_classes)
        if self.weights is not None:
            load_weights(network, self.weights, self.not_used)
        return _ThreeChannels(self.with_dropout(network))

    def check_images(self, image_shape: tuple[int, int, int]) -> None:
        """Raise a ``ValueError`` where images ``(C, H, W)`` are too small."""

    @abstractmethod
    def untrained(self, num_classes: int) -> nn.Module:
        """Build torchvision's network with initial weights."""

    def with_dropout(self, network: nn.Module) -> nn.Module:
        """Return the network with dropout, where asked for, if ``untrained`` has not put it there."""
        return network


class InceptionV3(TorchvisionNetwork):
    """torchvision's Inception V3, 23,834,568 parameters for 1000 classes; images of at least 75x75.

    Without the auxiliary classifier (3,326,696 parameters more): it would add a loss of its own to the one that is
    measured, and whether the paper's runs had it is not known; TensorFlow's package trains it with weight 0.4 (as we
    remember it, unverified). Weights are drawn as torchvision does after TensorFlow: normal of std 0.1, cut off at 2.
    Dropout, where asked for, comes before the last layer.
    """

    not_used = ("AuxLogits.",)

    def check_images(self, image_shape: tuple[int, int, int]) -> None:
        """Raise a ``ValueError`` for images below 75x75."""
        check_image_size("inception_v3", image_shape, least=75)

    def untrained(self, num_classes: int) -> nn.Module:
        """Build it."""
        network: nn.Module = models.inception_v3(
            num_classes=num_classes, aux_logits=False, init_weights=True, dropout=self.dropout, transform_input=False
        )
        return network


class _ResidualNetwork(TorchvisionNetwork):
    """torchvision's residual networks."""

    depth: int

    def untrained(self, num_classes: int) -> nn.Module:
        """Build it."""
        network: nn.Module = models.get_model(f"resnet{self.depth}", weights=None, num_classes=num_classes)
        return network

    def with_dropout(self, network: nn.Module) -> nn.Module:
        """Put dropout before the last layer."""
        if self.dropout:
            network.fc = nn.Sequential(*self.dropout_layers(), network.get_submodule("fc"))
        return network


class ImageNetResNet(_ResidualNetwork):
    """torchvision's ResNets (He et al. 2016).

    The stride of a halving block is in its 3x3 convolution, as in torchvision. Weights are drawn as torchvision does:
    He's normal by the fan-out. Dropout, where asked for, comes before the last layer.
    """

    def __init__(self, *, depth: int = 18, **keywords: Any) -> None:
        self.depth = check_is_one_number_of("model.depth", depth, RESNET_DEPTHS)
        super().__init__(**keywords)


class ResNet50(_ResidualNetwork):
    """The ``ImageNetResNet`` of depth 50, under its former name: 25,557,032 parameters for 1000 classes."""

    depth = 50


class ImageNetVGG(TorchvisionNetwork):
    """torchvision's VGGs without BatchNorm (Simonyan and Zisserman 2015, Table 1, A, B, D and E); images from 32x32 on.

    The last convolutions are pooled to 7x7, as in torchvision: they are that for 224x224 pixels. Weights are drawn as
    torchvision does: He's normal by the fan-out, dense layers normal of std 0.01. Dropout, where asked for, follows the
    two hidden dense ReLUs.
    """

    def __init__(self, *, depth: int = 11, **keywords: Any) -> None:
        self.depth = check_is_one_number_of("model.depth", depth, VGG_DEPTHS)
        super().__init__(**keywords)

    def check_images(self, image_shape: tuple[int, int, int]) -> None:
        """Raise a ``ValueError`` for images below 32x32."""
        check_image_size(f"vgg{self.depth}", image_shape, least=32)

    def untrained(self, num_classes: int) -> nn.Module:
        """Build it."""
        network: nn.Module = models.get_model(
            f"vgg{self.depth}", weights=None, num_classes=num_classes, dropout=self.dropout
        )
        return network


def load_weights(network: nn.Module, path: str, not_used: tuple[str, ...] = ()) -> None:
    """Put the weights of a file into a network; those whose names begin with one of ``not_used`` are left out.

    BatchNorm's counters of batches may be absent, as in files of older versions of torch: nothing here depends on them.

    Raises:
        ValueError: the file holds no weights, or others than those of this network; the message names one.
    """
    given = {name: value for name, value in _read(path).items() if not name.startswith(not_used)}
    wanted: dict[str, Tensor] = dict(network.state_dict())
    counters = {name for name in wanted if name.endswith(".num_batches_tracked")}
    wrong = [f"{name} is not in the file" for name in wanted if name not in given and name not in counters]
    wrong += [f"{name} of the file is none of the network's" for name in given if name not in wanted]
    wrong += [
        f"{name} is {tuple(given[name].shape)} in the file and {tuple(value.shape)} here"
        for name, value in wanted.items()
        if name in given and given[name].shape != value.shape
    ]
    if wrong:
        more = f", and {len(wrong) - 1} more like it" if len(wrong) > 1 else ""
        raise ValueError(
            f"model.weights={path}: it does not fit this network: {wrong[0]}{more}. The weights of the same "
            "architecture for the same number of classes are needed."
        )
    network.load_state_dict(given, strict=not counters)


def _read(path: str) -> Mapping[str, Tensor]:
    """Return the tensors of a file by their names in torchvision's network."""
    try:
        found: Any = load_checkpoint(Path(path).expanduser())
    except (RuntimeError, pickle.UnpicklingError, OSError, EOFError, AttributeError, KeyError, ValueError) as error:
        raise ValueError(
            f"model.weights={path}: no weights can be read from it ({first_line(str(error))}). A state_dict is needed, "
            "as torch.save(network.state_dict(), ...) writes it."
        ) from error
    for wrapper in ("state_dict", "model"):
        if isinstance(found, Mapping) and isinstance(found.get(wrapper), Mapping):
            found = found[wrapper]
    if not isinstance(found, Mapping) or not found or not all(isinstance(value, Tensor) for value in found.values()):
        raise ValueError(f"model.weights={path}: it holds something else than tensors by their names, a state_dict.")
    while begin := next((each for each in WRAPPERS if all(str(name).startswith(each) for name in found)), ""):
        found = {name.removeprefix(begin): value for name, value in found.items()}
    return dict(found)


class _ThreeChannels(nn.Module):
    """Shows a grey image to all three channels of a network."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, images: Tensor) -> Tensor:
        """Return the logits of images ``(N, 1 or 3, H, W)``."""
        logits: Tensor = self.network(images.expand(-1, 3, -1, -1))
        return logits
