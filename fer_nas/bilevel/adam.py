"""Adam on a dictionary of weights (Kingma and Ba 2015), for the parameters of a best response."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from fer_nas.bilevel.protocol import Params

BETAS, EPSILON = (0.9, 0.999), 1e-8


@dataclass(kw_only=True)
class Adam:
    """w ← w − rate·m̂/(√v̂ + 1e-8), m and v running means (.9, .999) of g and g², corrected for their start at 0."""

    rate: float
    moments: dict[str, Tensor] = field(default_factory=dict, init=False, repr=False)

    @torch.no_grad()
    def take(self, weights: Params, gradient: Params) -> Params:
        """The weights after one step, as new leaves."""
        count = int(self.moments.get("count", torch.zeros(()))) + 1
        moved, moments = {}, {"count": torch.tensor(count)}
        for name, w in weights.items():
            g = gradient[name]
            mean = torch.lerp(self.moments.get(f"mean.{name}", torch.zeros_like(w)), g, 1 - BETAS[0])
            square = torch.lerp(self.moments.get(f"square.{name}", torch.zeros_like(w)), g * g, 1 - BETAS[1])
            moments |= {f"mean.{name}": mean, f"square.{name}": square}
            size = (square / (1 - BETAS[1] ** count)).sqrt() + EPSILON
            moved[name] = (w - self.rate / (1 - BETAS[0] ** count) * mean / size).requires_grad_()
        self.moments = moments
        return moved
