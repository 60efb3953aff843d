"""Pieces of the fast form: depthwise convolutions, folded norms, pools; each with its backward written out.

Shapes: N images, H × W pixels, C channels; M = N·H·W pixels of the batch; J jobs (operations of edges) treated at once.
Images are (N, H, W, C) in memory, so that a matrix (M, C) is a view of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import lru_cache
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


def on_gpu(x: Tensor) -> bool:
    """Where a call costs more than the memory that it saves: the edges of a source go together there."""
    return x.is_cuda


try:
    from fer_nas.space import gpu_kernels
except ImportError:  # torch for a CPU, and Windows, have no Triton
    gpu_kernels = None  # type: ignore[assignment]


def fused(x: Tensor) -> bool:
    """Whether kernels of our own are there for this tensor."""
    return gpu_kernels is not None and on_gpu(x)


# --- depthwise convolutions ------------------------------------------------------------------------------------------


def depthwise(x_NHWC: Tensor, weight: Tensor, stride: int) -> Tensor:
    """weight (C, 1, k, k), padding k // 2."""

    def convolved(x: Tensor) -> Tensor:
        return nhwc(F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2, groups=weight.shape[0]))

    x = nchw(x_NHWC)
    if not on_gpu(x):
        return convolved(x)
    key = ("forward", x.shape[1:], weight.shape, stride, x.dtype)
    return fastest(key, lambda: convolved(x.contiguous()), lambda: convolved(x))


_FASTEST: dict[Any, int] = {}


def fastest(key: Any, *ways: Callable[[], T]) -> T:
    """The result of the way that took a GPU the least time at the key's first call, where all are timed.

    Not while a CUDA graph is recorded, where nothing can be timed: the first way then, for a key that is new.
    """
    if key not in _FASTEST:
        if not torch.cuda.is_available() or torch.cuda.is_current_stream_capturing():
            return ways[0]()
        _FASTEST[key] = min(range(len(ways)), key=lambda way: _milliseconds(ways[way]))
    return ways[_FASTEST[key]]()


