"""torchvision's networks as classifiers."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torchvision.models import Inception_V3_Weights, ResNet50_Weights, get_model, get_model_weights

import rethinkgen
from conftest import Command
from rethinkgen.checks import RESNET_DEPTHS, VGG_DEPTHS
from rethinkgen.model.torchvision_networks import (
    ImageNetResNet,
    ImageNetVGG,
    InceptionV3,
    ResNet50,
    load_weights,
)
from rethinkgen.run import description, identity

AUXILIARY = 3_326_696
"""Parameters of Inception V3's auxiliary classifier, which ours lacks."""


def test_parameter_counts_are_the_published_ones() -> None:
    with torch.device("meta"):
        inception = InceptionV3(image_shape=(3, 299, 299), num_classes=1000)
        resnet = ResNet50(image_shape=(3, 224, 224), num_classes=1000)
    published = Inception_V3_Weights.IMAGENET1K_V1.meta["num_params"]
    assert inception.num_parameters == published - AUXILIARY == 23_834_568
    assert resnet.num_parameters == ResNet50_Weights.IMAGENET1K_V1.meta["num_params"] == 25_557_032


@pytest.mark.parametrize(("kind", "depths"), [(ImageNetResNet, RESNET_DEPTHS), (ImageNetVGG, VGG_DEPTHS)])
def test_parameter_counts_are_those_that_torchvision_publishes(
    kind: type[ImageNetResNet | ImageNetVGG], depths: tuple[int, ...]
) -> None:
    for depth in depths:
        with torch.device("meta"):
            model = kind(depth=depth, image_shape=(3, 224, 224), num_classes=1000)
        name = "resnet" if kind is ImageNetResNet else "vgg"
        weights: Any = get_model_weights(f"{name}{depth}").IMAGENET1K_V1  # type: ignore[attr-defined]
        assert model.num_parameters == weights.meta["num_params"]
        assert model(torch.zeros(2, 3, 32, 32, device="meta")).shape == (2, 1000)


def test_depths_that_torchvision_does_not_have_are_refused() -> None:
    with pytest.raises(ValueError, match=r"model\.depth=20: one of 18, 34, 50, 101, 152 is needed"):
        ImageNetResNet(depth=20)
    with pytest.raises(ValueError, match="vgg11 needs images of at least 32x32 pixels, these are 28x28"):
        ImageNetVGG(image_shape=(3, 28, 28), num_classes=2)


@pytest.mark.parametrize(("kind", "least"), [(InceptionV3, 75), (ResNet50, 8)])
@pytest.mark.parametrize("num_channels", [1, 3])
def test_training_and_evaluation_give_logits_of_colour_and_of_grey_images(
    kind: type[InceptionV3 | ResNet50], least: int, num_channels: int
) -> None:
    torch.manual_seed(0)
    model = kind(image_shape=(num_channels, least, least), num_classes=7)
    images = torch.randn(2, num_channels, least, least)
    for mode in (True, False):
        model.train(mode)
        with torch.no_grad():
            logits = model(images)
        assert logits.shape == (2, 7)
        assert logits.isfinite().all()
    if num_channels == 1:
        torch.testing.assert_close(model(images.expand(-1, 3, -1, -1)), model(images))


def test_images_below_75_pixels_are_refused() -> None:
    with pytest.raises(ValueError, match="inception_v3 needs images of at least 75x75 pixels, these are 74x80"):
        InceptionV3(image_shape=(3, 74, 80), num_classes=7)


@pytest.mark.parametrize("kind", [InceptionV3, ResNet50])
def test_dropout_comes_before_the_last_layer(kind: type[InceptionV3 | ResNet50]) -> None:
    with torch.device("meta"):
        plain, dropping = (kind(image_shape=(3, 75, 75), num_classes=7, dropout=rate) for rate in (0.0, 0.2))
    assert [module.p for module in dropping.modules() if isinstance(module, nn.Dropout)] == [0.2]
    assert not any(module.p for module in plain.modules() if isinstance(module, nn.Dropout))


# Weights from a file.

GREY = {"image_shape": (1, 8, 8), "num_classes": 10}


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The ``state_dict`` of torchvision's own ResNet-18 for 10 classes, in a file."""
    torch.manual_seed(7)
    network: nn.Module = get_model("resnet18", weights=None, num_classes=10)
    for name, buffer in network.named_buffers():
        if name.endswith("running_mean"):
            buffer.normal_()
    torch.save(network.state_dict(), path := tmp_path_factory.mktemp("weights") / "resnet18.pth")
    return path


def logits_of(weights: dict[str, Tensor], images: Tensor) -> Tensor:
    """Return what torchvision's own network says of grey images."""
    network = get_model("resnet18", weights=None, num_classes=10)
    network.load_state_dict(weights)
    logits: Tensor = network.eval()(images.expand(-1, 3, -1, -1))
    return logits


def wrapped(weights: dict[str, Tensor], how: str) -> dict[str, Any]:
    """Return weights as other programs write them."""
    return {
        "plain": weights,
        "DataParallel, in a checkpoint": {"epoch": 3, "state_dict": {f"module.{k}": v for k, v in weights.items()}},
        "torchvision's scripts": {"model": weights, "epoch": 3},
        "a run of ours": {f"network.network.{k}": v for k, v in weights.items()},
        "before BatchNorm counted": {k: v for k, v in weights.items() if "num_batches" not in k},
    }[how]


