from __future__ import annotations

import colorsys
import math

import numpy as np
import pytest
import torch
from torchvision.transforms import InterpolationMode
from torchvision.transforms import functional as torchvision

from rethinkgen.data.augmentation import (
    Augmentation,
    center_crop,
    color_jitter,
    epoch_draws,
    flip,
    random_crop,
    rotate,
    rotation,
)

DRAWS = epoch_draws(0, 0, 64)


def images(n: int = 64, channels: int = 2, height: int = 9, width: int = 7) -> torch.Tensor:
    return torch.rand(n, channels, height, width, generator=torch.Generator().manual_seed(0)) + 0.1


def test_center_crop_of_32_keeps_rows_and_columns_2_to_29() -> None:
    places = torch.arange(32 * 32).view(1, 1, 32, 32)
    crop = center_crop(places, (28, 28))
    assert torch.equal(crop, places[:, :, 2:30, 2:30])
    odd = center_crop(np.arange(25, dtype=np.uint8).reshape(1, 1, 5, 5), (2, 4))
    assert odd.tolist() == [[[[5, 6, 7, 8], [10, 11, 12, 13]]]]


def test_random_crop_cuts_each_image_out_of_its_margin_where_its_draw_says() -> None:
    whole = images(height=11, width=9)
    crops = random_crop(whole, (8, 8), DRAWS)
    for image, crop, (y, x, _, _) in zip(whole, crops, DRAWS.tolist(), strict=True):
        top, left = math.floor(y * 4), math.floor(x * 2)
        assert torch.equal(crop, image[:, top : top + 8, left : left + 8])


@pytest.mark.parametrize(("side", "margin"), [(28, 2), (8, 1), (42, 3)])
def test_random_crop_without_a_margin_pads_with_zeros_by_a_fourteenth(side: int, margin: int) -> None:
    whole = images(height=side, width=side)
    padded = torch.nn.functional.pad(whole, (margin,) * 4)
    crops = random_crop(whole, (side, side), DRAWS)
    for image, crop, (y, x, _, _) in zip(padded, crops, DRAWS.tolist(), strict=True):
        top, left = math.floor(y * (2 * margin + 1)), math.floor(x * (2 * margin + 1))
        assert torch.equal(crop, image[:, top : top + side, left : left + side])


def test_random_crop_reaches_every_position_and_no_other() -> None:
    place = torch.arange(32 * 32.0).view(1, 1, 32, 32).expand(2000, -1, -1, -1)
    corners = random_crop(place, (28, 28), epoch_draws(0, 0, 2000))[:, 0, 0, 0].long()
    assert set(corners.tolist()) == {32 * y + x for y in range(5) for x in range(5)}
    counts = torch.bincount(corners)[torch.bincount(corners) > 0]
    assert ((counts - 80) ** 2 / 80).sum() < 51.2  # chi-squared of 24 degrees of freedom, p = 0.001
    edge = torch.full((1, 4), 1 - 2**-24)  # the largest float32 below 1
    for side in range(1, 32):
        assert random_crop(place[:1], (side, side), edge)[0, 0, 0, 0] == 33 * (32 - side)


def test_flip_mirrors_left_to_right_those_drawn_below_a_half() -> None:
    flipped = flip(images(), DRAWS)
    for image, result, draws in zip(images(), flipped, DRAWS.tolist(), strict=True):
        assert torch.equal(
            result, image[:, :, ::1] if draws[2] >= 0.5 else torch.from_numpy(image.numpy()[..., ::-1].copy())
        )
    assert 16 < sum(draws[2] < 0.5 for draws in DRAWS.tolist()) < 48


@pytest.mark.parametrize("shape", [(28, 28), (9, 7), (8, 12)])
def test_rotation_is_torchvision_s_image_by_image(shape: tuple[int, int]) -> None:
    whole = images(8, 3, *shape)
    degrees = torch.tensor([-25.0, -10.0, -0.5, 0.0, 3.0, 17.0, 25.0, 90.0])
    expected = torch.stack(
        [
            torchvision.rotate(image, angle, InterpolationMode.BILINEAR, fill=[0.0])
            for image, angle in zip(whole, degrees.tolist(), strict=True)
        ]
    )
    # torchvision blends its fill by a mask of its own, which differs where a pixel is partly outside.
    inside = torch.stack(
        [
            torchvision.rotate(torch.ones_like(image), angle, InterpolationMode.BILINEAR, fill=[0.0]) > 0.999
            for image, angle in zip(whole, degrees.tolist(), strict=True)
        ]
    )
    rotated = rotate(whole, degrees.deg2rad())
    torch.testing.assert_close(rotated[inside], expected[inside], rtol=0, atol=1e-4)
    assert inside.float().mean() > 0.5
    torch.testing.assert_close(rotated[3], whole[3], rtol=0, atol=1e-5)


