"""Which network looks for wrong labels where the user names none: by the size and number of the images."""

from __future__ import annotations

from dataclasses import dataclass

LARGEST = 64
"""Pixels a side up to which there is a default."""
FEW, MANY = 2_000, 100_000
"""Images: of fewer each batch is smaller, so that there are steps enough; of more there are fewer epochs."""


@dataclass(frozen=True)
class Choice:
    """A network and how it is trained."""

    overrides: dict[str, str]
    """Key -> value, of ``train.py``"""
    words: str
    """Which, and why: a line."""


def choose(image_shape: tuple[int, int, int], count: int, num_classes: int) -> Choice:
    """Return the default for images ``(C, H, W)``.

    Raises:
        ValueError: the images are too large for one.
    """
    channels, height, width = image_shape
    size = f"{count:,} {'grey' if channels == 1 else 'colour'} images of {width}x{height}"
    if max(height, width) > LARGEST:
        raise ValueError(
            f"model: for {size} there is no default. Name one (model=resnet18 model.weights=PATH), or have the images "
            f"reduced: data.source.size={LARGEST}, or data.resize=..."
        )
    epochs = 30 if count <= MANY else 15
    overrides = {
        "data.preprocessing": "normalization",
        "data.batch_size": "128" if count > FEW else "32",
        "schedule": "cosine",
        "max_steps": "null",
        "max_epochs": str(epochs),
        "until_fit": "false",
        "evaluate_every": str(epochs),
    }
    if channels == 1 and min(height, width) <= 32:
        overrides |= {"model": "mlp", "model.width": "256", "model.depth": "2", "optimizer.lr": "0.05"}
        return Choice(
            overrides, f"mlp, two layers of 256, {epochs} epochs: for {size}, as shapes alone tell them apart"
        )
    halvings = 3 if min(height, width) >= 24 else 2 if min(height, width) >= 4 else 0
    channels_of = "[32,64,64]" if halvings == 3 else "[32,64]"
    overrides |= {
        "model": "cnn_16_32_32",
        "model.channels": channels_of,
        "optimizer": "adam",
        "regularizer": "[]",
    }
    layers = "three" if halvings == 3 else "two"
    return Choice(
        overrides,
        f"a network of {layers} convolutions ({channels_of[1:-1]}), {epochs} epochs: for {size}, small and fast",
    )
