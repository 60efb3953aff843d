"""A bilevel problem whose best response and hypergradient are known: quadratic losses in w and λ."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fer_nas.bilevel.protocol import Params


@dataclass(frozen=True, kw_only=True)
class Quadratic:
    """L_train = ½(w − Aλ − c)ᵀG(w − Aλ − c),  L_val = ½(w − t)ᵀQ(w − t) + wᵀBλ + ½κ‖λ‖².

    G, Q (d, d) symmetric positive definite; A, B (d, n); c, t (d,). Without best-response parameters the weights are
    {"w": (d,)}; with them the network's weights are w + V·response, V (d, n) under "w_rescale" as in best-response
    layers, and `response` is λ (STN) or λ minus the centre (Δ-STN). The "network's outputs" are its weights. Batches
    are ignored. Implements NetworkTask.
    """

    G: Tensor
    A: Tensor
    c: Tensor
    Q: Tensor
    B: Tensor
    t: Tensor
    curvature: float = 1.0

    def initial_weights(self, generator: torch.Generator, best_response: bool = False) -> Params:
        """w ~ N(0, 1), and V = 0 where it is asked for, in float64."""
        weights = {"w": torch.randn(len(self.c), generator=generator, dtype=self.c.dtype)}
        return weights | ({"w_rescale": torch.zeros_like(self.A)} if best_response else {})

    def outputs(self, weights: Params, hyper: Tensor, batch: object, response: Tensor | None = None) -> Tensor:
        """(d,)."""
        return respond(weights, response)

    def inner_criterion(
        self, outputs: Tensor, weights: Params, hyper: Tensor, batch: object, response: Tensor | None = None
    ) -> Tensor:
        gap = outputs - self.A @ hyper - self.c
        return gap @ self.G @ gap / 2

    def inner_loss(self, weights: Params, hyper: Tensor, batch: object, response: Tensor | None = None) -> Tensor:
        return self.inner_criterion(respond(weights, response), weights, hyper, batch, response)

    def outer_loss(self, weights: Params, hyper: Tensor, batch: object, response: Tensor | None = None) -> Tensor:
        w = respond(weights, response)
        miss = w - self.t
        return miss @ self.Q @ miss / 2 + w @ self.B @ hyper + self.curvature * hyper @ hyper / 2

    def response_matrix(self, weight_decay: float = 0.0) -> Tensor:
        """∂w*/∂λ = (G + decay)⁻¹ G A, (d, n)."""
        return torch.linalg.solve(self.G + weight_decay * torch.eye(len(self.c)).to(self.G), self.G @ self.A)

    def best_response(self, hyper: Tensor, weight_decay: float = 0.0) -> Tensor:
        """w*(λ), (d,): the minimum of L_train + ½·decay·‖w‖²."""
        target = self.G @ (self.A @ hyper + self.c)
        return torch.linalg.solve(self.G + weight_decay * torch.eye(len(self.c)).to(self.G), target)

    def direct(self, w: Tensor, hyper: Tensor) -> Tensor:
        """∂L_val/∂λ at any weights, (n,)."""
        return self.B.T @ w + self.curvature * hyper

    def slope(self, w: Tensor, hyper: Tensor) -> Tensor:
        """∂L_val/∂w at any weights, (d,)."""
        return self.Q @ (w - self.t) + self.B @ hyper

    def hypergradient(self, hyper: Tensor, weight_decay: float = 0.0) -> tuple[Tensor, Tensor]:
        """(direct, response) at w*(λ), each (n,)."""
        w = self.best_response(hyper, weight_decay)
        return self.direct(w, hyper), self.response_matrix(weight_decay).T @ self.slope(w, hyper)


def respond(weights: Params, response: Tensor | None) -> Tensor:
    """The network's weights: w, and V·response added where both are there."""
    return (
        weights["w"]
        if response is None or "w_rescale" not in weights
        else weights["w"] + weights["w_rescale"] @ response
    )


def random_quadratic(
    generator: torch.Generator,
    *,
    dimensions: int = 20,
    hypers: int = 12,
    condition: float = 10.0,
    direct: bool = True,
    coupled: bool = True,
) -> Quadratic:
    """G and Q with eigenvalues from 1/condition to 1 along random axes, all else N(0, 1), float64.

    direct: L_val depends on λ itself (else B = 0 and κ = 0). coupled: the weights depend on λ (else A = 0).
    """

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator, dtype=torch.float64)

    def positive_definite() -> Tensor:
        axes, _ = torch.linalg.qr(normal(dimensions, dimensions))
        values = torch.logspace(0, 1, dimensions, base=1 / condition, dtype=torch.float64)
        return axes @ torch.diag(values) @ axes.T

    return Quadratic(
        G=positive_definite(),
        Q=positive_definite(),
        A=normal(dimensions, hypers) * coupled,
        B=normal(dimensions, hypers) * direct,
        c=normal(dimensions),
        t=normal(dimensions),
        curvature=float(direct),
    )
