"""The OPERATIONS table: what an edge of a cell can be (Liu et al. 2019, and three more of Auto-FERNet's space).

Every operation maps (B, C, H, W) to (B, C, H/stride, W/stride). `affine` is False in the supernet, where a scale
would only compete with the mixture's weights; there a pool is followed by its own BatchNorm.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, nn

from fer_nas.parallel import SharedBatchNorm


def batch_norm(channels: int, affine: bool) -> nn.BatchNorm2d:
    """Supernet norms (affine False) keep no running statistics: batch statistics serve training and validation.

    So the supernet has no buffers, and an unrolled step or a finite difference leaves nothing behind in it.
    """
    return SharedBatchNorm(channels, affine=affine, track_running_stats=affine)


def window(x_BCHW: Tensor, first: int, step: int) -> Tensor:
    """Rows and columns from `first` on by `step`.

    A slice's gradient lies in memory in the order in which the slice was made: images in channels-last are sliced as
    such, since a gradient in channels-first would make the backward before it several times as slow.
    """
    if x_BCHW.stride(1) == 1:
        return x_BCHW.permute(0, 2, 3, 1)[:, first::step, first::step].permute(0, 3, 1, 2)
    return x_BCHW[:, :, first::step, first::step]


class Pointwise(nn.Conv2d):
    """1×1 convolution without bias. In training a stride is taken by slicing first, which computes the same.

    oneDNN's backward of a strided 1×1 convolution in channels-last writes out of bounds on a CPU where the input has
    fewer channels than its vectors (seen with 2 to 6; torch 2.14, oneDNN issue 6035).
    """

    def __init__(self, c_in: int, c_out: int, stride: int = 1) -> None:
        super().__init__(c_in, c_out, 1, stride, bias=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        if not self.training or self.stride[0] == 1:
            return super().forward(x_BCHW)
        return nn.functional.conv2d(window(x_BCHW, 0, self.stride[0]), self.weight)


def relu_conv_bn(c_in: int, c_out: int, kernel: int, stride: int, affine: bool) -> nn.Sequential:
    return nn.Sequential(
        nn.ReLU(),
        Pointwise(c_in, c_out, stride)
        if kernel == 1
        else nn.Conv2d(c_in, c_out, kernel, stride, kernel // 2, bias=False),
        batch_norm(c_out, affine),
    )


class DilatedDepthwise(nn.Conv2d):
    """Depthwise convolution with dilation 2, computed without dilation while training.

    With stride 1 each parity of rows and columns is a picture of its own that is convolved alone; with stride 2 only
    the even parity is read. The same sums in another order; backward of a dilated depthwise convolution on a CPU
    costs several times as much.
    """

    def __init__(self, channels: int, kernel: int, stride: int) -> None:
        super().__init__(channels, channels, kernel, stride, 2 * (kernel // 2), dilation=2, groups=channels, bias=False)

    def forward(self, x_BCHW: Tensor) -> Tensor:
        if not self.training:  # one plain node in an exported graph
            return super().forward(x_BCHW)
        padding = self.kernel_size[0] // 2
        if self.stride[0] == 2:
            return nn.functional.conv2d(window(x_BCHW, 0, 2), self.weight, padding=padding, groups=self.groups)
        b, c, h, w = x_BCHW.shape
        even = nn.functional.pad(x_BCHW, (0, w % 2, 0, h % 2)) if h % 2 or w % 2 else x_BCHW
        half_h, half_w = even.shape[2] // 2, even.shape[3] // 2
        parities = even.permute(0, 2, 3, 1).reshape(b, half_h, 2, half_w, 2, c).permute(2, 4, 0, 1, 3, 5)
        flat = parities.reshape(4 * b, half_h, half_w, c).permute(0, 3, 1, 2)
        out = nn.functional.conv2d(flat, self.weight, padding=padding, groups=self.groups)
        back = out.permute(0, 2, 3, 1).reshape(2, 2, b, half_h, half_w, c).permute(2, 3, 0, 4, 1, 5)
        return back.reshape(b, 2 * half_h, 2 * half_w, c).permute(0, 3, 1, 2)[:, :, :h, :w]


def _depthwise(channels: int, kernel: int, stride: int, dilation: int, affine: bool) -> list[nn.Module]:
    depthwise: nn.Conv2d
    if dilation == 2:
        depthwise = DilatedDepthwise(channels, kernel, stride)
    else:
        depthwise = nn.Conv2d(channels, channels, kernel, stride, kernel // 2, groups=channels, bias=False)
    return [
        nn.ReLU(),
        depthwise,
        Pointwise(channels, channels),
        batch_norm(channels, affine),
    ]


def sep_conv(channels: int, kernel: int, stride: int, affine: bool) -> nn.Sequential:
    """Twice ReLU, depthwise, pointwise, BN; the stride is the first one's."""
    return nn.Sequential(*_depthwise(channels, kernel, stride, 1, affine), *_depthwise(channels, kernel, 1, 1, affine))


