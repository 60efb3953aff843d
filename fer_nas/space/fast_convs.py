"""Convolutions and pools of the fast form, each with its backward written out.

Shapes: N images, H × W pixels, C channels; M = N·H·W pixels of the batch; k edges side by side.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, TypeVar

import torch
from torch import Tensor
from torch.nn import functional as F

from fer_nas.space import fast_kernels as kernels
from fer_nas.space.fast_layout import nchw, nhwc, repeat_channels

T = TypeVar("T")

# --- depthwise convolutions ------------------------------------------------------------------------------------------


def depthwise(x_NHWC: Tensor, weight: Tensor, stride: int) -> Tensor:
    """weight (C, 1, k, k), padding k // 2. With kernels of our own x may have fewer channels: see `beside`."""
    if kernels.by_triton(x_NHWC):
        return kernels.gpu_depthwise.forward(x_NHWC.contiguous(), weight, stride)

    def convolved(x: Tensor) -> Tensor:
        return nhwc(F.conv2d(x, weight, stride=stride, padding=weight.shape[-1] // 2, groups=weight.shape[0]))

    x = nchw(x_NHWC)
    if not kernels.on_gpu(x):
        return convolved(x)
    key = ("forward", x.shape[1:], weight.shape, stride, x.dtype)
    return fastest(key, lambda: convolved(x.contiguous()), lambda: convolved(x))


_FASTEST: dict[Any, int] = {}


def fastest(key: Any, *ways: Callable[[], T]) -> T:
    """The result of the way that took a GPU the least time at the key's first call, where all are timed; one that does
    not run there is none.

    Not while a CUDA graph is recorded, where nothing can be timed: the first way then, for a key that is new.
    """
    if key not in _FASTEST:
        if not torch.cuda.is_available() or torch.cuda.is_current_stream_capturing():
            return ways[0]()
        times = [_time_of(way) for way in ways]
        _FASTEST[key] = times.index(min(times))
    return ways[_FASTEST[key]]()


def _time_of(way: Callable[[], Any]) -> float:
    try:
        return _milliseconds(way)
    except torch.OutOfMemoryError:
        raise
    except (
        Exception
    ):  # a kernel that needs more of a GPU than there is; what its compiler raises is not known beforehand
        return float("inf")


def _milliseconds(way: Callable[[], Any], repeats: int = 5) -> float:
    for _ in range(2):
        way()
    torch.cuda.synchronize()  # nothing of other lanes beside it
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


def beside(x_NHWC: Tensor, times: int) -> Tensor:
    """What `depthwise` reads x as for several edges side by side: x itself where its kernels read it for each."""
    return x_NHWC if kernels.by_triton(x_NHWC) else repeat_channels(x_NHWC, times)


def depthwise_backward(
    g_NHWC: Tensor, x_NHWC: Tensor, weight: Tensor, stride: int, with_weight: bool
) -> tuple[Tensor, Tensor | None]:
    """Gradients of `depthwise`'s input and, where asked for, of its weight."""
    if kernels.by_triton(g_NHWC):
        own, g_NHWC, x_NHWC = kernels.gpu_depthwise, g_NHWC.contiguous(), x_NHWC.contiguous()
        d_weight = own.weight_gradient(g_NHWC, x_NHWC, weight.shape[-1], stride) if with_weight else None
        return own.input_gradient(g_NHWC, x_NHWC, weight, stride), d_weight
    g, x, groups, kernel = nchw(g_NHWC), nchw(x_NHWC), weight.shape[0], weight.shape[-1]
    split = _split_weight_gradient(x, kernel, stride) if with_weight else None
    padding = (kernel // 2, kernel // 2)
    if kernels.on_gpu(g):
        dx, dw = _depthwise_backward_on_gpu(g, x, weight, stride, with_weight)
        return nhwc(dx), dw
    dw = None if split is None else split(g, x, weight)
    here = with_weight and split is None
    if stride == 1:  # a convolution with the kernel turned around takes oneDNN 0.6 to 0.9 of its backward's time
        dx = F.conv2d(g, weight.flip(2, 3), padding=padding, groups=groups)
        if here:
            dw = conv_backward(g, x, weight, stride, padding, groups, [False, True, False])[1]
        return nhwc(dx), dw
    dx, plain_dw, _ = conv_backward(g, x, weight, stride, padding, groups, [True, here, False])
    return nhwc(dx), plain_dw if here else dw


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
    """Of a 5×5 kernel as two of 5×3, with the picture and g moved against each other by a column. (With two columns of
    padding x could stay as it is, which is two to five times as slow.)"""
    narrow = weight[..., 1:4].contiguous()
    dw = torch.empty_like(weight)
    (x_left, x_right), (g_left, g_right) = _between_columns(x), _between_columns(g)
    for wide_x, wide_g, first in ((x_right, g_left, 0), (x_left, g_right, 2)):
        part = conv_backward(wide_g, wide_x, narrow, 1, (2, 1), weight.shape[0], [False, True, False])[1]
        dw[..., first : first + 3] = part
    return dw


def _between_columns(x: Tensor) -> tuple[Tensor, Tensor]:
    """A picture with a column of zeros behind it and the same with one before it, (N, C, H, W + 1): the same memory,
    one pixel apart."""
    n, c, h, w = x.shape
    if kernels.by_numba(x):
        memory = kernels.cpu_pictures.between_columns(nhwc(x))
        return nchw(memory[1:].view(n, h, w + 1, c)), nchw(memory[:-1].view(n, h, w + 1, c))
    memory = x.new_empty(n * h * (w + 1) + 1, c)
    left = memory[1:].view(n, h, w + 1, c)
    memory[0] = 0
    left[:, :, w] = 0
    left[:, :, :w] = x.permute(0, 2, 3, 1)
    return nchw(left), nchw(memory[:-1].view(n, h, w + 1, c))


# --- 1×1 convolutions ------------------------------------------------------------------------------------------------


NARROW = 8


def products(d: Tensor, points: list[Tensor]) -> Tensor:
    """Each edge's columns of d times its matrix, turned: (M, k·C) and k matrices (C, C) → (M, k·C), d Pᵀ."""
    return _products(d, [point.t() for point in points])


def products_backward(g: Tensor, points: list[Tensor]) -> Tensor:
    """Gradient of `products`' first argument: g P."""
    return _products(g, points)


def _products(d: Tensor, matrices: list[Tensor]) -> Tensor:
    """Each edge's columns of d times its matrix.

    On a CPU up to 8 columns as one block-diagonal matrix: BLAS reaches a quarter of its speed with so few. On a GPU all
    in one batched product.
    """
    width, count = matrices[0].shape[0], len(matrices)
    if count == 1:
        return torch.mm(d, matrices[0])
    if kernels.on_gpu(d):
        return by_edge(d, count, torch.stack(matrices))
    if width <= NARROW:
        return torch.mm(d, torch.block_diag(*matrices))
    out = torch.empty_like(d)
    for own, matrix, result in zip(d.chunk(count, 1), matrices, out.chunk(count, 1), strict=True):
        torch.mm(own, matrix, out=result)
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
    if count > 1 and kernels.on_gpu(d):  # one product with blocks that nobody needs, instead of several that are narrow
        all_pairs, width = torch.mm(g.t(), d), d.shape[1] // count
        parts = [slice(i * width, (i + 1) * width) for i in range(count)]
        return [all_pairs[part, part] for part in parts]
    return [torch.mm(own.t(), read) for own, read in zip(g.chunk(count, 1), d.chunk(count, 1), strict=True)]


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
