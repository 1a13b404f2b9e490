"""The search against every image of a fine grid, in two dimensions."""

from __future__ import annotations

import pytest
import torch
from subjects import network_of, subject_of
from torch import Tensor, nn

from rethinkgen.data.module import Split
from rethinkgen.measure.critical_samples import critical_samples
from rethinkgen.measure.subject import Subject

RADIUS = 20.0
"""In levels: 0.078 of a pixel's range."""


def plane(num_examples: int, memory_mb: float = 100) -> Subject:
    """A network on images of two pixels, with boundaries that are no lines."""
    draws = torch.Generator().manual_seed(0)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = nn.Sequential(nn.Flatten(), nn.Linear(2, 12), nn.Tanh(), nn.Linear(12, 3)).eval()
    with torch.no_grad():
        network[1].weight *= 8
        network[1].bias *= 4
    pixels = torch.rand(num_examples, 1, 1, 2, generator=draws)
    labels = torch.arange(num_examples) % 3
    split = Split(pixels * 2 - 1, labels, labels, labels < 0, labels < 0, torch.arange(num_examples))
    return Subject(
        network,
        {"test": split},
        name="critical_samples",
        memory_mb=memory_mb,
        pixels=lambda _: pixels,
        from_pixels=lambda images: images * 2 - 1,
    )


def by_brute_force(subject: Subject, radius: float) -> Tensor:
    """Whether any image of a grid over the box has another class than its middle."""
    steps = torch.linspace(-radius / 255, radius / 255, 41)
    box = torch.stack(torch.meshgrid(steps, steps, indexing="ij"), -1).reshape(-1, 1, 1, 2)
    found = []
    with torch.no_grad():
        for pixels in subject.pixels("test"):
            classes = subject.network(subject.from_pixels(pixels + box)).argmax(1)
            middle = subject.network(subject.from_pixels(pixels[None])).argmax(1)
            found.append(bool((classes != middle).any()))
    return torch.tensor(found)


def test_it_finds_what_a_grid_finds() -> None:
    subject = plane(150)
    expected = by_brute_force(subject, RADIUS)
    findings = critical_samples(subject, radius=RADIUS, step_size=15, noise=10, num_iterations=30)
    found = torch.as_tensor(findings.tables["examples"]["is_critical"])
    assert 0.1 < float(expected.double().mean()) < 0.9
    # Whatever the search finds is within the box; a grid passes by what is smaller than its meshes.
    assert not found[~by_brute_force(subject, RADIUS * 1.05)].any()
    assert (found & expected).sum() >= 0.95 * expected.sum()
    assert findings.numbers["test/ratio"] == float(found.double().mean())


def test_of_a_line_through_the_plane_the_answer_is_exact() -> None:
    # The class is that of the sign of x + y - 1: critical where it is nearer than the box's corner.
    network = nn.Sequential(nn.Flatten(), nn.Linear(2, 2))
    with torch.no_grad():
        network[1].weight.copy_(torch.tensor([[0.0, 0], [30, 30]]))
        network[1].bias.copy_(torch.tensor([0.0, -30]))
    subject = plane(60)
    of_line = Subject(network, subject.splits, pixels=subject.pixels, from_pixels=lambda images: images)
    table = critical_samples(of_line, radius=RADIUS, step_size=25, noise=0).tables["examples"]
    expected = (subject.pixels("test").flatten(1).sum(1) - 1).abs() < 2 * RADIUS / 255
    assert torch.equal(torch.as_tensor(table["is_critical"]), expected)
    assert {*torch.as_tensor(table["iteration"]).tolist()} == {0, 1}


def test_the_ratio_rises_with_the_iterations_to_what_is_found() -> None:
    findings = critical_samples(plane(60), radius=RADIUS, step_size=2, noise=4, num_iterations=12)
    table = findings.tables["iterations"]
    ratios, first = list(table["ratio"]), torch.as_tensor(findings.tables["examples"]["iteration"])
    assert list(table["iteration"]) == list(range(1, 13))
    assert ratios == [float(((first > 0) & (first <= t)).double().mean()) for t in range(1, 13)]
    assert ratios[0] < ratios[-1] == findings.numbers["test/ratio"]


def test_an_example_does_not_depend_on_what_is_held_or_on_what_was_found_of_others() -> None:
    def found(num_examples: int, memory_mb: float) -> list[int]:
        table = critical_samples(plane(num_examples, memory_mb), radius=RADIUS, step_size=15, noise=10).tables
        return torch.as_tensor(table["examples"]["iteration"]).tolist()

    assert found(120, 100) == found(120, 0.003)
    with pytest.raises(ValueError, match=r"memory_mb=0.0001: one example takes about"):
        found(120, 0.0001)


def test_wrong_and_right_labels_apart_and_only_the_splits_asked_for() -> None:
    subject = subject_of("mlp", name="critical_samples")
    findings = critical_samples(subject, radius=25, step_size=20, noise=15, splits=["train"])
    table = findings.tables["examples"]
    critical, wrong = torch.as_tensor(table["is_critical"]).double(), subject.split("train").is_corrupted
    assert findings.numbers == {
        "train/ratio": float(critical.mean()),
        "train/ratio_clean": float(critical[~wrong].mean()),
        "train/ratio_corrupted": float(critical[wrong].mean()),
    }
    assert torch.equal(torch.as_tensor(table["index"]), subject.split("train").index)
    assert 0 < float(critical.mean()) < 1


def test_labels_play_no_part_and_frozen_networks_have_them_too() -> None:
    one, other = plane(40), plane(40)
    other.split("test").labels.zero_()
    other.network.requires_grad_(False)
    keywords = {"radius": RADIUS, "step_size": 15.0, "noise": 10.0}
    assert critical_samples(one, **keywords).numbers == critical_samples(other, **keywords).numbers  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"radius": 0}, "radius=0: a number above 0"),
        ({"step_size": -1}, "step_size=-1: a number above 0"),
        ({"noise": -1}, "noise=-1: a number from 0"),
        ({"num_iterations": 0}, "num_iterations=0: a whole number of at least 1"),
        ({"splits": ["validation"]}, "split='validation': this run has none"),
    ],
)
def test_nonsense_is_named(keywords: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        critical_samples(plane(3), **keywords)  # type: ignore[arg-type]


def test_a_network_with_batch_norm_is_seen_in_evaluation_mode() -> None:
    network = network_of("convolutional")
    one = critical_samples(subject_of(network, name="c"), radius=25, step_size=20, noise=15)
    network.train()
    assert critical_samples(subject_of(network, name="c"), radius=25, step_size=20, noise=15).numbers == one.numbers
