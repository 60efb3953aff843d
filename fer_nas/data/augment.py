"""Random changes of training images: batched tensor code on the images' device, no loop over images.

Legend: N images, C channels, H rows, W columns.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from fer_nas.config import AugmentConfig

# One column of uniform numbers for each choice, so that turning one off leaves the others as they were.
_COLUMNS = ("flip", "shift_x", "shift_y", "rotate", "scale", "brightness", "contrast", "cutout_x", "cutout_y")
_ERASE_COLUMNS = ("chosen", "area", "ratio", "x", "y")
# Random erasing (Zhong et al. 2020): area as a share of the image, and aspect ratio height / width.
_ERASE_AREA = (0.02, 0.4)
_ERASE_RATIO = (0.3, 1 / 0.3)


def augment(images: Tensor, config: AugmentConfig, generator: torch.Generator) -> Tensor:
    """Changed images: uint8 or float (N, C, H, W) in 0..255 → float32 of that shape, in 0..255.

    Random numbers come from `generator` (on the CPU), the same whatever the images' device. What comes into
    view at the border repeats the outermost pixels. With every change off this is `images.float()`.
    """
    uniform = torch.rand(len(images), len(_COLUMNS), generator=generator)
    draw = dict(zip(_COLUMNS, _on(uniform, images.device).unbind(1), strict=True))
    images = _move(images, config, draw)
    if config.brightness or config.contrast:
        images = _relight(images, config, draw)
    if config.erase:
        images = _erase(images, config.erase, generator)
    if config.cutout:
        images = _cutout(images, config.cutout, draw["cutout_x"], draw["cutout_y"])
    return images


def _on(value: Tensor, device: torch.device) -> Tensor:
    """`value` there; to a GPU from pinned memory, so that the copy does not wait."""
    return (value.pin_memory() if device.type == "cuda" else value).to(device, non_blocking=True)


def _spread(uniform: Tensor, limit: float) -> Tensor:
    """Uniform in 0..1 → uniform in −limit..limit."""
    return (2 * uniform - 1) * limit


def _move(images: Tensor, config: AugmentConfig, draw: dict[str, Tensor]) -> Tensor:
    """Flip, shift, rotate and scale in one sampling; flip and shift alone by whole pixels, exactly."""
    mirrored = draw["flip"] < 0.5 if config.flip else torch.zeros_like(draw["flip"], dtype=torch.bool)
    shift_x, shift_y = _spread(draw["shift_x"], config.shift), _spread(draw["shift_y"], config.shift)
    if config.rotate or config.scale:
        angle = _spread(draw["rotate"], math.radians(config.rotate))
        zoom = (1 + _spread(draw["scale"], config.scale)).clamp_min(0.1)
        return _warp(images.float(), mirrored, shift_x, shift_y, angle, zoom)
    if config.flip or config.shift:
        return _gather(images, mirrored, shift_x, shift_y).float()
    return images.float()


def _gather(images: Tensor, mirrored: Tensor, shift_x: Tensor, shift_y: Tensor) -> Tensor:
    """Mirror and shift by whole pixels; shifts (N,) are shares of the side."""
    height, width = images.shape[2:]
    columns = torch.arange(width, device=images.device).expand(len(images), width)
    columns = torch.where(mirrored[:, None], width - 1 - columns, columns)
    columns = (columns + (shift_x * width).round().long()[:, None]).clamp(0, width - 1)
    rows = torch.arange(height, device=images.device) + (shift_y * height).round().long()[:, None]
    flat = rows.clamp(0, height - 1)[:, :, None] * width + columns[:, None, :]  # (N, H, W)
    index = flat.view(len(images), 1, -1).expand(-1, images.shape[1], -1)
    return images.flatten(2).gather(2, index).view_as(images)


def _warp(images: Tensor, mirrored: Tensor, shift_x: Tensor, shift_y: Tensor, angle: Tensor, zoom: Tensor) -> Tensor:
    """Bilinear sampling; angle (N,) in radians, zoom (N,) as a factor, shifts (N,) as shares of the side.

    The grid is written by broadcasting: for 128 images of 48×48 on one core affine_grid takes 4.9 ms, and
    grid_sample itself 2.0 ms.
    """
    height, width = images.shape[2:]
    x_W = torch.arange(width, device=images.device) - (width - 1) / 2
    y_H = torch.arange(height, device=images.device) - (height - 1) / 2
    cos, sin = torch.cos(angle) / zoom, torch.sin(angle) / zoom
    sign = torch.where(mirrored, -1.0, 1.0)
    from_x = torch.outer(sign * cos, x_W * (2 / width)) + (2 * shift_x)[:, None]  # (N, W)
    to_y = torch.outer(sign * sin, x_W * (2 / height))
    from_y = torch.outer(cos, y_H * (2 / height)) + (2 * shift_y)[:, None]  # (N, H)
    to_x = torch.outer(-sin, y_H * (2 / width))
    grid = torch.empty(len(images), height, width, 2, device=images.device)
    torch.add(from_x[:, None, :], to_x[:, :, None], out=grid[..., 0])
    torch.add(to_y[:, None, :], from_y[:, :, None], out=grid[..., 1])
    return F.grid_sample(images, grid, mode="bilinear", padding_mode="border", align_corners=False)


def _relight(images: Tensor, config: AugmentConfig, draw: dict[str, Tensor]) -> Tensor:
    """Brightness as an added share of 255, contrast as a factor around the image's mean."""
    factor = (1 + _spread(draw["contrast"], config.contrast)).clamp_min(0).view(-1, 1, 1, 1)
    added = 255 * _spread(draw["brightness"], config.brightness).view(-1, 1, 1, 1)
    mean = images.mean((1, 2, 3), keepdim=True)
    return (images * factor).add_(mean * (1 - factor) + added).clamp_(0, 255)


