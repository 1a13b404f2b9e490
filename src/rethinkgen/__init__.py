"""Train networks on corrupted data; measure what they memorise and what they learn.

    import rethinkgen
    run = rethinkgen.run_config(rethinkgen.compose("data.corruption=random_labels", "model=mlp_1x512"))
    runs = rethinkgen.open_sweep("multirun/runs")
    network = rethinkgen.open_run(runs["folder"].iloc[0]).network()

``dir(rethinkgen)`` lists what there is: networks, corruptions, sources, and these functions. Nothing is imported before
it is asked for: ``train.py --help`` and the skipping of a finished run never import torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # what type checkers and editors see
    from rethinkgen.data.any_images import AnyImages as AnyImages
    from rethinkgen.data.corruption import AsymmetricLabels as AsymmetricLabels
    from rethinkgen.data.corruption import ClassGroups as ClassGroups
    from rethinkgen.data.corruption import Gaussian as Gaussian
    from rethinkgen.data.corruption import GaussianBlend as GaussianBlend
    from rethinkgen.data.corruption import GivenLabels as GivenLabels
    from rethinkgen.data.corruption import NoisyInputs as NoisyInputs
    from rethinkgen.data.corruption import PartialLabels as PartialLabels
    from rethinkgen.data.corruption import RandomLabels as RandomLabels
    from rethinkgen.data.corruption import RandomPixels as RandomPixels
    from rethinkgen.data.corruption import RandomSigns as RandomSigns
    from rethinkgen.data.corruption import ShuffledPixels as ShuffledPixels
    from rethinkgen.data.corruption import SymmetricLabels as SymmetricLabels
    from rethinkgen.data.corruption import TrueLabels as TrueLabels
    from rethinkgen.data.corruption import UniqueLabels as UniqueLabels
    from rethinkgen.data.corruption import UniqueLabelsGaussian as UniqueLabelsGaussian
    from rethinkgen.data.module import CorruptedImages as CorruptedImages
    from rethinkgen.data.module import Labels as Labels
    from rethinkgen.data.source import CIFAR10 as CIFAR10
    from rethinkgen.data.source import CIFAR100 as CIFAR100
    from rethinkgen.data.source import MNIST as MNIST
    from rethinkgen.data.source import SVHN as SVHN
    from rethinkgen.data.source import Digits as Digits
    from rethinkgen.data.source import Examples as Examples
    from rethinkgen.data.source import FashionMNIST as FashionMNIST
    from rethinkgen.data.source import ImageFolder as ImageFolder
    from rethinkgen.data.source import Images as Images
    from rethinkgen.data.streamed_source import StreamedFolder as StreamedFolder
    from rethinkgen.measure.subject import Findings as Findings
    from rethinkgen.measure.subject import Subject as Subject
    from rethinkgen.measure.subject import asks as asks
    from rethinkgen.model.alexnet import AlexNet as AlexNet
    from rethinkgen.model.closed_form.closed_form import ClosedForm as ClosedForm
    from rethinkgen.model.closed_form.kernel import KernelGaussian as KernelGaussian
    from rethinkgen.model.closed_form.kernel import KernelLinear as KernelLinear
    from rethinkgen.model.closed_form.random_features import RandomFeatures as RandomFeatures
    from rethinkgen.model.closed_form.two_layer_relu import TwoLayerReLU as TwoLayerReLU
    from rethinkgen.model.inception import Inception as Inception
    from rethinkgen.model.mlp import MLP as MLP
    from rethinkgen.model.resnet import CifarResNet as CifarResNet
    from rethinkgen.model.resnet import WideResNet as WideResNet
    from rethinkgen.model.small_cnn import ArpitCNN as ArpitCNN
    from rethinkgen.model.small_cnn import ConvNet as ConvNet
    from rethinkgen.model.torchvision_networks import ImageNetResNet as ImageNetResNet
    from rethinkgen.model.torchvision_networks import ImageNetVGG as ImageNetVGG
    from rethinkgen.model.torchvision_networks import InceptionV3 as InceptionV3
    from rethinkgen.model.torchvision_networks import ResNet50 as ResNet50
    from rethinkgen.model.vgg import CifarVGG as CifarVGG
    from rethinkgen.run.composed import compose as compose
    from rethinkgen.run.composed import run_config as run_config
    from rethinkgen.run.frame import mean_over_seeds as mean_over_seeds
    from rethinkgen.run.frame import open_sweep as open_sweep
    from rethinkgen.run.frame import read_runs as read_runs
    from rethinkgen.run.opened import open_run as open_run
    from rethinkgen.train.classifier import Classifier as Classifier

    __version__: str

_WHERE = {
    "data.any_images": "AnyImages",
    "data.corruption": "AsymmetricLabels ClassGroups Gaussian GaussianBlend GivenLabels NoisyInputs PartialLabels "
    "RandomLabels RandomPixels RandomSigns ShuffledPixels SymmetricLabels TrueLabels UniqueLabels UniqueLabelsGaussian",
    "data.module": "CorruptedImages Labels",
    "data.source": "CIFAR10 CIFAR100 MNIST SVHN Digits Examples FashionMNIST ImageFolder Images",
    "data.streamed_source": "StreamedFolder",
    "measure.subject": "Findings Subject asks",
    "model.alexnet": "AlexNet",
    "model.closed_form.closed_form": "ClosedForm",
    "model.closed_form.kernel": "KernelGaussian KernelLinear",
    "model.closed_form.random_features": "RandomFeatures",
    "model.closed_form.two_layer_relu": "TwoLayerReLU",
    "model.inception": "Inception",
    "model.mlp": "MLP",
    "model.resnet": "CifarResNet WideResNet",
    "model.small_cnn": "ArpitCNN ConvNet",
    "model.torchvision_networks": "ImageNetResNet ImageNetVGG InceptionV3 ResNet50",
    "model.vgg": "CifarVGG",
    "run.composed": "compose run_config",
    "run.frame": "mean_over_seeds open_sweep read_runs",
    "run.opened": "open_run",
    "train.classifier": "Classifier",
}
"""Module of ours -> the names that it gives this one: the same as above."""
_MODULE_OF = {name: f"{__name__}.{module}" for module, names in _WHERE.items() for name in names.split()}
__all__ = sorted([*_MODULE_OF, "__version__"])


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        found: Any = version(__name__)
    elif name in _MODULE_OF:
        found = getattr(importlib.import_module(_MODULE_OF[name]), name)
    else:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}. It has {', '.join(__all__)}.")
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    return list(__all__)
