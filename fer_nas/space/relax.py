"""How λ becomes the weights of the operations. Shapes: E edges of a cell, O operations."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

Relaxation = Callable[[Tensor], Tensor]
Active = Sequence[Sequence[bool]]
"""(E, O): which operations run; the others are left out as if their weight were zero."""


def softmax_per_edge(arch_EO: Tensor) -> Tensor:
    """DARTS: one softmax over the operations of each edge (Liu et al. 2019, eq. 2)."""
    return torch.softmax(arch_EO, dim=-1)


def softmax_per_node(arch_EO: Tensor) -> Tensor:
    """I-DARTS: one softmax over all operations of all edges into a node (Jiang et al. 2019)."""
    return torch.cat([torch.softmax(part.flatten(), 0).view_as(part) for part in arch_EO.split(edges_into(arch_EO))])


def edge_weights(beta_E: Tensor) -> Tensor:
    """PC-DARTS: a softmax over the edges into each node (Xu et al. 2020, eq. 3)."""
    return torch.cat([torch.softmax(part, 0) for part in beta_E.split(edges_into(beta_E))])


def edges_into(values_E: Tensor) -> list[int]:
    """Edges into each node: 2, 3, 4, … of E."""
    counts: list[int] = []
    while sum(counts) < len(values_E):
        counts.append(2 + len(counts))
    return counts


def sample(arch_EO: Tensor, gumbel_EO: Tensor | None, temperature: float) -> tuple[Tensor, Tensor]:
    """GDAS: one operation of each edge, (weights (E, O), which runs (E, O) bool) (Dong and Yang 2019, eq. 6).

    The weight of what runs is 1; its derivative is that of softmax((log p + noise)/temperature). Without noise the most
    probable operation runs.
    """
    logits = torch.log_softmax(arch_EO, dim=-1)
    soft = torch.softmax((logits if gumbel_EO is None else logits + gumbel_EO) / temperature, dim=-1)
    chosen = torch.zeros_like(soft, dtype=torch.bool).scatter(1, soft.argmax(1, keepdim=True), True)
    return chosen + soft - soft.detach(), chosen


def entropy(mixture_EO: Tensor) -> Tensor:
    """Mean entropy of the edges' mixtures in nats, a scalar; log O where nothing is decided yet, 0 where all is.

    An edge's mixture is taken as a distribution where a relaxation weighs edges too.
    """
    mixture_EO = mixture_EO / mixture_EO.sum(-1, keepdim=True)
    return -(mixture_EO * mixture_EO.clamp_min(1e-12).log()).sum(-1).mean()
