"""Pictures of the first layer, weight by weight."""

from __future__ import annotations

import pytest
import torch
from subjects import SHAPE, network_of, subject_of
from torch import Tensor, nn

from rethinkgen.measure.filters import filters


def by_hand(picture: Tensor) -> float:
    """Geary's C of a filter (C, H, W), by a loop over neighbours."""
    channels, height, width = picture.shape
    squares = []
    for c in range(channels):
        for i in range(height):
            for j in range(width):
                squares += [float(picture[c, i, j] - picture[c, i + 1, j]) ** 2] if i + 1 < height else []
                squares += [float(picture[c, i, j] - picture[c, i, j + 1]) ** 2] if j + 1 < width else []
    variance = sum(float(picture[c].var()) for c in range(channels)) / channels
    return sum(squares) / len(squares) / (2 * variance)


@pytest.mark.parametrize("name", ["mlp", "convolutional"])
def test_pictures_are_the_weights_the_largest_first(name: str) -> None:
    network = network_of(name)
    layer = network[1] if name == "mlp" else network[0]
    weights = layer.weight.detach().double().reshape(len(layer.weight), *(SHAPE if name == "mlp" else (2, 3, 3)))
    findings = filters(subject_of(network), num_filters=3)
    table = {key: torch.as_tensor(value).tolist() for key, value in findings.tables["pictures"].items()}
    largest = sorted(range(len(weights)), key=lambda i: -float(weights[i].norm()))[:3]
    assert list(dict.fromkeys(table["filter"])) == largest
    assert len(table["weight"]) == 3 * weights[0].numel()
    for f, c, i, j, value in zip(*table.values(), strict=True):
        assert value == float(weights[f, c, i, j])
    expected = [by_hand(each) for each in weights]
    assert torch.as_tensor(findings.tables["filters"]["roughness"]).tolist() == pytest.approx(expected)
    assert torch.as_tensor(findings.tables["filters"]["norm"]).tolist() == pytest.approx(
        weights.flatten(1).norm(dim=1).tolist()
    )
    assert findings.numbers == {
        "num_filters": len(weights),
        "roughness": pytest.approx(sum(expected) / len(expected)),
    }


def test_noise_has_a_roughness_of_one_and_a_slope_next_to_none() -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(40 * 40, 200))
    subject = subject_of(network)
    subject.split("train").inputs = torch.zeros(23, 1, 40, 40)  # type: ignore[misc]
    with torch.no_grad():
        network[1].weight.normal_(generator=torch.Generator().manual_seed(0))
    assert filters(subject).numbers["roughness"] == pytest.approx(1, abs=0.01)
    with torch.no_grad():
        network[1].weight.copy_(torch.linspace(-1, 1, 40).repeat(200, 40))
    assert float(filters(subject).numbers["roughness"] or 1) < 0.01
    with torch.no_grad():
        network[1].weight.fill_(3)
    assert filters(subject).numbers["roughness"] is None


def test_a_network_whose_first_layer_sees_no_image_is_refused() -> None:
    class Means(nn.Module):
        def forward(self, images: Tensor) -> Tensor:
            return images.mean((2, 3))

    with pytest.raises(ValueError, match="it has no filters that are pictures"):
        filters(subject_of(nn.Sequential(Means(), nn.Linear(2, 3))))
    with pytest.raises(ValueError, match=r"num_filters=0: a whole number of at least 1"):
        filters(subject_of("mlp"), num_filters=0)