def test_rotation_draws_angles_uniform_in_both_directions_and_lets_zeros_in() -> None:
    whole = torch.ones(64, 1, 9, 9)
    turned = rotation(whole, 25, DRAWS)
    assert (turned[:, 0, 0, 0] < 0.9).float().mean() > 0.5
    torch.testing.assert_close(turned, rotate(whole, ((DRAWS[:, 3] * 2 - 1) * 25).deg2rad()))
    assert -25 < ((DRAWS[:, 3] * 2 - 1) * 25).min() < -15 < 15 < ((DRAWS[:, 3] * 2 - 1) * 25).max() < 25


def test_order_is_crop_flip_rotation_and_what_is_off_changes_nothing() -> None:
    whole = images(height=11, width=11)
    augmentation = Augmentation((8, 8), random_crop=True, flip=True, rotation=20)
    expected = rotation(flip(random_crop(whole, (8, 8), DRAWS), DRAWS), 20, DRAWS)
    assert torch.equal(augmentation(whole, DRAWS), expected)
    off = Augmentation((8, 8))
    assert not off
    assert torch.equal(off(whole, DRAWS), center_crop(whole, (8, 8)))
    assert torch.equal(Augmentation((8, 8), flip=True)(whole, DRAWS), flip(center_crop(whole, (8, 8)), DRAWS))


def test_an_image_s_geometry_does_not_depend_on_the_others_in_its_batch() -> None:
    whole = images(height=11, width=11)
    augmentation = Augmentation((8, 8), random_crop=True, flip=True, rotation=20)
    together = augmentation(whole, DRAWS)
    apart = torch.cat([augmentation(whole[i::3], DRAWS[i::3]) for i in range(3)])
    expected = torch.cat([together[i::3] for i in range(3)])
    torch.testing.assert_close(apart, expected, rtol=0, atol=1e-6)


def test_draws_are_a_function_of_seed_and_epoch_and_begin_alike_for_more_examples() -> None:
    assert torch.equal(epoch_draws(0, 1, 10), epoch_draws(0, 1, 20)[:10])
    assert not torch.equal(epoch_draws(0, 1, 10), epoch_draws(0, 2, 10))
    assert not torch.equal(epoch_draws(0, 1, 10), epoch_draws(1, 1, 10))
    assert DRAWS.dtype == torch.float32


def by_hand(image: np.ndarray, draws: list[float]) -> np.ndarray:
    """Change the colours of ``(3, H, W)`` pixel by pixel with the standard library."""
    brightness, saturation, hue, contrast = draws[4:]
    result = np.clip(image + (2 * brightness - 1) * 32 / 255, 0, 1)
    for y in range(image.shape[1]):
        for x in range(image.shape[2]):
            h, s, v = colorsys.rgb_to_hsv(*result[:, y, x].tolist())
            result[:, y, x] = colorsys.hsv_to_rgb((h + 0.4 * hue - 0.2) % 1, min(1, s * (0.5 + saturation)), v)
    mean = result.mean((1, 2), keepdims=True)
    return np.clip((result - mean) * (0.5 + contrast) + mean, 0, 1)


def test_colours_are_those_of_the_standard_library() -> None:
    draws = epoch_draws(0, 0, 64, color=True)
    assert torch.equal(draws[:, :4], DRAWS), "the other kinds keep their draws"
    whole = torch.rand(64, 3, 4, 5, generator=torch.Generator().manual_seed(0))
    whole[0] = 0.5  # grey
    whole[1] = 0
    whole[2, 1:] = 0  # red
    for image, changed, drawn in zip(whole, color_jitter(whole, draws), draws.tolist(), strict=True):
        np.testing.assert_allclose(changed.numpy(), by_hand(image.double().numpy(), drawn), atol=1e-5)


def test_grey_images_change_in_brightness_and_contrast_alone() -> None:
    draws = epoch_draws(0, 0, 64, color=True)
    whole = torch.rand(64, 1, 4, 5, generator=torch.Generator().manual_seed(0))
    changed = color_jitter(whole, draws)
    assert changed.shape == whole.shape
    torch.testing.assert_close(changed, color_jitter(whole.expand(-1, 3, -1, -1), draws)[:, :1], rtol=0, atol=1e-5)
    assert torch.equal(Augmentation((4, 5), color_jitter=True)(whole, draws), changed)
