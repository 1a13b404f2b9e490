from __future__ import annotations

import numpy as np
import pytest
import torch

from rethinkgen.data.preprocessing import ChannelStatistics, channel_statistics, normalization, unit_sphere, whitening


def test_whitening_is_the_paper_s_formula_image_by_image() -> None:
    images = torch.rand(4, 3, 6, 5, generator=torch.Generator().manual_seed(0))
    images[2] *= 1e-3  # below the floor of the standard deviation
    images[3] = 0.25
    expected = []
    for image in images.double().numpy():
        floor = 1 / np.sqrt(image.size)
        expected.append((image - image.mean()) / max(image.std(), floor))
    np.testing.assert_allclose(whitening(images).numpy(), np.stack(expected), atol=2e-6)
    assert whitening(images)[3].abs().max() < 1e-6
    assert whitening(images)[2].std(correction=0) < 0.01


def test_whitening_an_image_does_not_depend_on_the_others() -> None:
    images = torch.rand(7, 3, 28, 28, generator=torch.Generator().manual_seed(0))
    alone = torch.cat([whitening(image[None]) for image in images])
    torch.testing.assert_close(whitening(images), alone, rtol=0, atol=1e-6)


def test_statistics_are_those_of_all_pixels_of_a_channel_whatever_the_chunks() -> None:
    images = np.random.default_rng(0).integers(0, 256, (11, 3, 4, 5), dtype=np.uint8)
    images[:, 1] = 200
    mean, std = channel_statistics([images[:3], images[3:4], images[4:]])
    np.testing.assert_allclose(mean.numpy(), (images / 255).mean((0, 2, 3))[:, None, None], rtol=1e-6)
    np.testing.assert_allclose(std.numpy(), (images / 255).std((0, 2, 3))[:, None, None], rtol=1e-6, atol=1e-7)
    whole = channel_statistics([images])
    assert torch.equal(whole.mean, mean)
    assert torch.equal(whole.std, std)


def test_normalization_gives_each_channel_mean_0_and_deviation_1_and_survives_a_constant_one() -> None:
    images = np.random.default_rng(0).integers(0, 100, (20, 2, 6, 6), dtype=np.uint8)
    images[:, 1] = 51
    normalized = normalization(torch.from_numpy(images) / 255, channel_statistics([images]))
    assert normalized[:, 0].mean().item() == pytest.approx(0, abs=1e-6)
    assert normalized[:, 0].std(correction=0).item() == pytest.approx(1, abs=1e-5)
    assert normalized[:, 1].abs().max() < 1e-6


def test_images_on_the_unit_sphere_have_length_1_but_for_one_that_is_the_mean_whose_gradient_is_finite() -> None:
    images = np.random.default_rng(0).integers(0, 100, (20, 2, 6, 6), dtype=np.uint8)
    statistics = channel_statistics([images])
    pixels = torch.cat([torch.from_numpy(images) / 255, statistics.mean.expand(1, 2, 6, 6)]).requires_grad_(True)
    sphere = unit_sphere(pixels, statistics)
    torch.testing.assert_close(sphere.flatten(1).norm(dim=1), torch.tensor([*20 * [1.0], 0.0]))
    sphere.sum().backward()
    assert pixels.grad is not None
    assert pixels.grad.isfinite().all()


def test_statistics_move_together() -> None:
    moved = ChannelStatistics(torch.zeros(1, 1, 1), torch.ones(1, 1, 1)).to("meta")
    assert moved.mean.device.type == moved.std.device.type == "meta"


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 28, 28), (3, 17, 31), (3, 224, 224)])
def test_the_floor_under_the_root_gives_the_numbers_of_the_floor_above_it_to_the_bit(
    shape: tuple[int, int, int],
) -> None:
    count = shape[0] * shape[1] * shape[2]
    scales = torch.tensor([1.0, 2 * count**-0.5, 1.0001 * count**-0.5, count**-0.5, 0.9999 * count**-0.5, 1e-4, 0.0])
    images = 0.5 + scales[:, None, None, None] * torch.randn(7, *shape, generator=torch.Generator().manual_seed(0))
    variance, mean = torch.var_mean(images, dim=(1, 2, 3), correction=0, keepdim=True)
    above = (images - mean) / variance.sqrt().clamp_min(count**-0.5)
    assert torch.equal(whitening(images), above)
    images[-1] = 0.5
    images.requires_grad_()
    whitening(images).square().sum().backward()
    assert images.grad is not None
    assert images.grad.isfinite().all()
