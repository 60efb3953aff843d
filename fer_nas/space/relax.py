"""How λ becomes the weights of the operations. Shapes: E edges of a cell, O operations."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Relaxation = Callable[[Tensor], Tensor]


def softmax_per_edge(arch_EO: Tensor) -> Tensor:
    """DARTS: one softmax over the operations of each edge (Liu et al. 2019, eq. 2)."""
    return torch.softmax(arch_EO, dim=-1)


def entropy(mixture_EO: Tensor) -> Tensor:
    """Mean entropy of the edges' mixtures in nats, a scalar; log O where nothing is decided yet, 0 where all is."""
    return -(mixture_EO * mixture_EO.clamp_min(1e-12).log()).sum(-1).mean()