HOW = ("plain", "DataParallel, in a checkpoint", "torchvision's scripts", "a run of ours", "before BatchNorm counted")


@pytest.mark.parametrize("how", HOW)
def test_weights_of_a_file_are_those_of_torchvisions_own_network(published: Path, tmp_path: Path, how: str) -> None:
    weights = torch.load(published, weights_only=True)
    torch.save(wrapped(weights, how), tmp_path / "given.pth")
    images = torch.randn(3, 1, 8, 8)
    dropout = 0.3 if how == "plain" else 0.0
    model = ImageNetResNet(weights=str(tmp_path / "given.pth"), channels_last=False, dropout=dropout, **GREY).eval()
    assert torch.equal(model(images), logits_of(weights, images))


def test_the_auxiliary_classifier_of_a_published_file_is_left_out(tmp_path: Path) -> None:
    class Small(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(2, 3)

    given = {"fc.weight": torch.ones(3, 2), "fc.bias": torch.ones(3), "AuxLogits.fc.weight": torch.ones(1)}
    torch.save(given, tmp_path / "given.pth")
    load_weights(network := Small(), str(tmp_path / "given.pth"), InceptionV3.not_used)
    assert all(bool((parameter == 1).all()) for parameter in network.parameters())
    with pytest.raises(ValueError, match=r"AuxLogits.fc.weight of the file is none of the network's"):
        load_weights(network, str(tmp_path / "given.pth"))


def test_weights_that_cannot_be_used_are_refused_with_what_is_wrong(published: Path, tmp_path: Path) -> None:
    weights = torch.load(published, weights_only=True)

    def refusal(given: Any = None, **keywords: Any) -> str:
        path = tmp_path / "given.pth"
        if isinstance(given, bytes):
            path.write_bytes(given)
        elif given is not None:
            torch.save(given, path)
        with pytest.raises(ValueError, match=r"^model.weights=") as refused:
            ImageNetResNet(**({"weights": str(path)} | GREY | keywords))
        return str(refused.value)

    assert "fc.weight is (10, 512) in the file and (7, 512) here, and 1 more like it" in refusal(weights, num_classes=7)
    assert "layer1.2.conv1.weight is not in the file, and " in refusal(weights, depth=34)
    assert "conv1.bias of the file is none of the network's." in refusal(weights | {"conv1.bias": torch.ones(64)})
    assert "it holds something else than tensors" in refusal({"epoch": 3})
    assert "it holds something else than tensors" in refusal([torch.ones(2)])
    assert "no weights can be read from it" in refusal(b"PK not weights")
    assert "no weights can be read from it" in refusal({"fc.weight": Path("x")})  # would run code
    assert "no weights can be read from it" in refusal(weights=str(tmp_path / "absent.pth"))
    assert "a text, or null, is needed" in refusal(weights=3)


def test_a_run_begins_with_the_weights_of_a_file_which_counts_by_its_content(
    published: Path, train: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = torch.load(published, weights_only=True)
    (tmp_path / "start.pth").write_bytes(published.read_bytes())
    monkeypatch.chdir(tmp_path)
    of_a_run = ["model=resnet18", "trainer=cpu", "logger=none", "threads=1", "until_fit=false", "max_steps=1"]
    command = [*of_a_run, "data.num_train=10", "data.batch_size=10", "model.weights=start.pth"]
    folder = train(*command)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    run = rethinkgen.open_run(folder)
    images = run.splits["train"].inputs
    begun, fresh = run.network(0), run.fresh(0)
    torch.testing.assert_close(begun(images), logits_of(weights, images), rtol=1e-4, atol=1e-4)
    assert not torch.equal(fresh.state_dict()["network.network.conv1.weight"], weights["conv1.weight"])
    with pytest.raises(ValueError, match=r"model\.weights=start\.pth: networks of other initial weights"):
        run.trainings([(0, None)], 1.0)
    # The same in another file is the same run, and another file of that name is another run.
    monkeypatch.chdir(tmp_path)
    told = run.config
    before = identity.run_id(told, None, identity.contents_of_files(told))
    (tmp_path / "start.pth").rename(tmp_path / "moved.pth")
    moved = told | {"model": told["model"] | {"weights": "moved.pth"}}
    assert identity.run_id(moved, None, identity.contents_of_files(moved)) == before
    torch.save({name: 2 * value for name, value in weights.items()}, tmp_path / "start.pth")
    assert identity.run_id(told, None, identity.contents_of_files(told)) != before
    assert identity.run_id(told | {"model": told["model"] | {"weights": None}}, None) != before
    with pytest.raises(ValueError, match=r"model.weights='start.pth': the file .* is gone, or is not what it was"):
        rethinkgen.open_run(folder).network(0)
    # One that is not there is missed before anything begins.
    (tmp_path / "start.pth").unlink()
    description.look_again()
    with pytest.raises(SystemExit):
        train(*command)
    assert "model.weights=start.pth: the file cannot be read (No such file or directory)" in capsys.readouterr().err
