"""Hypergradients through unrolled inner steps: one step ahead (DARTS), or back through the last steps taken."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor

from fer_nas.bilevel.products import Curvature, finite_mixed, outer_gradients, require_path
from fer_nas.bilevel.protocol import Batch, Hypergradient, InnerStep, Params, Task, descend, gradients
from fer_nas.errors import FerNasError, InputError


@dataclass(frozen=True)
class SecondOrder:
    """DARTS, second order (Liu et al. 2019, eqs. 7 and 8): one step ahead, w' = w − ξ(…), ξ the learning rate.

    ∇ = ∂L_val/∂λ(w') − ξ·Mᵀ ∂L_val/∂w(w'). The product is a finite difference between w ± ε·∂L_val/∂w',
    ε = `radius`/‖∂L_val/∂w'‖₂, whose error is O(ε²), or `exact`, by double backward.
    """

    radius: float = 0.01
    exact: bool = False
    needs_response = False
    fit = staticmethod(descend)

    def hypergradient(
        self, task: Task, weights: Params, hyper: Tensor, train: Batch, val: Batch, step: InnerStep
    ) -> Hypergradient:
        here = {name: w.detach().requires_grad_() for name, w in weights.items()}
        slope, _ = gradients(task.inner_loss(here, hyper.detach(), train), here)
        with torch.no_grad():
            ahead = step.ahead(here, slope)
        direction, direct, loss = outer_gradients(task, ahead, hyper, val)
        if self.exact:
            curvature = Curvature(task, weights, hyper, train)
            mixed = curvature.mixed(direction)
            depends = curvature.depends
        else:
            mixed, depends = finite_mixed(task, weights, hyper, train, direction, self.radius)
        require_path(direct, depends)
        return Hypergradient(direct=direct, response=-step.learning_rate * mixed, loss=loss)


@dataclass(frozen=True)
class _Taken:
    """An inner step that was taken: where it began, with which batch and rates, and torch's generators before it."""

    weights: Params
    batch: Batch
    step: InnerStep
    random: Tensor


@dataclass
class Unrolled:
    """Back-propagation through the inner steps of the last `fit` (reverse mode, Franceschi et al. 2017, alg. 1).

    last: through so many of the steps, K; all of them, T, where not given (full), less is truncated (Shaban et al.
    2019). A step v' = m·v + ∂L_train/∂w + d·w, w' = w − ξ·v' turns the adjoints (a, c) of (w', v') into
        b = c − ξ·a,   ∂λ += Mᵀb,   a ← a + H b + d·b,   c ← m·b
    so that memory holds K copies of the weights and the graph of one step. Where L_train draws random numbers on the
    CPU (dropout), each step is repeated with the same ones.
    """

    last: int | None = None
    needs_response = False
    taken: deque[_Taken] = field(default_factory=deque, init=False, repr=False)

    def __post_init__(self) -> None:
        if self.last is not None and self.last < 1:
            raise InputError(f"unrolling goes back through {self.last} steps; it needs at least 1")

    def fit(
        self, task: Task, weights: Params, hyper: Tensor, batches: Iterable[Batch], step: InnerStep
    ) -> tuple[Params, InnerStep]:
        self.taken = deque(maxlen=self.last)
        for batch in batches:
            start = {name: w.detach() for name, w in weights.items()}
            self.taken.append(_Taken(start, batch, replace(step, velocity={}), torch.get_rng_state()))
            weights, step = descend(task, weights, hyper, [batch], step)
        return weights, step

    def hypergradient(
        self, task: Task, weights: Params, hyper: Tensor, train: Batch, val: Batch, step: InnerStep
    ) -> Hypergradient:
        """At the weights and λ of the last fit; its own batches are used, and `train` is not."""
        del train, step
        if not self.taken:
            raise FerNasError("unrolling has no steps to go back through: call fit, with at least one batch, first")
        weights_end, direct, loss = outer_gradients(task, weights, hyper, val)
        velocity_end, response = torch.zeros_like(weights_end), torch.zeros_like(direct)
        with torch.random.fork_rng(devices=[]):
            for taken in reversed(self.taken):
                torch.set_rng_state(taken.random)
                adjoint = velocity_end - taken.step.learning_rate * weights_end
                curvature = Curvature(task, taken.weights, hyper, taken.batch, taken.step.weight_decay)
                hessian, mixed = curvature.both(adjoint)
                require_path(direct, curvature.depends)
                response = response + mixed
                weights_end, velocity_end = weights_end + hessian, taken.step.momentum * adjoint
        return Hypergradient(direct=direct, response=response, loss=loss)
