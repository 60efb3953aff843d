"""The folded norms of the fast form on a CPU, compiled by Numba: one pass over memory where torch makes two to four.

Each runs on one thread, which beats torch's operations on two (`fast_kernels.THREADS`).

Matrices are (M, C) and contiguous, M pixels and C columns. Sums run in float32 over short stretches and in float64 over
those, so they are closer to the truth than torch's, and the same every time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numba
import numpy as np
import torch
from torch import Tensor

WIDE = 512  # numbers in a stretch that the inner loops run over: several rows of a narrow matrix
STRETCHES = 32  # that many are summed in the matrix's own precision


def compiled(function: Callable[..., Any]) -> Any:
    """For the processor at hand at the first call, and kept beside this file or in the user's cache folder."""
    options: dict[str, Any] = {"nogil": True, "error_model": "numpy", "fastmath": {"contract", "nsz"}}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # neither can be written to: compiled again in each process
        return numba.njit(**options)(function)


@compiled
def _width(size: int, columns: int) -> int:
    """Numbers that the inner loops take at a time: whole rows, an even share of the matrix."""
    width, rows = columns, size // columns
    while 2 * width <= WIDE and rows % 2 == 0:
        width, rows = 2 * width, rows // 2
    return width


@compiled
def _repeated(values: Any, width: int) -> Any:
    out = np.empty(width, values.dtype)
    for start in range(0, width, values.size):
        out[start : start + values.size] = values
    return out


@compiled
def _sums(x_MC: Any, y_MC: Any, out: Any) -> None:
    """Σ x and Σ x·y by column, into (2, C)."""
    columns = x_MC.shape[1]
    x, y = x_MC.reshape(-1), y_MC.reshape(-1)
    width = _width(x.size, columns)
    near, near_product = np.empty(width, x.dtype), np.empty(width, x.dtype)
    total, product = np.zeros(width), np.zeros(width)
    rows, row = x.size // width, 0
    while row < rows:
        stop = min(row + STRETCHES, rows)
        near[:] = 0
        near_product[:] = 0
        while row + 4 <= stop:
            a, b, c, d, e = row * width, (row + 1) * width, (row + 2) * width, (row + 3) * width, (row + 4) * width
            x0, x1, x2, x3 = x[a:b], x[b:c], x[c:d], x[d:e]
            y0, y1, y2, y3 = y[a:b], y[b:c], y[c:d], y[d:e]
            for i in range(width):
                near[i] += (x0[i] + x1[i]) + (x2[i] + x3[i])
                near_product[i] += (x0[i] * y0[i] + x1[i] * y1[i]) + (x2[i] * y2[i] + x3[i] * y3[i])
            row += 4
        while row < stop:
            xs, ys = x[row * width : (row + 1) * width], y[row * width : (row + 1) * width]
            for i in range(width):
                near[i] += xs[i]
                near_product[i] += xs[i] * ys[i]
            row += 1
        for i in range(width):
            total[i] += near[i]
            product[i] += near_product[i]
    out[:] = 0
    for start in range(0, width, columns):
        for i in range(columns):
            out[0, i] += total[start + i]
            out[1, i] += product[start + i]


@compiled
def _relu_backward(g_MC: Any, z_MC: Any, y_MC: Any, out: Any) -> None:
    """g where z is positive and zero elsewhere, in g's place; and its `_sums` with y."""
    columns = g_MC.shape[1]
    g, z, y = g_MC.reshape(-1), z_MC.reshape(-1), y_MC.reshape(-1)
    width = _width(g.size, columns)
    near, near_product = np.empty(width, g.dtype), np.empty(width, g.dtype)
    total, product = np.zeros(width), np.zeros(width)
    rows, row, zero = g.size // width, 0, g.dtype.type(0)
    while row < rows:
        stop = min(row + STRETCHES, rows)
        near[:] = 0
        near_product[:] = 0
        while row < stop:
            here, behind = row * width, (row + 1) * width
            gs, zs, ys = g[here:behind], z[here:behind], y[here:behind]
            for i in range(width):
                value = gs[i] if zs[i] > zero else zero
                gs[i] = value
                near[i] += value
                near_product[i] += value * ys[i]
            row += 1
        for i in range(width):
            total[i] += near[i]
            product[i] += near_product[i]
    out[:] = 0
    for start in range(0, width, columns):
        for i in range(columns):
            out[0, i] += total[start + i]
            out[1, i] += product[start + i]


