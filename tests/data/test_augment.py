"""Augmentation: exact where it can be, reproducible, within range, independent switches."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from fer_nas.config import AugmentConfig
from fer_nas.data.augment import _warp, augment

OFF: dict[str, Any] = {"flip": False, "shift": 0, "rotate": 0, "scale": 0, "brightness": 0, "contrast": 0}
EVERYTHING = AugmentConfig(erase=0.5, cutout=12)


def pictures(count: int = 64, channels: int = 1, height: int = 48, width: int = 48) -> Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randint(0, 256, (count, channels, height, width), dtype=torch.uint8, generator=generator)


def only(images: Tensor, seed: int = 0, **changes: Any) -> Tensor:
    return augment(images, AugmentConfig(**{**OFF, **changes}), torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("channels", [1, 3])
def test_all_off_is_identity(channels: int) -> None:
    images = pictures(channels=channels)
    result = only(images)
    assert result.dtype == torch.float32
    assert torch.equal(result, images.float())


def test_float_input_is_accepted_and_left_alone() -> None:
    images = pictures().float()
    before = images.clone()
    as_float = augment(images, EVERYTHING, torch.Generator().manual_seed(0))
    as_bytes = augment(images.to(torch.uint8), EVERYTHING, torch.Generator().manual_seed(0))
    assert torch.equal(images, before)
    assert torch.equal(as_float, as_bytes)


def test_same_generator_same_images() -> None:
    images = pictures()
    first, again, other = (augment(images, EVERYTHING, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("size", [28, 32, 48])
def test_shape_type_and_range(channels: int, size: int) -> None:
    config = AugmentConfig(brightness=0.9, contrast=0.9, rotate=45, scale=0.5, erase=0.5, cutout=9)
    result = augment(pictures(32, channels, size, size), config, torch.Generator().manual_seed(0))
    assert result.shape == (32, channels, size, size) and result.dtype == torch.float32
    assert result.min() >= 0 and result.max() <= 255


def test_flip_mirrors_about_half_and_nothing_else() -> None:
    images = pictures(200)
    result = only(images, flip=True)
    same = (result == images).flatten(1).all(1)
    mirrored = (result == images.flip(3)).flatten(1).all(1)
    assert (same ^ mirrored).all()
    assert 70 <= int(mirrored.sum()) <= 130


def test_shift_moves_whole_pixels_and_repeats_the_border() -> None:
    images = pictures(100)
    result = only(images, shift=0.1)
    seen = set()
    padded = torch.nn.functional.pad(images.float(), (5, 5, 5, 5), mode="replicate")
    for before, after in zip(padded, result, strict=True):
        found = [
            (dy, dx)
            for dy in range(11)
            for dx in range(11)
            if torch.equal(before[:, dy : dy + 48, dx : dx + 48], after)
        ]
        assert len(found) == 1
        seen.add(found[0])
    assert len(seen) > 30


def still(count: int) -> dict[str, Tensor]:
    zeros = torch.zeros(count)
    return {
        "mirrored": zeros.bool(),
        "shift_x": zeros,
        "shift_y": zeros,
        "angle": zeros,
        "zoom": torch.ones(count),
    }


@pytest.mark.parametrize("height", [48, 40])
def test_warp_is_exact_where_it_has_a_closed_form(height: int) -> None:
    images = pictures(4, 3, height, 48).float()
    ones = torch.ones(4)
    cases = {
        "identity": ({}, images),
        "mirror": ({"mirrored": ones.bool()}, images.flip(3)),
        "half turn": ({"angle": math.pi * ones}, images.flip(2, 3)),
        "right": (
            {"shift_x": 3 / 48 * ones},
            torch.cat([images[..., 3:], images[..., -1:].expand(-1, -1, -1, 3)], 3),
        ),
    }
    if height == 48:
        cases["quarter turn"] = ({"angle": math.pi / 2 * ones}, images.rot90(1, (2, 3)))
    for name, (change, wanted) in cases.items():
        torch.testing.assert_close(_warp(images, **{**still(4), **change}), wanted, atol=0.02, rtol=0, msg=name)


def test_zoom_enlarges_about_the_middle() -> None:
    square = torch.zeros(1, 1, 48, 48)
    square[..., 18:30, 18:30] = 255
    larger = _warp(square, **{**still(1), "zoom": torch.tensor([2.0])})
    assert larger[0, 0, 14:34, 14:34].min() == 255 and larger[0, 0, :11].max() == 0
    torch.testing.assert_close(larger, larger.flip(2, 3), atol=1e-3, rtol=0)


def test_brightness_adds_one_value_to_an_image() -> None:
    images = torch.full((100, 1, 8, 8), 128, dtype=torch.uint8)
    change = only(images, brightness=0.2) - 128
    torch.testing.assert_close(change, change[:, :, :1, :1].expand_as(change))
    assert 40 < change.max() <= 51 and -51 <= change.min() < -40


def test_contrast_keeps_the_mean_and_scales_around_it() -> None:
    images = 118 + pictures(100) // 13
    result = only(images, contrast=0.2)
    mean = images.float().mean((1, 2, 3), keepdim=True)
    torch.testing.assert_close(result.mean((1, 2, 3), keepdim=True), mean, atol=1e-3, rtol=0)
    factor = (result - mean).flatten(1).std(1) / images.float().flatten(1).std(1)
    assert 0.8 <= factor.min() < 0.85 and 1.15 < factor.max() <= 1.2


def test_cutout_blanks_one_square_with_the_mean() -> None:
    images = pictures(50)
    result = only(images, cutout=12)
    changed = (result != images).squeeze(1)
    for image, mask, after in zip(images.float(), changed, result, strict=True):
        rows, columns = mask.any(1).nonzero().flatten(), mask.any(0).nonzero().flatten()
        height, width = int(rows[-1] - rows[0]) + 1, int(columns[-1] - columns[0]) + 1
        assert 6 <= height <= 12 and 6 <= width <= 12
        assert mask.sum() >= 0.9 * height * width
        torch.testing.assert_close(after[0][mask], image.mean().expand(int(mask.sum())))
    assert (changed.sum((1, 2)) > 130).any()


def test_erase_fills_a_rectangle_in_its_share_of_images() -> None:
    images = pictures(400)
    changed = (only(images, erase=0.25) != images).squeeze(1)
    touched = changed.flatten(1).any(1)
    assert 70 <= int(touched.sum()) <= 130
    area = changed[touched].flatten(1).float().mean(1)
    assert area.min() < 0.1 and 0.3 < area.max() < 0.45


def test_one_switch_leaves_the_others_as_they_were() -> None:
    """The mirrored images are the same ones with brightness on or off."""
    images = pictures()
    plain, brighter = only(images, flip=True), only(images, flip=True, brightness=0.2)
    untouched = (plain == images).flatten(1).all(1)
    back = torch.where(untouched[:, None, None, None], brighter, brighter.flip(3))
    kept = (back > 0) & (back < 255)
    difference = (back - images).where(kept, torch.nan).flatten(1)
    spread = difference.nan_to_num(-1e9).max(1).values - difference.nan_to_num(1e9).min(1).values
    assert spread.max() < 1e-3
