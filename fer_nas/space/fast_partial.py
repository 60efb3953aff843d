"""Partial channels in the fast form: what passes by the operations of a cell's edges (`edge.PartialEdge`).

A state (N, H, W, C) is split into the channels that operations run on and those that pass by. All edges into a node
shuffle alike, so the node's two sums are shuffled once. Shapes: M pixels of a node, R = C − inner.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from fer_nas.space import fast_kernels as kernels
from fer_nas.space import fast_layout as layout
from fer_nas.space.fast_plan import places


class PassBy:
    """Forward, and backward in the opposite order of sources; holds what lies between them."""

    def __init__(self, order: tuple[int, ...], inner: int, mixture_EO: Tensor) -> None:
        self.order = places(order, mixture_EO.device)
        self.inverse = places(tuple(sorted(range(len(order)), key=order.__getitem__)), mixture_EO.device)
        self.inner, self.strength = inner, mixture_EO.sum(1)
        self.saved: list[tuple[Tensor, Tensor, Tensor | None]] = []
        self.sums: Tensor | None = None
        self.g: Tensor | None = None

    def strength_of(self, edges: list[int]) -> Tensor:
        return self.strength.index_select(0, places(tuple(edges), self.strength.device))

    def operated(self, x_NHWC: Tensor) -> Tensor:
        return x_NHWC[..., : self.inner].contiguous()

    def add(self, x_NHWC: Tensor, source: Any, nodes: int, keep: bool) -> None:
        """A source's other channels to the nodes of its edges."""
        rest = x_NHWC[..., self.inner :].contiguous()
        passed, where = rest, None
        if source.stride == 2:
            out, where = F.max_pool2d(layout.nchw(rest), 2, ceil_mode=True, return_indices=True)
            passed = layout.nhwc(out)
        if self.sums is None:
            self.sums = passed.new_zeros(nodes, *passed.shape)
        edges, first = [edge for edge, _ in source.edges], source.edges[0][1]
        flat = self.sums[first : first + len(edges)].view(len(edges), -1)
        flat.addr_(self.strength_of(edges), passed.reshape(-1))
        if keep:
            self.saved.append((rest, passed, where))

    def join(self, operated_NHWC: Tensor, node: int) -> Tensor:
        """A node's state from its two sums."""
        if kernels.by_triton(operated_NHWC):
            return kernels.gpu_kernels.joined(operated_NHWC, layout.some(self.sums)[node], self.order)
        return torch.cat([operated_NHWC, layout.some(self.sums)[node]], dim=3)[..., self.order]

    def split(self, g: Tensor) -> tuple[Tensor, Tensor]:
        """A state's gradient (…, C) as those of its two sums."""
        if kernels.by_triton(g):
            return kernels.gpu_kernels.apart(g.contiguous(), self.inverse, self.inner)
        ordered = g[..., self.inverse]
        return ordered[..., : self.inner].contiguous(), ordered[..., self.inner :].contiguous()

    def begin_backward(self, g_nodes: Tensor) -> Tensor:
        """From the gradients of all nodes' states (nodes, M, C); those of the operations' sums."""
        operated, self.g = self.split(g_nodes)
        return operated

    def add_gradient(self, node: int, dx_MC: Tensor) -> Tensor:
        """What a node's later use gives its state; the part of the operations' sum is handed back."""
        operated, rest = self.split(dx_MC)
        layout.some(self.g)[node].add_(rest)
        return operated

    def backward(self, source: Any, d_operated: Tensor, d_mixture_EO: Tensor) -> Tensor:
        """The source's state gradient (N, H, W, C) from that of its operated channels; adds to the mixture's."""
        rest, passed, where = self.saved.pop()
        edges, first = [edge for edge, _ in source.edges], source.edges[0][1]
        g = layout.some(self.g)[first : first + len(edges)].view(len(edges), -1)
        through = (g @ passed.reshape(-1))[:, None].expand(-1, d_mixture_EO.shape[1])
        d_mixture_EO.index_add_(0, places(tuple(edges), g.device), through)
        d_rest = (self.strength_of(edges) @ g).view_as(passed)
        if where is not None:
            d_rest = layout.nhwc(
                torch.ops.aten.max_pool2d_with_indices_backward(
                    layout.nchw(d_rest), layout.nchw(rest), [2, 2], [2, 2], [0, 0], [1, 1], True, where
                )
            )
        return torch.cat([d_operated, d_rest], dim=3)
