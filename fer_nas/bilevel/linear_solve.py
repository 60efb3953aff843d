"""Linear systems given only as a product: (matvec, b) → x with A x ≈ b. Vectors are flat; A is never formed."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Matvec = Callable[[Tensor], Tensor]


def conjugate_gradient(
    matvec: Matvec, b: Tensor, *, iterations: int | None = None, tolerance: float | None = None
) -> Tensor:
    """x with ‖b − A x‖₂ ≤ tolerance·‖b‖₂, A symmetric positive definite (Hestenes & Stiefel 1952).

    iterations: at most so many products; as many as b has entries where not given. tolerance: default 100 times the
    machine precision of b's type. Where a direction p has pᵀA p ≤ 0, A is not positive definite and the iteration ends
    with the x it has (the truncated Newton rule, Nocedal & Wright 2006, alg. 7.1; b itself where it is the first).
    """
    x, residual = torch.zeros_like(b), b.clone()
    goal = (100 * torch.finfo(b.dtype).eps if tolerance is None else tolerance) * float(b.norm())
    direction, size = residual, float(residual @ residual)
    for step in range(b.numel() if iterations is None else iterations):
        if size**0.5 <= goal:
            break
        product = matvec(direction)
        curvature = float(direction @ product)
        if not curvature > 0:
            return b.clone() if step == 0 else x
        length = size / curvature
        x = x + length * direction
        residual = residual - length * product
        before, size = size, float(residual @ residual)
        direction = residual + (size / before) * direction
    return x


def neumann(matvec: Matvec, b: Tensor, *, terms: int, scale: float) -> Tensor:
    """scale·Σ_{i=0}^{terms} (I − scale·A)^i b → A⁻¹b as the terms grow, where 0 < scale·A's eigenvalues < 2.

    Takes `terms` products; 0 terms give scale·b, which is one unrolled step of rate `scale`.
    """
    term = total = b
    for _ in range(terms):
        term = term - scale * matvec(term)
        total = total + term
    return scale * total
