"""One mixed cell of the supernet as a single differentiable function, forward and backward.

The work goes by source, a state and all edges that leave it: ReLU, pools and their norms once for each state, depthwise
convolutions of several edges in one call where they are small, and no BatchNorm as an operation of its own: the outputs
of all operations stay as they are, their sums and sums of squares give every norm at once (`fast_norms.Norm`), and
norm and mixture weight are one scale by column with which an output is added to its node. Backward is written out.

Shapes: N images, H × W pixels, C channels; M = N·H·W; states are (N, H, W, C), outputs of operations (M, k·C) with k
edges side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from fer_nas.space.fast_backward import CellPass
from fer_nas.space.fast_plan import CellFormPlan


class FastCell(torch.autograd.Function):
    """apply(plan, keep, recompute, x0, x1, mixture, *weights) → (N, H, W, nodes·C); differentiable once, where `keep`
    is set. recompute: what lies between is not kept but computed anew when the gradient is asked for."""

    @staticmethod
    def forward(
        ctx: Any,
        plan: CellFormPlan,
        keep: bool,
        recompute: bool,
        x0: Tensor,
        x1: Tensor,
        mixture: Tensor,
        *weights: Tensor,
    ) -> Tensor:
        cell = _cell(plan, x0, mixture, weights)
        with_weights = keep and any(ctx.needs_input_grad[6:])
        out = cell.forward(x0, x1, keep and not recompute, with_weights)
        if keep and recompute:
            ctx.cell, ctx.again = None, (plan, with_weights, cell.forks)
            ctx.save_for_backward(x0, x1, mixture, *weights)
        elif keep:
            ctx.cell = cell
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, g: Tensor) -> tuple[Tensor | None, ...]:
        cell: CellPass | None = ctx.cell
        if cell is None:
            (plan, with_weights, forks), (x0, x1, mixture, *weights) = ctx.again, ctx.saved_tensors
            cell = _cell(plan, x0, mixture, weights)
            cell.forks = forks
            cell.forward(x0, x1, True, with_weights)
        d0, d1, d_mixture, d_weights = cell.backward(g, ctx.needs_input_grad[3:5])
        return None, None, None, d0, d1, d_mixture, *(d_weights.get(name) for name in cell.plan.names)


def _cell(plan: CellFormPlan, x0: Tensor, mixture: Tensor, weights: Sequence[Tensor]) -> CellPass:
    n, h, w, _ = x0.shape
    stride = plan.sources[0].stride
    named = dict(zip(plan.names, weights, strict=True))
    return CellPass(plan, named, mixture, (n, -(-h // stride), -(-w // stride)))
