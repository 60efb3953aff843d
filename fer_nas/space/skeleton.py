"""What the supernet and the derived network share: input normalization, stems, where cells reduce.

Shapes: B batch, C channels, H = W side in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from fer_nas.errors import InputError
from fer_nas.parallel import SharedBatchNorm
from fer_nas.space.operations import FactorizedReduce, relu_conv_bn

STEM_MULTIPLIER = 3  # stem channels per C (Liu et al. 2019)


class Normalize(nn.Module):
    """(x − mean) / std per input channel; x in 0 to 255. The figures are buffers, so they travel with the weights."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: tuple[float, ...], std: tuple[float, ...]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std).view(1, -1, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


def choose_stem(stem: str, image_size: int) -> str:
    """`auto` by image size: stride 1 up to 40 pixels (CIFAR), 2 up to 112 (FER2013), 8 above (ImageNet)."""
    if stem != "auto":
        return stem
    return "cifar" if image_size <= 40 else "stride2" if image_size <= 112 else "imagenet"


def _conv_bn(c_in: int, c_out: int, stride: int) -> list[nn.Module]:
    return [nn.Conv2d(c_in, c_out, 3, stride, 1, bias=False), SharedBatchNorm(c_out)]


class Stem(nn.Module):
    """Image (B, C_in, H, W) → the two inputs of the first cell; `channels` are theirs."""

    def __init__(self, kind: str, c_in: int, channels: int) -> None:
        super().__init__()
        self.second: nn.Module | None = None
        if kind == "imagenet":
            half = max(1, channels // 2)
            self.first = nn.Sequential(*_conv_bn(c_in, half, 2), nn.ReLU(), *_conv_bn(half, channels, 2))
            self.second = nn.Sequential(nn.ReLU(), *_conv_bn(channels, channels, 2))
            self.channels = (channels, channels)
        else:
            wide = STEM_MULTIPLIER * channels
            self.first = nn.Sequential(*_conv_bn(c_in, wide, 2 if kind == "stride2" else 1))
            self.channels = (wide, wide)
        self.reduces = kind == "imagenet"  # the second input has half the resolution of the first

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        first = self.first(x)
        return first, first if self.second is None else self.second(first)


@dataclass(frozen=True)
class CellPlan:
    """One cell's place in the stack: channels of its two inputs, its own C, and where resolution halves."""

    c_prev_prev: int
    c_prev: int
    channels: int
    reduction: bool
    reduction_prev: bool


def plan_cells(stem: Stem, channels: int, layers: int, normal_width: int, reduce_width: int) -> list[CellPlan]:
    """The stack of cells: reductions at layers//3 and 2·layers//3 double C; width = nodes that a cell concatenates."""
    if layers < 1:
        raise InputError(f"--layers is {layers}; a network needs at least one cell")
    plans: list[CellPlan] = []
    (c_prev_prev, c_prev), reduction_prev = stem.channels, stem.reduces
    for layer in range(layers):
        reduction = layer in (layers // 3, 2 * layers // 3)
        channels = channels * 2 if reduction else channels
        plans.append(CellPlan(c_prev_prev, c_prev, channels, reduction, reduction_prev))
        c_prev_prev, c_prev = c_prev, channels * (reduce_width if reduction else normal_width)
        reduction_prev = reduction
    return plans


def preprocess(plan: CellPlan, affine: bool) -> tuple[nn.Module, nn.Module]:
    """Bring both inputs of a cell to its channels, and the older one to the newer one's resolution."""
    first: nn.Module
    if plan.reduction_prev:
        first = FactorizedReduce(plan.c_prev_prev, plan.channels, affine)
    else:
        first = relu_conv_bn(plan.c_prev_prev, plan.channels, 1, 1, affine)
    return first, relu_conv_bn(plan.c_prev, plan.channels, 1, 1, affine)
