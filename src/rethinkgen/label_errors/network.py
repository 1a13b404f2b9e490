"""Which network looks for wrong labels where the user names none: by the size and number of the images."""

from __future__ import annotations

from dataclasses import dataclass

LARGEST = 64
"""Pixels a side up to which there is a default."""
MOST_OF_SHAPES = 32
"""Pixels of the shorter side of grey images up to which a perceptron is enough."""
FEW, MANY = 2_000, 100_000
"""Images: of fewer each batch is smaller, so that there are steps enough; of more there are fewer epochs."""


@dataclass(frozen=True)
class Choice:
    """A network and how it is trained."""

    overrides: dict[str, str]
    """Key -> value, of ``train.py``"""
    words: str
    """Which, and why: a line."""


def choose(image_shape: tuple[int, int, int], count: int) -> Choice:
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
    shortest = min(height, width)
    if (channels == 1 and shortest <= MOST_OF_SHAPES) or shortest < 4:
        overrides |= {"model": "mlp", "model.width": "256", "model.depth": "2", "optimizer.lr": "0.05"}
        return Choice(overrides, f"a perceptron with two layers of 256 (model=mlp), for {size}: shapes tell them apart")
    # Each convolution halves the image, of which a few pixels must be left.
    channels_of = "32,64,64" if shortest >= 24 else "32,64"
    overrides |= {"model": "cnn_16_32_32", "model.channels": f"[{channels_of}]", "optimizer": "adam"}
    words = f"convolutions of {channels_of} channels (model=cnn_16_32_32), for {size}: small, and fast without a GPU"
    return Choice(overrides, words)
