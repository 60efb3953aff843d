"""What a bilevel problem is, and what a method that learns λ does with it.

    λ* = argmin_λ L_val(λ, w*(λ)),   w*(λ) = argmin_w L_train(λ, w)

λ is one vector, `hyper` in the code; w is a dictionary of tensors, so that a method can evaluate the losses at any
weights (a step ahead, a little to the side) without copying a network.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import Tensor

Params = dict[str, Tensor]
Batch = Any


class Task(Protocol):
    """A bilevel problem: owns its module, its buffers and what a batch is.

    `hyper` feeds the data path (a mixture of operations, a dropout rate); `response` feeds best-response layers and
    is ignored by plain networks.
    """

    def inner_loss(self, weights: Params, hyper: Tensor, batch: Batch, response: Tensor | None = None) -> Tensor:
        """L_train, a scalar."""
        ...

    def outer_loss(self, weights: Params, hyper: Tensor, batch: Batch, response: Tensor | None = None) -> Tensor:
        """L_val, a scalar."""
        ...


@dataclass(frozen=True, kw_only=True)
class InnerStep:
    """The optimizer step that the weights take next: SGD with momentum (no dampening) and weight decay.

    velocity: the momentum buffers by weight name; one that is missing counts as zero.
    """

    learning_rate: float
    momentum: float = 0.0
    weight_decay: float = 0.0
    velocity: Params = field(default_factory=dict)

    def ahead(self, weights: Params, gradient: Params) -> Params:
        """w' = w − ξ(momentum·v + ∇L_train + weight decay·w), ξ the learning rate. Differentiable in its arguments."""
        result = {}
        for name, w in weights.items():
            move = gradient[name] + self.weight_decay * w
            if self.momentum and name in self.velocity:
                move = move + self.momentum * self.velocity[name]
            result[name] = w - self.learning_rate * move
        return result


@dataclass(frozen=True, kw_only=True)
class Hypergradient:
    """dL_val/dλ = direct (∂L_val/∂λ) + response ((∂w*/∂λ)ᵀ ∂L_val/∂w), each of λ's shape; loss is L_val."""

    direct: Tensor
    response: Tensor
    loss: Tensor

    @property
    def total(self) -> Tensor:
        return self.direct + self.response


class Method(Protocol):
    """Estimates the hypergradient; owns its own knobs."""

    def hypergradient(
        self, task: Task, weights: Params, hyper: Tensor, train: Batch, val: Batch, step: InnerStep
    ) -> Hypergradient: ...


def gradients(loss: Tensor, weights: Params, *more: Tensor, create_graph: bool = False) -> tuple[Params, list[Tensor]]:
    """∂loss/∂weights by name and ∂loss/∂more; what the loss does not depend on gets zeros."""
    inputs = [*weights.values(), *more]
    found = torch.autograd.grad(loss, inputs, create_graph=create_graph, allow_unused=True)
    filled = [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, found, strict=True)]
    return dict(zip(weights, filled, strict=False)), filled[len(weights) :]
