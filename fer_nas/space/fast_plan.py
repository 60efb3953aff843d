"""The order in which the fast form goes through a cell, and what a source's backward needs of its forward.

Shapes as in fast_cell.py.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import torch
from torch import Tensor, nn

from fer_nas.space import fast_norms as norms
from fer_nas.space.operations import AUXILIARY

SEPARABLE = ("sep_conv_3x3", "sep_conv_5x5")
DILATED = ("dil_conv_3x3", "dil_conv_5x5")
SKIPS = ("skip_connect", AUXILIARY)

Weights = dict[str, Tensor]


@lru_cache(maxsize=4096)
def places(indices: tuple[int, ...], device: torch.device) -> Tensor:
    """Indices as a tensor there: made once, since a copy to a GPU waits for it and cannot stand in a CUDA graph."""
    return torch.tensor(indices, device=device)


@dataclass(frozen=True)
class SourcePlan:
    """The edges that leave one state: (edge of the cell, node it ends in), and the operations that run on each."""

    stride: int
    edges: tuple[tuple[int, int], ...]
    active: dict[str, tuple[int, ...]]  # operation → places in `edges`


@dataclass(frozen=True)
class CellFormPlan:
    operations: tuple[str, ...]
    nodes: int
    channels: int
    sources: tuple[SourcePlan, ...]
    names: tuple[str, ...]  # of the weights below the cell, in the order in which they are passed
    modules: dict[str, nn.Module]  # operations that run by their plain module: "edge/operation"
    order: tuple[int, ...] | None = None  # partial channels: the shuffle of a node's channels; `channels` then operate


@dataclass
class Depthwise:
    """A depthwise convolution and the 1×1 convolution behind it for some edges of a source.

    `parity`: the input is the parities of a picture (dilation 2).
    """

    operation: str
    leaves: tuple[str, str]  # of the two weights
    places: tuple[int, ...]
    stride: int
    x: Tensor  # (N, H, W, k·C)
    kernel: Tensor  # (k·C, 1, size, size)
    points: list[Tensor]  # (C, C) each
    stack: Tensor | None  # the same, (k, C, C), for kernels that take them so
    parity: bool = False
    middle: Tensor | None = None  # (M, k·C)
    y: Tensor | None = None  # (M, k·C)


@dataclass
class Pointwise:
    """1×1 convolutions of ReLU(x): conv_1x1, or both halves of a factorized reduction."""

    operation: str
    places: tuple[int, ...]
    inputs: list[Tensor]  # (M, C) each; two for a factorized reduction
    points: list[list[Tensor]]  # by edge and input, (R, C)
    y: Tensor | None = None
    parity: bool = False


@dataclass
class Dense:
    """3×3 convolutions of ReLU(x)."""

    operation: str
    places: tuple[int, ...]
    weight: Tensor
    y: Tensor | None = None
    parity: bool = False


Unit = Depthwise | Pointwise | Dense


@dataclass
class Saved:
    """What a source's backward needs."""

    x: Tensor
    relu: Tensor
    first: list[Depthwise] = field(default_factory=list)  # first stages of separable convolutions
    first_norm: norms.Norm | None = None
    units: list[Unit] = field(default_factory=list)
    norm: norms.Norm | None = None
    linear: list[str] = field(default_factory=list)
    linear_values: Tensor | None = None
    linear_mix: Tensor | None = None
    pool_norm: dict[str, norms.Norm] = field(default_factory=dict)
    pool_where: Tensor | None = None
    plain: list[tuple[int, str, Tensor, Tensor, list[str], list[Tensor]]] = field(default_factory=list)


def edge_weight(edge: int, operation: str, leaf: str) -> str:
    return f"edges.{edge}.operations.{operation}.{leaf}"
