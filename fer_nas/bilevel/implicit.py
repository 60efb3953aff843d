"""Hypergradients by the implicit function theorem, at weights that have (nearly) converged.

    ∂L_train/∂w = 0 at w*(λ)   ⇒   response = −Mᵀ(H + μ)⁻¹ ∂L_val/∂w,   H = ∂²L_train/∂w², M = ∂²L_train/∂w∂λ

Products with H and M are exact (double backward); the two methods differ in how they solve the linear system. The
damping μ bounds the answer where H is nearly singular, and biases it everywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from fer_nas.bilevel.linear_solve import Matvec, conjugate_gradient, neumann
from fer_nas.bilevel.products import Curvature, outer_gradients, require_path
from fer_nas.bilevel.protocol import Batch, Hypergradient, InnerStep, Params, Task, descend
from fer_nas.errors import FerNasError


@dataclass(frozen=True, kw_only=True)
class Neumann:
    """(H + μ)⁻¹ by `terms` terms of a Neumann series (Lorraine et al. 2020, alg. 3).

    scale: its step, below 2 over H's largest eigenvalue; the weights' learning rate where not given. It is then the
    gradient of terms + 1 unrolled steps without momentum, taken at the converged weights.
    """

    terms: int = 20
    scale: float | None = None
    damping: float = 0.0
    needs_response = False
    fit = staticmethod(descend)

    def hypergradient(
        self, task: Task, weights: Params, hyper: Tensor, train: Batch, val: Batch, step: InnerStep
    ) -> Hypergradient:
        scale = step.learning_rate if self.scale is None else self.scale
        return implicit(
            lambda matvec, b: neumann(matvec, b, terms=self.terms, scale=scale),
            self.damping, task, weights, hyper, train, val, step,
        )  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class ConjugateGradient:
    """(H + μ)⁻¹ by conjugate gradients (Pedregosa 2016), which want H + μ positive definite.

    iterations: at most so many products with H; tolerance: relative residual at which to stop, 100 times the machine
    precision where not given.
    """

    iterations: int = 20
    tolerance: float | None = None
    damping: float = 0.0
    needs_response = False
    fit = staticmethod(descend)

    def hypergradient(
        self, task: Task, weights: Params, hyper: Tensor, train: Batch, val: Batch, step: InnerStep
    ) -> Hypergradient:
        return implicit(
            lambda matvec, b: conjugate_gradient(
                matvec, b, iterations=self.iterations, tolerance=self.tolerance
            ),
            self.damping, task, weights, hyper, train, val, step,
        )  # fmt: skip


def implicit(
    solve: Callable[[Matvec, Tensor], Tensor],
    damping: float,
    task: Task,
    weights: Params,
    hyper: Tensor,
    train: Batch,
    val: Batch,
    step: InnerStep,
) -> Hypergradient:
    """The hypergradient with (H + damping)⁻¹ by `solve`; an answer that is not finite is a FerNasError."""
    slope, direct, loss = outer_gradients(task, weights, hyper, val)
    curvature = Curvature(task, weights, hyper, train, step.weight_decay)
    adjoint = solve(lambda v: curvature.hessian(v) + damping * v, slope)
    if not adjoint.isfinite().all():
        raise FerNasError(
            "the linear system behind the hypergradient has no finite answer; "
            "lower the learning rate or the scale, or raise the damping"
        )
    response = -curvature.mixed(adjoint)
    require_path(direct, curvature.depends)
    return Hypergradient(direct=direct, response=response, loss=loss)
