"""Hypergradients through an unrolled inner step."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from fer_nas.bilevel.protocol import Batch, Hypergradient, InnerStep, Params, Task, descend, gradients


@dataclass(frozen=True)
class SecondOrder:
    """DARTS, second order (Liu et al. 2019, eqs. 7 and 8): one step ahead, its mixed derivative by finite differences.

    ∇ = ∂L_val/∂λ(w') − ξ·[∂L_train/∂λ(w⁺) − ∂L_train/∂λ(w⁻)]/(2ε),  w± = w ± ε·∂L_val/∂w'(w'),
    ε = `radius`/‖∂L_val/∂w'‖₂. The error of the difference is O(ε²).
    """

    radius: float = 0.01
    needs_response = False
    fit = staticmethod(descend)

    def hypergradient(
        self, task: Task, weights: Params, hyper: Tensor, train: Batch, val: Batch, step: InnerStep
    ) -> Hypergradient:
        point = hyper.detach()
        here = {name: w.detach().requires_grad_() for name, w in weights.items()}
        slope, _ = gradients(task.inner_loss(here, point, train), here)
        with torch.no_grad():
            ahead = step.ahead(here, slope)
        ahead = {name: w.requires_grad_() for name, w in ahead.items()}
        open_point = point.clone().requires_grad_()
        loss = task.outer_loss(ahead, open_point, val)
        direction, (direct,) = gradients(loss, ahead, open_point)

        norm = torch.sqrt(sum((d * d).sum() for d in direction.values()))  # type: ignore[arg-type]
        epsilon = self.radius / norm.clamp_min(torch.finfo(norm.dtype).tiny ** 0.5)
        slopes = []
        for sign in (1.0, -1.0):
            side = {name: w.detach() + sign * epsilon * direction[name] for name, w in weights.items()}
            open_point = point.clone().requires_grad_()
            inner = task.inner_loss(side, open_point, train)
            slopes.append(gradients(inner, {}, open_point)[1][0])
        response = -step.learning_rate * (slopes[0] - slopes[1]) / (2 * epsilon)
        return Hypergradient(direct=direct, response=response, loss=loss.detach())
