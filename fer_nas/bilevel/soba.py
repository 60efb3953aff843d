"""The carried adjoint: q ≈ (H + μ)⁻¹ ∂L_val/∂w is kept across λ steps and improved a little at each (SOBA)."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from fer_nas.bilevel.products import Curvature, finite_products, outer_gradients, require_path
from fer_nas.bilevel.protocol import Batch, Hypergradient, InnerStep, Params, Task, descend
from fer_nas.errors import FerNasError, InputError


@dataclass(kw_only=True)
class CarriedAdjoint:
    """One stochastic step on (H + μ)q = ∂L_val/∂w a hypergradient (Dagréou et al. 2022, SOBA); response −Mᵀq.

    ḡ ← s·ḡ + (1 − s)·∂L_val/∂w,   r ← t·r + (1 − t)·(−Mᵀq),   q ← q − rate·[(H + μ)q − ḡ],   response = r, clipped

    with s = `outer_mean`, t = `response_mean`; ḡ starts at its first value, q and r at 0: it begins as first order.

    rate: of q's step; rate·(H's largest eigenvalue + μ) must stay below 2. None: η/(1 + β) of the weights' own step,
        whose H has eigenvalues up to about 2·(1 + β)/η where training is stable.
    damping: μ, bounds q in directions in which H is flat or negative; 0 is unbiased and needs H positive definite.
        Where it is, ‖q‖ is at most ‖ḡ‖/μ, so a longer q is cut to that: it is on its way to infinity.
    outer_mean: share of the old running mean of ∂L_val/∂w, which quiets the noise of validation batches.
    response_mean: share of the old running mean of the response; 0 turns it off.
    clip: largest norm of the response as a share of the direct term's, for a q that is not yet trustworthy; None, no
        bound, where λ has no direct effect on L_val.
    exact: products by double backward; otherwise one pair of finite differences of length `radius`.
    every: hypergradients between two products (the others repeat the mean response), which halves the price at 2.
    """

    rate: float | None = None
    damping: float = 1.0
    outer_mean: float = 0.8
    response_mean: float = 0.8
    clip: float | None = 0.5
    exact: bool = True
    radius: float = 0.01
    every: int = 1
    needs_response = False
    fit = staticmethod(descend)
    carried: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)

    def __post_init__(self) -> None:
        for name, value, low, high in (
            ("rate", self.rate or 0.0, 0.0, float("inf")),
            ("damping", self.damping, 0.0, float("inf")),
            ("outer_mean", self.outer_mean, 0.0, 1.0),
            ("response_mean", self.response_mean, 0.0, 1.0),
        ):
            if not low <= value <= high:
                raise InputError(f"carried adjoint: {name} is {value}; it must lie between {low:g} and {high:g}")
        if self.every < 1:
            raise InputError(f"carried adjoint: every is {self.every}; it must be at least 1")

    def hypergradient(
        self, task: Task, weights: Params, hyper: Tensor, train: Batch, val: Batch, step: InnerStep
    ) -> Hypergradient:
        slope, direct, loss = outer_gradients(task, weights, hyper, val)
        kept = self.carried or {
            "outer": slope,
            "adjoint": torch.zeros_like(slope),
            "response": torch.zeros_like(direct),
            "count": torch.zeros((), dtype=torch.int64),
        }
        outer = torch.lerp(slope, kept["outer"], self.outer_mean)
        adjoint, response, count = kept["adjoint"], kept["response"], int(kept["count"])
        if count % self.every == 0:
            hessian, mixed = self.products(task, weights, hyper, train, adjoint, step.weight_decay, direct)
            rate = step.learning_rate / (1 + step.momentum) if self.rate is None else self.rate
            adjoint = adjoint - rate * (hessian + self.damping * adjoint - outer)
            if self.damping:
                adjoint = within(adjoint, outer.norm() / self.damping)
            response = torch.lerp(-mixed, response, self.response_mean)
        if not adjoint.isfinite().all():
            raise FerNasError("the carried adjoint is not finite; lower its rate or raise its damping")
        self.carried = {"outer": outer, "adjoint": adjoint, "response": response, "count": kept["count"] + 1}
        if self.clip is not None:
            response = within(response, self.clip * direct.norm())
        return Hypergradient(direct=direct, response=response, loss=loss)

    def products(
        self, task: Task, weights: Params, hyper: Tensor, batch: Batch, v: Tensor, weight_decay: float, direct: Tensor
    ) -> tuple[Tensor, Tensor]:
        """(Hv, Mᵀv)."""
        if self.exact:
            curvature = Curvature(task, weights, hyper, batch, weight_decay)
            found = curvature.both(v)
            require_path(direct, curvature.depends)
            return found
        return finite_products(task, weights, hyper, batch, v, self.radius, weight_decay)

    def state(self) -> dict[str, Tensor]:
        return dict(self.carried)

    def load_state(self, saved: dict[str, Tensor]) -> None:
        self.carried = dict(saved)


def within(vector: Tensor, bound: Tensor) -> Tensor:
    """The vector at a norm of at most `bound`."""
    return vector * (bound / vector.norm().clamp_min(torch.finfo(bound.dtype).tiny)).clamp_max(1)
