"""The SPACES table: each search space is a row, not a file."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import nn

from fer_nas.errors import InputError
from fer_nas.space.edge import FullEdge
from fer_nas.space.operations import OPERATIONS
from fer_nas.space.relax import Relaxation, softmax_per_edge

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


@dataclass(frozen=True, kw_only=True)
class SearchSpace:
    """operations: what an edge chooses from; nodes: intermediate nodes of a cell (B); edge and relax: how λ acts."""

    name: str
    operations: tuple[str, ...]
    nodes: int = 4
    edge: Callable[[tuple[str, ...], int, int], nn.Module] = FullEdge
    relax: Relaxation = softmax_per_edge

    @property
    def edges(self) -> int:
        """Edges of a cell: every node sees the two inputs and all nodes before it (14 for four nodes)."""
        return sum(2 + node for node in range(self.nodes))

    def __post_init__(self) -> None:
        assert set(self.operations) <= set(OPERATIONS) and self.nodes >= 1


SPACES: dict[str, SearchSpace] = {
    row.name: row
    for row in (
        SearchSpace(name="darts", operations=DARTS_OPERATIONS),
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


def find_space(name: str) -> SearchSpace:
    if name not in SPACES:
        raise InputError(f"unknown search space {name!r}; known: {', '.join(SPACES)}")
    return SPACES[name]
