"""Products with the second derivatives of L_train, H = ∂²L_train/∂w² and M = ∂²L_train/∂w∂λ, and w as one vector.

v and q are vectors of w's size: the weights' tensors one behind the other, in the dictionary's order.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from fer_nas.bilevel.protocol import Batch, Params, Task, gradients
from fer_nas.errors import InputError


def flatten(tree: Params) -> Tensor:
    return torch.cat([tensor.reshape(-1) for tensor in tree.values()])


def unflatten(vector: Tensor, like: Params) -> Params:
    """Views of the vector in the names and shapes of `like`."""
    pieces = torch.split(vector, [tensor.numel() for tensor in like.values()])
    return {name: piece.view(w.shape) for (name, w), piece in zip(like.items(), pieces, strict=True)}


def outer_gradients(task: Task, weights: Params, hyper: Tensor, batch: Batch) -> tuple[Tensor, Tensor, Tensor]:
    """(∂L_val/∂w as one vector, ∂L_val/∂λ, L_val) at these weights."""
    point = hyper.detach().requires_grad_()
    here = {name: w.detach().requires_grad_() for name, w in weights.items()}
    loss = task.outer_loss(here, point, batch)
    slope, (direct,) = gradients(loss, here, point)
    return flatten(slope), direct, loss.detach()


def require_path(direct: Tensor, depends: bool) -> None:
    """InputError where neither loss has a derivative by λ, which could then never move.

    depends: ∂L_train/∂w has one. It has none where λ is read as a number (.item()) or only chooses random masks.
    """
    if not depends and not direct.any():
        raise InputError(
            "neither L_train nor L_val has a derivative by λ (a value read by .item(), or one that only draws masks, "
            "cuts it): write the losses as functions of λ, or take STN or Δ-STN, which need none"
        )


class Curvature:
    """Exact products at (w, λ) by double backward: one forward and backward pass to begin with, one backward a product.

    The optimizer's weight decay belongs to the inner problem: its loss is L_train + ½·decay·‖w‖².
    """

    def __init__(self, task: Task, weights: Params, hyper: Tensor, batch: Batch, weight_decay: float = 0.0) -> None:
        self.weight_decay = weight_decay
        self._point = hyper.detach().requires_grad_()
        self._here = {name: w.detach().requires_grad_() for name, w in weights.items()}
        loss = task.inner_loss(self._here, self._point, batch)
        slope, _ = gradients(loss, self._here, create_graph=True)
        self._slope = flatten(slope)
        self.depends = self._slope.requires_grad
        """Whether the last product with M found λ in the graph of ∂L_train/∂w."""

    def _backward(self, v: Tensor, inputs: list[Tensor]) -> list[Tensor]:
        if not self._slope.requires_grad:  # L_train is linear in w, or does not depend on it
            return [torch.zeros_like(x) for x in inputs]
        found = torch.autograd.grad(self._slope, inputs, v, retain_graph=True, allow_unused=True)
        if inputs[-1] is self._point:
            self.depends = found[-1] is not None
        return [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, found, strict=True)]

    def hessian(self, v: Tensor) -> Tensor:
        """Hv."""
        found = self._backward(v, list(self._here.values()))
        return torch.cat([g.reshape(-1) for g in found]) + self.weight_decay * v

    def mixed(self, v: Tensor) -> Tensor:
        """Mᵀv, of λ's shape."""
        return self._backward(v, [self._point])[0]

    def both(self, v: Tensor) -> tuple[Tensor, Tensor]:
        """(Hv, Mᵀv) by one backward pass."""
        *found, mixed = self._backward(v, [*self._here.values(), self._point])
        return torch.cat([g.reshape(-1) for g in found]) + self.weight_decay * v, mixed


def finite_products(
    task: Task, weights: Params, hyper: Tensor, batch: Batch, v: Tensor, radius: float, weight_decay: float = 0.0
) -> tuple[Tensor, Tensor]:
    """(Hv, Mᵀv) from one pair of gradients at w ± εv, ε = radius/‖v‖₂ (Liu et al. 2019, eq. 8); the error is O(ε²)."""
    epsilon, sides = _sides(weights, v, radius)
    point, found = hyper.detach().requires_grad_(), []
    for side in sides:
        here = {name: w.requires_grad_() for name, w in side.items()}
        slope, (over_hyper,) = gradients(task.inner_loss(here, point, batch), here, point)
        found.append((flatten(slope), over_hyper))
    (w_plus, h_plus), (w_minus, h_minus) = found
    return (w_plus - w_minus) / (2 * epsilon) + weight_decay * v, (h_plus - h_minus) / (2 * epsilon)


def finite_mixed(
    task: Task, weights: Params, hyper: Tensor, batch: Batch, v: Tensor, radius: float
) -> tuple[Tensor, bool]:
    """Mᵀv of `finite_products` alone: no gradient of the weights is computed, a third of each backward pass.

    And whether L_train has a derivative by λ.
    """
    epsilon, sides = _sides(weights, v, radius)
    point, found, depends = hyper.detach().requires_grad_(), [], False
    for side in sides:
        loss = task.inner_loss(side, point, batch)
        depends = loss.requires_grad
        found.append(gradients(loss, {}, point)[1][0] if depends else torch.zeros_like(point))
    return (found[0] - found[1]) / (2 * epsilon), depends


def _sides(weights: Params, v: Tensor, radius: float) -> tuple[Tensor, Iterator[Params]]:
    """ε = radius/‖v‖₂, and w + εv, w − εv, one after the other."""
    epsilon = radius / v.norm().clamp_min(torch.finfo(v.dtype).tiny ** 0.5)
    center = flatten(weights).detach()
    return epsilon, (unflatten(center + sign * epsilon * v, weights) for sign in (1.0, -1.0))
