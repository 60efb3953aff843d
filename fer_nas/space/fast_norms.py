"""Folded norms of the fast form: BatchNorm by batch statistics as two sums and one scale by column.

Shapes: M pixels of the batch; columns are channels of several operations side by side, C each.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fer_nas.space import fast_kernels as kernels

EPS = 1e-5  # nn.BatchNorm2d's


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
    def measured(
        cls,
        ys: list[Tensor],
        pixels: int,
        coefficient: Tensor | None = None,
        channels: int = 1,
        sums: list[Tensor] | None = None,
    ) -> Norm:
        """Of the columns of `ys` side by side; coefficient: one for each `channels` columns, 1 where not given.

        Some of `ys` may have rows of zeros beyond the pixels. sums: of each of `ys`, by `sums_with`, where they are
        known.
        """
        if kernels.by_triton(ys[0]):
            parts = kernels.gpu_kernels.sum_parts([(y, y) for y in ys])
            mean, scale, row, bias = kernels.gpu_kernels.norm(parts, coefficient, channels, pixels, EPS)
            return cls(mean, scale, row, bias, pixels)
        if sums is None:
            sums = [sums_with(y, y) for y in ys]
        parts = sums[0] if len(sums) == 1 else torch.cat(sums, 1)
        if kernels.by_numba(ys[0]):
            mean, scale, row, bias = kernels.cpu_kernels.norm(parts, coefficient, channels, pixels, EPS, ys[0].dtype)
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

    def slope(self, g_MC: Tensor, y_MC: Tensor, first: int = 0) -> Tensor:
        """The coefficient's gradient alone."""
        return self._solved(g_MC, y_MC, first)[0]

    def _solved(self, g_MC: Tensor, y_MC: Tensor, first: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """The coefficient's gradient, B, c and A of y's gradient g·A + y·B + c."""
        columns = slice(first, first + y_MC.shape[1])
        mean, scale, row = self.mean[columns], self.scale[columns], self.row[columns]
        if kernels.by_triton(y_MC):
            parts = kernels.gpu_kernels.sum_parts([(g_MC, y_MC)])
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
    norm = Norm.measured([x_MC], len(x_MC))
    return scaled(x_MC, norm.row, norm.bias, out=out), norm


def standardize_backward(g_MC: Tensor, normal_MC: Tensor, norm: Norm) -> Tensor:
    """From standardized values, which are used up: s·(g − mean(g) − normal·mean(g·normal))."""
    ones = torch.ones_like(norm.scale)
    return Norm(torch.zeros_like(ones), ones, norm.scale, norm.bias, norm.pixels).backward(g_MC, normal_MC)[1]


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
