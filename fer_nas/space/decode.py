"""λ → genotype: the discretization of Liu et al. 2019, section 2.4."""

from __future__ import annotations

from torch import Tensor

from fer_nas.artifacts import Edge, Genotype
from fer_nas.space.operations import OPERATIONS
from fer_nas.space.variants import SearchSpace

SKIP = "skip_connect"
LEARNED = frozenset(OPERATIONS) - {"none", "max_pool_3x3", "avg_pool_3x3", SKIP}
"""Operations that have weights in every place."""


def decode_cell(mixture_EO: Tensor, space: SearchSpace) -> tuple[Edge, ...]:
    """On each node the two incoming edges with the largest weight of an operation other than `none`, with that one.

    Equal weights go to the earlier edge and the earlier operation, so the result is determined.
    """
    weights = mixture_EO.detach().cpu().tolist()
    allowed = [place for place, name in enumerate(space.operations) if name != "none"]
    chosen: list[Edge] = []
    first = 0
    for node in range(space.nodes):
        best: list[tuple[float, int, int]] = []
        for source in range(2 + node):
            row = weights[first + source]
            place = max(allowed, key=lambda o: row[o])
            best.append((-row[place], source, place))
        for _, source, place in sorted(sorted(best)[:2], key=lambda item: item[1]):
            chosen.append((space.operations[place], source))
        first += 2 + node
    return tuple(chosen)


def restrict_skips(mixture_EO: Tensor, space: SearchSpace, most: int) -> Tensor:
    """The mixture of a cell that decodes to at most `most` skip connections (Chen et al. 2019, section 3.3.2).

    The weakest skip connection that was chosen loses its weight, and the cell is decoded again, until few enough are
    left. The space needs another operation beside `none` and the skip connection on every edge.
    """
    mixture, column = mixture_EO.detach().clone(), space.operations.index(SKIP)
    while count_skips(chosen := decode_cell(mixture, space)) > most:
        # Node n has places 2n and 2n + 1 in the cell, and its edges stand behind those of the nodes before it.
        edges = [
            sum(2 + node for node in range(place // 2)) + source
            for place, (name, source) in enumerate(chosen)
            if name == SKIP
        ]
        mixture[min(edges, key=lambda edge: mixture[edge, column].item()), column] = 0
    return mixture


def decode(mixtures: dict[str, Tensor], space: SearchSpace, max_skips: int | None = None) -> Genotype:
    """max_skips: most skip connections of the normal cell; as many as are found where it is not given."""
    concat, normal = tuple(range(2, 2 + space.nodes)), mixtures["normal"]
    return Genotype(
        normal=decode_cell(normal if max_skips is None else restrict_skips(normal, space, max_skips), space),
        normal_concat=concat,
        reduce=decode_cell(mixtures["reduce"], space),
        reduce_concat=concat,
    )


def ranking(mixture_EO: Tensor, space: SearchSpace) -> list[list[int]]:
    """For each edge its operations with weights (convolutions), by falling share of the mixture; earlier ones first."""
    learned = [place for place, name in enumerate(space.operations) if name in LEARNED]
    return [sorted(learned, key=lambda o: -row[o]) for row in mixture_EO.detach().cpu().tolist()]


def count_skips(edges: tuple[Edge, ...]) -> int:
    """Skip connections of a decoded cell: a cell full of them is the known failure of differentiable search."""
    return sum(op == SKIP for op, _ in edges)
