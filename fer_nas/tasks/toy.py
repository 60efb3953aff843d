"""The toy problem with two hyperparameters on which hypergradients are compared; docs/bilevel.md shows it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fer_nas.bilevel.protocol import Params

WEIGHTS_START, HYPER_START = (2.0, 2.0), (1.0, 1.0)
HALF_G = torch.tensor([0.5, 0.25], dtype=torch.float64)  # ½ diag(1, ½)


@dataclass(frozen=True)
class Toy:
    """L_val = ‖w‖² + 10‖sin w‖²,  L_train = ½(w − λ)ᵀ diag(1, ½) (w − λ);  w*(λ) = λ, so the optimum is λ = (0, 0).

    L_val has a local minimum near ±2.84 along each axis, and the basin of 0 ends near ±1.75: w starts outside of it at
    (2, 2), λ inside at (1, 1). λ has no direct effect on L_val.

    copies: P independent problems side by side, so that one run tries P outer rates: λ is (2P,), copy after copy, w is
    (P, 2), V of the best response (P, 2, 2); losses are sums over the copies. Implements NetworkTask; float64.
    """

    copies: int = 1

    def initial_hyper(self) -> Tensor:
        return torch.tensor(HYPER_START, dtype=torch.float64).repeat(self.copies)

    def initial_weights(self, best_response: bool = False) -> Params:
        """w = (2, 2), and V = 0 where it is asked for."""
        weights = {"w": torch.tensor(WEIGHTS_START, dtype=torch.float64).repeat(self.copies, 1)}
        return weights | ({"w_rescale": torch.zeros(self.copies, 2, 2, dtype=torch.float64)} if best_response else {})

    def outputs(self, weights: Params, hyper: Tensor, batch: object, response: Tensor | None = None) -> Tensor:
        """The network's weights, (P, 2): w + V·response."""
        if response is None or "w_rescale" not in weights:
            return weights["w"]
        return weights["w"] + (weights["w_rescale"] @ response.view(-1, 2, 1)).squeeze(2)

    def inner_criterion(
        self, outputs: Tensor, weights: Params, hyper: Tensor, batch: object, response: Tensor | None = None
    ) -> Tensor:
        gap = outputs - hyper.view(-1, 2)
        return (gap * gap * HALF_G).sum()

    def inner_loss(self, weights: Params, hyper: Tensor, batch: object, response: Tensor | None = None) -> Tensor:
        return self.inner_criterion(self.outputs(weights, hyper, batch, response), weights, hyper, batch, response)

    def outer_loss(self, weights: Params, hyper: Tensor, batch: object, response: Tensor | None = None) -> Tensor:
        return landscape(self.outputs(weights, hyper, batch, response)).sum()


def landscape(w: Tensor) -> Tensor:
    """‖w‖² + 10‖sin w‖² over the last dimension; with w = λ the function that λ is to minimize."""
    return (w.square() + 10 * w.sin().square()).sum(-1)
