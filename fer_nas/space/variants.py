"""The SPACES table: each search space is a row, not a file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from fer_nas.errors import InputError
from fer_nas.space.edge import FullEdge, PartialEdge
from fer_nas.space.operations import AUXILIARY, OPERATIONS
from fer_nas.space.relax import Relaxation, edge_weights, softmax_per_edge, softmax_per_node

DARTS_OPERATIONS = (
    "none",
    "max_pool_3x3",
    "avg_pool_3x3",
    "skip_connect",
    "sep_conv_3x3",
    "sep_conv_5x5",
    "dil_conv_3x3",
    "dil_conv_5x5",
)


KINDS = ("normal", "reduce")
"""Kinds of cells."""


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """operations: what an edge chooses from; nodes: intermediate nodes of a cell (B); edge and relax: how λ acts.

    weighs_edges: λ has a logit for each edge too. samples: a step runs one operation of each edge, drawn anew.
    staged: the supernet grows in stages, over fewer operations each time (see search/stages.py).
    auxiliary: each edge has a skip connection beside them, whose weight stands behind those of the operations.
    """

    name: str
    operations: tuple[str, ...]
    nodes: int = 4
    edge: Callable[[tuple[str, ...], int, int], nn.Module] = FullEdge
    relax: Relaxation = softmax_per_edge
    weighs_edges: bool = False
    samples: bool = False
    staged: bool = False
    auxiliary: bool = False

    @property
    def columns(self) -> tuple[str, ...]:
        """What runs on an edge, in the order of the weights that the supernet takes."""
        return (*self.operations, AUXILIARY) if self.auxiliary else self.operations

    @property
    def edges(self) -> int:
        """Edges of a cell: every node sees the two inputs and all nodes before it (14 for four nodes)."""
        return sum(2 + node for node in range(self.nodes))

    @property
    def takes_rows(self) -> bool:
        """Whether mixtures can differ from example to example: those of one softmax on each edge, all of which run."""
        return self.relax is softmax_per_edge and self.edge is FullEdge and not (self.weighs_edges or self.samples)

    def parts(self) -> dict[str, tuple[int, ...]]:
        """λ's parts, kind by kind: name → shape."""
        shapes: dict[str, tuple[int, ...]] = {}
        for kind in KINDS:
            shapes[kind] = (self.edges, len(self.operations))
            if self.weighs_edges:
                shapes[f"{kind}_edges"] = (self.edges,)
        return shapes

    def among(self, arch: dict[str, Tensor], kept: dict[str, Tensor] | None) -> dict[str, Tensor]:
        """λ's parts in which a softmax gives weight, and a gradient, to the operations that are left alone."""
        if kept is None:
            return arch
        return arch | {kind: arch[kind].masked_fill(~kept[kind].to(arch[kind].device), -torch.inf) for kind in kept}

    def mixtures(self, arch: dict[str, Tensor]) -> dict[str, Tensor]:
        """λ's parts → for each kind of cell the weights of all operations on all edges, (E, O)."""
        found = {kind: self.relax(arch[kind]) for kind in KINDS}
        if self.weighs_edges:
            found = {kind: found[kind] * edge_weights(arch[f"{kind}_edges"])[:, None] for kind in KINDS}
        return found

    def __post_init__(self) -> None:
        assert set(self.operations) <= set(OPERATIONS) and self.nodes >= 1


SPACES: dict[str, SearchSpace] = {
    row.name: row
    for row in (
        SearchSpace(name="darts", operations=DARTS_OPERATIONS),
        # Operations on a quarter of the channels, and weighted edges (Xu et al. 2020).
        SearchSpace(name="pc-darts", operations=DARTS_OPERATIONS, edge=PartialEdge, weighs_edges=True),
        # One operation of each edge runs, drawn by hard Gumbel-softmax (Dong and Yang 2019).
        SearchSpace(name="gdas", operations=DARTS_OPERATIONS, samples=True),
        # Deeper supernets over the operations that were strongest so far (Chen et al. 2019).
        SearchSpace(name="p-darts", operations=DARTS_OPERATIONS, staged=True),
        # All operations of all edges into a node compete in one softmax (Jiang et al. 2019).
        SearchSpace(name="i-darts", operations=DARTS_OPERATIONS, relax=softmax_per_node),
        # With dense and ghost convolutions beside DARTS's operations (Li et al. 2021).
        SearchSpace(name="auto-fernet", operations=(*DARTS_OPERATIONS, "conv_1x1", "conv_3x3", "ghost")),
        # For small grey faces on a CPU: as many operations as DARTS, kernels up to 3×3, dense convolutions, which cost
        # a CPU less time for each multiply-add than depthwise ones.
        SearchSpace(
            name="fer",
            operations=(
                "none",
                "max_pool_3x3",
                "avg_pool_3x3",
                "skip_connect",
                "sep_conv_3x3",
                "dil_conv_3x3",
                "conv_1x1",
                "conv_3x3",
            ),
        ),
    )
}


def find_space(name: str, operations: str | None = None) -> SearchSpace:
    """The space; with `operations` it chooses from that space's operations instead of its own."""
    for wanted in (name, operations):
        if wanted is not None and wanted not in SPACES:
            raise InputError(f"unknown search space {wanted!r}; known: {', '.join(SPACES)}")
    return replace(SPACES[name], operations=SPACES[operations or name].operations)
