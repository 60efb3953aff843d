"""What a bilevel problem is, and what a method that learns λ does with it.

    λ* = argmin_λ L_val(λ, w*(λ)),   w*(λ) = argmin_w L_train(λ, w)

λ is one vector, `hyper` in the code; w is a dictionary of tensors, so that a method can evaluate the losses at any
weights (a step ahead, a little to the side) without copying a network.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, runtime_checkable

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


class NetworkTask(Task, Protocol):
    """A task whose losses are read off a network's outputs, which is what a linearization of the network needs."""

    def outputs(self, weights: Params, hyper: Tensor, batch: Batch, response: Tensor | None = None) -> Tensor:
        """The network's outputs in training mode, (B, …)."""
        ...

    def inner_criterion(
        self, outputs: Tensor, weights: Params, hyper: Tensor, batch: Batch, response: Tensor | None = None
    ) -> Tensor:
        """L_train of these outputs: inner_loss is the criterion of `outputs` at the same arguments.

        `response` is for penalties on the weights themselves: W(λ) is what they punish.
        """
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
        return self._moved(weights, self._move(weights, gradient))

    def _move(self, weights: Params, gradient: Params) -> list[Tensor]:
        """momentum·v + ∇L_train + weight decay·w, in the weights' order."""
        slopes = [gradient[name] for name in weights]
        move = dict(
            zip(weights, torch._foreach_add(slopes, list(weights.values()), alpha=self.weight_decay), strict=True)
        )
        rolling = [name for name in weights if self.momentum and name in self.velocity]
        if rolling:
            now, velocity = [move[name] for name in rolling], [self.velocity[name] for name in rolling]
            move |= zip(rolling, torch._foreach_add(now, velocity, alpha=self.momentum), strict=True)
        return list(move.values())

    def _moved(self, weights: Params, move: list[Tensor]) -> Params:
        moved = torch._foreach_add(list(weights.values()), move, alpha=-self.learning_rate)
        return dict(zip(weights, moved, strict=True))

    @torch.no_grad()
    def take(self, weights: Params, gradient: Params) -> tuple[Params, InnerStep]:
        """The weights after the step as new leaves, and the optimizer with its new momentum buffers."""
        move = self._move(weights, gradient)
        moved = {name: w.requires_grad_() for name, w in self._moved(weights, move).items()}
        return moved, replace(self, velocity=dict(zip(weights, move, strict=True)) if self.momentum else {})


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
    """How the weights follow λ, and how λ's gradient is estimated; owns its own knobs and its own state.

    needs_response: the task's network must have best-response layers, which read `response`.
    """

    needs_response: bool

    def fit(
        self, task: Task, weights: Params, hyper: Tensor, batches: Iterable[Batch], step: InnerStep
    ) -> tuple[Params, InnerStep]:
        """Inner steps at λ, one a batch; the weights after them and the optimizer's new state."""
        ...

    def hypergradient(
        self, task: Task, weights: Params, hyper: Tensor, train: Batch, val: Batch, step: InnerStep
    ) -> Hypergradient: ...


@runtime_checkable
class Stateful(Protocol):
    """A method that carries something from one hypergradient to the next, which a checkpoint must hold."""

    def state(self) -> dict[str, Tensor]:
        """All that it carries; empty before the first hypergradient."""
        ...

    def load_state(self, saved: dict[str, Tensor]) -> None: ...


def descend(
    task: Task, weights: Params, hyper: Tensor, batches: Iterable[Batch], step: InnerStep
) -> tuple[Params, InnerStep]:
    """Plain inner steps, the `fit` of every method that does not change how weights are trained."""
    for batch in batches:
        here = {name: w.detach().requires_grad_() for name, w in weights.items()}
        slope, _ = gradients(task.inner_loss(here, hyper.detach(), batch), here)
        weights, step = step.take(here, slope)
    return weights, step


def gradients(loss: Tensor, weights: Params, *more: Tensor, create_graph: bool = False) -> tuple[Params, list[Tensor]]:
    """∂loss/∂weights by name and ∂loss/∂more; what the loss does not depend on gets zeros."""
    inputs = [*weights.values(), *more]
    found = torch.autograd.grad(loss, inputs, create_graph=create_graph, allow_unused=True)
    filled = [torch.zeros_like(x) if g is None else g for x, g in zip(inputs, found, strict=True)]
    return dict(zip(weights, filled, strict=False)), filled[len(weights) :]
