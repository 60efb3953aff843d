"""λ as one vector with named parts."""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor


@dataclass(frozen=True)
class HyperLayout:
    """Part name → shape, in the order in which the parts stand in the vector."""

    parts: dict[str, tuple[int, ...]]

    @property
    def size(self) -> int:
        return sum(prod(shape) for shape in self.parts.values())

    def split(self, vector: Tensor) -> dict[str, Tensor]:
        """Views of the vector (size,), one a part in its shape; gradients flow through."""
        pieces = torch.split(vector, [prod(shape) for shape in self.parts.values()])
        return {name: piece.view(shape) for (name, shape), piece in zip(self.parts.items(), pieces, strict=True)}
