"""The folded norms of the fast form on a GPU, in Triton: fewer starts and fewer passes over memory than torch's.

Matrices are (M, C) and contiguous, M pixels and C columns. Sums over pixels are taken in two steps of a fixed order, so
that the same numbers come out every time. Numbers of pixels are no part of a compiled kernel, so that an odd last batch
compiles nothing.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

PARTS = 256  # most parts that a column is summed in
TILE = 2048  # numbers that a program holds at a time


@triton.jit(do_not_specialize=["rows", "columns_v", "all_columns", "first", "rows_each"])
def _sum_parts(  # type: ignore[no-untyped-def]
    a, b, parts, rows, columns_v, all_columns, first, rows_each,
    V: tl.constexpr, BM: tl.constexpr, BC: tl.constexpr,
):  # fmt: skip
    """Σ a and Σ a·b of a stretch of rows, by column; V divides the columns."""
    columns = columns_v * V
    part = tl.program_id(0)
    column = tl.program_id(1) * BC + tl.arange(0, BC)
    inside = column < columns
    total = tl.zeros((BC,), dtype=parts.dtype.element_ty)
    product = tl.zeros((BC,), dtype=parts.dtype.element_ty)
    for offset in range(0, rows_each, BM):
        row = part * rows_each + offset + tl.arange(0, BM)
        mask = (row < rows)[:, None] & inside[None, :]
        place = row.to(tl.int64)[:, None] * columns + column[None, :]
        x = tl.load(a + place, mask=mask, other=0.0)
        y = tl.load(b + place, mask=mask, other=0.0)
        total += tl.sum(x, 0)
        product += tl.sum(x * y, 0)
    tl.store(parts + 2 * part * all_columns + first + column, total, mask=inside)
    tl.store(parts + (2 * part + 1) * all_columns + first + column, product, mask=inside)


@triton.jit
def _add_parts(parts, column, inside, count, columns, BP: tl.constexpr, BC: tl.constexpr):  # type: ignore[no-untyped-def]
    total = tl.zeros((BC,), dtype=parts.dtype.element_ty)
    product = tl.zeros((BC,), dtype=parts.dtype.element_ty)
    for offset in range(0, count, BP):
        part = offset + tl.arange(0, BP)
        mask = (part < count)[:, None] & inside[None, :]
        place = 2 * part[:, None] * columns + column[None, :]
        total += tl.sum(tl.load(parts + place, mask=mask, other=0.0), 0)
        product += tl.sum(tl.load(parts + place + columns, mask=mask, other=0.0), 0)
    return total, product


@triton.jit(do_not_specialize=["count", "columns", "channels", "pixels"])
def _norm(  # type: ignore[no-untyped-def]
    parts, coefficient, out, count, columns, channels, pixels, eps, WEIGHTED: tl.constexpr, BP: tl.constexpr,
    BC: tl.constexpr,
):  # fmt: skip
    """fast_norms.Norm.of: mean, scale, row and bias, one behind the other."""
    column = tl.program_id(0) * BC + tl.arange(0, BC)
    inside = column < columns
    total, squares = _add_parts(parts, column, inside, count, columns, BP, BC)
    mean = total / pixels
    scale = 1.0 / tl.sqrt(tl.maximum(squares / pixels - mean * mean, 0.0) + eps)
    row = scale
    if WEIGHTED:
        row = scale * tl.load(coefficient + column // channels, mask=inside, other=0.0)
    tl.store(out + column, mean, mask=inside)
    tl.store(out + columns + column, scale, mask=inside)
    tl.store(out + 2 * columns + column, row, mask=inside)
    tl.store(out + 3 * columns + column, -mean * row, mask=inside)


@triton.jit(do_not_specialize=["count", "columns", "pixels"])
def _norm_backward(parts, mean, scale, row, out, count, columns, pixels, BP: tl.constexpr, BC: tl.constexpr):  # type: ignore[no-untyped-def]
    """fast_norms.Norm.backward: slope, by_y and constant, one behind the other."""
    column = tl.program_id(0) * BC + tl.arange(0, BC)
    inside = column < columns
    total, cross = _add_parts(parts, column, inside, count, columns, BP, BC)
    m = tl.load(mean + column, mask=inside, other=0.0)
    s = tl.load(scale + column, mask=inside, other=0.0)
    r = tl.load(row + column, mask=inside, other=0.0)
    slope = s * (cross - m * total)
    by_y = -r * s * slope / pixels
    tl.store(out + column, slope, mask=inside)
    tl.store(out + columns + column, by_y, mask=inside)
    tl.store(out + 2 * columns + column, -r * total / pixels - by_y * m, mask=inside)


@triton.jit(do_not_specialize=["size_v", "columns"])
def _scaled(y, row, bias, out, size_v, columns, RELU: tl.constexpr, V: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    size = size_v * V  # known to be a multiple, so that several numbers are read at once
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < size
    column = place % columns
    value = tl.load(y + place, mask=inside, other=0.0) * tl.load(row + column, mask=inside, other=0.0)
    value += tl.load(bias + column, mask=inside, other=0.0)
    if RELU:
        value = tl.maximum(value, 0.0)
    tl.store(out + place, value, mask=inside)


@triton.jit(do_not_specialize=["size_v", "columns"])
def _combined(g, y, row, by_y, constant, out, size_v, columns, V: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    size = size_v * V  # known to be a multiple, so that several numbers are read at once
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < size
    column = place % columns
    value = tl.load(g + place, mask=inside, other=0.0) * tl.load(row + column, mask=inside, other=0.0)
    value += tl.load(y + place, mask=inside, other=0.0) * tl.load(by_y + column, mask=inside, other=0.0)
    value += tl.load(constant + column, mask=inside, other=0.0)
    tl.store(out + place, value, mask=inside)


@triton.jit(do_not_specialize=["size_v", "inner", "columns"])
def _joined(a, b, order, out, size_v, inner, columns, V: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    size = size_v * V  # known to be a multiple, so that several numbers are read at once
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < size
    row = place // columns
    read = tl.load(order + place % columns, mask=inside, other=0)
    first = read < inner
    value = tl.load(a + row * inner + read, mask=inside & first, other=0.0)
    value += tl.load(b + row * (columns - inner) + (read - inner), mask=inside & (read >= inner), other=0.0)
    tl.store(out + place, value, mask=inside)


@triton.jit(do_not_specialize=["size_v", "inner", "columns"])
def _apart(g, inverse, a, b, size_v, inner, columns, V: tl.constexpr, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    size = size_v * V  # known to be a multiple, so that several numbers are read at once
    place = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    inside = place < size
    row, column = place // columns, place % columns
    value = tl.load(g + row * columns + tl.load(inverse + column, mask=inside, other=0), mask=inside, other=0.0)
    tl.store(a + row * inner + column, value, mask=inside & (column < inner))
    tl.store(b + row * (columns - inner) + (column - inner), value, mask=inside & (column >= inner))


class Parts:
    """Column sums of a and of a·b in parts, (P, 2, columns), of pairs of matrices side by side."""

    def __init__(self, like: Tensor, rows: int, columns: int) -> None:
        self.step = max(16, TILE // 64)
        self.rows_each = self.step * max(1, triton.cdiv(rows, PARTS * self.step))
        self.values = like.new_empty(triton.cdiv(rows, self.rows_each), 2, columns)

    def add(self, a: Tensor, b: Tensor, first: int) -> None:
        """Of the columns from `first` on."""
        count, _, columns = self.values.shape
        own = a.shape[1]
        divisor, wide = next(v for v in (4, 2, 1) if own % v == 0), 16 if own <= 16 else 32
        _sum_parts[(count, triton.cdiv(own, wide))](
            a, b, self.values, len(a), own // divisor, columns, first, self.rows_each,
            V=divisor, BM=self.step, BC=wide,
        )  # fmt: skip


def sum_parts(a: Tensor, b: Tensor) -> Tensor:
    """Of one pair."""
    parts = Parts(a, *a.shape)
    parts.add(a, b, 0)
    return parts.values


def norm(parts: Tensor, coefficient: Tensor | None, channels: int, pixels: int, eps: float) -> Tensor:
    """(4, columns): mean, scale, row, bias. coefficient: one for each `channels` columns, 1 where not given."""
    count, _, columns = parts.shape
    out, given = parts.new_empty(4, columns), parts if coefficient is None else coefficient
    grid = (triton.cdiv(columns, 16),)
    _norm[grid](
        parts, given, out, count, columns, channels, pixels, eps, WEIGHTED=coefficient is not None, BP=64, BC=16
    )
    return out


def norm_backward(parts: Tensor, mean: Tensor, scale: Tensor, row: Tensor, pixels: int) -> Tensor:
    """(3, columns): slope, by_y, constant."""
    count, _, columns = parts.shape
    out = parts.new_empty(3, columns)
    _norm_backward[(triton.cdiv(columns, 16),)](parts, mean, scale, row, out, count, columns, pixels, BP=64, BC=16)
    return out


def scaled(y: Tensor, row: Tensor, bias: Tensor, relu: bool = False, out: Tensor | None = None) -> Tensor:
    """y·row + bias by column, and ReLU where asked for."""
    out = torch.empty_like(y) if out is None else out
    size, v = _whole(y)
    _scaled[(triton.cdiv(y.numel(), TILE),)](y, row, bias, out, size, y.shape[1], RELU=relu, V=v, BLOCK=TILE)
    return out


def combined(g: Tensor, y: Tensor, row: Tensor, by_y: Tensor, constant: Tensor) -> Tensor:
    """g·row + y·by_y + constant by column."""
    out = torch.empty_like(y)
    size, v = _whole(y)
    _combined[(triton.cdiv(y.numel(), TILE),)](g, y, row, by_y, constant, out, size, y.shape[1], V=v, BLOCK=TILE)
    return out


def joined(a: Tensor, b: Tensor, order: Tensor) -> Tensor:
    """Columns of a (…, R) and b (…, S) side by side, in the order that `order` (R + S,) reads them in."""
    a, b = a.contiguous(), b.contiguous()
    out = a.new_empty(*a.shape[:-1], a.shape[-1] + b.shape[-1])
    size, v = _whole(out)
    _joined[(triton.cdiv(out.numel(), TILE),)](a, b, order, out, size, a.shape[-1], out.shape[-1], V=v, BLOCK=TILE)
    return out


def apart(g: Tensor, inverse: Tensor, inner: int) -> tuple[Tensor, Tensor]:
    """The columns of g (…, C) in the order that `inverse` reads them in, as the first `inner` and the others."""
    columns = g.shape[-1]
    a, b = g.new_empty(*g.shape[:-1], inner), g.new_empty(*g.shape[:-1], columns - inner)
    size, v = _whole(g)
    _apart[(triton.cdiv(g.numel(), TILE),)](g, inverse, a, b, size, inner, columns, V=v, BLOCK=TILE)
    return a, b


def _whole(x: Tensor) -> tuple[int, int]:
    """x's size divided by v, and v."""
    v = next(v for v in (4, 2, 1) if x.numel() % v == 0)
    return x.numel() // v, v
