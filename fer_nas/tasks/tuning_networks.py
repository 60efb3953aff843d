"""The networks whose hyperparameters are tuned, plain ones, and what dropout and cutout do to their activations.

Legend: B images of a batch, C channels, H rows, W columns, M holes at most.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

Disturb = Callable[[Tensor, int], Tensor]
"""(activations, place) → activations; place 0 is the normalized input, place k what goes into layer k."""


def undisturbed(x: Tensor, place: int) -> Tensor:
    return x


def _per_image(value: Tensor, x: Tensor) -> Tensor:
    """() or (B,) → a shape that broadcasts against x (B, …); no gradient: only sampled masks depend on it."""
    return value.detach().reshape(-1, *[1] * (x.ndim - 1))


def dropout(x: Tensor, rate: Tensor, generator: torch.Generator | None = None) -> Tensor:
    """Each entry of x (B, …) zero with probability `rate` (() or (B,)), the others times 1/(1 − rate)."""
    rate = _per_image(rate, x)
    kept = torch.rand(x.shape, generator=generator, device=x.device, dtype=x.dtype) >= rate
    return x * kept / (1 - rate)


def cutout(
    x_BCHW: Tensor, holes: Tensor, length: Tensor, most: int, generator: torch.Generator | None = None
) -> Tensor:
    """`holes` squares with sides of `length` pixels set to 0 around random pixels (DeVries and Taylor 2017).

    holes, length: whole numbers, () or (B,). Squares are cut at the border. `most` is the largest number of
    holes: as many places are drawn whatever `holes` is.
    """
    count, _, height, width = x_BCHW.shape
    draw = torch.rand(2, count, most, 1, generator=generator, device=x_BCHW.device)
    side = length.detach().round().reshape(-1, 1, 1)
    odd = (side % 2) / 2  # an odd square is centred on a pixel, an even one between two
    inside = [
        2 * (torch.arange(size, device=x_BCHW.device) + 0.5 - ((place * size).floor() + odd)).abs() < side
        for place, size in zip(draw, (height, width), strict=True)
    ]  # (B, M, H) and (B, M, W)
    wanted = torch.arange(most, device=x_BCHW.device) < holes.detach().round().reshape(-1, 1)  # (B or 1, M)
    hole_BMHW = inside[0][:, :, :, None] & inside[1][:, :, None, :] & wanted[:, :, None, None]
    return x_BCHW.masked_fill(hole_BMHW.any(1)[:, None], 0.0)


class _Normalized(nn.Module):
    """Images 0 to 255 → zero mean and unit deviation by the training images' channels."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def normalized(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std


class Mlp(_Normalized):
    """inputs → width → width → classes with ReLU; at width 1200 the network of MacKay et al. 2019 for MNIST."""

    places = ("input", "hidden1", "hidden2")
    PUBLISHED_WIDTH = 1200

    def __init__(
        self, shape: tuple[int, int, int], classes: int, width: float, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        super().__init__(mean, std)
        channels, height, columns = shape
        hidden = max(4, round(width * self.PUBLISHED_WIDTH))
        sizes = (channels * height * columns, hidden, hidden, classes)
        self.layers = nn.ModuleList(nn.Linear(a, b) for a, b in pairwise(sizes))

    def forward(self, images: Tensor, disturb: Disturb) -> Tensor:
        x = disturb(self.normalized(images), 0).flatten(1)
        x = disturb(torch.relu(self.layers[0](x)), 1)
        x = disturb(torch.relu(self.layers[1](x)), 2)
        return self.layers[2](x)


class Cnn(_Normalized):
    """Two 5×5 convolutions, each with ReLU and 2×2 pooling, and two linear layers.

    At width 1 the convolutions have 32 and 64 channels (MacKay et al. 2019 for Fashion-MNIST) and the first linear
    layer 128 outputs. Images above 32 pixels start with stride 2, which leaves 48×48 as much work as 24×24.
    """

    places = ("input", "conv1", "conv2", "hidden")
    PUBLISHED_CHANNELS = (32, 64, 128)

    def __init__(
        self, shape: tuple[int, int, int], classes: int, width: float, mean: Sequence[float], std: Sequence[float]
    ) -> None:
        super().__init__(mean, std)
        channels, height, columns = shape
        first, second, hidden = (max(4, round(width * count)) for count in self.PUBLISHED_CHANNELS)
        stride = 2 if min(height, columns) > 32 else 1
        area = 1
        for side in (height, columns):
            area *= (side + stride - 1) // stride // 4
        self.conv1 = nn.Conv2d(channels, first, 5, stride=stride, padding=2)
        self.conv2 = nn.Conv2d(first, second, 5, padding=2)
        self.linear1 = nn.Linear(second * area, hidden)
        self.linear2 = nn.Linear(hidden, classes)

    def forward(self, images: Tensor, disturb: Disturb) -> Tensor:
        x = disturb(self.normalized(images), 0)
        x = disturb(nn.functional.max_pool2d(torch.relu(self.conv1(x)), 2), 1)
        x = disturb(nn.functional.max_pool2d(torch.relu(self.conv2(x)), 2), 2)
        x = disturb(torch.relu(self.linear1(x.flatten(1))), 3)
        return self.linear2(x)
