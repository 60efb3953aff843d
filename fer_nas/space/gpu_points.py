"""1×1 convolutions of several edges on a GPU, in Triton, with what stands around them in one pass over memory.

    forward     y = d Pᵀ, and y's sums and sums of squares by column, from which its norm is
    backward    s = A·g + B·y + c, the norm's gradient (by column); d's, s P; and P's, sᵀ d

k edges side by side: d, g, y (M, k·C), P (k, C, C). float32 alone, in three products of TF32 each, which together are
as exact as float32 (one alone puts the gradients of a small supernet off by 4 to 5 %: docs/performance.md); C up to 64,
as a program holds a matrix. Sums over rows are taken in stretches of a fixed order.
"""

from __future__ import annotations

import os
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from fer_nas.space.gpu_kernels import Parts

WIDEST = 64
ROWS = 32  # rows that a program holds at a time, a divisor of `Parts.rows_each`
PROGRAMS = 1024  # about so many share a backward pass
EXACT = "ieee" if os.environ.get("TRITON_INTERPRET") else "tf32x3"


@triton.jit(do_not_specialize=["rows", "rows_each", "columns_v", "all_columns", "first"])
def _product(  # type: ignore[no-untyped-def]
    d, points, y, parts, rows, rows_each, columns_v, all_columns, first,
    C: tl.constexpr, WIDE: tl.constexpr, V: tl.constexpr, BM: tl.constexpr, EXACT: tl.constexpr,
):  # fmt: skip
    columns = columns_v * V
    part, edge = tl.program_id(0), tl.program_id(1)
    c = tl.arange(0, WIDE)
    inside = c < C
    square = inside[:, None] & inside[None, :]
    turned = tl.load(points + edge * C * C + c[None, :] * C + c[:, None], mask=square, other=0.0)  # Pᵀ
    total = tl.zeros((WIDE,), dtype=parts.dtype.element_ty)
    squares = tl.zeros((WIDE,), dtype=parts.dtype.element_ty)
    for offset in range(0, rows_each, BM):
        row = part * rows_each + offset + tl.arange(0, BM)
        mask = (row < rows)[:, None] & inside[None, :]
        place = row.to(tl.int64)[:, None] * columns + (edge * C + c)[None, :]
        value = tl.dot(tl.load(d + place, mask=mask, other=0.0), turned, input_precision=EXACT)
        tl.store(y + place, value, mask=mask)
        total += tl.sum(value, 0)
        squares += tl.sum(value * value, 0)
    to = parts + 2 * part * all_columns + first + edge * C + c
    tl.store(to, total, mask=inside)
    tl.store(to + all_columns, squares, mask=inside)


@triton.jit(do_not_specialize=["rows", "rows_each", "columns_v", "edges"])
def _backward(  # type: ignore[no-untyped-def]
    g, y, d, points, a, b, constant, dd, parts, rows, rows_each, columns_v, edges,
    C: tl.constexpr, WIDE: tl.constexpr, V: tl.constexpr, WEIGHTS: tl.constexpr, BM: tl.constexpr,
    EXACT: tl.constexpr,
):  # fmt: skip
    columns = columns_v * V
    part, edge = tl.program_id(0), tl.program_id(1)
    c = tl.arange(0, WIDE)
    inside, own = c < C, edge * C + c
    square = inside[:, None] & inside[None, :]
    to = c[:, None] * C + c[None, :]
    point = tl.load(points + edge * C * C + to, mask=square, other=0.0)
    by_g = tl.load(a + own, mask=inside, other=0.0)
    by_y = tl.load(b + own, mask=inside, other=0.0)
    beside = tl.load(constant + own, mask=inside, other=0.0)
    d_point = tl.zeros((WIDE, WIDE), dtype=dd.dtype.element_ty)
    for offset in range(0, rows_each, BM):
        row = part * rows_each + offset + tl.arange(0, BM)
        mask = (row < rows)[:, None] & inside[None, :]
        place = row.to(tl.int64)[:, None] * columns + own[None, :]
        step = tl.load(g + place, mask=mask, other=0.0) * by_g[None, :] + beside[None, :]
        step += tl.load(y + place, mask=mask, other=0.0) * by_y[None, :]
        step = tl.where(mask, step, 0.0)
        tl.store(dd + place, tl.dot(step, point, input_precision=EXACT), mask=mask)
        if WEIGHTS:
            read = tl.load(d + place, mask=mask, other=0.0)
            d_point += tl.dot(tl.trans(step), read, input_precision=EXACT)
    if WEIGHTS:
        tl.store(parts + (part * edges + edge).to(tl.int64) * C * C + to, d_point, mask=square)


def serves(d: Tensor, channels: int) -> bool:
    return channels <= WIDEST and (d.dtype == torch.float32 or EXACT == "ieee")


def product(d: Tensor, points: Tensor, parts: Parts, first: int) -> Tensor:
    """(M, k·C) and (k, C, C) → y (M, k·C); its sums go into the parts' columns from `first` on."""
    edges, channels, _ = points.shape
    count, _, all_columns = parts.values.shape
    y = torch.empty_like(d)
    form = _form(channels)
    _product[(count, edges)](
        d, points, y, parts.values, len(d), parts.rows_each, edges * channels // form["V"], all_columns, first, **form
    )
    return y


def backward(
    g: Tensor, y: Tensor, d: Tensor | None, points: Tensor, a: Tensor, b: Tensor, constant: Tensor
) -> tuple[Tensor, Tensor | None]:
    """d's gradient (M, k·C), and P's (k, C, C) where d is given; a, b and constant are (k·C,)."""
    edges, channels, _ = points.shape
    dd, form = torch.empty_like(y), _form(channels)
    rows_each = ROWS * max(2, triton.cdiv(len(y), ROWS * max(1, PROGRAMS // edges)))
    count = triton.cdiv(len(y), rows_each)
    parts = y if d is None else y.new_empty(count, edges, channels, channels)
    _backward[(count, edges)](
        g, y, y if d is None else d, points, a, b, constant, dd, parts, len(y), rows_each,
        edges * channels // form["V"], edges, WEIGHTS=d is not None, **form,
    )  # fmt: skip
    return dd, None if d is None else parts.sum(0)


def _form(channels: int) -> dict[str, Any]:
    divisor, wide = next(v for v in (4, 2, 1) if channels % v == 0), max(16, triton.next_power_of_2(channels))
    return {
        "C": channels, "WIDE": wide, "V": divisor, "BM": ROWS, "EXACT": EXACT,
        "num_stages": 2, "num_warps": 8 if wide == WIDEST else 4,  # up to 88 KiB, which small GPUs have too
    }  # fmt: skip
