"""The dominant eigenvalue of a second derivative, which is never formed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor


def dominant_eigenvalue(
    function: Callable[[Tensor], Tensor], point: Tensor, *, iterations: int, generator: torch.Generator
) -> float:
    """The eigenvalue of largest modulus, with its sign, of ∂²f/∂x² at `point` (n,), by power iteration.

    v ← Hv/‖Hv‖ from a random direction; the answer is the last vᵀHv, an error of |second/first|^(2·iterations). Takes
    one forward and backward pass and then a double-backward product for each iteration; 0 for a function without H.
    """
    here = point.detach().requires_grad_()
    (slope,) = torch.autograd.grad(function(here), here, create_graph=True)
    if not slope.requires_grad:
        return 0.0
    v = torch.randn(here.shape, generator=generator, dtype=here.dtype).to(here.device)
    v, value = v / v.norm(), torch.zeros((), dtype=here.dtype, device=here.device)
    for _ in range(iterations):
        (product,) = torch.autograd.grad(slope, here, v, retain_graph=True)
        value, size = v @ product, product.norm()
        if not size > 0:
            break
        v = product / size
    return value.item()
