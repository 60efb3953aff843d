"""Depthwise convolutions of several edges on a GPU, in Triton, each with its backward.

Edges that read the same picture read it where it is: x has Cx channels, the output k·Cx, and channel c reads channel
c mod Cx; x's gradient is added up over the edges on the way. cuDNN would need x once for each edge, and its weight
gradient takes ten times as long as the rest, since it is not made for few channels with many pixels.

Images are (N, H, W, C) and contiguous; kernels (C, 1, size, size), size 3 or 5, padding size // 2. Sums over pixels are
taken in stretches of a fixed order, so that the same numbers come out every time. Sizes are no part of a compiled
kernel; channels are handed over divided by V, so that it knows them to be a multiple.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

TILE = 1024  # numbers that a program holds at a time
PROGRAMS = 2048  # about so many share a weight gradient

_SIZES = ["pixels", "height", "width", "out_height", "out_width", "channels_v", "x_channels_v"]


@triton.jit(do_not_specialize=_SIZES)
def _forward(  # type: ignore[no-untyped-def]
    x, weight, out, pixels, height, width, out_height, out_width, channels_v, x_channels_v,
    STRIDE: tl.constexpr, K: tl.constexpr, V: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    channels, x_channels = channels_v * V, x_channels_v * V
    pixel = tl.program_id(0) * BM + tl.arange(0, BM)
    block = tl.program_id(1) * BC
    channel, read = block + tl.arange(0, BC), block // V % x_channels_v * V + tl.arange(0, BC)
    inside, there = channel < channels, pixel < pixels
    column, line = (pixel % out_width) * STRIDE - K // 2, pixel // out_width
    row = (line % out_height) * STRIDE - K // 2
    first = ((line // out_height).to(tl.int64) * height + row) * width + column
    corner = x + first[:, None] * x_channels + read[None, :]
    total = tl.zeros((BM, BC), dtype=out.dtype.element_ty)
    for i in range(K):
        for j in tl.static_range(K):
            mask = there & (row + i >= 0) & (row + i < height) & (column + j >= 0) & (column + j < width)
            value = tl.load(corner + (i * width + j) * x_channels, mask=mask[:, None] & inside[None, :], other=0.0)
            tap = tl.load(weight + channel * (K * K) + (i * K + j), mask=inside, other=0.0)
            total += value * tap[None, :]
    place = pixel.to(tl.int64)[:, None] * channels + channel[None, :]
    tl.store(out + place, total, mask=there[:, None] & inside[None, :])


@triton.jit(do_not_specialize=[*_SIZES, "edges"])
def _input_gradient(  # type: ignore[no-untyped-def]
    g, weight, out, pixels, height, width, out_height, out_width, channels_v, x_channels_v, edges,
    STRIDE: tl.constexpr, K: tl.constexpr, V: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    channels, x_channels = channels_v * V, x_channels_v * V
    pixel = tl.program_id(0) * BM + tl.arange(0, BM)
    channel = tl.program_id(1) * BC + tl.arange(0, BC)
    inside, there = channel < x_channels, pixel < pixels
    column, line = pixel % width + K // 2, pixel // width
    row = line % height + K // 2
    picture = (line // height).to(tl.int64) * out_height
    corner = g + ((picture + row) * out_width + column)[:, None] * channels + channel[None, :]
    total = tl.zeros((BM, BC), dtype=out.dtype.element_ty)
    for edge in range(edges):
        own = edge * x_channels
        for i in range(K):
            for j in tl.static_range(K):
                h, w = (row - i) // STRIDE, (column - j) // STRIDE
                hit = there & (row >= i) & (column >= j) & (h < out_height) & (w < out_width)
                if STRIDE == 2:
                    hit = hit & ((row - i) % 2 == 0) & ((column - j) % 2 == 0)
                    at = g + ((picture + h) * out_width + w)[:, None] * channels + channel[None, :]
                else:
                    at = corner - (i * out_width + j) * channels
                slope = tl.load(at + own, mask=hit[:, None] & inside[None, :], other=0.0)
                tap = tl.load(weight + (channel + own) * (K * K) + (i * K + j), mask=inside, other=0.0)
                total += slope * tap[None, :]
    place = pixel.to(tl.int64)[:, None] * x_channels + channel[None, :]
    tl.store(out + place, total, mask=there[:, None] & inside[None, :])


@triton.jit(do_not_specialize=[*_SIZES, "rows_each"])
def _weight_gradient(  # type: ignore[no-untyped-def]
    g, x, parts, pixels, rows_each, height, width, out_height, out_width, channels_v, x_channels_v,
    STRIDE: tl.constexpr, K: tl.constexpr, V: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Of one row of the kernel, a stretch of pixels and some channels, in parts."""
    channels, x_channels = channels_v * V, x_channels_v * V
    part, i = tl.program_id(0), tl.program_id(2)
    block = tl.program_id(1) * BC
    channel, read = block + tl.arange(0, BC), block // V % x_channels_v * V + tl.arange(0, BC)
    inside = channel < channels
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
        left = (pixel % out_width) * STRIDE - K // 2
        start = ((line // out_height).to(tl.int64) * height + row) * width + left
        corner = x + start[:, None] * x_channels + read[None, :]
        sum0 += slope * _column(corner, left, 0, there, width, inside, x_channels)
        sum1 += slope * _column(corner, left, 1, there, width, inside, x_channels)
        sum2 += slope * _column(corner, left, 2, there, width, inside, x_channels)
        if K == 5:
            sum3 += slope * _column(corner, left, 3, there, width, inside, x_channels)
            sum4 += slope * _column(corner, left, 4, there, width, inside, x_channels)
    to = parts + (part * K + i).to(tl.int64) * K * channels + channel
    tl.store(to, tl.sum(sum0, 0), mask=inside)
    tl.store(to + channels, tl.sum(sum1, 0), mask=inside)
    tl.store(to + 2 * channels, tl.sum(sum2, 0), mask=inside)
    if K == 5:
        tl.store(to + 3 * channels, tl.sum(sum3, 0), mask=inside)
        tl.store(to + 4 * channels, tl.sum(sum4, 0), mask=inside)


@triton.jit
def _column(corner, left, j: tl.constexpr, there, width, inside, x_channels):  # type: ignore[no-untyped-def]
    mask = (there & (left + j >= 0) & (left + j < width))[:, None] & inside[None, :]
    return tl.load(corner + j * x_channels, mask=mask, other=0.0)


@triton.jit(do_not_specialize=["count", "channels"])
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


def _form(x_channels: int) -> dict[str, Any]:
    """What a kernel is compiled for: channels that a program holds, of one edge alone; pixels; what divides them."""
    wide = next(w for w in (16, 4, 1) if x_channels % w == 0)  # few forms: each is compiled for a second
    return {"V": min(wide, 4), "BM": TILE // wide, "BC": wide}


def forward(x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """(N, H, W, Cx) → (N, ⌈H/stride⌉, ⌈W/stride⌉, C)."""
    n, height, width, x_channels = x.shape
    channels, size = weight.shape[0], weight.shape[-1]
    out = x.new_empty(n, -(-height // stride), -(-width // stride), channels)
    pixels, form = out.numel() // channels, _form(x_channels)
    _forward[(triton.cdiv(pixels, form["BM"]), triton.cdiv(channels, form["BC"]))](
        x, weight, out, pixels, height, width, *out.shape[1:3], channels // form["V"], x_channels // form["V"],
        STRIDE=stride, K=size, **form,
    )  # fmt: skip
    return out


def input_gradient(g: Tensor, x: Tensor, weight: Tensor, stride: int) -> Tensor:
    """From g, of the output's shape: x's gradient, (N, H, W, Cx)."""
    n, height, width, x_channels = x.shape
    channels, size = weight.shape[0], weight.shape[-1]
    dx = torch.empty_like(x)
    pixels, form = n * height * width, _form(x_channels)
    _input_gradient[(triton.cdiv(pixels, form["BM"]), triton.cdiv(x_channels, form["BC"]))](
        g, weight, dx, pixels, height, width, *g.shape[1:3], channels // form["V"], x_channels // form["V"],
        channels // x_channels, STRIDE=stride, K=size, **form,
    )  # fmt: skip
    return dx


def weight_gradient(g: Tensor, x: Tensor, size: int, stride: int) -> Tensor:
    """From g, of the output's shape: (C, 1, size, size)."""
    channels, x_channels = g.shape[3], x.shape[3]
    form = _form(x_channels)
    rows, columns, pixels = form["BM"], triton.cdiv(channels, form["BC"]), g.numel() // channels
    rows_each = rows * triton.cdiv(pixels, rows * max(1, PROGRAMS // (columns * size)))
    count = triton.cdiv(pixels, rows_each)
    parts = x.new_empty(count, size * size, channels)
    _weight_gradient[(count, columns, size)](
        g, x, parts, pixels, rows_each, *x.shape[1:3], *g.shape[1:3], channels // form["V"], x_channels // form["V"],
        STRIDE=stride, K=size, **form,
    )  # fmt: skip
    dw = x.new_empty(channels, 1, size, size)
    _add_up[(triton.cdiv(channels, 16), size * size)](parts, dw, count, channels, TAPS=size * size, BP=64, BC=16)
    return dw