def _inside(size: int, centre: Tensor, side: Tensor | int) -> Tensor:
    """bool (N, size): the places whose middle lies within `side` pixels around `centre` (in pixels)."""
    middle = torch.arange(size, device=centre.device) + 0.5
    return 2 * (middle - centre[:, None]).abs() < (side[:, None] if isinstance(side, Tensor) else side)


def _erase(images: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """Random erasing: a rectangle of noise in about `share` of the images."""
    count, _, height, width = images.shape
    uniform = torch.rand(count, len(_ERASE_COLUMNS), generator=generator)
    noise = torch.randint(0, 256, images.shape, dtype=torch.uint8, generator=generator)
    draw = dict(zip(_ERASE_COLUMNS, _on(uniform, images.device).unbind(1), strict=True))
    low, high = _ERASE_AREA
    area = (low + (high - low) * draw["area"]) * height * width
    low, high = math.log(_ERASE_RATIO[0]), math.log(_ERASE_RATIO[1])
    ratio = torch.exp(low + (high - low) * draw["ratio"])
    tall, wide = (area * ratio).sqrt().clamp(1, height), (area / ratio).sqrt().clamp(1, width)
    rows = _inside(height, tall / 2 + (height - tall) * draw["y"], tall)
    columns = _inside(width, wide / 2 + (width - wide) * draw["x"], wide)
    mask = rows[:, :, None] & columns[:, None, :] & (draw["chosen"] < share)[:, None, None]
    return torch.where(mask[:, None], _on(noise, images.device).float(), images)


def _cutout(images: Tensor, side: int, centre_x: Tensor, centre_y: Tensor) -> Tensor:
    """Cutout (DeVries and Taylor 2017): a square around a random pixel, filled with the mean."""
    height, width = images.shape[2:]
    odd = (side % 2) / 2  # an odd square is centred on a pixel, an even one between two
    rows = _inside(height, (centre_y * height).floor() + odd, side)
    columns = _inside(width, (centre_x * width).floor() + odd, side)
    mask = (rows[:, :, None] & columns[:, None, :])[:, None]
    return torch.where(mask, images.mean((1, 2, 3), keepdim=True), images)
