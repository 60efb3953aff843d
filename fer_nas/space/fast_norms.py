"""Folded norms of the fast form: BatchNorm by batch statistics as two sums and one scale by column.

Shapes: M pixels of the batch; columns are channels of several operations side by side, C each.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fer_nas.space import fast_convs as convs
from fer_nas.space import fast_kernels as kernels

EPS = 1e-5  # nn.BatchNorm2d's


class Sums:
    """Column sums and sums of squares of several matrices side by side, taken as these come: on a CPU best while a
    matrix is still in its cache, on a GPU each in its own lane."""

    def __init__(self, like: Tensor, rows: int, columns: int) -> None:
        """rows, columns: the most that a matrix has, and of all of them together."""
        self.dtype, self.found, self.columns = like.dtype, list[Tensor](), 0
        self.scratch = like.new_empty(0)
        self.parts = kernels.gpu_kernels.Parts(like, rows, columns) if kernels.by_triton(like) else None

    def take(self, y_MC: Tensor) -> None:
        """Those of the next columns. Rows of zeros beyond the pixels are allowed."""
        if self.parts is not None:
            self.parts.add(y_MC, y_MC, self.next(y_MC.shape[1]))
        elif kernels.by_numba(y_MC) or kernels.on_gpu(y_MC):  # lanes there share no memory
            self.found.append(sums_with(y_MC, y_MC))
        else:
            if self.scratch.numel() < y_MC.numel():
                self.scratch = torch.empty_like(y_MC).view(-1)
            self.found.append(sums_with(y_MC, y_MC, self.scratch[: y_MC.numel()].view_as(y_MC)))

    def next(self, columns: int) -> int:
        """Where in the parts the next columns stand."""
        first, self.columns = self.columns, self.columns + columns
        return first

    def product(self, d_MC: Tensor, points: Tensor) -> Tensor:
        """Each edge's columns of d times its matrix of points (k, C, C), turned: y (M, k·C), and y's sums with it;
        where `kernels.by_points`, in one pass or in two, whichever takes this GPU less time."""
        assert self.parts is not None
        parts, first = self.parts, self.next(d_MC.shape[1])

        def apart() -> Tensor:
            y = convs.products(d_MC, list(points))
            parts.add(y, y, first)
            return y

        key = ("product", d_MC.shape, points.shape)
        return convs.fastest(key, lambda: kernels.gpu_points.product(d_MC, points, parts, first), apart)

    def all(self) -> Tensor:
        """(2, columns), or in parts, (P, 2, columns), by kernels on a GPU."""
        if self.parts is not None:
            return self.parts.values
        return self.found[0] if len(self.found) == 1 else torch.cat(self.found, 1)


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
    def measured(cls, sums: Sums, pixels: int, coefficient: Tensor | None = None, channels: int = 1) -> Norm:
        """By the sums of all columns; coefficient: one for each `channels` columns, 1 where not given."""
        parts = sums.all()
        if kernels.by_triton(parts):
            mean, scale, row, bias = kernels.gpu_kernels.norm(parts, coefficient, channels, pixels, EPS)
            return cls(mean, scale, row, bias, pixels)
        if kernels.by_numba(parts):
            mean, scale, row, bias = kernels.cpu_kernels.norm(parts, coefficient, channels, pixels, EPS, sums.dtype)
            return cls(mean, scale, row, bias, pixels)
        total, squares = parts
        by_column = torch.ones_like(total) if coefficient is None else coefficient.repeat_interleave(channels)
        return cls.of(total, squares, by_column, pixels)

    def backward(
        self, g_MC: Tensor, y_MC: Tensor, first: int = 0, relu_MC: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """From g, the gradient of out, or of ReLU(out) where that is given: the coefficient's gradient by column, (C,),
        and y's. y and, with ReLU, g are used up. first: the norm's column that y begins with.
        """
        if kernels.by_numba(y_MC):
            return kernels.cpu_kernels.backward(
                g_MC, y_MC, self.mean, self.scale, self.row, self.pixels, first, relu_MC
            )
        if relu_MC is not None:
            g_MC = torch.ops.aten.threshold_backward(g_MC, relu_MC, 0)
        slope, by_y, constant, row = self._solved(g_MC, y_MC, first)
        if kernels.by_triton(y_MC):
            return slope, kernels.gpu_kernels.combined(g_MC, y_MC, row, by_y, constant)
        return slope, torch.addcmul(constant, g_MC, row).addcmul_(y_MC, by_y)

    def through(
        self, g_MC: Tensor, y_MC: Tensor, first: int, d_MC: Tensor | None, points: Tensor, relu_MC: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """`backward`, and on through `Sums.product`, in one pass or in several: the coefficient's gradient by column,
        d's, and the points' where d is given."""
        if relu_MC is not None:
            g_MC = torch.ops.aten.threshold_backward(g_MC, relu_MC, 0)
        slope, by_y, constant, row = self._solved(g_MC, y_MC, first)

        def apart() -> tuple[Tensor, Tensor | None]:
            step = kernels.gpu_kernels.combined(g_MC, y_MC, row, by_y, constant)
            found = None if d_MC is None else torch.stack(convs.point_gradients(step, d_MC, len(points)))
            return convs.products_backward(step, list(points)), found

        return slope, *convs.fastest(
            ("through", y_MC.shape, points.shape, d_MC is None),
            lambda: kernels.gpu_points.backward(g_MC, y_MC, d_MC, points, row, by_y, constant),
            apart,
        )

    def slope(self, g_MC: Tensor, y_MC: Tensor, first: int = 0) -> Tensor:
        """The coefficient's gradient alone."""
        return self._solved(g_MC, y_MC, first)[0]

    def _solved(self, g_MC: Tensor, y_MC: Tensor, first: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The coefficient's gradient, B, c and A of y's gradient g·A + y·B + c."""
        columns = slice(first, first + y_MC.shape[1])
        mean, scale, row = self.mean[columns], self.scale[columns], self.row[columns]
        if kernels.by_triton(y_MC):
            parts = kernels.gpu_kernels.sum_parts(g_MC, y_MC)
            return *kernels.gpu_kernels.norm_backward(parts, mean, scale, row, self.pixels), row
        total, cross = sums_with(g_MC, y_MC).to(row.dtype)
        slope = scale * torch.addcmul(cross, mean, total, value=-1)  # column sums of g·(y − mean)·s
        by_y = row * scale * slope * (-1 / self.pixels)
        constant = torch.addcmul(row * total * (-1 / self.pixels), by_y, mean, value=-1)
        return slope, by_y, constant, row


def sums_with(x_MC: Tensor, y_MC: Tensor, scratch: Tensor | None = None) -> Tensor:
    """Column sums of x and of x·y, (2, C); with itself its sum and sum of squares. On a CPU best while x is still in
    its cache. In float64 where Numba's kernels take them."""
    if kernels.by_numba(x_MC):
        return kernels.cpu_kernels.sums(x_MC, y_MC)
    sums = x_MC.new_empty(2, x_MC.shape[1])
    torch.sum(x_MC, 0, out=sums[0])
    torch.sum(torch.mul(x_MC, y_MC, out=scratch), 0, out=sums[1])
    return sums


def scaled(y_MC: Tensor, row: Tensor, bias: Tensor, relu: bool = False, out: Tensor | None = None) -> Tensor:
    """y·row + bias by column, and ReLU where asked for."""
    if kernels.by_triton(y_MC):
        return kernels.gpu_kernels.scaled(y_MC, row, bias, relu, out)
    if kernels.by_numba(y_MC):
        return kernels.cpu_kernels.scaled(y_MC, row, bias, relu, out)
    result = torch.addcmul(bias, y_MC, row, out=out)
    return result.relu_() if relu else result


def standardize(x_MC: Tensor, out: Tensor | None = None) -> tuple[Tensor, Norm]:
    """(x − mean)·s by column."""
    sums = Sums(x_MC, *x_MC.shape)
    sums.take(x_MC)
    norm = Norm.measured(sums, len(x_MC))
    return scaled(x_MC, norm.row, norm.bias, out=out), norm


def standardize_backward(g_MC: Tensor, normal_MC: Tensor, norm: Norm) -> Tensor:
    """From standardized values, which are used up: s·(g − mean(g) − normal·mean(g·normal))."""
    zeros, ones = _constants(len(norm.scale), norm.scale.dtype, norm.scale.device)
    return Norm(zeros, ones, norm.scale, norm.bias, norm.pixels).backward(g_MC, normal_MC)[1]


@lru_cache(maxsize=256)
def _constants(columns: int, dtype: torch.dtype, device: torch.device) -> tuple[Tensor, Tensor]:
    """Zeros and ones, which nothing writes to."""
    return torch.zeros(columns, dtype=dtype, device=device), torch.ones(columns, dtype=dtype, device=device)


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
        return standardize_backward(g_MC.contiguous(), ctx.saved_tensors[0].clone(), ctx.norm)
