"""Pieces of the fast form: depthwise convolutions, folded norms, pools; each with its backward written out.

Shapes: N images, H × W pixels, C channels; M = N·H·W pixels of the batch; J jobs (operations of edges) treated at once.
Images are (N, H, W, C) in memory, so that a matrix (M, C) is a view of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

T = TypeVar("T")
EPS = 1e-5  # nn.BatchNorm2d's


def matrix(x_NHWC: Tensor) -> Tensor:
    return x_NHWC.reshape(-1, x_NHWC.shape[-1])


def some(value: T | None) -> T:
    """A value that is there by construction."""
    assert value is not None
    return value


def nchw(x_NHWC: Tensor) -> Tensor:
    """The same memory in torch's order of dimensions (channels-last)."""
    return x_NHWC.permute(0, 3, 1, 2)


def nhwc(x_NCHW: Tensor) -> Tensor:
    return x_NCHW.permute(0, 2, 3, 1).contiguous()


# --- depthwise convolutions ------------------------------------------------------------------------------------------


def depthwise(x_NHWC: Tensor, weight: Tensor, stride: int) -> Tensor:
    """weight (C, 1, k, k), padding k // 2."""
    return nhwc(F.conv2d(nchw(x_NHWC), weight, stride=stride, padding=weight.shape[-1] // 2, groups=weight.shape[0]))


def conv_backward(
    g: Tensor, x: Tensor, weight: Tensor, stride: int, padding: tuple[int, int], groups: int, mask: list[bool]
) -> tuple[Tensor, Tensor, Tensor]:
    return torch.ops.aten.convolution_backward(
        g, x, weight, None, [stride, stride], list(padding), [1, 1], False, [0, 0], groups, mask
    )


def depthwise_backward(
    g_NHWC: Tensor, x_NHWC: Tensor, weight: Tensor, stride: int, with_weight: bool
) -> tuple[Tensor, Tensor | None]:
    """Gradients of `depthwise`'s input and, where asked for, of its weight."""
    g, x, groups, kernel = nchw(g_NHWC), nchw(x_NHWC), weight.shape[0], weight.shape[-1]
    halves = with_weight and kernel == 5 and stride == 1 and g.device.type == "cpu"
    padding = (kernel // 2, kernel // 2)
    dx, dw, _ = conv_backward(g, x, weight, stride, padding, groups, [True, with_weight and not halves, False])
    if halves:
        dw = _wide_weight_gradient(g, x, weight)
    return nhwc(dx), dw if with_weight else None


def _wide_weight_gradient(g: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Weight gradient of a 5×5 kernel as two of 5×3, with the picture and g moved against each other.

    oneDNN has no vectorized weight gradient for rows of five taps: 5×5 costs it 3.8 ms where 5×3 costs 0.5.
    """
    narrow = weight[..., 1:4].contiguous()
    dw = torch.empty_like(weight)
    for left, right, first in ((1, 0, 0), (0, 1, 2)):
        wide_x = F.pad(x, (left, right)).contiguous(memory_format=torch.channels_last)
        wide_g = F.pad(g, (right, left)).contiguous(memory_format=torch.channels_last)
        part = conv_backward(wide_g, wide_x, narrow, 1, (2, 1), weight.shape[0], [False, True, False])[1]
        dw[..., first : first + 3] = part
    return dw


def halves(x_NHWC: Tensor) -> tuple[Tensor, Tensor]:
    """What a factorized reduction reads: every second pixel, and every second one shifted by a row and a column.

    An odd side needs one more row and column behind the shifted view.
    """
    h, w = x_NHWC.shape[1:3]
    return x_NHWC[:, ::2, ::2], F.pad(x_NHWC, (0, 0, 0, w % 2, 0, h % 2))[:, 1::2, 1::2]


def repeat_channels(x_NHWC: Tensor, times: int) -> Tensor:
    if times == 1:
        return x_NHWC
    n, h, w, c = x_NHWC.shape
    return x_NHWC.unsqueeze(3).expand(n, h, w, times, c).reshape(n, h, w, times * c)


def sum_channels(x_NHWC: Tensor, times: int) -> Tensor:
    """Backward of `repeat_channels`."""
    if times == 1:
        return x_NHWC
    n, h, w, c = x_NHWC.shape
    return x_NHWC.view(n, h, w, times, c // times).sum(3)


def to_parities(x_NHWC: Tensor) -> Tensor:
    """(N, H, W, C) → (4·N, ⌈H/2⌉, ⌈W/2⌉, C): even and odd rows and columns as pictures of their own; zeros fill up.

    A convolution with dilation 2 is one without dilation on these.
    """
    n, h, w, c = x_NHWC.shape
    if h % 2 or w % 2:
        x_NHWC = F.pad(x_NHWC, (0, 0, 0, w % 2, 0, h % 2))
    h, w = (h + 1) // 2, (w + 1) // 2
    return x_NHWC.reshape(n, h, 2, w, 2, c).permute(2, 4, 0, 1, 3, 5).reshape(4 * n, h, w, c)


def from_parities(x_4NHWC: Tensor, height: int, width: int) -> Tensor:
    n, h, w, c = x_4NHWC.shape[0] // 4, *x_4NHWC.shape[1:]
    back = x_4NHWC.reshape(2, 2, n, h, w, c).permute(2, 3, 0, 4, 1, 5).reshape(n, 2 * h, 2 * w, c)
    return back[:, :height, :width]


# --- norms by batch statistics ---------------------------------------------------------------------------------------


@dataclass
class Norm:
    """BatchNorm without an affine part of many columns at once, each times a coefficient: out = y·A + b per column.

    y stays as it is: with its sums and sums of squares, s = (variance + eps)^(-1/2), A = coefficient · s and
    b = −mean·A. (torch's own reductions for a variance cost 5 to 20 times as much as these two sums.)
    """

    mean: Tensor
    scale: Tensor  # s
    coefficient: Tensor
    row: Tensor  # A
    bias: Tensor  # b
    pixels: int

    @classmethod
    def of(cls, total: Tensor, squares: Tensor, coefficient: Tensor, pixels: int) -> Norm:
        """All are (columns,)."""
        mean = total / pixels
        scale = torch.addcmul(squares / pixels, mean, mean, value=-1).clamp_min_(0).add_(EPS).rsqrt_()
        row = coefficient * scale
        return cls(mean, scale, coefficient, row, -mean * row, pixels)

    def backward(self, total: Tensor, cross: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """total: column sums of g, the gradient of out; cross: column sums of g·y.

        Returns the coefficient's gradient by column, and B and c of y's gradient g·A + y·B + c.
        """
        slope = self.scale * torch.addcmul(cross, self.mean, total, value=-1)  # column sums of g·(y − mean)·s
        by_y = self.row * self.scale * slope * (-1 / self.pixels)
        constant = torch.addcmul(self.row * total * (-1 / self.pixels), by_y, self.mean, value=-1)
        return slope, by_y, constant


def add_squares(y_MC: Tensor, total: Tensor, squares: Tensor, scratch: Tensor) -> None:
    """Column sums of y and of its squares."""
    torch.sum(y_MC, 0, out=total)
    torch.sum(torch.mul(y_MC, y_MC, out=scratch.view_as(y_MC)), 0, out=squares)


def standardize(x_MC: Tensor, out: Tensor | None = None) -> tuple[Tensor, Norm]:
    """(x − mean)·s by column."""
    norm = Norm.of(x_MC.sum(0), (x_MC * x_MC).sum(0), x_MC.new_ones(x_MC.shape[1]), x_MC.shape[0])
    return torch.addcmul(norm.bias, x_MC, norm.row, out=out), norm


def standardize_backward(g_MC: Tensor, normal_MC: Tensor, norm: Norm) -> Tensor:
    """From standardized values: s·(g − mean(g) − normal·mean(g·normal))."""
    total, cross = g_MC.sum(0), (g_MC * normal_MC).sum(0)
    result = torch.addcmul(total * norm.scale * (-1 / norm.pixels), g_MC, norm.scale)
    return result.addcmul_(normal_MC, cross * norm.scale * (-1 / norm.pixels))


class Standardize(torch.autograd.Function):
    """BatchNorm without an affine part by the batch's statistics, (M, C); differentiable once."""

    @staticmethod
    def forward(ctx: Any, x_MC: Tensor) -> Tensor:
        normal, ctx.norm = standardize(x_MC)
        ctx.save_for_backward(normal)
        return normal

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g_MC: Tensor) -> Tensor:
        return standardize_backward(g_MC, ctx.saved_tensors[0], ctx.norm)


# --- 1×1 convolutions ------------------------------------------------------------------------------------------------


NARROW = 8


def products(d: Tensor, points: list[Tensor]) -> Tensor:
    """Each edge's columns of d times its matrix: (M, k·C) and k matrices (C, C) → (M, k·C), d Pᵀ.

    Up to 8 columns as one block-diagonal matrix: BLAS reaches a quarter of its speed with so few.
    """
    width = points[0].shape[0]
    if len(points) == 1 or width <= NARROW:
        return d @ (points[0] if len(points) == 1 else torch.block_diag(*points)).t()
    out = torch.empty_like(d)
    for i, point in enumerate(points):
        part = slice(i * width, (i + 1) * width)
        torch.mm(d[:, part], point.t(), out=out[:, part])
    return out


def products_backward(g: Tensor, points: list[Tensor]) -> Tensor:
    """Gradient of `products`' first argument: g P."""
    return products(g, [point.t() for point in points])


# --- pools -----------------------------------------------------------------------------------------------------------


def max_pool(x_NHWC: Tensor, stride: int) -> tuple[Tensor, Tensor]:
    """3×3, padding 1; and the places of the maxima."""
    out, where = torch.ops.aten.max_pool2d_with_indices(nchw(x_NHWC), [3, 3], [stride, stride], [1, 1])
    return nhwc(out), where


def max_pool_backward(g_NHWC: Tensor, x_NHWC: Tensor, where: Tensor, stride: int) -> Tensor:
    dx = torch.ops.aten.max_pool2d_with_indices_backward(
        nchw(g_NHWC), nchw(x_NHWC), [3, 3], [stride, stride], [1, 1], [1, 1], False, where
    )
    return nhwc(dx)


def avg_pool(x_NHWC: Tensor, stride: int) -> Tensor:
    """3×3, padding 1 that does not count; as a depthwise convolution with ones, which costs a quarter of the time."""
    summed = depthwise(x_NHWC, x_NHWC.new_ones(x_NHWC.shape[3], 1, 3, 3), stride)
    return summed.mul_(avg_pool_share(x_NHWC.shape[1], x_NHWC.shape[2], stride, x_NHWC))


def avg_pool_backward(g_NHWC: Tensor, x_NHWC: Tensor, stride: int) -> Tensor:
    g = g_NHWC * avg_pool_share(x_NHWC.shape[1], x_NHWC.shape[2], stride, x_NHWC)
    return depthwise_backward(g, x_NHWC, g.new_ones(x_NHWC.shape[3], 1, 3, 3), stride, False)[0]


def avg_pool_share(height: int, width: int, stride: int, like: Tensor) -> Tensor:
    """1 / pixels of the image under the window (padding does not count), (H', W', 1)."""
    counts = F.avg_pool2d(like.new_ones(1, 1, height, width), 3, stride, 1, divisor_override=1)
    return counts.reciprocal_()[0].permute(1, 2, 0)