def dil_conv(channels: int, kernel: int, stride: int, affine: bool) -> nn.Sequential:
    """ReLU, depthwise with dilation 2, pointwise, BN."""
    return nn.Sequential(*_depthwise(channels, kernel, stride, 2, affine))


class Zero(nn.Module):
    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        return x[:, :, :: self.stride, :: self.stride] * 0.0


class FactorizedReduce(nn.Module):
    """Halves the resolution and loses no pixel: two 1×1 convolutions of stride 2, one shifted by a pixel."""

    def __init__(self, c_in: int, c_out: int, affine: bool) -> None:
        super().__init__()
        self.even = Pointwise(c_in, c_out // 2, stride=2)
        self.odd = Pointwise(c_in, c_out - c_out // 2, stride=2)
        self.norm = batch_norm(c_out, affine)

    def forward(self, x: Tensor) -> Tensor:
        x = torch.relu(x)
        # An odd side needs one more row and column behind the shifted view, so that both halves have one size.
        padded = nn.functional.pad(x, (0, x.shape[3] % 2, 0, x.shape[2] % 2))
        shifted = window(padded, 1, 1) if self.training else padded[:, :, 1:, 1:]
        return self.norm(torch.cat([self.even(x), self.odd(shifted)], dim=1))


class Ghost(nn.Module):
    """Half the channels by a 1×1 convolution, the other half from those by a depthwise 3×3; each BN, ReLU."""

    def __init__(self, channels: int, stride: int, affine: bool) -> None:
        super().__init__()
        half = (channels + 1) // 2
        self.primary = nn.Sequential(Pointwise(channels, half, stride), batch_norm(half, affine), nn.ReLU())
        self.cheap = nn.Sequential(
            nn.Conv2d(half, half, 3, padding=1, groups=half, bias=False), batch_norm(half, affine), nn.ReLU()
        )
        self.channels = channels

    def forward(self, x: Tensor) -> Tensor:
        primary = self.primary(x)
        return torch.cat([primary, self.cheap(primary)], dim=1)[:, : self.channels]


def _pool(pool: nn.Module, channels: int, affine: bool) -> nn.Module:
    return pool if affine else nn.Sequential(pool, batch_norm(channels, False))


def max_pool(channels: int, stride: int, affine: bool) -> nn.Module:
    return _pool(nn.MaxPool2d(3, stride, 1), channels, affine)


def avg_pool(channels: int, stride: int, affine: bool) -> nn.Module:
    return _pool(nn.AvgPool2d(3, stride, 1, count_include_pad=False), channels, affine)


def skip_connect(channels: int, stride: int, affine: bool) -> nn.Module:
    return nn.Identity() if stride == 1 else FactorizedReduce(channels, channels, affine)


Factory = Callable[[int, int, bool], nn.Module]

OPERATIONS: dict[str, Factory] = {
    "none": lambda channels, stride, affine: Zero(stride),
    "max_pool_3x3": max_pool,
    "avg_pool_3x3": avg_pool,
    "skip_connect": skip_connect,
    "sep_conv_3x3": lambda channels, stride, affine: sep_conv(channels, 3, stride, affine),
    "sep_conv_5x5": lambda channels, stride, affine: sep_conv(channels, 5, stride, affine),
    "dil_conv_3x3": lambda channels, stride, affine: dil_conv(channels, 3, stride, affine),
    "dil_conv_5x5": lambda channels, stride, affine: dil_conv(channels, 5, stride, affine),
    "conv_1x1": lambda channels, stride, affine: relu_conv_bn(channels, channels, 1, stride, affine),
    "conv_3x3": lambda channels, stride, affine: relu_conv_bn(channels, channels, 3, stride, affine),
    "ghost": Ghost,
}
"""Operation name → (channels, stride, affine) → module."""

AUXILIARY = "auxiliary_skip"
"""A skip connection beside those that an edge chooses from (Chu et al. 2021, DARTS-); its weight is not of λ."""


def make_operation(name: str, channels: int, stride: int) -> nn.Module:
    """An operation of the supernet."""
    return OPERATIONS["skip_connect" if name == AUXILIARY else name](channels, stride, False)