@compiled
def _norm(sums: Any, coefficient: Any, channels: int, pixels: int, eps: float, out: Any) -> None:
    """fast_norms.Norm.of: mean, scale, row and bias, one row each."""
    for i in range(sums.shape[1]):
        mean = sums[0, i] / pixels
        scale = 1 / np.sqrt(max(sums[1, i] / pixels - mean * mean, 0.0) + eps)
        row = scale * coefficient[i // channels] if coefficient.size else scale
        out[0, i], out[1, i], out[2, i], out[3, i] = mean, scale, row, -mean * row


@compiled
def _solved(sums: Any, means: Any, scales: Any, rows: Any, pixels: int, slope: Any, out: Any) -> None:
    """fast_norms.Norm.backward from the sums of g and g·y: slope, and A, B and c of y's gradient, a row each."""
    for i in range(sums.shape[1]):
        mean, scale, row = np.float64(means[i]), np.float64(scales[i]), np.float64(rows[i])
        steep = scale * (sums[1, i] - mean * sums[0, i])
        by_y = -row * scale * steep / pixels
        slope[i], out[0, i], out[1, i], out[2, i] = steep, row, by_y, -row * sums[0, i] / pixels - by_y * mean


@compiled
def _backward(g_MC: Any, y_MC: Any, mean: Any, scale: Any, row: Any, pixels: int, first: int, slope: Any) -> None:
    """The gradient of y in y's place."""
    columns = y_MC.shape[1]
    last, sums, solved = first + columns, np.empty((2, columns)), np.empty((3, columns), y_MC.dtype)
    _sums(g_MC, y_MC, sums)
    _solved(sums, mean[first:last], scale[first:last], row[first:last], pixels, slope, solved)
    _combined(g_MC, y_MC, solved[0], solved[1], solved[2])


@compiled
def _backward_of_relu(
    g_MC: Any, y_MC: Any, mean: Any, scale: Any, row: Any, pixels: int, first: int, slope: Any, z_MC: Any
) -> None:
    """The same behind ReLU, whose output is z."""
    columns = y_MC.shape[1]
    last, sums, solved = first + columns, np.empty((2, columns)), np.empty((3, columns), y_MC.dtype)
    _relu_backward(g_MC, z_MC, y_MC, sums)
    _solved(sums, mean[first:last], scale[first:last], row[first:last], pixels, slope, solved)
    _combined(g_MC, y_MC, solved[0], solved[1], solved[2])


@compiled
def _scaled(y_MC: Any, row: Any, bias: Any, relu: bool, out_MC: Any) -> None:
    y, out = y_MC.reshape(-1), out_MC.reshape(-1)
    width = _width(y.size, row.size)
    rows, biases, zero = _repeated(row, width), _repeated(bias, width), y.dtype.type(0)
    for start in range(0, y.size, width):
        ys, outs = y[start : start + width], out[start : start + width]
        if relu:
            for i in range(width):
                value = ys[i] * rows[i] + biases[i]
                outs[i] = value if value > zero else zero
        else:
            for i in range(width):
                outs[i] = ys[i] * rows[i] + biases[i]


@compiled
def _combined(g_MC: Any, y_MC: Any, row: Any, by_y: Any, constant: Any) -> None:
    """g·row + y·by_y + constant, in y's place."""
    g, y = g_MC.reshape(-1), y_MC.reshape(-1)
    width = _width(y.size, row.size)
    rows, by_ys, constants = _repeated(row, width), _repeated(by_y, width), _repeated(constant, width)
    for start in range(0, y.size, width):
        gs, ys = g[start : start + width], y[start : start + width]
        for i in range(width):
            ys[i] = gs[i] * rows[i] + (ys[i] * by_ys[i] + constants[i])


@compiled
def _add_one(to_MC: Any, y_MK: Any, first: int, row: Any) -> None:
    """to += y·row, of y's columns from `first` on."""
    columns = row.size
    if y_MK.shape[1] == columns:
        to, y = to_MC.reshape(-1), y_MK.reshape(-1)
        width = _width(y.size, columns)
        rows = _repeated(row, width)
        for start in range(0, y.size, width):
            tos, ys = to[start : start + width], y[start : start + width]
            for i in range(width):
                tos[i] += ys[i] * rows[i]
    else:
        for pixel in range(len(y_MK)):
            tos, ys = to_MC[pixel], y_MK[pixel, first : first + columns]
            for i in range(columns):
                tos[i] += ys[i] * row[i]


@compiled
def _add_two(to_MC: Any, y_MK: Any, first: int, row: Any, z_MK: Any, second: int, other: Any) -> None:
    """`_add_one` twice in one pass."""
    columns = row.size
    if y_MK.shape[1] == columns and z_MK.shape[1] == columns:
        to, y, z = to_MC.reshape(-1), y_MK.reshape(-1), z_MK.reshape(-1)
        width = _width(y.size, columns)
        rows, others = _repeated(row, width), _repeated(other, width)
        for start in range(0, y.size, width):
            tos, ys, zs = to[start : start + width], y[start : start + width], z[start : start + width]
            for i in range(width):
                tos[i] += ys[i] * rows[i] + zs[i] * others[i]
    else:
        for pixel in range(len(y_MK)):
            tos = to_MC[pixel]
            ys, zs = y_MK[pixel, first : first + columns], z_MK[pixel, second : second + columns]
            for i in range(columns):
                tos[i] += ys[i] * row[i] + zs[i] * other[i]


def add_scaled(to: Tensor, terms: Sequence[tuple[Tensor, int, Tensor]]) -> None:
    """to (M, C) += Σ y·row of terms (y, first, row): of y's C columns from `first` on, by column."""
    target = to.numpy()
    for i in range(0, len(terms), 2):
        found = [item for y, first, row in terms[i : i + 2] for item in (array(y), first, array(row))]
        (_add_one if len(found) == 3 else _add_two)(target, *found)


def sums(x: Tensor, y: Tensor) -> Tensor:
    """Column sums of x and of x·y, (2, C) in float64."""
    out = torch.empty(2, x.shape[1], dtype=torch.float64)
    _sums(array(x), array(y), out.numpy())
    return out


def backward(
    g: Tensor, y: Tensor, mean: Tensor, scale: Tensor, row: Tensor, pixels: int, first: int, relu: Tensor | None
) -> tuple[Tensor, Tensor]:
    """fast_norms.Norm.backward of the norm's columns from `first` on; y's memory is the gradient's."""
    slope = y.new_empty(y.shape[1])
    given = array(g), array(y), array(mean), array(scale), array(row), pixels, first, slope.numpy()
    if relu is None:
        _backward(*given)
    else:
        _backward_of_relu(*given, array(relu))
    return slope, y


_NONE = torch.empty(0)


def norm(
    parts: Tensor, coefficient: Tensor | None, channels: int, pixels: int, eps: float, dtype: torch.dtype
) -> Tensor:
    """(4, columns) in `dtype`: mean, scale, row, bias. parts: `sums` of all columns; coefficient: one for each
    `channels` columns, 1 where not given."""
    out = torch.empty(4, parts.shape[1], dtype=dtype)
    given = array(_NONE.to(dtype) if coefficient is None else coefficient)
    _norm(parts.numpy(), given, channels, pixels, eps, out.numpy())
    return out


def scaled(y: Tensor, row: Tensor, bias: Tensor, relu: bool = False, out: Tensor | None = None) -> Tensor:
    """y·row + bias by column, and ReLU where asked for."""
    out = torch.empty_like(y) if out is None else out
    _scaled(array(y), array(row), array(bias), relu, out.numpy())
    return out


def array(x: Tensor) -> Any:
    """The same memory."""
    return (x.detach() if x.requires_grad else x).numpy()
