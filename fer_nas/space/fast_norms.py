"""Folded norms of the fast form: BatchNorm by batch statistics as two sums and one scale by column.

Shapes: M pixels of the batch; columns are channels of several operations side by side, C each.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
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

    def measured_backward(
        self,
        gs: Iterable[Tensor],
        ys: list[Tensor],
        total: Callable[[], Tensor] | None = None,
        sums: list[Tensor] | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """`backward` from the gradients of outputs as in `measured`. total: their column sums, where they are known;
        sums: of each of them, by `sums_with`, where those are."""
        if kernels.by_triton(ys[0]):
            parts = kernels.gpu_kernels.sum_parts(list(zip(gs, ys, strict=True)))
            slope, by_y, constant = kernels.gpu_kernels.norm_backward(
                parts, self.mean, self.scale, self.row, self.pixels
            )
            return slope, by_y, constant
        if kernels.by_numba(ys[0]):
            parts = torch.cat(sums or [sums_with(g, y) for g, y in zip(gs, ys, strict=True)], 1)
            slope, by_y, constant = kernels.cpu_kernels.norm_backward(
                parts, self.mean, self.scale, self.row, self.pixels
            )
            return slope, by_y, constant
        if sums is not None:
            return self.backward(*torch.cat(sums, 1))
        if total is None:
            return self.backward(*torch.cat([sums_with(g, y) for g, y in zip(gs, ys, strict=True)], 1))
        cross, scratch = torch.empty_like(self.row), torch.empty_like(max(ys, key=Tensor.numel)).view(-1)
        start = 0
        for g, y in zip(gs, ys, strict=True):
            part = slice(start, start + y.shape[1])
            torch.sum(torch.mul(g, y, out=scratch[: y.numel()].view_as(y)), 0, out=cross[part])
            start = part.stop
        return self.backward(total(), cross)

    def backward(self, total: Tensor, cross: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """total: column sums of g, the gradient of out; cross: column sums of g·y.

        Returns the coefficient's gradient by column, and B and c of y's gradient g·A + y·B + c.
        """
        slope = self.scale * torch.addcmul(cross, self.mean, total, value=-1)  # column sums of g·(y − mean)·s
        by_y = self.row * self.scale * slope * (-1 / self.pixels)
        constant = torch.addcmul(self.row * total * (-1 / self.pixels), by_y, self.mean, value=-1)
        return slope, by_y, constant


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


def combined(g_MC: Tensor, y_MC: Tensor, row: Tensor, by_y: Tensor, constant: Tensor) -> Tensor:
    """g·row + y·by_y + constant by column; y is used up, its memory may be the result's."""
    if kernels.by_triton(y_MC):
        return kernels.gpu_kernels.combined(g_MC, y_MC, row, by_y, constant)
    if kernels.by_numba(y_MC):
        return kernels.cpu_kernels.combined(g_MC, y_MC, row, by_y, constant)
    return torch.addcmul(constant, g_MC, row).addcmul_(y_MC, by_y)


def relu_backward(g_MC: Tensor, z_MC: Tensor, y_MC: Tensor) -> tuple[Tensor, Tensor | None]:
    """g where z, an output of ReLU, is not zero, and its `sums_with` y, but on a GPU; g is used up."""
    if kernels.by_numba(g_MC):
        return g_MC, kernels.cpu_kernels.relu_backward(g_MC, z_MC, y_MC)
    g_MC = torch.ops.aten.threshold_backward(g_MC, z_MC, 0)
    return g_MC, None if kernels.by_triton(g_MC) else sums_with(g_MC, y_MC)


def standardize(x_MC: Tensor, out: Tensor | None = None) -> tuple[Tensor, Norm]:
    """(x − mean)·s by column."""
    norm = Norm.measured([x_MC], len(x_MC))
    return scaled(x_MC, norm.row, norm.bias, out=out), norm


def standardize_backward(g_MC: Tensor, normal_MC: Tensor, norm: Norm) -> Tensor:
    """From standardized values, which are used up: s·(g − mean(g) − normal·mean(g·normal))."""
    if kernels.by_triton(g_MC) or kernels.by_numba(g_MC):
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
        return standardize_backward(g_MC.contiguous(), ctx.saved_tensors[0].clone(), ctx.norm)
