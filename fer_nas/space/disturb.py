"""What a training step puts into the supernet at random: dropout and drop-path, as the derived network has them, and
P-DARTS's dropout of skip connections.

All numbers but those of skip connections come from one generator on the CPU and are drawn whatever the rates are, so
that the same generator state at two pairs of rates gives the same draws. Shapes: B examples.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import torch
from torch import Tensor


class SkipDropout:
    """Dropout of P-DARTS behind skip connections that hand on their input (Chen et al. 2019, section 3.3.2).

    One object serves one pass through the network; another with the same seed gives the same numbers, so that all
    losses of a step have the same ones. They are drawn on the network's device, element by element.
    """

    def __init__(self, rate: float, seed: int) -> None:
        self.rate, self.seed = rate, seed
        self.draw: torch.Generator | None = None

    def __call__(self, x: Tensor) -> Tensor:
        if self.draw is None:
            self.draw = torch.Generator(x.device).manual_seed(self.seed)
        kept = torch.rand(x.shape, generator=self.draw, device=x.device) >= self.rate
        return x * (kept.to(x) / (1 - self.rate))

    def copy(self) -> SkipDropout:
        """Another one that draws what this one draws next."""
        found = SkipDropout(self.rate, self.seed)
        found.draw = self.draw and self.draw.clone_state()
        return found


@dataclass(frozen=True, kw_only=True)
class Disturbance:
    """dropout: share of the classifier's inputs that are zero; drop_path: of an edge's paths; both in [0, 1).

    skips: dropout behind skip connections, where there is one.
    """

    generator: torch.Generator = field(default_factory=torch.Generator)
    dropout: float = 0.0
    drop_path: float = 0.0
    skips: SkipDropout | None = None

    def copy(self) -> Disturbance:
        """Another one that draws what this one draws next."""
        return replace(self, generator=self.generator.clone_state(), skips=self.skips and self.skips.copy())

    def kept(self, shape: tuple[int, ...], rate: float, like: Tensor) -> Tensor:
        """0 with probability `rate`, else 1/(1 − rate), which keeps the mean."""
        kept = torch.rand(shape, generator=self.generator) >= rate
        return kept.to(like) / (1 - rate)

    def features(self, x_BF: Tensor) -> Tensor:
        """Dropout before the classifier."""
        return x_BF * self.kept(tuple(x_BF.shape), self.dropout, x_BF) if self.dropout else x_BF

    def paths(self, x_BCHW: Tensor) -> Tensor | None:
        """Drop-path (Larsson et al. 2017): factors (B, 1, 1, 1) of an edge's paths, whole examples of which are zero.

        One for each edge: where its mixture has chosen an operation, this is the drop-path of the derived network.
        """
        return self.kept((len(x_BCHW), 1, 1, 1), self.drop_path, x_BCHW) if self.drop_path else None
