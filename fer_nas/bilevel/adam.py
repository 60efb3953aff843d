"""Adam on a dictionary of weights (Kingma and Ba 2015), for the parameters of a best response."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from fer_nas.bilevel.protocol import Params

BETA_SQUARE, EPSILON = 0.999, 1e-8


@dataclass(kw_only=True)
class Adam:
    """w ← w − rate·m̂/(√v̂ + 1e-8), m and v running means (β, 0.999) of g and g², corrected for their start at 0."""

    rate: float
    beta: float = 0.9
    moments: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)

    @torch.no_grad()
    def take(self, weights: Params, gradient: Params) -> Params:
        """The weights after one step, as new leaves."""
        count = int(self.moments.get("count", torch.zeros(()))) + 1
        slope = [gradient[name] for name in weights]
        mean = torch._foreach_lerp(self._moment("mean", weights), slope, 1 - self.beta)
        squares = list(torch._foreach_mul(slope, slope))
        square = torch._foreach_lerp(self._moment("square", weights), squares, 1 - BETA_SQUARE)
        size = torch._foreach_sqrt(torch._foreach_div(square, 1 - BETA_SQUARE**count))
        size = torch._foreach_add(size, EPSILON)
        rate = self.rate / (1 - self.beta**count)
        moved = torch._foreach_addcdiv(list(weights.values()), mean, size, value=-rate)
        self.moments = {"count": torch.tensor(count)}
        for name, m, s in zip(weights, mean, square, strict=True):
            self.moments |= {f"mean.{name}": m, f"square.{name}": s}
        return {name: w.requires_grad_() for name, w in zip(weights, moved, strict=True)}

    def _moment(self, kind: str, weights: Params) -> list[Tensor]:
        """By the weights' order; zeros at the start."""
        return [self.moments.get(f"{kind}.{name}", torch.zeros_like(w)) for name, w in weights.items()]