def _milliseconds(way: Callable[[], Any], repeats: int = 5) -> float:
    for _ in range(2):
        way()
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(repeats):
        way()
    end.record()
    end.synchronize()
    return start.elapsed_time(end)


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
    split = _split_weight_gradient(x, kernel, stride) if with_weight else None
    padding = (kernel // 2, kernel // 2)
    if on_gpu(g):
        dx, dw = _depthwise_backward_on_gpu(g, x, weight, stride, with_weight)
        return nhwc(dx), dw
    dx, dw, _ = conv_backward(g, x, weight, stride, padding, groups, [True, with_weight and split is None, False])
    if split is not None:
        dw = split(g, x, weight)
    return nhwc(dx), dw if with_weight else None


def _depthwise_backward_on_gpu(
    g: Tensor, x: Tensor, weight: Tensor, stride: int, with_weight: bool
) -> tuple[Tensor, Tensor | None]:
    """Gradients of input and weight, each in the memory format that is faster for it."""
    padding = (weight.shape[-1] // 2,) * 2

    def found(last: bool, which: int) -> Tensor:
        form = torch.channels_last if last else torch.contiguous_format
        given = g.contiguous(memory_format=form), x.contiguous(memory_format=form)
        return conv_backward(*given, weight, stride, padding, weight.shape[0], [which == 0, which == 1, False])[which]

    key = (x.shape[1:], weight.shape, stride, x.dtype)
    dx = fastest(("input", *key), lambda: found(False, 0), lambda: found(True, 0))
    if not with_weight:
        return dx, None
    return dx, fastest(("weight", *key), lambda: found(False, 1), lambda: found(True, 1))


def _split_weight_gradient(x: Tensor, kernel: int, stride: int) -> Callable[[Tensor, Tensor, Tensor], Tensor] | None:
    """How to take a 5×5 kernel's weight gradient apart on a CPU, where that pays.

    oneDNN has no vectorized weight gradient for rows of five taps: 5×5 costs it 3.8 ms where 5×3 costs 0.5.
    """
    if kernel != 5:
        return None
    if stride == 1:
        return _wide_weight_gradient if x.shape[3] >= 8 else None
    return None if x.shape[2] % 2 or x.shape[3] % 2 else _strided_weight_gradient


def _strided_weight_gradient(g: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Of a 5×5 kernel with stride 2: its even and odd rows and columns are kernels of their own, no larger than 3×3, on
    the even and odd pixels, without stride. All four at once, as channels; what is beyond an odd one is dropped."""
    n, c, h, w = x.shape
    pictures = x.permute(0, 2, 3, 1).reshape(n, h // 2, 2, w // 2, 2, c).permute(0, 1, 3, 2, 4, 5)
    pictures = nchw(pictures.reshape(n, h // 2, w // 2, 4 * c))
    slopes = nchw(repeat_channels(g.permute(0, 2, 3, 1), 4))
    small = weight.new_zeros(4 * c, 1, 3, 3)
    parts = conv_backward(slopes, pictures, small, 1, (1, 1), 4 * c, [False, True, False])[1].view(4, c, 1, 3, 3)
    dw = torch.empty_like(weight)
    for place, part in enumerate(parts):
        row, column = divmod(place, 2)
        dw[..., row::2, column::2] = part[..., : 3 - row, : 3 - column]
    return dw


def _wide_weight_gradient(g: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """Of a 5×5 kernel as two of 5×3, with the picture and g moved against each other. (With two columns of padding x
    could stay as it is, which is two to five times as slow.)"""
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
    row: Tensor  # A
    bias: Tensor  # b
    pixels: int

    @classmethod
    def of(cls, total: Tensor, squares: Tensor, coefficient: Tensor, pixels: int) -> Norm:
        """All are (columns,)."""
        mean = total / pixels
        scale = torch.addcmul(squares / pixels, mean, mean, value=-1).clamp_min_(0).add_(EPS).rsqrt_()
        row = coefficient * scale
        return cls(mean, scale, row, -mean * row, pixels)

    @classmethod
    def measured(cls, ys: list[Tensor], pixels: int, coefficient: Tensor | None = None, channels: int = 1) -> Norm:
        """Of the columns of `ys` side by side; coefficient: one for each `channels` columns, 1 where not given.

        Some of `ys` may have rows of zeros beyond the pixels.
        """
        if fused(ys[0]):
            parts = gpu_kernels.sum_parts([(y, y) for y in ys])
            mean, scale, row, bias = gpu_kernels.norm(parts, coefficient, channels, pixels, EPS)
            return cls(mean, scale, row, bias, pixels)
        columns = sum(y.shape[1] for y in ys)
        total, squares = ys[0].new_empty(2, columns)
        scratch = torch.empty_like(max(ys, key=Tensor.numel))
        start = 0
        for y in ys:
            part = slice(start, start + y.shape[1])
            add_squares(y, total[part], squares[part], scratch.view(-1)[: y.numel()])
            start = part.stop
        by_column = total.new_ones(columns) if coefficient is None else coefficient.repeat_interleave(channels)
        return cls.of(total, squares, by_column, pixels)

    def measured_backward(
        self, gs: Iterable[Tensor], ys: list[Tensor], total: Callable[[], Tensor] | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`backward` from the gradients of outputs as in `measured`. total: their column sums, where they are known."""
        if fused(ys[0]):
            parts = gpu_kernels.sum_parts(list(zip(gs, ys, strict=True)))
            slope, by_y, constant = gpu_kernels.norm_backward(parts, self.mean, self.scale, self.row, self.pixels)
            return slope, by_y, constant
        cross, sums = torch.empty_like(self.row), torch.empty_like(self.row) if total is None else total()
        scratch = torch.empty_like(max(ys, key=Tensor.numel)).view(-1)
        start = 0
        for g, y in zip(gs, ys, strict=True):
            part = slice(start, start + y.shape[1])
            if total is None:
                torch.sum(g, 0, out=sums[part])
            torch.sum(torch.mul(g, y, out=scratch[: y.numel()].view_as(y)), 0, out=cross[part])
            start = part.stop
        return self.backward(sums, cross)

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


def scaled(y_MC: Tensor, row: Tensor, bias: Tensor, relu: bool = False, out: Tensor | None = None) -> Tensor:
    """y·row + bias by column, and ReLU where asked for."""
    if fused(y_MC):
        return gpu_kernels.scaled(y_MC, row, bias, relu, out)
    result = torch.addcmul(bias, y_MC, row, out=out)
    return result.relu_() if relu else result


def combined(g_MC: Tensor, y_MC: Tensor, row: Tensor, by_y: Tensor, constant: Tensor) -> Tensor:
    """g·row + y·by_y + constant by column."""
    if fused(y_MC):
        return gpu_kernels.combined(g_MC, y_MC, row, by_y, constant)
    return torch.addcmul(constant, g_MC, row).addcmul_(y_MC, by_y)


def standardize(x_MC: Tensor, out: Tensor | None = None) -> tuple[Tensor, Norm]:
    """(x − mean)·s by column."""
    norm = Norm.measured([x_MC], len(x_MC))
    return scaled(x_MC, norm.row, norm.bias, out=out), norm


def standardize_backward(g_MC: Tensor, normal_MC: Tensor, norm: Norm) -> Tensor:
    """From standardized values: s·(g − mean(g) − normal·mean(g·normal))."""
    if fused(g_MC):
        plain = Norm(torch.zeros_like(norm.scale), torch.ones_like(norm.scale), norm.scale, norm.bias, norm.pixels)
        _, by_y, constant = plain.measured_backward([g_MC], [normal_MC])
        return combined(g_MC, normal_MC, norm.scale, by_y, constant)
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

    On a CPU up to 8 columns as one block-diagonal matrix: BLAS reaches a quarter of its speed with so few. On a GPU all
    in one batched product.
    """
    width = points[0].shape[0]
    if len(points) == 1:
        return d @ points[0].t()
    if on_gpu(d):
        return by_edge(d, len(points), torch.stack([point.t() for point in points]))
    if width <= NARROW:
        return d @ torch.block_diag(*points).t()
    out = torch.empty_like(d)
    for i, point in enumerate(points):
        part = slice(i * width, (i + 1) * width)
        torch.mm(d[:, part], point.t(), out=out[:, part])
    return out


def by_edge(d: Tensor, count: int, matrices: Tensor) -> Tensor:
    """Each edge's columns of d (M, k·C) times its matrix of (k, C, C), as (M, k·C)."""
    out = torch.empty_like(d)
    torch.bmm(_apart(d, count), matrices, out=_apart(out, count))
    return out


def _apart(d: Tensor, count: int) -> Tensor:
    """(M, k·C) as (k, M, C), the same memory."""
    return d.view(len(d), count, -1).transpose(0, 1)


def point_gradients(g: Tensor, d: Tensor, count: int) -> list[Tensor]:
    """Gradients of the matrices of `products`, k of (C, C): gᵀ d of each edge's columns."""
    width = d.shape[1] // count
    parts = [slice(i * width, (i + 1) * width) for i in range(count)]
    if count > 1 and on_gpu(d):  # one product with blocks that nobody needs, instead of several that are narrow
        all_pairs = torch.mm(g.t(), d)
        return [all_pairs[part, part] for part in parts]
    return [torch.mm(g[:, part].t(), d[:, part]) for part in parts]


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
    ones, share = _avg_pool_constants(*x_NHWC.shape[1:], stride, x_NHWC.dtype, x_NHWC.device)
    return depthwise(x_NHWC, ones, stride).mul_(share)


def avg_pool_backward(g_NHWC: Tensor, x_NHWC: Tensor, stride: int) -> Tensor:
    ones, share = _avg_pool_constants(*x_NHWC.shape[1:], stride, x_NHWC.dtype, x_NHWC.device)
    return depthwise_backward(g_NHWC * share, x_NHWC, ones, stride, False)[0]


@lru_cache(maxsize=256)
def _avg_pool_constants(
    height: int, width: int, channels: int, stride: int, dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    """A kernel of ones, (C, 1, 3, 3), and 1 / pixels of the image under it (padding does not count), (H', W', 1)."""
    like = torch.ones(1, 1, height, width, dtype=dtype, device=device)
    counts = F.avg_pool2d(like, 3, stride, 1, divisor_override=1)
    return like.new_ones(channels, 1, 3, 3), counts.reciprocal_()[0].permute(1, 2, 0)
