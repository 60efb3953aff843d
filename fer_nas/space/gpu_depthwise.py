"""Depthwise convolutions of several edges on a GPU, in Triton, each with its backward.

Edges that read the same picture read it where it is: x has Cx channels, the output k·Cx, and channel c reads channel
c mod Cx; x's gradient is added up over the edges on the way. cuDNN would need x once for each edge, and its weight
gradient takes ten times as long as the rest, since it is not made for few channels with many pixels.

Images are (N, H, W, C) and contiguous; kernels (C, 1, size, size), size 3 or 5, padding size // 2. Sums over pixels are
taken in stretches of a fixed order, so that the same numbers come out every time.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 1024  # numbers that a program holds at a time
PROGRAMS = 2048  # about so many share a weight gradient


@triton.jit(do_not_specialize=["pixels"])
def _forward(  # type: ignore[no-untyped-def]
    x, weight, out, pixels, height, width, out_height, out_width, channels, x_channels,
    STRIDE: tl.constexpr, K: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    pixel = tl.program_id(0) * BM + tl.arange(0, BM)
    channel = tl.program_id(1) * BC + tl.arange(0, BC)
    inside, there = channel < channels, pixel < pixels
    column, line = (pixel % out_width) * STRIDE - K // 2, pixel // out_width
    row = (line % out_height) * STRIDE - K // 2
    picture = (line // out_height).to(tl.int64) * height
    read = channel % x_channels
    total = tl.zeros((BM, BC), dtype=out.dtype.element_ty)
    for i in tl.static_range(K):
        for j in tl.static_range(K):
            h, w = row + i, column + j
            mask = (there & (h >= 0) & (h < height) & (w >= 0) & (w < width))[:, None] & inside[None, :]
            value = tl.load(x + ((picture + h) * width + w)[:, None] * x_channels + read[None, :], mask=mask, other=0.0)
            tap = tl.load(weight + channel * (K * K) + (i * K + j), mask=inside, other=0.0)
            total += value * tap[None, :]
    place = pixel.to(tl.int64)[:, None] * channels + channel[None, :]
    tl.store(out + place, total, mask=there[:, None] & inside[None, :])


@triton.jit(do_not_specialize=["pixels", "edges"])
def _input_gradient(  # type: ignore[no-untyped-def]
    g, weight, out, pixels, height, width, out_height, out_width, channels, x_channels, edges,
    STRIDE: tl.constexpr, K: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    pixel = tl.program_id(0) * BM + tl.arange(0, BM)
    channel = tl.program_id(1) * BC + tl.arange(0, BC)
    inside, there = channel < x_channels, pixel < pixels
    column, line = pixel % width + K // 2, pixel // width
    row = line % height + K // 2
    picture = (line // height).to(tl.int64) * out_height
    total = tl.zeros((BM, BC), dtype=out.dtype.element_ty)
    for edge in range(edges):
        at = channel + edge * x_channels
        for i in tl.static_range(K):
            for j in tl.static_range(K):
                h, w = (row - i) // STRIDE, (column - j) // STRIDE
                hit = there & (row >= i) & (column >= j) & (h < out_height) & (w < out_width)
                if STRIDE == 2:
                    hit = hit & ((row - i) % 2 == 0) & ((column - j) % 2 == 0)
                place = ((picture + h) * out_width + w)[:, None] * channels + at[None, :]
                slope = tl.load(g + place, mask=hit[:, None] & inside[None, :], other=0.0)
                total += slope * tl.load(weight + at * (K * K) + (i * K + j), mask=inside, other=0.0)[None, :]
    place = pixel.to(tl.int64)[:, None] * x_channels + channel[None, :]
    tl.store(out + place, total, mask=there[:, None] & inside[None, :])


@triton.jit(do_not_specialize=["pixels", "rows_each"])
def _weight_gradient(  # type: ignore[no-untyped-def]
    g, x, parts, pixels, rows_each, height, width, out_height, out_width, channels, x_channels,
    STRIDE: tl.constexpr, K: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Of one row of the kernel, a stretch of pixels and some channels, in parts."""
    part, i = tl.program_id(0), tl.program_id(2)
    channel = tl.program_id(1) * BC + tl.arange(0, BC)
    inside, read = channel < channels, channel % x_channels
    sum0 = tl.zeros((BM, BC), dtype=parts.dtype.element_ty)
    sum1 = tl.zeros((BM, BC), dtype=parts.dtype.element_ty)
    sum2 = tl.zeros((BM, BC), dtype=parts.dtype.element_ty)
    sum3 = tl.zeros((BM, BC), dtype=parts.dtype.element_ty)
    sum4 = tl.zeros((BM, BC), dtype=parts.dtype.element_ty)
    for offset in range(0, rows_each, BM):
        pixel = part * rows_each + offset + tl.arange(0, BM)
        line = pixel // out_width
        row = (line % out_height) * STRIDE + i - K // 2
        there = (pixel < pixels) & (row >= 0) & (row < height)
        place = pixel.to(tl.int64)[:, None] * channels + channel[None, :]
        slope = tl.load(g + place, mask=there[:, None] & inside[None, :], other=0.0)
        start = ((line // out_height).to(tl.int64) * height + row) * width
        left = (pixel % out_width) * STRIDE - K // 2
        sum0 += slope * _column(x, start, left, there, width, read, inside, x_channels)
        sum1 += slope * _column(x, start, left + 1, there, width, read, inside, x_channels)
        sum2 += slope * _column(x, start, left + 2, there, width, read, inside, x_channels)
        if K == 5:
            sum3 += slope * _column(x, start, left + 3, there, width, read, inside, x_channels)
            sum4 += slope * _column(x, start, left + 4, there, width, read, inside, x_channels)
    to = parts + (part * K + i).to(tl.int64) * K * channels + channel
    tl.store(to, tl.sum(sum0, 0), mask=inside)
    tl.store(to + channels, tl.sum(sum1, 0), mask=inside)
    tl.store(to + 2 * channels, tl.sum(sum2, 0), mask=inside)
    if K == 5:
        tl.store(to + 3 * channels, tl.sum(sum3, 0), mask=inside)
        tl.store(to + 4 * channels, tl.sum(sum4, 0), mask=inside)


@triton.jit
def _column(x, start, at, there, width, read, inside, x_channels):  # type: ignore[no-untyped-def]
    mask = (there & (at >= 0) & (at < width))[:, None] & inside[None, :]
    return tl.load(x + (start + at)[:, None] * x_channels + read[None, :], mask=mask, other=0.0)


@triton.jit(do_not_specialize=["count"])
def _add_up(parts, out, count, channels, TAPS: tl.constexpr, BP: tl.constexpr, BC: tl.constexpr):  # type: ignore[no-untyped-def]
    """(P, TAPS, C) → (C, TAPS)."""
    tap = tl.program_id(1)
    channel = tl.program_id(0) * BC + tl.arange(0, BC)
    inside = channel < channels
    total = tl.zeros((BC,), dtype=parts.dtype.element_ty)
    for offset in range(0, count, BP):
        part = offset + tl.arange(0, BP)
        mask = (part < count)[:, None] & inside[None, :]
        place = (part.to(tl.int64)[:, None] * TAPS + tap) * channels + channel[None, :]
        total += tl.sum(tl.load(parts + place, mask=mask, other=0.0), 0)
    tl.store(out + channel * TAPS + tap, total, mask=inside)


def _tile(channels: int) -> tuple[int, int]:
    """Pixels and channels that a program holds."""
    wide = next((w for w in (32, 16, 8) if channels % w == 0), min(32, triton.next_power_of_2(channels)))
    return TILE // wide, wide


def forward(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """(N, H, W, Cx) → (N, ⌈H/stride⌉, ⌈W/stride⌉, C)."""
    n, height, width, x_channels = x.shape
    channels, size = weight.shape[0], weight.shape[-1]
    out = x.new_empty(n, -(-height // stride), -(-width // stride), channels)
    pixels, (rows, wide) = out.numel() // channels, _tile(channels)
    _forward[(triton.cdiv(pixels, rows), triton.cdiv(channels, wide))](
        x, weight, out, pixels, height, width, *out.shape[1:3], channels, x_channels,
        STRIDE=stride, K=size, BM=rows, BC=wide,
    )  # fmt: skip
    return out


def input_gradient(g: Tensor, x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """From g, of the output's shape: x's gradient, (N, H, W, Cx)."""
    n, height, width, x_channels = x.shape
    channels, size = weight.shape[0], weight.shape[-1]
    dx = torch.empty_like(x)
    pixels, (rows, wide) = n * height * width, _tile(x_channels)
    _input_gradient[(triton.cdiv(pixels, rows), triton.cdiv(x_channels, wide))](
        g, weight, dx, pixels, height, width, *g.shape[1:3], channels, x_channels, channels // x_channels,
        STRIDE=stride, K=size, BM=rows, BC=wide,
    )  # fmt: skip
    return dx


def weight_gradient(g: Tensor, x: Tensor, size: int, stride: int) -> Tensor:
    """From g, of the output's shape: (C, 1, size, size)."""
    channels, (rows, wide) = g.shape[3], _tile(g.shape[3])
    pixels, columns = g.numel() // channels, triton.cdiv(channels, wide)
    rows_each = rows * triton.cdiv(pixels, rows * max(1, PROGRAMS // (columns * size)))
    count = triton.cdiv(pixels, rows_each)
    parts = x.new_empty(count, size * size, channels)
    _weight_gradient[(count, columns, size)](
        g, x, parts, pixels, rows_each, *x.shape[1:3], *g.shape[1:3], channels, x.shape[3],
        STRIDE=stride, K=size, BM=rows, BC=wide,
    )  # fmt: skip
    dw = x.new_empty(channels, 1, size, size)
    _add_up[(triton.cdiv(channels, 16), size * size)](parts, dw, count, channels, TAPS=size * size, BP=64, BC=16)
    return dw
